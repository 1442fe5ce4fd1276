"""The reference engine: it walks only the bars where the target changes or a protection is hit, in exact decimals.

The compiled engine is proven against it. It also runs where that one's 64 bits or rules do not suffice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import NamedTuple

import numpy as np

from fks.backtest.cash_flows import FlowPlan, delisted_from, plan_flows
from fks.backtest.limits import AccountHolding, EntryChecks, EntryPrices, TapeChecks, denial_text, expiry
from fks.backtest.result import (
    ROLES,
    DeniedColumns,
    EngineChoice,
    EngineResult,
    FillColumns,
    FlowColumns,
    TradeColumns,
)
from fks.backtest.rows import DeniedEntry, FillRow, Setup
from fks.backtest.units import Units, divide_half_even, from_units, to_units
from fks.indicators.exact import Exact
from fks.matching import BarRange, Leg, Resting, behind, is_triggered, match_market, match_oco, match_resting
from fks.matching.margin import liquidation_ticks
from fks.matching.rule import is_unclear
from fks.model.bar import Bars, Floats, Ints
from fks.model.codes import Code
from fks.model.decimals import plain
from fks.model.order import OrderType, Role, Side
from fks.model.timeframe import NS, TIMEFRAMES, bar_end
from fks.risk.exits import is_dust
from fks.risk.sizing import Sizing, SizingMissing, entry_quantity, exit_quantity, part_quantity
from fks.risk.volatility import volatility_at
from fks.strategies.base import Decisions, closed_share

_ZERO = Decimal(0)
_INT64 = 2**63


@dataclass(slots=True)
class _Protection:
    """The SL and TP that guard a position, in ticks, from the bar at index `since` (where its entry filled) on; the TP
    from `take_since` on. `parts`: the quantity that the legs of each entry cover, oldest entry first (`_parts`);
    `bought`: the quantity that these entries bought. With `trail` the stop follows the closes; it is that of the bar
    `scan_from`."""

    parts: list[Decimal]
    bought: list[Decimal]
    decided: list[int]  # the bars that decided these entries
    side: Side
    since: int
    stop: int | None
    limit: int | None
    take_since: int
    scan_from: int
    is_entry_unclear: bool = False  # a stop entry filled inside its bar: whether the SL came before is not known
    trail: int | None = None
    newest: int = -1  # the bar that a further entry filled in
    parts_before: list[Decimal] = field(default_factory=list)  # what the legs of the entries before that one cover
    order: list[int] = field(default_factory=lambda: [0])  # entries in the order in which the venue has their legs
    order_before: list[int] = field(default_factory=list)

    @property
    def sign(self) -> int:
        """Return 1 over a long position, -1 over a short one."""
        return -self.side.sign


@dataclass(slots=True)
class _Waiting:
    """An entry's order that rests from the bar at index `since` on, in ticks; its protections."""

    side: Side
    quantity: Decimal
    order: Resting[int]
    decided: int
    at: int  # the next bar to match
    looked: int  # the next bar whose close may show that the day's loss ends it
    stop_loss: int | None
    take_profit: int | None
    trail: int | None
    has_triggered: bool = False

    @property
    def since(self) -> int:
        return self.decided + 1


@dataclass(slots=True)
class _Book:
    """The account and the tape in exact numbers. One per run."""

    bars: Bars
    setup: Setup
    units: Units
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    cash: Decimal
    checks: EntryChecks
    equity_of_account: Callable[[int], Decimal] | None
    decisions: Decisions
    stop_moves: Floats | None = None  # the prices to which stops are moved at the closes
    position: Decimal = _ZERO
    cost: Decimal = _ZERO  # what the open position cost in quote (negative: what a short brought in)
    entry: int | None = None  # the number of the fill of the position's first entry
    entered: list[Decimal] = field(default_factory=list)  # what each entry of the position bought, oldest first
    protection: _Protection | None = None
    waiting: _Waiting | None = None
    is_liquidated: bool = True  # positions are closed by force; False: the account has further tapes
    liquidation: int | None = None  # the price at which this one is, in ticks
    watched: int = 0  # the next bar to look at for it
    finer: FinerBars | None = None
    unclear: int = 0
    slipped: Decimal = _ZERO  # the cost of slippage
    decided: list[int] = field(default_factory=list)
    fills: list[FillRow] = field(default_factory=list)
    fill_index: list[int] = field(default_factory=list)
    moves: list[tuple[int, int, int]] = field(default_factory=list)  # bar, and moves of position and of amounts paid
    trades: list[tuple[int, int, int]] = field(default_factory=list)  # entry, exit, profit
    denied: list[DeniedEntry] = field(default_factory=list)
    denied_index: list[int] = field(default_factory=list)
    #: fills and cash flows in the order of the account, with their bars; a cash flow is a fill of nothing with a
    #: negative fee
    booked: list[FillRow] = field(default_factory=list)
    booked_index: list[int] = field(default_factory=list)
    paid: list[tuple[int, Decimal]] = field(default_factory=list)  # number and amount of each cash flow

    @property
    def tick(self) -> int:
        return to_units(self.setup.instrument.tick, self.units.price)

    @property
    def holding(self) -> AccountHolding:
        return AccountHolding(self.position, self.cash, self.booked, self.booked_index, len(self.entered))

    def price(self, ticks: int) -> Decimal:
        return from_units(ticks, self.units.price)

    def deny(self, index: int, side: Side, code: str, detail: str) -> None:
        self.denied.append(DeniedEntry(int(self.bars.time_ns[index]), side, code, detail))
        self.denied_index.append(index)

    def equity(self, index: int) -> Decimal:
        """Return what the account is worth at a bar's close, in quote."""
        if self.equity_of_account is not None:
            return self.equity_of_account(index)
        return self.cash + self.position * self.price(self.close[index]) * self.setup.instrument.multiplier

    def follows(self, guard: _Protection) -> bool:
        """Return whether a protection's stop may be another one after each close."""
        return guard.trail is not None or (self.stop_moves is not None and guard.stop is not None)

    def range(self, index: int) -> BarRange[int]:
        return BarRange(int(self.open[index]), int(self.high[index]), int(self.low[index]))


