"""Positions, and the executions that made them."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from fks.interfaces.api.conditional import conditional
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import Before, Exchange, Gate, Limit, Name, Reader, Symbol, Trader, page
from fks.interfaces.api.routes.market import name_of
from fks.interfaces.api.routes.orders import Key, checked_key
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import FillView, Page, PositionView, SymbolPosition
from fks.store.reading import ReadingStore, ambiguous

router = Router(tags=["positions"])
WithFlat = Annotated[bool, Query(alias="all", description="also the flat ones, for their realised profit")]


@router.get("/positions", response_model=Page[PositionView])
async def positions(gate: Gate, caller: Reader, every: WithFlat = False) -> ExactJson:
    """List the positions of each strategy instance (instance "" is persons, "external" is not ours), at the newest
    price."""
    home = gate.deps.settings.venue.exchange
    return ExactJson(page(await gate.db.fetch("gateway.positions", None, every, home, caller.account_list)))


@router.get("/positions/{symbol:path}", response_model=SymbolPosition)
async def position(gate: Gate, caller: Reader, symbol: str, exchange: Exchange = None) -> ExactJson:
    """Return the position in one symbol: the sum, and its parts by instance, flat ones included.

    Positions at other exchanges under other spellings of the symbol are part of the sum, unless one exchange is named.
    """
    from fks.interfaces.entry.routing import exchange_of

    listed = await ReadingStore(gate.db).spelled(symbol, exchange)
    if len({(item.base, item.quote) for item in listed if item.is_listed}) > 1:
        raise ambiguous(symbol, [item.place for item in listed])
    settings = gate.deps.settings
    home = settings.venue.exchange
    item = next((item for item in listed if item.exchange == home), listed[0])
    symbols = sorted({item.symbol for item in listed})
    held = await gate.db.fetch("gateway.positions", symbols, True, home, caller.account_list)
    at = {item.exchange for item in listed} if exchange or ":" in symbol else set()
    rows = [dict(row) for row in held if not at or exchange_of(row["venue"], settings) in {None, *at}]
    total = {name: sum((row[name] for row in rows), Decimal(0)) for name in ("quantity", "realized_pnl", "fees")}
    unvalued = sum(row["fees_unvalued"] for row in rows)
    return ExactJson({"symbol": item.symbol, "name": name_of(item), **total, "fees_unvalued": unvalued, "items": rows})


@router.post("/positions/{symbol:path}/close", status_code=202)
async def close(gate: Gate, caller: Trader, symbol: str, exchange: Exchange = None, key: Key = None) -> ExactJson:
    """Close what is held in one symbol: commit an exit for each of its positions, and wait up to a second for each.

    `items` have the position and what became of its exit (`order`, `status` as POST /orders gives it). An exit is
    capped, split or retried until the position is flat, or a person ends it (DELETE /orders/{id}). Positions that FKS
    did not open (instance "external") stay. The same `Idempotency-Key` again makes no second exit. With an exchange
    (`binance:BTCUSDT`, or `exchange`) positions at another one stay; on paper it is the exchange of the exit's price.
    """
    from fks.interfaces.entry.closing import Closing

    closing = Closing(gate.db, gate.order_entry, gate.deps.clock, gate.deps.settings)
    done = await closing.close(symbol, caller, checked_key(key) or uuid.uuid4().hex, exchange)
    return ExactJson({"items": done}, status_code=202)


@router.get("/fills", response_model=Page[FillView])
async def fills(
    gate: Gate,
    caller: Reader,
    request: Request,
    symbol: Symbol = None,
    exchange: Exchange = None,
    instance: Name = None,
    order: Annotated[str | None, Query(description="a client_order_id", max_length=64)] = None,
    before: Before = None,
    limit: Limit = 100,
) -> Response:
    """List executions, newest first."""
    symbols, at = await gate.narrowed(symbol, exchange)
    rows = await gate.db.fetch("gateway.fills", symbols, instance, order, before, limit, at, caller.account_list)
    return conditional(request, ExactJson(page(rows, limit)))
