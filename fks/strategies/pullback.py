"""Buys dips while a higher timeframe rises: an example of two timeframes in one strategy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from fks.indicators import INDICATORS, cross_side, higher, rsi
from fks.model.bar import Bars
from fks.strategies.base import Decisions, Protected, hold


class Pullback(Protected):
    """Long from RSI below `low` while SMA(fast) is above SMA(slow) on bars `factor` times as long, until RSI is above
    `leave` or that trend turns; with `short`, the mirror image too.

    A higher bar counts once it is over. Ties: the averages are compared exactly, a tie keeps the side before it; RSI on
    a threshold is not beyond it.
    """

    name: ClassVar[str] = "pullback"
    factor: int = Field(15, ge=2, le=1_440, description="length of a higher bar, in bars: 15 of 1m are 15m")
    fast: int = Field(10, ge=1, le=2_000, description="higher bars of the fast average")
    slow: int = Field(30, ge=2, le=2_000, description="higher bars of the slow average")
    period: int = Field(14, ge=2, le=2_000, description="bars of the RSI")
    low: float = Field(35.0, ge=0, le=50, description="a dip is an RSI below this (a rally: above 100 minus this)")
    leave: float = Field(60.0, ge=50, le=100, description="RSI above which a long is closed (a short: 100 minus this)")
    short: bool = Field(False, description="also sell rallies while the higher timeframe falls")

    @model_validator(mode="after")
    def _ordered(self) -> Pullback:
        if self.fast >= self.slow:
            raise ValueError(f"fast ({self.fast}) must be smaller than slow ({self.slow})")
        return self

    def warmup(self) -> int:
        return max((self.slow + 1) * self.factor, INDICATORS["rsi"].settled({"period": self.period}))

    def decide(self, bars: Bars) -> Decisions:
        above = higher(bars, self.factor)
        trend = np.nan_to_num(above.align(cross_side(above.bars.close, self.fast, self.slow)))
        value = np.nan_to_num(rsi(bars.close, self.period), nan=50.0)
        target = hold((value < self.low) & (trend > 0), (value > self.leave) | (trend <= 0))
        if self.short:
            target -= hold((value > 100 - self.low) & (trend < 0), (value < 100 - self.leave) | (trend >= 0))
        return self.protect(bars, target)