class FinerBars:
    """Bars of a shorter timeframe inside those of a run. `places`: of the run's prices."""

    def __init__(self, bars: Bars, finer: Bars, places: int) -> None:
        self._bars, self._finer, self._ticks = bars, finer, finer.ticks.on_grid(places)

    def inside(self, index: int) -> list[BarRange[int]]:
        """Return the finer bars inside a bar, in order of time; nothing unless they cover all of it."""
        start = int(self._bars.time_ns[index])
        end = bar_end(start, self._bars.timeframe)
        times, ticks = self._finer.time_ns, self._ticks
        low, high = (int(place) for place in np.searchsorted(times, [start, end]))
        if (high - low) * TIMEFRAMES[self._finer.timeframe] * NS != end - start:
            return []
        columns = (column[low:high].tolist() for column in (ticks.open, ticks.high, ticks.low))
        return [BarRange(*row) for row in zip(*columns, strict=True)]


def walk(
    bars: Bars, first: int, setup: Setup, decisions: Decisions, reason: str, finer: Bars | None = None
) -> EngineResult:
    """Return what the decisions would have traded, from the bar at index `first` on, in exact decimals. `finer`: bars
    of a shorter timeframe, which decide where a bar does not show the order of its prices.

    Errors: InputError SIZING_UNKNOWN, PRICE_MISSING.
    """
    walker = Walker(bars, first, setup, decisions, TapeChecks(bars, setup), finer=finer)
    for change in walker.changes():
        walker.resolve(change.index)
        if change.leaves:
            walker.leave(change.index, change.share)
        if change.enters:
            walker.enter(change.index, change.opened)
    walker.resolve(len(bars) - 1)
    return walker.outcome(reason)


@dataclass(frozen=True, slots=True)
class TargetChange:
    """A bar that changes the target: whether it closes what is held, or a `share` of it, and then enters. `opened`: the
    bar that decided the first entry of the position it wants."""

    index: int
    leaves: bool
    enters: bool
    opened: int
    share: Decimal | None = None


class Walker:
    """A tape that is walked step by step, so that several of them can share one account in order of time.

    `checks` answer for each entry why live would deny it; `equity` what the account is worth in quote at the close of
    a bar, for sizings in percent of it (None: this tape's cash and position). Errors: as `walk`.
    """

    def __init__(
        self,
        bars: Bars,
        first: int,
        setup: Setup,
        decisions: Decisions,
        checks: EntryChecks,
        equity: Callable[[int], Decimal] | None = None,
        finer: Bars | None = None,
        is_liquidated: bool = True,
    ) -> None:
        self._book = _open_book(bars, setup, checks, equity, finer, decisions)
        self._book.is_liquidated = is_liquidated
        self._decisions, self._first = decisions, first
        self._flows = plan_flows(bars, first, setup, self._book.units, self._book.close)
        self._due = 0  # the next cash flow
        self._is_delisted = delisted_from(bars, setup.events.delisted) is not None

    @property
    def position(self) -> Decimal:
        """Return the base held now, signed."""
        return self._book.position

    @property
    def cash(self) -> Decimal:
        """Return the quote left of the setup's cash."""
        return self._book.cash

    @property
    def booked(self) -> Sequence[FillRow]:
        """Return the fills and cash flows so far, in order. A cash flow is a fill of no quantity with a negative
        fee."""
        return self._book.booked

    @property
    def booked_index(self) -> Sequence[int]:
        """Return the index of the bar of each of `booked`."""
        return self._book.booked_index

    def changes(self) -> Iterator[TargetChange]:
        """Yield the bars that change the target, but for the last bar."""
        first = self._first
        target = self._decisions.target[first:]
        before = np.concatenate([[0.0], target[:-1]])
        is_other = np.sign(target) != np.sign(before)
        opened = np.maximum.accumulate(np.where(is_other, np.arange(len(target)), 0))
        for place in np.flatnonzero(target[:-1] != before[:-1]).tolist():
            is_more = bool(is_other[place]) or abs(target[place]) > abs(before[place])
            share = closed_share(float(before[place]), float(target[place]))
            yield TargetChange(
                first + place,
                bool(before[place] and is_other[place]) or share is not None,
                bool(target[place] and is_more),
                first + int(opened[place]),
                share,
            )

    def resolve(self, through: int, opened: int | None = None) -> None:
        """Fill what rests at the first bar up to `through` (inclusive) that reaches it, and book the cash flows of bars
        up to `opened` (None: the bar after `through`). A delisted instrument is closed at the end of its last bar."""
        opened = through + 1 if opened is None else opened
        flows, last = self._flows, len(self._book.bars) - 1
        while self._due < len(flows) and flows.bar[self._due] <= opened:
            _resolve(self._book, min(through, flows.bar[self._due] - 1))
            _pay(self._book, flows, self._due)
            self._due += 1
        _resolve(self._book, through)
        if self._is_delisted and through >= last:
            self._is_delisted = False
            _close_delisted(self._book, last)

    def leave(self, index: int, share: Decimal | None = None) -> None:
        """Close what is held, or a share of it, as decided on bar `index`: at the open of the next one."""
        _leave(self._book, index, share)

    def enter(self, index: int, opened: int) -> None:
        """Enter what bar `index` wants, at the open of the next one, unless it is denied. `opened`: the bar that
        decided the first entry of the position; a later one adds to it, and does nothing when that is not open."""
        side = Side.BUY if self._decisions.target[index] > 0 else Side.SELL
        _enter(self._book, index, side, self._decisions, opened)

    def outcome(self, reason: str) -> EngineResult:
        """Return what was traded. `reason`: why this engine walked the tape."""
        return _outcome(self._book, self._first, reason, has_flows=len(self._flows) > 0)


