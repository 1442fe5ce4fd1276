"""Buys a dip of the RSI with a stop, holds for a limited time, and pauses after a stop: a strategy with a method per
bar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from fks.indicators import rsi
from fks.model.bar import Bars, Floats
from fks.strategies.base import BarStrategy, Context


class RsiDip(BarStrategy):
    """Long from a close with RSI below `low` until RSI is above `leave`, `hold` bars are over, or the stop is reached.

    After a stop it makes no entry for `pause` bars. Ties: an RSI of exactly `low` or `leave` changes nothing.
    """

    name: ClassVar[str] = "rsi_dip"
    period: int = Field(14, ge=2, le=10_000, description="bars of the RSI")
    low: float = Field(30.0, gt=0, lt=100, description="RSI below which it buys")
    leave: float = Field(55.0, gt=0, lt=100, description="RSI above which it sells")
    sl_pct: float = Field(2.0, gt=0, lt=100, description="stop loss, percent of the close")
    hold: int = Field(96, ge=1, le=100_000, description="most bars that a position is held")
    pause: int = Field(12, ge=0, le=100_000, description="bars without an entry after a stop")

    def warmup(self) -> int:
        return self.period * 18  # the RSI's memory: after it a later start gives the same value (docs/indicators.md)

    def indicators(self, bars: Bars) -> Mapping[str, Floats]:
        return {"rsi": rsi(bars.close, self.period)}

    def on_bar(self, ctx: Context, bar: Any) -> None:
        if ctx.is_stopped:
            ctx.state.until = ctx.index + self.pause
        if ctx.position:
            if bar.rsi > self.leave or ctx.bars_held + 1 >= self.hold:
                ctx.close()
        elif bar.rsi < self.low and ctx.index >= getattr(ctx.state, "until", 0):
            ctx.buy(stop_loss=bar.close * (1.0 - self.sl_pct / 100.0))
