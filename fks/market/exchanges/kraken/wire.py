"""Kraken spot's WebSocket v2, sans I/O.

| Channel | Kraken's | What proves it whole |
|---|---|---|
| trades | `trade` | `trade_id` rises by one a symbol; a jump is a Discontinuity |
| bars | `ohlc` | nothing says that a bar is over: it is when the next one begins |
| quotes | `ticker`, on every change of the best bid or ask | |
| book | `book`, ten levels | CRC32 of the digits as sent; when it is wrong a new snapshot is requested |

Source: docs.kraken.com/exchange (Spot WebSocket v2, Book checksum v2), read 2026-07. Symbols are v2's own: BTC/USD.
Numbers come as JSON numbers; they are read as decimals, so that trailing zeros, which the checksum covers, survive.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal
from zlib import crc32

import msgspec

from fks.market.exchanges.base import (
    BROKEN,
    HUGE,
    MS,
    ZERO,
    BookResync,
    ConnectionCounters,
    Levels,
    MessageReader,
    SubscriptionsAnswered,
    ns_of_iso,
    suspect_message,
)
from fks.market.exchanges.base.rows import bar_of
from fks.market.exchanges.base.values import ID_MAX, check_bar, offered
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.errors import FksError, PeerError
from fks.model.market import BarSeen, Book, Channel, Discontinuity, MarketEvent, Quote, Subscription, Suspect

#: our channel -> Kraken's
NAMES = {Channel.TRADES: "trade", Channel.BARS: "ohlc", Channel.QUOTES: "ticker", Channel.BOOK: "book"}


class _Answer(msgspec.Struct):
    channel: str = ""
    symbol: str = ""
    interval: int = 0
    depth: int = 0
    snapshot: bool = False
    event_trigger: str = ""
    warnings: list[str] = []


class KrakenEnvelope(msgspec.Struct):
    """Any message: data of a channel, or the answer to a request."""

    channel: str = ""
    type: str = ""
    data: msgspec.Raw = msgspec.Raw()
    method: str = ""
    success: bool = False
    error: str = ""
    symbol: str = ""
    req_id: int | None = None
    result: _Answer | None = None
    warnings: list[str] = []
    timestamp: str = ""
    time_in: str = ""
    time_out: str = ""


class KrakenTrade(msgspec.Struct, gc=False):
    """One public trade; `side` is the taker's."""

    symbol: str
    side: Literal["buy", "sell"]
    price: Decimal
    qty: Decimal
    trade_id: Annotated[int, msgspec.Meta(ge=0, le=ID_MAX)]
    timestamp: str
    ord_type: str = ""


class KrakenTradeFrame(msgspec.Struct, gc=False):
    """Trades, oldest first."""

    channel: str
    type: str
    data: list[KrakenTrade]


class TickerRow(msgspec.Struct):
    """Best bid and ask, and the day so far."""

    symbol: str
    bid: Decimal
    bid_qty: Decimal
    ask: Decimal
    ask_qty: Decimal
    last: Decimal | None = None
    volume: Decimal | None = None
    vwap: Decimal | None = None
    low: Decimal | None = None
    high: Decimal | None = None
    change: Decimal | None = None
    change_pct: Decimal | None = None
    volume_usd: Decimal | None = None
    timestamp: str = ""


class TickerFrame(msgspec.Struct):
    """Quotes."""

    channel: str
    type: str
    data: list[TickerRow]


class KrakenBar(msgspec.Struct):
    """One bar, forming or over. `interval` in minutes."""

    symbol: str
    interval: int
    interval_begin: str
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    trades: int
    vwap: Decimal | None = None
    timestamp: str = ""


class OhlcFrame(msgspec.Struct):
    """Bars, oldest first."""

    channel: str
    type: str
    data: list[KrakenBar]
    timestamp: str = ""


class Level(msgspec.Struct, gc=False):
    """One price level; `qty` zero removes it."""

    price: Decimal
    qty: Decimal


class BookRow(msgspec.Struct):
    """A whole book or its changes, and the checksum of the book that results."""

    symbol: str
    bids: list[Level]
    asks: list[Level]
    checksum: int
    timestamp: str = ""


class BookFrame(msgspec.Struct):
    """Books of one or more symbols; `type` is snapshot or update."""

    channel: str
    type: str
    data: list[BookRow]


