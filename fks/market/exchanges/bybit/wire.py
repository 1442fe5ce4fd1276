"""Bybit's public spot socket, sans I/O.

What this module relies on in its documentation (*documented*: not recorded from the real exchange):
* `publicTrade` names each single trade by an execution id: digits on spot, not documented to rise; the same ids as in
  REST.
* `orderbook.1` sends whole snapshots; `orderbook.50` one snapshot and then changes whose `u` rises by one, and a new
  snapshot, maybe with `u` = 1, after a fault of Bybit's. A size of 0 removes a price.
* `kline` marks the last message of a bar with `confirm`; minutes without trades are bars of volume 0; bars begin in
  UTC.
* a socket is cut when no ping comes for long (they advise 20 s); ten topics fit one request of spot.

Source: bybit-exchange.github.io/docs/v5 (ws/connect, websocket/public, market), read 2026-11; ccxt 4.5.90.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from functools import partial

import msgspec

from fks.market.exchanges.base import (
    BookResync,
    ConnectionCounters,
    Levels,
    MessageReader,
    SubscriptionsAnswered,
    suspect_message,
)
from fks.market.exchanges.base.rows import BOOK_LEVELS, UNREADABLE, RowReader, bar_of, check_sides, time_of, trade_of
from fks.market.exchanges.base.values import check_bar, offered
from fks.market.exchanges.base.wire import parts
from fks.model.bar import PublicTrade
from fks.model.errors import PeerError
from fks.model.market import BarSeen, Book, Channel, Discontinuity, MarketEvent, Quote, Subscription, Suspect

PUBLIC_WS = "wss://stream.bybit.com"
WS_PATH = "/v5/public/spot"
TOPICS_MAX = 10  # of one subscription request, spot
PING_S = 20.0
INTERVALS = {
    "1m": "1",
    "5m": "5",
    "15m": "15",
    "30m": "30",
    "1h": "60",
    "4h": "240",
    "1d": "D",
    "1w": "W",
    "1M": "M",
}
_TIMEFRAMES = {interval: timeframe for timeframe, interval in INTERVALS.items()}

Level = tuple[Decimal, Decimal]


class _Message(msgspec.Struct):
    topic: str = ""
    type: str = ""
    ts: int = 0
    cts: int = 0
    data: msgspec.Raw = msgspec.Raw(b"null")
    id: str = ""
    op: str = ""
    success: bool = True
    ret_msg: str = ""
    req_id: str = ""
    conn_id: str = ""


class _Trade(msgspec.Struct):
    time_ms: int = msgspec.field(name="T")
    symbol: str = msgspec.field(name="s")
    side: str = msgspec.field(name="S")
    quantity: Decimal = msgspec.field(name="v")
    price: Decimal = msgspec.field(name="p")
    trade_id: str = msgspec.field(name="i")
    direction: str = msgspec.field(name="L", default="")
    is_block: bool = msgspec.field(name="BT", default=False)
    is_rpi: bool = msgspec.field(name="RPI", default=False)
    seq: int = 0


class _Kline(msgspec.Struct):
    start: int
    interval: str
    open: str
    high: str
    low: str
    close: str
    volume: str
    confirm: bool
    end: int = 0
    turnover: str = ""
    timestamp: int = 0


class _Levels(msgspec.Struct):
    symbol: str = msgspec.field(name="s")
    bids: list[Level] = msgspec.field(name="b")
    asks: list[Level] = msgspec.field(name="a")
    update: int = msgspec.field(name="u")
    seq: int = 0


def topic_of(wanted: Subscription) -> str:
    """Return Bybit's name of a subscription. Errors: InputError TIMEFRAME_UNKNOWN."""
    match wanted.channel:
        case Channel.TRADES:
            return f"publicTrade.{wanted.symbol}"
        case Channel.QUOTES:
            return f"orderbook.1.{wanted.symbol}"
        case Channel.BOOK:
            return f"orderbook.50.{wanted.symbol}"
        case Channel.BARS:
            return f"kline.{INTERVALS[offered('bybit', INTERVALS, wanted.timeframe)]}.{wanted.symbol}"


