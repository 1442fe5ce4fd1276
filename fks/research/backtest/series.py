"""Columns derived from a result: position, drawdown, benchmark, returns by period, trades with their excursions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fks.model.bar import Bars, Floats, Ints
from fks.model.calendars import ALWAYS, calendar_of
from fks.model.order import Role
from fks.model.timeframe import NS, TIMEFRAMES
from fks.research.backtest.result import ROLES, Result, as_floats
from fks.research.backtest.units import to_units

_DAY_S = 86_400


class Periods(NamedTuple):
    """Returns of a run over equal periods, as fractions. Shapes: `ends` indexes the decided bars, one per period."""

    name: str  # of one period: day, week, month
    per_year: float
    ends: Ints
    returns: Floats
    benchmark: Floats


@dataclass(frozen=True, slots=True)
class TradeTable:
    """The trades of a result as columns. Prices, quantity and pnl in float64; excursions in percent of the entry."""

    entry_ns: Ints
    exit_ns: Ints
    entry_index: Ints  # on the decided bars
    exit_index: Ints
    sign: Floats  # 1 long, -1 short
    quantity: Floats
    entry_price: Floats
    exit_price: Floats
    pnl: Floats
    pnl_pct: Floats
    mae_pct: Floats
    mfe_pct: Floats
    reason: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pnl)


def decided_bars(result: Result) -> Bars:
    """Return the bars that were decided on: those of `result.equity`."""
    return result.bars[result.first :]


def position_of(result: Result) -> Floats:
    """Return the signed quantity held after each decided bar, net of fees taken in base; less than a lot is 0."""
    fills, places, count = result.fill_columns, result.units.quantity, len(result.equity)
    levels = np.concatenate([[0], np.cumsum(fills.side * fills.quantity - np.where(fills.is_base_fee, fills.fee, 0))])
    levels[np.abs(levels) < to_units(result.setup.instrument.lot_step, places)] = 0  # dust cannot be sold
    lengths = np.diff(np.concatenate([[0], fills.bar - result.first, [count]]))
    return as_floats(np.repeat(levels, lengths), places)


def exposure_of(result: Result) -> Floats:
    """Return the signed value of the position at each decided bar's close, in percent of the equity there; NaN where
    something is held and the equity is 0 or less."""
    value = position_of(result) * decided_bars(result).close * float(result.setup.instrument.multiplier)
    return share_of(value, result.equity)


def share_of(value: Floats, equity: Floats) -> Floats:
    """Return values in percent of the equity; NaN where one that is not 0 has an equity of 0 or less."""
    unknown = np.where(value == 0.0, 0.0, np.nan)
    share: Floats = 100.0 * np.divide(value, equity, out=unknown, where=equity > 0)
    return share


def drawdown_of(equity: Floats, start: float) -> Floats:
    """Return the loss since the highest equity so far (`start` included), in percent: 0 at a peak, else negative."""
    if not len(equity):
        return np.zeros(0)
    peaks = np.maximum(np.maximum.accumulate(equity), start)
    fall: Floats = 100.0 * np.divide(equity - peaks, peaks, out=np.zeros(len(equity)), where=peaks > 0)
    return fall


def held_closes(bars: Bars) -> Floats:
    """Return the closes beside the first open: of a continuous future in points, as the gaps of its rolls are no
    profit."""
    if not bars.rolls or not len(bars):
        return bars.close
    moved = bars.known(len(bars))
    closes: Floats = moved.close - moved.open[0] + bars.open[0]
    return closes


def held_return_pct(bars: Bars) -> float:
    """Return what buying at the first open and holding to the last close made, without fees."""
    return 100.0 * float(held_closes(bars)[-1] / bars.open[0] - 1.0) if len(bars) else 0.0


def benchmark_of(result: Result) -> Floats:
    """Return the equity of buying with all cash at the first decided bar's open and holding, without fees."""
    bars = decided_bars(result)
    if not len(bars):
        return np.zeros(0)
    held: Floats = float(result.setup.cash) * held_closes(bars) / bars.open[0]
    return held


def periods_of(result: Result) -> Periods:
    """Return the run's returns by day (bars shorter than a day: by trading day of the market's calendar, UTC days of
    `24/7`), or by bar for days, weeks and months.

    A year has 365 days of a market that never closes, else 252; 365/7 weeks; 12 months. The first return is
    against the starting cash (benchmark: the first open). Empty where the equity was not positive throughout.
    """
    bars, cash = decided_bars(result), float(result.setup.cash)
    name, per_year = _calendar(bars)
    ends = _ends(bars)
    return Periods(
        name, per_year, ends, returns_at(result.equity, ends, cash), returns_at(benchmark_of(result), ends, cash)
    )


def returns_of(result: Result) -> tuple[Floats, float]:
    """Return the run's returns and how many a year has, as `periods_of`."""
    bars = decided_bars(result)
    return returns_at(result.equity, _ends(bars), float(result.setup.cash)), _calendar(bars)[1]


def days_per_year(calendar: str) -> float:
    """Return the trading days of a year: 365 of a market that never closes, else 252, as is usual for shares and
    futures."""
    return 365.0 if calendar == ALWAYS else 252.0


