"""A backtest from end to end: check of the strategy, anchor, checks of the tape, decisions, and the walk by one of two
engines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from fks.market.bars.splits import ensure_splits_known
from fks.model.bar import Bars, Ints
from fks.model.errors import InputError, unprocessable
from fks.model.timeframe import TIMEFRAMES, iso, to_ns
from fks.research.backtest import kernel, reference
from fks.research.backtest.backtest import Backtest
from fks.research.backtest.cash_flows import delisted_from, ensure_events
from fks.research.backtest.gaps import (
    GAP_BARS_MAX,
    ensure_inputs,
    ensure_likely,
    ensure_seen,
    ensure_whole,
    find_gaps,
    long_gaps,
)
from fks.research.backtest.instrument import setup_for
from fks.research.backtest.result import EngineResult, Setup
from fks.research.backtest.units import to_units
from fks.strategies.base import (
    FittedState,
    Panel,
    Strategy,
    StrategyError,
    checked,
    decide,
    fitted_on,
    is_unfitted,
    target_wrong,
)
from fks.strategies.base.code import code_key
from fks.strategies.check import ensure_causal, ensure_checked, ensure_not_reentered

EngineName = Literal["auto", "compiled", "reference"]

#: bars from which on the compiled engine, with 0.4 s to load it, is the faster way to a first result
_LOAD_FROM = 300_000
#: first bars that a strategy is checked on, besides the synthetic ones
CHECK_BARS = 3_000


def run(
    strategy: Strategy,
    bars: Bars,
    setup: Setup | None = None,
    *,
    engine: EngineName = "auto",
    check: bool = True,
    finer: Bars | None = None,
) -> Backtest:
    """Return what `strategy` would have traded on `bars`. Without a setup: `setup_for(bars)`.

    The strategy is checked first (`check_tape`), which evaluates it about 150 times on up to 3,000 bars, once on all of
    them and 20 times on parts of these, unless it passed on the same bars before; `check=False` leaves that out.

    The anchor is the bar `strategy.warmup()` bars before `setup.start_ns` (or the first one); the first decision is
    made `warmup` bars after the anchor. Warm-up bars are contiguous: with a hole among them, or before the first
    decided bar, the anchor is the bar after the hole. A strategy with an estimator and no state is fitted on the bars
    before the first decision (`fitted_before`); the result has its state. A decision on the last bar has no bar to fill
    on. What is open at the end stays open.
    `engine`: `compiled` for many runs in one process, `reference` for the slow one in decimals; `auto` is the compiled
    one unless loading it takes longer than the run. Their results are equal, and `Result.engine` says which it was.
    `finer`: bars of a shorter timeframe over the same time. Where a bar reaches two prices in an unknown order they
    decide instead of the pessimistic rule.
    Dividends, funding and a delisting are those of `setup.events`; bars after a delisting are left out.
    The columns of `bars` are read-only from now on.
    Errors: InputError NO_DATA, FINER_TIMEFRAME, EVENT_CURRENCY, FUNDING_MISSING, CONTINUOUS_NEGATIVE,
    CONTINUOUS_EVENTS, TapeRefused, StrategyError; exceptions of the strategy go through.
    """
    ensure_not_reentered("a backtest")
    setup = setup_for(bars) if setup is None else setup
    _ = bars.ticks, bars.breaks  # kept by these bars, so that the check, this run and the next one have them
    if check:
        check_tape(strategy, bars, setup.start_ns)
    strategy, start_ns = fitted_before(strategy, traded(bars, setup), setup.start_ns)
    part = anchored(strategy, traded(bars, setup), start_ns)
    first = strategy.warmup()
    gaps = find_gaps(part)
    if not setup.allow_gaps:
        ensure_inputs(part)
        ensure_whole(gaps)  # the overall share first: it needs no run
    ensure_splits(part, setup)
    _ensure_rolled(part, setup)
    ensure_events(part, first, setup)
    ensure_finer(part, finer)
    outcome = _walk(strategy, part, first, setup, engine, finer)
    if not setup.allow_gaps:
        ensure_seen(part, lambda places: is_holding(outcome, setup, places))
    return Backtest(strategy, part, first, setup, gaps, outcome, finer)


def check_tape(strategy: Strategy, bars: Bars, start_ns: int | None = None) -> None:
    """Refuse prices that cannot be (`ensure_likely`), and a strategy that looks ahead or warms up too briefly, on
    synthetic bars and on the first of `bars` (3,000, or four times its warm-up), or looks ahead anywhere on them.
    A state that was fitted on bars after the first decision (`start_ns`) is refused, too.
    A check that was passed is remembered by the bars, for the strategy's code and parameters (`code_key`): it is not
    repeated on the same object before one of them changes. One that was failed is never remembered.
    Errors: TapeRefused TAPE_SPIKE; StrategyError STATE_AHEAD, and as `fks.strategies.check.ensure_checked`."""
    _ensure_fitted_before(strategy, bars, start_ns)
    passed, code = bars.passed, code_key(strategy)
    key = None if code is None else (code, bars.content_key())
    if key in passed:
        return
    ensure_likely(bars)
    first = max(CHECK_BARS, 4 * strategy.warmup()) + strategy.training()
    ensure_checked(strategy, [bars[:first]])
    if len(bars) > first:
        ensure_causal(strategy, bars)
    if key is not None:
        passed.add(key)


def _ensure_fitted_before(strategy: Strategy, bars: Bars, start_ns: int | None) -> None:
    """Refuse a state, also of a part, that has seen bars after the first decision. Errors: StrategyError
    STATE_AHEAD."""
    first = max(strategy.warmup(), 0 if start_ns is None else int(np.searchsorted(bars.time_ns, start_ns)))
    if first < len(bars):
        _ensure_fitted_until(strategy, bars, first)


def _ensure_fitted_until(strategy: Strategy, bars: Bars, first: int) -> None:
    for part in strategy.parts():
        _ensure_fitted_until(part, bars, first)
    state = getattr(strategy, "state", None)
    if not strategy.training() or state is None:
        return
    until = FittedState.model_validate(state).until
    if to_ns(until) > bars.ended_ns(first):
        raise StrategyError(
            f"strategy {strategy.name}: its state was fitted on bars until {iso(to_ns(until))}, and the run decides "
            f"from {iso(bars.ended_ns(first))} on",
            code="STATE_AHEAD",
            remedy="begin the run later (--from), or leave the state out (state=) and have it fitted before the run",
        )


def fitted_before(strategy: Strategy, bars: Bars, start_ns: int | None) -> tuple[Strategy, int | None]:
    """Return the strategy fitted on the last `training` bars that open before `start_ns` (None: on the first ones of
    all), and when decisions begin; both as given when it has its state or nothing to fit. Errors: InputError NO_DATA,
    StrategyError."""
    if not is_unfitted(strategy):
        return strategy, start_ns
    count = strategy.training()
    start = max(count, strategy.warmup()) if start_ns is None else int(np.searchsorted(bars.time_ns, start_ns))
    if start >= len(bars):
        raise _too_few_to_fit(strategy, bars, len(bars))
    return fitted_at_end(strategy, bars[:start]), int(bars.time_ns[start])


def fitted_at_end(strategy: Strategy, bars: Bars) -> Strategy:
    """Return the strategy fitted on the last `training` bars. Errors: InputError NO_DATA, StrategyError."""
    count = len(bars)
    if count < strategy.training():
        raise _too_few_to_fit(strategy, bars, count)
    return fitted_on(strategy, panel_of(bars, ((count - strategy.training(), count),)))


def _too_few_to_fit(strategy: Strategy, bars: Bars, count: int) -> InputError:
    return unprocessable(
        "NO_DATA",
        f"too few {bars.timeframe} bars of {bars.symbol}: there are {count}, and {strategy.name} is fitted on "
        f"{strategy.training()} before its first decision",
        "choose a later start or a longer range, or load more data (fks data sync)",
    )


def panel_of(bars: Bars, ranges: Sequence[tuple[int, int]]) -> Panel:
    """Return the bars of ascending ranges, in the shares of the last one, in parts without a hole (more than
    `GAP_BARS_MAX` missing bars)."""
    known = bars.known(ranges[-1][1])
    parts = []
    for low, high in ranges:
        edges = [low, *(long_gaps(known[low:high]) + low + 1).tolist(), high]
        parts += [known[start:end] for start, end in pairwise(edges)]
    return tuple(parts)


def traded(bars: Bars, setup: Setup) -> Bars:
    """Return the bars before the delisting of the instrument, all where there is none."""
    end = delisted_from(bars, setup.events.delisted)
    return bars if end is None else bars[:end]


def ensure_splits(bars: Bars, setup: Setup) -> None:
    """Refuse shares whose price jumps as in a split that is not known (`allow_gaps` takes them), and amounts a share
    over one that is: a share of before is several. Errors: InputError SPLIT_UNKNOWN, SPLIT_AMOUNTS."""
    if not setup.allow_gaps:
        ensure_splits_known(bars)
    if all(split.factor == 1 or split.time_ns <= bars.time_ns[0] for split in bars.splits):
        return
    costs, margin = setup.costs, setup.margin_kept
    amounts = {
        "slippage in ticks": costs.slippage.unit == "ticks",
        "a commission for each share": costs.commission.is_each,
        "a margin for each share": margin is not None and (margin.is_each or margin.at(True).is_each),
    }
    if found := [name for name, is_set in amounts.items() if is_set]:
        raise unprocessable(
            "SPLIT_AMOUNTS",
            f"{bars.symbol} was split during the run, and {found[0]} means another amount before it",
            "give a share of the price, or run the parts before and after the split apart",
        )


def _ensure_rolled(bars: Bars, setup: Setup) -> None:
    """Refuse a continuous future whose prices before its rolls would not be above 0 for the strategy, or that has cash
    flows. Errors: InputError CONTINUOUS_NEGATIVE, CONTINUOUS_EVENTS."""
    if bars.rolls and (setup.events.dividends or setup.events.funding):
        raise unprocessable(
            "CONTINUOUS_EVENTS",
            f"{bars.symbol} is a continuous future: it has no dividends and no funding",
            "leave them out",
        )
    if bars.rolls and float(bars.known(len(bars)).low.min()) <= 0:
        raise unprocessable(
            "CONTINUOUS_NEGATIVE",
            f"{bars.symbol}: prices of before the rolls, moved by their gaps, are not above 0",
            "choose a shorter range",
        )


def ensure_finer(bars: Bars, finer: Bars | None) -> None:
    """Refuse bars that cannot be inside those of a run. Errors: InputError FINER_TIMEFRAME."""
    if finer is None:
        return
    inside, whole = TIMEFRAMES[finer.timeframe], TIMEFRAMES.get(bars.timeframe, 1) or 28 * 86_400
    if finer.symbol != bars.symbol or not 0 < inside < whole or whole % inside:
        raise unprocessable(
            "FINER_TIMEFRAME",
            f"{finer.timeframe} bars of {finer.symbol} are not inside {bars.timeframe} bars of {bars.symbol}",
            "give bars of the same symbol whose timeframe divides that of the run",
        )


def _walk(
    strategy: Strategy, bars: Bars, first: int, setup: Setup, engine: EngineName, finer: Bars | None
) -> EngineResult:
    reason, most = "chosen", strategy.entries_max()
    decisions = decide(strategy, bars)
    has_orders = kernel.needs_orders(decisions, most)
    if engine == "auto":
        engine, reason = _cheaper(len(bars), has_orders=has_orders)
    if engine == "compiled":
        plan = kernel.plan(bars, first, setup, finer)
        if has_orders:
            decisions = checked(strategy, decisions, bars)
        try:
            outcome: EngineResult | str = plan if isinstance(plan, str) else kernel.walk(plan, decisions, reason, most)
        except kernel.TargetWrong as error:
            raise target_wrong(strategy, decisions, bars, error.index) from None
        if isinstance(outcome, EngineResult):
            is_read = not isinstance(plan, str) and plan.rules.finer_ns > 0  # months have no one length
            if finer is None or not outcome.unclear or is_read:
                return outcome
            outcome = f"{finer.timeframe} bars decide {outcome.unclear} bars"
        reason = outcome
    return reference.walk(bars, first, setup, checked(strategy, decisions, bars), reason, finer)


def _cheaper(count: int, *, has_orders: bool) -> tuple[EngineName, str]:
    if kernel.is_loaded(has_orders=has_orders):
        return "compiled", "loaded"
    if count >= _LOAD_FROM:
        return "compiled", f"{_LOAD_FROM} bars or more"
    return "reference", f"fewer than {_LOAD_FROM} bars, and the compiled engine is not loaded"


def is_holding(outcome: EngineResult, setup: Setup, places: Ints) -> npt.NDArray[np.bool_]:
    """Return whether a lot step or more is held after each of some bars."""
    fills = outcome.fills
    moves = fills.side * fills.quantity - np.where(fills.is_base_fee, fills.fee, 0)
    held = np.concatenate([moves[:0], [0], np.cumsum(moves)])
    after = held[np.searchsorted(fills.bar, places, side="right")]
    is_held: npt.NDArray[np.bool_] = np.abs(after) >= to_units(setup.instrument.lot_step, outcome.units.quantity)
    return is_held


def anchored(strategy: Strategy, bars: Bars, start_ns: int | None) -> Bars:
    """Return the bars from the anchor on. Errors: InputError NO_DATA when there is not one bar to decide and fill
    on."""
    warmup = strategy.warmup()
    start = 0 if start_ns is None else int(np.searchsorted(bars.time_ns, start_ns))
    wanted = max(0, start - warmup)
    anchor = _after_gaps(bars, wanted, warmup)
    part = bars[anchor:]
    if len(part) < warmup + 2:
        have = f"{len(part)} from {iso(int(part.time_ns[0]))}" if len(part) else "none"
        remedy = "choose a longer range, or load more data (fks data sync)"
        if anchor > wanted:
            have += f", after a gap of more than {GAP_BARS_MAX} bars"
            remedy = f"name the calendar of a market that closes (this is {bars.calendar}), or {remedy}"
        raise unprocessable(
            "NO_DATA",
            f"too few {bars.timeframe} bars of {bars.symbol}: {have}, and {strategy.name} needs {warmup} to warm up "
            "and 2 more",
            remedy,
        )
    return part


def _after_gaps(bars: Bars, anchor: int, warmup: int) -> int:
    """Return the first index from `anchor` on that is followed by `warmup` bars and a decided one without a hole.

    A hole is a gap longer than `GAP_BARS_MAX`: bars before it say nothing about the market after it.
    """
    for index in (long_gaps(bars[anchor:]) + anchor + 1).tolist():
        if index > anchor + warmup:
            break
        anchor = index
    return anchor
