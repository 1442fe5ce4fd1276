"""Outages of feeds as rows: one each, with its true start and end, whichever process ends it."""

from __future__ import annotations

from dataclasses import replace

from fks.clock import RealClock
from fks.model.feed import TRADES, ChannelOutage, FeedRow
from fks.model.timeframe import NS, to_ns
from fks.store.db import Database
from fks.store.feeds import FeedStore

T0 = 1_800_000_000 * NS
GAP = ChannelOutage("BTCUSDT", TRADES, T0, "gap")


async def spans(db: Database) -> list[tuple[int, int | None]]:
    rows = await db.sql("SELECT began_at, ended_at FROM feed_outages ORDER BY began_at")
    return [
        (to_ns(row["began_at"]) - T0, None if row["ended_at"] is None else to_ns(row["ended_at"]) - T0) for row in rows
    ]


async def test_an_outage_is_one_row_from_start_to_end(database: Database) -> None:
    store = FeedStore(database, "binance", 1, RealClock())
    await store.claim(["BTCUSDT"], ["1m"])
    for outages in ([GAP], [GAP], [replace(GAP, ended_ns=T0 + 3 * NS)], [replace(GAP, ended_ns=T0 + 3 * NS)]):
        await store.flush([FeedRow("BTCUSDT", TRADES)], [], [], outages)
    assert await spans(database) == [(0, 3 * NS)]


async def test_outage_that_begins_again_without_a_message_is_the_same(database: Database) -> None:
    """A collector that filled a gap and died before it received anything more: its successor's outage begins at that
    message too."""
    before = FeedStore(database, "binance", 1, RealClock())
    await before.claim(["BTCUSDT"], ["1m"])
    await before.flush([FeedRow("BTCUSDT", TRADES)], [], [], [replace(GAP, ended_ns=T0 + NS)])
    after = FeedStore(database, "binance", 2, RealClock())
    await after.claim(["BTCUSDT"], ["1m"])
    died = ChannelOutage("BTCUSDT", TRADES, T0, "collector")
    await after.flush([FeedRow("BTCUSDT", TRADES)], [], [], [died])
    assert await spans(database) == [(0, None)]
    await after.flush([FeedRow("BTCUSDT", TRADES)], [], [], [replace(died, ended_ns=T0 + 5 * NS)])
    assert await spans(database) == [(0, 5 * NS)]
