"""Bars from DataFrames, results as DataFrames, and the cost of importing the package."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

import fks.research.backtest as bt
from fks.model.bar import Bars
from fks.model.calendars import calendar_of
from fks.model.errors import ConfigError, InputError
from fks.research.backtest.series import periods_of
from fks.strategies.base import Decisions, Strategy, StrategyError
from fks.strategies.check import synthetic
from fks.strategies.sma_cross import SmaCross

DAYS = pd.DatetimeIndex(
    calendar_of("XNYS").expected("1d", pd.Timestamp("2024-01-01").value, pd.Timestamp("2026-01-01").value)
)
DAYS_2025 = DAYS[(DAYS >= "2025-01-01") & (DAYS < "2025-12-31")]


def frame(count: int = 6, freq: str = "1h", **attrs: str) -> pd.DataFrame:
    index = pd.date_range("2026-01-01", periods=count, freq=freq)
    made = pd.DataFrame({"Open": 100.5, "High": 101.25, "Low": 99.0, "Close": 100.0, "Volume": 2.5}, index=index)
    made.attrs.update(attrs)
    return made


# ── bars ─────────────────────────────────────────────────────────────────────────────────────────
def test_a_frame_of_any_spelling_becomes_bars() -> None:
    bars = bt.bars_from_frame(frame())
    assert (bars.symbol, bars.timeframe, len(bars)) == ("ASSET", "1h", 6)
    assert bars.time_ns[1] == pd.Timestamp("2026-01-01T01:00Z").value
    assert (bars.high[0], bars.volume[0], bars.close.dtype) == (101.25, 2.5, np.float64)


def test_symbol_and_timeframe_come_from_the_frame_or_the_caller() -> None:
    made = frame(symbol="ETHUSDT", timeframe="4h")
    assert (bt.bars_from_frame(made).symbol, bt.bars_from_frame(made).timeframe) == ("ETHUSDT", "4h")
    assert bt.bars_from_frame(made, symbol="X", timeframe="1d").timeframe == "1d"


@pytest.mark.parametrize(
    ("freq", "timeframe"), [("1min", "1m"), ("15min", "15m"), ("1D", "1d"), ("7D", "1w"), ("MS", "1M")]
)
def test_the_timeframe_is_the_most_frequent_step(freq: str, timeframe: str) -> None:
    assert bt.bars_from_frame(frame(9, freq).drop(frame(9, freq).index[4])).timeframe == timeframe


def test_times_may_be_a_column_and_have_a_zone() -> None:
    made = frame()
    zoned = made.set_axis(pd.DatetimeIndex(made.index).tz_localize("Europe/Berlin"))
    assert bt.bars_from_frame(zoned).time_ns[0] == pd.Timestamp("2025-12-31T23:00Z").value
    column = made.rename_axis("Date").reset_index()
    assert bt.bars_from_frame(column).time_ns[0] == pd.Timestamp("2026-01-01T00:00Z").value


def test_bars_without_volume_have_a_small_lot() -> None:
    bars = bt.bars_from_frame(frame().drop(columns="Volume"))
    assert not bars.volume.any()
    assert bt.instrument_of(bars).lot_step == Decimal("1E-8")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (frame().drop(columns=["High", "Low"]), "no column high, low: it has Open, Close, Volume"),
        (frame().reset_index(drop=True), "no column time, timestamp, datetime, date"),
        (frame().assign(time=range(6)).reset_index(drop=True), "column time holds numbers"),
        (frame().assign(Close=[1, 2, 3, np.nan, 5, 6]), r"row 0 \(2026-01-01T00:00:00Z\) is no bar: open 100.5"),
        (frame().assign(Low=[99, 99, 100.2, 99, 99, 99]), r"row 2 \(2026-01-01T02:00:00Z\) is no bar"),
        (frame().iloc[::-1], r"row 1 \(2026-01-01T04:00:00Z\) is not after the row before"),
        (frame().iloc[:0], "no row"),
        (frame().iloc[:1], "one row shows no timeframe"),
        (frame(freq="7min"), "most rows are 420 s apart, which is no timeframe"),
    ],
)
def test_a_frame_that_is_no_bars_is_refused_by_row(made: pd.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bt.bars_from_frame(made)


# ── setup ────────────────────────────────────────────────────────────────────────────────────────
def test_an_instrument_is_derived_from_symbol_and_decimals() -> None:
    item = bt.instrument_of(bt.bars_from_frame(frame(), symbol="SOLUSDC"))
    assert (item.base, item.quote, item.tick, item.lot_step) == ("SOL", "USDC", Decimal("0.01"), Decimal("0.01"))


def test_values_of_a_setup_may_be_numbers_or_text() -> None:
    bars = bt.bars_from_frame(frame())
    made = bt.setup_for(bars, cash=500.5, size="20", fee_rate=0.0005, can_short=True)
    assert (made.cash, made.size, made.costs.fee_rate) == (Decimal("500.5"), Decimal(20), Decimal("0.0005"))
    assert (made.costs.fee_in, made.can_short) == ("quote", True)
    amounts: list[dict[str, Any]] = [
        {"cash": 0},
        {"cash": float("nan")},
        {"cash": 1e30},
        {"size": "much"},
        {"size": 1e30},
    ]
    for wrong in (*amounts, {"fee_rate": -1}, {"fee_rate": 2}, {"fee_rate_maker": 1}, {"sizing": "all"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            bt.setup_for(bars, **wrong)


def test_bars_have_the_calendar_that_is_named_or_that_they_keep_to() -> None:
    days = frame(260).set_axis(pd.bdate_range("2025-01-01", periods=260))
    shares = frame(len(DAYS)).set_axis(DAYS)
    assert bt.bars_from_frame(shares).calendar == "XNYS"
    assert bt.bars_from_frame(days).calendar == "24/5", "it trades on holidays"
    assert bt.bars_from_frame(frame(200)).calendar == "24/7"
    assert bt.bars_from_frame(frame(6)).calendar == "24/7"  # hours of one Thursday
    assert bt.bars_from_frame(frame(6), symbol="NQ 06-26").calendar == "CMES"
    assert bt.bars_from_frame(shares, calendar="XETR").calendar == "XETR"
    assert bt.bars_from_frame(frame(6, calendar="XLON")).calendar == "XLON"
    with pytest.raises(ConfigError, match="no calendar is called 'NYSE2'"):
        bt.bars_from_frame(shares, calendar="NYSE2")


def hours(**changes: Any) -> Bars:
    """Return the hours of shares in New York, 2025: 7 a day, those of early closes 4."""
    times = calendar_of("XNYS").expected("1h", pd.Timestamp("2025-01-02").value, pd.Timestamp("2025-12-31").value)
    made = synthetic(len(times), "1h")
    return replace(made, time_ns=times, **{"calendar": "XNYS", **changes})


def test_nights_weekends_and_holidays_of_a_market_are_no_gaps() -> None:
    result = bt.run(SmaCross(fast=3, slow=7), hours())
    assert len(result.trades) > 50
    assert result.gaps.as_dict() == {
        "bars_expected": 1734, "bars_present": 1734, "longest_gap_bars": 0, "longest_gap_after": None, "gaps": 0,
        "gap_pct": 0.0, "calendar": "XNYS",
    }  # fmt: skip
    with pytest.raises(
        InputError, match=r"after a gap of more than 10 bars.*calendar of a market that closes \(this is 24/7\)"
    ):
        bt.run(SmaCross(fast=3, slow=7), hours(calendar="24/7"))
    whole, keep = hours(), np.ones(1734, dtype=bool)
    keep[500:580] = False
    columns = {name: getattr(whole, name)[keep] for name in ("time_ns", "open", "high", "low", "close", "volume")}
    with pytest.raises(bt.TapeRefused, match=r"misses 4.61 % of its bars \(80 of 1734, limit 1 %\)"):
        bt.run(SmaCross(fast=3, slow=7), replace(whole, **columns))


def test_a_calendar_decides_days_and_years_and_is_part_of_the_fingerprint() -> None:
    result = bt.run(SmaCross(fast=3, slow=7), hours())
    periods = periods_of(result)
    assert (len(periods.returns), periods.per_year) == (len(DAYS_2025) - 1, 252.0)  # the warm-up is 8 hours
    assert result.statistics.sharpe == pytest.approx(
        periods.returns.mean() / periods.returns.std(ddof=1) * np.sqrt(252)
    )
    other = bt.run(SmaCross(fast=3, slow=7), hours(calendar="XNAS"), bt.setup_for(hours(), allow_gaps=True))
    allowed = bt.run(SmaCross(fast=3, slow=7), hours(), bt.setup_for(hours(), allow_gaps=True))
    assert (other.fills_hash, other.inputs_hash != allowed.inputs_hash) == (allowed.fills_hash, True)


def test_the_evening_before_belongs_to_a_trading_day_of_futures() -> None:
    sunday, monday, late = (
        pd.Timestamp(at).value for at in ("2026-01-11T23:00", "2026-01-12T15:00", "2026-01-12T23:30")
    )
    days = calendar_of("CMES").days(np.array([sunday, monday, late]))
    assert np.diff(days).tolist() == [0, 1]


def test_bars_of_a_day_are_made_of_the_hours_of_its_session() -> None:
    days = bt.resample(hours(), "1d")
    assert (len(days), days.calendar) == (len(DAYS_2025), "XNYS")
    assert days.time_ns.tolist() == [day.value for day in DAYS_2025]


def test_a_run_without_a_setup_takes_the_one_derived_from_its_bars() -> None:
    bars = synthetic(900)
    short, full = bt.run(SmaCross(fast=3, slow=8), bars), bt.run(SmaCross(fast=3, slow=8), bars, bt.setup_for(bars))
    assert (short.inputs_hash, short.fills_hash) == (full.inputs_hash, full.fills_hash)
    assert len(short.fills) > 10


# ── results ──────────────────────────────────────────────────────────────────────────────────────
def test_frames_hold_what_the_result_holds() -> None:
    result = bt.run(SmaCross(fast=3, slow=8), synthetic(900))
    trades, fills, equity = result.trades_frame(), result.fills_frame(), result.equity_frame()
    assert len(trades) == len(result.trades) > 10
    assert trades["pnl"].to_list() == [float(trade.pnl) for trade in result.trades]
    assert trades["entry_time"].dt.as_unit("ns").astype("int64").to_list() == [t.entry_ns for t in result.trades]
    assert (trades["mae_pct"] <= 0).all()
    assert (trades["mfe_pct"] >= 0).all()
    assert fills["price"].to_list() == [float(fill.price) for fill in result.fills]
    assert set(fills["role"]) == {"entry", "exit"}
    assert equity["equity"].to_numpy() == pytest.approx(result.equity)
    assert equity["drawdown_pct"].min() == pytest.approx(-result.statistics.max_drawdown_pct)
    assert str(equity.index.tz) == str(fills.index.tz) == "UTC"


def test_a_result_without_trades_has_empty_frames_with_columns() -> None:
    result = bt.run(SmaCross(fast=3, slow=8), synthetic(12))
    assert len(result.trades_frame()) == len(result.trades)
    assert "mae_pct" in result.trades_frame().columns
    assert "fee" in result.fills_frame().columns


def test_the_sample_is_the_shipped_minutes() -> None:
    bars = bt.sample()
    assert (bars.symbol, bars.timeframe, len(bars)) == ("BTCUSDT", "1m", 132_480)


def test_a_run_imports_no_pandas_no_ray_and_no_database() -> None:
    program = (
        "import sys\n"
        "import fks.research.backtest as bt\n"
        "from fks.strategies.sma_cross import SmaCross\n"
        "result = bt.run(SmaCross(fast=20, slow=50), bt.sample()[:2000])\n"
        "result.statistics, result.metrics\n"
        "banned = 'pandas numba ray asyncpg sqlalchemy redis fastapi fks.store fks.research.jobs fks.market.files fks.config.settings'.split()\n"
        "assert [name for name in banned if name in sys.modules] == []\n"
        "result.trades_frame()\n"
        "assert 'pandas' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ── the check of the strategy ────────────────────────────────────────────────────────────────────
class Tomorrow(Strategy):
    """Long where the next close is higher."""

    name: ClassVar[str] = "tomorrow"

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        return Decisions(np.append(np.diff(bars.close) > 0, False).astype(np.float64))


class ShortWarmup(SmaCross):
    """A cross that declares too short a warm-up."""

    name: ClassVar[str] = "short_warmup"

    def warmup(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (Tomorrow(), "tomorrow is refused: it looks ahead"),
        (ShortWarmup(fast=3, slow=8), "short_warmup is refused: its warm-up of 2 bars is too short"),
    ],
)
def test_run_refuses_a_strategy_that_fails_its_check(strategy: Strategy, message: str) -> None:
    with pytest.raises(StrategyError, match=message) as refused:
        bt.run(strategy, synthetic(400))
    assert refused.value.code == "STRATEGY_REFUSED"
    assert "test_frames.py" in refused.value.remedy


def test_the_check_may_be_left_out() -> None:
    assert bt.run(Tomorrow(), synthetic(400), check=False).trades
    checked, unchecked = (bt.run(SmaCross(fast=3, slow=8), synthetic(400), check=check) for check in (True, False))
    assert (checked.inputs_hash, checked.fills_hash) == (unchecked.inputs_hash, unchecked.fills_hash)
