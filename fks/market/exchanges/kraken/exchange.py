"""Kraken spot: live data by our own wire, markets and history by ccxt's REST.

Its REST does not have: bars older than the newest 720 of a timeframe (`fetch_bars` then begins later than asked; all
trades since the listing are served, and fks.market.history builds older bars from them), trades by id. Its weeks open
on Thursday, so there is no 1w here. No-trade bars are sent, flat. Source: docs.kraken.com/api/docs/rest-api
(AssetPairs, OHLC, Trades), read 2026-07; ccxt 4.5.90.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

from fks.clock import Clock
from fks.config.libraries import CCXT_INNER, CCXT_KEPT, only
from fks.market.exchanges.base import ExchangeAddresses, check_trade, exact
from fks.market.exchanges.base.rest import CcxtExchange
from fks.market.exchanges.base.rows import bar_of, closed, read_rows, rows_of
from fks.market.exchanges.base.values import offered
from fks.market.exchanges.kraken.capabilities import CAPABILITIES
from fks.market.exchanges.kraken.wire import INTERVALS, KrakenWire
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import InputError, PeerError, not_found
from fks.model.instrument import Instrument
from fks.model.ports import Budget, Log
from fks.model.timeframe import NS

with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT - {"binance"} | {"kraken"}):
    from ccxt.async_support.kraken import kraken as CcxtKraken

PAGE_MAX = 1000  # trades of one answer


class KrakenExchange(CcxtExchange):
    """Kraken spot. Symbols are WebSocket v2's: BTC/USD."""

    name = "kraken"
    capabilities = CAPABILITIES

    kind = CcxtKraken
    rest_paths: ClassVar = {"public": ""}

    def __init__(self, endpoint: ExchangeAddresses, clock: Clock, log: Log, budget: Budget | None = None) -> None:
        super().__init__(endpoint, clock, log, budget)
        self._pairs: dict[str, str] = {}  # symbol -> REST's name for it

    def wire(self) -> KrakenWire:
        """Return the protocol of one connection."""
        return KrakenWire(self._endpoint.ws, self.counters)

    async def listing(self) -> list[Any]:
        """Return every pair. Errors: as `ask`."""
        return list(_result(await self.ask("publicGetAssetPairs", {})).values())

    def instrument_of(self, row: Mapping[str, Any], now_ns: int) -> Instrument:
        """Return the instrument of one pair's row, and keep REST's name for it."""
        altname = str(row["altname"])
        base, quote = (CAPABILITIES.renamed.get(part, part) for part in str(row["wsname"]).split("/"))
        made = Instrument(
            exchange=self.name,
            symbol=f"{base}/{quote}",
            base=base,
            quote=quote,
            tick=exact(row["tick_size"], "tick_size").normalize()
            if "tick_size" in row
            else _step(row["pair_decimals"]),
            lot_step=_step(row["lot_decimals"]),
            qty_min=exact(row.get("ordermin", "0"), "ordermin").normalize(),
            qty_max=Decimal(10) ** 12,  # it names none
            notional_min=exact(row.get("costmin", "0"), "costmin").normalize(),
            is_trading=row.get("status", "online") == "online",
            updated_ns=now_ns,
        )
        self._pairs[made.symbol] = altname
        return made

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        """Return closed bars of the newest 720; see the port. Errors: OutageError, PeerError, InputError."""
        request: dict[str, Any] = {"interval": INTERVALS[offered(self.name, INTERVALS, timeframe)]}
        if since_ns is not None:
            request["since"] = since_ns // NS - 1  # it returns only later ones
        answer = await self._of_pair("publicGetOHLC", symbol, request)
        over_ns = self.over_by(self._clock.now_ns() if until_ns is None else until_ns)
        page = closed(read_rows(self.name, lambda row: _bar(symbol, timeframe, row), _rows(answer)), over_ns)
        bars = [bar for bar in page if bar.time_ns // NS <= int(answer["last"])]
        if since_ns is None:
            return bars[-limit:]
        return [bar for bar in bars if bar.time_ns >= since_ns][:limit]

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        """Return trades from `since_ns` on, else the newest ones. Errors: also InputError for `from_id`."""
        if from_id is not None:
            raise InputError("kraken does not look trades up by id", remedy="ask from a time")
        request: dict[str, Any] = {"count": min(limit, PAGE_MAX)}
        if since_ns is not None:
            request["since"] = since_ns - 1
        answer = await self._of_pair("publicGetTrades", symbol, request)
        trades = read_rows(self.name, lambda row: _trade(symbol, row), _rows(answer))
        if since_ns is None:
            return trades[-limit:]
        return [trade for trade in trades if trade.time_ns >= since_ns // 1000 * 1000][:limit]

    async def _of_pair(self, method: str, symbol: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request for one symbol, by REST's name for it. Errors: also InputError when it has none."""
        unknown = not_found("SYMBOL_UNKNOWN", f"kraken has no {symbol}", "see 'fks assets list --all'")
        if symbol not in self._pairs:
            await self.instruments()
        if symbol not in self._pairs:
            raise unknown
        try:
            return _result(await self.ask(method, {"pair": self._pairs[symbol], **request}))
        except PeerError as error:
            if "Unknown asset pair" not in str(error):
                raise
            raise unknown from error


def _result(answer: Any) -> dict[str, Any]:
    """Return what is in `result`. Errors: PeerError when there is none (an HTML page with status 200)."""
    found = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(found, dict):
        raise PeerError(f"kraken answered {str(answer)[:200]!r} where a result was due")
    return found


def _rows(answer: Mapping[str, Any]) -> list[Any]:
    """Return the one list in a result; its key is Kraken's oldest name of the pair, whatever name was requested."""
    name = next((key for key in answer if key != "last"), "")
    if "last" not in answer:
        raise PeerError(f"kraken answered {str(answer)[:200]!r} without 'last'")
    return rows_of("kraken", answer, name)


def _step(places: object) -> Decimal:
    return Decimal(1).scaleb(-int(str(places)))


def _trade(symbol: str, row: Sequence[Any]) -> PublicTrade:
    # the stream has microseconds, REST a few digits more: cut, so that the same trade has the same time
    time_us = int(exact(row[2], "time") * 1_000_000)
    price, volume = exact(row[0], "price"), exact(row[1], "volume")
    return check_trade(PublicTrade("kraken", symbol, int(row[6]), time_us * 1000, price, volume, row[3] == "s"))


def _bar(symbol: str, timeframe: str, row: Sequence[Any]) -> Bar:
    return bar_of("kraken", symbol, timeframe, int(row[0]) * 1000, [*row[1:5], row[6]], trades=int(row[7]))
