"""Searches of parameters as jobs: a spec in, a task of `fks.research.search` and at the end a document out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ConfigDict, Field, field_validator

import fks
from fks.config.settings import Risk
from fks.research.backtest.fingerprint import inputs_hash
from fks.research.backtest.run import check_tape
from fks.research.jobs.backtest import BacktestSpec, BarsRequest, LoadedBars, setup_of
from fks.research.jobs.spec import checked_spec
from fks.research.search import Plan, Search, SearchTask, Trial, Validation, task_of
from fks.research.search.objectives import check_objectives
from fks.research.search.space import Space, space_of
from fks.strategies.registry import Catalogue, source_hash

KIND = "optimization"
WORKER = "optimization-worker"


class OptimizationSpec(BacktestSpec):
    """The subject of a search: a backtest whose parameters in `space` vary. `params` are those that stay the same.

    `from` is the first bar that is used: indicators warm up after it. `workers`: how many processes run trials at once
    (None: as the node allows); it changes nothing in the result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    space: dict[str, Any]
    plan: Plan = Plan()
    objectives: tuple[str, ...] = ("sharpe",)
    validation: Validation = Validation()
    trades_min: int = Field(1, ge=0, le=1_000_000_000)
    workers: int | None = Field(None, ge=1, le=1024)

    @field_validator("limits_currency")
    @classmethod
    def _in_quote(cls, given: str | None) -> str | None:
        if given is not None:
            raise ValueError("a search holds to limits in quote; leave it out")
        return given

    @field_validator("objectives", mode="before")
    @classmethod
    def _several(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    def request(self, space: Space) -> BarsRequest:
        """Return which bars it wants, with the columns that its combinations read beside them."""
        span = (self.start_ns, self.end_ns)
        return BarsRequest(self.symbol, self.exchange, self.timeframe, *span, 0, features=space.features())


def parse_optimization(spec: Mapping[str, Any]) -> OptimizationSpec:
    """Return a checked spec. Errors: InputError SPEC_WRONG naming the field, OBJECTIVE_UNKNOWN, TIMEFRAME_UNKNOWN."""
    found = checked_spec(OptimizationSpec, spec, "optimization", remedy="see 'fks optimize run --help'")
    check_objectives(found.objectives)
    return found


def task_for(
    spec: OptimizationSpec, loaded: LoadedBars, catalogue: Catalogue, limits: Risk | None = None
) -> SearchTask:
    """Return the task of a spec on its bars. `limits`: the node's [risk] settings.

    Errors: InputError STRATEGY_UNKNOWN, SPACE_WRONG, SPLITS_WRONG, NO_DATA.
    """
    setup = replace(setup_of(spec, loaded, limits), start_ns=None)
    return task_of(
        catalogue.kind(spec.strategy),
        spec.space,
        loaded.bars,
        setup,
        spec.plan,
        objective=spec.objectives,
        fixed=spec.params,
        validation=spec.validation,
        trades_min=spec.trades_min,
        context=catalogue.context,
        finer=spec.inside(loaded),
    )


def searched(spec: OptimizationSpec, catalogue: Catalogue) -> Space:
    """Return the combinations of a search. Errors: InputError STRATEGY_UNKNOWN, SPACE_WRONG."""
    return space_of(catalogue.kind(spec.strategy), spec.space, spec.params, context=catalogue.context)


def check_strategy_of(task: SearchTask, params: Mapping[str, Any]) -> None:
    """Prove on a prefix of the bars that the strategy with `params` does not look ahead. Errors: StrategyError."""
    strategy = task.space.make(params)
    assert strategy is not None, "an invalid combination is never proposed"
    check_tape(strategy, task.bars)


def document_of_search(driver: Search, *, source: str) -> dict[str, Any]:
    """Return the result of a finished search (`fks.optimization/1`) with its fingerprint. Errors: as `outcome`."""
    return {**driver.outcome(), "exchange": driver.task.setup.instrument.exchange, "source": source} | {
        "inputs_hash": search_hash(driver.task)
    }


def search_hash(task: SearchTask) -> str:
    """Return the SHA-256 over all inputs of a search: same inputs, same result, on any number of workers."""
    params: dict[str, object] = {
        "fixed": dict(task.space.fixed),
        "space": task.space.as_dict(),
        "plan": task.plan.model_dump(mode="json"),
        "objectives": list(task.objectives),
        "splits": [[list(map(list, split.train)), list(map(list, split.test))] for split in task.splits],
        "trades_min": task.trades_min,
    }
    if task.plan.is_guided:
        import optuna

        params["optuna"] = optuna.__version__
    strategy = task.space.strategy
    corner = {one.name: one.choices[0] if one.choices else one.low for one in task.space.dimensions}
    return inputs_hash(
        version=fks.__version__,
        strategy=strategy.name,
        source=source_hash(task.space.make(corner) or strategy),  # an instance has its members' code, too
        params=params,
        bars=task.bars,
        setup=task.setup,
        first=0,
        finer=task.finer,
    )


def result_of(trial: Trial) -> dict[str, Any]:
    """Return a trial's result as its row stores it."""
    return {
        "values": None if trial.values is None else list(trial.values),
        "metrics": dict(trial.metrics),
        "steps": list(trial.steps),
        "sums": None if trial.sums is None else trial.sums.tolist(),
        "error": trial.error,
    }


def trial_of(fold: int, number: int, params: Mapping[str, Any], state: str, result: Mapping[str, Any]) -> Trial:
    """Return a trial from its row, bit by bit what was stored."""
    import numpy as np

    values, sums = result.get("values"), result.get("sums")
    return Trial(
        fold,
        number,
        params,
        state,
        None if values is None else tuple(values),
        result.get("metrics") or {},
        tuple(result.get("steps") or ()),
        None if sums is None else np.array(sums, dtype=np.float64),
        result.get("error") or "",
    )
