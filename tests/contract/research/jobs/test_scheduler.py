"""The scheduler's actor on real PostgreSQL: its state after a drain, and its self-checks."""

from __future__ import annotations

import asyncio
import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from actors.scheduler import SchedulerActor
from fks.clock import Clock, FakeClock, RealClock
from fks.config.paths import Paths
from fks.config.settings import Research, Settings, Supervision
from fks.model.errors import OutageError
from fks.research.jobs import schedule
from fks.research.jobs.schedule import TaskServices
from fks.research.jobs.scheduler import JOBS_AT_ONCE, RunnerDied
from fks.store.bus import JOBS, Bus
from fks.store.db import Database
from fks.store.jobs import JobStore
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the job that stores FKS's pages at the first start: the tests count jobs."""
    monkeypatch.delitem(schedule.TASKS, "documents")


class Cluster:
    """Runs jobs until they are asked to end; like Ray's, a job goes on when its caller no longer waits."""

    def __init__(self, db: Database) -> None:
        self.begun: list[str] = []
        self.may_end = asyncio.Event()
        self._store = JobStore(db)
        self._tasks: list[asyncio.Task[None]] = []

    async def run_job(self, home: str, job_id: str, gpus: int) -> None:
        self.begun.append(job_id)
        self._tasks.append(asyncio.create_task(self._work(job_id)))
        await asyncio.shield(self._tasks[-1])

    async def _work(self, job_id: str) -> None:
        await self.may_end.wait()
        job = await self._store.get(uuid.UUID(job_id))
        assert job is not None
        await self._store.finish(job, "done", result={})


def scheduler(
    db: Database,
    bus: Bus,
    cluster: Any,
    *,
    jobs_wait_max_s: float = 60.0,
    slots: int = 2,
    log: CollectingLog | None = None,
    clock: Clock | None = None,
    end_job: Any = None,
) -> SchedulerActor:
    settings = Settings(supervision=Supervision(jobs_wait_max_s=jobs_wait_max_s), research=Research(slots=slots))
    component: Any = SimpleNamespace(
        db=db,
        bus=bus,
        clock=clock or RealClock(),
        settings=settings,
        log=log or CollectingLog(),
        meter=RecordingMeter(),
        paths=Paths.of("/nowhere"),
        lease=None,
    )
    return SchedulerActor(component, (), run_job=cluster.run_job, end_job=end_job)


async def test_start_and_end_of_a_job_are_published(database: Database, bus: Bus) -> None:
    cluster, seen = Cluster(database), list[Any]()
    cluster.may_end.set()

    async def listen() -> None:
        async for _, message in bus.subscribe(JOBS):
            seen.append(message)

    listening = asyncio.create_task(listen())

    async def is_heard() -> bool:
        await bus.publish(JOBS, {"type": "echo"})
        return bool(seen)

    await until(is_heard)
    id = str(await JobStore(database).submit("backtest", {}))
    run = asyncio.create_task(scheduler(database, bus, cluster).run())
    await until(lambda: any(message.get("state") == "ended" for message in seen))
    run.cancel()
    listening.cancel()
    await asyncio.gather(run, listening, return_exceptions=True)
    jobs = [message for message in seen if message["type"] == "job"]
    assert jobs == [{"type": "job", "id": id, "state": state} for state in ("running", "ended")]


async def test_drained_scheduler_claims_no_more_and_its_jobs_finish_once(database: Database, bus: Bus) -> None:
    store, cluster = JobStore(database), Cluster(database)
    for number in range(5):
        await store.submit("backtest", {"n": number})
    one = scheduler(database, bus, cluster)
    run = asyncio.create_task(one.run())
    await until(lambda: len(cluster.begun) == JOBS_AT_ONCE)
    await one.drain()
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    await one.stop()
    assert len(await store.list(state="queued")) == 5 - JOBS_AT_ONCE
    two = scheduler(database, bus, cluster, jobs_wait_max_s=0.001)
    run = asyncio.create_task(two.run())
    await until(lambda: [problem for problem in two.problems() if problem.about == "jobs"])
    assert len(cluster.begun) == JOBS_AT_ONCE, "there is room only when one of the first has ended"
    cluster.may_end.set()

    async def all_done() -> bool:
        return len(await store.list(state="done")) == 5

    await until(all_done)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    assert sorted(cluster.begun) == sorted(set(cluster.begun)), "a job ran twice"
    assert {job.attempts for job in await store.list()} == {1}


