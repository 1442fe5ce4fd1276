"""Plans of a search: grid, random, and Optuna's samplers through ask and tell.

A planner is a deterministic function of its seed and of the answers to earlier batches: given the same answers again it
proposes the same trials. A search therefore continues after any crash: it asks again and passes the stored results on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fks.model.errors import BugError, unprocessable
from fks.research.search.space import Dimension, Space, Value

if TYPE_CHECKING:
    import optuna

COMBINATIONS_MAX = 1_000_000
_STREAM = 256  # trials that an unguided plan proposes at a time
_TRIES = 20  # proposals of a sampler without a valid, new combination before one is drawn at random
_DRAWS = 1000  # random draws without one before a plan takes its space for exhausted
STARTUP = 5  # finished trials before any is pruned


class Plan(BaseModel):
    """Method and budget of a search. `trials`: the budget of valid trials (a grid takes all combinations).

    `tpe` and `cmaes` maximise one objective, `nsga2` several. `batch` is how many trials a guided plan proposes before
    it has to know their results: at least the number of workers, and the same number gives the same search. `prune`
    ends a trial early that is below the median of the earlier ones, after each of `parts` parts of the bars.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["grid", "random", "tpe", "cmaes", "nsga2"] = "grid"
    trials: int | None = Field(None, ge=1, le=COMBINATIONS_MAX)
    seed: int = Field(1, ge=0, lt=2**32)
    batch: int = Field(8, ge=1, le=1000)
    prune: bool = False
    parts: int = Field(4, ge=2, le=50)

    @model_validator(mode="after")
    def _complete(self) -> Plan:
        if self.method != "grid" and self.trials is None:
            raise ValueError(f"method {self.method} needs a number of trials")
        if self.prune and self.method not in ("tpe", "cmaes"):
            raise ValueError("only tpe and cmaes can prune: they alone know earlier trials of one objective")
        return self

    @property
    def is_guided(self) -> bool:
        """Whether later trials depend on the results of earlier ones."""
        return self.method in ("tpe", "cmaes", "nsga2")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A trial to be run. `prune_below`: the score under which it ends, after each part but the last."""

    number: int
    params: Mapping[str, Value]
    prune_below: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class TrialResult:
    """Result of a proposal. `values`: one per objective, greater is better; None when there is nothing to compare.
    `steps`: the first objective after each part, of a plan that prunes."""

    number: int
    values: tuple[float, ...] | None
    is_pruned: bool = False
    steps: tuple[float, ...] = ()


class Planner(Protocol):
    """Proposes trials in batches. `invalid` counts combinations that the strategy refused, `repeated` those that were
    proposed before."""

    invalid: int
    repeated: int

    @property
    def total(self) -> int:
        """Budget of valid trials: exact for a grid once it was asked for its last batch, else the most there can be."""
        ...

    def ask(self) -> list[Proposal]:
        """Return the next trials; none when the plan has ended. A guided plan must know the answers to the last
        ones."""
        ...

    def record(self, answers: Sequence[TrialResult]) -> None:
        """Take the answers to all proposals of the last batch."""
        ...


def planner_of(plan: Plan, space: Space, objectives: int = 1, stream: int = 0) -> Planner:
    """Return the planner. `stream` makes the searches of several folds differ.

    Errors: InputError SPACE_WRONG for a grid over a continuous parameter or with more than a million combinations,
    PLAN_WRONG when the method cannot maximise that many objectives.
    """
    if plan.method == "grid":
        return _Grid(space)
    if plan.method == "random":
        return _Random(plan, space, stream)
    if (objectives > 1) != (plan.method == "nsga2"):
        raise unprocessable(
            "PLAN_WRONG",
            f"method {plan.method} with {objectives} objective(s)",
            "nsga2 takes two or more objectives, tpe and cmaes take one",
        )
    return _Guided(plan, space, objectives, stream)


class _Grid:
    """Every valid combination exactly once, in order."""

    def __init__(self, space: Space) -> None:
        self._space, self._next, self._number = space, 0, 0
        self._size = space.size
        if self._size > COMBINATIONS_MAX:
            raise unprocessable(
                "SPACE_WRONG",
                f"a grid of {self._size} combinations is too large (most {COMBINATIONS_MAX})",
                "take larger steps, or search with --method random or tpe",
            )
        self.invalid = self.repeated = 0

    @property
    def total(self) -> int:
        return self._size - self.invalid

    def ask(self) -> list[Proposal]:
        found: list[Proposal] = []
        while len(found) < _STREAM and self._next < self._size:
            params = self._space.at(self._next)
            self._next += 1
            if self._space.make(params) is None:
                self.invalid += 1
                continue
            found.append(Proposal(self._number, params))
            self._number += 1
        return found

    def record(self, answers: Sequence[TrialResult]) -> None:
        """Nothing depends on them."""


class _Random:
    """Different valid combinations, drawn uniformly from each dimension (logarithmically where it says so)."""

    def __init__(self, plan: Plan, space: Space, stream: int) -> None:
        assert plan.trials is not None
        self._space, self._trials = space, plan.trials
        self._dice = np.random.Generator(np.random.PCG64([plan.seed, stream]))
        self._seen: set[tuple[Value, ...]] = set()
        self._number = 0
        self.invalid = self.repeated = 0

    @property
    def total(self) -> int:
        return self._trials

    def ask(self) -> list[Proposal]:
        found: list[Proposal] = []
        missed = 0
        while len(found) < _STREAM and self._number < self._trials and missed < _DRAWS:
            params = {one.name: _drawn(one, self._dice) for one in self._space.dimensions}
            key = tuple(params.values())
            if key in self._seen:
                self.repeated += 1
                missed += 1
                continue
            self._seen.add(key)
            if self._space.make(params) is None:
                self.invalid += 1
                missed += 1
                continue
            found.append(Proposal(self._number, params))
            self._number += 1
            missed = 0
        if missed >= _DRAWS:
            self._trials = self._number  # the space has no more to give
        return found

    def record(self, answers: Sequence[TrialResult]) -> None:
        """Nothing depends on them."""


def _drawn(one: Dimension, dice: np.random.Generator) -> Value:
    """Return a value drawn uniformly, or uniformly in its logarithm."""
    if one.is_continuous or one.is_log:
        low, high = (np.log(one.low), np.log(one.high)) if one.is_log else (one.low, one.high)
        drawn = float(dice.uniform(low, high))
        value = min(max(float(np.exp(drawn)) if one.is_log else drawn, one.low), one.high)
        return round(value) if one.kind == "int" else value
    return one.at(int(dice.integers(one.size)))


class _Guided:
    """Optuna's sampler behind ask and tell, in memory; only the rows of the trials are durable."""

    def __init__(self, plan: Plan, space: Space, objectives: int, stream: int) -> None:
        import optuna

        assert plan.trials is not None
        self._plan, self._space, self._trials = plan, space, plan.trials
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._distributions = {one.name: _distribution(one) for one in space.dimensions}
        seed = int(np.random.SeedSequence([plan.seed, stream]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(directions=["maximize"] * objectives, sampler=_sampler(plan, space, seed))
        self._seen: set[tuple[Value, ...]] = set()
        self._open: dict[int, optuna.Trial] = {}
        self._steps: list[tuple[float, ...]] = []  # of the trials that ran to their end
        self._number = 0
        self._dice = np.random.Generator(np.random.PCG64([plan.seed, stream, 1]))
        self.invalid = self.repeated = 0

    @property
    def total(self) -> int:
        return self._trials

    def ask(self) -> list[Proposal]:
        if self._open:
            raise BugError(f"{len(self._open)} trials of the last batch have no answer yet")
        found: list[Proposal] = []
        below = self._thresholds()
        missed = 0
        while len(found) < self._plan.batch and self._number < self._trials:
            if missed >= _TRIES:  # a sampler that has found its peak proposes it again and again
                drawn = self._other()
                if drawn is None:
                    self._trials = self._number
                    break
                self._study.enqueue_trial(drawn)
                missed = 0
            trial = self._study.ask(self._distributions)
            params = {one.name: _plain(one, trial.params[one.name]) for one in self._space.dimensions}
            key = tuple(params.values())
            if key in self._seen or self._space.make(params) is None:
                self.repeated += key in self._seen
                self.invalid += key not in self._seen
                self._seen.add(key)
                self._fail(trial)
                missed += 1
                continue
            self._seen.add(key)
            self._open[self._number] = trial
            found.append(Proposal(self._number, params, below))
            self._number += 1
        return found

    def _other(self) -> dict[str, Value] | None:
        """Return a valid combination that was not tried, drawn at random; None when there seems to be none."""
        for _ in range(_DRAWS):
            params = {one.name: _drawn(one, self._dice) for one in self._space.dimensions}
            if tuple(params.values()) not in self._seen and self._space.make(params) is not None:
                return params
        return None

    def _fail(self, trial: optuna.Trial) -> None:
        from optuna.trial import TrialState

        self._study.tell(trial, state=TrialState.FAIL)

    def _thresholds(self) -> tuple[float, ...]:
        """Return the median of the finished trials after each part but the last; none before there are some.

        The rule of Optuna's MedianPruner, over the batches before this one: so it does not depend on which worker is
        faster.
        """
        if not self._plan.prune or len(self._steps) < STARTUP:
            return ()
        return tuple(float(np.median(column)) for column in zip(*self._steps, strict=True))

    def record(self, answers: Sequence[TrialResult]) -> None:
        from optuna.trial import TrialState

        if {answer.number for answer in answers} != set(self._open):
            raise BugError(f"answers to {[answer.number for answer in answers]}, asked were {list(self._open)}")
        for answer in sorted(answers, key=lambda one: one.number):  # the order decides what a sampler draws next
            trial = self._open.pop(answer.number)
            for part, value in enumerate(answer.steps):
                trial.report(value, part)
            if answer.values is None:
                self._fail(trial)
            elif answer.is_pruned:
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, list(answer.values))
                if answer.steps:
                    self._steps.append(answer.steps)


def _sampler(plan: Plan, space: Space, seed: int) -> optuna.samplers.BaseSampler:
    from optuna.samplers import CmaEsSampler, NSGAIISampler, TPESampler

    if plan.method == "tpe":
        return TPESampler(seed=seed, multivariate=True, constant_liar=True)
    if plan.method == "nsga2":
        return NSGAIISampler(seed=seed, population_size=max(2, min(50, (plan.trials or 50) // 4 or 2)))
    if any(one.kind == "choice" for one in space.dimensions) or len(space.dimensions) < 2:
        raise unprocessable(
            "PLAN_WRONG",
            "cmaes needs two or more parameters, all of them numbers",
            "search with --method tpe, or fix the choices",
        )
    if find_spec("cmaes") is None:  # Optuna imports it at the first trial
        raise unprocessable("PLAN_WRONG", "cmaes is not installed", "pip install cmaes")
    return CmaEsSampler(seed=seed, with_margin=any(one.kind == "int" or one.step for one in space.dimensions))


def _distribution(one: Dimension) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.kind == "choice":
        return CategoricalDistribution(one.choices)
    if one.kind == "int":
        step = 1 if one.is_log else int(one.step or 1)
        return IntDistribution(int(one.low), int(one.high), step=step, log=one.is_log)
    return FloatDistribution(one.low, one.high, step=one.step, log=one.is_log)


def _plain(one: Dimension, value: Any) -> Value:
    """Return a sampled value as the grid would spell it: 0.3, not 0.30000000000000004."""
    if one.kind == "float" and one.step is not None:
        return one.at(round((float(value) - one.low) / one.step))
    found: Value = value
    return found
