"""Signals of strategies and persons, and their approval."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import Query

from fks.api.exact import ExactJson
from fks.api.gateway import Gateway
from fks.api.problems import Problem
from fks.api.query import Approver, Before, Exchange, Gate, Limit, Name, Reader, Symbol, page
from fks.api.routing import Router
from fks.api.views import Page, SignalView
from fks.model.signal import SignalState
from fks.store.bus import SIGNALS
from fks.store.signals import SignalStore
from fks.store.tokens import Principal

router = Router(tags=["signals"])


@router.get("/signals", response_model=Page[SignalView])
async def signals(
    gate: Gate,
    who: Reader,
    state: Annotated[SignalState | None, Query()] = None,
    symbol: Symbol = None,
    exchange: Exchange = None,
    instance: Name = None,
    before: Before = None,
    limit: Limit = 100,
) -> ExactJson:
    """List signals, newest first."""
    wanted = None if state is None else state.value
    symbols, at = await gate.narrowed(symbol, exchange)
    rows = await gate.db.fetch("gateway.signals", wanted, symbols, instance, before, limit, at, who.account_list)
    return ExactJson(page(rows, limit))


@router.get("/signals/{id}", response_model=SignalView)
async def signal(gate: Gate, who: Reader, id: uuid.UUID) -> ExactJson:
    """Return one signal and its outcome."""
    return ExactJson(await _find(gate, id, who))


@router.post("/signals/{id}/approve")
async def approve(gate: Gate, who: Approver, id: uuid.UUID) -> ExactJson:
    """Approve a pending signal in the token's name: the order manager takes it from here."""
    return await _decide(gate, id, approve=True, who=who)


@router.post("/signals/{id}/reject")
async def reject(gate: Gate, who: Approver, id: uuid.UUID) -> ExactJson:
    """Decline a pending signal in the token's name."""
    return await _decide(gate, id, approve=False, who=who)


async def _decide(gate: Gateway, id: uuid.UUID, *, approve: bool, who: Principal) -> ExactJson:
    by = who.name
    await _find(gate, id, who)  # 404 for a signal of an account that this caller may not see
    record = await SignalStore(gate.db).decide(id, approve=approve, by=by, now_ns=gate.deps.clock.now_ns())
    found = await _find(gate, id, who)
    wanted = SignalState.READY if approve else SignalState.DECLINED
    if record is None and not (found["decided_by"] == by and _came_to(found["state"], wanted)):
        raise Problem(
            409,
            "SIGNAL_NOT_PENDING",
            f"signal {id} is {found['state']}, not pending",
            remedy="see GET /signals?state=pending",
        )
    if record is not None:
        names = ("instance", "symbol", "kind", "side", "state", "code")
        await gate.bus.publish(SIGNALS, {"type": "signal", "id": str(id), **{name: found[name] for name in names}})
    return ExactJson(found)


def _came_to(state: str, wanted: SignalState) -> bool:
    """Return whether a repeat of a decision finds its own result: then it is confirmed again."""
    if wanted is SignalState.DECLINED:
        return state == SignalState.DECLINED
    return state in (SignalState.READY, SignalState.ORDERED, SignalState.DENIED, SignalState.NOTHING)


async def _find(gate: Gateway, id: uuid.UUID, who: Principal) -> dict[str, Any]:
    row = await gate.db.fetchrow("gateway.signal", id, who.account_list)
    if row is None:
        raise Problem(404, "SIGNAL_UNKNOWN", f"there is no signal {id}", remedy="see GET /signals")
    return dict(row)
