"""Backtest of a portfolio: its trigger, plan, allocation and runs on bars, by the functions that decide live.

All decisions are made at the end of a bar, at the closes of the bars that end then
(`fks.trading.portfolio.rebalance.decide` and `plan`, `fks.trading.portfolio.allocation.allocate`). An order of a run is
sent at the open of the next bar: its price is compared with the plan's and the cash with the order there, and it fills
there entirely, with slippage and fee (`fks.trading.matching`). Buys are sent once all sells of their run have filled:
at the same open, unless a sell waits. A step waits for the next bar while its instrument has no bar, or its open is
further from the plan's price than the tolerance. With `RebalanceRules.collar` an order expires whose open, slipped, is
beyond its limit. The last bar decides
nothing: no bar follows to fill on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np

import fks
from fks.market.bars.splits import ensure_splits_known
from fks.model.bar import Bars, Floats, Ints
from fks.model.calendars import ALWAYS
from fks.model.codes import Code
from fks.model.decimals import plain
from fks.model.errors import InputError, unprocessable
from fks.model.instrument import Instrument
from fks.model.order import Role, Side
from fks.model.timeframe import NS, TIMEFRAMES, bar_start, iso
from fks.research.backtest.curve import deepest_fall
from fks.research.backtest.fingerprint import account_fills_hash, portfolio_inputs_hash
from fks.research.backtest.gaps import ensure_likely, ensure_whole, find_gaps
from fks.research.backtest.metrics import sharpe_ratio, sortino_ratio
from fks.research.backtest.report import ROWS_MAX
from fks.research.backtest.resample import resample
from fks.research.backtest.rows import FillRow
from fks.research.backtest.series import days_per_year, last_bars, returns_at
from fks.trading.matching import CostModel, is_accepted
from fks.trading.portfolio.allocation import (
    AllocationConstraints,
    AllocationMethod,
    AllocationOptions,
    AllocationWindow,
    allocate,
    target_weight,
)
from fks.trading.portfolio.rebalance import (
    AllocationHoldings,
    DriftReason,
    RebalanceCosts,
    RebalancePlan,
    RebalanceRules,
    RebalanceTrade,
    TargetWeight,
    Trigger,
    TriggerCode,
    TriggerFacts,
    TriggerMarket,
    TriggerPolicy,
    WeightDrift,
    affordable,
    decide,
    has_moved,
    plan,
    run_budget,
    weights_outside,
)
from fks.trading.risk.exits import split_at_lot

_ZERO, _ONE = Decimal(0), Decimal(1)
_CURVE, _DAY_S = 500, 86_400
#: float64 weights this far inside their bands are inside them exactly
_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class AllocationSchedule:
    """The times at which a method finds new targets, from returns of `timeframe` over `window_days` before each."""

    method: AllocationMethod
    times_ns: tuple[int, ...]
    constraints: AllocationConstraints
    options: AllocationOptions = field(default_factory=AllocationOptions)
    timeframe: str = "1d"
    window_days: int = 90
    coverage_min: float = 0.95


@dataclass(frozen=True, slots=True)
class PortfolioSetup:
    """Inputs of a backtest of a portfolio besides bars.

    `requests_ns`: times at which a schedule requests a rebalancing. Without `targets` the first allocation, at the
    start, makes them. `start_ns`: nothing is decided before; earlier bars are for allocations. `cash` is in the quote
    currency that all instruments share.
    """

    instruments: tuple[Instrument, ...]
    targets: tuple[TargetWeight, ...] = ()
    rules: RebalanceRules = field(default_factory=RebalanceRules)
    policy: TriggerPolicy = field(default_factory=lambda: TriggerPolicy(Trigger.DRIFT))
    costs: CostModel = field(default_factory=CostModel)
    cash: Decimal = Decimal(10_000)
    requests_ns: tuple[int, ...] = ()
    allocation: AllocationSchedule | None = None
    start_ns: int | None = None
    allow_gaps: bool = False


@dataclass(slots=True)
class RebalanceStep:
    """A trade of a plan, and what came of it: a fill, or the code why there is none. A fill of less than the plan's
    quantity has the code CASH. `ordered`: the quantity that was sent."""

    trade: RebalanceTrade
    ordered: Decimal = _ZERO
    fill: FillRow | None = None
    code: str | None = None

    @property
    def is_over(self) -> bool:
        return self.fill is not None or self.code is not None

    @property
    def cost_rate(self) -> Decimal:
        """Return the expected costs, a fraction of the value."""
        return (self.trade.fee + self.trade.slippage) / self.trade.value


@dataclass(slots=True)
class RebalanceRun:
    """A rebalancing: its plan, its steps, and its end. `state`: running, done or partial, as live; `reason`: the codes
    of trades that were not made, or MAX_AGE. `drift`: left at the opens of its last bar. Times are ns UTC."""

    number: int
    started_ns: int
    plan: RebalancePlan
    steps: tuple[RebalanceStep, ...]
    outside: tuple[str, ...]
    state: str = "running"
    reason: str | None = None
    ended_ns: int | None = None
    drift: tuple[WeightDrift, ...] = ()


@dataclass(frozen=True, slots=True)
class Reallocation:
    """Weights that a method found from bars that had closed by `as_of_ns`. `change`: the largest of a weight;
    `is_applied`: false if that was more than the policy's `change_max`."""

    as_of_ns: int
    applied_ns: int
    weights: Mapping[str, Decimal]
    change: Decimal
    is_applied: bool


