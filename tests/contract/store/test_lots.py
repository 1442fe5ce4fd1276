"""Past rates between assets from stored bars: ways, timeframes, ages; and lots as rows that follow their inputs."""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal

import asyncpg
import pytest

from fks.model.accounting.lots import LotMethod
from fks.model.timeframe import to_ns
from fks.store.db import Database
from fks.store.lots import LotStore

D = Decimal


async def listed(db: Database, exchange: str, symbol: str, base: str, quote: str) -> None:
    await db.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ($1, $2, $3, $4, 0.01, 0.01, 0.01, 9000, 5)",
        exchange, symbol, base, quote,
    )  # fmt: skip


async def bar(db: Database, exchange: str, symbol: str, timeframe: str, time: str, close: float) -> None:
    await db.sql(
        "INSERT INTO ohlcv_data (exchange, symbol, timeframe, time, open, high, low, close, volume)"
        " VALUES ($1, $2, $3, $4::text::timestamptz, $5, $5, $5, $5, 1)",
        exchange, symbol, timeframe, time, close,
    )  # fmt: skip


async def at(db: Database, time: str) -> int:
    return to_ns((await db.sql("SELECT $1::text::timestamptz AS t", time))[0]["t"])


async def rate(db: Database, asset: str, into: str, time: str) -> Decimal | None:
    moment = await at(db, time)
    return (await LotStore(db, "binance").rates([(asset, moment)], into))(asset, into, moment)


async def test_rate_is_the_close_of_the_newest_bar_that_had_ended(database: Database) -> None:
    await listed(database, "binance", "BTCEUR", "BTC", "EUR")
    for minute, close in (("00", 100.5), ("01", 101.5), ("02", 102.5)):
        await bar(database, "binance", "BTCEUR", "1m", f"2026-01-01T10:{minute}Z", close)
    await bar(database, "binance", "BTCEUR", "1d", "2025-12-30", 90.0)
    assert await rate(database, "BTC", "EUR", "2026-01-01T10:02:00Z") == D("101.5")
    assert await rate(database, "BTC", "EUR", "2026-01-01T10:02:59Z") == D("101.5"), "that minute has not ended"
    assert await rate(database, "EUR", "BTC", "2026-01-01T10:02:00Z") == 1 / D("101.5")
    assert await rate(database, "BTC", "EUR", "2026-01-01T11:03:00Z") == D("102.5"), "an hour old"
    assert await rate(database, "BTC", "EUR", "2026-01-01T11:04:00Z") is None, "more than an hour old"
    assert await rate(database, "BTC", "EUR", "2026-01-01T10:00:00Z") is None, "the daily bar ended over a day before"
    assert await rate(database, "BTC", "EUR", "2025-12-31T23:00:00Z") == D("90.0"), "a daily bar holds for a day"
    assert await rate(database, "XAU", "EUR", "2026-01-01T10:02:00Z") is None


async def test_rate_goes_through_at_most_three_pairs_the_shortest_way_first(database: Database) -> None:
    for symbol, base, quote, close in (
        ("AAABBB", "AAA", "BBB", 2.0),
        ("CCCBBB", "CCC", "BBB", 4.0),
        ("CCCDDD", "CCC", "DDD", 10.0),
        ("DDDEEE", "DDD", "EEE", 10.0),
    ):
        await listed(database, "binance", symbol, base, quote)
        await bar(database, "binance", symbol, "1h", "2026-01-01T09:00Z", close)
    moment = "2026-01-01T10:30Z"
    assert await rate(database, "AAA", "CCC", moment) == D("0.5")
    assert await rate(database, "AAA", "DDD", moment) == D(5)
    assert await rate(database, "AAA", "EEE", moment) is None, "four pairs"
    # a direct pair without a bar at that time is no rate, and the longer way is taken
    await listed(database, "kraken", "AAADDD", "AAA", "DDD")
    await bar(database, "kraken", "AAADDD", "1h", "2026-02-01T09:00Z", 7.0)
    assert await rate(database, "AAA", "DDD", moment) == D(5)
    assert await rate(database, "AAA", "DDD", "2026-02-01T10:00Z") == D("7.0")


async def test_own_exchange_is_preferred(database: Database) -> None:
    for exchange, close in (("alpha", 1.0), ("binance", 2.0)):
        await listed(database, exchange, "AAABBB", "AAA", "BBB")
        await bar(database, exchange, "AAABBB", "1h", "2026-01-01T09:00Z", close)
    assert await rate(database, "AAA", "BBB", "2026-01-01T10:00Z") == D("2.0")


