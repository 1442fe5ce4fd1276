"""Operations: requests of persons to the running system. Every row is kept: it is the audit."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from fastapi import Header, Query
from pydantic import Field

from fks.config.runtime import GATEWAY, SUPERVISOR
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import Admin, Body, BodyOf, Gate, Limit, Reader
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import OperationView, Page
from fks.model import ids
from fks.model.errors import conflict, not_found
from fks.model.json_fields import json_fields
from fks.store.operations import CHANNEL, Operation, OperationStore

router = Router(tags=["operations"])
OperationState = Literal["queued", "running", "done", "failed"]
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


class OperationBody(Body):
    """An operation. A restart needs its target; a deployment restarts everything, or `only` one part."""

    kind: Literal["restart", "deploy"]
    target: str = Field("", max_length=128, description="of a restart: a child's id, gateway, or supervisor")
    only: str | None = Field(None, max_length=128, description="of a deployment: this part alone")
    build: str | None = Field(
        None, max_length=64, description="of a deployment: the version every part must come back with"
    )
    reason: str = Field("", max_length=500)


@router.post("/operations", status_code=202)
async def ask(gate: Gate, caller: Admin, body: BodyOf[OperationBody], key: Key = None) -> ExactJson:
    """Request a restart or a rolling deployment. The supervisor does it, drained, one part at a time."""
    store = OperationStore(gate.db)
    target = await _target(store, body.target) if body.kind == "restart" else ""
    args: dict[str, Any] = {}
    if body.kind == "deploy":
        args = {"build": body.build} if body.build else {}
        if body.only:
            args["only"] = await _target(store, body.only)
    id = ids.request_signal_id(f"operation:{caller.name}", key) if key else uuid.uuid4()
    operation = await store.request(
        body.kind, target=target, args=args, reason=body.reason, requested_by=caller.name, id=id
    )
    if (operation.kind, operation.target, dict(operation.args)) != (body.kind, target, args):
        text = "the Idempotency-Key was used for another operation"
        raise conflict("IDEMPOTENCY_CONFLICT", text, "use a new key")
    await gate.bus.publish(CHANNEL, {"id": str(operation.id)})
    return ExactJson(view(operation), status_code=202, headers={"Location": f"/operations/{operation.id}"})


@router.get("/operations", response_model=Page[OperationView])
async def operations(
    gate: Gate, caller: Reader, state: Annotated[OperationState | None, Query()] = None, limit: Limit = 50
) -> ExactJson:
    """List operations, newest first: restarts, deployments, changes of settings."""
    found = await OperationStore(gate.db).list(state=state, limit=limit)
    return ExactJson({"items": [view(operation) for operation in found], "next": None})


@router.get("/operations/{id}", response_model=OperationView)
async def operation(gate: Gate, caller: Reader, id: uuid.UUID) -> ExactJson:
    """Return one operation: its state, its progress, and every step with its duration."""
    found = await OperationStore(gate.db).get(id)
    if found is None:
        raise not_found("OPERATION_UNKNOWN", f"there is no operation {id}", "see GET /operations")
    return ExactJson(view(found))


async def _target(store: OperationStore, name: str) -> str:
    """Return the part of that name: a replica is never restarted alone. Errors: InputError 404 with the names."""
    parts = await store.parts()
    names = sorted({GATEWAY if kind == "serve" else part for part, kind in parts.items()} | {GATEWAY, SUPERVISOR})
    chosen = GATEWAY if parts.get(name) == "serve" else name
    if chosen not in names:
        raise not_found(
            "COMPONENT_UNKNOWN",
            f"no part is called {name!r}" if name else "a restart needs its target",
            f"use one of {', '.join(names)}",
        )
    return chosen


def view(operation: Operation) -> dict[str, Any]:
    """Return an operation as the API shows it."""
    return json_fields(operation)
