"""Health document of each replaced service (docs/deviations.md): a status per dependency, and the worst of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fks import __version__
from fks.clock import Clock
from fks.config.runtime import SUPERVISOR
from fks.config.settings import Settings
from fks.model.errors import OutageError
from fks.model.health import DEGRADED, DOWN, HEALTHY, level
from fks.model.minute import LastMinute
from fks.model.ninja import BridgePlatform, LinkRecord, platform_of_key
from fks.model.timeframe import iso
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.deployments import DeploymentStore
from fks.store.ninja import NinjaStore
from fks.system.monitor.language_models import model_health, model_problem
from fks.system.monitor.measures import is_fresh
from fks.system.monitor.status import FEED_MS, SILENT_MS, WELL, component_view

#: The owner's services, and which of our components each of them became (prefix of the component's name).
OWNER_SERVICES: dict[str, tuple[str, ...]] = {
    "fks_main": ("keeper", "keeper-parent", "supervisor", "monitor", "scheduler", "raylet", "gcs"),
    "fks_api": ("gateway", "controller", "proxy"),
    "fks_app": ("strategy",),
    "fks_ai": ("gateway", "inference"),  # documents and search have no process of their own
    "fks_data": ("collector", "postgres", "redis"),
    "fks_execution": ("orders", "guardian", "sim"),
    "fks_ninja": ("ninja",),
    "fks_meta": ("mt5",),
    "fks_web": ("pages",),
}
#: Those of them that may be off: they are registered and shown without a component, too.
OPTIONAL = ("fks_ninja", "fks_meta")

_MODELS = "inference"  # kind of the processes of language models

#: How long the results of one check are shown.
TTL_S = 1.0
#: Age of the last committed write from which the database counts as down: on a full disk it still answers questions.
WRITE_AGE_MAX_S = 5.0


class RequestRate:
    """Counts requests of the last minute, to the second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._minute = LastMinute()

    def note(self) -> None:
        """Count one request now."""
        self._minute.add(1, self._clock.monotonic())

    def per_minute(self) -> int:
        """Return how many requests the last sixty seconds saw."""
        return self._minute.total(self._clock.monotonic())


class Health:
    """Checks the dependencies at most once a second, however often it is called: /health needs no token."""

    def __init__(
        self,
        clock: Clock,
        rate: RequestRate,
        *,
        written_age_s: Callable[[], float],
        absent: Mapping[str, str] = {},
    ) -> None:
        """`written_age_s` returns the age of this replica's last committed write, infinite before the first. `absent`:
        see `absent_reasons`."""
        self._clock = clock
        self._written_age_s = written_age_s
        self._rate = rate
        self._absent = absent
        self._started = clock.monotonic()
        self._seen: tuple[float, dict[str, str], list[dict[str, Any]]] | None = None
        self._links: list[LinkRecord] = []
        self._models: dict[str, str] = {}
        self._looking = asyncio.Lock()

    async def dependencies(self, db: Database | None, bus: Bus | None) -> dict[str, str]:
        """Return the status of database, redis, tree and feeds."""
        return dict((await self._checked(db, bus))[0])

    async def report(self, db: Database | None, bus: Bus | None) -> dict[str, Any]:
        """Return the owner's health document of the whole system."""
        dependencies = await self.dependencies(db, bus)
        return self._document("fks", worst(dependencies), dependencies, self._clock.monotonic() - self._started)

    async def service_report(self, service: str, db: Database | None, bus: Bus | None) -> dict[str, Any]:
        """Return the owner's health document of one of OWNER_SERVICES.

        Its dependencies are the database, Redis and the kinds of components that it became, each with the worst status
        of its members; in place of the kind inference those of fks_ai are the deployments of language models, which
        may have no process. Without a component, or without the database, it is down; one that is off says why.
        """
        shared, components = await self._checked(db, bus)
        dependencies = {name: shared[name] for name in ("database", "redis")}
        members = [c for c in components if kind_of(c) in OWNER_SERVICES[service]]
        for kind in sorted({kind_of(c) for c in members}):
            dependencies[kind] = status_of([c for c in members if kind_of(c) == kind])
        if _MODELS in OWNER_SERVICES[service]:
            dependencies.pop(_MODELS, None)
            dependencies |= {f"{_MODELS}:{name}": status for name, status in self._models.items()}
        if not members and service in self._absent:
            dependencies |= dict.fromkeys(OWNER_SERVICES[service], f"{DOWN}: {self._absent[service]}")
        status = DOWN if not members or status_of(members) == DOWN else worst(dependencies)
        since = [c["since"].timestamp() for c in members if c["state"] in WELL and c["since"] is not None]
        up_s = max(self._clock.now_ns() / 1e9 - max(since), 0.0) if since else 0.0
        return self._document(service, status, dependencies, up_s)

    async def is_ready(self, db: Database | None, bus: Bus | None) -> bool:
        """Return whether the database answers, and has committed a write of this replica lately."""
        dependencies = await self.dependencies(db, bus)
        return dependencies["database"] != DOWN and self._written_age_s() <= WRITE_AGE_MAX_S

    async def links(self, platform: BridgePlatform, db: Database | None, bus: Bus | None) -> dict[str, bool]:
        """Return whether a link to a platform is connected, and whether one is able to trade, under its name."""
        await self._checked(db, bus)
        links = [link for link in self._links if platform_of_key(link.group) is platform]
        return {
            f"{platform.name}_connected": any(link.is_connected for link in links),
            f"{platform.name}_can_trade": any(link.can_trade for link in links),
        }

    def _document(self, service: str, status: str, dependencies: dict[str, str], up_s: float) -> dict[str, Any]:
        return {
            "status": status,
            "service": service,
            "version": __version__,
            "timestamp": iso(self._clock.now_ns()),
            "dependencies": dependencies,
            "metadata": {"uptime_seconds": round(up_s, 1), "requests_per_minute": self._rate.per_minute()},
        }

    async def _checked(self, db: Database | None, bus: Bus | None) -> tuple[dict[str, str], list[dict[str, Any]]]:
        """Return the status of every dependency, and the components as status shows them."""
        async with self._looking:  # concurrent callers share the result of one check
            if self._seen is None or self._clock.monotonic() - self._seen[0] >= TTL_S:
                found = {"database": DOWN, "redis": DOWN, "tree": DOWN, "feeds": DOWN}
                components: list[dict[str, Any]] = []
                self._links = []
                models: dict[str, str] = {}
                with contextlib.suppress(OutageError):
                    if bus is not None:
                        await bus.ping()
                        found["redis"] = HEALTHY
                with contextlib.suppress(OutageError):
                    if db is not None:
                        await db.ping()  # at once, without the retries of a query: a health check must not wait
                        rows = [component_view(dict(row)) for row in await db.fetch("monitor.components")]
                        feeds = [dict(row) for row in await db.fetch("monitor.feeds")]
                        self._links = await NinjaStore(db).links()
                        models = {row["name"]: model_health(row) for row in await DeploymentStore(db).all()}
                        components = rows
                        found |= {"database": HEALTHY, "tree": tree_health(rows), "feeds": feeds_health(feeds)}
                # before its first write this replica has proven nothing, and nothing is known to be wrong
                age_s = min(self._written_age_s(), self._clock.monotonic() - self._started)
                if age_s > WRITE_AGE_MAX_S:
                    found["database"] = DOWN
                self._models = models
                self._seen = (self._clock.monotonic(), found, components)
            return self._seen[1], self._seen[2]


