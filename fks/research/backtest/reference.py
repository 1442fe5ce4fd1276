"""The reference engine: it walks only the bars where the target changes or a protection is hit, in exact decimals.

The compiled engine is proven against it. It also runs where that one's 64 bits or rules do not suffice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import partial
from operator import itemgetter
from typing import NamedTuple, Protocol

import numpy as np

from fks.indicators.exact import Exact
from fks.model.bar import Bars, ContractRoll, Floats, Ints
from fks.model.codes import Code
from fks.model.decimals import plain
from fks.model.margin import Margin, MarginTerms, liquidation_ticks
from fks.model.order import OrderType, Role, Side
from fks.model.parent import (
    ParentPlan,
    break_even_stop,
    join_small,
    least_resting,
    parts_of,
    plan_on_grid,
    shares_of,
)
from fks.model.timeframe import NS, TIMEFRAMES, bar_end
from fks.research.backtest.cash_flows import FlowBase, FlowPlan, closes_at_end, margin_changes, plan_flows
from fks.research.backtest.limits import (
    AccountHolding,
    DecidedEntry,
    EntryChecks,
    EntryPrices,
    TapeChecks,
    affordable,
    denial_text,
    expiry,
    unpaid,
)
from fks.research.backtest.result import (
    ROLES,
    DeniedColumns,
    EngineChoice,
    EngineResult,
    FillColumns,
    FlowColumns,
    TradeColumns,
)
from fks.research.backtest.rows import DeniedEntry, FillRow, Setup
from fks.research.backtest.units import Units, divide_half_even, from_units, to_units
from fks.strategies.base import Decisions, closed_share
from fks.trading.matching import (
    BarRange,
    Leg,
    Resting,
    after_entry,
    behind,
    comes_inside,
    match_legs,
    match_market,
    match_resting,
    rests_as_limit,
    stop_after_trigger,
)
from fks.trading.matching.costs import Fee
from fks.trading.matching.rule import is_open_behind, is_unclear
from fks.trading.risk.exits import is_dust
from fks.trading.risk.sizing import Sizing, SizingMissing, entry_quantity, exit_quantity, part_quantity
from fks.trading.risk.volatility import volatility_at

_ZERO = Decimal(0)
_INT64 = 2**63


@dataclass(slots=True)
class _Planned:
    """The plan of the entry that a position is made of: targets in ticks, nearest first, with the quantity of each,
    what it has closed and the part that it still closes. `break_even`: where the stop moves to, in ticks; `moves_from`:
    the close, in ticks, from which on it does, None where a target or nothing moves it."""

    plan: ParentPlan
    limits: list[int]
    shares: list[Decimal]
    closed: list[Decimal]
    parts: list[Decimal]
    break_even: int | None = None
    moves_from: int | None = None

    @property
    def is_moved(self) -> bool:
        """Return whether the target that moves the stop, or one behind it, is executed."""
        rule = self.plan.break_even
        after = None if rule is None else rule.after_target
        return after is not None and any(
            closed and not part for closed, part in zip(self.closed[after - 1 :], self.parts[after - 1 :], strict=True)
        )


@dataclass(slots=True)
class _Protection:
    """The SL and TP that guard a position, in ticks, from the bar at index `since` (where its entry filled) on. `met`:
    the price at which it filled, before slippage. `parts`: the quantity that the legs of each entry cover, oldest entry
    first (`_parts`); `bought`: the quantity that these entries bought. With `trail` the stop follows the closes; it is
    that of the bar `scan_from`."""

    parts: list[Decimal]
    bought: list[Decimal]
    decided: list[int]  # the bars that decided these entries
    side: Side
    since: int
    met: int
    stop: int | None
    limit: int | None
    scan_from: int
    is_entry_late: bool = False  # a limit filled inside its bar: whether the TP came before is not known
    is_entry_unclear: bool = False  # a stop triggered inside its bar: whether the SL came before is not known
    trail: int | None = None
    newest: int = -1  # the bar that a further entry filled in
    parts_before: list[Decimal] = field(default_factory=list)  # what the legs of the entries before that one cover
    order: list[int] = field(default_factory=lambda: [0])  # entries in the order in which the venue has their legs
    order_before: list[int] = field(default_factory=list)
    planned: _Planned | None = None

    @property
    def sign(self) -> int:
        """Return 1 over a long position, -1 over a short one."""
        return -self.side.sign

    def seen(self, bar: BarRange[int], index: int) -> BarRange[int]:
        """Return bar `index` as the protection meets it: from the entry's price on in the bar that filled the first
        entry. A further one enters at the market, so that its legs meet the open as the others."""
        return after_entry(bar, self.met) if index == self.since else bar

    def is_late(self, index: int) -> bool:
        """Return whether of the prices of bar `index` only the close surely came after the entry, for the TP."""
        return self.is_entry_late and index == self.since

    def is_behind(self, bar: BarRange[int], index: int) -> bool:
        """Return whether bar `index` opened beyond the SL, and then triggered the stop of the entry inside it."""
        is_own = self.is_entry_unclear and index == self.since and self.stop is not None
        return is_own and self.stop is not None and is_open_behind(self.stop, self.met, bar.open, self.sign)


@dataclass(slots=True)
class _Waiting:
    """An entry's order that rests at its present price from the bar at index `since` on, in ticks; its protections."""

    side: Side
    quantity: Decimal
    order: Resting[int]
    decided: int
    at: int  # the next bar to match
    looked: int  # the next bar whose close may show that the day's loss ends it
    stop_loss: int | None
    take_profit: int | None
    trail: int | None
    since: int
    plan: ParentPlan | None = None
    has_triggered: bool = False


