"""Fault injection: each fault of the plan begun, held, undone, and its detection and recovery measured."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psutil

from fks.lab.chaos.links import LINKS, STRIKE_S
from fks.lab.chaos.observed_system import UP_S, ActiveFault, ObservedSystem, Undo
from fks.lab.chaos.outside import Outside
from fks.lab.chaos.plan import Injection
from fks.lab.chaos.processes import PROCESSES
from fks.lab.chaos.space import free_disk
from fks.lab.chaos.watch import Watch
from fks.model.errors import FksError, OutageError

RECOVER_S = 120.0  # the system counts as not recovered after this time
UNDO_S = 60.0  # an undo that another fault keeps from working is tried again for so long
#: Implementation of each kind of `kinds.KINDS`.
FAULTS: dict[str, Callable[[ObservedSystem, Injection], Awaitable[ActiveFault]]] = {**PROCESSES, **LINKS}


@dataclass(slots=True)
class Attempt:
    """Result of one injection. Seconds; None: not seen. `error` says why it was not performed.

    `recovered_s` counts from the fault, or from its end when it lasts (except for a stopped actor, which is replaced).
    `struck` is how many requests, frames or connections a fault of the exchange hit; None: it is not counted.
    """

    injection: Injection
    at_s: float = 0.0
    detected_s: float | None = None
    recovered_s: float | None = None
    note: str = ""
    error: str = ""
    struck: int | None = None

    @property
    def is_injected(self) -> bool:
        """Return whether the fault was performed and did not strike nothing."""
        return not self.error and self.struck != 0


class Injector:
    """Performs injections on one system. `restore` undoes every fault that is still in force.

    A fault that struck nothing in its time is held for up to `strike_s` more.
    """

    def __init__(self, outside: Outside, watch: Watch, *, strike_s: float = STRIKE_S) -> None:
        self._o, self._watch, self._strike_s = outside, watch, strike_s
        self._system = ObservedSystem(outside, watch)
        self._undo: dict[int, Undo] = {}

    async def perform(self, injection: Injection) -> Attempt:
        """Begin the fault, hold it, undo it, and measure. Never raises for the system's behaviour; an impossible one
        has `error`."""
        attempt = Attempt(injection, self._o.now_s())
        try:
            active = await self._begin(injection)
        except (FksError, OSError, psutil.Error) as error:
            attempt.error = str(error)
            return attempt
        attempt.at_s, attempt.note = active.at_s, active.note
        if active.undo is not None:
            self._undo[injection.number] = active.undo
        noticing = asyncio.create_task(self._watch.until(lambda: active.noticed_s() is not None, RECOVER_S))
        try:
            attempt.recovered_s = await self._outlast(active, attempt)
        except FksError as error:  # the fault could not be undone: reported as not recovered
            attempt.note = str(error)
        finally:
            noticing.cancel()
            await asyncio.gather(noticing, return_exceptions=True)
        noticed_s = active.noticed_s() if attempt.is_injected else None
        attempt.detected_s = None if noticed_s is None else max(0.0, noticed_s - active.at_s)
        return attempt

    async def _outlast(self, active: ActiveFault, attempt: Attempt) -> float | None:
        """Hold the fault for its time, undo it and return the seconds until the system has recovered; None: it has
        not, or the fault struck nothing, so that there was nothing to recover from."""
        injection = attempt.injection
        early = self._watch.until(active.is_recovered, RECOVER_S + injection.seconds) if active.is_replaced else None
        watching = asyncio.create_task(early) if early is not None else None
        try:
            await self._o.clock.sleep(injection.seconds)
            attempt.struck = await self._strikes(active)
            over_s = self._o.now_s()
            if (undo := self._undo.pop(injection.number, None)) is not None:
                await _persist(undo, self._o)
            if not attempt.is_injected:
                return None
            since_s = over_s if watching is None else active.at_s
            back_s = await (watching or self._watch.until(active.is_recovered, RECOVER_S))
            return None if back_s is None else max(0.0, back_s - since_s)
        finally:
            if watching is not None:
                watching.cancel()

    async def _strikes(self, active: ActiveFault) -> int | None:
        """Return how much a fault has struck, once it has struck or has been held for long enough."""
        if active.struck is None:
            return None
        end, count = self._o.clock.monotonic() + self._strike_s, 0
        while True:
            with contextlib.suppress(OutageError):
                count = await active.struck()
            if count or self._o.clock.monotonic() > end:
                return count
            await self._o.clock.sleep(0.3)

    async def _begin(self, injection: Injection) -> ActiveFault:
        """Begin the fault; retry while another fault has taken away what it needs."""
        end = self._o.clock.monotonic() + UP_S
        while True:
            try:
                return await FAULTS[injection.kind](self._system, injection)
            except OutageError:
                if self._o.clock.monotonic() > end:
                    raise
                await self._o.clock.sleep(0.3)

    async def restore(self) -> None:
        """Undo every fault still in force: after Ctrl-C, after an error, and at the end."""
        while self._undo:
            _, undo = self._undo.popitem()
            with contextlib.suppress(FksError, OSError):
                await _persist(undo, self._o)
        await _persist(lambda: free_disk(self._o), self._o)


async def _persist(undo: Undo, outside: Outside) -> None:
    """Undo a fault; retry while another fault has taken away what that needs."""
    end = outside.clock.monotonic() + UNDO_S
    while True:
        try:
            await undo()
            return
        except OutageError:
            if outside.clock.monotonic() > end:
                raise
            await outside.clock.sleep(0.3)
