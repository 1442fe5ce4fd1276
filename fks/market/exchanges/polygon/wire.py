"""Polygon's stocks socket, sans I/O.

What this module relies on in its documentation (*documented*: not recorded from the real exchange):
* messages are lists of events. First comes `connected`, then the key is sent, then `auth_success`, then one may
  subscribe; each ticker of a channel is answered by a status of its own.
* `T` are trades: `q` rises within a day and a ticker, with gaps. Many trades change no bar, or only its volume (odd
  lots, late reports: `c`), so Polygon's own bars are authoritative and bars built from its trades are not.
* `Q` is the consolidated best bid and ask; `AM` and `A` are bars of a minute and a second, sent when they are over. No
  bar is sent without an eligible trade. There is no order book.

A key travels in a message, never in an address. Times are the consolidated tape's, in ms.

Source: polygon.io/docs/stocks (ws_getting-started, ws_stocks_t, ws_stocks_q, ws_stocks_am, ws_stocks_a), read 2026-11.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from fks.market.exchanges.base import (
    ConnectionCounters,
    MessageReader,
    SubscriptionsAnswered,
    check_bar,
    check_trade,
    suspect_message,
)
from fks.market.exchanges.base.rows import UNREADABLE, amount_of, bar_of, check_sides, time_of
from fks.market.exchanges.base.wire import answered, parts
from fks.model.bar import PublicTrade
from fks.model.errors import ConfigError, OutageError, invalid
from fks.model.market import BarSeen, Channel, MarketEvent, Quote, Subscription, Suspect

PUBLIC_WS = "wss://socket.polygon.io"
WS_PATH = "/stocks"
TOPICS_MAX = 200  # of one subscription request
BARS = {"1s": "A", "1m": "AM"}
_TIMEFRAMES = {kind: timeframe for timeframe, kind in BARS.items()}
_CHANNELS = {"T": Channel.TRADES, "Q": Channel.QUOTES, "A": Channel.BARS, "AM": Channel.BARS}
_DAY_NS = 86_400_000_000_000
_NIGHT_NS = 5 * 3_600_000_000_000  # 04:00 to 20:00 in New York is one day at UTC-5, summer and winter
_DAY_IDS = 10**11  # sequence numbers of a day are below it


class _Kind(msgspec.Struct):
    ev: str
    sym: str = ""
    status: str = ""
    message: str = ""


class _Trade(msgspec.Struct):
    ev: str
    sym: str
    p: Decimal
    s: Decimal
    t: int
    q: int
    i: str = ""
    x: int = 0
    z: int = 0
    c: list[int] = msgspec.field(default_factory=list)
    trfi: int = 0
    trft: int = 0
    ds: str = ""


class _Quote(msgspec.Struct):
    ev: str
    sym: str
    t: int
    bp: Decimal = Decimal(0)
    bs: Decimal = Decimal(0)
    ap: Decimal = Decimal(0)
    q: int = 0
    bx: int = 0
    ax: int = 0
    c: int = 0
    i: list[int] = msgspec.field(default_factory=list)
    z: int = 0
    as_: Decimal = msgspec.field(name="as", default=Decimal(0))


class _Bar(msgspec.Struct):
    ev: str
    sym: str
    v: Decimal
    o: Decimal
    c: Decimal
    h: Decimal
    l: Decimal  # noqa: E741 - the exchange's own letter
    s: int
    e: int
    av: Decimal = Decimal(0)
    op: Decimal = Decimal(0)
    vw: Decimal = Decimal(0)
    a: Decimal = Decimal(0)
    z: Decimal = Decimal(0)
    n: int = 0
    otc: bool = False
    dv: str = ""
    dav: str = ""


def topic_of(wanted: Subscription) -> str:
    """Return Polygon's name of a subscription. Errors: InputError for a timeframe or channel that it does not
    stream."""
    match wanted.channel:
        case Channel.TRADES:
            return f"T.{wanted.symbol}"
        case Channel.QUOTES:
            return f"Q.{wanted.symbol}"
        case Channel.BARS if wanted.timeframe in BARS:
            return f"{BARS[wanted.timeframe]}.{wanted.symbol}"
        case Channel.BARS:
            raise invalid(
                "TIMEFRAME_UNKNOWN", f"polygon streams no {wanted.timeframe} bars", f"use {' or '.join(BARS)}"
            )
        case Channel.BOOK:
            raise invalid("CHANNEL_UNKNOWN", "polygon has no order book", "use quotes")


def number_of(time_ns: int, sequence: int) -> int:
    """Return a trade's number: its rank among all trades of its ticker, since sequence numbers restart every
    day."""
    return (time_ns - _NIGHT_NS) // _DAY_NS * _DAY_IDS + sequence


class PolygonWire:
    """Polygon's stocks socket without the connection. One object per connection; see
    `fks.market.exchanges.base.wire`."""

    def __init__(self, key: str, base: str | None = None, counters: ConnectionCounters | None = None) -> None:
        self._key = key
        self._url = f"{(base or PUBLIC_WS).rstrip('/')}{WS_PATH}"
        self.counters = counters = ConnectionCounters() if counters is None else counters
        self._list = msgspec.json.Decoder(list[msgspec.Raw])
        self._kind = msgspec.json.Decoder(_Kind)
        self._trade = MessageReader("polygon.T", _Trade, counters)
        self._quote = MessageReader("polygon.Q", _Quote, counters)
        self._bar = MessageReader("polygon.bar", _Bar, counters)
        self._topics: list[str] = []
        self._asked: set[str] = set()
        self._is_known, self._is_in = False, False  # the key was accepted; the subscriptions were sent

    def url(self, wanted: Sequence[Subscription]) -> str:
        """Return the address to connect to; the key is not in it."""
        return self._url

    def subscribe_frames(self, wanted: Sequence[Subscription]) -> list[bytes]:
        """Return the frame with the key; the subscriptions follow after it was accepted. Errors: InputError."""
        self._topics = [topic_of(item) for item in wanted]
        self._asked = set(self._topics)
        return [msgspec.json.encode({"action": "auth", "params": self._key})]

    def unsubscribe_frames(self, gone: Sequence[Subscription]) -> list[bytes]:
        """Return the frames that unsubscribe; subscriptions that were not sent yet never are."""
        left = [topic_of(item) for item in gone]
        if not self._is_in:
            self._topics = [topic for topic in self._topics if topic not in left]
            self._asked -= set(left)
            return []
        return [
            msgspec.json.encode({"action": "unsubscribe", "params": ",".join(part)}) for part in parts(left, TOPICS_MAX)
        ]

    def due_frames(self, now_s: float) -> list[bytes]:
        """Return the subscriptions after the key was accepted. Pings are the protocol's own."""
        if not self._is_known or self._is_in:
            return []
        self._is_in = True
        return [
            msgspec.json.encode({"action": "subscribe", "params": ",".join(part)})
            for part in parts(self._topics, TOPICS_MAX)
        ]

    def receive(self, frame: bytes, received_ns: int) -> Sequence[MarketEvent | SubscriptionsAnswered]:
        """Return the events of a message. Errors: ConfigError when the key is refused, OutageError when others use
        it."""
        try:
            rows = self._list.decode(frame)
        except msgspec.MsgspecError as error:
            return suspect_message(Channel.TRADES, "", error, frame, received_ns)
        found: list[MarketEvent | SubscriptionsAnswered] = []
        gone: list[MarketEvent] = []
        for row in rows:
            try:
                kind = self._kind.decode(row)
            except msgspec.MsgspecError as error:
                suspect, *more = suspect_message(Channel.TRADES, "", error, bytes(row), received_ns)
                found.append(suspect)
                gone += more
                continue
            if kind.ev == "status":
                found += self._answered(kind, row, received_ns)
                continue
            try:
                event = self._read(kind.ev, row, received_ns)
            except UNREADABLE as error:
                suspect, *more = suspect_message(_CHANNELS[kind.ev], kind.sym, error, bytes(row), received_ns)
                found.append(suspect)
                gone += more
            else:
                found += [] if event is None else [event]
        return found + gone

    def _answered(self, kind: _Kind, row: msgspec.Raw, received_ns: int) -> list[MarketEvent | SubscriptionsAnswered]:
        match kind.status:
            case "auth_success":
                self._is_known = True
            case "auth_failed" | "auth_timeout":
                raise ConfigError(f"polygon refused the key: {kind.message[:200]}", remedy="set data.polygon_api_key")
            case "max_connections":
                raise OutageError(f"polygon: {kind.message[:200]}", remedy="another program uses this key")
            case "success":
                return list(answered(self._asked, kind.message.rpartition(" ")[2]))
            case "error":
                reason = f"a subscription was refused: {kind.message}"
                suspect = Suspect("", "", reason, bytes(row).decode(errors="replace"), received_ns)
                refused = [topic for topic in self._asked if topic in kind.message]
                return [suspect, *(event for topic in refused for event in answered(self._asked, topic))]
            case "connected":
                pass
            case _:
                self.counters.unknown[f"polygon.status {kind.status}"] += 1
        return []

    def _read(self, ev: str, row: msgspec.Raw, received_ns: int) -> MarketEvent | None:
        match ev:
            case "T":
                trade = self._trade(row)
                return trade_of(trade.sym, trade.q, time_of(trade.t), trade.p, trade.s, received_ns)
            case "Q":
                return self._quoted(self._quote(row), received_ns)
            case "A" | "AM":
                bar = self._bar(row)
                numbers = (bar.o, bar.h, bar.l, bar.c, bar.v)
                return BarSeen(
                    check_bar(bar_of("polygon", bar.sym, _TIMEFRAMES[ev], bar.s, numbers)), True, received_ns
                )
        self.counters.unknown[f"polygon.{ev}"] += 1
        return None

    def _quoted(self, row: _Quote, received_ns: int) -> Quote | None:
        if not (row.bp and row.bs and row.ap and row.as_):
            self.counters.unknown["polygon.quote with one side"] += 1
            return None
        check_sides([(row.bp, row.bs)], [])  # consolidated from many exchanges: bid and ask may cross for a moment
        check_sides([], [(row.ap, row.as_)])
        return Quote("polygon", row.sym, time_of(row.t), row.bp, row.bs, row.ap, row.as_, received_ns)


def trade_of(
    symbol: str, sequence: int, time_ns: int, price: object, size: object, received_ns: int = 0
) -> PublicTrade:
    """Return a public trade, live or from REST; the tape does not have the taker's side. Errors: PeerError."""
    found = PublicTrade(
        "polygon",
        symbol,
        number_of(time_ns, sequence),
        time_ns,
        amount_of(price, "price"),
        amount_of(size, "size"),
        is_buyer_maker=None,
        received_ns=received_ns,
    )
    return check_trade(found)
