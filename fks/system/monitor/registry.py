"""The service registry: own services, components and nodes, written from their heartbeats, and services of others.

A component is never registered by hand: the heartbeats in `component_health` and `nodes` are the source, and the rows
here repeat them for readers of the owner's tables.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fks import __version__
from fks.model.errors import InputError, conflict, not_found, unprocessable
from fks.store.db import Querier
from fks.system.monitor.health import OPTIONAL, OWNER_SERVICES, kind_of
from fks.system.monitor.hosts import addresses_of, checked_path
from fks.system.monitor.statuses import Dependency

EXTERNAL_MAX = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: service -> what it needs, True where it is down without it. Written once as rows, which may be changed.
DEPENDENCIES: dict[str, dict[str, bool]] = {
    "fks_main": {"database": True, "redis": False, "disk": False, "clock": False, "queue": False, "backup": False},
    "fks_api": {"database": True, "redis": False, "certificate": False},
    "fks_app": {"database": True, "redis": False, "fks_data": False},
    "fks_data": {"database": True, "exchange": True, "redis": False, "disk": False},
    "fks_execution": {"database": True, "venue": True, "redis": False, "clock": False},
    "fks_web": {"fks_api": True},
}


@dataclass(frozen=True, slots=True)
class Registration:
    """A service that a person registers: the owner's six fields."""

    name: str
    service_type: str
    host: str
    port: int
    health_endpoint: str = "/health"
    version: str = ""


class Registry:
    """Rows of service_registry and service_dependencies. Errors of all: OutageError."""

    def __init__(self, db: Querier) -> None:
        self._db = db

    async def register_own(
        self, components: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        """Write what runs, from the rows of status, with the dependencies that FKS knows; return the names."""
        rows = own_rows(components, nodes)
        names = [str(row["name"]) for row in rows]
        await self._db.execute("registry.register_own", rows)
        await self._db.execute("registry.forget_own", names)
        await self._db.executemany(
            "registry.seed_dependency",
            [(name, needed, how) for name, wants in DEPENDENCIES.items() for needed, how in wants.items()],
        )
        return names

    async def register(self, wanted: Registration, allowed: Sequence[str], *, by: str) -> dict[str, Any]:
        """Register a service that a person names, or change it, and return its row.

        One of our own services keeps being judged by its components. Errors: InputError 422 when a field is wrong, 403
        when its host is not allowed, 409 when the name is a component's or there are too many.
        """
        if not _NAME.fullmatch(wanted.name):
            raise unprocessable(
                "SERVICE_WRONG",
                f"name {wanted.name[:80]!r} is not usable",
                "use 1 to 64 letters, digits, dots, dashes or underscores",
            )
        path = checked_path(wanted.health_endpoint)
        with contextlib.suppress(OSError):  # a name that is unknown today may be known later; each look checks again
            async with asyncio.timeout(3.0):
                await addresses_of(wanted.host, allowed)
        kind = "service" if wanted.name in OWNER_SERVICES else "external"
        if kind == "external" and await self._db.fetchval("registry.count_external") >= EXTERNAL_MAX:
            raise conflict(
                "SERVICE_EXISTS",
                f"{EXTERNAL_MAX} services of others are registered",
                "remove one: fks monitor remove NAME",
            )
        row = await self._db.fetchrow(
            "registry.register",
            wanted.name,
            kind,
            wanted.service_type,
            wanted.host,
            wanted.port,
            path,
            wanted.version,
            by,
        )
        if row is None:
            raise conflict("SERVICE_EXISTS", f"{wanted.name} is a component of FKS", "choose another name")
        return dict(row)

    async def remove(self, name: str) -> None:
        """Remove a service of others. Errors: InputError 404."""
        if await self._db.fetchrow("registry.remove", name) is None:
            raise unknown(name)

    async def dependencies(self) -> list[Dependency]:
        """Return which service needs which."""
        return [
            Dependency(row["service"], row["depends_on"], row["is_critical"])
            for row in await self._db.fetch("registry.dependencies")
        ]

    async def list(self) -> list[dict[str, Any]]:
        """Return every row, services first."""
        return [dict(row) for row in await self._db.fetch("registry.list")]


def unknown(name: str) -> InputError:
    """Return the error for a service that is not registered."""
    return not_found("SERVICE_UNKNOWN", f"there is no service {name[:80]!r}", "see /monitor/api/services/")


def own_rows(components: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of our own services, components and nodes. A service without a component is left out,
    unless it is one of OPTIONAL.

    `age_s`: since the last heartbeat.
    """
    found: list[tuple[object, ...]] = []
    for service, kinds in OWNER_SERVICES.items():
        ages = [_age_s(c["heartbeat_age_ms"]) for c in components if kind_of(c) in kinds]
        if ages or service in OPTIONAL:
            age_s = min(ages, default=_age_s(None))
            found.append((service, "service", service.removeprefix("fks_"), [], "", __version__, age_s))
    for c in components:
        kind = kind_of(c)
        services = [service for service, kinds in OWNER_SERVICES.items() if kind in kinds]
        age_s = _age_s(c["heartbeat_age_ms"])
        found.append((c["name"], "component", kind, services, c["node"] or "", c["version"] or "", age_s))
    for n in nodes:
        age_s, version = _age_s(n["beat_age_ms"]), n["version"] or ""
        found.append((f"node:{n['name']}", "node", n["role"], [], n["address"] or "", version, age_s))
    return [dict(zip(_COLUMNS, row, strict=True)) for row in found]


_COLUMNS = ("name", "kind", "service_type", "services", "host", "version", "age_s")


def _age_s(age_ms: int | None) -> float:
    return 1e9 if age_ms is None else age_ms / 1000  # never: long ago
