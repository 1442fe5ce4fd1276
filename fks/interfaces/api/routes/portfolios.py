"""Portfolios: accounts and strategies valued together in one currency, their targets and their rebalancings."""

from __future__ import annotations

import math
import uuid
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Header, Query
from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.jobs import check_quota
from fks.interfaces.api.query import Body, BodyOf, Gate, Limit, Reader, Trader, page, version_of
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import (
    AllocationJobView,
    AllocationView,
    HoldingsView,
    Page,
    PortfolioAttribution,
    PortfolioDriftView,
    PortfolioEquityPoint,
    PortfolioIncome,
    PortfolioLimitView,
    PortfolioPerformance,
    PortfolioRiskView,
    PortfolioRunDetail,
    PortfolioRunView,
    PortfolioTargetsView,
    PortfolioTriggerView,
    PortfolioView,
    RebalancePreview,
)
from fks.model.errors import not_found, unprocessable
from fks.model.json_fields import json_fields
from fks.model.timeframe import iso, to_datetime
from fks.model.untrusted import Exact, decimal_of
from fks.research.jobs.allocation import KIND as ALLOCATION
from fks.research.jobs.allocation import AllocationBody, check_allocation, parse_spec
from fks.store.bus import JOBS
from fks.store.incidents import IncidentStore
from fks.store.jobs import JobStore
from fks.store.portfolios import PORTFOLIO_NAME, PortfolioChanges, PortfolioStore, portfolio_json
from fks.store.reading import ReadingStore
from fks.trading.portfolio.benchmark import parse_benchmark, text_of
from fks.trading.portfolio.rebalance import COLLAR_MAX, RebalanceRules, Trigger, TriggerPolicy

if TYPE_CHECKING:
    from fks.interfaces.entry.rebalancing import Rebalancing
    from fks.trading.portfolio.risk import StressScenario

router = Router(tags=["portfolios"])
#: Targets of one portfolio.
TARGETS_MAX = 500
_RULES, _POLICY = RebalanceRules(), TriggerPolicy()
#: Factors whose correlations are in one answer.
CORRELATED_MAX = 50
#: Rows of one answer: more than a year of hours.
ROWS_MAX = 10_000
#: A difference of an account is an incident once it was the same for `risk.drift_confirm_s` of calm moments.
INCIDENT_WITHIN = timedelta(hours=1)
Member = Annotated[str, Field(min_length=1, max_length=200)]
Archived = Annotated[bool, Query(alias="all", description="archived ones, too")]
Days = Annotated[int, Query(ge=1, le=3660, description="how far back, days")]
_BENCHMARK = "a symbol (BTC/USDT or binance:BTCUSDT), cash:RATE, or a blend: 0.6*BTC/USDT+0.4*cash:0.04"
Benchmark = Annotated[str | None, Query(max_length=200, description=f"{_BENCHMARK}; default the portfolio's")]
CashRate = Annotated[Decimal | None, Query(gt=-1, le=10, description="yearly rate of cash to compare with, as 0.04")]


class PortfolioBody(Body):
    """A new portfolio. Its members are accounts, or strategy instances without their account."""

    name: str = Field(max_length=64)
    base_currency: str = Field(pattern="^[A-Z0-9]{2,12}$", description="in which it is valued; it cannot change")
    benchmark: str | None = Field(None, max_length=200, description=_BENCHMARK)
    accounts: tuple[Member, ...] = Field((), max_length=1000, description="names or numbers of accounts")
    instances: tuple[Member, ...] = Field((), max_length=1000, description="ids of strategy instances")


class PortfolioChange(Body):
    """Changes of a portfolio at `version`; omitted fields stay. A list of members replaces that of its kind."""

    version: int = Field(ge=1, description="the version that was read: a change made meanwhile is not overwritten")
    name: str | None = Field(None, max_length=64)
    benchmark: str | None = Field(None, max_length=200, description=f'{_BENCHMARK}; "" for none')
    day_end_min: int | None = Field(None, ge=0, lt=1440, description="end of its day, minutes after midnight UTC")
    accounts: tuple[Member, ...] | None = Field(None, max_length=1000)
    instances: tuple[Member, ...] | None = Field(None, max_length=1000)


