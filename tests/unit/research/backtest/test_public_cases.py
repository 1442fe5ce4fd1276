"""Cases of public bug reports, and of results that contradicted the world, with their right values.

Each tape runs on both engines, and through the audit of `tests/support/result_audit.py`.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fks.indicators import rsi
from fks.model.bar import Bars
from fks.model.timeframe import NS
from fks.research import backtest
from fks.research.backtest import Backtest
from fks.research.search.run import search
from fks.research.search.splits import Validation
from fks.strategies.base import Decisions, Strategy, input_bars
from tests.support.backtests import run
from tests.support.given import Given
from tests.support.result_audit import AuditedRun, audit
from tests.support.strategies import START_NS

NAN = float("nan")
Row = tuple[float, float, float, float]
Fill = tuple[int, str, float]


def tape(*rows: Row, symbol: str = "BTCUSDT") -> Bars:
    times = START_NS + np.arange(len(rows), dtype=np.int64) * 3600 * NS
    return Bars(symbol, "1h", times, *np.array(rows, dtype=float).T, np.full(len(rows), 1000.001))


def flat(*prices: float) -> tuple[Row, ...]:
    return tuple((price, price, price, price) for price in prices)


@dataclass(frozen=True)
class Case:
    """Bars, decisions and changes of the setup; the fills (bar, role, price), the profit of each trade and the denials
    that are right. One value of a decision is that of each bar."""

    rows: tuple[Row, ...]
    decided: dict[str, Any]
    fills: list[Fill]
    pnl: list[float] = field(default_factory=list)
    setup: dict[str, Any] = field(default_factory=dict)
    denied: dict[str, int] = field(default_factory=dict)
    quantities: list[str] | None = None
    fees: list[str] | None = None
    symbol: str = "BTCUSDT"

    def run(self, engine: Any) -> tuple[Given, Backtest]:
        bars, count = tape(*self.rows, symbol=self.symbol), len(self.rows)
        columns = {k: v if isinstance(v, tuple) else (v,) * count for k, v in {"target": 1, **self.decided}.items()}
        setup = backtest.setup_for(bars, **{"fee_rate": 0, "sizing": "quantity", "size": 1, **self.setup})
        strategy = Given(**columns)
        return strategy, run(strategy, bars, setup, engine=engine)


FIRST: Row = (100, 101, 99, 100)
GAP_DOWN: tuple[Row, ...] = (FIRST, (90, 91, 88, 89), (89, 90, 88.5, 89.5))
GAP_UP: tuple[Row, ...] = (FIRST, (110, 112, 108, 111), (111, 112, 110, 111))
GAP_TO_94: tuple[Row, ...] = (FIRST, (90, 94, 89, 91), (91, 92, 90.5, 91.5))
GAP_TO_LIMIT: tuple[Row, ...] = ((110, 111, 109, 110), (95, 97, 94, 96), (96, 97, 95, 96))
THROUGH: tuple[Row, ...] = (
    (100, 100.5, 99.5, 100),
    (100, 105, 98, 105),
    (105, 106, 104, 105),
    (105, 105.5, 104.5, 105),
)
TRIGGERED: tuple[Row, ...] = ((100, 100, 100, 100), (100, 112, 94, 95), (95, 96, 94, 95), (95, 96, 94, 95))
JUMPED: tuple[Row, ...] = ((100, 100.5, 99.5, 100), (100, 120, 100, 120), (120, 131, 119, 130), (130, 131, 129, 130))
TRAILED: tuple[Row, ...] = (
    (100, 100.5, 99.5, 100),
    (100, 100.4, 99.9, 100.3),
    (100.3, 105, 100.2, 104.9),
    (104.9, 105.2, 103.5, 103.6),
    (103.6, 104, 102, 102.1),
)
TINY: tuple[Row, ...] = (
    (4.563e-07, 4.6e-07, 4.5e-07, 4.563e-07),
    (4.5631e-07, 4.58e-07, 4.55e-07, 4.57e-07),
    (4.57e-07, 4.571e-07, 4.4e-07, 4.41e-07),
    (4.41e-07, 4.42e-07, 4.4e-07, 4.41e-07),
)
SHORT = {"can_short": True}
CASES = {
    # gaps: an exit that its entry's price has passed is closed at that price
    "a stop that the market gapped through": Case(
        GAP_DOWN, {"stop": 95}, [(1, "entry", 90), (1, "sl", 90)], [0], {"size": 10}
    ),
    "the same for a short": Case(
        (FIRST, (110, 112, 109, 111), (111, 112, 110, 111)),
        {"target": -1, "stop": 105},
        [(1, "entry", 110), (1, "sl", 110)],
        [0],
        SHORT,
    ),
    "a stop above the high of its bar": Case(GAP_TO_94, {"stop": 95}, [(1, "entry", 90), (1, "sl", 90)], [0]),
    "a stop inside its bar": Case(GAP_TO_94, {"stop": 92}, [(1, "entry", 90), (1, "sl", 90)], [0]),
    "a stop of a limit entry that gapped": Case(
        GAP_TO_94, {"entry_limit": 99, "stop": 95}, [(1, "entry", 90), (1, "sl", 90)], [0]
    ),
    "a limit entry at a better open": Case(
        GAP_TO_LIMIT, {"entry_limit": 100, "stop": 98}, [(1, "entry", 95), (1, "sl", 95)], [0]
    ),
    "a limit entry at a better open, and a stop below": Case(
        GAP_TO_LIMIT, {"entry_limit": 100, "stop": 94}, [(1, "entry", 95), (1, "sl", 94)], [-1]
    ),
    "a stop entry at a worse open": Case(GAP_UP, {"entry_stop": 105}, [(1, "entry", 110)]),
    "a target that the market gapped through": Case(GAP_UP, {"limit": 105}, [(1, "entry", 110), (1, "tp", 110)], [0]),
    "a trail that begins beyond the gap": Case(GAP_DOWN, {"trail": 5.0}, [(1, "entry", 90), (1, "sl", 90)], [0]),
    # inside a bar
    "a stop in the bar of its entry": Case(
        ((100, 101, 99, 100), (100, 100, 90, 91), (91, 92, 90.5, 91.5)),
        {"stop": 95},
        [(1, "entry", 100), (1, "sl", 95)],
        [-5],
    ),
    "a stop entry with both exits": Case(
        ((14, 19, 13, 18), (16, 17, 10, 12), (15, 16, 14, 15), (11, 11, 11, 11)),
        {"target": -1, "entry_stop": 15, "stop": 18, "limit": 11},
        [(1, "entry", 15), (1, "tp", 11)],
        [4],
        SHORT,
    ),
    "a stop-limit in the bar that triggers it": Case(
        ((766, 770, 765, 769), (769.7, 778.81, 765.5, 773.95), (774, 775, 772, 774)),
        {"entry_stop": 772.15, "entry_limit": 773},
        [(1, "entry", 772.15)],
    ),
    "a trail follows closes": Case(
        TRAILED, {"target": (0, 1, 1, 1, 1), "trail": 1.0}, [(2, "entry", 100.3), (3, "sl", 103.9)], [3.6]
    ),
    "a limit entry's target that the close proves": Case(
        THROUGH, {"entry_limit": 99, "limit": 101}, [(1, "entry", 99), (1, "tp", 101)], [2]
    ),
    "a stop-limit's limit that the close proves": Case(
        TRIGGERED, {"entry_stop": 110, "entry_limit": 105}, [(1, "entry", 105)]
    ),
    "a stop entry whose bar opened beyond its stop": Case(
        JUMPED, {"entry_stop": 110, "stop": 105}, [(1, "entry", 110)]
    ),
    # quantities and cash
    "an entry of all cash at a higher open": Case(
        GAP_UP, {}, [], setup={"sizing": "equity_pct", "size": 100}, denied={"BALANCE": 1}
    ),
    **{
        f"a reversal before an open of {price:g}": Case(
            flat(100, 100, price, price),
            {"target": (-1, 1, 1, 1)},
            [(1, "entry", 100), (2, "exit", price), (2, "entry", price)],
            [50 * (100 - price)],
            {"sizing": "equity_pct", "size": 50, **SHORT},
            quantities=["50", "50", "50"],
        )
        for price in (90.0, 100.0, 110.0, 150.0)
    },
    "a commission that the cash does not pay": Case(
        flat(2, 2, 2, 2),
        {},
        [],
        setup={"sizing": "notional", "size": 10_000, "commission": "2.25 each"},
        denied={"BALANCE": 1},
    ),
    "a least commission that the cash does not pay": Case(
        flat(50, 50, 50, 50),
        {},
        [],
        setup={"sizing": "notional", "size": 10_000, "commission": "0.005 each min 1"},
        denied={"BALANCE": 1},
    ),
    "a rest below the smallest order": Case(
        (*flat(100, 100, 100), (100, 100, 90, 95), (95, 95, 95, 95)),
        {"target": (1, 0.3, 0.3, 0.3, 0.3), "stop": 93},
        [(1, "entry", 100), (2, "exit", 100)],
        [0],
        {"sizing": "notional", "size": 10, **SHORT},
        quantities=["0.1", "0.07"],
    ),
    "parts at the average cost": Case(
        flat(100, 100, 200, 300, 400, 500, 500),
        {"target": (1, 0.5, 0.25, 0, 0, 0, 0)},
        [(1, "entry", 100), (2, "exit", 200), (3, "exit", 300), (4, "exit", 400)],
        [200, 200, 300],
        {"size": 4},
        quantities=["4", "2", "1", "1"],
    ),
    # fees and prices
    "fees in the asset received": Case(
        (
            (0.2166, 0.217, 0.216, 0.2166),
            (0.2166, 0.217, 0.216, 0.2166),
            (0.2166, 0.2185, 0.216, 0.2183),
            *flat(0.2183),
        ),
        {"target": (1, 1, 0, 0)},
        [(1, "entry", 0.2166), (3, "exit", 0.2183)],
        [5.83387271],
        {"size": 4616.8, "fee_rate": "0.001"},
        quantities=["4616.8", "4612.183"],
        fees=["4.6168", "1.00683955"],
        symbol="XRPUSDT",
    ),
    "fees of a hundred thousandth": Case(
        ((29037.85, 29059.2, 28924.18, 29037.85),) * 3,
        {"target": (1, 0, 0)},
        [(1, "entry", 29037.85), (2, "exit", 29037.85)],
        [],
        {"size": "0.03443", "fee_rate": "0.001"},
        quantities=["0.03443", "0.03439"],
        fees=["0.00003443", "0.99861166"],
    ),
    "a price of eleven decimals": Case(
        TINY,
        {"stop": 4.5e-07},
        [(1, "entry", 4.5631e-07), (2, "sl", 4.5e-07)],
        [-0.631],
        {"size": 100_000_000, "collar_pct": 0.1},
        symbol="PEPEUSDT",
    ),
}


@pytest.mark.parametrize("engine", ["compiled", "reference"])
@pytest.mark.parametrize("name", CASES)
def test_a_public_case_has_its_right_values(name: str, engine: str) -> None:
    case = CASES[name]
    strategy, result = case.run(engine)
    bar = {time_ns: index for index, time_ns in enumerate(result.bars.time_ns.tolist())}
    assert [(bar[fill.time_ns], fill.role.value, float(fill.price)) for fill in result.fills] == case.fills
    assert result.denied_count == case.denied
    if case.pnl:
        assert [float(trade.pnl) for trade in result.trades] == pytest.approx(case.pnl, abs=1e-9)
    if case.quantities is not None:
        assert [fill.quantity for fill in result.fills] == [Decimal(text) for text in case.quantities]
    if case.fees is not None:
        assert [fill.fee for fill in result.fills] == [Decimal(text) for text in case.fees]
    assert audit(AuditedRun.of(result, strategy)) == []


class LeadDip(Strategy):
    """Long while the RSI of another symbol is below 30."""

    name: ClassVar[str] = "lead_dip"

    def warmup(self) -> int:
        return 300

    def inputs(self) -> tuple[str, ...]:
        return ("BTC/USDT",)

    def decide(self, bars: Bars) -> Decisions:
        return Decisions(np.where(rsi(input_bars(self, bars, "BTC/USDT").close, 14) < 30, 1.0, 0.0))


@pytest.mark.parametrize(("missing", "exposure"), [(None, 5.7), (1000, 5.9)])
def test_a_missing_hour_of_an_input_changes_the_hours_beside_it(missing: int | None, exposure: float) -> None:
    """The RSI was 0 from the missing hour on, and 65.9 % of the time in the market."""
    hours = backtest.resample(backtest.sample(), "1h")
    kept = np.arange(len(hours)) != (len(hours) if missing is None else missing)
    columns = (hours.open, hours.high, hours.low, hours.close, hours.volume)
    other = Bars("BTCUSDT", "1h", hours.time_ns[kept], *(column[kept] for column in columns))
    bars = Bars("ETHUSDT", "1h", hours.time_ns, *(column / 20 for column in columns[:4]), hours.volume)
    setup = backtest.setup_for(bars, fee_rate=0, allow_gaps=missing is not None)
    result = run(LeadDip(), bars.joined({"BTC/USDT": other}), setup)
    assert round(result.statistics.exposure_pct, 1) == exposure


SCRIPT = """
from typing import ClassVar
import numpy as np
import fks.backtest as bt
from fks.indicators import sma
from fks.strategies.base import Decisions, Strategy