class _Inside(NamedTuple):
    """The bar inside which an entry's order filled, and its price in ticks, before slippage. `is_triggered`: its stop
    triggered inside the bar."""

    bar: int
    met: int
    is_triggered: bool


class SharedFunds(Protocol):
    """An account as one of the tapes that share it sees it."""

    def equity(self, index: int) -> Decimal:
        """Return the worth of the account in quote at the close of a bar, for sizings in percent of it."""

    def backing(self, index: int) -> Decimal:
        """Return the account's cash and the value of the other tapes' positions less what these keep as margin, at the
        newest closes when bar `index` begins, in quote: it covers this tape's losses beyond its position's value."""

    def debit(self, index: int) -> Decimal:
        """Return this tape's part of the account's cash where that is below 0 at the close of a bar, else 0."""

    def traded(self, month: int) -> Decimal:
        """Return the account's volume of a month (since 1970) that counts for this tape's commission."""

    def spendable(self) -> Decimal | None:
        """Return the account's cash now, in quote; None where positions are held on margin."""


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
    account: SharedFunds | None
    decisions: Decisions
    stop_moves: Floats | None = None  # the prices to which stops are moved at the closes
    target_moves: Floats | None = None  # and those to which take profits are
    entry_moves: tuple[Floats | None, Floats | None] = (None, None)  # and limits and stops of entries that rest
    position: Decimal = _ZERO
    marked: Decimal = _ZERO  # the equity at the close that decided last
    cost: Decimal = _ZERO  # what the open position cost in quote (negative: what a short brought in)
    entry: int | None = None  # the number of the fill of the position's first entry
    entered: list[Decimal] = field(default_factory=list)  # what each entry of the position bought, oldest first
    protection: _Protection | None = None
    waiting: _Waiting | None = None
    margin: tuple[MarginTerms, ...] = ()  # in force now; none where positions are paid for
    liquidation: int | None = None  # the price at which this one is, in ticks
    watched: int = 0  # the next bar to look at for it
    inside: _Inside | None = None  # the newest entry whose order rested
    finer: FinerBars | None = None
    unclear: int = 0
    slipped: Decimal = _ZERO  # the cost of slippage
    decided: list[int] = field(default_factory=list)
    fills: list[FillRow] = field(default_factory=list)
    fill_index: list[int] = field(default_factory=list)
    moves: list[tuple[int, int, int]] = field(default_factory=list)  # bar, and moves of position and of amounts paid
    #: with tiers of the commission: month of each fill, and the volume of that month with it
    volumes: list[tuple[int, Decimal]] = field(default_factory=list)
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
        if self.account is not None:
            return self.account.equity(index)
        return self.cash + self.position * self.price(self.close[index]) * self.setup.instrument.multiplier

    def spendable(self) -> Decimal | None:
        """Return the cash that pays for a buy now, in quote; None where positions are held on margin."""
        if self.account is not None:
            return self.account.spendable()
        return self.cash if self.setup.margin_kept is None else None

    def follows(self, guard: _Protection) -> bool:
        """Return whether a protection's stop may be another one after each close."""
        is_moved = self.stop_moves is not None or (guard.planned is not None and guard.planned.moves_from is not None)
        return guard.trail is not None or (is_moved and guard.stop is not None)

    def range(self, index: int) -> BarRange[int]:
        open_, high = int(self.open[index]), int(self.high[index])
        return BarRange(open_, high, int(self.low[index]), int(self.close[index]))


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
        columns = (column[low:high].tolist() for column in (ticks.open, ticks.high, ticks.low, ticks.close))
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
        if change.enters:
            walker.mark(change.index)
        if change.leaves:
            walker.leave(change.index, change.share)
        if change.enters:
            walker.enter(change.index, change.opened)
        if change.moves:
            walker.move_entry(change.index)
    walker.resolve(len(bars) - 1)
    return walker.outcome(reason)


@dataclass(frozen=True, slots=True)
class TargetChange:
    """A bar that changes the target: whether it closes what is held, or a `share` of it, and then enters; or one that
    `moves` the order of an entry. `opened`: the bar that decided the first entry of the position it wants."""

    index: int
    leaves: bool
    enters: bool
    opened: int
    share: Decimal | None = None
    moves: bool = False


@dataclass(frozen=True, slots=True)
class WalkerState:
    """The state of a walker at one moment. Rows that are only added to are shared, and known by their number."""

    book: _Book
    lengths: dict[str, int]


