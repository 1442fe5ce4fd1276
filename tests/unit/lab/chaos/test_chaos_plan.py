"""The plan is a function of its arguments: the same seed hurts the same things in the same moments."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.lab.chaos.kinds import KINDS, SCENARIOS, Scenario
from fks.lab.chaos.plan import Injection, Roster, find_scenario, make_plan
from fks.model.errors import InputError

ROSTER = Roster(
    ("supervisor", "guardian", "orders", "collector:binance", "strategy:0", "scheduler", "monitor"),
    ("postgres", "redis", "sim", "gcs", "raylet"),
)
RUNS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "minutes": st.floats(0.5, 30),
        "count": st.integers(1, 80),
        "name": st.sampled_from(sorted(SCENARIOS)),
    }
)


def plan_of(seed: int, minutes: float, count: int, name: str, roster: Roster = ROSTER) -> tuple[Injection, ...]:
    return make_plan(seed=seed, minutes=minutes, count=count, scenarios=[SCENARIOS[name]], roster=roster)


@given(RUNS, st.randoms(use_true_random=False))
def test_the_same_seed_is_the_same_plan_however_the_names_are_listed(run: dict[str, object], dice: object) -> None:
    actors, services = list(ROSTER.actors), list(ROSTER.services)
    dice.shuffle(actors)  # type: ignore[attr-defined]
    dice.shuffle(services)  # type: ignore[attr-defined]
    again = plan_of(**run, roster=Roster(tuple(actors), tuple(services)))  # type: ignore[arg-type]
    assert plan_of(**run) == again  # type: ignore[arg-type]


@given(RUNS)
def test_a_plan_keeps_its_promises(run: dict[str, object]) -> None:
    plan = plan_of(**run)  # type: ignore[arg-type]
    assert [injection.number for injection in plan] == list(range(1, len(plan) + 1))
    assert len(plan) == run["count"]
    assert [injection.at_s for injection in plan] == sorted(injection.at_s for injection in plan)
    for injection in plan:
        kind = KINDS[injection.kind]
        assert 0 < injection.at_s <= float(str(run["minutes"])) * 60
        assert injection.target in ROSTER.names(kind)
        assert kind.seconds[0] <= injection.seconds <= kind.seconds[1]
        assert kind.amount[0] <= injection.amount <= kind.amount[1]
        if kind.is_alone:
            assert sum(other.at_s == injection.at_s for other in plan) == 1


def test_another_seed_is_another_plan() -> None:
    assert plan_of(1, 5, 40, "all") != plan_of(2, 5, 40, "all")


def test_everything_is_drawn_sooner_or_later() -> None:
    drawn = {injection.kind for injection in plan_of(3, 600, 3000, "all")}
    assert drawn == set(KINDS)


def test_what_does_not_run_here_is_not_drawn() -> None:
    plan = plan_of(1, 5, 200, "all", Roster(("orders",), ("postgres",)))
    assert {i.target for i in plan if i.kind in ("kill", "kill-service")} == {"orders", "postgres"}
    assert not [i for i in plan if i.kind == "stop-service"]


def test_scenario_file_fixes_injections_and_times(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[weights]\nkill = 1\n[targets]\nkill = ["orders"]\n[[injections]]\nat_s = 3\nkind = "stop"\ntarget = '
        '"guardian"\nseconds = 4.5\n'
    )
    scenario = find_scenario(str(file))
    plan = make_plan(seed=1, minutes=1, count=5, scenarios=[scenario], roster=ROSTER)
    assert (3.0, "stop", "guardian", 4.5) in [(i.at_s, i.kind, i.target, i.seconds) for i in plan]
    assert {i.target for i in plan if i.kind == "kill"} == {"orders"}


@pytest.mark.parametrize(
    ("text", "part"),
    [("[weights]\nburn = 1\n", "burn"), ("[weights\n", "mine.toml"), ("[[injections]]\nkind = 'kill'\n", "at_s")],
)
def test_wrong_scenario_file_names_the_error(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=part):
        find_scenario(str(file))


def test_an_unknown_scenario_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="partitions"):
        find_scenario("nonsense")


def test_scenario_without_targets_is_refused() -> None:
    with pytest.raises(InputError):
        make_plan(seed=1, minutes=1, count=3, scenarios=[Scenario("x", "", {"kill": 1.0})], roster=Roster((), ()))


def test_every_kind_of_the_table_can_be_performed() -> None:
    from fks.lab.chaos.faults import FAULTS

    assert set(FAULTS) == set(KINDS)
