"""Time of a backtest of a portfolio: 50 instruments, a year of hourly bars, a rebalancing each week; and of a preview.

    python benchmarks/rebalance.py [--instruments 50] [--days 365] [--rounds 3] [--requests 100]

The limit is the same in numpy and float64: the value of all holdings at each close, and each week the trades to the
targets at the next opens, sells and then buys, whole lots. It plans once, where ours plans until nothing is left to
trade, and it has no bands, fees, limits, runs or reasons; so ours runs without a band and without fees here. The equity
and all quantities of both are compared before anything is timed. Beside it: the same with a drift band of 1 % that is
decided on each hour. No aim is set: the figures are in docs/performance.md.

Then `POST /portfolios/{id}/preview` and `GET …/holdings` of a portfolio with coins and targets are asked in turn, of a
gateway with real servers; the holdings and the capital that both give are compared. Aim: the median of the preview is
at most 1.5 x that of the holdings. Exits 1 when results differ or the aim is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks._results import near, run, same
from fks.model.bar import Bars, Floats
from fks.model.instrument import Instrument
from fks.model.timeframe import NS
from fks.research.backtest.rebalance import PortfolioSetup, run_portfolio
from fks.store.db import Database
from fks.trading.matching import CostModel
from fks.trading.portfolio.rebalance import RebalanceRules, TargetWeight, Trigger, TriggerPolicy
from tests.support import servers
from tests.support.gateway import running
from tests.support.portfolios import portfolio_with_targets

START_NS, HOUR_NS, WEEK = 1_767_571_200 * NS, 3600 * NS, 24 * 7  # a Monday
LOT, CASH, SHARE, BUFFER = 1e-6, 1e6, 0.9, 0.05
AIM = 1.5


def market(instruments: int, hours: int) -> list[Bars]:
    """Return random bars that open where the one before closed."""
    draw, found = np.random.default_rng(7), []
    times = START_NS + np.arange(hours, dtype=np.int64) * HOUR_NS
    for at in range(instruments):
        close = np.round(draw.uniform(1, 500) * np.exp(np.cumsum(draw.normal(0, 0.005, hours))), 4)
        open_ = np.concatenate([close[:1], close[:-1]])
        high, low = np.maximum(open_, close), np.minimum(open_, close)
        found.append(Bars(f"A{at:03d}USDT", "1h", times, open_, high, low, close, np.ones(hours), exchange="x"))
    return found


def passes(opens: Floats, closes: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the equity at each close, and the quantities at the end."""
    count, held, cash = len(closes), np.zeros(closes.shape[1]), CASH
    equity = np.zeros(count)
    rows = [0, *range(WEEK, count, WEEK), count]
    for first, last in pairwise(rows):
        if first:
            price = closes[first - 1]
            wanted = weights * (cash + held @ price) / price - held
            change = np.sign(wanted) * np.floor(np.abs(wanted) / LOT + 1e-9) * LOT
            for sign in (-1, 1):
                part = np.where(np.sign(change) == sign, change, 0.0)
                held, cash = held + part, cash - part @ opens[first]
        equity[first:last] = cash + closes[first:last] @ held
    return equity, held


