"""The messages of Coinbase Advanced Trade's stream as types. An unknown field is counted."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec


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
