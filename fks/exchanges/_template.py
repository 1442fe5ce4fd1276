"""A template of an exchange module: copy it to `fks/exchanges/<name>/`, follow docs/add-an-exchange.md, replace what is
made up.

It is whole: it speaks the wire of an exchange that does not exist, and passes the contract test that every module
passes. What stands here at the top of yours: what the exchange's documentation says that your code rests on, whether
anybody has recorded it, and where and when it was read.

| Part | | |
|---|---|---|
| `wire`, `listing`, `instrument_of`, `fetch_bars`, `fetch_trades` | required | |
| channels other than trades | optional | leave them out of `channels` where the exchange has none |
| `pulse` | optional | pings, and whatever a wire has to send by itself |
| a key | optional | a setting in class Data, a line of `KEYS` in the registry; never in an address |

Source: nothing; it is made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import aiohttp
import msgspec

from fks.clock import Clock
from fks.exchanges.base import MS, Endpoint, Reader, Subscribed, Tally, doubted, exact
from fks.exchanges.base.exchange import WireExchange
from fks.exchanges.base.rows import (
    UNREADABLE,
    Rows,
    bar_of,
    check_sides,
    closed,
    read_rows,
    rows_of,
    time_of,
    trade_of,
)
from fks.exchanges.base.values import TOO_MUCH, check_bar, offered, seconds_told
from fks.exchanges.base.wire import answered
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import InputError, OutageError, PeerError
from fks.model.instrument import Instrument
from fks.model.market import BarSeen, Channel, MarketEvent, Quote, Subscription, Suspect, TradeIds, TradesFrom, Traits
from fks.model.ports import Budget, Log

NAME = "template"
PUBLIC_REST = "https://api.template.invalid"
PUBLIC_WS = "wss://stream.template.invalid"
TIMEOUT_S = 10.0
PAGE_MAX = 1000
TIMEFRAMES = frozenset({"1m", "1h"})
_STREAMS = {Channel.TRADES: "trades", Channel.BARS: "bars", Channel.QUOTES: "quotes"}


# ── the wire: one struct a kind of message, with every field that the documentation names ────────
class _Message(msgspec.Struct):
    stream: str = ""
    rows: msgspec.Raw = msgspec.Raw(b"[]")
    op: str = ""
    why: str = ""


class _Trade(msgspec.Struct):
    id: int
    t: int
    p: Decimal
    q: Decimal
    side: str


class _Bar(msgspec.Struct):
    t: int
    o: str
    h: str
    l: str  # noqa: E741 - the exchange's own letter
    c: str
    v: str
    done: bool = True


class _Quote(msgspec.Struct):
    t: int
    bid: Decimal
    bid_size: Decimal
    ask: Decimal
    ask_size: Decimal


class TemplateWire:
    """The exchange's socket without the socket. One object a connection; `fks.exchanges.base.wire` has the rules."""

    def __init__(self, base: str | None = None, tally: Tally | None = None) -> None:
        self._url = (base or PUBLIC_WS).rstrip("/")
        self._tally = tally = Tally() if tally is None else tally
        self._message = Reader(NAME, _Message, tally)
        self._trades = Rows(f"{NAME}.trades", _Trade, tally)
        self._bars = Rows(f"{NAME}.bars", _Bar, tally)
        self._quotes = Rows(f"{NAME}.quotes", _Quote, tally)
        self._asked: set[str] = set()

    def url(self, wanted: Sequence[Subscription]) -> str:
        """Return where to dial."""
        return self._url

    def hello(self, wanted: Sequence[Subscription]) -> list[bytes]:
        """Return the frame that subscribes. Errors: InputError TIMEFRAME_UNKNOWN."""
        names = [_stream_of(item) for item in wanted]
        self._asked = set(names)
        return [msgspec.json.encode({"op": "subscribe", "streams": names})]

    def bye(self, gone: Sequence[Subscription]) -> list[bytes]:
        """Return the frame that unsubscribes."""
        return [msgspec.json.encode({"op": "unsubscribe", "streams": [_stream_of(item) for item in gone]})]

    def pulse(self, now_s: float) -> list[bytes]:
        """Nothing is due."""
        return []

    def receive(self, frame: bytes, received_ns: int) -> Sequence[MarketEvent | Subscribed]:
        """Return what a message says."""
        try:
            message = self._message(frame)
        except UNREADABLE as error:
            return doubted(Channel.TRADES, "", error, frame, received_ns)
        kind, symbol, timeframe = (*message.stream.split(":"), "", "")[:3]
        match message.op or kind:
            case "subscribed":
                return answered(self._asked, message.stream)
            case "refused":
                doubt = Suspect(kind, symbol, f"subscription refused: {message.why}", message.stream, received_ns)
                return [doubt, *answered(self._asked, message.stream)]
            case "unsubscribed":
                return []
            case "trades":
                return self._trades.read(
                    message.rows, partial(_traded, symbol, received_ns), Channel.TRADES, symbol, received_ns
                )
            case "bars":
                make = partial(_seen, symbol, timeframe, received_ns)
                return self._bars.read(message.rows, make, Channel.BARS, symbol, received_ns)
            case "quotes":
                return self._quotes.read(
                    message.rows, partial(_quoted, symbol, received_ns), Channel.QUOTES, symbol, received_ns
                )
        self._tally.unknown[f"{NAME}.{message.op or kind}"] += 1
        return []


