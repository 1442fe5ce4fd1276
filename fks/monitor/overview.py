"""The health of every service as one document: components as they are now, the results of the last look, dependencies.

Everything comes from rows, so that no part that hangs can hang this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fks.clock import Clock
from fks.config.settings import Settings
from fks.model.health import DEGRADED, DOWN, HEALTHY, UNKNOWN
from fks.model.timeframe import iso
from fks.monitor.deep import FRESH_S
from fks.monitor.health import absent_reasons, owner_services
from fks.monitor.registry import Registry
from fks.monitor.status import assemble
from fks.monitor.statuses import rolled_up
from fks.store.db import Database


async def overview(db: Database, clock: Clock, settings: Settings) -> dict[str, Any]:
    """Return status, timestamp, services, checks, summary and reasons. Services that are off are there, too. Errors:
    OutageError."""
    system = await assemble(db)
    timestamp = iso(clock.now_ns())
    registry = Registry(db)
    latest = {row["service"]: dict(row) for row in await db.fetch("registry.latest_checks", FRESH_S)}
    dependencies = await registry.dependencies()
    own_services = owner_services(system["components"], timestamp, absent_reasons(settings))
    services = [{**row, "kind": "service"} for row in own_services]
    names = {row["name"] for row in services}
    services += [_external(row, latest.get(row["name"])) for row in await registry.list() if row["kind"] == "external"]
    names |= {row["name"] for row in services}
    own = {row["service"]: row["reported"] for row in latest.values()} | {r["name"]: r["status"] for r in services}
    rolled = rolled_up(own, dependencies)
    for row in services:
        name, found = row["name"], latest.get(row["name"])
        row |= {
            "status": rolled[name].status,
            "because": [*row.get("because", ()), *rolled[name].because],
            "depends_on": [
                {"name": d.depends_on, "is_critical": d.is_critical, "status": own.get(d.depends_on, UNKNOWN)}
                for d in dependencies
                if d.service == name
            ],
            "uptime": {} if found is None else found["detail"].get("uptime", {}),
            "is_flapping": found is not None and bool(found["detail"].get("is_flapping")),
        }
    return {
        "status": DEGRADED if system["state"] == "starting" else system["state"],
        "timestamp": timestamp,
        "services": services,
        "checks": [check_view(row) for name, row in sorted(latest.items()) if name not in names],
        "summary": summary_of([row["status"] for row in services]),
        "reasons": system["reasons"],
    }


def summary_of(statuses: Sequence[str]) -> dict[str, int]:
    """Return how many services there are, and how many in each status."""
    return {"total": len(statuses), **{status: statuses.count(status) for status in (HEALTHY, DEGRADED, DOWN)}}


def check_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of health_checks as the API shows it."""
    detail = dict(row["detail"])
    uptime, is_flapping = detail.pop("uptime", {}), bool(detail.pop("is_flapping", False))
    keys = ("service", "at", "status", "reported", "response_ms", "error")
    return {**{key: row[key] for key in keys}, "is_flapping": is_flapping, "detail": detail, "uptime": uptime}


async def history_of(db: Database, service: str, limit: int) -> list[dict[str, Any]]:
    """Return the newest checks of a service, newest first. Errors: OutageError."""
    rows = await db.fetch("registry.recent_checks", [service], limit)
    return [{k: v for k, v in check_view(dict(row)).items() if k != "uptime"} for row in reversed(rows)]


def _external(row: Mapping[str, Any], latest: Mapping[str, Any] | None) -> dict[str, Any]:
    status = UNKNOWN if latest is None else latest["reported"]
    return {
        "id": row["name"],
        "name": row["name"],
        "kind": "external",
        "service_type": row["service_type"],
        "status": status,
        "components": [],
        "unhealthy": [] if status in (HEALTHY, UNKNOWN) else [row["name"]],
        "last_check": None if latest is None else latest["at"],
        "error": None if latest is None else latest["error"],
        "response_ms": None if latest is None else latest["response_ms"],
    }
