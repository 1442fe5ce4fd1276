"""Equity of the accounts: now, since the start of the day, and over time."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import Query

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import Gate, Reader, page
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import EquityPoint, EquityView, Page
from fks.model.errors import not_found
from fks.model.timeframe import to_datetime

router = Router(tags=["accounts"])
#: Points of one answer: more than a chart has pixels to show.
POINTS_MAX = 600
Days = Annotated[int, Query(ge=1, le=400, description="how far back, days")]


@router.get("/equity", response_model=Page[EquityView])
async def equity(gate: Gate, caller: Reader) -> ExactJson:
    """Return the newest equity of each enabled account, and its profit since 00:00 UTC without deposits and
    withdrawals. Accounts without a balance yet are not listed."""
    return ExactJson(page(await gate.db.fetch("gateway.equity", caller.account_list)))


@router.get("/equity/{name}", response_model=Page[EquityPoint])
async def history(gate: Gate, caller: Reader, name: str, days: Days = 30) -> ExactJson:
    """Return the equity of one account over time, oldest first: the last value of each of at most 600 equal spans."""
    accounts = await gate.db.fetch("gateway.accounts", caller.account_list)
    account = next((row["id"] for row in accounts if row["name"] == name), None)
    if account is None:
        raise not_found("ACCOUNT_UNKNOWN", f"there is no account {name!r}", "see GET /accounts")
    since = to_datetime(gate.deps.clock.now_ns()) - timedelta(days=days)
    rows = await gate.db.fetch("gateway.equity_history", account, since, days * 86400 / POINTS_MAX)
    return ExactJson(page(rows))
