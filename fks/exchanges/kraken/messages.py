"""The messages of Kraken's WebSocket v2 as types. An unknown field is counted."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from fks.exchanges.base.values import ID_MAX
from fks.model.market import Channel

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
