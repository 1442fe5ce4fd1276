"""Deep checks: every dependency is looked at, services are rolled up, the results are rows, and `overview` reads them.

A look measures the database, Redis, the exchanges, the venues, the disk, the clock, the certificate, the backups and
the queues, and asks registered services of others for their health. While the database does not answer, results are
kept in memory and written when it is back, so that its outage is part of the uptime.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from fks.clock import Clock
from fks.config.machine_http import certificate_end
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.model.errors import FksError, InputError, OutageError
from fks.model.health import DEGRADED, DOWN, HEALTHY, UNKNOWN, Check
from fks.model.timeframe import iso, to_datetime
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.deployments import DeploymentStore
from fks.store.jobs import SEARCHES
from fks.system.monitor import measures, probes
from fks.system.monitor.health import absent_reasons, owner_services
from fks.system.monitor.hosts import get_status
from fks.system.monitor.registry import Registry
from fks.system.monitor.status import FEED_MS, assemble, component_view, node_view
from fks.system.monitor.statuses import REMEMBERED, Dependency, ReportedStatus, damped, rolled_up, uptime_percent

EVERY_S = 120.0
#: Age at which the results of the last look say nothing about now.
FRESH_S = 3 * EVERY_S
WINDOWS = ("24h", "7d", "30d")
_UNSAVED_MAX = 50
_NO_DATABASE = "the database does not answer"
_AT_ONCE = 10
_STARTING = frozenset({"starting", "restarting", "waiting", "draining"})


@dataclass(frozen=True, slots=True)
class Look:
    """One look: its time, the results by service, and the statuses after dependencies and damping of flapping."""

    at_ns: int
    checks: Mapping[str, Check]
    statuses: Mapping[str, str] = field(default_factory=dict)
    reported: Mapping[str, ReportedStatus] = field(default_factory=dict)
    services: frozenset[str] = frozenset()  # the others are dependencies

    def document(self) -> dict[str, Any]:
        """Return the look for JSON."""
        return {
            "at": iso(self.at_ns),
            "checks": [
                {
                    "service": name,
                    "status": self.statuses.get(name, check.status),
                    "reported": self.reported[name].status if name in self.reported else check.status,
                    "is_flapping": name in self.reported and self.reported[name].is_flapping,
                    "response_ms": check.response_ms,
                    "error": check.detail or None,
                    "detail": dict(check.values),
                }
                for name, check in self.checks.items()
            ],
        }


class DeepChecks:
    """Looks at every dependency and writes the results. Soft state: results that could not be written yet."""

    def __init__(self, db: Database, bus: Bus, clock: Clock, settings: Settings, paths: Paths) -> None:
        self._db, self._bus, self._clock, self._settings, self._paths = db, bus, clock, settings, paths
        self._registry = Registry(db)
        self._unsaved: deque[Look] = deque(maxlen=_UNSAVED_MAX)
        self._known: frozenset[str] = frozenset()  # services at the last look that reached the database

    async def run(self) -> Look:
        """Look, write the results and return the look. Rules on `service.down` and `check.down` alert of it.

        Without the database the look is returned as it is, to be written by the next one. Never raises for an outage.
        """
        at_ns = self._clock.now_ns()
        found = await asyncio.gather(*(self._measured(name) for name in self.CHECKS))
        checks = {check.name: check for check in found if check is not None}
        if checks["database"].status == DOWN:
            return self._postponed(at_ns, checks)
        try:
            dependencies = await self._registry.dependencies()
            while self._unsaved:
                earlier = self._unsaved[0]
                await self._save(await self._judged(earlier.at_ns, earlier.checks, earlier.services, dependencies))
                self._unsaved.popleft()
            services = await self._services()
            self._known = frozenset(services)
            dependencies = await self._registry.dependencies()  # the first registration adds them
            look = await self._judged(at_ns, checks | services, self._known, dependencies)
            await self._save(look)
        except OutageError as error:  # it went away meanwhile
            return self._postponed(at_ns, checks | {"database": Check("database", DOWN, str(error))})
        return look

    def _postponed(self, at_ns: int, checks: Mapping[str, Check]) -> Look:
        """Return a look without the database, which is written later. Of the services it knows nothing itself."""
        services = {name: Check(name, UNKNOWN, _NO_DATABASE) for name in self._known}
        look = Look(at_ns, {**checks, **services}, services=self._known)
        self._unsaved.append(look)
        return look

    # ── measuring ────────────────────────────────────────────────────────────────────────────────
    async def _measured(self, name: str) -> Check | None:
        """Return the result of one of CHECKS; None where it has nothing to look at."""
        try:
            return await self.CHECKS[name](self)
        except (TimeoutError, FksError):
            return Check(name, UNKNOWN, _NO_DATABASE)
        except OSError as error:  # of a file
            return Check(name, UNKNOWN, str(error))

    async def _rows(self, query: str, *args: object) -> list[dict[str, Any]]:
        async with asyncio.timeout(5.0):
            await self._db.ping()  # at once, without the retries of a query
            return [dict(row) for row in await self._db.fetch(query, *args)]

    async def _answering(self, name: str, call: Callable[[], Awaitable[object]]) -> Check:
        limit_ms = self._settings.monitor.response_max_ms
        try:
            return measures.answering(name, await probes.answer_ms(call), None, degraded_ms=limit_ms)
        except (OSError, FksError) as error:
            return measures.answering(name, None, str(error) or "no answer in time", degraded_ms=limit_ms)

    async def _exchange(self) -> Check:
        return measures.feeds(await self._rows("monitor.feeds"), stale_ms=FEED_MS)

    async def _venue(self) -> Check:
        return measures.venues(await self._rows("monitor.venues"))

    async def _queue(self) -> Check:
        limits = self._settings.supervision
        (row,) = await self._rows("registry.queues", list(SEARCHES))
        maxima = {"jobs_max_s": limits.jobs_wait_max_s, "signals_max_s": limits.signals_wait_max_s}
        return measures.queues(row["jobs"], row["jobs_wait_s"], row["signals"], row["signals_wait_s"], **maxima)

    async def _clock_offset(self) -> Check:
        monitor = self._settings.monitor
        offset_ms: float | None = None
        response_ms: float | None = None
        error = "no NTP server is set"
        if monitor.ntp_server != "none":
            try:
                offset_ms, response_ms = await probes.ntp_offset_ms(monitor.ntp_server, self._clock)
            except (OSError, FksError, ValueError) as failed:
                error = f"{monitor.ntp_server}: {failed or 'no answer in time'}"
        return measures.clock(offset_ms, error, offset_max_ms=monitor.clock_offset_max_ms, response_ms=response_ms)

    async def _disk(self) -> Check:
        free_mb, total_mb = await asyncio.to_thread(probes.disk_mb, self._paths.home) or (None, None)
        free_min_mb = self._settings.monitor.disk_free_min_mb
        return measures.disk(free_mb, total_mb, free_min_mb=free_min_mb, place=str(self._paths.home))

    async def _backup(self) -> Check:
        folder, now_s = self._settings.backup.folder or self._paths.backups, self._clock.now_ns() / 1e9
        return measures.backup(
            *(await asyncio.to_thread(probes.newest_backup, folder, now_s) or (None, "")),
            max_h=self._settings.monitor.backup_max_h,
            is_own_server=self._settings.database.url is None,
        )

    async def _certificate(self) -> Check | None:
        """Return the check of the certificate that ends first: of this gateway, or another machine's, whose keeper
        reports it. None where no gateway has one."""
        file, now_s = self._settings.http.tls_cert, self._clock.now_ns() / 1e9
        check = partial(measures.certificate, min_days=self._settings.monitor.certificate_min_days)
        found: list[tuple[float, str]] = []
        own_days = math.inf
        if file is not None:
            try:
                own_days = ((await asyncio.to_thread(certificate_end, file)).timestamp() - now_s) / 86_400
            except (OSError, ValueError) as error:
                return check(None, str(error), file=str(file))
        with contextlib.suppress(OSError, FksError):
            for node in map(node_view, await self._rows("monitor.nodes")):
                http = (node.get("detail") or {}).get("http") or {}
                if node["state"] != "silent" and http.get("ends_s") is not None:
                    found.append(((float(http["ends_s"]) - now_s) / 86_400, f"{http['tls_cert']} on {node['name']}"))
        days, name = min(found, default=(math.inf, ""))
        if own_days <= days + 0.1:
            days, name = own_days, str(file)
        return None if days == math.inf else check(days, None, file=name)

    #: Name of each check → the method that makes it.
    CHECKS: ClassVar[Mapping[str, Callable[[DeepChecks], Awaitable[Check | None]]]] = {
        "database": lambda self: self._answering("database", self._db.ping),
        "redis": lambda self: self._answering("redis", self._bus.ping),
        "exchange": _exchange,
        "venue": _venue,
        "queue": _queue,
        "clock": _clock_offset,
        "disk": _disk,
        "backup": _backup,
        "certificate": _certificate,
    }

    async def _services(self) -> dict[str, Check]:
        """Return the checks of our own services, from their components, and of others, by asking them. The registry is
        written on the way."""
        components = [component_view(dict(row)) for row in await self._db.fetch("monitor.components")]
        nodes = [node_view(dict(row)) for row in await self._db.fetch("monitor.nodes")]
        await self._registry.register_own(components, nodes)
        found = {}
        problems, states = ({c["name"]: c[key] for c in components} for key in ("problem", "state"))
        models = await DeploymentStore(self._db).all()
        for row in owner_services(components, iso(self._clock.now_ns()), models=models):
            bad = [f"{name}: {problems[name]}" if problems[name] else name for name in row["unhealthy"]]
            bad += row["because"]
            error = "; ".join(bad)[:500]
            is_starting = any(states[name] in _STARTING for name in row["unhealthy"])
            status = DEGRADED if row["status"] == DOWN and is_starting else row["status"]
            found[row["name"]] = Check(row["name"], status, error, values={"components": row["components"]})
        external = [row for row in await self._registry.list() if row["kind"] == "external"]
        gate = asyncio.Semaphore(_AT_ONCE)
        asked = await asyncio.gather(*(self._ask(row, gate) for row in external))
        found |= {check.name: check for check in asked}
        answered = [check.name for check in asked if check.status in (HEALTHY, DEGRADED)]
        if answered:
            await self._db.execute("registry.seen", answered)
        return found

    async def _ask(self, row: Mapping[str, Any], gate: asyncio.Semaphore) -> Check:
        monitor, statuses = self._settings.monitor, list[int]()

        async def call() -> None:
            status = await get_status(row["host"], row["port"], row["health_endpoint"], monitor.hosts)
            statuses.append(status)

        async with gate:
            try:
                took_ms = await probes.answer_ms(call, timeout_s=4.0)
            except InputError as error:  # what it resolves to is no longer allowed
                return Check(row["name"], UNKNOWN, error.message)
            except (OSError, FksError) as error:
                return Check(row["name"], DOWN, str(error) or "Connection timeout")
        status = statuses[0]
        if 200 <= status < 300:
            return measures.answering(row["name"], took_ms, None, degraded_ms=monitor.response_max_ms)
        text = "answers with a redirect, which is not followed" if 300 <= status < 400 else f"answers {status}"
        return Check(row["name"], DOWN, text, response_ms=took_ms)

    # ── judging and writing ──────────────────────────────────────────────────────────────────────
    async def _judged(
        self, at_ns: int, checks: Mapping[str, Check], services: frozenset[str], dependencies: Sequence[Dependency]
    ) -> Look:
        own = {name: check.status for name, check in checks.items()}
        rolled = rolled_up(own, dependencies)
        recent: dict[str, list[Any]] = {}
        for row in await self._db.fetch("registry.recent_checks", list(own), REMEMBERED - 1):
            recent.setdefault(row["service"], []).append(row)
        reported, judged = {}, {}
        for name, check in checks.items():
            before = recent.get(name, [])
            last = (
                ReportedStatus(before[-1]["reported"], bool(before[-1]["detail"].get("is_flapping")))
                if before
                else None
            )
            status = rolled[name].status
            reported[name] = damped([*(row["status"] for row in before), status], last)
            because = rolled[name].because
            judged[name] = check
            if because:
                reasons = [check.detail] if check.detail else []
                reasons += [_because(one, checks[one]) for one in because]
                judged[name] = replace(check, status=status, detail="; ".join(reasons)[:500])
        statuses = {name: rolled[name].status for name in checks}
        return Look(at_ns, judged, statuses, reported, services)

    async def _save(self, look: Look) -> None:
        at, uptime = to_datetime(look.at_ns), await self.uptime(look.at_ns)
        rows = look.document()["checks"]
        for row in rows:
            row["at"] = at
            row["detail"] |= {"is_flapping": row["is_flapping"], "uptime": uptime.get(row["service"], {})}
        await self._db.execute("registry.save_checks", rows)

    async def uptime(self, at_ns: int) -> dict[str, dict[str, float | None]]:
        """Return the uptime of each service over 24 hours, 7 and 30 days before a time, in percent."""
        rows = await self._db.fetch("registry.uptime", to_datetime(at_ns))
        return {
            row["service"]: {
                window: uptime_percent(*(row[f"{status}_{window}"] for status in ("healthy", "degraded", "down")))
                for window in WINDOWS
            }
            for row in rows
        }


def _because(name: str, check: Check) -> str:
    return f"{name} is {check.status}" + (f": {check.detail}" if check.detail else "")


# ── the document of services, from rows, so that no part that hangs can hang it ───────────────────────────────────────
async def overview(db: Database, clock: Clock, settings: Settings) -> dict[str, Any]:
    """Return status, timestamp, services, checks, summary and reasons. Services that are off are there, too. Errors:
    OutageError."""
    system = await assemble(db)
    timestamp = iso(clock.now_ns())
    registry = Registry(db)
    latest = {row["service"]: dict(row) for row in await db.fetch("registry.latest_checks", FRESH_S)}
    dependencies = await registry.dependencies()
    models = await DeploymentStore(db).all()
    own_services = owner_services(system["components"], timestamp, absent_reasons(settings), models)
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