def worst(dependencies: Mapping[str, str]) -> str:
    """Return the overall status: down without the database, degraded when anything else is not well."""
    return level({*dependencies.values()} <= {HEALTHY}, dependencies.get("database") != DOWN)


def tree_health(components: list[dict[str, Any]]) -> str:
    """Return the state of the actor tree: down when its root is silent, degraded when any actor is not ready."""
    actors = [c for c in components if c["kind"] == "actor"]
    root = next((c for c in actors if c["name"] == SUPERVISOR), None)
    if root is None or root["heartbeat_age_ms"] is None or root["heartbeat_age_ms"] > SILENT_MS:
        return DOWN
    return HEALTHY if all(c["state"] in WELL for c in actors) else DEGRADED


def feeds_health(feeds: list[dict[str, Any]]) -> str:
    """Return the state of market data: healthy when every wanted feed is live and fresh."""
    if not feeds:
        return DOWN
    fresh = [is_fresh(feed, FEED_MS) for feed in feeds]
    return level(all(fresh), any(fresh))


def kind_of(component: Mapping[str, Any]) -> str:
    """Return the part of a component's name that its like share: collector of collector:binance."""
    return str(component["name"]).partition(":")[0]


def status_of(members: Sequence[Mapping[str, Any]]) -> str:
    """Return healthy when every component is well, down when none even works with limits, degraded otherwise."""
    states = [c["state"] for c in members]
    return level(WELL.issuperset(states), any(state in WELL or state == DEGRADED for state in states))


def absent_reasons(settings: Settings) -> dict[str, str]:
    """Return for each of OPTIONAL why it has no component, where it has none."""
    ninja = meta = "nothing of it runs, see 'fks status'"
    if not settings.ninja.links():
        ninja = "ninja.enabled is false, and there is no table [ninja.groups.NAME]"
    if not settings.mt5.links():
        meta = "mt5.enabled is false"
    elif settings.mt5.account_number is None:
        meta = "mt5.account_number is not set"
    else:
        meta += "; it runs while an account has the venue mt5: 'fks accounts create NAME --venue mt5'"
    return dict(zip(OPTIONAL, (ninja, meta), strict=True))


def owner_services(
    components: list[dict[str, Any]],
    timestamp: str,
    absent: Mapping[str, str] = {},
    models: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Return the components grouped under the owner's service names.

    A service without components is left out, unless it is one of `absent` (see `absent_reasons`): then it is down.
    `models`: deployments of language models; one that is not healthy makes its service degraded at best.
    """
    found = []
    for service, prefixes in OWNER_SERVICES.items():
        members = [c for c in components if kind_of(c) in prefixes]
        if not members and service not in absent:
            continue
        bad = [c["name"] for c in members if c["state"] not in WELL]
        status = status_of(members) if members else DOWN
        because = [] if members else [absent[service]]
        if _MODELS in prefixes:
            problems = [f"{_MODELS}:{row['name']}: {problem}" for row in models if (problem := model_problem(row))]
            status = DEGRADED if problems and status == HEALTHY else status
            because += problems
        found.append(
            {
                "id": service,
                "name": service,
                "service_type": service.removeprefix("fks_"),
                "status": status,
                "components": [c["name"] for c in members],
                "unhealthy": bad,
                "because": because,
                "last_check": timestamp,
            }
        )
    return found