class Walker:
    """A tape that is walked step by step, so that several of them can share one account in order of time.

    `checks` answer for each entry why live would deny it; `account` are the funds that it shares with others (None:
    this tape has them alone). Errors: as `walk`.
    """

    def __init__(
        self,
        bars: Bars,
        first: int,
        setup: Setup,
        decisions: Decisions,
        checks: EntryChecks,
        account: SharedFunds | None = None,
        finer: Bars | None = None,
    ) -> None:
        self._book = _open_book(bars, setup, checks, account, finer, decisions)
        self._decisions, self._first = decisions, first
        self._flows = plan_flows(bars, first, setup, self._book.units, self._book.close)
        rows = np.searchsorted(bars.time_ns, [roll.time_ns for roll in bars.rolls]).tolist()
        events: list[tuple[int, Callable[[_Book], None]]] = [
            *(
                (row, partial(_roll, row=row, roll=roll))
                for row, roll in zip(rows, bars.rolls, strict=True)
                if first < row < len(bars)
            ),
            *(
                (row, partial(_pay, flows=self._flows, number=number))
                for number, (row, *_) in enumerate(self._flows.rows)
            ),
            *(
                (row, partial(_change_margin, index=row, is_overnight=is_overnight))
                for row, is_overnight in margin_changes(bars, first, setup.margin_kept)
            ),
        ]
        self._events = sorted(events, key=itemgetter(0))
        self._due = 0  # the next of them
        self._closes_at_end = closes_at_end(bars, setup)

    @property
    def position(self) -> Decimal:
        """Return the base held now, signed."""
        return self._book.position

    @property
    def cash(self) -> Decimal:
        """Return the quote left of the setup's cash."""
        return self._book.cash

    def traded(self, month: int) -> Decimal:
        """Return the volume of a month (since 1970), where the commission has tiers."""
        return traded_in(self._book.volumes, month)

    @property
    def interest_ns(self) -> list[int]:
        """Return when the bars begin that book interest on cash below 0."""
        rows = self._flows.rows
        return [int(self._book.bars.time_ns[row]) for row, _, _, base in rows if base is FlowBase.DEBIT]

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
        """Yield the bars that change the target or move the order of an entry, but for the last bar."""
        first = self._first
        target = self._decisions.target[first:]
        before = np.concatenate([[0.0], target[:-1]])
        is_other = np.sign(target) != np.sign(before)
        opened = np.maximum.accumulate(np.where(is_other, np.arange(len(target)), 0))
        is_moved = np.zeros(len(target), dtype=bool)
        for column in self._book.entry_moves:
            if column is not None:
                is_moved |= ~np.isnan(column[first:])
        for place in np.flatnonzero((target[:-1] != before[:-1]) | is_moved[:-1]).tolist():
            if target[place] == before[place]:
                yield TargetChange(first + place, False, False, first + int(opened[place]), moves=True)
                continue
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
        up to `opened` (None: the bar after `through`); a position is rolled before the bars of its next contract. What
        is held at the end of the last bar is closed where the run ends so (`closes_at_end`)."""
        opened = through + 1 if opened is None else opened
        last = len(self._book.bars) - 1
        while self._due < len(self._events) and self._events[self._due][0] <= opened:
            row, event = self._events[self._due]
            _resolve(self._book, min(through, row - 1))
            event(self._book)
            self._due += 1
        _resolve(self._book, through)
        if self._closes_at_end and through >= last:
            self._closes_at_end = False
            _close_at_end(self._book, last)

    @property
    def unwatched(self) -> int | None:
        """Return the first bar that may close the position by force; None where nothing is held that can be."""
        return None if self._book.liquidation is None else self._book.watched

    def watch(self, index: int) -> None:
        """Find the price at which bar `index` closes the position by force, by the shared account as it is now. The
        bars before are resolved, or do not reach it."""
        book = self._book
        if book.account is not None:
            book.liquidation, book.watched = _liquidation(book, index), max(book.watched, index)

    def next_ns(self, through: int) -> int | None:
        """Return the first moment at which the holding may be other than now, of bars up to `through`: the begin of
        one with a cash flow, a roll or another margin, or the end of one that may fill the protection or closes what is
        held. None where there is none."""
        book, found = self._book, []
        if self._due < len(self._events):
            found.append(int(book.bars.time_ns[self._events[self._due][0]]))
        if (guard := book.protection) is not None:
            reached: int | None = guard.scan_from
            if not (book.follows(guard) or book.target_moves is not None or guard.planned is not None):
                reached = _first_reached(book, guard, through)
            found += [] if reached is None or reached > through else [book.bars.ended_ns(reached)]
        if self._closes_at_end:
            found.append(book.bars.ended_ns(len(book.bars) - 1))
        return min(found, default=None)

    def mark(self, index: int) -> None:
        """Note what the account is worth at the close of bar `index`. It sizes the entry that this bar decides: an exit
        decided with it fills at a price that is not known then."""
        self._book.marked = self._book.equity(index)

    def leave(self, index: int, share: Decimal | None = None) -> None:
        """Close what is held, or a share of it, as decided on bar `index`: at the open of the next one."""
        _leave(self._book, index, share)

    def enter(self, index: int, opened: int) -> bool:
        """Enter what bar `index` wants, at the open of the next one, unless it is denied. `opened`: the bar that
        decided the first entry of the position; a later one adds to it, and does nothing when that is not open. Return
        whether the checks approved it: its order may expire, or cost more than the cash, all the same."""
        side = Side.BUY if self._decisions.target[index] > 0 else Side.SELL
        return _enter(self._book, index, side, self._decisions, opened)

    def move_entry(self, index: int) -> None:
        """Move the entry's order that rests to the prices which bar `index` wants, from the next one on."""
        _move_entry(self._book, index)

    def deny(self, index: int, code: str, detail: str) -> None:
        """Note that the entry which bar `index` wants is denied."""
        self._book.deny(index, Side.BUY if self._decisions.target[index] > 0 else Side.SELL, code, detail)

    @property
    def denied(self) -> Sequence[DeniedEntry]:
        """Return the denials so far, in order."""
        return self._book.denied

    def copy(self) -> WalkerState:
        """Return the state now, to which `restore` goes back."""
        return WalkerState(replace(self._book, entered=[*self._book.entered]), _lengths(self._book))

    def restore(self, state: WalkerState) -> None:
        """Go back to the state before an entry into no position; its bookings are undone."""
        book = state.book
        for name, length in state.lengths.items():
            del getattr(book, name)[length:]
        self._book = book

    def outcome(self, reason: str) -> EngineResult:
        """Return what was traded. `reason`: why this engine walked the tape."""
        return _outcome(self._book, self._first, reason, has_flows=len(self._flows) > 0)


