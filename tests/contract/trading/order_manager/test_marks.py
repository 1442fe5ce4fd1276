"""Freshness of prices for the order manager: only a live feed with a living collector has a fresh one."""

from __future__ import annotations

import pytest

from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.leases import raise_epoch


@pytest.mark.parametrize(
    ("state", "epoch", "lease_s", "age_s", "is_fresh"),
    [
        ("LIVE", 1, 2, 0, True),
        ("BACKFILL", 1, 2, 0, False),
        ("LIVE", 1, -1, 0, False),  # its collector died, and that is not noticed yet
        ("LIVE", 0, 2, 0, False),  # another collector has taken over and has not written yet
        ("LIVE", 1, 2, 3, False),  # its collector lives and could not write: PostgreSQL was away, or is slow
    ],
)
async def test_a_feed_without_its_collector_is_not_fresh(
    database: Database, state: str, epoch: int, lease_s: int, age_s: int, is_fresh: bool
) -> None:
    await raise_epoch(database, "collector:binance", "test")
    async with database.transaction() as tx:  # in which now() stands still
        await tx.sql(f"UPDATE leases SET expires_at = now() + interval '{lease_s} s'")
        await tx.sql(
            "INSERT INTO feeds (exchange, symbol, timeframe, state, epoch, last_message_at, last_price, updated_at) "
            "VALUES ('binance', 'BTCUSDT', 'trades', $1, $2, now(), 100, now() - $3 * interval '1 second')",
            state,
            epoch,
            age_s,
        )
        (mark,) = await FactStore(tx).marks()
    assert mark.price == 100
    assert (mark.message_ns is not None) is is_fresh


async def test_a_feed_that_was_never_claimed_is_not_fresh(database: Database) -> None:
    await database.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price) "
        "VALUES ('binance', 'BTCUSDT', 'trades', 'LIVE', now(), 100)"
    )
    assert (await FactStore(database).marks())[0].message_ns is None


async def test_a_raised_epoch_is_the_end_of_what_was_fresh(database: Database) -> None:
    await database.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, epoch, last_message_at, last_price, updated_at) "
        "VALUES ('binance', 'BTCUSDT', 'trades', 'LIVE', 1, now(), 100, now() + interval '1 day')"
    )
    await raise_epoch(database, "collector:binance", "test")
    await database.sql("UPDATE leases SET expires_at = now() + interval '1 day'")
    assert (await FactStore(database).marks())[0].message_ns is not None
    await raise_epoch(database, "collector:binance", "test")
    assert (await FactStore(database).marks())[0].message_ns is None
