"""The scheduler's actor: cron rows and durable jobs. It holds nothing; missed ticks run once, late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from fks.model.errors import OutageError
from fks.monitor.component import Component

RunJob = Callable[[str, str], Awaitable[None]]
JOBS_AT_ONCE = 2


class SchedulerActor:
    """Runs due schedules and hands queued jobs to the cluster.

    Hard state: schedules, jobs. Soft state: the tasks under way. Guarantees: a job is claimed by one runner; one whose
    runner died is queued again until its attempts are used up.
    """

    def __init__(self, component: Component, args: tuple[str, ...], *, run_job: RunJob) -> None:
        self._c = component
        self._run_job = run_job
        self._running: dict[str, asyncio.Task[None]] = {}
        self._is_working = True

    async def start(self) -> None:
        """Nothing to open."""

    async def run(self) -> None:
        """Look for due work every second until cancelled; a database that is away only delays it."""
        from fks.jobs.schedule import Schedules
        from fks.store.jobs import JobStore

        schedules, jobs = Schedules(self._c.db, self._c.clock, self._c.settings), JobStore(self._c.db)
        while True:
            try:
                for name, result in await schedules.run_due():
                    self._c.log.info("schedule.ran", schedule=name, result=result)
                for id in await jobs.requeue_lost(silent_s=30.0, attempts_max=3):
                    self._c.log.warning("job.requeued", job=str(id))
                while len(self._running) < JOBS_AT_ONCE and (claimed := await jobs.claim()) is not None:
                    self._launch(str(claimed.id))
                self._is_working = True
            except OutageError as error:
                if self._is_working:
                    self._c.log.warning("scheduler.waits", error=str(error))
                self._is_working = False
            await self._c.clock.sleep(1.0)

    def _launch(self, job_id: str) -> None:
        """Start one job in the background; its end is written by the job itself, its death by requeue_lost."""

        async def work() -> None:
            try:
                await self._run_job(str(self._c.paths.home), job_id)
            except OutageError as error:
                self._c.log.warning("job.runner_died", job=job_id, error=str(error))
            finally:
                self._running.pop(job_id, None)

        self._c.log.info("job.started", job=job_id)
        self._running[job_id] = asyncio.create_task(work())

    async def stop(self) -> None:
        """Leave running jobs to the cluster; they end by themselves or are queued again."""
        for task in self._running.values():
            task.cancel()

    @property
    def is_ready(self) -> bool:
        return self._is_working

    def detail(self) -> Mapping[str, object]:
        """Return how many jobs run."""
        return {"jobs_running": len(self._running)}
