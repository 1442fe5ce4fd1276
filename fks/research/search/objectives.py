"""Measures of one run, and the objectives made from them. Greater is always better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import expm1, log, sqrt

import numpy as np

from fks.model.bar import Bars, Floats, Ints
from fks.model.calendars import ALWAYS
from fks.model.errors import unprocessable
from fks.model.timeframe import NS
from fks.research.backtest.metrics import moments
from fks.research.backtest.series import days_per_year, last_bars
from fks.research.search.overfitting import sharpe

Metrics = Mapping[str, float]
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Period:
    """The periods in which a tape is judged: their length in seconds (a day is a trading day of `calendar`), and how
    many of them a year has."""

    seconds: int
    per_year: float
    calendar: str = ALWAYS


@dataclass(frozen=True, slots=True)
class Returns:
    """Returns of a run per period, the last bar of each period, its trades' profits in quote, its starting cash, and
    the trades' profits as fractions of the equity that the earlier ones left (-1 where that was 0 or less)."""

    values: Floats
    ends_ns: Ints
    period: Period
    pnl: Floats
    cash: float
    trades: Floats

    @staticmethod
    def of(time_ns: Ints, equity: Floats, period: Period, pnl: Floats, cash: float) -> Returns:
        """Return the returns of a run that began with `cash`: its decided bars, and the equity at each."""
        before = cash + np.concatenate([[0.0], np.cumsum(pnl)[:-1]]) if len(pnl) else np.zeros(0)
        share = np.divide(pnl, before, out=np.full(len(pnl), -1.0), where=before > 0)
        ends_ns = time_ns[last_bars(time_ns, period.seconds, period.calendar)]
        return Returns(period_returns(time_ns, equity, cash, period), ends_ns, period, pnl, cash, share)


def period_of(bars: Bars) -> Period:
    """Return the periods in which a tape of these bars is judged: days when there are 60 of them, else hours when there
    are 60 of those, else minutes.

    A year has 365 days of a market that never closes, else 252, and as many hours or minutes as have bars on its days.
    """
    span_s = float(bars.time_ns[-1] - bars.time_ns[0]) / NS if len(bars) else 0.0
    seconds = next((period for period in (_DAY_S, 3_600) if span_s >= 60 * period), 60)
    if bars.calendar == ALWAYS or not len(bars):
        return Period(seconds, days_per_year(ALWAYS) * _DAY_S / seconds)
    count, days = (len(last_bars(bars.time_ns, length, bars.calendar)) for length in (seconds, _DAY_S))
    return Period(seconds, days_per_year(bars.calendar) * count / days, bars.calendar)


def period_returns(time_ns: Ints, equity: Floats, cash: float, period: Period) -> Floats:
    """Return the simple returns of equity from the end of one period to the next; the first is against `cash`.

    Shapes: (n,), (n,) -> (periods with bars,). Once equity reached 0 or less, one return is -1 and the rest are 0.
    """
    if not len(time_ns):
        return np.zeros(0)
    ends = last_bars(time_ns, period.seconds, period.calendar)
    values = np.concatenate([[cash], equity[ends]])
    broke = np.flatnonzero(values <= 0)
    if len(broke):
        values[broke[0] :] = 0.0
    before = values[:-1]
    found: Floats = np.where(before > 0, values[1:] / np.where(before > 0, before, 1.0) - 1.0, 0.0)
    return found


def metrics_of(returns: Returns) -> dict[str, float]:
    """Return the measures of a run; one that cannot be computed is missing.

    `sharpe_period`: mean over standard deviation of period returns, no risk-free rate; `sharpe`: times the root of the
    periods in a year. `sortino`: over the root mean square of the losses. `calmar`: yearly return over the largest
    drawdown. Returns and drawdowns in percent, compounded over the periods.
    """
    values, pnl = returns.values, returns.pnl
    year = returns.period.per_year
    skew, kurtosis = moments(values)
    growth = np.cumprod(1.0 + values) if len(values) else np.ones(1)
    peaks = np.maximum(np.maximum.accumulate(growth), 1.0)
    fall = float(((peaks - growth) / peaks).max())
    final = float(growth[-1])
    found = {
        "return_pct": 100.0 * (final - 1.0),
        "max_drawdown_pct": 100.0 * fall,
        "trades": float(len(pnl)),
        "net_profit": float(pnl.sum()),
        "periods": float(len(values)),
        "period_s": float(returns.period.seconds),
        "skew": skew,
        "kurtosis": kurtosis,
    }
    ratio = sharpe(values)
    if ratio is not None:
        found["sharpe_period"] = ratio
        found["sharpe"] = ratio * sqrt(year)
    losses = float(np.sqrt((np.minimum(values, 0.0) ** 2).mean())) if len(values) else 0.0
    if losses > 1e-15:
        found["sortino"] = float(values.mean()) / losses * sqrt(year)
    if fall > 1e-12 and final > 0:
        yearly = log(final) * year / len(values)
        found["calmar"] = expm1(min(yearly, 50.0)) / fall  # e^50: a yearly return that means nothing any more
    if len(pnl):
        lost = -float(pnl[pnl <= 0].sum())
        found["win_rate_pct"] = 100.0 * float((pnl > 0).mean())
        found["average_trade"] = float(pnl.mean())
        if lost > 0:
            found["profit_factor"] = float(pnl[pnl > 0].sum()) / lost
    return found


#: objective -> its value from the measures; None when there is none
OBJECTIVES: dict[str, Callable[[Metrics], float | None]] = {
    "sharpe": lambda m: m.get("sharpe"),
    "sortino": lambda m: m.get("sortino"),
    "calmar": lambda m: m.get("calmar"),
    "return": lambda m: m["return_pct"],
    "profit": lambda m: m["net_profit"],
    "profit_factor": lambda m: m.get("profit_factor"),
    "average_trade": lambda m: m.get("average_trade"),
    "win_rate": lambda m: m.get("win_rate_pct"),
    "drawdown": lambda m: -m["max_drawdown_pct"],
    "few_trades": lambda m: -m["trades"],
}


def check_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names. Errors: InputError OBJECTIVE_UNKNOWN."""
    unknown = [name for name in names if name not in OBJECTIVES]
    if unknown or not names:
        raise unprocessable(
            "OBJECTIVE_UNKNOWN", f"unknown objective {', '.join(unknown) or '(none)'}", f"known: {' '.join(OBJECTIVES)}"
        )
    return tuple(names)


def values_of(names: Sequence[str], metrics: Metrics, trades_min: int) -> tuple[float, ...] | None:
    """Return the value of each objective; None when one has none, or when there were fewer trades than `trades_min`."""
    if metrics["trades"] < trades_min:
        return None
    found = [OBJECTIVES[name](metrics) for name in names]
    if any(value is None or not np.isfinite(value) for value in found):
        return None
    return tuple(float(value) for value in found if value is not None)
