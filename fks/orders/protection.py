"""Protection of a position: which legs each entry wants, and what to do about the legs that exist (C6). Pure.

The position of an instance is made of its newest entries; each of those with a stop loss or take profit wants legs over
its part. Legs are right when every leg that is wanted lives at the venue with exactly that quantity, and the stop is
where the entry's stop loss is: a trailing one moves (`fks.orders.trailing`). Anything else is
corrected in one direction only: end what lives, prove it, then send a new attempt. So two live exits never exceed the
position, and placing twice collides with itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class LegAction(StrEnum):
    """What to do about the legs of one parent."""

    NOTHING = "nothing"
    WAIT = "wait: a leg's outcome is not known yet"
    ABANDON = "abandon legs that were never sent and are not wanted any more"
    SEND = "send the legs that wait"
    CANCEL = "cancel live legs that are wrong or not wanted; place new ones once their end is proven"
    RENEW = "place a new attempt: none lives"


@dataclass(frozen=True, slots=True)
class Legs:
    """The legs of one parent, all attempts, sorted by what can be done about them."""

    want: Want
    roles: frozenset[Role]  # wanted at the venue
    live: tuple[Order, ...]
    waiting: tuple[Order, ...]  # journaled, never sent
    is_unresolved: bool  # one is SENDING or UNKNOWN, or has executions that are not booked

    @property
    def is_right(self) -> bool:
        """Return whether exactly the wanted legs live, each over the wanted quantity, and no stop farther from the
        market than its entry's stop loss has come to."""
        return {leg.role for leg in self.live} == self.roles and all(
            leg.remaining == self.want.quantity and not self._is_left_behind(leg) for leg in self.live
        )

    def _is_left_behind(self, leg: Order) -> bool:
        stop, parent = leg.stop_price, self.want.parent
        return stop is not None and parent.stop_loss is not None and (parent.stop_loss - stop) * parent.side.sign > 0


def _is_unresolved(legs: Legs) -> bool:
    """a leg is SENDING or UNKNOWN, or has executions that are not booked"""
    return legs.is_unresolved


def _is_unwanted_live(legs: Legs) -> bool:
    """nothing is to be protected, and legs live"""
    return legs.want.quantity == 0 and bool(legs.live)


def _is_unwanted_waiting(legs: Legs) -> bool:
    """nothing is to be protected, legs wait, and their entry has ended"""
    return legs.want.quantity == 0 and bool(legs.waiting) and legs.want.parent.state not in OPEN


def _is_unwanted(legs: Legs) -> bool:
    """nothing is to be protected"""
    return legs.want.quantity == 0


def _is_right(legs: Legs) -> bool:
    """the wanted legs live, over the wanted quantity, the stop where the entry's stop loss is"""
    return bool(legs.live) and legs.is_right


def _is_wrong(legs: Legs) -> bool:
    """other legs live, over another quantity, or at a stop that the entry's stop loss has left behind"""
    return bool(legs.live)


def _has_waiting(legs: Legs) -> bool:
    """wanted legs wait"""
    return any(leg.role in legs.roles for leg in legs.waiting)


def _always(legs: Legs) -> bool:
    """otherwise"""
    return True


#: The first row whose condition holds is taken.
PROTECTION_ROWS: tuple[tuple[Callable[[Legs], bool], LegAction], ...] = (
    (_is_unresolved, LegAction.WAIT),
    (_is_unwanted_live, LegAction.CANCEL),
    (_is_unwanted_waiting, LegAction.ABANDON),
    (_is_unwanted, LegAction.NOTHING),
    (_is_right, LegAction.NOTHING),
    (_is_wrong, LegAction.CANCEL),
    (_has_waiting, LegAction.SEND),
    (_always, LegAction.RENEW),
)


def next_action(want: Want, legs: Sequence[Order], *, has_oco: bool) -> tuple[LegAction, tuple[Order, ...]]:
    """Return what to do about `legs` (all attempts of the want's parent), and which of them it is about."""
    now = Legs(
        want=want,
        roles=frozenset(wanted_roles(want.parent, has_oco=has_oco)),
        live=tuple(leg for leg in legs if leg.state in LIVE),
        waiting=tuple(leg for leg in legs if leg.state is State.INTENDED),
        is_unresolved=any(
            leg.state in (State.SENDING, State.UNKNOWN) or leg.reported_cum_qty > leg.filled for leg in legs
        ),
    )
    action = next(action for guard, action in PROTECTION_ROWS if guard(now))
    about = {
        LegAction.CANCEL: now.live,
        LegAction.ABANDON: now.waiting,
        LegAction.SEND: tuple(leg for leg in now.waiting if leg.role in now.roles),
    }
    return action, about.get(action, ())


def wanted(position: Decimal, entries: Sequence[Order], instrument: Instrument | None) -> list[Want]:
    """Return what each of an instance's entries (newest first) wants protected of its `position` (signed).

    Every entry with SL or TP gets a Want, with quantity 0 when none of the position is its own. Without metadata
    (`instrument` None) quantities are not rounded.
    """
    left = abs(position)
    wants = []
    for entry in entries:
        part = min(left, entry.filled) if entry.side.sign * position > 0 else _ZERO
        left -= part
        if entry.stop_loss is not None or entry.take_profit is not None:
            wants.append(Want(entry, part if instrument is None else instrument.round_quantity(part)))
    return wants


def wanted_roles(parent: Order, *, has_oco: bool) -> set[Role]:
    """Return the roles of the legs that live at the venue: never two that are not tied, since both might fill."""
    if parent.stop_loss is None:
        return {Role.TAKE_PROFIT}
    return {Role.STOP_LOSS, Role.TAKE_PROFIT} if parent.take_profit is not None and has_oco else {Role.STOP_LOSS}


def can_rest(want: Want, instrument: Instrument) -> bool:
    """Return whether the venue would take legs over the quantity at the least of their prices."""
    prices = [price for price in (want.parent.stop_loss, want.parent.take_profit) if price is not None]
    value = want.quantity * min(prices) * instrument.multiplier
    return want.quantity >= instrument.qty_min and value >= instrument.notional_min


def next_attempt(legs: Sequence[Order]) -> int:
    """Return the number after the newest attempt there is."""
    return max((leg.attempt for leg in legs), default=-1) + 1
