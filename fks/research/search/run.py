"""The search: proposes trials, takes their results in any order, and judges the winner on bars that did not choose it.

`Search` is the driver without any I/O: `search` runs it in this process, a durable job over many. Memory is bounded
whatever the number of trials: of most of them only the value and the Sharpe ratio are used, then they are dropped.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fks.model.bar import Bars, Floats
from fks.model.errors import FksError, unprocessable
from fks.model.timeframe import iso
from fks.research.backtest import Setup, TapeRefused, find_gaps
from fks.research.backtest.gaps import ensure_whole
from fks.research.backtest.metrics import probabilistic_sharpe
from fks.research.backtest.result import Untraded
from fks.research.backtest.run import ensure_finer, ensure_splits
from fks.research.backtest.series import held_closes
from fks.research.search.evaluate import SearchTask, Trial, evaluate, evaluate_ranges, joined, run_range, strategy_of
from fks.research.search.montecarlo import METHODS, resample_trades
from fks.research.search.objectives import Returns, check_objectives, metrics_of, period_of, values_of
from fks.research.search.overfitting import (
    PASS,
    backtest_overfitting,
    deflated_sharpe,
    expected_best_sharpe,
    sharpe,
    track_record_needed,
)
from fks.research.search.plans import Plan, Planner, Proposal, TrialResult, planner_of
from fks.research.search.space import Params, space_of
from fks.research.search.splits import Range, Split, Validation, paths_of
from fks.research.search.stability import Surface
from fks.strategies.base import Strategy
from fks.strategies.check import ensure_not_reentered
from fks.trading.risk.sizing import Sizing

KEPT = 20  # best trials of each fold that a result lists
COMPARED_MAX = 1000  # trials of the cross-validation for overfitting: of more, every n-th and the best
SURFACE_MAX = 20_000  # trials up to which the neighbourhood and the heat map are made
CURVE_MAX = 400  # points of a curve in the result
PATHS_MAX = 12  # of the validation beside the median one, whose curves a result has
Asked = tuple[int, Proposal]  # (fold, proposal)
Evaluate = Callable[[SearchTask, Iterable[Asked]], Iterator[Trial]]


@dataclass(slots=True)
class _Best:
    """Order of the best trials: by the first objective, the earlier one first among equals."""

    trial: Trial

    def __lt__(self, other: _Best) -> bool:
        return _rank(self.trial) < _rank(other.trial)


def _rank(trial: Trial) -> tuple[float, int]:
    assert trial.values is not None
    return trial.values[0], -trial.number


@dataclass(slots=True)
class _Fold:
    """One search on the train ranges of one split."""

    planner: Planner
    stride: int
    waiting: dict[int, Trial | None] = field(default_factory=dict)  # a batch under way, or what came out of order
    best: list[_Best] = field(default_factory=list)
    front: list[Trial] = field(default_factory=list)  # of several objectives: those that no other beats in all
    is_done: bool = False
    following: int = 0  # number of the trial that is counted next
    done: int = 0
    pruned: int = 0
    failed: int = 0
    without_value: int = 0
    untraded: Params | None = None  # of the first trial without a trade
    first_error: str = ""
    sharpes: tuple[int, float, float] = (0, 0.0, 0.0)  # count, mean, sum of squared deviations (Welford)
    compared: list[Floats] = field(default_factory=list)
    values: list[tuple[Params, float]] | None = field(default_factory=list)

    def count(self, trial: Trial, objectives: int) -> None:
        self.done += trial.state == "done"
        self.pruned += trial.state == "pruned"
        self.failed += trial.state == "failed"
        if trial.error and not self.first_error:
            self.first_error = trial.error
        if trial.state != "done":
            return
        self._compare(trial)
        if trial.values is None:
            self.without_value += 1
            if self.untraded is None and not trial.metrics.get("trades"):
                self.untraded = trial.params
            return
        heapq.heappush(self.best, _Best(trial))
        if len(self.best) > KEPT:
            heapq.heappop(self.best)
        if objectives > 1:
            self._into_front(trial)
        if self.values is not None:
            self.values.append((trial.params, trial.values[0]))
            if len(self.values) > SURFACE_MAX:
                self.values = None

    def _compare(self, trial: Trial) -> None:
        """Take the trial's Sharpe ratio; one without trades has 0, and was a trial all the same."""
        ratio = trial.metrics.get("sharpe_period", 0.0)
        count, mean, spread = self.sharpes
        count, delta = count + 1, ratio - mean
        mean += delta / count
        self.sharpes = (count, mean, spread + delta * (ratio - mean))
        if trial.sums is not None and trial.number % self.stride == 0:
            self.compared.append(trial.sums)

    def _into_front(self, trial: Trial) -> None:
        if any(_beats(other, trial) for other in self.front):
            return
        self.front = [other for other in self.front if not _beats(trial, other)]
        self.front.append(trial)
        self.front.sort(key=_rank, reverse=True)
        del self.front[200:]

    @property
    def winner(self) -> Trial | None:
        return max(self.best).trial if self.best else None

    @property
    def variance(self) -> float:
        count, _, spread = self.sharpes
        return spread / (count - 1) if count > 1 else 0.0


