"""Checks of entries on an account that several tapes share: live's own functions, on a view of all positions.

Prices are the newest closes at the decision, positions and cash those at the moment of the order. The loss of the
trading day is looked at on every close of every member's bars up to the decision, over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np

from fks.config.risk import Risk
from fks.model.bar import Bars, Floats, Ints
from fks.model.buckets import length_of
from fks.model.codes import Denial
from fks.model.instrument import Instrument, money
from fks.model.margin import Margin
from fks.model.order import Side
from fks.model.timeframe import NS, TIMEFRAMES
from fks.research.backtest.limits import AccountHolding, DecidedEntry, Funds, TapeChecks
from fks.research.backtest.reference import Walker
from fks.research.backtest.rows import FillRow, Setup
from fks.trading.portfolio.position import net_quantity
from fks.trading.risk.correlation import correlation_of, returns_before
from fks.trading.risk.valuation import DayFlows, day_profit, day_start_ns

_ZERO = Decimal(0)
_HUGE = Decimal(10) ** 30
_NEXT_DAY_NS = 26 * 3600 * NS  # after a day's start it is the next day, summer time or not
_NEAR = 0.999  # the share of a limit from which on a float is not trusted
_ROUNDING = 1e-6  # of amounts in float64, more than enough
_IN_BAR, _AT_OPEN = 0, 2  # order of a fill at one moment; a close of that moment comes between the two


@dataclass(frozen=True, slots=True)
class MemberBars:
    """A member's bars with the end of each."""

    bars: Bars
    setup: Setup
    ends_ns: Ints

    @staticmethod
    def of(bars: Bars, setup: Setup) -> MemberBars:
        """Return the tape of some bars."""
        return MemberBars(bars, setup, bars.ends_ns)

    @property
    def symbol(self) -> str:
        """Return the symbol by which positions are kept."""
        return self.setup.instrument.symbol

    def ended_by(self, moment_ns: int) -> int:
        """Return the index of the newest bar that ended by a moment; -1 when none did."""
        return int(np.searchsorted(self.ends_ns, moment_ns, side="right")) - 1

    def opened_by(self, moment_ns: int) -> int:
        """Return the index of the newest bar that began by a moment; -1 when none did."""
        return int(np.searchsorted(self.bars.time_ns, moment_ns, side="right")) - 1


@dataclass(frozen=True, slots=True)
class _Booked:
    """A fill with its place in the order of the account."""

    key: tuple[int, int]
    number: int
    symbol: str
    fill: FillRow


