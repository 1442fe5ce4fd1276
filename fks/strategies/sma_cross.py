"""Long while the fast simple average is above the slow one."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from fks.indicators import cross_side
from fks.model.bar import Bars
from fks.strategies.base import Decisions, Protected


class SmaCross(Protected):
    """Long while SMA(fast) is above SMA(slow), flat (or short) while below.

    Ties: the averages are compared exactly, in integer ticks, and a tie keeps the side before it.
    """

    name: ClassVar[str] = "sma_cross"
    fast: int = Field(20, ge=1, le=100_000, description="bars of the fast average")
    slow: int = Field(50, ge=2, le=100_000, description="bars of the slow average")
    short: bool = Field(False, description="go short while below, instead of flat")

    @model_validator(mode="after")
    def _ordered(self) -> SmaCross:
        if self.fast >= self.slow:
            raise ValueError(f"fast ({self.fast}) must be smaller than slow ({self.slow})")
        return self

    def warmup(self) -> int:
        return self.slow

    def decide(self, bars: Bars) -> Decisions:
        below = -1.0 if self.short else 0.0
        side = cross_side(bars.close, self.fast, self.slow, exact=bars.ticks.closes, below=below)
        return self.protect(bars, side)
