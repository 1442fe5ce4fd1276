"""OKX's two public sockets, sans I/O.

What this module relies on in its documentation (*documented*: not recorded from the real exchange):
* `trades-all` pushes every single trade by the same `tradeId` that `history-trades` pages through (`trades` lumps
  them). Ids rise, not necessarily by one. History is returned backwards: the newest below an id.
* trades and candles come from another address (`business`) than quotes and books (`public`): one connection each.
* `bbo-tbt` and `books5` are whole snapshots, so nothing can drift. Levels are price, size, "0", orders. `seqId` rises
  with each change: a snapshot with a smaller one is an older book and left out, unless its time is later: then OKX
  counts from the beginning again, as it does at maintenance. Both are counted.
* candles of a day and longer begin in Hong Kong unless their name ends in `utc`; the ninth field says that one is over.
* after 30 s without a message the socket is cut; the text `ping` is answered `pong`.

Source: www.okx.com/docs-v5/en (websocket, order book trading: market data, public data), read 2026-11; ccxt 4.5.90.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from functools import partial

import msgspec

from fks.market.exchanges.base import ConnectionCounters, MessageReader, SubscriptionsAnswered, suspect_message
from fks.market.exchanges.base.rows import BOOK_LEVELS, UNREADABLE, RowReader, bar_of, check_sides, time_of, trade_of
from fks.market.exchanges.base.values import check_bar, offered
from fks.market.exchanges.base.wire import answered, parts
from fks.model.bar import PublicTrade
from fks.model.errors import OutageError, PeerError
from fks.model.market import BarSeen, Book, Channel, MarketEvent, Quote, Subscription, Suspect

PUBLIC_WS = "wss://ws.okx.com:8443"
TOPICS_MAX = 100  # of one request; together they may be 64 KB long
PING_S = 20.0
CHANNELS = {Channel.TRADES: "trades-all", Channel.QUOTES: "bbo-tbt", Channel.BOOK: "books5"}
BARS = {
    "1s": "1s",
    "1m": "1m",
    "5m": "5m",
    "15m": "15m",
    "30m": "30m",
    "1h": "1H",
    "4h": "4H",
    "1d": "1Dutc",
    "1w": "1Wutc",
    "1M": "1Mutc",
}
_TIMEFRAMES = {f"candle{bar}": timeframe for timeframe, bar in BARS.items()}


class _Arg(msgspec.Struct, frozen=True):
    channel: str
    inst_id: str = msgspec.field(name="instId", default="")


class _Message(msgspec.Struct):
    arg: _Arg = _Arg("")
    data: msgspec.Raw = msgspec.Raw(b"null")
    action: str = ""
    event: str = ""
    code: str = ""
    msg: str = ""
    connId: str = ""
    channel: str = ""
    connCount: str = ""
    id: str = ""


class OkxTrade(msgspec.Struct):
    """One public trade, as the stream and REST write it."""

    inst_id: str = msgspec.field(name="instId")
    trade_id: str = msgspec.field(name="tradeId")
    price: Decimal = msgspec.field(name="px")
    quantity: Decimal = msgspec.field(name="sz")
    side: str
    time_ms: str = msgspec.field(name="ts")
    source: str = ""
    seq_id: int = msgspec.field(name="seqId", default=0)


class _Levels(msgspec.Struct):
    asks: list[list[Decimal]]
    bids: list[list[Decimal]]
    time_ms: str = msgspec.field(name="ts")
    inst_id: str = msgspec.field(name="instId", default="")
    seq_id: int = msgspec.field(name="seqId", default=0)
    prev_seq_id: int = msgspec.field(name="prevSeqId", default=0)
    checksum: int = 0


def arg_of(wanted: Subscription) -> dict[str, str]:
    """Return OKX's name of a subscription. Errors: InputError TIMEFRAME_UNKNOWN."""
    if wanted.channel is Channel.BARS:
        return {"channel": f"candle{BARS[offered('okx', BARS, wanted.timeframe)]}", "instId": wanted.symbol}
    return {"channel": CHANNELS[wanted.channel], "instId": wanted.symbol}


