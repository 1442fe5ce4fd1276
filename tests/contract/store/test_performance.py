"""daily_account_performance: win rate, PnL, average trade and fees by account and day, refreshed under its readers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from fks.store import performance
from fks.store.db import Database
from fks.store.routines import DAILY_COLUMNS

T0 = datetime(2026, 3, 1, tzinfo=UTC)
D = Decimal


async def book(
    db: Database, pnl: str, time: datetime, *, account: int = 1, fee: str = "0.1", currency: str = "USDT"
) -> None:
    await db.sql(
        "INSERT INTO trades (fill_id, account_id, venue, symbol, trade_type, quantity, price, fee, fee_currency, "
        "realized_pnl, time) "
        "VALUES (gen_random_uuid(), $1, 'paper', 'BTCUSDT', 'BUY', 2, 100, $2, $3, $4, $5)",
        account,
        D(fee),
        currency,
        D(pnl),
        time,
    )


DAYS = "SELECT * FROM daily_account_performance WHERE account_id = 1 ORDER BY day DESC"


async def test_days_of_an_account_after_a_refresh(database: Database) -> None:
    await database.sql("INSERT INTO accounts (id, name, venue) VALUES (1, 'a', 'paper'), (2, 'b', 'paper')")
    for number, pnl in enumerate(("0", "5", "-2", "9")):
        await book(database, pnl, T0 + timedelta(hours=number))
    await book(database, "0", T0 + timedelta(days=1), fee="0.001", currency="BTC")
    await book(database, "7", T0, account=2)
    assert await database.sql(DAYS) == []  # as of the last refresh
    assert await performance.refresh(database) == "refreshed"
    assert [tuple(row) for row in await database.sql(DAYS)] == [
        (1, T0 + timedelta(days=1), 1, 0, 0, None, D(0), None, D("0.1"), D(200), 0),
        (1, T0, 4, 2, 1, 2 / 3, D(12), D(4), D("0.4"), D(800), 0),
    ]


async def test_reader_and_refresh_do_not_block_each_other(database: Database) -> None:
    await database.sql("INSERT INTO accounts (id, name, venue) VALUES (1, 'a', 'paper')")
    await book(database, "1", T0)
    async with database.transaction() as reader:
        assert await reader.sql("SELECT * FROM daily_account_performance") == []
        assert await performance.refresh(database) == "refreshed"
        assert len(await reader.sql("SELECT * FROM daily_account_performance")) == 1


async def test_the_columns_are_those_of_the_view(database: Database) -> None:
    """TimescaleDB's form is made of the same text of the columns: it gives the rows of the view."""
    await database.sql("INSERT INTO accounts (id, name, venue) VALUES (1, 'a', 'paper')")
    for number in range(6):
        await book(database, str(number - 2), T0 + timedelta(hours=10 * number))
    await performance.refresh(database)
    here = await database.sql(
        f"SELECT account_id, date_trunc('day', time, 'UTC') AS day,{DAILY_COLUMNS} "
        "FROM trades LEFT JOIN trade_fees ON trade_id = id GROUP BY 1, 2 ORDER BY 2"
    )
    there = await database.sql("SELECT * FROM daily_account_performance ORDER BY day")
    assert [dict(row) for row in here] == [dict(row) for row in there]
