"""Operations: requests of persons to the running system. Every row is kept: it is the audit."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Query
from pydantic import Field

from fks.api.exact import ExactJson
from fks.api.query import Admin, Body, Gate, Limit, Reader, body_of, takes
from fks.api.routing import Router
from fks.api.views import OperationView, Page, WheelView
from fks.config.runtime import GATEWAY, SUPERVISOR
from fks.model import ids
from fks.model.errors import Problem
from fks.model.timeframe import iso
from fks.store.operations import CHANNEL, Operation, OperationStore

router = Router(tags=["operations"])
OperationState = Literal["queued", "running", "done", "failed"]
WHEEL = (
    r"^fks-[A-Za-z0-9.+!_-]+\.whl$"  # a name and never a path: `fks deploy --rollback` looks for it in FKS_HOME/wheels
)
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


class OperationBody(Body):
    """An operation. A restart needs its target; a deployment restarts everything, or `only` one part."""

    kind: Literal["restart", "deploy"]
    target: str = Field("", max_length=128, description="of a restart: a child's id, gateway, or supervisor")
    only: str | None = Field(None, max_length=128, description="of a deployment: this part alone")
    build: str | None = Field(
        None, max_length=64, description="of a deployment: the version every part must come back with"
    )
    wheel: str | None = Field(
        None, max_length=200, pattern=WHEEL, description="of a deployment: the wheel that was installed"
    )
    previous_wheel: str | None = Field(
        None, max_length=200, pattern=WHEEL, description="of a deployment: the wheel that leads back"
    )
    reason: str = Field("", max_length=500)


@router.post("/operations", status_code=202, openapi_extra=takes(OperationBody))
async def ask(
    gate: Gate, caller: Admin, body: Annotated[OperationBody, Depends(body_of(OperationBody))], key: Key = None
) -> ExactJson:
    """Request a restart or a rolling deployment. The supervisor does it, drained, one part at a time."""
    store = OperationStore(gate.db)
    target = await _target(store, body.target) if body.kind == "restart" else ""
    args: dict[str, Any] = {}
    if body.kind == "deploy":
        args = {name: value for name in ("build", "wheel", "previous_wheel") if (value := getattr(body, name))}
        if body.only:
            args["only"] = await _target(store, body.only)
    id = ids.request_signal_id(f"operation:{caller.name}", key) if key else uuid.uuid4()
    operation = await store.request(
        body.kind, target=target, args=args, reason=body.reason, requested_by=caller.name, id=id
    )
    if (operation.kind, operation.target, dict(operation.args)) != (body.kind, target, args):
        text = "the Idempotency-Key was used for another operation"
        raise Problem(409, "IDEMPOTENCY_CONFLICT", text, remedy="use a new key")
    await gate.bus.publish(CHANNEL, {"id": str(operation.id)})
    return ExactJson(view(operation), status_code=202, headers={"Location": f"/operations/{operation.id}"})


@router.get("/operations", response_model=Page[OperationView])
async def operations(
    gate: Gate, caller: Reader, state: Annotated[OperationState | None, Query()] = None, limit: Limit = 50
) -> ExactJson:
    """List operations, newest first: restarts, deployments, changes of settings."""
    found = await OperationStore(gate.db).list(state=state, limit=limit)
    return ExactJson({"items": [view(operation) for operation in found], "next": None})


@router.get("/operations/last-wheel", response_model=WheelView)
async def last_wheel(gate: Gate, caller: Reader) -> ExactJson:
    """Return the wheel of the newest deployment, and the one for a rollback; both null when there was none."""
    args = await OperationStore(gate.db).last_wheel() or {}
    return ExactJson({"wheel": args.get("wheel"), "previous_wheel": args.get("previous_wheel")})


@router.get("/operations/{id}", response_model=OperationView)
async def operation(gate: Gate, caller: Reader, id: uuid.UUID) -> ExactJson:
    """Return one operation: its state, its progress, and every step with its duration."""
    found = await OperationStore(gate.db).get(id)
    if found is None:
        raise Problem(404, "OPERATION_UNKNOWN", f"there is no operation {id}", remedy="see GET /operations")
    return ExactJson(view(found))


async def _target(store: OperationStore, name: str) -> str:
    """Return the part of that name: a replica is never restarted alone. Errors: Problem 404 with the names."""
    parts = await store.parts()
    names = sorted({GATEWAY if kind == "serve" else part for part, kind in parts.items()} | {GATEWAY, SUPERVISOR})
    chosen = GATEWAY if parts.get(name) == "serve" else name
    if chosen not in names:
        raise Problem(
            404,
            "COMPONENT_UNKNOWN",
            f"no part is called {name!r}" if name else "a restart needs its target",
            remedy=f"use one of {', '.join(names)}",
        )
    return chosen


def view(operation: Operation) -> dict[str, Any]:
    """Return an operation as the API shows it."""
    return {
        "id": operation.id,
        "kind": operation.kind,
        "target": operation.target,
        "args": operation.args,
        "reason": operation.reason,
        "requested_by": operation.requested_by,
        "state": operation.state,
        "progress": operation.progress,
        "error": operation.error,
        "result": operation.result,
        "attempt": operation.attempt,
        "created_at": iso(operation.created_ns),
        "started_at": None if operation.started_ns is None else iso(operation.started_ns),
        "finished_at": None if operation.finished_ns is None else iso(operation.finished_ns),
    }
