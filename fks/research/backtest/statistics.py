"""Statistics of a result, float64, computed on demand."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal

import numpy as np

from fks.indicators.exact import Exact
from fks.model.order import Role
from fks.model.timeframe import NS
from fks.research.backtest.curve import deepest_fall
from fks.research.backtest.metrics import sharpe_ratio
from fks.research.backtest.result import ROLES, Result
from fks.research.backtest.series import held_return_pct, returns_of
from fks.research.backtest.units import from_units, to_units

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


def statistics_of(result: Result) -> Statistics:
    """Return the statistics of a result."""
    equity, cash = result.equity, float(result.setup.cash)
    bars = result.bars[result.first :]
    pnl, (returns, per_year) = result.pnl, returns_of(result)
    wins, losses = pnl[pnl > 0], pnl[pnl <= 0]
    fills, trades = result.fill_columns, result.trade_columns
    is_last = np.append(trades.entry[1:] != trades.entry[:-1], True)[: len(trades)]  # not of the parts before
    held = int((fills.bar[trades.exit[is_last]] - fills.bar[trades.entry[is_last]]).sum())
    if (since := _open_since(result)) is not None:
        held += len(result.bars) - int(fills.bar[since])
    final = float(equity[-1]) if len(equity) else cash
    return Statistics(
        bars=len(bars),
        days=float(bars.time_ns[-1] - bars.time_ns[0]) / _DAY_NS if len(bars) else 0.0,
        trades=len(pnl),
        wins=len(wins),
        win_rate_pct=100.0 * len(wins) / len(pnl) if len(pnl) else None,
        net_profit=final - cash,
        return_pct=100.0 * (final / cash - 1.0) if cash else 0.0,
        buy_and_hold_pct=held_return_pct(bars),
        max_drawdown_pct=100.0 * deepest_fall(equity, cash),
        sharpe=sharpe_ratio(returns, per_year),
        profit_factor=float(wins.sum() / -losses.sum()) if len(losses) and losses.sum() < 0 else None,
        average_trade=float(pnl.mean()) if len(pnl) else None,
        best_trade=float(pnl.max()) if len(pnl) else None,
        worst_trade=float(pnl.min()) if len(pnl) else None,
        exposure_pct=100.0 * held / len(bars) if len(bars) else 0.0,
        fees=float(fees_of(result)),
        final_equity=final,
    )


def fees_of(result: Result) -> Decimal:
    """Return all fees in quote, exact; base fees at the price of their fill."""
    return _fees(result, result.fill_columns.fee)


def rebates_of(result: Result) -> Decimal:
    """Return the rebates among the fees, in quote, exact: 0 or more."""
    return -_fees(result, np.minimum(result.fill_columns.fee, 0))


def _fees(result: Result, fee: Exact) -> Decimal:
    fills, units = result.fill_columns, result.units
    in_quote = _exact_sum(fee[~fills.is_base_fee], np.ones(0, dtype=np.int64))
    in_base = _exact_sum(fee[fills.is_base_fee], fills.price[fills.is_base_fee])
    return from_units(in_quote, units.cash) + from_units(in_base, units.quantity + units.price)


def _exact_sum(values: Exact, factors: Exact) -> int:
    """Return the sum of values, or of values times factors where there are some, as an exact integer."""
    if not len(values):
        return 0
    bound = int(abs(values).max()) * len(values) * (int(factors.max()) if len(factors) else 1)
    if bound >= 2**62:
        values = values.astype(object)
    return int((values * factors if len(factors) else values).sum())


def _open_since(result: Result) -> int | None:
    """Return the fill from which on a position that is open at the end is not counted by a trade, or None. After a part
    of it was closed that is the last such part."""
    fills, trades = result.fill_columns, result.trade_columns
    first = int(trades.exit[-1]) + 1 if len(trades) else 0
    if first and ROLES[int(fills.role[first - 1])] is Role.EXIT:
        fees = np.where(fills.is_base_fee[:first], fills.fee[:first], 0)
        position = int((fills.side[:first] * fills.quantity[:first] - fees).sum())
        if abs(position) >= to_units(result.setup.instrument.lot_step, result.units.quantity):
            return first - 1
    return first if len(fills) and ROLES[int(fills.role[-1])] is Role.ENTRY else None