PUBLIC_WS = "wss://ws.kraken.com/v2"
BOOK_DEPTH = 10
PING_S = 30.0  # Kraken closes a connection that sends nothing for a minute
INTERVALS = {"1m": 1, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "4h": 240, "1d": 1440}  # its weeks open on Thursday
FRAMES = {minutes: timeframe for timeframe, minutes in INTERVALS.items()}
NAME = "kraken"
_CHANNELS = {name: channel for channel, name in NAMES.items()}
_TRADE = b'{"channel":"trade"'
_QUIET = frozenset({"heartbeat", "status"})
Events = Sequence[MarketEvent | SubscriptionsAnswered]


class KrakenWire:
    """One connection of Kraken v2. See the module for its channels and `Wire` for the rules."""

    def __init__(self, base: str | None = None, counters: ConnectionCounters | None = None) -> None:
        self._url = (base or PUBLIC_WS).rstrip("/")
        self.counters = ConnectionCounters() if counters is None else counters
        self._ids = itertools.count(1)
        self._pinged_s: float | None = None
        self._wanted: dict[Channel, set[str]] = {}
        self._known: set[str] = set()
        self._asked: dict[int, Channel] = {}
        self._unanswered: set[tuple[int, str]] = set()
        self._is_subscribed = False
        self._resync = BookResync()
        self._books: dict[str, Levels] = {}
        self._bars: dict[tuple[str, str], Bar] = {}
        self._trade_ids: dict[str, int] = {}  # newest id of each subscribed symbol; -1 before the first
        self._envelope = MessageReader("envelope", KrakenEnvelope, self.counters)
        self._trades = MessageReader("trade", KrakenTradeFrame, self.counters)
        ohlc, ticker, book = (
            MessageReader("ohlc", OhlcFrame, self.counters),
            MessageReader("ticker", TickerFrame, self.counters),
            MessageReader("book", BookFrame, self.counters),
        )
        self._readers: dict[Channel, Callable[[bytes, int], list[MarketEvent]]] = {
            Channel.TRADES: lambda frame, at: self._read_trades(self._trades(frame), at),
            Channel.BARS: lambda frame, at: self._read_bars(ohlc(frame), at),
            Channel.QUOTES: lambda frame, at: self._read_quotes(ticker(frame), at),
            Channel.BOOK: lambda frame, at: self._read_books(book(frame), at),
        }

    def url(self, wanted: Sequence[Subscription]) -> str:
        """Return the public address of v2."""
        return self._url

    def subscribe_frames(self, wanted: Sequence[Subscription]) -> list[bytes]:
        """Return one request a channel and interval. Errors: InputError for an interval that Kraken does not have."""
        for item in wanted:
            self._wanted.setdefault(item.channel, set()).add(item.symbol)
            self._known.add(item.symbol)
            if item.channel is Channel.TRADES:
                self._trade_ids[item.symbol] = -1
        return self._requests("subscribe", wanted)

    def unsubscribe_frames(self, gone: Sequence[Subscription]) -> list[bytes]:
        """Return one request a channel and interval."""
        for item in gone:
            if item.channel is Channel.BOOK:
                self._resync.drop(item.symbol)
        return self._requests("unsubscribe", gone)

    def receive(self, frame: bytes, received_ns: int) -> Events:
        """Return the events of a frame."""
        if frame.startswith(_TRADE):  # the most frequent message: decoded in one step
            try:
                return self._read_trades(self._trades.decode(frame), received_ns)
            except (FksError, *BROKEN):
                return self._receive(Channel.TRADES, frame, received_ns)  # again, to report its symbol and fault
        try:
            envelope = self._envelope(frame)
        except BROKEN as error:
            return suspect_message(Channel.TRADES, "", error, frame, received_ns)
        channel = _CHANNELS.get(envelope.channel)
        if channel is not None:
            return self._receive(channel, frame, received_ns)
        if envelope.method == "subscribe":
            return self._answered(envelope, frame, received_ns)
        if envelope.method == "unsubscribe" and not envelope.success:
            self.counters.unknown["unsubscribe refused"] += 1
        if envelope.channel not in _QUIET and envelope.method not in ("pong", "unsubscribe"):
            self.counters.unknown[f"message {envelope.channel or envelope.method or 'without a channel'}"] += 1
        return ()

    def due_frames(self, now_s: float) -> list[bytes]:
        """Return a ping every 30 s, and requests for a new snapshot of a broken book. Errors: PeerError for one that
        stays broken."""
        due: list[bytes] = []
        for symbol in self._resync.due(now_s):
            due += [self._subscribe(Channel.BOOK, "", [symbol], method) for method in ("unsubscribe", "subscribe")]
        if self._pinged_s is None or now_s - self._pinged_s >= PING_S:
            self._pinged_s = now_s
            due.append(msgspec.json.encode({"method": "ping", "req_id": next(self._ids)}))
        return due

    # ── subscriptions ────────────────────────────────────────────────────────────────────────────
    def _requests(self, method: str, items: Sequence[Subscription]) -> list[bytes]:
        groups: dict[tuple[Channel, str], list[str]] = {}
        for item in items:
            timeframe = offered(NAME, INTERVALS, item.timeframe) if item.channel is Channel.BARS else ""
            groups.setdefault((item.channel, timeframe), []).append(item.symbol)
        return [
            self._subscribe(channel, timeframe, symbols, method) for (channel, timeframe), symbols in groups.items()
        ]

    def _subscribe(self, channel: Channel, timeframe: str, symbols: list[str], method: str = "subscribe") -> bytes:
        number = next(self._ids)
        params: dict[str, Any] = {"channel": NAMES[channel], "symbol": symbols}
        if channel is Channel.BOOK:
            params["depth"] = BOOK_DEPTH
        elif channel is Channel.BARS:
            params["interval"] = INTERVALS[timeframe]
        elif channel is Channel.QUOTES:
            params["event_trigger"] = "bbo"  # also to unsubscribe: another trigger is another subscription
        if method == "subscribe":
            params["snapshot"] = channel is not Channel.TRADES  # REST fills the gap before the first live trade
            self._asked[number] = channel
            self._unanswered.update((number, symbol) for symbol in symbols)
        return msgspec.json.encode({"method": method, "params": params, "req_id": number})

    def _answered(self, envelope: KrakenEnvelope, frame: bytes, received_ns: int) -> Events:
        number = envelope.req_id or 0
        symbol = envelope.symbol or (envelope.result.symbol if envelope.result is not None else "")
        self._unanswered -= {(n, s) for n, s in self._unanswered if n == number and symbol in ("", s)}
        events: list[MarketEvent | SubscriptionsAnswered] = []
        if not envelope.success:
            channel = self._asked.get(number, "subscribe")
            text = frame[:1000].decode(errors="replace")
            events.append(Suspect(str(channel), symbol, f"subscription refused: {envelope.error}", text, received_ns))
        if not self._unanswered and not self._is_subscribed:
            self._is_subscribed = True
            events.append(SubscriptionsAnswered())
        return events

    # ── data ─────────────────────────────────────────────────────────────────────────────────────
    def _receive(self, channel: Channel, frame: bytes, received_ns: int) -> Events:
        try:
            return self._readers[channel](frame, received_ns)
        except (FksError, *BROKEN) as error:
            return self._suspect(channel, frame, error, received_ns)

    def _suspect(self, channel: Channel, frame: bytes, why: object, received_ns: int) -> list[MarketEvent]:
        try:
            symbols = {str(row["symbol"]) for row in msgspec.json.decode(frame)["data"]}
        except (KeyError, TypeError, *BROKEN):
            symbols = set()
        symbols = symbols & self._wanted.get(channel, set()) or self._wanted.get(channel, set()) or {""}
        events = [
            event for symbol in sorted(symbols) for event in suspect_message(channel, symbol, why, frame, received_ns)
        ]
        for symbol in sorted(symbols - {""}) if channel is Channel.BOOK else ():
            self._ask_again(symbol)
        first, *rest = events
        return [first, *(event for event in rest if not isinstance(event, Suspect))]  # the message is reported once

    def _read_trades(self, message: KrakenTradeFrame, received_ns: int) -> list[MarketEvent]:
        events: list[MarketEvent] = []
        ids = self._trade_ids
        for row in message.data:
            symbol, number, price, quantity = row.symbol, row.trade_id, row.price, row.qty
            last = ids.get(symbol)
            if not (ZERO < price < HUGE and ZERO <= quantity < HUGE) or last is None:
                raise PeerError(f"{symbol} trade {number}: price {price}, quantity {quantity} cannot be")
            time_ns = ns_of_iso(row.timestamp)
            if number > last:
                if number != last + 1 and last >= 0:
                    events.append(
                        Discontinuity(Channel.TRADES, symbol, f"trades {last + 1} to {number - 1} are missing")
                    )
                ids[symbol] = number
            events.append(
                PublicTrade(NAME, symbol, number, time_ns, price, quantity, row.side == "sell", 1, received_ns)
            )
        return events

    def _read_quotes(self, message: TickerFrame, received_ns: int) -> list[MarketEvent]:
        events: list[MarketEvent] = []
        for row in message.data:
            numbers = (row.bid, row.ask, row.bid_qty, row.ask_qty)
            if row.symbol not in self._known or not all(ZERO <= number < HUGE for number in numbers):
                raise PeerError(
                    f"{row.symbol}: bid {row.bid_qty} at {row.bid}, ask {row.ask_qty} at {row.ask} cannot be"
                )
            if not (row.bid and row.ask):
                self.counters.unknown["quote of an empty side"] += 1
                continue
            time_ns = ns_of_iso(row.timestamp) if row.timestamp else received_ns
            events.append(Quote(NAME, row.symbol, time_ns, row.bid, row.bid_qty, row.ask, row.ask_qty, received_ns))
        return events

    def _read_bars(self, message: OhlcFrame, received_ns: int) -> list[MarketEvent]:
        events: list[MarketEvent] = []
        for row in message.data:
            if row.symbol not in self._known:
                raise PeerError(f"bars without a subscription:  {row.symbol}")
            bar = _bar(row)
            key = (bar.symbol, bar.timeframe)
            newest = self._bars.get(key)
            if newest is None or bar.time_ns > newest.time_ns:
                if newest is not None:  # the next bar has begun
                    events.append(BarSeen(newest, True, received_ns))
                    events.append(BarClosed(NAME, newest.symbol, newest.timeframe, newest.time_ns, newest.trades))
                self._bars[key] = bar
            elif bar.time_ns == newest.time_ns:
                self._bars[key] = bar
            events.append(BarSeen(bar, newest is not None and bar.time_ns < newest.time_ns, received_ns))
        return events

    def _read_books(self, message: BookFrame, received_ns: int) -> list[MarketEvent]:
        events: list[MarketEvent] = []
        for row in message.data:
            events += self._read_book(row, message.type == "snapshot", received_ns)
        return events

    def _read_book(self, row: BookRow, is_snapshot: bool, received_ns: int) -> list[MarketEvent]:
        if row.symbol not in self._known:
            raise PeerError(f"book without a subscription:  {row.symbol}")
        bids, asks = ([(level.price, level.qty) for level in side] for side in (row.bids, row.asks))
        for price, size in itertools.chain(bids, asks):
            if not (ZERO < price < HUGE and ZERO <= size < HUGE):
                raise PeerError(f"{row.symbol}: {size} at {price} cannot be")
        levels = self._books.get(row.symbol)
        if is_snapshot:
            levels = self._books[row.symbol] = Levels()
        elif levels is None:
            self.counters.unknown["book before its snapshot"] += 1
            return []
        levels.bids.change(bids)
        levels.asks.change(asks)
        levels.keep(BOOK_DEPTH)
        best_bids, best_asks = levels.bids.best(BOOK_DEPTH), levels.asks.best(BOOK_DEPTH)
        found = checksum(best_bids, best_asks)
        if found != row.checksum:
            self._ask_again(row.symbol)
            return [
                Discontinuity(Channel.BOOK, row.symbol, f"the checksum is {row.checksum}, of our book it is {found}")
            ]
        if is_snapshot:
            self._resync.whole(row.symbol)
        time_ns = ns_of_iso(row.timestamp) if row.timestamp else received_ns
        return [Book(NAME, row.symbol, time_ns, best_bids, best_asks, 0, received_ns)]

    def _ask_again(self, symbol: str) -> None:
        self._books.pop(symbol, None)
        self._resync.broken(symbol)


def checksum(bids: Sequence[tuple[Decimal, Decimal]], asks: Sequence[tuple[Decimal, Decimal]]) -> int:
    """Return Kraken's CRC32 over the best ten of each side, asks first, from the digits as they were sent."""
    digits = [
        format(number, "f").replace(".", "").lstrip("0")
        for side in (asks, bids)
        for level in side[:10]
        for number in level
    ]
    return crc32("".join(digits).encode())


def _bar(row: KrakenBar) -> Bar:
    if row.interval not in FRAMES or row.trades < 0:
        raise PeerError(f"{row.symbol}: a bar of {row.interval} minutes and {row.trades} trades cannot be")
    numbers, begin_ms = (row.open, row.high, row.low, row.close, row.volume), ns_of_iso(row.interval_begin) // MS
    return check_bar(bar_of(NAME, row.symbol, FRAMES[row.interval], begin_ms, numbers, trades=row.trades))
