"""Schedules of persons on real PostgreSQL: begun once per cluster, recorded, and made again once when lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fks.clock import RealClock
from fks.config.paths import Paths
from fks.config.settings import Monitor, Settings
from fks.model.errors import InputError
from fks.model.schedules import SCHEDULE_ACTIONS
from fks.research.jobs import actions
from fks.research.jobs.actions import ACTIONS, NoParams, PersonalSchedules, checked_params
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support import scheduler_process
from tests.support.children import Child
from tests.support.ports import CollectingLog
from tests.support.waiting import until


def scheduler(db: Database, home: Path, *, epoch: int = 0, bus: Bus | None = None) -> tuple[PersonalSchedules, Any]:
    """Return the runner of a scheduler with this epoch of the role; 0: without a lease."""
    component: Any = SimpleNamespace(
        db=db,
        bus=bus,
        clock=RealClock(),
        log=CollectingLog(),
        paths=Paths.of(home).ensure(),
        settings=Settings(home=home, monitor=Monitor(ntp_server="none")),
        lease=SimpleNamespace(name="scheduler", epoch=epoch) if epoch else None,
        node=SimpleNamespace(database_url=""),
    )
    return PersonalSchedules(component), component


async def add(db: Database, name: str = "mine", *, action: str = "slow", ago: str = "10 minutes") -> None:
    await db.execute("schedules.add", name, None, 3600, action, {}, "me")
    await db.sql(
        f"UPDATE schedules SET last_run_at = now() - interval '1 hour' - interval '{ago}' WHERE name = $1", name
    )


async def own(db: Database, epoch: int) -> None:
    await db.sql(
        "INSERT INTO leases (name, epoch, holder, expires_at) VALUES ('scheduler', $1, 'x', now() + interval '1 hour')"
        " ON CONFLICT (name) DO UPDATE SET epoch = $1",
        epoch,
    )


async def runs(db: Database) -> list[tuple[Any, ...]]:
    rows = await db.sql("SELECT schedule, attempt, cause, state FROM schedule_runs ORDER BY id")
    return [tuple(row) for row in rows]


class Slow:
    """An action that ends when it may, and counts how often it was begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.may_end = asyncio.Event()
        monkeypatch.setitem(actions.ACTIONS, "slow", (NoParams, self.run))

    async def run(self, component: Any, params: Any, id: Any) -> str:
        self.begun += 1
        await self.may_end.wait()
        return "well"