def _lengths(book: _Book) -> dict[str, int]:
    """Return how many rows of each kind a book has."""
    kept = (field.name for field in fields(book) if field.name != "entered")
    return {name: len(rows) for name in kept if isinstance(rows := getattr(book, name), list)}


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
    account: SharedFunds | None,
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
    moves = decisions.moves(), decisions.take_profit_moves(bars.close)
    moves_of = (*moves, decisions.entry_moves())
    terms = _terms(units, setup.margin_kept)
    return _Book(
        bars, setup, units, *columns, setup.cash, checks, account, decisions, *moves_of, margin=terms, finer=inside
    )


def _terms(units: Units, margin: Margin | None) -> tuple[MarginTerms, ...]:
    return () if margin is None else margin.terms(units.price + units.multiplier, units.worth)


def _enter(book: _Book, index: int, side: Side, decisions: Decisions, opened: int) -> bool:
    """Size, check and fill an entry decided on bar `index`, and place its protections: those of the position, if it has
    some, else those of bar `opened`. A growth of the target (`opened` is earlier) adds to an open position only.
    Return whether the checks approved it."""
    if opened < index and not book.entered:
        return False
    if any(book.bars.time_ns[opened] < roll.time_ns <= book.bars.time_ns[index + 1] for roll in book.bars.rolls):
        book.deny(index, side, "ROLL", "its prices are those of the contract before")
        return False
    holding = book.holding
    book.checks.look(index, holding)
    setup, instrument = book.setup, book.setup.instrument
    reference, guard = book.price(book.close[index]), book.protection if opened < index else None
    stop = _level(book, decisions.stop_loss, opened, side.opposite, is_stop=True)
    limit = _rounded(book, decisions.take_profit_at(opened), side.opposite, is_stop=False)
    plan = decisions.plan_at(opened) if decisions.has_plans else None
    plan = None if plan is None else plan_on_grid(plan, side.opposite.value, instrument)
    trail = _distance(book, decisions.trail, opened)
    if guard is not None:
        stop, limit = guard.stop, guard.limit
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
            equity=book.marked,
            stop_loss=levels[0],
            volatility=volatility_at(Sizing.parse(setup.sizing), book.bars, index),
            share=decisions.share_at(index),
        )
    except SizingMissing as error:
        book.deny(index, side, error.code, error.message)
        return False
    entry = DecidedEntry(index, side, quantity, reference, levels, order, plan)
    entry = affordable(setup, entry, book.spendable())
    refused = book.checks.refusal(entry, holding)
    if refused is not None:
        book.deny(index, side, refused.code.value, denial_text(refused))
        return False
    if order is not None:
        at_limit, at_stop = (None if v is None else to_units(v, book.units.price) for v in (order.limit, order.stop))
        resting, first = Resting(side, order.type, at_limit, at_stop), index + 1
        book.waiting = _Waiting(side, entry.quantity, resting, index, first, first, stop, limit, trail, first, plan)
        return True
    bar = book.range(index + 1)
    expired = (
        None
        if plan is not None and plan.targets
        else expiry(setup, side, reference, levels, book.price(match_market(bar)), book.price(bar.high - bar.low))
    )
    if expired is not None:
        book.deny(index, side, expired.code.value, denial_text(expired))
        return True
    if _enters(book, index + 1, side, entry.quantity, match_market(bar), index):
        _protect(book, index + 1, match_market(bar), side, stop, limit, trail, plan)
    return True


def _move_entry(book: _Book, index: int) -> None:
    """Move the entry's order that rests to the prices that bar `index` wants, unless live would deny it there: then it
    stays, and ends where the balance does not cover it, which live sees only when the old one has ended."""
    waiting = book.waiting
    if waiting is None:
        return
    limits, stops = book.entry_moves
    limit = _level(book, limits, index, waiting.side, is_stop=False)
    stop = _level(book, stops, index, waiting.side, is_stop=True)
    old = waiting.order
    moved = replace(old, price=old.price if limit is None else limit, stop=old.stop if stop is None else stop)
    if moved == old:
        return
    prices = EntryPrices(*(None if ticks is None else book.price(ticks) for ticks in (moved.price, moved.stop)))
    levels = tuple(None if v is None else book.price(v) for v in (waiting.stop_loss, waiting.take_profit))
    holding = book.holding
    book.checks.look(index, holding)
    close = book.price(book.close[index])
    entry = DecidedEntry(index, waiting.side, waiting.quantity, close, (levels[0], levels[1]), prices, waiting.plan)
    refused = book.checks.refusal(entry, holding)
    if refused is None:
        waiting.order, waiting.since, waiting.has_triggered = moved, index + 1, False
    elif refused.code is Code.BALANCE:
        book.waiting = None
        book.deny(index, waiting.side, refused.code.value, denial_text(refused))


def _protect(
    book: _Book,
    index: int,
    met: int,
    side: Side,
    stop: int | None,
    limit: int | None,
    trail: int | None,
    plan: ParentPlan | None,
    *,
    is_late: bool = False,
    is_unclear: bool = False,
) -> None:
    """Place the protections of an entry that filled in bar `index` at `met`, before slippage, over what is held."""
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
            [guarded], [guarded], decided, side.opposite, index, met, stop, limit, index, is_late, is_unclear, trail
        )
        if plan is not None:
            book.protection.planned = _planned(book, plan, side.sign)
            _part_targets(book, book.protection)