class AccountChecks:
    """The account as the checks of its members see it. `walkers` are set before the first question.

    `book` is called for every fill, in the account's order.
    """

    def __init__(self, tapes: Sequence[MemberBars], cash: Decimal, limits: Risk) -> None:
        self.walkers: Sequence[Walker] = ()
        self.tapes, self._cash, self._limits = tapes, cash, limits
        self._single = [TapeChecks(tape.bars, tape.setup) for tape in tapes]
        self._series = {tape.symbol: _Series.of([t for t in tapes if t.symbol == tape.symbol]) for tape in tapes}
        self._booked: list[_Booked] = []
        self._debits: tuple[int, list[Decimal]] = (-1, [])  # the end of a day, and each member's cash below 0 then
        self._days: dict[int, _Day] = {}
        self._day_end_ns: dict[int, int] = {}
        self._correlated: dict[tuple[str, str, int], float | None] = {}

    def of(self, number: int) -> MemberChecks:
        """Return the checks of one member."""
        return MemberChecks(self, number)

    def equity(self, number: int, index: int) -> Decimal:
        """Return what the account is worth in quote when a member decides on bar `index`: all cash, and all positions
        at their newest closes."""
        now_ns = int(self.tapes[number].ends_ns[index])
        return self.cash + sum((self._series[s].worth(held, now_ns) for s, held in self._held().items()), _ZERO)

    @property
    def cash(self) -> Decimal:
        """Return the account's quote now."""
        return self._cash + sum((walker.cash - self._cash for walker in self.walkers), _ZERO)

    def debit(self, number: int, index: int) -> Decimal:
        """Return a member's part of the account's cash below 0 at its bar `index`, by what each member has spent, else
        0. Of several members the value of short positions is no cash: it stays with the lender. The parts of one moment
        are those of the first member that asks for its own."""
        now_ns, held = int(self.tapes[number].ends_ns[index]), self._held()
        if self._debits[0] != now_ns:
            shorts = sum((self._series[symbol].worth(min(held[symbol], _ZERO), now_ns) for symbol in held), _ZERO)
            cash, spent = min(self.cash + shorts, _ZERO), [max(self._cash - one.cash, _ZERO) for one in self.walkers]
            whole = sum(spent, _ZERO) or Decimal(1)
            self._debits = now_ns, [money(cash * part / whole) for part in spent]
        return self._debits[1][number]

    def backing(self, number: int, index: int) -> Decimal:
        """Return the account's cash and the value of the positions of the others less what these keep as margin, in
        quote, at the newest closes when a member's bar `index` begins."""
        now_ns, free = int(self.tapes[number].bars.time_ns[index]), self.cash
        for at, (walker, tape) in enumerate(zip(self.walkers, self.tapes, strict=True)):
            if at != number and walker.position:
                series, margin = self._series[tape.symbol], self._single[at].margin_after(tape.ended_by(now_ns))
                worth, price = series.worth(walker.position, now_ns), series.close(now_ns) or _ZERO
                free += worth - (margin.kept(walker.position, price, series.instrument) if margin else abs(worth))
        return free

    def next_look(self, until_ns: int) -> int:
        """Return the first moment up to `until_ns` at which a bar ends that may close a position by force, or another
        one may change what is held; `until_ns` where there is none before, or one member has the account alone."""
        held = [number for number, walker in enumerate(self.walkers) if walker.unwatched is not None]
        if not held or len(self.walkers) == 1:
            return until_ns
        for walker, tape in zip(self.walkers, self.tapes, strict=True):
            until_ns = min([until_ns, *filter(None, [walker.next_ns(tape.ended_by(until_ns))])])
        return min(self._forced_from(number, until_ns) for number in held)

    def _forced_from(self, number: int, until_ns: int) -> int:
        """Return the end of the first bar of a member up to `until_ns` that may close its position by force while all
        positions stay, `until_ns` where none does. In float64, and with the highest margin that each may keep."""
        tape, first = self.tapes[number], self.walkers[number].unwatched or 0
        part = slice(first, tape.ended_by(until_ns) + 1)
        begins = tape.bars.time_ns[part]
        free = np.full(len(begins), float(self.cash))
        near = np.abs(free) * _ROUNDING + _ROUNDING
        for at, (walker, other) in enumerate(zip(self.walkers, self.tapes, strict=True)):
            if not (position := float(walker.position)):
                continue
            own = tape.bars.low if position > 0 else tape.bars.high
            prices = own[part] if at == number else self._series[other.symbol].on(begins)
            worth = prices * (position * float(other.setup.instrument.multiplier))
            margin = other.setup.margin_kept
            share, each = (1.0, 0.0) if margin is None else map(float, margin.kept_most)
            free += worth - np.abs(worth) * share - abs(position) * each
            near += np.abs(worth) * _ROUNDING
        is_near = free <= near
        return int(tape.ends_ns[part][is_near.argmax()]) if is_near.any() else until_ns

    def traded(self, number: int, month: int) -> Decimal:
        """Return the volume of a month of all members with the commission of this one."""
        commission = self.tapes[number].setup.costs.commission
        pairs = zip(self.walkers, self.tapes, strict=True)
        return sum((w.traded(month) for w, tape in pairs if tape.setup.costs.commission == commission), _ZERO)

    def _held(self) -> dict[str, Decimal]:
        held: dict[str, Decimal] = {}
        for walker, tape in zip(self.walkers, self.tapes, strict=True):
            held[tape.symbol] = held.get(tape.symbol, _ZERO) + walker.position
        return held

    def book(self, number: int, fill: FillRow, moment_ns: int, *, is_in_bar: bool) -> None:
        """Take a fill of a member."""
        key = (moment_ns, _IN_BAR if is_in_bar else _AT_OPEN)
        self._booked.append(_Booked(key, number, self.tapes[number].symbol, fill))

    def look(self, number: int, index: int) -> None:
        """See the account at the close of a member's bar, on which an entry is decided."""
        self._loss(int(self.tapes[number].ends_ns[index]))

    def refusal(self, number: int, entry: DecidedEntry, entries: int) -> Denial | None:
        """Return why live would deny an entry that a member decided, or None. `entries`: those in its position."""
        tape, now_ns = self.tapes[number], int(self.tapes[number].ends_ns[entry.index])
        own = self.walkers[number].position
        held, others = self._held(), _ZERO
        for at, (walker, other) in enumerate(zip(self.walkers, self.tapes, strict=True)):
            if at != number and other.setup.instrument.base == tape.setup.instrument.base:
                others += max(walker.position, _ZERO)
        positions = {symbol: amount for symbol, amount in held.items() if amount and symbol != tape.symbol}
        funds = Funds(
            position=held[tape.symbol],
            cash=self.cash,
            loss=self._loss(now_ns),
            own=own,
            coins_of_others=others if entry.side is Side.SELL else _ZERO,
            exposures={symbol: self._series[symbol].worth(abs(amount), now_ns) for symbol, amount in positions.items()},
            shorts=frozenset(symbol for symbol, amount in positions.items() if amount < 0),
            correlations=self._correlations(tape.symbol, positions, now_ns),
            entries=entries,
            margin_free=self._margin_free(number, entry.index, held),
        )
        return self._single[number].denial(entry, funds)

    def _margin_free(self, number: int, index: int, held: dict[str, Decimal]) -> Decimal | None:
        """Return the equity less the margin of all positions at their newest closes, in quote: their value in full
        where they are paid for. None where no member trades on margin."""
        if all(tape.setup.margin_kept is None for tape in self.tapes):
            return None
        free, now_ns = self.equity(number, index), int(self.tapes[number].ends_ns[index])
        known = zip(self.tapes, self._single, strict=True)
        margins = {tape.symbol: one.margin_after(tape.ended_by(now_ns)) or Margin() for tape, one in known}
        for symbol, amount in held.items():
            if amount:
                series = self._series[symbol]
                free -= margins[symbol].needed(abs(amount), series.close(now_ns) or _ZERO, series.instrument)
        return free

    def _correlations(self, symbol: str, others: dict[str, Decimal], now_ns: int) -> dict[str, float | None]:
        """Return the correlation of the returns of a symbol with those of others, from bars that ended by `now_ns`."""
        limits = self._limits
        if limits.exposure_max_correlated is None:
            return {}
        interval_s = TIMEFRAMES[limits.correlation_timeframe]
        grid_ns = now_ns - now_ns % (interval_s * NS)
        found: dict[str, float | None] = {}
        for other in others:
            key = (min(symbol, other), max(symbol, other), grid_ns)
            if key not in self._correlated:
                left, right = (
                    self._series[name].returns(grid_ns, interval_s, limits.correlation_returns) for name in key[:2]
                )
                self._correlated[key] = correlation_of(left, right)
            found[other] = self._correlated[key]
        return found

    def curves(self, ends_ns: Ints) -> tuple[Floats, Floats, Ints]:
        """Return the account's equity, the sum of its positions' absolute values by symbol (both quote), and the number
        of members that hold a lot step or more, at each close. Shapes: (n,) -> three of (n,).

        A position counts from its fill on and is worth the newest close of its symbol, whichever member's. Cash and
        positions are exact, each rounded to float64 once.
        """
        cash, levels = self._cash, [(0, self._cash)]
        held: dict[str, Decimal] = {}
        own: dict[int, Decimal] = {}
        positions: dict[str, list[tuple[int, Decimal]]] = {symbol: [(0, _ZERO)] for symbol in self._series}
        holdings: dict[int, list[tuple[int, Decimal]]] = {number: [(0, _ZERO)] for number in range(len(self.tapes))}
        for row in self._booked:
            fill, item, symbol = row.fill, self._series[row.symbol].instrument, row.symbol
            side = "left" if row.key[1] == _IN_BAR else "right"  # a close comes before the fills of the bar after it
            at = int(np.searchsorted(ends_ns, row.key[0], side=side))  # type: ignore[call-overload]
            moved = net_quantity(fill.side, fill.quantity, fill.fee, fill.fee_currency, item)
            cash -= fill.side.sign * fill.quantity * fill.price * item.multiplier
            cash -= _ZERO if fill.fee_currency == item.base else fill.fee
            held[symbol] = held.get(symbol, _ZERO) + moved
            own[row.number] = own.get(row.number, _ZERO) + moved
            levels.append((at, cash))
            positions[symbol].append((at, held[symbol]))
            holdings[row.number].append((at, own[row.number]))
        equity, exposure = _steps(levels, len(ends_ns)), np.zeros(len(ends_ns))
        for symbol, series in self._series.items():
            worth = _steps(positions[symbol], len(ends_ns)) * series.on(ends_ns) * float(series.instrument.multiplier)
            equity += worth
            exposure += np.abs(worth)
        count = np.zeros(len(ends_ns), dtype=np.int64)
        for number, tape in enumerate(self.tapes):
            count += np.abs(_steps(holdings[number], len(ends_ns))) >= float(tape.setup.instrument.lot_step)
        return equity, exposure, count

    # ── loss of the day ──────────────────────────────────────────────────────────────────────────
    def _loss(self, now_ns: int) -> Decimal:
        """Return the day's loss when it reached the limit on any close of the day up to `now_ns`, else 0."""
        limits = self._limits
        if limits.loss_day_max >= _HUGE:
            return _ZERO
        start_ns = next((s for s, e in reversed(self._day_end_ns.items()) if s <= now_ns < e), None)
        if start_ns is None:
            start_ns = day_start_ns(now_ns, limits.day_zone, limits.day_start_hour)
            self._day_end_ns[start_ns] = day_start_ns(start_ns + _NEXT_DAY_NS, limits.day_zone, limits.day_start_hour)
        day = self._days.get(start_ns)
        if day is None:
            before = max((known for known in self._days if known < start_ns), default=None)
            day = _Day(start_ns, self._series, limits.loss_day_max, self._booked)
            day.begin(None if before is None else self._days[before])
            self._days[start_ns] = day
        return day.loss(now_ns)


