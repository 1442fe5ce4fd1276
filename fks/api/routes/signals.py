"""Signals of strategies and persons, and their approval."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import Query

from fks.api.exact import ExactJson
from fks.api.query import Approver, Before, Exchange, Gate, Limit, Name, Reader, Symbol, page
from fks.api.routing import Router
from fks.api.views import Page, SignalView
from fks.model.signal import SignalState

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
    return ExactJson(await gate.approving.find(id, who))


@router.post("/signals/{id}/approve")
async def approve(gate: Gate, who: Approver, id: uuid.UUID) -> ExactJson:
    """Approve a pending signal in the token's name: the order manager takes it from here."""
    return ExactJson(await gate.approving.decide(id, approve=True, who=who))


@router.post("/signals/{id}/reject")
async def reject(gate: Gate, who: Approver, id: uuid.UUID) -> ExactJson:
    """Decline a pending signal in the token's name."""
    return ExactJson(await gate.approving.decide(id, approve=False, who=who))
