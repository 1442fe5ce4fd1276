"""Restarts on PostgreSQL: however often and wherever a collector dies, the tables hold each bar once, as the exchange has
it, and one that was replaced writes nothing.

The same property runs on a store of dictionaries with thousands of examples (`tests/unit/market/collector/test_backfill.py`).
FKS_EXAMPLES (`make soak`) raises the number here.
"""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import replace
from decimal import Decimal

import pytest

from fks.clock import RealClock
from fks.market.collector.gap_filler import Backfill
from fks.market.feed import machine as m
from fks.market.feed.feed import SymbolFeed
from fks.model.bar import PublicTrade
from fks.model.errors import StaleEpochError
from fks.model.feed import TRADES, FeedRow
from fks.model.timeframe import NS, bar_end, bar_start, to_ns
from fks.store.db import Database
from fks.store.feeds import FeedStore
from tests.support.collecting import bar_of
from tests.support.feeds import claimed, made_live, recovered
from tests.support.paper_market import PaperMarket

START = 1_709_251_140 * NS  # 2024-02-29 23:59:00
SYMBOL = "BTCUSDT"
TIMEFRAMES = ("1s", "1m", "5m")
EXAMPLES = int(os.environ.get("FKS_EXAMPLES", "6"))
STEPS_NS = (0, 1_000_000, 300_000_000, NS, 3 * NS, 31 * NS, 61 * NS)


def drawn_market(dice: random.Random) -> PaperMarket:
    now_ns, trades = START, []
    for number in range(dice.randint(15, 50)):
        now_ns += dice.choice(STEPS_NS)
        price, quantity = (Decimal(dice.randint(1, most)).scaleb(-2) for most in (10**7, 10**6))
        trades.append(PublicTrade("binance", SYMBOL, 500 + number, now_ns, price, quantity, False))
    return PaperMarket(trades)


async def life(venue: PaperMarket, store: FeedStore, dice: random.Random) -> SymbolFeed:
    """Run one collector's life up to its last flush, which a crash may cut short; return its feed."""
    positions = (await store.claim([SYMBOL], TIMEFRAMES))[SYMBOL]
    feed = claimed(SYMBOL, positions, now_ns=venue.now_ns)
    made = await Backfill(venue, TIMEFRAMES, 3).recover(SYMBOL, dict(positions), by_bars=dice.random() < 0.3)
    assert recovered(feed, made, venue.now_ns, 1.0) is None
    made_live(feed, venue.now_ns, 1.0)
    arrived = [trade for trade in venue.trades if venue.now_ns < trade.time_ns <= venue.now_ns + 20 * NS]
    if arrived:
        venue.now_ns = arrived[-1].time_ns
        feed.handle(m.Received(venue.now_ns, 1.0, list(arrived)))
    sealed = list(feed.unstored.sealed)
    kept = sealed[: len(sealed) - dice.choice([0, 0, 1, 3])]
    newest = {item.bar.timeframe: item for item in kept}
    rows = [
        FeedRow(SYMBOL, name, item.bar.time_ns, item.last_trade_id, state=feed.state) for name, item in newest.items()
    ]
    trades = FeedRow(SYMBOL, TRADES, last_trade_id=feed.last_id, message_ns=feed.message_ns, state=feed.state)
    await store.flush([*rows, trades], [(item.bar, item.source) for item in kept], list(arrived))
    return feed


@pytest.mark.parametrize("seed", range(EXAMPLES))
async def test_tables_hold_every_bar_once_wherever_a_collector_dies(database: Database, seed: int) -> None:
    dice = random.Random(seed)
    venue = drawn_market(dice)
    before: tuple[FeedStore, SymbolFeed] | None = None
    for epoch in range(1, dice.randint(3, 6)):
        share = dice.randint(1, 20)
        venue.now_ns = max(venue.now_ns, START + share * (venue.trades[-1].time_ns - START) // 20)
        store = FeedStore(database, "binance", epoch, RealClock())
        feed = await life(venue, store, dice)
        if before is not None:
            old_store, old_feed = before
            late = [(item.bar, item.source) for item in old_feed.unstored.sealed]
            with pytest.raises(StaleEpochError):
                await old_store.flush([FeedRow(SYMBOL, TRADES, state="LIVE")], late, [])
        before = store, feed
    for timeframe in TIMEFRAMES:
        rows = await database.sql("SELECT * FROM ohlcv_data WHERE timeframe = $1 ORDER BY time", timeframe)
        known = {bar.time_ns: bar for bar in venue.bars(timeframe)}
        times = [to_ns(row["time"]) for row in rows]
        for earlier, later in itertools.pairwise(times):
            assert later == bar_end(earlier, timeframe), "a bar is missing"
        first_ns = bar_start(venue.trades[0].time_ns, timeframe)
        for row, time_ns in zip(rows, times, strict=True):
            if time_ns > first_ns:
                assert replace(bar_of(row), is_empty=row["is_empty"]) == known[time_ns]
        assert {row["revision"] for row in rows} <= {0}, "a bar was stored again with other values"
