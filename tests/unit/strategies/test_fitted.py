"""Estimators of strategies: fitted on training bars alone, kept as a parameter, and refused where they saw the test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import Field, ValidationError

from fks.model.bar import Bars, Feature, ShareSplit
from fks.model.errors import InputError
from fks.model.timeframe import iso
from fks.research.backtest import Result, account
from fks.research.backtest import run as run_backtest
from fks.research.backtest.run import panel_of
from fks.research.search import Plan, Validation, evaluate, search, task_of
from fks.research.search.evaluate import strategy_of
from fks.research.search.plans import Proposal
from fks.strategies.base import BarStrategy, Context, Decisions, Fitted, Panel, StrategyError, fitted_on, history_of
from fks.strategies.check import check_strategy
from fks.strategies.combination import Combination
from fks.strategies.registry import fields_of
from tests.support.no_skill import free_setup, walk

BARS = walk(3000, seed=5)
SEEN: list[Panel] = []


class Scaled(Fitted):
    """Long below the mean that the training bars had, short above it, by standard deviations of theirs."""

    name: ClassVar[str] = "scaled"
    width: float = Field(0.5, ge=0)
    bars: int = Field(500, ge=1)

    def warmup(self) -> int:
        return 2

    def training(self) -> int:
        return self.bars

    def fit(self, panel: Panel) -> Mapping[str, object]:
        SEEN.append(panel)
        change = np.concatenate([np.diff(part.close) / part.close[:-1] for part in panel])
        return {"mean": change.mean(), "spread": change.std(), "bars": sum(map(len, panel)), "about": {"n": [1, 2]}}

    def decide(self, bars: Bars) -> Decisions:
        change = np.diff(bars.close, prepend=bars.close[0]) / bars.close
        score = (change - self.fitted["mean"]) / self.fitted["spread"]
        return Decisions(np.where(score < -self.width, 1.0, 0.0))


def state_of(result: Result) -> Any:
    return result.decided_by.model_dump(mode="json")["state"]


def seen_by(found: Panel) -> np.ndarray[Any, Any]:
    return np.concatenate([part.time_ns for part in found])


def test_a_backtest_fits_on_the_bars_before_its_first_decision() -> None:
    start = 1200
    setup = replace(free_setup(), start_ns=int(BARS.time_ns[start]))
    result = run_backtest(Scaled(bars=400), BARS, setup)
    state = state_of(result)
    by_hand = {**Scaled(bars=400).fit((BARS[start - 400 : start],))}
    assert state["values"] == by_hand
    assert state["until"] == iso(int(BARS.time_ns[start]))
    assert int(result.bars.time_ns[result.first]) == BARS.time_ns[start]
    assert len(result.fills) > 20
    assert np.array_equal(seen_by(SEEN[-2]), BARS.time_ns[start - 400 : start])


def test_later_bars_change_no_state_and_the_state_is_in_the_fingerprint() -> None:
    later = replace(BARS, high=np.where(np.arange(len(BARS)) < 2000, BARS.high, BARS.high * 1.001))
    setup = replace(free_setup(), start_ns=int(BARS.time_ns[2000]))
    first, other = (run_backtest(Scaled(), bars, setup, check=False) for bars in (BARS, later))
    assert first.params == other.params
    assert first.inputs_hash != other.inputs_hash
    moved = run_backtest(Scaled(), BARS, replace(setup, start_ns=int(BARS.time_ns[2001])), check=False)
    given = Scaled.model_validate({**moved.params})
    again = run_backtest(given, BARS, replace(setup, start_ns=int(BARS.time_ns[2001])))
    assert (again.inputs_hash, again.fills_hash) == (moved.inputs_hash, moved.fills_hash)
    older = run_backtest(type(given).model_validate(first.params), BARS, replace(setup, start_ns=moved.setup.start_ns))
    assert older.inputs_hash != moved.inputs_hash


def test_without_a_start_the_first_bars_are_those_that_it_is_fitted_on() -> None:
    result = run_backtest(Scaled(bars=700), BARS, free_setup(), check=False)
    assert state_of(result)["values"]["bars"] == 700
    assert int(result.bars.time_ns[result.first]) == BARS.time_ns[700]
    with pytest.raises(InputError, match="is fitted on 700 before its first decision") as raised:
        run_backtest(Scaled(bars=700), BARS[:700], free_setup(), check=False)
    assert raised.value.code == "NO_DATA"
    early = replace(free_setup(), start_ns=int(BARS.time_ns[699]))
    with pytest.raises(InputError, match="there are 699"):
        run_backtest(Scaled(bars=700), BARS, early, check=False)
    assert history_of(Scaled(bars=700)) == 700
    assert history_of(fitted_on(Scaled(bars=700), (BARS,))) == 2


def test_a_member_of_an_account_is_fitted_as_a_run_alone() -> None:
    setup = replace(free_setup(), start_ns=int(BARS.time_ns[1200]))
    alone = run_backtest(Scaled(), BARS, setup, check=False)
    both = account.run_account([account.Member(Scaled(), BARS, setup)], cash=setup.cash, check=False)
    assert both.results[0].params == alone.params
    assert both.results[0].fills == alone.fills


@pytest.mark.parametrize(
    "validation",
    [
        Validation(),
        Validation(kind="walk_forward", folds=3),
        Validation(kind="k_fold", folds=4, purge=30, embargo=20),
        Validation(kind="combinatorial", folds=4, purge=30, embargo=20),
    ],
)
def test_a_fold_is_fitted_on_the_bars_that_choose_and_on_none_of_its_test(validation: Validation) -> None:
    task = task_of(Scaled, {"width": "0.5,1"}, BARS, free_setup(), Plan(), validation=validation)
    for fold, split in enumerate(task.splits):
        SEEN.clear()
        trial = evaluate(task, fold, Proposal(0, {"width": 0.5}))
        assert trial.state == "done", trial.error
        (panel,) = SEEN
        wanted = np.concatenate([BARS.time_ns[low:high] for low, high in split.train])
        assert np.array_equal(seen_by(panel), wanted)
        for low, high in split.test:
            near = BARS.time_ns[max(0, low - validation.purge) : high + validation.purge]
            assert split.is_final or not np.isin(seen_by(panel), near).any()


def test_a_search_gives_the_state_that_its_final_parameters_were_chosen_with() -> None:
    validation = Validation(kind="k_fold", folds=3, purge=10, embargo=10)
    document = search(Scaled, {"width": "0.2,0.5,1"}, BARS, free_setup(), validation=validation)
    best = document["best"]
    assert "state" not in best["params"]
    task = task_of(Scaled, {"width": "0.2,0.5,1"}, BARS, free_setup(), validation=validation)
    wanted = strategy_of(task, best["params"], task.splits[-1].train)
    assert best["all_params"] == wanted.model_dump(mode="json")
    assert best["all_params"]["state"]["values"]["bars"] == len(BARS)
    assert Scaled.model_validate(best["all_params"]) == wanted
    assert all(fold["value_test"] is not None for fold in document["folds"])


def test_a_state_fitted_on_the_bars_of_the_run_is_refused() -> None:
    whole = fitted_on(Scaled(), (BARS,))
    with pytest.raises(StrategyError, match=r"was fitted on bars until .* the run decides from") as raised:
        run_backtest(whole, BARS, free_setup())
    assert raised.value.code == "STATE_AHEAD"
    start = 1500
    just = fitted_on(Scaled(), (BARS[: start + 1],))
    setup = replace(free_setup(), start_ns=int(BARS.time_ns[start]))
    assert run_backtest(just, BARS, setup).fills
    with pytest.raises(StrategyError) as raised:
        run_backtest(fitted_on(Scaled(), (BARS[: start + 2],)), BARS, setup)
    assert raised.value.code == "STATE_AHEAD"


def test_a_state_of_a_part_that_saw_the_bars_of_the_run_is_refused() -> None:
    start = 1500
    setup = replace(free_setup(), start_ns=int(BARS.time_ns[start]))
    whole, just = (Combination.of([fitted_on(Scaled(), (BARS[:end],))]) for end in (len(BARS), start + 1))
    assert run_backtest(just, BARS, setup).fills
    with pytest.raises(StrategyError, match="strategy scaled: its state was fitted on bars until") as raised:
        run_backtest(whole, BARS, setup)
    assert raised.value.code == "STATE_AHEAD"


class OnEverything(Scaled):
    """Fits again in `decide`, on all rows that it is given."""

    def decide(self, bars: Bars) -> Decisions:
        return fitted_on(Scaled(bars=self.bars), (bars,)).decide(bars)


class Remembers(Scaled):
    """Keeps in its class what the longest panel had."""

    kept: ClassVar[dict[int, Any]] = {}

    def fit(self, panel: Panel) -> Mapping[str, object]:
        self.kept[sum(map(len, panel))] = Scaled.fit(self, panel)
        found: Mapping[str, object] = self.kept[max(self.kept)]
        return found


class KeepsTheFirst(Scaled):
    """Returns for ever the state of its first panel."""

    kept: ClassVar[list[Any]] = []

    def fit(self, panel: Panel) -> Mapping[str, object]:
        self.kept.append(Scaled.fit(self, panel))
        found: Mapping[str, object] = self.kept[0]
        return found


class Learns(Scaled):
    """Changes its state with each decision: an instance, which decides on every bar, would leave its backtest."""

    def decide(self, bars: Bars) -> Decisions:
        self.fitted["about"]["n"].append(len(bars))
        return Scaled.decide(self, bars)


class Unseeded(Scaled):
    def fit(self, panel: Panel) -> Mapping[str, object]:
        return {**Scaled.fit(self, panel), "mean": float(np.random.default_rng().random())}


def test_the_check_passes_an_honest_estimator_and_refuses_one_fitted_on_everything() -> None:
    assert check_strategy(Scaled(), [BARS]) == []
    (found,) = check_strategy(OnEverything(), [BARS])
    assert found.check == "lookahead"
    for kind in (Remembers, KeepsTheFirst, Unseeded):
        with pytest.raises(StrategyError, match="gave two states") as raised:
            check_strategy(kind())
        assert raised.value.code == "STRATEGY_REFUSED"
    with pytest.raises(StrategyError, match=r"decide\(\) changed its fitted state"):
        check_strategy(Learns())


class PerBar(Fitted, BarStrategy):
    """Scales in `indicators`, decides in a method per bar."""

    name: ClassVar[str] = "per_bar_scaled"

    def warmup(self) -> int:
        return 2

    def training(self) -> int:
        return 300

    def fit(self, panel: Panel) -> Mapping[str, object]:
        return {"range": np.mean([np.mean(part.high - part.low) for part in panel])}

    def indicators(self, bars: Bars) -> dict[str, Any]:
        return {"width": (bars.high - bars.low) / self.fitted["range"]}

    def on_bar(self, ctx: Context, bar: Any) -> None:
        if not ctx.position and bar.width > 1.5:
            ctx.buy()
        elif ctx.bars_held > 3:
            ctx.close()


class PerBarOnEverything(PerBar):
    def indicators(self, bars: Bars) -> dict[str, Any]:
        return PerBar.indicators(fitted_on(PerBar(), (bars,)), bars)  # type: ignore[arg-type]


def test_a_strategy_with_a_method_per_bar_may_have_an_estimator() -> None:
    result = run_backtest(PerBar(), BARS, free_setup())
    assert state_of(result)["values"] == {"range": pytest.approx(np.mean(BARS.high[:300] - BARS.low[:300]))}
    assert len(result.fills) > 20
    with pytest.raises(StrategyError, match="looks ahead"):
        run_backtest(PerBarOnEverything(), BARS, free_setup())


class Returns(Scaled):
    what: ClassVar[Any] = None

    def fit(self, panel: Panel) -> Mapping[str, object]:
        if isinstance(self.what, Exception):
            raise self.what
        found: Mapping[str, object] = self.what
        return found


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"a": float("nan")}, "no JSON"),
        ({"a": np.array([1.0, np.inf])}, "no JSON"),
        ({"a": object()}, "no JSON"),
        ([1], "returned list"),
        ({"a": "x" * 300_000}, "bytes"),
        ({"a": 10**30}, "no JSON"),
        ({"a": "\ud800"}, "no JSON"),
        ({"a": "\0"}, "no JSON"),
        (KeyError("mean"), "fit\\(\\) with 3000 bars raised KeyError"),
    ],
)
def test_a_fit_that_gives_no_state_is_an_error_that_names_it(found: Any, text: str) -> None:
    Returns.what = found
    with pytest.raises(StrategyError, match=text) as raised:
        fitted_on(Returns(), (BARS,))
    assert "test_fitted.py" in raised.value.remedy


@pytest.mark.parametrize("count", [0, 10.5, None, True, 10**10])
def test_a_number_of_training_bars_that_is_none_is_refused(count: Any) -> None:
    class Trains(Scaled):
        def training(self) -> int:
            found: int = count
            return found

    with pytest.raises(ValidationError, match=r"training\(\) returned"):
        Trains()


def test_a_state_holds_for_the_parameters_it_was_fitted_with_alone() -> None:
    fitted = fitted_on(Scaled(width=1), (BARS,)).model_dump(mode="json")
    with pytest.raises(ValidationError, match="fitted with other parameters"):
        Scaled.model_validate({**fitted, "width": 2})
    assert Scaled.model_validate({**fitted, "width": 2, "state": None}).model_dump() == {"width": 2.0, "bars": 500}
    assert list(fields_of(Scaled)) == list(Scaled.model_json_schema()["properties"]) == ["width", "bars"]
    with pytest.raises(StrategyError) as raised:
        Scaled().decide(BARS)
    assert raised.value.code == "STATE_MISSING"


class Mood(Scaled):
    """Reads a column of its own, in `fit` and in `decide`."""

    name: ClassVar[str] = "mood"

    def features(self) -> tuple[str, ...]:
        return ("mood",)

    def fit(self, panel: Panel) -> Mapping[str, object]:
        return {"mean": float(np.nanmean(np.concatenate([part.features["mood"].values for part in panel])))}

    def decide(self, bars: Bars) -> Decisions:
        return Decisions(np.where(bars.features["mood"].values > self.fitted["mean"], 1.0, 0.0))


def test_fit_gets_the_columns_of_the_strategy_and_cannot_write_to_them() -> None:
    values = np.random.default_rng(2).standard_normal(len(BARS))
    bars = BARS.with_features({"mood": Feature(values, BARS.time_ns)})
    result = run_backtest(Mood(), bars, free_setup())
    assert state_of(result)["values"] == {"mean": float(np.nanmean(values[:500]))}

    class Writes(Mood):
        def fit(self, panel: Panel) -> Mapping[str, object]:
            panel[0].features["mood"].values[:] = 0.0
            return {"mean": 0.0}

    with pytest.raises(StrategyError, match="read-only"):
        fitted_on(Writes(), (bars,))


def test_parts_of_a_panel_have_no_hole_and_are_in_the_shares_of_its_end() -> None:
    kept = np.r_[0:400, 450:1000]
    columns = (getattr(BARS, name)[kept] for name in ("open", "high", "low", "close", "volume"))
    bars = Bars(BARS.symbol, BARS.timeframe, BARS.time_ns[kept], *columns)
    assert [len(part) for part in panel_of(bars, ((100, 900),))] == [300, 500]
    assert [len(part) for part in panel_of(bars, ((0, 300), (500, 900)))] == [300, 400]
    early = ShareSplit(int(BARS.time_ns[200]), 2, 1, places=2)
    late = ShareSplit(int(BARS.time_ns[2500]), 4, 1, places=2)
    split = BARS.after((early, late))
    (panel,) = panel_of(split, ((0, 1000),))
    assert panel.close[150] == pytest.approx(BARS.close[150] / 2, abs=0.01)
    assert panel.close[300] == BARS.close[300]
