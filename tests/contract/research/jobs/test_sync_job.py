"""Syncs as durable work: a pending row, the scheduler, a job on the local exchange; killed in between, and it goes
on."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.scheduler import SchedulerActor
from fks.clock import RealClock
from fks.config.paths import Paths
from fks.research.jobs.runner import run_one
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.jobs import JobStore
from fks.store.sync import SyncStore
from tests.support.children import Child
from tests.support.collecting import settings_for
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.waiting import until

EXCHANGE_SEED = 5


@pytest.fixture
def meter() -> RecordingMeter:
    return RecordingMeter()


@pytest.fixture
def log() -> CollectingLog:
    return CollectingLog()


@pytest.fixture
async def scheduler(
    database: Database,
    as_jobs: Database,
    bus: Bus,
    exchange: LocalExchange,
    tmp_path: Path,
    meter: RecordingMeter,
    log: CollectingLog,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[SchedulerActor]:
    """The scheduler, running; it runs jobs in this process."""
    settings = settings_for(exchange.info)
    monkeypatch.setattr(
        "fks.research.jobs.documents.shipped_pages", dict
    )  # vectors of all pages take seconds of a processor

    async def run_job(home: str, job_id: str, gpus: int) -> None:
        await run_one(as_jobs, uuid.UUID(job_id), tmp_path, settings=settings)

    component: Any = SimpleNamespace(
        db=database,
        bus=bus,
        clock=RealClock(),
        settings=settings,
        log=log,
        paths=Paths.of("/nowhere"),
        lease=None,
        meter=meter,
    )
    actor = SchedulerActor(component, (), run_job=run_job)
    running = asyncio.create_task(actor.run())
    yield actor
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await actor.stop()


async def done(db: Database, *statuses: str) -> bool:
    rows = await SyncStore(db).all()
    return bool(rows) and all(row["sync_status"] in (statuses or ("done",)) for row in rows)


async def is_idle(db: Database) -> bool:
    return all(job.state == "done" for job in await JobStore(db).list())


async def test_the_owners_insert_starts_a_sync(database: Database, scheduler: SchedulerActor) -> None:
    await database.sql(
        "INSERT INTO sync_status (symbol, timeframe, sync_status) SELECT 'SOLUSDT', tf, 'pending'"
        " FROM unnest(ARRAY['1h','1d']) AS tf ON CONFLICT DO NOTHING"
    )
    await until(lambda: done(database), deadline_s=30)
    rows = await SyncStore(database).all()
    assert all(row["candles"] == row["stored"] > 2 for row in rows)

    async def is_ended() -> bool:
        return [job.state for job in await JobStore(database).list() if job.kind == "sync"] == ["done"]

    await until(is_ended)


async def test_what_cannot_be_synced_says_why_and_holds_nothing_up(
    database: Database, scheduler: SchedulerActor
) -> None:
    store = SyncStore(database)
    await store.want("nowhere", "BTCUSDT", ["1h"])
    await store.want("binance", "NOSUCHCOIN", ["1h"])
    await store.want("binance", "BTCUSDT", ["7m"])
    await until(lambda: done(database, "failed"), deadline_s=30)
    errors = {
        row["symbol"] + row["timeframe"]: row["error"] for row in await store.all() if row["exchange"] == "binance"
    }
    assert "unknown symbol 'NOSUCHCOIN'" in errors["NOSUCHCOIN1h"]
    assert "use one of" in errors["BTCUSDT7m"]
    row = await store.get("nowhere", "BTCUSDT", "1h")
    assert row is not None
    assert "no exchange FKS knows" in str(row.error)


async def test_a_gap_in_what_was_synced_is_filled_within_a_minute(
    database: Database, scheduler: SchedulerActor, meter: RecordingMeter, log: CollectingLog
) -> None:
    store = SyncStore(database)
    now_ns = RealClock().now_ns()
    await store.want("binance", "ETHUSDT", ["5m"], now_ns - 2 * 86400 * 10**9, now_ns - 3600 * 10**9)
    await until(lambda: done(database), deadline_s=30)
    await until(
        lambda: is_idle(database), deadline_s=30
    )  # the job that synced looks for gaps too: it would fill ours, unseen
    await database.sql(
        "DELETE FROM ohlcv_data WHERE time BETWEEN now() - interval '9 hours' AND now() - interval '7 hours'"
    )

    async def is_seen() -> bool:
        # each time: a look that was under way notes the present when it ends, and the next would be a minute off
        await database.sql("UPDATE schedules SET last_run_at = now() - interval '2 minutes' WHERE name = 'continuous'")
        return meter.total("fks_missing_bars", exchange="binance") >= 24

    async def is_whole() -> bool:
        rows = await database.sql(
            "SELECT count(*) FROM ohlcv_data WHERE time BETWEEN now() - interval '9 hours' AND now() - interval '7 "
            "hours'"
        )
        return bool(rows[0][0] >= 24)

    await until(is_seen, deadline_s=30)
    await until(is_whole)
    assert any(
        "bars missing in 1 gaps of binance" in result
        for result in (str(fields.get("result")) for _, _, fields in log.lines)
    )


async def test_kill_9_costs_nothing_but_the_page_under_way(
    database: Database, as_jobs: Database, database_url: str, exchange: LocalExchange, tmp_path: Path
) -> None:
    """A job in a process of its own is killed over and over; in the end the bars are whole, and asked for once."""
    store, jobs = SyncStore(database), JobStore(database)
    await store.want("binance", "BTCUSDT", ["1m"], RealClock().now_ns() - 12 * 86400 * 10**9)
    seen = -1
    exchange.fault("latency", path="/api/v3/klines", count=10_000, seconds=0.3)  # or it is done before it is killed
    for _ in range(3):
        assert await store.submit_job(["binance"], "test")
        claimed = await jobs.claim(["sync"])
        assert claimed is not None
        runner = Child(_run, database_url, claimed.id, exchange.info, tmp_path)

        async def has_more(before: int = seen) -> bool:
            return await stored(database) > max(before, 0)

        await until(has_more, deadline_s=30, every_s=0.005)
        runner.kill()
        await runner.ended()
        seen = await stored(database)
        row = await store.get("binance", "BTCUSDT", "1m")
        assert row is not None
        await database.sql("UPDATE jobs SET state = 'failed'")
        await database.sql("UPDATE sync_status SET updated_at = now() - interval '2 minutes'")
    exchange.clear()
    assert await store.submit_job(["binance"], "test")
    last = await jobs.claim(["sync"])
    assert last is not None
    await run_one(as_jobs, last.id, tmp_path, settings=settings_for(exchange.info))
    rows = await database.sql(
        "SELECT count(*) AS n, max(time) - min(time) AS range FROM ohlcv_data WHERE timeframe = '1m'"
    )
    assert rows[0]["n"] == rows[0]["range"].total_seconds() / 60 + 1
    assert rows[0]["n"] >= 12 * 1440 - 1
    assert await done(database)


async def stored(db: Database) -> int:
    return int((await db.sql("SELECT count(*) FROM ohlcv_data"))[0][0])


async def _run(url: str, job: uuid.UUID, info: dict[str, Any], folder: Path) -> None:
    db = await Database.connect(url, application="job")
    await run_one(db, job, folder, settings=settings_for(info))
