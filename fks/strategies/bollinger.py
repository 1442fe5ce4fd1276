"""Buys below the lower Bollinger band."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fks.indicators import band_side
from fks.model.bar import Bars
from fks.strategies.base import Decisions, Protected, hold


class Bollinger(Protected):
    """Long from a close below the lower band until a close above the middle; with `short`, the mirror image too.

    Ties: the comparisons are exact; a close on a band is inside it, a close on the middle keeps the position.
    """

    name: ClassVar[str] = "bollinger"
    period: int = Field(20, ge=2, le=100_000, description="bars of the average and of the deviation")
    deviations: float = Field(2.0, gt=0, le=20, description="width of the bands, in standard deviations")
    short: bool = Field(False, description="also go short above the upper band")

    def warmup(self) -> int:
        return self.period

    def decide(self, bars: Bars) -> Decisions:
        side = band_side(bars.close, self.period, self.deviations)
        target = hold(side == -1.0, side > 0.0)
        if self.short:
            target = target - hold(side == 1.0, side < 0.0)
        return self.protect(bars, target)
