"""Watcher of the system: merges the metrics of all components, runs the deep checks, settles alerts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import orjson

from fks.model.errors import OutageError
from fks.model.health import DOWN, Check, failed
from fks.model.ports import Meter
from fks.model.timeframe import to_datetime
from fks.store.bus import ALERTS
from fks.store.deployments import DeploymentStore
from fks.store.metrics import TEXT, MetricStore
from fks.store.nodes import PAGE_S, NodeStore
from fks.system.monitor.alerts import NewAlerts, message_of, settle_what_is_over
from fks.system.monitor.guard import Guard
from fks.system.monitor.language_models import ModelMeter, deployed, process_snapshots
from fks.system.process.metrics import TEXT_KEY, Merger
from fks.system.process.self_checks import stuck_problems
from fks.system.runtime import SNAPSHOTS, SNAPSHOTS_TTL_S, Component

EVERY_S = 2.0
#: Redis key of the merger's state, with which counters go on when this process is replaced.
STATE_KEY = "fks:metrics-state"
STATE_TTL_S = 3600.0
_STATE_LOOKS = 5  # looks between two writes of it
#: A component that has published nothing new for this long is forgotten, with its counters.
FORGET_S = 3600.0


class Watcher:
    """Merges metric snapshots into one exposition, monotonic across restarts, and checks database and Redis.

    Hard state: none (rows of others). Soft state: the merged counters. Guarantees: none that orders depend on.
    """

    def __init__(self, component: Component) -> None:
        self._c = component
        self._guard = Guard("monitor", component.log, component.meter)
        self._is_up: dict[str, bool | None] = {"database": None, "redis": None}  # None: before the first look
        self._database_up_s = component.clock.monotonic()  # not seen away since then
        self._nodes = NodeStore(component.db)
        self._deployments = DeploymentStore(component.db)
        self._models = ModelMeter(component.meter)
        self._new_alerts = NewAlerts(component.db)
        self._served: Set[str] = frozenset()  # parts of Ray Serve whose restarts were published last
        self._turned_s = component.clock.monotonic()  # the last turn of `_watch`
        self._kept = MetricStore(component.db)
        self._seen: dict[str, tuple[bytes, float]] = {}  # component -> its last snapshot, and when it was new

    async def start(self) -> None:
        """Load the merger, with the counters of its predecessor."""
        self._merger = Merger()
        state = await self._c.bus.get(STATE_KEY)
        if state is not None and (found := _object(state)) is not None:
            self._merger.restore(found)

    async def run(self) -> None:
        """Merge every two seconds and run the deep checks every two minutes, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._check_deeply())
            tasks.create_task(self._keep_minutes())
            tasks.create_task(self._watch())

    async def _check_deeply(self) -> None:
        """Run the deep checks every two minutes. The first waits: after a start the parts are not ready yet."""
        from fks.system.monitor.deep import EVERY_S as DEEP_EVERY_S
        from fks.system.monitor.deep import DeepChecks

        c = self._c
        checks = DeepChecks(c.db, c.bus, c.clock, c.settings, c.paths)
        before: list[str] = []
        while True:
            await c.clock.sleep(DEEP_EVERY_S)
            look = await self._guard.call("checks", checks.run)
            if look is None:
                continue
            check_metrics(c.meter, look.checks)
            with contextlib.suppress(OutageError):
                c.meter.gauge("fks_database_connections_ratio", await c.db.fetchval("monitor.connections_ratio"))
            down = sorted(name for name, found in look.reported.items() if found.status == DOWN)
            if look.reported and down != before:
                if down:
                    c.log.warning("monitor.changed", down=down, were_down=before)
                else:
                    c.log.info("monitor.changed", down=down, were_down=before)
                before = down

    async def _keep_minutes(self) -> None:
        """Write a row of metrics for each component, once a minute; an outage costs the minute."""
        from fks.system.monitor.minutes import MinuteStore

        minutes = MinuteStore(self._c.db, self._c.bus, self._c.clock)
        while True:
            await self._c.clock.sleep(60.0)
            with contextlib.suppress(OutageError):
                await self._guard.call("minutes", minutes.write)

    async def _watch(self) -> None:
        for look in itertools.count():
            self._turned_s = self._c.clock.monotonic()
            await self._check()
            await self._guard.call("alerts", self._update_alerts)
            await self._guard.call("served", self._count_served)
            await self._guard.call("models", self._count_models)
            host_metrics(self._c.meter, self._c.paths.home)
            await self._guard.call("merge", self._merge)
            if look % _STATE_LOOKS == 0:
                await self._c.bus.set(STATE_KEY, orjson.dumps(self._merger.state()), ttl_s=STATE_TTL_S)
            await self._c.clock.sleep(EVERY_S)

    async def _merge(self) -> None:
        """Take in what is new, and publish the text: in Redis, or in PostgreSQL while Redis is away."""
        now_s = self._c.clock.monotonic()
        for name, body in (await self._snapshots()).items():
            before = self._seen.get(name)
            if before is not None and (before[0] == body or name == self._c.name):
                continue
            if (snapshot := _object(body)) is not None:
                self._merger.take(name, snapshot)
                self._seen[name] = (body, now_s)
        self._merger.take(self._c.name, self._c.meter.snapshot())  # its own is always the newest
        self._seen[self._c.name] = (b"", now_s)
        for name in [name for name, (_, at_s) in self._seen.items() if now_s - at_s > FORGET_S]:
            self._merger.forget(name)  # what stays in `_seen` is not taken again
        text = self._merger.exposition({name: now_s - at_s for name, (_, at_s) in self._seen.items()})
        if not await self._c.bus.set(TEXT_KEY, text.encode(), ttl_s=60.0):
            with contextlib.suppress(OutageError):
                await self._kept.save(TEXT, text)

    async def _snapshots(self) -> Mapping[str, bytes]:
        if self._is_up["redis"] or not self._is_up["database"]:
            return await self._c.bus.fields(SNAPSHOTS)
        try:
            return await self._kept.young(SNAPSHOTS_TTL_S)
        except OutageError:
            return {}

    async def _check(self) -> None:
        looks = (("database", "fks_database_up", self._c.db), ("redis", "fks_redis_up", self._c.bus))
        for name, metric, server in looks:
            try:
                await server.ping()
                is_up = True
            except OutageError:
                is_up = False
            self._is_up[name] = is_up
            self._c.meter.gauge(metric, float(is_up))
        if not self._is_up["database"]:
            self._database_up_s = self._c.clock.monotonic()

    async def _count_served(self) -> None:
        """Publish how often Ray Serve replaced each of its parts; no supervisor of ours sees them end."""
        if not self._is_up["database"]:
            return
        with contextlib.suppress(OutageError):
            restarts = {row["child"]: row["restarts"] for row in await self._c.db.fetch("monitor.served")}
            for child in self._served - restarts.keys():
                self._c.meter.remove("fks_serve_restarts", child=child)
            for child, count in restarts.items():
                self._c.meter.gauge("fks_serve_restarts", float(count), child=child)
            self._served = restarts.keys()

    async def _count_models(self) -> None:
        """Publish the states of language models, and take in the counts of their processes."""
        if not self._is_up["database"]:
            return
        with contextlib.suppress(OutageError):
            rows = await deployed(self._c.db)
            self._models.set(rows)
            for name, (pid, snapshot) in process_snapshots(rows).items():
                self._merger.take(name, snapshot, pid)
                self._seen[name] = (b"", self._c.clock.monotonic())

    async def _update_alerts(self) -> None:
        """Publish new alerts, and resolve those whose cause is over."""
        if not self._is_up["database"]:
            return
        with contextlib.suppress(OutageError):
            now_s = self._c.clock.monotonic()
            # while the database was unavailable no node could beat
            silent = await self._nodes.page_silent() if now_s - self._database_up_s > PAGE_S else []
            for name in silent:
                self._c.log.error(
                    "node.silent", node=name, remedy=f"look at it; if it is gone for good: fks node forget {name}"
                )
            for name in await self._nodes.forget_silent(self._c.settings.supervision.forget_s):
                self._c.log.info("node.forgotten", node=name)
            for model, has_failed in await self._deployments.raise_alerts():
                event = "ai.failed" if has_failed else "ai.unschedulable"
                self._c.log.warning(event, model=model, remedy="see 'fks ai models'")
            for message in await self._new_alerts.new():
                await self._c.bus.publish(ALERTS, message)
            for alert in await settle_what_is_over(self._c.db, to_datetime(self._c.clock.now_ns())):
                self._c.log.info("alert.settled", alert=alert["event"], of=alert["component"], message=alert["message"])
                await self._c.bus.publish(ALERTS, message_of(alert, "settled"))

    @property
    def is_ready(self) -> bool:
        return all(self._is_up.values())

    def problems(self) -> Sequence[Check]:
        """Return a stuck loop, and the databases that do not answer."""
        silent_s = self._c.clock.monotonic() - self._turned_s
        return [
            *stuck_problems("monitor", silent_s, self._c.settings.supervision.stuck_max_s),
            *(failed(name, f"{name} does not answer") for name, is_up in self._is_up.items() if is_up is False),
        ]

    def detail(self) -> Mapping[str, object]:
        """Return whether database and Redis answer."""
        return {name: bool(is_up) for name, is_up in self._is_up.items()}


