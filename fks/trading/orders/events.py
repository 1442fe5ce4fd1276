"""Events of an order. Every event has an id of its own: applying the same one twice changes nothing."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from decimal import Decimal

import msgspec

from fks.model.order import Fill, Refusal, Report, State

#: what the checks saw before the send, for the journal: code, outcome, limit, value
Checks = Sequence[Sequence[str]]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Root of all events. `source` is us | rest | stream | reconcile | replay | person; times are ns UTC, 0 = not
    known."""

    event_id: str
    source: str = "us"
    venue_time_ns: int = 0
    recv_ns: int = 0


class Denied(Event, frozen=True, kw_only=True):
    """Risk said no."""

    code: str
    detail: str = ""


class IntendedAndSent(Event, frozen=True, kw_only=True):
    """Risk said yes and the bytes follow the commit."""


class Intended(Event, frozen=True, kw_only=True):
    """Risk said yes, and the order has to wait for its parent or a slot."""


class Sent(Event, frozen=True, kw_only=True):
    """An order that waited is about to be written to the wire, with the values that were only decided now."""

    quantity: Decimal | None = None
    group_id: str | None = None


class Abandoned(Event, frozen=True, kw_only=True):
    """An order that waited is given up before any byte left."""

    reason: str = ""


class LegReported(Event, frozen=True, kw_only=True):
    """The venue placed a leg of an order of ours by itself."""

    report: Report


class LegChanged(Event, frozen=True, kw_only=True):
    """A leg that the venue placed by itself was changed in place there."""

    quantity: Decimal
    price: Decimal | None
    stop_price: Decimal | None


class StopMoved(Event, frozen=True, kw_only=True):
    """The stop loss of an entry follows the closes: with the bar that opened at `bar_ns` it came to `stop_loss`."""

    stop_loss: Decimal
    bar_ns: int


class TargetMoved(Event, frozen=True, kw_only=True):
    """The strategy of an entry moved its take profit, on the bar that opened at `bar_ns`."""

    take_profit: Decimal
    bar_ns: int


class ProtectionDropped(Event, frozen=True, kw_only=True):
    """A person wants an order's stop loss and take profit gone: its position has no protection any more."""

    by: str


class SharesSplit(Event, frozen=True, kw_only=True):
    """The shares were split, `new` for each `old` one. `stop_loss` and `take_profit`: the order's in the new shares, on
    the tick grid; `before` is its quantity in the old ones."""

    new: int
    old: int
    before: Decimal
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None


class Acked(Event, frozen=True, kw_only=True):
    """The venue has it: its id and ours came back together. `sent_ns`: when the first byte left."""

    report: Report
    sent_ns: int | None = None
    checks: Checks = ()


class Refused(Event, frozen=True, kw_only=True):
    """A definitive no of the venue, or proof that no byte left. `refusal` is why, in words that no venue owns."""

    code: str
    detail: str = ""
    refusal: Refusal | None = None
    sent_ns: int | None = None
    checks: Checks = ()


class Ambiguous(Event, frozen=True, kw_only=True):
    """Bytes may have left, and the answer proves nothing."""

    detail: str = ""
    sent_ns: int | None = None
    checks: Checks = ()


class DuplicateId(Event, frozen=True, kw_only=True):
    """The venue knows our client order id already: evidence that the order exists."""

    detail: str = ""
    sent_ns: int | None = None
    checks: Checks = ()


class Replayed(Event, frozen=True, kw_only=True):
    """A new order manager read this order from the journal. `epoch` is the new one's."""

    epoch: int


class Reported(Event, frozen=True, kw_only=True):
    """The order as the venue reports it now, by our client order id."""

    report: Report


class FillSeen(Event, frozen=True, kw_only=True):
    """An execution that was not booked before."""

    fill: Fill


class Busted(Event, frozen=True, kw_only=True):
    """An execution is taken back: by the venue, or (`is_replaced`) a person's figures by the venue's own execution."""

    fill_id: uuid.UUID
    quantity: Decimal
    price: Decimal
    fee: Decimal = Decimal(0)
    fee_currency: str = ""
    instance: str = ""  # whose position the execution had moved
    is_replaced: bool = False


class SessionBroke(Event, frozen=True, kw_only=True):
    """The session is lost or its reconciliation failed: what we know of open orders may be old."""


class NotListed(Event, frozen=True, kw_only=True):
    """An order the venue had acknowledged is missing from its list of open orders and from its history."""


class FoundAbsent(Event, frozen=True, kw_only=True):
    """C5 is satisfied: enough spaced polls, old enough, and no fill under our id."""

    polls: int
    age_s: float


class Settled(Event, frozen=True, kw_only=True):
    """A person decided what became of an UNKNOWN order, and says why. `filled` counts what is booked with it."""

    outcome: State
    by: str
    reason: str
    filled: Decimal | None = None


class CancelRequested(Event, frozen=True, kw_only=True):
    """Someone wants it cancelled."""

    by: str = ""
    reason: str = ""


class CancelWithdrawn(Event, frozen=True, kw_only=True):
    """The cancel is not wanted any more: it is not repeated. One that has left may still end the order."""

    reason: str = ""


class CancelAcked(Event, frozen=True, kw_only=True):
    """The venue cancelled it; `filled`: the quantity that it reports as executed before, if it reports one."""

    filled: Decimal | None = None


class CancelRefused(Event, frozen=True, kw_only=True):
    """The venue did not cancel; UNKNOWN_ORDER may as well mean filled."""

    code: str
    detail: str = ""


class RequestAmbiguous(Event, frozen=True, kw_only=True):
    """A cancel or replace was sent and its answer proves nothing."""

    detail: str = ""


class ReplaceRequested(Event, frozen=True, kw_only=True):
    """Someone wants another price or quantity."""


class ReplaceAcked(Event, frozen=True, kw_only=True):
    """The venue changed the order in place, under the same identity."""

    quantity: Decimal
    price: Decimal | None
    stop_price: Decimal | None = None  # None: as it was


class ReplaceRefused(Event, frozen=True, kw_only=True):
    """The venue left the order as it was."""

    code: str
    detail: str = ""


EVENTS: tuple[type[Event], ...] = tuple(Event.__subclasses__())
