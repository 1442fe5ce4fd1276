"""Protection of a position (C6): the legs that each entry wants, and the steps from the legs that exist to those. Pure.

The position of an instance is made of its newest entries, less the executions of their own legs (`held_parts`);
each of those with a stop loss or take profit wants legs over its part (`desired`). Legs live at the venue in lists:
those of one attempt, a single order or an OCO. `diff` compares the lists of an instance with its wants, for the order
manager and, where that has died, for the guardian:

  * A list is never ended to grow while its entry has fewer than LISTS_MAX: the difference gets a list of its own. Of
    two lists one is replaced at a time. A difference too small to rest is joined with a little of the list that lives.
  * Quantities beyond the want are amended where the venue can, else the list is replaced: ended, proven, placed again.
    Whole lists are ended while another is amended, since a sale waits for all of them.
  * A leg that rests alone is moved in place where the venue can. Else a stop alone is replaced by one request where the
    venue can: it ends the old order and places the new one, so that the position has its stop meanwhile. A pair that
    trails is moved in two halves, one after the other, while the symbol has fewer lists than it may have.
  * A leg that the venue refused because the market has passed its price is closed at the market, in its own role and
    wherever the price is by then, until that close has executed. Lists that were to move there are ended first.
  * A venue may make a stop of its own for each fill of an entry. It is a leg from its first report on, each in a list
    of its own; a part whose stop is not reported yet gets none for some seconds.
  * Each entry's legs cover its part exactly, as in a backtest: a fee that a further entry paid reduces an older one's.
  * An entry with several targets has a want for each: a venue locks coins for one list only, so each target is a list
    with its own part of the stop. While the entry is open its targets are filled one after the other, nearest first;
    once it has ended each closes its share of what was filled, and the last one the rest. Of these lists one is ended
    at a time when their stop moves.
  * Legs that went out with their entry wait at the venue for its complete fill. Before a part of an entry that rests is
    covered by a list of its own, or once it is sold, those that wait are reduced to what is still to come, so that
    whatever happens then both together never close more than the entry received. Where they cannot be, the entry is
    ended: its part stays.
  * Live legs never close more than the position. A list that is being reduced is waited for, unless the venue refuses
    that.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from itertools import accumulate, groupby
from types import MappingProxyType
from uuid import UUID

from fks.model.instrument import Instrument
from fks.model.order import LIVE, OPEN, Order, OrderType, Refusal, Request, Role, Side, State, TimeInForce, evolve
from fks.model.parent import TARGET_ATTEMPTS, ParentPlan, join_small, least_resting, parts_of, plan_on_grid, shares_of

#: Lists of one entry, and of a symbol while entries have more: a venue may take only five stops a symbol (Binance,
#: MAX_NUM_ALGO_ORDERS).
LISTS_MAX, LISTS_OF_SYMBOL_MAX = 2, 4
_ZERO = Decimal(0)
_GIVING_BACK = (Request.CANCEL, Request.REPLACE)
_NEVER_SENT = (State.INTENDED, State.ABANDONED)
_NOTHING: Mapping[str, Decimal] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Want:
    """A parent and the quantity (base, on the lot grid) that its legs should cover; 0 = nothing to protect. `part` is
    the same before it was rounded: what lots leave over at one entry may be covered at another.

    `target`: the number (from 0) of the parent's target that it is about, and `parent` has that one's price as its take
    profit; None: the parent has no plan of targets."""

    parent: Order
    quantity: Decimal
    part: Decimal
    target: int | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Return the parent's id and the number of the target, 0 without one."""
        return self.parent.client_order_id, self.target or 0


@dataclass(frozen=True, slots=True)
class LegList:
    """The legs of one attempt that live at the venue."""

    legs: tuple[Order, ...]

    @property
    def quantity(self) -> Decimal:
        """Return what the list may still close; the legs of an OCO close it once."""
        return max((leg.remaining for leg in self.legs), default=_ZERO)

    @property
    def is_giving_back(self) -> bool:
        """Return whether a cancel or an amendment is under way."""
        return any(leg.request in _GIVING_BACK for leg in self.legs)


