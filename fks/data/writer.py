"""Sealed bars, public trades and feed positions into the store: one statement a flush, then told on the bus."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

from fks.data.feed import TRADES_KEPT, Sealed, SymbolFeed
from fks.model import ids
from fks.model.bar import Bar, PublicTrade
from fks.model.ports import Log, Meter
from fks.model.timeframe import iso
from fks.store.bus import BARS, Bus
from fks.store.feeds import TRADES, FeedRow, FeedStore

BARS_MAX, TRADES_MAX = 4000, 4000  # rows of one statement: about 50 ms of it
TOLD_MAX = 200  # bars told one by one after a flush; readers poll, so a long catch-up need not be

Taken = tuple[SymbolFeed, list[Sealed], list[PublicTrade]]


class Writer:
    """Takes what feeds have sealed to the store, in order; flushes wait for one another."""

    def __init__(self, store: FeedStore, bus: Bus, meter: Meter, log: Log) -> None:
        self._store = store
        self._bus = bus
        self._meter = meter
        self._log = log
        self._told: dict[str, tuple[int | None, str]] = {}
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
        while await self.flush(known) or any(feed.sealed or feed.trades for feed in known):
            pass

    async def _flush(self, feeds: Iterable[SymbolFeed]) -> bool:
        taken = [(feed, *self._take(feed)) for feed in feeds]
        rows = [row for feed, sealed, _ in taken for row in self._rows(feed, sealed)]
        if not rows and not any(trades for _, _, trades in taken):
            return False
        try:
            await self._store.flush(
                rows,
                [(item.bar, item.source) for _, sealed, _ in taken for item in sealed],
                [trade for _, _, trades in taken for trade in trades],
            )
        except BaseException:
            self._put_back(taken)
            raise
        self._told.update({feed.symbol: (feed.message_ns, feed.state) for feed, _, _ in taken})
        await self._tell([item.bar for _, sealed, _ in taken for item in sealed if item.source == "live"])
        for _, sealed, _ in taken:
            for item in sealed:
                self._meter.count("fks_bars_sealed_total", symbol=item.bar.symbol, timeframe=item.bar.timeframe)
        return any(feed.sealed for feed, _, _ in taken)

    def _take(self, feed: SymbolFeed) -> tuple[list[Sealed], list[PublicTrade]]:
        sealed = [feed.sealed.popleft() for _ in range(min(BARS_MAX, len(feed.sealed)))]
        trades = [feed.trades.popleft() for _ in range(min(TRADES_MAX, len(feed.trades)))]
        return sealed, trades

    @staticmethod
    def _put_back(taken: Sequence[Taken]) -> None:
        for feed, sealed, trades in taken:
            if feed.positions is None:  # forgotten meanwhile: it begins again from what the store has
                continue
            feed.sealed.extendleft(reversed(sealed))
            feed.trades = deque([*trades, *feed.trades], maxlen=TRADES_KEPT)

    def _rows(self, feed: SymbolFeed, sealed: Sequence[Sealed]) -> list[FeedRow]:
        """Return the feed rows that changed: one a timeframe that sealed, and the symbol's own."""
        newest = {item.bar.timeframe: item for item in sealed}
        rows = [
            FeedRow(feed.symbol, frame, item.bar.time_ns, item.last_trade_id, state=feed.state)
            for frame, item in newest.items()
        ]
        if self._told.get(feed.symbol) != (feed.message_ns, feed.state):
            rows.append(
                FeedRow(
                    feed.symbol, TRADES, last_trade_id=feed.last_id, message_ns=feed.message_ns,
                    last_price=feed.last_price, state=feed.state,
                )
            )  # fmt: skip
        return rows

    async def _tell(self, bars: Sequence[Bar]) -> None:
        for bar in islice(bars, max(0, len(bars) - TOLD_MAX), None):
            if not bar.is_complete:
                self._log.warning("bar.incomplete", symbol=bar.symbol, timeframe=bar.timeframe, time=iso(bar.time_ns))
                continue
            self._log.info(
                "bar.sealed", symbol=bar.symbol, timeframe=bar.timeframe, time=iso(bar.time_ns), close=repr(bar.close),
                trace_id=ids.trace_id(bar.symbol, bar.timeframe, bar.time_ns),
            )  # fmt: skip
            await self._bus.publish(BARS, message_of(bar))


def message_of(bar: Bar) -> dict[str, object]:
    """Return the message of a sealed bar on the bus; prices as the shortest decimal text."""
    return {
        "type": "bar", "exchange": bar.exchange, "symbol": bar.symbol, "timeframe": bar.timeframe, "time": iso(bar.time_ns),
        "open": repr(bar.open), "high": repr(bar.high), "low": repr(bar.low), "close": repr(bar.close),
        "volume": repr(bar.volume),
    }  # fmt: skip
