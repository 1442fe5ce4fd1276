"""Orders for venue tests."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

from fks.model import ids
from fks.model.order import Order, OrderType, Role, Side, State, TimeInForce


def order(quantity: str = "0.01", **fields: Any) -> Order:
    """Return a market buy of BTCUSDT with a fresh id, changed by `fields`; numbers may be text."""
    numbers = {name: Decimal(fields.pop(name)) for name in ("price", "stop_price") if fields.get(name) is not None}
    intent = uuid.uuid4()
    role = fields.pop("role", Role.ORDER)
    values: dict[str, Any] = {
        "client_order_id": ids.client_order_id(intent, role.value),
        "intent_id": intent,
        "signal_id": None,
        "account_id": 1,
        "venue": "ccxt",
        "exchange": "binance",
        "symbol": "BTCUSDT",
        "instance": "",
        "role": role,
        "attempt": 0,
        "side": Side.BUY,
        "type": OrderType.MARKET,
        "time_in_force": TimeInForce.GTC,
        "state": State.SENDING,
        **numbers,
        **fields,
    }
    return Order(quantity=Decimal(quantity), **values)
