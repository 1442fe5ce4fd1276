"""Bars of the past, built from an exchange's public trades: for times whose bars the exchange does not serve.

Kraken returns the newest 720 bars of a timeframe and every trade since the market was listed. A bar of its trades
equals its own bar (docs/bars.md). Each page of trades is a request, and spends from the shared budget like any other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal

from fks.clock import Clock
from fks.clock.waiting import retry
from fks.market.bars.aggregate import BarBuilder, BarStart
from fks.model.backoff import Backoff
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import OutageError, PeerError
from fks.model.market import TradesFrom
from fks.model.ports import Exchange
from fks.model.timeframe import NS, bar_end, iso
from fks.store.gaps import TimeRange

PAGE = 1000  # trades of one request
FIRST_NS = 86400 * NS  # a time before any market: trades from here on begin with the oldest that is served
NEAR_NS = 1000  # two times within a microsecond are one moment to an exchange
LOOK_BACK_NS = 3600 * NS  # where the last trade before a moment is looked for first
TRIES, RETRY = 6, Backoff(1.0, 60.0)


class TradeBars:
    """Builds bars of one exchange from its trades. Errors of all methods: InputError, OutageError, PeerError."""

    def __init__(self, exchange: Exchange, clock: Clock) -> None:
        self._exchange = exchange
        self._clock = clock
        self._oldest: dict[str, int | None] = {}
        self.requests = 0  # sent so far

    async def served_from(self, symbol: str) -> int | None:
        """Return the time of the oldest trade that the exchange serves; None when it serves none by time."""
        if self._exchange.capabilities.trades_from is not TradesFrom.TIME:
            return None
        if symbol not in self._oldest:
            page = await self._page(symbol, FIRST_NS)
            self._oldest[symbol] = page[0].time_ns if page else None
        return self._oldest[symbol]

    async def bars(self, symbol: str, timeframe: str, span: TimeRange) -> list[Bar]:
        """Return the bars of `span`, whose ends are boundaries of `timeframe`, oldest first.

        No-trade bars are built where the exchange has such bars, except before its oldest trade.
        """
        pages = self.pages(symbol, span)
        none: list[PublicTrade] = []
        page = await anext(pages, none)
        previous: Decimal | None = None
        emits_empty = self._exchange.capabilities.has_empty_bars
        if emits_empty and (not page or page[0].time_ns >= bar_end(span.start_ns, timeframe)):
            previous = await self._price_before(symbol, span.start_ns)
        builder = BarBuilder(
            BarStart(
                self._exchange.name,
                symbol,
                [timeframe],
                span.start_ns,
                previous=previous,
                emits_empty=emits_empty,
                ids=self._exchange.capabilities.trade_ids,
            )
        )
        made: list[Bar] = []
        while page:
            for trade in page:
                made += builder.add(trade) or ()
            page = await anext(pages, none)
        made += builder.seal_through(span.end_ns)
        # the builder marks sums that no float64 holds; the exchange's own bar would have the nearest float, too
        return [replace(bar, is_complete=True) for bar in made]

    async def pages(self, symbol: str, span: TimeRange) -> AsyncIterator[list[PublicTrade]]:
        """Yield the trades of `span` in order of time, each once. Errors: PeerError when one moment fills a page."""
        cursor, known = span.start_ns, set[int]()
        while True:
            page = await self._page(symbol, cursor)
            fresh = [
                trade for trade in page if span.start_ns <= trade.time_ns < span.end_ns and trade.trade_id not in known
            ]
            if fresh:
                yield sorted(fresh, key=lambda trade: (trade.time_ns, trade.trade_id))
            if not page or page[-1].time_ns >= span.end_ns:
                return
            if page[-1].time_ns <= cursor:
                if len(page) < PAGE:
                    return
                raise PeerError(f"{symbol}: {len(page)} trades at {iso(cursor)}: there is no way past them")
            cursor = page[-1].time_ns
            known = {trade.trade_id for trade in page if trade.time_ns >= cursor - NEAR_NS}

    async def _price_before(self, symbol: str, time_ns: int) -> Decimal | None:
        """Return the price of the last trade before a moment; None when there is none. A search by halves."""
        oldest_ns = await self.served_from(symbol)
        if oldest_ns is None or oldest_ns >= time_ns:
            return None
        back_ns, page, before = LOOK_BACK_NS, list[PublicTrade](), list[PublicTrade]()
        while not before:
            page = await self._page(symbol, max(time_ns - back_ns, oldest_ns))
            before = [trade for trade in page if trade.time_ns < time_ns]
            if time_ns - back_ns <= oldest_ns:
                break
            back_ns *= 4
        if not before:
            return None
        last, high_ns = before[-1], time_ns  # no trade is known to be missed between `high_ns` and the moment
        while len(before) == len(page) and high_ns - last.time_ns > NEAR_NS:
            middle_ns = (last.time_ns + high_ns) // 2
            page = await self._page(symbol, middle_ns)
            before = [trade for trade in page if trade.time_ns < time_ns]
            if before and before[-1].time_ns > last.time_ns:
                last = before[-1]
            elif len(before) == len(page):
                high_ns, before, page = middle_ns, [last], [last]
        return last.price

    async def _page(self, symbol: str, since_ns: int) -> list[PublicTrade]:
        """Return a page of trades from a time on, oldest first. A failed request is repeated."""
        self.requests += 1
        page = await retry(
            lambda: self._exchange.fetch_trades(symbol, from_id=None, since_ns=since_ns, limit=PAGE),
            self._clock,
            RETRY,
            errors=OutageError,
            attempts_max=TRIES,
        )
        return sorted(page, key=lambda trade: trade.time_ns)
