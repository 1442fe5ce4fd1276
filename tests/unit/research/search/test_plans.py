"""Plans: deterministic in the answers, continued by passing them again, pruned as Optuna's own pruner does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
import pytest

from fks.model.errors import BugError, InputError
from fks.research.search import Plan, planner_of, space_of
from fks.research.search.plans import Planner, TrialResult
from fks.strategies.sma_cross import SmaCross

SPACE = space_of(SmaCross, {"fast": "2:60", "slow": "5:200"})


def height(params: Mapping[str, Any]) -> float:
    """A hill with its top at fast 20, slow 90."""
    return -((params["fast"] - 20) ** 2) - ((params["slow"] - 90) / 3) ** 2


def played(planner: Planner, *, objectives: int = 1) -> list[tuple[int, dict[str, Any], tuple[float, ...]]]:
    found = []
    while batch := planner.ask():
        answers = []
        for one in batch:
            values = (height(one.params), -float(one.params["slow"]))[:objectives]  # type: ignore[arg-type]
            found.append((one.number, dict(one.params), values))
            answers.append(TrialResult(one.number, values))
        planner.record(answers[::-1])  # whatever finished first
    return found


@pytest.mark.parametrize("method", ["random", "tpe", "cmaes", "nsga2"])
def test_a_plan_is_a_function_of_its_seed_and_the_answers(method: Any) -> None:
    objectives = 2 if method == "nsga2" else 1
    plan = Plan(method=method, trials=40, seed=7, batch=8)
    first = played(planner_of(plan, SPACE, objectives), objectives=objectives)
    assert played(planner_of(plan, SPACE, objectives), objectives=objectives) == first
    other = played(planner_of(plan.model_copy(update={"seed": 8}), SPACE, objectives), objectives=objectives)
    assert other != first
    assert played(planner_of(plan, SPACE, objectives, stream=1), objectives=objectives) != first
    assert [number for number, _, _ in first] == list(range(40))
    assert len({tuple(params.items()) for _, params, _ in first}) == 40, "no combination is tried twice"
    assert all(params["fast"] < params["slow"] for _, params, _ in first)


@pytest.mark.parametrize("method", ["tpe", "cmaes"])
def test_a_guided_plan_finds_the_top_that_chance_misses(method: Any) -> None:
    guided = max(value[0] for _, _, value in played(planner_of(Plan(method=method, trials=150), SPACE)))
    chance = max(value[0] for _, _, value in played(planner_of(Plan(method="random", trials=150), SPACE)))
    assert guided > -15.0
    assert guided > chance


def test_a_small_space_ends_a_plan_before_its_budget() -> None:
    space = space_of(SmaCross, {"fast": "2:4", "slow": "3:5"})
    valid = {(f, s) for f in (2, 3, 4) for s in (3, 4, 5) if f < s}
    for method in ("random", "tpe"):
        planner = planner_of(Plan(method=method, trials=50), space)  # type: ignore[arg-type]
        got = {(params["fast"], params["slow"]) for _, params, _ in played(planner)}
        assert got == valid
        assert planner.total == len(valid)
        assert planner.repeated > 0


def test_refused_combinations_are_counted_and_cost_no_trial() -> None:
    space = space_of(SmaCross, {"fast": "2:60", "slow": "5:61"})
    planner = planner_of(Plan(method="random", trials=60, seed=3), space)
    assert len(played(planner)) == 60
    assert planner.invalid > 10


def test_a_guided_plan_waits_for_its_answers() -> None:
    planner = planner_of(Plan(method="tpe", trials=20), SPACE)
    batch = planner.ask()
    with pytest.raises(BugError, match="no answer yet"):
        planner.ask()
    with pytest.raises(BugError, match="answers to"):
        planner.record([TrialResult(batch[0].number, (1.0,))])


def test_trials_without_a_value_do_not_stop_a_plan() -> None:
    planner = planner_of(Plan(method="tpe", trials=24, batch=8), SPACE)
    count = 0
    while batch := planner.ask():
        count += len(batch)
        planner.record([TrialResult(one.number, None) for one in batch])
    assert count == 24


def test_pruning_thresholds_are_those_of_optunas_median_pruner() -> None:
    plan = Plan(method="tpe", trials=48, batch=8, prune=True, parts=4)
    planner = planner_of(plan, SPACE)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    pruned = 0
    while batch := planner.ask():
        answers, reported = [], []
        for one in batch:
            steps = [height(one.params) * (1 + part / 10) for part in range(4)]
            theirs = study.ask()
            so_far: list[float] = []
            is_pruned = False
            for part, value in enumerate(steps[:3]):
                so_far.append(value)
                theirs.report(value, part)
                is_pruned = bool(one.prune_below) and max(so_far) < one.prune_below[part]
                assert is_pruned == theirs.should_prune()
                if is_pruned:
                    break
            pruned += is_pruned
            answers.append(TrialResult(one.number, (so_far[-1] if is_pruned else steps[3],), is_pruned, tuple(so_far)))
            reported.append((theirs, answers[-1]))
        for theirs, answer in reported:
            state = optuna.trial.TrialState.PRUNED if answer.is_pruned else optuna.trial.TrialState.COMPLETE
            study.tell(theirs, None if answer.is_pruned else answer.values[0], state=state)  # type: ignore[index]
        planner.record(answers)
    assert pruned > 5


@pytest.mark.parametrize(
    ("plan", "objectives", "message"),
    [
        (Plan(method="tpe", trials=5), 2, "tpe with 2 objective"),
        (Plan(method="nsga2", trials=5), 1, "nsga2 with 1 objective"),
    ],
)
def test_a_method_that_does_not_fit_says_so(plan: Plan, objectives: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        planner_of(plan, SPACE, objectives)
    choices = space_of(SmaCross, {"fast": "2,3", "slow": "5:9"})
    with pytest.raises(InputError, match="all of them numbers"):
        planner_of(Plan(method="cmaes", trials=5), choices)
    with pytest.raises(InputError, match="too large"):
        planner_of(Plan(), space_of(SmaCross, {"fast": "1:2000", "slow": "2:2000"}))
    with pytest.raises(ValueError, match="needs a number of trials"):
        Plan(method="random")
    with pytest.raises(ValueError, match="can prune"):
        Plan(prune=True)
