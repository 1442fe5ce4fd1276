"""Risk and performance of portfolios from the tables, for a person; their limits of entries, every few minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np

from fks.config.settings import Settings
from fks.model.accounting.valuation import EquityRow, growth_of, money_weighted_return
from fks.model.bar import Floats
from fks.model.timeframe import NS, iso, to_datetime, to_ns
from fks.research.backtest.metrics import benchmark_metrics_of, day_ends, equity_metrics_of
from fks.research.jobs.valuation import ValuedPortfolio, value_portfolio
from fks.store.db import Database, Querier
from fks.store.portfolios import Portfolio, PortfolioStore
from fks.store.valuation import ValuationStore
from fks.trading.portfolio.benchmark import benchmark_levels, parse_benchmark
from fks.trading.portfolio.risk import (
    SCENARIOS,
    AccountMargin,
    ExposureSummary,
    PortfolioRisk,
    StressResult,
    StressScenario,
    exposure_of,
    factor_logs,
    margin_of,
    risk_of,
    risk_positions,
    stress,
)

#: Days of history unless others are given: a year.
HISTORY_DAYS = 365
_DAY_S = 86_400
_DAY_NS = _DAY_S * NS


@dataclass(frozen=True, slots=True)
class MeasuredRisk:
    """The risk of a portfolio's holdings at a moment. `missing`: holdings without figures, which are of the rest."""

    valued: ValuedPortfolio
    exposure: ExposureSummary
    risk: PortfolioRisk
    stress: tuple[StressResult, ...]
    margins: list[AccountMargin]
    missing: tuple[str, ...]

    def observed(self, kind: str) -> Decimal | None:
        """Return the value that a limit of this kind is compared with; None if it is not known."""
        if self.valued.valuation.missing:
            return None
        if kind == "gross_exposure":
            return self.exposure.gross
        if kind == "weight_max":
            share = self.exposure.largest_share
            return Decimal(0) if share is None else Decimal(f"{share:.8f}")
        tail = self.risk.tail("historical", 0.95, 1)
        if not self.exposure.gross:
            return Decimal(0)
        return None if self.risk.missing or tail is None or tail.var is None else Decimal(f"{tail.var:.8f}")


async def measure_risk(
    db: Querier,
    settings: Settings,
    portfolio: Portfolio,
    at_ns: int,
    *,
    days: int = HISTORY_DAYS,
    benchmark: str | None = None,
    scenarios: Sequence[StressScenario] = (),
) -> MeasuredRisk:
    """Return the risk of a portfolio's holdings from the daily closes (UTC midnights) of the last `days`.

    `benchmark`: what beta is against (`parse_benchmark`, of exchange:symbol), by default the portfolio's. `scenarios`:
    tried beside the known ones. Errors: OutageError.
    """
    valued = await value_portfolio(db, settings, portfolio, at_ns)
    held = risk_positions(valued.valuation, valued.positions, valued.rates)
    values: dict[str, Decimal] = {}
    for position in held:
        values[position.factor] = values.get(position.factor, Decimal(0)) + position.value
    into, contracts = portfolio.base_currency, [row for row in valued.positions if row.is_contract]
    legs: dict[str, tuple[str, ...]] = {contract.symbol: (contract.symbol,) for contract in contracts}
    for factor in values:
        if factor not in legs and (rate := valued.rates.find(factor, into)) is not None:
            legs[factor] = rate.legs
    symbols = {symbol for factor in values for symbol in legs.get(factor, ())}
    places, pairs = {}, {}
    for price in sorted(valued.prices, key=lambda pair: (-pair.time_ns, pair.exchange)):
        if price.symbol in symbols and price.symbol not in places:
            places[price.symbol] = (price.exchange, price.symbol)
            pairs[price.symbol] = (price.base or price.symbol, price.quote)
    pairs |= {contract.symbol: (contract.symbol, contract.quote) for contract in contracts}
    against = benchmark or portfolio.benchmark
    parts = parse_benchmark(against) if against else ()
    wanted = sorted({*places.values(), *(part.place for part in parts if part.rate is None)})
    last_ns = at_ns - at_ns % _DAY_NS
    times = [last_ns - _DAY_NS * back for back in range(days, -1, -1)]
    closes = await ValuationStore(db).closes_at(wanted, times, _DAY_S) if wanted else {}
    by_symbol = {name: closes[place] for name, place in places.items() if place in closes}
    logs: dict[str, Floats] = {}
    for factor in values:
        found = factor_logs(factor, legs.get(factor, ()), by_symbol, pairs)
        if found is not None:
            logs[factor] = found
    levels = benchmark_levels(parts, closes, times) if parts else None
    market = None if levels is None else np.diff(np.log(np.where(levels > 0.0, levels, np.nan)))
    risk = risk_of(
        {factor: float(value) for factor, value in values.items()},
        logs,
        market,
        capital=float(valued.valuation.equity),
    )
    results = tuple(stress(held, scenario) for scenario in (*SCENARIOS, *scenarios))
    missing = [*valued.valuation.missing, *risk.missing]
    if against and market is None:
        missing.append(f"benchmark {against}: no stored bars")
    margins = margin_of(valued.valuation, valued.positions, valued.rates)
    return MeasuredRisk(valued, exposure_of(held), risk, results, margins, tuple(missing))


