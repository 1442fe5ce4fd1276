"""Schedules and jobs: what runs by the clock, and what waits in the queue."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson

from fks.interfaces.web.client import GatewayRefusal
from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import Visit
from fks.model.schedules import SCHEDULE_ACTIONS


async def load(visit: Visit) -> dict[str, Any]:
    """Return the schedules and the jobs that have not ended, besides the newest."""
    found = await visit.read_all(
        schedules="/schedules",
        backtests=("/backtests", {"limit": 30}),
        searches=("/optimizations", {"limit": 30}),
    )
    jobs = [{**row, "path": "backtests"} for row in found["backtests"].items]
    jobs += [{**row, "path": "searches"} for row in found["searches"].items]
    jobs.sort(key=lambda row: str(row["created_at"]), reverse=True)
    return {**found, "jobs": jobs[:40], "tasks": list(SCHEDULE_ACTIONS)}


async def load_one(visit: Visit) -> dict[str, Any]:
    """Return one schedule with its runs."""
    name = visit.request.path_params["name"]
    found = await visit.read_all(schedule=f"/schedules/{quote(name, safe='')}")
    return {**found, "name": name}


async def add(visit: Visit, form: Form) -> ActionResult:
    """Add a schedule."""
    params = form.text("params")
    body: dict[str, Any] = {"name": form.needed("name", "the name"), "action": form.needed("action", "the action")}
    if form.text("cron"):
        body["cron"] = form.text("cron")
    if form.text("every_s"):
        body["every_s"] = form.whole("every_s", "whole number of seconds", "write 3600 for an hour")
    if params:
        body["params"] = _object(params)
    answer = (await visit.change("POST", "/schedules", body, csrf=form.text("csrf"))).body
    return ActionResult(f"{answer['name']} is first due at {answer['next_run_at']}.", kind="good")


async def switch(visit: Visit, form: Form) -> ActionResult:
    """Pause or resume a schedule."""
    name, is_on = form.needed("name", "the schedule"), form.text("on") == "1"
    await visit.change("POST", _path(name), {"is_enabled": is_on}, csrf=form.text("csrf"))
    return ActionResult(f"{name} is {'resumed; its rhythm counts from now' if is_on else 'paused'}.", kind="good")


async def run(visit: Visit, form: Form) -> ActionResult:
    """Run a schedule's action now."""
    name = form.needed("name", "the schedule")
    await visit.change("POST", f"{_path(name)}/run", csrf=form.text("csrf"))
    return ActionResult(f"{name} was asked to run; its runs show the outcome.")


async def remove(visit: Visit, form: Form) -> ActionResult:
    """Remove a schedule."""
    name = form.needed("name", "the schedule")
    await visit.change("DELETE", _path(name), csrf=form.text("csrf"))
    return ActionResult(f"{name} is removed; its runs stay.", kind="good")


def _path(name: str) -> str:
    return f"/schedules/{quote(name, safe='')}"


def _object(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise GatewayRefusal(422, "FIELD_WRONG", "the parameters are no JSON object", 'write {"symbol": "BTC/USDT"}')
    return found
