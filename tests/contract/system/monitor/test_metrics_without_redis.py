"""Redis is away: the metrics of actors are still shown, age, and say that it is away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints
from fks.config.paths import Paths
from fks.config.secrets import load_secrets
from fks.config.settings import Settings
from fks.store.bus import Bus
from fks.store.db import Database
from fks.system import runtime
from fks.system.monitor import watcher
from fks.system.monitor.watcher import Watcher
from fks.system.process.metrics import TEXT_KEY, PrometheusMeter
from fks.system.runtime import Component
from tests.support import servers
from tests.support.gateway import Running, running, serving
from tests.support.ports import CollectingLog
from tests.support.waiting import until


async def shown(gateway: Running) -> dict[tuple[str, str], float]:
    """Return /metrics: (name, component) -> value."""
    async with gateway.client(None) as client:
        text = (await client.get("/metrics")).text
    families = text_string_to_metric_families(text)
    return {(s.name, s.labels["component"]): s.value for family in families for s in family.samples}


def component(name: str, home: Paths, db: Database, bus: Bus) -> Component:
    return Component(
        name,
        1,
        Settings(home=home.home),
        home,
        load_secrets(home),
        NodeEndpoints("", "", "", {}),
        RealClock(),
        CollectingLog(),
        PrometheusMeter(name),
        db,
        bus,
        None,
    )


async def test_metrics_of_actors_survive_an_outage_of_redis(
    seeded: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "PUBLISH_S", 0.1)
    monkeypatch.setattr(watcher, "EVERY_S", 0.1)
    with servers.home() as home:
        with servers.running_redis(home) as redis:
            url = redis.url()
            bus = await Bus.connect(url)
            guardian, monitor = (component(name, home, seeded, bus) for name in ("guardian", "monitor"))
            guardian.meter.gauge("fks_kill_engaged", 1.0)
            guardian.meter.gauge("fks_feed_age_seconds", 0.5, symbol="B")
            watching = Watcher(monitor)
            await watching.start()
            tasks = [
                asyncio.create_task(guardian.publish_metrics()),
                asyncio.create_task(watching.run()),
            ]
            entered = running(seeded, database_url, url, tmp_path)
            gateway = await entered.__aenter__()

            async def is_whole() -> bool:
                found = await shown(gateway)
                return found.get(("fks_kill_engaged", "guardian")) == 1 and found["fks_redis_up", "monitor"] == 1

            await until(is_whole)

        async def is_noticed() -> bool:
            found = await shown(gateway)
            assert found["fks_kill_engaged", "guardian"] == 1, "never missing in between"
            return found["fks_redis_up", "gateway:0"] == 0 and found["fks_redis_up", "monitor"] == 0

        await until(is_noticed, deadline_s=20)
        snapshots = (await shown(gateway))["fks_snapshots_total", "guardian"]

        async def is_living() -> bool:
            return (await shown(gateway))["fks_snapshots_total", "guardian"] > snapshots

        await until(is_living)
        assert (await shown(gateway))["fks_database_up", "gateway:0"] == 1
        # a replica that never saw Redis has nothing in memory
        async with serving(database_url, url, tmp_path, gateway.tokens, name="gateway:1") as fresh:

            async def is_read() -> bool:
                return (await shown(fresh)).get(("fks_kill_engaged", "guardian")) == 1

            await until(is_read)
        # the guardian dies: its last figures are no news
        tasks[0].cancel()
        before = (await shown(gateway))["fks_feed_age_seconds", "guardian"]

        async def is_older() -> bool:
            return (await shown(gateway))["fks_feed_age_seconds", "guardian"] > before + 0.3

        await until(is_older)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await entered.__aexit__(None, None, None)
        await bus.close()


async def test_a_new_watcher_goes_on_with_the_counters_of_its_predecessor(
    server_home: Paths, database: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "EVERY_S", 0.05)
    await bus.delete(runtime.SNAPSHOTS, watcher.STATE_KEY)

    async def text() -> str:
        return (await bus.get(TEXT_KEY) or b"").decode()

    async def fills(count: int, total: int) -> None:
        body = f'{{"fks_fills_total{{symbol=\\"B\\"}}": {count}}}'.encode()
        await bus.put(runtime.SNAPSHOTS, "orders-x", body, 60.0)
        line = f'fks_fills_total{{component="orders-x",symbol="B"}} {total}\n'

        async def is_there() -> bool:
            return line in await text()

        await until(is_there)

    for steps in (((5, 5), (2, 7)), ((3, 8),)):
        watching = Watcher(component("monitor", server_home, database, bus))
        await watching.start()
        task = asyncio.create_task(watching.run())
        for count, total in steps:
            await fills(count, total)
        newest = steps[-1][0]

        async def is_kept(newest: int = newest) -> bool:
            kept = orjson.loads(await bus.get(watcher.STATE_KEY) or b'{"last": {}}')["last"]
            return bool(kept.get("orders-x", ["", {}])[1].get('fks_fills_total{symbol="B"}') == newest)

        await until(is_kept)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await bus.delete(runtime.SNAPSHOTS, watcher.STATE_KEY)


async def test_replacements_by_serve_are_a_metric_of_each_part(
    server_home: Paths, database: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "EVERY_S", 0.05)
    await bus.delete(runtime.SNAPSHOTS, watcher.STATE_KEY)
    for pid in (1, 2, 3):
        await database.execute("monitor.beat", "pages:0", "serve", "ready", pid, "here", 0, {}, "v", 0)
    watching = Watcher(component("monitor", server_home, database, bus))
    await watching.start()
    task = asyncio.create_task(watching.run())

    async def has(text: str) -> bool:
        return text in (await bus.get(TEXT_KEY) or b"").decode()

    try:
        await until(lambda: has('fks_serve_restarts{component="monitor",child="pages:0"} 2'), deadline_s=20)
        await database.sql("DELETE FROM component_health")

        async def is_gone() -> bool:
            return not await has("fks_serve_restarts{")

        await until(is_gone)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.delete(runtime.SNAPSHOTS, watcher.STATE_KEY)
