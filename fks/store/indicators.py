"""The table `indicators_cache`: computed columns, each valid for one revision and newest bar of its series.

The statement that reads a row also compares it with its series, so a correction that was committed before is never
overlooked. `data` is one JSON line with the format, then the open times (zlib) and the columns (float64, little
endian).
A row in another format is ignored.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from fks.model.bar import Floats, Ints
from fks.model.timeframe import to_datetime
from fks.store.bars import SeriesSummary
from fks.store.db import Database

_FORM = 1
#: Limit of all computed columns together; the oldest ones are deleted first. They share a database with the orders.
BYTES_MAX = 512 * 2**20


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
