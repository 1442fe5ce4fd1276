"""The file that `fks strategies new` writes: a whole strategy to change, checked like any other."""

from __future__ import annotations

TEMPLATE = '''\
"""{title}: say here what it does and why it should earn money."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from fks.indicators import highest, lowest
from fks.model.bar import Bars
from fks.strategies.base import Decisions, Protected, hold


class {kind}(Protected):
    """Long from a close above the highest high of `entry` bars until one below the lowest low of `leave` bars."""

    name: ClassVar[str] = "{name}"

    # Parameters: fields with a default, a range and a sentence. `--set entry=30` changes one. Protected adds
    # sl_pct and tp_pct, a stop loss and a take profit in percent of the close.
    entry: int = Field(20, ge=2, le=10_000, description="bars whose highest high must be exceeded")
    leave: int = Field(10, ge=2, le=10_000, description="bars whose lowest low must hold")

    def warmup(self) -> int:
        """Bars needed before the first decision. Too few is found by the check, and refused."""
        return max(self.entry, self.leave) + 1

    def decide(self, bars: Bars) -> Decisions:
        """The wanted position at the close of every bar: 1 long, 0 flat, -1 short.

        Columns: bars.open, high, low, close, volume (float64) and time_ns. Row i may only use rows 0..i: shift a
        window by one bar, as here, when the bar itself must not be part of it. No clock, no dice, no state.
        """
        top = np.concatenate([[np.nan], highest(bars.high, self.entry)[:-1]])
        bottom = np.concatenate([[np.nan], lowest(bars.low, self.leave)[:-1]])
        return self.protect(bars, hold(bars.close > top, bars.close < bottom))
'''
