"""A market without trades: its silence is true, and no outage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal

import pytest

from fks.clock import FakeClock, RealClock
from fks.config.settings import Data, Settings
from fks.market.collector.collector import Collector
from fks.market.feed import machine as m
from fks.market.feed.machine import FeedState, Stream
from fks.market.history.assets import RELIST_MAX_S, Assets
from fks.model.bar import Bar, Ints, PublicTrade
from fks.model.calendars import AlwaysOpen, Bools
from fks.model.errors import OutageError
from fks.model.instrument import Instrument
from fks.model.market import (
    BarSeen,
    Channel,
    ConnectionCounters,
    ExchangeCapabilities,
    MarketEvent,
    Subscription,
    TradeIds,
    TradesFrom,
)
from fks.model.timeframe import NS, bar_end, bar_start
from fks.store.bus import Bus
from fks.store.db import Database
from fks.system.runtime import Runtime
from tests.support.collecting import running
from tests.support.ports import CollectingLog, RecordingMeter, TestLease
from tests.support.waiting import until

SYMBOL = "ILQ/USD"


class QuietExchange:
    """Kraken's ways with a market whose last trade was a while ago: a subscription is answered with a bar, and no more
    comes."""

    name = "kraken"
    capabilities = ExchangeCapabilities(
        frozenset({"1m", "5m", "1h", "1d"}), frozenset(Channel), TradeIds.RISING, TradesFrom.TIME, 200, True
    )

    def __init__(self) -> None:
        self.counters = ConnectionCounters()
        self.connects = self.asked = self.listed = 0
        self.is_listing = self.is_answering = True
        self._trade = PublicTrade(self.name, SYMBOL, 7, time.time_ns() - 90 * NS, Decimal("1.5"), Decimal(1), False, 1)

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def instruments(self) -> list[Instrument]:
        self.listed += 1
        if not self.is_listing:
            raise OutageError("kraken does not answer")
        step = Decimal("0.1")
        return [
            Instrument(
                self.name, SYMBOL, "ILQ", "USD", step, step, step, Decimal(100), Decimal(0), updated_ns=time.time_ns()
            )
        ]

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        now_ns = min(time.time_ns(), until_ns or time.time_ns())
        at_ns = bar_start(now_ns - 600 * NS if since_ns is None else since_ns, timeframe)
        found = []
        while len(found) < min(limit, 500) and bar_end(at_ns, timeframe) <= now_ns:
            found.append(Bar(self.name, symbol, timeframe, at_ns, 1.5, 1.5, 1.5, 1.5, 0.0, 0, is_empty=True))
            at_ns = bar_end(at_ns, timeframe)
        return found

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        self.asked += 1
        if not self.is_answering:
            raise OutageError("kraken does not answer")
        return [self._trade] if since_ns is None or self._trade.time_ns >= since_ns else []

    async def connect_permit(self) -> None: ...

    async def watch(self, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        self.connects += 1
        yield []
        yield [
            BarSeen(Bar(self.name, SYMBOL, "1m", bar_start(time.time_ns(), "1m"), 1.5, 1.5, 1.5, 1.5, 0.0, 0), False)
        ]
        await asyncio.Event().wait()


class Market(AlwaysOpen):
    """A market that is closed until it opens, and does not close any more."""

    is_closed = True

    def is_open(self, times_ns: Ints) -> Bools:
        return super().is_open(times_ns) ^ self.is_closed


def collector_on(exchange: QuietExchange, database: Database, bus: Bus, log: CollectingLog) -> Collector:
    data = Data(
        exchange="kraken", symbols=(SYMBOL,), timeframes=("1m", "5m"), backfill_bars=3, stale_min_s=2.0, stale_max_s=2.0
    )
    lease = TestLease("collector:kraken", 1)
    runtime = Runtime(Settings(data=data), RealClock(), database, bus, log, RecordingMeter(), lease)
    return Collector(exchange, runtime)  # type: ignore[arg-type]


async def test_silence_that_rest_confirms_is_no_outage(
    database: Database, as_collector: Database, bus: Bus, log: CollectingLog
) -> None:
    exchange = QuietExchange()
    collector = collector_on(exchange, as_collector, bus, log)
    async with running(collector):
        await until(lambda: collector.is_ready)
        asked, feed = exchange.asked, collector.feeds[SYMBOL]
        await until(
            lambda: exchange.asked >= asked + 8, deadline_s=120
        )  # two questions a time, every second: twice its limit
        assert feed.state is FeedState.LIVE
        now = time.time_ns(), time.monotonic()
        feed.handle(m.Disconnected(*now, cause="silent"))  # whatever made it so
        feed.handle(m.Subscribed(*now))
        feed.handle(m.BackfillFinished(*now))
        assert (feed.state, feed.stream) == (FeedState.STALE, Stream.SILENT)
        await until(lambda: feed.state is FeedState.LIVE, deadline_s=60)
    assert "feed.stale" not in log.events(), log.events()
    assert exchange.connects == 1


async def test_closed_market_is_silent_without_reconnects(
    database: Database, as_collector: Database, bus: Bus, log: CollectingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, market = QuietExchange(), Market()
    monkeypatch.setattr("fks.market.collector.collector.calendar_of", lambda name: market)
    collector = collector_on(exchange, as_collector, bus, log)
    async with running(collector):
        await until(lambda: collector.is_ready)
        feed, since_s = collector.feeds[SYMBOL], time.monotonic()
        exchange.is_answering = False  # REST is no help
        await until(lambda: time.monotonic() > since_s + 5.0, deadline_s=60)  # more than twice its limit
        assert (feed.state, exchange.connects, log.events("warning")) == (FeedState.LIVE, 1, [])
        market.is_closed = False
        await until(lambda: exchange.connects > 1, deadline_s=60)
    assert "feed.stale" in log.events("warning")


async def test_failing_listing_is_fetched_less_often_and_the_known_one_is_used(
    database: Database, log: CollectingLog
) -> None:
    exchange, clock = QuietExchange(), FakeClock()
    assets = Assets(exchange, database, clock, log, (SYMBOL,))  # type: ignore[arg-type]
    exchange.is_listing = False
    for _ in range(30):
        assert await assets.wanted() == []
        await clock.advance(1.0)
    assert not assets.is_listed
    assert assets.problem == "kraken does not answer"
    assert exchange.listed == log.events("warning").count("collector.assets") == 5  # after 1, 2, 4, 8, 16 s
    exchange.is_listing = True
    await clock.advance(RELIST_MAX_S)
    assert [asset.symbol for asset in await assets.wanted()] == [SYMBOL]
    assert (assets.is_listed, assets.problem) == (True, "")
    exchange.is_listing = False
    await clock.advance(3601.0)
    assert [asset.symbol for asset in await assets.wanted()] == [SYMBOL]
    later = Assets(exchange, database, clock, log)  # type: ignore[arg-type]  # begins while the exchange is away
    assert [asset.symbol for asset in await later.wanted()] == [SYMBOL]
    assert later.problem
