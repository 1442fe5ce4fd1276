"""Export of stored bars into a file that names its series, and that an import reads back bit for bit."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fks.model.bar import Bars
from fks.model.errors import InputError, invalid, not_found
from fks.model.timeframe import bar_end, check_timeframe
from fks.store.bars import BarStore
from fks.store.db import Database

FORM = "fks-bars/1"
ENDINGS = (".parquet", ".csv", ".csv.gz")
_PIECE = 200_000  # bars read and written at a time: 10 MB, however long the series
_NAMES = ("time", "open", "high", "low", "close", "volume")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Exported:
    """Result of an export. Times are those of the first and the last bar."""

    path: Path
    exchange: str
    symbol: str
    timeframe: str
    bars: int
    first_ns: int
    last_ns: int
    size: int


async def export_bars(
    db: Database,
    path: Path,
    *,
    exchange: str,
    symbol: str,
    timeframe: str,
    from_ns: int = 0,
    to_ns: int | None = None,
    replaces: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write complete bars with from <= open time < to into `path` (.parquet, .csv or .csv.gz).

    Guarantees: the file exists completely or not at all (it is written beside and renamed). `progress` is called with
    (bars done, bars in all at most). Errors: InputError for an ending, a series without bars, a file that exists;
    OutageError.
    """
    check_timeframe(timeframe)
    ending = _ending(path, replaces=replaces)
    store = BarStore(db)
    known = await store.series(symbol, timeframe, exchange=exchange)
    if known is None or known.newest_ns is None or known.oldest_ns is None:
        raise _nothing(exchange, symbol, timeframe)
    end = bar_end(known.newest_ns, timeframe)
    begin, end = max(from_ns, known.oldest_ns), end if to_ns is None else min(to_ns, end)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    count, first, last, at = 0, 0, 0, begin
    try:
        with _Writer(
            beside, ending, {"form": FORM, "exchange": exchange, "symbol": symbol, "timeframe": timeframe}
        ) as out:
            while at < end:
                bars = await store.read(symbol, timeframe, at, end, _PIECE, exchange=exchange)
                if not len(bars):
                    break
                out.write(bars)
                first, last = first or int(bars.time_ns[0]), int(bars.time_ns[-1])
                count, at = count + len(bars), bar_end(last, timeframe)
                if progress is not None:
                    progress(count, max(count, known.candles))
        if not count:
            raise _nothing(exchange, symbol, timeframe)
        size = beside.stat().st_size
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    if progress is not None:
        progress(count, count)
    return Exported(path, exchange, symbol, timeframe, count, first, last, size)


def _ending(path: Path, *, replaces: bool) -> str:
    found = next((known for known in ENDINGS if path.name.lower().endswith(known)), "")
    if not found:
        raise invalid(
            "FILE_UNKNOWN", f"{path.name} says no form that can be written", f"end it in {' or '.join(ENDINGS)}"
        )
    if path.exists() and not replaces:
        raise invalid("FILE_EXISTS", f"{path} is there already", "choose another name, or say --force")
    if not path.parent.is_dir():
        raise invalid("FILE_MISSING", f"there is no folder {path.parent}", "make it first")
    return found


def _nothing(exchange: str, symbol: str, timeframe: str) -> InputError:
    return not_found(
        "NO_DATA", f"no {timeframe} bars of {symbol} from {exchange} are stored in that range", "see 'fks data status'"
    )


def table_of(bars: Bars) -> Any:
    """Return bars as an Arrow table: time (µs, UTC), open, high, low, close, volume."""
    import pyarrow as pa

    time = pa.array(bars.time_ns // 1000, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    return pa.table([time, bars.open, bars.high, bars.low, bars.close, bars.volume], names=list(_NAMES))


class _Writer:
    """Writes pieces of a series into a file; at the end of the block it is closed and synced to disk."""

    def __init__(self, path: Path, ending: str, marks: dict[str, str]) -> None:
        self._path, self._ending, self._marks = path, ending, marks
        self._parquet: Any = None
        self._text: IO[bytes] | None = None

    def __enter__(self) -> _Writer:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._ending == ".parquet":
            columns = [("time", pa.timestamp("us", tz="UTC")), *((name, pa.float64()) for name in _NAMES[1:])]
            schema = pa.schema(columns, metadata={"fks": json.dumps(self._marks)})
            self._parquet = pq.ParquetWriter(self._path, schema, compression="zstd", use_dictionary=False)
        else:
            self._text = gzip.open(self._path, "wb", 6) if self._ending.endswith(".gz") else self._path.open("wb")  # type: ignore[assignment]
            assert self._text is not None
            self._text.write(",".join(_NAMES).encode() + b"\n")
        return self

    def write(self, bars: Bars) -> None:
        """Append bars."""
        table = table_of(bars)
        if self._parquet is not None:
            self._parquet.write_table(table.replace_schema_metadata(self._parquet.schema.metadata))
            return
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.csv as arrow

        text = pc.strftime(table.column("time").cast(pa.timestamp("s", tz="UTC")), format="%Y-%m-%dT%H:%M:%SZ")
        options = arrow.WriteOptions(include_header=False, quoting_style="none")
        arrow.write_csv(table.set_column(0, "time", text), self._text, options)

    def __exit__(self, *_: object) -> None:
        if self._parquet is not None:
            self._parquet.close()
        if self._text is not None:
            self._text.close()
        with self._path.open("rb") as written:
            os.fsync(written.fileno())