@dataclass(frozen=True)
class PortfolioBacktest:
    """A finished run. `ends_ns` are the ends of all bars from the start on. Shapes, at each of them (n,): `equity` and
    `invested` (quote), and `drift`, the largest distance of a weight from its target. `decisions` counts final ones."""

    setup: PortfolioSetup
    bars: tuple[Bars, ...]
    ends_ns: Ints
    equity: Floats
    invested: Floats
    drift: Floats
    runs: tuple[RebalanceRun, ...]
    allocations: tuple[Reallocation, ...]
    decisions: Mapping[str, int]
    targets: tuple[TargetWeight, ...]
    quantities: Mapping[str, Decimal]
    cash: Decimal

    @cached_property
    def fills(self) -> tuple[tuple[int, str, FillRow], ...]:
        """Return all fills in order: number of the run, symbol, and the fill."""
        return tuple(
            (run.number, step.trade.instrument.symbol, step.fill)
            for run in self.runs
            for step in run.steps
            if step.fill is not None
        )

    @property
    def turnover(self) -> Decimal:
        """Return the value of all fills."""
        return sum((row.quantity * row.price for _, _, row in self.fills), _ZERO)

    @property
    def fees(self) -> Decimal:
        """Return all fees in quote, those in coins at the price of their fill."""
        quote = self.setup.instruments[0].quote
        return sum((f.fee if f.fee_currency == quote else f.fee * f.price for _, _, f in self.fills), _ZERO)

    @cached_property
    def inputs_hash(self) -> str:
        """Return the fingerprint of everything that went in."""
        instruments = tuple(replace(item, updated_ns=0) for item in self.setup.instruments)
        setup = _canonical(asdict(replace(self.setup, instruments=instruments)))
        return portfolio_inputs_hash(fks.__version__, self.bars, setup)

    @cached_property
    def fills_hash(self) -> str:
        """Return the fingerprint of the ordered fills of all runs."""
        return account_fills_hash(self.fills)

    @cached_property
    def statistics(self) -> dict[str, float | int | None]:
        """Return the figures: money in quote, shares and rates in percent, `turnover` in multiples of the mean equity.
        Ratios are of daily returns, a year of the market's days, no risk-free rate; None where not defined."""
        start, final = float(self.setup.cash), float(self.equity[-1])
        calendars = {part.calendar for part in self.bars}
        calendar = self.bars[0].calendar if len(calendars) == 1 else ALWAYS
        year = days_per_year(calendar)
        returns = returns_at(self.equity, last_bars(self.ends_ns - 1, _DAY_S, calendar), start)
        spread = float(returns.std(ddof=1)) if len(returns) > 2 else None
        states = Counter(run.state for run in self.runs)
        return {
            "days": float(self.ends_ns[-1] - self.ends_ns[0]) / (_DAY_S * NS),
            "final_equity": final,
            "net_profit": final - start,
            "return_pct": 100.0 * (final / start - 1.0),
            "max_drawdown_pct": 100.0 * deepest_fall(self.equity, start),
            "volatility_pct": None if spread is None else 100.0 * spread * year**0.5,
            "sharpe": sharpe_ratio(returns, year),
            "sortino": sortino_ratio(returns, year),
            "runs": len(self.runs),
            "runs_partial": states["partial"],
            "fills": len(self.fills),
            "fees": float(self.fees),
            "turnover": float(self.turnover) / float(self.equity.mean()),
            "invested_pct": 100.0 * float((self.invested / self.equity).mean()),
            "drift_mean_pct": 100.0 * float(self.drift.mean()),
            "drift_max_pct": 100.0 * float(self.drift.max()),
        }


