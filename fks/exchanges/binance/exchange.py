"""Binance spot: live by a wire of our own, markets and history by ccxt's REST.

Live and REST trades are both aggregate trades, so their ids are one range, rising by one.
Source: developers.binance.com/docs/binance-spot-api-docs (klines, aggTrades), read 2026-07; ccxt 4.5.90.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fks.clock import Clock
from fks.config.libraries import CCXT_INNER, CCXT_KEPT, only
from fks.exchanges.base import MS, Endpoint, check_ascending, check_bar, check_trade, exact, instrument_of_filters
from fks.exchanges.base.exchange import WireExchange
from fks.exchanges.base.rest import Rest, read_rows, rows_of
from fks.exchanges.binance.wire import KLINES, BinanceWire
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import InputError, PeerError
from fks.model.instrument import Instrument
from fks.model.market import Channel, TradeIds, TradesFrom
from fks.model.ports import Budget, Log
from fks.model.timeframe import bar_end

with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT):
    from ccxt.pro.binance import binance as CcxtBinance  # the class the order venue loads anyway

__all__ = ["BinanceExchange", "CcxtBinance"]

PAGE_MAX = 1000  # rows of one klines or aggTrades answer
WEIGHTS = {"publicGetExchangeInfo": 20, "publicGetKlines": 2, "publicGetAggTrades": 4}


class BinanceExchange(WireExchange):
    """Binance spot. Guarantees: what `watch` yields is in order of arrival and never silently cut."""

    name = "binance"
    timeframes = KLINES
    channels = frozenset(Channel)
    trade_ids = TradeIds.CONTIGUOUS
    trades_from = TradesFrom.ID
    streams_max = 1024
    has_empty_bars = True
    calendar = "24/7"

    def __init__(self, endpoint: Endpoint, clock: Clock, log: Log, budget: Budget | None = None) -> None:
        super().__init__(endpoint, clock, log, budget)
        self._rest = Rest(
            self.name, CcxtBinance, _config(endpoint), budget=budget, used_header="x-mbx-used-weight-1m"
        )  # fmt: skip

    def wire(self) -> BinanceWire:
        """Return the protocol of one connection."""
        return BinanceWire(self._endpoint.ws, self.tally)

    async def open(self) -> None:
        """Prepare the client. Dials nothing yet."""
        self._rest.open()

    async def close(self) -> None:
        """Close sockets and sessions, waiting at most a second for the peer."""
        await super().close()
        await self._rest.close()

    async def instruments(self) -> list[Instrument]:
        """Return every listed spot instrument; one that breaks the exchange's own form is left out and logged."""
        answer = await self._call("publicGetExchangeInfo", {})
        now_ns = self._clock.now_ns()
        found: list[Instrument] = []
        for row in rows_of(self.name, answer, "symbols"):
            filters = {str(item.get("filterType")): item for item in row.get("filters", ())}
            try:
                found.append(instrument_of_filters(self.name, row, filters, now_ns))
            except PeerError as error:
                self._log.warning("instrument.broken", exchange=self.name, error=str(error))
        return found

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        """Return closed bars from klines; see the port. Errors: OutageError, PeerError, InputError."""
        if timeframe not in self.timeframes:
            raise InputError(f"binance has no {timeframe} klines", code="TIMEFRAME_UNKNOWN", remedy="aggregate smaller ones")
        request: dict[str, Any] = {"symbol": symbol, "interval": timeframe, "limit": min(limit, PAGE_MAX)}
        if since_ns is not None:
            request["startTime"] = since_ns // MS
        if until_ns is not None:
            request["endTime"] = until_ns // MS - 1
        rows = await self._call("publicGetKlines", request)
        end_ns = self._rest.over_by(self._clock.now_ns() if until_ns is None else until_ns)
        bars = read_rows(self.name, lambda row: self._bar(symbol, timeframe, row), rows_of(self.name, rows))
        return [bar for bar in bars if bar_end(bar.time_ns, timeframe) <= end_ns]

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        """Return aggregate trades, ids rising by one: from `from_id`, else from `since_ns`, else the newest ones."""
        request: dict[str, Any] = {"symbol": symbol, "limit": min(limit, PAGE_MAX)}
        if from_id is not None:
            request["fromId"] = from_id
        elif since_ns is not None:
            request["startTime"] = since_ns // MS
        rows = await self._call("publicGetAggTrades", request)
        return check_ascending(read_rows(self.name, lambda row: self._trade(symbol, row), rows_of(self.name, rows)))

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

    def _bar(self, symbol: str, timeframe: str, row: Sequence[Any]) -> Bar:
        # float() of the exchange's text is the nearest float, whose shortest decimal is that text again (up to 15 digits)
        open_, high, low, close, volume = (float(exact(row[i], "kline")) for i in range(1, 6))
        start_ns, trades = int(row[0]) * MS, int(row[8])
        return check_bar(
            Bar(self.name, symbol, timeframe, start_ns, open_, high, low, close, volume, trades, is_empty=trades == 0)
        )

    async def _call(self, method: str, request: dict[str, Any]) -> Any:
        return await self._rest.call(method, request, weight=WEIGHTS[method])


def _config(endpoint: Endpoint) -> dict[str, Any]:
    config: dict[str, Any] = {
        "options": {
            "defaultType": "spot",
            "fetchMarkets": {"types": ["spot"]},
            "fetchCurrencies": False,
            "fetchMargins": False,
        },
    }
    if endpoint.rest is not None:
        rest = endpoint.rest.rstrip("/")
        config["urls"] = {"api": {"public": f"{rest}/api/v3", "private": f"{rest}/api/v3", "v1": f"{rest}/api/v1"}}
    return config
