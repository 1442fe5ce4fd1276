"""Buys well below the volume-weighted average price and sells when the price is back."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from fks.indicators import vwap_rolling
from fks.model.bar import Bars
from fks.strategies.base import Decisions, Protected, hold


class VwapReversion(Protected):
    """Long from a close more than `entry_pct` percent below the VWAP of `period` bars until a close at or above it;
    with `short`, the mirror image too.

    Ties: distances are rounded to 1e-9 of the price, so a close at the VWAP is at it, wherever the bars begin; a
    close exactly `entry_pct` away does not enter.
    """

    name: ClassVar[str] = "vwap_reversion"
    period: int = Field(240, ge=2, le=100_000, description="bars of the volume-weighted average price")
    entry_pct: float = Field(0.5, gt=0, lt=100, description="distance from it at which to enter, percent")
    short: bool = Field(False, description="also go short above it")

    def warmup(self) -> int:
        return self.period

    def decide(self, bars: Bars) -> Decisions:
        vwap = vwap_rolling(bars.high, bars.low, bars.close, bars.volume, self.period)
        away = np.round(np.nan_to_num(bars.close / vwap - 1.0), 9)
        entry = round(self.entry_pct / 100.0, 9)
        target = hold(away < -entry, away >= 0.0)
        if self.short:
            target -= hold(away > entry, away <= 0.0)
        return self.protect(bars, target)
