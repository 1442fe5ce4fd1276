"""Binance spot's combined stream, sans I/O.

| Channel | Stream | What proves it whole |
|---|---|---|
| trades | `@aggTrade` | aggregate ids rise by one, live and in REST: the reader detects a gap |
| bars | `@kline_<timeframe>` | `x` says that a bar is over, `n` how many single trades it held |
| quotes | `@bookTicker` | `u` rises; an older one is dropped |
| book | `@depth20@100ms` | each message is the whole top of the book; `lastUpdateId` rises |
| book, of a recording | `@depth@100ms` and snapshots of REST | `U` follows the last `u`; a gap is a Discontinuity |

Source: developers.binance.com/docs/binance-spot-api-docs/web-socket-streams, read 2026-07. Binance sends no time in
quotes and whole books: theirs is the time of receipt. Recordings of `@trade` (single trades, another range of ids) are
read by a wire made with `trades="trade"`, those of a book's changes with `book="changes"`; a live one never mixes them.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec

from fks.market.exchanges.base import (
    BROKEN,
    HUGE,
    MS,
    ZERO,
    ConnectionCounters,
    Levels,
    MessageReader,
    Numbers,
    SubscriptionsAnswered,
    suspect_message,
)
from fks.market.exchanges.base.rows import bar_of
from fks.market.exchanges.base.values import ID_MAX, NS_MAX, check_bar, offered
from fks.market.exchanges.base.wire import answered, parts
from fks.model.bar import BarClosed, PublicTrade
from fks.model.errors import FksError, OutageError, PeerError
from fks.model.market import BarSeen, Book, Channel, Discontinuity, MarketEvent, Quote, Subscription
from fks.model.timeframe import TIMEFRAMES

PriceLevels = list[tuple[Decimal, Decimal]]
TradeId = Annotated[int, msgspec.Meta(ge=0, le=ID_MAX)]
Moment = Annotated[int, msgspec.Meta(gt=0, lt=NS_MAX // MS)]
_NOTHING = msgspec.Raw()


class BinanceEnvelope(msgspec.Struct):
    """Any message: a stream's data, or the answer to a request."""

    stream: str = ""
    data: msgspec.Raw = _NOTHING
    id: int | None = None
    result: msgspec.Raw = _NOTHING
    error: msgspec.Raw = _NOTHING


class AggTrade(msgspec.Struct, gc=False):
    """An aggregate trade; `f` to `l` are its single trades, `m`: the buyer made the market."""

    e: Literal["aggTrade"]
    E: int
    s: str
    a: TradeId
    p: str
    q: str
    f: int
    l: int  # noqa: E741 - the venue's own letter
    T: Moment
    m: bool
    M: bool = True


class BinanceTrade(msgspec.Struct, gc=False):
    """A single trade."""

    e: Literal["trade"]
    E: int
    s: str
    t: TradeId
    p: str
    q: str
    T: Moment
    m: bool
    M: bool = True
    a: int = 0  # order ids, until 2023
    b: int = 0


class AggFrame(msgspec.Struct, gc=False):
    """A message of an aggregate trade, the most frequent message, decoded in one step."""

    stream: str
    data: AggTrade


class BinanceTradeFrame(msgspec.Struct, gc=False):
    """A message of a single trade."""

    stream: str
    data: BinanceTrade


class BinanceTicker(msgspec.Struct):
    """Best bid and ask; `u` rises."""

    u: int
    s: str
    b: Decimal
    B: Decimal
    a: Decimal
    A: Decimal


class BinanceBar(msgspec.Struct):
    """A bar; `x`: it is over, `n`: how many single trades."""

    t: int
    T: int
    s: str
    i: str
    o: str
    c: str
    h: str
    l: str  # noqa: E741
    v: str
    n: int
    x: bool
    f: int = 0
    L: int = 0
    q: str = ""
    V: str = ""
    Q: str = ""
    B: str = ""


class BinanceKline(msgspec.Struct):
    """A message of a bar."""

    e: str
    E: int
    s: str
    k: BinanceBar


class BinanceDepth(msgspec.Struct):
    """The top of a book, or a snapshot of REST."""

    lastUpdateId: int
    bids: PriceLevels
    asks: PriceLevels


class BookChange(msgspec.Struct):
    """Changes `U` to `u` of a book."""

    e: Literal["depthUpdate"]
    E: Moment
    s: str
    U: int
    u: int
    b: PriceLevels
    a: PriceLevels


