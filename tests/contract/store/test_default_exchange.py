"""The view `ohlcv` answers the owner's SQL from one of a symbol's exchanges; two names of one market are one series."""

from __future__ import annotations

import asyncpg
import pytest

from fks.model.errors import InputError
from fks.store.db import Database
from fks.store.reading import ReadingStore

BARS = (
    "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume, exchange, source)"
    " SELECT date_trunc('hour', now()) - n * interval '1 hour', $1, '1h', 1, 3, 1, $3, 5, $2, $4"
    " FROM generate_series(1, $5::int) n"
)
COVERAGE = (
    "SELECT symbol, timeframe, COUNT(*) AS candles, MIN(time) AS oldest, MAX(time) AS newest,"
    " MAX(time) - MIN(time) AS time_range FROM {} GROUP BY symbol, timeframe ORDER BY symbol, timeframe;"
)
NULLS = "SELECT symbol, timeframe, COUNT(*) FROM {} WHERE close IS NULL OR volume IS NULL GROUP BY symbol, timeframe;"
OWNERS = {
    "newest": "SELECT * FROM {} WHERE symbol = 'BTCUSDT' AND timeframe = '1h' ORDER BY time DESC LIMIT 10;",
    "month": "SELECT * FROM {} WHERE symbol = 'BTCUSDT' AND timeframe = '1h' AND time > NOW() - INTERVAL '30 days';",
    "coverage": COVERAGE,
    "nulls": NULLS,
}


async def shown(database: Database) -> set[str]:
    return {
        row["exchange"] for row in await database.sql("SELECT DISTINCT exchange FROM ohlcv WHERE symbol = 'BTCUSDT'")
    }


async def collect(database: Database, exchange: str, is_enabled: bool = True) -> None:
    await database.sql(
        "INSERT INTO assets (exchange, symbol, is_enabled) VALUES ($1, 'BTCUSDT', $2)"
        " ON CONFLICT (exchange, symbol) DO UPDATE SET is_enabled = $2",
        exchange,
        is_enabled,
    )


async def test_owners_sql_on_the_view_has_rows_of_one_exchange(database: Database, database_url: str) -> None:
    await database.sql(BARS, "BTCUSDT", "binance", 2.0, "sync", 1000)
    await database.sql(BARS, "BTCUSDT", "bybit", 2.5, "sync", 2000)
    client = await asyncpg.connect(database_url)
    try:
        found = {name: await client.fetch(statement.format("ohlcv")) for name, statement in OWNERS.items()}
        mixed = await client.fetch(OWNERS["newest"].format("ohlcv_data"))
    finally:
        await client.close()
    assert {row["exchange"] for row in mixed} == {"binance", "bybit"}, "the table keeps its rows"
    assert [row["close"] for row in found["newest"]] == [2.0] * 10
    assert len({row["time"] for row in found["newest"]}) == 10
    assert len(found["month"]) in (719, 720)
    assert [tuple(row)[:3] for row in found["coverage"]] == [("BTCUSDT", "1h", 1000)]
    assert found["nulls"] == []


async def test_default_is_the_first_then_the_collected_then_the_chosen(database: Database) -> None:
    await database.sql(BARS, "BTCUSDT", "bitstamp", 2.0, "import", 3)
    await database.sql(BARS, "BTCUSDT", "bybit", 2.0, "sync", 3)
    await database.sql(BARS, "BTCUSDT", "binance", 2.0, "sync", 3)
    assert await shown(database) == {"bitstamp"}
    await collect(database, "bybit")
    assert await shown(database) == {"bybit"}
    await collect(database, "binance")
    assert await shown(database) == {"bybit"}, "it is collected, too"
    await database.sql("UPDATE default_exchanges SET exchange = 'bitstamp', is_chosen = true WHERE symbol = 'BTCUSDT'")
    await collect(database, "bybit", False)
    await collect(database, "bybit")
    assert await shown(database) == {"bitstamp"}
    assert (await ReadingStore(database).find("BTC/USDT")).exchange == "bitstamp", "every interface means it"


async def test_symbol_of_several_exchanges_stays_ambiguous_without_a_choice(database: Database) -> None:
    await database.sql(BARS, "BTCUSDT", "binance", 2.0, "sync", 3)
    await database.sql(BARS, "BTCUSDT", "bybit", 2.0, "sync", 3)
    with pytest.raises(InputError, match="ambiguous"):
        await ReadingStore(database).find("BTCUSDT")
