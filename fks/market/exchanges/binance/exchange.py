"""Binance spot: live data by our own wire, markets and history by ccxt's REST; and the funding of its perpetuals.

Live and REST trades are both aggregate trades, so their ids are one range, rising by one.
Source: developers.binance.com/docs/binance-spot-api-docs (klines, aggTrades), read 2026-07;
developers.binance.com/docs/derivatives/usds-margined-futures (Get Funding Rate History: at most 1,000 rows, ascending
from startTime, 500 requests of an address in five minutes), read 2026-11; ccxt 4.5.90.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fks.config.libraries import CCXT_INNER, CCXT_KEPT, only
from fks.market.exchanges.base import MS, check_ascending, check_trade, exact, instrument_of_filters
from fks.market.exchanges.base.rest import CcxtExchange
from fks.market.exchanges.base.rows import amount_of, bar_of, closed, read_rows, time_of
from fks.market.exchanges.base.values import offered
from fks.market.exchanges.binance.capabilities import CAPABILITIES
from fks.market.exchanges.binance.wire import BinanceWire
from fks.model.bar import Bar, PublicTrade
from fks.model.cash_flows import FetchedEvents, FundingRate
from fks.model.instrument import Instrument

with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT):
    from ccxt.pro.binance import binance as CcxtBinance  # the class the order venue loads anyway

__all__ = ["BinanceExchange", "CcxtBinance"]

PAGE_MAX = 1000  # rows of one klines, aggTrades or fundingRate answer
PAGES_MAX = 100  # of funding: with one rate an hour, more than eleven years
PERPETUALS = "binanceusdm"  # as the archives of its futures are imported


class BinanceExchange(CcxtExchange):
    """Binance spot. Guarantees: what `watch` yields is in order of arrival and never silently cut."""

    name = "binance"
    capabilities = CAPABILITIES

    kind = CcxtBinance
    rest_paths: ClassVar = {"public": "/api/v3", "private": "/api/v3", "v1": "/api/v1", "fapiPublic": "/fapi/v1"}
    config: ClassVar = {
        "options": {
            "defaultType": "spot",
            "fetchMarkets": {"types": ["spot"]},
            "fetchCurrencies": False,
            "fetchMargins": False,
        },
    }
    weights: ClassVar = {
        "publicGetExchangeInfo": 20,
        "publicGetKlines": 2,
        "publicGetAggTrades": 4,
        "fapiPublicGetFundingRate": 12,
    }
    used_header = "x-mbx-used-weight-1m"

    def wire(self) -> BinanceWire:
        """Return the protocol of one connection."""
        return BinanceWire(self._endpoint.ws, self.counters)

    async def listing(self) -> list[Any]:
        """Return every spot symbol. Errors: as `ask`."""
        return await self.rows("publicGetExchangeInfo", {}, "symbols")

    def instrument_of(self, row: Mapping[str, Any], now_ns: int) -> Instrument:
        """Return the instrument of a symbol's row and filters. Errors: PeerError when one is missing."""
        filters = {str(item.get("filterType")): item for item in row.get("filters", ())}
        return instrument_of_filters(self.name, row, filters, now_ns)

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        """Return closed bars from klines; see the port. Errors: OutageError, PeerError, InputError."""
        interval = offered(self.name, self.capabilities.timeframes, timeframe)
        request: dict[str, Any] = {"symbol": symbol, "interval": interval, "limit": min(limit, PAGE_MAX)}
        if since_ns is not None:
            request["startTime"] = since_ns // MS
        if until_ns is not None:
            request["endTime"] = until_ns // MS - 1
        rows = await self.rows("publicGetKlines", request)
        bars = read_rows(
            self.name, lambda r: bar_of(self.name, symbol, timeframe, int(r[0]), r[1:6], trades=int(r[8])), rows
        )
        return closed(bars, self.over_by(self._clock.now_ns() if until_ns is None else until_ns))

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        """Return aggregate trades, ids rising by one: from `from_id`, else from `since_ns`, else the newest ones."""
        request: dict[str, Any] = {"symbol": symbol, "limit": min(limit, PAGE_MAX)}
        if from_id is not None:
            request["fromId"] = from_id
        elif since_ns is not None:
            request["startTime"] = since_ns // MS
        rows = await self.rows("publicGetAggTrades", request)
        return check_ascending(read_rows(self.name, lambda row: self._trade(symbol, row), rows))

    async def fetch_events(self, symbol: str, since_ns: int) -> FetchedEvents:
        """Return the funding of a USDⓈ-M perpetual from a time on, oldest first, as events of `binanceusdm`.

        The weight of a request is 12 of the 6,000 a minute: within the 500 in five minutes that funding has.
        Errors: as `ask`.
        """
        found: dict[int, FundingRate] = {}
        request: dict[str, Any] = {"symbol": symbol, "limit": PAGE_MAX, "startTime": since_ns // MS}
        for _ in range(PAGES_MAX):
            rows = await self.rows("fapiPublicGetFundingRate", request)
            page = read_rows(self.name, _funding, rows)
            found.update((one.time_ns, one) for one in page)
            if len(page) < PAGE_MAX:
                break
            request["startTime"] = max(one.time_ns for one in page) // MS + 1
        return FetchedEvents(funding=tuple(sorted(found.values())), exchange=PERPETUALS)

    def _trade(self, symbol: str, row: Mapping[str, Any]) -> PublicTrade:
        found = PublicTrade(
            exchange=self.name,
            symbol=symbol,
            trade_id=int(row["a"]),
            time_ns=int(row["T"]) * MS,
            price=exact(row["p"], "price"),
            quantity=exact(row["q"], "quantity"),
            is_buyer_maker=row["m"] is True,
            count=int(row["l"]) - int(row["f"]) + 1,
        )
        return check_trade(found)


def _funding(row: Mapping[str, Any]) -> FundingRate:
    mark = amount_of(row["markPrice"], "markPrice") if row.get("markPrice") else None  # empty before 2023-11
    return FundingRate(time_of(int(row["fundingTime"])), exact(row["fundingRate"], "fundingRate"), mark or None)
