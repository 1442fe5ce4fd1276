"""Builders of orders, fills, reports and instruments for tests."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

from fks.model.instrument import Instrument
from fks.model.order import Fill, Order, OrderType, Report, Role, Side, State, TimeInForce

D = Decimal
NAMESPACE = uuid.UUID(int=1)


def an_order(**changes: Any) -> Order:
    """Return a buy of 10 at the market, SENDING, changed as asked."""
    values: dict[str, Any] = {
        "client_order_id": "c" * 32,
        "intent_id": uuid.UUID(int=2),
        "signal_id": uuid.UUID(int=3),
        "account_id": 1,
        "venue": "ccxt",
        "exchange": "binance",
        "symbol": "BTCUSDT",
        "instance": "one",
        "role": Role.ENTRY,
        "attempt": 0,
        "side": Side.BUY,
        "type": OrderType.MARKET,
        "time_in_force": TimeInForce.GTC,
        "quantity": D(10),
        "state": State.SENDING,
        "epoch": 1,
    }
    return Order(**(values | changes))


def a_fill(number: int = 1, **changes: Any) -> Fill:
    """Return an execution of 4 at 100; the same number is the same execution."""
    values: dict[str, Any] = {
        "fill_id": uuid.uuid5(NAMESPACE, str(number)),
        "client_order_id": "c" * 32,
        "venue_order_id": "1",
        "venue_trade_id": str(number),
        "account_id": 1,
        "venue": "ccxt",
        "symbol": "BTCUSDT",
        "side": Side.BUY,
        "quantity": D(4),
        "price": D(100),
        "fee": D(0),
        "fee_currency": "USDT",
        "time_ns": number,
    }
    return Fill(**(values | changes))


def a_report(state: State, filled: Any = 0, time_ns: int = 1, **changes: Any) -> Report:
    """Return what the venue says of the order of `an_order`."""
    values: dict[str, Any] = {
        "client_order_id": "c" * 32,
        "venue_order_id": "1",
        "symbol": "BTCUSDT",
        "state": state,
        "filled": D(filled),
        "time_ns": time_ns,
    }
    return Report(**(values | changes))


def an_instrument(**changes: Any) -> Instrument:
    """Return BTCUSDT with a tick of 0.01, steps of 0.001 and a minimum of 5 USDT."""
    values: dict[str, Any] = {
        "exchange": "binance",
        "symbol": "BTCUSDT",
        "base": "BTC",
        "quote": "USDT",
        "tick": D("0.01"),
        "lot_step": D("0.001"),
        "qty_min": D("0.001"),
        "qty_max": D(1000),
        "notional_min": D(5),
    }
    return Instrument(**(values | changes))
