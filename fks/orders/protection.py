"""Protection of a position (C6): the legs that each entry wants, and the steps from the legs that exist to those. Pure.

The position of an instance is made of its newest entries; each of those with a stop loss or take profit wants legs over
its part (`desired`). Legs live at the venue in lists: those of one attempt, a single order or an OCO. `diff` compares
the lists of an instance with its wants:

  * A list is never ended to grow while its entry has fewer than LISTS_MAX: the difference gets a list of its own. Of
    two lists one is replaced at a time. A difference too small to rest is joined with a little of the list that lives.
  * Quantities beyond the want are amended where the venue can, else the list is replaced: ended, proven, placed again.
  * A stop that rests alone is replaced by one request where the venue can: it ends the old order and places the new
    one, so that the position has its stop meanwhile. A pair that trails is moved in two halves, one after the other,
    while the symbol has fewer lists than it may have.
  * Each entry's legs cover its part exactly, as in a backtest: a fee that a further entry paid reduces an older one's.
  * Legs that went out with their entry wait at the venue for its complete fill. Parts of an entry that rests are
    covered meanwhile by lists of their own, which end once the venue's are seen on the book.
  * Live legs never close more than the position. A list that is being reduced is waited for, unless the venue refuses
    that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from enum import StrEnum
from functools import cached_property
from itertools import groupby

from fks.model.instrument import Instrument
from fks.model.order import LIVE, OPEN, Order, OrderType, Request, Role, State, TimeInForce

#: Lists of one entry, and of a symbol while entries have more: a venue may take only five stops a symbol (Binance,
#: MAX_NUM_ALGO_ORDERS).
LISTS_MAX, LISTS_OF_SYMBOL_MAX = 2, 4
_ZERO = Decimal(0)
_GIVING_BACK = (Request.CANCEL, Request.REPLACE)


@dataclass(frozen=True, slots=True)
class Want:
    """A parent and the quantity (base, on the lot grid) that its legs should cover; 0 = nothing to protect. `part` is
    the same before it was rounded: what lots leave over at one entry may be covered at another."""

    parent: Order
    quantity: Decimal
    part: Decimal


@dataclass(frozen=True, slots=True)
class LegList:
    """The legs of one attempt that live at the venue."""

    legs: tuple[Order, ...]

    @property
    def quantity(self) -> Decimal:
        """Return what the list may still close; the legs of an OCO close it once."""
        return max(leg.remaining for leg in self.legs)

    @property
    def is_giving_back(self) -> bool:
        """Return whether a cancel or an amendment is under way."""
        return any(leg.request in _GIVING_BACK for leg in self.legs)


@dataclass(frozen=True)
class Cover:
    """A want and what there is of it: `legs` of all attempts, and `placing`, commanded and not in the journal yet.

    `may_grow`: further executions are not waited for any more. `is_stop_alone`: the venue refuses the take profit.
    """

    want: Want
    legs: tuple[Order, ...] = ()
    placing: Decimal = _ZERO
    is_placing: bool = False
    may_grow: bool = True
    lists_max: int = LISTS_MAX
    can_amend: bool = False
    can_replace: bool = False
    has_oco: bool = True
    is_stop_alone: bool = False

    @cached_property
    def placed(self) -> tuple[Order, ...]:
        """Return the legs without those that wait at the venue for their entry's complete fill: these cover nothing."""
        return tuple(leg for leg in self.legs if not leg.is_pending)

    @property
    def is_awaited(self) -> bool:
        """Return whether reports of the entry's list are on their way: its legs wait for an entry that has ended, or
        that fills at once; or they are on the book, and not all of what their entry executed is booked."""
        parent = self.want.parent
        listed = [leg for leg in self.legs if leg.is_open and leg.group_id is not None]
        listed = [leg for leg in listed if leg.group_id == parent.group_id]
        if any(leg.is_pending for leg in listed):
            return parent.state not in OPEN or parent.time_in_force is TimeInForce.FOK
        return bool(listed) and parent.state in OPEN

    @cached_property
    def lists(self) -> list[LegList]:
        """Return the lists that live, smallest first."""
        live = sorted((leg for leg in self.placed if leg.state in LIVE), key=lambda leg: leg.attempt)
        return sorted(
            (LegList(tuple(legs)) for _, legs in groupby(live, key=lambda leg: leg.attempt)), key=lambda x: x.quantity
        )

    @cached_property
    def roles(self) -> frozenset[Role]:
        """Return the roles of legs that live at the venue: never two that are not tied, since both might fill."""
        parent = self.want.parent
        if parent.stop_loss is None:
            return frozenset({Role.TAKE_PROFIT})
        is_pair = parent.take_profit is not None and self.has_oco and not (self.is_stop_alone or self.has_stop_alone)
        return frozenset({Role.STOP_LOSS, Role.TAKE_PROFIT} if is_pair else {Role.STOP_LOSS})

    @property
    def has_stop_alone(self) -> bool:
        """Return whether a stop was made without the take profit that it would be tied to, since it was refused with
        it: not by the guardian."""
        made = (leg for leg in self.legs if leg.role is Role.STOP_LOSS and leg.type is OrderType.STOP)
        stops = {leg.attempt for leg in made if leg.attempt == 0 or leg.attempt % GUARDIAN_ATTEMPTS}
        return bool(stops - {leg.attempt for leg in self.legs if leg.role is Role.TAKE_PROFIT})

    @cached_property
    def is_unresolved(self) -> bool:
        """Return whether a leg is SENDING or UNKNOWN, has executions that are not booked, or an amendment of unknown
        outcome."""
        return any(
            leg.state in (State.SENDING, State.UNKNOWN)
            or leg.reported_cum_qty > leg.filled
            or leg.request is Request.REPLACE_UNKNOWN
            for leg in self.placed
        )

    @property
    def waiting(self) -> tuple[Order, ...]:
        """Return the legs that are journaled and were never sent."""
        return tuple(leg for leg in self.legs if leg.state is State.INTENDED)

    @cached_property
    def closing(self) -> Decimal:
        """Return what its legs may close or have closed unbooked, with those whose outcome is not known."""
        open_ = [leg for leg in self.placed if leg.state is not State.INTENDED]
        attempts = groupby(sorted(open_, key=lambda leg: leg.attempt), key=lambda leg: leg.attempt)
        return self.placing + sum(
            (max(max(leg.remaining, leg.reported_cum_qty - leg.filled) for leg in legs) for _, legs in attempts), _ZERO
        )

    def is_right(self, list_: LegList) -> bool:
        """Return whether exactly the wanted legs of a list live, and its stop is where the entry's stop loss has come
        to."""
        if any(leg.type is OrderType.MARKET for leg in list_.legs):
            return True  # closes what the market has passed
        return self.has_wanted_legs(list_) and not any(map(self._is_left_behind, list_.legs))

    def has_wanted_legs(self, list_: LegList) -> bool:
        """Return whether exactly the wanted legs of a list live, wherever its stop is."""
        return {leg.role for leg in list_.legs} == self.roles and all(
            leg.remaining == list_.quantity for leg in list_.legs
        )

    def can_replace_list(self, list_: LegList) -> bool:
        """Return whether one request may end a list and place its successor: only a stop alone that has not triggered.
        Of a leg in a list of the venue such a request would end the whole list."""
        leg = list_.legs[0]
        return (
            self.can_replace
            and len(list_.legs) == 1
            and self.roles == {Role.STOP_LOSS}
            and (leg.role, leg.type, leg.state) == (Role.STOP_LOSS, OrderType.STOP, State.ACCEPTED)
            and leg.request is Request.NONE
            and leg.group_id is None
            and leg.filled == 0
        )

    def _is_left_behind(self, leg: Order) -> bool:
        stop, parent = leg.stop_price, self.want.parent
        return stop is not None and parent.stop_loss is not None and (parent.stop_loss - stop) * parent.side.sign > 0


