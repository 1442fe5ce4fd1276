"""Buys what RSI calls oversold."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from fks.indicators import rsi
from fks.model.bar import Bars
from fks.strategies.base import Decisions, Protected, hold


class Rsi(Protected):
    """Long from RSI below `low` until RSI above `leave`; with `short`, short from above `high` until below `leave`."""

    name: ClassVar[str] = "rsi"
    period: int = Field(14, ge=2, le=20_000, description="bars of Wilder's average")
    low: float = Field(30.0, ge=0, le=100, description="oversold below this")
    high: float = Field(70.0, ge=0, le=100, description="overbought above this")
    leave: float = Field(50.0, ge=0, le=100, description="the position is closed when RSI crosses this")
    short: bool = Field(False, description="also go short when overbought")

    @model_validator(mode="after")
    def _ordered(self) -> Rsi:
        if not self.low < self.leave < self.high:
            raise ValueError(f"low < leave < high must hold ({self.low:g}, {self.leave:g}, {self.high:g})")
        return self

    def warmup(self) -> int:
        return 16 * self.period

    def decide(self, bars: Bars) -> Decisions:
        value = np.nan_to_num(rsi(bars.close, self.period), nan=50.0)
        target = hold(value < self.low, value > self.leave)
        if self.short:
            target = target - hold(value > self.high, value < self.leave)
        return self.protect(bars, target)