async def trade(db: Database, time: str, side: str, quantity: str, price: str, *, symbol: str = "BTCUSDT") -> None:
    await db.sql(
        "INSERT INTO trades (fill_id, account_id, venue, symbol, trade_type, quantity, price, fee, fee_currency, time)"
        " SELECT gen_random_uuid(), id, 'paper', $1, $2, $3, $4, 0, 'USDT', $5::text::timestamptz FROM accounts WHERE name = 'a'",
        symbol, side, D(quantity), D(price), time,
    )  # fmt: skip


async def books(db: Database) -> dict[tuple[str, bool], tuple[list[tuple[object, ...]], list[tuple[object, ...]]]]:
    """Return the lots and disposals in the tables by method and whether they are shared."""
    found = {}
    for row in await db.sql("SELECT method, is_shared FROM lot_books"):
        lots, disposals = [
            [tuple(r) for r in await db.sql(f"SELECT {columns} FROM {table} WHERE (method, is_shared) = ($1, $2) ORDER BY number", *row)]
            for table, columns in (
                ("lots", "number, pool, asset, kind, lot_id, quantity, cost, note"),
                ("lot_disposals", "number, pool, asset, kind, disposal_id, lot_id, quantity, proceeds, cost, gain, note"),
            )
        ]  # fmt: skip
        found[row["method"], row["is_shared"]] = lots, disposals
    return found


async def assert_rows_are_what_the_history_gives(db: Database) -> None:
    store = LotStore(db, "binance")
    history, stored = await store.history(None), await books(db)
    assert len(stored) == 4
    for (method, is_shared), rows in stored.items():
        book = await store.book(history, "USDT", LotMethod(method), is_shared=is_shared)
        lots = [
            (n, lot.pool, lot.asset, lot.kind, lot.id, lot.quantity, lot.cost, lot.note)
            for n, lot in enumerate(book.lots(), 1)
        ]
        disposals = [
            (d.number, d.pool, d.asset, d.kind, d.disposal_id, d.lot_id, d.quantity, d.proceeds, d.cost, d.gain, d.note)
            for d in book.disposals()
        ]
        assert rows == (lots, disposals)


@pytest.fixture
async def traded(database: Database) -> Database:
    await database.sql("INSERT INTO accounts (name, venue, mode, currency) VALUES ('a', 'ccxt', 'live', 'USDT')")
    await listed(database, "binance", "BTCUSDT", "BTC", "USDT")
    await trade(database, "2026-01-01T10:00Z", "BUY", "2", "100")
    await trade(database, "2026-01-03T10:00Z", "SELL", "1", "150")
    return database


async def test_lots_are_rows_that_follow_their_inputs(traded: Database) -> None:
    store = LotStore(traded, "binance")
    assert await store.rebuild() == "4 of 4 books of lots rebuilt"
    await assert_rows_are_what_the_history_gives(traded)
    assert await store.rebuild() == "0 of 4 books of lots rebuilt"
    await trade(traded, "2026-01-03T11:00Z", "SELL", "0.5", "160")
    before = await traded.sql("SELECT method, is_shared, xmin::text FROM lot_disposals WHERE number = 1 ORDER BY 1, 2")
    assert await store.rebuild() == "4 of 4 books of lots rebuilt"
    after = await traded.sql("SELECT method, is_shared, xmin::text FROM lot_disposals WHERE number = 1 ORDER BY 1, 2")
    assert before == after, "rows that stay as they are, are not written again"
    await trade(traded, "2026-01-02T10:00Z", "SELL", "1.5", "140")
    await store.rebuild()
    await assert_rows_are_what_the_history_gives(traded)
    assert [row[6] for row in (await books(traded))["fifo", False][1]] == [D("1.5"), D("0.5"), D("0.5"), D("0.5")]
    for change in (
        "INSERT INTO transfers (account_id, kind, reference, asset, amount, time) SELECT id, 'deposit', 'x', 'BTC', 5,"
        " '2026-01-01' FROM accounts WHERE name = 'a'",
        "INSERT INTO position_splits (id, account_id, venue, exchange, symbol, day, new_shares, old_shares, effective_at,"
        " quantity_before, quantity_after) SELECT gen_random_uuid(), id, 'ccxt', 'binance', 'BTCUSDT', '2026-01-02', 2, 1,"
        " '2026-01-02', 2, 4 FROM accounts WHERE name = 'a'",
        "DELETE FROM transfers",
    ):
        await traded.sql(change)
        assert await store.rebuild() == "4 of 4 books of lots rebuilt", change
        await assert_rows_are_what_the_history_gives(traded)


