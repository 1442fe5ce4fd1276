"""Buys at regular times, and may take the profit over the average price: dollar-cost averaging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, field_validator, model_validator

from fks.indicators import local_seconds
from fks.indicators.sessions import zone_of
from fks.model.bar import Bars, Floats
from fks.model.errors import InputError
from fks.model.timeframe import NS, TIMEFRAMES
from fks.strategies.base import BarStrategy, Context, StrategyError
from fks.strategies.base.daytime import Clock, second_of

_DAY_S = 86_400
_SHARE_LEAST = 0.001  # of the first buy


class Dca(BarStrategy):
    """Buys at the end of every `every`-th bar, or of the first bar that ends at or after `at` of each day, until the
    position has `buys` entries; closes it when a close is `tp_pct` over the average price, and begins again.

    Every `every`-th bar is counted from 1970 on, so that it does not depend on where a run starts; a missing bar's buy
    is left out. The average price is that of amounts of quote. Ties: a close exactly at the profit takes it.
    """

    name: ClassVar[str] = "dca"
    every: int = Field(24, ge=1, le=100_000, description="bars from one buy to the next")
    at: Clock | None = Field(None, description="time of day of the buys, HH:MM, instead of every so many bars")
    zone: str = Field("UTC", description="IANA time zone of `at`")
    buys: int = Field(10, ge=1, le=1_000, description="most entries of one position")
    scale: float = Field(
        1.0, ge=1, le=10, description="each buy is so many times the one before; the last has all of the size"
    )
    tp_pct: Annotated[float, Field(gt=0, lt=1000)] | None = Field(
        None, description="profit at which all is sold, percent of the average price"
    )

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        try:
            zone_of(zone)
        except InputError as error:
            raise ValueError(str(error)) from None
        return zone

    @model_validator(mode="after")
    def _begins(self) -> Dca:
        if self.scale ** (1 - self.buys) < _SHARE_LEAST:
            raise ValueError(f"the first of {self.buys} buys would be less than {_SHARE_LEAST:.1%} of the size")
        return self

    def entries_max(self) -> int:
        return self.buys

    def warmup(self) -> int:
        return 0

    def indicators(self, bars: Bars) -> Mapping[str, Floats]:
        length_s = TIMEFRAMES.get(bars.timeframe, 0)
        if not 0 < length_s <= (_DAY_S if self.at else 7 * _DAY_S):
            raise StrategyError(
                f"strategy {self.name} needs bars of at most {'a day' if self.at else 'a week'}, not {bars.timeframe}",
                remedy="choose a shorter timeframe",
            )
        if self.at is None:
            is_due = (bars.time_ns // (length_s * NS) + 1) % self.every == 0
        else:
            is_due = (local_seconds(bars.time_ns + length_s * NS, self.zone) - second_of(self.at)) % _DAY_S < length_s
        return {"due": np.asarray(is_due, dtype=np.float64)}

    def on_bar(self, ctx: Context, bar: Any) -> None:
        if ctx.position and self.tp_pct is not None and bar.close >= ctx.entry_price * (1.0 + self.tp_pct / 100.0):
            ctx.close()
        elif bar.due:
            share = self.scale ** (ctx.entries + 1 - self.buys)
            _ = ctx.add(size_share=share) if ctx.position else ctx.buy(size_share=share)