async def test_a_published_job_begins_at_once(database: Database, bus: Bus) -> None:
    """The clock stands still: the look of every second never comes."""
    store, cluster = JobStore(database), Cluster(database)
    run = asyncio.create_task(scheduler(database, bus, cluster, clock=FakeClock()).run())
    cluster.may_end.set()
    for _ in range(3):
        id = str(await store.submit("backtest", {}))

        async def has_begun(id: str = id) -> bool:
            await bus.publish(JOBS, {"type": "job", "id": id})  # again: the first may come before it listens
            return id in cluster.begun

        await until(has_begun)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def test_unclaimed_jobs_are_a_problem(database: Database, bus: Bus) -> None:
    store, cluster = JobStore(database), Cluster(database)
    one = scheduler(database, bus, cluster, jobs_wait_max_s=0.3)
    for number in range(JOBS_AT_ONCE + 1):
        await store.submit("backtest", {"n": number})
    run = asyncio.create_task(one.run())
    found = await until(lambda: [p for p in one.problems() if p.about == "jobs"])
    assert [(p.name, p.is_mended_by_restart) for p in found] == [("queue", False)]  # its runners are busy
    cluster.may_end.set()
    await until(lambda: not [p for p in one.problems() if p.about == "jobs"])
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def test_failing_schedule_is_logged_and_a_problem_until_it_runs(
    database: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ill(context: TaskServices) -> str:
        raise ZeroDivisionError("by a task")

    async def well(context: TaskServices) -> str:
        return "done"

    monkeypatch.setattr(schedule, "TASKS", {"ill": ("* * * * *", ill)})
    log = CollectingLog()
    one = scheduler(database, bus, Cluster(database), log=log)
    run = asyncio.create_task(one.run())
    found = await until(lambda: one.problems(), deadline_s=30)
    assert [(p.name, p.about, p.is_mended_by_restart) for p in found] == [("schedule", "ill", False)]
    assert found[0].detail == "ill failed: ZeroDivisionError: by a task"
    await until(lambda: "schedule.failed" in log.events(), deadline_s=30)
    assert {level for level, event, _ in log.lines if event == "schedule.failed"} == {"warning"}
    monkeypatch.setitem(schedule.TASKS, "ill", ("* * * * *", well))

    async def is_mended() -> bool:
        await database.sql("UPDATE schedules SET last_run_at = NULL")
        return not one.problems()

    await until(is_mended, deadline_s=30)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def test_searches_take_their_places_only_and_delay_no_backtest(database: Database, bus: Bus) -> None:
    store, cluster = JobStore(database), Cluster(database)
    for kind in ("optimization", "optimization-worker"):
        for _ in range(9):
            await store.submit(kind, {}, priority=5)
    await database.sql("UPDATE jobs SET created_at = now() - interval '1 hour'")
    one = scheduler(database, bus, cluster, slots=4)
    run = asyncio.create_task(one.run())
    await until(lambda: len(cluster.begun) == 4)
    backtest = str(await store.submit("backtest", {}))
    await until(lambda: backtest in cluster.begun)
    running = [job.kind for job in await store.list(state="running")]
    assert (running.count("optimization"), running.count("optimization-worker")) == (1, 3)
    assert not [p for p in one.problems() if p.about == "jobs"], "a search that waits is no problem"
    cluster.may_end.set()
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


class Deadly:
    """A cluster whose first runner dies."""

    def __init__(self, db: Database) -> None:
        self.attempts: list[int] = []
        self._store = JobStore(db)

    async def run_job(self, home: str, job_id: str, gpus: int) -> None:
        job = await self._store.get(uuid.UUID(job_id))
        assert job is not None
        self.attempts.append(job.attempts)
        if job.attempts == 1:
            raise RunnerDied("killed")
        await self._store.finish(job, "done", result={})


async def test_a_job_whose_process_is_proven_gone_is_queued_again_at_once(database: Database, bus: Bus) -> None:
    store, cluster = JobStore(database), Deadly(database)
    id = await store.submit("backtest", {})
    run = asyncio.create_task(scheduler(database, bus, cluster).run())

    async def is_done() -> bool:
        job = await store.get(id)
        return job is not None and job.state == "done"

    await until(is_done, deadline_s=10)  # by the heartbeat it would take 30 s
    assert cluster.attempts == [1, 2]
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


class Hung(Cluster):
    """The process of the first attempt hangs, with no heartbeat, until it is ended."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.ended: list[tuple[str, Any]] = []
        self.living = 0
        self.most = 0

    async def run_job(self, home: str, job_id: str, gpus: int) -> None:
        self.living += 1
        self.most = max(self.most, self.living)
        self.begun.append(job_id)
        job = await self._store.get(uuid.UUID(job_id))
        assert job is not None
        if len(self.begun) == 1:
            await self._store.note_runner(job, {"actor": "job:x", "pid": 7, "space": "s"})
            await asyncio.Event().wait()
        await self._store.finish(job, "done", result={})
        self.living -= 1

    async def end_job(self, job_id: str, runner: Any) -> None:
        self.ended.append((job_id, runner))
        self.living -= 1


async def test_process_of_a_hung_job_is_ended_before_its_next_attempt(database: Database, bus: Bus) -> None:
    store, cluster = JobStore(database), Hung(database)
    id = str(await store.submit("backtest", {}))
    run = asyncio.create_task(scheduler(database, bus, cluster, end_job=cluster.end_job).run())

    async def is_named() -> bool:
        rows = await database.sql("SELECT runner FROM jobs WHERE runner IS NOT NULL")
        return bool(rows)

    await until(is_named)
    await database.sql("UPDATE jobs SET beat_at = now() - interval '31 s'")

    async def is_done() -> bool:
        job = await store.get(uuid.UUID(id))
        return job is not None and job.state == "done"

    await until(is_done)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    assert cluster.ended == [(id, {"actor": "job:x", "pid": 7, "space": "s"})]
    assert (cluster.begun, cluster.most) == ([id, id], 1), "two processes worked on one job"


async def test_a_job_that_falls_silent_in_between_is_ended_before_it_is_queued(
    database: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look for silent jobs and the statement that queues them again, another one falls silent."""
    store, cluster, look = JobStore(database), Hung(database), JobStore.silent
    id = str(await store.submit("backtest", {}))

    async def look_too_early(store: JobStore, *, silent_s: float) -> Any:
        found = await look(store, silent_s=silent_s)
        if cluster.begun == [id]:
            await database.sql("UPDATE jobs SET beat_at = now() - interval '31 s' WHERE runner IS NOT NULL")
        return found

    monkeypatch.setattr(JobStore, "silent", look_too_early)
    run = asyncio.create_task(scheduler(database, bus, cluster, end_job=cluster.end_job).run())
    await until(lambda: cluster.begun == [id, id])
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    assert cluster.ended == [(id, {"actor": "job:x", "pid": 7, "space": "s"})]
    assert cluster.most == 1, "two processes worked on one job"


async def test_job_whose_process_cannot_be_ended_is_queued_all_the_same(database: Database, bus: Bus) -> None:
    async def away(job_id: str, runner: Any) -> None:
        raise OutageError("its machine is gone")

    store, cluster, log = JobStore(database), Hung(database), CollectingLog()
    id = str(await store.submit("backtest", {}))
    run = asyncio.create_task(scheduler(database, bus, cluster, end_job=away, log=log).run())
    await until(lambda: cluster.begun == [id])
    await database.sql("UPDATE jobs SET beat_at = now() - interval '31 s'")
    await until(lambda: cluster.begun == [id, id])
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    assert "job.not_ended" in log.events()
