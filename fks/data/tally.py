"""The trades of one bar in whatever order they come: what they amount to does not depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from fks.data.aggregate import ZERO, OpenBar
from fks.model.bar import PublicTrade

#: where a trade stands among the others of its bar
Place = tuple[int, int]


@dataclass(slots=True)
class Tally:
    """Open is the price of the trade that stands first, close of the one that stands last; the rest is sums and extremes.

    Twice the same trade counts twice: who feeds it knows which ids it had.
    """

    first: Place = (0, 0)
    last: Place = (0, 0)
    open: Decimal = ZERO
    high: Decimal = ZERO
    low: Decimal = ZERO
    close: Decimal = ZERO
    volume: Decimal = ZERO
    trades: int = 0

    def add(self, trade: PublicTrade, place: Place) -> None:
        """Count a trade in."""
        price = trade.price
        if self.trades == 0:
            self.first = self.last = place
            self.open = self.high = self.low = self.close = price
        else:
            self.high, self.low = max(self.high, price), min(self.low, price)
            if place < self.first:
                self.first, self.open = place, price
            if place > self.last:
                self.last, self.close = place, price
        self.volume += trade.quantity
        self.trades += trade.count

    def bar(self, start_ns: int, end_ns: int, *, is_complete: bool) -> OpenBar:
        """Return the bar it amounts to, to be sealed."""
        return OpenBar(
            start_ns, end_ns, self.open, self.high, self.low, self.close, self.volume, self.trades, is_complete,
            is_spoken=True, has_price=True, is_empty=False,
        )  # fmt: skip