@dataclass(frozen=True)
class Cover:
    """A want and what there is of it: `legs` of all attempts, and `placing`, commanded and not in the journal yet.

    `may_grow`: further executions are not waited for any more. `is_stop_alone`: the venue refuses the take profit.
    `may_end`: the caller may also reduce or end legs; else it only places further ones, however many lists there are.
    """

    want: Want
    legs: tuple[Order, ...] = ()
    placing: Decimal = _ZERO
    is_placing: bool = False
    may_grow: bool = True
    may_end: bool = True
    lists_max: int = LISTS_MAX
    can_amend: bool = False
    can_replace: bool = False
    can_reprice: bool = False
    has_oco: bool = True
    is_stop_alone: bool = False
    triggered: str = ""  # the stop that was cancelled because it had triggered and did not fill
    closes_due: bool = False  # the venue makes stops for fills of the entry that it has not reported yet
    fee_rate: Decimal = _ZERO  # of what the entry still receives

    @cached_property
    def placed(self) -> tuple[Order, ...]:
        """Return the legs without those that wait at the venue for their entry's complete fill: these cover nothing."""
        return tuple(leg for leg in self.legs if not leg.is_pending)

    @property
    def is_awaited(self) -> bool:
        """Return whether reports of the entry's list are on their way: its legs wait for an entry that has ended, or
        that fills at once; or they are on the book, and not all of what their entry executed is booked; or the venue
        makes stops for its fills."""
        parent = self.want.parent
        if self.closes_due:
            return True
        listed = [leg for leg in self.legs if leg.is_open and leg.group_id is not None]
        listed = [leg for leg in listed if leg.group_id == parent.group_id]
        if any(leg.is_pending for leg in listed):
            return parent.state not in OPEN or parent.time_in_force is TimeInForce.FOK
        return bool(listed) and parent.state in OPEN

    @cached_property
    def listed(self) -> LegList:
        """Return the legs that went out with their entry and wait at the venue for its complete fill."""
        return LegList(tuple(leg for leg in self.legs if leg.is_pending))

    def beyond(self, instrument: Instrument) -> Decimal:
        """Return what the legs that wait with their entry would close beyond what it may still add to the want, net of
        its fee."""
        parent = self.want.parent
        if parent.filled <= 0 or not self.listed.legs:
            return _ZERO
        rest = max(parent.quantity - max(parent.filled, parent.reported_cum_qty), _ZERO)
        to_come = instrument.round_quantity(self.want.part + rest * (1 - self.fee_rate)) - self.want.quantity
        return max(self.listed.quantity - max(to_come, _ZERO), _ZERO)

    def over(self, instrument: Instrument) -> Decimal:
        """Return what the legs that wait with their entry have to give back, at most `beyond`. A first part that could
        not rest stays with them."""
        over, lack = self.beyond(instrument), self.want.quantity - self.closing
        is_small = over <= lack and not (self.lists or can_rest(self.want.parent, lack, instrument))
        return _ZERO if is_small else over

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

    @cached_property
    def newest(self) -> tuple[Order, ...]:
        """Return the legs of the newest attempt that was sent."""
        sent = [leg for leg in self.legs if leg.state not in _NEVER_SENT]
        last = max((leg.attempt for leg in sent), default=0)
        return tuple(leg for leg in sent if leg.attempt == last)

    @cached_property
    def passed(self) -> frozenset[Role]:
        """Return the roles of which one is closed at the market: of the newest legs, as far as it is proven that the
        market had passed their prices, or of a close that did not execute whole. A pair may be refused as one. Once the
        entry's stop loss or take profit has moved, older legs prove nothing."""
        return frozenset(
            leg.role
            for leg in self.newest
            if (_closes_again(leg) or is_passed(leg) or self._is_cancelled_as_triggered(leg))
            and self._is_current(leg.role)
        )

    @property
    def is_close_due(self) -> bool:
        """Return whether a leg that the market has passed is closed now: no close of it was tried yet."""
        return bool(self.passed) and all(leg.type is not OrderType.MARKET for leg in self.newest)

    def _is_cancelled_as_triggered(self, leg: Order) -> bool:
        return leg.client_order_id == self.triggered and leg.state is State.CANCELLED

    def _is_current(self, role: Role) -> bool:
        """Return whether the newest leg of a role that had a price has the entry's present one."""
        parent, sent = self.want.parent, [leg for leg in self.legs if leg.state not in _NEVER_SENT]
        made = [leg for leg in sent if leg.role is role and leg.type is not OrderType.MARKET]
        newest = max(made, key=lambda leg: leg.attempt, default=None)
        if newest is None:
            return True
        if role is Role.STOP_LOSS:
            return newest.stop_price is not None and newest.stop_price == parent.stop_loss
        return newest.price is not None and newest.price == parent.take_profit

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
        """Return whether exactly the wanted legs of a list live, its stop is where the entry's stop loss has come to,
        and its take profit at the target."""
        if any(leg.type is OrderType.MARKET for leg in list_.legs):
            return True  # closes what the market has passed
        return self.has_wanted_legs(list_) and not any(map(self.is_left_behind, list_.legs))

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

    def can_reprice_list(self, list_: LegList) -> bool:
        """Return whether one request makes a list right in place: one untouched leg, whose price alone is wrong."""
        leg = list_.legs[0]
        is_at_rest = leg.state is (State.ACCEPTED if leg.type is OrderType.STOP else State.WORKING)
        return (
            self.can_reprice
            and len(list_.legs) == 1
            and self.has_wanted_legs(list_)
            and is_at_rest
            and leg.request is Request.NONE
            and leg.group_id is None
            and max(leg.filled, leg.reported_cum_qty) == 0
            and not leg.is_in_old_shares
        )

    def is_left_behind(self, leg: Order) -> bool:
        """Return whether a leg is at a price that its entry's stop loss, or take profit, has left, or of before a
        split."""
        stop, parent = leg.stop_price, self.want.parent
        if leg.is_in_old_shares:
            return True
        if leg.type is OrderType.TAKE_PROFIT and leg.price != parent.take_profit:
            return True
        return stop is not None and parent.stop_loss is not None and (parent.stop_loss - stop) * parent.side.sign > 0