class BybitWire:
    """Bybit's public spot socket without the connection. One object per connection; see
    `fks.market.exchanges.base.wire`."""

    def __init__(self, base: str | None = None, counters: ConnectionCounters | None = None) -> None:
        self._url = f"{(base or PUBLIC_WS).rstrip('/')}{WS_PATH}"
        self.counters = counters = ConnectionCounters() if counters is None else counters
        self._message = MessageReader("bybit", _Message, counters)
        self._trades = RowReader("bybit.publicTrade", _Trade, counters)
        self._klines = RowReader("bybit.kline", _Kline, counters)
        self._levels = MessageReader("bybit.orderbook", _Levels, counters)
        self._books: dict[str, _Ladder] = {}
        self._parts: dict[str, Sequence[str]] = {}  # requests not answered yet, by number
        self._due: list[bytes] = []
        self._resync = BookResync()
        self._pinged_s: float | None = None

    def url(self, wanted: Sequence[Subscription]) -> str:
        """Return the address to connect to."""
        return self._url

    def subscribe_frames(self, wanted: Sequence[Subscription]) -> list[bytes]:
        """Return the requests that subscribe, ten topics each. Errors: InputError TIMEFRAME_UNKNOWN."""
        topics = [topic_of(item) for item in wanted]
        self._parts = {str(number): part for number, part in enumerate(parts(topics, TOPICS_MAX), 1)}
        return [_request("subscribe", part, number) for number, part in self._parts.items()]

    def unsubscribe_frames(self, gone: Sequence[Subscription]) -> list[bytes]:
        """Return the requests that unsubscribe, ten topics each."""
        for item in gone:
            if item.channel is Channel.BOOK:
                self._resync.drop(item.symbol)
        return [_request("unsubscribe", part, "left") for part in parts([topic_of(item) for item in gone], TOPICS_MAX)]

    def due_frames(self, now_s: float) -> list[bytes]:
        """Return a ping when one is due, and requests for a new snapshot of a broken book. Errors: PeerError for one
        that stays broken."""
        frames, self._due = self._due, []
        for symbol in self._resync.due(now_s):
            frames += [_request(op, [f"orderbook.50.{symbol}"], "anew") for op in ("unsubscribe", "subscribe")]
        if self._pinged_s is None or now_s - self._pinged_s >= PING_S:
            self._pinged_s = now_s
            frames.append(b'{"op":"ping"}')
        return frames

    def receive(self, frame: bytes, received_ns: int) -> Sequence[MarketEvent | SubscriptionsAnswered]:
        """Return the events of a message; see `fks.market.exchanges.base.wire`."""
        try:
            message = self._message(frame)
        except UNREADABLE as error:
            return suspect_message(Channel.TRADES, "", error, frame, received_ns)
        if message.op:
            return self._answered(message, frame, received_ns)
        kind, _, name = message.topic.partition(".")
        symbol = name.rpartition(".")[2]
        match kind:
            case "publicTrade":
                make_trade = partial(_live_trade, symbol, received_ns)
                return self._trades.read(message.data, make_trade, Channel.TRADES, symbol, received_ns)
            case "kline":
                make_bar = partial(_live_bar, symbol, received_ns)
                return self._klines.read(message.data, make_bar, Channel.BARS, symbol, received_ns)
            case "orderbook" if name.startswith("1."):
                return self._quote(symbol, message, received_ns)
            case "orderbook":
                return self._book(symbol, message, received_ns)
        self.counters.unknown[f"bybit.{kind}"] += 1
        return []

    def _answered(
        self, message: _Message, frame: bytes, received_ns: int
    ) -> Sequence[MarketEvent | SubscriptionsAnswered]:
        if message.op in ("ping", "pong", "unsubscribe"):
            return []
        if message.op != "subscribe":
            self.counters.unknown[f"bybit.{message.op}"] += 1
            return []
        was_open = bool(self._parts)
        topics = self._parts.pop(message.req_id, [])
        events: list[MarketEvent | SubscriptionsAnswered] = []
        if not message.success and len(topics) > 1:  # the whole request was refused: each topic is requested alone
            for topic in topics:
                self._parts[topic] = [topic]
                self._due.append(_request("subscribe", [topic], topic))
        elif not message.success:
            reason = f"the subscription {' '.join(topics)} was refused: {message.ret_msg}"
            symbol = topics[0].rpartition(".")[2] if topics else ""
            events.append(Suspect("", symbol, reason, frame.decode(errors="replace"), received_ns))
        if was_open and not self._parts:
            events.append(SubscriptionsAnswered())
        return events

    def _quote(self, symbol: str, message: _Message, received_ns: int) -> Sequence[MarketEvent]:
        try:
            levels = self._levels(message.data)
            if not levels.bids or not levels.asks:
                self.counters.unknown["bybit.quote with one side"] += 1
                return []
            check_sides(levels.bids, levels.asks)
            return [Quote("bybit", symbol, _matched_ns(message), *levels.bids[0], *levels.asks[0], received_ns)]
        except UNREADABLE as error:
            return suspect_message(Channel.QUOTES, symbol, error, bytes(message.data), received_ns)

    def _book(self, symbol: str, message: _Message, received_ns: int) -> Sequence[MarketEvent]:
        ladder = self._books.setdefault(symbol, _Ladder())
        try:
            levels = self._levels(message.data)
            if not ladder.take(levels, is_whole=message.type == "snapshot" or levels.update == 1):
                return []  # reported as discontinued before; the snapshot was requested
            book = ladder.book(symbol, _matched_ns(message), received_ns)
            self._resync.whole(symbol)
            return [book]
        except UNREADABLE as error:  # what follows would build on a wrong book
            was_reported, ladder.is_reported, ladder.is_whole = ladder.is_reported, True, False
            self._resync.broken(symbol)
            if isinstance(error, _GapError):
                return [] if was_reported else [Discontinuity(Channel.BOOK, symbol, str(error))]
            return suspect_message(Channel.BOOK, symbol, error, bytes(message.data), received_ns)


