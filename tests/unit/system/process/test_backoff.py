"""Backoff, and waiting with a bound."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.clock import FakeClock
from fks.clock.waiting import retry, wait_for_any, wait_for_event
from fks.model.backoff import Backoff
from fks.model.errors import OutageError


def test_backoff_doubles_up_to_its_maximum() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.wait_s(n) for n in range(6)] == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff.wait_s(10_000) == 3.0


@given(st.integers(0, 20))
def test_next_wait_follows_the_same_row(failures: int) -> None:
    backoff = Backoff(0.5, 30.0)
    assert backoff.next_s(backoff.wait_s(failures)) == backoff.wait_s(failures + 1)


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_jitter_takes_at_most_its_share_off(failures: int, draw: float) -> None:
    plain, jittered = Backoff(0.1, 10.0), Backoff(0.1, 10.0, jitter=0.2)
    assert plain.wait_s(failures) * 0.8 <= jittered.wait_s(failures, draw=draw) <= plain.wait_s(failures)


async def test_event_that_is_set_ends_the_wait_early() -> None:
    event, clock = asyncio.Event(), FakeClock()
    waiting = asyncio.create_task(wait_for_event(event, 5.0, clock))
    await clock.advance(1.0)
    event.set()
    assert await waiting
    assert clock.monotonic() == 1.0


async def test_wait_for_an_event_ends_at_its_timeout() -> None:
    clock = FakeClock()
    waiting = asyncio.create_task(wait_for_event(asyncio.Event(), 5.0, clock))
    await clock.advance(4.9)
    assert not waiting.done()
    await clock.advance(0.2)
    assert not await waiting


async def test_wait_for_any_returns_with_the_first_event() -> None:
    first, second = asyncio.Event(), asyncio.Event()
    second.set()
    assert await wait_for_any((first, second), 5.0)
    assert not await wait_for_any((first,), 0.01)


class Failing:
    """Fails so many times, then returns 42; records when it was called."""

    def __init__(self, clock: FakeClock, failures: int) -> None:
        self._clock, self._left = clock, failures
        self.called_s: list[float] = []

    async def call(self) -> int:
        self.called_s.append(self._clock.monotonic())
        if self._left:
            self._left -= 1
            raise OutageError("away")
        return 42


async def test_retry_waits_as_the_backoff_says() -> None:
    clock = FakeClock()
    failing = Failing(clock, 3)
    task = asyncio.create_task(retry(failing.call, clock, Backoff(1.0, 2.0), errors=OutageError))
    await clock.advance(10.0)
    assert await task == 42
    assert failing.called_s == [0.0, 1.0, 3.0, 5.0]


async def test_retry_raises_the_last_error_after_its_attempts() -> None:
    clock = FakeClock()
    failing = Failing(clock, 9)
    task = asyncio.create_task(retry(failing.call, clock, Backoff(1.0, 1.0), errors=OutageError, attempts_max=2))
    await clock.advance(10.0)
    with pytest.raises(OutageError):
        await task
    assert failing.called_s == [0.0, 1.0]


async def test_retry_passes_other_errors_on_at_once() -> None:
    async def broken() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await retry(broken, FakeClock(), Backoff(1.0, 1.0), errors=OutageError)
