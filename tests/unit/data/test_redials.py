"""When a market data socket is dialled again: quickly after a cut, ever more seldom where nothing lasts."""

from __future__ import annotations

from itertools import pairwise

from fks.collector.reconnect_backoff import RETRY_FIRST_S, RETRY_LONG_S, RETRY_MAX_S, STEADY_S, Redials


def dials(seconds: float, *, stood_s: float, has_heard: bool) -> list[float]:
    """Return when one socket is dialled, where every connection stands for so long."""
    redials, now_s, found = Redials(), 0.0, []
    while now_s < seconds:
        found.append(now_s)
        began_s, now_s = now_s, now_s + stood_s
        now_s += redials.wait_s(began_s=began_s, now_s=now_s, has_heard=has_heard)
    return found


def waits(count: int, *, has_heard: bool = False) -> list[float]:
    found = dials(1e6, stood_s=0.001, has_heard=has_heard)[: count + 1]
    return [round(after - before, 2) for before, after in pairwise(found)]


def test_an_exchange_that_refuses_is_asked_within_seconds_and_after_long_within_half_a_minute() -> None:
    assert waits(16) == [0.4, 0.8, 1.6, 3.2, *[RETRY_MAX_S] * 8, 10.0, 20.0, RETRY_LONG_S, RETRY_LONG_S]


def test_what_gives_data_and_dies_is_dialled_ever_more_seldom_with_a_quick_one_in_between() -> None:
    assert waits(5, has_heard=True) == [0.2, 0.4, 0.8, 1.6, 3.2]
    assert len(dials(10.0, stood_s=0.0, has_heard=True)) <= 8
    last_hour = [at_s for at_s in dials(2 * 3600.0, stood_s=0.0, has_heard=True) if at_s > 3600.0]
    assert len(last_hour) <= 2 * 3600.0 / STEADY_S


def test_a_connection_that_stood_is_followed_at_once_and_so_are_cuts_some_seconds_apart() -> None:
    for stood_s in (RETRY_MAX_S, 8.0, STEADY_S, 3600.0):
        found = dials(40 * stood_s, stood_s=stood_s, has_heard=True)
        assert [round(after - before - stood_s, 6) for before, after in pairwise(found)] == [RETRY_FIRST_S] * (
            len(found) - 1
        )


def test_a_steady_connection_ends_the_row() -> None:
    redials = Redials()
    for _ in range(20):
        redials.wait_s(began_s=0.0, now_s=0.0, has_heard=False)
    assert redials.wait_s(began_s=0.0, now_s=STEADY_S, has_heard=True) == RETRY_FIRST_S
    assert redials.wait_s(began_s=STEADY_S, now_s=STEADY_S, has_heard=True) == 2 * RETRY_FIRST_S


def test_a_connection_that_gave_nothing_was_no_good_one_however_long_it_stood() -> None:
    redials = Redials()
    for _ in range(20):
        redials.wait_s(began_s=0.0, now_s=0.0, has_heard=False)
    redials.wait_s(began_s=0.0, now_s=STEADY_S, has_heard=False)
    assert redials.wait_s(began_s=0.0, now_s=0.0, has_heard=False) == RETRY_LONG_S
