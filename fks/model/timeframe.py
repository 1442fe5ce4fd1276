"""Timeframes: names, lengths, and the bar that contains a moment, in UTC; and the names of volume bars."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal

from fks.model.errors import invalid

NS = 1_000_000_000
#: name -> length in seconds; a month has no fixed length and is 0 here. The one table of timeframes.
TIMEFRAMES: dict[str, int] = {
    "1s": 1,
    "5s": 5,
    "10s": 10,
    "15s": 15,
    "30s": 30,
    "1m": 60,
    "2m": 120,
    "3m": 180,
    "5m": 300,
    "10m": 600,
    "15m": 900,
    "20m": 1200,
    "30m": 1800,
    "45m": 2700,
    "1h": 3600,
    "2h": 7200,
    "3h": 10800,
    "4h": 14400,
    "6h": 21600,
    "8h": 28800,
    "12h": 43200,
    "1d": 86400,
    "1w": 604800,
    "1M": 0,
}
_DAY_S = 86400
_MONDAY_S = 4 * _DAY_S  # 1970-01-05 was a Monday; weeks open there
_VOLUME = re.compile(r"vol(\d{1,12}(?:\.\d{1,8})?)")


def check_timeframe(name: str) -> str:
    """Return `name` when it is a timeframe, else raise InputError naming all of them."""
    if name not in TIMEFRAMES:
        raise invalid("TIMEFRAME_UNKNOWN", f"unknown timeframe {name!r}", f"use one of {' '.join(TIMEFRAMES)}")
    return name


def volume_of(name: str) -> Decimal | None:
    """Return the volume that a bar of `name` holds at least, as vol1000 and vol0.5 say it; None for a timeframe, whose
    bars end by the clock."""
    found = _VOLUME.fullmatch(name)
    return Decimal(found[1]) or None if found else None


def check_bar_kind(name: str) -> str:
    """Return `name` when it is a timeframe or names volume bars. Errors: InputError TIMEFRAME_UNKNOWN."""
    return name if volume_of(name) is not None else check_timeframe(name)


def is_on_grid(small: str, large: str) -> bool:
    """Return whether bars of `large` begin and end where bars of the shorter `small` do."""
    return (_DAY_S if large in ("1w", "1M") else TIMEFRAMES[large]) % TIMEFRAMES[small] == 0


def check_together(names: Iterable[str]) -> None:
    """Refuse timeframes that cannot all be built from the shortest of them. Errors: InputError TIMEFRAME_UNKNOWN,
    TIMEFRAME_FINER."""
    ordered = sorted({check_timeframe(name) for name in names}, key=lambda name: TIMEFRAMES[name] or 31 * _DAY_S)
    for name in ordered[1:]:
        if not is_on_grid(ordered[0], name):
            raise invalid(
                "TIMEFRAME_FINER",
                f"{name} bars cannot be built from {ordered[0]} bars",
                "add a shorter timeframe that divides all of them, such as 1m",
            )


def bar_start(time_ns: int, timeframe: str) -> int:
    """Return the open time (ns) of the bar that holds `time_ns`. Weeks open on Monday, months on the first, UTC."""
    seconds = TIMEFRAMES[timeframe]
    if timeframe == "1M":
        moment = datetime.fromtimestamp(time_ns // NS, UTC)
        return int(datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp()) * NS
    offset = _MONDAY_S if timeframe == "1w" else 0
    whole = time_ns // NS - offset
    return (whole - whole % seconds + offset) * NS


def bar_end(start_ns: int, timeframe: str) -> int:
    """Return the first nanosecond after the bar that opens at `start_ns`: the next bar's open."""
    if timeframe == "1M":
        moment = datetime.fromtimestamp(start_ns // NS, UTC)
        days = calendar.monthrange(moment.year, moment.month)[1]
        return start_ns + days * 86400 * NS
    return start_ns + TIMEFRAMES[timeframe] * NS


def iso(time_ns: int) -> str:
    """Return ISO 8601 with Z, microseconds only when there are any."""
    moment = datetime.fromtimestamp(time_ns // NS, UTC).replace(microsecond=time_ns % NS // 1000)
    return moment.isoformat().replace("+00:00", "Z")


def to_datetime(time_ns: int) -> datetime:
    """Return an aware UTC datetime, truncated to microseconds: the form the database takes."""
    return datetime.fromtimestamp(time_ns // NS, UTC).replace(microsecond=time_ns % NS // 1000)


def to_ns(moment: datetime) -> int:
    """Return ns since 1970 of an aware datetime, exactly."""
    if moment.tzinfo is None:
        raise invalid("TIME_NAIVE", f"time {moment.isoformat()} has no zone", "add Z for UTC")
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return ((delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds) * 1000
