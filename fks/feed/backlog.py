"""Events of one feed that arrived and are not built yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import compress

from fks.feed.machine import MarketData
from fks.model.bar import PublicTrade
from fks.model.market import BarSeen

BACKLOG_MAX = 200_000  # while a backfill runs; the oldest go first, counted, and come back from REST


class Backlog:
    """Queue of trades and ends of bars, oldest first. `cut` counts those that waited too long.

    A *run* is the trades since the subscription without a discontinuity between them.
    """

    def __init__(self) -> None:
        self.events: deque[MarketData] = deque(maxlen=BACKLOG_MAX)
        self.cut = 0
        self._run_first: PublicTrade | None = None
        self._is_run_broken = False  # a discontinuity lies in the next message: the run starts after it

    def add(self, events: list[MarketData]) -> tuple[list[PublicTrade], bool]:
        """Append the events of a message; return its trades, and whether bars were among them."""
        self.cut += max(0, len(self.events) + len(events) - BACKLOG_MAX)
        trades: list[PublicTrade] = []
        has_bars = False
        for event in events:
            if isinstance(event, PublicTrade):
                trades.append(event)
                self.events.append(event)
                if self._run_first is None and not self._is_run_broken:
                    self._run_first = event
            else:
                has_bars = True
                if not isinstance(event, BarSeen) or event.is_closed:
                    self.events.append(event)
        self._is_run_broken = False
        return trades, has_bars

    def start_run(self) -> None:
        """Start a run with the next trade: a subscription was just made."""
        self._run_first = None

    def break_run(self) -> None:
        """End the run: trades are missing somewhere in the next message."""
        self._run_first, self._is_run_broken = None, True

    def run(self) -> list[PublicTrade]:
        """Return the trades of the run that wait."""
        if self._run_first is None:
            return []
        trades = [event for event in self.events if isinstance(event, PublicTrade)]
        return trades[next((n for n, trade in enumerate(trades) if trade is self._run_first), 0) :]

    def trade_ids(self) -> list[int]:
        """Return the ids of all trades that wait."""
        return [event.trade_id for event in self.events if isinstance(event, PublicTrade)]

    def take_false(self, count: int, is_false: Callable[[PublicTrade], bool]) -> list[MarketData]:
        """Remove the false trades among the first `count` events and return them."""
        first = [self.events.popleft() for _ in range(min(count, len(self.events)))]
        false = [isinstance(event, PublicTrade) and is_false(event) for event in first]
        self.events.extendleft(reversed([event for event, drop in zip(first, false, strict=True) if not drop]))
        return list(compress(first, false))
