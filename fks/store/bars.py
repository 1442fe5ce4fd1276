"""Bars in columns: bulk loads through COPY, reads straight into numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fks.model.bar import Bar, Bars, Floats, Ints
from fks.model.errors import BugError
from fks.model.timeframe import to_datetime, to_ns
from fks.store.db import Database, sql

_MAGIC = b"PGCOPY\n\xff\r\n\0"
_HEAD = len(_MAGIC) + 8  # flags and extension length
_EPOCH_US = 946_684_800_000_000  # PostgreSQL counts from 2000-01-01
_LATEST_NS = 253_402_300_799_000_000_000  # the year 9999: what timestamptz and datetime both hold
_EVERY = 2**62
_PRICES = ("open", "high", "low", "close", "volume")


def _row_form(names: Sequence[tuple[str, str]]) -> np.dtype[Any]:
    """Return the numpy form of a binary COPY row of fixed-width columns that are never null."""
    fields: list[tuple[str, str]] = [("count", ">i2")]
    for name, kind in names:
        fields += [(f"{name}_size", ">i4"), (name, kind)]
    return np.dtype(fields)


_READ = _row_form([("time", ">i8"), *((name, ">f8") for name in _PRICES)])
_WRITE = _row_form([("time", ">i8"), *((name, ">f8") for name in _PRICES), ("trades", ">i4")])


class BarStore:
    """The table `ohlcv_data`, by series. Errors of all methods: OutageError."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def read(
        self,
        symbol: str,
        timeframe: str,
        from_ns: int = 0,
        to_ns: int | None = None,
        limit: int | None = None,
        *,
        exchange: str = "binance",
        is_newest: bool = False,
    ) -> Bars:
        """Return complete bars with from <= open time < to, oldest first.

        `limit` keeps the oldest of them, or the newest with `is_newest`. Symbols are in the venue's spelling.
        """
        query = "bars.read_last" if is_newest else "bars.read"
        end_ns = _LATEST_NS if to_ns is None else min(to_ns, _LATEST_NS)
        received = bytearray()

        async def take(data: bytes) -> None:
            received.extend(data)

        async with self._db.acquire() as connection:
            await connection.copy_from_query(
                sql(query).rstrip(";"), symbol, timeframe, exchange, to_datetime(from_ns), to_datetime(end_ns),
                _EVERY if limit is None else limit, output=take, format="binary",
            )  # fmt: skip
        return _decoded(symbol, timeframe, received)

    async def merge(
        self, bars: Bars, *, exchange: str = "binance", source: str, trades: npt.ArrayLike | None = None
    ) -> int:
        """Store one series in bulk; return how many rows were new or different. Twice equals once."""
        if not len(bars):
            return 0
        async with self._db.transaction() as tx:
            connection = tx.connection
            await connection.execute(sql("bars.stage"))
            await connection.copy_to_table("staged_bars", source=_chunks(_encoded(bars, trades)), format="binary")
            status = await connection.execute(sql("bars.merge"), exchange, bars.symbol, bars.timeframe, source)
        return int(status.rsplit(" ", 1)[-1])

    async def latest(self, symbol: str, timeframe: str, *, exchange: str = "binance") -> Bar | None:
        """Return the last bar of a series, complete or not."""
        row = await self._db.fetchrow("bars.latest", symbol, timeframe, exchange)
        if row is None or row["close"] is None:
            return None
        return Bar(
            exchange, symbol, timeframe, to_ns(row["time"]), row["open"], row["high"], row["low"], row["close"],
            row["volume"], row["trades"], row["is_complete"],
        )  # fmt: skip

    async def coverage(self) -> list[dict[str, Any]]:
        """Return symbol, timeframe, candles, oldest, newest, time_range of each series."""
        return [dict(row) for row in await self._db.fetch("bars.coverage")]

    async def edges(self, symbol: str, timeframe: str, *, exchange: str = "binance") -> tuple[int, int | None, int | None]:
        """Return (number of bars, open time of the oldest, of the newest) of one series."""
        row = await self._db.fetchrow("bars.edges", symbol, timeframe, exchange)
        assert row is not None
        if not row["candles"]:
            return 0, None, None
        return row["candles"], to_ns(row["oldest"]), to_ns(row["newest"])


class SyncStore:
    """The table `sync_status`: which history was fetched, and how that went."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def set(
        self,
        symbol: str,
        timeframe: str,
        exchange: str,
        status: str,
        *,
        edges: tuple[int, int | None, int | None] = (0, None, None),
        error: str | None = None,
    ) -> None:
        """Write how one sync stands: pending | running | done | failed."""
        candles, oldest_ns, newest_ns = edges
        await self._db.execute(
            "bars.sync_set", symbol, timeframe, exchange, status,
            None if oldest_ns is None else to_datetime(oldest_ns),
            None if newest_ns is None else to_datetime(newest_ns), candles, error, retry=True,
        )  # fmt: skip

    async def all(self) -> list[dict[str, Any]]:
        """Return every row, by symbol and timeframe."""
        return [dict(row) for row in await self._db.fetch("bars.sync_all")]

    async def pending(self) -> list[tuple[str, str, str]]:
        """Return (symbol, timeframe, exchange) of what waits to be begun."""
        return [(r["symbol"], r["timeframe"], r["exchange"]) for r in await self._db.fetch("bars.sync_pending")]


def _decoded(symbol: str, timeframe: str, data: bytearray) -> Bars:
    """Return the columns in a binary COPY answer. Errors: BugError when it has another form."""
    end = len(data) - 2  # the trailer, a row of -1 columns
    if data[: len(_MAGIC)] != _MAGIC or (end - _HEAD) % _READ.itemsize:
        raise BugError(f"COPY gave {len(data)} bytes that are no rows of {_READ.itemsize} bytes")
    rows = np.frombuffer(data, dtype=_READ, offset=_HEAD, count=(end - _HEAD) // _READ.itemsize)
    time_ns: Ints = (rows["time"].astype(np.int64) + _EPOCH_US) * 1000
    open_, high, low, close, volume = (rows[name].astype(np.float64) for name in _PRICES)
    return Bars(symbol, timeframe, time_ns, open_, high, low, close, volume)


def _encoded(bars: Bars, trades: npt.ArrayLike | None) -> bytes:
    rows = np.empty(len(bars), dtype=_WRITE)
    rows["count"] = len(_PRICES) + 2
    for name in ("time", *_PRICES):
        rows[f"{name}_size"] = 8
    rows["trades_size"] = 4
    rows["time"] = bars.time_ns // 1000 - _EPOCH_US
    columns: tuple[Floats, ...] = (bars.open, bars.high, bars.low, bars.close, bars.volume)
    for name, column in zip(_PRICES, columns, strict=True):
        rows[name] = column
    rows["trades"] = 0 if trades is None else np.asarray(trades)
    return _MAGIC + b"\0" * 8 + rows.tobytes() + b"\xff\xff"


async def _chunks(data: bytes) -> Any:
    step = 1 << 20
    for start in range(0, len(data), step):
        yield data[start : start + step]
