"""The paper venue fills like a backtest: random bars, entries of every type, protections, slippage and fees."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import ClassVar

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict

from fks.model.bar import Bars
from fks.model.calendars import calendar_of
from fks.model.instrument import Instrument
from fks.model.margin import Margin
from fks.model.order import Role, Side
from fks.model.timeframe import NS
from fks.research.backtest import Setup
from fks.research.backtest.limits import UNLIMITED
from fks.strategies.base import Decisions, Strategy, evaluate
from fks.trading.matching import CostModel, Slippage
from tests.support.backtests import run
from tests.support.paper_bars import on_paper
from tests.support.strategies import START_NS

D = Decimal
BTC = Instrument(
    "binance", "BTCUSDT", "BTC", "USDT", D("0.01"), D("0.00001"), D("0.00001"), D(9000), D(5), has_oto=True
)
CASH = D(10**7)
#: minutes about the end of a session in New York: the overnight margin begins 18 minutes after the first
CLOSING = calendar_of("XNYS").expected("1m", START_NS, START_NS + 14 * 86_400 * NS)[390 - 48 : 390 - 48 + 160]
NIGHTLY = Margin.parse("0.03/0.02; overnight 30m 0.05/0.045")
COLUMNS = ("stop_loss", "take_profit", "entry_limit", "entry_stop")


class Given(Strategy):
    """Decisions as they are given."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)
    name: ClassVar[str] = "given"
    target: tuple[float, ...]
    stop_loss: tuple[float, ...] | None = None
    take_profit: tuple[float, ...] | None = None
    entry_limit: tuple[float, ...] | None = None
    entry_stop: tuple[float, ...] | None = None
    entry_bars: tuple[float, ...] | None = None

    def warmup(self) -> int:
        return 0

    def decide(self, bars: Bars) -> Decisions:
        found = {name: getattr(self, name) for name in (*COLUMNS, "entry_bars")}
        columns = {name: np.array(value)[: len(bars)] for name, value in found.items() if value is not None}
        return Decisions(np.array(self.target)[: len(bars)], **columns)


def tape(random: np.random.Generator, count: int) -> Bars:
    moves = random.integers(-5, 6, 2 * count) + (random.random(2 * count) < 0.06) * random.integers(-20, 21, 2 * count)
    path = np.maximum(300 + np.cumsum(moves), 40)
    open_, close = path[0::2], path[1::2]
    reach = random.integers(0, 6, (2, count))
    columns = (open_, np.maximum(open_, close) + reach[0], np.minimum(open_, close) - reach[1], close)
    times = START_NS + np.arange(count, dtype=np.int64) * 60 * NS
    return Bars("BTCUSDT", "1m", times, *(np.asarray(column, float) for column in columns), np.ones(count))


def strategy(random: np.random.Generator, bars: Bars) -> Given:
    """Return long decisions whose entries and protections lie a few ticks around the closes."""
    count = len(bars)
    target = np.repeat(random.integers(0, 2, count), 4)[:count].astype(float)

    def near(low: int, high: int, share: float) -> tuple[float, ...]:
        away = bars.close + random.integers(low, high, count)
        return tuple(np.where(random.random(count) < share, away, np.nan))

    return Given(
        target=tuple(target),
        stop_loss=near(-24, -12, 0.8),
        take_profit=near(8, 24, 0.8),
        entry_limit=near(-6, 4, 0.5),
        entry_stop=near(1, 8, 0.4),
        entry_bars=tuple(np.where(random.random(count) < 0.5, random.integers(1, 5, count), np.nan)),
    )


@given(st.integers(0, 2**32), st.sampled_from([None, "0.3", "1", "5"]))
def test_paper_fills_what_a_backtest_fills(seed: int, collar_pct: str | None) -> None:
    random = np.random.default_rng(seed)
    bars = tape(random, int(random.integers(8, 60)))
    made = strategy(random, bars)
    slippage = Slippage.parse(str(random.choice(["none", "2 ticks", "20 bps", "0.3 range"])))
    costs = CostModel(D("0.001"), "quote", D("0.0002"), slippage)
    setup = Setup(BTC, costs, "quantity", D(1), CASH, limits=UNLIMITED, allow_gaps=True)
    setup = replace(setup, collar_pct=None if collar_pct is None else D(collar_pct))
    result = run(made, bars, setup)

    ended = [row.code for row in result.expired]
    decisions = evaluate(made, bars)
    wanted = [(f.time_ns, f.side, f.quantity, f.price, f.fee) for f in result.fills]
    assert asyncio.run(on_paper(result, decisions)) == (wanted, ended)


