"""One pass over an equity curve. It is compiled where the compiled engine is in use; the result is the same without."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from fks.model.bar import Floats
from fks.research.backtest import kernel


def deepest_fall(equity: Floats, start: float) -> float:
    """Return the greatest loss since the highest equity so far (`start` included), as a share of that; 0 for an empty
    curve or where a peak is not positive."""
    if not len(equity) or start <= 0.0:
        return 0.0
    if kernel.is_loaded():
        return float(load()(np.ascontiguousarray(equity), start))
    peaks = np.maximum.accumulate(equity)
    np.maximum(peaks, start, out=peaks)
    falls = peaks - equity
    falls /= peaks
    return float(falls.max())


def fall_of(equity: Floats, start: float) -> float:
    """Return `deepest_fall` in one pass. A lower equity under the same peak is a greater loss, so that one division per
    peak gives the same float64 as one per bar."""
    peak, trough, fall = start, start, 0.0
    for value in equity:
        if value > peak:
            fall = max(fall, (peak - trough) / peak)
            peak, trough = value, value
        elif value < trough:
            trough = value
    return max(fall, (peak - trough) / peak)


@cache
def load() -> Callable[[Floats, float], float]:
    """Return the compiled `fall_of`."""
    import numba

    compiled: Callable[[Floats, float], float]
    compiled = numba.njit((numba.float64[::1], numba.float64), cache=True, nogil=True, error_model="numpy")(fall_of)
    return compiled