def _planned(book: _Book, plan: ParentPlan, sign: int) -> _Planned:
    """Return the plan of the entry that filled last."""
    instrument, average, rule = book.setup.instrument, book.fills[-1].price, plan.break_even
    limits = [to_units(target.price, book.units.price) for target in plan.targets]
    shares = shares_of(book.entered[-1], plan, instrument) if limits else []
    found = _Planned(plan, limits, shares, [_ZERO] * len(limits), [])
    if rule is not None:
        found.break_even = to_units(break_even_stop(average, sign, rule, instrument), book.units.price)
        if rule.at_risk is not None:
            level = (average + sign * rule.at_risk * abs(average - plan.stop_loss)).scaleb(book.units.price)
            found.moves_from = int(level.to_integral_value(ROUND_CEILING if sign > 0 else ROUND_FLOOR))
    return found


def _part_targets(book: _Book, guard: _Protection) -> None:
    """Give each target its part of the position, as live does (`fks.trading.orders.protection`): parts that could not
    rest by themselves go to a neighbour, and a part without one has no exit. Without targets nothing changes."""
    planned, instrument = guard.planned, book.setup.instrument
    if planned is None or not planned.limits:
        return
    assert guard.stop is not None, "a plan has a stop loss"
    held = exit_quantity(book.position, instrument)
    least = [least_resting([book.price(guard.stop), book.price(limit)], instrument) for limit in planned.limits]
    parts = parts_of(held, planned.shares, planned.closed)
    join_small(parts, least)
    planned.parts = [part if part >= enough else _ZERO for part, enough in zip(parts, least, strict=True)]
    _next_target(book, guard, planned)


def _next_target(book: _Book, guard: _Protection, planned: _Planned) -> None:
    """Look for the nearest target that is left from now on; without one the position has no protection."""
    left = [limit for limit, part in zip(planned.limits, planned.parts, strict=True) if part]
    guard.limit = left[0] if left else None
    if not left:
        book.protection = None


def _parts(book: _Book, bought: list[Decimal]) -> list[Decimal]:
    """Return what the legs of each entry cover, oldest first: a position is made of its newest entries, as live has it
    (`fks.trading.orders.protection`), so that fees in base make the oldest one's part smaller."""
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
    return None if column is None else _rounded(book, float(column[index]), side, is_stop=is_stop)


def _rounded(book: _Book, price: float, side: Side, *, is_stop: bool) -> int | None:
    if not np.isfinite(price):
        return None
    on_grid = book.setup.instrument.round_price(Decimal(repr(price)), side=side.value, is_stop=is_stop)
    return to_units(on_grid, book.units.price)


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
        _part_targets(book, guard)
        _end_small(book)


def _end_small(book: _Book) -> None:
    """End a protection over what is held when a venue takes no orders that small at the lower of its levels: such a
    rest is unprotected, as live leaves it. The parts of several targets have their own rule (`_part_targets`)."""
    guard, item = book.protection, book.setup.instrument
    if guard is None or (guard.planned is not None and guard.planned.limits):
        return
    levels = [book.price(ticks) for ticks in (guard.stop, guard.limit) if ticks is not None]
    held = exit_quantity(book.position, item)
    if held < max(item.qty_min, item.lot_step) or held * min(levels) * item.multiplier < item.notional_min:
        book.protection = None


def _resolve(book: _Book, through: int) -> None:
    """Fill what rests at the first bar up to `through` (inclusive) that reaches it, and close by force what the account
    no longer covers: in one bar the entry's order, then that, then the protection."""
    if book.setup.margin_kept is None:
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
    met, is_behind = bar.open, False
    if book.inside is not None and book.inside.bar == index:
        met = book.inside.met
        if book.inside.is_triggered:
            is_behind = is_open_behind(book.liquidation, met, bar.open, 1 if is_long else -1)
            may_close, met = stop_after_trigger(book.liquidation, met, bar.open, bar.close, 1 if is_long else -1)
            if not may_close:
                return False
    is_open = is_behind
    if guard is not None:
        if guard.stop is not None and (guard.stop >= book.liquidation if is_long else guard.stop <= book.liquidation):
            return False
        if guard.limit is not None:
            first, best = guard.seen(bar, index).open, bar.high if is_long else bar.low
            best = bar.close if guard.is_late(index) else best
            if first >= guard.limit if is_long else first <= guard.limit:
                return False
            is_open |= best >= guard.limit if is_long else best <= guard.limit
    book.unclear += is_open
    ticks = min(met, book.liquidation) if is_long else max(met, book.liquidation)
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
    """Fill the protection at the first bar up to `through` that reaches it, or its targets at each that does."""
    while (guard := book.protection) is not None:
        index = _first_touch(book, guard, through)
        if index is None:
            guard.scan_from = max(guard.scan_from, through + 1)
            return
        if guard.planned is not None and guard.planned.limits:
            _leave_targets(book, guard, guard.planned, index)
            continue
        hit, is_unclear_now = _hit(book, guard, index)
        assert hit is not None, "a touched protection fills"
        book.unclear += is_unclear_now
        _leave_protected(book, guard, index, hit)


def _hit(book: _Book, guard: _Protection, index: int) -> tuple[tuple[Leg, int] | None, bool]:
    """Return what fills of a protection in bar `index`, and whether that is unclear."""
    hit = _match(guard, book.range(index), index)
    if hit is None or hit[0] is not Leg.STOP or not _is_unclear(book, guard, index):
        return hit, False
    is_read = index == guard.since and (guard.is_entry_unclear or guard.is_entry_late)  # by `_resolve_entry_bar`
    found = None if is_read else _within(book, guard, index, None)
    if found is None or found.hit is None:
        return hit, found is None or found.is_unclear
    return found.hit, found.is_unclear


