"""Past rates between assets from stored bars: ways, timeframes, ages."""

from __future__ import annotations

from decimal import Decimal

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