def _stream_of(wanted: Subscription) -> str:
    if wanted.channel is not Channel.BARS:
        return f"{_STREAMS[wanted.channel]}:{wanted.symbol}"
    return f"bars:{wanted.symbol}:{offered(NAME, TIMEFRAMES, wanted.timeframe)}"


def _traded(symbol: str, received_ns: int, row: _Trade) -> PublicTrade:
    return trade_of(NAME, symbol, str(row.id), row.t, row.p, row.q, row.side, received_ns)


def _seen(symbol: str, timeframe: str, received_ns: int, row: _Bar) -> BarSeen:
    bar = check_bar(bar_of(NAME, symbol, timeframe, row.t, (row.o, row.h, row.l, row.c, row.v)))
    return BarSeen(bar, row.done, received_ns)


def _quoted(symbol: str, received_ns: int, row: _Quote) -> Quote:
    check_sides([(row.bid, row.bid_size)], [(row.ask, row.ask_size)])
    return Quote(NAME, symbol, time_of(row.t), row.bid, row.bid_size, row.ask, row.ask_size, received_ns)


# ── the port: what the exchange is, and its REST ─────────────────────────────────────────────────
class TemplateExchange(WireExchange):
    """An exchange that does not exist; see `fks.model.ports.Exchange`."""

    name = NAME
    traits = Traits(
        timeframes=TIMEFRAMES,
        channels=frozenset(_STREAMS),
        trade_ids=TradeIds.CONTIGUOUS,  # only where the documentation says so: a hole stops the feed
        trades_from=TradesFrom.ID,
        streams_max=200,
        has_empty_bars=True,
    )

    def __init__(self, endpoint: Endpoint, clock: Clock, log: Log, budget: Budget | None = None) -> None:
        super().__init__(endpoint, clock, log, budget)
        self._base = (endpoint.rest or PUBLIC_REST).rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    def wire(self) -> TemplateWire:
        """Return the protocol of one connection."""
        return TemplateWire(self._endpoint.ws, self.tally)

    async def open(self) -> None:
        """Prepare the session. Dials nothing yet."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))

    async def close(self) -> None:
        """Close sockets and sessions, waiting at most a second for the peer."""
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
        return read_rows(self.name, lambda row: _traded(symbol, 0, msgspec.convert(row, _Trade, strict=False)), rows)

    async def _get(self, path: str, request: dict[str, Any]) -> Any:
        """Return one answer. Where ccxt knows the exchange, `fks.exchanges.base.rest.CcxtExchange` does this instead.

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
            self._budget.pause(seconds_told(after))
        if response.status in TOO_MUCH or response.status >= 500:
            raise OutageError(text)
        if response.status == 404:
            raise InputError(text, code="SYMBOL_UNKNOWN", status=404, remedy="see 'fks assets list --all'")
        try:
            return msgspec.json.decode(body)
        except msgspec.MsgspecError as error:
            raise PeerError(text) from error
