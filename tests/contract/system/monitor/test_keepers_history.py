"""The history of the tree shows the processes of the keeper and the gateway, once for each end."""

from __future__ import annotations

import time

from fks.config.machine import process_space
from fks.store.db import Database
from fks.system.monitor.history import events
from fks.system.node.cluster_driver import beat_columns
from fks.system.node.service import ServiceStatus


async def _beat(db: Database, state: str, pid: int | None, ended: str = "") -> None:
    now_ns = time.time_ns()  # a new process is as young as that
    rows = [
        ("keeper", ServiceStatus("keeper", "ready", 1, 0, now_ns)),
        ("service", ServiceStatus("redis", state, pid, 0, now_ns, "", ended)),
    ]
    await db.execute("keeper.beat", *beat_columns(rows), "here", process_space())


async def _history(db: Database, child: str) -> list[tuple[str, str, int]]:
    return [(row["what"], row["why"], row["pid"]) for row in await events(db, child=child)]


async def test_a_service_that_died_and_one_that_was_asked(database: Database) -> None:
    await _beat(database, "ready", 12)
    await _beat(database, "ready", 12)
    await _beat(database, "restarting", None, "redis (pid 12) died, signal 9")
    await _beat(database, "restarting", None, "redis (pid 12) died, signal 9")
    await _beat(database, "ready", 34, "redis (pid 12) died, signal 9")
    await _beat(database, "ready", 56, "asked")  # so quick that no beat saw it away
    await _beat(database, "stopped", None)
    assert await _history(database, "redis") == [
        ("started", "", 12),
        ("died", "signal 9 (SIGKILL)", 12),
        ("started", "", 34),
        ("ended in order", "asked", 34),
        ("started", "", 56),
        ("stopped", "", 56),
    ]
    assert await _history(database, "keeper") == [("started", "", 1)]


async def test_a_replica_that_was_replaced(database: Database) -> None:
    for pid in (7, 7, 8):
        await database.execute("monitor.beat", "gateway:0", "serve", "ready", pid, "here", 0, {}, "v", 0)
    assert [row[::2] for row in await _history(database, "gateway")] == [
        ("started", 7),
        ("replaced", 7),
        ("started", 8),
    ]
    row = (await database.sql("SELECT pid, restarts FROM component_health"))[0]
    assert tuple(row) == (8, 1)
