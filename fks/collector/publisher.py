"""The newest price, quote and book of each symbol, told at once: conflated, so that a slow Redis holds nobody up;
and the states of feeds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from fks.clock import Clock
from fks.feed.feed import SymbolFeed
from fks.feed.findings import FeedState
from fks.model.bar import PublicTrade
from fks.model.market import Book, Channel, Quote
from fks.model.ports import Meter
from fks.store.bus import FEEDS, Bus
from fks.store.latest import Latest

REST_S = 0.002  # between two rounds to Redis: what comes meanwhile goes together
_CHANNEL = {PublicTrade: Channel.TRADES, Quote: Channel.QUOTES, Book: Channel.BOOK}
Told = PublicTrade | Quote | Book


class Teller:
    """Holds the newest of each symbol until Redis takes it. What a newer one replaced is counted; nothing waits for
    Redis."""

    def __init__(self, latest: Latest, clock: Clock, meter: Meter) -> None:
        self._latest = latest
        self._clock = clock
        self._meter = meter
        self._newest: dict[tuple[type[Told], str], Told] = {}
        self._replaced: dict[Channel, int] = {}
        self._has_news = asyncio.Event()

    def put(self, event: Told) -> None:
        """Have an event told, in the place of an older one of its symbol that still waits."""
        key = (type(event), event.symbol)
        if key in self._newest:
            channel = _CHANNEL[key[0]]
            self._replaced[channel] = self._replaced.get(channel, 0) + 1
        self._newest[key] = event
        self._has_news.set()

    def drop(self, symbol: str) -> None:
        """Forget what waits of a symbol."""
        for kind in _CHANNEL:
            self._newest.pop((kind, symbol), None)

    async def run(self) -> None:
        """Tell until cancelled. What Redis did not take is lost: PostgreSQL has the trades, and the next price
        comes."""
        task = asyncio.current_task()
        while task is not None and not task.cancelling():
            await self._has_news.wait()
            self._has_news.clear()
            events, self._newest = list(self._newest.values()), {}
            await self._latest.publish(events)
            for channel, count in self._replaced.items():
                self._meter.count("fks_market_conflated_total", count, channel=channel)
            self._replaced.clear()
            await self._clock.sleep(REST_S)


class States:
    """Tells on the bus which state each feed of an exchange is in, when it changed."""

    def __init__(self, exchange: str, bus: Bus) -> None:
        self._exchange, self._bus = exchange, bus
        self._told: dict[str, FeedState] = {}

    async def tell(self, feeds: Iterable[SymbolFeed]) -> None:
        """Tell what changed since the last call."""
        for feed in feeds:
            if self._told.get(feed.symbol) is not feed.state:
                self._told[feed.symbol] = feed.state
                told = {"type": "feed", "exchange": self._exchange, "symbol": feed.symbol, "state": feed.state}
                await self._bus.publish(FEEDS, told)