@dataclass(frozen=True, slots=True)
class MemberChecks:
    """The checks of one member of an account."""

    account: AccountChecks
    number: int

    def equity(self, index: int) -> Decimal:
        """Return what the account is worth at the close of bar `index`."""
        return self.account.equity(self.number, index)

    def backing(self, index: int) -> Decimal:
        """Return the loss that a position may make beside its own value, when bar `index` begins."""
        return self.account.backing(self.number, index)

    def debit(self, index: int) -> Decimal:
        """Return the member's part of the account's cash below 0 at the close of bar `index`."""
        return self.account.debit(self.number, index)

    def traded(self, month: int) -> Decimal:
        """Return the account's volume of a month that counts for the member's commission."""
        return self.account.traded(self.number, month)

    def spendable(self) -> Decimal | None:
        """Return the account's cash now; None where a member trades on margin, as the checks see it."""
        is_paid = all(tape.setup.margin_kept is None for tape in self.account.tapes)
        return self.account.cash if is_paid else None

    def look(self, index: int, holding: AccountHolding) -> None:
        """See the account at the close of bar `index`, on which an entry is decided."""
        self.account.look(self.number, index)

    def reaches_loss(self, start: int, through: int, holding: AccountHolding) -> bool:
        """Members of an account enter at the market: no entry rests."""
        return False

    def refusal(self, entry: DecidedEntry, holding: AccountHolding) -> Denial | None:
        """Return why live would deny an entry, or None."""
        assert entry.order is None, "members of an account enter at the market"
        return self.account.refusal(self.number, entry, holding.entries)


