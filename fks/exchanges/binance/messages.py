"""The messages of Binance spot's combined stream as types. An unknown field is counted."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from fks.exchanges.base.values import ID_MAX, MS, NS_MAX

Levels = list[tuple[Decimal, Decimal]]
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
    bids: Levels
    asks: Levels


class BookChange(msgspec.Struct):
    """Changes `U` to `u` of a book."""

    e: Literal["depthUpdate"]
    E: Moment
    s: str
    U: int
    u: int
    b: Levels
    a: Levels