class LegAction(StrEnum):
    """An action on the legs of one parent."""

    WAIT = "wait: a leg's outcome is not known yet, or others are about to give back what these need"
    ABANDON = "abandon legs that were never sent and are not wanted any more"
    CANCEL = "cancel live legs that are wrong or not wanted; place new ones once their end is proven"
    AMEND = "amend live legs to a smaller quantity"
    REPLACE = "end a stop and place its successor by one request"
    REPRICE = "move the price of a live leg in place"
    PLACE = "place the legs that wait, or a new attempt"


#: The guardian places stops, and closes what passed ones were for, in the order manager's stead. Of that one's attempts
#: it may not know the last, which are never so many of one entry: the guardian's are the multiples of this, so that no
#: id is used by both.
GUARDIAN_ATTEMPTS = 1000


def _closes_again(leg: Order) -> bool:
    """Return whether a leg closes at the market what a refused one would have, and has not executed whole. The venue
    may refuse that for a reason that lasts: then legs that rest are tried as well."""
    is_barred = leg.state is State.REJECTED and leg.refusal is not None and not leg.refusal.is_passing
    return leg.type is OrderType.MARKET and leg.state is not State.FILLED and not is_barred


def is_passed(leg: Order) -> bool:
    """Return whether the venue proved that the market had passed a leg's price: it refused it, at once or when it was
    to get to the book, or a stop that had triggered was let expire."""
    if leg.role is Role.TAKE_PROFIT and leg.refusal is Refusal.WOULD_MATCH:
        return True
    is_unfilled = (leg.type, leg.state, leg.refusal) == (OrderType.STOP, State.EXPIRED, Refusal.PRICE)
    return leg.refusal is Refusal.WOULD_TRIGGER or is_unfilled


def target_of(leg: Order) -> int:
    """Return the number (from 0) of the target that a leg was made for; 0 where its entry has none."""
    return max(leg.attempt, 0) // TARGET_ATTEMPTS


def without_close(parent: Order, legs: Iterable[Order]) -> Decimal:
    """Return what an entry executed beyond the stops that the venue is known to have made for its fills."""
    return parent.filled - sum((leg.quantity for leg in legs if leg.is_close), _ZERO)


_FREEING = (LegAction.CANCEL, LegAction.AMEND, LegAction.REPLACE)


@dataclass(frozen=True, slots=True)
class LegStep:
    """One action: on these `legs`, with this quantity (AMEND: the order's new one, PLACE and REPLACE: the
    list's)."""

    action: LegAction
    cover: Cover
    legs: tuple[Order, ...] = ()
    quantity: Decimal = _ZERO


