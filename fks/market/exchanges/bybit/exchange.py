"""Bybit spot behind the port: live by `wire`, markets and history by REST through ccxt's implicit methods; and the
funding of its perpetuals.

Answers are newest first. `kline` without an end begins with the newest bar; its present is the answer's `time`. Public
trades go back 60 and no further, so what a longer outage missed comes from Bybit's own bars.

Source: bybit-exchange.github.io/docs/v5/market (instrument, kline, recent-trade, history-fund-rate), read 2026-11; ccxt
4.5.90.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from fks.config.libraries import CCXT_INNER, CCXT_KEPT, only
from fks.market.exchanges.base import MS, exact
from fks.market.exchanges.base.paging import first_from, page_end
from fks.market.exchanges.base.rest import CcxtExchange
from fks.market.exchanges.base.rows import bar_of, closed, read_rows, rows_of, time_of, trade_of
from fks.market.exchanges.base.values import offered
from fks.market.exchanges.bybit.capabilities import CAPABILITIES
from fks.market.exchanges.bybit.wire import INTERVALS, BybitWire
from fks.model.bar import Bar, PublicTrade
from fks.model.cash_flows import FetchedEvents, FundingRate
from fks.model.instrument import Instrument
from fks.model.timeframe import NS, TIMEFRAMES

with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT | {"bybit"}):
    from ccxt.async_support.bybit import bybit as CcxtBybit

PAGE_MAX = 1000  # bars of one answer
PAGES_MAX = 20  # of the listing
FUNDING_PAGE_MAX = 200  # rates of one answer
FUNDING_PAGES_MAX = 500  # with one rate an hour, more than eleven years
PERPETUALS = "bybitlinear"  # the exchange name of bars and events of its linear perpetuals


class BybitExchange(CcxtExchange):
    """Bybit spot; see `fks.model.ports.Exchange`."""

    name = "bybit"
    capabilities = CAPABILITIES

    kind = CcxtBybit
    rest_paths: ClassVar = {"public": ""}

    def wire(self) -> BybitWire:
        """Return the protocol of one connection."""
        return BybitWire(self._endpoint.ws, self.counters)

    async def listing(self) -> list[Any]:
        """Return every spot instrument. Errors: as `ask`."""
        found: list[Any] = []
        request = {"category": "spot"}
        for _ in range(PAGES_MAX):
            answer = await self.ask("publicGetV5MarketInstrumentsInfo", request)
            found += rows_of(self.name, answer, "result", "list")
            cursor = str(answer["result"].get("nextPageCursor") or "")
            if not cursor:
                break
            request = {"category": "spot", "cursor": cursor}
        return found

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        """Return closed bars; see the port. Bybit's present is its answer's own time. Errors: as `ask`."""
        offered(self.name, INTERVALS, timeframe)
        wanted = min(limit, PAGE_MAX)
        if since_ns is None:  # one more, which may not be over yet
            page, over_ns = await self._klines(symbol, timeframe, None, until_ns, min(wanted + 1, PAGE_MAX))
            return closed(page, over_ns if until_ns is None else until_ns)[-wanted:]
        end_ns = page_end(since_ns, timeframe, wanted)  # without an end the page would hold the newest bars
        stop_ns = end_ns if until_ns is None else min(end_ns, until_ns)
        page, over_ns = await self._klines(symbol, timeframe, since_ns, stop_ns, wanted)
        if not page:  # before its listing, or in an outage of theirs
            last_ns = over_ns if until_ns is None else min(until_ns, over_ns)
            length_ns = (TIMEFRAMES[timeframe] or 31 * 86400) * NS
            first_ns = await first_from(
                end_ns, last_ns, wanted * length_ns, partial(self._newest_before, symbol, timeframe)
            )
            if first_ns is None:
                return []
            end_ns = page_end(first_ns, timeframe, wanted)
            stop_ns = end_ns if until_ns is None else min(end_ns, until_ns)
            page, over_ns = await self._klines(symbol, timeframe, first_ns, stop_ns, wanted)
        return closed(page, over_ns if until_ns is None else until_ns)[:wanted]

    async def _newest_before(self, symbol: str, timeframe: str, moment_ns: int) -> int | None:
        page, _ = await self._klines(symbol, timeframe, None, moment_ns, 1)
        return page[-1].time_ns if page else None

    async def _klines(
        self, symbol: str, timeframe: str, since_ns: int | None, stop_ns: int | None, size: int
    ) -> tuple[list[Bar], int]:
        """Return the newest bars that begin in [since, stop), oldest first, and Bybit's present (ns)."""
        interval = INTERVALS[timeframe]
        request: dict[str, Any] = {"category": "spot", "symbol": symbol, "interval": interval, "limit": size}
        if since_ns is not None:
            request["start"] = -(-since_ns // MS)
        if stop_ns is not None:
            request["end"] = -(-stop_ns // MS) - 1
        answer = await self.ask("publicGetV5MarketKline", request)
        rows = rows_of(self.name, answer, "result", "list")
        bars = read_rows(self.name, lambda row: bar_of(self.name, symbol, timeframe, int(row[0]), row[1:6]), rows)
        return sorted(bars, key=lambda bar: bar.time_ns), int(answer.get("time") or 0) * MS

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        """Return the newest trades, at most 60, none from before `since_ns`; REST returns no older ones
        (TradesFrom.NEWEST)."""
        request = {"category": "spot", "symbol": symbol, "limit": min(limit, self.capabilities.newest_max)}
        rows = await self.rows("publicGetV5MarketRecentTrade", request, "result", "list")
        trades = read_rows(self.name, _rest_trade, rows)
        trades.reverse()  # they come newest first; the sort keeps the order within a millisecond
        return sorted((t for t in trades if since_ns is None or t.time_ns >= since_ns), key=lambda trade: trade.time_ns)

    async def fetch_events(self, symbol: str, since_ns: int) -> FetchedEvents:
        """Return the funding of a linear perpetual from a time on, oldest first, as events of `bybitlinear`.

        Bybit pages backwards, with `endTime`, and has no mark price. Errors: as `ask`.
        """
        found: dict[int, FundingRate] = {}
        end_ms, since_ms = self._clock.now_ns() // MS, since_ns // MS
        for _ in range(FUNDING_PAGES_MAX):
            request = {
                "category": "linear",
                "symbol": symbol,
                "startTime": since_ms,
                "endTime": end_ms,
                "limit": FUNDING_PAGE_MAX,
            }
            rows = await self.rows("publicGetV5MarketFundingHistory", request, "result", "list")
            page = read_rows(self.name, _funding, rows)
            found.update((one.time_ns, one) for one in page)
            if len(page) < FUNDING_PAGE_MAX:
                break
            end_ms = min(one.time_ns for one in page) // MS - 1
            if end_ms <= since_ms:
                break
        return FetchedEvents(funding=tuple(sorted(found.values())), exchange=PERPETUALS)

    def instrument_of(self, row: Mapping[str, Any], now_ns: int) -> Instrument:
        """Return the instrument of one row."""
        lots = row["lotSizeFilter"]
        return Instrument(
            exchange=self.name,
            symbol=str(row["symbol"]),
            base=str(row["baseCoin"]),
            quote=str(row["quoteCoin"]),
            tick=exact(row["priceFilter"]["tickSize"], "tickSize").normalize(),
            lot_step=exact(lots["basePrecision"], "basePrecision").normalize(),
            qty_min=exact(lots["minOrderQty"], "minOrderQty").normalize(),
            qty_max=exact(lots.get("maxLimitOrderQty") or lots["maxOrderQty"], "maxOrderQty").normalize(),
            notional_min=exact(lots["minOrderAmt"], "minOrderAmt").normalize(),
            is_trading=row["status"] == "Trading",
            updated_ns=now_ns,
        )


def _rest_trade(row: Mapping[str, Any]) -> PublicTrade:
    symbol, number = str(row["symbol"]), str(row["execId"])
    return trade_of("bybit", symbol, number, int(row["time"]), row["price"], row["size"], str(row["side"]))


def _funding(row: Mapping[str, Any]) -> FundingRate:
    return FundingRate(time_of(int(row["fundingRateTimestamp"])), exact(row["fundingRate"], "fundingRate"))