@dataclass(frozen=True, slots=True)
class _Series:
    """The closes of one symbol by the end of their bars, over all members that trade it; of two bars that end together
    the shorter one's, which is the same price."""

    instrument: Instrument
    ends_ns: Ints
    closes: Floats

    @staticmethod
    def of(tapes: Sequence[MemberBars]) -> _Series:
        by_length = sorted(tapes, key=lambda tape: length_of(tape.bars.timeframe))
        ends = np.concatenate([tape.ends_ns for tape in by_length])
        closes = np.concatenate([tape.bars.close for tape in by_length])
        unique, first = np.unique(ends, return_index=True)
        return _Series(tapes[0].setup.instrument, unique, closes[first])

    def close(self, now_ns: int) -> Decimal | None:
        """Return the newest close by a moment; None before the first."""
        at = int(np.searchsorted(self.ends_ns, now_ns, side="right")) - 1
        return None if at < 0 else Decimal(repr(float(self.closes[at])))

    def worth(self, quantity: Decimal, now_ns: int) -> Decimal:
        """Return the value of a quantity (base) in quote at the newest close."""
        return quantity * (self.close(now_ns) or _ZERO) * self.instrument.multiplier

    def returns(self, grid_ns: int, interval_s: int, count: int) -> Floats:
        """Return the newest returns of the grid; see `fks.trading.risk.correlation`."""
        return returns_before(self.ends_ns, self.closes, grid_ns, interval_s, count)

    def on(self, moments_ns: Ints) -> Floats:
        """Return the newest close at each moment; 0 before the first, when nothing can be held."""
        at = np.searchsorted(self.ends_ns, moments_ns, side="right")
        found: Floats = np.concatenate([[0.0], self.closes])[at]
        return found


