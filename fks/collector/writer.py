"""Sealed bars, public trades and feed positions into the store: one statement a flush, then told on the bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from fks.bars.buckets import length_of
from fks.clock import Clock
from fks.feed.feed import SymbolFeed
from fks.feed.findings import FeedState, Sealed
from fks.feed.rows import TRADES, FeedRow, Outage
from fks.model import ids
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import OutageError
from fks.model.ports import Log, Meter
from fks.model.timeframe import iso
from fks.store.bus import BARS, Bus
from fks.store.feeds import FeedStore

BARS_MAX, TRADES_MAX = 4000, 4000  # rows of one symbol in one statement: about 50 ms of it
RETRY_S = 0.2
TOLD_MAX = 200  # bars told one by one after a flush; readers poll, so a long catch-up need not be
Revisions = Mapping[tuple[str, str, int], int]


@dataclass(frozen=True, slots=True)
class Taken:
    """What one flush took out of a feed."""

    feed: SymbolFeed
    sealed: list[Sealed]
    revised: list[Sealed]
    trades: list[PublicTrade]
    outages: list[Outage]

    def __bool__(self) -> bool:
        return bool(self.sealed or self.revised or self.trades or self.outages)


class Writer:
    """Takes what feeds have sealed to the store, in order; flushes wait for one another."""

    def __init__(self, store: FeedStore, bus: Bus, clock: Clock, meter: Meter, log: Log, *, tell_s: float) -> None:
        """`tell_s`: after so long a live feed of which there is nothing new is told again: its row says that we still
        know."""
        self._store = store
        self._bus = bus
        self._clock = clock
        self._tell_s = tell_s
        self._meter = meter
        self._log = log
        self._told: dict[str, tuple[int | None, str]] = {}
        self._told_s: dict[str, float] = {}
        self._turn = asyncio.Lock()

    async def flush(self, feeds: Iterable[SymbolFeed]) -> bool:
        """Store one statement's worth; return whether more is waiting.

        Guarantees: a bar is told only after it is committed. Raised OutageError: everything taken is back in its feed,
        and storing it again changes nothing.
        """
        async with self._turn:
            return await self._flush(feeds)

    async def flush_all(self, feeds: Iterable[SymbolFeed]) -> None:
        """Store everything that feeds have sealed, and every trade they took. Errors: OutageError."""
        known = list(feeds)
        while await self.flush(known) or any(
            feed.sealed or feed.trades or feed.revised or feed.outages.unstored for feed in known
        ):
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
        taken, now_s = [_take(feed) for feed in feeds], self._clock.monotonic()
        rows = [row for item in taken for row in self._rows(item, now_s)]
        if not rows and not any(taken):
            return False
        before = [(item.feed.symbol, (item.feed.message_ns, item.feed.state)) for item in taken]
        try:
            changed = await self._store.flush(
                rows,
                [(sealed.bar, sealed.source) for item in taken for sealed in (*item.sealed, *item.revised)],
                [trade for item in taken for trade in item.trades],
                [outage for item in taken for outage in item.outages],
            )
        except BaseException:
            for item in taken:
                _put_back(item)
            raise
        self._told.update(before)
        self._told_s.update((row.symbol, now_s) for row in rows if row.timeframe == TRADES)
        await self._tell([sealed.bar for item in taken for sealed in item.sealed if sealed.source == "live"], changed)
        await self._tell_again([sealed.bar for item in taken for sealed in item.revised], changed)
        for item in taken:
            if item.trades:
                item.feed.stored_id = item.trades[-1].trade_id
            judge(item.feed, [sealed.bar for sealed in item.sealed])
            for sealed in item.sealed:
                self._meter.count("fks_bars_sealed_total", symbol=sealed.bar.symbol, timeframe=sealed.bar.timeframe)
            for bar in (sealed.bar for sealed in item.revised if _key(sealed.bar) in changed):
                self._log.warning("bar.revised", symbol=bar.symbol, timeframe=bar.timeframe, time=iso(bar.time_ns))
            for outage in item.outages:
                if outage.ended_ns is not None:
                    self._meter.count("fks_feed_outages_total", cause=outage.cause)
            if dropped := item.feed.take_dropped():
                self._meter.count("fks_market_dropped_total", dropped, channel="trades")
        return any(feed.sealed or len(feed.trades) > TRADES_MAX // 4 for feed in (item.feed for item in taken))

    def _rows(self, item: Taken, now_s: float) -> list[FeedRow]:
        """Return the feed rows that changed: one a timeframe that sealed, and the symbol's own, which is told anew in
        time."""
        feed = item.feed
        newest = {sealed.bar.timeframe: sealed for sealed in item.sealed}
        rows = [
            FeedRow(feed.symbol, frame, sealed.bar.time_ns, sealed.last_trade_id, state=feed.state)
            for frame, sealed in newest.items()
        ]
        is_due = feed.state is FeedState.LIVE and now_s - self._told_s.get(feed.symbol, float("-inf")) >= self._tell_s
        if (
            item or is_due or self._told.get(feed.symbol) != (feed.message_ns, feed.state)
        ):  # it also fences what comes along
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

    async def _tell(self, bars: Sequence[Bar], changed: Revisions) -> None:
        for bar in islice(bars, max(0, len(bars) - TOLD_MAX), None):
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
            await self._bus.publish(BARS, message_of(bar, changed.get(_key(bar), 0)))

    async def _tell_again(self, bars: Sequence[Bar], changed: Revisions) -> None:
        """Tell those corrected bars that the store did not have like this."""
        for bar in islice(bars, max(0, len(bars) - TOLD_MAX), None):
            if bar.is_complete and (revision := changed.get(_key(bar))):
                await self._bus.publish(BARS, message_of(bar, revision))


def _key(bar: Bar) -> tuple[str, str, int]:
    return bar.symbol, bar.timeframe, bar.time_ns


def _take(feed: SymbolFeed) -> Taken:
    sealed = [feed.sealed.popleft() for _ in range(min(BARS_MAX, len(feed.sealed)))]
    # no correction overtakes the bar that it corrects
    revised = [] if feed.sealed else [feed.revised.popleft() for _ in range(min(BARS_MAX, len(feed.revised)))]
    sealed, revised = last_words(sealed, revised)
    trades = [feed.trades.popleft() for _ in range(min(TRADES_MAX, len(feed.trades)))]
    outages = [feed.outages.unstored.popleft() for _ in range(len(feed.outages.unstored))]
    return Taken(feed, sealed, revised, trades, outages)


def last_words(sealed: Sequence[Sealed], revised: Sequence[Sealed]) -> tuple[list[Sealed], list[Sealed]]:
    """Return each bar once, as it was told last: one statement stores a bar only once.

    What is corrected before it was stored is no correction to anybody: it stays among `sealed`, with the new numbers.
    """
    first = {_key(item.bar): item for item in sealed}
    later: dict[tuple[str, str, int], Sealed] = {}
    for item in revised:
        known = first if _key(item.bar) in first else later
        before = known.get(_key(item.bar), item)
        known[_key(item.bar)] = replace(
            before, bar=item.bar if item.bar.is_counted else replace(item.bar, trades=before.bar.trades)
        )
    return list(first.values()), list(later.values())


def _put_back(item: Taken) -> None:
    feed = item.feed
    feed.outages.unstored.extendleft(reversed(item.outages))
    if feed.positions is None:  # forgotten meanwhile: it begins again from what the store has
        return
    feed.sealed.extendleft(reversed(item.sealed))
    feed.revised.extendleft(reversed(item.revised))
    feed.trades.extendleft(reversed(item.trades))
    feed.trim()


def judge(feed: SymbolFeed, bars: Iterable[Bar]) -> None:
    """Hold bars against what is usual (minutes, or the next larger ones); those far outside are left in `feed.doubted`.

    They are stored and told by now: a live bar is not held back. The exchange is asked again, and a correction is a
    revision.
    """
    frame = next((name for name in feed.frames if length_of(name) >= 60), "")
    for bar in bars:
        if bar.timeframe == frame and bar.low > 0 and (why := feed.outliers.check(bar.low, bar.high, bar.close)):
            feed.doubted.append((bar, why))


def message_of(bar: Bar, revision: int) -> dict[str, object]:
    """Return the message of a sealed bar on the bus; prices as the shortest decimal text. `revision` is 0 when it is
    told for the first time; a corrected bar is told again with a higher one, and nobody acts on it twice."""
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
