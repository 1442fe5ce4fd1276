"""Waiting on a condition with a deadline: the one way a test lets time pass.

The default deadline is no promise: it only ends a test that hangs, also on a machine that is twenty times as slow. A test
of a promise gives its own.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
DEFAULT_S = 40.0


async def until(
    condition: Callable[[], T | Awaitable[T]], *, deadline_s: float = DEFAULT_S, every_s: float = 0.02
) -> T:
    """Return the first true value of `condition` (plain or async); fail loudly after `deadline_s`."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        result: T = await value if inspect.isawaitable(value) else value
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(
                f"not within {deadline_s:g} s: {inspect.getsource(condition).strip()[:300]}; last {result!r}"
            )
        await asyncio.sleep(every_s)


def clear_of_the_hour() -> None:
    """Wait until no bar of an hour is about to end or to settle (fks.market.history.gaps.SETTLE_NS): for counts of what there
    is."""
    into_s = time.time() % 3600
    if not 11 < into_s < 3540:
        time.sleep((3611 - into_s) % 3600)


def wait_until(condition: Callable[[], T], *, deadline_s: float = DEFAULT_S, every_s: float = 0.05) -> T:
    """Return the first true value of a plain `condition`; fail loudly after `deadline_s`."""
    end = time.monotonic() + deadline_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(
                f"not within {deadline_s:g} s: {inspect.getsource(condition).strip()[:300]}; last {result!r}"
            )
        time.sleep(every_s)
