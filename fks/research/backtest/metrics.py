"""The extended statistics of a result, float64, computed only when asked for. docs/backtest-report.md has the formulas.

`statistics_of` is the small set that a search needs. This module takes a few more passes over the equity and the
trades. Ratios use the returns of `fks.research.backtest.series.periods_of`: days for bars shorter than a day, else the
bars. The risk-free rate is 0. A value is None where it is not defined: too few returns or trades, nothing to divide by.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import sqrt
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from fks.model.bar import Bars, Floats, Ints
from fks.model.calendars import ALWAYS
from fks.model.order import Role
from fks.model.timeframe import NS
from fks.research.backtest.curve import deepest_fall
from fks.research.backtest.result import ROLES, Result, as_floats
from fks.research.backtest.series import (
    Periods,
    TradeTable,
    benchmark_of,
    decided_bars,
    drawdown_of,
    exposure_of,
    held_return_pct,
    last_bars,
    periods_of,
    position_of,
    returns_at,
    trade_table,
)
from fks.trading.portfolio.risk import (
    beta_of,
    central_moment,
    excess_kurtosis,
    expected_shortfall,
    skewness,
    value_at_risk,
)

_DAY_S = 86_400
_YEAR_NS = 365 * _DAY_S * NS
_CAGR_NS = 30 * 86_400 * NS  # a shorter run extrapolates noise to a year
_RETURNS_MIN = 3  # fewer give no ratio
_GOOD, _SURE = 3.0, 0.95  # a yearly Sharpe ratio that is too good, and how surely
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Metrics:
    """Statistics beyond `Statistics`. Money in quote, shares and returns in percent, durations in seconds.

    `period` and `periods_per_year` say what the ratios were computed from. Drawdowns are positive, as in `Statistics`;
    VaR, CVaR and excursions are returns, so that a loss is negative.
    """

    period: str
    periods: int
    periods_per_year: float
    # return
    total_return_pct: float
    annual_return_pct: float | None
    cagr_pct: float | None
    best_period_pct: float | None
    worst_period_pct: float | None
    positive_periods_pct: float | None
    # risk
    volatility_pct: float | None
    downside_deviation_pct: float | None
    max_drawdown_pct: float
    max_drawdown_s: float
    average_drawdown_pct: float
    under_water_pct: float
    ulcer_index_pct: float
    var_95_pct: float | None
    cvar_95_pct: float | None
    skew: float | None
    kurtosis: float | None
    # return for risk
    sharpe: float | None
    sortino: float | None
    calmar: float | None
    recovery_factor: float | None
    # benchmark: buy and hold
    benchmark_return_pct: float
    benchmark_max_drawdown_pct: float
    benchmark_sharpe: float | None
    alpha_pct: float | None
    beta: float | None
    correlation: float | None
    information_ratio: float | None
    # trades
    trades: int
    long_trades: int
    short_trades: int
    win_rate_pct: float | None
    profit_factor: float | None
    payoff_ratio: float | None
    expectancy: float | None
    expectancy_pct: float | None
    sqn: float | None
    kelly_pct: float | None
    average_win: float | None
    average_loss: float | None
    best_trade_pct: float | None
    worst_trade_pct: float | None
    wins_in_a_row: int
    losses_in_a_row: int
    average_holding_s: float | None
    median_holding_s: float | None
    longest_holding_s: float | None
    average_mae_pct: float | None
    average_mfe_pct: float | None
    # exposure and costs
    exposure_pct: float
    average_exposure_pct: float
    max_exposure_pct: float
    turnover: float
    turnover_per_year: float | None
    traded_value: float
    fees: float
    entry_fees: float
    exit_fees: float
    fees_of_turnover_pct: float | None
    fees_of_gross_profit_pct: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON-able values."""
        return asdict(self)