def _beats(one: Trial, other: Trial) -> bool:
    assert one.values is not None
    assert other.values is not None
    pairs = list(zip(one.values, other.values, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


class Search:
    """Driver of one search. `ask` gives trials, `record` takes results, `outcome` judges; deterministic in the results.

    The order in which results of a batch arrive changes nothing. A search that was interrupted is continued by a new
    driver of the same task that is given the stored results.
    """

    def __init__(self, task: SearchTask) -> None:
        check_objectives(task.objectives)
        self.task = task
        self._folds = []
        for number in range(len(task.splits)):
            planner = planner_of(task.plan, task.space, len(task.objectives), number)
            self._folds.append(_Fold(planner, max(1, -(-planner.total // COMPARED_MAX))))

    @property
    def total(self) -> int:
        """Trials of the whole search; for a grid known exactly once it was asked for its last."""
        return sum(fold.planner.total for fold in self._folds)

    @property
    def done(self) -> int:
        """Trials that have ended."""
        return sum(fold.done + fold.pruned + fold.failed for fold in self._folds)

    @property
    def invalid(self) -> int:
        """Combinations that the strategy's own rules refused."""
        return sum(fold.planner.invalid for fold in self._folds)

    def best(self) -> Trial | None:
        """Return the best trial so far of the last split."""
        return self._folds[-1].winner

    def ask(self) -> list[Asked]:
        """Return the trials that may start now; none when results are awaited or the search has ended."""
        found: list[Asked] = []
        for number, fold in enumerate(self._folds):
            if fold.is_done or (fold.waiting and self.task.plan.is_guided):
                continue
            batch = fold.planner.ask()
            fold.is_done = not batch
            if self.task.plan.is_guided:
                fold.waiting = dict.fromkeys((one.number for one in batch), None)
            found += [(number, proposal) for proposal in batch]
            if found and not self.task.plan.is_guided:
                break  # an unguided plan streams
        return found

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to ask for; results may still be awaited."""
        return all(fold.is_done for fold in self._folds)

    def record(self, trial: Trial) -> None:
        """Take one result."""
        fold = self._folds[trial.fold]
        fold.waiting[trial.number] = trial
        if not self.task.plan.is_guided:
            # in order: sums of floats depend on it
            while (known := fold.waiting.pop(fold.following, None)) is not None:
                fold.count(known, len(self.task.objectives))
                fold.following += 1
            return
        batch = [known for _, known in sorted(fold.waiting.items()) if known is not None]
        if len(batch) < len(fold.waiting):
            return
        fold.waiting = {}
        for known in batch:
            fold.count(known, len(self.task.objectives))
        fold.planner.record([TrialResult(one.number, one.values, one.state == "pruned", one.steps) for one in batch])

    def outcome(self) -> dict[str, Any]:
        """Return the result as JSON-able values (`fks.optimization/1`): the final parameters, how they and each fold's
        winner did on bars that did not choose them, and what speaks for chance.

        Errors: InputError SEARCH_EMPTY when no trial has a value.
        """
        task = self.task
        tested = [
            _judged(task, split, fold)
            for split, fold in zip(task.splits, self._folds, strict=True)
            if not split.is_final
        ]
        last, winner = self._folds[-1], self._folds[-1].winner
        if winner is None:
            denied = None if last.untraded is None else _denied(task, last.untraded)
            if denied is not None:
                params = " ".join(f"{name}={value}" for name, value in (last.untraded or {}).items())
                text = f"{denied.text} ({params}); none of {self.done} trials has a value"
                raise unprocessable("SEARCH_EMPTY", text, denied.remedy)
            raise unprocessable(
                "SEARCH_EMPTY",
                f"none of {self.done} trials has a value: {last.failed} failed, {last.without_value} had fewer than "
                f"{task.trades_min} trades or no spread"
                + (f"; the first error: {last.first_error}" if last.first_error else ""),
                "widen the space, take more bars, or lower --min-trades",
            )
        outside = _outside(task, tested)
        overfitting = _overfitting_of(task, last, winner)
        chosen = _chosen(task, winner, outside)
        document = {
            "strategy": task.space.strategy.name,
            "symbol": task.bars.symbol,
            "timeframe": task.bars.timeframe,
            "from": iso(int(task.bars.time_ns[0])),
            "to": iso(int(task.bars.time_ns[-1])),
            "bars": len(task.bars),
            "finer_timeframe": None if task.finer is None else task.finer.timeframe,
            "fixed": dict(task.space.fixed),
            "space": task.space.as_dict(),
            "plan": task.plan.model_dump(mode="json"),
            "objectives": list(task.objectives),
            "searches": len(task.splits),
            "trials": {
                "total": self.done,
                "done": sum(fold.done for fold in self._folds),
                "pruned": sum(fold.pruned for fold in self._folds),
                "failed": sum(fold.failed for fold in self._folds),
                "without_value": sum(fold.without_value for fold in self._folds),
                "invalid": self.invalid,
                "repeated": sum(fold.planner.repeated for fold in self._folds),
                "first_error": next((fold.first_error for fold in self._folds if fold.first_error), None),
            },
            "best": chosen,
            "leaders": [_shown(item.trial) for item in sorted(last.best, reverse=True)],
            "front": [_shown(trial) for trial in last.front],
            "folds": [_without_returns(item) for item in tested],
            "out_of_sample": None if outside is None else outside["summary"],
            "overfitting": overfitting,
            "stability": _stability(task, last, winner),
            "monte_carlo": _histories(task, winner, outside),
        }
        return {**document, "findings": _findings(document)}


def _shown(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "params": dict(trial.params),
        "values": None if trial.values is None else [_rounded(value) for value in trial.values],
        "metrics": {name: _rounded(value) for name, value in trial.metrics.items()},
    }


def _rounded(value: float) -> float:
    return round(float(value), 8)


def _span(task: SearchTask, ranges: Sequence[Range]) -> list[dict[str, Any]]:
    return [
        {"from": iso(int(task.bars.time_ns[low])), "to": iso(int(task.bars.time_ns[high - 1])), "bars": high - low}
        for low, high in ranges
    ]


def _denied(task: SearchTask, params: Params) -> Untraded | None:
    """Return why these parameters traded nowhere on the bars of the last search: denials. None for other reasons."""
    train = task.splits[-1].train
    found = [run_range(task, params, part, train).no_trades for part in train]
    return next((reason for reason in found if reason is not None), None)


def _judged(task: SearchTask, split: Split, fold: _Fold) -> dict[str, Any]:
    """Return a fold's winner on its train and its test ranges."""
    found: dict[str, Any] = {"train": _span(task, split.train), "test": _span(task, split.test), "winner": None}
    winner = fold.winner
    if winner is None:
        return {**found, "error": fold.first_error or "no trial has a value"}
    try:
        returns = evaluate_ranges(task, winner.params, split.test, split.train)
    except TapeRefused:
        raise
    except FksError as error:
        return {**found, "winner": _shown(winner), "error": str(error)}
    metrics = metrics_of(returns)
    inside = winner.values[0] if winner.values else None
    outside = values_of(task.objectives[:1], metrics, 0)
    value = None if outside is None else outside[0]
    kept = None if inside is None or value is None or inside <= 0 else value / inside
    return {
        **found,
        "winner": _shown(winner),
        "value_train": None if inside is None else _rounded(inside),
        "value_test": None if value is None else _rounded(value),
        "kept": None if kept is None else round(kept, 4),
        "test_metrics": {name: _rounded(number) for name, number in metrics.items()},
        "_returns": returns,
        "_split": split,
    }


def _without_returns(fold: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fold.items() if not name.startswith("_")}


def _outside(task: SearchTask, tested: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the tests of the folds' winners as one record, and its summary: of several paths the median one."""
    judged = []
    for path in paths_of([split for split in task.splits if not split.is_final]):
        parts = [_tested(task, tested[number], part) for number, part in path]
        if known := [part for part in parts if part is not None]:
            made = joined(known)
            value = values_of(task.objectives[:1], found := metrics_of(made), 0)
            ranges = [part for (_, part), kept in zip(path, parts, strict=True) if kept is not None]
            judged.append((-math.inf if value is None else value[0], made, found, ranges))
    if not judged:
        return None
    judged.sort(key=lambda row: row[0])
    middle = (len(judged) - 1) // 2
    _, returns, metrics, ranges = judged[middle]
    others = [row[1] for place, row in enumerate(judged) if place != middle]
    values = returns.values
    pairs = [
        (fold["value_train"], fold["value_test"])
        for fold in tested
        if fold.get("value_train") is not None and fold.get("value_test") is not None
    ]
    inside = float(np.mean([pair[0] for pair in pairs])) if pairs else None
    outside = float(np.mean([pair[1] for pair in pairs])) if pairs else None
    is_ratio = inside is not None and outside is not None and inside > 0
    ratio = metrics.get("sharpe_period", 0.0)
    summary = {
        "tests": len(tested),
        "tests_above_zero": sum(pair[1] > 0 for pair in pairs),
        "value_train_mean": None if inside is None else _rounded(inside),
        "value_test_mean": None if outside is None else _rounded(outside),
        "kept": round(float(outside) / float(inside), 4) if is_ratio and outside is not None and inside else None,
        "probabilistic_sharpe": round(
            probabilistic_sharpe(ratio, len(values), skew=metrics["skew"], kurtosis=metrics["kurtosis"]), 6
        ),
        "metrics": {name: _rounded(value) for name, value in metrics.items()},
        "paths": [
            {
                "value": _rounded(value) if math.isfinite(value) else None,
                **{name: _rounded(found[name]) for name in ("return_pct", "max_drawdown_pct")},
            }
            for value, _, found, _ in judged
        ],
        "curves": _curves(task, ranges, returns, others),
    }
    return {"summary": summary, "returns": returns}


def _curves(task: SearchTask, ranges: Sequence[Range], returns: Returns, others: Sequence[Returns]) -> dict[str, Any]:
    """Return the growth over the held-back periods in percent, at no more than CURVE_MAX of them: of the median path,
    of buying and holding, and of up to PATHS_MAX other paths, from the worst on."""
    ends_ns = returns.ends_ns
    shown = ends_ns[np.unique(np.linspace(0, len(ends_ns) - 1, min(CURVE_MAX, len(ends_ns))).astype(int))]
    chosen: list[int] = []
    if others:
        chosen = np.unique(np.linspace(0, len(others) - 1, min(PATHS_MAX, len(others))).astype(int)).tolist()

    def grown(one: Returns) -> list[float]:
        rows = np.searchsorted(one.ends_ns, shown, side="right")
        growth = np.append(1.0, np.cumprod(1.0 + one.values))[rows]
        found: list[float] = np.round(100.0 * (growth - 1.0), 4).tolist()
        return found

    return {
        "time": [iso(int(at)) for at in shown],
        "return_pct": grown(returns),
        "hold_pct": grown(_held(task, ranges)),
        "others": [grown(others[place]) for place in chosen],
    }


def _tested(task: SearchTask, fold: Mapping[str, Any], part: Range) -> Returns | None:
    """Return the returns of a fold's winner on a part of its test; None where it has none."""
    returns: Returns | None = fold.get("_returns")
    if returns is None or fold["_split"].test == (part,):
        return returns
    try:
        return evaluate_ranges(task, fold["winner"]["params"], (part,), fold["_split"].train)
    except TapeRefused:
        raise
    except FksError:
        return None


def _overfitting_of(task: SearchTask, fold: _Fold, winner: Trial) -> dict[str, Any]:
    """Return what the statistics say of the winner, given how many trials it was chosen from.

    `hold_sharpe` is that of buying and holding on the same bars; `deflated_sharpe_above_hold` the probability that the
    winner's true ratio is above it by more than the best of so many trials shows by chance.
    """
    metrics = winner.metrics
    observed, periods = metrics.get("sharpe_period", 0.0), int(metrics["periods"])
    shape = {"skew": metrics["skew"], "kurtosis": metrics["kurtosis"]}
    trials = fold.sharpes[0] + fold.pruned
    variance = fold.variance
    compared = list(fold.compared)
    if winner.sums is not None and winner.number % fold.stride:
        compared.append(winner.sums)
    crossed = backtest_overfitting(np.stack(compared)) if len(compared) > 1 else None
    year = period_of(task.bars).per_year
    span = math.sqrt(year)
    bar, hold = expected_best_sharpe(trials, variance), sharpe(_held(task, task.splits[-1].train).values) or 0.0
    above = probabilistic_sharpe(observed, periods, **shape, benchmark=bar + max(hold, 0.0))
    return {
        "trials": trials,
        "periods": periods,
        "sharpe": _rounded(metrics.get("sharpe", 0.0)),
        "sharpe_mean": _rounded(fold.sharpes[1] * span),
        "sharpe_variance": _rounded(variance * year),
        "sharpe_without_skill": _rounded(bar * span),
        "period_s": round(metrics["period_s"]) if "period_s" in metrics else None,
        "probabilistic_sharpe": round(probabilistic_sharpe(observed, periods, **shape), 6),
        "deflated_sharpe": round(deflated_sharpe(observed, periods, trials=trials, variance=variance, **shape), 6),
        "hold_sharpe": _rounded(hold * span),
        "deflated_sharpe_above_hold": round(above, 6),
        "periods_needed": track_record_needed(observed, benchmark=bar, **shape),
        "cross_validation": None
        if crossed is None
        else {k: _rounded(v) if isinstance(v, float) else v for k, v in crossed.as_dict().items()},
    }


def _held(task: SearchTask, ranges: Sequence[Range]) -> Returns:
    """Return what buying at the first open of each range made until its end."""
    period, found = period_of(task.bars), []
    for low, high in ranges:
        part = task.bars[low:high]
        found.append(Returns.of(part.time_ns, held_closes(part), period, np.zeros(0), float(part.open[0])))
    return joined(found)


def _chosen(task: SearchTask, winner: Trial, outside: dict[str, Any] | None) -> dict[str, Any]:
    strategy = strategy_of(task, winner.params, task.splits[-1].train)
    return {**_shown(winner), "all_params": strategy.model_dump(mode="json")}


def _stability(task: SearchTask, fold: _Fold, winner: Trial) -> dict[str, Any] | None:
    if not fold.values or winner.values is None:
        return None
    names = [one.name for one in task.space.dimensions]
    surface = Surface(names, fold.values)
    around = surface.around(winner.params).as_dict()
    shown = {name: _rounded(value) if isinstance(value, float) else value for name, value in around.items()}
    if any(one.is_continuous for one in task.space.dimensions):
        return {**shown, "map": None}
    return {**shown, "map": surface.columns(names[0], names[1] if len(names) > 1 else None)}


def _histories(task: SearchTask, winner: Trial, outside: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return Monte Carlo histories of the out-of-sample trades, or of the winner's own when nothing was held back."""
    if outside is not None:
        returns: Returns = outside["returns"]
    else:
        train = task.splits[-1].train
        returns = evaluate_ranges(task, winner.params, train, train)
    found, compounds = {}, Sizing.parse(task.setup.sizing).needs_equity
    trades = returns.trades if compounds else returns.pnl
    for method in METHODS:
        runs = resample_trades(trades.tolist(), returns.cash, method=method, compounds=compounds, seed=task.plan.seed)
        if runs is None:
            return None
        found[method] = runs.as_dict()
    return {"of": "in_sample" if outside is None else "out_of_sample", **found}


def _findings(document: Mapping[str, Any]) -> list[str]:
    """Return what speaks against the final parameters, in sentences; none when nothing does."""
    overfitting, found = document["overfitting"], []
    value = document["best"]["values"][0]
    if value <= 0 and document["objectives"][0] not in ("drawdown", "few_trades"):
        found.append(f"{document['objectives'][0]} is {value:.2f} even where it was chosen")
    if overfitting["deflated_sharpe"] < PASS:
        found.append(
            f"the deflated Sharpe ratio is {overfitting['deflated_sharpe']:.2f}, below {PASS}: the best "
            f"of {overfitting['trials']} trials without any skill may look as good"
        )
    crossed = overfitting["cross_validation"]
    if crossed is not None and crossed["pbo"] > 0.5:
        found.append(
            f"the probability of overfitting is {crossed['pbo']:.2f}: what is best in one half of the time is mostly "
            "below the median in the other"
        )
    outside = document["out_of_sample"]
    if outside is None:
        found.append("nothing was held back: no bars have judged these parameters")
    elif outside["value_test_mean"] is None:
        found.append("the tests on held-back bars have no value: too few trades")
    elif outside["value_test_mean"] <= 0:
        found.append(
            f"on held-back bars {document['objectives'][0]} is {outside['value_test_mean']:.2f} "
            f"({outside['value_train_mean']:.2f} where it was chosen)"
        )
    elif outside["kept"] is not None and outside["kept"] < 0.5:
        found.append(f"held-back bars keep {100 * outside['kept']:.0f} % of {document['objectives'][0]}")
    near = document["stability"]
    if near is not None and near["ratio"] is not None and near["ratio"] < 0.5:
        found.append(
            f"the neighbours of the best parameters reach {100 * near['ratio']:.0f} % of its value: a peak, not a "
            "plateau"
        )
    return found


def serial(task: SearchTask, asked: Iterable[Asked]) -> Iterator[Trial]:
    """Yield the results of trials, one after the other, in this process."""
    return (evaluate(task, fold, proposal) for fold, proposal in asked)


def task_of(
    strategy: type[Strategy],
    space: Mapping[str, Any],
    bars: Bars,
    setup: Setup,
    plan: Plan | None = None,
    *,
    objective: str | Sequence[str] = "sharpe",
    fixed: Params | None = None,
    validation: Validation | None = None,
    trades_min: int = 1,
    context: dict[str, Any] | None = None,
    finer: Bars | None = None,
) -> SearchTask:
    """Return the checked task of a search. Errors: InputError and TapeRefused, as `search`."""
    ensure_not_reentered("a search")
    names = (objective,) if isinstance(objective, str) else tuple(objective)
    if not setup.allow_gaps:
        ensure_whole(find_gaps(bars))  # before any trial; each range is looked at again
    ensure_splits(bars, setup)
    ensure_finer(bars, finer)
    _ = bars.ticks, bars.breaks  # made once here; the ranges of all trials are views of them
    _ = None if finer is None else finer.ticks
    return SearchTask(
        space_of(strategy, space, fixed, context=context),
        bars,
        setup,
        plan or Plan(),
        check_objectives(names),
        (validation or Validation()).splits(len(bars)),
        trades_min,
        finer,
    )


def search(
    strategy: type[Strategy],
    space: Mapping[str, Any],
    bars: Bars,
    setup: Setup,
    plan: Plan | None = None,
    *,
    objective: str | Sequence[str] = "sharpe",
    fixed: Params | None = None,
    validation: Validation | None = None,
    trades_min: int = 1,
    finer: Bars | None = None,
    on_trial: Callable[[Search, Trial], None] = lambda search, trial: None,
    evaluate_all: Evaluate = serial,
) -> dict[str, Any]:
    """Search the parameters of a strategy class and return the result as JSON-able values.

    `space`: see `space_of`. `objective`: one or several of `OBJECTIVES`, greater is better. `fixed`: parameters that
    are not searched. `on_trial` is called after each trial, with the driver, and may raise to stop. `evaluate_all` runs
    the trials of a batch, here one after the other; `fks.research.jobs.pool` has one over processes. The result does
    not depend on it. `setup.start_ns` is ignored: all bars are used. `finer`: as of `fks.research.backtest.run`, for
    every trial.
    Errors: InputError SPACE_WRONG, PLAN_WRONG, SPLITS_WRONG, OBJECTIVE_UNKNOWN, SEARCH_EMPTY; TapeRefused.
    """
    task = task_of(
        strategy,
        space,
        bars,
        setup,
        plan,
        objective=objective,
        fixed=fixed,
        validation=validation,
        trades_min=trades_min,
        finer=finer,
    )
    driver = Search(task)
    while asked := driver.ask():
        for trial in evaluate_all(task, asked):
            driver.record(trial)
            on_trial(driver, trial)
    return driver.outcome()
