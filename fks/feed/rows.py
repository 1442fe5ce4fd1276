"""Values of the rows that a collector writes about its feeds: position, state and outages of each."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

TRADES = "trades"  # the timeframe of the row that tells a symbol's feed as a whole


@dataclass(frozen=True, slots=True)
class FeedRow:
    """News of one feed row. None leaves a column as it is; `sealed_ns` never moves back."""

    symbol: str
    timeframe: str
    sealed_ns: int | None = None
    last_trade_id: int | None = None
    message_ns: int | None = None
    last_price: Decimal | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class SealedPosition:
    """How far one timeframe is stored: open time of its last sealed bar and the last trade in it."""

    sealed_ns: int
    last_trade_id: int | None


@dataclass(frozen=True, slots=True)
class Outage:
    """A channel of a symbol that was not live: from its last message to when it was whole again (None: it is not yet).

    `began_ns` is part of its identity: telling of it again only ends it.
    """

    symbol: str
    channel: str
    began_ns: int
    cause: str
    ended_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """How a feed stood when a collector last wrote of it: its state, its last message, its outages without an end."""

    state: str
    message_ns: int | None
    outages: tuple[Outage, ...]
