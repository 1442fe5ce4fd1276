"""Durable jobs over HTTP: submission that is done once per fingerprint, and how a job is shown."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

import orjson
from fastapi import Header, Query

from fks.api.exact import dump
from fks.api.gateway import Replica
from fks.model import ids, untrusted
from fks.model.errors import Problem
from fks.model.timeframe import iso
from fks.store.bus import JOBS
from fks.store.jobs import JobRow, JobStore
from fks.store.tokens import Principal

Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]
Again = Annotated[bool, Query(description="run it although a result of the same fingerprint is stored")]
Priority = Annotated[int, Query(ge=-10, le=10, description="of queued jobs the highest is started first")]


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


def _conflict(kind: str) -> Problem:
    text = f"the Idempotency-Key was used for another {kind}"
    return Problem(409, "IDEMPOTENCY_CONFLICT", text, remedy="use a new key")


def view(job: JobRow) -> dict[str, Any]:
    """Return a job as the API shows it."""
    return {
        "id": job.id,
        "state": job.state,
        "progress": job.progress,
        "spec": job.spec,
        "result": job.result,
        "error": job.error,
        "submitted_by": job.submitted_by,
        "attempts": job.attempts,
        "priority": job.priority,
        "fingerprint": job.fingerprint,
        "is_cancel_requested": job.is_cancel_requested,
        "created_at": iso(job.created_ns),
        "started_at": None if job.started_ns is None else iso(job.started_ns),
        "finished_at": None if job.finished_ns is None else iso(job.finished_ns),
    }


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