def run_portfolio(bars: Sequence[Bars], setup: PortfolioSetup) -> PortfolioBacktest:
    """Return what a portfolio would have traded. `bars` are those of `setup.instruments`, in their order, all of one
    timeframe.

    Guarantees: a decision depends on bars that had ended by then, an order besides on the open that it fills at; so
    later bars change no earlier run. Nothing is sold beyond the holding.
    Errors: InputError PORTFOLIO_BARS, PORTFOLIO_INSTRUMENT, PORTFOLIO_TARGETS, PORTFOLIO_TRIGGER, NO_DATA; those of
    `allocate` and COVERAGE_LOW; TapeRefused.
    """
    _check(bars, setup)
    for part in bars:
        ensure_likely(part)
        if not setup.allow_gaps:
            ensure_whole(find_gaps(part))
            ensure_splits_known(part)
    walk = _PortfolioWalk(bars, setup)
    walk.walk()
    return walk.result()


class _Grid:
    """The bars of all instruments on one grid of open times. Shapes: (bars, instruments), NaN where one has no bar;
    `marks` are the newest closes, 0 before the first. `is_whole`: all instruments have the bar of a row."""

    def __init__(self, bars: Sequence[Bars]) -> None:
        self.time_ns: Ints = np.unique(np.concatenate([part.time_ns for part in bars]))
        self.step_ns = TIMEFRAMES[bars[0].timeframe] * NS
        shape = (len(self.time_ns), len(bars))
        self.open, self.close = np.full(shape, np.nan), np.full(shape, np.nan)
        for at, part in enumerate(bars):
            rows = np.searchsorted(self.time_ns, part.time_ns)
            self.open[rows, at], self.close[rows, at] = part.open, part.close
        self.is_whole = ~np.isnan(self.close).any(axis=1)
        self._bars, self._places = bars, {part.symbol: at for at, part in enumerate(bars)}
        newest = np.maximum.accumulate(np.where(np.isnan(self.close), -1, np.arange(shape[0])[:, None]), axis=0)
        self.marks = np.where(newest < 0, 0.0, self.close[np.maximum(newest, 0), np.arange(shape[1])])

    def closes(self, end_ns: int) -> dict[str, Decimal]:
        """Return the closes of the bars that end at a moment, by symbol."""
        row = int(np.searchsorted(self.time_ns, end_ns - self.step_ns))
        if row == len(self.time_ns) or self.time_ns[row] != end_ns - self.step_ns:
            return {}
        return self._prices(self.close, row)

    def opens(self, row: int) -> dict[str, Decimal]:
        """Return the opens of the bars of a row, by symbol."""
        return self._prices(self.open, row)

    def range(self, row: int, symbol: str) -> Decimal:
        """Return the high less the low of a bar."""
        part = self._bars[self._places[symbol]]
        at = int(np.searchsorted(part.time_ns, self.time_ns[row]))
        return Decimal(repr(float(part.high[at]))) - Decimal(repr(float(part.low[at])))

    def _prices(self, columns: Floats, row: int) -> dict[str, Decimal]:
        values = columns[row].tolist()
        return {symbol: Decimal(repr(values[at])) for symbol, at in self._places.items() if values[at] > 0}


