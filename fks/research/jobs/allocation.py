"""Allocation of a portfolio, as a job: weights from past returns, written as one row.

| Weight of | Returns | From |
|---|---|---|
| an instrument | its closes | stored bars |
| a strategy instance | its profit after fees, open positions at the close, over its size at the entry | trades, bars |

A weight of an instance decides its size, so these returns times a weight are a profit. An instance has no cash,
so its equity gives no return; its booked results put the profit of days on the last of them.

The weights become targets when a person applies them, or without one when a schedule asked for that and no weight
changes by more than the portfolio's `change_max`. Nothing is traded.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from fks.model.accounting.attribution import InstanceFill
from fks.model.errors import unprocessable
from fks.model.timeframe import NS, TIMEFRAMES, bar_start, iso, to_ns
from fks.research.jobs.instances import sized_instance
from fks.research.jobs.spec import checked_spec
from fks.store.db import Database
from fks.store.portfolio_runs import PortfolioRunStore
from fks.store.portfolios import Portfolio, PortfolioStore
from fks.store.reading import ReadingStore
from fks.store.strategies import Instance
from fks.trading.portfolio.allocation import (
    AllocationConstraints,
    AllocationGroup,
    AllocationMethod,
    AllocationOptions,
    AllocationWindow,
    Weights,
    allocate,
    check_names,
    check_request,
    in_new_shares,
    target_weight,
)
from fks.trading.portfolio.rebalance import RebalanceRules

KIND = "allocation"
_DAY_S = 86_400


class AllocationGroupBody(BaseModel):
    """Instruments, or strategy instances, whose weights add up to at most `max`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    instruments: tuple[str, ...] = Field(min_length=1, max_length=500)
    max: float = Field(ge=0, le=1)


class AllocationBody(BaseModel):
    """A method, its inputs and its constraints. Weights are shares of the capital, by instrument (BTC/USDT) or id of a
    strategy instance. Instruments or instances alone share the capital that the targets of the others leave."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: AllocationMethod
    window_days: int = Field(90, ge=2, le=3660, description="returns of so many days before as_of")
    timeframe: str = Field("1d", max_length=4, description="of the returns")
    as_of: datetime | None = Field(None, description="only bars that had closed by then count; default now")
    coverage_min: float = Field(0.95, gt=0, le=1, description="share of the bars that each has to have")
    instruments: tuple[str, ...] | None = Field(
        None, max_length=500, description="without any, nor instances: all that have targets"
    )
    instances: tuple[str, ...] | None = Field(
        None, max_length=500, description="ids of strategy instances of members, sized by notional"
    )
    min: dict[str, float] = Field(default_factory=dict, description="least weights")
    max: dict[str, float] = Field(default_factory=dict, description="largest weights")
    groups: tuple[AllocationGroupBody, ...] = Field((), max_length=100)
    fixed: dict[str, float] = Field(default_factory=dict, description="all weights, of the method fixed")
    volatility: float = Field(0.2, gt=0, le=10, description="target of volatility_target, a fraction a year")
    risk_aversion: float = Field(1.0, ge=0, le=1e6, description="of mean_variance")
    turnover_penalty: float = Field(0.0, ge=0, le=1e3, description="of minimum_variance, mean_variance, minimum_cvar")

    @field_validator("timeframe")
    @classmethod
    def _has_length(cls, name: str) -> str:
        if not TIMEFRAMES.get(name):
            raise ValueError(f"use one of {' '.join(one for one, seconds in TIMEFRAMES.items() if seconds)}")
        return name

    @field_validator("as_of")
    @classmethod
    def _utc(cls, moment: datetime | None) -> datetime | None:
        return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)

    @field_validator("min", "max", "fixed")
    @classmethod
    def _shares(cls, weights: dict[str, float]) -> dict[str, float]:
        if len(weights) > 500 or not all(0 <= weight <= 1 for weight in weights.values()):
            raise ValueError("weights are between 0 and 1, of at most 500 instruments")
        return weights


class AllocationSpec(AllocationBody):
    """An allocation of a portfolio, by its number or name. `apply`: the weights become targets without a person, if no
    weight changes by more than the portfolio's `change_max`."""

    portfolio: str = Field(min_length=1, max_length=64)
    apply: bool = False


def parse_spec(spec: Mapping[str, Any]) -> AllocationSpec:
    """Return a checked spec. Errors: InputError SPEC_WRONG."""
    return checked_spec(AllocationSpec, spec, "allocation", remedy="see 'fks portfolio allocate --help'")


