"""Publishers to Redis: the newest price, quote and book of each symbol, and the states of feeds.

Values are conflated: a newer one replaces an older one that waits, so a slow Redis delays nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from fks.clock import Clock
from fks.market.feed.feed import SymbolFeed
from fks.market.feed.machine import FeedState
from fks.model.bar import PublicTrade
from fks.model.market import Book, Channel, Quote
from fks.model.ports import Meter
from fks.store.bus import FEEDS, Bus
from fks.store.latest import Latest

REST_S = 0.002  # between two rounds to Redis: values that come meanwhile go together
_CHANNEL = {PublicTrade: Channel.TRADES, Quote: Channel.QUOTES, Book: Channel.BOOK}
Value = PublicTrade | Quote | Book


class LatestPublisher:
    """Holds the newest value of each symbol until Redis takes it; replaced ones are counted."""

    def __init__(self, latest: Latest, clock: Clock, meter: Meter) -> None:
        self._latest = latest
        self._clock = clock
        self._meter = meter
        self._newest: dict[tuple[type[Value], str], Value] = {}
        self._replaced: dict[Channel, int] = {}
        self._has_news = asyncio.Event()

    def put(self, value: Value) -> None:
        """Publish a value, in the place of an older one of its symbol that still waits."""
        key = (type(value), value.symbol)
        if key in self._newest:
            channel = _CHANNEL[key[0]]
            self._replaced[channel] = self._replaced.get(channel, 0) + 1
        self._newest[key] = value
        self._has_news.set()

    def drop(self, symbol: str) -> None:
        """Forget the waiting values of a symbol."""
        for kind in _CHANNEL:
            self._newest.pop((kind, symbol), None)

    async def run(self) -> None:
        """Publish until cancelled. Values that Redis did not take are lost; PostgreSQL has the trades."""
        task = asyncio.current_task()
        while task is not None and not task.cancelling():
            await self._has_news.wait()
            self._has_news.clear()
            values, self._newest = list(self._newest.values()), {}
            await self._latest.publish(values)
            for channel, count in self._replaced.items():
                self._meter.count("fks_market_conflated_total", count, channel=channel)
            self._replaced.clear()
            await self._clock.sleep(REST_S)


class StatePublisher:
    """Publishes the state of each feed of an exchange on the bus when it changed."""

    def __init__(self, exchange: str, bus: Bus) -> None:
        self._exchange, self._bus = exchange, bus
        self._published: dict[str, FeedState] = {}

    async def publish(self, feeds: Iterable[SymbolFeed]) -> None:
        """Publish the changes since the last call."""
        for feed in feeds:
            if self._published.get(feed.symbol) is not feed.state:
                self._published[feed.symbol] = feed.state
                message = {"type": "feed", "exchange": self._exchange, "symbol": feed.symbol, "state": feed.state}
                await self._bus.publish(FEEDS, message)
