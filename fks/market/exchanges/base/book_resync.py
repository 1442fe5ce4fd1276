"""Resynchronisation of order books: which broken books to request again, and when.

A wire calls `broken` for each message that breaks a book and `whole` for each valid snapshot, and requests the books
that are `due` in its `due_frames`. The first request is immediate. A book that breaks again right after its request
waits 1 s, 2 s, 4 s …; one that was whole for CALM_S starts again at once. After ROW_MAX consecutive requests the
connection ends: a new one may be healthy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fks.model.backoff import Backoff
from fks.model.errors import PeerError

WAIT = Backoff(1.0, 60.0)
CALM_S = 120.0  # longer than the longest wait: what breaks as soon as it comes stays in its row
ROW_MAX = 8  # about three minutes


@dataclass(slots=True)
class _Row:
    """Number of consecutive requests for a symbol's book, and the time of the last one."""

    asked: int
    last_s: float

    @property
    def next_s(self) -> float:
        return self.last_s + WAIT.wait_s(self.asked)


@dataclass(slots=True)
class BookResync:
    """Books of one connection that have to be requested again. Times are the monotonic seconds of `due_frames`."""

    _broken: dict[str, None] = field(default_factory=dict)  # in the order in which they broke
    _rows: dict[str, _Row] = field(default_factory=dict)
    _left: set[str] = field(default_factory=set)

    def broken(self, symbol: str) -> None:
        """Record that a book is wrong, or that the snapshot it waits for may be lost."""
        if symbol not in self._left:
            self._broken[symbol] = None

    def whole(self, symbol: str) -> None:
        """Record that a valid snapshot of a book came."""
        self._broken.pop(symbol, None)

    def drop(self, symbol: str) -> None:
        """Stop following a book: updates that still come may break it, and it is not requested again."""
        self._left.add(symbol)
        self._broken.pop(symbol, None)

    def due(self, now_s: float) -> list[str]:
        """Return the symbols whose books to request now. Errors: PeerError after ROW_MAX requests in a row."""
        found = [symbol for symbol in self._broken if symbol not in self._rows or now_s >= self._rows[symbol].next_s]
        for symbol in found:
            del self._broken[symbol]
            row = self._rows.get(symbol)
            asked = 1 if row is None or now_s - row.last_s >= CALM_S else row.asked + 1
            if asked > ROW_MAX:
                raise PeerError(f"the book of {symbol} was asked for {ROW_MAX} times in a row and is wrong again")
            self._rows[symbol] = _Row(asked, now_s)
        return found
