"""Correlation of two instruments' returns, as the limit `exposure_max_correlated` takes it. Pure.

Closes are sampled on a grid: the multiples of an interval (UTC), the newest one at or before the decision. The close
of a grid point is that of the newest bar that ends in the interval up to it; a bar that has not ended by then is not
used. A return is the logarithm of the ratio of two neighbouring closes. A backtest and the order manager call the same
function, with the bars that were complete at the decision.
"""

from __future__ import annotations

import numpy as np

from fks.model.bar import Floats, Ints
from fks.model.timeframe import NS

_LEAST_SHARE = 0.5  # of the returns wanted: with fewer the correlation is not known


def returns_before(ends_ns: Ints, closes: Floats, at_ns: int, interval_s: int, count: int) -> Floats:
    """Return the newest `count` returns of the grid at `at_ns`, oldest first; NaN where a close is missing.

    Shapes: `ends_ns` (the end of each bar, ascending) and `closes` (n,) -> (count,).
    """
    interval = interval_s * NS
    last = at_ns - at_ns % interval
    grid = last - interval * np.arange(count, -1, -1, dtype=np.int64)
    found = np.searchsorted(ends_ns, grid, side="right") - 1
    is_there = found >= 0
    sampled = np.full(count + 1, np.nan)
    is_there[is_there] = ends_ns[found[is_there]] > (grid - interval)[is_there]
    sampled[is_there] = closes[found[is_there]]
    sampled[~(sampled > 0.0)] = np.nan
    returns: Floats = np.diff(np.log(sampled))
    return returns


def correlation_of(left: Floats, right: Floats) -> float | None:
    """Return Pearson's correlation of two columns of returns over the rows that both have.

    None (not known) when fewer than half of the rows are there, or one of the two did not move. Shapes: both (n,).
    """
    rows = np.isfinite(left) & np.isfinite(right)
    if np.count_nonzero(rows) < max(2.0, _LEAST_SHARE * len(left)):
        return None
    x, y = left[rows] - left[rows].mean(), right[rows] - right[rows].mean()
    spread = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / spread if spread > 0.0 else None
