"""The row of a series follows its bars, whoever writes them; its revision tells what a copy can no longer rely on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fks.store.db import Database

T0 = datetime(2026, 1, 1, tzinfo=UTC)
INSERT = (
    "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume)"
    " SELECT $1::timestamptz + m * interval '1 minute', 'BTCUSDT', '1m', 1, 1, 1, 1, 1 FROM generate_series($2::int, $3::int) m"
)


async def series(db: Database) -> dict[str, Any]:
    row = (await db.sql("SELECT revision, oldest, newest, candles FROM series"))[0]
    return {
        "revision": row["revision"], "candles": row["candles"],
        "oldest": None if row["oldest"] is None else (row["oldest"] - T0) // timedelta(minutes=1),
        "newest": None if row["newest"] is None else (row["newest"] - T0) // timedelta(minutes=1),
    }  # fmt: skip


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
