"""The space of a search comes from the strategy's own fields, and never leaves them."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.research.search import Plan, planner_of, space_of
from fks.strategies.base import Decisions, Protected
from fks.strategies.pairs import Pairs
from fks.strategies.sma_cross import SmaCross


class Mood(StrEnum):
    CALM = "calm"
    BOLD = "bold"


class Many(Protected):
    """Fields of every kind."""

    name: ClassVar[str] = "many"
    whole: int = Field(2, ge=1, lt=7, multiple_of=2)
    part: float = Field(0.5, gt=0, le=1)
    flag: bool = False
    kind: Literal["a", "b", "c"] = "a"
    mood: Mood = Mood.CALM
    free: float = 1.0
    count: int = 1

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        raise NotImplementedError


def test_bounds_steps_and_choices_are_the_fields_own() -> None:
    space = space_of(Many, {"whole": None, "part": None, "flag": None, "kind": None, "mood": None})
    assert space.as_dict() == {
        "whole": {"low": 2, "high": 6, "step": 2},
        "part": {"low": 0.0, "high": 1.0},
        "flag": {"choices": [False, True]},
        "kind": {"choices": ["a", "b", "c"]},
        "mood": {"choices": ["calm", "bold"]},
    }


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("2:6:2", [2, 4, 6]),
        ("2:5", [2, 3, 4, 5]),
        ("2:6:3", [2, 5]),
        ("3", [3]),
        ("4,2", [4, 2]),
        ([6, 2], [6, 2]),
        ({"low": 2, "high": 4}, [2, 3, 4]),
        ({"choices": [2, 4]}, [2, 4]),
    ],
)
def test_ranges_and_choices_are_written_in_many_ways(given: Any, values: list[int]) -> None:
    space = space_of(Many, {"whole": given})
    assert [space.at(index)["whole"] for index in range(space.size)] == values


def test_decimal_steps_are_exact_and_an_optional_field_may_be_none() -> None:
    space = space_of(Many, {"part": "0.1:0.7:0.1"})
    assert [space.at(index)["part"] for index in range(space.size)] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert space_of(Many, {"sl_pct": "none,1,2.5"}).dimensions[0].choices == (None, 1, 2.5)


@pytest.mark.parametrize(
    ("wanted", "fixed", "message"),
    [
        ({}, {}, "nothing to search"),
        ({"fst": "1:2"}, {}, "no parameter 'fst'"),
        ({"fast": "1:5"}, {"fast": 3}, "both fixed and searched"),
        ({"fast": "0:5"}, {}, "leaves its own bounds, 1 to 100000"),
        ({"fast": "5:1"}, {}, "is no range"),
        ({"fast": "1:5:0.5"}, {}, "whole numbers"),
        ({"fast": "1:x"}, {}, "'x' is no number"),
        ({"fast": "3,3"}, {}, "empty or repeated"),
        ({"fast": {"from": 1}}, {}, "a range has low, high"),
        ({"short": "1:2"}, {}, "has no range"),
    ],
)
def test_a_wrong_space_names_the_parameter(wanted: dict[str, Any], fixed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        space_of(SmaCross, wanted, fixed)
    with pytest.raises(InputError, match="no bounds of its own"):
        space_of(Many, {"free": None})
    with pytest.raises(InputError, match="is beyond 9007199254740992"):  # few values, and none is exact as a float
        space_of(Many, {"count": f"{2**60 + 1}:{2**60 + 3}"})


@pytest.mark.parametrize("method", ["grid", "random", "tpe"])
@pytest.mark.parametrize("name", ["free", "count"])
def test_a_number_in_a_space_is_planned_or_refused_at_once(name: str, method: Literal["grid", "random", "tpe"]) -> None:
    plan, planned, codes = Plan(method=method, trials=3), 0, set[str]()
    planner_of(plan, space_of(Many, {name: "1,2"})).ask()  # what the method imports is no work of a number
    for value in ("1e999990", "-1e999990", "1e-999990", "9" * 5000, "1e49", "1e17", "1e-9", "nan", "-0", "3", 10**400):
        forms: tuple[object, ...] = (
            f"{value},1", [value, 1], f"1:{value}", f"1:{value}:2", f"{value}:1e30", f"-1e17:{value}", f"1:{value}:log",
            f"1:9:{value}", {"low": 1, "high": value}, {"low": value, "high": 1e30, "step": value}, {"choices": value},
        )  # fmt: skip
        for form in forms:
            spent_s = 1.0
            for _ in range(3):  # the least of three: another process may have had the caches meanwhile
                began_s = time.process_time()
                try:
                    planned += bool(planner_of(plan, space_of(Many, {name: form})).ask())
                except InputError as error:
                    codes.add(error.code)
                spent_s = min(spent_s, time.process_time() - began_s)
                if spent_s < 0.5:
                    break
            assert spent_s < 0.5, (value, form)
    assert planned > 10
    assert codes <= {"SPACE_WRONG", "NUMBER"}


def test_a_grid_over_a_continuous_parameter_says_what_to_do() -> None:
    with pytest.raises(InputError, match="needs steps"):
        planner_of(Plan(), space_of(Many, {"part": "0.1:0.9"}))


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 9), st.integers(0, 9))
def test_a_grid_has_each_valid_combination_once_and_counts_the_others(low: int, first: int, w: int, h: int) -> None:
    space = space_of(SmaCross, {"fast": f"{low}:{low + w}", "slow": f"{first + 1}:{first + 1 + h}"})
    valid = {(f, s) for f in range(low, low + w + 1) for s in range(first + 1, first + h + 2) if f < s}
    planner = planner_of(Plan(), space)
    got: list[tuple[Any, ...]] = []
    while batch := planner.ask():
        got += [tuple(one.params.values()) for one in batch]
    assert len(got) == len(set(got))
    assert set(got) == valid
    assert planner.invalid == (w + 1) * (h + 1) - len(valid)
    assert planner.total == len(valid)


def test_a_space_names_the_further_symbols_of_all_its_combinations() -> None:
    assert space_of(SmaCross, {"fast": "2:5"}).inputs() == ()
    assert space_of(Pairs, {"period": "20:60"}, {"other": "SOL/USDT"}).inputs() == ("SOL/USDT",)
    searched = space_of(Pairs, {"other": "SOL/USDT,ETH/USDT", "entry": "0.4:3.0:0.2"})  # 0.4 is below `leave`: invalid
    assert sorted(searched.inputs()) == ["ETH/USDT", "SOL/USDT"]
