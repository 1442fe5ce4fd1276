"""The supervision tree, its events, and open alerts."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query

from fks.api.exact import ExactJson
from fks.api.problems import Problem
from fks.api.query import Before, Gate, Limit, Name, Reader, Trader, moment, page
from fks.api.routing import Router
from fks.monitor.alerts import listed
from fks.monitor.history import events as history
from fks.monitor.status import assemble
from fks.monitor.tree import tree_view

router = Router(tags=["system"])

Since = Annotated[str | None, Query(description="only what happened from then on, ISO 8601")]
After = Annotated[int | None, Query(description="only ids above this one: how to follow", ge=0, lt=2**63)]
Full = Annotated[bool, Query(description="with the last log lines and the traceback of each exit")]


@router.get("/system/tree")
async def tree(gate: Gate, who: Reader) -> ExactJson:
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
    who: Reader,
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


@router.get("/alerts")
async def alerts(gate: Gate, who: Reader, all: bool = False, before: Before = None, limit: Limit = 100) -> ExactJson:
    """List alerts, newest first: open ones, or all of them."""
    rows = await listed(gate.db, is_all=all, limit=limit, before=before)
    return ExactJson(page(rows, limit if all else None, "id"))


@router.post("/alerts/{id}/settle")
async def settle(gate: Gate, who: Trader, id: int) -> ExactJson:
    """Settle an alert in a person's name. Idempotent."""
    rows: list[Any] = []
    if is_known := 0 < id < 2**63:
        rows = await gate.db.fetch("monitor.resolve_alerts", [id], who.name)
        newest = rows or await listed(gate.db, is_all=True, limit=1, before=id + 1)
        is_known = bool(newest) and newest[0]["id"] == id
    if not is_known:
        raise Problem(404, "ALERT_UNKNOWN", f"no alert {id}", remedy="see GET /alerts?all=true")
    return ExactJson({"id": id, "is_changed": bool(rows)})
