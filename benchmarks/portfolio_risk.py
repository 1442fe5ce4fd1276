"""Time of the risk of a portfolio of 1,000 holdings against the bare numpy passes, and of its valuation, its statistics
and an allocation.

    python benchmarks/portfolio_risk.py [--holdings 1000] [--days 365] [--rounds 5]

Ours takes positions and the daily log returns of their factors, as the database gives them, and returns exposure,
tail losses by three methods, their parts and the correlations. The limit is the same arithmetic as bare passes over one
matrix: returns, profit, quantiles and the correlation matrix. VaR of both is compared before anything is timed.
Aim: 3 x the passes. Then the same holdings are valued, against a loop over a dict of Decimal rates. Aim: 3 x the loop.
Then the statistics of five years of hourly equity, against numpy passes that find the same figures. Aim: 1.5 x. Then
the weights of least variance of 50 assets, against skfolio alone. Aim: 1.2 x. Results are compared first.
Exits 1 when results differ or an aim is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from skfolio.optimization import MeanRisk

from benchmarks._results import near, run, same
from fks.model.accounting.valuation import PortfolioHolding, PricedPair, Rates, value_holdings
from fks.model.bar import Floats, Ints
from fks.model.timeframe import NS
from fks.research.backtest.metrics import equity_metrics_of
from fks.trading.portfolio.allocation import AllocationConstraints, AllocationMethod, AllocationOptions, allocate
from fks.trading.portfolio.risk import RiskPosition, exposure_of, risk_of

AIM, STATISTICS_AIM, ALLOCATION_AIM = 3.0, 1.5, 1.2
YEARS, ASSETS = 5, 50
DAY_NS, HOUR_NS = 86_400 * NS, 3600 * NS


def passes(values: Floats, logs: Floats) -> tuple[float, Floats]:
    """Return the historical VaR at 95 %, 1 day, and the correlations."""
    returns = np.expm1(logs)
    profit = returns @ values
    for days in (1, 10):
        sums = np.cumsum(logs, axis=0)
        spans = np.expm1(logs if days == 1 else sums[days:] - sums[:-days]) @ values
        for tail in (0.05, 0.01):
            np.quantile(spans, tail)
    scaled = (returns - returns.mean(axis=0)) / returns.std(axis=0)
    return -float(np.quantile(profit, 0.05)), scaled.T @ scaled / len(returns)


def statistics(time_ns: Ints, growth: Floats) -> tuple[float, float, float, float]:
    """Return volatility, Sharpe and Sortino ratio by UTC day, and the deepest drawdown, in percent."""
    days = time_ns // DAY_NS
    ends = np.append(np.flatnonzero(days[1:] != days[:-1]), len(days) - 1)
    closes = growth[ends]
    returns = closes / np.append(1.0, closes[:-1]) - 1.0
    mean, deviation = returns.mean(), returns.std(ddof=1)
    downside = np.sqrt(np.mean(np.minimum(returns, 0.0) ** 2))
    drawdown = float(np.max(1.0 - growth / np.maximum.accumulate(growth)))
    year = 365**0.5
    return 100 * year * deviation, year * mean / deviation, year * mean / downside, 100 * drawdown


def best(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """Return the shortest processor time of each call, in seconds, interleaved."""
    times = [[] for _ in calls]  # type: list[list[float]]
    for _ in range(rounds):
        for call, kept in zip(calls, times, strict=True):
            began = time.process_time()
            call()
            kept.append(time.process_time() - began)
    return [min(kept) for kept in times]


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holdings", type=int, default=1000)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    draw = np.random.default_rng(7)
    names = [f"A{at:05d}" for at in range(options.holdings)]
    table = draw.normal(0.0, 0.02, (options.days, 1)) + draw.standard_t(4, (options.days, len(names))) * 0.01
    amounts = draw.integers(1, 10**6, len(names))
    held = [RiskPosition(n, n, "USDT", "paper", "", Decimal(int(a))) for n, a in zip(names, amounts, strict=True)]
    values, logs = {p.factor: float(p.value) for p in held}, {n: table[:, at] for at, n in enumerate(names)}
    bare = amounts.astype(np.float64)

    found, (var, correlations) = risk_of(values, logs), passes(bare, table)
    tail = found.tail("historical", 0.95, 1)
    near("VaR", [tail.var if tail else 0.0], [var], atol=1e-6)
    near("correlations", found.correlations.ravel(), correlations.ravel(), atol=1e-9)
    ours, limit = best(options.rounds, lambda: (exposure_of(held), risk_of(values, logs)), lambda: passes(bare, table))
    print(
        f"risk of {len(names)} holdings: {1000 * ours:.1f} ms, numpy passes {1000 * limit:.1f} ms: {ours / limit:.2f} x"
    )

    holdings = [PortfolioHolding("a", n, Decimal(int(a)) / 100) for n, a in zip(names, amounts, strict=True)]
    pairs = [PricedPair("x", f"{n}USDT", n, "USDT", Decimal(at + 1) / 7, 0) for at, n in enumerate(names)]
    rates = Rates.of(pairs, now_ns=0, age_max_s=60)
    plain = {pair.base: pair.price for pair in pairs}
    cent = Decimal("1e-8")

    def loop() -> Decimal:
        total = Decimal(0)
        for holding in holdings:
            if holding.amount is not None:
                total += (holding.amount * plain[holding.asset]).quantize(cent)
        return total

    same("equity", value_holdings(holdings, rates, "USDT").equity, loop())
    valued, bare_loop = best(options.rounds, lambda: value_holdings(holdings, rates, "USDT"), loop)
    print(f"valuation: {1000 * valued:.2f} ms, loop {1000 * bare_loop:.2f} ms: {valued / bare_loop:.2f} x")
    missed = ours / limit > AIM or valued / bare_loop > AIM

    times = np.arange(YEARS * 365 * 24, dtype=np.int64) * HOUR_NS
    growth = np.exp(np.cumsum(draw.normal(0.0, 0.003, len(times))))
    growth /= growth[0]
    mine = equity_metrics_of(times, growth)
    figures = (mine.volatility_pct, mine.sharpe, mine.sortino, mine.max_drawdown_pct)
    near("statistics", [figure or 0.0 for figure in figures], statistics(times, growth), rtol=1e-9)
    calls = [
        lambda: [equity_metrics_of(times, growth) for _ in range(20)],
        lambda: [statistics(times, growth) for _ in range(20)],
    ]
    took, passed = best(options.rounds, *calls)
    print(f"statistics of {YEARS} years: {50 * took:.2f} ms, numpy passes {50 * passed:.2f} ms: {took / passed:.2f} x")
    missed |= took / passed > STATISTICS_AIM

    returns = draw.normal(0.0004, 0.01, (options.days, 1)) + draw.normal(0, 0.01, (options.days, ASSETS))
    scale = 1 / float(returns.var(axis=0).mean())
    tight = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12}

    def alone() -> Floats:
        return np.asarray(MeanRisk(solver_params=tight, scale_objective=scale).fit(returns).weights_)

    def allocated() -> Floats:
        method = AllocationMethod.MINIMUM_VARIANCE
        found = allocate(
            method, names[:ASSETS], returns, AllocationConstraints(), AllocationOptions(), periods_per_year=365.0
        )
        return np.array([*found.weights.values()])

    near("weights", allocated(), alone(), atol=1e-6)
    took, passed = best(options.rounds, allocated, alone)
    print(f"allocation of {ASSETS}: {1000 * took:.0f} ms, skfolio alone {1000 * passed:.0f} ms: {took / passed:.2f} x")
    return missed or took / passed > ALLOCATION_AIM


if __name__ == "__main__":
    run(main)