class _PortfolioWalk:
    """One pass over the grid. It owns cash, holdings, targets and the run that is under way."""

    def __init__(self, bars: Sequence[Bars], setup: PortfolioSetup) -> None:
        self._bars, self._setup, self._grid = tuple(bars), setup, _Grid(bars)
        self._places = {item.symbol: at for at, item in enumerate(setup.instruments)}
        self._first = 0 if setup.start_ns is None else int(np.searchsorted(self._grid.time_ns, setup.start_ns))
        if self._first + 2 > len(self._grid.time_ns):
            raise _wrong("NO_DATA", "there are no two bars from the start on", "choose a longer range, or load data")
        self._cash, self._held = setup.cash, dict.fromkeys(self._places, _ZERO)
        self._targets, self._targets_ns = self._with_all(setup.targets), 0
        self._runs: list[RebalanceRun] = []
        self._active: RebalanceRun | None = None
        self._allocations: list[Reallocation] = []
        self._decisions = Counter[str]()
        self._decided_ns: int | None = None
        self._requests = sorted(setup.requests_ns)
        self._waits_ns: int | None = None  # the request that was held at the moment before
        count = len(self._grid.time_ns)
        self._equity, self._invested, self._drift = np.zeros(count), np.zeros(count), np.zeros(count)
        self._outside = np.zeros(count, dtype=bool)  # a weight may be outside its band at the close of a row
        self._valued = self._first  # rows before have their equity
        schedule = setup.allocation
        self._due = sorted(schedule.times_ns) if schedule is not None else []
        self._series = {} if schedule is None else {b.symbol: resample(b, schedule.timeframe) for b in bars}

    def walk(self) -> None:
        """Decide at each moment, oldest first."""
        times = self._grid.time_ns.tolist()
        if not self._setup.targets:
            self._reallocate(times[self._first])
        self._due = [time_ns for time_ns in self._due if time_ns > times[self._first]]
        self._look_ahead(self._first)
        for row in range(self._first, len(times)):
            now_ns = times[row]
            if self._active is not None:
                self._advance(self._active, row)
            if self._due and self._due[0] <= now_ns and self._active is None:
                self._value_until(row)
                at_ns = max(time_ns for time_ns in self._due if time_ns <= now_ns)
                self._due = [time_ns for time_ns in self._due if time_ns > now_ns]
                self._reallocate(now_ns, at_ns)
                self._look_ahead(row)
            if (found := self._triggered(now_ns)) is not None:
                self._value_until(row)
                self._start(*found, now_ns)
                self._advance(self._runs[-1], row)
        self._value_until(len(times))

    # ── decisions ────────────────────────────────────────────────────────────────────────────────
    def _triggered(self, now_ns: int) -> tuple[RebalancePlan, tuple[str, ...]] | None:
        """Return the plan of a run that starts now and the symbols outside their bands, None if none does."""
        policy, requested_ns = self._setup.policy, None
        if policy.trigger is Trigger.SCHEDULE:
            while len(self._requests) > 1 and self._requests[1] <= now_ns:
                self._requests.pop(0)  # a newer request takes the place of one that waits
            if not self._requests or self._requests[0] > now_ns:
                return None
            requested_ns = self._requests[0]
            if requested_ns == self._waits_ns and now_ns - 1 - requested_ns > self._setup.rules.run_max_age_s * NS:
                self._decisions[TriggerCode.EXPIRED.value] += 1  # between this bar and the one before, as live
                self._requests.pop(0)
                return None
        facts = TriggerFacts(
            now_ns=now_ns,
            targets_ns=self._targets_ns,
            run_max_age_s=self._setup.rules.run_max_age_s,
            requested_ns=requested_ns,
            decided_ns=self._decided_ns,
            started_ns=self._runs[-1].started_ns if self._runs else None,
            is_running=self._active is not None,
        )
        code, planned, outside = decide(policy, facts, None), None, tuple[str, ...]()
        close_ns = bar_start(now_ns, policy.timeframe)
        if code is None:
            market, planned = self._market(now_ns, close_ns)
            code, outside = decide(policy, facts, market), market.outside
        assert code is not None
        if code.is_final:
            self._decisions[code.value] += 1
            if requested_ns is None:
                self._decided_ns = close_ns
            else:
                self._requests.pop(0)
        else:
            self._waits_ns = requested_ns
        return (planned, outside) if code is TriggerCode.START and planned is not None else None

    def _market(self, now_ns: int, close_ns: int) -> tuple[TriggerMarket, RebalancePlan | None]:
        """Return the facts about the instruments, and the plan if a trigger may need it."""
        policy, grid = self._setup.policy, self._grid
        row = int(np.searchsorted(grid.time_ns, close_ns - grid.step_ns))
        is_whole = self._first <= row and grid.time_ns[row] == close_ns - grid.step_ns and grid.is_whole[row]
        if policy.trigger is Trigger.DRIFT and is_whole and not self._outside[row]:
            return TriggerMarket(close_ns, None, (), 0), None
        traded = [t.instrument.symbol for t in self._targets if t.weight or self._held[t.instrument.symbol]]
        if policy.trigger is Trigger.DRIFT:
            closes = grid.closes(close_ns) if row >= self._first else {}
            if any(symbol not in closes for symbol in traded):
                return TriggerMarket(None, None, (), 0), None
            planned = self._plan(closes)
            outside = weights_outside(planned.drift, planned.cash, closes, policy.band)
            if close_ns != now_ns:
                planned = self._plan(prices := grid.closes(now_ns))
            else:
                prices = closes
        else:
            planned, outside = self._plan(prices := grid.closes(now_ns)), ()
        hold = DriftReason.PRICE_MISSING.value if any(symbol not in prices for symbol in traded) else None
        return TriggerMarket(close_ns, hold, outside, len(planned.trades)), planned

    def _plan(self, prices: Mapping[str, Decimal]) -> RebalancePlan:
        costs, items = self._setup.costs, self._setup.instruments
        expected = {
            item.symbol: RebalanceCosts.at(prices.get(item.symbol), costs.fee_rate, costs.slippage, item)
            for item in items
        }
        holdings = AllocationHoldings(self._cash, dict(self._held))
        return plan(holdings, self._targets, prices, self._setup.rules, expected, split=split_at_lot)

    def _with_all(self, targets: Sequence[TargetWeight]) -> tuple[TargetWeight, ...]:
        """Return targets, and the weight 0 for instruments without one."""
        named = {target.instrument.symbol for target in targets}
        rest = (TargetWeight(item, _ZERO) for item in self._setup.instruments if item.symbol not in named)
        return (*targets, *rest)

    def _reallocate(self, now_ns: int, at_ns: int | None = None) -> None:
        """Make the weights of the method targets, from bars that had closed at `at_ns`; the first ones in any case,
        later ones within the maximum change."""
        schedule = self._setup.allocation
        assert schedule is not None
        as_of_ns = bar_start(now_ns if at_ns is None else at_ns, schedule.timeframe)
        series = {symbol: (part.time_ns, part.close) for symbol, part in self._series.items()}
        window = AllocationWindow.of(series, schedule.timeframe, as_of_ns, schedule.window_days, schedule.coverage_min)
        before = {target.instrument.symbol: target.weight for target in self._targets}
        options = AllocationOptions(
            schedule.options.fixed,
            schedule.options.volatility,
            schedule.options.risk_aversion,
            schedule.options.turnover_penalty,
            {symbol: float(weight) for symbol, weight in before.items()},
        )
        symbols = [item.symbol for item in self._setup.instruments]
        found = allocate(
            schedule.method,
            symbols,
            window.returns,
            schedule.constraints,
            options,
            periods_per_year=window.periods_per_year,
        )
        weights = {symbol: target_weight(weight) for symbol, weight in found.weights.items()}
        change = max(abs(weight - before[symbol]) for symbol, weight in weights.items())
        is_first = at_ns is None
        is_applied = is_first or change <= self._setup.policy.change_max
        self._allocations.append(Reallocation(as_of_ns, now_ns, weights, change, is_applied))
        if is_applied:
            self._targets = tuple(TargetWeight(item, weights[item.symbol]) for item in self._setup.instruments)
            self._targets_ns = 0 if is_first else now_ns

    # ── runs ─────────────────────────────────────────────────────────────────────────────────────
    def _start(self, planned: RebalancePlan, outside: tuple[str, ...], now_ns: int) -> None:
        steps = tuple(RebalanceStep(trade) for trade in planned.trades)
        self._active = RebalanceRun(len(self._runs) + 1, now_ns, planned, steps, outside)
        self._runs.append(self._active)

    def _advance(self, run: RebalanceRun, row: int) -> None:
        """Take a run as far as it goes at the opens of a row."""
        now_ns, rules = int(self._grid.time_ns[row]), self._setup.rules
        self._value_until(row)
        opens, capital = self._grid.opens(row), run.plan.capital
        assert capital is not None
        is_old = now_ns > run.started_ns + round(rules.run_max_age_s * NS)
        buffer, are_sells_over = rules.cash_min * capital, True
        budget = run_budget(run.plan.cash - buffer, rules.cash_min, map(_counted, run.steps))
        for step in run.steps:  # sells come before buys
            if step.is_over:
                continue
            if is_old:
                step.code = "NOT_SENT"
                continue
            trade, quantity = step.trade, step.trade.quantity
            price, is_buy = opens.get(trade.instrument.symbol), trade.side is Side.BUY
            if price is None or has_moved(price, trade.price, rules.price_tolerance):
                are_sells_over = are_sells_over and is_buy
                continue
            if is_buy:
                if not are_sells_over:
                    break
                is_limit = trade.limit is not None
                cost = (trade.limit or price) * (_ONE + step.cost_rate * (_ONE - rules.cash_min))
                left = min(budget, self._cash - buffer)
                quantity = affordable(quantity, cost, left, trade.instrument, is_limit=is_limit)
                if quantity < trade.quantity:
                    step.code = DriftReason.CASH.value
            if quantity:
                step.ordered, step.fill = quantity, self._fill(trade, quantity, price, row, now_ns)
                step.code = step.code if step.fill is not None else Code.SLIPPAGE_GUARD.value
                budget = run_budget(budget, rules.cash_min, [_counted(step)])
        self._look_ahead(row)
        if all(step.is_over for step in run.steps):
            self._finish(run, opens, now_ns, is_old=is_old)

    def _fill(self, trade: RebalanceTrade, quantity: Decimal, price: Decimal, row: int, now_ns: int) -> FillRow | None:
        """Book the fill of an order at an open; None if that, slipped, is beyond its limit."""
        costs, instrument, side = self._setup.costs, trade.instrument, trade.side
        span = self._grid.range(row, instrument.symbol) if costs.slippage.unit == "range" else _ZERO
        price = costs.slippage.apply(side, price, span, instrument.tick)
        if trade.limit is not None and not is_accepted(price, trade.limit, side.sign):
            return None
        fee = costs.fee(side, quantity, price, instrument)
        self._held[instrument.symbol] += side.sign * quantity
        self._cash -= side.sign * quantity * price
        if fee.currency == instrument.quote:
            self._cash -= fee.amount
        else:
            self._held[instrument.symbol] -= fee.amount
        role = Role.ENTRY if side is Side.BUY else Role.EXIT
        return FillRow(now_ns, side, quantity, price, fee.amount, fee.currency, role)

    def _finish(self, run: RebalanceRun, opens: Mapping[str, Decimal], now_ns: int, *, is_old: bool) -> None:
        is_done = all(step.fill is not None and step.fill.quantity >= step.trade.quantity for step in run.steps)
        run.state, run.ended_ns = "done" if is_done else "partial", now_ns
        if not is_done:
            run.reason = "MAX_AGE" if is_old else " ".join(sorted({step.code for step in run.steps if step.code}))
        run.drift = self._plan(opens).drift
        self._active = None

    # ── curves ───────────────────────────────────────────────────────────────────────────────────
    def _value_until(self, row: int) -> None:
        """Value the holdings, as they are now, at the closes of all rows before `row` that have no value yet."""
        part = slice(self._valued, row)
        if part.start < part.stop:
            values = self._grid.marks[part] * self._quantities()
            self._invested[part] = values.sum(axis=1)
            self._equity[part] = float(self._cash) + self._invested[part]
            weights = values / self._equity[part][:, None]
            self._drift[part] = np.abs(weights - self._weights()).max(axis=1)
            self._valued = row

    def _look_ahead(self, row: int) -> None:
        """Note at which closes from `row` on a weight may be outside its band if nothing is traded, in float64.

        The exact weights are only computed at these. No decision is made of a later close.
        """
        policy, rules = self._setup.policy, self._setup.rules
        if policy.trigger is not Trigger.DRIFT:
            return
        values = self._grid.marks[row:] * self._quantities()
        capital = float(self._cash) + values.sum(axis=1)
        weights = values / capital[:, None]
        least, most = np.zeros(len(self._places)), np.zeros(len(self._places))
        for target in self._targets:  # costs only make a band wider
            weight, band = target.weight, rules.band if policy.band is None else policy.band
            if policy.band is None and rules.band_relative is not None:
                band = min(band, rules.band_relative * weight)
            is_own = policy.band is None
            at = self._places[target.instrument.symbol]
            least[at] = float(weight - band if target.least is None or not is_own else target.least)
            most[at] = float(weight + band if target.most is None or not is_own else target.most)
        self._outside[row:] = ((weights < least + _CLOSE) | (weights > most - _CLOSE)).any(axis=1)

    def _quantities(self) -> Floats:
        return np.array([float(self._held[symbol]) for symbol in self._places])

    def _weights(self) -> Floats:
        found = np.zeros(len(self._places))
        for target in self._targets:
            found[self._places[target.instrument.symbol]] = float(target.weight)
        return found

    def result(self) -> PortfolioBacktest:
        """Return the result."""
        part = slice(self._first, None)
        return PortfolioBacktest(
            self._setup,
            self._bars,
            self._grid.time_ns[part] + self._grid.step_ns,
            self._equity[part],
            self._invested[part],
            self._drift[part],
            tuple(self._runs),
            tuple(self._allocations),
            dict(self._decisions),
            self._targets,
            dict(self._held),
            self._cash,
        )


