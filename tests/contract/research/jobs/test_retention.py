"""Old events, alerts and results are deleted; what decisions, open alerts and money need never is."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from fks.store import retention
from fks.store.db import Database
from fks.store.retention import RetentionStore

NOW = datetime(2026, 6, 1, tzinfo=UTC)
OLD, YOUNG = NOW - timedelta(days=100), NOW - timedelta(days=1)
BEFORE = NOW - timedelta(days=90)


@pytest.fixture
def store(database: Database, monkeypatch: pytest.MonkeyPatch) -> RetentionStore:
    """A store that needs several statements for a few rows."""
    monkeypatch.setattr(retention, "BATCH", 3)
    return RetentionStore(database)


async def test_events_are_deleted_but_the_newest_of_a_kind_and_those_of_decisions(
    database: Database, store: RetentionStore
) -> None:
    row = "INSERT INTO actor_events (time, child, event) VALUES ($1, $2, $3)"
    for _ in range(8):
        await database.sql(row, OLD, "orders", "started")
    await database.sql(row, OLD, "orders", "escalated")
    await database.sql(row, OLD, "strategy:0", "strategy.missed")
    await database.sql(row, OLD, "strategy:0", "strategy.missed")
    await database.sql(row, YOUNG, "guardian", "started")
    assert await store.events(BEFORE) == 7
    left = await database.sql("SELECT child, event FROM actor_events ORDER BY id")
    assert [tuple(one) for one in left] == [
        ("orders", "started"),
        ("orders", "escalated"),
        ("strategy:0", "strategy.missed"),
        ("strategy:0", "strategy.missed"),
        ("guardian", "started"),
    ]
    assert await store.events(BEFORE) == 0


async def test_only_settled_alerts_are_deleted(database: Database, store: RetentionStore) -> None:
    row = "INSERT INTO alerts (time, severity, event, message, resolved_at) VALUES ($1, 'page', $2, '', $3)"
    for number in range(4):
        await database.sql(row, OLD, f"old.{number}", OLD)
    await database.sql(row, OLD, "open", None)
    await database.sql(row, OLD, "settled.lately", YOUNG)
    assert await store.alerts(BEFORE) == 4
    left = await database.sql("SELECT event FROM alerts ORDER BY id")
    assert [one["event"] for one in left] == ["open", "settled.lately"]


async def test_results_go_and_searches_in_use_stay(database: Database, store: RetentionStore) -> None:
    row = "INSERT INTO jobs (id, kind, spec, state, finished_at) VALUES ($1, 'optimization', '{}', $2, $3)"
    gone, used, failed, young, queued = (uuid.uuid4() for _ in range(5))
    for id, state, at in (
        (gone, "done", OLD),
        (used, "done", OLD),
        (failed, "failed", OLD),
        (young, "done", YOUNG),
        (queued, "queued", None),
    ):
        await database.sql(row, id, state, at)
    for id in (gone, young):
        key = "INSERT INTO job_keys (id, job_id, spec_hash, created_at) VALUES ($1, $2, 'h', $3)"
        await database.sql(key, uuid.uuid4(), id, OLD)
    await database.sql("INSERT INTO accounts (name, venue, initial_balance) VALUES ('demo', 'paper', 1000)")
    await database.sql(
        "INSERT INTO strategy_instances (id, strategy, symbol, timeframe, account_id, venue)"
        " VALUES ('a', 'sma_cross', 'BTCUSDT', '1m', 1, 'paper')"
    )
    await database.sql(
        "INSERT INTO strategy_parameters (instance_id, version, strategy, params, provenance)"
        " VALUES ('a', 1, 'sma_cross', '{}', $1)",
        {"optimization": str(used)},
    )
    assert await store.jobs(BEFORE) == 2
    assert {one["id"] for one in await database.sql("SELECT id FROM jobs")} == {used, young, queued}
    assert [one["job_id"] for one in await database.sql("SELECT job_id FROM job_keys")] == [young]
