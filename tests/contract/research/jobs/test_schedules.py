"""Schedules over a real database: due tasks run; a failure is recorded and stops no other task."""

from __future__ import annotations

import pytest

from fks.clock import Clock, RealClock
from fks.config.settings import Settings
from fks.research.jobs import schedule
from fks.research.jobs.schedule import Schedules, TaskServices
from fks.store.db import Database
from fks.store.documents import DocumentStore, shipped_pages


async def test_a_cron_that_is_none_and_a_task_that_fails_stop_no_other(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []

    async def well(context: TaskServices) -> str:
        runs.append("well")
        return "done"

    async def ill(context: TaskServices) -> str:
        runs.append("ill")
        raise ZeroDivisionError("by a task")

    monkeypatch.setattr(
        schedule, "TASKS", {"a-ill": ("* * * * *", ill), "b-cron": ("* * * * *", well), "c-well": ("* * * * *", well)}
    )
    schedules = Schedules(database, clock, Settings())
    first = dict(await schedules.run_due())
    assert first["c-well"] == "done"
    assert "ZeroDivisionError" in first["a-ill"]
    assert list(schedules.failing) == ["a-ill"]
    await database.sql("UPDATE schedules SET cron = 'every now and then' WHERE name = 'b-cron'")
    second = dict(await schedules.run_due())
    assert list(second) == ["b-cron"]  # the others ran in this minute
    assert "failed" in second["b-cron"]
    assert await schedules.run_due() == []  # said once
    rows = await database.sql("SELECT name, last_result FROM schedules ORDER BY name")
    assert [row["last_result"].split(":")[0] for row in rows] == ["failed", "failed", "done"]
    assert runs.count("ill") == 1
    assert list(schedules.failing) == ["a-ill", "b-cron"]
    monkeypatch.setitem(schedule.TASKS, "a-ill", ("* * * * *", well))
    await database.sql("UPDATE schedules SET last_run_at = NULL WHERE name = 'a-ill'")
    await database.sql("UPDATE schedules SET is_enabled = false WHERE name = 'b-cron'")
    assert dict(await schedules.run_due()) == {"a-ill": "done"}
    assert dict(schedules.failing) == {}


async def test_pages_are_stored_by_the_scheduler_itself_and_embedded_by_a_job(database: Database) -> None:
    schedules = Schedules(database, RealClock(), Settings())
    ran = dict(await schedules.run_due())
    assert ran["documents"].startswith(f"{len(shipped_pages())} pages changed, job ")
    assert schedules.failing == {}
    answer = (await DocumentStore(database).passages("how do I stop trading?")).shown()
    assert (answer["state"], answer["search"]) == ("answered", "lexical")
    rows = await database.sql("SELECT kind, state FROM jobs")
    assert [tuple(row) for row in rows] == [("documents", "queued")]