def _outcome(book: _Book, first: int, reason: str, *, has_flows: bool) -> EngineResult:
    codes = tuple(dict.fromkeys(row.code for row in book.denied))
    details = tuple(row.detail for row in book.denied)
    fills = _fill_columns(book)
    return EngineResult(
        engine=EngineChoice("reference", reason),
        units=book.units,
        fills=fills,
        trades=TradeColumns(
            _ints([entry for entry, _, _ in book.trades]),
            _ints([exit_ for _, exit_, _ in book.trades]),
            _exact([pnl for _, _, pnl in book.trades]),
        ),
        denied=DeniedColumns(
            _ints(book.denied_index),
            _ints([row.side.sign for row in book.denied]),
            _ints([codes.index(row.code) for row in book.denied]),
            codes,
        ),
        detail=details.__getitem__,
        equity=_equity(book, first),
        cash=to_units(book.cash, book.units.cash),
        position=to_units(book.position, book.units.quantity),
        unclear=book.unclear,
        slipped=to_units(book.slipped, book.units.cash),
        flows=FlowColumns(
            _ints([number for number, _ in book.paid]), _exact([to_units(a, book.units.cash) for _, a in book.paid])
        )
        if has_flows
        else None,
    )


def _open_book(
    bars: Bars,
    setup: Setup,
    checks: EntryChecks,
    equity: Callable[[int], Decimal] | None,
    finer: Bars | None,
    decisions: Decisions,
) -> _Book:
    ticks = bars.ticks
    price_places = ticks.places if finer is None else max(ticks.places, finer.ticks.places)
    units = Units.of(price_places, setup.instrument, setup.cash, has_base_fees=setup.costs.fee_in == "received")
    ticks = ticks.on_grid(units.price)
    inside = None if finer is None else FinerBars(bars, finer, units.price)
    open_, high, low, close = ticks.open, ticks.high, ticks.low, ticks.close
    columns = (open_, high, low, close)
    return _Book(bars, setup, units, *columns, setup.cash, checks, equity, decisions, decisions.moves(), finer=inside)


def _enter(book: _Book, index: int, side: Side, decisions: Decisions, opened: int) -> None:
    """Size, check and fill an entry decided on bar `index`, and place its protections: those of the position, if it has
    some, else those of bar `opened`. A growth of the target (`opened` is earlier) adds to an open position only."""
    if opened < index and not book.entered:
        return
    holding = book.holding
    book.checks.look(index, holding)
    setup, instrument = book.setup, book.setup.instrument
    reference, guard = book.price(book.close[index]), book.protection if opened < index else None
    stop = _level(book, decisions.stop_loss, opened, side.opposite, is_stop=True)
    limit = _level(book, decisions.take_profit, opened, side.opposite, is_stop=False)
    trail = _distance(book, decisions.trail, opened)
    if guard is not None:
        stop = guard.stop
    order = _order(book, decisions, index, side)
    sized_at = reference if order is None else order.limit or order.stop or reference
    if stop is None and trail is not None:
        stop = behind(to_units(sized_at, book.units.price), trail, side.sign, book.tick)
    levels = (None if stop is None else book.price(stop), None if limit is None else book.price(limit))
    try:
        quantity = entry_quantity(
            setup.sizing,
            setup.size,
            sized_at,
            instrument,
            equity=book.equity(index),
            stop_loss=levels[0],
            volatility=volatility_at(Sizing.parse(setup.sizing), book.bars, index),
            share=decisions.share_at(index),
        )
    except SizingMissing as error:
        book.deny(index, side, error.code, error.message)
        return
    if order is None:
        refused = book.checks.refusal(index, side, quantity, reference, levels, holding)
    else:
        refused = book.checks.refusal(index, side, quantity, reference, levels, holding, order)
    if refused is not None:
        book.deny(index, side, refused.code.value, denial_text(refused))
        return
    if order is not None:
        at_limit, at_stop = (None if v is None else to_units(v, book.units.price) for v in (order.limit, order.stop))
        resting = Resting(side, order.type, at_limit, at_stop)
        book.waiting = _Waiting(side, quantity, resting, index, index + 1, index + 1, stop, limit, trail)
        return
    bar = book.range(index + 1)
    expired = expiry(setup, side, reference, levels, book.price(match_market(bar)), book.price(bar.high - bar.low))
    if expired is not None:
        book.deny(index, side, expired.code.value, denial_text(expired))
        return
    _fill(book, index + 1, side, quantity, match_market(bar), Role.ENTRY, index)
    _protect(book, index + 1, side, stop, limit, trail, take_since=index + 1)