@dataclass(frozen=True, slots=True)
class AllocatedItem:
    """An instrument, or a strategy instance and the instrument that it trades. `name`: of its weight."""

    name: str
    exchange: str
    symbol: str
    before: Decimal | None
    instance: Instance | None = None


@dataclass(frozen=True, slots=True)
class PreparedAllocation:
    """A checked request for an allocation, before any return was read. `version`: of the targets, 0 without any.
    `before`: weights of instruments by exchange and symbol. `invested`: the share of the capital for all items."""

    portfolio: Portfolio
    version: int
    before: Mapping[tuple[str, str], Decimal]
    items: Sequence[AllocatedItem]
    constraints: AllocationConstraints
    options: AllocationOptions
    invested: Decimal


async def check_allocation(db: Database, wanted: AllocationSpec) -> PreparedAllocation:
    """Return a request with its items, limits and options; refuse what no returns make possible.

    Errors: InputError 404 for the portfolio, an instrument or an instance; 422 TARGETS_WRONG, ALLOCATION_INPUTS,
    ALLOCATION_INFEASIBLE, ALLOCATION_WRONG.
    """
    portfolio, runs = await PortfolioStore(db).get(wanted.portfolio), PortfolioRunStore(db)
    targets = await runs.target_set(portfolio.id)
    version = 0 if targets is None else targets.version
    before = {(row.exchange, row.symbol): row.weight for row in await runs.target_weights(portfolio.id, version)}
    sized = {row.instance_id: row.weight for row in await runs.instance_targets(portfolio.id, version)}
    places = await _places(db, wanted, [*before])
    instances = await _instances(db, portfolio, wanted, [*sized])
    items = [AllocatedItem(symbol, exchange, symbol, before.get((exchange, symbol))) for exchange, symbol in places]
    items += [AllocatedItem(one.id, one.exchange, one.symbol, sized.get(one.id), one) for one in instances]
    names = [item.name for item in items]
    check_names(names)
    cash_min = RebalanceRules().cash_min if targets is None else Decimal(str(targets.rules["cash_min"]))
    # an instrument that is not allocated is sold, unless no instrument is; an instance has no size of 0
    kept = sum((weight for id, weight in sized.items() if id not in names), Decimal(0))
    kept += sum(before.values(), Decimal(0)) if not places else 0
    if (invested := 1 - cash_min - kept) <= 0:
        raise unprocessable(
            "ALLOCATION_INFEASIBLE",
            f"the targets that stay add up to {kept:f} and the cash buffer is {cash_min:f}: nothing is left",
            "lower them, or name these instruments or instances, too",
        )
    constraints, fixed = await _limits(db, wanted, float(invested), [one.id for one in instances])
    previous = {item.name: float(item.before) for item in items if item.before is not None}
    options = AllocationOptions(fixed, wanted.volatility, wanted.risk_aversion, wanted.turnover_penalty, previous)
    check_request(wanted.method, names, constraints, options)
    return PreparedAllocation(portfolio, version, before, items, constraints, options, invested)


async def run_allocation(
    spec: Mapping[str, Any], db: Database, job_id: uuid.UUID, *, by: str, now_ns: int
) -> dict[str, Any]:
    """Calculate weights, write them as the allocation `job_id`, once, and return them.

    Errors: InputError as `check_allocation`, those of `allocate`, and naming the instruments without enough bars
    (COVERAGE_LOW, NO_DATA); OutageError.
    """
    wanted = parse_spec(spec)
    found = await check_allocation(db, wanted)
    items, portfolio = found.items, found.portfolio
    places = [(item.exchange, item.symbol) for item in items if item.instance is None]
    as_of_ns = bar_start(now_ns if wanted.as_of is None else to_ns(wanted.as_of), wanted.timeframe)
    window, returns, unvalued = await _window(db, wanted, items, as_of_ns)
    allocated = await asyncio.to_thread(
        allocate,
        wanted.method,
        [item.name for item in items],
        returns,
        found.constraints,
        found.options,
        periods_per_year=window.periods_per_year,
    )
    ids = [item.name for item in items if item.instance is not None]
    request = [wanted.model_dump(mode="json"), places, ids, found.options.previous, str(found.invested)]
    hashed = hashlib.sha256(json.dumps(request).encode())
    hashed.update(window.time_ns.tobytes() + returns.tobytes())
    weights: list[dict[str, str | None]] = [
        {
            "exchange": item.exchange,
            "symbol": item.symbol,
            "instance": None if item.instance is None else item.instance.id,
            "weight": f"{target_weight(allocated.weights[item.name]):f}",
            "before": None if item.before is None else f"{item.before:f}",
        }
        for item in items
    ]
    # an instrument that is not allocated gets no target
    weights += [
        {"exchange": exchange, "symbol": symbol, "instance": None, "weight": "0", "before": f"{weight:f}"}
        for (exchange, symbol), weight in found.before.items()
        if places and (exchange, symbol) not in places
    ]
    diagnostics = {**allocated.diagnostics, "coverage": window.coverage, "window_days": wanted.window_days}
    if unvalued:
        diagnostics["fees_unvalued"] = unvalued
    await PortfolioRunStore(db).add_allocation(
        job_id,
        portfolio.id,
        wanted.method.value,
        as_of_ns,
        hashed.hexdigest(),
        weights,
        diagnostics,
        found.version,
        "waiting" if wanted.apply else "ready",
        by,
    )
    return {
        "portfolio": portfolio.name,
        "method": wanted.method.value,
        "as_of": iso(as_of_ns),
        "weights": weights,
    }