def held_parts(held: Decimal, entries: Sequence[tuple[object, Decimal]]) -> list[Decimal]:
    """Return the part of a position of `held` (absolute) that each of its entries (newest first) holds. Of each entry
    of the position's side: its prices, and its executed quantity less that of its legs (`rest_of`).

    Legs count against their own entry. Everything else that made the position smaller, such as exits, sales elsewhere
    and fees, counts against the oldest entries. The legs of one entry may close others of the same prices, which were
    too small to rest alone: executions beyond their own entry count against newer ones of these, else against the
    newest.
    """
    rests = [rest for _, rest in entries]
    if any(rest < 0 for rest in rests):
        alike: dict[object, list[int]] = {}
        for at in reversed(range(len(entries))):
            alike.setdefault(entries[at][0], []).append(at)
        for group in alike.values():  # oldest first
            sums = list(accumulate(rests[at] for at in group))
            tops = [_ZERO, *(max(min(top, sums[-1]), _ZERO) for top in accumulate(sums, max))]
            for number, at in enumerate(group):
                rests[at] = tops[number + 1] - tops[number]
    parts = []
    for rest in rests:
        parts.append(min(held, rest))
        held -= parts[-1]
    return parts


def rest_of(entry: Order, executed: Mapping[str, Decimal]) -> Decimal:
    """Return the executed quantity of an entry less that of its legs (`executed`, by entry); below 0 where these closed
    parts of others."""
    return entry.filled - executed.get(entry.client_order_id, _ZERO)


def desired(
    position: Decimal,
    entries: Sequence[Order],
    closing: Decimal,
    instrument: Instrument | None,
    executed: Mapping[str, Decimal] = _NOTHING,
) -> list[Want]:
    """Return the wants of an instance's entries (newest first) for its `position` (signed), beyond what orders on their
    way are `closing`. `executed`: the quantity that the legs of each entry executed, by the entry's id.

    Every entry with SL or TP gets a Want, with quantity 0 when none of the position is its own. Wants of the same
    prices are joined where one by itself could not rest. Without metadata (`instrument` None) quantities are not
    rounded.
    """
    wants: list[Want] = []
    giver: int | None = None  # the want before, whose part of a lot the next older one covers
    parts = _parts(max(abs(position) - closing, _ZERO), position, entries, executed)
    for entry, part in zip(entries, parts, strict=True):
        if entry.stop_loss is None and entry.take_profit is None:
            continue
        if part and giver is not None and instrument is not None:  # a split makes parts of lots of older entries, too
            newer = wants[giver]
            part += newer.part - newer.quantity
            wants[giver] = Want(newer.parent, newer.quantity, newer.quantity)
        giver = len(wants) if part else giver
        wants.append(Want(entry, part if instrument is None else instrument.round_quantity(part), part))
    return wants if instrument is None else _joined(wants, instrument)


def _parts(
    held: Decimal, position: Decimal, entries: Sequence[Order], executed: Mapping[str, Decimal]
) -> list[Decimal]:
    """Return the part of `held` of each entry (newest first), 0 of one that is not on the position's side."""
    rests = (rest_of(entry, executed) if entry.side.sign * position > 0 else _ZERO for entry in entries)
    return held_parts(held, [(_prices(entry), rest) for entry, rest in zip(entries, rests, strict=True)])


def made_of(
    position: Decimal,
    entries: Sequence[Order],
    instrument: Instrument,
    executed: Mapping[str, Decimal] = _NOTHING,
) -> list[Order]:
    """Return those of an instance's entries (newest first) with a stop loss or take profit that its `position` (signed)
    is made of. Their stops and targets move together. `executed`: as for `desired`.

    A part that could not rest at the venue makes no entry, else the rest that fees and lots leave of a closed entry
    would be one, and the position that follows would get its stop. Entries too small to rest alone count where those of
    the same prices could rest together. The newest entry, which no other one follows, counts where its part could be
    sold at the price that was paid: a part too small for a stop at first may rest where the stop moves to.
    """
    parts = [want for want in desired(position, entries, _ZERO, None, executed) if want.part]
    held = zip(entries, _parts(abs(position), position, entries, executed), strict=True)
    newest = next((entry for entry, part in held if part), None)
    alike: dict[tuple[object, ...], Decimal] = {}
    for want in parts:
        alike[_prices(want.parent)] = alike.get(_prices(want.parent), _ZERO) + want.part

    def is_entry(want: Want) -> bool:
        could_rest = can_rest(want.parent, want.parent.filled, instrument)  # then a small part is a closed entry's rest
        part = want.part if could_rest else alike[_prices(want.parent)]
        return can_rest(want.parent, instrument.round_quantity(part), instrument) or is_newest_held(want)

    def is_newest_held(want: Want) -> bool:
        paid = want.parent.average_price
        if want.parent is not newest or paid is None:
            return False
        return instrument.round_quantity(want.part) >= least_resting([paid], instrument)

    return [want.parent for want in parts if is_entry(want)]