async def test_bars_that_come_later_value_the_rows(traded: Database) -> None:
    await listed(traded, "binance", "BTCEUR", "BTC", "EUR")
    await listed(traded, "binance", "EURUSDT", "EUR", "USDT")
    await trade(traded, "2026-01-04T10:00Z", "SELL", "1", "90", symbol="BTCEUR")
    store = LotStore(traded, "binance")
    await store.rebuild()
    assert [row[-1] for row in (await books(traded))["fifo", True][1]] == ["", "no rate"]
    await bar(traded, "binance", "EURUSDT", "1m", "2026-01-04T09:58Z", 1.5)
    assert await store.rebuild() == "4 of 4 books of lots rebuilt"
    assert [row[7] for row in (await books(traded))["fifo", True][1]] == [D(150), D(135)]
    await bar(traded, "binance", "EURUSDT", "1m", "2026-01-04T10:05Z", 1.6)
    await store.rebuild()
    await bar(traded, "binance", "EURUSDT", "1m", "2026-01-04T10:06Z", 1.7)
    assert await store.rebuild() == "0 of 4 books of lots rebuilt", "no event needs a bar of after the last one"


async def test_accounts_that_never_traded_are_rebuilt_once(database: Database) -> None:
    await database.sql("INSERT INTO accounts (name, venue, mode, currency) VALUES ('a', 'ccxt', 'live', 'USDT')")
    await database.sql("INSERT INTO account_assets (account_id, asset, opening, opened_at) VALUES (1, 'BTC', 2, now())")
    await listed(database, "binance", "BTCUSDT", "BTC", "USDT")
    await bar(database, "binance", "BTCUSDT", "1m", "2026-01-04T09:58Z", 1.5)
    store = LotStore(database, "binance")
    assert [await store.rebuild() for _ in range(2)] == [f"{count} of 4 books of lots rebuilt" for count in (4, 0)]


async def test_a_rebuild_that_fails_halfway_leaves_the_rows_of_before(traded: Database) -> None:
    store = LotStore(traded, "binance")
    await store.rebuild()
    before = await books(traded)
    await trade(traded, "2026-01-02T10:00Z", "SELL", "1", "140")
    await traded.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.method = 'fifo' AND NEW.is_shared"
        " THEN RAISE 'halfway'; END IF; RETURN NEW; END $$"
    )
    await traded.sql("CREATE TRIGGER halfway BEFORE INSERT ON lot_disposals FOR EACH ROW EXECUTE FUNCTION refuse()")
    with pytest.raises(asyncpg.RaiseError):
        await store.rebuild()
    halfway = await books(traded)
    assert halfway["fifo", True] == before["fifo", True]
    assert halfway["fifo", False] != before["fifo", False], "each book is one transaction"
    await traded.sql("DROP TRIGGER halfway ON lot_disposals")
    assert await store.rebuild() == "3 of 4 books of lots rebuilt"
    await assert_rows_are_what_the_history_gives(traded)


async def test_executions_that_are_added_write_the_disposals_from_then_on(traded: Database) -> None:
    """Random executions, half of them late, and now and then an event of another kind: always the rows of a rebuild of
    all. A row of before that another program changed stays until an event of another kind."""
    store, dice = LotStore(traded, "binance"), random.Random(32)
    others = [
        "INSERT INTO transfers (account_id, kind, reference, asset, amount, time) SELECT id, 'withdrawal', 'x', 'BTC', 1,"
        " '2026-01-02 03:00Z' FROM accounts WHERE name = 'a'",
        "INSERT INTO trades (fill_id, account_id, venue, symbol, trade_type, quantity, price, venue_trade_id, source, time)"
        " SELECT gen_random_uuid(), account_id, venue, symbol, 'SELL', quantity, price, 'bust:' || fill_id, 'bust', now()"
        " FROM trades WHERE trade_type = 'BUY' ORDER BY id LIMIT 1",
    ]
    newest = 72
    for step in range(24):
        for _ in range(dice.randrange(1, 4)):
            hour = dice.randrange(11, newest) if dice.random() < 0.5 else newest
            newest += 1
            await trade(
                traded,
                f"2026-01-{1 + hour // 24:02}T{hour % 24:02}:00Z",
                dice.choice(("BUY", "SELL")),
                str(dice.randrange(1, 9)),
                "100",
            )
        if step in (8, 16):
            await traded.sql(others[step // 8 - 1])
        await store.rebuild()
        await assert_rows_are_what_the_history_gives(traded)
    await traded.sql("UPDATE lot_disposals SET note = 'theirs' WHERE number = 1")
    for deposit, kept in ((False, 4), (True, 0)):
        await trade(traded, "2026-02-01T10:00Z", "BUY", "1", "100")
        if deposit:
            await traded.sql("DELETE FROM transfers")
        await store.rebuild()
        assert len(await traded.sql("SELECT FROM lot_disposals WHERE note = 'theirs'")) == kept
    await assert_rows_are_what_the_history_gives(traded)


async def test_two_rebuilds_at_once_give_the_same_rows(traded: Database) -> None:
    await asyncio.gather(LotStore(traded, "binance").rebuild(), LotStore(traded, "binance").rebuild())
    await assert_rows_are_what_the_history_gives(traded)
