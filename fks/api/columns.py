"""Stored bars as files: CSV and Arrow streams, a page of rows at a time, so that a year of minutes is never held at once."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson

from fks.api.exact import dump

#: name -> media type
MEDIA = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
}
COLUMNS = ("time", "open", "high", "low", "close", "volume", "trades", "is_complete", "is_empty", "revision")
Rows = Sequence[Any]  # of mappings: what the database gives


async def csv_of(pages: AsyncIterator[Rows]) -> AsyncIterator[bytes]:
    """Yield a CSV text: a line of names, then bars; times ISO 8601 with Z, numbers as in JSON, true and false."""
    yield (",".join(COLUMNS) + "\n").encode()
    async for rows in pages:
        yield await asyncio.to_thread(_csv, rows)


async def arrow_of(pages: AsyncIterator[Rows], metadata: Mapping[str, str]) -> AsyncIterator[bytes]:
    """Yield an Arrow IPC stream: time timestamp[us, UTC], prices and volume float64, trades and revision int32."""
    writer = await asyncio.to_thread(_ArrowWriter, metadata)  # the first one imports pyarrow
    yield writer.taken()
    async for rows in pages:
        yield await asyncio.to_thread(writer.add, rows)
    yield writer.end()


def _csv(rows: Rows) -> bytes:
    values = orjson.loads(dump([[row[name] for name in COLUMNS] for row in rows]))  # one spelling of numbers and times
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [str(value).lower() if isinstance(value, bool) else value for value in row] for row in values
    )
    return text.getvalue().encode()


class _ArrowWriter:
    """Writes record batches into memory that is taken away after each."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        import pyarrow

        self._pa: Any = pyarrow
        kinds: dict[str, Any] = {
            "time": pyarrow.timestamp("us", tz="UTC"),
            "trades": pyarrow.int32(),
            "revision": pyarrow.int32(),
        }
        kinds |= dict.fromkeys(("is_complete", "is_empty"), pyarrow.bool_())
        self._schema = pyarrow.schema(
            [(name, kinds.get(name, pyarrow.float64())) for name in COLUMNS], metadata=dict(metadata)
        )
        self._sink = io.BytesIO()
        self._stream = pyarrow.ipc.new_stream(self._sink, self._schema)

    def add(self, rows: Rows) -> bytes:
        """Return the bytes of one more batch."""
        columns = [self._pa.array([row[name] for row in rows], type=self._schema.field(name).type) for name in COLUMNS]
        self._stream.write_batch(self._pa.record_batch(columns, schema=self._schema))
        return self.taken()

    def end(self) -> bytes:
        """Return the bytes that end the stream."""
        self._stream.close()
        return self.taken()

    def taken(self) -> bytes:
        """Return what was written since the last time."""
        data = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return data
