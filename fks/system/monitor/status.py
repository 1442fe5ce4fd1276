"""The state of the whole system as one document: what `fks status`, GET /api/status and the monitor page show.

Everything comes from rows that each part writes about itself; no part is called, so a hung part cannot hang this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fks.config.endpoints import NodeEndpoints
from fks.config.machine_http import lacking
from fks.model.errors import OutageError
from fks.model.health import SILENT_AFTER_S
from fks.store.db import Querier, is_without_tables
from fks.system.monitor.measures import is_fresh, traded
from fks.system.supervision.liveness import COMING

SILENT_MS = round(SILENT_AFTER_S * 1000)
#: A feed older than this degrades the system even while its collector still calls it live.
FEED_MS = 60_000
WELL = frozenset({"ready", "running", "done"})
#: What is not expected to beat: shown as it is, however long ago it was written.
_STILL = frozenset({"down", "failed", "stopped", "done", "waiting"})


async def assemble(db: Querier, node: NodeEndpoints | None = None) -> dict[str, Any]:
    """Return the status document: state, reasons, components, feeds, venues, kill, sim, nodes, strategies in trouble,
    operations under way and the alerts that nothing has settled.

    Errors: OutageError when PostgreSQL does not answer, or has no tables yet; the caller then shows what it knows
    without it.
    """
    try:
        components = [component_view(dict(row)) for row in await db.fetch("monitor.components")]
    except Exception as error:
        if is_without_tables(error):
            raise OutageError("the database has no tables yet") from error
        raise
    feeds = [dict(row) for row in await db.fetch("monitor.feeds")]
    venues = [dict(row) for row in await db.fetch("monitor.venues")]
    kills = [dict(row) for row in await db.fetch("monitor.kills")]
    nodes = [node_view(dict(row)) for row in await db.fetch("monitor.nodes")]
    strategies = [dict(row) for row in await db.fetch("monitor.troubled_instances")]
    state, reasons = overall(components, feeds, venues, nodes, strategies)
    return {
        "state": state,
        "reasons": reasons,
        "components": components,
        "feeds": feeds,
        "venues": venues,
        "kill": kill_view(kills),
        "sim": sim_view(node),
        "nodes": nodes,
        "strategies": strategies,
        "operations": [dict(row) for row in await db.fetch("monitor.operations")],
        "alerts": [dict(row) for row in await db.fetch("monitor.alerts", 20)],
    }


def component_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a component as status shows it: its own state, or `silent` when its beat is too old.

    `problem` describes the fault in plain text; "" while it is well.
    """
    age = row["heartbeat_age_ms"]
    is_silent = age is None or age > SILENT_MS
    state = "silent" if is_silent and row["state"] not in _STILL else row["state"]
    detail = row["detail"] or {}
    return {
        "name": row["name"],
        "kind": row["kind"],
        "state": state,
        "pid": row["pid"],
        "node": row["node"],
        "restarts": row["restarts"],
        "since": row["since"],
        "heartbeat_age_ms": age,
        "detail": detail,
        "epoch": row.get("epoch") or 0,
        "version": row.get("version") or "",
        "config_version": row.get("config_version") or 0,
        "problem": problem_of(state, age, detail),
    }


def problem_of(state: str, age_ms: int | None, detail: Mapping[str, Any]) -> str:
    """Return the fault of a component in plain text: its failed self-checks, its keeper's note, its silence."""
    if state == "silent":
        return "never heard of" if age_ms is None else f"no heartbeat for {age_ms / 1000:.0f} s"
    problems = detail.get("problems")
    texts = (
        [str(p.get("text") or p.get("kind") or "") for p in problems if isinstance(p, Mapping)]
        if isinstance(problems, list)
        else []
    )
    if escalation := detail.get("escalation"):
        texts.insert(0, f"escalated: {escalation}")
    if texts:
        return "; ".join(text for text in texts if text)
    return "" if state in WELL else str(detail.get("detail") or detail.get("reason") or "")


def node_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a machine of the cluster; one whose keeper fell silent is `silent`, whatever state it last reported."""
    age = row["beat_age_ms"]
    is_silent = age is None or age > SILENT_MS
    return {
        **row,
        "detail": {name: value for name, value in (row["detail"] or {}).items() if name != "keys"},
        "state": "silent" if is_silent and row["state"] not in _STILL else row["state"],
    }


def overall(
    components: Sequence[Mapping[str, Any]],
    feeds: Sequence[Mapping[str, Any]],
    venues: Sequence[Mapping[str, Any]],
    nodes: Sequence[Mapping[str, Any]] = (),
    strategies: Sequence[Mapping[str, Any]] = (),
) -> tuple[str, list[str]]:
    """Return the state of the whole (healthy, degraded, starting or down) and a reason for each fault."""
    if not any(component["state"] != "silent" for component in components):
        return "down", ["nothing beats"]
    reasons = [_amiss(c) for c in components if c["state"] not in WELL]
    for feed in feeds:
        if not is_fresh(feed, FEED_MS):
            age = feed["age_ms"]
            text = "no message yet" if age is None else f"{age / 1000:.1f} s old"
            reasons.append(f"feed {feed['symbol']} is {feed['state']}, {text}")
    reasons += [f"venue {venue['name']} is {venue['state']}" for venue in traded(venues) if venue["state"] != "READY"]
    reasons += [f"node {node['name']} is {node['state']}" for node in nodes if node["state"] not in WELL]
    beating = [node for node in nodes if node["state"] != "silent"]
    faults = lacking((str(node["name"]), str(node.get("role")), node.get("detail") or {}) for node in beating)
    reasons += [f"gateway on {name}: {text}; {remedy}" for name, (text, remedy) in faults.items()]
    reasons += [_held(instance) for instance in strategies if instance["error"] or not instance["is_enabled"]]
    if not reasons:
        return "healthy", []
    starting = all(c["state"] in WELL | COMING for c in components) and any(c["state"] in COMING for c in components)
    return ("starting" if starting else "degraded"), reasons


def _amiss(component: Mapping[str, Any]) -> str:
    problem = component.get("problem")
    return f"{component['name']} is {component['state']}{f': {problem}' if problem else ''}"


def _held(instance: Mapping[str, Any]) -> str:
    """Return what is wrong with a strategy instance: switched off after crashes, or held with its last error."""
    first = str(instance["error"] or "").strip().splitlines()
    why = f": {first[-1][:160]}" if first else ""
    if not instance["is_enabled"]:
        return f"strategy {instance['id']} was switched off{why}"
    return f"strategy {instance['id']} is {instance['state']}{why}"


def kill_view(kills: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the kill switch as status shows it."""
    if not kills:
        return {"engaged": False}
    newest = kills[0]
    return {
        "engaged": True,
        "scope": newest["scope"],
        "reason": newest["reason"],
        "by": newest["engaged_by"],
        "since": newest["engaged_at"],
        "count": len(kills),
        "scopes": [kill["scope"] for kill in kills],
    }


def sim_view(node: NodeEndpoints | None) -> dict[str, Any] | None:
    """Return the local exchange's endpoints, keys and pid; None when none runs. The keys are valid there only."""
    return None if node is None or node.sim is None else dict(node.sim)