def _counted(step: RebalanceStep) -> tuple[Side, Decimal, Decimal, Decimal]:
    """Return a step as `run_budget` takes it."""
    trade, fill = step.trade, step.fill
    if trade.side is Side.BUY and trade.limit is not None:
        return trade.side, step.ordered, trade.limit, step.cost_rate
    if fill is None:
        return trade.side, _ZERO, trade.price, step.cost_rate
    return trade.side, fill.quantity, fill.price, step.cost_rate


def _check(bars: Sequence[Bars], setup: PortfolioSetup) -> None:
    """Refuse inputs that make no portfolio. Errors: InputError."""
    symbols = [item.symbol for item in setup.instruments]
    frames, quotes = {part.timeframe for part in bars}, {item.quote for item in setup.instruments}
    if [part.symbol for part in bars] != symbols or len({*symbols}) < len(symbols) or not all(map(len, bars)):
        raise _wrong("PORTFOLIO_BARS", "bars and instruments are not the same", "give bars of each instrument, once")
    if len(frames) > 1 or not all(TIMEFRAMES.get(frame) for frame in frames):
        raise _wrong("PORTFOLIO_BARS", f"bars are of {', '.join(sorted(frames))}", "give bars of one timeframe")
    if len(quotes) > 1 or any(item.is_contract for item in setup.instruments):
        raise _wrong(
            "PORTFOLIO_INSTRUMENT",
            f"not all of {', '.join(symbols)} are pairs of coins in one currency",
            "a portfolio holds pairs of its own currency",
        )
    total = sum((target.weight for target in setup.targets), setup.rules.cash_min)
    strange = {target.instrument.symbol for target in setup.targets} - {*symbols}
    if strange or total > 1 or not (setup.targets or setup.allocation):
        text = f"targets of {', '.join(sorted(strange))} have no bars" if strange else f"they add up to {total:f}"
        text = text if setup.targets else "there are no targets and no allocation"
        raise _wrong("PORTFOLIO_TARGETS", text, "give weights that add up to at most 1 with cash_min, each with bars")
    length_s, policy = TIMEFRAMES[next(iter(frames))], setup.policy
    if policy.trigger is Trigger.PERSON or policy.needs_approval:
        raise _wrong("PORTFOLIO_TRIGGER", "no person starts runs in a backtest", "give the trigger schedule or drift")
    if not TIMEFRAMES.get(policy.timeframe) or TIMEFRAMES[policy.timeframe] % length_s:
        raise _wrong(
            "PORTFOLIO_TRIGGER",
            f"closes of {policy.timeframe} are not among those of {'/'.join(frames)} bars",
            "give the trigger a multiple of the bars' timeframe",
        )


