"""Recorded and documented bodies of exchanges (tests/tapes/venues), and the orders that they are about."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from fks.model.order import Order, OrderType, Side, TimeInForce
from fks.trading.venues.binance.classify import CallCourse
from tests.support.venue_orders import order

FOLDER = Path(__file__).parents[1] / "tapes" / "venues"
EXCHANGES = ("bybit", "coinbase", "kraken", "okx")


def tape(exchange: str) -> dict[str, Any]:
    """Return the bodies, requests and orders of one exchange."""
    found: dict[str, Any] = json.loads((FOLDER / f"{exchange}.json").read_text())
    return found


def order_of(exchange: str, row: dict[str, Any]) -> Order:
    """Return the order that a row of a tape is about, under the tape's client id."""
    fields = row["order"]
    return order(
        fields["quantity"],
        client_order_id=tape(exchange)["client_order_id"],
        exchange=exchange,
        symbol=fields["symbol"],
        side=Side(fields["side"]),
        type=OrderType(fields["type"]),
        time_in_force=TimeInForce(fields.get("time_in_force", "gtc")),
        **{name: fields[name] for name in ("price", "stop_price", "venue_order_id") if name in fields},
    )


def wire_of(body: object, status: int = 200) -> CallCourse:
    """Return the course of a call whose bytes left and that was answered by `body`: JSON, or text as it is."""
    wire = CallCourse(bytes_left=True)
    wire.note(status, body if isinstance(body, str) else orjson.dumps(body).decode(), {})
    return wire


def amount(text: str | None) -> Decimal | None:
    """Return a number of a tape."""
    return None if text is None else Decimal(text)
