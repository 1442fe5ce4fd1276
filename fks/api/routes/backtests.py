"""Backtests as durable jobs: submitted, watched, read, cancelled."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from pydantic import Field
from starlette.responses import Response

from fks.api.conditional import conditional
from fks.api.exact import ExactJson
from fks.api.gateway import Replica
from fks.api.jobs import Again, Key, Priority, cancel_job, plain, submit_once, view
from fks.api.query import Body, Gate, JsonObject, Limit, Reader, Signaller, takes
from fks.api.routing import Router
from fks.api.views import JobView, Page
from fks.model.errors import Problem
from fks.model.untrusted import Exact
from fks.store.jobs import JobStore

router = Router(tags=["backtests"])
KIND = "backtest"
JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class BacktestBody(Body):
    """Specification of a backtest, for OpenAPI; `fks.jobs.backtest.BacktestSpec` checks it."""

    strategy: str | None = Field(None, description="needed without members")
    members: list[dict[str, Any]] | None = Field(
        None, description="of an account: bodies of this form, each with a name; what is given outside is their default"
    )
    risk: dict[str, Any] | None = Field(None, description="with members: settings of [risk] that are other here")
    symbol: str | None = Field(None, description="needed without members; BTCUSDT, BTC/USDT or BTC-USDT")
    exchange: str | None = Field(None, description="whose bars; default the one that is collected, or has bars")
    timeframe: str = "1m"
    from_: str | None = Field(None, alias="from", description="first decided bar, ISO 8601; default all that is stored")
    to: str | None = Field(None, description="exclusive")
    params: dict[str, Any] = Field(default_factory=dict)
    sizing: str = Field(
        "notional", description="notional, quantity, equity_pct, risk_pct, atr_pct[:BARS] or stdev_pct[:BARS]"
    )
    size: Exact = Field(Decimal(1000), description="quote (notional), base (quantity) or percent of the equity (*_pct)")
    cash: Exact = Decimal(10_000)
    fee_rate: Exact | None = Field(None, description="default costs.fee_rate")
    fee_rate_maker: Exact | None = Field(None, description="default costs.fee_rate_maker, or the body's own fee_rate")
    fee_in: Literal["received", "quote"] | None = Field(None, description="default costs.fee_in")
    slippage: str | None = Field(None, description="none, '2 ticks', '5 bps' or '0.1 range'; default costs.slippage")
    commission: str | None = Field(
        None, description="none, '2.25 each' or '0.005 each min 1'; default costs.commission"
    )
    collar_pct: Exact | None = Field(
        None,
        description="percent from the close at which market entries with SL or TP expire, 0: they do not; default "
        "risk.slippage_max_pct with venue.entry_protection = venue, else 0",
    )
    margin: str | None = Field(
        None, description="'0.1' of a position's value or '22000 each', maintenance behind '/'; default: paid in full"
    )
    allow_gaps: bool = False
    allow_short: bool = False
    limits: bool = Field(False, description="hold entries to the [risk] limits of the node")
    limits_currency: str | None = Field(
        None,
        description="the account's currency, in which these limits are: converted at the last stored close before the "
        "first bar; default the quote currency",
    )
    finer: bool = Field(True, description="stored minutes decide the order of prices within a bar")


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
async def backtests(
    gate: Gate, caller: Reader, state: Annotated[JobState | None, Query()] = None, limit: Limit = 50
) -> ExactJson:
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
    wanted = dict(plain(body)) if "members" in body else {**body, "params": plain(body.get("params", {}))}
    found = await gate.user_code.run(KIND, body=wanted)
    return found["spec"], found["fingerprint"]


async def _view(store: JobStore, id: uuid.UUID) -> dict[str, Any]:
    job = await store.get(id)
    if job is None or job.kind != KIND:
        raise Problem(404, "BACKTEST_UNKNOWN", f"there is no backtest {id}", remedy="see GET /backtests")
    return view(job)