def _protect(
    book: _Book,
    index: int,
    side: Side,
    stop: int | None,
    limit: int | None,
    trail: int | None,
    *,
    take_since: int,
    is_unclear: bool = False,
) -> None:
    """Place the protections of an entry that filled in bar `index`, over what is held."""
    instrument, guard = book.setup.instrument, book.protection
    if guard is not None and len(book.entered) > 1:
        guard.bought.append(book.entered[-1])
        guard.parts_before, guard.newest, guard.parts = guard.parts, index, _parts(book, guard.bought)
        guard.decided.append(book.decided[-1])
        guard.order_before = list(guard.order)
        guard.order.append(len(guard.parts) - 1)
        if guard.parts[0] != guard.parts_before[0]:  # its legs are placed again, after the new ones
            guard.order.remove(0)
            guard.order.append(0)
        return
    guarded = exit_quantity(book.position, instrument)
    if (stop is not None or limit is not None) and guarded >= max(instrument.qty_min, instrument.lot_step):
        decided = book.decided[-1:]
        book.protection = _Protection(
            [guarded], [guarded], decided, side.opposite, index, stop, limit, take_since, index, is_unclear, trail
        )


def _parts(book: _Book, bought: list[Decimal]) -> list[Decimal]:
    """Return what the legs of each entry cover, oldest first: a position is made of its newest entries, as live has it
    (`fks.orders.protection`), so that fees in base make the oldest one's part smaller."""
    left, found = exit_quantity(book.position, book.setup.instrument), []
    for quantity in reversed(bought[1:]):
        found.append(min(left, quantity))
        left -= found[-1]
    return [left, *reversed(found)]


def _order(book: _Book, decisions: Decisions, index: int, side: Side) -> EntryPrices | None:
    """Return the prices of an entry's order that rests, rounded as risk does; None for a market order."""
    limit = _level(book, decisions.entry_limit, index, side, is_stop=False)
    stop = _level(book, decisions.entry_stop, index, side, is_stop=True)
    if limit is None and stop is None:
        return None
    return EntryPrices(None if limit is None else book.price(limit), None if stop is None else book.price(stop))


def _level(book: _Book, column: Floats | None, index: int, side: Side, *, is_stop: bool) -> int | None:
    """Return a protection's price in ticks, rounded onto the instrument's grid as risk does; None when there is
    none."""
    if column is None or not np.isfinite(column[index]):
        return None
    price = book.setup.instrument.round_price(Decimal(repr(float(column[index]))), side=side.value, is_stop=is_stop)
    return to_units(price, book.units.price)


def _distance(book: _Book, column: Floats | None, index: int) -> int | None:
    """Return the distance of a trailing stop, rounded up to whole ticks; None when there is none."""
    if column is None or not np.isfinite(column[index]):
        return None
    steps = Decimal(repr(float(column[index]))) / book.setup.instrument.tick
    return int(steps.to_integral_value(ROUND_CEILING)) * book.tick


def _leave(book: _Book, index: int, share: Decimal | None) -> None:
    """End an entry's order that rests, and close the position, or a share of it, at the open of the bar after `index`;
    nothing where that is dust. Of a share the protections cover the rest from then on."""
    book.waiting = None
    if share is None:
        book.entered.clear()
    instrument, guard = book.setup.instrument, book.protection
    quantity = part_quantity(book.position, Decimal(1) if share is None else share, instrument)
    if quantity <= 0:
        return
    side = Side.SELL if book.position > 0 else Side.BUY
    if is_dust(quantity, book.price(book.close[index]), instrument):
        book.deny(index, side, Code.QTY_MIN.value, f"exit of {plain(quantity)}")
        return
    if share is None:
        book.protection = None
    _fill(book, index + 1, side, quantity, match_market(book.range(index + 1)), Role.EXIT, index)
    if share is not None and guard is not None and guard.side is side:
        parts = _parts(book, guard.bought)
        gone = next((number for number, part in enumerate(parts) if part), 0)  # entries that are closed: the oldest
        guard.parts, guard.bought, guard.decided = parts[gone:], guard.bought[gone:], guard.decided[gone:]
        guard.order = list(range(len(guard.parts)))


