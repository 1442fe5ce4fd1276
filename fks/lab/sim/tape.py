"""Bars of a tape as the source of a market."""

from __future__ import annotations

import numpy as np

from fks.lab.sim.source import Rows
from fks.lab.sim.symbols import Listing, tape_listing
from fks.model.tape import Tape
from fks.model.timeframe import TIMEFRAMES

_TRADES = 40
_ID_FIRST = 1_000_000_000


class Taped:
    """The bars of one tape. Row number: place on the tape. Bars whose volume is 0 have no trades."""

    row_first = 0

    def __init__(self, tape: Tape) -> None:
        self.listing: Listing = tape_listing(
            tape.symbol,
            tape.price_places,
            tape.volume_places,
            float(tape.open[0]) / 10.0**tape.price_places,
            int(np.median(tape.volume)),
        )
        self.timeframe = tape.timeframe
        self.unit_ms = TIMEFRAMES[tape.timeframe] * 1000
        flat = (tape.high == tape.low) & (tape.open == tape.close)
        few = np.where(flat, np.minimum(tape.volume, 4), 4)
        count = np.where(tape.volume >= 4, np.minimum(tape.volume, _TRADES), np.where(tape.volume > 0, few, 0))
        first = _ID_FIRST + np.cumsum(count) - count
        time_ms = tape.time_ns // 1_000_000
        self._rows = Rows(time_ms, tape.open, tape.high, tape.low, tape.close, tape.volume, count, first)

    @property
    def row_end(self) -> int:
        """Return the number of bars on the tape."""
        return len(self._rows)

    def rows(self, start: int, stop: int) -> Rows:
        """Return rows start..stop-1, fewer at the end of the tape."""
        return self._rows.part(max(start, 0), stop)

    def row_at(self, time_ms: int) -> int:
        """Return the last bar that opens at or before `time_ms`; -1 before the first."""
        return int(np.searchsorted(self._rows.time_ms, time_ms, side="right")) - 1

    def row_of(self, trade: int) -> int:
        """Return the bar that holds trade number `trade`."""
        return int(np.searchsorted(self._rows.first, trade, side="right")) - 1
