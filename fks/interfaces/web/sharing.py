"""Sharing of work: callers that want the same before it begins get one result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Shared(Generic[K, V]):
    """Work under way by key. Soft state.

    Guarantees: a caller never gets the result of work that had begun when it asked: that result may be older than the
    event for which it asks. A caller that goes away takes the result from no other.
    """

    def __init__(self, gather_s: float = 0.0) -> None:
        """`gather_s`: how long work waits for further callers before it begins."""
        self._gather_s = gather_s
        self._waiting: dict[K, asyncio.Task[V]] = {}
        self._under_way: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, make: Callable[[], Awaitable[V]]) -> V:
        """Return the result of `make`, or of that of another caller with this key. Errors: those of `make`."""
        task = self._waiting.get(key)
        if task is None:
            task = asyncio.create_task(self._run(key, make, self._under_way.get(key)))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # its callers may have gone
            self._waiting[key] = task
        return await asyncio.shield(task)

    async def _run(self, key: K, make: Callable[[], Awaitable[V]], before: asyncio.Task[V] | None) -> V:
        """Run `make` once the work before has ended, and others had time to join."""
        if before is not None:
            await asyncio.wait({before})
        if self._gather_s > 0:
            await asyncio.sleep(self._gather_s)
        self._under_way[key] = self._waiting.pop(key)
        try:
            return await make()
        finally:
            del self._under_way[key]