def last_bars(time_ns: Ints, seconds: int, calendar: str) -> Ints:
    """Return the last bar of each period of `seconds` that has one; a day is a trading day of `calendar`."""
    if not len(time_ns):
        return np.zeros(0, dtype=np.int64)
    if calendar != ALWAYS and seconds == _DAY_S:
        days = calendar_of(calendar).days(time_ns)
        return np.flatnonzero(np.diff(days, append=days[-1:] + 1))
    step_ns = seconds * NS
    first, last = (int(time_ns[place]) // step_ns for place in (0, -1))
    starts = np.arange(first + 1, last + 2, dtype=np.int64) * step_ns
    found = np.searchsorted(time_ns, starts) - 1
    return found[np.diff(found, prepend=-1) > 0]  # ascending: np.unique would take twice as long


def _ends(bars: Bars) -> Ints:
    if bars.end_ns is not None:
        return last_bars(bars.end_ns - 1, _DAY_S, bars.calendar)  # of the last trade
    if TIMEFRAMES[bars.timeframe] in range(1, _DAY_S):
        return last_bars(bars.time_ns, _DAY_S, bars.calendar)
    return np.arange(len(bars))


def _calendar(bars: Bars) -> tuple[str, float]:
    if bars.timeframe == "1M":
        return "month", 12.0
    if bars.timeframe == "1w":
        return "week", 365.0 / 7.0
    return "day", days_per_year(bars.calendar)


def returns_at(values: Floats, ends: Ints, start: float) -> Floats:
    """Return the return of each period that ends at an index of `ends`, the first against `start`; none where a value
    is not positive."""
    levels = np.concatenate([[start], values[ends]])
    if (levels <= 0).any():
        return np.zeros(0)
    changes: Floats = np.diff(levels) / levels[:-1]
    return changes


def rolling_of(returns: Floats, window: int, per_year: float) -> tuple[Floats, Floats]:
    """Return the yearly volatility (percent) and Sharpe ratio of each `window` returns.

    Shapes: (n,) -> two of (n,), NaN before the window is full. The Sharpe ratio is NaN where nothing varied.
    """
    volatility, sharpe = np.full(len(returns), np.nan), np.full(len(returns), np.nan)
    if 2 <= window <= len(returns):
        parts = np.lib.stride_tricks.sliding_window_view(returns, window)
        spread = parts.std(axis=1, ddof=1)
        volatility[window - 1 :] = 100.0 * spread * np.sqrt(per_year)
        varied = spread > 1e-12
        sharpe[window - 1 :][varied] = parts.mean(axis=1)[varied] / spread[varied] * np.sqrt(per_year)
    return volatility, sharpe


def trade_table(result: Result) -> TradeTable:
    """Return the trades as columns, with the maximum adverse and favourable excursion of each.

    Excursions are the lowest and highest price from the entry's bar to the bar before the exit's, and the exit price:
    what the exit's bar did before or after the exit is not known. Adverse is 0 or less, favourable 0 or more.
    Source: Sweeney, Maximum Adverse Excursion (1996).
    """
    bars, fills, trades = decided_bars(result), result.fill_columns, result.trade_columns
    start, end = fills.bar[trades.entry] - result.first, fills.bar[trades.exit] - result.first
    sign = fills.side[trades.entry].astype(np.float64)
    quantity = as_floats(fills.quantity[trades.exit], result.units.quantity)
    entry, leave = (as_floats(fills.price[which], result.units.price) for which in (trades.entry, trades.exit))
    for at in np.flatnonzero(trades.exit - trades.entry > 1).tolist():  # of several entries, or legs
        row = result.trades[at]
        quantity[at], entry[at], leave[at] = float(row.quantity), float(row.entry_price), float(row.exit_price)
    pnl = result.pnl
    low, high = _range(bars, start, end, entry, leave)
    down, up = 100.0 * (low / entry - 1.0), 100.0 * (high / entry - 1.0)
    is_long = sign > 0
    paid = quantity * entry * float(result.setup.instrument.multiplier)
    return TradeTable(
        bars.time_ns[start],
        bars.time_ns[end],
        start,
        end,
        sign,
        quantity,
        entry,
        leave,
        pnl,
        100.0 * np.divide(pnl, paid, out=np.zeros(len(pnl)), where=paid != 0),
        np.where(is_long, down, -up),
        np.where(is_long, up, -down),
        tuple(_reason(ROLES[role]) for role in fills.role[trades.exit].tolist()),
    )


def _range(bars: Bars, start: Ints, end: Ints, entry: Floats, leave: Floats) -> tuple[Floats, Floats]:
    low, high = np.minimum(entry, leave), np.maximum(entry, leave)
    held: npt.NDArray[np.bool_] = end > start
    if held.any():
        pairs = np.stack([start[held], end[held]], axis=1).ravel()
        low[held] = np.minimum(low[held], np.minimum.reduceat(bars.low, pairs)[::2])
        high[held] = np.maximum(high[held], np.maximum.reduceat(bars.high, pairs)[::2])
    return low, high


def _reason(role: Role) -> str:
    named = {Role.STOP_LOSS: "stop loss", Role.TAKE_PROFIT: "take profit", Role.LIQUIDATION: "liquidation"}
    return named.get(role, "signal")
