"""Own columns beside bars: of each bar the value that was known when it ended. Pure."""

from __future__ import annotations

import re

import numpy as np

from fks.model.bar import Bars, Feature, Floats, Ints
from fks.model.errors import InputError
from fks.model.timeframe import NS, TIMEFRAMES, bar_end

NAME_MAX = 64
_NAME = re.compile(rf"[a-z][a-z0-9_.]{{0,{NAME_MAX - 1}}}")


def check_feature_name(name: str) -> str:
    """Return a name of a column. Errors: InputError FEATURE_NAME."""
    if _NAME.fullmatch(name) is None:
        raise InputError(
            f"{name!r} is no name of a column",
            code="FEATURE_NAME",
            status=422,
            remedy=f"use up to {NAME_MAX} small letters, digits, _ and ., a letter first",
        )
    return name


def aligned(bars: Bars, time_ns: Ints, known_ns: Ints, values: Floats) -> Feature:
    """Return a column beside bars, made of rows in any order: value, the time it is of, and when it was known.

    A bar has the value of the latest time among those known at its end (`known_ns` <= end); of several that are of one
    time, the one that was known last, which corrects the others. It keeps it until a later one is known; a row whose
    value is NaN takes it away. Shapes: rows all (m,); returns (len(bars),).
    """
    order = np.lexsort((time_ns, known_ns))
    time_ns, known_ns, values = time_ns[order], known_ns[order], values[order]
    latest = np.maximum.accumulate(time_ns) if len(time_ns) else time_ns
    chosen = np.maximum.accumulate(np.where(time_ns == latest, np.arange(len(time_ns)), 0))
    place = np.searchsorted(known_ns, ends_ns(bars), side="right") - 1
    rows = np.append(chosen, 0)[place]  # place -1: nothing was known
    return Feature(
        np.where(place >= 0, np.append(values, np.nan)[rows], np.nan),
        np.where(place >= 0, np.append(time_ns, -1)[rows], -1).astype(np.int64),
    )


def ends_ns(bars: Bars) -> Ints:
    """Return when each bar ended, which is when it is decided on."""
    if length := TIMEFRAMES[bars.timeframe]:
        found: Ints = bars.time_ns + length * NS
        return found
    return np.array([bar_end(start, bars.timeframe) for start in bars.time_ns.tolist()], dtype=np.int64)
