"""MetaTrader 5 under the paths of the replaced service: orders, positions, prices and the link to the agent.

Its health is that of every replaced service: GET /meta/health.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import Gate, Limit, Name, Reader, page
from fks.interfaces.api.routes.market import latest
from fks.interfaces.api.routes.ninja import link_items
from fks.interfaces.api.routes.orders import shown_order
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import LatestView, Mt5LinksView, OrderPage, Page, PositionView
from fks.model.ninja import MT5

router = Router(tags=["meta"])


@router.get("/meta/links", response_model=Mt5LinksView)
async def links(gate: Gate, caller: Reader) -> ExactJson:
    """Return the link to the agent: connection, ability to trade, accounts with their margin mode, the trade server's
    offset from UTC, positions at the terminal, and the platform's last error."""
    items = []
    for link, item in await link_items(gate, MT5):
        status = {} if link is None else link.report.snapshot or {}
        held = [
            {"account": account["name"], **position}
            for account in status.get("accounts", ())
            for position in account["positions"]
        ]
        reported = {name: status.get(name) for name in ("agent", "server_offset_s", "last_error")}
        items.append(item | reported | {"positions": held})
    return ExactJson({"items": items})


@router.get("/meta/orders", response_model=OrderPage)
async def orders(
    gate: Gate,
    caller: Reader,
    instance: Name = None,
    open_: Annotated[bool, Query(alias="open", description="only those that may still fill")] = False,
    before: Annotated[str | None, Query(description="the `next` of the page before", max_length=64)] = None,
    limit: Limit = 100,
) -> ExactJson:
    """List the orders at MetaTrader 5, newest first, as GET /orders does."""
    rows = await gate.db.fetch(
        "gateway.orders", None, None, instance, open_, before, limit, MT5.name, caller.account_list
    )
    return ExactJson(page((shown_order(dict(row), gate) for row in rows), limit, "client_order_id"))


@router.get("/meta/positions", response_model=Page[PositionView])
async def positions(gate: Gate, caller: Reader) -> ExactJson:
    """List what is held at MetaTrader 5, as GET /positions does; quantities in lots."""
    rows = await gate.db.fetch("gateway.positions", None, False, MT5.name, caller.account_list)
    return ExactJson(page([row for row in rows if row["venue"] == MT5.name]))


@router.get("/meta/market/{symbol:path}", response_model=LatestView)
async def market(gate: Gate, caller: Reader, symbol: str) -> ExactJson:
    """Return the latest price of a symbol at MetaTrader 5, as GET /market-data/{symbol} does."""
    return await latest(gate, caller, symbol, MT5.name)
