"""Follows a trend until it turns by several average true ranges: LeBeau's chandelier exit, used both ways."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from fks.indicators import INDICATORS, atr, highest, keep_last, lowest
from fks.model.bar import Bars, Floats
from fks.strategies.base import Decisions, Protected, side_to_target


class AtrTrend(Protected):
    """Long from a close above the lowest low of `period` bars plus `multiple` ATR, flat (or short) from a close below
    the highest high minus `multiple` ATR.

    Both levels are those of the bar before. Ties: a close on a level, or beyond both at once, keeps the side before it.
    Source: Chuck LeBeau's chandelier exit, as in Elder, "Come Into My Trading Room" (2002).
    """

    name: ClassVar[str] = "atr_trend"
    period: int = Field(22, ge=2, le=20_000, description="bars of the highest high and the lowest low")
    atr_period: int = Field(22, ge=2, le=20_000, description="bars of Wilder's average true range")
    multiple: float = Field(3.0, gt=0, le=100, description="distance of the levels, in ATR")
    short: bool = Field(False, description="go short while down, instead of flat")

    def warmup(self) -> int:
        return self.period + INDICATORS["atr"].settled({"period": self.atr_period})

    def decide(self, bars: Bars) -> Decisions:
        width = self.multiple * atr(bars.high, bars.low, bars.close, self.atr_period)
        is_up = bars.close > _before(lowest(bars.low, self.period) + width)
        is_down = bars.close < _before(highest(bars.high, self.period) - width)
        side = keep_last(is_up.astype(np.float64) - is_down)
        return self.protect(bars, side_to_target(side, short=self.short))


def _before(values: Floats) -> Floats:
    return np.concatenate([[np.nan], values[:-1]])
