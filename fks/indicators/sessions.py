"""Sessions of bars in a time zone, and the indicators that begin again with each one: session VWAP, pivot points.

A session begins every day at one time of the clock of an IANA zone, so it has 23 or 25 hours when that clock is
changed. The first session of the columns may have begun before them: it has no value. A row where a column is NaN or
infinite is unknown to its session alone: the VWAP has no value from it to the end of the session, and the pivot points
none in the session after it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from fks.indicators.gaps import missing_rows
from fks.model.bar import Floats, Ints
from fks.model.errors import unprocessable
from fks.model.timeframe import NS

_DAY_S = 86_400


class Pivots(NamedTuple):
    """The pivot of the session before, three resistances above it and three supports below it."""

    pivot: Floats
    r1: Floats
    r2: Floats
    r3: Floats
    s1: Floats
    s2: Floats
    s3: Floats


def zone_of(name: str) -> ZoneInfo:
    """Return the IANA zone called `name`. Errors: InputError ZONE_UNKNOWN."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise unprocessable("ZONE_UNKNOWN", f"unknown time zone {name!r}", "give an IANA name: Europe/Berlin") from None


def local_seconds(time_ns: Ints, zone: str = "UTC") -> Ints:
    """Return seconds since 1970-01-01 00:00 as the clock of `zone` shows them. Shapes: (n,), oldest first → (n,).

    Day = result // 86400, second of that day = result % 86400. The zone is asked for each day, not for each bar.
    Errors: InputError ZONE_UNKNOWN.
    """
    seconds: Ints = time_ns // NS
    if zone == "UTC" or not len(seconds):
        return seconds
    info = zone_of(zone)
    day = seconds // _DAY_S
    is_first = np.diff(day, prepend=day[0] - 1) != 0
    days, place = day[is_first], np.cumsum(is_first) - 1
    shifts = np.array([_offset(info, int(day) * _DAY_S) for day in days], dtype=np.int64)
    after = np.array([_offset(info, (int(day) + 1) * _DAY_S) for day in days], dtype=np.int64)
    result: Ints = seconds + shifts[place]
    for index in np.flatnonzero(shifts != after):
        changed_s = _changed(info, int(days[index]) * _DAY_S)
        is_after = (place == index) & (seconds >= changed_s)
        result[is_after] += after[index] - shifts[index]
    return result


def _offset(info: ZoneInfo, second: int) -> int:
    shift = datetime.fromtimestamp(second, UTC).astimezone(info).utcoffset()
    assert shift is not None
    return round(shift.total_seconds())


def _changed(info: ZoneInfo, start_s: int) -> int:
    """Return the first second of the day from `start_s` on with another offset than at its beginning."""
    low, high, before = start_s, start_s + _DAY_S, _offset(info, start_s)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(info, middle) == before else (low, middle)
    return high


def session_starts(time_ns: Ints, start_hour: float = 0.0, zone: str = "UTC") -> tuple[Ints, bool]:
    """Return the row of the first bar of each session, the first being row 0, and whether that one is whole.

    A session is whole when its first bar opens exactly at `start_hour` (hours of the zone's clock).
    """
    if not len(time_ns):
        return np.zeros(0, dtype=np.int64), False
    local = local_seconds(time_ns, zone) - round(start_hour * 3600)
    day = local // _DAY_S
    edges: Ints = np.flatnonzero(np.diff(day, prepend=day[:1] - 1)).astype(np.int64)
    return edges, int(local[0]) % _DAY_S == 0 and int(time_ns[0]) % NS == 0


def vwap_session(
    time_ns: Ints,
    high: Floats,
    low: Floats,
    close: Floats,
    volume: Floats,
    start_hour: float = 0.0,
    zone: str = "UTC",
) -> Floats:
    """Return the volume-weighted mean of the typical price (high + low + close) / 3 since the session began.

    Shapes: (n,) each → (n,); NaN in a first session that began before the columns. Before the first volume of a
    session it is the bar's own typical price. Units: price.
    """
    missing = missing_rows(high, low, close, volume)
    typical = (high + low + close) / 3.0
    if missing is not None:  # the sums are finite, and hidden below
        typical, volume = np.where(missing, 0.0, typical), np.where(missing, 0.0, volume)
    result = typical.copy()
    edges, is_whole = session_starts(time_ns, start_hour, zone)
    for first, last in pairwise([*edges.tolist(), len(time_ns)]):
        part = slice(first, last)
        weight = np.cumsum(volume[part])
        np.divide(np.cumsum(typical[part] * volume[part]), weight, out=result[part], where=weight > 0)
    if not is_whole:
        result[: int(edges[1]) if len(edges) > 1 else len(result)] = np.nan
    if missing is not None:
        begun = np.repeat(edges, np.diff(np.append(edges, len(missing))))
        last_missing = np.maximum.accumulate(np.where(missing, np.arange(len(missing)), -1))
        result[last_missing >= begun] = np.nan
    return result


def pivot_points(
    time_ns: Ints, high: Floats, low: Floats, close: Floats, start_hour: float = 0.0, zone: str = "UTC"
) -> Pivots:
    """Return the classic ("floor trader's") pivot points of the session before this one, for each bar.

    pivot = (high + low + close) / 3; r1 = 2 pivot - low, s1 = 2 pivot - high; r2, s2 = pivot ± (high - low);
    r3 = high + 2 (pivot - low), s3 = low - 2 (high - pivot). Units: price. NaN until a whole session has ended.
    """
    columns = np.full((7, len(time_ns)), np.nan)
    edges, is_whole = session_starts(time_ns, start_hour, zone)
    used = edges if is_whole else edges[1:]
    if len(used) > 1:
        top, bottom = np.maximum.reduceat(high, used)[:-1], np.minimum.reduceat(low, used)[:-1]
        last = close[used[1:] - 1]
        missing = missing_rows(high, low, close)
        if missing is not None:
            last = np.where(np.logical_or.reduceat(missing, used)[:-1], np.nan, last)
        middle = (top + bottom + last) / 3.0
        reach = top - bottom
        lines = (
            middle,
            2 * middle - bottom,
            middle + reach,
            top + 2 * (middle - bottom),
            2 * middle - top,
            middle - reach,
            bottom - 2 * (top - middle),
        )
        lengths = np.diff(np.append(used[1:], len(time_ns)))
        for column, line in zip(columns, lines, strict=True):
            column[used[1] :] = np.repeat(line, lengths)
    return Pivots(*columns)