class Drawdown(NamedTuple):
    """A time below an earlier peak. `peak_ns` is the bar of the peak (the first bar, for the starting cash), `end_ns`
    the bar whose close regains it; None when it is not regained."""

    depth_pct: float
    peak_ns: int
    trough_ns: int
    end_ns: int | None
    length_s: float  # from the peak to the end, or to the last bar


class MonthReturn(NamedTuple):
    """The return of one UTC calendar month, and the benchmark's, in percent; `month` is 1 to 12."""

    year: int
    month: int
    return_pct: float
    benchmark_pct: float


def metrics_of(result: Result) -> Metrics:
    """Return the extended statistics of a result."""
    bars, cash = decided_bars(result), float(result.setup.cash)
    periods, trades = periods_of(result), trade_table(result)
    final = float(result.equity[-1]) if len(result.equity) else cash
    falls = drawdown_of(result.equity, cash)
    span_ns = _span_ns(bars)
    cagr = _cagr(final / cash, span_ns)
    deepest = -float(falls.min(initial=0.0))
    exposure, held = np.abs(exposure_of(result)), position_of(result) != 0.0
    known = exposure[~np.isnan(exposure)]
    paid = _costs(result)
    gross = float(trades.pnl[trades.pnl > 0].sum())
    average_equity = float(result.equity.mean()) if len(result.equity) else cash
    turnover = paid.traded / average_equity if average_equity > 0 else 0.0
    return Metrics(
        period=periods.name,
        periods=len(periods.returns),
        periods_per_year=periods.per_year,
        total_return_pct=100.0 * (final / cash - 1.0),
        cagr_pct=cagr,
        max_drawdown_pct=deepest,
        **_drawdown_facts(bars, result.equity, cash, falls),
        **_return_facts(periods),
        calmar=None if cagr is None or deepest == 0 else cagr / deepest,
        recovery_factor=_recovery(result.equity, cash),
        benchmark_return_pct=held_return_pct(bars),
        benchmark_max_drawdown_pct=-float(drawdown_of(benchmark_of(result), cash).min(initial=0.0)),
        **_benchmark_facts(periods),
        **_trade_facts(trades),
        exposure_pct=100.0 * float(held.mean()) if len(held) else 0.0,
        average_exposure_pct=float(known.mean()) if len(known) else 0.0,
        max_exposure_pct=float(known.max(initial=0.0)),
        turnover=turnover,
        turnover_per_year=turnover * _YEAR_NS / span_ns if span_ns >= _CAGR_NS else None,
        traded_value=paid.traded,
        fees=paid.entry + paid.exit,
        entry_fees=paid.entry,
        exit_fees=paid.exit,
        fees_of_turnover_pct=100.0 * (paid.entry + paid.exit) / paid.traded if paid.traded else None,
        fees_of_gross_profit_pct=100.0 * (paid.entry + paid.exit) / gross if gross > 0 else None,
    )


# ── returns ──────────────────────────────────────────────────────────────────────────────────────
def sharpe_ratio(returns: Floats, per_year: float) -> float | None:
    """Return mean / standard deviation (n-1) of the returns, times the root of the periods in a year.

    Source: Sharpe, The Sharpe Ratio, Journal of Portfolio Management 21 (1994); risk-free rate 0.
    """
    spread = float(returns.std(ddof=1)) if len(returns) >= _RETURNS_MIN else 0.0
    return float(returns.mean()) / spread * sqrt(per_year) if spread > 1e-12 else None


def sortino_ratio(returns: Floats, per_year: float) -> float | None:
    """Return the yearly mean over the yearly downside deviation: the root of the mean squared loss of all periods.

    Source: Sortino and Price, Performance Measurement in a Downside Risk Framework, Journal of Investing 3 (1994).
    """
    downside = _downside(returns)
    return float(returns.mean()) / downside * sqrt(per_year) if downside > 1e-12 else None


