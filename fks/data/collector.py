"""The collector: one exchange's live market data into the store, whole, in order, once.

Hard state: ohlcv_data, market_trades, feeds (how far each timeframe is sealed and the last trade in it, committed with the
bars, fenced by epoch). Soft state: open bars, rebuilt from the venue. Guarantees: bars of a (symbol, timeframe) reach the
store in order and are handed on (feeds.sealed_through) once; a restart or a lost connection leaves neither a missing nor a
second bar; a feed that is silent beyond its limit is STALE, its socket torn down and dialled again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random

from fks.clock import Clock
from fks.config.settings import Settings
from fks.data.aggregate import by_length
from fks.data.assets import Assets
from fks.data.backfill import TRADES_MAX, Backfill
from fks.data.checks import feed_problems
from fks.data.feed import Doubt, FeedState, Gap, SymbolFeed
from fks.data.sync import Sync
from fks.data.writer import Writer
from fks.model.bar import PublicTrade
from fks.model.errors import FksError, InputError, OutageError, PeerError
from fks.model.health import Problem
from fks.model.ports import Exchange, Lease, Log, Meter
from fks.model.timeframe import check_timeframe
from fks.store.bus import FEEDS, Bus
from fks.store.db import Database
from fks.store.feeds import FeedStore

TICK_S = 0.2  # how often silence is looked at; also the least time between two flushes
ROWS_S = 1.0  # how often ages and prices are written when no bar seals
ASSETS_S = 3.0
SYNCS_S = 5.0
LATE_S = 0.3  # a tick later than this: our loop stood still, and the wall clock proves nothing about the feed
SEALED_MAX = 20_000  # bars of one symbol waiting for a database that is away; beyond it they are fetched again later
DIAL_S = 15.0  # a connection that has no subscription by then never will
RETRY_FIRST_S, RETRY_MAX_S = 0.2, 5.0
DRAIN_S, FLUSH_S = 0.5, 2.0  # of a drain: for holes being filled; for the store
_EXPECTED = (OutageError, PeerError, InputError)


class Collector:
    """Collects the enabled assets of one exchange. One task group runs it; `stop` may be called once `run` has ended."""

    def __init__(
        self, exchange: Exchange, db: Database, bus: Bus, clock: Clock, meter: Meter, log: Log, settings: Settings,
        lease: Lease,
    ) -> None:  # fmt: skip
        self._exchange = exchange
        self._bus, self._clock, self._meter, self._log = bus, clock, meter, log
        self._data = settings.data
        self._frames = by_length(check_timeframe(frame) for frame in settings.data.timeframes)
        self._closes = [f for f in by_length({self._frames[0], "1m"}) if f in self._frames and f in exchange.timeframes]
        self._assets = Assets(exchange, db, clock, log, settings.data.symbols)
        self._store = FeedStore(db, exchange.name, lease.epoch)
        self._writer = Writer(self._store, bus, meter, log)
        self._backfill = Backfill(exchange, self._frames, settings.data.backfill_bars)
        self._sync = Sync(exchange, db, clock, log)
        self._rng = random.Random()  # noqa: S311  jitter only
        self._feeds: dict[str, SymbolFeed] = {}
        self._repairs: dict[str, asyncio.Task[None]] = {}
        self._doubts: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._streaming: asyncio.Task[None] | None = None
        self._is_draining = False
        self._redial = asyncio.Event()
        self._has_sealed = asyncio.Event()
        self._is_subscribed = False
        self._dialled_s = 0.0
        self._is_storing = True
        self._problem = ""

    # ── the actor's shape ────────────────────────────────────────────────────────────────────────
    async def start(self) -> None:
        """Prepare the exchange, note what to collect, call every feed COLD. Errors: OutageError of the database."""
        await self._exchange.open()
        await self._store.set_cold()

    async def run(self) -> None:
        """Collect until cancelled. Errors: StaleEpochError when a newer collector took over; BugError."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._follow_assets())
                self._streaming = group.create_task(self._stream())
                group.create_task(self._drive())
                group.create_task(self._write())
                group.create_task(self._follow_syncs())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        finally:
            self._group = None

    async def drain(self) -> None:
        """Hang up, let holes that are being filled be filled (for DRAIN_S), and store all that was heard.

        Errors: OutageError when the store does not take it in time: then it is fetched again.
        """
        self._is_draining = True
        if self._streaming is not None:
            self._streaming.cancel()
            await asyncio.wait({self._streaming})
        if repairs := set(self._repairs.values()):
            await asyncio.wait(repairs, timeout=DRAIN_S)
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
        try:
            async with asyncio.timeout(FLUSH_S):
                await self._writer.flush_all(feed for feed in self._feeds.values() if feed.positions is not None)
        except TimeoutError:
            raise OutageError(f"the store did not take the rest in {FLUSH_S:g} s", remedy="it is fetched again") from None

    @property
    def is_ready(self) -> bool:
        """Return whether every feed is live and the store takes what they seal."""
        return bool(self._feeds) and self._is_storing and all(f.state is FeedState.LIVE for f in self._feeds.values())

    def problems(self) -> list[Problem]:
        """Return what is wrong now: silent feeds, a store that takes nothing."""
        found = feed_problems(self._feeds.values(), self._clock.monotonic(), away_max_s=self._data.stale_min_s)
        return found if self._is_storing else [*found, Problem("database", "the store takes nothing", about="store")]

    def detail(self) -> dict[str, object]:
        """Return what status shows: the state of the whole and of each feed, ages in ms."""
        now_s = self._clock.monotonic()
        return {
            "exchange": self._exchange.name, "problem": self._problem,
            "feeds": [
                {
                    "symbol": feed.symbol, "state": str(feed.state), "age_ms": round(feed.age_s(now_s) * 1000),
                    "last_trade_id": feed.last_id, "late": feed.late, "waiting": len(feed.sealed), "problem": feed.detail,
                }
                for feed in self._feeds.values()
            ],
        }  # fmt: skip

    # ── what is collected ────────────────────────────────────────────────────────────────────────
    async def _follow_assets(self) -> None:
        while True:
            try:
                await self._set_symbols([asset.symbol for asset in await self._assets.wanted()])
                self._problem = ""
            except _EXPECTED as error:
                self._problem = str(error)
                self._log.warning("collector.assets", exchange=self._exchange.name, error=str(error))
            await self._clock.sleep(ASSETS_S if self._feeds else 1.0)

    async def _follow_syncs(self) -> None:
        """A row in `sync_status` that says pending starts that sync (owner.md): whoever inserts it."""
        while True:
            await self._clock.sleep(SYNCS_S)
            try:
                await self._sync.run_pending()
            except _EXPECTED as error:
                self._log.warning("collector.sync", exchange=self._exchange.name, error=str(error))

    async def _set_symbols(self, wanted: list[str]) -> None:
        gone = [symbol for symbol in self._feeds if symbol not in wanted]
        new = [symbol for symbol in wanted if symbol not in self._feeds]
        for symbol in gone:
            for tasks in (self._repairs, self._doubts):
                if symbol in tasks:
                    tasks[symbol].cancel()
            del self._feeds[symbol]
            await self._store.set_state(symbol, FeedState.OFF)
        for symbol in new:
            self._feeds[symbol] = SymbolFeed(
                symbol, self._clock.monotonic(), stale_min_s=self._data.stale_min_s, stale_max_s=self._data.stale_max_s
            )
        if gone or new:
            self._redial.set()

    # ── the socket ───────────────────────────────────────────────────────────────────────────────
    async def _stream(self) -> None:
        tries = 0
        while True:
            self._redial.clear()
            if not self._feeds:
                await self._redial.wait()
                continue
            was_heard = await self._one_connection()
            self._is_subscribed = False
            for feed in self._feeds.values():
                if feed.state is FeedState.LIVE:
                    self._set_state(feed, FeedState.STALE)
            self._meter.count("fks_feed_reconnects_total", exchange=self._exchange.name)
            tries = 0 if was_heard else tries + 1
            wait_s = min(RETRY_FIRST_S * 2 ** min(tries, 8), RETRY_MAX_S)
            await self._clock.sleep(wait_s * self._rng.uniform(0.5, 1.0))

    async def _one_connection(self) -> bool:
        """Listen until the connection ends or has to; return whether anything was heard."""
        self._dialled_s = self._clock.monotonic()
        heard = asyncio.Event()
        listening = asyncio.create_task(self._listen(sorted(self._feeds), heard))
        redialling = asyncio.create_task(self._redial.wait())
        try:
            await asyncio.wait({listening, redialling}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            redialling.cancel()
            listening.cancel()
            ended = (await asyncio.gather(listening, return_exceptions=True))[0]
        if isinstance(ended, _EXPECTED):
            self._log.warning("feed.disconnected", exchange=self._exchange.name, error=str(ended))
        elif isinstance(ended, Exception):
            raise ended
        return heard.is_set()

    async def _listen(self, symbols: list[str], heard: asyncio.Event) -> None:
        async with contextlib.aclosing(self._exchange.watch_trades(symbols, closes=self._closes)) as stream:  # type: ignore[type-var]
            async for batch in stream:
                if not self._is_subscribed:
                    self._subscribed()
                now_ns, now_s = self._clock.now_ns(), self._clock.monotonic()
                for symbol in {event.symbol for event in batch}:
                    feed = self._feeds.get(symbol)
                    if feed is None:
                        continue
                    heard.set()
                    mine = [event for event in batch if event.symbol == symbol]
                    feed.receive(mine, now_ns, now_s)
                    if feed.state is FeedState.STALE and symbol not in self._repairs:
                        self._set_state(feed, FeedState.LIVE)
                    trades = sum(isinstance(event, PublicTrade) for event in mine)
                    self._meter.count("fks_market_trades_total", trades, symbol=symbol)
                    self._advance(feed)

    def _subscribed(self) -> None:
        """Every hole in the stream ends here: what was missed comes from REST before a feed is live again."""
        self._is_subscribed = True
        now_s = self._clock.monotonic()
        for feed in self._feeds.values():
            feed.touch(now_s)
            gap = None if feed.builder is None or feed.last_id is None else Gap(feed.last_id + 1, None)
            self._repair(feed, gap)

    # ── holes ────────────────────────────────────────────────────────────────────────────────────
    def _repair(self, feed: SymbolFeed, gap: Gap | None) -> None:
        """Fill a hole in the background; None: recover from what is stored. One repair a feed at a time."""
        running = self._repairs.get(feed.symbol)
        if self._is_draining or (running is not None and not running.done()):
            return  # it ends with the newest trades; what is missing then is the next gap
        self._set_state(feed, FeedState.BACKFILL)
        assert self._group is not None
        self._repairs[feed.symbol] = self._group.create_task(self._repaired(feed, gap))

    async def _repaired(self, feed: SymbolFeed, gap: Gap | None) -> None:
        try:
            await self._persist(feed, gap)
        finally:
            if self._repairs.get(feed.symbol) is asyncio.current_task():
                del self._repairs[feed.symbol]
        self._set_state(feed, FeedState.LIVE if self._is_subscribed and not feed.is_mute else FeedState.STALE)
        self._advance(feed)

    async def _persist(self, feed: SymbolFeed, gap: Gap | None) -> None:
        """Try until the hole is filled."""
        wait_s, by_bars = RETRY_FIRST_S, False
        while True:
            try:
                await self._fill(feed, gap, by_bars=by_bars)
                feed.detail = ""
                return
            except _EXPECTED as error:
                feed.detail = str(error)
                self._log.warning("feed.repair", symbol=feed.symbol, error=str(error), wait_s=wait_s)
                if isinstance(error, PeerError):  # it has not the trades we need: its bars are the same bars
                    gap, by_bars = None, True
            await self._clock.sleep(wait_s * self._rng.uniform(0.5, 1.0))
            wait_s = min(wait_s * 2, RETRY_MAX_S)

    async def _fill(self, feed: SymbolFeed, gap: Gap | None, *, by_bars: bool) -> None:
        if gap is not None and gap.from_id != gap.to_id:
            trades = await self._backfill.trades_from(feed.symbol, gap.from_id, gap.to_id)
            if len(trades) <= TRADES_MAX and feed.add(trades) is None:
                return
        if feed.positions is None:
            feed.positions = (await self._store.claim([feed.symbol], self._frames))[feed.symbol]
        made = await self._backfill.recover(feed.symbol, feed.positions, by_bars=by_bars or gap is not None)
        for frame, count in made.missing.items():
            self._log.warning("feed.hole", symbol=feed.symbol, timeframe=frame, bars=count)
        feed.restart(made.builder, made.last_id, made.sealed)
        if feed.add(made.trades) is not None:
            made = await self._backfill.recover(feed.symbol, feed.positions, by_bars=True)
            feed.restart(made.builder, made.last_id, made.sealed)
            feed.add(made.trades)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────
    async def _drive(self) -> None:
        before_s = self._clock.monotonic()
        while True:
            await self._clock.sleep(TICK_S)
            now_s = self._clock.monotonic()
            is_on_time, before_s = now_s - before_s < TICK_S + LATE_S, now_s
            if not self._is_subscribed and now_s - self._dialled_s > DIAL_S:
                self._redial.set()
            for feed in list(self._feeds.values()):
                if len(feed.sealed) > SEALED_MAX and feed.symbol not in self._repairs:
                    self._log.error("feed.overflow", symbol=feed.symbol, bars=len(feed.sealed))
                    feed.forget()
                    self._repair(feed, None)
                self._advance(feed)
                age_s = feed.age_s(now_s)
                self._meter.gauge("fks_feed_age_seconds", age_s, symbol=feed.symbol)
                if is_on_time and self._is_subscribed and age_s > feed.limit_s():
                    self._silent(feed, age_s)

    def _advance(self, feed: SymbolFeed) -> None:
        found = feed.advance(self._clock.now_ns())
        if isinstance(found, Gap):
            self._gap(feed, found)
        elif found is not None and feed.symbol not in self._doubts and not self._is_draining:
            assert self._group is not None
            self._doubts[feed.symbol] = self._group.create_task(self._ask(feed, found))
        if feed.sealed:
            self._has_sealed.set()

    def _gap(self, feed: SymbolFeed, gap: Gap) -> None:
        self._log.warning("feed.gap", symbol=feed.symbol, from_id=gap.from_id, to_id=gap.to_id)
        self._repair(feed, gap)

    async def _ask(self, feed: SymbolFeed, doubt: Doubt) -> None:
        """Settle an overdue bar by what REST has. It failed: the doubt comes again."""
        builder = feed.builder
        try:
            trades = await self._backfill.trades_from(feed.symbol, doubt.from_id)
        except _EXPECTED as error:
            self._log.debug("feed.doubt", symbol=feed.symbol, error=str(error))
            return
        finally:
            if self._doubts.get(feed.symbol) is asyncio.current_task():
                del self._doubts[feed.symbol]
        if feed.builder is builder and feed.state in (FeedState.LIVE, FeedState.STALE):
            gap = feed.settle(trades, doubt.over_ns)
            if gap is not None:
                self._gap(feed, gap)
            self._has_sealed.set()

    def _silent(self, feed: SymbolFeed, age_s: float) -> None:
        """C7: a socket that answers pings proves nothing. Stale until something is heard on a new one."""
        self._log.warning(
            "feed.stale", exchange=self._exchange.name, symbol=feed.symbol, silent_s=round(age_s, 1),
            limit_s=round(feed.limit_s(), 1),
        )  # fmt: skip
        feed.is_mute = True
        self._is_subscribed = False  # said once a connection
        if feed.state is FeedState.LIVE:
            self._set_state(feed, FeedState.STALE)
        self._redial.set()

    def _set_state(self, feed: SymbolFeed, state: FeedState) -> None:
        if feed.state is state:
            return
        self._log.info("feed.state", exchange=self._exchange.name, symbol=feed.symbol, old=feed.state, state=state)
        if FeedState.LIVE in (feed.state, state):
            feed.live_s = None if state is FeedState.LIVE else self._clock.monotonic()
        feed.state = state
        self._has_sealed.set()  # the row of a feed's state must not wait for a bar

    # ── the store ────────────────────────────────────────────────────────────────────────────────
    async def _write(self) -> None:
        states: dict[str, FeedState] = {}
        task = asyncio.current_task()
        # redis-py waits with Python 3.11's wait_for, which forgets a cancellation that comes with the answer
        while task is not None and not task.cancelling():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROWS_S):
                    await self._has_sealed.wait()
            self._has_sealed.clear()
            feeds = [feed for feed in self._feeds.values() if feed.positions is not None]
            try:
                if feeds and await self._writer.flush(feeds):
                    self._has_sealed.set()
                self._is_storing = True
            except OutageError as error:
                self._log.warning("collector.store", exchange=self._exchange.name, error=str(error))
                self._is_storing = False
                self._has_sealed.set()
            for feed in feeds:
                if states.get(feed.symbol) is not feed.state:
                    states[feed.symbol] = feed.state
                    told = {"type": "feed", "exchange": self._exchange.name, "symbol": feed.symbol, "state": feed.state}
                    await self._bus.publish(FEEDS, told)
            await self._clock.sleep(TICK_S)