def _joined(wants: list[Want], instrument: Instrument) -> list[Want]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for at, want in enumerate(wants):
        if want.quantity and not (want.parent.group_id is not None and want.parent.state in OPEN):
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


def split(
    wants: Sequence[Want],
    plans: Mapping[UUID, ParentPlan],
    legs: Mapping[str, Mapping[str, Order]],
    instrument: Instrument | None,
) -> list[Want]:
    """Return `wants`, with one for each target of those parents that have targets (`plans`, by the parent's signal).
    `legs`: of all attempts, by parent and id; what those of a target executed is not wanted again."""
    found = []
    for want in wants:
        plan = None if want.parent.signal_id is None else plans.get(want.parent.signal_id)
        if plan is None or not plan.targets:
            found.append(want)
            continue
        if instrument is not None:  # a strategy's prices are rounded here, as those of its entry were
            plan = plan_on_grid(plan, want.parent.side.opposite.value, instrument)
        parents = [evolve(want.parent, take_profit=target.price) for target in plan.targets]
        entry, mine = want.parent, legs.get(want.parent.client_order_id, {}).values()
        shares = shares_of(entry.quantity if entry.state in OPEN else entry.filled, plan, instrument)
        closed = [sum((leg.filled for leg in mine if target_of(leg) == at), _ZERO) for at in range(len(shares))]
        closed = closed if instrument is None else [instrument.round_quantity(done) for done in closed]  # after a split
        parts = parts_of(want.quantity, shares, closed)
        if instrument is not None:
            resting = {target_of(leg) for leg in mine if leg.state in LIVE}
            join_small(parts, [least_that_rests(parent, instrument) for parent in parents], resting)
        found += [Want(parent, part, part, at) for at, (parent, part) in enumerate(zip(parents, parts, strict=True))]
    return found


def _prices(parent: Order) -> tuple[object, ...]:
    return parent.exchange, parent.side, parent.stop_loss, parent.take_profit


def least_that_rests(parent: Order, instrument: Instrument) -> Decimal:
    """Return the least quantity of legs that the venue takes at the lower of their prices, on the lot grid."""
    prices = [price for price in (parent.stop_loss, parent.take_profit) if price is not None]
    return least_resting(prices, instrument)


def can_rest(parent: Order, quantity: Decimal, instrument: Instrument) -> bool:
    """Return whether the venue would take legs over the quantity at the lower of their prices."""
    return quantity >= least_that_rests(parent, instrument)


def diff(covers: Sequence[Cover], instrument: Instrument) -> list[LegStep]:
    """Return the steps that bring the legs of one instance nearer to its wants: at most one a parent, and where whole
    lists are ended the amendment of another.

    The caller gives the same covers again after each change: a step follows when those before it are proven.
    """
    free = sum((cover.want.quantity - cover.closing - cover.over(instrument) for cover in covers), _ZERO)
    lacking = sum((max(cover.want.quantity - cover.closing, _ZERO) for cover in covers), _ZERO)
    steps: list[LegStep] = []
    is_freeing = False
    # those whose legs live come first: what they give back others may need; of the others the oldest, so that at one
    # price legs fill in the order in which a position loses its entries
    for cover in (*(one for one in covers if one.lists), *(one for one in reversed(covers) if not one.lists)):
        excess = cover.closing - cover.want.quantity
        step = _step(cover, excess, free, lacking, is_freeing, instrument)
        if step is not None and step.action is not LegAction.PLACE and not cover.may_end:
            step = None
        is_end = step is not None and step.action is LegAction.CANCEL
        if is_end and excess <= 0 and not _may_end(cover, covers, steps, instrument):
            step = LegStep(LegAction.WAIT, cover)
        is_freeing |= excess > 0 and _is_giving_back(cover, step)
        if step is not None:
            steps.append(step)
            free -= _taken(step)
            if is_end and excess > 0:
                steps += _amended_beside(step, excess, instrument)
    return steps