class LegAction(StrEnum):
    """An action on the legs of one parent."""

    WAIT = "wait: a leg's outcome is not known yet, or others are about to give back what these need"
    ABANDON = "abandon legs that were never sent and are not wanted any more"
    CANCEL = "cancel live legs that are wrong or not wanted; place new ones once their end is proven"
    AMEND = "amend live legs to a smaller quantity"
    REPLACE = "end a stop and place its successor by one request"
    PLACE = "place the legs that wait, or a new attempt"


#: The guardian places stops alone, in the order manager's stead. Of that one's attempts it may not know the last, which
#: are never so many of one entry: the guardian's are the multiples of this, so that no id is used by both.
GUARDIAN_ATTEMPTS = 1000
_FREEING = (LegAction.CANCEL, LegAction.AMEND, LegAction.REPLACE)


@dataclass(frozen=True, slots=True)
class LegStep:
    """One action: on these `legs`, with this quantity (AMEND: the order's new one, PLACE and REPLACE: the
    list's)."""

    action: LegAction
    cover: Cover
    legs: tuple[Order, ...] = ()
    quantity: Decimal = _ZERO


def desired(position: Decimal, entries: Sequence[Order], closing: Decimal, instrument: Instrument | None) -> list[Want]:
    """Return the wants of an instance's entries (newest first) for its `position` (signed), beyond what orders on their
    way are `closing`.

    Every entry with SL or TP gets a Want, with quantity 0 when none of the position is its own. Wants of the same
    prices are joined where one by itself could not rest. Without metadata (`instrument` None) quantities are not
    rounded.
    """
    left = max(abs(position) - closing, _ZERO)
    wants = []
    for entry in entries:
        part = min(left, entry.filled) if entry.side.sign * position > 0 else _ZERO
        left -= part
        if entry.stop_loss is not None or entry.take_profit is not None:
            wants.append(Want(entry, part if instrument is None else instrument.round_quantity(part), part))
    return wants if instrument is None else _joined(wants, instrument)


