"""Books that broke and are asked for anew: at once the first time, then ever more seldom, and not for ever.

A wire says `broken` of each message that breaks a book, `whole` of each snapshot it believes, and asks for what is
`due` in its pulse. A book that breaks again right after it was asked for waits 1 s, 2 s, 4 s … for its turn; one that
stood for CALM_S begins a new row. After ROW_MAX in a row the connection is over: another one may be healthy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fks.model.errors import PeerError

WAIT_FIRST_S, WAIT_MAX_S = 1.0, 60.0
CALM_S = 120.0  # longer than the longest wait: what breaks as soon as it comes stays in its row
ROW_MAX = 8  # about three minutes


@dataclass(slots=True)
class _Row:
    """How often in a row a symbol's book was asked for, and when last."""

    asked: int
    last_s: float

    @property
    def next_s(self) -> float:
        return self.last_s + min(WAIT_FIRST_S * 2.0 ** (self.asked - 1), WAIT_MAX_S)


@dataclass(slots=True)
class Anew:
    """The books of one connection that have to be asked for anew. Times are monotonic seconds, those of
    `Wire.pulse`."""

    _broken: dict[str, None] = field(default_factory=dict)  # in the order in which they broke
    _rows: dict[str, _Row] = field(default_factory=dict)
    _left: set[str] = field(default_factory=set)

    def broken(self, symbol: str) -> None:
        """Note that a book is wrong, or that the snapshot it waits for may be what was missed."""
        if symbol not in self._left:
            self._broken[symbol] = None

    def whole(self, symbol: str) -> None:
        """Note that a book is whole: it came before its turn to be asked for."""
        self._broken.pop(symbol, None)

    def leave(self, symbol: str) -> None:
        """Note that a book is wanted no longer: changes that still come may break it, and it is not asked for again."""
        self._left.add(symbol)
        self._broken.pop(symbol, None)

    def due(self, now_s: float) -> list[str]:
        """Return whose books to ask for now. Errors: PeerError when one broke ROW_MAX times as soon as it was there."""
        found = [symbol for symbol in self._broken if symbol not in self._rows or now_s >= self._rows[symbol].next_s]
        for symbol in found:
            del self._broken[symbol]
            row = self._rows.get(symbol)
            asked = 1 if row is None or now_s - row.last_s >= CALM_S else row.asked + 1
            if asked > ROW_MAX:
                raise PeerError(f"the book of {symbol} was asked for {ROW_MAX} times in a row and is wrong again")
            self._rows[symbol] = _Row(asked, now_s)
        return found
