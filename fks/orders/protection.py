"""What protects a position, and what is wrong with what protects it now (C6). Pure: the armer asks and acts.

The position of an instance is made of its newest entries; each of those with a stop loss or take profit wants legs over
its part. Legs are right when every leg that is wanted lives at the venue with exactly that quantity. Anything else is
mended in one direction only: end what lives, prove it, then send a new generation. So two live exits never exceed the
position, and arming twice collides with itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from fks.model.instrument import Instrument
from fks.model.order import LIVE, OPEN, Order, Role, State

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Want:
    """A parent and the quantity (base, on the lot grid) that its legs should cover; 0 = nothing to protect."""

    parent: Order
    quantity: Decimal


class Mend(StrEnum):
    """What to do about the legs of one parent."""

    NOTHING = "nothing"
    WAIT = "wait"  # a leg's outcome is not known yet
    ABANDON = "abandon"  # legs that were never sent are not wanted any more
    SEND = "send"  # the legs that wait go out
    CANCEL = "cancel"  # live legs are wrong or not wanted: end them first
    RENEW = "renew"  # none lives: a new generation


def wanted(position: Decimal, entries: Sequence[Order], instrument: Instrument) -> list[Want]:
    """Return what each of an instance's entries (newest first) wants protected of its `position` (signed).

    Every entry with SL or TP gets a Want, with quantity 0 when none of the position is its own.
    """
    left = abs(position)
    wants = []
    for entry in entries:
        part = min(left, entry.filled) if entry.side.sign * position > 0 else _ZERO
        left -= part
        if entry.stop_loss is not None or entry.take_profit is not None:
            wants.append(Want(entry, instrument.round_quantity(part)))
    return wants


def mend(want: Want, legs: Sequence[Order], *, has_oco: bool) -> tuple[Mend, list[Order]]:
    """Return what to do about `legs` (all generations of the want's parent), and which of them it is about."""
    if any(leg.state in (State.SENDING, State.UNKNOWN) for leg in legs):
        return Mend.WAIT, []
    live = [leg for leg in legs if leg.state in LIVE]
    waiting = [leg for leg in legs if leg.state is State.INTENDED]
    if any(leg.announced > leg.filled for leg in legs):
        return Mend.WAIT, []
    if want.quantity == 0:
        if live:
            return Mend.CANCEL, live
        if waiting and want.parent.state not in OPEN:
            return Mend.ABANDON, waiting
        return Mend.NOTHING, []
    roles = wanted_roles(want.parent, has_oco=has_oco)
    if live:
        is_right = {leg.role for leg in live} == roles and all(leg.remaining == want.quantity for leg in live)
        return (Mend.NOTHING, []) if is_right else (Mend.CANCEL, live)
    ready = [leg for leg in waiting if leg.role in roles]
    return (Mend.SEND, ready) if ready else (Mend.RENEW, [])


def wanted_roles(parent: Order, *, has_oco: bool) -> set[Role]:
    """Return the roles of the legs that live at the venue: never two that are not tied, since both might fill."""
    if parent.stop_loss is None:
        return {Role.TAKE_PROFIT}
    return {Role.STOP_LOSS, Role.TAKE_PROFIT} if parent.take_profit is not None and has_oco else {Role.STOP_LOSS}


def next_generation(legs: Sequence[Order]) -> int:
    """Return the number after the newest generation there is."""
    return max((leg.generation for leg in legs), default=-1) + 1
