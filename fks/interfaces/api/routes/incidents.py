"""Incidents that only a person can explain, and requested comparisons of the journal with a venue."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.parts import ORDER_MANAGER, need
from fks.interfaces.api.query import Admin, Before, Body, BodyOf, Gate, Limit, Reader, Trader
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import IncidentView, Page
from fks.model.errors import conflict, not_found
from fks.model.json_fields import json_fields
from fks.store.bus import WAKE
from fks.store.incidents import Incident, IncidentStore, Resolution
from fks.store.settlements import SettlementStore

router = Router(tags=["incidents"])
_WAIT_S, _LOOK_S = 8.0, 0.1
Number = Annotated[int, Field(ge=1, lt=2**63)]


class ReconcileBody(Body):
    """The venue to compare; without one, all that the order manager has."""

    venue: str | None = Field(None, min_length=1, max_length=64)


class CloseBody(Body):
    """The closing of an incident."""

    resolution: Literal["adopted", "explained", "booked"] = Field(
        description="adopted: the difference is ours, the order is recorded; explained: known, and stays, or not our "
        "order; booked: a transfer or execution was booked"
    )
    reason: str = Field(min_length=1, max_length=500)


@router.post("/reconcile", status_code=202)
async def reconcile(gate: Gate, caller: Trader, body: BodyOf[ReconcileBody]) -> ExactJson:
    """Compare the journal with a venue now, and wait some seconds for it: 200 with the result, else 202."""
    known = [row["venue"] for row in await gate.db.fetch("gateway.venues")]
    wanted = known if body.venue is None else [body.venue]
    if not set(wanted) <= set(known):
        raise not_found("VENUE_UNKNOWN", f"there is no venue {body.venue}", f"known: {', '.join(known) or 'none'}")
    await need(gate, ORDER_MANAGER)
    store, clock = SettlementStore(gate.db), gate.deps.clock
    ids = [await store.request_reconcile(venue, by=caller.name, now_ns=clock.now_ns()) for venue in wanted]
    await gate.bus.publish(WAKE, {"type": "reconcile"})
    deadline = clock.monotonic() + _WAIT_S
    rows = await store.reconcile(ids)
    while any(row["finished_at"] is None for row in rows) and clock.monotonic() < deadline:
        await clock.sleep(_LOOK_S)
        rows = await store.reconcile(ids)
    is_done = all(row["finished_at"] is not None for row in rows)
    return ExactJson({"items": rows, "next": None}, status_code=200 if is_done else 202)


@router.get("/reconcile/{id}")
async def reconciled(gate: Gate, caller: Reader, id: Number) -> ExactJson:
    """Return one request to compare a venue, with its result when it has ended."""
    rows = await SettlementStore(gate.db).reconcile([id])
    if not rows:
        raise not_found("RECONCILE_UNKNOWN", f"there is no request {id}", "POST /reconcile makes one")
    return ExactJson(rows[0])


@router.get("/incidents", response_model=Page[IncidentView])
async def incidents(
    gate: Gate,
    caller: Reader,
    open_: Annotated[bool, Query(alias="open", description="only those that are not closed")] = False,
    before: Before = None,
    limit: Limit = 100,
) -> ExactJson:
    """List incidents, newest first. While one is open, entries on its subject are denied."""
    found = await IncidentStore(gate.db).page(is_open=open_, before_id=before, limit=limit)
    names = await _names(gate)
    items = [_view(incident, names) for incident in found]
    return ExactJson({"items": items, "next": items[-1]["id"] if len(items) == limit else None})


@router.post("/incidents/{id}/close")
async def close(gate: Gate, caller: Admin, id: Number, body: BodyOf[CloseBody]) -> ExactJson:
    """Close an incident in the token's name, with the reason: the entries that it denied are allowed again."""
    store = IncidentStore(gate.db)
    if await store.get(id) is None:
        raise not_found("INCIDENT_UNKNOWN", f"there is no incident {id}", "see GET /incidents")
    closed = await store.close(
        id, by=caller.name, resolution=Resolution(body.resolution), reason=body.reason, now_ns=gate.deps.clock.now_ns()
    )
    if closed is None:
        raise conflict("INCIDENT_CLOSED", f"incident {id} is closed already", "see GET /incidents")
    await gate.bus.publish(WAKE, {"type": "incident", "id": id})
    return ExactJson(_view(closed, await _names(gate)))


async def _names(gate: Replica) -> dict[int, str]:
    return {row["id"]: row["name"] for row in await gate.db.fetch("gateway.account_names")}


def _view(incident: Incident, accounts: dict[int, str]) -> dict[str, Any]:
    account = accounts.get(incident.account_id, "")
    return json_fields(incident, without=("account_id",), account=account, is_open=incident.is_open)
