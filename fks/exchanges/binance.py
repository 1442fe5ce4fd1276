"""Binance spot market data over ccxt.pro, with the guards of docs/collect-data.md.

ccxt carries the bytes: dialling, rate limits, error tables. What correctness hangs on is ours: messages are read raw as
they arrive (nothing is cut to ccxt's cache of 1,000), numbers are taken from the venue's text, and a message that cannot
be handled ends the connection instead of silently ending ccxt's receive loop. Live and REST trades are both aggregate
trades, so their ids are one range.

Source: developers.binance.com/docs/binance-spot-api-docs (streams, klines, aggTrades), read 2026-07; ccxt 4.5.90.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar

import aiohttp

from fks.clock import Clock
from fks.config.libraries import CCXT_INNER, CCXT_KEPT, only
from fks.exchanges.base import MS, Endpoint, check_ascending, check_bar, check_trade, exact, instrument_of_filters
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.errors import FksError, InputError, OutageError, PeerError
from fks.model.instrument import Instrument
from fks.model.ports import Log
from fks.model.timeframe import bar_end

with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT):
    import ccxt
    from ccxt.pro.binance import binance as CcxtBinance

INBOX_MAX = 200_000  # events between two reads; beyond it the oldest go, and the id gap brings them back from REST
PAGE_MAX = 1000  # rows of one klines or aggTrades answer
_CLOSE_S = 2.0  # a peer that is gone does not answer the close frame

Event = PublicTrade | BarClosed
T = TypeVar("T")


class _Client(CcxtBinance):  # type: ignore[misc]
    """ccxt.pro's binance with a tap: raw messages go to `tap`; one that raises ends the connection loudly."""

    def __init__(self, config: Mapping[str, Any], tap: Callable[[Any, dict[str, Any]], bool], log: Log) -> None:
        super().__init__(config)
        self._tap = tap
        self._log = log

    def handle_message(self, client: Any, message: Any) -> None:
        """Without this guard an exception ends the receive loop: the socket stays open and silent for ever."""
        try:
            if not (isinstance(message, dict) and self._tap(client, message)):
                super().handle_message(client, message)
        except Exception as error:
            self._log.error("exchange.frame_broken", exchange="binance", error=str(error), frame=str(message)[:500])
            client.on_error(error if isinstance(error, FksError) else ccxt.NetworkError(f"unreadable message: {error}"))