class PortfolioLimitBody(Body):
    """A limit of entries: gross exposure or 1-day historical VaR at 95 %, in the portfolio's currency, or the largest
    share of one asset in the gross exposure."""

    kind: Literal["gross_exposure", "var_95_1d", "weight_max"]
    value: Exact = Field(gt=0, lt=10**15)
    age_max_s: float = Field(900.0, ge=60, le=86_400, description="an older measurement denies entries, seconds")


class PortfolioLimitsBody(Body):
    """All limits of a portfolio, which replace those before."""

    limits: tuple[PortfolioLimitBody, ...] = Field(max_length=3)


class TargetBody(Body):
    """The share of the capital that an instrument is to have. `min` and `max` replace the band of the rules."""

    instrument: str = Field(min_length=1, max_length=64, description="BTC/USDT, BTCUSDT or binance:BTCUSDT")
    weight: Exact = Field(ge=0, le=1)
    min: Exact | None = Field(None, ge=0, le=1)
    max: Exact | None = Field(None, ge=0, le=1)


class InstanceTargetBody(Body):
    """The share of the portfolio's equity that sizes the entries of a strategy instance."""

    instance: Member
    weight: Exact = Field(gt=0, le=1)


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
    collar: Exact | None = Field(
        None,
        gt=0,
        le=COLLAR_MAX,
        description="orders are limits this fraction from the plan's price at most, which fill at once or expire; null:"
        " market orders",
    )


class TargetsBody(Body):
    """All targets of a portfolio, which replace those before."""

    version: int | None = Field(None, ge=0, lt=2**31, description="the version that was read, or send it as If-Match")
    account: str | None = Field(None, min_length=1, max_length=200, description="the member that trades")
    targets: tuple[TargetBody, ...] = Field(max_length=TARGETS_MAX)
    instances: tuple[InstanceTargetBody, ...] | None = Field(
        None, max_length=TARGETS_MAX, description="weights of strategy instances; omitted, they stay"
    )
    rules: RebalanceRulesBody = RebalanceRulesBody()


class TriggerBody(Body):
    """Conditions of rebalancings without a person; a field that is left out has its default."""

    trigger: Trigger = Field(_POLICY.trigger, description="person, schedule (action rebalance) or drift")
    band: Exact | None = Field(None, ge=0, le=1, description="distance from a target that starts a run by drift")
    timeframe: str = Field(_POLICY.timeframe, max_length=4, description="of the bars that decide")
    cooldown_s: float = Field(
        _POLICY.cooldown_s, ge=0, le=31_622_400, description="after the start of a run, drift starts none, seconds"
    )
    needs_approval: bool = Field(_POLICY.needs_approval, description="a person starts each plan")
    change_max: Exact = Field(
        _POLICY.change_max, ge=0, le=1, description="most that a weight changes when an allocation is applied by itself"
    )


class RebalanceBody(Body):
    """The plan to start."""

    plan_hash: str = Field(pattern="^[0-9a-f]{64}$", description="of the preview")


@router.get("/portfolios", response_model=Page[PortfolioView])
async def portfolios(gate: Gate, caller: Reader, with_archived: Archived = False) -> ExactJson:
    """List the portfolios with their members and their newest equity, by name."""
    rows = await PortfolioStore(gate.db).all(with_archived=with_archived)
    return ExactJson(page(portfolio_json(row) for row in rows))


@router.post("/portfolios", status_code=201, response_model=PortfolioView)
async def add(gate: Gate, caller: Trader, body: BodyOf[PortfolioBody]) -> ExactJson:
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


@router.patch("/portfolios/{id}", response_model=PortfolioView)
async def change(gate: Gate, caller: Trader, id: str, body: BodyOf[PortfolioChange]) -> ExactJson:
    """Change the name, the benchmark, the end of its day or the members. The hour in which members changed has no
    profit: the holdings that came or went are a flow. With the members the limits of entries are measured again."""
    given = body.model_dump(exclude_unset=True)
    if not given.keys() - {"version"}:
        raise unprocessable(
            "PORTFOLIO_WRONG", "nothing is to be changed", "give name, benchmark, day_end_min or members"
        )
    changed = await PortfolioChanges(gate.db).change(
        id,
        version=body.version,
        new_name=None if body.name is None else _checked(body.name),
        benchmark=await _benchmark_of(gate, body.benchmark),
        is_benchmark_given="benchmark" in given,
        day_end_min=body.day_end_min,
        accounts=body.accounts,
        instances=body.instances,
    )
    gate.deps.log.info("portfolio.changed", portfolio=changed.name, by=caller.name, fields=sorted(given))
    if body.accounts is not None or body.instances is not None:
        from fks.research.jobs.portfolio_risk import measure_limits  # numpy is not needed before

        await measure_limits(gate.db, gate.deps.settings, gate.deps.clock.now_ns(), changed.name)
    return ExactJson(portfolio_json(changed))


