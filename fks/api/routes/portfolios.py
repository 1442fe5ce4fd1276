"""Portfolios: accounts and strategies valued together in one currency, their targets and their rebalancings."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Header, Query
from pydantic import Field

from fks.api.exact import ExactJson
from fks.api.gateway import Replica
from fks.api.query import Body, Gate, Limit, Reader, Trader, body_of, page, takes
from fks.api.routing import Router
from fks.api.views import (
    HoldingsView,
    Page,
    PortfolioDriftView,
    PortfolioEquityPoint,
    PortfolioPerformance,
    PortfolioRunDetail,
    PortfolioRunView,
    PortfolioTargetsView,
    PortfolioView,
    RebalancePreview,
)
from fks.model.errors import InputError, Problem
from fks.model.timeframe import iso, to_datetime, to_ns
from fks.model.untrusted import Exact, whole_of
from fks.portfolio.rebalance import RebalanceRules
from fks.store.portfolios import PORTFOLIO_NAME, PortfolioChanges, PortfolioStore, portfolio_json
from fks.store.reading import ReadingStore

if TYPE_CHECKING:
    from fks.entry.rebalancing import Rebalancing

router = Router(tags=["portfolios"])
#: Targets of one portfolio.
TARGETS_MAX = 500
_RULES = RebalanceRules()
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


class TargetBody(Body):
    """The share of the capital that an instrument is to have. `min` and `max` replace the band of the rules."""

    instrument: str = Field(min_length=1, max_length=64, description="BTC/USDT, BTCUSDT or binance:BTCUSDT")
    weight: Exact = Field(ge=0, le=1)
    min: Exact | None = Field(None, ge=0, le=1)
    max: Exact | None = Field(None, ge=0, le=1)


class RebalanceRulesBody(Body):
    """Limits of a rebalancing; fractions are shares of the capital."""

    band: Exact = Field(_RULES.band, ge=0, le=1, description="distance from the target in which nothing is traded")
    band_relative: Exact | None = Field(
        None, ge=0, le=1, description="the same as a fraction of the target weight; the smaller of the two counts"
    )
    trade_min: Exact = Field(_RULES.trade_min, ge=0, description="smallest trade, in the portfolio's currency")
    cash_min: Exact = Field(_RULES.cash_min, ge=0, le=1, description="cash that stays after all costs")
    turnover_max: Exact | None = Field(None, gt=0, le=2, description="most that one rebalancing trades, sells and buys")
    price_tolerance: Exact = Field(
        _RULES.price_tolerance, gt=0, le=1, description="fraction by which a price may differ from the plan's"
    )
    run_max_age_s: float = Field(
        _RULES.run_max_age_s, ge=1, le=604_800, description="no order is sent after it, seconds"
    )


class TargetsBody(Body):
    """All targets of a portfolio, which replace those before."""

    version: int | None = Field(None, ge=0, lt=2**31, description="the version that was read, or send it as If-Match")
    account: str | None = Field(None, min_length=1, max_length=200, description="the member that trades")
    targets: tuple[TargetBody, ...] = Field(max_length=TARGETS_MAX)
    rules: RebalanceRulesBody = RebalanceRulesBody()


class RebalanceBody(Body):
    """The plan to start."""

    plan_hash: str = Field(pattern="^[0-9a-f]{64}$", description="of the preview")


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


# ── targets and rebalancing ──────────────────────────────────────────────────────────────────────
@router.get("/portfolios/{id}/targets", response_model=PortfolioTargetsView)
async def targets(gate: Gate, caller: Reader, id: str) -> ExactJson:
    """Return the target weights of a portfolio, the account that trades for it, and the rules of rebalancing.

    Version 0: it has none yet.
    """
    return _versioned(await _rebalancing(gate).targets(id))


@router.put("/portfolios/{id}/targets", response_model=PortfolioTargetsView, openapi_extra=takes(TargetsBody))
async def set_targets(
    gate: Gate,
    caller: Trader,
    id: str,
    body: Annotated[TargetsBody, Depends(body_of(TargetsBody))],
    if_match: Annotated[str | None, Header(max_length=40)] = None,
) -> ExactJson:
    """Replace the target weights and the rules. Nothing is traded.

    The version that was read is sent as `version` or as `If-Match`: targets that were changed meanwhile are not
    overwritten.
    """
    given = {version for version in (body.version, _version_of(if_match)) if version is not None}
    if len(given) != 1:
        raise Problem(
            422,
            "TARGETS_WRONG",
            "the version that was read is missing, or given twice",
            remedy="send it as version in the body or as If-Match; 0 for the first targets",
        )
    found = await _rebalancing(gate).set_targets(
        id,
        version=given.pop(),
        account=body.account,
        targets=[(row.instrument, row.weight, row.min, row.max) for row in body.targets],
        rules=body.rules.model_dump(),
        by=caller.name,
    )
    return _versioned(found)


@router.get("/portfolios/{id}/drift", response_model=PortfolioDriftView)
async def drift(gate: Gate, caller: Reader, id: str) -> ExactJson:
    """Return the weight of each instrument beside its target, and the weight that a rebalancing would leave.

    Weights are shares of the capital: the coins of the portfolio's own instance and the free cash of its account.
    """
    return ExactJson(await _rebalancing(gate).drift(id))


@router.post("/portfolios/{id}/preview", response_model=RebalancePreview)
async def preview(gate: Gate, caller: Trader, id: str) -> ExactJson:
    """Return the orders that a rebalancing would send now, with fees, expected slippage and the denials known before,
    and the drift that it leaves. `plan_hash` starts it within 60 s."""
    return ExactJson(await _rebalancing(gate).preview(id, caller.name))


@router.post(
    "/portfolios/{id}/rebalance",
    status_code=202,
    response_model=PortfolioRunDetail,
    openapi_extra=takes(RebalanceBody),
)
async def rebalance(
    gate: Gate, caller: Trader, id: str, body: Annotated[RebalanceBody, Depends(body_of(RebalanceBody))]
) -> ExactJson:
    """Start a previewed rebalancing and return its run; the same hash again returns the same run.

    It is refused when the plan is older than 60 s, its targets were changed, or a price moved beyond the tolerance.
    """
    found = await _rebalancing(gate).rebalance(id, body.plan_hash, caller.name)
    return ExactJson(found, status_code=202, headers={"Location": f"/portfolios/{id}/runs/{found['id']}"})


@router.get("/portfolios/{id}/runs", response_model=Page[PortfolioRunView])
async def runs(gate: Gate, caller: Reader, id: str, limit: Limit = 100) -> ExactJson:
    """List the rebalancings of a portfolio, newest first."""
    return ExactJson(page(await _rebalancing(gate).runs(id, limit)))


@router.get("/portfolios/{id}/runs/{run}", response_model=PortfolioRunDetail)
async def run(gate: Gate, caller: Reader, id: str, run: uuid.UUID) -> ExactJson:
    """Return a rebalancing with its steps, and what became of each."""
    return ExactJson(await _rebalancing(gate).run(id, run))


@router.post("/portfolios/{id}/runs/{run}/cancel", status_code=202, response_model=PortfolioRunDetail)
async def cancel(gate: Gate, caller: Trader, id: str, run: uuid.UUID) -> ExactJson:
    """Cancel a rebalancing: it sends no more orders, and open ones are cancelled. What has filled stays."""
    return ExactJson(await _rebalancing(gate).cancel(id, run, caller.name), status_code=202)


def _rebalancing(gate: Replica) -> Rebalancing:
    from fks.entry.rebalancing import Rebalancing  # not needed before

    return Rebalancing(gate.db, gate.bus, gate.deps.clock, gate.deps.settings, gate.deps.log)


def _versioned(found: dict[str, Any]) -> ExactJson:
    return ExactJson(found, headers={"ETag": f'"{found["version"]}"'})


def _version_of(if_match: str | None) -> int | None:
    """Return the version in an If-Match header. Errors: Problem TARGETS_WRONG."""
    if if_match is None:
        return None
    text = if_match.strip().removeprefix("W/").strip('"')
    if not (text.isascii() and text.isdigit()):
        raise Problem(
            422, "TARGETS_WRONG", "If-Match is no version of targets", remedy="send the ETag of GET …/targets"
        )
    return whole_of(text)


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
