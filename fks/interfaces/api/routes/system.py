"""The supervision tree, its events, log lines, and open alerts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Path, Query

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.machines import MACHINES
from fks.interfaces.api.query import Admin, Before, Gate, Limit, Name, Reader, Trader, moment, page
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import LogView, MachineView
from fks.model.errors import not_found
from fks.store.alerting import settle as settle_alerts
from fks.system.monitor.alerts import listed
from fks.system.monitor.history import events as history
from fks.system.monitor.logs import Line, newest
from fks.system.monitor.status import assemble
from fks.system.monitor.tree import tree_view
from fks.system.process.log import Redactor

router = Router(tags=["system"])

Since = Annotated[str | None, Query(description="only what happened from then on, ISO 8601")]
After = Annotated[int | None, Query(description="only ids above this one: how to follow", ge=0, lt=2**63)]
Full = Annotated[bool, Query(description="with the last log lines and the traceback of each exit")]


@router.get("/system/tree")
async def tree(gate: Gate, caller: Reader) -> ExactJson:
    """Return the supervision tree: supervisors with strategy and restarts used, each child with state, pid, node,
    version."""
    found = await assemble(gate.db)
    return ExactJson(
        {
            "state": found["state"],
            "reasons": found["reasons"],
            "tree": tree_view(found["components"]),
            "nodes": found["nodes"],
        }
    )


@router.get("/system/events")
async def events(
    gate: Gate,
    caller: Reader,
    child: Name = None,
    since: Since = None,
    after: After = None,
    limit: Limit = 100,
    full: Full = False,
) -> ExactJson:
    """Return the newest events of the tree, oldest first: starts, exits with signal or exit code, restarts,
    escalations."""
    rows = await history(gate.db, child=child, since=moment(since, "since"), after=after, limit=limit, is_full=full)
    return ExactJson({"items": rows})


@router.get("/system/logs/{component}", response_model=LogView)
async def logs(
    gate: Gate,
    caller: Admin,
    component: Annotated[str, Path(max_length=128)],
    lines: Annotated[int, Query(ge=1, le=1000, description="how many of the last ones")] = 200,
    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Query(description="this level and worse")] = "DEBUG",
) -> ExactJson:
    """Return the last log lines of a component (orders, collector, postgres, …) on the gateway's machine, oldest first
    and without secrets. `fks logs NAME --follow` shows them live, on the machine that has them."""
    items = await asyncio.to_thread(_lines, gate, component, lines, level)
    if items is None:
        raise not_found(
            "COMPONENT_UNKNOWN",
            f"no component {component!r} has a log on this machine",
            "GET /system/tree lists the components; one of another machine has its log there",
        )
    return ExactJson({"component": component, "node": gate.deps.host, "items": items})


def _lines(gate: Replica, component: str, count: int, level: str) -> list[dict[str, Any]] | None:
    found = newest(gate.deps.paths.logs, component, count, level)
    # our own lines are without secrets already, those of PostgreSQL, Redis and Ray are not
    return None if found is None else [_line(line, gate.deps.redactor) for line in found]


def _line(line: Line, redactor: Redactor) -> dict[str, Any]:
    fields: Mapping[str, Any] = {"message": line.raw} if line.raw else line.fields
    return {
        "time": line.time,
        "level": line.level,
        "component": line.component,
        "event": line.event or "log",
        "fields": {key: redactor.field(key, value) for key, value in fields.items()},
    }


@router.get("/system/machines/{name}", response_model=MachineView)
async def machine(caller: Reader, name: Annotated[str, Path(max_length=32)]) -> ExactJson:
    """Return a state machine as the code runs it: `orders` (life of an order) or `feeds` (life of a feed)."""
    if name not in MACHINES:
        raise not_found("MACHINE_UNKNOWN", f"there is no machine {name!r}", f"use {' or '.join(MACHINES)}")
    return ExactJson(MACHINES[name]())


@router.get("/alerts")
async def alerts(gate: Gate, caller: Reader, all: bool = False, before: Before = None, limit: Limit = 100) -> ExactJson:
    """List alerts, newest first: open ones, or all of them."""
    rows = await listed(gate.db, is_all=all, limit=limit, before=before)
    return ExactJson(page(rows, limit if all else None, "id"))


@router.post("/alerts/{id}/settle")
async def settle(gate: Gate, caller: Trader, id: int) -> ExactJson:
    """Settle an alert in a person's name. Idempotent."""
    rows: list[Any] = []
    if is_known := 0 < id < 2**63:
        rows = await settle_alerts(gate.db, ids=[id], by=caller.name)
        newest = rows or await listed(gate.db, is_all=True, limit=1, before=id + 1)
        is_known = bool(newest) and newest[0]["id"] == id
    if not is_known:
        raise not_found("ALERT_UNKNOWN", f"no alert {id}", "see GET /alerts?all=true")
    return ExactJson({"id": id, "is_changed": bool(rows)})