def _joined(wants: list[Want], instrument: Instrument) -> list[Want]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for at, want in enumerate(wants):
        if want.quantity:
            groups.setdefault(_prices(want.parent), []).append(at)
    for group in groups.values():
        large = [at for at in group if can_rest(wants[at].parent, wants[at].quantity, instrument)]
        if len(large) == len(group):
            continue
        host = (large or group)[-1]  # the oldest: the one that changes least as others come
        for at in group:
            if at != host and at not in large:
                part = wants[host].part + wants[at].part
                wants[host] = Want(wants[host].parent, instrument.round_quantity(part), part)
                wants[at] = Want(wants[at].parent, _ZERO, _ZERO)
    return wants


def _prices(parent: Order) -> tuple[object, ...]:
    return parent.exchange, parent.side, parent.stop_loss, parent.take_profit


def least_that_rests(parent: Order, instrument: Instrument) -> Decimal:
    """Return the least quantity of legs that the venue takes at the lower of their prices, on the lot grid."""
    price = min(price for price in (parent.stop_loss, parent.take_profit) if price is not None)
    steps = instrument.notional_min / (price * instrument.multiplier * instrument.lot_step)
    return max(instrument.qty_min, steps.to_integral_value(ROUND_CEILING) * instrument.lot_step)


def can_rest(parent: Order, quantity: Decimal, instrument: Instrument) -> bool:
    """Return whether the venue would take legs over the quantity at the lower of their prices."""
    return quantity >= least_that_rests(parent, instrument)


def diff(covers: Sequence[Cover], instrument: Instrument) -> list[LegStep]:
    """Return the steps that bring the legs of one instance nearer to its wants; at most one a parent.

    The caller gives the same covers again after each change: a step follows when those before it are proven.
    """
    free = sum((cover.want.quantity - cover.closing for cover in covers), _ZERO)
    lacking = sum((max(cover.want.quantity - cover.closing, _ZERO) for cover in covers), _ZERO)
    steps, is_freeing = [], False
    # those whose legs live come first: what they give back others may need; of the others the oldest, so that at one
    # price legs fill in the order in which a position loses its entries
    for cover in (*(one for one in covers if one.lists), *(one for one in reversed(covers) if not one.lists)):
        excess = cover.closing - cover.want.quantity
        step = _step(cover, excess, free, lacking, is_freeing, instrument)
        is_freeing |= excess > 0 and _is_giving_back(cover, step)
        if step is not None:
            steps.append(step)
            free -= _taken(step)
    return steps


def _taken(step: LegStep) -> Decimal:
    """Return what a step's new legs close beyond those that they replace."""
    if step.action is LegAction.REPLACE:
        return max(step.quantity - LegList(step.legs).quantity, _ZERO)
    return step.quantity if step.action is LegAction.PLACE else _ZERO


def _is_giving_back(cover: Cover, step: LegStep | None) -> bool:
    """Return whether a list gives back some of its quantity now, as far as the venue has not refused that."""
    about = () if step is None or step.action not in _FREEING else step.legs
    return any(list_.is_giving_back for list_ in cover.lists) or any(leg.request is Request.NONE for leg in about)