def _leave_targets(book: _Book, guard: _Protection, planned: _Planned, index: int) -> None:
    """Book the fills of the targets' pairs in bar `index`: each pair by itself, nearest target first, the stops of one
    bar as one trade. What is left is matched with later bars, under a stop that the bar may have moved."""
    item, live = book.setup.instrument, [number for number, part in enumerate(planned.parts) if part]
    hits = []
    for number in live:
        guard.limit = planned.limits[number]
        hits.append(_hit(book, guard, index))
    book.unclear += any(is_unclear_now for _, is_unclear_now in hits)
    is_joined = False
    for number, (hit, _) in zip(live, hits, strict=True):
        if hit is None:
            continue
        quantity = min(planned.parts[number], exit_quantity(book.position, item))
        planned.parts[number] = _ZERO
        role = Role.STOP_LOSS if hit[0] is Leg.STOP else Role.TAKE_PROFIT
        _fill(book, index, guard.side, quantity, hit[1], role, guard.decided[0], is_joined=is_joined)
        is_joined = role is Role.STOP_LOSS
        planned.closed[number] += quantity
    _next_target(book, guard, planned)
    if book.protection is None:
        book.entered.clear()
        return
    stop = int(_stops(book, guard, index, index + 1)[-1]) if book.follows(guard) else guard.stop
    if planned.is_moved and planned.break_even is not None and stop is not None:
        stop = max(stop, planned.break_even) if guard.sign > 0 else min(stop, planned.break_even)
    guard.stop, guard.scan_from = stop, index + 1
    book.watched = index  # what is left may be closed by force in this bar


def _resolve_entry_bar(book: _Book, guard: _Protection, index: int, entry: Resting[int]) -> None:
    """Let finer bars decide what the protections did in the bar inside which their entry filled, when it matters."""
    bar, is_long = book.range(index), guard.side is Side.SELL
    is_taken = guard.limit is not None and (bar.high >= guard.limit if is_long else bar.low <= guard.limit)
    is_stopped = guard.stop is not None and (bar.low <= guard.stop if is_long else bar.high >= guard.stop)
    is_shown = guard.limit is not None and (bar.close >= guard.limit if is_long else bar.close <= guard.limit)
    is_late = guard.is_entry_late and is_taken and not is_shown
    is_counted = is_late or guard.is_behind(bar, index)  # of another stop entry it is, when its stop loss fills
    if not (is_late or (is_stopped and (guard.is_entry_unclear or (guard.is_entry_late and is_shown)))):
        return
    if guard.planned is not None and guard.planned.limits:
        book.unclear += is_counted  # pairs of several targets are read by the pessimistic rule
        return
    found = _within(book, guard, index, entry)
    if found is None:
        book.unclear += is_counted
        return
    book.unclear += found.is_unclear
    guard.scan_from, guard.is_entry_late, guard.is_entry_unclear = index + 1, False, False
    guard.stop = int(_stops(book, guard, index, index + 1)[-1]) if book.follows(guard) else guard.stop
    if found.hit is None:
        _move_target(book, guard, index)
    else:
        _leave_protected(book, guard, index, found.hit)