def side_of(wanted: Subscription) -> str:
    """Return which of OKX's two public addresses has this channel."""
    return "business" if wanted.channel in (Channel.TRADES, Channel.BARS) else "public"


class OkxWire:
    """One of OKX's two public sockets without the connection. One object per connection; see
    `fks.market.exchanges.base.wire`."""

    def __init__(self, base: str | None = None, counters: ConnectionCounters | None = None) -> None:
        self._base = (base or PUBLIC_WS).rstrip("/")
        self.counters = counters = ConnectionCounters() if counters is None else counters
        self._message = MessageReader("okx", _Message, counters)
        self._trades = RowReader("okx.trades-all", OkxTrade, counters)
        self._candles: RowReader[list[str]] = RowReader("okx.candle", list[str], counters)
        self._levels = RowReader("okx.books", _Levels, counters)
        self._asked: set[tuple[str, str]] = set()
        self._left: set[tuple[str, str]] = set()
        self._pinged_s: float | None = None
        self._newest: dict[tuple[Channel, str], tuple[int, int]] = {}  # (seqId, time in ms) of each book

    def url(self, wanted: Sequence[Subscription]) -> str:
        """Return the address to connect to: all of `wanted` are of one side."""
        sides = {side_of(item) for item in wanted}
        assert len(sides) == 1, "one connection has one side"
        return f"{self._base}/ws/v5/{sides.pop()}"

    def subscribe_frames(self, wanted: Sequence[Subscription]) -> list[bytes]:
        """Return the requests that subscribe. Errors: InputError TIMEFRAME_UNKNOWN."""
        args = [arg_of(item) for item in wanted]
        self._asked = {(arg["channel"], arg["instId"]) for arg in args}
        return [msgspec.json.encode({"op": "subscribe", "args": part}) for part in parts(args, TOPICS_MAX)]

    def unsubscribe_frames(self, gone: Sequence[Subscription]) -> list[bytes]:
        """Return the requests that unsubscribe."""
        args = [arg_of(item) for item in gone]
        self._left.update((arg["channel"], arg["instId"]) for arg in args)
        return [msgspec.json.encode({"op": "unsubscribe", "args": part}) for part in parts(args, TOPICS_MAX)]

    def due_frames(self, now_s: float) -> list[bytes]:
        """Return a ping when one is due."""
        if self._pinged_s is not None and now_s - self._pinged_s < PING_S:
            return []
        self._pinged_s = now_s
        return [b"ping"]

    def receive(self, frame: bytes, received_ns: int) -> Sequence[MarketEvent | SubscriptionsAnswered]:
        """Return the events of a message; see `fks.market.exchanges.base.wire`. Errors: OutageError when OKX announces
        a shutdown."""
        if frame == b"pong":
            return []
        try:
            message = self._message(frame)
        except UNREADABLE as error:
            return suspect_message(Channel.TRADES, "", error, frame, received_ns)
        if message.event:
            return self._event(message, frame, received_ns)
        channel, symbol = message.arg.channel, message.arg.inst_id
        if channel == "trades-all":
            make = partial(trade, symbol, received_ns)
            return self._trades.read(message.data, make, Channel.TRADES, symbol, received_ns)
        if channel in _TIMEFRAMES:
            make_bar = partial(_live_bar, symbol, _TIMEFRAMES[channel], received_ns)
            return self._candles.read(message.data, make_bar, Channel.BARS, symbol, received_ns)
        if channel == "bbo-tbt":
            make_quote = partial(self._quote, symbol, received_ns)
            return self._levels.read(message.data, make_quote, Channel.QUOTES, symbol, received_ns)
        if channel == "books5":
            make_book = partial(self._book, symbol, received_ns)
            return self._levels.read(message.data, make_book, Channel.BOOK, symbol, received_ns)
        self.counters.unknown[f"okx.{channel}"] += 1
        return []

    def _event(
        self, message: _Message, frame: bytes, received_ns: int
    ) -> Sequence[MarketEvent | SubscriptionsAnswered]:
        match message.event:
            case "subscribe":
                return answered(self._asked, (message.arg.channel, message.arg.inst_id))
            case "notice":
                raise OutageError(f"okx goes away: {message.msg[:300]}")
            case "error":
                refused = _named(self._asked, message)
                if not refused and _named(self._left, message):
                    self.counters.unknown["okx.unsubscribe refused"] += 1  # it had no effect before, and has none now
                    return []
                if not refused:
                    raise PeerError(f"okx refused what was asked: {message.code} {message.msg[:300]}")
                reason = f"the subscription {' '.join(refused[0])} was refused: {message.code} {message.msg}"
                suspect = Suspect("", refused[0][1], reason, frame.decode(errors="replace"), received_ns)
                return [suspect, *answered(self._asked, refused[0])]
            case "unsubscribe" | "channel-conn-count":
                return []
        self.counters.unknown[f"okx.{message.event}"] += 1
        return []

    def _is_newer(self, channel: Channel, symbol: str, row: _Levels) -> bool:
        """Return whether a snapshot follows those before it, by its sequence number."""
        sequence, time_ms = row.seq_id, int(row.time_ms)
        if sequence <= 0:
            return True
        newest, newest_ms = self._newest.get((channel, symbol), (0, 0))
        if sequence < newest and time_ms <= newest_ms:
            self.counters.unknown[f"okx.{channel} out of order"] += 1
            return False
        if sequence < newest:
            self.counters.unknown[f"okx.{channel} counted again from the beginning"] += 1
        self._newest[channel, symbol] = (sequence, time_ms)
        return True

    def _book(self, symbol: str, received_ns: int, row: _Levels) -> Book | None:
        bids, asks = _pairs(row.bids), _pairs(row.asks)
        check_sides(bids, asks)
        if not self._is_newer(Channel.BOOK, symbol, row):
            return None
        return Book("okx", symbol, time_of(int(row.time_ms)), bids, asks, max(row.seq_id, 0), received_ns)

    def _quote(self, symbol: str, received_ns: int, row: _Levels) -> Quote | None:
        if not row.bids or not row.asks:
            self.counters.unknown["okx.quote with one side"] += 1
            return None
        bids, asks = _pairs(row.bids), _pairs(row.asks)
        check_sides(bids, asks)
        if not self._is_newer(Channel.QUOTES, symbol, row):
            return None
        return Quote("okx", symbol, time_of(int(row.time_ms)), *bids[0], *asks[0], received_ns)