async def measure_limits(db: Database, settings: Settings, at_ns: int, portfolio: str | None = None) -> str:
    """Measure each active portfolio that has limits, or one, for the checks of entries; return a line about them.

    Errors: OutageError; limits that were measured before stay so.
    """
    store, measured, unknown = PortfolioStore(db), 0, 0
    for found in await store.all():
        limits = await store.limits(found.id) if portfolio in (None, found.name) else []
        if not limits:
            continue
        risk = await measure_risk(db, settings, found, at_ns)
        for limit in limits:
            observed = risk.observed(limit["kind"])
            lacks = ", ".join(risk.missing)[:500] if observed is None else ""
            await store.note_limit(found.id, limit["kind"], observed, at_ns, lacks)
            measured, unknown = measured + 1, unknown + (observed is None)
    return f"{measured} limits of portfolios" + (f", {unknown} not known" if unknown else "")


async def measure_performance(
    db: Querier,
    found: Portfolio,
    since: datetime,
    rows_max: int,
    *,
    benchmark: str | None,
) -> dict[str, Any]:
    """Return profit, returns, ratios and trading of a portfolio since a moment, over the newest `rows_max` hours, and
    how they compare with `benchmark` (`parse_benchmark`, of exchange:symbol). Errors: OutageError."""
    store = PortfolioStore(db)
    stored = await store.equity(found.id, since, rows_max)
    rows = [EquityRow(to_ns(r["time"]), r["equity"], r["net_flow"], r["is_complete"]) for r in stored]
    growth = growth_of(rows)
    times = np.array([time_ns for time_ns, _ in growth], dtype=np.int64)
    levels = np.array([level for _, level in growth], dtype=np.float64)
    complete = [row for row in rows if row.is_complete]
    first, last = (complete[0], complete[-1]) if complete else (None, None)
    flows = sum((r.net_flow for r in rows if first and last and first.time_ns < r.time_ns <= last.time_ns), Decimal(0))
    at_ends = [int(times[0]), *times[day_ends(times)].tolist()] if len(times) else []
    market: Floats | None = None
    if benchmark:
        parts = parse_benchmark(benchmark)
        places = [part.place for part in parts if part.rate is None]
        closes = await ValuationStore(db).closes_at(places, at_ends, 86_400) if places else {}
        market = benchmark_levels(parts, closes, at_ends)
    if market is None:
        market = np.full(len(at_ends), np.nan)
    traded = None
    if first is not None and last is not None:
        traded = await store.traded(found.id, to_datetime(first.time_ns), to_datetime(last.time_ns))
    mean = sum((row.equity for row in complete), Decimal(0)) / max(len(complete), 1)
    invested = [1 - row["cash"] / row["equity"] for row in stored if row["is_complete"] and row["equity"] > 0]
    weighted = money_weighted_return(rows)
    return {
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
        "money_weighted_pct": None if weighted is None else 100.0 * weighted,
        "invested_pct": 100.0 * float(sum(invested) / len(invested)) if invested else None,
        **_trading(traded, found.base_currency, mean),
        **asdict(equity_metrics_of(times, levels)),
        "benchmark": benchmark,
        **asdict(benchmark_metrics_of(times, levels, market)),
    }


def _trading(traded: list[dict[str, Any]] | None, currency: str, mean: Decimal) -> dict[str, Any]:
    """Return hit rate, payoff and turnover; money of other currencies than the portfolio's leaves its figure null."""
    rows = traded or []
    won, lost = (sum(row[name] for row in rows) for name in ("won", "lost"))
    is_one = all(row["currency"] == currency for row in rows)
    gained, given = (sum((row[name] for row in rows), Decimal(0)) for name in ("gained", "given"))
    value = sum((row["value"] for row in rows), Decimal(0))
    return {
        "executions": sum(row["executions"] for row in rows),
        "won": won,
        "lost": lost,
        "hit_rate_pct": 100.0 * won / (won + lost) if won + lost else None,
        "payoff": float((gained / won) / (given / lost)) if is_one and won and lost and given else None,
        "turnover": float(value / mean) if is_one and mean > 0 and traded is not None else None,
    }
