"""Sealed bars, public trades and feed positions into the store: one statement a flush, then published on the bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from fks.clock import Clock
from fks.market.feed import machine as m
from fks.market.feed.feed import SymbolFeed
from fks.market.feed.machine import FeedState
from fks.market.feed.queues import Batch, bar_key
from fks.model import ids
from fks.model.bar import Bar
from fks.model.errors import OutageError
from fks.model.feed import TRADES, FeedRow
from fks.model.ports import Log, Meter
from fks.model.timeframe import iso
from fks.store.bus import BARS, Bus
from fks.store.feeds import FeedStore

BARS_MAX, TRADES_MAX = 4000, 4000  # rows of one symbol in one statement: about 50 ms of it
RETRY_S = 0.2
PUBLISHED_MAX = 200  # bars published one by one after a flush; readers poll, so a long catch-up needs no messages
Revisions = Mapping[tuple[str, str, int], int]


class Writer:
    """Stores what feeds have sealed, in order; flushes wait for one another."""

    def __init__(self, store: FeedStore, bus: Bus, clock: Clock, meter: Meter, log: Log, *, refresh_s: float) -> None:
        """`refresh_s`: the row of a live feed without news is written again after so long, to show that it is live."""
        self._store = store
        self._bus = bus
        self._clock = clock
        self._refresh_s = refresh_s
        self._meter = meter
        self._log = log
        self._written: dict[str, tuple[int | None, str]] = {}
        self._written_s: dict[str, float] = {}
        self._lock = asyncio.Lock()

    async def flush(self, feeds: Iterable[SymbolFeed]) -> bool:
        """Store one statement's worth; return whether more is waiting.

        Guarantees: a bar is published only after it is committed. Raised OutageError: everything taken is back in its
        feed, and storing it again changes nothing.
        """
        async with self._lock:
            return await self._flush(feeds)

    async def flush_all(self, feeds: Iterable[SymbolFeed]) -> None:
        """Store everything that feeds have sealed, and every trade they took. Errors: OutageError."""
        known = list(feeds)
        while await self.flush(known) or any(feed.has_unstored for feed in known):
            pass

    async def flush_within(self, feeds: Iterable[SymbolFeed], seconds: float) -> None:
        """Store everything, trying again while the store is away. Errors: OutageError when it does not take it in
        time."""
        known = list(feeds)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    with contextlib.suppress(OutageError):
                        return await self.flush_all(known)
                    await self._clock.sleep(RETRY_S)
        except TimeoutError:
            raise OutageError(
                f"the store did not take the rest in {seconds:g} s", remedy="it is fetched again"
            ) from None

    async def _flush(self, feeds: Iterable[SymbolFeed]) -> bool:
        taken = [(feed, feed.take_batch(BARS_MAX, TRADES_MAX)) for feed in feeds]
        now_s = self._clock.monotonic()
        rows = [row for feed, batch in taken for row in self._rows(feed, batch, now_s)]
        if not rows and not any(batch for _, batch in taken):
            return False
        written = [(feed.symbol, (feed.message_ns, feed.state)) for feed, _ in taken]
        try:
            changed = await self._store.flush(
                rows,
                [(sealed.bar, sealed.source) for _, batch in taken for sealed in (*batch.sealed, *batch.revised)],
                [trade for _, batch in taken for trade in batch.trades],
                [outage for _, batch in taken for outage in batch.outages],
            )
        except BaseException:
            for feed, batch in taken:
                feed.put_back(batch)
            raise
        self._written.update(written)
        self._written_s.update((row.symbol, now_s) for row in rows if row.timeframe == TRADES)
        live = [sealed.bar for _, batch in taken for sealed in batch.sealed if sealed.source == "live"]
        await self._publish(live, changed)
        await self._publish_corrections([sealed.bar for _, batch in taken for sealed in batch.revised], changed)
        for feed, batch in taken:
            self._committed(feed, batch, changed)
        return any(feed.unstored.sealed or len(feed.unstored.trades) > TRADES_MAX // 4 for feed, _ in taken)

    def _committed(self, feed: SymbolFeed, batch: Batch, changed: Revisions) -> None:
        """Report a committed batch to its feed, the log and the meter."""
        last_id = batch.trades[-1].trade_id if batch.trades else None
        bars = [sealed.bar for sealed in batch.sealed]
        feed.handle(m.Stored(self._clock.now_ns(), self._clock.monotonic(), bars, last_id))
        for bar in bars:
            self._meter.count("fks_bars_sealed_total", symbol=bar.symbol, timeframe=bar.timeframe)
        for bar in (sealed.bar for sealed in batch.revised if bar_key(sealed.bar) in changed):
            self._log.warning("bar.revised", symbol=bar.symbol, timeframe=bar.timeframe, time=iso(bar.time_ns))
        for outage in batch.outages:
            if outage.ended_ns is not None:
                self._meter.count("fks_feed_outages_total", cause=outage.cause)
        if dropped := feed.take_dropped():
            self._meter.count("fks_market_dropped_total", dropped, channel="trades")

    def _rows(self, feed: SymbolFeed, batch: Batch, now_s: float) -> list[FeedRow]:
        """Return the changed rows of a feed: one for each timeframe that sealed, and the symbol's own, which is also
        written again in time."""
        newest = {sealed.bar.timeframe: sealed for sealed in batch.sealed}
        rows = [
            FeedRow(feed.symbol, timeframe, sealed.bar.time_ns, sealed.last_trade_id, state=feed.state)
            for timeframe, sealed in newest.items()
        ]
        age_s = now_s - self._written_s.get(feed.symbol, float("-inf"))
        is_due = feed.state is FeedState.LIVE and age_s >= self._refresh_s
        # it also fences the rest of the statement
        if batch or is_due or self._written.get(feed.symbol) != (feed.message_ns, feed.state):
            rows.append(
                FeedRow(
                    feed.symbol,
                    TRADES,
                    last_trade_id=feed.last_id,
                    message_ns=feed.message_ns,
                    last_price=feed.last_price,
                    state=feed.state,
                )
            )
        return rows

    async def _publish(self, bars: Sequence[Bar], changed: Revisions) -> None:
        for bar in islice(bars, max(0, len(bars) - PUBLISHED_MAX), None):
            if not bar.is_complete:
                self._log.warning("bar.incomplete", symbol=bar.symbol, timeframe=bar.timeframe, time=iso(bar.time_ns))
                continue
            self._log.info(
                "bar.sealed",
                symbol=bar.symbol,
                timeframe=bar.timeframe,
                time=iso(bar.time_ns),
                close=repr(bar.close),
                trace_id=ids.trace_id(bar.symbol, bar.timeframe, bar.time_ns),
            )
            await self._bus.publish(BARS, message_of(bar, changed.get(bar_key(bar), 0)))

    async def _publish_corrections(self, bars: Sequence[Bar], changed: Revisions) -> None:
        """Publish the corrected bars that differ from those stored."""
        for bar in islice(bars, max(0, len(bars) - PUBLISHED_MAX), None):
            if bar.is_complete and (revision := changed.get(bar_key(bar))):
                await self._bus.publish(BARS, message_of(bar, revision))


def message_of(bar: Bar, revision: int) -> dict[str, object]:
    """Return the bus message of a sealed bar; prices as the shortest decimal text. `revision` is 0 the first time; a
    corrected bar is published again with a higher one, and strategies act only on the first."""
    return {
        "type": "bar",
        "exchange": bar.exchange,
        "symbol": bar.symbol,
        "timeframe": bar.timeframe,
        "time": iso(bar.time_ns),
        "open": repr(bar.open),
        "high": repr(bar.high),
        "low": repr(bar.low),
        "close": repr(bar.close),
        "volume": repr(bar.volume),
        "revision": revision,
    }
