"""Runner of one claimed job, in its own process: it sends heartbeats and records the end once."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from fks.ai.engines.port import InferenceCall
from fks.clock import RealClock
from fks.config.credentials import without_venue_keys
from fks.config.endpoints import NodeEndpoints, load_node
from fks.config.load import load_settings
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.model.errors import FksError, InputError, OutageError, StaleEpochError
from fks.research.jobs.account import run_account_job
from fks.research.jobs.backtest import KIND as BACKTEST
from fks.research.jobs.backtest import run_job
from fks.research.jobs.optimization import KIND as OPTIMIZATION
from fks.research.jobs.optimization import WORKER
from fks.research.jobs.research_ledger import record_backtest
from fks.research.jobs.search import run_coordinator, run_helper
from fks.research.jobs.work import Cancelled, JobWork
from fks.store.db import Database
from fks.store.forecasts import ForecastStore
from fks.store.jobs import JobRow, JobStore
from fks.store.research_runs import ResearchRunStore
from fks.strategies.base import StrategyError
from fks.strategies.registry import load_builtin
from fks.system.process.confined_strategies import ConfinedCatalogue

BEAT_S = 1.0


def _backtest(spec: Mapping[str, Any], work: JobWork) -> dict[str, Any]:
    if "instruments" in spec:
        from fks.research.jobs.portfolio_backtest import run_portfolio_job  # not needed by other backtests

        return run_portfolio_job(spec, work.load_bars, work.advance)
    run_it = run_account_job if "members" in spec else run_job
    return run_it(
        spec,
        work.load_bars,
        work.advance,
        catalogue=ConfinedCatalogue(work.folder, stop=work.stop),
        limits=work.settings.risk,
    )


async def _sync(job: JobRow, work: JobWork) -> dict[str, Any]:
    from fks.market.history.sync import QuietLog
    from fks.research.jobs.sync import run_sync  # not needed by a backtest

    result = await run_sync(
        job.spec, work.db, work.settings, work.node, log=QuietLog(), clock=RealClock(), should_stop=work.stop.is_set
    )
    if work.stop.is_set():
        raise Cancelled
    return result


async def _drift(job: JobRow, work: JobWork) -> dict[str, Any]:
    from fks.research.jobs.drift import run_drift  # not needed by a backtest

    return await run_drift(
        job.spec, work.db, work.settings, ConfinedCatalogue(work.folder, stop=work.stop), now_ns=RealClock().now_ns()
    )


async def _challenge(job: JobRow, work: JobWork) -> dict[str, Any]:
    from fks.research.jobs.challenge import run_challenge  # not needed by a backtest

    catalogue = ConfinedCatalogue(work.folder, stop=work.stop)
    return await run_challenge(job.spec, work.db, work.settings, catalogue, now_ns=RealClock().now_ns())


async def _allocation(job: JobRow, work: JobWork) -> dict[str, Any]:
    from fks.research.jobs.allocation import run_allocation  # not needed by a backtest

    return await run_allocation(job.spec, work.db, job.id, by=job.submitted_by, now_ns=RealClock().now_ns())


async def _documents(job: JobRow, work: JobWork) -> dict[str, Any]:
    from fks.research.jobs.documents import run_documents, with_provider  # not needed by a backtest

    ai = work.settings.ai
    return await run_documents(work.db, with_provider(work.db, ai, work.inference), ai.provider)


async def _forecast(job: JobRow, work: JobWork) -> dict[str, Any]:
    from fks.research.jobs.forecast import run_forecast  # not needed by a backtest

    models = Paths.of(work.settings.home).models
    return await run_forecast(job.spec, work.db, models, by=job.submitted_by, advance=work.advance, gpus=work.gpus)


async def _predictions(job: JobRow, work: JobWork) -> dict[str, Any]:
    from fks.research.jobs.predictions import ModelProcesses, fill_history  # not needed by a backtest

    if work.inference is None:
        raise OutageError("the processes of models cannot be reached from here")
    version = await ForecastStore(work.db).find(str(job.spec["model"]), int(job.spec["version"]))
    return await fill_history(work.db, ModelProcesses(work.db, work.inference, RealClock()), version, work.advance)


#: kind -> its function, run in a thread of its own
KINDS: dict[str, Callable[[Mapping[str, Any], JobWork], dict[str, Any]]] = {BACKTEST: _backtest}
#: kind -> its coroutine, run on the loop: it mostly waits
WAITING_KINDS: dict[str, Callable[[JobRow, JobWork], Awaitable[dict[str, Any]]]] = {
    "sync": _sync,
    "drift": _drift,
    "challenge": _challenge,
    "documents": _documents,
    "allocation": _allocation,
    "forecast": _forecast,
    "predictions": _predictions,
    OPTIMIZATION: run_coordinator,
    WORKER: run_helper,
}


def warm() -> None:
    """Load what a backtest needs: the strategies, and the compiled engine where numba has a package."""
    from fks.research.backtest import kernel

    load_builtin()
    with contextlib.suppress(ImportError):  # then the reference engine runs, and says so
        kernel.load()
        kernel.load_orders()


def run_claimed(
    home: str,
    job_id: str,
    *,
    runner: Mapping[str, Any] | None = None,
    inference: InferenceCall | None = None,
    gpus: int = 0,
) -> None:
    """Run a job that was claimed for this process, as the node at `home` is configured, and write its end.

    `runner` names this process in the row, so that it can be ended when it hangs; `inference`: to the processes of
    models; `gpus`: reserved for this process.

    An error of the job is stored in its row. Errors: OutageError when the database stays unreachable (the row is queued
    again once its heartbeat is old).
    """
    asyncio.run(_run_here(home, uuid.UUID(job_id), runner=runner, inference=inference, gpus=gpus))


async def _run_here(home: str, job_id: uuid.UUID, **given: Any) -> None:
    settings = without_venue_keys(load_settings(home))
    paths = Paths.of(settings.home)
    node = load_node(paths, "jobs")
    db = await Database.connect(node.database_url, settings.database, application="job")
    try:
        await run_one(db, job_id, paths.strategies, settings=settings, node=node, **given)
    finally:
        await db.close()


async def run_one(
    db: Database,
    job_id: uuid.UUID,
    folder: Path,
    *,
    settings: Settings | None = None,
    node: NodeEndpoints | None = None,
    runner: Mapping[str, Any] | None = None,
    inference: InferenceCall | None = None,
    gpus: int = 0,
) -> None:
    """Run the running attempt of a job and write its end; a job that was ended or claimed meanwhile is not changed."""
    store = JobStore(db)
    job = await store.get(job_id)
    if job is None or job.state != "running":
        return
    if runner is not None:
        await store.note_runner(job, runner)
    work = JobWork(db, asyncio.get_running_loop(), folder, settings or Settings(), node, inference, gpus)
    beating = asyncio.create_task(_beat(store, job, work))
    try:
        state, result, error = await _outcome(job, work)
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
    try:
        await store.finish(job, state, result=result, error=error)
    except StaleEpochError:
        return  # another runner has it now, and records its end


async def _outcome(job: JobRow, work: JobWork) -> tuple[str, dict[str, Any] | None, str | None]:
    try:
        if job.kind in WAITING_KINDS:
            return "done", await WAITING_KINDS[job.kind](job, work), None
        kind = KINDS.get(job.kind)
        if kind is None:
            raise InputError(f"unknown kind of job {job.kind!r}", remedy=f"known: {' '.join([*KINDS, *WAITING_KINDS])}")
        document = await asyncio.to_thread(kind, job.spec, work)
        if not {"members", "instruments"} & {*job.spec}:  # else its trades are not of one series
            document = await record_backtest(ResearchRunStore(work.db), document)
        return "done", document, None
    except Cancelled:
        return "cancelled", None, None
    except OutageError:
        raise
    except FksError as error:
        if isinstance(error, StrategyError) and work.stop.is_set():
            return "cancelled", None, None  # its code was stopped
        return "failed", None, str(error)
    except Exception as error:  # a strategy's own code may raise anything; the row has the error
        return "failed", None, f"{type(error).__name__}: {error}"


async def _beat(store: JobStore, job: JobRow, work: JobWork) -> None:
    """Send a heartbeat every second; stop the job when it is cancelled or given to another runner."""
    while True:
        try:
            if await store.beat(job, work.share):
                work.stop.set()
        except StaleEpochError:
            work.stop.set()
            return
        except OutageError:
            pass  # the next heartbeat tries again; after too long without one the job goes to another runner
        await asyncio.sleep(BEAT_S)
