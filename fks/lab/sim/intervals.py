"""The exchange's kline intervals and where a moment falls in them (UTC, weeks from Monday)."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from fks.model.bar import Ints

#: name -> milliseconds; a month has no fixed length and is 0 here
INTERVALS: dict[str, int] = {
    name: seconds * 1000
    for name, seconds in {
        "1s": 1,
        "1m": 60,
        "3m": 180,
        "5m": 300,
        "15m": 900,
        "30m": 1800,
        "1h": 3600,
        "2h": 7200,
        "4h": 14400,
        "6h": 21600,
        "8h": 28800,
        "12h": 43200,
        "1d": 86400,
        "3d": 259200,
        "1w": 604800,
        "1M": 0,
    }.items()
}
_MONDAY_MS = 4 * 86_400_000


def start_of(time_ms: int, interval: str) -> int:
    """Return the open time of the bar that holds `time_ms`."""
    length = INTERVALS[interval]
    if not length:
        moment = datetime.fromtimestamp(time_ms // 1000, UTC)
        return int(datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp()) * 1000
    offset = _MONDAY_MS if interval == "1w" else 0
    return time_ms - (time_ms - offset) % length


def end_of(start_ms: int, interval: str) -> int:
    """Return the open time of the next bar."""
    length = INTERVALS[interval]
    return start_ms + length if length else start_of(start_ms + 32 * 86_400_000, interval)


def starts_of(time_ms: Ints, interval: str) -> Ints:
    """Return `start_of` for a column."""
    length = INTERVALS[interval]
    if not length:
        months = (time_ms.astype("datetime64[ms]")).astype("datetime64[M]")
        return months.astype("datetime64[ms]").astype(np.int64)
    offset = _MONDAY_MS if interval == "1w" else 0
    return time_ms - (time_ms - offset) % length
