"""Response to a strategy instance that crashed its worker: counted, then isolated, then disabled. Pure.

One crash proves nothing: the worker may have been killed while the instance happened to run. The second within the
window moves the instance into a worker of its own, so that it no longer affects its neighbours. Two more there, where
no other instance can be the cause, disable it. A crash later than the window after the last one restarts the count of
its stage.
"""

from __future__ import annotations

from dataclasses import dataclass

SHARED_MAX = 2  # crashes among others, within the window, after which an instance is isolated
SOLO_MAX = 2  # crashes in a worker of its own after which it is disabled


@dataclass(frozen=True, slots=True)
class Count:
    """Keep it where it is; `crashes` is the new count."""

    crashes: int


@dataclass(frozen=True, slots=True)
class Isolate:
    """Give it a worker of its own."""

    crashes: int


@dataclass(frozen=True, slots=True)
class Disable:
    """Disable it and page."""

    crashes: int


CrashResponse = Count | Isolate | Disable


def respond_to_crash(*, crashes: int, is_isolated: bool, since_last_s: float | None, window_s: float) -> CrashResponse:
    """Return what follows from one more crash.

    `crashes` and `is_isolated` are from before it; `since_last_s` is the time since the crash before (None: there was
    none; negative when a clock went back, which counts as within the window).
    """
    floor = SHARED_MAX if is_isolated else 0  # the crashes that brought it to where it is
    is_late = since_last_s is None or since_last_s > window_s
    count = floor + 1 if is_late else max(crashes, floor) + 1
    if not is_isolated:
        return Isolate(count) if count >= SHARED_MAX else Count(count)
    return Disable(count) if count >= SHARED_MAX + SOLO_MAX else Count(count)
