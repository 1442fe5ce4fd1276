"""Columns of bars as pandas, Arrow and numpy objects, and parsing of the times that callers pass."""

from __future__ import annotations

from datetime import UTC, date, datetime
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from fks.model.bar import Bars, Floats, Ints
from fks.model.errors import unprocessable
from fks.model.timeframe import iso, to_ns

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

PRICES = ("open", "high", "low", "close", "volume")


def moment_ns(value: object, name: str) -> int | None:
    """Return ns UTC of an ISO text, a datetime, a date, a pandas or numpy time; without a zone it is UTC. None stays
    None.

    Errors: InputError for anything else. A bare number is refused: it may be seconds or milliseconds.
    """
    if value is None:
        return None
    try:
        if isinstance(value, np.datetime64):
            if np.isnat(value):
                raise ValueError
            return int(value.astype("datetime64[ns]").astype(np.int64))
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        if isinstance(value, datetime) and value == value:  # pandas' NaT is a datetime that is not equal to itself
            return to_ns(value if value.tzinfo is not None else value.replace(tzinfo=UTC))
        if isinstance(value, date) and not isinstance(value, datetime):
            return to_ns(datetime(value.year, value.month, value.day, tzinfo=UTC))
    except (ValueError, OverflowError):
        pass
    raise unprocessable(
        "TIME_INVALID",
        f"{name}={value!r} is no time",
        "use '2026-05-01', '2026-05-01T00:00:00Z' or a datetime; what has no zone is UTC",
    )


def check_span(start_ns: int | None, end_ns: int | None, limit: object) -> None:
    """Refuse a range that cannot hold a bar. Errors: InputError naming both ends, or the limit."""
    if start_ns is not None and end_ns is not None and start_ns >= end_ns:
        raise unprocessable("INVALID", f"start {iso(start_ns)} is not before end {iso(end_ns)}", "swap them")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, Integral) or limit < 1):
        raise unprocessable("INVALID", f"limit={limit!r} is no number", "use 1 or more, or None")


def index_of(time_ns: Ints) -> pd.DatetimeIndex:
    """Return the open times as an index named `time`, UTC."""
    import pandas

    return pandas.DatetimeIndex(time_ns.view("datetime64[ns]"), name="time").tz_localize("UTC")


def frame_of(bars: Bars, **attrs: Any) -> pd.DataFrame:
    """Return the bars as a DataFrame: index `time` (open time, UTC), columns open high low close volume, float64."""
    import pandas

    frame = pandas.DataFrame({name: getattr(bars, name) for name in PRICES}, index=index_of(bars.time_ns))
    frame.attrs.update(symbol=bars.symbol, timeframe=bars.timeframe, calendar=bars.calendar, **attrs)
    return frame


def columns_frame(time_ns: Ints, columns: dict[str, Floats], **attrs: Any) -> pd.DataFrame:
    """Return computed columns as a DataFrame with the index of `frame_of`."""
    import pandas

    frame = pandas.DataFrame(columns, index=index_of(time_ns))
    frame.attrs.update(attrs)
    return frame


def table_of(bars: Bars, **metadata: str) -> pa.Table:
    """Return the bars as an Arrow table over the same memory: time timestamp[ns, UTC], the rest float64, no nulls."""
    import pyarrow

    kinds = {"time": pyarrow.timestamp("ns", tz="UTC"), **dict.fromkeys(PRICES, pyarrow.float64())}
    columns = {"time": bars.time_ns, **{name: getattr(bars, name) for name in PRICES}}
    arrays = [
        pyarrow.Array.from_buffers(kinds[name], len(bars), [None, pyarrow.py_buffer(np.ascontiguousarray(column))])
        for name, column in columns.items()
    ]
    fields = [pyarrow.field(name, kind, nullable=False) for name, kind in kinds.items()]
    named = {"symbol": bars.symbol, "timeframe": bars.timeframe, **metadata}
    return pyarrow.Table.from_arrays(arrays, schema=pyarrow.schema(fields, metadata=named))
