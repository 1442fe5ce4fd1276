"""Test of a challenger against its champion: recorded decisions, valued on the bars that both decided on. Pure.

The challenger was chosen before these bars, so they are out of sample. What is tested is the Sharpe ratio of its excess
returns over the champion's, deflated by the number of challengers that were tried and of looks that were taken at them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict

from fks.model.bar import Bars, Floats, Ints
from fks.research.backtest import Result
from fks.research.backtest.metrics import moments
from fks.research.search.objectives import Period, period_of, period_returns
from fks.research.search.overfitting import deflated_sharpe, sharpe
from fks.strategies.base import Decisions, Strategy

PERIODS_MIN = 30  # of returns; with fewer the test says nothing, whatever its value


@dataclass(frozen=True, slots=True)
class RecordedChange:
    """A recorded change of the target, decided on the bar that opened at `time_ns`; protections: of an entry."""

    time_ns: int
    target: float
    stop_loss: float | None = None
    take_profit: float | None = None


class RecordedDecisions(Strategy):
    """Decisions that were recorded when they were made; the first bar is the one before them."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    name: ClassVar[str] = "recorded"
    changes: tuple[RecordedChange, ...] = ()

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        count = len(bars)
        target, stop, take = np.zeros(count), np.full(count, np.nan), np.full(count, np.nan)
        for change in self.changes:
            at = int(np.searchsorted(bars.time_ns, change.time_ns))
            target[at:] = change.target
            stop[at:] = np.nan if change.stop_loss is None else change.stop_loss
            take[at:] = np.nan if change.take_profit is None else change.take_profit
        return Decisions(target, stop, take)


@dataclass(frozen=True, slots=True)
class ChallengeRules:
    """Least number of decided bars and of the challenger's trades, and the probability that the test must reach."""

    bars_min: int
    trades_min: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Excess:
    """Returns of a challenger and of its champion over the same periods; profits in quote."""

    values: Floats
    champion: Floats
    period: Period
    from_ns: int
    to_ns: int
    bars: int
    trades: int
    profit: float
    champion_profit: float

    @property
    def sharpe_period(self) -> float:
        """Return the Sharpe ratio of the excess returns, per period; 0 without spread."""
        return sharpe(self.values - self.champion) or 0.0


def excess_of(challenger: Result, champion: Result) -> Excess:
    """Return the returns of both from the first bar on which both decided. Both end at the same bar."""
    start_ns = max(int(one.bars.time_ns[one.first]) for one in (challenger, champion))
    times, equity, cash = _from(challenger, start_ns)
    _, other, other_cash = _from(champion, start_ns)
    period = period_of(challenger.bars[-len(times) :])
    return Excess(
        period_returns(times, equity, cash, period),
        period_returns(times, other, other_cash, period),
        period,
        start_ns,
        int(times[-1]),
        len(times),
        len(challenger.trade_columns),
        float(equity[-1]) - cash,
        float(other[-1]) - other_cash,
    )


def _from(result: Result, start_ns: int) -> tuple[Ints, Floats, float]:
    """Return times and equity from a bar on, and the equity before it."""
    times = result.bars.time_ns[result.first :]
    at = int(np.searchsorted(times, start_ns))
    before = float(result.equity[at - 1]) if at else float(result.setup.cash)
    return times[at:], result.equity[at:], before


def evaluate_excess(
    excess: Excess, rules: ChallengeRules, *, trials: int, others: Sequence[float]
) -> Mapping[str, Any]:
    """Return the evaluation of a challenger as JSON values; `findings` speak against it, and without one it passes.

    `trials`: challengers that were tried for this champion and looks taken at them, this one included. `others`: Sharpe
    ratios per period of the other challengers' excess returns, as last measured. The variance between trials is that of
    these ratios, and at least the variance that ratios without skill have by chance, 1 / (periods - 1).
    Source: Bailey & López de Prado (2014), eq. 1 and 2; the bound is the variance of an estimated Sharpe ratio of zero,
    Lo (2002), The Statistics of Sharpe Ratios, Financial Analysts Journal 58(4), eq. 9.
    """
    values = excess.values - excess.champion
    periods, observed = len(values), excess.sharpe_period
    skew, kurtosis = moments(values)
    ratios = np.array([observed, *others])
    spread = float(ratios.var(ddof=1)) if len(ratios) > 1 else 0.0
    variance = max(spread, 1.0 / max(periods - 1, 1))
    found = deflated_sharpe(observed, periods, trials=trials, variance=variance, skew=skew, kurtosis=kurtosis)
    yearly = sqrt(excess.period.per_year)
    findings = []
    if excess.bars < rules.bars_min:
        findings.append(f"{excess.bars} bars were decided on, and {rules.bars_min} are needed")
    if excess.trades < rules.trades_min:
        findings.append(f"it made {excess.trades} trades, and {rules.trades_min} are needed")
    if periods < PERIODS_MIN:
        findings.append(f"{periods} returns are too few, {PERIODS_MIN} are needed")
    if not observed:
        findings.append("it did what its champion did")
    elif found < rules.confidence:
        findings.append(
            f"the deflated Sharpe ratio of its excess returns is {found:.2f}, below {rules.confidence:g}: the best of "
            f"{trials} without skill may look as good"
        )
    return {
        "bars": excess.bars,
        "trades": excess.trades,
        "period_s": excess.period.seconds,
        "periods": periods,
        "sharpe": round((sharpe(excess.values) or 0.0) * yearly, 6),
        "champion_sharpe": round((sharpe(excess.champion) or 0.0) * yearly, 6),
        "excess_sharpe": round(observed * yearly, 6),
        "excess_sharpe_period": observed,
        "profit": round(excess.profit, 8),
        "champion_profit": round(excess.champion_profit, 8),
        "trials": trials,
        "deflated_sharpe": round(found, 6),
        "findings": findings,
    }