print("started", __name__, flush=True)


class Cross(Strategy):
    name: ClassVar[str] = "my_cross"
    fast: int = 10
    slow: int = 30

    def warmup(self):
        return self.slow

    def decide(self, bars):
        return Decisions(np.where(sma(bars.close, self.fast) > sma(bars.close, self.slow), 1.0, 0.0))


print("trades", bt.run(Cross(fast=8), bt.resample(bt.sample(), "1h")).statistics.trades)
"""


def test_a_strategy_and_its_run_in_one_file_are_executed_once(tmp_path: Path) -> None:
    (tmp_path / "one_file.py").write_text(SCRIPT)
    command = [sys.executable, "one_file.py"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.splitlines() == ["started __main__", "trades 52"]


def test_targets_of_limit_entries_fill_at_their_price_on_the_sample() -> None:
    """216 of 367 targets filled at the next open, better than their price."""
    hours = backtest.resample(backtest.sample(), "1h")
    target = np.tile([1.0, 1.0, 0.0, -1.0, -1.0, 0.0], len(hours))[: len(hours)]
    side = np.where(target >= 0, 1, -1)
    entry = np.round(hours.close * (1 - side * 0.001), 2)
    limit = np.round(entry * (1 + side * 0.001), 2)
    decided = Given(target=tuple(target), entry_limit=tuple(entry), limit=tuple(limit))
    result = run(decided, hours, backtest.setup_for(hours, fee_rate=0, can_short=True))
    better = [
        trade
        for trade in result.trades
        if trade.reason.value == "tp" and abs(trade.exit_price / trade.entry_price - 1) > Decimal("0.00102")
    ]
    assert len(result.trades) > 500
    assert better == []


class Long(Strategy):
    """Always long."""

    name: ClassVar[str] = "always_long"
    k: int = 1

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        return Decisions(np.ones(len(bars)))


@pytest.mark.parametrize(("folds", "net_profit"), [(2, -360.0), (10, -1800.0)])
def test_walk_forward_pays_for_the_exit_of_each_window(folds: int, net_profit: float) -> None:
    """At one price each window of 9,000 loses its two fees of 1 %; without those of the exits it was half."""
    count = 24 * 200
    price = np.full(count, 100.0)
    times = START_NS + np.arange(count, dtype=np.int64) * 3600 * NS
    bars = Bars("BTCUSDT", "1h", times, price, price + 0.01, price, price, np.ones(count), calendar="24/7")
    setup = backtest.setup_for(bars, fee_rate="0.01", size=9000, can_short=True)
    validation = Validation(kind="walk_forward", folds=folds, train_windows=2)
    found = search(Long, {"k": [1, 2]}, bars, setup, objective="return", trades_min=0, validation=validation)
    assert found["out_of_sample"]["metrics"]["net_profit"] == pytest.approx(net_profit)
    assert found["out_of_sample"]["metrics"]["trades"] == folds
