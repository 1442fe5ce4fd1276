"""Backtests without the check of the strategy, for scripted decisions: they are counted from the first bar, so that a
later start decides otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from fks import backtest
from fks.backtest import AccountBacktest, Backtest, Member, Setup
from fks.backtest.run import EngineName
from fks.config.risk import Risk
from fks.model.bar import Bars
from fks.strategies.base import Strategy


def run(
    strategy: Strategy,
    bars: Bars,
    setup: Setup | None = None,
    *,
    engine: EngineName = "auto",
    finer: Bars | None = None,
) -> Backtest:
    """Return the backtest of a strategy that is taken as it is."""
    return backtest.run(strategy, bars, setup, engine=engine, check=False, finer=finer)


def run_account(
    members: Sequence[Member], *, cash: Decimal | int = 10_000, limits: Risk | None = None
) -> AccountBacktest:
    """Return the backtest of members whose strategies are taken as they are."""
    return backtest.run_account(members, cash=cash, limits=limits, check=False)
