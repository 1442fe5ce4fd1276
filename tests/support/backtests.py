"""Backtests without the check of the strategy, for scripted decisions: they are counted from the first bar, so that a
later start decides otherwise."""

from __future__ import annotations

from fks import backtest
from fks.backtest import Backtest, Setup
from fks.backtest.run import EngineName
from fks.model.bar import Bars
from fks.strategies.base import Strategy


def run(strategy: Strategy, bars: Bars, setup: Setup | None = None, *, engine: EngineName = "auto") -> Backtest:
    """Return the backtest of a strategy that is taken as it is."""
    return backtest.run(strategy, bars, setup, engine=engine, check=False)
