"""Buys a new high of many bars: the breakout of the Donchian channel, as the Turtles traded it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from fks.indicators import highest, lowest
from fks.model.bar import Bars, Floats
from fks.strategies.base import Decisions, Protected, hold


class Donchian(Protected):
    """Long from a close above the highest high of the `entry` bars before it until a close below the lowest low of
    the `leave` bars before it; with `short`, the mirror image too.

    Ties: highs, lows and closes are compared as they are; a close on the channel is inside it.
    """

    name: ClassVar[str] = "donchian"
    entry: int = Field(20, ge=2, le=100_000, description="bars whose high must be exceeded")
    leave: int = Field(10, ge=2, le=100_000, description="bars whose low must hold")
    short: bool = Field(False, description="also go short below the lowest low of `entry` bars")

    @model_validator(mode="after")
    def _ordered(self) -> Donchian:
        if self.leave > self.entry:
            raise ValueError(f"leave ({self.leave}) must not be larger than entry ({self.entry})")
        return self

    def warmup(self) -> int:
        return self.entry

    def decide(self, bars: Bars) -> Decisions:
        close = bars.close
        target = hold(close > _before(highest(bars.high, self.entry)), close < _before(lowest(bars.low, self.leave)))
        if self.short:
            target -= hold(
                close < _before(lowest(bars.low, self.entry)), close > _before(highest(bars.high, self.leave))
            )
        return self.protect(bars, target)


def _before(values: Floats) -> Floats:
    """Return each value's predecessor, so that a bar is not part of its own channel."""
    return np.concatenate([[np.nan], values[:-1]])
