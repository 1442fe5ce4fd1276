"""Independent check of an order's history: folds its recorded events and compares the result with the order's row.

Pure, and it shares no code with the order path: the tables below are written from the contract (docs/orders.md), not
from the machine. Every recorded step must be legal, steps must join, and state, filled quantity and request of the row
must be those that the events give. An execution in the events is an execution in `trades`, and the other way round.

A flattening order has two writers. The guardian's step moves a row that the order manager may hold in memory: the order
manager's next step may start at the state before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import Any

from fks.model.order import QUARANTINE_ROW

Row = Mapping[str, Any]

_LIVE = ("ACCEPTED", "WORKING", "PARTIAL")
_OPEN = ("INTENDED", "SENDING", "UNKNOWN", *_LIVE)
_ENDED = ("CANCELLED", "EXPIRED", "REJECTED", "ABSENT")
_NEVER_SENT = ("DENIED", "ABANDONED")
_AT_VENUE = ("SENDING", "UNKNOWN", *_LIVE)
_SPLIT_STEP = Decimal("1e-12")  # to which a split rounds up what an order bought
#: first events of an order -> the state they give
_FIRST = {"Denied": "DENIED", "IntendedAndSent": "SENDING", "Intended": "INTENDED"}
#: (event, states before) -> states after; None: the same. The results of reports and executions are computed.
_MOVES: tuple[tuple[str, tuple[str, ...], tuple[str | None, ...]], ...] = (
    ("Sent", ("INTENDED",), ("SENDING",)),
    ("Abandoned", ("INTENDED", "ABANDONED"), ("ABANDONED",)),
    ("CancelRequested", ("INTENDED",), ("ABANDONED",)),
    ("CancelRequested", ("SENDING", "UNKNOWN", *_LIVE, "FILLED", *_ENDED, *_NEVER_SENT), (None,)),
    ("CancelWanted", _OPEN, (None,)),
    ("CancelWithdrawn", (*_OPEN, "FILLED", *_ENDED, *_NEVER_SENT), (None,)),
    ("Replayed", ("SENDING",), ("UNKNOWN",)),
    ("Replayed", ("INTENDED", "UNKNOWN", *_LIVE), (None,)),
    ("Refused", ("SENDING",), ("REJECTED",)),
    ("Ambiguous", ("SENDING",), ("UNKNOWN",)),
    ("Ambiguous", ("UNKNOWN", *_LIVE, "FILLED", *_ENDED), (None,)),
    ("DuplicateId", ("SENDING",), ("UNKNOWN",)),
    ("DuplicateId", ("UNKNOWN", *_LIVE, "FILLED", *_ENDED), (None,)),
    ("FoundAbsent", ("UNKNOWN",), ("ABSENT", None)),
    ("Settled", ("UNKNOWN",), ("FILLED", "CANCELLED", "REJECTED", "ABSENT")),
    ("SessionBroke", (*_OPEN, "FILLED", *_ENDED, *_NEVER_SENT), (None,)),
    ("NotListed", _LIVE, ("UNKNOWN",)),
    ("CancelAcked", _AT_VENUE, ("CANCELLED",)),
    ("CancelAcked", ("FILLED", *_ENDED, *_NEVER_SENT), (None,)),
    ("CancelRefused", tuple(state for state in (*_AT_VENUE, "FILLED", *_ENDED)), (None,)),
    ("RequestAmbiguous", tuple(state for state in (*_AT_VENUE, "FILLED", *_ENDED)), (None,)),
    ("ReplaceRequested", _LIVE, (None,)),
    ("ReplaceAcked", _AT_VENUE, (None,)),
    ("ReplaceRefused", _LIVE, (None,)),
    ("LegChanged", ("UNKNOWN", *_LIVE), (None,)),
    ("StopMoved", (*_AT_VENUE, "FILLED", *_ENDED), (None,)),
    ("TargetMoved", (*_AT_VENUE, "FILLED", *_ENDED), (None,)),
    ("ProtectionDropped", (*_OPEN, "FILLED", *_ENDED, *_NEVER_SENT), (None,)),
    ("SharesSplit", (*_OPEN, "FILLED", *_ENDED, *_NEVER_SENT), (None,)),
    ("Busted", (*_AT_VENUE, "FILLED", *_ENDED), (None, "CANCELLED", "WORKING")),
)  # fmt: skip


@dataclass(slots=True)
class Folded:
    """State of an order after its events."""

    state: str | None = None
    filled: Decimal = Decimal(0)
    request: str = "none"
    quantity: Decimal | None = None  # before the next event that changes it; None: the row's
    #: states before the guardian's steps since the order manager's last
    overtaken: set[str] = field(default_factory=set)
    fills: set[str] = field(default_factory=set)


def journal_errors(orders: Iterable[Row], events: Iterable[Row], trades: Iterable[Row]) -> Iterator[str]:
    """Yield the journal's errors, as text. `events` are rows of order_events in the order of their ids."""
    steps: dict[str, list[Row]] = defaultdict(list)
    for event in events:
        steps[event["client_order_id"]].append(event)
    booked: dict[str, set[str]] = defaultdict(set)
    for trade in trades:
        if trade.get("client_order_id"):
            booked[trade["client_order_id"]].add(str(trade["fill_id"]))
    for order in orders:
        id = order["client_order_id"]
        found = Folded()
        history = steps.pop(id, [])
        before = [_quantity_before(event) for event in history]
        for number, event in enumerate(history):
            found.quantity = next((quantity for quantity in before[number:] if quantity is not None), None)
            yield from (f"order {id}: {error}" for error in apply(found, event, order["quantity"]))
        made = (found.state, found.filled, found.request)
        kept = (order["state"], order["filled"], order["request"])
        if made != kept:
            yield f"order {id} is {_shown(kept)}, its events make {_shown(made)}"
        if order["state"] in _NEVER_SENT:
            continue  # an execution under such an id is booked as external
        for fill in sorted(found.fills ^ booked.pop(id, set())):
            where = "is in its events, but not booked" if fill in found.fills else "is booked, but not in its events"
            yield f"order {id}: execution {fill} {where}"
    for id in sorted(steps):
        yield f"{len(steps[id])} events of order {id}, which has no row"


