"""Damping of flapping services, and the roll-up of statuses through dependencies."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fks.system.monitor.statuses import (
    DEGRADED,
    DOWN,
    FLAPS_FROM,
    HEALTHY,
    REMEMBERED,
    UNKNOWN,
    Dependency,
    ReportedStatus,
    damped,
    rolled_up,
    uptime_percent,
)

BAD = {UNKNOWN: 0, HEALTHY: 0, DEGRADED: 1, DOWN: 2}
STATUSES = (HEALTHY, DEGRADED, DOWN, UNKNOWN)
looks = st.lists(st.sampled_from(STATUSES), min_size=1, max_size=80)
names = st.sampled_from("abcdef")


def followed(history: list[str]) -> list[ReportedStatus]:
    """Return what is reported after each look, as the monitor does it: with the looks that it remembers."""
    found: list[ReportedStatus] = []
    for end in range(1, len(history) + 1):
        window = history[max(0, end - REMEMBERED) : end]
        found.append(damped(window, found[-1] if found else None))
    return found


@given(looks)
def test_only_statuses_that_were_seen_are_reported(history: list[str]) -> None:
    assert {r.status for r in followed(history)} <= {*history, UNKNOWN}


@given(st.sampled_from((HEALTHY, DEGRADED, DOWN)), st.integers(1, 60))
def test_a_service_that_does_not_change_is_reported_as_it_is(status: str, count: int) -> None:
    assert set(followed([status] * count)) == {ReportedStatus(status)}


@given(looks, st.sampled_from((HEALTHY, DEGRADED, DOWN)))
def test_a_lasting_change_is_reported_whatever_was_before(history: list[str], last: str) -> None:
    assert followed([*history, *[last] * (REMEMBERED + 1)])[-1] == ReportedStatus(last)


@given(looks)
def test_a_lasting_fall_is_reported_after_two_looks_even_while_flapping(history: list[str]) -> None:
    assert followed([*history, DOWN, DOWN])[-1].status == DOWN


@given(st.sampled_from((HEALTHY, DEGRADED)), st.integers(2, 30))
def test_one_look_that_differs_changes_nothing(status: str, count: int) -> None:
    reported = followed([*[status] * count, DOWN, *[status] * count])
    assert {r.status for r in reported} == {status}


@given(looks)
def test_more_changes_are_seen_than_reported(history: list[str]) -> None:
    known = [status for status in history if status != UNKNOWN]
    raw = sum(one != other for one, other in pairwise(known))
    known = [r.status for r in followed(history) if r.status != UNKNOWN]
    assert sum(one != other for one, other in pairwise(known)) <= raw


def test_a_service_that_goes_up_and_down_flaps_and_is_reported_once() -> None:
    history = [HEALTHY] * 5 + [DOWN, DOWN, HEALTHY, HEALTHY] * 10
    reported = followed(history)
    changes = sum(one.status != other.status for one, other in pairwise(reported))
    assert reported[-1].is_flapping
    assert changes <= FLAPS_FROM
    assert reported[-1].status == DOWN
    calm = followed(history + [HEALTHY] * REMEMBERED)
    assert calm[-1] == ReportedStatus(HEALTHY)


def test_unknown_looks_are_no_change() -> None:
    assert {r.status for r in followed([HEALTHY, HEALTHY, UNKNOWN, UNKNOWN, UNKNOWN])} == {HEALTHY}
    assert followed([UNKNOWN])[-1] == ReportedStatus(UNKNOWN)
    assert followed([UNKNOWN, DOWN])[-1] == ReportedStatus(DOWN)


statuses = st.dictionaries(names, st.sampled_from(STATUSES), min_size=1)
dependencies = st.lists(st.builds(Dependency, names, names, st.booleans()), max_size=20)


@given(statuses, dependencies)
def test_roll_up_never_improves_and_ends_with_cycles(own: dict[str, str], needs: list[Dependency]) -> None:
    rolled = rolled_up(own, needs)
    assert rolled.keys() == own.keys()
    for name, found in rolled.items():
        assert BAD[found.status] >= BAD[own[name]]
        assert bool(found.because) == (BAD[found.status] > BAD[own[name]])


@given(statuses, dependencies)
def test_roll_up_obeys_every_dependency(own: dict[str, str], needs: list[Dependency]) -> None:
    rolled = {name: found.status for name, found in rolled_up(own, needs).items()}
    for one in needs:
        if one.service in own and one.depends_on in own and one.service != one.depends_on:
            if rolled[one.depends_on] == DOWN:
                assert rolled[one.service] == DOWN if one.is_critical else rolled[one.service] in (DEGRADED, DOWN)
            if one.is_critical and rolled[one.depends_on] == DEGRADED:
                assert rolled[one.service] in (DEGRADED, DOWN)
    assert rolled == {name: found.status for name, found in rolled_up(rolled, needs).items()}, (
        "once more changes nothing"
    )


@given(statuses)
def test_without_dependencies_each_is_what_it_is(own: dict[str, str]) -> None:
    assert {name: found.status for name, found in rolled_up(own, []).items()} == own


def test_a_dependency_of_a_dependency_counts_and_is_named() -> None:
    own = {"web": HEALTHY, "api": HEALTHY, "database": DOWN, "redis": DOWN}
    needs = [Dependency("web", "api", True), Dependency("api", "database", True), Dependency("api", "redis")]
    rolled = rolled_up(own, needs)
    assert (rolled["web"].status, rolled["web"].because) == (DOWN, ("api",))
    assert (rolled["api"].status, rolled["api"].because) == (DOWN, ("database",))
    assert rolled_up({**own, "database": UNKNOWN}, needs)["web"].status == DEGRADED


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_uptime_counts_degraded_as_up(healthy: int, degraded: int, down: int) -> None:
    found = uptime_percent(healthy, degraded, down)
    if healthy + degraded + down == 0:
        assert found is None
    else:
        assert found is not None
        assert 0 <= found <= 100
        assert (found == 100) == (down == 0 or round(down / (healthy + degraded + down) * 100, 3) == 0)