class BinanceExchange:
    """Binance spot. Guarantees: what `watch_trades` yields is in order of arrival and never silently cut."""

    name = "binance"
    timeframes = frozenset({"1s", "1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M"})

    def __init__(self, endpoint: Endpoint, clock: Clock, log: Log) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._log = log
        self._client: _Client | None = None
        self._inbox: deque[Event] = deque(maxlen=INBOX_MAX)
        self._arrived = asyncio.Event()
        self._is_subscribed = False
        self._closing: set[asyncio.Task[None]] = set()
        self._request_ids = itertools.count(1)

    async def open(self) -> None:
        """Prepare the client. Dials nothing yet."""
        if self._client is None:
            self._client = _Client(self._config(), self._tap, self._log)
            for table in ("exact", "broad"):  # ccxt picks its error tables by host name; ours is another one
                spot = self._client.exceptions.get("spot", {}).get(table, {})
                self._client.exceptions[table] = {**self._client.exceptions.get(table, {}), **spot}

    async def close(self) -> None:
        """Close sockets and sessions, waiting at most 2 s for the peer."""
        self._drop_sockets()
        if self._closing:
            await asyncio.wait(self._closing, timeout=_CLOSE_S)
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def instruments(self) -> list[Instrument]:
        """Return every listed spot instrument; one that breaks the venue's own form is left out and logged."""
        answer = await self._call("publicGetExchangeInfo", {})
        now_ns = self._clock.now_ns()
        found: list[Instrument] = []
        for row in _rows(answer, "symbols"):
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
        end_ns = self._clock.now_ns() if until_ns is None else until_ns
        bars = _read(lambda row: self._bar(symbol, timeframe, row), _rows(rows))
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
        return check_ascending(_read(lambda row: self._trade(symbol, row), _rows(rows)))

    async def watch_trades(self, symbols: Sequence[str], *, closes: Sequence[str] = ()) -> AsyncIterator[list[Event]]:
        """Yield live trades and bar ends of `symbols` over one socket; see the port.

        Guarantees: leaving the iterator drops the socket; the next call dials a fresh one. Only one at a time.
        """
        client = self._opened()
        self._drop_sockets()
        self._inbox.clear()
        self._is_subscribed = False
        streams = [f"{symbol.lower()}@aggTrade" for symbol in symbols]
        streams += [f"{symbol.lower()}@kline_{frame}" for symbol in symbols for frame in closes]
        number = next(self._request_ids)
        keeper = client.watch(
            f"{client.urls['api']['ws']['spot']}/{number}", "fks", {"method": "SUBSCRIBE", "params": streams, "id": number},
            "fks", {"id": number},
        )  # fmt: skip
        keeper.add_done_callback(self._ended)
        try:
            async for batch in self._batches(keeper):
                yield batch
        finally:
            keeper.cancel()
            self._drop_sockets()

    async def _batches(self, keeper: asyncio.Future[Any]) -> AsyncIterator[list[Event]]:
        was_subscribed = False
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            batch = list(self._inbox)
            self._inbox.clear()
            if batch or (self._is_subscribed and not was_subscribed):
                was_subscribed = True
                yield batch
            if keeper.done():
                raise _translated(keeper.exception() if not keeper.cancelled() else None)

    def _ended(self, keeper: asyncio.Future[Any]) -> None:
        if not keeper.cancelled():
            keeper.exception()  # retrieved here even when nobody waits for it any more
        self._arrived.set()

    def _tap(self, client: Any, message: dict[str, Any]) -> bool:
        """Take what is ours out of the raw stream; return whether ccxt need not see it."""
        data = message.get("data", message)
        kind = data.get("e")
        if kind == "aggTrade":
            self._inbox.append(self._trade(data["s"], data))
        elif kind == "kline":
            bar = data["k"]
            if bar["x"]:
                self._inbox.append(BarClosed(self.name, data["s"], bar["i"], int(bar["t"]) * MS, int(bar["n"])))
        elif "result" in message and "id" in message:
            self._is_subscribed = True
        else:
            return False
        self._arrived.set()
        return True

    def _trade(self, symbol: str, row: Mapping[str, Any]) -> PublicTrade:
        found = PublicTrade(
            exchange=self.name,
            symbol=symbol,
            trade_id=int(row["a"]),
            time_ns=int(row["T"]) * MS,
            price=exact(row["p"], "price"),
            quantity=exact(row["q"], "quantity"),
            is_buyer_maker=row["m"] is True or row["m"] == "true",  # ccxt may quote what follows a colon
            count=int(row["l"]) - int(row["f"]) + 1,
        )
        return check_trade(found)

    def _bar(self, symbol: str, timeframe: str, row: Sequence[Any]) -> Bar:
        # float() of the venue's text is the nearest float, whose shortest decimal is that text again (up to 15 digits)
        open_, high, low, close, volume = (float(exact(row[i], "kline")) for i in range(1, 6))
        start_ns = int(row[0]) * MS
        return check_bar(Bar(self.name, symbol, timeframe, start_ns, open_, high, low, close, volume, int(row[8])))

    async def _call(self, method: str, request: dict[str, Any]) -> Any:
        """Call one public REST method through ccxt's throttle. Errors: OutageError, PeerError, InputError."""
        try:
            return await getattr(self._opened(), method)(request)
        except (ccxt.BaseError, aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _translated(error) from error

    def _opened(self) -> _Client:
        assert self._client is not None, "open() comes first"
        return self._client

    def _drop_sockets(self) -> None:
        """Forget every websocket now and say goodbye in the background: a dead peer would hold us up for 10 s."""
        client = self._client
        if client is None or not client.clients:
            return
        for url in list(client.clients):
            task = asyncio.create_task(_close_socket(client.clients.pop(url)))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "enableRateLimit": True,
            "timeout": 10_000,
            "newUpdates": True,
            "streaming": {"keepAlive": 15_000},  # the default of 180 s notices a frozen peer after nine minutes
            "options": {
                "defaultType": "spot",
                "fetchMarkets": {"types": ["spot"]},
                "fetchCurrencies": False,
                "fetchMargins": False,
                "watchTrades": {"name": "aggTrade"},
                "watchTradesForSymbols": {"name": "aggTrade"},
                "ws": {"compress": 0},  # trades are small; inflating each costs more than reading it
            },
        }
        api: dict[str, Any] = {}
        if self._endpoint.rest is not None:
            rest = self._endpoint.rest.rstrip("/")
            api.update({"public": f"{rest}/api/v3", "private": f"{rest}/api/v3", "v1": f"{rest}/api/v1"})
        if self._endpoint.ws is not None:
            api["ws"] = {"spot": f"{self._endpoint.ws.rstrip('/')}/stream/ws"}  # ccxt knows spot by "/stream" in the path
        if api:
            config["urls"] = {"api": api}
        return config


async def _close_socket(socket: Any) -> None:
    try:
        await asyncio.wait_for(socket.close(), _CLOSE_S)
    except (TimeoutError, aiohttp.ClientError, OSError):
        return  # it is forgotten either way


def _rows(answer: Any, key: str | None = None) -> list[Any]:
    """Return the list in a REST answer. Errors: PeerError when there is none (an HTML page with status 200)."""
    found = answer.get(key) if key is not None and isinstance(answer, dict) else answer
    if not isinstance(found, list):
        raise PeerError(f"binance answered {str(answer)[:200]!r} where a list was due")
    return found


def _read(one: Callable[[Any], T], rows: list[Any]) -> list[T]:
    """Return `one` of each row. Errors: PeerError when a row has not the venue's own form."""
    try:
        return [one(row) for row in rows]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PeerError(f"binance sent a row that cannot be read: {error!r}") from error


def _translated(error: BaseException | None) -> FksError:
    """Return whose fault `error` is."""
    if isinstance(error, FksError):
        return error
    if error is None:
        return OutageError("binance: the market data socket was closed")
    text = str(error)[:300]
    if isinstance(error, ccxt.BadSymbol):
        return InputError(f"binance: {text}", code="SYMBOL_UNKNOWN", status=404, remedy="see 'fks assets list --all'")
    if isinstance(error, ccxt.ExchangeError | ValueError) and not isinstance(error, ccxt.NetworkError):
        return PeerError(f"binance: {text}")
    return OutageError(f"binance does not answer: {text}")
