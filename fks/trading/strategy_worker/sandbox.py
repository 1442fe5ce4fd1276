"""Sandbox for a strategy's own code: it runs under a crash mark, on the loop if fast, else in a thread with a time
limit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from fks.clock import Clock
from fks.model.errors import InputError
from fks.system.process.crash_marker import CrashMarker

EVALUATE_S = 10.0  # code that takes longer crashes its instance
STUCK_S = 2.0  # a thread that runs longer after that takes time from the other instances: the worker restarts
T = TypeVar("T")
#: errors with which user code would end the worker's process, or its task
_LEAVING = (SystemExit, GeneratorExit, asyncio.CancelledError)


class Sandbox:
    """Runs user code of one instance at a time. `epoch` goes into the marks."""

    def __init__(self, marker: CrashMarker, clock: Clock, epoch: int) -> None:
        self._marker, self._clock, self._epoch = marker, clock, epoch
        self._late: list[tuple[str, float, threading.Event]] = []  # (instance, since, ended) of threads over their time

    def inline(self, instance: str, bar_ns: int, call: Callable[[], T]) -> T:
        """Return the result of `call`, run on the loop: it must be fast. An endless call hangs the worker, and is
        marked."""
        with self._marker.holding(instance, at_ns=self._clock.now_ns(), bar_ns=bar_ns, epoch=self._epoch):
            return _confined(call)

    async def in_thread(self, instance: str, strategy: str, bar_ns: int, call: Callable[[], T]) -> T:
        """Return the result of `call`, run in a thread. Errors: InputError when it takes longer than EVALUATE_S."""
        ended = threading.Event()

        def work() -> T:
            try:
                return _confined(call)
            finally:
                ended.set()

        with self._marker.holding(instance, at_ns=self._clock.now_ns(), bar_ns=bar_ns, epoch=self._epoch):
            try:
                async with asyncio.timeout(EVALUATE_S) as limit:
                    return await asyncio.to_thread(work)
            except TimeoutError:
                if not limit.expired():
                    raise  # its own
                self._late.append((instance, self._clock.monotonic(), ended))
        raise InputError(
            f"strategy {strategy} took longer than {EVALUATE_S:g} s to decide", remedy="make decide() faster"
        ) from None

    def stuck(self) -> str | None:
        """Return an instance whose thread is long over its time, or None. A thread can only be ended with its
        process."""
        self._late = [item for item in self._late if not item[2].is_set()]
        now = self._clock.monotonic()
        return next((instance for instance, since, _ in self._late if now - since > STUCK_S), None)


def _confined(call: Callable[[], T]) -> T:
    """Return the result of `call`. Errors: InputError instead of an error that would end the worker."""
    try:
        return call()
    except _LEAVING as error:
        raise InputError(f"it raised {type(error).__name__}: {error}", remedy="raise an error, or decide") from error
