"""Partitions: made ahead, filled from the default one, dropped when old; no row is lost."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.store import migrate, partitions
from fks.store.db import Database
from fks.store.partitions import days, drop_old_bars, drop_old_trades, ensure_partitions, months

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
BAR = (
    "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume)"
    " VALUES ($1, 'BTCUSDT', '1m', 1, 1, 1, 1, 1)"
)
TRADE = (
    "INSERT INTO market_trades (time, exchange, symbol, trade_id, price, quantity)"
    " VALUES ($1, 'binance', 'BTCUSDT', $2, 1, 1)"
)


async def _where(db: Database, table: str) -> list[str]:
    rows = await db.sql(f"SELECT tableoid::regclass::text AS name FROM {table} ORDER BY time")
    return [row["name"] for row in rows]


async def test_partitions_are_made_ahead_once(database: Database) -> None:
    made = await ensure_partitions(database, NOW)
    assert made == [
        "ohlcv_data_p202611",
        "ohlcv_data_p202612",
        "ohlcv_data_p202701",
        "market_trades_p20261119",
        "market_trades_p20261120",
        "market_trades_p20261121",
        "market_trades_p20261122",
        "market_trades_p20261123",
    ]
    assert await ensure_partitions(database, NOW) == []
    await database.sql(BAR, NOW)
    await database.sql(TRADE, NOW, 1)
    assert await _where(database, "ohlcv_data") == ["ohlcv_data_p202611"]
    assert await _where(database, "market_trades") == ["market_trades_p20261120"]


async def test_rows_that_came_before_their_partition_move_into_it(database: Database, database_url: str) -> None:
    early = datetime(2026, 9, 30, 23, 59, tzinfo=UTC)
    for moment in (early, early + timedelta(minutes=1), NOW):
        await database.sql(BAR, moment)
    assert set(await _where(database, "ohlcv_data")) == {"ohlcv_data_default"}
    await ensure_partitions(database, NOW, since=early + timedelta(minutes=1))
    assert await _where(database, "ohlcv_data") == ["ohlcv_data_default", "ohlcv_data_p202610", "ohlcv_data_p202611"]
    assert await migrate.differences(database_url) == []


async def test_two_processes_at_once_make_each_partition_once(database: Database, database_url: str) -> None:
    other = await Database.connect(database_url)
    both = await asyncio.gather(ensure_partitions(database, NOW), ensure_partitions(other, NOW))
    await other.close()
    assert len(both[0]) + len(both[1]) == 8


async def test_a_busy_table_is_left_for_the_next_time(database: Database) -> None:
    async with database.transaction() as reader:
        await reader.sql("SELECT count(*) FROM market_trades")
        made = await ensure_partitions(database, NOW)
        assert all(name.startswith("ohlcv_data") for name in made)
        await database.sql(BAR, NOW)  # writers of other tables go on
    assert len(await ensure_partitions(database, NOW)) == 5


async def test_old_trades_go_and_young_ones_stay(database: Database) -> None:
    await ensure_partitions(database, NOW - timedelta(days=3))
    await ensure_partitions(database, NOW)
    for number in range(5):
        await database.sql(TRADE, NOW - timedelta(days=number), number)
    await database.sql(TRADE, NOW - timedelta(days=30), 99)
    dropped = await drop_old_trades(database, NOW, keep_h=24)
    assert dropped == ["market_trades_p20261116", "market_trades_p20261117", "market_trades_p20261118"]
    kept = await database.sql("SELECT trade_id FROM market_trades ORDER BY trade_id")
    assert [row["trade_id"] for row in kept] == [0, 1]


@given(st.integers(0, 4_102_444_800), st.integers(0, 800))
def test_spans_follow_one_another_without_a_hole(start_s: int, length: int) -> None:
    first = datetime.fromtimestamp(start_s, UTC)
    for spans in (
        list(months(first, first + timedelta(days=length))),
        list(days(first, first + timedelta(days=length % 40))),
    ):
        assert spans[0].start <= first < spans[0].end
        assert all(one.end == two.start for one, two in itertools.pairwise(spans))
        assert len({span.name for span in spans}) == len(spans)


async def test_bars_are_kept_for_ever_by_default(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "PIECE", 7 * 86400)  # a week of seconds
    await ensure_partitions(database, NOW, since=NOW - timedelta(days=100))
    for frame in ("1s", "1m"):
        for age in range(0, 100, 3):
            await database.sql(BAR.replace("'1m'", f"'{frame}'"), NOW - timedelta(days=age))
        await database.sql(
            "INSERT INTO sync_status (symbol, timeframe, wanted_from) VALUES ('BTCUSDT', $1, $2)",
            frame,
            NOW - timedelta(days=100),
        )
    assert await drop_old_bars(database, NOW, {}) == 0
    assert await drop_old_bars(database, NOW, {"1s": 30, "4h": 1}) == 23
    assert await drop_old_bars(database, NOW, {"1s": 30}) == 0
    kept = await database.sql("SELECT timeframe, count(*), min(time) FROM ohlcv_data GROUP BY 1 ORDER BY 1")
    received = await database.sql("SELECT timeframe, candles, oldest FROM series ORDER BY 1")
    assert [tuple(row) for row in kept] == [tuple(row) for row in received]
    assert [(row[0], row[1]) for row in kept] == [("1m", 34), ("1s", 11)]
    assert kept[1][2] >= datetime(2026, 10, 21, tzinfo=UTC)
    wanted = await database.sql("SELECT timeframe, wanted_from FROM sync_status ORDER BY timeframe")
    assert [tuple(row) for row in wanted] == [
        ("1m", NOW - timedelta(days=100)),
        ("1s", datetime(2026, 10, 21, tzinfo=UTC)),
    ]


async def test_series_with_a_dropped_partition_is_recounted(database: Database) -> None:
    await ensure_partitions(database, NOW, since=NOW - timedelta(days=100))
    for age in (0, 40, 95):
        await database.sql(BAR, NOW - timedelta(days=age))
    await database.sql("DROP TABLE ohlcv_data_p202608")
    assert await drop_old_bars(database, NOW, {"1m": 30}) == 1
    row = (await database.sql("SELECT candles, oldest FROM series"))[0]
    assert tuple(row) == (1, NOW)


async def test_months_without_a_bar_left_are_dropped(database: Database) -> None:
    await ensure_partitions(database, NOW, since=NOW - timedelta(days=100))
    for age in (0, 95):
        await database.sql(BAR, NOW - timedelta(days=age))
    assert await drop_old_bars(database, NOW, {"1m": 30}) == 1
    names = {
        row[0] for row in await database.sql("SELECT relname FROM pg_class WHERE relname LIKE 'ohlcv_data_p______'")
    }
    assert names == {"ohlcv_data_p202611", "ohlcv_data_p202612", "ohlcv_data_p202701"}