def moments(returns: Floats) -> tuple[float, float]:
    """Return skewness and kurtosis (3 for a normal distribution), population moments; 0 and 3 without spread."""
    second = central_moment(returns, 2) if len(returns) > 1 else 0.0
    if second <= 1e-30:
        return 0.0, 3.0
    return central_moment(returns, 3) / second**1.5, central_moment(returns, 4) / second**2


def probabilistic_sharpe(
    observed: float, periods: int, *, skew: float = 0.0, kurtosis: float = 3.0, benchmark: float = 0.0
) -> float:
    """Return the probability that the true Sharpe ratio exceeds `benchmark`, given the observed one.

    Units: both Sharpe ratios per period, `periods` the number of returns, `kurtosis` not in excess.
    Source: Bailey & López de Prado (2012), The Sharpe Ratio Efficient Frontier, Journal of Risk 15(2), eq. 11.
    """
    if periods < 2:
        return 0.5
    variance = 1.0 - skew * observed + (kurtosis - 1.0) / 4.0 * observed**2
    return _NORMAL.cdf((observed - benchmark) * sqrt(periods - 1) / sqrt(max(variance, 1e-12)))


def too_good(periods: Periods) -> str | None:
    """Return that a run is better than any known fund was, in words, None when it is not: its yearly Sharpe ratio is
    above 3 with a probability of 95 %. No check can prove that a strategy read nothing of the future.

    Source of the bound: Cornell, Medallion Fund: The Ultimate Counterexample?, Journal of Portfolio Management 46(4)
    (2020): 63 % a year with a standard deviation of 32 %, a ratio of 2.
    """
    returns = periods.returns
    ratio = sharpe_ratio(returns, 1.0)
    if ratio is None:
        return None
    skew, kurtosis = moments(returns)
    surely = probabilistic_sharpe(
        ratio, len(returns), skew=skew, kurtosis=kurtosis, benchmark=_GOOD / sqrt(periods.per_year)
    )
    if surely < _SURE:
        return None
    return (
        f"A Sharpe ratio of {ratio * sqrt(periods.per_year):.1f} a year over {len(returns)} {periods.name}s is above "
        f"{_GOOD:g} with a probability of {surely:.2f}, and no known fund kept up {_GOOD:g}: look for later data in "
        "what the strategy reads (a file, a module's variable), and at fees and slippage."
    )


def _downside(returns: Floats) -> float:
    return float(np.sqrt((np.minimum(returns, 0.0) ** 2).mean())) if len(returns) >= _RETURNS_MIN else 0.0


def _cagr(growth: float, span_ns: int) -> float | None:
    """Return the compound annual growth rate in percent; None for a span under 30 days or when all was lost."""
    if span_ns < _CAGR_NS or growth <= 0:
        return None
    return 100.0 * float(growth ** (_YEAR_NS / span_ns) - 1.0)


def _span_ns(bars: Bars) -> int:
    return bars.ended_ns(-1) - int(bars.time_ns[0]) if len(bars) else 0


def _return_facts(periods: Periods) -> dict[str, Any]:
    returns, per_year = periods.returns, periods.per_year
    enough = len(returns) >= _RETURNS_MIN
    return {
        "annual_return_pct": 100.0 * float(returns.mean()) * per_year if enough else None,
        "best_period_pct": 100.0 * float(returns.max()) if len(returns) else None,
        "worst_period_pct": 100.0 * float(returns.min()) if len(returns) else None,
        "positive_periods_pct": 100.0 * float((returns > 0).mean()) if len(returns) else None,
        "volatility_pct": 100.0 * float(returns.std(ddof=1)) * sqrt(per_year) if enough else None,
        "downside_deviation_pct": 100.0 * _downside(returns) * sqrt(per_year) if enough else None,
        "var_95_pct": 100.0 * value_at_risk(returns) if enough else None,
        "cvar_95_pct": 100.0 * expected_shortfall(returns) if enough else None,
        "skew": skewness(returns),
        "kurtosis": excess_kurtosis(returns),
        "sharpe": sharpe_ratio(returns, per_year),
        "sortino": sortino_ratio(returns, per_year),
    }