@router.delete("/portfolios/{id}", response_model=PortfolioView)
async def archive(gate: Gate, caller: Trader, id: str) -> ExactJson:
    """Archive a portfolio. Its equity stays, and its members may join another one. Nothing is sold."""
    archived = await PortfolioChanges(gate.db).archive(id)
    gate.deps.log.info("portfolio.archived", portfolio=archived.name, by=caller.name)
    return ExactJson(portfolio_json(archived))


@router.get("/portfolios/{id}/holdings", response_model=HoldingsView)
async def holdings(
    gate: Gate,
    caller: Reader,
    id: str,
    at: Annotated[datetime | None, Query(description="a past moment: the last complete hour by then")] = None,
) -> ExactJson:
    """Return the holdings of a portfolio with their values in its currency, now, and the age of each rate.

    `equity` is `cash` plus the values of the other holdings. A holding without a rate has the value null; then
    `is_complete` is false, `missing` names each rate, and `equity` is that of the rest. With `at` they are those of the
    last complete hour by then, at the rates that were used then: 404 VALUATION_MISSING without one.
    """
    from fks.research.jobs.valuation import value_portfolio  # not needed before

    store = PortfolioStore(gate.db)
    found, now_ns = await store.get(id), gate.deps.clock.now_ns()
    if at is None:
        valuation = (await value_portfolio(gate.db, gate.deps.settings, found, now_ns)).valuation
    else:
        past = await store.valuation_at(found, _utc(at))
        if past is None:
            raise not_found(
                "VALUATION_MISSING",
                f"portfolio {found.name} has no complete hour up to {at}",
                "give a later time; see fks portfolio equity",
            )
        now_ns, valuation = past
    items: list[dict[str, Any]] = [
        {
            **json_fields(row.holding, "account", "instance", "asset", "symbol", "is_cash"),
            "quantity": row.holding.amount if row.holding.quantity is None else row.holding.quantity,
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
            **json_fields(valuation, "currency", "equity", "cash", "is_complete", "missing"),
            "time": iso(now_ns),
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
async def performance(
    gate: Gate, caller: Reader, id: str, days: Days = 365, benchmark: Benchmark = None, cash_rate: CashRate = None
) -> ExactJson:
    """Return the profit of a portfolio without flows, its returns, its risk by UTC day, and how it compares with a
    benchmark, by default the portfolio's: a symbol, cash at a yearly rate, or a blend with constant weights.

    Only complete hours count. A ratio is null where it is not defined: fewer than three days, nothing to divide by, a
    yearly rate over less than 30 days. Over more than 10,000 hours the newest count. `won` and `lost`: executions that
    closed some of a position. `turnover`: the value of all executions over the mean equity; `payoff`: the mean profit
    over the mean loss. `invested_pct`: the mean share of the equity that is not cash.
    """
    if benchmark and cash_rate is not None:
        raise unprocessable("PORTFOLIO_WRONG", "two benchmarks are given", "give benchmark or cash_rate")
    from fks.research.jobs.portfolio_risk import measure_performance  # numpy and numba are not needed before

    found = await PortfolioStore(gate.db).get(id)
    if cash_rate is not None:
        benchmark = f"cash:{cash_rate:f}"
    against = await _benchmark_of(gate, benchmark) or found.benchmark
    since = to_datetime(gate.deps.clock.now_ns()) - timedelta(days=days)
    measured = await measure_performance(gate.db, found, since, ROWS_MAX, benchmark=against)
    return ExactJson(measured)


# ── risk and attribution ─────────────────────────────────────────────────────────────────────────
@router.get("/portfolios/{id}/risk", response_model=PortfolioRiskView)
async def risk(
    gate: Gate,
    caller: Reader,
    id: str,
    days: Annotated[int, Query(ge=60, le=3660, description="days of prices")] = 365,
    benchmark: Benchmark = None,
    scenario: Annotated[
        str | None, Query(max_length=500, description="moves to try, as BTC=-0.3,ETH=-0.4; fractions of the price")
    ] = None,
) -> ExactJson:
    """Return the risk of the holdings of a portfolio now: exposure, concentration, tail losses and their parts, beta,
    correlations, stress scenarios, leverage of accounts with contracts, and the limits of entries.

    Correlations are those of the 50 largest factors. Tail losses come from daily closes at UTC midnight with the
    holdings of now. What has no rate or too short a history is in `missing`, and no figure includes it.
    """
    from fks.research.jobs.portfolio_risk import measure_risk  # numpy is not needed before

    store, now_ns = PortfolioStore(gate.db), gate.deps.clock.now_ns()
    found = await store.get(id)
    against = await _benchmark_of(gate, benchmark) or found.benchmark
    wanted = _scenario_of(scenario)
    measured = await measure_risk(
        gate.db, gate.deps.settings, found, now_ns, days=days, benchmark=against, scenarios=wanted
    )
    exposure, tails = measured.exposure, measured.risk
    sizes = {row.factor: abs(row.value) for row in tails.components}
    largest = sorted(sorted(sizes, key=lambda name: (-sizes[name], name))[:CORRELATED_MAX])
    places = [tails.factors.index(name) for name in largest]
    return ExactJson(
        {
            "portfolio": found.name,
            "currency": found.base_currency,
            "time": iso(now_ns),
            "days": days,
            "returns": tails.returns,
            "equity": measured.valued.valuation.equity,
            **json_fields(exposure, "gross", "net", "herfindahl", "largest", "largest_share"),
            "exposures": [asdict(row) for row in exposure.shares],
            "tails": [asdict(row) for row in tails.tails],
            "components": [asdict(row) for row in tails.components],
            "factors": largest,
            "correlations": [
                [None if math.isnan(value) else value for value in row]
                for row in tails.correlations[places][:, places].tolist()
            ],
            "benchmark": against,
            "beta": tails.beta,
            "stress": [
                json_fields(row.scenario, "name", "source", "moves") | json_fields(row, "profit", "unmoved")
                for row in measured.stress
            ],
            "margins": [asdict(row) for row in measured.margins],
            "limits": await store.limits(found.id),
            "is_complete": not measured.missing,
            "missing": list(measured.missing),
        }
    )


def _scenario_of(moves: str | None) -> list[StressScenario]:
    """Return the caller's scenario. Errors: InputError PORTFOLIO_WRONG."""
    from fks.trading.portfolio.risk import StressScenario

    found: dict[str, Decimal] = {}
    for text in moves.split(",") if moves else ():
        asset, sign, number = text.partition("=")
        try:
            move = decimal_of(number)
        except ValueError:
            move = None
        if not asset or not sign or move is None or not -1 <= move <= 100:
            raise unprocessable("PORTFOLIO_WRONG", f"{text[:64]!r} is no move", "give ASSET=FRACTION, as BTC=-0.3")
        found[asset.strip().upper()] = move
    return [StressScenario("yours", found, "the caller")] if found else []


@router.get("/portfolios/{id}/limits", response_model=Page[PortfolioLimitView])
async def limits(gate: Gate, caller: Reader, id: str) -> ExactJson:
    """Return the limits of entries of a portfolio, each with its last measurement."""
    store = PortfolioStore(gate.db)
    return ExactJson(page(await store.limits((await store.get(id)).id)))


@router.put("/portfolios/{id}/limits", response_model=Page[PortfolioLimitView])
async def set_limits(gate: Gate, caller: Trader, id: str, body: BodyOf[PortfolioLimitsBody]) -> ExactJson:
    """Replace the limits of entries of a portfolio, and measure them at once.

    Every five minutes they are measured again. Once a measurement is above its limit, older than `age_max_s`, or not
    known, entries of the members are denied with PORTFOLIO_LIMIT, never exits.
    """
    from fks.research.jobs.portfolio_risk import measure_limits

    kinds = [row.kind for row in body.limits]
    if len({*kinds}) < len(kinds):
        raise unprocessable("PORTFOLIO_WRONG", "a kind of limit is given twice", "give each kind once")
    rows = [(row.kind, row.value, row.age_max_s) for row in body.limits]
    found = await PortfolioChanges(gate.db).set_limits(id, rows, caller.name)
    gate.deps.log.info("portfolio.limits", portfolio=found.name, by=caller.name, kinds=sorted(kinds))
    await measure_limits(gate.db, gate.deps.settings, gate.deps.clock.now_ns(), found.name)
    return ExactJson(page(await PortfolioStore(gate.db).limits(found.id)))


@router.get("/portfolios/{id}/attribution", response_model=PortfolioAttribution)
async def attribution(
    gate: Gate,
    caller: Reader,
    id: str,
    start: Annotated[datetime | None, Query(alias="from", description="default a week before `to`")] = None,
    end: Annotated[datetime | None, Query(alias="to", description="default now")] = None,
    rows: Annotated[bool, Query(description="with each holding, execution, split and payment")] = False,
) -> ExactJson:
    """Return the change of a portfolio's equity by its causes, by instance and instrument.

    It is between the complete hours nearest to `from` and `to`, since the last change of members. `rest` is the part
    that no row explains, `unexplained` says of which assets, with the drift incident of each; beyond 0.01
    `is_explained` is false. `undecided`: executions without the price of a decision; their slippage is in `price`.
    404 ATTRIBUTION_MISSING without two such hours.
    """
    from fks.model.accounting.attribution import PARTS, TOLERANCE, attribute

    store, now = PortfolioStore(gate.db), to_datetime(gate.deps.clock.now_ns())
    found = await store.get(id)
    until = now if end is None else _utc(end)
    since = until - timedelta(days=7) if start is None else _utc(start)
    if since >= until:
        raise unprocessable("PORTFOLIO_WRONG", "the period ends before it begins", "give an earlier `from`")
    states = await store.states(found.id, since, until)
    if not states:
        raise not_found(
            "ATTRIBUTION_MISSING",
            f"portfolio {found.name} has no two complete hours with the same members there",
            "its equity is written every hour; see fks portfolio equity",
        )
    first, last = states
    began, ended = to_datetime(first.time_ns), to_datetime(last.time_ns)
    split = attribute(first, last, *await store.moves(found.id, began, ended))
    accounts = {row.account for row in split.unexplained}
    incidents = await IncidentStore(gate.db).drifts(accounts, began, ended + INCIDENT_WITHIN) if accounts else {}
    return ExactJson(
        {
            "portfolio": found.name,
            "currency": found.base_currency,
            "first_at": iso(first.time_ns),
            "last_at": iso(last.time_ns),
            "equity_at_start": first.equity,
            "equity": last.equity,
            "change": split.change,
            "parts": split.totals(),
            "rest": split.rest,
            "is_explained": abs(split.rest) < TOLERANCE and not split.unexplained,
            "undecided": split.undecided,
            "items": [
                {**name._asdict(), **parts, "total": sum(parts.values(), Decimal(0))} for name, parts in split.lines()
            ],
            "unexplained": [
                asdict(row) | {"incident": incidents.get((row.account, row.asset))} for row in split.unexplained
            ],
            "rows": [
                {
                    "kind": row.kind,
                    "id": row.id,
                    "time": None if row.time_ns is None else iso(row.time_ns),
                    **row.name._asdict(),
                    **(dict.fromkeys(PARTS, Decimal(0)) | dict(row.parts)),
                    "total": row.total,
                }
                for row in (split.entries if rows else ())
            ],
        }
    )


@router.get("/portfolios/{id}/income", response_model=PortfolioIncome)
async def income(
    gate: Gate,
    caller: Reader,
    id: str,
    days: Annotated[int, Query(ge=1, le=366, description="how far back, days")] = 30,
    rows: Annotated[bool, Query(description="with each event: the newest 10,000")] = False,
) -> ExactJson:
    """Return the dividends, splits and funding that a portfolio's positions should have had, by the stored events, and
    what is booked.

    Booked are splits that were applied, income that a person recorded, and differences of a balance that a person
    adopted or explained as `dividend` or `funding`. An event that is not stored, or has no price, is not known:
    `expected` is null, never zero.
    """
    from fks.research.jobs.income import expected_income
    from fks.trading.portfolio.income import NOT_EXPECTED, compared

    found = await PortfolioStore(gate.db).get(id)
    end_ns = gate.deps.clock.now_ns()
    start_ns = end_ns - days * 86_400 * 10**9
    expected, booked = await expected_income(gate.db, found.id, start_ns, end_ns)
    return ExactJson(
        {
            "portfolio": found.name,
            "first_at": iso(start_ns),
            "last_at": iso(end_ns),
            "items": compared(expected, booked),
            "not_expected": NOT_EXPECTED,
            "rows": [
                json_fields(row, without=("time_ns",), time=iso(row.time_ns))
                for row in (expected[-ROWS_MAX:] if rows else ())
            ],
        }
    )


def _utc(moment: datetime) -> datetime:
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise unprocessable("TIME_INVALID", f"{moment} is no time in UTC", "use a later or an earlier one") from None


# ── targets and rebalancing ──────────────────────────────────────────────────────────────────────
@router.get("/portfolios/{id}/targets", response_model=PortfolioTargetsView)
async def targets(gate: Gate, caller: Reader, id: str) -> ExactJson:
    """Return the target weights of a portfolio, the account that trades for it, and the rules of rebalancing.

    Version 0: it has none yet.
    """
    return _versioned(await _rebalancing(gate).targets(id))


@router.put("/portfolios/{id}/targets", response_model=PortfolioTargetsView)
async def set_targets(
    gate: Gate,
    caller: Trader,
    id: str,
    body: BodyOf[TargetsBody],
    if_match: Annotated[str | None, Header(max_length=40)] = None,
) -> ExactJson:
    """Replace the target weights and the rules. Nothing is traded. A strategy instance with a weight gets its size
    within seconds, by a new version of its parameters, once no entry of it is open.

    The version that was read is sent as `version` or as `If-Match`: targets that were changed meanwhile are not
    overwritten.
    """
    sized = None if body.instances is None else {row.instance: row.weight for row in body.instances}
    if sized is not None and len(sized) < len(body.instances or ()):
        raise unprocessable("TARGETS_WRONG", "an instance has two targets", "give each instance once")
    found = await _rebalancing(gate).set_targets(
        id,
        version=version_of(body.version, if_match, "TARGETS_WRONG"),
        account=body.account,
        targets=[(row.instrument, row.weight, row.min, row.max) for row in body.targets],
        rules=body.rules.model_dump(),
        instances=sized,
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
async def preview(
    gate: Gate,
    caller: Trader,
    id: str,
    lots: Annotated[bool, Query(description="the lots that each sell would use up, first in first out")] = False,
) -> ExactJson:
    """Return the orders that a rebalancing would send now, with fees, expected slippage and the denials known before,
    and the drift that it leaves. `plan_hash` starts it within 60 s.

    With `lots` each sell has its gain by lot, over all coins of the account: that reads the account's whole history.
    """
    return ExactJson(await _rebalancing(gate).preview(id, caller.name, with_lots=lots))


@router.post(
    "/portfolios/{id}/rebalance",
    status_code=202,
    response_model=PortfolioRunDetail,
)
async def rebalance(gate: Gate, caller: Trader, id: str, body: BodyOf[RebalanceBody]) -> ExactJson:
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


# ── triggers and allocations ─────────────────────────────────────────────────────────────────────
@router.get("/portfolios/{id}/trigger", response_model=PortfolioTriggerView)
async def trigger(gate: Gate, caller: Reader, id: str) -> ExactJson:
    """Return when a portfolio is rebalanced without a person, and why it was or was not lately."""
    return ExactJson(await _rebalancing(gate).trigger(id))


@router.put("/portfolios/{id}/trigger", response_model=PortfolioTriggerView)
async def set_trigger(gate: Gate, caller: Trader, id: str, body: BodyOf[TriggerBody]) -> ExactJson:
    """Set when a portfolio is rebalanced without a person: by schedules with the action `rebalance`, or by drift.

    Drift starts a run at most once a bar, by the closes of sealed bars. A schedule's request that waits is dropped.
    """
    return ExactJson(await _rebalancing(gate).set_trigger(id, TriggerPolicy(**body.model_dump()), caller.name))


@router.post("/portfolios/{id}/allocate", status_code=202, response_model=AllocationJobView)
async def allocate(gate: Gate, caller: Trader, id: str, body: BodyOf[AllocationBody]) -> ExactJson:
    """Queue the calculation of target weights from past returns of instruments, strategy instances, or both. It changes
    no targets. A request that no returns can make possible queues nothing."""
    found = await PortfolioStore(gate.db).get(id)
    spec = {**body.model_dump(mode="json"), "portfolio": str(found.id)}
    await check_allocation(gate.db, parse_spec(spec))
    await check_quota(gate, caller)
    job_id = await JobStore(gate.db).submit(ALLOCATION, spec, submitted_by=caller.name)
    await gate.bus.publish(JOBS, {"type": "job", "id": str(job_id), "state": "queued"})
    where = {"Location": f"/portfolios/{id}/allocations/{job_id}"}
    return ExactJson(await _allocation(gate, id, job_id), status_code=202, headers=where)


@router.get("/portfolios/{id}/allocations", response_model=Page[AllocationView])
async def allocations(gate: Gate, caller: Reader, id: str, limit: Limit = 100) -> ExactJson:
    """List the allocations of a portfolio that are done, newest first."""
    return ExactJson(page(await _rebalancing(gate).allocations(id, limit)))


@router.get("/portfolios/{id}/allocations/{allocation}", response_model=AllocationJobView)
async def allocation(gate: Gate, caller: Reader, id: str, allocation: uuid.UUID) -> ExactJson:
    """Return an allocation: how far its job is, and once it is done its weights and figures about them."""
    return ExactJson(await _allocation(gate, id, allocation))


@router.post("/portfolios/{id}/allocations/{allocation}/apply", response_model=PortfolioTargetsView)
async def apply(gate: Gate, caller: Trader, id: str, allocation: uuid.UUID) -> ExactJson:
    """Make the weights of an allocation the targets, at the version that it was calculated for. Nothing is traded."""
    return _versioned(await _rebalancing(gate).apply(id, allocation, caller.name))


async def _allocation(gate: Replica, name: str, id: uuid.UUID) -> dict[str, Any]:
    """Return the job of an allocation with its row; old jobs are deleted, the rows stay."""
    portfolio, job = await PortfolioStore(gate.db).get(name), await JobStore(gate.db).get(id)
    if job is not None and (
        job.kind != ALLOCATION or job.spec.get("portfolio") not in (str(portfolio.id), portfolio.name)
    ):
        job = None
    state = "done" if job is None else job.state
    if state != "done":
        assert job is not None
        return {"id": id, "state": state, "progress": job.progress, "error": job.error, "allocation": None}
    found = await _rebalancing(gate).allocation(str(portfolio.id), id)
    return {"id": id, "state": state, "progress": 1.0, "error": None, "allocation": found}


def _rebalancing(gate: Replica) -> Rebalancing:
    from fks.interfaces.entry.rebalancing import Rebalancing  # not needed before

    return Rebalancing(gate.db, gate.bus, gate.deps.clock, gate.deps.settings, gate.deps.log)


def _versioned(found: dict[str, Any]) -> ExactJson:
    return ExactJson(found, headers={"ETag": f'"{found["version"]}"'})


def _checked(name: str) -> str:
    if not PORTFOLIO_NAME.fullmatch(name):
        raise unprocessable(
            "PORTFOLIO_WRONG",
            f"name {name!r} is not usable",
            "use 1 to 64 letters, digits, dots, dashes or underscores, with a letter among them",
        )
    return name


async def _benchmark_of(gate: Replica, text: str | None) -> str | None:
    """Return a benchmark with its symbols as exchange:symbol, None for none. Errors: InputError for an unknown or
    ambiguous symbol, and for weights that do not add up to 1."""
    if not text:
        return None
    store = ReadingStore(gate.db)
    return text_of(
        [
            part if part.rate is not None else replace(part, symbol=(await store.find(part.symbol)).place)
            for part in parse_benchmark(text)
        ]
    )
