"""The row of a series follows its bars, whichever process writes them; its revision ends outdated copies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fks.store.db import Database

T0 = datetime(2026, 1, 1, tzinfo=UTC)
INSERT = (
    "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume)"
    " SELECT $1::timestamptz + m * interval '1 minute', 'BTCUSDT', '1m', 1, 1, 1, 1, 1 FROM generate_series($2::int, "
    "$3::int) m"
)


async def series(db: Database) -> dict[str, Any]:
    row = (await db.sql("SELECT revision, oldest, newest, candles FROM series"))[0]
    return {
        "revision": row["revision"],
        "candles": row["candles"],
        "oldest": None if row["oldest"] is None else (row["oldest"] - T0) // timedelta(minutes=1),
        "newest": None if row["newest"] is None else (row["newest"] - T0) // timedelta(minutes=1),
    }


async def test_appended_bars_keep_the_revision(database: Database) -> None:
    await database.sql(INSERT, T0, 10, 19)
    await database.sql(INSERT, T0, 20, 24)
    assert await series(database) == {"revision": 0, "candles": 15, "oldest": 10, "newest": 24}


async def test_what_changes_the_past_changes_the_revision(database: Database) -> None:
    await database.sql(INSERT, T0, 10, 19)
    await database.sql(INSERT, T0, 0, 4)  # an older piece
    assert await series(database) == {"revision": 1, "candles": 15, "oldest": 0, "newest": 19}
    await database.sql("UPDATE ohlcv_data SET close = 2 WHERE time = $1", T0)
    assert (await series(database))["revision"] == 2
    await database.sql("DELETE FROM ohlcv_data WHERE time < $1", T0 + timedelta(minutes=2))
    assert await series(database) == {"revision": 3, "candles": 13, "oldest": 2, "newest": 19}
    await database.sql(INSERT + " ON CONFLICT DO NOTHING", T0, 10, 12)  # nothing new
    assert (await series(database))["revision"] == 3
    await database.sql("TRUNCATE ohlcv_data")
    assert await series(database) == {"revision": 4, "candles": 0, "oldest": None, "newest": None}
    await database.sql(INSERT, T0, 0, 0)
    assert await series(database) == {"revision": 4, "candles": 1, "oldest": 0, "newest": 0}


async def test_a_bar_that_gets_another_time_or_name_is_counted_where_it_is_now(database: Database) -> None:
    await database.sql(INSERT, T0, 0, 9)
    await database.sql(
        "UPDATE ohlcv_data SET time = time + interval '1 year' WHERE time = $1", T0 + timedelta(minutes=9)
    )
    found = await series(database)
    assert (found["candles"], found["oldest"], found["newest"]) == (10, 0, 365 * 1440 + 9)
    await database.sql("UPDATE ohlcv_data SET symbol = 'XBTUSDT' WHERE time < $1", T0 + timedelta(minutes=4))
    rows = await database.sql("SELECT symbol, candles, oldest FROM series ORDER BY symbol")
    assert [tuple(row) for row in rows] == [("BTCUSDT", 6, T0 + timedelta(minutes=4)), ("XBTUSDT", 4, T0)]
    before = (await database.sql("SELECT sum(revision) FROM series"))[0][0]
    await database.sql("SELECT series_recount('binance', 'XBTUSDT', '1m')")
    assert (await database.sql("SELECT sum(revision) FROM series"))[0][0] == before + 1
