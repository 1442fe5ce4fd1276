"""Exact comparisons of moving averages, in integer ticks.

Running float sums differ in the last bit, and on a price grid two averages are often exactly equal: then that bit would
decide a trade, and differently for every starting bar. Prices hold the shortest decimal of the venue's string, so they
are whole numbers of some 10^-places; sums of those are exact, and a tie is a tie wherever one starts to count.

Long columns are compared by a compiled loop, with the same result. numba is imported by `load` alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from fks.indicators.gaps import Rows, by_part, missing_rows
from fks.model.bar import Floats, Ints
from fks.model.ticks import Whole, ensure_finite, places_of

#: values from which on it is worth to load numba, and to load a loop in a process that has numba
_LOAD_FROM = 300_000
_USE_FROM = 5_000


def is_worth(count: int) -> bool:
    """Return whether to use the compiled loops for columns of so many values."""
    if load.cache_info().currsize:
        return True
    is_loaded = sys.modules.get("numba") is not None
    return (count >= _USE_FROM and is_loaded) or (count >= _LOAD_FROM and find_spec("numba") is not None)


@cache
def load() -> Callable[[Ints, int, int, float, Floats], None]:
    """Return the compiled `cross_sides`."""
    import numba

    ticks = numba.types.Array(numba.int64, 1, "C", readonly=True)
    signature = (ticks, numba.int64, numba.int64, numba.float64, numba.float64[::1])
    compiled: Callable[[Ints, int, int, float, Floats], None]
    compiled = numba.njit(signature, cache=True, nogil=True, error_model="numpy")(cross_sides)
    return compiled


def cross_sides(ticks: Ints, fast: int, slow: int, below: float, side: Floats) -> None:
    """Fill `side` with the sign of SMA(fast) - SMA(slow), `below` for -1, a tie keeping the sign before it; 0 before
    there are max(fast, slow) ticks. Sums times periods must fit 64 bits."""
    long = max(fast, slow)
    fast_sum, slow_sum = np.int64(0), np.int64(0)
    count = min(long - 1, len(ticks))
    for i in range(count):
        side[i] = 0.0
        if i >= long - 1 - (fast - 1):
            fast_sum += ticks[i]
        if i >= long - 1 - (slow - 1):
            slow_sum += ticks[i]
    last = 0.0
    for i in range(count, len(ticks)):
        fast_sum += ticks[i]
        slow_sum += ticks[i]
        difference = fast_sum * slow - slow_sum * fast
        if difference > 0:
            last = 1.0
        elif difference < 0:
            last = below
        side[i] = last
        fast_sum -= ticks[i - fast + 1]
        slow_sum -= ticks[i - slow + 1]


_LIMIT = 2**62  # int64 products stay under this; beyond it Python's integers count
Exact = npt.NDArray[np.object_] | Ints


def to_ticks(values: Floats) -> Ints:
    """Return prices as whole numbers of the coarsest 10^-places grid that holds all of them.

    The grid differs with the prices given, by powers of ten: compare only values that were converted together.
    Errors: InputError PRICE_UNKNOWN for a value that is NaN or infinite.
    """
    ensure_finite(values)
    return np.rint(values * 10.0 ** places_of(values)).astype(np.int64)


def rolling_sum(ticks: Exact, period: int) -> Exact:
    """Return the exact sum of the last `period` ticks; 0 before there are as many."""
    total = np.cumsum(ticks)  # may wrap around on very long tapes; differences are exact all the same
    result = np.zeros_like(total)
    result[period - 1 :] = total[period - 1 :]
    result[period:] -= total[:-period]
    return result


def cross_side(values: Floats, fast: int, slow: int, *, exact: Whole | None = None, below: float = -1.0) -> Floats:
    """Return the sign of SMA(fast) - SMA(slow) at each bar, exactly; a tie keeps the sign before it.

    0 until there are max(fast, slow) bars and a first bar that is no tie. NaN while one of the last max(fast, slow)
    values is NaN, and then as at the beginning. `exact`: the values as integers where they are known (`Bars.ticks`),
    which saves the conversion. `below`: stands for the sign -1.
    """
    if exact is None:
        missing = missing_rows(values)
        if missing is not None:
            side: Floats = by_part(cross_side, values, fast=fast, slow=slow, below=below)
            side[_lately(missing, max(fast, slow))] = np.nan
            return side
        ticks = to_ticks(values)
        exact = Whole(ticks, max(abs(int(ticks.max())), abs(int(ticks.min()))) if len(ticks) else 0)
    is_safe = 2 * fast * slow * exact.most < _LIMIT
    if is_safe and is_worth(len(values)):
        side = np.empty(len(values))
        load()(np.ascontiguousarray(exact.values), fast, slow, below, side)
        return side
    whole = exact.values if is_safe else exact.values.astype(object)
    difference = rolling_sum(whole, fast) * slow - rolling_sum(whole, slow) * fast
    side = np.sign(difference).astype(np.float64)
    side[: max(fast, slow) - 1] = 0.0
    side = keep_last(side)
    return side if below == -1.0 else np.where(side < 0.0, below, side)


def _lately(missing: Rows, period: int) -> Rows:
    """Return whether one of the last `period` rows is missing."""
    rows = np.arange(len(missing))
    lately: Rows = rows - np.maximum.accumulate(np.where(missing, rows, -period)) < period
    return lately


def keep_last(side: Floats) -> Floats:
    """Return `side` with every 0 replaced by the last value before it that is not 0 (0 where there is none).

    A NaN is kept like any other value, over the zeros after it.
    """
    places = np.where(side != 0.0, np.arange(len(side)), 0)
    result: Floats = side[np.maximum.accumulate(places)] if len(side) else side
    return result


def deviation_numerator(values: Floats, period: int) -> tuple[Floats, Floats]:
    """Return (period × (value - mean), period² × variance) over the last `period` values, in ticks and ticks².

    Both are exact integers rounded once to float64, so they do not depend on where the column starts; NaN before there
    are `period` values, and while one of them is NaN.
    """
    missing = missing_rows(values)
    if missing is not None:  # converted together: the unit is the same on both sides of a gap
        filled = np.where(missing, values[np.argmin(missing)], values)
        ticks = to_ticks(np.zeros(len(values)) if missing.all() else filled)
        away, spread = by_part(lambda _, ticks: _deviations(ticks, period), values, ticks)
        return away, spread
    return _deviations(to_ticks(values), period)


def _deviations(ticks: Ints, period: int) -> tuple[Floats, Floats]:
    if not len(ticks):
        return np.zeros(0), np.zeros(0)
    shifted = ticks - ticks[0]  # variance does not change, the numbers become small
    most = int(np.abs(shifted).max())
    wide = shifted if most * most * period * period * 4 < _LIMIT else shifted.astype(object)
    total = rolling_sum(wide, period)
    squares = rolling_sum(wide * wide, period)
    away = (wide * period - total).astype(np.float64)
    spread = (squares * period - total * total).astype(np.float64)
    away[: period - 1] = np.nan
    spread[: period - 1] = np.nan
    return away, spread


def band_side(values: Floats, period: int, deviations: float) -> Floats:
    """Return where each value stands to its Bollinger bands: 1 above the upper, -1 below the lower, 0.5 and -0.5
    between band and middle, 0 on the middle or before there are `period` values. A value on a band is inside it. NaN
    while one of the last `period` values is NaN."""
    away, spread = deviation_numerator(values, period)
    known = ~np.isnan(away)
    side: Floats = np.zeros(len(values))
    side[known] = 0.5 * np.sign(away[known])
    is_out = np.zeros(len(values), dtype=bool)
    is_out[known] = away[known] ** 2 > deviations * deviations * spread[known]
    side[is_out] *= 2.0
    missing = missing_rows(values)
    if missing is not None:
        side[_lately(missing, period)] = np.nan
    return side
