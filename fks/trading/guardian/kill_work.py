"""The work of one kill at one place where orders rest: rounds until nothing is left, then rounds further apart."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from fks.clock.waiting import wait_for_event
from fks.model.errors import OutageError
from fks.trading.guardian.context import GuardianContext

_AT_ONCE = 10  # requests under way together
T = TypeVar("T")


async def at_once(act: Callable[[T], Awaitable[object]], items: Iterable[T]) -> None:
    """Do something with each item, with a few of them at a time: one without an answer delays few others."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(item: T) -> None:
        async with gate:
            await act(item)

    await asyncio.gather(*(one(item) for item in items))


class KillWork(ABC):
    """`run` goes on until cancelled; `state` and `remaining` always say where it is.

    `is_settled`: quiet for `settle_s`; as given it is as in the file, and the first round looks whether it still
    is. A round reads the place again and acts on the difference, so that a restart, a lost answer or an order that
    arrives late changes nothing but the number of rounds.
    """

    def __init__(self, context: GuardianContext, name: str, *, is_settled: bool = False) -> None:
        self.name = name
        self._clock, self._log, self._timing = context.clock, context.log, context.timing
        self._quiet_since: float | None = None
        self._again = asyncio.Event()
        self.state = "working"
        self.detail = ""
        self.remaining: list[dict[str, str]] = []
        self.stuck: Mapping[str, str] = {}  # symbols that a person must look at although the work goes on -> why
        self.rest_s = 0.0  # how long there is nothing to do but to wait
        self.quiet = asyncio.Event()  # nothing is open, unresolved or left to close
        self.is_settled = is_settled

    @abstractmethod
    async def _round(self) -> bool:
        """Do what can be done now; return whether nothing is left that could be. Errors: OutageError."""

    def wake(self, *, is_more: bool = False) -> None:
        """Look now. `is_more`: more is to be done than before, so that what was settled is not."""
        self.quiet.clear()
        if is_more:
            self._quiet_since, self.is_settled = None, False
        self._again.set()

    async def run(self) -> None:
        """Work and look on until cancelled. A place that is away is tried again for as long as it takes."""
        wait = self._timing.round_s
        while True:
            self._again.clear()
            is_failed = True
            try:
                is_quiet = await self._round()
                is_failed = False
                self._note_quiet(is_quiet)
            except OutageError as error:
                self.state, self.detail = "unreachable", str(error)
            except Exception as error:  # the last line of defence does not die of a surprise: it says so and goes on
                self.state, self.detail = "failed", f"{type(error).__name__}: {error}"
                self._log.error("kill.round_failed", venue=self.name, error=self.detail)
            if is_failed:
                self._quiet_since = None  # what was settled stays so: only a round can say otherwise
                self.quiet.clear()
            wait = self._wait(wait, is_failed=is_failed)
            await wait_for_event(self._again, wait, self._clock)

    def _note_quiet(self, is_quiet: bool) -> None:
        now = self._clock.monotonic()
        if not is_quiet:
            self._quiet_since, self.is_settled = None, False
            self.quiet.clear()
            return
        self._quiet_since = now if self._quiet_since is None else self._quiet_since
        self.is_settled = self.is_settled or now - self._quiet_since >= self._timing.settle_s
        self.quiet.set()

    def _wait(self, before: float, *, is_failed: bool) -> float:
        """Return the wait until the next round: short while there is something to do, long once it is settled."""
        timing = self._timing
        if is_failed:
            return min(before * 2, timing.round_max_s)
        if self.is_settled:
            return min(before * 1.5, timing.watch_max_s)
        if self.quiet.is_set():
            return max(timing.round_s, timing.settle_s / 6)
        usual = min(before * 1.3, timing.round_max_s) if before <= timing.round_max_s else timing.round_s
        return max(usual, min(self.rest_s, timing.watch_max_s))

    def report(self) -> Mapping[str, Any]:
        """Return where this place is, for people and programs."""
        return {"name": self.name, "state": self.state, "detail": self.detail}
