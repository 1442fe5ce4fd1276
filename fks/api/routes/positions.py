"""Positions and fills: what is held, and the executions that made it."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Query

from fks.api.exact import ExactJson
from fks.api.query import Before, Gate, Limit, Name, Reader, Symbol, page

router = APIRouter(tags=["positions"])
WithFlat = Annotated[bool, Query(alias="all", description="also the flat ones, for their realised profit")]


@router.get("/positions")
async def positions(gate: Gate, who: Reader, every: WithFlat = False) -> ExactJson:
    """List what each strategy instance holds (instance "" is people, "external" is not ours), at the newest price."""
    return ExactJson(page(await gate.db.fetch("gateway.positions", None, every)))


@router.get("/positions/{symbol:path}")
async def position(gate: Gate, who: Reader, symbol: str) -> ExactJson:
    """Return the position in one symbol: the sum, and per instance what adds up to it, flat ones included."""
    item = await gate.instrument(symbol)
    rows = [dict(row) for row in await gate.db.fetch("gateway.positions", item.symbol, True)]
    total = {name: sum((row[name] for row in rows), Decimal(0)) for name in ("quantity", "realized_pnl", "fees")}
    return ExactJson({"symbol": item.symbol, "name": item.name, **total, "items": rows})


@router.get("/fills")
async def fills(
    gate: Gate,
    who: Reader,
    symbol: Symbol = None,
    instance: Name = None,
    order: Annotated[str | None, Query(description="a client_order_id", max_length=64)] = None,
    before: Before = None,
    limit: Limit = 100,
) -> ExactJson:
    """List executions, newest first."""
    rows = await gate.db.fetch("gateway.fills", await gate.symbol(symbol), instance, order, before, limit)
    return ExactJson(page(rows, limit))
