"""Buys on levels below a high, one entry on each, and sells all over their average price: a grid, long only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from fks.indicators import highest
from fks.model.bar import Bars, Floats
from fks.strategies.base import BarStrategy, Context


class Grid(BarStrategy):
    """Buys at a close `step_pct` below the highest high of `period` bars, again at each further `step_pct` of it down,
    `levels` times at most; sells all at a close `tp_pct` over the average price.

    The high is that of the first buy for as long as the position is held. One entry a bar: a fall through several
    levels at once is bought bar by bar, while the closes stay below them. The average price is that of equal amounts of
    quote. Ties: a close exactly on a level or at the profit counts.
    """

    name: ClassVar[str] = "grid"
    period: int = Field(96, ge=1, le=100_000, description="bars of the highest high")
    step_pct: float = Field(1.0, gt=0, lt=100, description="distance of the levels, percent of the high")
    levels: int = Field(5, ge=1, le=1_000, description="levels below the high, and most entries")
    tp_pct: float = Field(1.0, gt=0, lt=1000, description="profit at which all is sold, percent of the average price")
    sl_pct: Annotated[float, Field(gt=0, lt=100)] | None = Field(
        None, description="stop loss of all entries, percent below the high"
    )

    @model_validator(mode="after")
    def _fits(self) -> Grid:
        if self.levels * self.step_pct >= 100.0:
            raise ValueError(f"{self.levels} levels of {self.step_pct:g} % are 100 % or more")
        if self.sl_pct is not None and self.sl_pct <= self.levels * self.step_pct:
            raise ValueError(f"sl_pct ({self.sl_pct:g}) must be below the last level ({self.levels * self.step_pct:g})")
        return self

    def entries_max(self) -> int:
        return self.levels

    def warmup(self) -> int:
        return self.period

    def indicators(self, bars: Bars) -> Mapping[str, Floats]:
        return {"high_of_period": highest(bars.high, self.period)}

    def on_bar(self, ctx: Context, bar: Any) -> None:
        if not ctx.position:
            ctx.state.high = bar.high_of_period
        elif bar.close >= ctx.entry_price * (1.0 + self.tp_pct / 100.0):
            ctx.close()
            return
        if bar.close > ctx.state.high * (1.0 - (ctx.entries + 1) * self.step_pct / 100.0):
            return
        if ctx.position:
            ctx.add()
        else:
            ctx.buy(stop_loss=None if self.sl_pct is None else ctx.state.high * (1.0 - self.sl_pct / 100.0))
