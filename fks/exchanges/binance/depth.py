"""A Binance book from its stream of changes: a snapshot of REST, then changes without a gap in their update ids.

Source: developers.binance.com, "How to manage a local order book correctly". Recordings hold books in this form; live
ones come whole (`@depth20`), which needs no snapshot, cannot have a gap, and suffices for a top of twenty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from decimal import Decimal

from fks.exchanges.base import Levels

Rows = Sequence[tuple[Decimal, Decimal]]
WAITING_MAX = 5000  # changes before the snapshot; it comes within seconds


class DepthBook:
    """One symbol's book. `update` is the id of its last change; None: it waits for a snapshot."""

    def __init__(self) -> None:
        self.levels = Levels()
        self.update: int | None = None
        self._is_joined = False  # the first change after a snapshot may begin before it
        self._waiting: deque[tuple[int, int, Rows, Rows]] = deque(maxlen=WAITING_MAX)

    def snapshot(self, update: int, bids: Rows, asks: Rows) -> bool:
        """Set the whole book as of `update`, then apply waiting changes; return whether it is complete, else it waits
        for another snapshot."""
        self.levels.bids.replace(bids)
        self.levels.asks.replace(asks)
        self.update, self._is_joined = update, False
        waiting = list(self._waiting)
        self._waiting.clear()
        taken = [self.change(*change) for change in waiting]
        return all(taken)

    def change(self, first: int, last: int, bids: Rows, asks: Rows) -> bool:
        """Apply the changes `first` to `last`; False: there is a gap before them, and the book waits for a snapshot.

        Changes that the snapshot has already are skipped; those before any snapshot wait.
        """
        if self.update is None:
            self._waiting.append((first, last, bids, asks))
            return True
        if last <= self.update:
            return True
        if first > self.update + 1 or (self._is_joined and first != self.update + 1):
            self.update = None
            self._waiting.append((first, last, bids, asks))
            return False
        self.levels.bids.change(bids)
        self.levels.asks.change(asks)
        self.update, self._is_joined = last, True
        return True
