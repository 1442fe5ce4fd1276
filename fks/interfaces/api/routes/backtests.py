"""Backtests as durable jobs: submitted, watched, read, cancelled."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import Request
from pydantic import Field
from starlette.responses import Response

from fks.interfaces.api.conditional import conditional
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.jobs import Again, JobState, Key, Priority, SeriesBody, cancel_job, plain, submit_once, view
from fks.interfaces.api.query import Gate, JsonObject, Limit, Reader, Signaller
from fks.interfaces.api.routing import Router, takes
from fks.interfaces.api.views import JobView, Page
from fks.model.errors import not_found
from fks.store.jobs import JobStore

router = Router(tags=["backtests"])
KIND = "backtest"


class BacktestBody(SeriesBody):
    """Specification of a backtest, for OpenAPI; `fks.research.jobs.backtest.BacktestSpec` checks it."""

    strategy: str | None = Field(None, description="needed without members and instruments")
    members: list[dict[str, Any]] | None = Field(
        None, description="of an account: bodies of this form, each with a name; what is given outside is their default"
    )
    risk: dict[str, Any] | None = Field(None, description="with members: settings of [risk] that are other here")
    instruments: list[dict[str, Any]] | None = Field(
        None,
        description="of a portfolio that is rebalanced: tables of symbol, exchange, weight, min, max",
    )
    rules: dict[str, Any] | None = Field(None, description="with instruments: limits of a rebalancing")
    trigger: dict[str, Any] | None = Field(
        None, description="with instruments: trigger (drift or schedule), band, timeframe, cooldown_s, cron, calendar"
    )
    allocation: dict[str, Any] | None = Field(
        None, description="with instruments: the body of POST /portfolios/{id}/allocate, with a cron"
    )
    symbol: str | None = Field(None, description="needed without members; BTCUSDT, BTC/USDT or BTC-USDT")
    from_: str | None = Field(None, alias="from", description="first decided bar, ISO 8601; default all that is stored")
    limits: bool = Field(False, description="hold entries to the [risk] limits of the node")
    limits_currency: str | None = Field(
        None,
        description="the account's currency, in which these limits are: converted at the last stored close before the "
        "first bar; default the quote currency",
    )


@router.post("/backtests", status_code=202, openapi_extra=takes(BacktestBody))
async def submit(
    gate: Gate, caller: Signaller, body: JsonObject, key: Key = None, again: Again = False, priority: Priority = 0
) -> ExactJson:
    """Queue a backtest and return its id. Strategy, parameters, symbol and dates are checked now, not in the queue. The
    same one on the same data was done before: its job is returned, with `is_stored`."""
    spec, fingerprint = await _spec(gate, body)
    job_id, is_stored = await submit_once(
        gate, caller, KIND, spec, fingerprint=fingerprint, key=key, again=again, priority=priority
    )
    found = {**await _view(JobStore(gate.db), job_id), "is_stored": is_stored}
    return ExactJson(found, status_code=202, headers={"Location": f"/backtests/{job_id}"})


@router.get("/backtests", response_model=Page[JobView])
async def backtests(gate: Gate, caller: Reader, state: JobState = None, limit: Limit = 50) -> ExactJson:
    """List backtests, newest first, without their results."""
    found = await JobStore(gate.db).list(kind=KIND, state=state, limit=limit)
    return ExactJson({"items": [view(job) for job in found], "next": None})


@router.get("/backtests/{id}", response_model=JobView)
async def backtest(gate: Gate, caller: Reader, request: Request, id: uuid.UUID) -> Response:
    """Return one backtest: its state, its progress, and when it is done its result."""
    return conditional(request, ExactJson(await _view(JobStore(gate.db), id)))


@router.delete("/backtests/{id}", status_code=202)
async def cancel(gate: Gate, caller: Signaller, id: uuid.UUID) -> ExactJson:
    """End a queued backtest; ask a running one to end. Harmless once it has ended."""
    store = JobStore(gate.db)
    await _view(store, id)  # 404 for one that is not there
    await cancel_job(gate, id)
    return ExactJson(await _view(store, id), status_code=202)


async def _spec(gate: Replica, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the job's spec, checked, and its fingerprint. Errors: InputError naming what is wrong."""
    is_whole = "members" in body or "instruments" in body
    wanted = dict(plain(body)) if is_whole else {**body, "params": plain(body.get("params", {}))}
    found = await gate.user_code.run(KIND, body=wanted)
    return found["spec"], found["fingerprint"]


async def _view(store: JobStore, id: uuid.UUID) -> dict[str, Any]:
    job = await store.get(id)
    if job is None or job.kind != KIND:
        raise not_found("BACKTEST_UNKNOWN", f"there is no backtest {id}", "see GET /backtests")
    return view(job)
