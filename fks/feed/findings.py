"""What a feed says of itself: its state, the bars it has sealed, the trades that it misses, what it doubts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fks.model.bar import Bar


class FeedState(StrEnum):
    COLD = "COLD"
    BACKFILL = "BACKFILL"
    LIVE = "LIVE"
    STALE = "STALE"
    OFF = "OFF"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed bar on its way to the store, with the id of the last trade at or before its end.

    `source` is live (built from trades, streamed or fetched), klines (the venue's own bar) or revised (the venue's own
    bar, in the place of one that was sealed before a late trade came).
    """

    bar: Bar
    last_trade_id: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Trades from `from_id` on are missing, up to `to_id` (exclusive; None: as far as the venue has any)."""

    from_id: int
    to_id: int | None


@dataclass(frozen=True, slots=True)
class Doubt:
    """Are there trades from `from_id` on before `over_ns`? REST knows; the answer goes to `settle`."""

    from_id: int
    over_ns: int
