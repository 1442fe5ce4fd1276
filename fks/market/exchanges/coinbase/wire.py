"""Coinbase Advanced Trade's stream, sans I/O.

| Channel | Coinbase's | What proves it whole |
|---|---|---|
| trades | `market_trades` | `sequence_num`, one for the whole connection, rises by one |
| bars | `candles`: five minutes, no others | nothing says that a bar is over: it is when the next one begins |
| quotes | `ticker` | `sequence_num` |
| book | `level2`, its data named `l2_data`; the whole book, of which the best levels are yielded | `sequence_num` |

After a gap in `sequence_num` every channel has a Discontinuity and books are requested again. The snapshot of trades at
a subscription is handed on too, oldest first; known trades are recognised by id.
`heartbeats` are subscribed always: without them Coinbase closes a quiet connection.
Source: docs.cdp.coinbase.com/advanced-trade/docs/ws-channels, read 2026-07, and the recording of 2026-08-09.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from fks.market.exchanges.base import (
    BROKEN,
    HUGE,
    ID_MAX,
    ZERO,
    BookResync,
    ConnectionCounters,
    Levels,
    MessageReader,
    Numbers,
    SubscriptionsAnswered,
    check_bar,
    ns_of_iso,
    suspect_message,
)
from fks.market.exchanges.base.rows import bar_of
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import FksError, PeerError, invalid
from fks.model.market import BarSeen, Book, Channel, Discontinuity, MarketEvent, Quote, Subscription, Suspect


class CoinbaseMessage(msgspec.Struct, gc=False):
    """Any message: `channel` says what its events are. An error has `type` instead, and no sequence number."""

    channel: str = ""
    sequence_num: int = -1
    timestamp: str = ""
    events: msgspec.Raw = msgspec.Raw()
    client_id: str = ""
    type: str = ""
    message: str = ""


class CoinbaseTrade(msgspec.Struct, gc=False):
    """One public trade. `side` is the maker's."""

    product_id: str
    trade_id: str
    price: str
    size: str
    time: str
    side: Literal["BUY", "SELL"]


class CoinbaseTrades(msgspec.Struct, gc=False):
    """Trades of one product, newest first."""

    trades: list[CoinbaseTrade]
    type: str = ""


class TradesMessage(msgspec.Struct, gc=False):
    """A message of trades, the most frequent message, decoded in one step."""

    channel: str
    sequence_num: int
    timestamp: str
    events: list[CoinbaseTrades]
    client_id: str = ""


class Candle(msgspec.Struct):
    """One five-minute bar. `start` in seconds."""

    product_id: str
    start: str
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal


class Candles(msgspec.Struct):
    """Bars of one product, of a snapshot in no order to rely on."""

    candles: list[Candle]
    type: str = ""


class CoinbaseTicker(msgspec.Struct):
    """Best bid and ask, and the day and year so far."""

    product_id: str
    best_bid: Decimal
    best_bid_quantity: Decimal
    best_ask: Decimal
    best_ask_quantity: Decimal
    type: str = ""
    price: str = ""
    volume_24_h: str = ""
    low_24_h: str = ""
    high_24_h: str = ""
    low_52_w: str = ""
    high_52_w: str = ""
    price_percent_chg_24_h: str = ""


class Tickers(msgspec.Struct):
    """Quotes."""

    tickers: list[CoinbaseTicker]
    type: str = ""


class LevelChange(msgspec.Struct, gc=False):
    """One price level; `new_quantity` zero removes it. `side` is bid or offer."""

    side: str
    price_level: Decimal
    new_quantity: Decimal
    event_time: str = ""


class BookChanges(msgspec.Struct):
    """A whole book or its changes."""

    type: str
    product_id: str
    updates: list[LevelChange]


class StandingSubscriptions(msgspec.Struct):
    """The subscriptions of now: channel to products."""

    subscriptions: dict[str, list[str]]


