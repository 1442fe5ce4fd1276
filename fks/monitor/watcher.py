"""Watcher of the system: merges the metrics of all components, checks database and Redis, settles alerts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import orjson

from fks.model.errors import OutageError
from fks.model.health import FailedCheck
from fks.model.timeframe import to_datetime
from fks.monitor.alerts import NewAlerts, message_of, settle_what_is_over
from fks.runtime import SNAPSHOTS, Component
from fks.store.bus import ALERTS
from fks.store.nodes import PAGE_S, NodeStore

EVERY_S = 2.0
METRICS_KEY = "fks:metrics"


class Watcher:
    """Merges metric snapshots into one exposition, monotonic across restarts, and checks database and Redis.

    Hard state: none (rows of others). Soft state: the merged counters. Guarantees: none that orders depend on.
    """

    def __init__(self, component: Component) -> None:
        self._c = component
        self._database_is_up = False
        self._redis_is_up = False
        self._database_up_s = component.clock.monotonic()  # not seen away since then
        self._nodes = NodeStore(component.db)
        self._new_alerts = NewAlerts(component.db)
        self._has_looked = False

    async def start(self) -> None:
        """Load the merger."""
        from fks.process.metrics import Merger

        self._merger = Merger()

    async def run(self) -> None:
        """Merge every two seconds until cancelled."""
        while True:
            await self._check()
            await self._update_alerts()
            for name, kept in (await self._c.bus.fields(SNAPSHOTS)).items():
                if (snapshot := _snapshot(kept)) is not None:
                    self._merger.take(name, snapshot)
            await self._c.bus.set(METRICS_KEY, self._merger.exposition().encode(), ttl_s=60.0)
            await self._c.clock.sleep(EVERY_S)

    async def _check(self) -> None:
        try:
            await self._c.db.ping()
            self._database_is_up = True
        except OutageError:
            self._database_is_up = False
            self._database_up_s = self._c.clock.monotonic()
        try:
            await self._c.bus.ping()
            self._redis_is_up = True
        except OutageError:
            self._redis_is_up = False
        self._has_looked = True
        self._c.meter.gauge("fks_database_up", float(self._database_is_up))
        self._c.meter.gauge("fks_redis_up", float(self._redis_is_up))

    async def _update_alerts(self) -> None:
        """Publish new alerts, and resolve those whose cause is over."""
        if not self._database_is_up:
            return
        with contextlib.suppress(OutageError):
            now_s = self._c.clock.monotonic()
            # while the database was unavailable no node could beat
            silent = await self._nodes.page_silent() if now_s - self._database_up_s > PAGE_S else []
            for name in silent:
                self._c.log.error(
                    "node.silent", node=name, remedy=f"look at it; if it is gone for good: fks node forget {name}"
                )
            for message in await self._new_alerts.new():
                await self._c.bus.publish(ALERTS, message)
            for alert in await settle_what_is_over(self._c.db, to_datetime(self._c.clock.now_ns())):
                self._c.log.info("alert.settled", alert=alert["event"], of=alert["component"], message=alert["message"])
                await self._c.bus.publish(ALERTS, message_of(alert, "settled"))

    @property
    def is_ready(self) -> bool:
        return self._database_is_up and self._redis_is_up

    def problems(self) -> Sequence[FailedCheck]:
        """Return the databases that do not answer."""
        reached = {"database": self._database_is_up, "redis": self._redis_is_up}
        return [
            FailedCheck(kind, f"{kind} does not answer")
            for kind, is_up in reached.items()
            if self._has_looked and not is_up
        ]

    def detail(self) -> Mapping[str, object]:
        """Return whether database and Redis answer."""
        return {"database": self._database_is_up, "redis": self._redis_is_up}


def _snapshot(kept: bytes) -> dict[str, float] | None:
    """Return the snapshot of a component; None for anything else (other programs may write to Redis)."""
    try:
        found = orjson.loads(kept)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
