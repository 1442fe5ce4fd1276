"""A finished backtest as notebooks use it: the result with its statistics, DataFrames and report."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fks.research.backtest.result import Result
from fks.research.backtest.statistics import Statistics, statistics_of
from fks.strategies.base.fitted import shown_params

if TYPE_CHECKING:
    import pandas as pd

    from fks.research.backtest.metrics import Metrics
    from fks.research.backtest.page import ReportPage

NOTEBOOK_ROWS = 10_000  # a notebook keeps every report in its file


class Backtest(Result):
    """A result with its derived values. Everything is computed, and its code imported, when first asked for."""

    @cached_property
    def statistics(self) -> Statistics:
        """Return the basic statistics."""
        return statistics_of(self)

    @cached_property
    def metrics(self) -> Metrics:
        """Return the extended statistics."""
        from fks.research.backtest.metrics import metrics_of

        return metrics_of(self)

    def trades_frame(self) -> pd.DataFrame:
        """Return the closed trades as a DataFrame; see `fks.research.backtest.frames.trades_frame`."""
        from fks.research.backtest.frames import trades_frame

        return trades_frame(self)

    def fills_frame(self) -> pd.DataFrame:
        """Return the fills as a DataFrame; see `fks.research.backtest.frames.fills_frame`."""
        from fks.research.backtest.frames import fills_frame

        return fills_frame(self)

    def equity_frame(self) -> pd.DataFrame:
        """Return equity, benchmark, drawdown and exposure by bar; see `fks.research.backtest.frames.equity_frame`."""
        from fks.research.backtest.frames import equity_frame

        return equity_frame(self)

    def plot(self, path: str | Path | None = None, *, rows: int | None = None) -> ReportPage:
        """Return the report as a page that a notebook shows; with `path` it is written there, too.

        `rows` bounds the points that its charts can draw: 10,000 in a notebook, 50,000 in a file. Errors: OSError.
        """
        from fks.research.backtest.page import DRAWN_MAX, report_page

        page = report_page(self, rows=rows or (NOTEBOOK_ROWS if path is None else DRAWN_MAX))
        if path is not None:
            page.save(path)
        return page

    def _repr_html_(self) -> str:
        return self.plot()._repr_html_()

    def __repr__(self) -> str:
        """Return one line: what ran, and what came of it."""
        basic = self.statistics
        params = ", ".join(f"{name}={value}" for name, value in shown_params(self.params).items())
        return (
            f"<Backtest {self.strategy}({params}) on {self.bars.symbol} {self.bars.timeframe}: {basic.bars} bars, "
            f"{basic.trades} trades, return {basic.return_pct:+.2f} %, max drawdown {basic.max_drawdown_pct:.2f} %>"
        )
