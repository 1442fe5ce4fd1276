"""Market data values besides trades and bars, subscriptions, and the capabilities of an exchange."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from fks.model.bar import Bar, BarClosed, PublicTrade


class Channel(StrEnum):
    """A kind of live data. `BARS` are the exchange's own bars, forming and closed."""

    TRADES = "trades"
    BARS = "bars"
    QUOTES = "quotes"
    BOOK = "book"


class TradeIds(StrEnum):
    """Meaning of an exchange's trade ids.

    CONTIGUOUS: they rise by one, so a missing trade is seen at once. RISING: later is larger, and numbers may be left
    out. OPAQUE: only equality means something.
    """

    CONTIGUOUS = "contiguous"
    RISING = "rising"
    OPAQUE = "opaque"


class TradesFrom(StrEnum):
    """Start of a list of past trades at REST: an id, a time, or only the newest trades are available.

    STREAM: there are no past trades. `fetch_trades` returns those that arrived on the present subscription, from an id
    or a time, and raises PeerError for older ones; without either it returns one mark of the present: the last id, the
    exchange's time and quantity 0. It raises OutageError while no trades would arrive.
    """

    ID = "id"
    TIME = "time"
    NEWEST = "newest"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Allowance:
    """The weight that one API key or address may use in a window."""

    weight: int
    window_s: float


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The limits of one exchange. The defaults are for an exchange whose documentation states none.

    `requests`: weight of REST requests of one address or key. `connects`: websocket connections that one address may
    open, whatever the key. `orders`: new orders of one key. `is_account_by_key`: requests about an account are counted
    by key, apart from market data, and each process has a key of its own.
    """

    requests: Allowance = Allowance(60, 60)
    connects: Allowance = Allowance(60, 60)
    orders: Allowance = Allowance(100, 10)
    is_account_by_key: bool = False


@dataclass(frozen=True, slots=True)
class ExchangeCapabilities:
    """Everything that FKS knows of one exchange. Each value is in `fks/market/exchanges/<name>/capabilities.py`.

    `timeframes`: those of the bars that REST returns; `live_bars`: those that are streamed, None: the same.
    `channels`: the kinds of live data that `watch` accepts. `newest_max`: the number of trades returned where REST
    returns only the newest, 0: not documented. `bars_page_max`: bars to request at once; a page may be shorter.
    `bars_newest_max`: REST returns only so many of the newest bars of a timeframe, the one that forms included; older
    ones are built from its trades, which it serves since the listing. 0: it returns bars of any age.
    `streams_max`: subscriptions of one connection. `connections_max`: connections of one address or key, 0: not
    documented. `has_empty_bars`: whether the exchange returns bars in which nothing was traded. `calendar`: "24/7", or
    a name of exchange_calendars. `separator`: the text between base and quote in a symbol, None: symbols are tickers.
    `renamed`: currencies that it had another name for, old name -> name: XBT/USD and BTC/USD are one market.
    `key_setting`: the setting of `[data]` that holds the API key for market data, None: no key is needed.
    """

    timeframes: frozenset[str]
    channels: frozenset[Channel]
    trade_ids: TradeIds
    trades_from: TradesFrom
    streams_max: int
    has_empty_bars: bool
    calendar: str = "24/7"
    newest_max: int = 0
    live_bars: frozenset[str] | None = None
    connections_max: int = 0
    bars_page_max: int = 1000
    bars_newest_max: int = 0
    separator: str | None = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    key_setting: str | None = None
    limits: RateLimits = RateLimits()

    @property
    def streamed_bars(self) -> frozenset[str]:
        """The timeframes whose bars it streams."""
        return self.timeframes if self.live_bars is None else self.live_bars


@dataclass(frozen=True, slots=True)
class Subscription:
    """One channel of one symbol; `timeframe` for BARS alone."""

    channel: Channel
    symbol: str
    timeframe: str = ""


@dataclass(frozen=True, slots=True)
class Quote:
    """Best bid and ask. `time_ns` is the exchange's, or `received_ns` where it has none."""

    exchange: str
    symbol: str
    time_ns: int
    bid: Decimal
    bid_size: Decimal
    ask: Decimal
    ask_size: Decimal
    received_ns: int = 0


@dataclass(frozen=True, slots=True)
class Book:
    """The best levels of an order book, best first, as (price, size). `sequence` is the exchange's, 0 where it has
    none."""

    exchange: str
    symbol: str
    time_ns: int
    bids: tuple[tuple[Decimal, Decimal], ...]
    asks: tuple[tuple[Decimal, Decimal], ...]
    sequence: int = 0
    received_ns: int = 0


@dataclass(frozen=True, slots=True)
class BarSeen:
    """The exchange's own bar; `is_closed`: the exchange reports it as final."""

    bar: Bar
    is_closed: bool
    received_ns: int = 0

    @property
    def end(self) -> BarClosed:
        """Return the end of its bar; `trades` is -1 where the exchange does not count them."""
        bar = self.bar
        return BarClosed(bar.exchange, bar.symbol, bar.timeframe, bar.time_ns, bar.trades if bar.is_counted else -1)


@dataclass(frozen=True, slots=True)
class Discontinuity:
    """Messages of a channel are missing: a sequence gap or a wrong checksum. The channel is resubscribed."""

    channel: Channel
    symbol: str
    reason: str


@dataclass(frozen=True, slots=True)
class Suspect:
    """A message that failed validation and goes to the quarantine: its channel and symbol, the reason, its text."""

    channel: str
    symbol: str
    reason: str
    text: str
    received_ns: int = 0


MarketEvent = PublicTrade | BarClosed | BarSeen | Quote | Book | Discontinuity | Suspect


@dataclass(slots=True)
class ConnectionCounters:
    """Counters of an exchange's connections since the exchange object was made. Every dropped value is counted here.

    `frames` received and `connects` made. `unknown`: unknown kinds of messages and fields, late or repeated ones, by
    name. `suspects`: messages that failed validation. `conflated`: quotes, books and unfinished bars that a newer one
    replaced while they waited. `overflowed`: values cut from a full queue, each cut followed by a Discontinuity.
    """

    frames: int = 0
    connects: int = 0
    suspects: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    conflated: Counter[Channel] = field(default_factory=Counter)
    overflowed: Counter[Channel] = field(default_factory=Counter)