async def _places(db: Database, wanted: AllocationSpec, targets: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return exchange and symbol of the instruments, sorted; those with targets if nothing is named."""
    if wanted.instruments is None and wanted.instances is None:
        return sorted(targets)
    listed = [await ReadingStore(db).find(text, listed=True) for text in wanted.instruments or ()]
    return sorted((item.exchange, item.symbol) for item in listed)


async def _instances(
    db: Database, portfolio: Portfolio, wanted: AllocationSpec, targets: Sequence[str]
) -> list[Instance]:
    """Return the strategy instances, sorted; those with targets if nothing is named. Errors: InputError
    INSTANCE_UNKNOWN, TARGETS_WRONG."""
    is_default = wanted.instruments is None and wanted.instances is None
    ids = targets if is_default else wanted.instances or ()
    return [(await sized_instance(db, portfolio, id))[0] for id in sorted(ids)]


async def _limits(
    db: Database, wanted: AllocationSpec, invested: float, instances: Collection[str]
) -> tuple[AllocationConstraints, dict[str, float]]:
    """Return the constraints and the fixed weights by symbol or instance: a request may spell instruments in any
    way."""

    async def named(text: str) -> str:
        return text if text in instances else (await ReadingStore(db).find(text)).symbol

    groups = [
        AllocationGroup(group.name, frozenset([await named(text) for text in group.instruments]), group.max)
        for group in wanted.groups
    ]
    least, most, fixed = [
        {await named(text): weight for text, weight in weights.items()}
        for weights in (wanted.min, wanted.max, wanted.fixed)
    ]
    return AllocationConstraints(least, most, tuple(groups), invested), fixed


async def _window(
    db: Database, wanted: AllocationSpec, items: Sequence[AllocatedItem], as_of_ns: int
) -> tuple[AllocationWindow, Weights, dict[str, int]]:
    """Return the stored bars of the window, the returns, and how many fees of an instance have no rate. An instance has
    no bars from before it was there. Errors: InputError COVERAGE_LOW, NO_DATA."""
    from fks.research.jobs.backtest import BarsRequest  # not needed to check a spec
    from fks.research.jobs.bars import load_stored

    runs, series, fills = PortfolioRunStore(db), {}, dict[int, list[InstanceFill]]()
    for column, item in enumerate(items):
        start_ns = as_of_ns - wanted.window_days * _DAY_S * NS
        request = BarsRequest(item.symbol, item.exchange, wanted.timeframe, start_ns, as_of_ns, 0)
        bars, first = (await load_stored(db, request)).bars, 0
        if item.instance is not None:
            since_ns = bar_start(await runs.instance_since(item.name), wanted.timeframe)
            first = int(np.searchsorted(bars.time_ns, since_ns))
            fills[column] = [in_new_shares(fill, bars.splits) for fill in await runs.instance_fills(item.name)]
        series[item.name] = (bars.time_ns[first:], bars.close[first:])
    window = AllocationWindow.of(series, wanted.timeframe, as_of_ns, wanted.window_days, wanted.coverage_min)
    returns, unvalued = window.returns, dict[str, int]()
    for column, executed in fills.items():
        returns[:, column] = window.instance_returns(column, executed)
        if count := sum(fill.fee is None for fill in executed):
            unvalued[items[column].name] = count
    return window, returns, unvalued
