"""Backtests on a bar tape: the same strategy object, sizing, fill rule and costs as paper and live replay (G6).

`run(strategy, bars, setup)` decides vectorised over all bars, then walks only the bars where something happens. Fills
are exact (ticks, Decimal); the equity curve and the statistics are float64. Gaps are shown and bad tapes refused (C8),
and every result carries two fingerprints (C12). The extended metrics and the report are imported when first used.
"""

from typing import TYPE_CHECKING, Any

from fks.research.backtest.account import AccountBacktest, Member, run_account
from fks.research.backtest.backtest import Backtest
from fks.research.backtest.fingerprint import fills_hash, inputs_hash, tape_hash
from fks.research.backtest.frames import bars_from_frame, sample, write_trades
from fks.research.backtest.gaps import GapReport, TapeRefused, find_gaps
from fks.research.backtest.instrument import instrument_of, setup_for
from fks.research.backtest.resample import resample
from fks.research.backtest.result import DeniedEntry, FillRow, Result, Setup, TradeRow
from fks.research.backtest.run import run
from fks.research.backtest.statistics import Statistics, statistics_of

if TYPE_CHECKING:
    from fks.research.backtest.metrics import Metrics, metrics_of

__all__ = [
    "AccountBacktest",
    "Backtest",
    "DeniedEntry",
    "FillRow",
    "GapReport",
    "Member",
    "Metrics",
    "Result",
    "Setup",
    "Statistics",
    "TapeRefused",
    "TradeRow",
    "bars_from_frame",
    "fills_hash",
    "find_gaps",
    "inputs_hash",
    "instrument_of",
    "metrics_of",
    "resample",
    "run",
    "run_account",
    "sample",
    "setup_for",
    "statistics_of",
    "tape_hash",
    "write_trades",
]


def __getattr__(name: str) -> Any:
    """Return a name of `fks.research.backtest.metrics`."""
    if name in ("Metrics", "metrics_of"):
        from fks.research.backtest import metrics

        return getattr(metrics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
