"""A clock for tests on real servers: `rate` times as fast as the machine's, and its time of day can be set."""

from __future__ import annotations

import asyncio
import time

from fks.clock import RealClock


class FastClock:
    """Monotonic time and sleeps run `rate` times as fast; `step` moves the time of day alone."""

    def __init__(self, start_ns: int | None = None, rate: float = 1.0) -> None:
        """`start_ns`: its first time of day; None = the machine's."""
        self.rate = rate
        self._offset_ns = 0
        self._from_s = time.monotonic()  # of the machine, when `rate` was last changed
        self._elapsed_s = 0.0
        self._start_ns = time.time_ns() if start_ns is None else start_ns

    def run(self, rate: float) -> None:
        """Run `rate` times as fast from now on. Sleeps under way keep their end."""
        self._elapsed_s, self._from_s = self.monotonic(), time.monotonic()
        self.rate = rate

    def step(self, seconds: float) -> None:
        """Set the time of day forward, or back."""
        self._offset_ns += round(seconds * 1e9)

    def now_ns(self) -> int:
        return self._start_ns + self._offset_ns + round(self.monotonic() * 1e9)

    def monotonic(self) -> float:
        return self._elapsed_s + (time.monotonic() - self._from_s) * self.rate

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.rate)


class FastWaits(RealClock):
    """The machine's clock whose monotonic time and sleeps alone run `rate` times as fast: its time of day is that of
    libraries that read the machine's."""

    def __init__(self, rate: float) -> None:
        self._rate = rate

    def monotonic(self) -> float:
        return super().monotonic() * self._rate

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / self._rate)