# A Binance book from its stream of changes: a snapshot of REST, then changes without a gap in their update ids.
#
# Source: developers.binance.com, "How to manage a local order book correctly". Recordings hold books in this form; live
# ones come whole (`@depth20`), which needs no snapshot, cannot have a gap, and suffices for a top of twenty.

Rows = Sequence[tuple[Decimal, Decimal]]
WAITING_MAX = 5000  # changes before the snapshot; it comes within seconds


class DepthBook:
    """One symbol's book. `update` is the id of its last change; None: it waits for a snapshot."""

    def __init__(self) -> None:
        self.levels = Levels()
        self.update: int | None = None
        self._is_joined = False  # the first change after a snapshot may begin before it
        self._waiting: deque[tuple[int, int, Rows, Rows]] = deque(maxlen=WAITING_MAX)

    def snapshot(self, update: int, bids: Rows, asks: Rows) -> bool:
        """Set the whole book as of `update`, then apply waiting changes; return whether it is complete, else it waits
        for another snapshot."""
        self.levels.bids.replace(bids)
        self.levels.asks.replace(asks)
        self.update, self._is_joined = update, False
        waiting = list(self._waiting)
        self._waiting.clear()
        taken = [self.change(*change) for change in waiting]
        return all(taken)

    def change(self, first: int, last: int, bids: Rows, asks: Rows) -> bool:
        """Apply the changes `first` to `last`; False: there is a gap before them, and the book waits for a snapshot.

        Changes that the snapshot has already are skipped; those before any snapshot wait.
        """
        if self.update is None:
            self._waiting.append((first, last, bids, asks))
            return True
        if last <= self.update:
            return True
        if first > self.update + 1 or (self._is_joined and first != self.update + 1):
            self.update = None
            self._waiting.append((first, last, bids, asks))
            return False
        self.levels.bids.change(bids)
        self.levels.asks.change(asks)
        self.update, self._is_joined = last, True
        return True


PUBLIC_WS = "wss://stream.binance.com:9443"
BOOK_DEPTH = 20
STREAMS_A_FRAME = 100  # names in one SUBSCRIBE
NAME = "binance"
KLINES = frozenset({"1s", "1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M"})
MARK_WITHIN = 64  # the stream's name comes first in a message
Events = Sequence[MarketEvent | SubscriptionsAnswered]


