"""Reconnect backoff: quick after a cut, less often with each connection that does not last."""

from __future__ import annotations

from itertools import pairwise

from fks.market.collector.connections import RETRY_FIRST_S, RETRY_LONG_S, RETRY_MAX_S, STEADY_S, ReconnectBackoff


def connects(seconds: float, *, stood_s: float, has_data: bool) -> list[float]:
    """Return the times of connects, where every connection stands for so long."""
    backoff, now_s, found = ReconnectBackoff(), 0.0, []
    while now_s < seconds:
        found.append(now_s)
        began_s, now_s = now_s, now_s + stood_s
        now_s += backoff.wait_s(began_s=began_s, now_s=now_s, has_data=has_data)
    return found


def waits(count: int, *, has_data: bool = False) -> list[float]:
    found = connects(1e6, stood_s=0.001, has_data=has_data)[: count + 1]
    return [round(after - before, 2) for before, after in pairwise(found)]


def test_refused_connects_are_seconds_apart_and_half_a_minute_in_the_end() -> None:
    assert waits(16) == [0.4, 0.8, 1.6, 3.2, *[RETRY_MAX_S] * 8, 10.0, 20.0, RETRY_LONG_S, RETRY_LONG_S]


def test_connection_that_gives_data_and_ends_is_retried_less_often() -> None:
    assert waits(5, has_data=True) == [0.2, 0.4, 0.8, 1.6, 3.2]
    assert len(connects(10.0, stood_s=0.0, has_data=True)) <= 8
    last_hour = [at_s for at_s in connects(2 * 3600.0, stood_s=0.0, has_data=True) if at_s > 3600.0]
    assert len(last_hour) <= 2 * 3600.0 / STEADY_S


def test_connection_that_stood_for_seconds_is_followed_at_once() -> None:
    for stood_s in (RETRY_MAX_S, 8.0, STEADY_S, 3600.0):
        found = connects(40 * stood_s, stood_s=stood_s, has_data=True)
        assert [round(after - before - stood_s, 6) for before, after in pairwise(found)] == [RETRY_FIRST_S] * (
            len(found) - 1
        )


def test_steady_connection_ends_the_row_of_failures() -> None:
    backoff = ReconnectBackoff()
    for _ in range(20):
        backoff.wait_s(began_s=0.0, now_s=0.0, has_data=False)
    assert backoff.wait_s(began_s=0.0, now_s=STEADY_S, has_data=True) == RETRY_FIRST_S
    assert backoff.wait_s(began_s=STEADY_S, now_s=STEADY_S, has_data=True) == 2 * RETRY_FIRST_S


def test_connection_without_data_is_a_failure_however_long_it_stood() -> None:
    backoff = ReconnectBackoff()
    for _ in range(20):
        backoff.wait_s(began_s=0.0, now_s=0.0, has_data=False)
    backoff.wait_s(began_s=0.0, now_s=STEADY_S, has_data=False)
    assert backoff.wait_s(began_s=0.0, now_s=0.0, has_data=False) == RETRY_LONG_S
