"""Compiled loops of exact indicators. numba is imported by `load` alone; every loop has the same result without it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import numpy as np

from fks.model.bar import Floats, Ints

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
