"""A clock that moves only when a test advances it; sleepers wake in the order in which they are due."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class FakeClock:
    """Starts at `start_ns`; `advance` moves time and lets every sleeper that came due run, in due order."""

    def __init__(self, start_ns: int = 1_767_225_600_000_000_000) -> None:
        self._start_ns = start_ns
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now_ns(self) -> int:
        return self._start_ns + round(self._elapsed * 1e9)

    def monotonic(self) -> float:
        return self._elapsed

    def step(self, seconds: float) -> None:
        """Set the wall clock forward (or back) by `seconds`; monotonic time and the sleepers are not affected."""
        self._start_ns += round(seconds * 1e9)

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + max(seconds, 0.0), next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Advance time by `seconds`, stopping at each due sleeper until the tasks that it wakes have run."""
        target = self._elapsed + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, future = heapq.heappop(self._sleepers)
            self._elapsed = max(self._elapsed, due)
            if not future.done():
                future.set_result(None)
            await self._settle()
        self._elapsed = target

    @staticmethod
    async def _settle() -> None:
        for _ in range(20):
            await asyncio.sleep(0)
