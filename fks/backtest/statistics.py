"""Statistics of a result, float64, computed on demand."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal

import numpy as np

from fks.backtest.result import Result
from fks.model.timeframe import NS

_DAY_NS = 86_400 * NS


@dataclass(frozen=True, slots=True)
class Statistics:
    """Money in quote, shares and rates in percent. None where there is nothing to divide by."""

    bars: int
    days: float
    trades: int
    wins: int
    win_rate_pct: float | None
    net_profit: float
    return_pct: float
    buy_and_hold_pct: float
    max_drawdown_pct: float
    sharpe: float | None
    profit_factor: float | None
    average_trade: float | None
    best_trade: float | None
    worst_trade: float | None
    exposure_pct: float
    fees: float
    final_equity: float

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the numbers as JSON-able values."""
        return asdict(self)


def _sharpe(result: Result) -> float | None:
    """Return the yearly Sharpe ratio of daily returns (365 days, no risk-free rate); None under three days."""
    days = result.bars.time_ns[result.first :] // _DAY_NS
    if not len(days):
        return None
    ends = np.flatnonzero(np.diff(days, append=days[-1] + 1))
    daily = np.concatenate([[float(result.setup.cash)], result.equity[ends]])
    if len(daily) < 4 or (daily <= 0).any():
        return None
    returns = np.diff(daily) / daily[:-1]
    spread = float(returns.std(ddof=1))
    return float(returns.mean() / spread * np.sqrt(365.0)) if spread > 0 else None


def statistics_of(result: Result) -> Statistics:
    """Return the statistics of a result."""
    equity, cash = result.equity, float(result.setup.cash)
    bars = result.bars[result.first :]
    pnl = np.array([float(trade.pnl) for trade in result.trades])
    wins, losses = pnl[pnl > 0], pnl[pnl <= 0]
    peaks = np.maximum(np.maximum.accumulate(equity), cash) if len(equity) else equity
    held = sum(_bars_between(bars.time_ns, trade.entry_ns, trade.exit_ns) for trade in result.trades)
    if result.fills and len(result.fills) % 2:
        held += _bars_between(bars.time_ns, result.fills[-1].time_ns, int(bars.time_ns[-1])) + 1
    quote = result.setup.instrument.quote
    fees = sum((f.fee if f.fee_currency == quote else f.fee * f.price for f in result.fills), Decimal(0))
    final = float(equity[-1]) if len(equity) else cash
    return Statistics(
        bars=len(bars),
        days=float(bars.time_ns[-1] - bars.time_ns[0]) / _DAY_NS if len(bars) else 0.0,
        trades=len(pnl),
        wins=len(wins),
        win_rate_pct=100.0 * len(wins) / len(pnl) if len(pnl) else None,
        net_profit=final - cash,
        return_pct=100.0 * (final / cash - 1.0) if cash else 0.0,
        buy_and_hold_pct=100.0 * float(bars.close[-1] / bars.open[0] - 1.0) if len(bars) else 0.0,
        max_drawdown_pct=100.0 * float(((peaks - equity) / peaks).max()) if len(equity) and (peaks > 0).all() else 0.0,
        sharpe=_sharpe(result),
        profit_factor=float(wins.sum() / -losses.sum()) if len(losses) and losses.sum() < 0 else None,
        average_trade=float(pnl.mean()) if len(pnl) else None,
        best_trade=float(pnl.max()) if len(pnl) else None,
        worst_trade=float(pnl.min()) if len(pnl) else None,
        exposure_pct=100.0 * held / len(bars) if len(bars) else 0.0,
        fees=float(fees),
        final_equity=final,
    )


def _bars_between(times: np.ndarray[tuple[int], np.dtype[np.int64]], start_ns: int, end_ns: int) -> int:
    return int(np.searchsorted(times, end_ns) - np.searchsorted(times, start_ns))