# ── drawdown ─────────────────────────────────────────────────────────────────────────────────────
def _drawdown_facts(bars: Bars, equity: Floats, cash: float, falls: Floats) -> dict[str, Any]:
    under = falls < 0
    start, end = spells(under)
    lowest = [-float(falls[a:b].min()) for a, b in zip(start.tolist(), end.tolist(), strict=True)]
    return {
        "max_drawdown_s": _longest_s(bars, start, end),
        "average_drawdown_pct": float(np.mean(lowest)) if lowest else 0.0,
        "under_water_pct": 100.0 * float(under.mean()) if len(under) else 0.0,
        "ulcer_index_pct": float(np.sqrt((falls**2).mean())) if len(falls) else 0.0,  # Martin and McCann (1989)
    }


def drawdowns_of(result: Result, count: int = 10) -> list[Drawdown]:
    """Return the deepest drawdowns of the equity, the deepest first."""
    bars, falls = decided_bars(result), drawdown_of(result.equity, float(result.setup.cash))
    found = []
    for start, end in zip(*(edge.tolist() for edge in spells(falls < 0)), strict=True):
        trough, peak, last = start + int(falls[start:end].argmin()), max(start - 1, 0), min(end, len(bars) - 1)
        moments = (int(bars.time_ns[at]) for at in (peak, trough, last))
        peak_ns, trough_ns, last_ns = moments
        ended_ns = last_ns if end < len(bars) else None
        found.append(Drawdown(-float(falls[trough]), peak_ns, trough_ns, ended_ns, (last_ns - peak_ns) / NS))
    return sorted(found, key=lambda row: -row.depth_pct)[:count]