def _may_end(cover: Cover, covers: Sequence[Cover], steps: Sequence[LegStep], instrument: Instrument) -> bool:
    """Return whether a list may be ended for one at other prices: those of the entry's other targets are at rest."""
    if cover.want.target is None or cover.want.quantity == 0:
        return True
    name = cover.want.parent.client_order_id
    others = [one for one in covers if one is not cover and one.want.parent.client_order_id == name]
    is_ending = any(step.action is LegAction.CANCEL and step.cover in others for step in steps)
    return not is_ending and not any(
        one.is_placing
        or one.is_unresolved
        or any(list_.is_giving_back for list_ in one.lists)
        or (one.closing < one.want.quantity and can_rest(one.want.parent, one.want.quantity, instrument))
        for one in others
    )


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
    if cover.is_placing or cover.is_unresolved or cover.is_awaited:
        return LegStep(LegAction.WAIT, cover)
    over = cover.over(instrument)
    if want.quantity == 0:
        return _handed_over(cover, over, instrument) if over > 0 and not lists else _ended(cover, lists)
    if want.target is not None and (stale := tuple(leg for leg in cover.waiting if cover.is_left_behind(leg))):
        return LegStep(LegAction.ABANDON, cover, stale)
    if any(list_.is_giving_back for list_ in lists):
        return LegStep(LegAction.WAIT, cover)
    if excess > 0 and lists:
        return _shrunk(cover, lists, excess, instrument)
    lack = want.quantity - cover.closing
    if over > 0:
        if cover.may_grow and can_rest(want.parent, lack - over, instrument):
            lack -= over  # what they gave back comes first: further parts may never end
        else:
            return _handed_over(cover, over, instrument)
    # a fee's worth is not taken from what others lack
    is_small = bool(lists) and lack < least_that_rests(want.parent, instrument)
    more = min(lack, free - (lacking - lack) if is_small else free)
    wrong = [list_ for list_ in lists if not cover.is_right(list_)]
    if not can_rest(want.parent, want.quantity, instrument):  # no successor could: prices left behind protect more
        wrong = [one for one in wrong if not cover.has_wanted_legs(one) or any(x.is_in_old_shares for x in one.legs)]
    if wrong and cover.passed:
        return LegStep(LegAction.CANCEL, cover, wrong[0].legs)
    if wrong and not cover.can_replace_list(wrong[0]):
        if lack <= 0 and (half := _first_half(cover, lists, instrument)) > 0:
            return LegStep(LegAction.AMEND, cover, wrong[0].legs, wrong[0].legs[0].quantity - half)
        if cover.may_grow and more >= least_that_rests(want.parent, instrument) and len(lists) < cover.lists_max:
            return _grown(cover, lists, more, instrument)  # first: for a moment the wrong list has no successor
    if wrong and cover.can_reprice_list(wrong[0]):
        return LegStep(LegAction.REPRICE, cover, wrong[0].legs)
    if wrong:  # its successor covers what is lacking, too
        grown = wrong[0].quantity + (max(more, _ZERO) if cover.may_grow else _ZERO)
        return _renewed(cover, wrong[0], grown, instrument)
    if len(lists) > max(cover.lists_max, LISTS_MAX):  # the venue takes no more: the largest stays, the others are one
        return LegStep(LegAction.CANCEL, cover, tuple(leg for list_ in lists[:-1] for leg in list_.legs))
    if lack <= 0 or (lists and not (cover.may_grow or cover.is_close_due)):
        return None
    if lack > free and is_freeing:
        return LegStep(LegAction.WAIT, cover)
    return _grown(cover, lists, more, instrument)


def _handed_over(cover: Cover, over: Decimal, instrument: Instrument) -> LegStep:
    """Return the step that leaves the legs which wait with their entry no more than is still to come, `over` less than
    they have, or ends it."""
    rest = cover.listed.quantity - over
    is_busy = any(leg.state not in LIVE or leg.request is not Request.NONE for leg in cover.listed.legs)
    if is_busy or not cover.may_grow:
        return LegStep(LegAction.WAIT, cover)
    if cover.can_amend and can_rest(cover.want.parent, rest, instrument):
        return LegStep(LegAction.AMEND, cover, cover.listed.legs, rest)
    return LegStep(LegAction.CANCEL, cover, (cover.want.parent,))


