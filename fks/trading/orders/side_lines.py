"""Lines of the order manager's side journal, written and parsed here alone.

A line has `at` (UTC) and `act`: `placed` (orders with their first events, and the signal that gets its outcome with
them) or `happened` (an event each to one or more orders). The order manager writes them and writes them to PostgreSQL
later; the guardian of the same machine reads them in a kill. The format of the file is that of
`fks.system.process.journal_file`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from fks.model.order import Order
from fks.trading.orders import events as e

_EVENTS = {kind.__name__: kind for kind in e.EVENTS}


@dataclass(frozen=True, slots=True)
class PlacedOrders:
    """New orders, each with its first event, and the signal that gets its outcome with them."""

    orders: tuple[Order, ...]
    events: tuple[e.Event, ...]
    signal_id: uuid.UUID | None


@dataclass(frozen=True, slots=True)
class Happened:
    """Events of orders, by client order id, in their order."""

    events: tuple[tuple[str, e.Event], ...]


def placed_line(orders: Sequence[Order], events: Sequence[e.Event], signal_id: uuid.UUID | None) -> dict[str, Any]:
    """Return the line of new orders with their first events, without its time."""
    return {
        "act": "placed",
        "orders": [msgspec.to_builtins(order) for order in orders],
        "events": [_tagged(event) for event in events],
        "signal_id": None if signal_id is None else str(signal_id),
    }


def happened_line(events: Sequence[tuple[str, e.Event]]) -> dict[str, Any]:
    """Return the line of events of orders, without its time."""
    return {"act": "happened", "events": [[name, _tagged(event)] for name, event in events]}


def parse_line(line: Mapping[str, Any]) -> PlacedOrders | Happened | None:
    """Return the content of a line; None for an unknown act. Errors: KeyError, TypeError, ValueError."""
    if line["act"] == "placed":
        signal_id = line["signal_id"]
        return PlacedOrders(
            tuple(msgspec.convert(line["orders"], list[Order])),
            tuple(_event(item) for item in line["events"]),
            None if signal_id is None else uuid.UUID(signal_id),
        )
    if line["act"] == "happened":
        return Happened(tuple((name, _event(item)) for name, item in line["events"]))
    return None


def _tagged(event: e.Event) -> dict[str, Any]:
    return {"type": type(event).__name__, "value": msgspec.to_builtins(event)}


def _event(item: Mapping[str, Any]) -> e.Event:
    return msgspec.convert(item["value"], _EVENTS[item["type"]])
