"""Rows of the ledger of research: a search or a backtest on a series, and the sums over the others. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ResearchRun:
    """One search, or one backtest, on a series. `start_ns` and `end_ns` are those of its first and last bar.

    `sharpe_mean` and `sharpe_spread` (the sum of squared deviations from it) are of the yearly Sharpe ratios of its
    trials, `sharpe_best` the greatest; a trial without one has 0.
    """

    fingerprint: str
    kind: str
    strategy: str
    exchange: str
    symbol: str
    timeframe: str
    start_ns: int
    end_ns: int
    trials: int
    sharpe_mean: float
    sharpe_spread: float
    sharpe_best: float


@dataclass(frozen=True, slots=True)
class Earlier:
    """Sums over the other runs on the same symbol in the same time. `squares`: of the yearly Sharpe ratios of all
    trials; `held_back_runs`: how many of the runs used bars that this one held back."""

    runs: int = 0
    trials: int = 0
    sharpe_sum: float = 0.0
    sharpe_squares: float = 0.0
    held_back_runs: int = 0