def _wrong(code: str, message: str, remedy: str) -> InputError:
    return unprocessable(code, message, remedy)


# ── document ─────────────────────────────────────────────────────────────────────────────────────
def portfolio_document_of(found: PortfolioBacktest, *, sources: Sequence[str] = ()) -> dict[str, Any]:
    """Return the result as JSON-able values (`fks.portfolio_backtest/1`), money as text: inputs, fingerprints, figures,
    each run with its steps, allocations, and equity, invested value and drift at up to 500 moments."""
    setup, schedule = found.setup, found.setup.allocation
    targets = {target.instrument.symbol: target for target in found.targets}
    chosen = np.unique(np.linspace(0, len(found.ends_ns) - 1, min(_CURVE, len(found.ends_ns))).astype(int)).tolist()
    policy = setup.policy
    runs, listed = [], 0
    for run in found.runs:
        listed += len(run.steps)
        runs.append(_run_of(run, has_steps=listed <= ROWS_MAX))
    return {
        "timeframe": found.bars[0].timeframe,
        "from": iso(int(found.ends_ns[0])),
        "to": iso(int(found.ends_ns[-1])),
        "currency": setup.instruments[0].quote,
        "cash": plain(setup.cash),
        "final_cash": plain(found.cash),
        "instruments": [
            {
                "exchange": item.exchange,
                "symbol": item.symbol,
                "source": sources[at] if sources else "",
                "target": plain(targets[item.symbol].weight),
                "quantity": plain(found.quantities[item.symbol]),
                "gaps": find_gaps(found.bars[at]).as_dict(),
            }
            for at, item in enumerate(setup.instruments)
        ],
        "rules": _canonical(asdict(setup.rules)),
        "trigger": {
            name: _canonical(getattr(policy, name))
            for name in ("trigger", "band", "timeframe", "cooldown_s", "change_max")
        },
        "allocation": None
        if schedule is None
        else {"method": schedule.method.value, "timeframe": schedule.timeframe, "window_days": schedule.window_days},
        "fee_rate": plain(setup.costs.fee_rate),
        "fee_in": setup.costs.fee_in,
        "slippage": str(setup.costs.slippage),
        "allow_gaps": setup.allow_gaps,
        "inputs_hash": found.inputs_hash,
        "fills_hash": found.fills_hash,
        "statistics": {n: round(v, 8) if isinstance(v, float) else v for n, v in found.statistics.items()},
        "decisions": dict(found.decisions),
        "runs": runs,
        "allocations": [
            {
                "as_of": iso(row.as_of_ns),
                "applied_at": iso(row.applied_ns) if row.is_applied else None,
                "change": plain(row.change),
                "weights": {symbol: plain(weight) for symbol, weight in row.weights.items()},
            }
            for row in found.allocations
        ],
        "equity": [
            [
                iso(int(found.ends_ns[at])),
                round(float(found.equity[at]), 8),
                round(float(found.invested[at]), 8),
                round(float(found.drift[at]), 8),
            ]
            for at in chosen
        ],
    }