def _leave_protected(book: _Book, guard: _Protection, index: int, hit: tuple[Leg, int]) -> None:
    """Book the fills of a protection in bar `index`, one for each entry; they are one trade. A leg only closes: one
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
        met, is_late = guard.met if entry is None and number == 0 and index == guard.since else bar.open, False
        opened = None
        is_taken = guard.limit is not None and (bar.high >= guard.limit if is_long else bar.low <= guard.limit)
        is_stopped = guard.stop is not None and (bar.low <= guard.stop if is_long else bar.high >= guard.stop)
        if not has_entered and entry is not None:
            price = match_resting(entry, bar)
            if price is None:
                if rests_as_limit(entry, bar):
                    entry = Resting(entry.side, OrderType.LIMIT, entry.price)
                continue
            has_entered, met = True, min(price, guard.met) if is_long else max(price, guard.met)
            is_late, is_inside = comes_inside(entry, bar, price)
            is_shown = guard.limit is not None and (bar.close >= guard.limit if is_long else bar.close <= guard.limit)
            is_unclear_now = (is_taken and is_late and not is_shown) or (is_stopped and is_inside)
            is_taken &= not is_late or is_shown
            opened = bar.open if is_inside else None
        hit = _match_pair(guard, after_entry(bar, met), is_late=is_late, opened=opened)
        if hit is not None:
            is_met_stopped = guard.stop is not None and (met <= guard.stop if is_long else met >= guard.stop)
            both = is_unclear(is_stopped, is_taken, is_met_stopped, hit[0] is Leg.LIMIT)
            return _Within(hit, is_unclear_now or both)
    return _Within(None, is_unclear_now) if has_entered and entry is not None else None


def _is_unclear(book: _Book, guard: _Protection, index: int) -> bool:
    """Return whether bar `index`, in which a stop loss filled, does not show that nothing better came before."""
    if guard.is_entry_unclear and index == guard.since:
        return not guard.is_behind(book.range(index), index)
    if guard.stop is None or guard.limit is None:
        return False
    bar, is_long = guard.seen(book.range(index), index), guard.side is Side.SELL
    best = bar.close if guard.is_late(index) else bar.high if is_long else bar.low
    is_taken = best >= guard.limit if is_long else best <= guard.limit
    is_met_stopped = bar.open <= guard.stop if is_long else bar.open >= guard.stop
    return is_unclear(True, is_taken, is_met_stopped, False)


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
        price = match_resting(order, bar)
        if price is None:
            waiting.has_triggered |= rests_as_limit(order, bar)
            continue
        book.waiting = None
        is_late, is_unclear_entry = comes_inside(order, bar, price)
        is_maker = is_late or (order.type is OrderType.LIMIT and index > waiting.since)
        if not _enters(
            book, index, side, waiting.quantity, price, waiting.decided, limit=order.price, is_maker=is_maker
        ):
            return
        book.inside = _Inside(index, price, is_unclear_entry)
        _protect(
            book,
            index,
            price,
            side,
            waiting.stop_loss,
            waiting.take_profit,
            waiting.trail,
            waiting.plan,
            is_late=is_late,
            is_unclear=is_unclear_entry,
        )
        if book.protection is not None and book.protection.since == index and (is_late or is_unclear_entry):
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
    """Return the first bar from the entry's own on whose range reaches a level. A take profit that is moved at the
    close of a bar is where it comes to from the next one on."""
    if book.target_moves is not None:
        start = guard.scan_from
        for index in (start + np.flatnonzero(~np.isnan(book.target_moves[start : through + 1]))).tolist():
            found = _first_reached(book, guard, index)
            if found is not None:
                return found
            guard.scan_from = index + 1
            _move_target(book, guard, index)
    return _first_reached(book, guard, through)


def _move_target(book: _Book, guard: _Protection, index: int) -> None:
    """Move the take profit to where the decisions of bar `index` have it, if they do."""
    is_single = guard.limit is not None and (guard.planned is None or not guard.planned.limits)
    if book.target_moves is not None and is_single and book.decisions.target[index] * guard.sign > 0:
        level = _level(book, book.target_moves, index, guard.side, is_stop=False)
        if level is not None and level != guard.limit:
            guard.limit, guard.order = level, list(range(len(guard.parts)))  # all legs are placed again


def _first_reached(book: _Book, guard: _Protection, through: int) -> int | None:
    """Return what `_first_touch` does while the take profit stays: in growing slices, so that a near hit costs little
    and a far one is vectorised."""
    is_long = guard.side is Side.SELL
    if book.follows(guard):
        return _first_followed(book, guard, through)
    start = guard.scan_from
    if guard.since == start <= through and (guard.is_entry_late or guard.is_entry_unclear):
        if _match(guard, book.range(start), start) is not None:
            return start
        start += 1
    down, up = (guard.stop, guard.limit) if is_long else (guard.limit, guard.stop)
    return _first_reach(book, start, through, down, up)


def _first_followed(book: _Book, guard: _Protection, through: int) -> int | None:
    """Return what `_first_reached` does where the stop follows the closes or is moved at some, and leave the stop as it
    is in that bar, or after the last one."""
    size, is_long = 64, guard.sign > 0
    while guard.scan_from <= through:
        start, end = guard.scan_from, min(guard.scan_from + size, through + 1)
        stops = _stops(book, guard, start, end)
        low, high = book.low[start:end], book.high[start:end]
        touched = low <= stops[:-1] if is_long else high >= stops[:-1]
        if guard.limit is not None:
            taken = high >= guard.limit if is_long else low <= guard.limit
            touched = touched | taken
        if guard.since == start and (guard.is_entry_late or guard.is_entry_unclear):
            touched[0] = _match(guard, book.range(start), start) is not None
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
    if guard.planned is not None and guard.planned.moves_from is not None:
        assert guard.planned.break_even is not None, "it moves to break-even"
        has_come = (book.close[start:end] - guard.planned.moves_from) * guard.sign >= 0
        path[1:] = np.where(has_come, nearer(path[1:], guard.planned.break_even), path[1:])
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


def _match(guard: _Protection, bar: BarRange[int], index: int) -> tuple[Leg, int] | None:
    """Return which leg of a protection bar `index` fills, and its price."""
    opened = bar.open if guard.is_entry_unclear and index == guard.since else None
    return _match_pair(guard, guard.seen(bar, index), is_late=guard.is_late(index), opened=opened)


def _match_pair(guard: _Protection, bar: BarRange[int], *, is_late: bool, opened: int | None) -> tuple[Leg, int] | None:
    stop = None if guard.stop is None else Resting(guard.side, OrderType.STOP, stop=guard.stop)
    limit = None if guard.limit is None else Resting(guard.side, OrderType.LIMIT, price=guard.limit)
    return match_legs(stop, limit, bar, is_late=is_late, opened=opened)


def _enters(
    book: _Book,
    index: int,
    side: Side,
    quantity: Decimal,
    ticks: int,
    decided: int,
    *,
    limit: int | None = None,
    is_maker: bool = False,
) -> bool:
    """Book the fill of an entry, unless it costs more than the account's cash: then it is denied. Return whether it
    filled."""
    cash = book.spendable() if side is Side.BUY else None
    if cash is not None:
        price, fee, _ = _taken(book, index, side, quantity, ticks, limit, is_maker=is_maker)
        cost = quantity * price * book.setup.instrument.multiplier
        cost += fee.amount if fee.currency != book.setup.instrument.base else _ZERO
        if cost > cash:
            refused = unpaid(book.setup, cost, cash)
            book.deny(decided, side, refused.code.value, denial_text(refused))
            return False
    _fill(book, index, side, quantity, ticks, Role.ENTRY, decided, limit=limit, is_maker=is_maker)
    return True


def _taken(
    book: _Book, index: int, side: Side, quantity: Decimal, ticks: int, limit: int | None, *, is_maker: bool
) -> tuple[Decimal, Fee, tuple[int, Decimal] | None]:
    """Return the price of a fill, slipped when it takes and no worse than `limit`, and its fee; with tiers of the
    commission its month, and the tape's volume of that month with it."""
    instrument, costs, price, traded = book.setup.instrument, book.setup.costs, book.price(ticks), _ZERO
    if not is_maker:
        span = book.price(book.high[index] - book.low[index])
        worst = None if limit is None else book.price(limit)
        price = costs.slippage.apply(side, price, span, instrument.tick, limit=worst)
    volume = None
    if costs.commission.tiers:
        month = int(np.datetime64(int(book.bars.time_ns[index]), "ns").astype("datetime64[M]").astype(int))
        own = traded_in(book.volumes, month)
        traded = own if book.account is None else book.account.traded(month)
        volume = month, own + costs.commission.volume(quantity, quantity * price * instrument.multiplier)
    return price, costs.fee(side, quantity, price, instrument, is_maker=is_maker, traded=traded), volume


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
    instrument, is_maker = book.setup.instrument, is_maker or role is Role.TAKE_PROFIT
    price, fee, volume = _taken(book, index, side, quantity, ticks, limit, is_maker=is_maker)
    book.slipped += quantity * abs(price - book.price(ticks)) * instrument.multiplier
    if volume is not None:
        book.volumes.append(volume)
    if role is Role.LIQUIDATION:
        fee = fee._replace(amount=fee.amount + book.setup.liquidation_fee(quantity, price))
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
    book.liquidation = _liquidation(book, index)
    book.watched = index if role in (Role.ENTRY, Role.EXIT) else index + 1
    book.moves.append((index, to_units(moved, book.units.quantity), to_units(paid, book.units.cash)))