def _step(
    cover: Cover, excess: Decimal, free: Decimal, lacking: Decimal, is_freeing: bool, instrument: Instrument
) -> LegStep | None:
    lists, want = cover.lists, cover.want
    if cover.is_placing or cover.is_unresolved:
        return LegStep(LegAction.WAIT, cover)
    if cover.is_awaited:
        return LegStep(LegAction.WAIT, cover)
    if want.quantity == 0:
        return _ended(cover, lists)
    if any(list_.is_giving_back for list_ in lists):
        return LegStep(LegAction.WAIT, cover)
    if excess > 0 and lists:
        return _shrunk(cover, lists, excess, instrument)
    lack = want.quantity - cover.closing
    # a fee's worth is not taken from what others lack
    is_small = bool(lists) and lack < least_that_rests(want.parent, instrument)
    more = min(lack, free - (lacking - lack) if is_small else free)
    wrong = [list_ for list_ in lists if not cover.is_right(list_)]
    if wrong and not cover.can_replace_list(wrong[0]):
        if lack <= 0 and (half := _first_half(cover, lists, instrument)) > 0:
            return LegStep(LegAction.AMEND, cover, wrong[0].legs, wrong[0].legs[0].quantity - half)
        if cover.may_grow and more >= least_that_rests(want.parent, instrument) and len(lists) < cover.lists_max:
            return _grown(cover, lists, more, instrument)  # first: for a moment the wrong list has no successor
    if wrong:  # its successor covers what is lacking, too
        grown = wrong[0].quantity + (max(more, _ZERO) if cover.may_grow else _ZERO)
        return _renewed(cover, wrong[0], grown, instrument)
    if len(lists) > max(cover.lists_max, LISTS_MAX):  # the venue takes no more: the largest stays, the others are one
        return LegStep(LegAction.CANCEL, cover, tuple(leg for list_ in lists[:-1] for leg in list_.legs))
    if lack <= 0 or (lists and not cover.may_grow):
        return None
    if lack > free and is_freeing:
        return LegStep(LegAction.WAIT, cover)
    return _grown(cover, lists, more, instrument)


def _ended(cover: Cover, lists: list[LegList]) -> LegStep | None:
    """Return the step for a parent of which nothing is to be protected."""
    if lists:
        return LegStep(LegAction.CANCEL, cover, tuple(leg for list_ in lists for leg in list_.legs))
    parent = cover.want.parent
    has_ended = parent.state not in OPEN and parent.reported_cum_qty <= parent.filled
    return LegStep(LegAction.ABANDON, cover, cover.waiting) if cover.waiting and has_ended else None


def _shrunk(cover: Cover, lists: list[LegList], excess: Decimal, instrument: Instrument) -> LegStep:
    """Return the step that takes `excess` out of the lists: a whole list, an amendment, or the end of one list."""
    least = least_that_rests(cover.want.parent, instrument)
    largest = lists[-1]
    amends = cover.can_amend and cover.is_right(largest) and largest.quantity - excess >= least
    for list_ in reversed(lists):
        if len(lists) > 1 and (list_.quantity == excess or (list_.quantity < excess and not amends)):
            return LegStep(LegAction.CANCEL, cover, list_.legs)
    if amends:
        return LegStep(LegAction.AMEND, cover, largest.legs, largest.legs[0].quantity - excess)
    shrinking = next(x for x in lists if x.quantity > excess or x is largest)
    return _renewed(cover, shrinking, shrinking.quantity - excess, instrument)


def _renewed(cover: Cover, list_: LegList, quantity: Decimal, instrument: Instrument) -> LegStep:
    """Return the step that makes a list right, with this quantity: one request, or its end and then a new one."""
    if cover.can_replace_list(list_) and can_rest(cover.want.parent, quantity, instrument):
        return LegStep(LegAction.REPLACE, cover, list_.legs, quantity)
    return LegStep(LegAction.CANCEL, cover, list_.legs)


def _first_half(cover: Cover, lists: list[LegList], instrument: Instrument) -> Decimal:
    """Return how much of a pair that trails is taken out of its list first, and placed at the new stop, while the rest
    stays; 0: the symbol has its most lists already, or the pair is too small."""
    may_split = len(lists) == 1 and cover.lists_max > LISTS_MAX and cover.can_amend
    if not may_split or len(cover.roles) == 1 or not cover.has_wanted_legs(lists[0]):
        return _ZERO
    half = instrument.round_quantity(lists[0].quantity / 2)
    return half if half >= least_that_rests(cover.want.parent, instrument) else _ZERO


def _grown(cover: Cover, lists: list[LegList], lack: Decimal, instrument: Instrument) -> LegStep | None:
    """Return the step that covers `lack` more: a list for it while there may be one, else a larger one."""
    if lack <= 0:
        return None
    least = least_that_rests(cover.want.parent, instrument)
    if not lists or (lack >= least and len(lists) < cover.lists_max):
        waiting = tuple(leg for leg in cover.waiting if leg.role in cover.roles)
        return LegStep(LegAction.PLACE, cover, waiting, lack)
    smallest = lists[0]
    part = least - lack  # of the one list, so that it can rest with what is to be covered
    if part > 0 and len(lists) < cover.lists_max and cover.can_amend and smallest.quantity - part >= least:
        return LegStep(LegAction.AMEND, cover, smallest.legs, smallest.legs[0].quantity - part)
    return _renewed(cover, smallest, smallest.quantity + lack, instrument)


def next_attempt(legs: Sequence[Order]) -> int:
    """Return the number after the newest attempt there is."""
    return max((leg.attempt for leg in legs), default=-1) + 1
