"""Goes with a bar that moves much more than usual, for a fixed number of bars."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from fks.indicators import INDICATORS, atr
from fks.model.bar import Bars
from fks.strategies.base import Decisions, Protected, side_to_target


class VolatilityBreakout(Protected):
    """Long for `bars` bars from a close that is more than `multiple` ATR above the close before it; a fall as large
    ends it, or with `short` goes short for as long.

    The ATR is that of the bar before. A further move the same way starts the count again. Ties: a move of exactly
    `multiple` ATR is none.
    """

    name: ClassVar[str] = "volatility_breakout"
    period: int = Field(14, ge=2, le=20_000, description="bars of Wilder's average true range")
    multiple: float = Field(2.0, gt=0, le=100, description="least move from close to close, in ATR")
    bars: int = Field(10, ge=1, le=100_000, description="bars to hold the position")
    short: bool = Field(False, description="also go short after a fall")

    def warmup(self) -> int:
        return INDICATORS["atr"].settled({"period": self.period}) + self.bars + 1

    def decide(self, bars: Bars) -> Decisions:
        typical = np.concatenate([[np.nan], atr(bars.high, bars.low, bars.close, self.period)[:-1]])
        move = np.diff(bars.close, prepend=bars.close[0])
        event = np.where(np.abs(move) > self.multiple * typical, np.sign(move), 0.0)
        place = np.arange(len(bars))
        last = np.maximum.accumulate(np.where(event != 0.0, place, -1))
        side = np.where((last >= 0) & (place - last < self.bars), event[last], 0.0)
        return self.protect(bars, side_to_target(side, short=self.short))
