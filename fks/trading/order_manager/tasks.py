"""Waiting with bounds, and tasks whose failure ends the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fks.clock import Clock

_LOOK_S = 0.005


class Tasks:
    """Tasks of one service: the first that fails ends it. Unlike a TaskGroup it is filled before it is waited for."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failed: asyncio.Event = asyncio.Event()
        self._error: BaseException | None = None
        self._is_closed = False

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any] | None:
        """Start `work`; None (and not started) once the service is closing."""
        if self._is_closed:
            work.close()
            return None
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._error is None:
            self._error = error
            self._failed.set()

    async def join(self) -> None:
        """Wait for ever; raise what the first failed task raised."""
        await self._failed.wait()
        assert self._error is not None
        raise self._error

    async def close(self, timeout_s: float = 2.0) -> None:
        """Cancel everything and wait for it, at most `timeout_s` seconds."""
        self._is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    def __len__(self) -> int:
        return len(self._tasks)


async def settled(clock: Clock, is_settled: Callable[[], bool], timeout_s: float) -> bool:
    """Return whether `is_settled` became true within `timeout_s`."""
    deadline = clock.monotonic() + timeout_s
    while not is_settled():
        if clock.monotonic() > deadline:
            return False
        await clock.sleep(_LOOK_S)
    return True
