"""Resampling of bars to a longer timeframe, vectorised."""

from __future__ import annotations

import numpy as np

from fks.market.bars.splits import after_splits
from fks.model.bar import Bars, Ints
from fks.model.calendars import ALWAYS, calendar_of
from fks.model.errors import InputError, unprocessable
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, bar_start, check_timeframe, volume_of


def _starts(times: Ints, timeframe: str) -> Ints:
    if timeframe == "1M":
        days = times - times % (86400 * NS)
        unique, place = np.unique(days, return_inverse=True)
        return np.array([bar_start(int(day), "1M") for day in unique], dtype=np.int64)[place]
    step = TIMEFRAMES[timeframe] * NS
    offset = 4 * 86400 * NS if timeframe == "1w" else 0  # weeks open on Monday
    return (times - offset) // step * step + offset


def trades_needed(timeframe: str, there_is: str) -> InputError:
    """Return the refusal of volume bars where there are no trades to make them of."""
    return unprocessable(
        "TRADES_NEEDED",
        f"{timeframe} bars are made of trades, and there is: {there_is}; what was traded inside a bar is not known",
        "collect the symbol's trades, or run on a file of trades: --tape FILE",
    )


def resample(bars: Bars, timeframe: str) -> Bars:
    """Return `bars` as `timeframe`; the same object when it is that already.

    A bar with a missing part is left out, as live leaves out bars built over a gap (C7): it shows in the gap report.
    Parts that the market's calendar does not expect are not missing.
    Volumes are sums rounded to 1e-8. Errors: InputError TIMEFRAME_UNKNOWN, TIMEFRAME_FINER, SPLIT_IN_BAR,
    TRADES_NEEDED, CONTINUOUS_INPUT.
    """
    if volume_of(timeframe) is not None and timeframe != bars.timeframe:
        raise trades_needed(timeframe, f"{bars.timeframe} bars of {bars.symbol}")
    if timeframe == bars.timeframe:
        return bars
    bars.ensure_not_rolled()
    check_timeframe(timeframe)
    part = TIMEFRAMES.get(bars.timeframe, 0)
    if part == 0 or (TIMEFRAMES[timeframe] or 86400) % part or (TIMEFRAMES[timeframe] or 28 * 86400) < part:
        raise unprocessable(
            "TIMEFRAME_FINER",
            f"{timeframe} bars cannot be made from {bars.timeframe} bars",
            f"choose a multiple of {bars.timeframe}",
        )
    if bars.raw is not None:
        return after_splits(resample(bars.raw, timeframe), bars.splits)
    if not len(bars):
        return Bars(
            bars.symbol,
            timeframe,
            *(getattr(bars, n) for n in ("time_ns", "open", "high", "low", "close", "volume")),
            calendar=bars.calendar,
            exchange=bars.exchange,
        )
    starts, first, count = np.unique(_starts(bars.time_ns, timeframe), return_index=True, return_counts=True)
    last = first + count - 1
    ends = (
        np.array([bar_end(int(s), timeframe) for s in starts])
        if timeframe == "1M"
        else starts + TIMEFRAMES[timeframe] * NS
    )
    wanted: Ints = (ends - starts) // (part * NS)
    if bars.calendar != ALWAYS:
        open_parts = calendar_of(bars.calendar).expected(bars.timeframe, int(starts[0]), int(ends[-1]))
        wanted = (np.searchsorted(open_parts, ends) - np.searchsorted(open_parts, starts)).astype(np.int64)
    whole = count >= wanted
    volume = np.asarray(np.round(np.add.reduceat(bars.volume, first), 8), dtype=np.float64)
    return Bars(
        bars.symbol,
        timeframe,
        starts[whole],
        bars.open[first][whole],
        np.maximum.reduceat(bars.high, first)[whole],
        np.minimum.reduceat(bars.low, first)[whole],
        bars.close[last][whole],
        volume[whole],
        calendar=bars.calendar,
        exchange=bars.exchange,
    )
