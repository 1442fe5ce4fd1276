"""The collector: one exchange's live market data into the store, whole, in order, once.

Hard state: ohlcv_data, market_trades, feeds (how far each timeframe is sealed and the last trade in it, committed with
the bars, fenced by epoch), feed_outages. Soft state: open bars, rebuilt from the exchange. Guarantees: bars of a
(symbol, timeframe) reach the store in order and are handed on (feeds.sealed_through) once; a restart or a lost
connection leaves neither a missing nor a second bar; a channel that is silent beyond its limit is dialled again on
another connection. Quotes and books have sockets of their own (fks.collector.channel_groups): their trouble is theirs
alone.

What is let go when somebody is slow, each counted: quotes, books and prices on their way to Redis (the newest stays),
trades waiting for a database that is away (they are fetched again), events waiting for a hole to be filled (likewise),
messages nobody believes beyond SUSPECTS_MAX. So is what still comes of a symbol that left its socket. Nothing else is.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable, Sequence

from fks.bars.aggregate import length_of
from fks.bars.calendars import calendar_of, is_open_at
from fks.clock import Clock
from fks.collector.channel_groups import ASIDES, may_move, strand_of, strands, whose
from fks.collector.connections import Shards
from fks.collector.counters import Counts
from fks.collector.gap_filler import Holes
from fks.collector.publisher import States, Teller
from fks.collector.quarantine import Suspects
from fks.collector.refusals import EXPECTED, REFUSED_S, is_refusal
from fks.collector.self_checks import feed_problems, feed_rows
from fks.collector.writer import Writer
from fks.config.settings import Settings
from fks.feed.exchange_clock import Event
from fks.feed.feed import GRACE_NS, SymbolFeed
from fks.feed.findings import FeedState, Gap
from fks.history.assets import Assets, subscriptions, timeframes_of
from fks.model.bar import BarClosed, PublicTrade
from fks.model.errors import ConfigError, FksError, OutageError
from fks.model.health import FailedCheck
from fks.model.market import BarSeen, Book, Channel, Discontinuity, MarketEvent, Quote, Subscription, Suspect, TradeIds
from fks.model.ports import Exchange, Lease, Log, Meter
from fks.model.timeframe import NS
from fks.store.assets import Asset
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.feeds import FeedStore
from fks.store.latest import Latest
from fks.store.quarantine import QuarantineStore

TICK_S = 0.2  # how often silence is looked at; also the least time between two flushes
# how often ages and prices are written when no bar seals; entries need a row younger than FEED_ROW_MAX_AGE_S
# (fks.store.facts)
ROWS_S = 0.5
ASSETS_S = 1.0
LATE_S = 0.3  # a tick later than this: our loop stood still, and the wall clock proves nothing about the feed
SEALED_MAX = 20_000  # bars of one symbol waiting for a database that is away; beyond it they are fetched again later
TRADES_ALL_MAX, TRADES_EACH_MIN = 300_000, 2_000  # trades waiting for it, of all symbols together
DRAIN_S, FLUSH_S = 0.5, 2.0  # of a drain: for holes being filled; for the store


class Collector:
    """Collects the enabled assets of one exchange. One task group runs it; `stop` may be called once `run` has
    ended."""

    def __init__(
        self,
        exchange: Exchange,
        db: Database,
        bus: Bus,
        clock: Clock,
        meter: Meter,
        log: Log,
        settings: Settings,
        lease: Lease,
    ) -> None:
        self._exchange = exchange
        self._calendar = calendar_of(exchange.capabilities.calendar)
        self._clock, self._meter, self._log = clock, meter, log
        self._data = settings.data
        seeds = settings.data.symbols if exchange.name == settings.data.exchange else ()
        self._assets = Assets(exchange, db, clock, log, seeds)
        self._store = FeedStore(db, exchange.name, lease.epoch, clock)
        self._writer = Writer(self._store, bus, clock, meter, log, tell_s=ROWS_S)
        self._counts = Counts(exchange.counters, meter)
        self._suspects = Suspects(exchange.name, db, meter, log)
        self._teller, self._states = Teller(Latest(bus), clock, meter), States(exchange.name, bus)
        rng = random.Random()  # noqa: S311  jitter only
        self._shards = Shards(
            exchange,
            clock,
            log,
            meter,
            rng,
            wants=self._wants,
            heard=self._heard,
            subscribed=self._subscribed,
            lost=self._lost,
        )
        self._holes = Holes(
            exchange,
            self._store,
            QuarantineStore(db),
            clock,
            log,
            rng,
            bars_empty=settings.data.backfill_bars,
            trades_keep_h=settings.data.trades_keep_h,
            set_state=self._set_state,
            is_subscribed=self._shards.is_subscribed,
            advance=self._advance,
        )
        is_counted = (
            exchange.capabilities.trade_ids is TradeIds.CONTIGUOUS
        )  # else REST is asked once, and must not be late
        self._settle_s = 0.0 if is_counted else GRACE_NS / NS
        self._feeds: dict[str, SymbolFeed] = {}
        self._wanted: dict[str, tuple[Subscription, ...]] = {}
        self._has_sealed = asyncio.Event()
        self._has_looked, self._is_draining, self._is_storing = False, False, True
        self._problem, self._refusal = "", ""  # the refusal: it cannot be asked at all, for want of a key that it takes

    # ── the actor's shape ────────────────────────────────────────────────────────────────────────
    async def start(self) -> None:
        """Prepare the exchange, call every feed COLD. Without its key it is prepared later. Errors: OutageError of the
        database."""
        try:
            await self._exchange.open()
        except ConfigError as error:
            self._refusal = str(error)
        await asyncio.to_thread(
            is_open_at, self._calendar, self._clock.now_ns()
        )  # a calendar takes its time to be made
        await self._store.set_cold()

    async def run(self) -> None:
        """Collect until cancelled. Errors: StaleEpochError when a newer collector took over; BugError."""
        try:
            async with asyncio.TaskGroup() as group:
                self._shards.run(group)
                self._holes.run(group)
                for loop in (self._follow_assets, self._drive, self._write, self._teller.run):
                    group.create_task(loop())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def drain(self) -> None:
        """Hang up, let holes that are being filled be filled (for DRAIN_S), and store all that was heard.

        Errors: OutageError when the store does not take it in time: then it is fetched again.
        """
        self._is_draining = self._holes.is_draining = True
        await self._shards.hang_up()
        await self._holes.wait(DRAIN_S)
        for feed in self._feeds.values():
            self._advance(feed)
        await self._store_all()

    async def stop(self) -> None:
        """Store what is sealed, unless a drain has, and close the exchange."""
        if not self._is_draining:
            with contextlib.suppress(FksError):
                await self._store_all()
        await self._exchange.close()

    async def _store_all(self) -> None:
        await self._writer.flush_within((feed for feed in self._feeds.values() if feed.positions is not None), FLUSH_S)

    @property
    def is_ready(self) -> bool:
        """Return whether every feed is live and the store takes what they seal."""
        return self._has_looked and self._is_storing and all(f.state is FeedState.LIVE for f in self._feeds.values())

    def problems(self) -> list[FailedCheck]:
        """Return what is wrong now: silent feeds, an exchange that refuses us, a store that takes nothing."""
        refusal, now_s = self._refusal or self._shards.refusal, self._clock.monotonic()
        found = feed_problems(self._feeds.values(), now_s, away_max_s=self._data.stale_min_s, is_refused=bool(refusal))
        found += [FailedCheck("feed", refusal, self._exchange.name)] if refusal else []
        return (
            found if self._is_storing else [*found, FailedCheck("database", "the store takes nothing", about="store")]
        )

    def detail(self) -> dict[str, object]:
        """Return what status shows: the state of the whole and of each feed, ages in ms."""
        return {
            "exchange": self._exchange.name,
            "problem": self._problem,
            "sockets": len(self._shards),
            "feeds": feed_rows(self._feeds.values(), self._clock.monotonic()),
        }

    # ── what is collected ────────────────────────────────────────────────────────────────────────
    async def _follow_assets(self) -> None:
        while not self._is_draining:
            try:
                if self._refusal:
                    await self._exchange.open()
                await self._set_assets(await self._assets.wanted())
                self._problem, self._refusal, self._has_looked = self._assets.problem, "", self._assets.is_listed
            except EXPECTED as error:
                self._problem = str(error)
                self._refusal = self._problem if is_refusal(error) else ""
                self._log.warning("collector.assets", exchange=self._exchange.name, error=str(error))
            await self._clock.sleep(REFUSED_S if self._refusal else ASSETS_S)

    async def _set_assets(self, assets: Sequence[Asset]) -> None:
        """Follow what is enabled; an asset whose timeframes or channels changed is let go, and begins anew."""
        frames = {asset.symbol: timeframes_of(asset, self._data.timeframes) for asset in assets}
        wanted = {asset.symbol: subscriptions(asset, frames[asset.symbol], self._exchange) for asset in assets}
        gone = [s for s, feed in self._feeds.items() if wanted.get(s) != self._wanted[s] or frames[s] != feed.frames]
        for symbol in gone:
            await self._let_go(symbol)
        new = [symbol for symbol in wanted if symbol not in self._feeds]
        now_s = self._clock.monotonic()
        for symbol in new:
            self._wanted[symbol] = wanted[symbol]
            self._feeds[symbol] = SymbolFeed(
                symbol,
                now_s,
                stale_min_s=self._data.stale_min_s,
                stale_max_s=self._data.stale_max_s,
                frames=frames[symbol],
                channels=tuple({item.channel: None for item in wanted[symbol]}),
                ids=self._exchange.capabilities.trade_ids,
                bars_s=max((length_of(item.timeframe) for item in wanted[symbol] if item.timeframe), default=0.0),
            )
        if gone or new:
            kept = max(TRADES_EACH_MIN, TRADES_ALL_MAX // max(1, len(self._feeds)))
            for feed in self._feeds.values():
                feed.trades_max = kept
            for aside in (None, *ASIDES):
                self._shards.place(
                    strand for symbol in new for strand in strands(wanted[symbol]) if whose(strand)[1] is aside
                )

    async def _let_go(self, symbol: str) -> None:
        """End a feed. When that fails it is let go again, and before that it is nobody's, whatever is chosen
        meanwhile."""
        feed = self._feeds[symbol]
        for strand in strands(self._wanted[symbol]):
            self._shards.drop(strand)
        self._wanted[symbol] = ()
        self._holes.cancel(symbol)
        feed.outages.end_all(self._clock.now_ns())
        feed.state = FeedState.OFF  # nobody listens: the next one begins without an outage
        if feed.positions is not None:
            await self._writer.flush_all([feed])
        await self._store.set_state(symbol, FeedState.OFF)
        del self._feeds[symbol], self._wanted[symbol]
        self._teller.drop(symbol)

    def _wants(self, strand: str) -> Sequence[Subscription]:
        return [item for item in self._wanted[whose(strand)[0]] if strand_of(item.symbol, item.channel) == strand]

    # ── the sockets ──────────────────────────────────────────────────────────────────────────────
    def _feeds_on(self, strands: Iterable[str]) -> list[tuple[SymbolFeed, Channel | None]]:
        """Return the feeds that strands belong to, with the channel of those that are an aside."""
        found = [whose(strand) for strand in strands]
        return [(self._feeds[symbol], channel) for symbol, channel in found if symbol in self._feeds]

    def _subscribed(self, strands: Iterable[str]) -> None:
        """Every hole in the stream ends here: what was missed comes from REST before a feed is live again."""
        now_s = self._clock.monotonic()
        for feed, aside in self._feeds_on(strands):
            if aside is not None:
                feed.pulses[aside].touch(now_s)
                continue
            feed.touch(now_s)
            gap = None if feed.builder is None or feed.last_id is None else Gap(feed.last_id + 1, None)
            self._holes.repair(feed, gap, cause="disconnected", settle_s=self._settle_s)

    def _lost(self, strands: Iterable[str], cause: str) -> None:
        for feed, aside in self._feeds_on(strands):
            if aside is not None:
                feed.begin_outage("disconnected", self._clock.now_ns(), aside)  # a silent one has its own by now
                continue
            if cause == "silent":  # so many were silent there that the others have to be heard anew, too
                feed.is_mute, feed.doubted_s = True, self._clock.monotonic()
            if feed.state is FeedState.LIVE:
                self._set_state(feed, FeedState.STALE, cause)

    def _heard(self, batch: list[MarketEvent]) -> None:
        by_symbol: dict[str, list[Event]] = {}
        for event in batch:
            if isinstance(event, PublicTrade | BarClosed):
                by_symbol.setdefault(event.symbol, []).append(event)
            elif isinstance(event, BarSeen):
                by_symbol.setdefault(event.bar.symbol, []).append(event)
            elif isinstance(event, Quote | Book):
                self._seen(event)
            else:
                self._missed(event)
        now_ns, now_s = self._clock.now_ns(), self._clock.monotonic()
        for symbol, mine in by_symbol.items():
            feed = self._feeds.get(symbol)
            if feed is None:
                continue
            trades = feed.receive(mine, now_ns, now_s)
            if trades:
                self._meter.count("fks_market_trades_total", len(trades), symbol=symbol)
                self._teller.put(trades[-1])
            self._advance(feed)  # a hole it finds comes before it may be live
            self._enliven(feed)

    def _enliven(self, feed: SymbolFeed) -> None:
        """A stale feed is live again once its trades are heard, and nothing is missing."""
        is_whole = (
            not feed.is_mute and not self._holes.is_repairing(feed.symbol) and self._shards.is_subscribed(feed.symbol)
        )
        if feed.state is FeedState.STALE and is_whole:
            self._set_state(feed, FeedState.LIVE)

    def _seen(self, event: Quote | Book) -> None:
        feed = self._feeds.get(event.symbol)
        channel = Channel.QUOTES if isinstance(event, Quote) else Channel.BOOK
        if feed is None or channel not in feed.pulses:
            return
        feed.pulses[channel].heard(self._clock.monotonic())
        feed.outages.end(self._clock.now_ns(), channel)
        self._teller.put(event)

    def _missed(self, event: Discontinuity | Suspect) -> None:
        if isinstance(event, Suspect):
            self._suspects.add(event)
            return
        self._log.warning(
            "feed.gone", exchange=self._exchange.name, symbol=event.symbol, channel=event.channel, reason=event.reason
        )
        feeds = (
            [self._feeds[event.symbol]]
            if event.symbol in self._feeds
            else []
            if event.symbol
            else list(self._feeds.values())
        )
        for feed in [feed for feed in feeds if feed.state is not FeedState.OFF]:
            if event.channel is Channel.TRADES:
                feed.tear()
                if feed.builder is not None and feed.last_id is not None:
                    self._holes.repair(feed, Gap(feed.last_id + 1, None), settle_s=self._settle_s)
            elif event.channel in (Channel.QUOTES, Channel.BOOK):
                feed.begin_outage("gap", self._clock.now_ns(), event.channel)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────
    async def _drive(self) -> None:
        before_s = self._clock.monotonic()
        while True:
            await self._clock.sleep(TICK_S)
            now_s = self._clock.monotonic()
            is_on_time, before_s = now_s - before_s < TICK_S + LATE_S, now_s
            is_open = is_open_at(self._calendar, self._clock.now_ns())
            silent: set[str] = set()
            for feed in list(self._feeds.values()):
                self._tend(feed)
                self._meter.gauge("fks_feed_age_seconds", feed.pulses.age_s(now_s), symbol=feed.symbol)
                if not is_open:
                    feed.pulses.rest(now_s)
                elif is_on_time:
                    silent.update(self._silent(feed, now_s))
            if silent and not self._is_draining:
                self._shards.move([strand for strand in silent if may_move(strand, self._shards.beside(strand))])
            self._counts.tell()

    def _tend(self, feed: SymbolFeed) -> None:
        if feed.state is FeedState.OFF:
            return
        if len(feed.sealed) > SEALED_MAX and not self._holes.is_repairing(feed.symbol):
            self._log.error("feed.overflow", symbol=feed.symbol, bars=len(feed.sealed))
            feed.forget()
            self._holes.repair(feed, None)
        if feed.late_ns:
            self._holes.revise(feed)
        if feed.doubted:
            self._holes.confirm(feed)
        if feed.refill_to is not None and feed.stored_id > feed.refill_to and feed.state is FeedState.LIVE:
            feed.refill_to = None
            self._holes.refill(feed)
        self._advance(feed)
        self._enliven(feed)

    def _advance(self, feed: SymbolFeed) -> None:
        found = feed.advance(self._clock.now_ns(), self._clock.monotonic())
        if isinstance(found, Gap):
            self._log.warning("feed.gap", symbol=feed.symbol, from_id=found.from_id, to_id=found.to_id)
            self._holes.repair(feed, found, settle_s=self._settle_s)
        elif found is not None:
            self._holes.ask(feed, found)
        while feed.present.refused:
            self._missed(feed.present.refused.popleft())
        if feed.sealed:
            self._has_sealed.set()

    def _silent(self, feed: SymbolFeed, now_s: float) -> list[str]:
        """Return the strands that are silent. C7: a socket that answers pings proves nothing.

        Trades are stale until something is heard on a new one.
        """
        now_ns = self._clock.now_ns()
        found = [(channel, strand_of(feed.symbol, channel)) for channel in feed.pulses.silent(now_s)]
        found = [(channel, strand) for channel, strand in found if self._shards.is_subscribed(strand)]
        for channel, _ in found:
            pulse = feed.pulses[channel]
            silent_s = pulse.age_s(now_s)
            self._log.warning(
                "feed.stale",
                exchange=self._exchange.name,
                symbol=feed.symbol,
                channel=channel,
                silent_s=round(silent_s, 1),
                limit_s=round(pulse.limit_s(), 1),
            )
            pulse.give_up(now_s)
            if channel is not Channel.TRADES or feed.state is FeedState.LIVE:
                feed.begin_outage("silent", now_ns, channel, silent_s=silent_s)
            if channel is Channel.TRADES:
                feed.is_mute, feed.doubted_s = True, now_s
                if feed.state is FeedState.LIVE:
                    self._set_state(feed, FeedState.STALE, "silent")
        return [strand for _, strand in found]

    def _set_state(self, feed: SymbolFeed, state: FeedState, cause: str = "") -> None:
        if feed.state is state:
            return
        self._log.info("feed.state", exchange=self._exchange.name, symbol=feed.symbol, old=feed.state, state=state)
        if feed.state is FeedState.LIVE:
            feed.live_s = self._clock.monotonic()
            feed.begin_outage(cause or "gap", self._clock.now_ns())
        elif state is FeedState.LIVE:
            feed.live_s = None
            feed.outages.end(self._clock.now_ns())
        feed.state = state
        self._has_sealed.set()  # the row of a feed's state must not wait for a bar

    # ── the store ────────────────────────────────────────────────────────────────────────────────
    async def _write(self) -> None:
        task = asyncio.current_task()
        # redis-py waits with Python 3.11's wait_for, which forgets a cancellation that comes with the answer
        while task is not None and not task.cancelling():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROWS_S):
                    await self._has_sealed.wait()
            self._has_sealed.clear()
            feeds = [feed for feed in self._feeds.values() if feed.positions is not None]
            is_behind = False
            try:
                is_behind = bool(feeds) and await self._writer.flush(feeds)
                await self._suspects.store()
                self._is_storing = True
            except OutageError as error:
                self._log.warning("collector.store", exchange=self._exchange.name, error=str(error))
                self._is_storing = False
                self._has_sealed.set()
            await self._states.tell(feeds)
            if is_behind:
                self._has_sealed.set()
            else:
                await self._clock.sleep(TICK_S)
