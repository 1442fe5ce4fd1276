"""Gaps in the inputs of indicators: rows where a column has no value.

The rule is the same for every indicator, whether its window is bounded or it is recursive. A row is missing when one of
the columns that the indicator reads is NaN or infinite there. It ends the series: the outputs are NaN on it, and the
rows after it are computed as a series of their own that begins there. So there is no value until the lookback is full
of rows that have all inputs, as at the beginning, and sums and averages from the first row on begin again. Nothing
before a gap changes. Missing rows before the first value, such as those of another indicator's lookback, are a gap like
any other.

Sessions begin again by themselves (`fks.indicators.sessions`). The exact comparisons give 0 for "no side yet" at the
beginning, and NaN while a window holds a missing row (`fks.indicators.exact`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fks.model.bar import Floats, Ints

Rows = npt.NDArray[np.bool_]


def missing_rows(*columns: Floats | Ints) -> Rows | None:
    """Return where one of the columns has no value (NaN or infinite); None when all have one everywhere."""
    if all(np.isfinite(column).all() for column in columns):
        return None
    missing: Rows = ~np.logical_and.reduce([np.isfinite(np.asarray(column)) for column in columns])
    return missing


def by_part(function: Callable[..., Any], *columns: Floats | Ints, **params: Any) -> Any:
    """Return what `function` returns for columns of one length, computed on each run of rows that all have a value.

    Shapes: (n,) each → one column (n,) or a tuple of them, NaN on the missing rows. Without any the function is called
    on the columns themselves.
    """
    missing = missing_rows(*columns)
    if missing is None:
        return function(*columns, **params)
    edges = np.flatnonzero(np.diff(~missing, prepend=False, append=False)).tolist()
    values = [np.asarray(column) for column in columns]
    # one row shows how many columns there are where no row has a value
    result = function(*(np.ones(1, dtype=column.dtype) for column in values), **params)
    found = [np.full(len(missing), np.nan) for _ in (result if isinstance(result, tuple) else (result,))]
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        part = function(*(column[first:last] for column in values), **params)
        for column, some in zip(found, part if isinstance(part, tuple) else (part,), strict=True):
            column[first:last] = some
    given: Any = columns[0]
    if not isinstance(given, np.ndarray):  # a pandas Series, which TA-Lib returns for one
        found = [type(given)(column, index=given.index) for column in found]
    if not isinstance(result, tuple):
        return found[0]
    return type(result)(*found) if hasattr(result, "_fields") else tuple(found)
