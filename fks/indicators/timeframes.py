"""Bars of a higher timeframe seen from a lower one, without a look at their future."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fks.model.bar import Bars, Floats, Ints
from fks.model.errors import unprocessable
from fks.model.timeframe import NS, TIMEFRAMES

_MONDAY_NS = 4 * 86_400 * NS  # 1970-01-05 was a Monday; weeks open there


@dataclass(frozen=True, slots=True)
class Higher:
    """The higher bars that are over, and for each lower row the last of them that was over at its end (-1: none)."""

    bars: Bars
    row: Ints

    def align(self, values: Floats) -> Floats:
        """Return a column of the higher bars as the lower rows know it: NaN before the first one is over."""
        if values.shape != (len(self.bars),):
            raise unprocessable(
                "INDICATOR_INPUT",
                f"a column of shape {values.shape} for {len(self.bars)} higher bars",
                "compute it from the higher bars: higher(bars, …).bars",
            )
        return np.append(values, np.nan)[self.row]  # row -1 is the NaN


def higher(bars: Bars, timeframe: str | int) -> Higher:
    """Return the bars of `timeframe` made of `bars`, and when each was known.

    `timeframe`: a name ("1h") or how many bars make one (60), so that a warm-up can be counted in bars. Higher bars
    begin on the clock, in UTC (weeks on Monday), wherever the columns begin; a first one that had begun before is left
    out. A higher bar counts from the row that ends where it ends, or from the first row after that when that one is
    missing. Missing rows are not noticed otherwise. Where a further symbol has none (NaN), the high, low and volume of
    its higher bar are NaN, the open if that row is the first, the close if it is the last. As on exchanges, only the
    close of a row without volume counts beside rows with volume.
    Errors: InputError TIMEFRAME_MISMATCH when it is not made of such bars.
    """
    part_s = TIMEFRAMES.get(bars.timeframe, 0)
    name = timeframe if isinstance(timeframe, str) else _name_of(part_s * timeframe, bars.timeframe, timeframe)
    length_s = TIMEFRAMES.get(name, 0) if isinstance(timeframe, str) else part_s * timeframe
    if part_s == 0 or length_s < part_s or length_s % part_s:
        raise unprocessable(
            "TIMEFRAME_MISMATCH",
            f"{timeframe} bars cannot be made of {bars.timeframe} bars",
            f"choose a multiple of {bars.timeframe} up to a week",
        )
    length = length_s * NS
    offset = _MONDAY_NS if length_s % 604_800 == 0 else 0
    starts: Ints = bars.time_ns - (bars.time_ns - offset) % length
    edge = np.flatnonzero(np.diff(starts, prepend=starts[:1] - 1))
    if len(edge) and int(bars.time_ns[0]) != int(starts[0]):
        edge = edge[1:]
    ends = starts[edge] + length
    last_end = int(bars.time_ns[-1]) + part_s * NS if len(bars) else 0
    over = int(np.searchsorted(ends, last_end, side="right"))
    made = _folded(bars, name, starts, edge)[:over]
    row = np.searchsorted(ends[:over], bars.time_ns + part_s * NS, side="right") - 1
    return Higher(made, row.astype(np.int64))


def _name_of(length_s: int, timeframe: str, factor: int) -> str:
    return next((name for name, seconds in TIMEFRAMES.items() if seconds == length_s), f"{factor}x{timeframe}")


def _folded(bars: Bars, timeframe: str, starts: Ints, edge: Ints) -> Bars:
    """Return one bar for each group of rows that begins at an edge; rows before the first edge are left out."""
    if not len(edge):
        return Bars(bars.symbol, timeframe, starts[:0], *[np.zeros(0)] * 5)
    is_traded = ~(bars.volume <= 0)  # a volume that is not known may be one
    sizes = np.diff(edge, append=len(bars))
    has_trades = np.zeros(len(bars), dtype=bool)
    has_trades[edge[0] :] = np.repeat(np.logical_or.reduceat(is_traded, edge), sizes)
    is_neutral = has_trades & ~is_traded
    rows = np.where(is_neutral, len(bars), np.arange(len(bars)))
    first = np.minimum.reduceat(rows, edge)
    return Bars(
        bars.symbol,
        timeframe,
        starts[edge],
        bars.open[first],
        np.maximum.reduceat(np.where(is_neutral, -np.inf, bars.high), edge),
        np.minimum.reduceat(np.where(is_neutral, np.inf, bars.low), edge),
        bars.close[edge + sizes - 1],
        np.add.reduceat(bars.volume, edge),
    )
