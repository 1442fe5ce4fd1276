"""Values of the rows that a collector writes about its feeds: position, state and outages of each."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

TRADES = "trades"  # the timeframe of the row about a symbol's feed as a whole


@dataclass(frozen=True, slots=True)
class FeedRow:
    """A change of one feed row. None leaves a column as it is; `sealed_ns` never moves back."""

    symbol: str
    timeframe: str
    sealed_ns: int | None = None
    last_trade_id: int | None = None
    message_ns: int | None = None
    last_price: Decimal | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class SealedPosition:
    """Position of one timeframe in the store: open time of its last sealed bar and the last trade in it."""

    sealed_ns: int
    last_trade_id: int | None


@dataclass(frozen=True, slots=True)
class ChannelOutage:
    """A channel of a symbol that was not live: from its last message until it was complete again (None: not yet).

    `began_ns` is part of its identity: writing it again only sets its end.
    """

    symbol: str
    channel: str
    began_ns: int
    cause: str
    ended_ns: int | None = None


@dataclass(frozen=True, slots=True)
class StoredFeed:
    """A feed as the collector before this one left it: its state, its last message, its open outages."""

    state: str
    message_ns: int | None
    outages: tuple[ChannelOutage, ...]
