"""Buys a breakout and sells it in parts as it gains: a strategy that closes parts of a position, and moves its stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fks.indicators import highest, lowest
from fks.model.bar import Bars, Floats
from fks.strategies.base import BarStrategy, Context


class ScaleOut(BarStrategy):
    """Long from a close above the highest high of the `entry` bars before. At each close that is `step_pct` further
    over the entry it sells one of `sales` equal parts, at most one a bar; the last one at a close below the lowest low
    of the `leave` bars before. The stop loss closes what is left; with the first sale it goes to the entry's price.

    Ties: a close exactly at a high or low changes nothing; one exactly at a step sells.
    """

    name: ClassVar[str] = "scale_out"
    entry: int = Field(20, ge=2, le=10_000, description="bars whose highest high must be exceeded")
    leave: int = Field(10, ge=2, le=10_000, description="bars whose lowest low ends the position")
    sales: int = Field(3, ge=2, le=10, description="equal parts in which it sells")
    step_pct: float = Field(2.0, gt=0, lt=1000, description="gain from one part to the next, percent of the entry")
    sl_pct: float = Field(4.0, gt=0, lt=100, description="stop loss, percent of the close")

    def warmup(self) -> int:
        return max(self.entry, self.leave) + 1

    def indicators(self, bars: Bars) -> Mapping[str, Floats]:
        top = np.concatenate([[np.nan], highest(bars.high, self.entry)[:-1]])
        bottom = np.concatenate([[np.nan], lowest(bars.low, self.leave)[:-1]])
        return {"top": top, "bottom": bottom}

    def on_bar(self, ctx: Context, bar: Any) -> None:
        if not ctx.position:
            if bar.close > bar.top and ctx.buy(stop_loss=bar.close * (1.0 - self.sl_pct / 100.0)):
                ctx.state.sold = 0
        elif bar.close < bar.bottom:
            ctx.close()
        elif ctx.state.sold < self.sales - 1:
            next_at = ctx.entry_price * (1.0 + (ctx.state.sold + 1) * self.step_pct / 100.0)
            if bar.close >= next_at and ctx.reduce(1.0 / (self.sales - ctx.state.sold)):
                ctx.state.sold += 1
                ctx.move_stop(ctx.entry_price)