def best(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """Return the shortest processor time of each call, in seconds, interleaved."""
    times = [[] for _ in calls]  # type: list[list[float]]
    for _ in range(rounds):
        for call, kept in zip(calls, times, strict=True):
            began = time.process_time()
            call()
            kept.append(time.process_time() - began)
    return [min(kept) for kept in times]


async def gateway_times(url: str, redis_url: str, home: Path, count: int) -> tuple[float, float]:
    """Return the median seconds of a preview and of the holdings."""
    async with contextlib.AsyncExitStack() as stack:
        db = await Database.connect(url, application="bench")
        stack.push_async_callback(db.close)
        await db.sql(
            "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
            " ('binance','BTCUSDT','BTC','USDT',0.01,0.00001,0.00001,9000,5),"
            " ('binance','ETHUSDT','ETH','USDT',0.01,0.0001,0.0001,9000,5)"
        )
        await db.sql("INSERT INTO accounts (name, venue, initial_balance) VALUES ('demo','paper',100000)")
        gateway = await stack.enter_async_context(running(db, url, redis_url, home))
        await portfolio_with_targets(gateway, db)
        client = await stack.enter_async_context(gateway.client("trade"))
        times: tuple[list[float], list[float]] = ([], [])
        for at in range(count + 5):
            documents = []
            for kept, (method, path) in zip(times, (("POST", "preview"), ("GET", "holdings")), strict=True):
                began = time.perf_counter()
                answer = await client.request(method, f"/portfolios/main/{path}")
                if at >= 5:
                    kept.append(time.perf_counter() - began)
                documents.append(answer.raise_for_status().json())
            plan, holdings = documents  # the coins came by deposit: all of the portfolio's own is cash
            same("cash", plan["capital"], holdings["cash"])
        return statistics.median(times[0]), statistics.median(times[1])


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instruments", type=int, default=50)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=100)
    options = parser.parse_args()
    bars = market(options.instruments, 24 * options.days)
    least = Decimal("0.000001")
    items = tuple(
        Instrument("x", b.symbol, b.symbol[:-4], "USDT", Decimal("0.0001"), least, least, Decimal(10**9), Decimal(0))
        for b in bars
    )
    weight = round(Decimal(SHARE) / len(items), 6)
    rules = RebalanceRules(band=Decimal(0), trade_min=Decimal(0), cash_min=Decimal(str(BUFFER)))
    requests = tuple(START_NS + hour * HOUR_NS for hour in range(WEEK, 24 * options.days, WEEK))
    targets = tuple(TargetWeight(item, weight) for item in items)
    policy = TriggerPolicy(Trigger.SCHEDULE)
    setup = PortfolioSetup(items, targets, rules, policy, CostModel(Decimal(0)), Decimal(int(CASH)), requests)
    opens, closes = (np.column_stack([getattr(b, name) for b in bars]) for name in ("open", "close"))
    weights = np.full(len(items), float(weight))

    found, (equity, held) = run_portfolio(bars, setup), passes(opens, closes, weights)
    near("equity", found.equity, equity, rtol=1e-7)
    near("quantities", [float(found.quantities[item.symbol]) for item in items], held, rtol=1e-5, atol=10 * LOT)
    ours, limit = best(options.rounds, lambda: run_portfolio(bars, setup), lambda: passes(opens, closes, weights))
    fills = len(found.fills)
    print(
        f"{len(items)} instruments, {len(equity):,} hours, {len(found.runs)} runs, {fills} fills: {1000 * ours:.0f} ms of processor time, "
        f"numpy {1000 * limit:.1f} ms: {ours / limit:.0f} x"
    )
    drift = replace(
        setup,
        policy=TriggerPolicy(Trigger.DRIFT, band=Decimal("0.01"), cooldown_s=0.0),
        rules=replace(rules, band=Decimal("0.002")),
        costs=CostModel(Decimal("0.001")),
        requests_ns=(),
    )
    banded = run_portfolio(bars, drift)
    (took,) = best(options.rounds, lambda: run_portfolio(bars, drift))
    print(f"by drift, with fees: {len(banded.runs)} runs, {len(banded.fills)} fills: {1000 * took:.0f} ms")
    with servers.mortal_postgres() as postgres, servers.home() as paths, servers.running_redis(paths) as redis:
        preview, holdings = asyncio.run(gateway_times(postgres.url, redis.url(), paths.home, options.requests))
    print(f"preview p50 {1000 * preview:.1f} ms, holdings {1000 * holdings:.1f} ms: {preview / holdings:.2f} x")
    return preview / holdings > AIM


if __name__ == "__main__":
    run(main)