def _run_of(run: RebalanceRun, *, has_steps: bool) -> dict[str, Any]:
    fills = [step.fill for step in run.steps if step.fill is not None]
    left = [abs(row.left) for row in run.drift if row.left is not None]
    assert run.plan.capital is not None
    return {
        "run": run.number,
        "started_at": iso(run.started_ns),
        "ended_at": None if run.ended_ns is None else iso(run.ended_ns),
        "state": run.state,
        "reason": run.reason,
        "outside": list(run.outside),
        "capital": plain(run.plan.capital),
        "turnover": plain(sum((fill.quantity * fill.price for fill in fills), _ZERO)),
        "orders": len(run.steps),
        "drift_left": plain(round(max(left, default=_ZERO), 8)),
        "steps": [
            {
                "step": step.trade.number,
                "symbol": step.trade.instrument.symbol,
                "side": step.trade.side.value,
                "planned": plain(step.trade.quantity),
                "planned_price": plain(step.trade.price),
                **({} if step.trade.limit is None else {"limit_price": plain(step.trade.limit)}),
                "code": step.code,
                **({} if step.fill is None else step.fill.as_dict()),
            }
            for step in run.steps
        ]
        if has_steps
        else [],
    }


def _canonical(value: Any) -> Any:
    """Return a value as JSON has it, decimals as text."""
    if isinstance(value, Mapping):
        return {str(name): _canonical(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        found = [_canonical(one) for one in value]
        return sorted(found) if isinstance(value, set | frozenset) else found
    if isinstance(value, Decimal):
        return plain(value)
    return value.value if isinstance(value, Enum) else value