def traded_in(volumes: Sequence[tuple[int, Decimal]], month: int) -> Decimal:
    """Return the volume of a month by the last of the rows that are of it."""
    at = bisect_right(volumes, month, key=itemgetter(0)) - 1
    return volumes[at][1] if at >= 0 and volumes[at][0] == month else _ZERO


def _pay(book: _Book, flows: FlowPlan, number: int) -> None:
    """Book a cash flow on what is held, or on cash below 0, before the fills of its bar. It is part of the position's
    cost."""
    units, index = book.units, flows.bar(number)
    debit = book.cash if book.account is None else book.account.debit(index - 1)
    position = to_units(book.position, units.quantity)
    money = flows.amount(number, position, to_units(debit, units.cash))
    if not money:
        return
    amount, item = from_units(money, 8), book.setup.instrument
    book.cash += amount
    book.cost -= amount if book.position else _ZERO
    book.paid.append((number, amount))
    time_ns, side = int(book.bars.time_ns[index]), Side.BUY if book.position > 0 else Side.SELL
    book.booked.append(FillRow(time_ns, side, _ZERO, _ZERO, -amount, item.quote))
    book.booked_index.append(index)
    book.moves.append((index, 0, to_units(-amount, book.units.cash)))
    book.liquidation, book.watched = _liquidation(book, index), index


def _change_margin(book: _Book, index: int, is_overnight: bool) -> None:
    """Put another margin in force from bar `index` on, before its fills."""
    margin = book.setup.margin_kept
    book.margin = _terms(book.units, None if margin is None else margin.at(is_overnight))
    book.liquidation, book.watched = _liquidation(book, index), index


def _roll(book: _Book, row: int, roll: ContractRoll) -> None:
    """Carry a position over a roll, before bar `row`, by two executions at the closes of the last bar that both
    contracts have; levels of its protection move by their gap. An entry's order that rests ends."""
    book.waiting, quantity = None, abs(book.position)
    if not quantity:
        return
    side, guard, entered = Side.SELL if book.position > 0 else Side.BUY, book.protection, list(book.entered)
    old, new = (to_units(Decimal(repr(price)), book.units.price) for price in (roll.old_price, roll.new_price))
    book.entered.clear()
    _fill(book, row, side, quantity, old, Role.EXIT, row - 1)
    _fill(book, row, side.opposite, quantity, new, Role.ENTRY, row - 1)
    book.entered[:] = entered
    if guard is None:
        return
    moved = new - old
    guard.stop = None if guard.stop is None else guard.stop + moved
    guard.limit = None if guard.limit is None else guard.limit + moved
    if (plan := guard.planned) is not None:
        plan.limits = [limit + moved for limit in plan.limits]
        plan.break_even = None if plan.break_even is None else plan.break_even + moved
        plan.moves_from = None if plan.moves_from is None else plan.moves_from + moved


def _close_at_end(book: _Book, last: int) -> None:
    """Close what is held at the close of the last bar."""
    item = book.setup.instrument
    quantity, side = exit_quantity(book.position, item), Side.SELL if book.position > 0 else Side.BUY
    book.waiting = book.protection = None
    if quantity >= max(item.qty_min, item.lot_step):
        _fill(book, last, side, quantity, int(book.close[last]), Role.EXIT, last - 1)


def _liquidation(book: _Book, index: int) -> int | None:
    """Return the price, in ticks, at which the position is closed by force in bar `index`; None where nothing is held
    that can be."""
    units, item = book.units, book.setup.instrument
    least = max(item.qty_min, item.lot_step)
    if not book.margin or exit_quantity(book.position, item) < least:
        return None
    cash_exact = book.cash if book.account is None else book.account.backing(index)
    cash = int(cash_exact.scaleb(units.worth).to_integral_value(ROUND_FLOOR))
    position = to_units(book.position, units.quantity)
    multiplier, is_long = to_units(item.multiplier, units.multiplier), position > 0
    prices = []
    for row in book.margin:
        money, times = cash * row.over + row.less, row.long if is_long else row.short
        prices.append(liquidation_ticks(position, money, multiplier, times, row.over, row.kept, book.tick))
    return max(prices) if is_long else min(prices)


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
