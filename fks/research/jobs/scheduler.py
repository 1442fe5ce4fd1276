"""Scheduler: runs due cron rows and hands durable jobs to the cluster. Missed ticks run once, late."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fks.ai.engines.port import InferenceCall
from fks.clock.waiting import wait_for_event
from fks.model.errors import InputError, OutageError
from fks.model.health import Check, failed
from fks.store.bus import BARS, JOBS
from fks.system.runtime import Component

if TYPE_CHECKING:
    from fks.config.settings import Settings
    from fks.research.jobs.actions import PersonalSchedules
    from fks.research.jobs.schedule import Schedules
    from fks.store.jobs import JobRow, JobStore

RunJob = Callable[[str, str, int], Awaitable[None]]  # FKS_HOME, the job's id, and the GPUs that it needs
EndJob = Callable[[str, Mapping[str, Any] | None], Awaitable[None]]
#: Takes the rebalancings of portfolios that are under way as far as they go now.
AdvanceRuns = Callable[[], Awaitable[int]]
SILENT_S = 30.0  # a runner that sent no heartbeat for so long is dead or hangs
END_S = 10.0  # to end the process of one that hangs
JOBS_AT_ONCE = 2
ATTEMPTS_MAX = 3


class RunnerDied(OutageError):
    """The process of a job has ended for certain, without recording an end."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Jobs that share runners: those of `kinds` (None: all), but none of `besides`; `at_once` of them run. With
    `may_wait` a long queue is no problem: a search may take a night."""

    kinds: tuple[str, ...] | None
    besides: tuple[str, ...]
    at_once: int
    may_wait: bool = False


def lanes_of(settings: Settings) -> tuple[Lane, ...]:
    """Return the lanes: a long sync of history delays no backtest, and no search, training or work on documents delays
    either."""
    searches = ("optimization", "optimization-worker")
    return (
        Lane(None, ("sync", "documents", "forecast", "predictions", *searches), JOBS_AT_ONCE),
        Lane(("sync",), (), 1),
        Lane(("documents",), (), 1),
        Lane(("forecast",), (), 1, may_wait=True),
        Lane(("predictions",), (), 1, may_wait=True),
        Lane(searches[:1], (), 1, may_wait=True),
        Lane(searches[1:], (), settings.research.places - 1, may_wait=True),
    )


class Scheduler:
    """Runs due schedules, hands queued jobs to the cluster, and carries out rebalancings.

    Hard state: schedules, jobs, runs of portfolios. Soft state: the tasks under way. Guarantees: a job is claimed by
    one runner; one whose runner died is queued again until its attempts are used up.
    """

    def __init__(
        self,
        component: Component,
        run_job: RunJob,
        end_job: EndJob | None = None,
        advance_runs: AdvanceRuns | None = None,
        inference: InferenceCall | None = None,
    ) -> None:
        """`end_job` ends the process of a job by id and by the name it gave itself (None: it never did).
        `advance_runs` is called at each look for due work; its state is in rows. `inference`: to the processes of
        models."""
        self._c = component
        self._inference = inference
        self._run_job, self._end_job, self._advance_runs = run_job, end_job, advance_runs
        self._lanes = lanes_of(component.settings)
        self._running: dict[str, tuple[Lane, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        self._is_working = True
        self._is_draining = False
        self._turned_s = component.clock.monotonic()
        self._waits_s: float | None = None
        self._is_full = False
        self._failing: Mapping[str, str] = {}
        self._personal: PersonalSchedules | None = None

    async def run(self) -> None:
        """Look for due work every second, and at each submitted job, until cancelled; a database that is away only
        delays it."""
        from fks.research.jobs.actions import PersonalSchedules
        from fks.research.jobs.schedule import Schedules
        from fks.store.jobs import JobStore

        self._personal = PersonalSchedules(self._c)
        schedules, jobs = Schedules(self._c.db, self._c.clock, self._c.settings), JobStore(self._c.db)
        self._failing = schedules.failing
        beside = [asyncio.create_task(self._listen()), asyncio.create_task(self._predict())]
        try:
            await self._work(schedules, self._personal, jobs)
        finally:
            for task in beside:
                task.cancel()

    async def _listen(self) -> None:
        async for _ in self._c.bus.subscribe(JOBS):
            self._wake.set()

    async def _predict(self) -> None:
        """Predict sealed bars with the models that are live or in shadow, as bars are published and once a second."""
        from fks.research.jobs.forecast import Forecaster
        from fks.research.jobs.predictions import ModelProcesses

        call = self._inference
        processes = None if call is None else ModelProcesses(self._c.db, call, self._c.clock)
        forecaster, counted = Forecaster(self._c.db, self._c.paths.models, self._c.log, processes), (0, 0)
        sealed = asyncio.Event()

        async def listen() -> None:
            async for _, payload in self._c.bus.subscribe(BARS):
                if (payload.get("symbol"), payload.get("timeframe")) in forecaster.reads:
                    sealed.set()

        listening = asyncio.create_task(listen())
        try:
            while True:
                sealed.clear()
                with contextlib.suppress(OutageError):  # `_work` reports it
                    await forecaster.advance()
                late, failed = forecaster.late, forecaster.failed
                self._c.meter.count("fks_forecasts_late_total", late - counted[0])
                self._c.meter.count("fks_forecasts_failed_total", failed - counted[1])
                counted = late, failed
                await wait_for_event(sealed, 1.0, self._c.clock)
        finally:
            listening.cancel()
            forecaster.close()

    async def _work(self, schedules: Schedules, personal: PersonalSchedules, jobs: JobStore) -> None:
        from fks.research.jobs.schedule import NOTHING

        while True:
            self._wake.clear()
            try:
                for name, result in await schedules.run_due():
                    if result == NOTHING:  # said each minute
                        self._c.log.debug("schedule.ran", schedule=name, result=result)
                        continue
                    if name in schedules.failing:
                        self._c.log.warning("schedule.failed", schedule=name, result=result)
                        continue
                    self._c.log.info("schedule.ran", schedule=name, result=result)
                for exchange, bars in schedules.missing_bars().items():
                    self._c.meter.gauge("fks_missing_bars", bars, exchange=exchange)
                hung = await self._end_hung(jobs)
                for id in await jobs.requeue_lost(silent_s=SILENT_S, attempts_max=ATTEMPTS_MAX, among=hung):
                    self._c.log.warning("job.requeued", job=str(id))
                if not self._is_draining:
                    await personal.run_due()
                    await schedules.start_waiting()
                    await self._swap_challengers()
                    if self._advance_runs is not None:
                        await self._advance_runs()
                await self._claim(jobs)
                self._is_working = True
            except OutageError as error:
                if self._is_working:
                    self._c.log.warning("scheduler.waits", error=str(error))
                self._is_working = False
            self._turned_s = self._c.clock.monotonic()
            await wait_for_event(self._wake, 1.0, self._c.clock)

    async def _end_hung(self, jobs: JobStore) -> list[uuid.UUID]:
        """End the processes of jobs that are silent, before they are queued again: a stopped one would keep its place,
        and a slow one would work beside its successor. Return these jobs."""
        silent = await jobs.silent(silent_s=SILENT_S)
        for job in silent:
            try:
                async with asyncio.timeout(END_S):
                    if self._end_job is not None:
                        await self._end_job(str(job.id), job.runner)
            except (OutageError, TimeoutError) as error:  # its machine is gone; its writes carry an old attempt
                self._c.log.warning("job.not_ended", job=str(job.id), error=str(error) or f"no end in {END_S:g} s")
            if known := self._running.get(str(job.id)):
                known[1].cancel()
                await asyncio.wait({known[1]})
        return [job.id for job in silent]

    async def _swap_challengers(self) -> None:
        """Swap in the challengers that wait and whose instances are flat by now."""
        from fks.store.challengers import ChallengerStore

        counts = await ChallengerStore(self._c.db).counts()
        for stage, count in counts.items():
            self._c.meter.gauge("fks_challengers", float(count), stage=stage)
        if counts["waiting"]:
            from fks.research.jobs.challenge import complete_swaps  # not needed before

            for swap in await complete_swaps(self._c.db):
                self._c.log.info(
                    "strategy.swapped", instance=swap.instance, challenger=swap.challenger, version=swap.version
                )

    async def _claim(self, jobs: JobStore) -> None:
        """Start queued jobs up to the limit of each lane; jobs of an earlier process count, and ours that are not in
        the table yet."""
        waits: list[tuple[float, bool]] = []
        depth = 0
        for lane in self._lanes:
            running, queued, waits_s = await jobs.load(lane.kinds, besides=lane.besides)
            depth += queued
            running = max(running, sum(known is lane for known, _ in self._running.values()))
            while not self._is_draining and running < lane.at_once:
                claimed = await jobs.claim(lane.kinds, besides=lane.besides)
                if claimed is None:
                    break
                running += 1
                self._launch(lane, jobs, claimed)
                await self._c.bus.publish(JOBS, {"type": "job", "id": str(claimed.id), "state": "running"})
            if waits_s is not None and not lane.may_wait:
                waits.append((waits_s, running >= lane.at_once))
        self._c.meter.gauge("fks_queue_depth", float(depth), queue="jobs")
        self._waits_s, self._is_full = max(waits, default=(None, False))

    def _launch(self, lane: Lane, jobs: JobStore, job: JobRow) -> None:
        """Start one job in the background; its end is written by the job itself, its death here or by requeue_lost."""
        job_id = str(job.id)

        async def work() -> None:
            try:
                await self._run_job(str(self._c.paths.home), job_id, gpus_of(job))
            except OutageError as error:
                self._c.log.warning("job.runner_died", job=job_id, error=str(error))
                if isinstance(error, RunnerDied):
                    with contextlib.suppress(OutageError):  # requeue_lost does it later
                        await jobs.release(job.id, job.attempts, attempts_max=ATTEMPTS_MAX)
            finally:
                self._running.pop(job_id, None)
            await self._c.bus.publish(JOBS, {"type": "job", "id": job_id, "state": "ended"})

        self._c.log.info("job.started", job=job_id)
        self._running[job_id] = lane, asyncio.create_task(work())

    async def drain(self) -> None:
        """Claim no more. Jobs that run go on where they are; one that was claimed and not begun is queued again."""
        self._is_draining = True

    async def stop(self) -> None:
        """Leave running jobs to the cluster; they end by themselves or are queued again."""
        if self._personal is not None:
            self._personal.stop()
        for _, task in self._running.values():
            task.cancel()

    @property
    def is_ready(self) -> bool:
        return self._is_working

    def problems(self) -> Sequence[Check]:
        """Return jobs that are not claimed, a loop that does not turn, and schedules that failed when they ran last."""
        limit_s, found = self._c.settings.supervision.jobs_wait_max_s, []
        if self._waits_s is not None and self._waits_s > limit_s:
            text = f"the oldest job waits for {self._waits_s:.0f} s" + (
                ": all runners are busy" if self._is_full else ""
            )
            found.append(failed("queue", text, about="jobs", is_mended_by_restart=not self._is_full))
        silent_s = self._c.clock.monotonic() - self._turned_s
        if silent_s > limit_s:
            text = f"no schedule was looked at for {silent_s:.0f} s"
            found.append(failed("loop", text, about="schedules", is_mended_by_restart=True))
        found += [failed("schedule", f"{name} {result}", about=name) for name, result in self._failing.items()]
        if not self._is_working:
            found.append(failed("database", "schedules and jobs cannot be read", about="jobs"))
        return found

    def detail(self) -> Mapping[str, object]:
        """Return how many jobs run."""
        return {"jobs_running": len(self._running)}


def gpus_of(job: JobRow) -> int:
    """Return how many GPUs a job needs. The job itself refuses a trainer that is not installed."""
    from fks.ai.forecast import BUILTIN, trainer_gpus

    if job.kind != "forecast":
        return 0
    with contextlib.suppress(InputError):
        return trainer_gpus(str(job.spec.get("trainer", BUILTIN)))
    return 0
