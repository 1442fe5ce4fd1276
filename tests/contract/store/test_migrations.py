"""The schema: migrations equal the tables in code, and the owner's SQL runs as it stands."""

from __future__ import annotations

from fks.store import migrate
from fks.store.db import Database

OWNERS_SQL = """
SELECT * FROM ohlcv_data WHERE symbol = 'BTCUSDT' AND timeframe = '1h' ORDER BY time DESC LIMIT 10;
SELECT * FROM ohlcv_data WHERE symbol = 'BTCUSDT' AND timeframe = '1h' AND time > NOW() - INTERVAL '30 days';
SELECT * FROM daily_account_performance WHERE account_id = 1 AND day > NOW() - INTERVAL '90 days';
SELECT symbol, timeframe, COUNT(*) AS candles, MIN(time) AS oldest, MAX(time) AS newest, MAX(time) - MIN(time) AS time_range FROM ohlcv_data GROUP BY symbol, timeframe ORDER BY symbol, timeframe;
SELECT symbol, timeframe, COUNT(*) FROM ohlcv_data WHERE close IS NULL OR volume IS NULL GROUP BY symbol, timeframe;
INSERT INTO sync_status (symbol, timeframe, sync_status) SELECT 'NEWCOINUSDT', tf, 'pending' FROM unnest(ARRAY['1m','5m','15m','30m','1h','4h','1d','1w','1M']) AS tf ON CONFLICT DO NOTHING;
"""


async def test_migrations_equal_the_tables_in_code(database_url: str) -> None:
    assert await migrate.differences(database_url) == []


async def test_the_database_is_at_the_newest_revision(database_url: str) -> None:
    assert await migrate.current(database_url) == migrate.head()


async def test_upgrading_twice_changes_nothing(database_url: str) -> None:
    assert await migrate.upgrade(database_url) == migrate.head()


async def test_down_to_nothing_and_up_again(empty_database_url: str) -> None:
    assert await migrate.current(empty_database_url) is None
    await migrate.upgrade(empty_database_url)
    assert await migrate.downgrade(empty_database_url, "base") is None
    await migrate.upgrade(empty_database_url)
    assert await migrate.differences(empty_database_url) == []


async def test_the_owners_sql_runs_as_it_stands(database: Database) -> None:
    for statement in OWNERS_SQL.strip().splitlines():
        await database.sql(statement)
    assert (await database.sql("SELECT count(*) FROM sync_status WHERE sync_status = 'pending'"))[0][0] == 9