def _resolve(book: _Book, through: int) -> None:
    """Fill what rests at the first bar up to `through` (inclusive) that reaches it, and close by force what the account
    no longer covers: in one bar the entry's order, then that, then the protection."""
    if book.setup.margin_kept is None or not book.is_liquidated:
        _resolve_resting(book, through)
        return
    while book.waiting is not None and book.waiting.at <= through:
        now = book.waiting.at
        _resolve_waiting(book, book.waiting, now)
        if not _liquidate(book, now):
            _resolve_protection(book, now)
        _end_waiting(book, now)
    while book.liquidation is not None:
        down, up = (book.liquidation, None) if book.position > 0 else (None, book.liquidation)
        index, count = _first_reach(book, book.watched, through, down, up), len(book.fills)
        _resolve_protection(book, through if index is None else index - 1)
        if len(book.fills) != count:
            continue
        book.watched = through + 1 if index is None else index + 1
        if index is None:
            break
        if not _liquidate(book, index):
            _resolve_protection(book, index)
    _resolve_resting(book, through)


def _liquidate(book: _Book, index: int) -> bool:
    """Close all that is held by force when bar `index` reaches that price, unless a leg of the protection comes first;
    an entry's order that rests ends with it. Return whether it did. The bars before are resolved."""
    guard, bar, is_long = book.protection, book.range(index), book.position > 0
    if book.liquidation is None or not (bar.low <= book.liquidation if is_long else bar.high >= book.liquidation):
        return False
    if guard is not None:
        if guard.stop is not None and (guard.stop >= book.liquidation if is_long else guard.stop <= book.liquidation):
            return False
        if guard.limit is not None and index >= guard.take_since:
            if index != guard.since and (bar.open >= guard.limit if is_long else bar.open <= guard.limit):
                return False
            book.unclear += bar.high >= guard.limit if is_long else bar.low <= guard.limit
    ticks = min(bar.open, book.liquidation) if is_long else max(bar.open, book.liquidation)
    book.waiting = book.protection = None
    quantity = exit_quantity(book.position, book.setup.instrument)
    _fill(book, index, Side.SELL if is_long else Side.BUY, quantity, ticks, Role.LIQUIDATION, index)
    book.entered.clear()
    return True


def _resolve_resting(book: _Book, through: int) -> None:
    """Fill what rests at the first bar up to `through` (inclusive) that reaches it: in one bar the entry's order, then
    the protection. Both rest where a position was too small to be closed; they are matched in order of time."""
    while book.waiting is not None and book.protection is not None and book.waiting.at <= through:
        index = book.waiting.at
        _resolve_waiting(book, book.waiting, index)
        _resolve_protection(book, index)
        _end_waiting(book, index)
    if book.waiting is not None:
        _resolve_waiting(book, book.waiting, through)
    _resolve_protection(book, through)
    _end_waiting(book, through)


def _resolve_protection(book: _Book, through: int) -> None:
    """Fill the protection at the first bar up to `through` that reaches it."""
    guard = book.protection
    if guard is None:
        return
    index = _first_touch(book, guard, through)
    if index is None:
        guard.scan_from = max(guard.scan_from, through + 1)
        return
    hit = _match(guard, book.range(index), placed_in_bar=index == guard.since, takes=index >= guard.take_since)
    assert hit is not None, "a touched protection fills"
    is_known = False
    if hit[0] is Leg.STOP and _is_unclear(book, guard, index):
        found = None if guard.is_entry_unclear and index == guard.since else _within(book, guard, index, None)
        book.unclear += found is None or found.is_unclear
        is_known = found is not None and found.hit is not None
        hit = hit if found is None or found.hit is None else found.hit
    _leave_protected(book, guard, index, hit, is_known=is_known)


def _resolve_entry_bar(book: _Book, guard: _Protection, index: int, entry: Resting[int]) -> None:
    """Let finer bars decide what the protections did in the bar inside which their entry filled, when it matters."""
    bar, is_long = book.range(index), guard.side is Side.SELL
    is_taken = guard.limit is not None and (bar.high >= guard.limit if is_long else bar.low <= guard.limit)
    is_stopped = guard.stop is not None and (bar.low <= guard.stop if is_long else bar.high >= guard.stop)
    is_late = guard.take_since > index
    if not ((is_late and is_taken) or (guard.is_entry_unclear and is_stopped)):
        return
    found = _within(book, guard, index, entry)
    if found is None:
        book.unclear += is_late  # of a stop entry it is counted when its stop loss fills
        return
    book.unclear += found.is_unclear
    guard.take_since, guard.scan_from, guard.is_entry_unclear = index + 1, index + 1, False
    guard.stop = int(_stops(book, guard, index, index + 1)[-1]) if book.follows(guard) else guard.stop
    if found.hit is not None:
        _leave_protected(book, guard, index, found.hit, is_known=True)


def _leave_protected(
    book: _Book, guard: _Protection, index: int, hit: tuple[Leg, int], *, is_known: bool = False
) -> None:
    """Book the fills of a protection in bar `index`, one for each entry; they are one trade. In the bar in which an
    entry filled its legs cannot have the open, unless finer bars said what filled (`is_known`). A leg only closes: one
    over a remainder too small to be closed, after an entry on the other side, fills nothing, as live has cancelled
    it."""
    book.protection = None
    item = book.setup.instrument
    is_entry_bar = index == guard.newest
    parts = [*guard.parts_before, guard.parts[-1]] if is_entry_bar else guard.parts
    order = [*guard.order_before, len(parts) - 1] if is_entry_bar else guard.order
    is_joined = False
    for number in order:
        held = exit_quantity(book.position, item) if book.position * guard.sign > 0 else _ZERO
        quantity = min(parts[number], held)
        if is_entry_bar and not is_known and number == len(parts) - 1:
            hit = _match(guard, book.range(index), placed_in_bar=True, takes=True) or hit
        if quantity >= max(item.qty_min, item.lot_step):
            role = Role.STOP_LOSS if hit[0] is Leg.STOP else Role.TAKE_PROFIT
            _fill(book, index, guard.side, quantity, hit[1], role, guard.decided[number], is_joined=is_joined)
            is_joined = True
    book.entered.clear()


