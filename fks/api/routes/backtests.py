"""Backtests as durable jobs: submitted, watched, read, cancelled."""

from __future__ import annotations

import asyncio
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query
from pydantic import Field

from fks.api.exact import ExactJson
from fks.api.gateway import Gateway
from fks.api.problems import Problem
from fks.api.query import Body, Exact, Gate, Limit, Reader, Signaller, body_of, moment, takes
from fks.model import ids
from fks.model.timeframe import check_timeframe, iso
from fks.store.jobs import Job, JobStore

router = APIRouter(tags=["backtests"])
KIND = "backtest"
JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class BacktestBody(Body):
    """What to run: as `fks backtest run` takes it. Without from or to: all that is stored."""

    strategy: str = Field(min_length=1, max_length=128)
    symbol: str = Field(min_length=1, max_length=64)
    timeframe: str = "1m"
    from_: str | None = Field(None, alias="from")
    to: str | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    sizing: Literal["notional", "quantity"] = "notional"
    size: Annotated[Exact, Field(gt=0)] | None = None
    allow_gaps: bool = False


@router.post("/backtests", status_code=202, openapi_extra=takes(BacktestBody))
async def submit(
    gate: Gate,
    who: Signaller,
    body: Annotated[BacktestBody, Depends(body_of(BacktestBody))],
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)] = None,
) -> ExactJson:
    """Queue a backtest and return its id. Strategy, parameters, symbol and dates are checked now, not in the queue."""
    spec = await _spec(gate, body)
    job_id = ids.request_signal_id(f"backtest:{who.name}", key) if key else uuid.uuid4()
    store = JobStore(gate.db)
    await store.submit(KIND, spec, submitted_by=who.name, job_id=job_id)
    return ExactJson(await _view(store, job_id), status_code=202, headers={"Location": f"/backtests/{job_id}"})


@router.get("/backtests")
async def backtests(
    gate: Gate, who: Reader, state: Annotated[JobState | None, Query()] = None, limit: Limit = 50
) -> ExactJson:
    """List backtests, newest first, without their results."""
    found = await JobStore(gate.db).list(kind=KIND, state=state, limit=limit)
    return ExactJson({"items": [view(job) for job in found], "next": None})


@router.get("/backtests/{id}")
async def backtest(gate: Gate, who: Reader, id: uuid.UUID) -> ExactJson:
    """Return one backtest: its state, its progress, and when it is done its result."""
    return ExactJson(await _view(JobStore(gate.db), id))


@router.delete("/backtests/{id}", status_code=202)
async def cancel(gate: Gate, who: Signaller, id: uuid.UUID) -> ExactJson:
    """End a queued backtest; ask a running one to end. Harmless once it has ended."""
    store = JobStore(gate.db)
    await _view(store, id)  # 404 for one that is not there
    await store.cancel(id)
    return ExactJson(await _view(store, id), status_code=202)


async def _spec(gate: Gateway, body: BacktestBody) -> dict[str, Any]:
    """Return the job's spec, checked. Errors: InputError naming what is wrong."""
    check_timeframe(body.timeframe)
    item = await gate.instrument(body.symbol)
    start, end = moment(body.from_, "from"), moment(body.to, "to")
    if start and end and start >= end:
        raise Problem(422, "INVALID", "from: is not before to", remedy="swap them")
    await asyncio.to_thread(_check_strategy, gate, body)
    spec: dict[str, Any] = {
        "strategy": body.strategy, "params": body.params, "symbol": item.symbol, "exchange": item.exchange,
        "timeframe": body.timeframe, "from": body.from_, "to": body.to, "allow_gaps": body.allow_gaps,
    }  # fmt: skip
    if body.size is not None:
        spec |= {"sizing": body.sizing, "size": str(body.size)}
    return spec


def _check_strategy(gate: Gateway, body: BacktestBody) -> None:
    from fks.strategies.registry import load_catalogue

    load_catalogue(gate.deps.paths.strategies).make(body.strategy, body.params)


async def _view(store: JobStore, id: uuid.UUID) -> dict[str, Any]:
    job = await store.get(id)
    if job is None or job.kind != KIND:
        raise Problem(404, "BACKTEST_UNKNOWN", f"there is no backtest {id}", remedy="see GET /backtests")
    return view(job)


def view(job: Job) -> dict[str, Any]:
    """Return a job as the API shows it."""
    return {
        "id": job.id, "state": job.state, "progress": job.progress, "spec": job.spec, "result": job.result,
        "error": job.error, "submitted_by": job.submitted_by, "attempts": job.attempts,
        "is_cancel_requested": job.is_cancel_requested, "created_at": iso(job.created_ns),
        "started_at": None if job.started_ns is None else iso(job.started_ns),
        "finished_at": None if job.finished_ns is None else iso(job.finished_ns),
    }  # fmt: skip