async def test_a_missed_schedule_runs_once_late_and_is_recorded(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    await add(database, ago="9 hours 20 minutes")
    one, _ = scheduler(database, tmp_path)
    assert await one.run_due() == ["mine"]
    assert await one.run_due() == []
    assert await runs(database) == [("mine", 1, "late", "running")]
    slow.may_end.set()

    async def is_done() -> bool:
        await one.run_due()
        return (await runs(database))[0][3] == "done"

    await until(is_done)
    assert slow.begun == 1
    row = (await database.sql("SELECT last_result FROM schedules WHERE name = 'mine'"))[0]
    assert row["last_result"] == "well"


async def test_a_due_time_is_claimed_once(database: Database) -> None:
    """Also when the answer of a claim is lost and it is made again: an epoch has one scheduler, and it may repeat."""
    await own(database, 7)
    await add(database)
    due_at = (await database.sql("SELECT date_trunc('hour', now()) AS at"))[0]["at"]
    claims = [database.fetchval("schedules.claim_run", "mine", due_at, 1, "due", "scheduler", 7) for _ in range(5)]
    assert sum(id is not None for id in await asyncio.gather(*claims)) == 1


async def test_a_replaced_scheduler_begins_nothing_and_gives_up_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    await own(database, 8)
    await add(database)
    zombie, _ = scheduler(database, tmp_path, epoch=7)
    assert await zombie.run_due() == []
    successor, _ = scheduler(database, tmp_path, epoch=8)
    assert await successor.run_due() == ["mine"]
    assert await zombie.run_due() == []
    assert await runs(database) == [("mine", 1, "late", "running")]
    await asyncio.sleep(0)
    assert slow.begun == 1


async def test_a_run_whose_scheduler_was_killed_is_marked_and_made_again_once(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    await add(database)
    for epoch in (1, 2, 3):  # each dies in the middle of the run: nothing of it writes any more
        await own(database, epoch)
        one, component = scheduler(database, tmp_path, epoch=epoch)
        await one.run_due()
        await asyncio.sleep(0)
        one.stop()
        if epoch > 1:
            assert "schedule.lost" in component.log.events()
    assert await runs(database) == [("mine", 1, "late", "lost"), ("mine", 2, "again", "lost")]
    assert slow.begun == 2, "a run that kills its process is not tried for ever"


async def test_kill_9_in_the_middle_of_a_run_makes_it_again_once_and_then_waits(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    await add(database, action="endless")
    begun = []
    for epoch in (1, 2, 3):
        await own(database, epoch)
        process = Child(scheduler_process.main, database_url, epoch, is_read=True)
        try:
            reader = await process.reader()
            lines = [(await asyncio.wait_for(reader.readline(), 20)).decode().strip() for _ in range(5)]
        finally:
            process.kill()
            await process.ended()
        begun.append(lines.count("begun"))
    assert begun == [1, 1, 0], "a run that kills its process is not tried for ever"
    assert await runs(database) == [("mine", 1, "late", "lost"), ("mine", 2, "again", "lost")]
    await database.sql(
        "UPDATE schedules SET last_run_at = now() - interval '60 minutes 30 seconds' WHERE name = 'mine'"
    )
    await own(database, 4)
    last, _ = scheduler(database, tmp_path, epoch=4)
    await database.sql("UPDATE schedules SET task = 'retention' WHERE name = 'mine'")
    assert await last.run_due() == ["mine"], "at its next due time it runs as ever"

    async def is_done() -> bool:
        await last.run_due()
        return (await runs(database))[-1] == ("mine", 1, "due", "done")

    await until(is_done)


async def test_work_by_schedule_is_submitted_once_for_each_due_time(database: Database, tmp_path: Path) -> None:
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ('binance','BTCUSDT','BTC','USDT',0.01,0.00001,0.00001,9000,5)"
    )
    await database.sql("INSERT INTO assets (exchange, symbol) VALUES ('binance','BTCUSDT')")
    spec = {"strategy": "sma_cross", "symbol": "BTC/USDT", "space": {"fast": "2:4", "slow": "8:10"}, "cash": "5000"}
    await database.execute("schedules.add", "tuning", None, 3600, "optimize", spec, "me")
    await database.sql("UPDATE schedules SET last_run_at = now() - interval '61 minutes' WHERE name = 'tuning'")
    one, _ = scheduler(database, tmp_path)
    assert await one.run_due() == ["tuning"]

    async def jobs() -> list[Any]:
        await one.run_due()
        return list(await database.sql("SELECT id, kind, state, spec, submitted_by FROM jobs ORDER BY created_at"))

    async def are_done() -> bool:
        await one.run_due()
        return {row[3] for row in await runs(database)} == {"done"}

    (job,) = await until(jobs)
    assert (job["kind"], job["state"], job["submitted_by"]) == ("optimization", "queued", "schedule")
    assert (job["spec"]["symbol"], job["spec"]["exchange"], job["spec"]["cash"]) == ("BTCUSDT", "binance", "5000")
    assert job["spec"]["space"] == spec["space"]
    await until(are_done)
    result = (await database.sql("SELECT result FROM schedule_runs"))[0]["result"]
    assert result == f"job {job['id']}"
    due_at = (await database.sql("SELECT due_at FROM schedule_runs"))[0]["due_at"]
    await database.sql("DELETE FROM schedule_runs")  # as if nothing was known of it: the same due time again
    await database.sql(
        "UPDATE schedules SET last_run_at = $1::timestamptz - interval '1 hour' WHERE name = 'tuning'", due_at
    )
    assert await one.run_due() == ["tuning"]
    await until(are_done)
    assert [row["id"] for row in await jobs()] == [job["id"]], "the same due time is the same search"
    await database.execute(
        "schedules.add", "retraining", None, 3600, "forecast", {"name": "btc", "symbols": ["BTC/USDT"]}, "me"
    )
    await database.sql("UPDATE schedules SET last_run_at = now() - interval '61 minutes' WHERE name = 'retraining'")
    assert await one.run_due() == ["retraining"]

    async def training() -> Any:
        return next((job for job in await jobs() if job["kind"] == "forecast"), None)

    job = await until(training)
    assert (job["state"], job["submitted_by"]) == ("queued", "schedule")
    assert (job["spec"]["symbols"], job["spec"]["exchange"]) == (["BTCUSDT"], "binance")


async def test_the_end_of_a_lost_run_counts_no_more(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    await add(database)
    await own(database, 1)
    zombie, _ = scheduler(database, tmp_path, epoch=1)
    await zombie.run_due()
    await own(database, 2)
    await scheduler(database, tmp_path, epoch=2)[0].run_due()
    slow.may_end.set()
    await asyncio.sleep(0)
    await zombie.run_due()
    assert (await runs(database))[0] == ("mine", 1, "late", "lost")


async def test_a_failed_action_is_recorded_and_stops_no_other(
    database: Database, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ill(component: Any, params: Any, id: Any) -> str:
        raise ZeroDivisionError("by an action")

    monkeypatch.setitem(actions.ACTIONS, "ill", (NoParams, ill))
    await add(database, "a", action="ill")
    await add(database, "b", action="retention")
    await add(database, "c", action="deep-check")
    one, _ = scheduler(database, tmp_path, bus=bus)
    assert await one.run_due() == ["a", "b", "c"]

    async def have_ended() -> bool:
        await one.run_due()
        return "running" not in {row[3] for row in await runs(database)}

    await until(have_ended, deadline_s=30)
    assert {row[0]: row[3] for row in await runs(database)} == {"a": "failed", "b": "done", "c": "done"}


async def test_paused_ones_rest_and_a_person_may_run_them(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Slow(monkeypatch)
    await add(database)
    await database.sql("UPDATE schedules SET is_enabled = false")
    one, _ = scheduler(database, tmp_path)
    assert await one.run_due() == []
    await database.execute("schedules.request_run", "mine")
    assert await one.run_due() == ["mine"]
    assert await one.run_due() == []
    assert await runs(database) == [("mine", 1, "person", "running")]


def test_parameters_are_checked_by_action() -> None:
    for action, params in (
        ("backup", {"keep": 0}),
        ("sync", {}),
        ("drift-check", {"instance": ""}),
        ("deep-check", {"x": 1}),
        ("backtest", {"symbol": "BTCUSDT"}),
        ("optimize", {"symbol": "BTCUSDT", "strategy": "sma_cross"}),
        ("optimize", {"symbol": "BTCUSDT", "strategy": "sma_cross", "space": {}, "objectives": "luck"}),
        ("shell", {"command": "rm"}),
    ):
        with pytest.raises(InputError):
            checked_params(action, params)


def test_each_action_of_the_table_has_a_function_and_no_other_has() -> None:
    assert list(ACTIONS) == list(SCHEDULE_ACTIONS)


async def test_a_schedule_that_is_never_due_does_not_keep_the_others_from_running(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of an earlier version: the 30 February is refused today."""
    slow = Slow(monkeypatch)
    await database.execute("schedules.add", "a-never", "0 0 30 2 *", None, "slow", {}, "me")
    await add(database)
    await own(database, 1)
    personal, component = scheduler(database, tmp_path, epoch=1)
    assert await personal.run_due() == ["mine"]
    assert [kept["schedule"] for _, event, kept in component.log.lines if event == "schedule.failed"] == ["a-never"]
    slow.may_end.set()
    personal.stop()
