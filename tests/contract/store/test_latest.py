"""The newest of each symbol in Redis: one form, conflated, and nothing that anyone else may write there can hurt."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal

from fks.model.bar import PublicTrade
from fks.model.market import Book, Quote
from fks.model.timeframe import NS
from fks.store.bus import Bus
from fks.store.latest import BOOKS, PRICES, QUOTES, Latest, Seen, key_of
from tests.support.waiting import until

AT = 1_777_600_000 * NS


def trade(number: int, symbol: str = "LATESTUSDT") -> PublicTrade:
    return PublicTrade(
        "binance", symbol, number, AT + number, Decimal("64000.10"), Decimal("0.0050"), True, 1, AT + 5 * NS
    )


QUOTE = Quote("binance", "LATESTUSDT", AT, Decimal("1.10"), Decimal(2), Decimal("1.2"), Decimal("3E+2"))
BOOK = Book("binance", "LATESTUSDT", AT, ((Decimal("1.10"), Decimal(2)),), ((Decimal("1.20"), Decimal(1)),), 7)


async def test_what_is_kept_is_what_is_published_the_newest_of_each(bus: Bus) -> None:
    events: list[tuple[str, dict[str, object]]] = []

    async def listen() -> None:
        async for channel, payload in bus.subscribe(PRICES, QUOTES, BOOKS):
            if payload["symbol"] == "LATESTUSDT":
                events.append((channel, payload))

    task = asyncio.create_task(listen())
    latest = Latest(bus)

    async def received() -> bool:
        assert await latest.publish([trade(1), trade(2), QUOTE, BOOK])
        return len(events) >= 3

    await until(received)
    task.cancel()
    seen = await latest.read("binance", "LATESTUSDT")
    by_channel = dict(events)
    assert (by_channel[PRICES], by_channel[QUOTES], by_channel[BOOKS]) == (seen.price, seen.quote, seen.book)
    assert {message["trade_id"] for channel, message in events if channel == PRICES} == {2}
    assert seen.price == {
        "type": "price",
        "exchange": "binance",
        "symbol": "LATESTUSDT",
        "time": "2026-05-01T01:46:40Z",
        "received": "2026-05-01T01:46:45Z",
        "price": "64000.10",
        "quantity": "0.0050",
        "side": "sell",
        "trade_id": 2,
    }
    assert seen.quote is not None
    assert (seen.quote["bid"], seen.quote["ask_size"], seen.quote["received"]) == ("1.10", "300", seen.quote["time"])
    assert seen.book is not None
    assert (seen.book["bids"], seen.book["sequence"]) == ([["1.10", "2"]], 7)


async def test_what_is_not_ours_is_as_if_it_were_not_there(bus: Bus) -> None:
    assert await Latest(bus).publish([])
    for text in (b"{", b"[]", b"7", json.dumps({"type": "quote"}).encode(), b'{"type": "price", "time": 5}'):
        await bus.put(key_of("binance", "ODDUSDT"), "price", text, 60)
        assert await Latest(bus).read("binance", "ODDUSDT") == Seen()


async def test_without_redis_nothing_is_raised() -> None:
    away = await Bus.connect("redis://127.0.0.1:1/0", timeout_s=0.2)
    assert not await Latest(away).publish([trade(1)])
    assert await Latest(away).read("binance", "LATESTUSDT") == Seen()
    await away.close()
