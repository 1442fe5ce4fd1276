"""Search of parameters over many processes: one coordinator proposes trials as rows, any number of workers run them.

The coordinator (kind `optimization`) is a worker too, so a search ends with or without helpers
(kind `optimization-worker`). Both may die at any moment: the driver is deterministic in the results, so a new
coordinator proposes the same trials, finds most of them ended, and goes on. The Optuna study is therefore not stored:
it is made again from the rows by Optuna's ask and tell, which costs some milliseconds a trial, and there is one record
of a trial instead of two that could differ.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from fks.config.settings import Settings
from fks.model.errors import BugError, OutageError
from fks.research.jobs.backtest import BarsRequest, LoadedBars, joined
from fks.research.jobs.bars import load_stored
from fks.research.jobs.optimization import (
    WORKER,
    OptimizationSpec,
    check_strategy_of,
    document_of_search,
    parse_optimization,
    result_of,
    searched,
    task_for,
    trial_of,
)
from fks.research.jobs.research_ledger import record_search
from fks.research.jobs.work import Cancelled, JobWork
from fks.research.search import Proposal, Search, SearchTask, evaluate
from fks.store.columns import ColumnCache
from fks.store.jobs import JobRow, JobStore
from fks.store.research_runs import ResearchRunStore
from fks.store.trials import TrialRow, TrialStore
from fks.system.process.confined_strategies import ConfinedCatalogue

T = TypeVar("T")
AHEAD = 1024  # trials of an unguided plan that are rows before they are run: work for every helper
CHUNK_S = 0.5  # length of the work that a runner claims at once, and loses when it dies
CHUNK_MAX = 64
LOOK_S = 0.1  # between two looks for results of others
IDLE_S = 60.0  # a helper without work for so long ends: its search waits for a coordinator
OUTAGE_S = 600.0  # how long the database may be away before a runner gives up; its rows wait


async def run_coordinator(job: JobRow, work: JobWork) -> dict[str, Any]:
    """Run a search to its end and return its document. Errors: InputError; OutageError; Cancelled."""
    spec = parse_optimization(job.spec)
    task, source = await _task(spec, work)
    store = TrialStore(work.db, job.id)
    driver = Search(task)
    awaited: dict[tuple[int, int], Proposal] = {}
    runner = _Runner(task, store, job, work)
    is_first = True
    while True:
        _check(work)
        while not driver.is_done and len(awaited) < AHEAD:
            asked = driver.ask()
            if not asked:
                break
            if is_first:
                is_first = False
                await asyncio.to_thread(check_strategy_of, task, asked[0][1].params)
                await _persist(lambda: _summon(job, spec, work), work)
            rows = [TrialRow(fold, one.number, one.params, one.prune_below) for fold, one in asked]
            await _persist(partial(store.add, rows), work)
            awaited |= {(fold, one.number): one for fold, one in asked}
        if not awaited:
            break
        ended = await _persist(partial(store.ended, list(awaited)), work)
        for row in ended:
            proposal = awaited.pop((row.fold, row.number))
            if dict(row.params) != dict(proposal.params):
                raise BugError(f"trial {row.fold}/{row.number} is {row.params} in its row, and {proposal.params} here")
            driver.record(trial_of(row.fold, row.number, row.params, row.state, row.result or {}))
        work.advance(0.98 * driver.done / max(driver.total, 1))
        if await runner.turn() or ended:
            continue
        await _persist(store.requeue_lost, work)
        await asyncio.sleep(LOOK_S)
    _check(work)
    document = await asyncio.to_thread(document_of_search, driver, source=source)
    return await _persist(lambda: record_search(ResearchRunStore(work.db), document), work)


async def run_helper(job: JobRow, work: JobWork) -> dict[str, Any]:
    """Run trials of a search until it has ended. Errors: InputError; OutageError; Cancelled."""
    search_id = uuid.UUID(str(job.spec["optimization"]))
    jobs = JobStore(work.db)
    parent = await _persist(lambda: jobs.get(search_id), work)
    if parent is None or parent.is_ended:
        return {"trials": 0}
    task, _ = await _task(parse_optimization(parent.spec), work)
    runner = _Runner(task, TrialStore(work.db, search_id), job, work)
    looked_s = worked_s = time.monotonic()
    while True:
        _check(work)
        if await runner.turn():
            worked_s = time.monotonic()
        else:
            await asyncio.sleep(LOOK_S)
        now_s = time.monotonic()
        if now_s - worked_s > IDLE_S:
            break
        if now_s - looked_s > 1.0:
            looked_s = now_s
            parent = await _persist(lambda: jobs.get(search_id), work)
            if parent is None or parent.is_ended or parent.is_cancel_requested:
                break
    return {"trials": runner.ran}


class _Runner:
    """Claims trials and runs them in a thread, so that the heartbeat goes on."""

    def __init__(self, task: SearchTask, store: TrialStore, job: JobRow, work: JobWork) -> None:
        self._task, self._store, self._job, self._work = task, store, job, work
        self._each_s = CHUNK_S
        self.ran = 0

    async def turn(self) -> bool:
        """Run one chunk of trials; return whether there was one."""
        limit = max(1, min(CHUNK_MAX, int(CHUNK_S / max(self._each_s, 1e-6))))
        me = self._job.id, self._job.attempts
        rows = await _persist(lambda: self._store.claim(*me, limit), self._work)
        if not rows:
            return False
        began_s = time.monotonic()
        ended = await asyncio.to_thread(self._run, rows)
        if ended:
            await _persist(lambda: self._store.finish(*me, ended), self._work)
            self._each_s = (time.monotonic() - began_s) / len(ended)
            self.ran += len(ended)
        _check(self._work)
        return True

    def _run(self, rows: list[TrialRow]) -> list[TrialRow]:
        ended = []
        for row in rows:
            if self._work.stop.is_set():
                break
            proposal = Proposal(row.number, row.params, tuple(row.prune_below))
            trial = evaluate(self._task, row.fold, proposal)
            ended.append(TrialRow(row.fold, row.number, row.params, state=trial.state, result=result_of(trial)))
        return ended


def _check(work: JobWork) -> None:
    if work.stop.is_set():
        raise Cancelled


async def _task(spec: OptimizationSpec, work: JobWork) -> tuple[SearchTask, str]:
    columns = None if work.node is None else ColumnCache.of(work.db, work.settings)
    catalogue = ConfinedCatalogue(work.folder, stop=work.stop)

    async def load(wanted: BarsRequest) -> LoadedBars:
        return await _persist(lambda: load_stored(work.db, wanted, columns), work)

    space = searched(spec, catalogue)
    request = spec.request(space)
    others = {symbol: await load(replace(request, symbol=symbol, features=())) for symbol in space.inputs()}
    loaded = joined(await load(request), others)

    def make() -> SearchTask:
        return task_for(spec, loaded, catalogue, work.settings.risk)

    return await asyncio.to_thread(make), loaded.source


async def _summon(job: JobRow, spec: OptimizationSpec, work: JobWork) -> None:
    """Queue helpers; each is claimed when there is capacity for it, and ends when there is nothing left to run."""
    jobs = JobStore(work.db)
    for number in range(helpers_of(spec, work.settings)):
        await jobs.submit(
            WORKER,
            {"optimization": str(job.id)},
            submitted_by=job.submitted_by,
            job_id=uuid.uuid5(job.id, f"{job.attempts}:{number}"),
            priority=job.priority,
        )


def helpers_of(spec: OptimizationSpec, settings: Settings) -> int:
    """Return how many processes besides the coordinator a search asks for."""
    return min(spec.workers or settings.research.places, settings.research.places) - 1


async def _persist(call: Callable[[], Awaitable[T]], work: JobWork) -> T:
    """Return what `call` returns, again and again while the database is away. Errors: OutageError after a while;
    Cancelled."""
    until_s = time.monotonic() + OUTAGE_S
    while True:
        try:
            return await call()
        except OutageError:
            _check(work)
            if time.monotonic() > until_s:
                raise
            await asyncio.sleep(0.5)
