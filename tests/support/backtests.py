"""Backtests without the check of the strategy, for scripted decisions: they are counted from the first bar, so that a
later start decides otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np

from fks.config.risk import Risk
from fks.model.bar import Bars
from fks.model.cash_flows import Dividend, FundingRate, InstrumentEvents
from fks.model.timeframe import NS
from fks.research import backtest
from fks.research.backtest import AccountBacktest, Backtest, Member, Setup
from fks.research.backtest.run import EngineName
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


def with_events(setup: Setup, bars: Bars, random: np.random.Generator) -> Setup:
    """Return a setup with dividends and funding on days and at times of the bars, and perhaps a delisting after the
    last, or an end at which the position is closed."""
    price = Decimal(repr(float(bars.close.mean())))
    first, last = (_day(int(time_ns)) for time_ns in (bars.time_ns[0], bars.time_ns[-1]))
    shares = [Decimal(text) for text in ("0", "0.01", "0.037", "0.3333333")]
    days = sorted(set(random.integers(0, 4, 3).tolist()))
    dividends = [Dividend(first + timedelta(days=day), round(price * shares[random.integers(4)], 6)) for day in days]
    span = (int(bars.time_ns[0]), int(bars.time_ns[-1]) + NS)
    rates = [Decimal(text) for text in ("0.0001", "-0.00025", "0.05", "-0.043", "0.00012345")]
    funding = [
        FundingRate(at, rates[random.integers(5)], None if random.random() < 0.5 else round(price, 8))
        for at in sorted(set(random.integers(*span, len(bars) // 3).tolist()))
    ]
    delisted = None if random.random() < 0.5 else last + timedelta(days=int(random.integers(1, 5)))
    events = InstrumentEvents(tuple(dividends), tuple(funding), delisted, is_funding_left_out=True)
    return replace(setup, events=events, is_closed_at_end=bool(random.random() < 0.3))


def _day(time_ns: int) -> date:
    return datetime.fromtimestamp(time_ns / NS, UTC).date()
