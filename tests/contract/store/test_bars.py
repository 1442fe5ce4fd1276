"""Bars in and out of PostgreSQL in columns, and the one statement that stores a feed."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fks.clock import RealClock
from fks.model.bar import Bar, Bars, PublicTrade
from fks.model.errors import StaleEpochError
from fks.model.feed import FeedRow, SealedPosition
from fks.model.timeframe import NS, to_ns
from fks.store.bars import BarStore, Merged
from fks.store.db import Database
from fks.store.feeds import FeedStore

T0 = 1_767_225_600 * NS


def series(count: int, *, start_ns: int = T0, symbol: str = "BTCUSDT", shift: float = 0.0) -> Bars:
    close = 100 + shift + np.arange(count) / 100
    time_ns = start_ns + np.arange(count, dtype=np.int64) * 60 * NS
    return Bars(symbol, "1m", time_ns, close, close + 1, close - 1, close, close / 7)


def same(one: Bars, other: Bars) -> bool:
    return all(
        np.array_equal(getattr(one, n), getattr(other, n))
        for n in ("time_ns", "open", "high", "low", "close", "volume")
    )


async def test_merged_bars_are_read_back_exactly_and_twice_equals_once(database: Database) -> None:
    store = BarStore(database)
    bars = series(3000)
    assert await store.merge(bars, source="test", trades=np.arange(3000)) == Merged(3000, 0, 0)
    assert await store.merge(bars, source="test", trades=np.arange(3000)) == Merged(0, 0, 3000)
    changed = series(3000)
    changed.close[7] += 1
    assert await store.merge(changed, source="test") == Merged(0, 1, 2999)
    assert same(await store.read("BTCUSDT", "1m"), changed)
    assert len(await store.read("ETHUSDT", "1m")) == 0
    assert await store.edges("BTCUSDT", "1m") == (3000, T0, T0 + 2999 * 60 * NS)


async def test_limits_keep_the_oldest_or_the_newest(database: Database) -> None:
    store = BarStore(database)
    bars = series(100)
    await store.merge(bars, source="test")
    assert same(await store.read("BTCUSDT", "1m", limit=10), bars[:10])
    assert same(await store.read("BTCUSDT", "1m", limit=10, is_newest=True), bars[90:])
    middle = await store.read("BTCUSDT", "1m", int(bars.time_ns[20]), int(bars.time_ns[30]))
    assert same(middle, bars[20:30])


floats = st.floats(min_value=0, max_value=1e15, allow_nan=False)


@given(st.lists(st.tuples(floats, floats, floats, floats, floats), min_size=1, max_size=30))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_float_survives_the_round_trip(database: Database, rows: list[tuple[float, ...]]) -> None:
    await database.sql("DELETE FROM ohlcv_data")
    columns = [np.array([row[i] for row in rows]) for i in range(5)]
    bars = Bars("X", "1m", T0 + np.arange(len(rows), dtype=np.int64) * 60 * NS, *columns)
    await BarStore(database).merge(bars, source="test")
    assert same(await BarStore(database).read("X", "1m"), bars)


async def test_incomplete_and_empty_bars_are_never_read(database: Database) -> None:
    store = BarStore(database)
    await store.merge(series(3), source="test")
    await database.sql("UPDATE ohlcv_data SET is_complete = false WHERE time = to_timestamp($1)", T0 / 1e9)
    await database.sql("UPDATE ohlcv_data SET close = NULL WHERE time = to_timestamp($1)", T0 / 1e9 + 60)
    assert (await store.read("BTCUSDT", "1m")).time_ns.tolist() == [T0 + 120 * NS]


def bar(number: int, close: float = 10.0) -> Bar:
    return Bar("binance", "BTCUSDT", "1s", T0 + number * NS, close, close, close, close, 1.0, 1)


def trade(number: int) -> PublicTrade:
    return PublicTrade("binance", "BTCUSDT", number, T0 + number, Decimal("10.5"), Decimal(1), True)


async def test_a_flush_stores_all_and_repeating_it_changes_nothing(database: Database) -> None:
    store = FeedStore(database, "binance", 1, RealClock())
    assert await store.claim(["BTCUSDT"], ["1s"]) == {"BTCUSDT": {}}
    rows = [
        FeedRow("BTCUSDT", "trades", last_trade_id=2, message_ns=T0, last_price=Decimal("10.5"), state="LIVE"),
        FeedRow("BTCUSDT", "1s", T0 + NS, 2, state="LIVE"),
    ]
    for _ in range(2):
        await store.flush(rows, [(bar(0), "live"), (bar(1), "live")], [trade(1), trade(2)])
    assert [
        r[0] for r in await database.sql("SELECT count(*) FROM ohlcv_data UNION ALL SELECT count(*) FROM market_trades")
    ] == [2, 2]
    assert await store.claim(["BTCUSDT"], ["1s"]) == {"BTCUSDT": {"1s": SealedPosition(T0 + NS, 2)}}
    await store.flush([FeedRow("BTCUSDT", "1s", T0, 2)], [], [])  # an older position does not move it back
    row = (await database.sql("SELECT * FROM feeds WHERE timeframe = '1s'"))[0]
    assert to_ns(row["sealed_through"]) == T0 + NS
    price = (await database.sql("SELECT last_price, state FROM feeds WHERE timeframe = 'trades'"))[0]
    assert tuple(price) == (Decimal("10.5"), "LIVE")


async def test_late_flush_keeps_the_age_of_its_bars(database: Database) -> None:
    """A delayed row with state LIVE would be taken as current, although the feed fell silent meanwhile."""
    store = FeedStore(database, "binance", 1, RealClock())
    await store.claim(["BTCUSDT"], ["1s"])
    for _ in range(2):  # after the claim's answer, and after a flush's
        async with database.acquire() as connection:
            backend = connection.get_server_pid()
        sent = (await database.sql("SELECT now()"))[0][0]
        os.kill(backend, signal.SIGSTOP)
        try:
            flushed = asyncio.create_task(store.flush([FeedRow("BTCUSDT", "trades", state="LIVE")], [], []))
            await asyncio.sleep(1.0)
            assert not flushed.done()
        finally:
            os.kill(backend, signal.SIGCONT)
        await flushed
        row = (await database.sql("SELECT updated_at, now() AS landed, state FROM feeds WHERE timeframe = 'trades'"))[0]
        assert row["state"] == "LIVE"
        assert row["landed"] - row["updated_at"] >= timedelta(seconds=1)
        assert abs(row["updated_at"] - sent) < timedelta(seconds=0.5)


async def test_owning_a_feed_does_not_refresh_it(database: Database) -> None:
    store = FeedStore(database, "binance", 1, RealClock())
    await store.claim(["BTCUSDT"], ["1s"])
    await store.flush([FeedRow("BTCUSDT", "trades", state="LIVE")], [], [])
    before = (await database.sql("SELECT updated_at FROM feeds WHERE timeframe = 'trades'"))[0][0]
    await store.claim(["BTCUSDT"], ["1s"])
    assert (await database.sql("SELECT updated_at FROM feeds WHERE timeframe = 'trades'"))[0][0] == before


async def test_older_epoch_writes_nothing(database: Database) -> None:
    old, new = FeedStore(database, "binance", 1, RealClock()), FeedStore(database, "binance", 2, RealClock())
    await old.claim(["BTCUSDT"], ["1s"])
    await new.claim(["BTCUSDT"], ["1s"])
    with pytest.raises(StaleEpochError):
        await old.flush([FeedRow("BTCUSDT", "1s", T0, 1)], [(bar(0), "live")], [trade(1)])
    with pytest.raises(StaleEpochError):
        await old.claim(["BTCUSDT"], ["1s"])
    assert await database.sql("SELECT 1 FROM ohlcv_data UNION ALL SELECT 1 FROM market_trades") == []
    await new.flush([FeedRow("BTCUSDT", "1s", T0, 1)], [(bar(0), "live")], [trade(1)])
    assert len(await database.sql("SELECT 1 FROM ohlcv_data")) == 1