def host_metrics(meter: Meter, home: Path) -> None:
    """Set the gauges of this machine."""
    with contextlib.suppress(OSError):
        meter.gauge("fks_disk_free_bytes", float(shutil.disk_usage(home).free))


#: metric, the check that measures it, the key of its detail, the factor to the metric's unit, labels
_MEASURED: tuple[tuple[str, str, str, float, dict[str, str]], ...] = (
    ("fks_clock_offset_seconds", "clock", "offset_ms", -0.001, {"source": "ntp"}),
    ("fks_backup_age_seconds", "backup", "age_h", 3600.0, {}),
    ("fks_certificate_days", "certificate", "days_left", 1.0, {}),
)


def check_metrics(meter: Meter, checks: Mapping[str, Check]) -> None:
    """Set the gauges of measured values of the deep checks. One that was not measured is forgotten: an old value says
    nothing."""
    for name, check, key, factor, labels in _MEASURED:
        value = checks[check].values.get(key) if check in checks else None
        if value is None:
            meter.remove(name, **labels)
        else:
            meter.gauge(name, factor * float(value), **labels)


def _object(kept: bytes) -> dict[str, Any] | None:
    """Return a snapshot, or the merger's state; None for anything else (other programs may write to Redis)."""
    try:
        found = orjson.loads(kept)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
