"""Long while the fast exponential average is above the slow one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from fks.indicators import ema
from fks.indicators.exact import keep_last
from fks.model.bar import Bars
from fks.strategies.base import Decisions, Protected, side_to_target


class EmaCross(Protected):
    """Long while EMA(fast) is above EMA(slow), flat (or short) while below; a tie keeps the side before it.

    The averages are recursive, so the warm-up is eight times the slow period: the weight of the first bar is then below
    1e-6 of the distance the price has moved.
    """

    name: ClassVar[str] = "ema_cross"
    fast: int = Field(12, ge=2, le=20_000, description="bars of the fast average")
    slow: int = Field(26, ge=3, le=20_000, description="bars of the slow average")
    short: bool = Field(False, description="go short while below, instead of flat")

    @model_validator(mode="after")
    def _ordered(self) -> EmaCross:
        if self.fast >= self.slow:
            raise ValueError(f"fast ({self.fast}) must be smaller than slow ({self.slow})")
        return self

    def warmup(self) -> int:
        return 8 * self.slow

    def decide(self, bars: Bars) -> Decisions:
        side = np.nan_to_num(np.sign(ema(bars.close, self.fast) - ema(bars.close, self.slow)))
        return self.protect(bars, side_to_target(keep_last(side), short=self.short))