def _named(subscriptions: set[tuple[str, str]], message: _Message) -> list[tuple[str, str]]:
    """Return the subscriptions that a refusal names."""
    address = (message.arg.channel, message.arg.inst_id)
    return [one for one in subscriptions if one == address or f"channel:{one[0]},instId:{one[1]} " in f"{message.msg} "]


def _pairs(levels: list[list[Decimal]]) -> tuple[tuple[Decimal, Decimal], ...]:
    return tuple((level[0], level[1]) for level in levels[:BOOK_LEVELS])


def trade(symbol: str, received_ns: int, row: OkxTrade) -> PublicTrade:
    """Return a public trade, live or (`received_ns` 0) from REST. Errors: PeerError when it cannot be."""
    if row.inst_id != symbol:
        raise PeerError(f"a trade of {row.inst_id} came under {symbol}")
    return trade_of("okx", symbol, row.trade_id, int(row.time_ms), row.price, row.quantity, row.side, received_ns)


def _live_bar(symbol: str, timeframe: str, received_ns: int, row: list[str]) -> BarSeen:
    return BarSeen(check_bar(bar_of("okx", symbol, timeframe, int(row[0]), row[1:6])), is_over(row), received_ns)


def is_over(row: Sequence[str]) -> bool:
    """Return whether a candle is marked as over. Errors: PeerError without that mark."""
    if row[8] not in ("0", "1"):
        raise PeerError(f"a bar says {row[8]!r} about its end")
    return row[8] == "1"
