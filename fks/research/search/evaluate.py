"""Evaluation of one trial: the strategy on the ranges of a split, through the backtest itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from fks.model.bar import Bars, Floats
from fks.model.errors import InputError
from fks.research.backtest import Result, Setup, TapeRefused, run
from fks.research.backtest.run import panel_of
from fks.research.search.objectives import Returns, metrics_of, period_of, values_of
from fks.research.search.overfitting import block_sums
from fks.research.search.plans import Plan, Proposal
from fks.research.search.space import Params, Space
from fks.research.search.splits import Range, Split
from fks.strategies.base import Strategy, fitted_on

BLOCKS = 16  # of the cross-validation for overfitting, as in its paper


@dataclass(frozen=True, slots=True)
class SearchTask:
    """Inputs of every trial of a search. The last split chooses the final parameters. `finer`: as of
    `fks.research.backtest.run`."""

    space: Space
    bars: Bars
    setup: Setup
    plan: Plan
    objectives: tuple[str, ...]
    splits: tuple[Split, ...]
    trades_min: int = 1
    finer: Bars | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """Result of one trial on the train ranges of split `fold`.

    `state` is done, pruned or failed; `values` are None when there is nothing to compare. `sums` (3, BLOCKS): see
    `block_sums`; only of the last split, for the statistics of overfitting.
    """

    fold: int
    number: int
    params: Mapping[str, Any]
    state: str
    values: tuple[float, ...] | None
    metrics: Mapping[str, float]
    steps: tuple[float, ...] = ()
    sums: Floats | None = None
    error: str = ""


def evaluate(task: SearchTask, fold: int, proposal: Proposal) -> Trial:
    """Return the trial. An error of the strategy is the trial's own. Errors: TapeRefused, which is every trial's."""
    split = task.splits[fold]
    ranges = _parts(split.train, task.plan.parts) if task.plan.prune else split.train
    steps: list[float] = []
    found: list[Returns] = []
    try:
        strategy = strategy_of(task, proposal.params, split.train)
        for number, part in enumerate(ranges):
            found.append(_returns(task, strategy, part))
            if task.plan.prune and number < len(ranges) - 1:
                so_far = values_of(task.objectives, metrics_of(joined(found)), 0)
                steps.append(so_far[0] if so_far is not None else 0.0)
                if proposal.prune_below and max(steps) < proposal.prune_below[number]:
                    metrics = metrics_of(joined(found))
                    return Trial(fold, proposal.number, proposal.params, "pruned", (steps[-1],), metrics, tuple(steps))
    except TapeRefused:
        raise
    except Exception as error:  # a strategy's own code may raise anything; the search goes on without this trial
        text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return Trial(fold, proposal.number, proposal.params, "failed", None, {}, error=text[:500])
    returns = joined(found)
    metrics = metrics_of(returns)
    values = values_of(task.objectives, metrics, task.trades_min)
    is_last = fold == len(task.splits) - 1
    sums = block_sums(returns.values, BLOCKS) if is_last and len(returns.values) >= 2 * BLOCKS else None
    return Trial(fold, proposal.number, proposal.params, "done", values, metrics, tuple(steps), sums)


def strategy_of(task: SearchTask, params: Params, train: tuple[Range, ...]) -> Strategy:
    """Return the strategy with these parameters, its estimator fitted on `train`. Errors: StrategyError."""
    strategy = task.space.make(params)
    assert strategy is not None, "an invalid combination is never proposed"
    return fitted_on(strategy, panel_of(task.bars, train)) if strategy.training() else strategy


def evaluate_ranges(task: SearchTask, params: Params, ranges: tuple[Range, ...], train: tuple[Range, ...]) -> Returns:
    """Return what these parameters, fitted on `train`, made on `ranges`, each begun and ended flat. Errors: those of
    the strategy and of `run`."""
    strategy = strategy_of(task, params, train)
    return joined([_returns(task, strategy, part) for part in ranges])


def run_range(task: SearchTask, params: Params, part: Range, train: tuple[Range, ...] = ()) -> Result:
    """Return the whole result, with its equity, of parameters, fitted on `train`, on one range, at the
    end of which an open position is closed at the last close."""
    return _run(task, strategy_of(task, params, train), part)


def _run(task: SearchTask, strategy: Strategy, part: Range) -> Result:
    low, high = part
    first = max(0, low - strategy.warmup())
    bars = task.bars[first:high]
    # else an open position would leave without its costs, and be no trade
    setup = replace(task.setup, start_ns=int(task.bars.time_ns[low]), is_closed_at_end=True)
    return run(strategy, bars, setup, engine="compiled", check=False, finer=task.finer)


def _returns(task: SearchTask, strategy: Strategy, part: Range) -> Returns:
    result = _run(task, strategy, part)
    period = period_of(task.bars)
    cash = float(task.setup.cash)
    return Returns.of(result.bars.time_ns[result.first :], result.equity, period, result.pnl, cash)


def joined(parts: list[Returns]) -> Returns:
    """Return runs one after the other as one."""
    if len(parts) == 1:
        return parts[0]
    values, ends_ns, pnl, trades = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "ends_ns", "pnl", "trades")
    )
    return Returns(values, ends_ns, parts[0].period, pnl, parts[0].cash, trades)


def _parts(ranges: tuple[Range, ...], count: int) -> tuple[Range, ...]:
    """Return the ranges cut into `count` parts of about equal length; a cut never joins two ranges."""
    total = sum(high - low for low, high in ranges)
    found: list[Range] = []
    for low, high in ranges:
        many = max(1, round(count * (high - low) / total))
        edges = np.linspace(low, high, many + 1).astype(int).tolist()
        found += list(pairwise(edges))
    return tuple(found)
