"""State machines as documents: states, and every transition with its event, condition, target and what follows.

Made of the tables that the code runs (`fks.trading.orders.machine`, `fks.market.feed.machine`), so that a page cannot
disagree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from fks.market.feed import machine as feeds
from fks.model.order import TERMINAL, State
from fks.trading.orders import machine as orders

#: Targets of an order's transition that the report itself names.
REPORTED = (State.ACCEPTED, State.WORKING, State.PARTIAL, State.FILLED, State.CANCELLED, State.EXPIRED, State.REJECTED)
_CAPITALS = re.compile(r"(?<!^)([A-Z])")


def order_machine() -> dict[str, Any]:
    """Return the life of an order."""
    rows = sorted((*orders.TRANSITIONS, orders.QUARANTINE), key=lambda row: row.number)
    return {
        "name": "orders",
        "title": "Life of an order",
        "states": [{"name": state.value, "is_final": state in TERMINAL} for state in State],
        "transitions": [_order_row(row) for row in rows],
    }


def _order_row(row: orders.OrderTransition) -> dict[str, Any]:
    target = _doc(row.target)
    if target.startswith("as reported"):
        states = [state.value for state in REPORTED]
    elif target.startswith("same"):
        states = []
    else:
        states = [state.value for state in State if re.search(rf"\b{state.value}\b", target)]
    return {
        "number": row.number,
        "before": None if row.states is None else _chosen(State, row.states),
        "event": _event(row.event.__name__),
        "when": _doc(row.guard),
        "to": target,
        "states": states,
        "follows": [act.value for act in row.acts],
        "note": row.note,
    }


def feed_machine() -> dict[str, Any]:
    """Return the life of a feed."""
    return {
        "name": "feeds",
        "title": "Life of a feed",
        "states": [{"name": state.value, "is_final": False} for state in feeds.FeedState],
        "transitions": [
            {
                "number": row.number,
                "before": _chosen(feeds.FeedState, row.states),
                "event": _event(row.event.__name__),
                "when": _doc(row.guard),
                "to": "same" if row.target is None else row.target.value,
                "states": [] if row.target is None else [row.target.value],
                "follows": [act.name.lower().replace("_", " ") for act in row.acts],
                "note": row.note,
            }
            for row in feeds.TRANSITIONS
        ],
    }


MACHINES: dict[str, Callable[[], dict[str, Any]]] = {"orders": order_machine, "feeds": feed_machine}


def _chosen(kind: Iterable[Any], states: Iterable[Any]) -> list[str]:
    """Return the states in the order of their declaration."""
    found = set(states)
    return [state.value for state in kind if state in found]


def _doc(function: object) -> str:
    return (function.__doc__ or "").strip().split("\n")[0]


def _event(name: str) -> str:
    return "any other" if name == "Event" else _CAPITALS.sub(r" \1", name).lower()