class _Within(NamedTuple):
    """The result of finer bars for the protections in one bar: the leg and its price, and whether one of them was
    unclear."""

    hit: tuple[Leg, int] | None
    is_unclear: bool


def _within(book: _Book, guard: _Protection, index: int, entry: Resting[int] | None) -> _Within | None:
    """Return what the finer bars inside bar `index` fill of a protection, after the `entry` that fills there, if one
    does. None where they do not cover the bar, or show nothing of the kind."""
    rows = [] if book.finer is None else book.finer.inside(index)
    is_long, is_unclear_now = guard.side is Side.SELL, False
    has_entered = entry is None
    for number, bar in enumerate(rows):
        in_bar, takes = entry is None and number == 0 and index == guard.since, True
        is_taken = guard.limit is not None and (bar.high >= guard.limit if is_long else bar.low <= guard.limit)
        is_stopped = guard.stop is not None and (bar.low <= guard.stop if is_long else bar.high >= guard.stop)
        if not has_entered and entry is not None:
            price = match_resting(entry, bar, placed_in_bar=False)
            if price is None:
                if entry.type is OrderType.STOP_LIMIT and is_triggered(entry, bar, placed_in_bar=False):
                    entry = Resting(entry.side, OrderType.LIMIT, entry.price)
                continue
            has_entered = in_bar = True
            takes = not (entry.type is OrderType.LIMIT and price != bar.open)
            is_unclear_now = (is_taken and not takes) or (
                is_stopped and entry.type is not OrderType.LIMIT and price != bar.open
            )
        hit = _match(guard, bar, placed_in_bar=in_bar, takes=takes)
        if hit is not None:
            is_open_stopped = guard.stop is not None and (bar.open <= guard.stop if is_long else bar.open >= guard.stop)
            both = is_unclear(is_stopped, is_taken and takes, is_open_stopped and not in_bar, hit[0] is Leg.LIMIT)
            return _Within(hit, is_unclear_now or both)
    return _Within(None, is_unclear_now) if has_entered and entry is not None else None


def _is_unclear(book: _Book, guard: _Protection, index: int) -> bool:
    """Return whether bar `index`, in which a stop loss filled, does not show that nothing better came before."""
    if guard.is_entry_unclear and index == guard.since:
        return True
    if guard.stop is None or guard.limit is None or index < guard.take_since:
        return False
    bar, is_long, in_bar = book.range(index), guard.side is Side.SELL, index == guard.since
    is_taken = bar.high >= guard.limit if is_long else bar.low <= guard.limit
    is_open_stopped = bar.open <= guard.stop if is_long else bar.open >= guard.stop
    return is_unclear(True, is_taken, is_open_stopped and not in_bar, False)


def _resolve_waiting(book: _Book, waiting: _Waiting, through: int) -> None:
    """Match an entry's order that rests with the bars up to `through`, and place its protections when it fills."""
    side, is_buy = waiting.side, waiting.side is Side.BUY
    while waiting.at <= through:
        order = waiting.order
        if waiting.has_triggered:
            order = Resting(side, OrderType.LIMIT, order.price)
        level = order.price if order.type is OrderType.LIMIT else order.stop
        is_below = is_buy == (order.type is OrderType.LIMIT)
        index = _first_reach(book, waiting.at, through, level if is_below else None, None if is_below else level)
        if index is None:
            break
        _end_waiting(book, index - 1)
        if book.waiting is None:
            return
        waiting.at, bar = index + 1, book.range(index)
        price = match_resting(order, bar, placed_in_bar=False)
        if price is None:
            waiting.has_triggered |= is_triggered(order, bar, placed_in_bar=False)
            continue
        book.waiting = None
        is_limit, is_inside = order.type is OrderType.LIMIT, price != bar.open
        is_maker = is_limit and (is_inside or index > waiting.since)
        _fill(
            book,
            index,
            side,
            waiting.quantity,
            price,
            Role.ENTRY,
            waiting.decided,
            limit=order.price,
            is_maker=is_maker,
        )
        _protect(
            book,
            index,
            side,
            waiting.stop_loss,
            waiting.take_profit,
            waiting.trail,
            take_since=index + (is_limit and is_inside),
            is_unclear=is_inside and not is_limit,
        )
        if book.protection is not None and book.protection.since == index and is_inside:
            _resolve_entry_bar(book, book.protection, index, order)
        return
    waiting.at = max(waiting.at, through + 1)


def _end_waiting(book: _Book, through: int) -> None:
    """End an entry's order that rests once a close up to `through` shows a loss of the day that reaches its limit."""
    waiting = book.waiting
    if waiting is not None and waiting.looked <= through:
        if book.checks.reaches_loss(waiting.looked, through, book.holding):
            book.waiting = None
        waiting.looked = through + 1


