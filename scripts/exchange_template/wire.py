"""The websocket protocol of an exchange that does not exist, without the websocket.

Source: nothing; it is made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from functools import partial

import msgspec

from fks.market.exchanges.base import ConnectionCounters, MessageReader, SubscriptionsAnswered, suspect_message
from fks.market.exchanges.base.rows import UNREADABLE, RowReader, bar_of, check_sides, time_of, trade_of
from fks.market.exchanges.base.values import check_bar, offered
from fks.market.exchanges.base.wire import answered
from fks.model.bar import PublicTrade
from fks.model.market import BarSeen, Channel, MarketEvent, Quote, Subscription, Suspect

NAME = "template"
PUBLIC_WS = "wss://stream.template.invalid"
TIMEFRAMES = frozenset({"1m", "1h"})
STREAMS = {Channel.TRADES: "trades", Channel.BARS: "bars", Channel.QUOTES: "quotes"}


# One struct for each kind of message, with every field that the documentation names.
class _Message(msgspec.Struct):
    stream: str = ""
    rows: msgspec.Raw = msgspec.Raw(b"[]")
    op: str = ""
    why: str = ""


class Trade(msgspec.Struct):
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
    """The websocket protocol without the connection. One object per connection; `fks.market.exchanges.base.wire` has
    the rules."""

    def __init__(self, base: str | None = None, counters: ConnectionCounters | None = None) -> None:
        self._url = (base or PUBLIC_WS).rstrip("/")
        self.counters = counters = ConnectionCounters() if counters is None else counters
        self._message = MessageReader(NAME, _Message, counters)
        self._trades = RowReader(f"{NAME}.trades", Trade, counters)
        self._bars = RowReader(f"{NAME}.bars", _Bar, counters)
        self._quotes = RowReader(f"{NAME}.quotes", _Quote, counters)
        self._asked: set[str] = set()

    def url(self, wanted: Sequence[Subscription]) -> str:
        """Return the address to connect to."""
        return self._url

    def subscribe_frames(self, wanted: Sequence[Subscription]) -> list[bytes]:
        """Return the frame that subscribes. Errors: InputError TIMEFRAME_UNKNOWN."""
        names = [_stream_of(item) for item in wanted]
        self._asked = set(names)
        return [msgspec.json.encode({"op": "subscribe", "streams": names})]

    def unsubscribe_frames(self, gone: Sequence[Subscription]) -> list[bytes]:
        """Return the frame that unsubscribes."""
        return [msgspec.json.encode({"op": "unsubscribe", "streams": [_stream_of(item) for item in gone]})]

    def due_frames(self, now_s: float) -> list[bytes]:
        """Return nothing: this protocol needs no pings."""
        return []

    def receive(self, frame: bytes, received_ns: int) -> Sequence[MarketEvent | SubscriptionsAnswered]:
        """Return the events of a message."""
        try:
            message = self._message(frame)
        except UNREADABLE as error:
            return suspect_message(Channel.TRADES, "", error, frame, received_ns)
        kind, symbol, timeframe = (*message.stream.split(":"), "", "")[:3]
        match message.op or kind:
            case "subscribed":
                return answered(self._asked, message.stream)
            case "refused":
                suspect = Suspect(kind, symbol, f"subscription refused: {message.why}", message.stream, received_ns)
                return [suspect, *answered(self._asked, message.stream)]
            case "unsubscribed":
                return []
            case "trades":
                return self._trades.read(
                    message.rows, partial(traded, symbol, received_ns), Channel.TRADES, symbol, received_ns
                )
            case "bars":
                make = partial(_seen, symbol, timeframe, received_ns)
                return self._bars.read(message.rows, make, Channel.BARS, symbol, received_ns)
            case "quotes":
                return self._quotes.read(
                    message.rows, partial(_quoted, symbol, received_ns), Channel.QUOTES, symbol, received_ns
                )
        self.counters.unknown[f"{NAME}.{message.op or kind}"] += 1
        return []


def _stream_of(wanted: Subscription) -> str:
    if wanted.channel is not Channel.BARS:
        return f"{STREAMS[wanted.channel]}:{wanted.symbol}"
    return f"bars:{wanted.symbol}:{offered(NAME, TIMEFRAMES, wanted.timeframe)}"


def traded(symbol: str, received_ns: int, row: Trade) -> PublicTrade:
    return trade_of(NAME, symbol, str(row.id), row.t, row.p, row.q, row.side, received_ns)


def _seen(symbol: str, timeframe: str, received_ns: int, row: _Bar) -> BarSeen:
    bar = check_bar(bar_of(NAME, symbol, timeframe, row.t, (row.o, row.h, row.l, row.c, row.v)))
    return BarSeen(bar, row.done, received_ns)


def _quoted(symbol: str, received_ns: int, row: _Quote) -> Quote:
    check_sides([(row.bid, row.bid_size)], [(row.ask, row.ask_size)])
    return Quote(NAME, symbol, time_of(row.t), row.bid, row.bid_size, row.ask, row.ask_size, received_ns)
