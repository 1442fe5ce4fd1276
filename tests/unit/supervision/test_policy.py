"""Restart policy: the window, the back-off, what each restart type means, and the tree's order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.errors import ConfigError
from fks.supervision import (
    ChildSpec,
    GiveUp,
    Intensity,
    Restart,
    RestartType,
    Wait,
    backoff_s,
    check_tree,
    decide_exit,
    is_hung,
    note_restart,
    start_waves,
    stop_order,
)  # fmt: skip

LIMIT = Intensity(restarts_max=3, period_s=10.0)


def spec(id: str = "a", *, after: tuple[str, ...] = (), restart: RestartType = RestartType.PERMANENT) -> ChildSpec:
    return ChildSpec(id, "role", LIMIT, 1.0, after=after, restart=restart)


def decide(history: tuple[float, ...], now_s: float, **kwargs: object) -> object:
    restart = kwargs.pop("restart", RestartType.PERMANENT)
    return decide_exit(
        spec(restart=restart), history, now_s, is_normal=bool(kwargs.get("is_normal")), first_s=0.1, max_s=5.0
    )  # type: ignore[arg-type]


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


def test_a_child_is_given_up_on_the_restart_above_the_limit_and_not_before() -> None:
    history: tuple[float, ...] = ()
    for now in (0.0, 1.0, 2.0):
        decision = decide(history, now)
        assert isinstance(decision, Restart)
        history = decision.history
    last = decide(history, 3.0)
    assert isinstance(last, GiveUp)
    assert last.retry_s == LIMIT.period_s


def test_restarts_older_than_the_window_are_forgotten() -> None:
    assert isinstance(decide((0.0, 1.0, 2.0), 12.5), Restart)


@pytest.mark.parametrize(
    ("restart", "is_normal", "expected"),
    [
        (RestartType.PERMANENT, True, Restart), (RestartType.PERMANENT, False, Restart),
        (RestartType.TRANSIENT, True, Wait), (RestartType.TRANSIENT, False, Restart),
        (RestartType.TEMPORARY, True, Wait), (RestartType.TEMPORARY, False, Wait),
    ],
)  # fmt: skip
def test_each_restart_type_means_what_otp_says(restart: RestartType, is_normal: bool, expected: type) -> None:
    assert isinstance(decide((), 0.0, restart=restart, is_normal=is_normal), expected)


@given(st.integers(1, 10_000))
def test_backoff_starts_at_nothing_doubles_and_is_capped(restarts: int) -> None:
    wait = backoff_s(restarts, first_s=0.1, max_s=5.0)
    assert wait == (0.0 if restarts == 1 else min(0.1 * 2 ** min(restarts - 2, 30), 5.0))


def test_a_silent_loop_and_unanswered_calls_are_both_hung_at_three_beats() -> None:
    assert not is_hung(beat_age_s=2.9, misses=2, heartbeat_s=1.0, misses_max=3)
    assert is_hung(beat_age_s=3.1, misses=0, heartbeat_s=1.0, misses_max=3)
    assert is_hung(beat_age_s=0.0, misses=3, heartbeat_s=1.0, misses_max=3)


def test_children_start_after_what_they_name_and_stop_in_reverse() -> None:
    tree = [spec("a"), spec("b", after=("a",)), spec("c"), spec("d", after=("b", "c"))]
    waves = [[child.id for child in wave] for wave in start_waves(tree)]
    assert waves == [["a", "c"], ["b"], ["d"]]
    assert [[child.id for child in wave] for wave in stop_order(tree)] == [["d"], ["b"], ["a", "c"]]


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ([spec("a", after=("b",)), spec("b", after=("a",))], "circle"),
        ([spec("a", after=("x",))], "no child"),
        ([spec("a"), spec("a")], "twice"),
        ([ChildSpec("a", "r", LIMIT, 0.0)], "stop_s"),
        ([ChildSpec("a", "r", Intensity(-1, 1.0), 1.0)], "window"),
    ],
)
def test_a_tree_that_cannot_run_is_refused_by_name(tree: list[ChildSpec], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_tree(tree)
