"""Values of one feed that the store does not have yet: sealed and corrected bars, and public trades."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fks.feed.rows import ChannelOutage
from fks.model.bar import Bar, PublicTrade

TRADES_KEPT = (
    50_000  # beyond it the oldest trades are dropped, counted, and fetched again; sealed bars do not need them
)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed bar on its way to the store, with the id of the last trade at or before its end.

    `source` is live (built from trades, streamed or fetched), klines (the exchange's own bar) or revised (the
    exchange's own bar, in the place of one that was sealed before a late trade came).
    """

    bar: Bar
    last_trade_id: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows that one flush took out of a feed."""

    sealed: list[Sealed]
    revised: list[Sealed]
    trades: list[PublicTrade]
    outages: list[ChannelOutage]

    def __bool__(self) -> bool:
        return bool(self.sealed or self.revised or self.trades or self.outages)


class Unstored:
    """Queues of one feed towards the store, in order. `dropped` counts trades that waited too long."""

    def __init__(self) -> None:
        self.sealed: deque[Sealed] = deque()
        self.revised: deque[Sealed] = deque()
        self.trades: deque[PublicTrade] = deque()
        self.trades_max = TRADES_KEPT
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self.sealed or self.revised or self.trades)

    def take(self, bars_max: int, trades_max: int) -> tuple[list[Sealed], list[Sealed], list[PublicTrade]]:
        """Return the oldest bars, corrections and trades; a correction never overtakes the bar that it corrects."""
        sealed = [self.sealed.popleft() for _ in range(min(bars_max, len(self.sealed)))]
        revised = [] if self.sealed else [self.revised.popleft() for _ in range(min(bars_max, len(self.revised)))]
        trades = [self.trades.popleft() for _ in range(min(trades_max, len(self.trades)))]
        return *merge_corrections(sealed, revised), trades

    def put_back(self, batch: Batch) -> None:
        """Put a batch back that the store did not take."""
        self.sealed.extendleft(reversed(batch.sealed))
        self.revised.extendleft(reversed(batch.revised))
        self.trades.extendleft(reversed(batch.trades))

    def trim(self) -> int:
        """Drop the oldest trades beyond `trades_max`; return how many."""
        count = max(0, len(self.trades) - self.trades_max)
        for _ in range(count):
            self.trades.popleft()
        self.dropped += count
        return count

    def clear(self) -> None:
        """Drop everything."""
        self.sealed.clear()
        self.revised.clear()
        self.trades.clear()


def merge_corrections(sealed: Sequence[Sealed], revised: Sequence[Sealed]) -> tuple[list[Sealed], list[Sealed]]:
    """Return each bar once, with its last numbers: one statement stores a bar only once.

    A bar that is corrected before it was stored stays among `sealed`, with the new numbers.
    """
    first = {bar_key(item.bar): item for item in sealed}
    later: dict[tuple[str, str, int], Sealed] = {}
    for item in revised:
        known = first if bar_key(item.bar) in first else later
        before = known.get(bar_key(item.bar), item)
        known[bar_key(item.bar)] = replace(
            before, bar=item.bar if item.bar.is_counted else replace(item.bar, trades=before.bar.trades)
        )
    return list(first.values()), list(later.values())


def bar_key(bar: Bar) -> tuple[str, str, int]:
    """Return the identity of a bar within one exchange."""
    return bar.symbol, bar.timeframe, bar.time_ns