PUBLIC_WS = "wss://advanced-trade-ws.coinbase.com"
BOOK_DEPTH = 25
LIVE_TIMEFRAME = "5m"
NAME = "coinbase"
#: our channel -> Coinbase's name in a subscription
NAMES = {
    Channel.TRADES: "market_trades",
    Channel.BARS: "candles",
    Channel.QUOTES: "ticker",
    Channel.BOOK: "level2",
}
_CHANNELS = {**{name: channel for channel, name in NAMES.items()}, "l2_data": Channel.BOOK}
_TRADES = b'{"channel":"market_trades"'
_QUIET = frozenset({"heartbeats"})
Events = Sequence[MarketEvent | SubscriptionsAnswered]


class CoinbaseWire:
    """One connection of Advanced Trade. See the module for its channels and `Wire` for the rules."""

    def __init__(self, base: str | None = None, counters: ConnectionCounters | None = None) -> None:
        self._url = (base or PUBLIC_WS).rstrip("/")
        self.counters = ConnectionCounters() if counters is None else counters
        self._wanted: dict[Channel, list[str]] = {}
        self._known: set[str] = set()
        self._traded: set[str] = set()
        self._prices, self._sizes = Numbers("price"), Numbers("size", is_zero_good=True)
        self._unanswered = 0
        self._is_subscribed = False
        self._sequence: int | None = None
        self._resync = BookResync()
        self._books: dict[str, Levels] = {}
        self._bars: dict[str, Bar] = {}
        self._message = MessageReader("message", CoinbaseMessage, self.counters)
        self._trades = MessageReader("market_trades", TradesMessage, self.counters)
        self._candles = MessageReader("candles", list[Candles], self.counters)
        self._tickers = MessageReader("ticker", list[Tickers], self.counters)
        self._changes = MessageReader("l2_data", list[BookChanges], self.counters)
        self._standing = MessageReader("subscriptions", list[StandingSubscriptions], self.counters)
        self._read: dict[Channel, Callable[[CoinbaseMessage, int], list[MarketEvent]]] = {
            Channel.BARS: self._read_bars,
            Channel.QUOTES: self._read_quotes,
            Channel.BOOK: self._read_books,
        }

    def url(self, wanted: Sequence[Subscription]) -> str:
        """Return the public address."""
        return self._url

    def subscribe_frames(self, wanted: Sequence[Subscription]) -> list[bytes]:
        """Return one request a channel, and one for heartbeats. Errors: InputError for bars of other than five
        minutes."""
        for item in wanted:
            if item.channel is Channel.BARS and item.timeframe != LIVE_TIMEFRAME:
                raise invalid("TIMEFRAME_UNKNOWN", f"coinbase has no live {item.timeframe} bars", "aggregate trades")
            symbols = self._wanted.setdefault(item.channel, [])
            self._known.add(item.symbol)
            if item.channel is Channel.TRADES:
                self._traded.add(item.symbol)
            if item.symbol not in symbols:
                symbols.append(item.symbol)
        frames = [_request("subscribe", NAMES[channel], symbols) for channel, symbols in self._wanted.items()]
        frames.append(_request("subscribe", "heartbeats", []))
        self._unanswered = len(frames)
        return frames

    def unsubscribe_frames(self, gone: Sequence[Subscription]) -> list[bytes]:
        """Return one request a channel."""
        left: dict[Channel, list[str]] = {}
        for item in gone:
            left.setdefault(item.channel, []).append(item.symbol)
            if item.channel is Channel.BOOK:
                self._resync.drop(item.symbol)
        return [_request("unsubscribe", NAMES[channel], symbols) for channel, symbols in left.items()]

    def receive(self, frame: bytes, received_ns: int) -> Events:
        """Return the events of a frame."""
        if frame.startswith(_TRADES):  # the most frequent message: decoded in one step
            try:
                trades = self._trades.decode(frame)
                if self._sequence is None or trades.sequence_num == self._sequence + 1:
                    events = self._read_trades(trades.events, received_ns)
                    self._sequence = trades.sequence_num
                    return events
            except (FksError, *BROKEN):
                pass  # decoded again below, to report its symbol and fault
        try:
            message = self._message(frame)
        except BROKEN as error:
            return suspect_message(Channel.TRADES, "", error, frame, received_ns)
        if message.type == "error":
            return self._refused(message, frame, received_ns)
        missing: list[MarketEvent] = []
        if message.sequence_num >= 0:
            last, self._sequence = self._sequence, message.sequence_num
            if last is not None and message.sequence_num != last + 1:
                if message.sequence_num <= last:
                    self._sequence = last
                    self.counters.unknown["message again"] += 1
                    return ()
                missing = self._missing(last + 1, message.sequence_num)
        channel = _CHANNELS.get(message.channel)
        if channel is None:
            return [*missing, *self._control(message)] if missing else self._control(message)
        try:
            events = (
                self._trades_of(frame, received_ns)
                if channel is Channel.TRADES
                else self._read[channel](message, received_ns)
            )
        except (FksError, *BROKEN) as error:
            events = self._suspect(channel, message, frame, error, received_ns)
        return missing + events if missing else events

    def due_frames(self, now_s: float) -> list[bytes]:
        """Return requests for new snapshots of books after a gap. Errors: PeerError for a book that stays broken."""
        book = NAMES[Channel.BOOK]
        return [
            _request(kind, book, [symbol])
            for symbol in self._resync.due(now_s)
            for kind in ("unsubscribe", "subscribe")
        ]

    # ── subscriptions and gaps ──────────────────────────────────────────────────────────────────
    def _control(self, message: CoinbaseMessage) -> Events:
        if message.channel != "subscriptions":
            if message.channel not in _QUIET:
                self.counters.unknown[f"message {message.channel or 'without a channel'}"] += 1
            return ()
        try:
            stands = self._standing(message.events)[-1].subscriptions
        except (IndexError, *BROKEN) as error:
            raise PeerError(f"coinbase: subscriptions that cannot be read: {error}") from error
        is_all = all(set(symbols) <= set(stands.get(NAMES[channel], ())) for channel, symbols in self._wanted.items())
        return self._answered(is_all=is_all)

    def _answered(self, *, is_all: bool) -> Events:
        self._unanswered -= 1
        if self._is_subscribed or not (is_all or self._unanswered <= 0):
            return ()
        self._is_subscribed = True
        return (SubscriptionsAnswered(),)

    def _refused(self, message: CoinbaseMessage, frame: bytes, received_ns: int) -> Events:
        text = frame[:1000].decode(errors="replace")
        suspect = Suspect("subscribe", "", f"subscription refused: {message.message}", text, received_ns)
        return [suspect, *self._answered(is_all=False)]

    def _missing(self, first: int, next_: int) -> list[MarketEvent]:
        why = f"messages {first} to {next_ - 1} of the connection are missing"
        # also a book that waits for its snapshot, which may be in the gap
        for symbol in self._wanted.get(Channel.BOOK, ()):
            self._ask_again(symbol)
        return [Discontinuity(channel, symbol, why) for channel, symbols in self._wanted.items() for symbol in symbols]

    def _ask_again(self, symbol: str) -> None:
        self._books.pop(symbol, None)
        self._resync.broken(symbol)

    def _suspect(
        self, channel: Channel, message: CoinbaseMessage, frame: bytes, why: object, received_ns: int
    ) -> list[MarketEvent]:
        text = bytes(message.events)
        wanted = self._wanted.get(channel, [])
        symbols = [symbol for symbol in wanted if f'"{symbol}"'.encode() in text] or wanted or [""]
        first, *rest = [
            event for symbol in symbols for event in suspect_message(channel, symbol, why, frame, received_ns)
        ]
        for symbol in wanted and symbols if channel is Channel.BOOK else ():
            self._ask_again(symbol)
        return [first, *(event for event in rest if isinstance(event, Discontinuity))]  # the message is reported once

    # ── data ─────────────────────────────────────────────────────────────────────────────────────
    def _trades_of(self, frame: bytes, received_ns: int) -> list[MarketEvent]:
        return self._read_trades(self._trades(frame).events, received_ns)

    def _read_trades(self, rows: list[CoinbaseTrades], received_ns: int) -> list[MarketEvent]:
        events: list[MarketEvent] = []
        known, prices, sizes = self._traded, self._prices, self._sizes
        for event in rows:
            for row in reversed(event.trades):
                symbol, number = row.product_id, row.trade_id
                if symbol not in known or not number.isdecimal() or len(number) > 19 or int(number) > ID_MAX:
                    raise PeerError(f"{symbol} trade {number[:40]} cannot be")
                price, size, time_ns = prices[row.price], sizes[row.size], ns_of_iso(row.time)
                events.append(
                    PublicTrade(NAME, symbol, int(number), time_ns, price, size, row.side == "BUY", 1, received_ns)
                )
        return events

    def _read_quotes(self, message: CoinbaseMessage, received_ns: int) -> list[MarketEvent]:
        time_ns = ns_of_iso(message.timestamp)
        events: list[MarketEvent] = []
        for event in self._tickers(message.events):
            for row in event.tickers:
                bid, bid_size, ask, ask_size = row.best_bid, row.best_bid_quantity, row.best_ask, row.best_ask_quantity
                numbers = (bid, bid_size, ask, ask_size)
                if row.product_id not in self._known or not all(ZERO <= number < HUGE for number in numbers):
                    raise PeerError(f"{row.product_id}: bid {bid_size} at {bid}, ask {ask_size} at {ask} cannot be")
                if not (bid and ask):
                    self.counters.unknown["quote of an empty side"] += 1
                    continue
                events.append(Quote(NAME, row.product_id, time_ns, bid, bid_size, ask, ask_size, received_ns))
        return events

    def _read_bars(self, message: CoinbaseMessage, received_ns: int) -> list[MarketEvent]:
        events: list[MarketEvent] = []
        bars = [_bar(row) for event in self._candles(message.events) for row in event.candles]
        if not self._known.issuperset(bar.symbol for bar in bars):
            raise PeerError("bars without a subscription")
        for bar in sorted(bars, key=lambda bar: bar.time_ns):
            newest = self._bars.get(bar.symbol)
            if newest is not None and bar.time_ns > newest.time_ns:  # the next bar has begun
                events.append(BarSeen(newest, True, received_ns))
            if newest is None or bar.time_ns >= newest.time_ns:
                self._bars[bar.symbol] = bar
            events.append(BarSeen(bar, newest is not None and bar.time_ns < newest.time_ns, received_ns))
        return events

    def _read_books(self, message: CoinbaseMessage, received_ns: int) -> list[MarketEvent]:
        time_ns = ns_of_iso(message.timestamp)
        events: list[MarketEvent] = []
        for event in self._changes(message.events):
            bids: list[tuple[Decimal, Decimal]] = []
            asks: list[tuple[Decimal, Decimal]] = []
            for row in event.updates:
                if not (ZERO < row.price_level < HUGE and ZERO <= row.new_quantity < HUGE) or row.side not in (
                    "bid",
                    "offer",
                ):
                    raise PeerError(
                        f"{event.product_id}: {row.side} of {row.new_quantity} at {row.price_level} cannot be"
                    )
                (bids if row.side == "bid" else asks).append((row.price_level, row.new_quantity))
            if event.product_id not in self._known:
                raise PeerError(f"book without a subscription:  {event.product_id}")
            levels = self._books.get(event.product_id)
            if event.type == "snapshot":
                levels = self._books[event.product_id] = Levels()
                levels.bids.replace(bids)
                levels.asks.replace(asks)
                self._resync.whole(event.product_id)
            elif levels is None:
                self.counters.unknown["book before its snapshot"] += 1
                continue
            else:
                levels.bids.change(bids)
                levels.asks.change(asks)
            events.append(
                Book(
                    NAME,
                    event.product_id,
                    time_ns,
                    levels.bids.best(BOOK_DEPTH),
                    levels.asks.best(BOOK_DEPTH),
                    message.sequence_num,
                    received_ns,
                )
            )
        return events


def _request(kind: str, channel: str, symbols: list[str]) -> bytes:
    asked: dict[str, object] = {"type": kind, "channel": channel}
    if symbols:
        asked["product_ids"] = symbols
    return msgspec.json.encode(asked)


def _bar(row: Candle) -> Bar:
    numbers = (row.open, row.high, row.low, row.close, row.volume)
    return check_bar(bar_of(NAME, row.product_id, LIVE_TIMEFRAME, int(row.start) * 1000, numbers))
