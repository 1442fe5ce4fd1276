"""Coinbase Advanced Trade, spot: live data by our own wire, markets and history by ccxt's REST.

Its REST does not have: trades by id, no-trade bars, the number of trades of a bar. Of a range of time it returns only
the newest trades, so `fetch_trades` narrows the range until nothing is cut.
Source: docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis (market/products, candles, ticker), read 2026-07; ccxt
4.5.90.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fks.config.libraries import CCXT_INNER, CCXT_KEPT, only
from fks.market.exchanges.base import check_trade, exact, ns_of_iso
from fks.market.exchanges.base.rest import CcxtExchange
from fks.market.exchanges.base.rows import bar_of, closed, read_rows
from fks.market.exchanges.base.values import offered
from fks.market.exchanges.coinbase.capabilities import CAPABILITIES, GRANULARITIES
from fks.market.exchanges.coinbase.wire import CoinbaseWire
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import InputError, PeerError
from fks.model.instrument import Instrument
from fks.model.timeframe import NS, TIMEFRAMES, bar_start

with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT - {"binance"} | {"coinbase"}):
    from ccxt.async_support.coinbase import coinbase as CcxtCoinbase

BARS_MAX = 350  # of one answer
TRADES_MAX = 1000
STRETCH_S = 600  # of the first request for trades
ASKS_MAX = 24  # requests for one page
_PRODUCTS = "v3PublicGetBrokerageMarketProducts"
_CANDLES = "v3PublicGetBrokerageMarketProductsProductIdCandles"
_TICKER = "v3PublicGetBrokerageMarketProductsProductIdTicker"


class CoinbaseExchange(CcxtExchange):
    """Coinbase spot. Symbols are its product ids: BTC-USD."""

    name = "coinbase"
    capabilities = CAPABILITIES

    kind = CcxtCoinbase
    rest_paths: ClassVar = {"rest": ""}

    def wire(self) -> CoinbaseWire:
        """Return the protocol of one connection."""
        return CoinbaseWire(self._endpoint.ws, self.counters)

    async def listing(self) -> list[Any]:
        """Return every spot product. Errors: as `ask`."""
        return await self.rows(_PRODUCTS, {"product_type": "SPOT"}, "products")

    def instrument_of(self, row: Mapping[str, Any], now_ns: int) -> Instrument:
        """Return the instrument of one product's row."""
        return Instrument(
            exchange=self.name,
            symbol=str(row["product_id"]),
            base=str(row["base_currency_id"]),
            quote=str(row["quote_currency_id"]),
            tick=exact(row.get("price_increment") or row["quote_increment"], "price_increment").normalize(),
            lot_step=exact(row["base_increment"], "base_increment").normalize(),
            qty_min=exact(row["base_min_size"], "base_min_size").normalize(),
            qty_max=exact(row["base_max_size"], "base_max_size").normalize(),
            notional_min=exact(row.get("quote_min_size") or "0", "quote_min_size").normalize(),
            is_trading=row.get("status") == "online" and not row.get("is_disabled") and not row.get("trading_disabled"),
            updated_ns=now_ns,
        )

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        """Return closed bars; see the port. Ranges without trades are skipped, up to a day at once."""
        granularity = GRANULARITIES[offered(self.name, GRANULARITIES, timeframe)]
        end_ns = self._clock.now_ns() if until_ns is None else until_ns
        step_ns, count = TIMEFRAMES[timeframe] * NS, BARS_MAX if since_ns is None else min(limit, BARS_MAX)
        start_ns = bar_start(end_ns, timeframe) - (count - 1) * step_ns if since_ns is None else since_ns
        for _ in range(ASKS_MAX):
            stop_ns = min(start_ns + (count - 1) * step_ns, end_ns)
            request = {
                "product_id": symbol,
                "granularity": granularity,
                "start": str(-(-start_ns // NS)),
                "end": str(stop_ns // NS),
                "limit": count,
            }
            rows = await self.rows(_CANDLES, request, "candles")
            page = closed(read_rows(self.name, lambda row: _bar(symbol, timeframe, row), rows), self.over_by(end_ns))
            bars = [bar for bar in page if bar.time_ns >= start_ns]
            start_ns = stop_ns + step_ns
            if bars or start_ns > end_ns or since_ns is None:
                return bars[-limit:] if since_ns is None else bars[:count]
        return []

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        """Return trades from `since_ns` on, else the newest ones. Errors: also InputError for `from_id`.

        PeerError when one second has more than a thousand trades, of which Coinbase returns only the newest.
        """
        if from_id is not None:
            raise InputError("coinbase does not look trades up by id", remedy="ask from a time")
        if since_ns is None:
            return await self._trades(symbol, {"limit": min(limit, TRADES_MAX)})
        now_s = self._clock.now_ns() // NS + 2  # its clock may be ahead of ours
        start_s, stretch_s = since_ns // NS, STRETCH_S
        for _ in range(ASKS_MAX):
            end_s = min(start_s + stretch_s, now_s)
            page = await self._trades(symbol, {"limit": TRADES_MAX, "start": str(start_s), "end": str(end_s)})
            is_cut = len(page) >= TRADES_MAX
            if is_cut and end_s - start_s <= 1:
                raise PeerError(f"coinbase: {symbol} has more trades in one second than it returns")
            if is_cut:
                stretch_s = max((end_s - start_s) // 4, 1)
                continue
            found = [trade for trade in page if trade.time_ns >= since_ns]
            if found or end_s >= now_s:
                return found[:limit]
            start_s, stretch_s = end_s, stretch_s * 4
        return []

    async def _trades(self, symbol: str, request: Mapping[str, Any]) -> list[PublicTrade]:
        rows = await self.rows(_TICKER, {"product_id": symbol, **request}, "trades")
        return sorted(read_rows(self.name, lambda row: _trade(symbol, row), rows), key=lambda trade: trade.trade_id)


def _trade(symbol: str, row: Mapping[str, Any]) -> PublicTrade:
    return check_trade(
        PublicTrade(
            "coinbase",
            symbol,
            int(row["trade_id"]),
            ns_of_iso(row["time"]),
            exact(row["price"], "price"),
            exact(row["size"], "size"),
            row["side"] == "BUY",  # the maker's side
        )
    )


def _bar(symbol: str, timeframe: str, row: Mapping[str, Any]) -> Bar:
    numbers = [row[name] for name in ("open", "high", "low", "close", "volume")]
    return bar_of("coinbase", symbol, timeframe, int(row["start"]) * 1000, numbers)