def _ended(cover: Cover, lists: list[LegList]) -> LegStep | None:
    """Return the step for a parent of which nothing is to be protected."""
    if lists:
        return LegStep(LegAction.CANCEL, cover, tuple(leg for list_ in lists for leg in list_.legs))
    parent = cover.want.parent
    has_ended = parent.state not in OPEN and parent.reported_cum_qty <= parent.filled
    return LegStep(LegAction.ABANDON, cover, cover.waiting) if cover.waiting and has_ended else None


def _shrunk(cover: Cover, lists: list[LegList], excess: Decimal, instrument: Instrument) -> LegStep:
    """Return the step that takes `excess` out of the lists: whole lists, an amendment, or the end of one list."""
    whole, staying, left = list[LegList](), list(lists), excess
    while left > 0 and len(staying) > 1:
        is_one = _amended(cover, staying[-1], left, instrument) is not None
        found = [x for x in staying if x.quantity == left or (x.quantity < left and not is_one)]
        if not found:
            break
        whole.append(found[-1])
        staying.remove(found[-1])
        left -= found[-1].quantity
    if whole:
        return LegStep(LegAction.CANCEL, cover, tuple(leg for list_ in whole for leg in list_.legs))
    if (amendment := _amended(cover, lists[-1], excess, instrument)) is not None:
        return amendment
    shrinking = next(x for x in lists if x.quantity > excess or x is lists[-1])
    return _renewed(cover, shrinking, shrinking.quantity - excess, instrument)


def _amended_beside(step: LegStep, excess: Decimal, instrument: Instrument) -> list[LegStep]:
    """Return the amendment that takes the rest of `excess` out of a list that stays while the step ends others."""
    staying = [list_ for list_ in step.cover.lists if list_.legs[0] not in step.legs]
    left = excess - sum(list_.quantity for list_ in step.cover.lists if list_.legs[0] in step.legs)
    amendment = _amended(step.cover, staying[-1], left, instrument) if staying and left > 0 else None
    return [] if amendment is None else [amendment]


def _amended(cover: Cover, list_: LegList, excess: Decimal, instrument: Instrument) -> LegStep | None:
    """Return the amendment that takes `excess` out of a list, None where the venue or the list cannot."""
    rest = list_.quantity - excess
    if not (cover.can_amend and cover.is_right(list_) and can_rest(cover.want.parent, rest, instrument)):
        return None
    return LegStep(LegAction.AMEND, cover, list_.legs, list_.legs[0].quantity - excess)


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
    if not lists or (lack >= least and (cover.passed or len(lists) < cover.lists_max)):  # a close is no list
        waiting = tuple(leg for leg in cover.waiting if leg.role in cover.roles)
        return LegStep(LegAction.PLACE, cover, waiting, lack)
    smallest = lists[0]
    part = least - lack  # of the one list, so that it can rest with what is to be covered
    if part > 0 and len(lists) < cover.lists_max and cover.can_amend and smallest.quantity - part >= least:
        return LegStep(LegAction.AMEND, cover, smallest.legs, smallest.legs[0].quantity - part)
    return _renewed(cover, smallest, smallest.quantity + lack, instrument)


def next_attempt(legs: Sequence[Order], target: int = 0) -> int:
    """Return the number after the newest attempt there is; the first one is that of the target."""
    return max((leg.attempt for leg in legs), default=target * TARGET_ATTEMPTS - 1) + 1


