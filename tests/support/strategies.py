"""Builders for strategies' tests: bars, instances, feeds, a lease that holds."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from fks.clock import RealClock
from fks.model.bar import Bar, Bars
from fks.model.feed import FeedRow
from fks.model.timeframe import NS, TIMEFRAMES
from fks.store.challengers import ChallengerStore
from fks.store.db import Database
from fks.store.feeds import FeedStore
from fks.store.strategies import NewInstance, StrategyStore
from tests.support.ports import TestLease

#: What makes each decision of an instance fresh, however old its bars are and however many come at once.
EVERY_EDGE: dict[str, Any] = {"approval": "manual", "valid_for_s": 1e8}
#: signals that could have their outcome: an entry that waits for its instance's exit has none before the bar that fills
#: the exit, where a market order waits for the next bar's open
DECIDABLE = (
    "(SELECT count(*) FROM signals s WHERE state = 'ready' AND NOT (kind = 'enter' AND EXISTS (SELECT FROM orders o"
    " WHERE o.instance = s.instance AND o.role = 'exit' AND o.venue = 'paper' AND o.state IN ('ACCEPTED','WORKING'))))"
)
START_NS = 1_767_225_600 * NS  # 2026-01-01, where FakeClock starts


class Gate:
    """A place at which a strategy waits: `begun` once it was asked, until `go`. It is here, since the check makes a
    strategy again from its file: both have the gate of this module."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def close(self) -> None:
        self.begun.clear()
        self.go.clear()


GATE = Gate()


def bars_of(
    closes: Sequence[float], *, symbol: str = "BTCUSDT", timeframe: str = "1m", start_ns: int = START_NS
) -> Bars:
    """Return bars with these closes, opening where the one before closed, with a range a little wider."""
    close = np.array(closes, dtype=np.float64)
    open_ = np.concatenate([close[:1], close[:-1]])
    times = start_ns + np.arange(len(close), dtype=np.int64) * TIMEFRAMES[timeframe] * NS
    high, low = np.maximum(open_, close) + 0.5, np.minimum(open_, close) - 0.5
    return Bars(symbol, timeframe, times, open_, high, low, close, np.ones(len(close)))


async def hold(db: Database, epoch: int, name: str = "strategy:0") -> TestLease:
    """Give a role to `epoch`, as the supervisor does before it starts a worker: an older one cannot write any more."""
    await db.sql(
        "INSERT INTO leases (name, epoch) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE"
        " SET epoch = greatest(leases.epoch, excluded.epoch)",
        name,
        epoch,
    )
    return TestLease(name, epoch)


async def collect(db: Database) -> None:
    """Give the feeds that are there a living collector: without one no price is fresh."""
    await db.sql(
        "INSERT INTO leases (name, epoch, expires_at) VALUES ('collector:binance', 1, now() + interval '1 day')"
        " ON CONFLICT (name) DO UPDATE SET epoch = 1, expires_at = excluded.expires_at"
    )
    await db.sql("UPDATE feeds SET epoch = 1, updated_at = now() + interval '1 day' WHERE timeframe = 'trades'")
    await watch_over(db)


async def watch_over(db: Database) -> None:
    """Give the system a living guardian: without one entries are denied. A real guardian may take the lease at once."""
    await db.sql(
        "INSERT INTO leases (name, expires_at, updated_at) VALUES ('guardian', now(), now() + interval '1 day')"
        " ON CONFLICT (name) DO NOTHING"
    )


async def add_account(db: Database, name: str = "demo", venue: str = "paper") -> None:
    """Add a paper-money account."""
    await db.sql("INSERT INTO accounts (name, venue, initial_balance) VALUES ($1, $2, 100000)", name, venue)


async def add_instance(
    db: Database,
    id: str,
    strategy: str,
    params: Mapping[str, Any] | None = None,
    *,
    symbol: str = "BTCUSDT",
    timeframe: str = "1m",
    account: str = "demo",
    approval: str = "auto",
    valid_for_s: float = 60.0,
) -> None:
    """Add an instance on an account."""
    async with db.transaction() as tx:
        assert await StrategyStore(tx).add(
            NewInstance(
                id,
                strategy,
                params or {},
                "binance",
                symbol,
                timeframe,
                account,
                size=Decimal(500),
                approval=approval,
                valid_for_s=valid_for_s,
            ),
            by="test",
        )


async def seal(
    db: Database,
    bars: Bars,
    *,
    source: str = "live",
    epoch: int = 1,
    is_complete: bool = True,
    sealed: bool = True,
) -> None:
    """Store bars as the collector does, and seal through the last one."""
    store = FeedStore(db, "binance", epoch, RealClock())
    await store.claim([bars.symbol], [bars.timeframe])
    rows: list[tuple[Bar, str]] = []
    for index in range(len(bars)):
        bar = bars.bar(index, "binance")
        rows.append((bar if is_complete else Bar(**{**_fields(bar), "is_complete": False}), source))
    through = int(bars.time_ns[-1]) if sealed else None
    await store.flush([FeedRow(bars.symbol, bars.timeframe, sealed_ns=through)], rows, [])


def _fields(bar: Bar) -> dict[str, Any]:
    return {name: getattr(bar, name) for name in bar.__dataclass_fields__}


async def add_challenger(db: Database, instance: str, params: Mapping[str, Any]) -> str:
    """Add a challenger to an instance and return its id."""
    async with db.transaction() as tx:
        assert await ChallengerStore(tx).lock_instance(instance) is not None
        return await ChallengerStore(tx).add(instance, params, by="test")