@dataclass(slots=True)
class _Day:
    """A trading day's profit over all symbols: the positions at their prices, less the positions of the day's start at
    their prices then, plus the quote that fills brought in, less fees. In float64 first; a value near the limit is
    worked out exactly."""

    start_ns: int
    series: dict[str, _Series]
    limit: Decimal
    booked: Sequence[_Booked]  # grows
    _seen_ns: int = 0  # closes up to here were looked at
    _used: int = 0
    _first: int = 0
    _held: dict[str, float] = field(default_factory=dict)
    _cash: float = 0.0
    _reached: tuple[int, Decimal] | None = None

    def begin(self, before: _Day | None) -> None:
        """Note what was held when the day began; `before` is an earlier day, which has the fills until then."""
        if before is not None:
            self._held, self._used = dict(before._held), before._used
        self._seen_ns = self.start_ns
        while self._used < len(self.booked) and self.booked[self._used].key < (self.start_ns, 1):
            self._take(self.booked[self._used])
        self._first, self._cash = self._used, 0.0
        for symbol, held in self._held.items():
            series = self.series[symbol]
            self._cash -= held * float(series.close(self.start_ns) or 0) * float(series.instrument.multiplier)

    def loss(self, now_ns: int) -> Decimal:
        """Return the loss that reached the limit by `now_ns`, else 0."""
        while self._used < len(self.booked) and self.booked[self._used].key <= (now_ns, 1):
            moment, order = self.booked[self._used].key
            self._look(moment - 1 if order == _IN_BAR else moment)
            self._take(self.booked[self._used])
        self._look(now_ns)
        return self._reached[1] if self._reached is not None and self._reached[0] <= now_ns else _ZERO

    def _take(self, row: _Booked) -> None:
        fill, item = row.fill, self.series[row.symbol].instrument
        quantity, fee, is_base = float(fill.quantity), float(fill.fee), fill.fee_currency == item.base
        moved = fill.side.sign * quantity - (fee if is_base else 0.0)
        self._held[row.symbol] = self._held.get(row.symbol, 0.0) + moved
        paid = fill.side.sign * quantity * float(fill.price) * float(item.multiplier)
        self._cash -= paid + (0.0 if is_base else fee)
        self._used += 1

    def _look(self, through_ns: int) -> None:
        """Look at the closes up to a moment, with present positions: the least favourable shows the greatest loss."""
        if through_ns <= self._seen_ns or self._reached is not None:
            return
        held = {symbol: amount for symbol, amount in self._held.items() if amount}
        seen = (self._seen_ns, through_ns)
        parts = [
            _between(series.ends_ns, *seen) for symbol, series in self.series.items() if symbol in held or not held
        ]
        moments = np.unique(np.concatenate(parts))
        self._seen_ns = through_ns
        if not len(moments):
            return
        worth = np.full(len(moments), self._cash)
        for symbol, amount in held.items():
            series = self.series[symbol]
            worth += amount * float(series.instrument.multiplier) * series.on(moments)
        at = int(worth.argmin())
        if -worth[at] > float(self.limit) * _NEAR and (loss := self._exact(int(moments[at]))) >= self.limit:
            self._reached = (int(moments[at]), loss)

    def _exact(self, now_ns: int) -> Decimal:
        """Return the day's loss at a moment by the function that live uses."""
        flows, held = DayFlows(), dict[str, Decimal]()
        for number, row in enumerate(self.booked[: self._used]):
            fill, item = row.fill, self.series[row.symbol].instrument
            moved = net_quantity(fill.side, fill.quantity, fill.fee, fill.fee_currency, item)
            held[row.symbol] = held.get(row.symbol, _ZERO) + moved
            if number >= self._first:
                value = fill.quantity * fill.price
                flows = flows.with_turnover(item, fill.side, fill.quantity, value, fill.fee, fill.fee_currency)
        instruments = {symbol: series.instrument for symbol, series in self.series.items()}
        prices, start = (
            {symbol: close for symbol, series in self.series.items() if (close := series.close(moment)) is not None}
            for moment in (now_ns, self.start_ns)
        )
        profit = day_profit(held, flows, instruments, prices, start)
        return -sum(profit.by_currency.values(), _ZERO)


def _steps(levels: list[tuple[int, Decimal]], count: int) -> Floats:
    """Return a column that takes each level from its row on; of several on one row the last. Shapes: -> (count,)."""
    column = np.zeros(count)
    ends = [*(at for at, _ in levels[1:]), count]
    for (at, value), end in zip(levels, ends, strict=True):
        column[at:end] = float(value)
    return column


def _between(ends_ns: Ints, after_ns: int, through_ns: int) -> Ints:
    first, last = np.searchsorted(ends_ns, (after_ns, through_ns), side="right")
    return ends_ns[first:last]
