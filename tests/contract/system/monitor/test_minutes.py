"""Metrics by the minute on real PostgreSQL and Redis."""

from __future__ import annotations

import os

import orjson

from fks.clock import RealClock
from fks.config.machine import host_name, process_space
from fks.store.bus import Bus
from fks.store.db import Database
from fks.system.monitor.minutes import MinuteStore
from fks.system.process.metrics import SNAPSHOT_PREFIX

SERIES = 'fks_http_requests_total{route="/a",status="200"}'


async def test_each_component_has_one_row_a_minute(database: Database, bus: Bus) -> None:
    await database.sql(
        "INSERT INTO component_health (name, kind, state, pid, node, detail, beat_at) VALUES"
        " ('gateway:m', 'serve', 'ready', $1, $2, jsonb_build_object('space', $3::text), now()),"
        " ('orders', 'actor', 'ready', $1, $2, '{\"space\": \"a clone of this machine\"}', now())",
        os.getpid(),
        host_name(),
        process_space(),
    )
    store = MinuteStore(database, bus, RealClock())
    await bus.set(SNAPSHOT_PREFIX + "gateway:m", orjson.dumps({SERIES: 5.0}), 60.0)
    assert await store.write() == 2
    first = await database.sql("SELECT * FROM service_metrics WHERE service = 'gateway:m'")
    assert (first[0]["requests"], first[0]["cpu_percent"]) == (0, None)
    assert first[0]["memory_mb"] > 1
    await database.sql("DELETE FROM service_metrics")  # both are within one minute
    await bus.set(SNAPSHOT_PREFIX + "gateway:m", orjson.dumps({SERIES: 12.0}), 60.0)
    await store.write()
    rows = {row["service"]: row for row in await database.sql("SELECT * FROM service_metrics")}
    assert (rows["gateway:m"]["requests"], rows["gateway:m"]["errors"]) == (7, 0)
    assert rows["gateway:m"]["cpu_percent"] >= 0
    assert (rows["orders"]["requests"], rows["orders"]["memory_mb"]) == (None, None)
