"""Searches of parameters as durable jobs: submitted, watched, read, cancelled."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import Field
from starlette.responses import Response

from fks.interfaces.api.conditional import conditional
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.jobs import Again, JobState, Key, Priority, SeriesBody, cancel_job, plain, submit_once, view
from fks.interfaces.api.query import Gate, JsonObject, Limit, Reader, Signaller
from fks.interfaces.api.routing import Router, takes
from fks.interfaces.api.views import JobView, Page, SearchView
from fks.model.errors import not_found
from fks.model.json_fields import json_fields
from fks.store.jobs import JobRow, JobStore
from fks.store.trials import TrialStore

router = Router(tags=["optimizations"])
KIND = "optimization"


class OptimizationBody(SeriesBody):
    """Specification of a search, for OpenAPI; `fks.research.jobs.optimization.OptimizationSpec` checks it."""

    strategy: str
    symbol: str = Field(description="BTCUSDT, BTC/USDT or BTC-USDT")
    space: dict[str, Any] = Field(
        description='per parameter "LOW:HIGH[:STEP]", "LOW:HIGH:log", choices, or null for all that its field allows'
    )
    params: dict[str, Any] = Field(default_factory=dict, description="parameters that stay the same")
    plan: dict[str, Any] = Field(
        default_factory=dict, description="method (grid, random, tpe, cmaes, nsga2), trials, seed, batch, prune, parts"
    )
    objectives: list[str] | str = Field("sharpe", description="one, or several with nsga2; greater is better")
    validation: dict[str, Any] = Field(
        default_factory=dict,
        description="kind (none, holdout, walk_forward, k_fold, combinatorial), test_share, folds, anchored, "
        "train_windows, tests, purge, embargo",
    )
    trades_min: int = Field(1, description="a trial with fewer trades has no value")
    workers: int | None = Field(None, description="processes at once; default as many as the cluster has places")
    limits: bool = Field(False, description="hold entries to the [risk] limits of the node, in quote")


@router.post("/optimizations", status_code=202, openapi_extra=takes(OptimizationBody))
async def submit(
    gate: Gate, caller: Signaller, body: JsonObject, key: Key = None, again: Again = False, priority: Priority = 0
) -> ExactJson:
    """Queue a search of parameters and return its id. Space, plan and strategy are checked now, not in the queue. The
    same one on the same data was done before: its job is returned, with `is_stored`."""
    spec, fingerprint = await _spec(gate, body)
    job_id, is_stored = await submit_once(
        gate, caller, KIND, spec, fingerprint=fingerprint, key=key, again=again, priority=priority
    )
    found = {**await _shown(gate, job_id), "is_stored": is_stored}
    return ExactJson(found, status_code=202, headers={"Location": f"/optimizations/{job_id}"})


@router.get("/optimizations", response_model=Page[JobView])
async def optimizations(gate: Gate, caller: Reader, state: JobState = None, limit: Limit = 50) -> ExactJson:
    """List searches, newest first, without their results."""
    found = await JobStore(gate.db).list(kind=KIND, state=state, limit=limit)
    return ExactJson({"items": [view(job) for job in found], "next": None})


@router.get("/optimizations/{id}", response_model=SearchView)
async def optimization(gate: Gate, caller: Reader, request: Request, id: uuid.UUID) -> Response:
    """Return one search: its state, its trials by state with their rate and the time left, and when it is done its
    result."""
    return conditional(request, ExactJson(await _shown(gate, id)))


@router.get("/optimizations/{id}/trials")
async def trials(
    gate: Gate,
    caller: Reader,
    id: uuid.UUID,
    fold: Annotated[int, Query(ge=-1, lt=2**31, description="of the last trial of the page before")] = -1,
    number: Annotated[int, Query(ge=-1, lt=2**31, description="of the last trial of the page before")] = -1,
    limit: Limit = 1000,
) -> ExactJson:
    """Return the trials of a search in order: parameters, state, values, measures. `next` has the place to go on at."""
    await _job(gate, id)
    found = await TrialStore(gate.db, id).list(after=(fold, number), limit=limit)
    items = [
        {
            **json_fields(trial, "fold", "number", "params", "state"),
            "values": (trial.result or {}).get("values"),
            "metrics": (trial.result or {}).get("metrics"),
            "error": (trial.result or {}).get("error") or None,
        }
        for trial in found
    ]
    more = {"fold": found[-1].fold, "number": found[-1].number} if len(found) == limit else None
    return ExactJson({"items": items, "next": more})


@router.delete("/optimizations/{id}", status_code=202)
async def cancel(gate: Gate, caller: Signaller, id: uuid.UUID) -> ExactJson:
    """End a queued search; ask a running one to end. Harmless once it has ended."""
    await _job(gate, id)
    await cancel_job(gate, id)
    return ExactJson(await _shown(gate, id), status_code=202)


async def _spec(gate: Replica, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the job's spec, checked, and its fingerprint. Errors: InputError naming what is wrong."""
    wanted = dict(body)
    for name in ("params", "space", "plan", "validation"):
        if name in wanted:
            wanted[name] = plain(wanted[name])
    found = await gate.user_code.run(KIND, body=wanted)
    return found["spec"], found["fingerprint"]


async def _job(gate: Replica, id: uuid.UUID) -> JobRow:
    job = await JobStore(gate.db).get(id)
    if job is None or job.kind != KIND:
        raise not_found("OPTIMIZATION_UNKNOWN", f"there is no optimization {id}", "see GET /optimizations")
    return job


async def _shown(gate: Replica, id: uuid.UUID) -> dict[str, Any]:
    job = await _job(gate, id)
    counts = await TrialStore(gate.db, id).counts()
    left_s = None
    if job.state == "running" and job.progress > 0 and counts.per_s:
        left_s = round(counts.ended / job.progress * (1.0 - job.progress) / counts.per_s, 1)
    done = {name: getattr(counts, name) for name in ("queued", "running", "done", "pruned", "failed")}
    are_kept = not job.is_ended or counts.ended > 0
    if job.result is not None and not are_kept:  # deleted with age: the result has their numbers
        done |= {name: job.result["trials"][name] for name in ("done", "pruned", "failed")}
    rate = round(counts.per_s, 3) if counts.per_s is not None and job.state == "running" else None
    return {**view(job), "trials": {**done, "per_s": rate, "left_s": left_s, "are_kept": are_kept}}
