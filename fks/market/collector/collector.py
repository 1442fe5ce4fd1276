"""The collector: one exchange's live market data into the store, complete, in order, once.

It drives the feeds of the enabled symbols (`fks.market.feed`): connections, the clock, REST and the store become events
of a feed, and the actions that the feed returns are performed here.

Hard state: ohlcv_data, market_trades, feeds (last sealed bar of each timeframe and the last trade in it, committed with
the bars, fenced by epoch), feed_outages. Soft state: open bars, rebuilt from the exchange. Guarantees: bars of a
(symbol, timeframe) reach the store in order and are published (feeds.sealed_through) once; a restart or a lost
connection leaves neither a missing nor a second bar; a channel that is silent beyond its limit is subscribed again on
another connection.

Dropped under load, each counted: quotes, books and prices on their way to Redis (the newest stays), trades that wait
for a database that is away (they are fetched again), events that wait for a backfill (likewise), suspect messages
beyond SUSPECTS_MAX, events of a symbol whose subscription ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from fks.clock.waiting import wait_for_event
from fks.market.bars.aggregate import length_of
from fks.market.collector.connections import (
    EXPECTED,
    REFUSED_S,
    ChannelGroup,
    Connections,
    CounterMetrics,
    group_of,
    groups_of,
    is_refusal,
)
from fks.market.collector.gap_filler import GapFiller
from fks.market.collector.publishers import LatestPublisher, StatePublisher
from fks.market.collector.self_checks import feed_problems
from fks.market.collector.suspects import Suspects
from fks.market.collector.writer import Writer
from fks.market.feed import machine as m
from fks.market.feed.feed import FeedSpec, SymbolFeed
from fks.market.feed.machine import FeedState
from fks.market.feed.queues import MarketData
from fks.market.history.assets import Assets, subscriptions, timeframes_of
from fks.model.bar import BarClosed, PublicTrade
from fks.model.calendars import calendar_of, is_open_at
from fks.model.errors import ConfigError, FksError, OutageError
from fks.model.health import Check, failed
from fks.model.market import BarSeen, Book, Discontinuity, MarketEvent, Quote, Subscription, Suspect
from fks.model.ports import Exchange
from fks.store.assets import Asset
from fks.store.feeds import FeedStore
from fks.store.latest import Latest
from fks.store.quarantine import QuarantineStore
from fks.system.runtime import Runtime

TICK_S = 0.2  # how often silence is looked at; also the least time between two flushes
#: how often ages and prices are written when no bar seals; entries need a row younger than FEED_ROW_MAX_AGE_S
#: (fks.store.facts)
ROWS_S = 0.5
ASSETS_S = 1.0
LATE_S = 0.3  # a tick later than this: our loop stood still, and the clock proves nothing about the feed
TRADES_ALL_MAX, TRADES_EACH_MIN = 300_000, 2_000  # trades that wait for the store, of all symbols together
DRAIN_S, CORRECT_S, FLUSH_S = 0.5, 0.5, 2.0  # of a drain: for running backfills; for late trades; for the store


class Collector:
    """Collects the enabled assets of one exchange. One task group runs it; `stop` may be called once `run` has
    ended.

    `make_feed` makes the feed of a symbol: recorded histories are made of feeds that note what they are given.
    """

    def __init__(
        self, exchange: Exchange, runtime: Runtime, *, make_feed: Callable[[FeedSpec, float], SymbolFeed] = SymbolFeed
    ) -> None:
        self._make_feed = make_feed
        self.exchange = exchange
        self._calendar = calendar_of(exchange.capabilities.calendar)
        clock, log, meter, data = runtime.clock, runtime.log, runtime.meter, runtime.settings.data
        self._clock, self._meter, self._log, self._data = clock, meter, log, data
        seeds = data.symbols if exchange.name == data.exchange else ()
        self._assets = Assets(exchange, runtime.db, clock, log, seeds)
        self._store = FeedStore(runtime.db, exchange.name, runtime.lease.epoch, clock)
        self._writer = Writer(self._store, runtime.bus, clock, meter, log, refresh_s=ROWS_S)
        self._counter_metrics = CounterMetrics(exchange.counters, meter)
        self._suspects = Suspects(exchange.name, runtime.db, meter, log)
        self._latest = LatestPublisher(Latest(runtime.bus), clock, meter)
        self._states = StatePublisher(exchange.name, runtime.bus)
        rng = random.Random()  # noqa: S311  jitter only
        self._connections = Connections(exchange, clock, log, meter, rng, self)
        self._gap_filler = GapFiller(
            exchange, self._store, QuarantineStore(runtime.db), clock, log, data, handle=self._handle
        )
        self._feeds: dict[str, SymbolFeed] = {}
        self._wanted: dict[str, tuple[Subscription, ...]] = {}
        self._has_news = asyncio.Event()  # for the store
        self._is_listed, self._is_draining, self._is_storing = False, False, True
        self._problem, self._refusal = "", ""  # the refusal: the exchange does not take the key, or needs one

    # ── the actor's shape ────────────────────────────────────────────────────────────────────────
    async def start(self) -> None:
        """Prepare the exchange and mark every feed COLD; without its key it is prepared later. Errors: OutageError of
        the database."""
        try:
            await self.exchange.open()
        except ConfigError as error:
            self._refusal = str(error)
        await asyncio.to_thread(is_open_at, self._calendar, self._clock.now_ns())  # making a calendar takes its time
        await self._store.set_cold()

    async def run(self) -> None:
        """Collect until cancelled. Errors: StaleEpochError when a newer collector took over; BugError."""
        try:
            async with asyncio.TaskGroup() as group:
                self._connections.run(group)
                self._gap_filler.run(group)
                for loop in (self._follow_assets, self._drive, self._write, self._latest.run):
                    group.create_task(loop())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def drain(self) -> None:
        """Close the connections, let running backfills finish (for DRAIN_S), correct the bars of late trades (for
        CORRECT_S), and store all that arrived.

        Errors: OutageError when the store does not take it in time: then it is fetched again.
        """
        self._is_draining = self._gap_filler.is_draining = True
        await self._connections.close()
        await self._gap_filler.wait(DRAIN_S)
        for feed in self._feeds.values():
            self._handle(feed, m.Draining(*self._now()))
        await self._gap_filler.correct_now(self._feeds.values(), CORRECT_S)
        await self._store_all()

    async def stop(self) -> None:
        """Store what is sealed, unless a drain has, and close the exchange."""
        if not self._is_draining:
            with contextlib.suppress(FksError):
                await self._store_all()
        await self.exchange.close()

    async def _store_all(self) -> None:
        await self._writer.flush_within((feed for feed in self._feeds.values() if feed.positions is not None), FLUSH_S)

    @property
    def is_ready(self) -> bool:
        """Return whether every feed is live and the store takes what they seal."""
        return self._is_listed and self._is_storing and all(f.state is FeedState.LIVE for f in self._feeds.values())

    def problems(self) -> list[Check]:
        """Return what is wrong now: silent feeds, an exchange that refuses us, a store that takes nothing."""
        refusal, now_s = self._refusal or self._connections.refusal, self._clock.monotonic()
        found = feed_problems(
            self._feeds.values(),
            now_s,
            away_max_s=self._data.stale_min_s,
            is_refused=bool(refusal),
            is_open=is_open_at(self._calendar, self._clock.now_ns()),
        )
        found += [failed("feed", refusal, self.exchange.name)] if refusal else []
        return found if self._is_storing else [*found, failed("database", "the store takes nothing", about="store")]

    @property
    def feeds(self) -> Mapping[str, SymbolFeed]:
        """Return the feeds by symbol, to be read."""
        return MappingProxyType(self._feeds)

    def detail(self) -> dict[str, object]:
        """Return what status shows: the state of the whole and of each feed and channel, ages in ms."""
        now_s = self._clock.monotonic()
        return {
            "exchange": self.exchange.name,
            "problem": self._problem,
            "sockets": len(self._connections),
            "feeds": [
                {
                    "symbol": feed.symbol,
                    "state": str(feed.state),
                    "age_ms": round(feed.liveness.age_s(now_s) * 1000),
                    "last_trade_id": feed.last_id,
                    "late": feed.late,
                    "waiting": len(feed.unstored.sealed),
                    "dropped": feed.dropped,
                    "problem": feed.error,
                    "channels": {str(c): round(liveness.age_s(now_s) * 1000) for c, liveness in feed.liveness.items()},
                }
                for feed in self._feeds.values()
            ],
        }

    # ── the assets ───────────────────────────────────────────────────────────────────────────────
    async def _follow_assets(self) -> None:
        while not self._is_draining:
            try:
                if self._refusal:
                    await self.exchange.open()
                await self._set_assets(await self._assets.wanted())
                self._problem, self._refusal, self._is_listed = self._assets.problem, "", self._assets.is_listed
            except EXPECTED as error:
                self._problem = str(error)
                self._refusal = self._problem if is_refusal(error) else ""
                self._log.warning("collector.assets", exchange=self.exchange.name, error=str(error))
            await self._clock.sleep(REFUSED_S if self._refusal else ASSETS_S)

    async def _set_assets(self, assets: Sequence[Asset]) -> None:
        """Follow the enabled assets; the feed of one whose timeframes or channels changed ends, and another begins."""
        timeframes = {asset.symbol: timeframes_of(asset, self._data.timeframes) for asset in assets}
        wanted = {asset.symbol: subscriptions(asset, timeframes[asset.symbol], self.exchange) for asset in assets}
        ended = [
            symbol
            for symbol, feed in self._feeds.items()
            if wanted.get(symbol) != self._wanted[symbol] or timeframes[symbol] != feed.timeframes
        ]
        for symbol in ended:
            await self._end_feed(symbol)
        new = [symbol for symbol in wanted if symbol not in self._feeds]
        for symbol in new:
            self._wanted[symbol] = wanted[symbol]
            spec = FeedSpec(
                symbol,
                self._data.stale_min_s,
                self._data.stale_max_s,
                timeframes[symbol],
                channels=tuple({item.channel: None for item in wanted[symbol]}),
                ids=self.exchange.capabilities.trade_ids,
                bars_s=max((length_of(item.timeframe) for item in wanted[symbol] if item.timeframe), default=0.0),
            )
            self._feeds[symbol] = self._make_feed(spec, self._clock.monotonic())
        if ended or new:
            kept = max(TRADES_EACH_MIN, TRADES_ALL_MAX // max(1, len(self._feeds)))
            for feed in self._feeds.values():
                feed.keep_trades(kept)
            groups = [group for symbol in new for group in groups_of(wanted[symbol])]
            for channel in sorted({group.channel for group in groups}, reverse=True):  # trades first
                self._connections.place(group for group in groups if group.channel is channel)

    async def _end_feed(self, symbol: str) -> None:
        """End a feed. When that fails it is tried again, and no other feed of the symbol begins before."""
        feed = self._feeds[symbol]
        for group in groups_of(self._wanted[symbol]):
            self._connections.drop(group)
        self._wanted[symbol] = ()
        self._gap_filler.cancel(symbol)
        self._handle(feed, m.Stopped(*self._now()))
        if feed.positions is not None:
            await self._writer.flush_all([feed])
        await self._store.set_state(symbol, FeedState.OFF)
        del self._feeds[symbol], self._wanted[symbol]
        self._meter.remove("fks_feed_age_seconds", symbol=symbol)
        self._latest.drop(symbol)

    # ── events of connections (Subscriber) ───────────────────────────────────────────────────────
    def subscriptions_of(self, group: ChannelGroup) -> Sequence[Subscription]:
        """Return the subscriptions of a group."""
        return [item for item in self._wanted[group.symbol] if group_of(item.symbol, item.channel) == group]

    def subscribed(self, groups: Iterable[ChannelGroup]) -> None:
        """Pass on that the subscriptions of groups stand."""
        for group in groups:
            if (feed := self._feeds.get(group.symbol)) is not None:
                self._handle(feed, m.Subscribed(*self._now(), group.channel))

    def disconnected(self, groups: Iterable[ChannelGroup], cause: str) -> None:
        """Pass on that the subscriptions of groups ended."""
        for group in groups:
            if (feed := self._feeds.get(group.symbol)) is not None:
                self._handle(feed, m.Disconnected(*self._now(), group.channel, cause))

    def received(self, batch: list[MarketEvent]) -> None:
        """Pass a batch on to its feeds."""
        now_ns, now_s = self._now()
        by_symbol: dict[str, list[MarketData]] = {}
        for event in batch:
            if isinstance(event, PublicTrade | BarClosed):
                by_symbol.setdefault(event.symbol, []).append(event)
            elif isinstance(event, BarSeen):
                by_symbol.setdefault(event.bar.symbol, []).append(event)
            elif isinstance(event, Quote | Book):
                if (feed := self._feeds.get(event.symbol)) is not None:
                    self._handle(feed, m.BookReceived(now_ns, now_s, event))
            elif isinstance(event, Suspect):
                self._suspects.add(event)
            else:
                self._discontinued(event)
        for symbol, mine in by_symbol.items():
            if (feed := self._feeds.get(symbol)) is not None:
                self._handle(feed, m.Received(now_ns, now_s, mine))

    def _discontinued(self, event: Discontinuity) -> None:
        self._log.warning(
            "feed.gone", exchange=self.exchange.name, symbol=event.symbol, channel=event.channel, reason=event.reason
        )
        for feed in list(self._feeds.values()):
            if event.symbol in ("", feed.symbol):
                self._handle(feed, m.Discontinued(*self._now(), event.channel))

    # ── feeds ────────────────────────────────────────────────────────────────────────────────────
    def _now(self) -> tuple[int, float]:
        return self._clock.now_ns(), self._clock.monotonic()

    def _handle(self, feed: SymbolFeed, event: m.FeedEvent) -> list[ChannelGroup]:
        """Give an event to a feed and perform its actions; return the groups to subscribe again."""
        silent: list[ChannelGroup] = []
        for action in feed.handle(event):
            match action:
                case m.Publish(value, trades):
                    if trades:
                        self._meter.count("fks_market_trades_total", trades, symbol=feed.symbol)
                    self._latest.put(value)
                case m.StateChanged(old, new):
                    self._log.info(
                        "feed.state",
                        exchange=self.exchange.name,
                        symbol=feed.symbol,
                        old=old,
                        state=new,
                        rows=feed.applied,
                    )
                    self._has_news.set()  # the row of a feed's state must not wait for a bar
                case m.StartBackfill(gap=gap, is_found=is_found):
                    if is_found and gap is not None:
                        self._log.warning("feed.gap", symbol=feed.symbol, from_id=gap.from_id, to_id=gap.to_id)
                    self._gap_filler.perform(feed, action)
                case m.Resubscribe(channel, silent_s, limit_s):
                    self._log.warning(
                        "feed.stale",
                        exchange=self.exchange.name,
                        symbol=feed.symbol,
                        channel=channel,
                        silent_s=round(silent_s, 1),
                        limit_s=round(limit_s, 1),
                    )
                    silent.append(group_of(feed.symbol, channel))
                case m.Quarantine(suspects):
                    for suspect in suspects:
                        self._suspects.add(suspect)
                case m.BarsDropped(bars):
                    self._log.error("feed.overflow", symbol=feed.symbol, bars=bars)
                case _:
                    self._gap_filler.perform(feed, action)
        if feed.unstored.sealed:
            self._has_news.set()
        return silent

    async def _drive(self) -> None:
        before_s = self._clock.monotonic()
        while True:
            await self._clock.sleep(TICK_S)
            if self._is_draining:
                return
            now_ns, now_s = self._now()
            is_on_time, before_s = now_s - before_s < TICK_S + LATE_S, now_s
            is_open = is_open_at(self._calendar, now_ns)
            silent: set[ChannelGroup] = set()
            for feed in list(self._feeds.values()):
                self._meter.gauge("fks_feed_age_seconds", feed.liveness.age_s(now_s), symbol=feed.symbol)
                silent.update(self._handle(feed, m.Ticked(*self._now(), is_open, is_on_time)))
            if silent:
                self._connections.move(silent)
            self._counter_metrics.export()
            waiting = sum(len(feed.unstored.sealed) for feed in self._feeds.values())
            self._meter.gauge("fks_queue_depth", float(waiting), queue="bars to store")

    # ── the store ────────────────────────────────────────────────────────────────────────────────
    async def _write(self) -> None:
        task = asyncio.current_task()
        # redis-py waits with Python 3.11's wait_for, which forgets a cancellation that comes with the answer
        while task is not None and not task.cancelling():
            await wait_for_event(self._has_news, ROWS_S)
            self._has_news.clear()
            feeds = [feed for feed in self._feeds.values() if feed.positions is not None]
            has_more = False
            try:
                has_more = bool(feeds) and await self._writer.flush(feeds)
                await self._suspects.store()
                self._is_storing = True
            except OutageError as error:
                self._log.warning("collector.store", exchange=self.exchange.name, error=str(error))
                self._is_storing = False
                self._has_news.set()
            await self._states.publish(feeds)
            if has_more:
                self._has_news.set()
            else:
                await self._clock.sleep(TICK_S)
