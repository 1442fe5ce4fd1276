"""Indicators of stored series, and the table `indicators_cache` of computed columns, each valid for one revision and
newest bar of its series.

The statement that reads a row also compares it with its series, so a correction that was committed before is never
overlooked. `data` is one JSON line with the format, then the open times (zlib) and the columns (float64, little
endian).
A row in another format is ignored.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson

from fks import __version__
from fks.indicators import INDICATORS, compute
from fks.model.bar import Bars, Floats, Ints
from fks.model.errors import OutageError, unprocessable
from fks.model.timeframe import to_datetime
from fks.store.bars import BarStore, SeriesSummary
from fks.store.columns import ColumnCache
from fks.store.db import Database

_FORM = 1
#: Limit of all computed columns together; the oldest ones are deleted first. They share a database with the orders.
BYTES_MAX = 512 * 2**20


_TRIES = 5  # of reading a series that is corrected meanwhile: each try takes milliseconds


class IndicatorStore:
    """Reads and writes computed columns. Errors of all methods: OutageError."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def fresh(
        self, exchange: str, symbol: str, timeframe: str, indicator: str, params_key: str
    ) -> tuple[int, Ints, dict[str, Floats]] | None:
        """Return (revision, open times, columns) if the stored ones are valid at this moment, else None."""
        row = await self._db.fetchrow("indicators.fresh", exchange, symbol, timeframe, indicator, params_key)
        found = None if row is None else unpacked(row["data"])
        return None if row is None or found is None else (row["revision"], *found)

    async def save(
        self,
        exchange: str,
        symbol: str,
        timeframe: str,
        indicator: str,
        params_key: str,
        params: Mapping[str, float],
        state: SeriesSummary,
        time_ns: Ints,
        columns: Mapping[str, Floats],
    ) -> bool:
        """Store columns computed from the series as it was in `state`; False when the series has changed and nothing is
        stored."""
        if state.oldest_ns is None or state.newest_ns is None:
            return False
        status = await self._db.execute(
            "indicators.save",
            exchange,
            symbol,
            timeframe,
            indicator,
            params_key,
            dict(params),
            state.revision,
            to_datetime(state.oldest_ns),
            to_datetime(state.newest_ns),
            packed(time_ns, columns),
            retry=True,
        )
        await self._db.execute("indicators.forget", BYTES_MAX, retry=True)
        return status.endswith(" 1")


def packed(time_ns: Ints, columns: Mapping[str, Floats]) -> bytes:
    """Return columns of one length as bytes."""
    times = zlib.compress(time_ns.astype("<i8").tobytes(), 1)
    head: dict[str, Any] = {"form": _FORM, "rows": len(time_ns), "times": len(times), "names": list(columns)}
    return b"".join(
        [orjson.dumps(head), b"\n", times, *(column.astype("<f8").tobytes() for column in columns.values())]
    )


def unpacked(data: bytes) -> tuple[Ints, dict[str, Floats]] | None:
    """Return what `packed` was given; None for bytes in another form, or damaged ones."""
    head_text, _, body = data.partition(b"\n")
    try:
        head = orjson.loads(head_text)
        rows, names, start = int(head["rows"]), list(head["names"]), int(head["times"])
        if head["form"] != _FORM or len(body) != start + rows * 8 * len(names):
            return None
        time_ns: Ints = np.frombuffer(zlib.decompress(body[:start]), dtype="<i8").astype(np.int64)
    except (orjson.JSONDecodeError, zlib.error, KeyError, TypeError, ValueError):
        return None
    if len(time_ns) != rows:
        return None
    columns = {
        name: np.frombuffer(body, dtype="<f8", count=rows, offset=start + rows * 8 * at).astype(np.float64)
        for at, name in enumerate(names)
    }
    return time_ns, columns


