"""The two numbers of a restart, and trees that cannot be run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.errors import ConfigError
from fks.system.supervision import (
    ChildSpec,
    Intensity,
    RestartBackoff,
    SupervisorSpec,
    backoff_s,
    check_tree,
    note_restart,
    start_waves,
)
from fks.system.supervision.policy import jitter_draw
from fks.system.supervision.spec import predecessors

LIMIT = Intensity(restarts_max=3, period_s=10.0)


def spec(id: str, *, after: tuple[str, ...] = ()) -> ChildSpec:
    return ChildSpec(id, "role", 1.0, after=after)


def branch(*children: ChildSpec | SupervisorSpec, id: str = "s") -> SupervisorSpec:
    return SupervisorSpec(id, children, LIMIT)


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=40))
def test_the_window_holds_exactly_the_restarts_of_the_last_period(times: list[float]) -> None:
    history: tuple[float, ...] = ()
    past: list[float] = []
    for now in sorted(times):
        history, may_go_on = note_restart(history, now, LIMIT)
        past.append(now)
        expected = [t for t in past if t >= now - LIMIT.period_s]
        assert sorted(history) == expected
        assert may_go_on == (len(expected) <= LIMIT.restarts_max)


@given(st.integers(1, 10_000))
def test_backoff_starts_at_nothing_doubles_and_is_capped(tries: int) -> None:
    wait = backoff_s(tries, RestartBackoff(first_s=0.1, max_s=5.0), draw=0.0)
    assert wait == (0.0 if tries == 1 else min(0.1 * 2 ** min(tries - 2, 30), 5.0))


@given(st.integers(2, 100), st.floats(0, 1, exclude_max=True))
def test_jitter_only_ever_shortens_the_wait_and_by_its_share_at_most(tries: int, draw: float) -> None:
    backoff = RestartBackoff(first_s=0.1, max_s=5.0, jitter=0.25)
    full = backoff_s(tries, backoff, draw=0.0)
    assert 0.75 * full <= backoff_s(tries, backoff, draw=draw) <= full


def test_jitter_differs_between_children_and_is_repeatable() -> None:
    assert jitter_draw("a", 2, 1.0) == jitter_draw("a", 2, 1.0)
    thrown = {jitter_draw(child, tries, 1.0) for child in "abc" for tries in (2, 3)}
    assert len(thrown) == 6
    assert all(0 <= draw < 1 for draw in thrown)


def test_children_start_after_the_siblings_they_name_and_stop_before() -> None:
    tree = branch(spec("a"), spec("b", after=("a",)), spec("c"), spec("d", after=("b", "c")))
    assert start_waves(tree) == (("a", "c"), ("b",), ("d",))
    assert predecessors(tree)["d"] == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (branch(spec("a", after=("b",)), spec("b", after=("a",))), "circle"),
        (branch(branch(spec("a", after=("b",)), spec("b", after=("a",)), id="t")), "circle"),
        (branch(spec("a", after=("x",))), "no sibling"),
        (branch(spec("a"), branch(spec("b", after=("a",)), id="t")), "no sibling"),
        (branch(spec("a"), branch(spec("a"), id="t")), "twice"),
        (branch(spec("s")), "twice"),
        (branch(ChildSpec("a", "r", 0.0)), "stop_s"),
        (SupervisorSpec("s", (), Intensity(-1, 1.0)), "window"),
    ],
)
def test_a_tree_that_cannot_run_is_refused_by_name(tree: SupervisorSpec, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_tree(tree)
