"""Backtests on a bar tape: the same strategy object, sizing, fill rule and costs as paper and live replay (G6).

`run(strategy, bars, setup)` decides vectorised over all bars, then walks only the bars where something happens. Fills
are exact (ticks, Decimal); the equity curve and the statistics are float64. Gaps are shown and bad tapes refused (C8),
and every result carries two fingerprints (C12).
"""

from fks.backtest.fingerprint import fills_hash, inputs_hash, tape_hash
from fks.backtest.gaps import GapReport, TapeRefused, find_gaps
from fks.backtest.resample import resample
from fks.backtest.result import DeniedEntry, FillRow, Result, Setup, TradeRow
from fks.backtest.run import run
from fks.backtest.statistics import Statistics, statistics_of

__all__ = [
    "DeniedEntry",
    "FillRow",
    "GapReport",
    "Result",
    "Setup",
    "Statistics",
    "TapeRefused",
    "TradeRow",
    "fills_hash",
    "find_gaps",
    "inputs_hash",
    "resample",
    "run",
    "statistics_of",
    "tape_hash",
]
