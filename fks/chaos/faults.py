"""Fault injection: each fault of the plan begun, held, undone, and its detection and recovery measured."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psutil

from fks.chaos.links import LINKS
from fks.chaos.outside import Outside
from fks.chaos.plan import Injection
from fks.chaos.processes import PROCESSES
from fks.chaos.scenario import UP_S, Deed, Scene, Undo
from fks.chaos.space import free_disk
from fks.chaos.watch import Watch
from fks.model.errors import FksError, OutageError

RECOVER_S = 120.0  # the system counts as not recovered after this time
# : Implementation of each kind of `kinds.KINDS`.
WAYS: dict[str, Callable[[Scene, Injection], Awaitable[Deed]]] = {**PROCESSES, **LINKS}


@dataclass(slots=True)
class Attempt:
    """Result of one injection. Seconds; None: not seen. `error` says why it was not performed.

    `recovered_s` counts from the fault, or from its end when it lasts (except for a stopped actor, which is replaced).
    """

    injection: Injection
    at_s: float = 0.0
    detected_s: float | None = None
    recovered_s: float | None = None
    note: str = ""
    error: str = ""


class Hands:
    """Performs injections on one system. `restore` undoes every fault that is still in force."""

    def __init__(self, outside: Outside, watch: Watch) -> None:
        self._o, self._watch = outside, watch
        self._scene = Scene(outside, watch)
        self._undo: dict[int, Undo] = {}

    async def perform(self, injection: Injection) -> Attempt:
        """Begin the fault, hold it, undo it, and measure. Never raises for the system's behaviour; an impossible one
        has `error`."""
        attempt = Attempt(injection, self._o.now_s())
        try:
            deed = await self._begin(injection)
        except (FksError, OSError, psutil.Error) as error:
            attempt.error = str(error)
            return attempt
        attempt.at_s, attempt.note = deed.at_s, deed.note
        if deed.undo is not None:
            self._undo[injection.number] = deed.undo
        noticing = asyncio.create_task(self._watch.until(lambda: deed.noticed_s() is not None, RECOVER_S))
        try:
            attempt.recovered_s = await self._outlast(deed, injection)
        except FksError as error:  # the fault could not be undone: reported as not recovered
            attempt.note = str(error)
        finally:
            noticing.cancel()
            await asyncio.gather(noticing, return_exceptions=True)
        noticed_s = deed.noticed_s()
        attempt.detected_s = None if noticed_s is None else max(0.0, noticed_s - deed.at_s)
        return attempt

    async def _outlast(self, deed: Deed, injection: Injection) -> float | None:
        """Hold the fault for its time, undo it and return the seconds until the system has recovered; None: it has
        not."""
        early = self._watch.until(deed.is_recovered, RECOVER_S + injection.seconds) if deed.is_replaced else None
        watching = asyncio.create_task(early) if early is not None else None
        try:
            await self._o.clock.sleep(injection.seconds)
            over_s = self._o.now_s()
            if (undo := self._undo.pop(injection.number, None)) is not None:
                await _persist(undo, self._o)
            since_s = over_s if watching is None else deed.at_s
            back_s = await (watching or self._watch.until(deed.is_recovered, RECOVER_S))
            return None if back_s is None else max(0.0, back_s - since_s)
        finally:
            if watching is not None:
                watching.cancel()

    async def _begin(self, injection: Injection) -> Deed:
        """Begin the fault; retry while another fault has taken away what it needs."""
        end = self._o.clock.monotonic() + UP_S
        while True:
            try:
                return await WAYS[injection.kind](self._scene, injection)
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


async def _persist(undo: Undo, outside: Outside, deadline_s: float = 60.0) -> None:
    """Undo a fault; retry while another fault has taken away what that needs."""
    end = outside.clock.monotonic() + deadline_s
    while True:
        try:
            await undo()
            return
        except OutageError:
            if outside.clock.monotonic() > end:
                raise
            await outside.clock.sleep(0.3)
