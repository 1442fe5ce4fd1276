"""Backtests of vectorbt and backtesting.py on the same real minutes: equal trades, and each difference named.

Needs the extra `peers` (`make soak` installs it). Tape: the shipped sample, 5m. One unit an entry, 0.1 % fee.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fks.model.bar import Bars, Floats
from fks.model.instrument import Instrument
from fks.research.backtest import Backtest, Setup, resample, run, sample
from fks.research.backtest.limits import UNLIMITED
from fks.strategies.base import Strategy, evaluate
from fks.strategies.bollinger import Bollinger
from fks.strategies.rsi import Rsi
from fks.strategies.sma_cross import SmaCross
from fks.trading.matching import CostModel

pytestmark = pytest.mark.soak
RATE, CASH, TICK = 0.001, 10**8, 0.01
ITEM = Instrument(
    "peers", "BTCUSDT", "BTC", "USDT", Decimal("0.01"), Decimal("0.001"), Decimal("0.001"), Decimal(9000), Decimal(5)
)
SETUP = Setup(ITEM, CostModel(Decimal("0.001"), "quote"), "quantity", Decimal(1), Decimal(CASH), True, limits=UNLIMITED)


@pytest.fixture(scope="module")
def bars() -> Bars:
    return resample(sample(), "5m")


@dataclass(frozen=True)
class Trades:
    """Closed trades in the order of their entries."""

    entry_bar: Any
    exit_bar: Any
    entry_price: Floats
    exit_price: Floats
    pnl: Floats

    @staticmethod
    def of(result: Backtest) -> Trades:
        fills, trades = result.fill_columns, result.trade_columns
        price = np.array([float(fill.price) for fill in result.fills])
        return Trades(
            fills.bar[trades.entry], fills.bar[trades.exit], price[trades.entry], price[trades.exit], result.pnl
        )

    def differences(self, other: Trades) -> list[int]:
        """Return the places where bars or prices differ; prices of levels by up to a tick, on which ours are."""
        assert self.entry_bar.tolist() == other.entry_bar.tolist()
        is_same = self.exit_bar == other.exit_bar
        is_same &= np.abs(self.entry_price - other.entry_price) < TICK
        is_same &= np.abs(self.exit_price - other.exit_price) < TICK
        return np.flatnonzero(~is_same).tolist()  # type: ignore[no-any-return]


def vectorbt(bars: Bars, target: Floats, **options: Any) -> Any:
    """Run targets, each traded at the next open, by vectorbt."""
    library = importlib.import_module("vectorbt")
    wanted = np.concatenate([[0.0], target[:-1]])
    before = np.concatenate([[0.0], wanted[:-1]])
    return library.Portfolio.from_signals(
        pd.Series(bars.close),
        (wanted > 0) & (before <= 0),
        (wanted <= 0) & (before > 0),
        (wanted < 0) & (before >= 0),
        (wanted >= 0) & (before < 0),
        size=1.0,
        price=pd.Series(bars.open),
        fees=RATE,
        init_cash=CASH,
        freq="5min",
        upon_opposite_entry="Reverse",
        **options,
    )


def of_vectorbt(portfolio: Any) -> Trades:
    closed = portfolio.trades.closed.values
    return Trades(
        *(closed[name].copy() for name in ("entry_idx", "exit_idx", "entry_price", "exit_price", "pnl")),
    )


def backtesting(bars: Bars, strategy: Strategy) -> Trades:
    """Run a strategy's decisions by backtesting.py, with its own stop and target orders."""
    library = importlib.import_module("backtesting")
    made = evaluate(strategy, bars)
    stop, profit = made.stop_loss, made.take_profit

    class Decided(library.Strategy):  # type: ignore[misc, name-defined]
        def init(self) -> None: ...

        def next(self) -> None:
            i = len(self.data) - 1
            now, before = made.target[i], made.target[i - 1]
            if now == before:
                return
            if self.position:
                self.position.close()
            if now:
                order = self.buy if now > 0 else self.sell
                order(
                    size=1,
                    sl=None if stop is None else stop[i],
                    tp=None if profit is None else profit[i],
                )

    frame = pd.DataFrame(
        {"Open": bars.open, "High": bars.high, "Low": bars.low, "Close": bars.close},
        index=pd.to_datetime(bars.time_ns),
    )
    table = library.Backtest(frame, Decided, cash=CASH, commission=RATE).run()["_trades"].sort_values("EntryBar")
    return Trades(*(table[name].to_numpy() for name in ("EntryBar", "ExitBar", "EntryPrice", "ExitPrice", "PnL")))


def latched(enter: Any, leave: Any) -> Floats:
    """Return 1 from a row with `enter` until one with `leave`."""
    found, held = np.zeros(len(enter)), 0.0
    for i in range(len(enter)):
        held = 0.0 if leave[i] else 1.0 if enter[i] else held
        found[i] = held
    return found


# ── indicators of the peer's own ─────────────────────────────────────────────────────────────────
def crossed(bars: Bars) -> Floats:
    library = importlib.import_module("vectorbt")
    fast, slow = (library.MA.run(pd.Series(bars.close), period).ma.to_numpy() for period in (20, 50))
    side = np.where(fast > slow, 1.0, np.where(fast < slow, -1.0, np.nan))
    side[:50] = 0.0
    return np.array(pd.Series(side).ffill())  # a tie keeps the side


