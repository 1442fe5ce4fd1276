"""A finished backtest as notebooks use it: the result with its statistics, DataFrames and report."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from fks.backtest.frames import equity_frame, fills_frame, trades_frame
from fks.backtest.metrics import Metrics, metrics_of
from fks.backtest.result import Result
from fks.backtest.statistics import Statistics, statistics_of

if TYPE_CHECKING:
    import pandas as pd


class Backtest(Result):
    """A result with what is derived from it. Everything is computed when first asked for."""

    @cached_property
    def statistics(self) -> Statistics:
        """Return the basic statistics."""
        return statistics_of(self)

    @cached_property
    def metrics(self) -> Metrics:
        """Return the extended statistics."""
        return metrics_of(self)

    def trades_frame(self) -> pd.DataFrame:
        """Return the closed trades as a DataFrame; see `fks.backtest.frames.trades_frame`."""
        return trades_frame(self)

    def fills_frame(self) -> pd.DataFrame:
        """Return the fills as a DataFrame; see `fks.backtest.frames.fills_frame`."""
        return fills_frame(self)

    def equity_frame(self) -> pd.DataFrame:
        """Return equity, benchmark, drawdown and exposure by bar; see `fks.backtest.frames.equity_frame`."""
        return equity_frame(self)
