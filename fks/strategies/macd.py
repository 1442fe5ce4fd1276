"""Long while MACD is above its signal line."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from fks.indicators import macd
from fks.indicators.exact import keep_last
from fks.model.bar import Bars
from fks.strategies.base import Decisions, Protected, side_to_target


class MacdCross(Protected):
    """Long while the MACD line is above its signal line, flat (or short) while below; a tie keeps the side before
    it."""

    name: ClassVar[str] = "macd"
    fast: int = Field(12, ge=2, le=20_000, description="bars of the fast average")
    slow: int = Field(26, ge=3, le=20_000, description="bars of the slow average")
    signal: int = Field(9, ge=2, le=20_000, description="bars of the signal line")
    short: bool = Field(False, description="go short while below, instead of flat")

    @model_validator(mode="after")
    def _ordered(self) -> MacdCross:
        if self.fast >= self.slow:
            raise ValueError(f"fast ({self.fast}) must be smaller than slow ({self.slow})")
        return self

    def warmup(self) -> int:
        return 10 * (self.slow + self.signal)

    def decide(self, bars: Bars) -> Decisions:
        histogram = macd(bars.close, self.fast, self.slow, self.signal).histogram
        side = keep_last(np.nan_to_num(np.sign(histogram)))
        return self.protect(bars, side_to_target(side, short=self.short))
