"""Durable jobs over HTTP: submission that is done once per fingerprint, and how a job is shown."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

import orjson
from fastapi import Header, Query
from pydantic import Field

from fks.interfaces.api.exact import dump
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Body
from fks.model import ids, untrusted
from fks.model.errors import InputError, Problem, conflict
from fks.model.json_fields import json_fields
from fks.model.untrusted import Exact
from fks.store.bus import JOBS
from fks.store.jobs import JobRow, JobStore
from fks.store.tokens import Principal

Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]
Again = Annotated[bool, Query(description="run it although a result of the same fingerprint is stored")]
Priority = Annotated[int, Query(ge=-10, le=10, description="of queued jobs the highest is started first")]
JobState = Annotated[Literal["queued", "running", "done", "failed", "cancelled"] | None, Query()]


class SeriesBody(Body):
    """The bars and costs of a backtest, or of the trials of a search, for OpenAPI."""

    exchange: str | None = Field(None, description="whose bars; default the one that is collected, or has bars")
    timeframe: str = "1m"
    from_: str | None = Field(None, alias="from", description="first bar, ISO 8601; default all that is stored")
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
        None, description="none, '2.25 each' or '0.005 each min 1', tiers behind commas; default costs.commission"
    )
    collar_pct: Exact | None = Field(
        None,
        description="percent from the close at which market entries with SL or TP expire, 0: they do not; default "
        "risk.slippage_max_pct with venue.entry_protection = venue, else 0",
    )
    margin: str | None = Field(
        None,
        max_length=8_000,
        description="'0.1' of a position's value or '22000 each', maintenance behind '/', or 'reg-t'; then, each after "
        "';', 'above 50000 0.2/0.1', 'short 0.3', 'overnight 15m 22000/20000 each', 'fee 0.01'; default: paid in full",
    )
    borrow: str = Field(
        "none", description="yearly rate of short positions, '0.03', behind '/' that of cash below 0: '0.03/0.0583'"
    )
    lot: Exact | None = Field(None, description="step of quantities and the least one, in base; default the symbol's")
    tick: Exact | None = Field(None, description="step of prices; default the symbol's")
    largest: Exact | None = Field(None, description="largest order, in base; default the symbol's")
    allow_gaps: bool = False
    allow_short: bool = False
    finer: bool = Field(True, description="stored minutes decide the order of prices within a bar")


async def submit_once(
    gate: Replica,
    caller: Principal,
    kind: str,
    spec: Mapping[str, Any],
    *,
    fingerprint: str,
    key: str | None,
    again: bool,
    priority: int,
) -> tuple[uuid.UUID, bool]:
    """Queue a job, and return its id and whether it was there: the job of the key, or of the same fingerprint.

    Errors: Problem 409 IDEMPOTENCY_CONFLICT for a key that was used with another specification.
    """
    store = JobStore(gate.db)
    known, fresh = await store.same(kind, fingerprint)
    by_key = ids.request_signal_id(f"{kind}:{caller.name}", key) if key else None
    if by_key is not None and (kept := await store.get(by_key)) is not None:
        if orjson.loads(dump(dict(kept.spec))) != orjson.loads(dump(dict(spec))):
            raise _conflict(kind)
        return by_key, True
    job_id = known if known is not None and not again else by_key or (uuid.uuid4() if again else fresh)
    if by_key is not None:
        # also for a job that was there: the key stands for this specification from now on
        claimed = await store.claim_key(by_key, job_id, spec)
        if claimed is None:
            raise _conflict(kind)
        job_id = claimed
        if await store.get(job_id) is not None:
            return job_id, True
    elif job_id == known:
        return known, True
    await check_quota(gate, caller)
    await store.submit(kind, spec, submitted_by=caller.name, job_id=job_id, fingerprint=fingerprint, priority=priority)
    await gate.bus.publish(JOBS, {"type": "job", "id": str(job_id), "state": "queued"})
    return job_id, False


async def cancel_job(gate: Replica, id: uuid.UUID) -> None:
    """End a queued job; ask a running one to end. Harmless once it has ended."""
    job = await JobStore(gate.db).cancel(id)
    if job is not None:
        await gate.bus.publish(JOBS, {"type": "job", "id": str(id), "state": job.state})


async def check_quota(gate: Replica, caller: Principal) -> None:
    """Refuse more work of a caller than it may have at once. Errors: Problem 429 JOBS_MANY."""
    most = gate.deps.settings.auth.jobs_max
    if await JobStore(gate.db).open_of(caller.name) >= most:
        raise Problem(
            429,
            "JOBS_MANY",
            f"{caller.name} has {most} jobs that are queued or run",
            remedy="wait for one to end, or cancel one; auth.jobs_max allows more",
            headers={"Retry-After": "60"},  # to ask again: when a job ends is not known
        )


def _conflict(kind: str) -> InputError:
    text = f"the Idempotency-Key was used for another {kind}"
    return conflict("IDEMPOTENCY_CONFLICT", text, "use a new key")


def view(job: JobRow) -> dict[str, Any]:
    """Return a job as the API shows it."""
    return json_fields(job, without=("kind",))


def plain(value: Any) -> Any:
    """Return parameters of a strategy as research takes them: fractions as float. Errors: InputError NUMBER for a text
    that is a number out of bounds."""
    if isinstance(value, Decimal):
        return untrusted.number_of(value)
    if isinstance(value, str):
        untrusted.check_text(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