class BinanceWire:
    """One connection to the combined stream. See the module for its channels and `Wire` for the rules."""

    def __init__(
        self,
        base: str | None = None,
        counters: ConnectionCounters | None = None,
        *,
        trades: str = "aggTrade",
        book: str = "top",
    ) -> None:
        self._url = f"{(base or PUBLIC_WS).rstrip('/')}/stream"
        self.counters = ConnectionCounters() if counters is None else counters
        self._trades = trades
        self._ids = itertools.count(1)
        self._unanswered: set[int] = set()
        self._byes: set[int] = set()
        self._newest: dict[str, int] = {}
        self._prices, self._sizes = Numbers("price"), Numbers("quantity", is_zero_good=True)
        #: stream name -> (decoder of its data, channel, symbol)
        self._streams: dict[str, tuple[Callable[[Any, int, str], Events], Channel, str]] = {}
        self._envelope = MessageReader("envelope", BinanceEnvelope, self.counters)
        is_agg = trades == "aggTrade"
        self._mark = f'@{trades}"'.encode()
        self._read_trade: MessageReader[AggFrame] | MessageReader[BinanceTradeFrame]
        self._read_trade = (
            MessageReader(trades, AggFrame, self.counters)
            if is_agg
            else MessageReader(trades, BinanceTradeFrame, self.counters)
        )
        self._trade = self._agg_trade if is_agg else self._single_trade
        self._read_ticker = MessageReader("bookTicker", BinanceTicker, self.counters)
        self._read_kline = MessageReader("kline", BinanceKline, self.counters)
        self._read_depth = MessageReader("depth", BinanceDepth, self.counters)
        self._read_change = MessageReader("depthUpdate", BookChange, self.counters)
        self._books: dict[str, DepthBook] | None = {} if book == "changes" else None

    def url(self, wanted: Sequence[Subscription]) -> str:
        """Return the combined stream's address: it wraps every message with the name of its stream."""
        return self._url

    def subscribe_frames(self, wanted: Sequence[Subscription]) -> list[bytes]:
        """Return SUBSCRIBE requests of a hundred streams each. Errors: InputError for a timeframe that Binance does not
        have."""
        for item in wanted:
            name, read = self._stream(item)
            self._streams[name] = (read, item.channel, item.symbol)
        asked = {next(self._ids): names for names in parts(list(self._streams), STREAMS_A_FRAME)}
        self._unanswered.update(asked)
        return _requests("SUBSCRIBE", asked)

    def unsubscribe_frames(self, gone: Sequence[Subscription]) -> list[bytes]:
        """Return UNSUBSCRIBE requests of a hundred streams each."""
        asked = {next(self._ids): names for names in parts([self._stream(item)[0] for item in gone], STREAMS_A_FRAME)}
        self._byes.update(asked)
        return _requests("UNSUBSCRIBE", asked)

    def receive(self, frame: bytes, received_ns: int) -> Events:
        """Return the events of a frame. Errors: OutageError before Binance closes the connection, PeerError when it
        refuses."""
        if frame.find(self._mark, 0, MARK_WITHIN) > 0:  # the most frequent message: decoded in one step
            try:
                return self._trade(self._read_trade.decode(frame), received_ns)
            except (KeyError, FksError, *BROKEN):
                pass  # decoded again below, to report its symbol and fault
        return self._receive(frame, received_ns)

    def _receive(self, frame: bytes, received_ns: int) -> Events:
        try:
            envelope = self._envelope(frame)
        except BROKEN as error:
            return suspect_message(Channel.TRADES, "", error, frame, received_ns)
        known = self._streams.get(envelope.stream)
        if known is None:
            return self._control(envelope, frame, received_ns)
        read, channel, symbol = known
        try:
            return read(frame if channel is Channel.TRADES else envelope.data, received_ns, symbol)
        except (FksError, *BROKEN) as error:
            return suspect_message(channel, symbol, error, frame, received_ns)

    def due_frames(self, now_s: float) -> list[bytes]:
        """Return nothing: the websocket protocol's own pings suffice."""
        return []

    def _stream(self, item: Subscription) -> tuple[str, Callable[[Any, int, str], Events]]:
        symbol = item.symbol.lower()
        if item.channel is Channel.TRADES:
            return f"{symbol}@{self._trades}", self._any_trade
        if item.channel is Channel.QUOTES:
            return f"{symbol}@bookTicker", self._quote
        if item.channel is Channel.BOOK and self._books is not None:
            self._books[item.symbol] = DepthBook()
            return f"{symbol}@depth@100ms", self._book_change
        if item.channel is Channel.BOOK:
            return f"{symbol}@depth{BOOK_DEPTH}@100ms", self._book
        return f"{symbol}@kline_{offered(NAME, KLINES, item.timeframe)}", self._kline

    def _control(self, envelope: BinanceEnvelope, frame: bytes, received_ns: int) -> Events:
        if b"serverShutdown" in frame:
            raise OutageError("binance is about to close the connection")
        if self._books and b'"lastUpdateId"' in frame[:40]:
            return self._book_snapshot(frame, received_ns)
        if envelope.id in self._byes:
            self._byes.discard(envelope.id)
            if envelope.error:
                self.counters.unknown["unsubscribe refused"] += 1
            return ()
        if envelope.error:
            raise PeerError(f"binance refused a subscription: {bytes(envelope.error).decode(errors='replace')[:300]}")
        if envelope.id is None or envelope.id not in self._unanswered:
            self.counters.unknown[f"message {envelope.stream.partition('@')[2] or 'without a stream'}"] += 1
            return ()
        return answered(self._unanswered, envelope.id)

    def _any_trade(self, frame: bytes, received_ns: int, symbol: str) -> Events:
        return self._trade(self._read_trade(frame), received_ns)

    def _agg_trade(self, message: Any, received_ns: int) -> Events:
        row = message.data
        symbol, count = self._streams[message.stream][2], row.l - row.f + 1
        if row.s != symbol or count < 1:
            raise PeerError(f"{row.s} trades {row.f} to {row.l} on the stream of {symbol} cannot be")
        price, quantity = self._prices[row.p], self._sizes[row.q]
        return (PublicTrade(NAME, symbol, row.a, row.T * MS, price, quantity, row.m, count, received_ns),)

    def _single_trade(self, message: Any, received_ns: int) -> Events:
        row, symbol = message.data, self._streams[message.stream][2]
        if row.s != symbol:
            raise PeerError(f"{row.s} trade {row.t} on the stream of {symbol} cannot be")
        price, quantity = self._prices[row.p], self._sizes[row.q]
        return (PublicTrade(NAME, symbol, row.t, row.T * MS, price, quantity, row.m, 1, received_ns),)

    def _quote(self, data: msgspec.Raw, received_ns: int, symbol: str) -> Events:
        row = self._read_ticker(data)
        if not (ZERO <= row.b < HUGE and ZERO <= row.a < HUGE and ZERO <= row.B < HUGE and ZERO <= row.A < HUGE):
            raise PeerError(f"bid {row.B} at {row.b}, ask {row.A} at {row.a} cannot be")
        if not (row.b and row.a):
            self.counters.unknown["quote of an empty side"] += 1
            return ()
        if not self._is_newer("quote " + symbol, row.u):
            return ()
        return (Quote(NAME, symbol, received_ns, row.b, row.B, row.a, row.A, received_ns),)

    def _book(self, data: msgspec.Raw, received_ns: int, symbol: str) -> Events:
        row = self._read_depth(data)
        _check_levels(row.bids, row.asks)
        if not self._is_newer("book " + symbol, row.lastUpdateId):
            return ()
        return (Book(NAME, symbol, received_ns, tuple(row.bids), tuple(row.asks), row.lastUpdateId, received_ns),)

    def _book_change(self, data: msgspec.Raw, received_ns: int, symbol: str) -> Events:
        assert self._books is not None
        row, book = self._read_change(data), self._books[symbol]
        _check_levels(row.b, row.a)
        if row.s != symbol or row.u < row.U:
            raise PeerError(f"{row.s}: changes {row.U} to {row.u} on the stream of {symbol} cannot be")
        before = book.update
        if not book.change(row.U, row.u, row.b, row.a):
            return (Discontinuity(Channel.BOOK, symbol, f"changes {(before or 0) + 1} to {row.U - 1} are missing"),)
        return () if book.update is None or book.update == before else (_shown(symbol, book, row.E * MS, received_ns),)

    def _book_snapshot(self, frame: bytes, received_ns: int) -> Events:
        """Add a snapshot. It does not name its symbol: it belongs to the one book that waits for it."""
        waiting = [symbol for symbol, book in (self._books or {}).items() if book.update is None]
        if len(waiting) != 1 or self._books is None:
            self.counters.unknown["snapshot that nobody waits for"] += 1
            return ()
        try:
            row = self._read_depth(frame)
            _check_levels(row.bids, row.asks)
        except (FksError, *BROKEN) as error:
            return suspect_message(Channel.BOOK, waiting[0], error, frame, received_ns)
        book = self._books[waiting[0]]
        if not book.snapshot(row.lastUpdateId, row.bids, row.asks):
            return (
                Discontinuity(Channel.BOOK, waiting[0], f"changes after the snapshot {row.lastUpdateId} are missing"),
            )
        return (_shown(waiting[0], book, received_ns, received_ns),)

    def _kline(self, data: msgspec.Raw, received_ns: int, symbol: str) -> Events:
        row = self._read_kline(data).k
        if row.n < 0 or row.i not in TIMEFRAMES or row.s != symbol:
            raise PeerError(f"{row.s} kline {row.i} at {row.t} of {row.n} trades cannot be")
        bar = check_bar(bar_of(NAME, symbol, row.i, row.t, (row.o, row.h, row.l, row.c, row.v), trades=row.n))
        seen = BarSeen(bar, row.x, received_ns)
        return (seen, BarClosed(NAME, symbol, row.i, bar.time_ns, row.n)) if row.x else (seen,)

    def _is_newer(self, key: str, number: int) -> bool:
        if number <= self._newest.get(key, -1):
            self.counters.unknown["late " + key.partition(" ")[0]] += 1
            return False
        self._newest[key] = number
        return True


def _requests(method: str, asked: Mapping[int, Sequence[str]]) -> list[bytes]:
    return [msgspec.json.encode({"method": method, "params": names, "id": number}) for number, names in asked.items()]


def _check_levels(*sides: Rows) -> None:
    for price, size in itertools.chain(*sides):
        if not (ZERO < price < HUGE and ZERO <= size < HUGE):
            raise PeerError(f"{size} at {price} cannot be")


def _shown(symbol: str, book: DepthBook, time_ns: int, received_ns: int) -> Book:
    bids, asks = book.levels.bids.best(BOOK_DEPTH), book.levels.asks.best(BOOK_DEPTH)
    return Book(NAME, symbol, time_ns, bids, asks, book.update or 0, received_ns)
