"""Targets of faults in a running system, and the signs of detection and recovery that are visible from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psutil

from fks.lab.chaos.outside import Outside
from fks.lab.chaos.watch import ComponentRow, Watch
from fks.model.errors import InputError

UP_S = 90.0  # wait for a target that is not up yet
ALIVE_S = 1.0  # a heartbeat this young counts as alive
GONE = frozenset({"exited", "killed", "hung", "escalated", "replaced"})
RETURNED = frozenset({"restarted"})  # nothing records the supervisor's end; the new one records that there was one
NOTICED = frozenset({"child.exited", "child.stopping", "service.part_died"})
READY = frozenset({"child.started"})

Check = Callable[[], "bool | Awaitable[bool]"]
Undo = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class ActiveFault:
    """A fault in force: its start, its undo, and the checks for detection and recovery.

    Recovery is counted from the moment the fault is over; `is_replaced`: from its beginning, because the system is
    expected to do without the victim before that. `struck`: how much the fault hit, where that is counted.
    """

    at_s: float
    is_recovered: Check
    noticed_s: Callable[[], float | None] = lambda: None
    undo: Undo | None = None
    note: str = ""
    is_replaced: bool = False
    struck: Callable[[], Awaitable[int]] | None = None


@dataclass(frozen=True, slots=True)
class ObservedSystem:
    """One system under chaos: the access from outside and the watch."""

    outside: Outside
    watch: Watch

    async def component(self, name: str, title: str) -> tuple[ComponentRow, int]:
        """Return a component that is up and its pid; waits for it. Errors: InputError when it does not come up in
        time."""
        since_s = self.outside.now_s() - ALIVE_S
        found: list[tuple[ComponentRow, int]] = []

        def is_up() -> bool:
            row = self._find(name, title)
            if row is not None and (not title or row[0].beat_s > since_s):  # a row outlives its process for a moment
                found.append(row)
            return bool(found)

        await self.watch.until(is_up, UP_S)
        if not found:
            raise InputError(f"{name} is not up")
        return found[0]

    def _find(self, name: str, title: str) -> tuple[ComponentRow, int] | None:
        row = self.watch.view.rows.get(name)
        if row is None or not row.pid or not self.watch.view.is_database_up:
            return None
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(row.pid)
            if process.name().startswith(title) and process.status() not in (
                psutil.STATUS_ZOMBIE,
                psutil.STATUS_STOPPED,
            ):
                return row, row.pid
        return None

    def well_since(self, at_s: float) -> Callable[[], bool]:
        """Return a check whether all is well by rows written after `at_s`."""
        return lambda: self.watch.is_well(at_s)

    def gone_since(self, name: str, at_s: float, pid: int) -> Callable[[], float | None]:
        """Return a function for the moment when the tree recorded the child's end; else (its supervisor was away) when
        its row changed."""
        seen: list[float] = []

        def when() -> float | None:
            found = self.watch.first("tree", name, RETURNED if name == "supervisor" else GONE, at_s)
            row = self.watch.view.rows.get(name)
            if not seen and row is not None and row.pid != pid:
                seen.append(self.watch.view.at_s)
            return found.at_s if found is not None else seen[0] if seen else None

        return when

    def service_noticed(self, name: str, at_s: float) -> Callable[[], float | None]:
        """Return a function for the moment when the keeper recorded that a service died or is restarted."""

        def when() -> float | None:
            found = self.watch.first("keeper", name, NOTICED, at_s)
            return found.at_s if found is not None else None

        return when

    def service_back(self, name: str, at_s: float) -> Callable[[], bool]:
        """Return a check whether the keeper recorded the service as ready and all has been well since."""

        def is_back() -> bool:
            found = self.watch.first("keeper", name, READY, at_s)
            return found is not None and self.watch.is_well(found.at_s)

        return is_back

    def actor_back(self, name: str, pid: int, at_s: float) -> Callable[[], bool]:
        """Return a check whether an actor is back: a collector with live feeds, the order manager with reconciled
        venues."""

        def is_back() -> bool:
            view = self.watch.view
            is_whole = (not name.startswith("collector") or view.has_feeds) and (name != "orders" or view.has_venues)
            return is_whole and view.is_database_up and self.watch.is_back(name, pid, at_s)

        return is_back