def _first_touch(book: _Book, guard: _Protection, through: int) -> int | None:
    """Return the first bar from the entry's own on whose range reaches a level: in growing slices, so that a near hit
    costs little and a far one is vectorised."""
    is_long = guard.side is Side.SELL
    if book.follows(guard):
        return _first_followed(book, guard, through)
    if guard.take_since > guard.scan_from:
        down, up = (guard.stop, None) if is_long else (None, guard.stop)
        found = _first_reach(book, guard.scan_from, min(through, guard.take_since - 1), down, up)
        if found is not None:
            return found
    down, up = (guard.stop, guard.limit) if is_long else (guard.limit, guard.stop)
    return _first_reach(book, max(guard.take_since, guard.scan_from), through, down, up)


def _first_followed(book: _Book, guard: _Protection, through: int) -> int | None:
    """Return what `_first_touch` does where the stop follows the closes or is moved at some, and leave the stop as it
    is in that bar, or after the last one."""
    size, is_long = 64, guard.sign > 0
    while guard.scan_from <= through:
        start, end = guard.scan_from, min(guard.scan_from + size, through + 1)
        stops = _stops(book, guard, start, end)
        low, high = book.low[start:end], book.high[start:end]
        touched = low <= stops[:-1] if is_long else high >= stops[:-1]
        if guard.limit is not None:
            taken = high >= guard.limit if is_long else low <= guard.limit
            taken[: max(guard.take_since - start, 0)] = False
            touched = touched | taken
        place = int(touched.argmax())
        guard.scan_from, guard.stop = (start + place, int(stops[place])) if touched[place] else (end, int(stops[-1]))
        if touched[place]:
            return guard.scan_from
        size *= 4
    return None


def _stops(book: _Book, guard: _Protection, start: int, end: int) -> Ints:
    """Return the stop in the bars from `start` to `end`, not included, and after them: (end - start + 1,)."""
    assert guard.stop is not None, "a stop that follows has a level"
    nearer = np.maximum if guard.sign > 0 else np.minimum
    path = np.full(end - start + 1, guard.stop, dtype=np.int64)
    if guard.trail is not None:
        path[1:] = behind(book.close[start:end], np.array(guard.trail), guard.sign, np.array(book.tick))
    if book.stop_moves is not None:
        target = book.decisions.target
        for index in (start + np.flatnonzero(~np.isnan(book.stop_moves[start:end]))).tolist():
            if target[index] * guard.sign > 0:
                level = _level(book, book.stop_moves, index, guard.side, is_stop=True)
                assert level is not None, "it is a number"
                path[index - start + 1] = nearer(path[index - start + 1], level)
    return nearer.accumulate(path)


def _first_reach(book: _Book, start: int, through: int, down: int | None, up: int | None) -> int | None:
    """Return the first bar from `start` through `through` that falls to `down` or rises to `up`."""
    size = 64
    while start <= through:
        end = min(start + size, through + 1)
        touched = np.zeros(end - start, dtype=bool)
        if down is not None:
            touched |= book.low[start:end] <= down
        if up is not None:
            touched |= book.high[start:end] >= up
        place = int(touched.argmax())
        if touched[place]:
            return start + place
        start, size = end, size * 4
    return None


def _match(guard: _Protection, bar: BarRange[int], *, placed_in_bar: bool, takes: bool) -> tuple[Leg, int] | None:
    stop = None if guard.stop is None else Resting(guard.side, OrderType.STOP, stop=guard.stop)
    limit = None if guard.limit is None or not takes else Resting(guard.side, OrderType.LIMIT, price=guard.limit)
    if stop is not None and limit is not None:
        return match_oco(stop, limit, bar, placed_in_bar=placed_in_bar)
    only = stop or limit
    if only is None:
        return None
    price = match_resting(only, bar, placed_in_bar=placed_in_bar)
    return None if price is None else (Leg.STOP if stop else Leg.LIMIT, price)


def _fill(
    book: _Book,
    index: int,
    side: Side,
    quantity: Decimal,
    ticks: int,
    role: Role,
    decided: int,
    *,
    limit: int | None = None,
    is_maker: bool = False,
    is_joined: bool = False,
) -> None:
    """Book a fill at the price of the fill rule: slipped when it takes, no worse than `limit`; the position net of base
    fees, the cash net of quote fees, the trade when it closes one. `is_joined`: it belongs to the newest trade."""
    instrument, costs = book.setup.instrument, book.setup.costs
    price, is_maker = book.price(ticks), is_maker or role is Role.TAKE_PROFIT
    if not is_maker:
        span = book.price(book.high[index] - book.low[index])
        worst = None if limit is None else book.price(limit)
        slipped = costs.slippage.apply(side, price, span, instrument.tick, limit=worst)
        book.slipped += quantity * abs(slipped - price) * instrument.multiplier
        price = slipped
    fee = costs.fee(side, quantity, price, instrument, is_maker=is_maker)
    book.decided.append(decided)
    row = FillRow(int(book.bars.time_ns[index]), side, quantity, price, fee.amount, fee.currency, role)
    for rows, indices in ((book.fills, book.fill_index), (book.booked, book.booked_index)):
        rows.append(row)
        indices.append(index)
    in_base = fee.currency == instrument.base
    moved = side.sign * quantity - (fee.amount if in_base else _ZERO)
    paid = side.sign * quantity * price * instrument.multiplier + (_ZERO if in_base else fee.amount)
    if role is Role.ENTRY:
        book.entry = book.entry if book.entered else len(book.fills) - 1
        book.cost += paid
        book.entered.append(quantity)
    elif book.position:
        share = _share(book, quantity)
        assert book.entry is not None, "only an entry opens a position"
        profit = to_units(-paid - share, book.units.cash) + (book.trades.pop()[2] if is_joined else 0)
        book.trades.append((book.entry, len(book.fills) - 1, profit))
        book.cost -= share
    book.position += moved
    book.cash -= paid
    book.liquidation = _liquidation(book)
    book.watched = index if role in (Role.ENTRY, Role.EXIT) else index + 1
    book.moves.append((index, to_units(moved, book.units.quantity), to_units(paid, book.units.cash)))


