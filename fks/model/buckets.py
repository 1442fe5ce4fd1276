"""Open and end times of bars, for whole arrays. Times are UTC; weeks open on Monday, months on the first day.

fks.model.timeframe has the same for single times.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fks.model.bar import Ints
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, bar_start, is_on_grid

_MONDAY_NS = 4 * 86400 * NS


def length_of(timeframe: str) -> int:
    """Return the length used to order timeframes, seconds; a month counts 31 days, and so does an unknown
    timeframe."""
    return TIMEFRAMES.get(timeframe, 0) or 31 * 86400


def by_length(timeframes: Iterable[str]) -> tuple[str, ...]:
    """Return timeframes, smallest first."""
    return tuple(sorted(set(timeframes), key=length_of))


def divides(small: str, large: str) -> bool:
    """Return whether bars of `large` begin and end where bars of `small` do, so that they can be built from them."""
    if not TIMEFRAMES.get(small) or length_of(small) >= length_of(large):
        return False
    return is_on_grid(small, large)


def starts_of(time_ns: Ints, timeframe: str) -> Ints:
    """Return the open time of the bar that holds each time. Shapes: (n,) → (n,)."""
    if timeframe == "1M":
        months = time_ns.astype("datetime64[ns]").astype("datetime64[M]")
        return months.astype("datetime64[ns]").astype(np.int64)
    offset = _MONDAY_NS if timeframe == "1w" else 0
    return time_ns - (time_ns - offset) % (TIMEFRAMES[timeframe] * NS)


def ends_of(start_ns: Ints, timeframe: str) -> Ints:
    """Return the open time of the bar after each bar. Shapes: (n,) → (n,)."""
    if timeframe == "1M":
        months = start_ns.astype("datetime64[ns]").astype("datetime64[M]") + np.timedelta64(1, "M")
        return months.astype("datetime64[ns]").astype(np.int64)
    return start_ns + TIMEFRAMES[timeframe] * NS


def starts_within(from_ns: int, to_ns: int, timeframe: str) -> Ints:
    """Return the open times of all bars that overlap [from, to): the first may begin before `from`."""
    if to_ns <= from_ns:
        return np.empty(0, dtype=np.int64)
    first, last = bar_start(from_ns, timeframe), bar_start(to_ns - 1, timeframe)
    if timeframe == "1M":
        edges = (
            np.array([first, bar_end(last, timeframe)], dtype=np.int64).astype("datetime64[ns]").astype("datetime64[M]")
        )
        return np.arange(edges[0], edges[1]).astype("datetime64[ns]").astype(np.int64)
    return np.arange(first, last + 1, TIMEFRAMES[timeframe] * NS, dtype=np.int64)