class Entries:
    """Entries of one instance and persons' orders with executions, by client order id: what its position is made of.

    Sums are kept as entries come and go, so that an event costs the same whether a position is made of one entry or of
    10,000: only entries with a stop loss or take profit are gone through, once for each change.
    """

    def __init__(self) -> None:
        self._orders: dict[str, Order] = {}
        self._executed: dict[str, Decimal] = {}  # by legs, by entry
        self._keys: list[tuple[int, str]] = []  # oldest first
        self._rests = {Side.BUY: _ZERO, Side.SELL: _ZERO}
        self._counts = {Side.BUY: 0, Side.SELL: 0}
        self._closed = 0  # how many have no rest: their legs closed them
        self._protected = 0  # how many have a stop loss or take profit
        self._newest_first: list[Order] | None = None
        self._wants: tuple[tuple[Decimal, Decimal], Instrument | None, list[Want]] | None = None
        self._made: tuple[Decimal, Instrument, list[Order]] | None = None

    def __len__(self) -> int:
        return len(self._orders)

    def __contains__(self, client_order_id: str) -> bool:
        return client_order_id in self._orders

    def put(self, order: Order, executed: Decimal = _ZERO) -> None:
        """Take in an entry's newest state and the quantity that its legs executed; one of which nothing is executed any
        more (a bust) is no entry."""
        self.pop(order.client_order_id)
        if order.filled <= 0:
            return
        self._orders[order.client_order_id] = order
        if executed:
            self._executed[order.client_order_id] = executed
        insort(self._keys, _key(order))
        self._count(order, 1)

    def note(self, client_order_id: str, executed: Decimal) -> None:
        """Take in the quantity that the legs of an entry executed, if it is there."""
        if client_order_id in self._orders and self._executed.get(client_order_id, _ZERO) != executed:
            self.put(self._orders[client_order_id], executed)

    def pop(self, client_order_id: str) -> None:
        """Forget an entry, if it is there."""
        self._newest_first = self._wants = self._made = None
        order = self._orders.pop(client_order_id, None)
        if order is not None:
            del self._keys[bisect_left(self._keys, _key(order))]
            self._count(order, -1)
            self._executed.pop(client_order_id, None)

    def _count(self, order: Order, sign: int) -> None:
        rest = rest_of(order, self._executed)
        self._rests[order.side] += sign * rest
        self._counts[order.side] += sign
        self._closed += sign * (rest <= 0)
        self._protected += sign * _is_protected(order)

    @property
    def newest(self) -> Order:
        """Return the entry that was created last."""
        return self._orders[self._keys[-1][1]]

    def newest_first(self) -> list[Order]:
        """Return all entries."""
        if self._newest_first is None:
            self._newest_first = [self._orders[name] for _, name in reversed(self._keys)]
        return self._newest_first

    def covers(self, position: Decimal) -> bool:
        """Return whether entries of its side make up a position (signed)."""
        return not position or self._rests[_side(position)] >= abs(position)

    def may_drop(self, position: Decimal) -> bool:
        """Return whether an entry may be left that a position (signed) is not made of: an older one than those that
        cover it, one that its legs closed, or one of the other side."""
        if not position or self._closed or self._counts[_side(position).opposite]:
            return True
        oldest = self._orders[self._keys[0][1]]
        return self._rests[_side(position)] - rest_of(oldest, self._executed) >= abs(position)

    def not_held(self, position: Decimal, open_: Collection[str]) -> list[Order]:
        """Return the entries that a position (signed) is not made of, without those that are `open_`. Where the legs of
        one closed parts of others, all entries of its prices are left out while one of them is held or open."""
        entries = self.newest_first()
        parts = zip(entries, _parts(abs(position), position, entries, self._executed), strict=True)
        kept = {entry.client_order_id for entry, part in parts if part or entry.client_order_id in open_}
        shared = {_prices(entry) for entry in entries if rest_of(entry, self._executed) < 0}
        shared &= {_prices(entry) for entry in entries if entry.client_order_id in kept}
        return [one for one in entries if one.client_order_id not in kept and _prices(one) not in shared]

    def desired(self, position: Decimal, closing: Decimal, instrument: Instrument | None) -> list[Want]:
        """Return what each entry wants protected of a position (signed): see
        `fks.trading.orders.protection.desired`."""
        if not self._protected:
            return []
        of = position, closing
        if self._wants is None or self._wants[0] != of or self._wants[1] is not instrument:
            wants = desired(position, self.newest_first(), closing, instrument, self._executed)
            self._wants = of, instrument, wants
        return self._wants[2]

    def made_of(self, position: Decimal, instrument: Instrument | None) -> list[Order]:
        """Return the entries that a position (signed) is made of: see `fks.trading.orders.protection.made_of`. None are
        known without metadata."""
        if not self._protected or instrument is None:
            return []
        if self._made is None or self._made[0] != position or self._made[1] is not instrument:
            entries = made_of(position, self.newest_first(), instrument, self._executed)
            self._made = position, instrument, entries
        return self._made[2]


def _key(order: Order) -> tuple[int, str]:
    return order.created_ns, order.client_order_id


def _side(position: Decimal) -> Side:
    return Side.BUY if position > 0 else Side.SELL


def _is_protected(order: Order) -> bool:
    return order.stop_loss is not None or order.take_profit is not None
