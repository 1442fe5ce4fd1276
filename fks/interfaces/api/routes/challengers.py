"""Challengers of strategy instances: variants in shadow, their tests as jobs, and their swap."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import Query
from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.jobs import Key, check_quota, plain
from fks.interfaces.api.query import Body, BodyOf, Gate, Reader, Signaller, Trader
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import ChallengerView, Page
from fks.model import ids
from fks.model.errors import conflict, not_found, unprocessable
from fks.store.challengers import Challenger, ChallengerStore, shown
from fks.store.jobs import JobStore
from fks.store.strategies import StrategyStore

router = Router(tags=["challengers"])


class ChallengerBody(Body):
    """A variant of an instance: parameters that differ, or the best ones of a search."""

    params: dict[str, Any] = Field(default_factory=dict, description="parameters that differ from the instance's")
    search: uuid.UUID | None = Field(None, description="take the best parameters of this optimization instead")


class SwapBody(Body):
    """The conditions under which a challenger is swapped in."""

    may_wait: bool = Field(True, description="wait until the instance is flat; false: refuse when it is not")
    despite_findings: bool = Field(False, description="although no test speaks for it")


@router.get("/strategies/{id}/challengers", response_model=Page[ChallengerView])
async def challengers(
    gate: Gate, caller: Reader, id: str, ended: Annotated[bool, Query(description="also those that have ended")] = False
) -> ExactJson:
    """Return the challengers of an instance with what their last test said, in the order in which they were added."""
    if await StrategyStore(gate.db).get(id) is None:
        raise not_found("INSTANCE_UNKNOWN", f"there is no instance {id!r}", "see GET /strategies")
    found = await ChallengerStore(gate.db).list(id, with_ended=ended)
    return ExactJson({"items": [shown(one) for one in found], "next": None})


@router.post("/strategies/{id}/challengers", status_code=201)
async def add(gate: Gate, caller: Signaller, id: str, body: BodyOf[ChallengerBody]) -> ExactJson:
    """Add a challenger: it decides in shadow and sends nothing. The same parameters again are the same challenger."""
    if bool(body.params) == (body.search is not None):
        raise unprocessable("INVALID", "a challenger has params or a search", "give one of the two")
    params, provenance = plain(body.params), None
    if body.search is not None:
        from fks.research.jobs.challenge import best_of

        params, provenance = await best_of(gate.db, body.search, id)
    made = await gate.user_code.run("add_challenger", instance=id, params=params, by=caller.name, provenance=provenance)
    found = await _find(gate, made)
    return ExactJson(shown(found), status_code=201, headers={"Location": f"/challengers/{found.id}"})


@router.get("/challengers/{id}", response_model=ChallengerView)
async def challenger(gate: Gate, caller: Reader, id: str) -> ExactJson:
    """Return one challenger."""
    return ExactJson(shown(await _find(gate, id)))


@router.delete("/challengers/{id}")
async def remove(gate: Gate, caller: Signaller, id: str) -> ExactJson:
    """End a challenger. Its decisions stay, and it stays counted as a trial. Harmless once it has ended."""
    await _find(gate, id)
    await ChallengerStore(gate.db).remove(id, by=caller.name)
    return ExactJson(shown(await _find(gate, id)))


@router.post("/challengers/{id}/propose", status_code=202)
async def propose(gate: Gate, caller: Signaller, id: str, key: Key = None) -> ExactJson:
    """Queue a test of a challenger against its champion: it is proposed when it passes. `looks` and `evaluation` of the
    challenger change when the test is done. With the same `Idempotency-Key` again no further test is made."""
    from fks.research.jobs.challenge import KIND

    found = await _find(gate, id)
    job_id = ids.request_signal_id(f"{KIND}:{caller.name}", key) if key else uuid.uuid4()
    spec = {"instance": found.instance_id, "challenger": id}
    known = await JobStore(gate.db).get(job_id)
    if known is not None and dict(known.spec) != spec:
        raise conflict("IDEMPOTENCY_CONFLICT", "the Idempotency-Key was used for another test", "use a new key")
    if known is None:
        await check_quota(gate, caller)
        await JobStore(gate.db).submit(KIND, spec, submitted_by=caller.name, job_id=job_id)
    return ExactJson({"job": job_id, "challenger": shown(found)}, status_code=202)


@router.post("/challengers/{id}/swap")
async def swap(gate: Gate, caller: Trader, id: str, body: BodyOf[SwapBody]) -> ExactJson:
    """Give its instance the parameters of a challenger once it is flat; until then the instance sends exits alone.
    Repeated, it changes nothing more."""
    done = await gate.user_code.run(
        "swap", challenger=id, by=caller.name, may_wait=body.may_wait, despite_findings=body.despite_findings
    )
    return ExactJson(done)


@router.delete("/challengers/{id}/swap")
async def stop_waiting(gate: Gate, caller: Trader, id: str) -> ExactJson:
    """Let a challenger that waits go on in shadow. Harmless when it does not wait."""
    await _find(gate, id)
    await ChallengerStore(gate.db).stop_waiting(id)
    return ExactJson(shown(await _find(gate, id)))


@router.post("/strategies/{id}/demote")
async def demote(gate: Gate, caller: Trader, id: str) -> ExactJson:
    """Give an instance the parameters back that its challenger replaced, once it is flat. Repeated while it waits, it
    changes nothing more."""
    done = await gate.user_code.run("demote", instance=id, by=caller.name, reason="a person's request")
    return ExactJson(done)


async def _find(gate: Replica, id: str) -> Challenger:
    found = await ChallengerStore(gate.db).get(id)
    if found is None:
        raise not_found("CHALLENGER_UNKNOWN", f"there is no challenger {id!r}", "see GET /strategies")
    return found
