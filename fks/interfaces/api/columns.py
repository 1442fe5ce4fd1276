"""Stored bars as files: CSV and Arrow streams, a page of columns at a time, so that a year of minutes is never in
memory at once."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from fks.model.timeframe import iso
from fks.store.reading import COLUMNS

#: name -> media type
MEDIA = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
}
Columns = Mapping[str, npt.NDArray[Any]]
_SECOND = 1_000_000_000


async def csv_of(pages: AsyncIterator[Columns]) -> AsyncIterator[bytes]:
    """Yield a CSV text: a line of names, then bars; times ISO 8601 with Z, numbers as in JSON, true and false."""
    yield (",".join(COLUMNS) + "\n").encode()
    async for page in pages:
        yield await asyncio.to_thread(_csv, page)


async def arrow_of(pages: AsyncIterator[Columns], metadata: Mapping[str, str]) -> AsyncIterator[bytes]:
    """Yield an Arrow IPC stream: time timestamp[ns, UTC], prices and volume float64, trades and revision int32."""
    writer = await asyncio.to_thread(_ArrowWriter, metadata)  # the first one imports pyarrow
    yield writer.taken()
    async for page in pages:
        yield await asyncio.to_thread(writer.add, page)
    yield writer.end()


def _csv(page: Columns) -> bytes:
    return b"\n".join(map(b",".join, zip(*(_texts(name, page[name]) for name in COLUMNS), strict=True))) + b"\n"


def _texts(name: str, column: npt.NDArray[Any]) -> list[bytes]:
    """Return a column's values in their JSON form; null is empty."""
    if name == "time":
        if not (column % _SECOND).any():
            texts: list[bytes] = np.datetime_as_string(column.view("datetime64[ns]"), unit="s").astype("S20").tolist()
            return [text + b"Z" for text in texts]
        return [iso(int(time_ns)).encode() for time_ns in column]
    text = orjson.dumps(column, option=orjson.OPT_SERIALIZE_NUMPY)
    return text[1:-1].replace(b"null", b"").split(b",")


class _ArrowWriter:
    """Writes record batches into memory that is emptied after each."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        import pyarrow

        self._pa: Any = pyarrow
        kinds: dict[str, Any] = {
            "time": pyarrow.timestamp("ns", tz="UTC"),
            "trades": pyarrow.int32(),
            "revision": pyarrow.int32(),
        }
        kinds |= dict.fromkeys(("is_complete", "is_empty"), pyarrow.bool_())
        self._schema = pyarrow.schema(
            [(name, kinds.get(name, pyarrow.float64())) for name in COLUMNS], metadata=dict(metadata)
        )
        self._sink = io.BytesIO()
        self._stream = pyarrow.ipc.new_stream(self._sink, self._schema)

    def add(self, page: Columns) -> bytes:
        """Return the bytes of one more batch."""
        columns = [self._pa.array(page[name], type=self._schema.field(name).type, from_pandas=True) for name in COLUMNS]
        self._stream.write_batch(self._pa.record_batch(columns, schema=self._schema))
        return self.taken()

    def end(self) -> bytes:
        """Return the bytes that end the stream."""
        self._stream.close()
        return self.taken()

    def taken(self) -> bytes:
        """Return the bytes written since the last call."""
        data = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return data
