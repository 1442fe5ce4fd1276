"""Schedules: cron and interval rows that run an action once per cluster."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.jobs import plain
from fks.interfaces.api.query import Admin, Body, BodyOf, Gate, Reader
from fks.interfaces.api.routing import Router
from fks.model.errors import conflict, not_found, unprocessable
from fks.model.schedules import SCHEDULE_ACTIONS
from fks.model.timeframe import to_datetime

router = Router(tags=["schedules"])
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RUNS = 50


class ScheduleBody(Body):
    """A new schedule: an action, and either `cron` (five fields, UTC) or `every_s`."""

    name: str = Field(max_length=64)
    action: str = Field(max_length=64, description=", ".join(SCHEDULE_ACTIONS))
    cron: str | None = Field(None, max_length=100)
    every_s: int | None = None
    params: dict[str, Any] = Field(default_factory=dict, description="of the action")


class ScheduleChangeBody(Body):
    """Changes of a schedule; a field that is left out stays."""

    cron: str | None = Field(None, max_length=100)
    every_s: int | None = None
    params: dict[str, Any] | None = None
    is_enabled: bool | None = None


@router.get("/schedules")
async def schedules(gate: Gate, caller: Reader) -> ExactJson:
    """List the schedules, FKS's own too, with their next due time."""
    return ExactJson({"items": await _list(gate), "next": None})


@router.post("/schedules", status_code=201)
async def add(gate: Gate, caller: Admin, body: BodyOf[ScheduleBody]) -> ExactJson:
    """Add a schedule. It is first due at its next time; runs missed while the system is down are made up for by one."""
    from fks.research.jobs.actions import checked_params
    from fks.research.jobs.rhythm import Rhythm

    if not _NAME.fullmatch(body.name):
        raise unprocessable(
            "SCHEDULE_WRONG", f"name {body.name!r} is not usable", "use letters, digits, dots and dashes"
        )
    rhythm = Rhythm(body.cron, body.every_s).checked()
    params = plain(body.params)
    checked_params(body.action, params)
    row = await gate.db.fetchrow(
        "schedules.add", body.name, rhythm.cron, rhythm.every_s, body.action, params, caller.name
    )
    if row is None:
        raise conflict("SCHEDULE_EXISTS", f"there is a schedule {body.name}", "choose another name")
    gate.deps.log.info("schedule.added", schedule=body.name, action=body.action, by=caller.name)
    return ExactJson(await _one(gate, body.name), status_code=201)


@router.get("/schedules/{name}")
async def schedule(gate: Gate, caller: Reader, name: str) -> ExactJson:
    """Return one schedule with its last runs, newest first."""
    runs = [dict(row) for row in await gate.db.fetch("schedules.runs", name, _RUNS)]
    return ExactJson({**await _one(gate, name), "runs": runs})


@router.post("/schedules/{name}")
async def change(gate: Gate, caller: Admin, name: str, body: BodyOf[ScheduleChangeBody]) -> ExactJson:
    """Change, pause or resume a schedule. A new rhythm, and a resumed one, counts from now."""
    from fks.research.jobs.actions import checked_params
    from fks.research.jobs.rhythm import Rhythm

    before = await _one(gate, name)
    is_rhythm = body.cron is not None or body.every_s is not None
    if is_rhythm:
        Rhythm(body.cron, body.every_s).checked()
    if before["is_own"] and (body.params is not None or body.every_s is not None):
        raise unprocessable(
            "SCHEDULE_WRONG", f"{name} is FKS's own: it has no params and no interval", "change its cron"
        )
    params = None if body.params is None else plain(body.params)
    if params is not None:
        checked_params(before["action"], params)
    restarts = is_rhythm or (body.is_enabled is True and not before["is_enabled"])
    await gate.db.fetchrow("schedules.change", name, body.cron, body.every_s, params, body.is_enabled, restarts)
    gate.deps.log.info("schedule.changed", schedule=name, by=caller.name)
    return ExactJson(await _one(gate, name))


@router.post("/schedules/{name}/run", status_code=202)
async def run(gate: Gate, caller: Admin, name: str) -> ExactJson:
    """Run a schedule's action now, also while it is paused; its rhythm stays. FKS's own must be enabled."""
    await _one(gate, name)
    await gate.db.fetchrow("schedules.request_run", name)
    gate.deps.log.info("schedule.requested", schedule=name, by=caller.name)
    return ExactJson(await _one(gate, name), status_code=202)


@router.delete("/schedules/{name}")
async def remove(gate: Gate, caller: Admin, name: str) -> ExactJson:
    """Remove a schedule; its runs stay. FKS's own can be paused only."""
    if (await _one(gate, name))["is_own"]:
        raise conflict("SCHEDULE_OWN", f"{name} is FKS's own", f"fks schedule pause {name}")
    await gate.db.fetchrow("schedules.remove", name)
    gate.deps.log.info("schedule.removed", schedule=name, by=caller.name)
    return ExactJson({"name": name, "removed": True})


async def _list(gate: Replica) -> list[dict[str, Any]]:
    from fks.research.jobs.rhythm import Rhythm

    now, found = to_datetime(gate.deps.clock.now_ns()), []
    for row in await gate.db.fetch("schedules.list"):
        shown = dict(row)
        try:
            rhythm = Rhythm(row["cron"], row["every_s"])
            due = rhythm.next(row["last_run_at"] or row["created_at"], now) if row["is_enabled"] else None
        except ValueError:  # a cron that was written into the row by hand; its last result says so
            due = None
        shown |= {"action": shown.pop("task"), "params": shown.pop("spec"), "next_run_at": due}
        found.append({**shown, "is_own": row["created_by"] == "system"})
    return found


async def _one(gate: Replica, name: str) -> dict[str, Any]:
    found = next((row for row in await _list(gate) if row["name"] == name), None)
    if found is None:
        raise not_found("SCHEDULE_UNKNOWN", f"there is no schedule {name[:80]!r}", "see GET /schedules")
    return found
