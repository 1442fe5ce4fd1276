"""Promotion of a search's parameters to an instance, the way back, and the versions that it had."""

from __future__ import annotations

import uuid

from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.jobs import Key
from fks.interfaces.api.query import Body, BodyOf, Gate, Limit, Reader, Trader
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import Page, ParametersVersion
from fks.model import ids
from fks.model.errors import not_found
from fks.model.json_fields import json_fields
from fks.store.strategies import StrategyStore
from fks.store.tokens import Principal

router = Router(tags=["strategies"])


class PromotionBody(Body):
    """The instance that takes the best parameters of a search."""

    instance: str = Field(max_length=128)
    despite_findings: bool = Field(False, description="although the search names reasons against them")


@router.post("/optimizations/{id}/promote")
async def promote(
    gate: Gate,
    caller: Trader,
    id: uuid.UUID,
    body: BodyOf[PromotionBody],
    key: Key = None,
) -> ExactJson:
    """Give the best parameters of a search to an instance as its next version; an instance on paper first. With the
    same `Idempotency-Key` again the first answer is given."""
    found = await gate.user_code.run(
        "promote",
        search=str(id),
        instance=body.instance,
        by=caller.name,
        despite_findings=body.despite_findings,
        request=request_of(caller, key),
    )
    return ExactJson(found)


@router.post("/strategies/{id}/rollback")
async def rollback(gate: Gate, caller: Trader, id: str, key: Key = None) -> ExactJson:
    """Give an instance the parameters back that the ones in force replaced, as its next version. With the same
    `Idempotency-Key` again the first answer is given; without one, rolling back twice goes back two steps."""
    found = await gate.user_code.run("rollback", instance=id, by=caller.name, request=request_of(caller, key))
    return ExactJson(found)


@router.get("/strategies/{id}/versions", response_model=Page[ParametersVersion])
async def versions(gate: Gate, caller: Reader, id: str, limit: Limit = 100) -> ExactJson:
    """Return the versions of an instance's parameters with where they came from, newest first."""
    if await StrategyStore(gate.db).get(id) is None:
        raise not_found("INSTANCE_UNKNOWN", f"there is no instance {id!r}", "see GET /strategies")
    items = [
        json_fields(one, "version", "created_ns", "params", "provenance", "size", by=one.changed_by)
        for one in await StrategyStore(gate.db).versions(id, limit=limit)
    ]
    return ExactJson({"items": items, "next": None})


def request_of(caller: Principal, key: str | None) -> str | None:
    """Return the id of a change of parameters that a caller names with a key."""
    return None if key is None else str(ids.request_signal_id(f"parameters:{caller.name}", key))
