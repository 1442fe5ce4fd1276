"""An exchange that does not exist, behind the port `fks.model.ports.Exchange`.

Source: nothing; it is made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import aiohttp
import msgspec

from fks.clock import Clock
from fks.market.exchanges.base import MS, ExchangeAddresses, exact
from fks.market.exchanges.base.exchange import WireExchange
from fks.market.exchanges.base.rows import bar_of, closed, read_rows, rows_of
from fks.market.exchanges.base.values import TOO_MUCH, offered, retry_after_s
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import OutageError, PeerError, not_found
from fks.model.instrument import Instrument
from fks.model.ports import Budget, Log
from scripts.exchange_template.capabilities import CAPABILITIES
from scripts.exchange_template.wire import NAME, TIMEFRAMES, TemplateWire, Trade, traded

PUBLIC_REST = "https://api.template.invalid"
TIMEOUT_S = 10.0
PAGE_MAX = 1000


class TemplateExchange(WireExchange):
    """An exchange that does not exist; see `fks.model.ports.Exchange`."""

    name = NAME
    capabilities = CAPABILITIES

    def __init__(self, endpoint: ExchangeAddresses, clock: Clock, log: Log, budget: Budget | None = None) -> None:
        super().__init__(endpoint, clock, log, budget)
        self._base = (endpoint.rest or PUBLIC_REST).rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    def wire(self) -> TemplateWire:
        """Return the protocol of one connection."""
        return TemplateWire(self._endpoint.ws, self.counters)

    async def open(self) -> None:
        """Prepare the session; no connection is opened yet."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))

    async def close(self) -> None:
        """Close connections and sessions, waiting at most a second for the peer."""
        await super().close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def listing(self) -> list[Any]:
        """Return the rows of every instrument. Errors: as `_get`."""
        return rows_of(self.name, await self._get("markets", {}), "rows")

    def instrument_of(self, row: Mapping[str, Any], now_ns: int) -> Instrument:
        """Return what one row lists. Whatever it raises, the row is left out and logged."""
        tick, step, least, most = (exact(row[key], key).normalize() for key in ("tick", "step", "least", "most"))
        return Instrument(
            self.name,
            row["symbol"],
            row["base"],
            row["quote"],
            tick,
            step,
            least,
            most,
            notional_min=Decimal(0),
            is_trading=row["is_open"] is True,
            updated_ns=now_ns,
        )

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        """Return closed bars; see the port. Errors: as `_get`, InputError TIMEFRAME_UNKNOWN."""
        wanted = min(limit, PAGE_MAX)
        offered(NAME, TIMEFRAMES, timeframe)
        request: dict[str, Any] = {"symbol": symbol, "timeframe": timeframe, "limit": wanted + (since_ns is None)}
        if since_ns is not None:
            request["from"] = -(-since_ns // MS)
        if until_ns is not None:
            request["to"] = -(-until_ns // MS)
        rows = rows_of(self.name, await self._get("bars", request), "rows")
        page = read_rows(NAME, lambda r: bar_of(NAME, symbol, timeframe, r["t"], [r[key] for key in "ohlcv"]), rows)
        bars = closed(page, self._clock.now_ns() if until_ns is None else until_ns)
        return bars[:wanted] if since_ns is not None else bars[-wanted:]

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        """Return trades, ids rising by one: from an id, else from a time, else the newest. Errors: as `_get`."""
        request: dict[str, Any] = {"symbol": symbol, "limit": min(limit, PAGE_MAX)}
        if from_id is not None:
            request["from_id"] = from_id
        elif since_ns is not None:
            request["from"] = -(-since_ns // MS)
        rows = rows_of(self.name, await self._get("trades", request), "rows")
        return read_rows(self.name, lambda row: traded(symbol, 0, msgspec.convert(row, Trade, strict=False)), rows)

    async def _get(self, path: str, request: dict[str, Any]) -> Any:
        """Return one answer. Where ccxt knows the exchange, `fks.market.exchanges.base.rest.CcxtExchange` does this
        instead.

        Errors: OutageError (also: asked too much), PeerError, InputError SYMBOL_UNKNOWN.
        """
        assert self._session is not None, "open() comes first"
        if self._budget is not None:
            await self._budget.take()
        try:
            async with self._session.get(f"{self._base}/{path}", params=request) as response:
                body = await response.read()
                after = response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise OutageError(f"{NAME} does not answer: {error!r}") from error
        text = f"{NAME} answered {response.status}: {body[:200].decode(errors='replace')}"
        if response.status in TOO_MUCH and self._budget is not None:
            self._budget.pause(retry_after_s(after))
        if response.status in TOO_MUCH or response.status >= 500:
            raise OutageError(text)
        if response.status == 404:
            raise not_found("SYMBOL_UNKNOWN", text, "see 'fks assets list --all'")
        try:
            return msgspec.json.decode(body)
        except msgspec.MsgspecError as error:
            raise PeerError(text) from error
