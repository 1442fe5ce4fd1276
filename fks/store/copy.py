"""PostgreSQL's binary COPY format to and from numpy: rows of one width, no Python object a row.

Every column has a fixed width and is never null. Text columns hold the same value in all rows, so they are written once
into a template that numpy repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fks.model.bar import Ints
from fks.model.errors import BugError

Rows = npt.NDArray[np.void]

_MAGIC = b"PGCOPY\n\xff\r\n\0"
_HEADER = _MAGIC + b"\0" * 8  # no flags, no extension
_TRAILER = b"\xff\xff"  # a row of -1 columns
_EPOCH_US = 946_684_800_000_000  # PostgreSQL counts from 2000-01-01
#: numpy types of the PostgreSQL types used here
TIME, FLOAT, INT4, BOOL = ">i8", ">f8", ">i4", "?"


def row_form(columns: Sequence[tuple[str, str]]) -> np.dtype[Any]:
    """Return the numpy form of one row: the number of columns, then each one's width and value."""
    fields: list[tuple[str, str]] = [("columns", ">i2")]
    for name, kind in columns:
        fields += [(f"{name} width", ">i4"), (name, kind)]
    return np.dtype(fields)


def text_form(value: str) -> str:
    """Return the numpy form of a text column that holds `value` in every row."""
    return f"V{len(value.encode())}"


def encoded(columns: Sequence[tuple[str, str]], values: Mapping[str, npt.ArrayLike | str], count: int) -> bytearray:
    """Return `count` rows as one COPY stream. A text value stands in every row; a time column is given in µs of
    PostgreSQL (`pg_time`)."""
    form = row_form(columns)
    template = np.zeros((), dtype=form)
    template["columns"] = len(columns)
    for name, kind in columns:
        template[f"{name} width"] = np.dtype(kind).itemsize
        value = values[name]
        if isinstance(value, str):
            template[name] = np.void(value.encode())
    stream = bytearray(len(_HEADER) + count * form.itemsize + len(_TRAILER))
    stream[: len(_HEADER)] = _HEADER
    stream[-len(_TRAILER) :] = _TRAILER
    rows = np.frombuffer(stream, dtype=form, offset=len(_HEADER), count=count)
    rows[:] = template
    for name, _ in columns:
        if not isinstance(values[name], str):
            rows[name] = values[name]
    return stream


def decoded(form: np.dtype[Any], stream: bytes | bytearray) -> Rows:
    """Return the rows of a COPY stream, without a copy. Errors: BugError when it has another form."""
    body = len(stream) - len(_HEADER) - len(_TRAILER)
    if stream[: len(_MAGIC)] != _MAGIC or body % form.itemsize:
        raise BugError(f"COPY gave {len(stream)} bytes that are no rows of {form.itemsize} bytes")
    return np.frombuffer(stream, dtype=form, offset=len(_HEADER), count=body // form.itemsize)


def pg_time(time_ns: Ints) -> Ints:
    """Return ns since 1970 as PostgreSQL's µs since 2000; below a µs is cut off."""
    return time_ns // 1000 - _EPOCH_US


def time_ns_of(rows: Rows, name: str = "time") -> Ints:
    """Return a time column of decoded rows as ns since 1970."""
    time_ns = rows[name].astype(np.int64)
    time_ns += _EPOCH_US
    time_ns *= 1000
    return time_ns


async def copy_in(
    connection: Any, table: str, stream: bytearray, columns: Sequence[str], *, timeout: float | None = None
) -> None:
    """Copy a stream into columns of a table over a raw connection; `timeout` (s) instead of the connection's own.

    The stream goes in one message, so keep it to some 20 MB: asyncpg sends pieces of an iterator only while the socket
    takes them, and when the connection ends while it does not, it waits for ever.
    """
    await connection.copy_to_table(table, source=stream, columns=list(columns), format="binary", timeout=timeout)


async def copy_out(connection: Any, query: str, *args: object, timeout: float | None = None) -> bytearray:
    """Run a query on a raw connection and return its COPY stream; `timeout` (s) instead of the connection's own."""
    received = bytearray()

    async def take(data: bytes) -> None:
        received.extend(data)

    await connection.copy_from_query(query.rstrip(";"), *args, output=take, format="binary", timeout=timeout)
    return received