def banded(bars: Bars) -> Floats:
    bands = importlib.import_module("vectorbt").BBANDS.run(pd.Series(bars.close), 20, alpha=2.0)
    lower, middle, upper = (getattr(bands, name).to_numpy() for name in ("lower", "middle", "upper"))
    target = latched(bars.close < lower, bars.close > middle) - latched(bars.close > upper, bars.close < middle)
    target[:20] = 0.0
    return target


@pytest.mark.parametrize(
    ("strategy", "theirs", "least"),
    [
        (SmaCross(fast=20, slow=50, short=True), crossed, 600),
        (Bollinger(period=20, deviations=2.0, short=True), banded, 900),
    ],
    ids=["sma", "bollinger"],
)
def test_vectorbt_with_its_own_indicators_trades_the_same(
    bars: Bars, strategy: Strategy, theirs: Callable[[Bars], Floats], least: int
) -> None:
    """Long and short: each decision, each trade, each profit and the equity of each bar."""
    target = theirs(bars)
    assert np.array_equal(evaluate(strategy, bars).target, target)
    result, portfolio = run(strategy, bars, SETUP, check=False), vectorbt(bars, target)
    mine, other = Trades.of(result), of_vectorbt(portfolio)
    assert len(mine.pnl) > least
    assert mine.differences(other) == []
    assert np.abs(mine.pnl - other.pnl).max() < 1e-8
    assert np.abs(portfolio.value().to_numpy()[result.first :] - result.equity).max() < 1e-5  # floats of 1e8


def test_rsi_of_vectorbt_is_another_average_and_our_decisions_trade_the_same(bars: Bars) -> None:
    """Named difference: its RSI is of a simple (or `ewm`: a span's exponential) mean, ours of Wilder's (1978)."""
    strategy = Rsi(period=14, short=True)
    target = evaluate(strategy, bars).target
    for is_exponential in (False, True):
        theirs = importlib.import_module("vectorbt").RSI.run(pd.Series(bars.close), 14, ewm=is_exponential)
        assert not np.allclose(theirs.rsi.to_numpy()[300:], _wilder(bars.close, 14)[300:], atol=1.0)
    value = _wilder(bars.close, 14)
    again = latched(value < 30, value > 50) - latched(value > 70, value < 50)
    again[: strategy.warmup()] = 0.0
    assert np.array_equal(target, again), "ours is Wilder's, computed by hand"
    mine = Trades.of(run(strategy, bars, SETUP, check=False))
    assert len(mine.pnl) > 300
    assert mine.differences(of_vectorbt(vectorbt(bars, target))) == []
    assert mine.differences(backtesting(bars, strategy)) == []


def _wilder(close: Floats, period: int) -> Floats:
    change = np.diff(close, prepend=np.nan)
    up, down = np.maximum(change, 0.0), np.maximum(-change, 0.0)
    found = np.full(len(close), 50.0)
    gain, loss = up[1 : period + 1].mean(), down[1 : period + 1].mean()
    for i in range(period, len(close)):
        if i > period:
            gain, loss = (gain * (period - 1) + up[i]) / period, (loss * (period - 1) + down[i]) / period
        found[i] = 100.0 - 100.0 / (1.0 + gain / loss) if loss > 0 else 100.0
    return found


@pytest.mark.parametrize("short", [False, True], ids=["long", "long and short"])
def test_backtesting_py_with_stop_and_target_trades_the_same(bars: Bars, short: bool) -> None:
    """Also exits within the bar of the entry, opens beyond a level, and both levels in one bar."""
    strategy = SmaCross(fast=20, slow=50, short=short, sl_pct=0.6, tp_pct=1.2)
    mine, other = Trades.of(run(strategy, bars, SETUP, check=False)), backtesting(bars, strategy)
    assert len(mine.pnl) > 300
    assert (mine.exit_bar == mine.entry_bar).any()
    assert mine.differences(other) == []
    assert np.abs(mine.pnl - other.pnl).max() < 2 * TICK


def test_vectorbt_with_stop_and_target_differs_in_two_named_ways(bars: Bars) -> None:
    """It looks at levels from the bar after the entry on, and before an exit at the open of the bar."""
    strategy = SmaCross(fast=20, slow=50, sl_pct=0.6, tp_pct=1.2)
    made = evaluate(strategy, bars)
    assert made.stop_loss is not None
    assert made.take_profit is not None
    stop, profit = (np.concatenate([[np.nan], levels[:-1]]) for levels in (made.stop_loss, made.take_profit))
    options = {name: pd.Series(getattr(bars, name)) for name in ("open", "high", "low")}
    other = of_vectorbt(
        vectorbt(
            bars,
            made.target,
            sl_stop=pd.Series(1 - stop / bars.open),
            tp_stop=pd.Series(profit / bars.open - 1),
            stop_entry_price="fillprice",
            stop_exit_price="stoplimit",
            **options,
        )
    )
    mine = Trades.of(run(strategy, bars, SETUP, check=False))
    assert len(mine.pnl) > 300
    within, at_open = [], []
    for i in mine.differences(other):
        if mine.exit_bar[i] == mine.entry_bar[i] < other.exit_bar[i]:
            within.append(i)
        elif mine.exit_bar[i] == other.exit_bar[i] and mine.exit_price[i] == bars.open[mine.exit_bar[i]]:
            at_open.append(i)
    assert sorted(within + at_open) == mine.differences(other)
    assert (len(within), len(at_open)) == (3, 5)
