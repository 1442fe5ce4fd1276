"""Statistics of an account: of its equity and the trades of all members, float64, and the table of correlations."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt

import numpy as np

from fks.model.bar import Floats, Ints
from fks.model.buckets import length_of
from fks.model.calendars import ALWAYS
from fks.model.timeframe import NS
from fks.research.backtest.account_result import AccountResult
from fks.research.backtest.curve import deepest_fall
from fks.research.backtest.series import days_per_year, last_bars, share_of
from fks.research.backtest.statistics import fees_of
from fks.trading.risk.correlation import correlation_of, returns_before

_DAY_S = 86_400
_DAY_NS = _DAY_S * NS
_RETURNS_MIN = 3  # fewer give no ratio
_CORRELATED_MAX = 5000  # newest returns of the table


@dataclass(frozen=True, slots=True)
class AccountStatistics:
    """Money in quote, shares and rates in percent. None where there is nothing to divide by.

    Ratios are of daily returns by the members' trading days, a year of 365 of them, or of 252 where all have one market
    that closes; no risk-free rate, as `Statistics.sharpe`. Exposures are the sum of all positions' absolute values, in
    percent of the equity at the same close.
    """

    days: float
    trades: int
    wins: int
    win_rate_pct: float | None
    net_profit: float
    return_pct: float
    max_drawdown_pct: float
    volatility_pct: float | None
    sharpe: float | None
    sortino: float | None
    profit_factor: float | None
    average_trade: float | None
    best_trade: float | None
    worst_trade: float | None
    exposure_pct: float
    average_exposure_pct: float
    max_exposure_pct: float
    positions_max: int
    fees: float
    final_equity: float

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the numbers as JSON-able values."""
        return asdict(self)


def daily_returns(account: AccountResult, equity: Floats) -> Floats:
    """Return an equity's returns by trading day, the first against the starting cash; empty when it was not positive
    throughout. Shapes: `equity` like `account.ends_ns` -> (days,)."""
    levels = np.concatenate([[float(account.starting_cash)], equity[_day_ends(account)]])
    if (levels <= 0).any():
        return np.zeros(0)
    returns: Floats = np.diff(levels) / levels[:-1]
    return returns


def account_statistics_of(account: AccountResult) -> AccountStatistics:
    """Return the statistics of an account."""
    equity, cash = account.equity, float(account.starting_cash)
    pnl = np.concatenate([result.pnl for result in account.results])
    wins, losses = pnl[pnl > 0], pnl[pnl <= 0]
    returns = daily_returns(account, equity)
    members = account.holding
    share = share_of(account.exposure, equity)
    share = share[~np.isnan(share)]
    spread = float(returns.std(ddof=1)) if len(returns) >= _RETURNS_MIN else 0.0
    down = float(np.sqrt((np.minimum(returns, 0.0) ** 2).mean())) if len(returns) >= _RETURNS_MIN else 0.0
    final = float(equity[-1])
    year = days_per_year(_calendar(account))
    return AccountStatistics(
        days=float(account.ends_ns[-1] - account.ends_ns[0]) / _DAY_NS,
        trades=len(pnl),
        wins=len(wins),
        win_rate_pct=100.0 * len(wins) / len(pnl) if len(pnl) else None,
        net_profit=final - cash,
        return_pct=100.0 * (final / cash - 1.0),
        max_drawdown_pct=100.0 * deepest_fall(equity, cash),
        volatility_pct=100.0 * spread * sqrt(year) if spread > 0 else None,
        sharpe=float(returns.mean() / spread * np.sqrt(year)) if spread > 0 else None,
        sortino=float(returns.mean() / down * np.sqrt(year)) if down > 0 else None,
        profit_factor=float(wins.sum() / -losses.sum()) if len(losses) and losses.sum() < 0 else None,
        average_trade=float(pnl.mean()) if len(pnl) else None,
        best_trade=float(pnl.max()) if len(pnl) else None,
        worst_trade=float(pnl.min()) if len(pnl) else None,
        exposure_pct=100.0 * float((members > 0).mean()),
        average_exposure_pct=float(share.mean()) if len(share) else 0.0,
        max_exposure_pct=float(share.max(initial=0.0)),
        positions_max=int(members.max()),
        fees=float(sum(fees_of(result) for result in account.results)),
        final_equity=final,
    )


@dataclass(frozen=True, slots=True)
class RunCorrelations:
    """Pearson's correlation over the whole run; None where it is not known. `symbols`: of the logarithmic returns of
    each pair of symbols by `interval` (at most the newest 5,000 of the run); `members`: of the members' daily profits.
    """

    interval: str
    symbols: dict[str, dict[str, float | None]]
    members: tuple[tuple[float | None, ...], ...]


def correlations_of(account: AccountResult) -> RunCorrelations:
    """Return the correlations of an account's symbols and members."""
    series: dict[str, tuple[Ints, Floats]] = {}
    longest = "1m"
    for result, ends in zip(account.results, account.all_ends_of_results, strict=True):
        symbol, timeframe = result.setup.instrument.symbol, result.bars.timeframe
        if symbol not in series or len(series[symbol][0]) < len(ends):
            series[symbol] = (ends, result.bars.close)
        if length_of(timeframe) > length_of(longest):
            longest = timeframe
    interval = longest if length_of(longest) > length_of("1h") else "1h"
    step_s = min(length_of(interval), 86_400)  # the grid has no weeks and months
    at_ns = max(int(ends[-1]) for ends, _ in series.values())
    span = at_ns - min(int(ends[0]) for ends, _ in series.values())
    count = int(min(max(span // (step_s * NS), 2), _CORRELATED_MAX))
    returns = {name: returns_before(*columns, at_ns, step_s, count) for name, columns in series.items()}
    profits = [
        np.diff(account.on_account(number)[_day_ends(account)], prepend=float(account.starting_cash))
        for number in range(len(account.results))
    ]
    return RunCorrelations(
        "1d" if step_s == 86_400 else interval,
        {a: {b: correlation_of(returns[a], returns[b]) for b in series} for a in series},
        tuple(tuple(correlation_of(a, b) for b in profits) for a in profits),
    )


def _calendar(account: AccountResult) -> str:
    names = {result.bars.calendar for result in account.results}
    return names.pop() if len(names) == 1 else ALWAYS


def _day_ends(account: AccountResult) -> Ints:
    """Return the last moment of each trading day: of the members' calendar, UTC days where they have several."""
    inside_ns = account.ends_ns - 1  # a bar that ends at midnight is of the day before
    return last_bars(inside_ns, _DAY_S, _calendar(account))