def spells(flags: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[Ints, Ints]:
    """Return the start and the end (not included) of each run of true values."""
    edges = np.diff(np.concatenate([[0], flags.view(np.int8), [0]]))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def _longest_s(bars: Bars, start: Ints, end: Ints) -> float:
    """Return the longest time from a peak to the close that regains it, or to the last one."""
    if not len(start):
        return 0.0
    last = len(bars) - 1
    return float((bars.time_ns[np.minimum(end, last)] - bars.time_ns[np.maximum(start - 1, 0)]).max()) / NS


def _recovery(equity: Floats, cash: float) -> float | None:
    """Return net profit over the greatest loss of money since a peak."""
    if not len(equity):
        return None
    loss = float((np.maximum(np.maximum.accumulate(equity), cash) - equity).max())
    return float(equity[-1] - cash) / loss if loss > 0 else None


# ── benchmark ────────────────────────────────────────────────────────────────────────────────────
def _benchmark_facts(periods: Periods) -> dict[str, Any]:
    """Return alpha and beta against buy and hold.

    Source: Jensen, The Performance of Mutual Funds in the Period 1945-1964, Journal of Finance 23 (1968); alpha is
    compounded to a year.
    """
    own, market, per_year = periods.returns, periods.benchmark, periods.per_year
    names = ("alpha_pct", "beta", "correlation", "information_ratio", "benchmark_sharpe")
    beta = beta_of(own, market)
    if beta is None:
        return dict.fromkeys(names)
    alpha = float(own.mean() - beta * market.mean())
    return {
        "alpha_pct": 100.0 * float((1.0 + alpha) ** per_year - 1.0),
        "beta": beta,
        "correlation": float(np.corrcoef(own, market)[0, 1]) if float(own.std()) > 1e-12 else None,
        "information_ratio": sharpe_ratio(own - market, per_year),
        "benchmark_sharpe": sharpe_ratio(market, per_year),
    }


# ── trades ───────────────────────────────────────────────────────────────────────────────────────
def _trade_facts(trades: TradeTable) -> dict[str, Any]:
    """Return what the closed trades show.

    Sources: SQN: Tharp, Trade Your Way to Financial Freedom (2007), mean over standard deviation of the trades' profit
    times the root of their number. Kelly, A New Interpretation of Information Rate (1956): win rate less loss rate over
    payoff ratio.
    """
    pnl, count = trades.pnl, len(trades)
    wins, losses = pnl[pnl > 0], pnl[pnl <= 0]
    lost = float(losses.sum())
    spread = float(pnl.std(ddof=1)) if count > 1 else 0.0
    payoff = float(wins.mean() / -losses.mean()) if len(wins) and lost < 0 else None
    rate = len(wins) / count if count else 0.0
    held = (trades.exit_ns - trades.entry_ns) / NS
    return {
        "trades": count,
        "long_trades": int((trades.sign > 0).sum()),
        "short_trades": int((trades.sign < 0).sum()),
        "win_rate_pct": 100.0 * rate if count else None,
        "profit_factor": float(wins.sum()) / -lost if lost < 0 else None,
        "payoff_ratio": payoff,
        "expectancy": float(pnl.mean()) if count else None,
        "expectancy_pct": float(trades.pnl_pct.mean()) if count else None,
        "sqn": float(np.sqrt(count) * pnl.mean() / spread) if spread > 0 else None,
        "kelly_pct": 100.0 * (rate - (1.0 - rate) / payoff) if payoff else None,
        "average_win": float(wins.mean()) if len(wins) else None,
        "average_loss": float(losses.mean()) if len(losses) else None,
        "best_trade_pct": float(trades.pnl_pct.max()) if count else None,
        "worst_trade_pct": float(trades.pnl_pct.min()) if count else None,
        "wins_in_a_row": _longest_spell(pnl > 0),
        "losses_in_a_row": _longest_spell(pnl <= 0),
        "average_holding_s": float(held.mean()) if count else None,
        "median_holding_s": float(np.median(held)) if count else None,
        "longest_holding_s": float(held.max()) if count else None,
        "average_mae_pct": float(trades.mae_pct.mean()) if count else None,
        "average_mfe_pct": float(trades.mfe_pct.mean()) if count else None,
    }


def _longest_spell(flags: np.ndarray[Any, np.dtype[np.bool_]]) -> int:
    start, end = spells(flags)
    return int((end - start).max(initial=0))


class _Costs(NamedTuple):
    entry: float
    exit: float
    traded: float


def _costs(result: Result) -> _Costs:
    """Return fees of entries and exits and the traded value; fees in base at their fill's price."""
    fills, units = result.fill_columns, result.units
    price = as_floats(fills.price, units.price)
    fees = np.where(fills.is_base_fee, as_floats(fills.fee, units.quantity) * price, as_floats(fills.fee, units.cash))
    is_entry = fills.role == ROLES.index(Role.ENTRY)
    traded = as_floats(fills.quantity, units.quantity) * price
    multiplier = float(result.setup.instrument.multiplier)
    return _Costs(float(fees[is_entry].sum()), float(fees[~is_entry].sum()), float(traded.sum()) * multiplier)


# ── calendar ─────────────────────────────────────────────────────────────────────────────────────
def monthly_returns(result: Result) -> list[MonthReturn]:
    """Return the return of each UTC calendar month of the run, oldest first; the first and the last may be partial."""
    return _calendar_returns(result, "datetime64[M]")


def yearly_returns(result: Result) -> list[MonthReturn]:
    """Return the return of each UTC calendar year of the run, oldest first, with `month` 0."""
    return [row._replace(month=0) for row in _calendar_returns(result, "datetime64[Y]")]


def _calendar_returns(result: Result, unit: str) -> list[MonthReturn]:
    bars, cash = decided_bars(result), float(result.setup.cash)
    if not len(bars):
        return []
    labels = bars.time_ns.view("datetime64[ns]").astype(unit)
    ends = np.flatnonzero(np.concatenate([labels[1:] != labels[:-1], [True]]))
    own, market = (np.concatenate([[cash], values[ends]]) for values in (result.equity, benchmark_of(result)))
    rows = []
    for place, end in enumerate(ends.tolist()):
        moment = datetime.fromtimestamp(int(bars.time_ns[end]) // NS, UTC)
        returns = [
            100.0 * float(v[place + 1] / v[place] - 1.0) if v[place] > 0 else float("nan") for v in (own, market)
        ]
        rows.append(MonthReturn(moment.year, moment.month, *returns))
    return rows


# ── an equity curve without a run ────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class EquityMetrics:
    """Statistics of a growth curve by UTC day, with the formulas of `Metrics`; None where one is not defined."""

    days: int
    return_pct: float
    cagr_pct: float | None
    volatility_pct: float | None
    sharpe: float | None
    sortino: float | None
    calmar: float | None
    max_drawdown_pct: float


def equity_metrics_of(time_ns: Ints, growth: Floats) -> EquityMetrics:
    """Return the statistics of the growth of 1, whose first value is 1; the drawdown is that of every value.

    Shapes: (n,) and (n,), oldest first. A day is a calendar day in UTC, and a year has 365.
    """
    ends = day_ends(time_ns)
    returns = returns_at(growth, ends, 1.0)
    total = float(growth[-1]) if len(growth) else 1.0
    cagr = _cagr(total, int(time_ns[-1] - time_ns[0])) if len(time_ns) else None
    deepest = 100.0 * deepest_fall(growth, 1.0)
    return EquityMetrics(
        days=len(ends),
        return_pct=100.0 * (total - 1.0),
        cagr_pct=cagr,
        volatility_pct=100.0 * float(returns.std(ddof=1)) * sqrt(365.0) if len(returns) >= _RETURNS_MIN else None,
        sharpe=sharpe_ratio(returns, 365.0),
        sortino=sortino_ratio(returns, 365.0),
        calmar=None if cagr is None or deepest == 0 else cagr / deepest,
        max_drawdown_pct=deepest,
    )


def day_ends(time_ns: Ints) -> Ints:
    """Return the index of the last value of each UTC day that has one."""
    return last_bars(time_ns, _DAY_S, ALWAYS)


@dataclass(frozen=True, slots=True)
class BenchmarkMetrics:
    """A growth curve against a benchmark by UTC day, with the formulas of `Metrics`; None where one is not defined."""

    benchmark_days: int
    benchmark_return_pct: float | None
    alpha_pct: float | None
    beta: float | None
    correlation: float | None
    tracking_error_pct: float | None
    information_ratio: float | None


def benchmark_metrics_of(time_ns: Ints, growth: Floats, levels: Floats) -> BenchmarkMetrics:
    """Return the comparison of a growth of 1 with the `levels` of a benchmark, over the days for which both are known.

    Shapes: `time_ns` and `growth` (n,), `levels` (days + 1,): at the first time and at each of `day_ends`, NaN where
    there is none. Source of the tracking error, the yearly standard deviation of the difference of the returns:
    Grinold and Kahn, Active Portfolio Management (2000), chapter 4.
    """
    ends = day_ends(time_ns)
    own = returns_at(growth, ends, 1.0)
    if not len(own) or len(levels) != len(ends) + 1:
        return BenchmarkMetrics(0, None, None, None, None, None, None)
    market: Floats = np.diff(levels) / levels[:-1]
    known = np.isfinite(market)
    own, market = own[known], market[known]
    facts = _benchmark_facts(Periods("day", 365.0, ends[known], own, market))
    is_enough = len(own) >= _RETURNS_MIN
    return BenchmarkMetrics(
        len(own),
        100.0 * float(np.prod(1.0 + market) - 1.0) if len(own) else None,
        facts["alpha_pct"],
        facts["beta"],
        facts["correlation"],
        100.0 * float((own - market).std(ddof=1)) * sqrt(365.0) if is_enough else None,
        sharpe_ratio(own - market, 365.0),
    )