class _GapError(PeerError):
    """The numbers of a book's changes have a gap."""


class _Ladder:
    """One symbol's book. `is_whole`: from a snapshot on, while the changes have no gap; `is_reported`: its
    discontinuity was reported."""

    def __init__(self) -> None:
        self.is_whole = False
        self.is_reported = False
        self._update = 0
        self._levels = Levels()

    def take(self, found: _Levels, *, is_whole: bool) -> bool:
        """Apply a message; return whether the book is complete. Errors: PeerError when the message breaks it."""
        if is_whole:
            self._levels.bids.replace(found.bids)
            self._levels.asks.replace(found.asks)
            self.is_whole, self.is_reported = True, False
        elif self.is_reported:
            return False
        elif not self.is_whole:
            raise _GapError("a change came before the snapshot")
        elif found.update != self._update + 1:
            raise _GapError(f"update {found.update} follows {self._update}")
        else:
            self._levels.bids.change(found.bids)
            self._levels.asks.change(found.asks)
        self._update = found.update
        return True

    def book(self, symbol: str, time_ns: int, received_ns: int) -> Book:
        """Return the best levels. Errors: PeerError when they cannot be."""
        bids, asks = self._levels.bids.best(BOOK_LEVELS), self._levels.asks.best(BOOK_LEVELS)
        check_sides(bids, asks)
        return Book("bybit", symbol, time_ns, bids, asks, self._update, received_ns)


def _request(op: str, topics: Sequence[str], number: str) -> bytes:
    return msgspec.json.encode({"req_id": number, "op": op, "args": topics})


def _matched_ns(message: _Message) -> int:
    return time_of(message.cts or message.ts)


def _live_trade(symbol: str, received_ns: int, row: _Trade) -> PublicTrade:
    if row.symbol != symbol:
        raise PeerError(f"a trade of {row.symbol} came under {symbol}")
    return trade_of("bybit", symbol, row.trade_id, row.time_ms, row.price, row.quantity, row.side, received_ns)


def _live_bar(symbol: str, received_ns: int, row: _Kline) -> BarSeen:
    if row.interval not in _TIMEFRAMES:
        raise PeerError(f"a bar has the interval {row.interval!r}")
    numbers = (row.open, row.high, row.low, row.close, row.volume)
    return BarSeen(
        check_bar(bar_of("bybit", symbol, _TIMEFRAMES[row.interval], row.start, numbers)), row.confirm, received_ns
    )
