"""OKX spot behind the port: live by `wire`, markets and history by REST through ccxt's implicit methods.

Answers are newest first. `candles` reaches back 1,440 bars and `history-candles` for years; both take a range (`before`
and `after`, neither included). `history-trades` returns the newest hundred trades below an id (type 1) or before a time
(type 2), for three months; to read forward, a page is asked that begins a hundred ids higher.

Source: www.okx.com/docs-v5/en (public data: instruments; market data: candles, trades history), read 2026-11; ccxt
4.5.90.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import msgspec

from fks.config.libraries import CCXT_INNER, CCXT_KEPT, only
from fks.market.exchanges.base import MS, exact
from fks.market.exchanges.base.paging import first_from, page_end
from fks.market.exchanges.base.rest import CcxtExchange
from fks.market.exchanges.base.rows import bar_of, closed, read_rows
from fks.market.exchanges.base.values import offered
from fks.market.exchanges.okx.capabilities import CAPABILITIES
from fks.market.exchanges.okx.wire import BARS, OkxTrade, OkxWire, is_over, side_of, trade
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import OutageError
from fks.model.instrument import Instrument
from fks.model.market import MarketEvent, Subscription
from fks.model.timeframe import NS, TIMEFRAMES

with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT | {"okx"}):
    from ccxt.async_support.okx import okx as CcxtOkx

RECENT_MAX = 300  # bars of one answer of `candles`
PAGE_MAX = 100  # rows of one answer of the histories
RECENT_BARS = 1_400  # how far back `candles` is asked; it has 1,440
PAGES_MAX = 40  # answers that one call may take


class OkxExchange(CcxtExchange):
    """OKX spot; see `fks.model.ports.Exchange`."""

    name = "okx"
    capabilities = CAPABILITIES

    kind = CcxtOkx
    rest_paths: ClassVar = {"rest": ""}
    weights: ClassVar = {"publicGetMarketHistoryTrades": 2}

    def wire(self) -> OkxWire:
        """Return the protocol of one connection."""
        return OkxWire(self._endpoint.ws, self.counters)

    async def watch(self, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        """Yield live events; see the port. Subscriptions of both of OKX's sides take a connection each; the first one
        that ends ends both."""
        sides = [[item for item in wanted if side_of(item) == side] for side in ("business", "public")]
        streams = [super(OkxExchange, self).watch(side) for side in sides if side]
        async with contextlib.aclosing(joined(streams)) as batches:
            async for batch in batches:
                yield batch

    async def listing(self) -> list[Any]:
        """Return every spot instrument. Errors: as `ask`."""
        return await self.rows("publicGetPublicInstruments", {"instType": "SPOT"}, "data")

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        """Return closed bars, those that OKX marks as over; see the port. Errors: as `ask`, InputError."""
        offered(self.name, BARS, timeframe)
        now_ns, length_ns = self._clock.now_ns(), (TIMEFRAMES[timeframe] or 31 * 86400) * NS
        recent_ns = now_ns - RECENT_BARS * length_ns
        last_ns = now_ns if until_ns is None else min(until_ns, now_ns)
        if since_ns is None:
            size = RECENT_MAX if until_ns is None or until_ns > recent_ns else PAGE_MAX
            wanted = min(limit, size - 1)  # one may not be over yet
            return (await self._candles(symbol, timeframe, None, until_ns, size, until_ns=until_ns))[-wanted:]
        bars: list[Bar] = []
        for _ in range(PAGES_MAX):
            size = RECENT_MAX if since_ns > recent_ns else PAGE_MAX
            end_ns = page_end(since_ns, timeframe, min(size, limit - len(bars)))
            stop_ns = end_ns if until_ns is None else min(end_ns, until_ns)
            page = await self._candles(symbol, timeframe, since_ns, stop_ns, size, until_ns=until_ns)
            bars += page
            if len(bars) >= limit or end_ns >= last_ns or (bars and not page):
                break
            since_ns = end_ns
            if not page:  # before its listing, or in an outage of theirs
                first_ns = await first_from(
                    end_ns, last_ns, PAGE_MAX * length_ns, partial(self._newest_before, symbol, timeframe)
                )
                if first_ns is None:
                    break
                since_ns = first_ns
        return bars

    async def _newest_before(self, symbol: str, timeframe: str, moment_ns: int) -> int | None:
        request = {"instId": symbol, "bar": BARS[timeframe], "limit": 1, "after": -(-moment_ns // MS)}
        rows = await self.rows("publicGetMarketHistoryCandles", request, "data")
        return max(read_rows(self.name, lambda row: int(row[0]) * MS, rows), default=None)

    async def _candles(
        self,
        symbol: str,
        timeframe: str,
        since_ns: int | None,
        stop_ns: int | None,
        size: int,
        *,
        until_ns: int | None = None,
    ) -> list[Bar]:
        """Return closed bars that begin from `since_ns` on and before `stop_ns`, oldest first, at most `size`."""
        request: dict[str, Any] = {"instId": symbol, "bar": BARS[timeframe], "limit": size}
        if since_ns is not None:
            request["before"] = -(-since_ns // MS) - 1
        if stop_ns is not None:
            request["after"] = -(-stop_ns // MS)
        method = "publicGetMarketCandles" if size == RECENT_MAX else "publicGetMarketHistoryCandles"
        rows = await self.rows(method, request, "data")
        return closed(read_rows(self.name, lambda row: self._bar(symbol, timeframe, row), rows), until_ns)

    def _bar(self, symbol: str, timeframe: str, row: list[Any]) -> Bar | None:
        texts = [str(value) for value in row]
        return bar_of(self.name, symbol, timeframe, int(texts[0]), texts[1:6]) if is_over(texts) else None

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        """Return trades oldest first: from an id, else from a time, else the newest hundred at most.

        Errors: as `ask`; OutageError when they are further away than `PAGES_MAX` answers.
        """
        if from_id is None and since_ns is None:
            return (await self._page(symbol, {}))[-limit:]
        start = from_id if from_id is not None else await self._first_id(symbol, since_ns or 0)
        found = await self._from(symbol, start, limit)
        if from_id is None:
            found = [trade for trade in found if trade.time_ns >= (since_ns or 0)]
        return found[:limit]

    async def _from(self, symbol: str, start: int, limit: int) -> list[PublicTrade]:
        """Return trades from an id on, read forward from an exchange that only returns the newest hundred below an id.

        A window of a hundred ids holds no more than that. Where ids have gaps it is widened, and halved again when
        more than a page lies in it: `ceiling` is the lowest trade then known to be above it.
        """
        found: list[PublicTrade] = []
        newest = ceiling = -1
        span = PAGE_MAX
        for _ in range(PAGES_MAX):
            page = await self._page(symbol, {"type": "1", "after": start + span})
            rows = [trade for trade in page if trade.trade_id >= start]
            if len(rows) == PAGE_MAX < span:
                ceiling = rows[0].trade_id
                span = max(PAGE_MAX, (ceiling - start) // 2)
                continue
            found += rows
            if len(found) >= limit:
                break
            if newest < 0:
                newest = max((trade.trade_id for trade in await self._page(symbol, {})), default=0)
            if start + span > newest:
                break
            start += span
            if ceiling >= start:
                span = max(PAGE_MAX, (ceiling - start) // 2)
            else:
                span = max(PAGE_MAX, span * PAGE_MAX * 8 // (10 * len(rows))) if rows else span * 10
        else:
            if not found:
                raise OutageError(f"okx {symbol}: no trade from {start} on within {PAGES_MAX} answers")
        return found

    async def _first_id(self, symbol: str, since_ns: int) -> int:
        """Return the id after the last trade before a time."""
        page = await self._page(symbol, {"type": "2", "after": -(-since_ns // MS)})
        return max((trade.trade_id for trade in page if trade.time_ns < since_ns), default=0) + 1

    async def _page(self, symbol: str, request: dict[str, Any]) -> list[PublicTrade]:
        """Return the newest hundred trades below an id or a time, oldest first."""
        request = {"instId": symbol, "limit": PAGE_MAX, **request}
        rows = await self.rows("publicGetMarketHistoryTrades", request, "data")
        trades = read_rows(self.name, lambda row: trade(symbol, 0, msgspec.convert(row, OkxTrade, strict=False)), rows)
        return sorted(trades, key=lambda trade: trade.trade_id)

    def instrument_of(self, row: Mapping[str, Any], now_ns: int) -> Instrument:
        """Return the instrument of one row."""
        return Instrument(
            exchange=self.name,
            symbol=str(row["instId"]),
            base=str(row["baseCcy"]),
            quote=str(row["quoteCcy"]),
            tick=exact(row["tickSz"], "tickSz").normalize(),
            lot_step=exact(row["lotSz"], "lotSz").normalize(),
            qty_min=exact(row["minSz"], "minSz").normalize(),
            qty_max=exact(row["maxLmtSz"], "maxLmtSz").normalize(),
            notional_min=exact("0", "notional"),
            is_trading=row["state"] == "live",
            updated_ns=now_ns,
        )


async def joined(streams: Sequence[AsyncIterator[list[MarketEvent]]]) -> AsyncGenerator[list[MarketEvent], None]:
    """Yield the batches of several streams as they come; an empty one once each of them has begun. Errors: the first
    one's."""
    silent = set(range(len(streams)))
    waiting = {_next_of(stream): number for number, stream in enumerate(streams)}
    try:
        while True:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                number = waiting.pop(task)
                batch = task.result()
                waiting[_next_of(streams[number])] = number
                was_silent = bool(silent)
                silent.discard(number)
                if batch or (was_silent and not silent):
                    yield batch
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]


def _next_of(stream: AsyncIterator[list[MarketEvent]]) -> asyncio.Task[list[MarketEvent]]:
    async def wait() -> list[MarketEvent]:
        return await anext(stream)

    return asyncio.create_task(wait())
