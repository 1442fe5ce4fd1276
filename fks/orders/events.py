"""Events of an order. Every event has an id of its own: applying the same one twice changes nothing."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from fks.model.order import Fill, Refusal, Report, State

#: what the checks saw before the send, for the journal: code, outcome, limit, value
Checks = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Root of all events. `source` is us | rest | stream | reconcile | replay | person; times are ns UTC, 0 = not
    known."""

    event_id: str
    source: str = "us"
    venue_time_ns: int = 0
    recv_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied(Event):
    """Risk said no."""

    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntendedAndSent(Event):
    """Risk said yes and the bytes follow the commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intended(Event):
    """Risk said yes, and the order has to wait for its parent or a slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent(Event):
    """An order that waited is about to be written to the wire, with the values that were only decided now."""

    quantity: Decimal | None = None
    group_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned(Event):
    """An order that waited is given up before any byte left."""

    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegReported(Event):
    """The venue, which keeps brackets itself, placed a leg of an order of ours."""

    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class LegChanged(Event):
    """The venue, which keeps brackets itself, changed a leg in place."""

    quantity: Decimal
    price: Decimal | None
    stop_price: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopMoved(Event):
    """The stop loss of an entry follows the closes: with the bar that opened at `bar_ns` it came to `stop_loss`."""

    stop_loss: Decimal
    bar_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Acked(Event):
    """The venue has it: its id and ours came back together. `sent_ns`: when the first byte left."""

    report: Report
    sent_ns: int | None = None
    checks: Checks = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """A definitive no of the venue, or proof that no byte left. `refusal` is why, in words that no venue owns."""

    code: str
    detail: str = ""
    refusal: Refusal | None = None
    sent_ns: int | None = None
    checks: Checks = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ambiguous(Event):
    """Bytes may have left, and the answer proves nothing."""

    detail: str = ""
    sent_ns: int | None = None
    checks: Checks = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateId(Event):
    """The venue knows our client order id already: evidence that the order exists."""

    detail: str = ""
    sent_ns: int | None = None
    checks: Checks = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed(Event):
    """A new order manager read this order from the journal. `epoch` is the new one's."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported(Event):
    """The order as the venue reports it now, by our client order id."""

    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class FillSeen(Event):
    """An execution that was not booked before."""

    fill: Fill


@dataclass(frozen=True, slots=True, kw_only=True)
class Busted(Event):
    """An execution is taken back: by the venue, or (`is_replaced`) a person's figures by the venue's own execution."""

    fill_id: uuid.UUID
    quantity: Decimal
    price: Decimal
    fee: Decimal = Decimal(0)
    fee_currency: str = ""
    instance: str = ""  # whose position the execution had moved
    is_replaced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionBroke(Event):
    """The session is lost or its reconciliation failed: what we know of open orders may be old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotListed(Event):
    """An order the venue had acknowledged is missing from its list of open orders and from its history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAbsent(Event):
    """C5 is satisfied: enough spaced polls, old enough, and no fill under our id."""

    polls: int
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled(Event):
    """A person decided what became of an UNKNOWN order, and says why. `filled` counts what is booked with it."""

    outcome: State
    by: str
    reason: str
    filled: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested(Event):
    """Someone wants it cancelled."""

    by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelWithdrawn(Event):
    """The cancel is not wanted any more: it is not repeated. One that has left may still end the order."""

    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelAcked(Event):
    """The venue cancelled it; `filled`: the quantity that it reports as executed before, if it reports one."""

    filled: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRefused(Event):
    """The venue did not cancel; UNKNOWN_ORDER may as well mean filled."""

    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAmbiguous(Event):
    """A cancel or replace was sent and its answer proves nothing."""

    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceRequested(Event):
    """Someone wants another price or quantity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceAcked(Event):
    """The venue changed the order in place, under the same identity."""

    quantity: Decimal
    price: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceRefused(Event):
    """The venue left the order as it was."""

    code: str
    detail: str = ""


EVENTS: tuple[type[Event], ...] = (
    Denied,
    IntendedAndSent,
    Intended,
    Sent,
    Abandoned,
    LegReported,
    LegChanged,
    StopMoved,
    Acked,
    Refused,
    Ambiguous,
    DuplicateId,
    Replayed,
    Reported,
    FillSeen,
    Busted,
    SessionBroke,
    NotListed,
    FoundAbsent,
    Settled,
    CancelRequested,
    CancelWithdrawn,
    CancelAcked,
    CancelRefused,
    RequestAmbiguous,
    ReplaceRequested,
    ReplaceAcked,
    ReplaceRefused,
)