@dataclass(frozen=True, slots=True)
class Computed:
    """Columns of an indicator, aligned with `time_ns` (open times, oldest first). `is_kept`: they are from the
    cache."""

    exchange: str
    symbol: str
    revision: int
    time_ns: Ints
    columns: dict[str, Floats]
    is_kept: bool = False

    def between(self, start_ns: int | None, end_ns: int | None, limit: int | None) -> Computed:
        """Return the part with start <= open time < end; `limit` keeps its first rows, or its last without a start."""
        first = 0 if start_ns is None else int(np.searchsorted(self.time_ns, start_ns))
        stop = len(self.time_ns) if end_ns is None else int(np.searchsorted(self.time_ns, end_ns))
        if limit is not None:
            first, stop = (max(first, stop - limit), stop) if start_ns is None else (first, min(stop, first + limit))
        part = slice(first, max(first, stop))
        return replace(self, time_ns=self.time_ns[part], columns={name: c[part] for name, c in self.columns.items()})


class IndicatorCache:
    """Computes indicators of stored series and caches them, never stale after a correction. Tasks may share it.

    A cached column is keyed by indicator, parameters and version of the code. It is used only while its series has the
    revision and newest bar that it was computed from (`series.revision` changes when any process corrects or deletes a
    bar or adds one before the newest). Indicators are computed over the whole series, since recursive ones depend on
    its first bar. The result was correct at one moment during the call.
    """

    def __init__(self, db: Database, columns: ColumnCache | None = None) -> None:
        """`columns`: read bars through mapped copies, which is faster for long series."""
        self._bars = BarStore(db)
        self._columns = columns or self._bars
        self._store = IndicatorStore(db)

    async def compute(self, exchange: str, symbol: str, timeframe: str, name: str, **params: float) -> Computed:
        """Return indicator `name` over the whole series; an empty one gives empty columns.

        Errors: InputError INDICATOR_UNKNOWN or INDICATOR_PARAM with the valid values; OutageError, also when the
        series kept changing.
        """
        if chosen := {"other", "columns"} & params.keys():
            raise unprocessable(
                "INDICATOR_PARAM",
                f"indicator {name} of a stored series has no parameter {min(chosen)!r}",
                "read the bars and use fks.indicators.compute",
            )
        given: dict[str, Any] = dict(params)
        empty = compute(name, Bars.of(symbol, timeframe, []), **given)  # refuses what is wrong before anything is read
        key = _key_of(name, params)
        kept = await self._store.fresh(exchange, symbol, timeframe, name, key)
        if kept is not None:
            return Computed(exchange, symbol, *kept, is_kept=True)
        state, bars = await self._still(exchange, symbol, timeframe)
        columns = compute(name, bars, **given) if len(bars) else empty
        await self._store.save(exchange, symbol, timeframe, name, key, params, state, bars.time_ns, columns)
        return Computed(exchange, symbol, state.revision, bars.time_ns, columns)

    async def _still(self, exchange: str, symbol: str, timeframe: str) -> tuple[SeriesSummary, Bars]:
        """Return a series and its state, which was the same before and after reading it."""
        before = await self._state(exchange, symbol, timeframe)
        for _ in range(_TRIES):
            bars = await self._columns.read(symbol, timeframe, exchange=exchange)
            after = await self._state(exchange, symbol, timeframe)
            if after == before:
                return after, bars
            before = after
        raise OutageError(f"{symbol} {timeframe} is being written all the time", remedy="try again in a moment")

    async def _state(self, exchange: str, symbol: str, timeframe: str) -> SeriesSummary:
        return await self._bars.series(symbol, timeframe, exchange=exchange) or SeriesSummary(0, 0, None, None)


def _key_of(name: str, params: Mapping[str, float]) -> str:
    """Return the key of an indicator's parameters, with defaults, and of the versions of the code."""
    row = INDICATORS[name]
    whole = {key: params.get(key, param.default) for key, param in row.params.items()}
    typed = {
        key: int(value) if isinstance(row.params[key].default, int) else float(value) for key, value in whole.items()
    }
    return f"{orjson.dumps(typed, option=orjson.OPT_SORT_KEYS).decode()} fks {__version__} talib {_talib_version()}"


def _talib_version() -> str:
    from importlib.metadata import version

    return version("TA-Lib")