def _pay(book: _Book, flows: FlowPlan, number: int) -> None:
    """Book a dividend or funding on what is held, before the fills of its bar. It is part of the position's cost."""
    index, money = flows.bar[number], flows.amount(number, to_units(book.position, book.units.quantity))
    if not money:
        return
    amount, item = from_units(money, 8), book.setup.instrument
    book.cash += amount
    book.cost -= amount
    book.paid.append((number, amount))
    time_ns, side = int(book.bars.time_ns[index]), Side.BUY if book.position > 0 else Side.SELL
    book.booked.append(FillRow(time_ns, side, _ZERO, _ZERO, -amount, item.quote))
    book.booked_index.append(index)
    book.moves.append((index, 0, to_units(-amount, book.units.cash)))
    book.liquidation, book.watched = _liquidation(book), index


def _close_delisted(book: _Book, last: int) -> None:
    """Close what is held at the last close of an instrument whose trading ends with bar `last`."""
    item = book.setup.instrument
    quantity, side = exit_quantity(book.position, item), Side.SELL if book.position > 0 else Side.BUY
    book.waiting = book.protection = None
    if quantity >= max(item.qty_min, item.lot_step):
        _fill(book, last, side, quantity, int(book.close[last]), Role.EXIT, last - 1)


def _liquidation(book: _Book) -> int | None:
    """Return the price, in ticks, at which the position is closed by force; None where nothing is held that can be."""
    margin, units, item = book.setup.margin_kept, book.units, book.setup.instrument
    least = max(item.qty_min, item.lot_step)
    if margin is None or not book.is_liquidated or exit_quantity(book.position, item) < least:
        return None
    position, cash = to_units(book.position, units.quantity), to_units(book.cash, units.worth)
    multiplier = to_units(item.multiplier, units.multiplier)
    _, kept = margin.terms(units.price + units.multiplier)
    return liquidation_ticks(position, cash, multiplier, *kept, book.tick)


def _share(book: _Book, quantity: Decimal) -> Decimal:
    """Return the part of the position's cost that closing `quantity` of it realises. The rest keeps its part, rounded
    half-even to the last place of amounts."""
    held, closed = (to_units(value, book.units.quantity) for value in (abs(book.position), quantity))
    kept = divide_half_even(to_units(book.cost, book.units.cash) * (held - closed), held)
    return book.cost - from_units(kept, book.units.cash)


def _fill_columns(book: _Book) -> FillColumns:
    units, base = book.units, book.setup.instrument.base
    is_base = [fill.fee_currency == base for fill in book.fills]
    return FillColumns(
        bar=_ints(book.fill_index),
        side=_ints([fill.side.sign for fill in book.fills]),
        quantity=_exact([to_units(fill.quantity, units.quantity) for fill in book.fills]),
        price=_exact([to_units(fill.price, units.price) for fill in book.fills]),
        fee=_exact(
            [
                to_units(fill.fee, units.quantity if in_base else units.cash)
                for fill, in_base in zip(book.fills, is_base, strict=True)
            ]
        ),
        is_base_fee=np.array(is_base, dtype=np.bool_),
        role=_ints([ROLES.index(fill.role) for fill in book.fills]),
        decided=_ints(book.decided),
    )


def _ints(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def _exact(values: list[int]) -> Exact:
    if all(-_INT64 < value < _INT64 for value in values):
        return np.array(values, dtype=np.int64)
    return np.array(values, dtype=object)


def _equity(book: _Book, first: int) -> Floats:
    """Return cash plus the position's worth at each bar's close, in quote: both exact, each rounded to float64 and
    divided once, then added."""
    units, count = book.units, len(book.bars)
    multiplier = to_units(book.setup.instrument.multiplier, units.multiplier)
    scale = units.quantity + units.price + units.multiplier
    equity = np.empty(count)
    cash, position, start = to_units(book.setup.cash, units.cash), 0, first
    for index, moved, paid in [*book.moves, (count, 0, 0)]:
        if index > start:
            worth = _exact_product(book.close[start:index], position * multiplier)
            equity[start:index] = float(cash) / 10.0**units.cash + worth.astype(np.float64) / 10.0**scale
            start = index
        cash, position = cash - paid, position + moved
    return equity[first:]


def _exact_product(ticks: Ints, factor: int) -> Exact:
    most = int(np.abs(ticks).max()) * abs(factor)
    return ticks * factor if most < _INT64 else ticks.astype(object) * factor