def _quantity_before(event: Row) -> Decimal | None:
    """Return the order's quantity before an event that changed it."""
    payload = event["payload"] or {}
    found = payload.get("quantity_before", payload.get("before") if event["event"] == "SharesSplit" else None)
    return None if found is None else Decimal(found)


def _shown(what: tuple[str | None, Decimal, str]) -> str:
    state, filled, request = what
    return f"{state or 'nowhere'}, filled {filled:f}, request {request}"


def apply(order: Folded, event: Row, quantity: Decimal) -> Iterator[str]:
    """Apply one recorded event; yield its errors. `quantity` is the row's ordered quantity."""
    name, after, payload = str(event["event"]), str(event["to_state"]), event["payload"] or {}
    before = order.state
    if payload.get("row") == QUARANTINE_ROW:  # its contents do not count
        yield f"{name} in state {before} is in quarantine"
        if after != before:
            yield f"{name} in quarantine made it {after}"
        order.state = after
        return
    if event["source"] == "guardian":  # written from its file, only while the outcome of the order is unknown
        legal: set[str] = {after} if before in (None, "SENDING", "UNKNOWN") else {str(before)}
        order.overtaken |= {before} if before is not None else set()
    elif before is None:
        legal = _first(name, payload)
    else:
        if event["from_state"] in order.overtaken:
            order.state = before = str(event["from_state"])
        elif event["from_state"] != before:
            yield f"{name} starts at {event['from_state']}, the step before ended at {before}"
        order.overtaken.clear()
        legal = _after(order, name, payload, quantity if order.quantity is None else order.quantity)
    if after not in legal:
        yield f"{name} in state {before or 'none'} made it {after}, legal is {' or '.join(sorted(legal)) or 'nothing'}"
    order.state = after
    if name in ("LegReported", "LegChanged") and "quantity" in payload:
        order.quantity = Decimal(payload["quantity"])
    _follow(order, name, str(event["source"]))