def test_the_random_runs_fill_entries_of_every_type() -> None:
    compared, expired, kinds = 0, 0, set()
    for seed in range(60):
        random = np.random.default_rng(seed)
        bars = tape(random, int(random.integers(8, 60)))
        made = strategy(random, bars)
        result = run(made, bars, Setup(BTC, CostModel(D(0)), "quantity", D(1), CASH, limits=UNLIMITED, allow_gaps=True))
        collared = replace(result.setup, collar_pct=D(1))
        expired += run(made, bars, collared).expired_count * (not result.denied)
        decided = result.fill_columns.decided
        assert decided is not None
        entries = decided[result.fill_columns.role == 0]
        compared += not result.denied and len(entries) > 0
        for name in ("entry_limit", "entry_stop"):
            column = getattr(made, name)
            kinds |= {name for index in entries.tolist() if np.isfinite(column[index])}
    assert compared > 20
    assert expired >= 10
    assert kinds == {"entry_limit", "entry_stop"}


def margin_case(seed: int) -> tuple[Given, Bars, Setup]:
    """Return decisions on both sides, whose stops lie before or behind the price of a forced close, and an account with
    a margin that loses a good part of its cash."""
    random = np.random.default_rng(seed)
    bars = tape(random, int(random.integers(20, 160)))
    made, count = strategy(random, bars), len(bars)
    sides = np.repeat(random.integers(-1, 2, count), 16)[:count].astype(float)
    wide = 0.5 if random.random() < 0.5 else 12.0
    levels = {
        "stop_loss": tuple(bars.close + sides * wide * (np.array(made.stop_loss) - bars.close)),
        "take_profit": tuple(bars.close + sides * wide * (np.array(made.take_profit) - bars.close)),
        **({"entry_limit": None, "entry_stop": None} if random.random() < 0.5 else {}),
    }
    texts = ["0.05/0.04", "0.1/0.08; above 300 0.15/0.12", "0.1/0.05; short 0.08; fee 0.0125", "30/20 each", "0.1"]
    margin = NIGHTLY if random.random() < 0.5 else Margin.parse(str(random.choice(texts)))
    if margin.overnight is not None:
        bars = replace(bars, calendar="XNYS", time_ns=CLOSING[: len(bars)])
    cash = margin.needed(D(1), D(repr(float(bars.close[0]))), BTC) * D(int(random.integers(100, 140))) / 100
    slippage = Slippage.parse(str(random.choice(["none", "2 ticks", "0.3 range"])))
    costs = CostModel(D("0.001"), "quote", D("0.0002"), slippage)
    setup = Setup(BTC, costs, "quantity", D(1), cash, can_short=True, limits=UNLIMITED, allow_gaps=True, margin=margin)
    return made.model_copy(update={"target": tuple(sides), **levels}), bars, setup


def test_paper_closes_by_force_what_a_backtest_does() -> None:
    counts = {"denied": 0, "at night": 0, Side.BUY: 0, Side.SELL: 0, Role.STOP_LOSS: 0, Role.TAKE_PROFIT: 0}
    for seed in range(250):
        made, bars, setup = margin_case(seed)
        result = run(made, bars, setup)
        wanted = [(f.time_ns, f.side, f.quantity, f.price, f.fee) for f in result.fills]
        assert asyncio.run(on_paper(result, evaluate(made, bars))) == (wanted, []), seed
        counts["denied"] += sum(row.code == "MARGIN" for row in result.denied)
        for fill in result.fills:
            if fill.role is Role.LIQUIDATION:
                counts[fill.side] += 1
                counts["at night"] += result.setup.margin == NIGHTLY and CLOSING[18] <= fill.time_ns < CLOSING[48]
            elif fill.role in counts:
                counts[fill.role] += 1
    assert min(counts.values()) >= 5, counts
