"""Trades the spread of two symbols back to its mean: long the cheap leg, short the dear one."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from fks.model.bar import Bars, Floats, Ints
from fks.model.instrument import folded
from fks.model.signal import EntryGroup
from fks.model.timeframe import NS, TIMEFRAMES
from fks.strategies.base import Decisions, Strategy, hold, input_bars

_CHUNK = 2_048  # rows of windows that are in memory at once
_LEAST_SHARE = 0.6  # of a window's bars: a year of daily bars without weekends and holidays has 69 %
_PLACES = 9  # of a z-score: windows that begin elsewhere in memory add up to the same


class Pairs(Strategy):
    """Long the first symbol and short the second when their spread is `entry` standard deviations below its mean, the
    other way round above it, and flat once it is within `leave`.

    The spread is the residual of a regression of the logarithm of the first close on that of the second, over the bars
    of the last `period` (hedge ratio: its slope); its z-score is in standard errors of that regression. A slope that is
    not positive is no pair: flat. Each leg is a strategy of its own on its symbol, with the other one as input: both
    compute the same decision, from the bars that both symbols have, and take opposite sides of it. Ties: a z-score
    (rounded to 1e-9) of exactly `entry` or `leave` changes nothing. Sizes are those of the two legs, not scaled by the
    hedge ratio.
    Source: Gatev, Goetzmann and Rouwenhorst, "Pairs Trading" (2006), with a regression for the normalised price.
    """

    name: ClassVar[str] = "pairs"
    other: str = Field("ETH/USDT", min_length=1, max_length=64, description="symbol of the other leg")
    leg: Literal["first", "second"] = Field("first", description="leg that the symbol traded here is")
    period: int = Field(200, ge=10, le=20_000, description="bars of the regression")
    entry: float = Field(2.0, gt=0, le=20, description="z-score of the spread at which to enter")
    leave: float = Field(0.5, ge=0, le=20, description="z-score within which to leave")
    together: bool = Field(True, description="whether both legs are entered or neither; false: each by itself")

    @model_validator(mode="after")
    def _ordered(self) -> Pairs:
        if self.leave >= self.entry:
            raise ValueError(f"leave ({self.leave:g}) must be smaller than entry ({self.entry:g})")
        return self

    def inputs(self) -> tuple[str, ...]:
        return (self.other,)

    def group(self, symbol: str) -> EntryGroup | None:
        if not self.together:
            return None
        legs = (folded(symbol), folded(self.other)) if self.leg == "first" else (folded(self.other), folded(symbol))
        return EntryGroup(f"{self.name} {legs[0]} {legs[1]} {self.period} {self.entry!r} {self.leave!r}", legs)

    def warmup(self) -> int:
        return self.period

    def decide(self, bars: Bars) -> Decisions:
        other = input_bars(self, bars, self.other)
        first, second = (bars.close, other.close) if self.leg == "first" else (other.close, bars.close)
        rows, slope, score = spread_of(bars, first, second, self.period)
        score = np.round(score, _PLACES)
        cheap = hold((score < -self.entry) & (slope > 0.0), (score > -self.leave) | (slope <= 0.0))
        dear = hold((score > self.entry) & (slope > 0.0), (score < self.leave) | (slope <= 0.0))
        side = np.zeros(len(bars) + 1)  # the last one is that of rows before any that both have
        side[rows] = cheap - dear
        newest = np.full(len(bars), -1)
        newest[rows] = rows
        target = side[np.maximum.accumulate(newest)]
        return Decisions(target if self.leg == "first" else -target)


def spread_of(bars: Bars, first: Floats, second: Floats, period: int) -> tuple[Ints, Floats, Floats]:
    """Return the rows that both closes have, and there the slope of the regression of log(first) on log(second) over
    the last `period` bars' time, and the residual of the row in standard errors of the regression.

    Shapes: (n,) each -> (m,) each. Both are NaN until `period` bars' time is there, where fewer than 60 % of its bars
    are, and where a price did not move. Each window is computed on its own, so that no value depends on earlier rows.
    """
    rows = np.flatnonzero((first > 0.0) & (second > 0.0))
    slope, score = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    if not len(rows):
        return rows, slope, score
    length = TIMEFRAMES.get(bars.timeframe, 0) * NS
    slots = (bars.time_ns - bars.time_ns[0]) // length if length else np.arange(len(bars), dtype=np.int64)
    x, y = (np.full(int(slots[-1]) + period, np.nan) for _ in range(2))
    x[slots[rows] + period - 1], y[slots[rows] + period - 1] = np.log(second[rows]), np.log(first[rows])
    windows = [np.lib.stride_tricks.sliding_window_view(column, period) for column in (x, y)]
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        ends = slots[rows[part]]
        slope[part], score[part] = _regression(*(window[ends] for window in windows))
        slope[part][ends < period - 1] = score[part][ends < period - 1] = np.nan
    return rows, slope, score


def _regression(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return slope and standardised residual of the last column of y on x, row by row.

    Shapes: (rows, period) each -> (rows,) each.
    """
    is_there = ~np.isnan(x)
    count = is_there.sum(axis=1)
    dx, dy = (np.where(is_there, v - np.nansum(v, axis=1, keepdims=True) / count[:, None], 0.0) for v in (x, y))
    xx, xy = (dx * dx).sum(axis=1), (dx * dy).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = xy / xx
        rest = dy - slope[:, None] * dx
        score = rest[:, -1] / np.sqrt((rest * rest).sum(axis=1) / (count - 2))
    is_known = (count >= np.maximum(3, _LEAST_SHARE * x.shape[1])) & (xx > 0.0) & np.isfinite(score)
    return np.where(is_known, slope, np.nan), np.where(is_known, score, np.nan)