def _first(name: str, payload: Row) -> set[str]:
    """Return the legal states after the first event of an order."""
    if name == "LegReported":  # of an order that the venue placed by itself
        says = str(payload.get("says"))
        return {"PARTIAL" if says in _LIVE and Decimal(payload.get("filled") or "0") > 0 else says}
    return {_FIRST[name]} if name in _FIRST else set()


def _after(order: Folded, name: str, payload: Row, quantity: Decimal) -> set[str]:
    """Return the legal states after an event, and add up the executions that it reports."""
    before = str(order.state)
    if name in ("Acked", "Reported"):
        return _reported(order, name, payload, quantity)
    if name == "FillSeen":
        return _executed(order, payload, quantity)
    if name == "SharesSplit" and before not in _AT_VENUE:  # a leg at the venue stays in the old shares
        order.filled = _split(order.filled, payload)
    if name == "Busted":
        order.filled -= Decimal(payload.get("quantity", "0"))
        # the execution stays booked, and so is the entry that takes it back
        order.fills.add(str(payload.get("bust_id")))
    return {
        before if state is None else state
        for event, states, results in _MOVES
        if event == name and before in states
        for state in results
    }


def _split(quantity: Decimal, payload: Row) -> Decimal:
    found: Decimal = quantity * payload["new"] / payload["old"]
    return found if found == found.to_integral_value() else found.quantize(_SPLIT_STEP, ROUND_CEILING)


def _reported(order: Folded, name: str, payload: Row, quantity: Decimal) -> set[str]:
    before, says = str(order.state), str(payload.get("says"))
    executed = Decimal(payload.get("filled") or "0")
    if before in (*_NEVER_SENT, "FILLED") or (name == "Acked" and before not in ("SENDING", "UNKNOWN")):
        return {before}
    if says in _LIVE:
        says = "PARTIAL" if executed > 0 or order.filled > 0 else says
        says = "FILLED" if order.filled >= quantity else says
    if before in ("CANCELLED", "EXPIRED"):
        return {before, says} if says in (*_LIVE, "FILLED") else {before}
    if before in _LIVE and says in _LIVE:
        return {before, says}  # an event older than the known state changes no state
    return {says}


def _executed(order: Folded, payload: Row, quantity: Decimal) -> set[str]:
    before, fill = str(order.state), str(payload.get("fill_id"))
    if before in _NEVER_SENT:
        return {before}
    order.fills.add(fill)
    order.filled += Decimal(payload.get("quantity", "0"))
    if order.filled >= quantity or before == "FILLED":
        return {"FILLED"}
    if before in _ENDED:  # an execution that the end had reported completes it, any other makes it live again
        return {before, "PARTIAL"}
    return {"PARTIAL"}


def _follow(order: Folded, name: str, source: str) -> None:
    """Advance the request: the last change requested of the order, and whether the venue has answered."""
    state, wants_cancel = order.state, order.request in ("cancel", "cancel_unknown", "cancel_wanted")
    if state not in _OPEN:
        order.request = "none"
        return
    if name == "CancelWanted":
        order.request = "cancel_wanted"
    elif name == "CancelRequested":
        order.request = "cancel" if state in _LIVE else "cancel_wanted"
    elif name == "CancelWithdrawn":
        order.request = "none" if wants_cancel else order.request
    elif name in ("CancelRefused", "RequestAmbiguous") and wants_cancel:
        order.request = "cancel_unknown"
    elif name in ("RequestAmbiguous", "NotListed") and order.request == "replace":
        order.request = "replace_unknown"
    elif name == "ReplaceRequested":
        order.request = "replace"
    elif name in ("ReplaceAcked", "ReplaceRefused"):
        order.request = order.request if wants_cancel else "none"
    elif name == "Reported" and order.request == "replace_unknown" and source != "stream":
        order.request = "none"
    elif name == "Replayed":
        order.request = {"cancel": "cancel_unknown", "replace": "replace_unknown"}.get(order.request, order.request)
    if state in _LIVE and name not in ("CancelWanted", "Replayed") and order.request == "cancel_wanted":
        order.request = "cancel"
