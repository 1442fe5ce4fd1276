"""Combination of strategies: votes, weights and regimes, made from JSON by a catalogue, with the members' code hashed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.research.backtest.instrument import setup_for
from fks.research.jobs.optimization import search_hash
from fks.research.search.run import task_of
from fks.research.search.space import space_of
from fks.strategies.base import Decisions, Strategy, evaluate
from fks.strategies.check import check_strategy, synthetic
from fks.strategies.combination import Combination
from fks.strategies.registry import load_catalogue, source_hash
from fks.strategies.template import TEMPLATE

CATALOGUE = load_catalogue()
BARS = synthetic(1200)


class Fixed(Strategy):
    """Repeats the targets given."""

    name: ClassVar[str] = "fixed"
    targets: tuple[float, ...]
    bars: int = 0

    def warmup(self) -> int:
        return self.bars

    def decide(self, bars: Bars) -> Decisions:
        return Decisions(np.resize(np.array(self.targets), len(bars)))


def decided(*members: Strategy, **params: Any) -> list[float]:
    made = Combination.of(members, **params)
    return evaluate(made, BARS).target[:4].tolist()


def test_a_vote_needs_more_than_half() -> None:
    a, b, c = Fixed(targets=(1, 1, -1, 0)), Fixed(targets=(1, -1, -1, 1)), Fixed(targets=(0, -1, -1, 0))
    assert decided(a, b, c) == [1.0, -1.0, -1.0, 0.0]
    assert decided(a, b) == [1.0, 0.0, -1.0, 0.0]  # half is no majority
    assert decided(a) == [1.0, 1.0, -1.0, 0.0]


def test_weights_are_a_mean_that_must_reach_the_threshold() -> None:
    a, b = Fixed(targets=(1, 1, -1, 0)), Fixed(targets=(1, -1, 0, -1))
    assert decided(a, b, weights=[3.0, 1.0], rule="weights", threshold=0.5) == [1.0, 1.0, -1.0, 0.0]
    assert decided(a, b, weights=[3.0, 1.0], rule="weights", threshold=0.51) == [1.0, 0.0, -1.0, 0.0]
    assert decided(a, b, weights=[1.0, 2.0], rule="weights", threshold=0.3) == [1.0, -1.0, -1.0, -1.0]
    assert decided(*[a] * 3, weights=[0.1, 0.2, 0.3], rule="weights", threshold=1.0) == [1.0, 1.0, -1.0, 0.0]


def test_a_regime_lets_its_own_side_through_or_any() -> None:
    a, regime = Fixed(targets=(1, 1, -1, -1)), Fixed(targets=(1, -1, -1, 0))
    assert decided(a, regime=regime) == [1.0, 0.0, -1.0, 0.0]
    assert decided(a, regime=regime, allow="any") == [1.0, 1.0, -1.0, 0.0]


def test_the_warmup_is_the_longest_and_members_decide_nothing_in_their_own() -> None:
    made = Combination.of(
        [Fixed(targets=(1,), bars=7), Fixed(targets=(1,), bars=3)], regime=Fixed(targets=(1,), bars=11)
    )
    assert made.warmup() == 11
    assert evaluate(made, BARS).target[:12].tolist() == [0.0] * 11 + [1.0]


MEMBERS = [
    {"strategy": "sma_cross", "params": {"fast": 3, "slow": 9}},
    {"strategy": "donchian", "params": {"entry": 6, "leave": 3}, "weight": 2},
    {"strategy": "rsi", "params": {"period": 4}},
    {"strategy": "bollinger", "params": {"period": 5, "short": True}},
    {"strategy": "combination", "params": {"members": "donchian rsi", "rule": "weights"}},
]


@given(st.data())
@settings(max_examples=settings.default.max_examples // 3)
def test_members_that_pass_the_check_pass_it_in_any_combination(data: st.DataObject) -> None:
    members = data.draw(st.lists(st.sampled_from(MEMBERS), min_size=1, max_size=4))
    params = {
        "members": members,
        "rule": data.draw(st.sampled_from(["vote", "weights"])),
        "threshold": data.draw(st.sampled_from([0.3, 0.5, 1.0])),
        "regime": data.draw(
            st.sampled_from([None, "buy_and_hold", {"strategy": "ema_cross", "params": {"fast": 3, "slow": 8}}])
        ),
        "sl_pct": data.draw(st.sampled_from([None, 1.0])),
    }
    assert check_strategy(CATALOGUE.make("combination", params)) == []


class Short(Strategy):
    """Needs more history than it says."""

    name: ClassVar[str] = "forgetful"

    def warmup(self) -> int:
        return 5

    def decide(self, bars: Bars) -> Decisions:
        return Decisions((bars.close >= np.maximum.accumulate(bars.close)).astype(float))


class Seer(Short):
    """Uses the next bar."""

    name: ClassVar[str] = "seer"

    def decide(self, bars: Bars) -> Decisions:
        return Decisions((np.append(bars.close[1:], 0.0) > bars.close).astype(float))


@pytest.mark.parametrize("rule", ["vote", "weights"])
def test_a_wrong_member_is_found_in_the_combination(rule: str) -> None:
    (found,) = check_strategy(Combination.of([Short(), CATALOGUE.make("rsi")], rule=rule))
    assert found.check == "warmup"
    assert "its part forgetful: its warm-up of 5 bars is too short" in str(found)
    (found,) = check_strategy(Combination.of([Seer()], rule=rule))
    assert found.check == "lookahead"


@pytest.mark.parametrize(
    "members", [MEMBERS, json.dumps(MEMBERS), "sma_cross, rsi", "sma_cross rsi", '{"strategy": "rsi"}'], ids=str
)
def test_what_instances_store_makes_the_same_strategy_again(members: Any) -> None:
    made = CATALOGUE.make("combination", {"members": members, "regime": "ema_cross"})
    stored = json.loads(json.dumps(made.model_dump(mode="json")))
    again = CATALOGUE.make("combination", stored)
    assert again.model_dump() == made.model_dump()
    assert [part.name for part in again.parts()][-1] == "ema_cross"
    for other in (again, pickle.loads(pickle.dumps(made)), made.model_copy()):
        assert evaluate(other, BARS).target.tolist() == evaluate(made, BARS).target.tolist()


def test_a_combination_may_be_a_member() -> None:
    inner = {"strategy": "combination", "params": {"members": "sma_cross rsi"}}
    made = CATALOGUE.make("combination", {"members": [inner, {"strategy": "macd"}]})
    assert [part.name for part in made.parts()] == ["combination", "macd"]
    assert check_strategy(made) == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"members": "nope"}, "unknown strategy 'nope'"),
        ({"members": [{"strategy": "rsi", "params": {"perio": 7}}]}, "strategy rsi has no parameter 'perio'"),
        ({"members": [{"strategy": "rsi", "params": {"period": 1}}]}, "strategy rsi: period: input should be greater"),
        ({"members": []}, "members: tuple should have at least 1 item"),
        ({"members": "[{"}, "members: is no JSON"),
        ({"members": [{"strategy": "rsi", "weight": 0}]}, "members.0.weight: input should be greater than 0"),
        (
            {"members": [{"strategy": "rsi", "params": {"sl_pct": 1}}]},
            "set sl_pct, tp_pct and trail_pct on the combination",
        ),
        ({"rule": "mood"}, "rule: input should be 'vote' or 'weights'"),
        ({"regime": "nope"}, "unknown strategy 'nope'"),
    ],
)
def test_a_wrong_combination_is_one_clear_line(params: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        CATALOGUE.make("combination", params)
    assert "\n" not in str(caught.value)


def test_without_a_catalogue_the_built_in_strategies_are_known() -> None:
    made = Combination.model_validate({"members": "rsi donchian", "regime": "macd"})
    assert [part.name for part in made.parts()] == ["rsi", "donchian", "macd"]
    for wrong in ("mine", "base", "check", "../rsi", "registry"):
        with pytest.raises(ValueError, match=r"no built-in strategy .*load_catalogue\(folder\)\.make.*Combination\.of"):
            Combination.model_validate({"members": [{"strategy": wrong}]})


def test_a_search_varies_a_combination_of_a_users_strategies(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TEMPLATE.format(title="Mine", kind="Mine", name="mine"))
    catalogue = load_catalogue(tmp_path)
    fixed = {"members": "mine rsi", "rule": "weights"}
    kind = catalogue.kind("combination")
    space = space_of(kind, {"threshold": "0.5,1.0"}, fixed, context=catalogue.context)
    made = [space.make({"threshold": value}) for value in (0.5, 1.0)]
    assert [len(one.parts()) for one in made if one is not None] == [2, 2]


def test_the_fingerprint_of_a_search_covers_the_code_of_every_member(tmp_path: Path) -> None:
    own = TEMPLATE.format(title="Mine", kind="Mine", name="mine")
    found = []
    for text in (own, own.replace("bars.close > top", "bars.close >= top"), own):
        (tmp_path / "mine.py").write_text(text)
        catalogue = load_catalogue(tmp_path)
        task = task_of(
            catalogue.kind("combination"),
            {"threshold": "0.3:0.9"},
            BARS,
            setup_for(BARS),
            fixed={"members": "mine rsi"},
            context=catalogue.context,
        )
        found.append(search_hash(task))
    assert found[0] == found[2] != found[1]


def test_the_source_hash_covers_the_code_of_every_member(tmp_path: Path) -> None:
    own = TEMPLATE.format(title="Mine", kind="Mine", name="mine")
    hashes = []
    for text in (own, own.replace("bars.close > top", "bars.close >= top"), own):
        (tmp_path / "mine.py").write_text(text)
        made = load_catalogue(tmp_path).make("combination", {"members": "mine rsi", "regime": "macd"})
        hashes.append(source_hash(made))
    assert hashes[0] == hashes[2] != hashes[1]
    others = {source_hash(CATALOGUE.make("combination", {"members": names})) for names in ("rsi", "macd", "rsi macd")}
    assert len(others) == 3
    rsi = CATALOGUE.make("rsi")
    assert source_hash(rsi) == source_hash(type(rsi))
