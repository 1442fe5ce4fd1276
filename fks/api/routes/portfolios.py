"""Portfolios: accounts and strategies valued together in one currency."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Depends, Query
from pydantic import Field

from fks.api.exact import ExactJson
from fks.api.gateway import Replica
from fks.api.query import Body, Gate, Reader, Trader, body_of, page, takes
from fks.api.routing import Router
from fks.api.views import HoldingsView, Page, PortfolioEquityPoint, PortfolioPerformance, PortfolioView
from fks.model.errors import InputError, Problem
from fks.model.timeframe import iso, to_datetime, to_ns
from fks.store.portfolios import PORTFOLIO_NAME, PortfolioChanges, PortfolioStore, portfolio_json
from fks.store.reading import ReadingStore

router = Router(tags=["portfolios"])
#: Rows of one answer: more than a year of hours.
ROWS_MAX = 10_000
Member = Annotated[str, Field(min_length=1, max_length=200)]
Archived = Annotated[bool, Query(alias="all", description="archived ones, too")]
Days = Annotated[int, Query(ge=1, le=3660, description="how far back, days")]


class PortfolioBody(Body):
    """A new portfolio. Its members are accounts, or strategy instances without their account."""

    name: str = Field(max_length=64)
    base_currency: str = Field(pattern="^[A-Z0-9]{2,12}$", description="in which it is valued; it cannot change")
    benchmark: str | None = Field(None, max_length=64, description="a symbol: BTC/USDT or binance:BTCUSDT")
    accounts: tuple[Member, ...] = Field((), max_length=1000, description="names or numbers of accounts")
    instances: tuple[Member, ...] = Field((), max_length=1000, description="ids of strategy instances")


class PortfolioChange(Body):
    """Changes of a portfolio at `version`; omitted fields stay. A list of members replaces that of its kind."""

    version: int = Field(ge=1, description="the version that was read: a change made meanwhile is not overwritten")
    name: str | None = Field(None, max_length=64)
    benchmark: str | None = Field(None, max_length=64, description='a symbol; "" for none')
    accounts: tuple[Member, ...] | None = Field(None, max_length=1000)
    instances: tuple[Member, ...] | None = Field(None, max_length=1000)


@router.get("/portfolios", response_model=Page[PortfolioView])
async def portfolios(gate: Gate, caller: Reader, with_archived: Archived = False) -> ExactJson:
    """List the portfolios with their members and their newest equity, by name."""
    rows = await PortfolioStore(gate.db).all(with_archived=with_archived)
    return ExactJson(page(portfolio_json(row) for row in rows))


@router.post("/portfolios", status_code=201, response_model=PortfolioView, openapi_extra=takes(PortfolioBody))
async def add(gate: Gate, caller: Trader, body: Annotated[PortfolioBody, Depends(body_of(PortfolioBody))]) -> ExactJson:
    """Make a portfolio. A holding belongs to at most one; an account brings the holdings of its strategy instances."""
    made = await PortfolioChanges(gate.db).add(
        _checked(body.name),
        base_currency=body.base_currency,
        benchmark=await _benchmark_of(gate, body.benchmark),
        accounts=body.accounts,
        instances=body.instances,
        by=caller.name,
    )
    gate.deps.log.info("portfolio.added", portfolio=made.name, by=caller.name)
    return ExactJson(portfolio_json(made), status_code=201, headers={"Location": f"/portfolios/{made.id}"})


@router.get("/portfolios/{id}", response_model=PortfolioView)
async def portfolio(gate: Gate, caller: Reader, id: str) -> ExactJson:
    """Return one portfolio by its number or its name."""
    return ExactJson(portfolio_json(await PortfolioStore(gate.db).get(id)))


@router.patch("/portfolios/{id}", response_model=PortfolioView, openapi_extra=takes(PortfolioChange))
async def change(
    gate: Gate, caller: Trader, id: str, body: Annotated[PortfolioChange, Depends(body_of(PortfolioChange))]
) -> ExactJson:
    """Change the name, the benchmark or the members. The hour in which members changed has no profit: the
    holdings that came or went are a flow."""
    given = body.model_dump(exclude_unset=True)
    if not given.keys() - {"version"}:
        raise Problem(
            422, "PORTFOLIO_WRONG", "nothing is to be changed", remedy="give name, benchmark, accounts or instances"
        )
    changed = await PortfolioChanges(gate.db).change(
        id,
        version=body.version,
        new_name=None if body.name is None else _checked(body.name),
        benchmark=await _benchmark_of(gate, body.benchmark),
        is_benchmark_given="benchmark" in given,
        accounts=body.accounts,
        instances=body.instances,
    )
    gate.deps.log.info("portfolio.changed", portfolio=changed.name, by=caller.name, fields=sorted(given))
    return ExactJson(portfolio_json(changed))


@router.delete("/portfolios/{id}", response_model=PortfolioView)
async def archive(gate: Gate, caller: Trader, id: str) -> ExactJson:
    """Archive a portfolio. Its equity stays, and its members may join another one. Nothing is sold."""
    archived = await PortfolioChanges(gate.db).archive(id)
    gate.deps.log.info("portfolio.archived", portfolio=archived.name, by=caller.name)
    return ExactJson(portfolio_json(archived))


@router.get("/portfolios/{id}/holdings", response_model=HoldingsView)
async def holdings(gate: Gate, caller: Reader, id: str) -> ExactJson:
    """Return the holdings of a portfolio with their values in its currency, now, and the age of each rate.

    `equity` is `cash` plus the values of the other holdings. A holding without a rate has the value null; then
    `is_complete` is false, `missing` names each rate, and `equity` is that of the rest.
    """
    from fks.jobs.valuation import value_portfolio  # not needed before

    found, now_ns = await PortfolioStore(gate.db).get(id), gate.deps.clock.now_ns()
    valuation = (await value_portfolio(gate.db, gate.deps.settings, found, now_ns)).valuation
    items: list[dict[str, Any]] = [
        {
            "account": row.holding.account,
            "instance": row.holding.instance,
            "asset": row.holding.asset,
            "symbol": row.holding.symbol,
            "quantity": row.holding.amount if row.holding.quantity is None else row.holding.quantity,
            "is_cash": row.holding.is_cash,
            "value": row.value,
            "rate": None if row.rate is None else row.rate.value,
            "rate_time": None if row.rate is None or row.rate.time_ns is None else iso(row.rate.time_ns),
            "rate_from": [] if row.rate is None else list(row.rate.legs),
            "missing": row.missing,
        }
        for row in valuation.holdings
    ]
    return ExactJson(
        {
            "portfolio": found.name,
            "currency": valuation.currency,
            "time": iso(now_ns),
            "equity": valuation.equity,
            "cash": valuation.cash,
            "is_complete": valuation.is_complete,
            "missing": list(valuation.missing),
            "items": items,
        }
    )


@router.get("/portfolios/{id}/equity", response_model=Page[PortfolioEquityPoint])
async def equity(gate: Gate, caller: Reader, id: str, days: Days = 30) -> ExactJson:
    """Return the equity of a portfolio over time, a row an hour, oldest first: at most the newest 10,000.

    `net_flow` is the money that came in (negative: went out) since the row before; the rest of the change is profit. A
    row that is not complete lacks the holdings without a rate.
    """
    found = await PortfolioStore(gate.db).get(id)
    since = to_datetime(gate.deps.clock.now_ns()) - timedelta(days=days)
    return ExactJson(page(await PortfolioStore(gate.db).equity(found.id, since, ROWS_MAX)))


@router.get("/portfolios/{id}/performance", response_model=PortfolioPerformance)
async def performance(gate: Gate, caller: Reader, id: str, days: Days = 365) -> ExactJson:
    """Return the profit of a portfolio without flows, its time-weighted return, and its risk by UTC day.

    Only complete hours count. A ratio is null where it is not defined: fewer than three days, nothing to divide by, a
    yearly rate over less than 30 days. Over more than 10,000 hours the newest count.
    """
    import numpy as np

    from fks.backtest.metrics import equity_metrics_of  # numpy and numba are not needed before
    from fks.portfolio.valuation import EquityRow, growth_of

    found = await PortfolioStore(gate.db).get(id)
    since = to_datetime(gate.deps.clock.now_ns()) - timedelta(days=days)
    stored = await PortfolioStore(gate.db).equity(found.id, since, ROWS_MAX)
    rows = [EquityRow(to_ns(r["time"]), r["equity"], r["net_flow"], r["is_complete"]) for r in stored]
    growth = growth_of(rows)
    times = np.array([time_ns for time_ns, _ in growth], dtype=np.int64)
    metrics = equity_metrics_of(times, np.array([level for _, level in growth], dtype=np.float64))
    complete = [row for row in rows if row.is_complete]
    first, last = (complete[0], complete[-1]) if complete else (None, None)
    flows = sum((r.net_flow for r in rows if first and last and first.time_ns < r.time_ns <= last.time_ns), Decimal(0))
    return ExactJson(
        {
            "portfolio": found.name,
            "currency": found.base_currency,
            "first_at": None if first is None else iso(first.time_ns),
            "last_at": None if last is None else iso(last.time_ns),
            "hours": len(complete),
            "hours_incomplete": len(rows) - len(complete),
            "equity_at_start": None if first is None else first.equity,
            "equity": None if last is None else last.equity,
            "net_flow": flows,
            "profit": None if first is None or last is None else last.equity - first.equity - flows,
            **asdict(metrics),
        }
    )


def _checked(name: str) -> str:
    if not PORTFOLIO_NAME.fullmatch(name):
        raise InputError(
            f"name {name!r} is not usable",
            code="PORTFOLIO_WRONG",
            status=422,
            remedy="use 1 to 64 letters, digits, dots, dashes or underscores, with a letter among them",
        )
    return name


async def _benchmark_of(gate: Replica, symbol: str | None) -> str | None:
    """Return a benchmark as exchange:symbol, None for none. Errors: InputError for an unknown or ambiguous symbol."""
    if not symbol:
        return None
    return (await ReadingStore(gate.db).find(symbol)).place
