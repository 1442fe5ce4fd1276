"""Schedules of persons: due runs are begun once per cluster, recorded, and made again once when they are lost.

A run is a row that is inserted before it begins, in one statement that checks the scheduler's epoch: a replaced
scheduler begins none. A run whose scheduler died is marked lost by its successor and made again once. One that dies
again waits for its next due time, so that a run that kills its process cannot do so for ever. Work that a run submits
has an id that follows from schedule and due time, and is submitted once.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fks.jobs.actions import ACTIONS, checked_params
from fks.jobs.rhythm import Rhythm, cause_of
from fks.model.errors import FksError
from fks.model.timeframe import to_datetime
from fks.store.leases import fence_of

if TYPE_CHECKING:
    from fks.runtime import Component

AT_ONCE = 4
#: Name, cron (UTC) and action of the schedule that a system with its own database has from the start.
BACKUP = ("backup", "30 2 * * *", "backup")
_NAMESPACE = uuid.UUID("0b0b8f2e-7d0c-5f43-9a57-3f1f5f1c6a52")


class PersonalSchedules:
    """Runs the schedules of persons. Soft state: the runs under way, and ends that could not be written yet."""

    def __init__(self, component: Component) -> None:
        self._c = component
        self._running: dict[int, asyncio.Task[None]] = {}
        self._ended: dict[int, tuple[str, str]] = {}
        self._is_seeded = False

    async def run_due(self) -> list[str]:
        """Begin what is due and return the names of those schedules. Errors: OutageError."""
        db, now = self._c.db, to_datetime(self._c.clock.now_ns())
        await self._write_ends()
        if not self._is_seeded:
            if self._c.settings.database.url is None:  # else its operator backs it up
                await db.execute("schedules.seed", *BACKUP, retry=True)
            self._is_seeded = True
        rows = [dict(row) for row in await db.fetch("schedules.list") if row["task"] in ACTIONS]
        if not rows:
            return []
        name, epoch = fence_of(self._c.lease)
        for lost in await db.fetch("schedules.lose_runs", list(self._running), name, epoch):
            self._c.log.warning("schedule.lost", schedule=lost["schedule"], run=lost["id"])
        again = {row["schedule"]: row["due_at"] for row in await db.fetch("schedules.lost_runs")}
        begun = []
        for row in rows:
            if len(self._running) >= AT_ONCE:
                break
            try:
                wanted = _wanted(row, again.get(row["name"]), now)
            except ValueError as error:  # a rhythm of an earlier version must not end the scheduler
                self._c.log.warning("schedule.failed", schedule=row["name"], result=str(error)[:500])
                continue
            if wanted is None:
                continue
            due_at, attempt, cause = wanted
            id = await db.fetchval("schedules.claim_run", row["name"], due_at, attempt, cause, name, epoch)
            if id is not None:
                self._begin(int(id), row, due_at)
                begun.append(str(row["name"]))
        return begun

    def _begin(self, id: int, row: Mapping[str, Any], due_at: datetime) -> None:
        async def work() -> None:
            try:
                params = checked_params(row["task"], row["spec"])
                run_id = uuid.uuid5(_NAMESPACE, f"{row['name']}|{due_at.isoformat()}")
                state, result = "done", await ACTIONS[row["task"]][1](self._c, params, run_id)
            except FksError as error:
                state, result = "failed", str(error)
            except Exception as error:  # one action that raises must not end the others
                state, result = "failed", f"{type(error).__name__}: {error}"
            self._ended[id] = (state, result[:500])
            if state == "failed":
                self._c.log.warning("schedule.failed", schedule=row["name"], result=result[:500])
            else:
                self._c.log.info("schedule.ran", schedule=row["name"], result=result[:500])

        self._running[id] = asyncio.create_task(work())

    async def _write_ends(self) -> None:
        for id, (state, result) in tuple(self._ended.items()):
            await self._c.db.execute("schedules.finish_run", id, state, result)
            self._ended.pop(id)
            self._running.pop(id, None)

    def stop(self) -> None:
        """End the runs under way: the next scheduler makes them again."""
        for task in self._running.values():
            task.cancel()


def _wanted(row: Mapping[str, Any], lost_at: datetime | None, now: datetime) -> tuple[datetime, int, str] | None:
    """Return due time, attempt and cause of the run to begin, or None. A person's request comes first."""
    if row["requested_at"] is not None:
        return row["requested_at"], 1, "person"
    if not row["is_enabled"]:
        return None
    if lost_at is not None:
        return lost_at, 2, "again"
    due_at = Rhythm(row["cron"], row["every_s"]).due(row["last_run_at"] or row["created_at"], now)
    return None if due_at is None else (due_at, 1, cause_of(due_at, now))
