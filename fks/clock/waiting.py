"""Waiting with a bound: for an event or a time, and between the attempts of a call that is retried."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from fks.clock.real import Clock

T = TypeVar("T")


class Waits(Protocol):
    """A wait per failure in a row (`fks.model.backoff.Backoff`)."""

    def wait_s(self, failures: int) -> float:
        """Return the wait after the n-th failure in a row."""
        ...


async def wait_for_event(event: asyncio.Event, timeout_s: float | None, clock: Clock | None = None) -> bool:
    """Return whether `event` was set within `timeout_s` (None: wait without a limit).

    `clock` measures the time; without one the event loop does.
    """
    if timeout_s is None:
        return await event.wait()
    waiter = asyncio.ensure_future(event.wait())
    sleeper = asyncio.ensure_future(asyncio.sleep(timeout_s) if clock is None else clock.sleep(timeout_s))
    try:
        await asyncio.wait({waiter, sleeper}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
        sleeper.cancel()
    return event.is_set()


async def wait_for_any(events: tuple[asyncio.Event, ...], timeout_s: float) -> bool:
    """Return whether one of `events` was set within `timeout_s`."""
    waiters = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
    return any(event.is_set() for event in events)


async def end_task(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has ended. Errors: the task's own, other than its cancellation.

    The caller's cancellation goes through. It would be lost in `suppress(CancelledError)` around `await task`, and
    the task that waits for the caller's end would wait for ever.
    """
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def retry(
    call: Callable[[], Awaitable[T]],
    clock: Clock,
    backoff: Waits,
    *,
    errors: type[Exception] | tuple[type[Exception], ...],
    attempts_max: int | None = None,
    on_failure: Callable[[Exception], Awaitable[None]] | None = None,
) -> T:
    """Return what `call` returns, calling it again after each of `errors`, `backoff` apart.

    `on_failure` is awaited before each wait. Errors: the last of `errors` after `attempts_max` attempts (None: retried
    without a limit); any other error at once.
    """
    failures = 0
    while True:
        try:
            return await call()
        except errors as error:
            failures += 1
            if failures == attempts_max:
                raise
            if on_failure is not None:
                await on_failure(error)
        await clock.sleep(backoff.wait_s(failures))
