"""Merge of bars into `ohlcv_data`: compare first, write only bars that differ.

Few bars are one statement. Many are compared in numpy with the stored bars of their time; new bars go by COPY into
their month's partition (past the triggers that keep `series`, whose row is then written here), changed bars go through
a staging table and one merge. A concurrent writer makes the COPY fail on a unique key; it is rolled back to its
savepoint and the merge does that part as well. So the merge is idempotent, whichever writers run beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
import numpy as np
import numpy.typing as npt

from fks.model.bar import Bars
from fks.model.timeframe import to_datetime
from fks.store import copy
from fks.store.db import Row, Transaction, sql
from fks.store.partitions import month_of

FEW = 2_000  # rows that one statement with arrays takes faster than four round trips
PIECE = 100_000  # rows compared and copied at a time: 15 MB, and well within a statement's time
PRICES = ("open", "high", "low", "close", "volume")
Bools = npt.NDArray[np.bool_]

_VALUES = [
    ("time", copy.TIME),
    *((name, copy.FLOAT) for name in PRICES),
    ("trades", copy.INT4),
    ("is_empty", copy.BOOL),
]
_STORED = copy.row_form([*_VALUES, ("is_complete", copy.BOOL)])


@dataclass(frozen=True, slots=True)
class Merged:
    """Result of a merge, in bars: new, changed, unchanged."""

    inserted: int
    changed: int
    unchanged: int

    @property
    def written(self) -> int:
        """Return how many bars were new or different."""
        return self.inserted + self.changed

    def __add__(self, other: Merged) -> Merged:
        return Merged(self.inserted + other.inserted, self.changed + other.changed, self.unchanged + other.unchanged)


@dataclass(frozen=True, slots=True)
class Incoming:
    """Bars to merge: one series, its source, and the columns that Bars has not. `trades` None: not counted; 0 with a
    volume: not those of this bar. A stored count then stays."""

    bars: Bars
    exchange: str
    source: str
    trades: npt.NDArray[np.int32] | None
    is_empty: Bools

    def __len__(self) -> int:
        return len(self.bars)

    @staticmethod
    def of(
        bars: Bars, exchange: str, source: str, trades: npt.ArrayLike | None, is_empty: npt.ArrayLike | None
    ) -> Incoming:
        """Return rows; with `is_empty` None, a flat bar without volume is an empty one."""
        if is_empty is None:
            is_empty = (bars.volume == 0) & (bars.high == bars.low)
        return Incoming(
            bars,
            exchange,
            source,
            None if trades is None else np.asarray(trades, dtype=np.int32),
            np.asarray(is_empty, dtype=np.bool_),
        )

    def __getitem__(self, part: slice) -> Incoming:
        return Incoming(
            self.bars[part],
            self.exchange,
            self.source,
            None if self.trades is None else self.trades[part],
            self.is_empty[part],
        )

    def where(self, mask: Bools) -> Incoming:
        """Return the rows of which `mask` is true."""
        b = self.bars
        kept = Bars(b.symbol, b.timeframe, b.time_ns[mask], *(getattr(b, name)[mask] for name in PRICES))
        return Incoming(
            kept, self.exchange, self.source, None if self.trades is None else self.trades[mask], self.is_empty[mask]
        )

    @property
    def key(self) -> tuple[str, str, str]:
        return self.exchange, self.bars.symbol, self.bars.timeframe

    def stream(self, *, is_staged: bool = False) -> tuple[bytearray, tuple[str, ...]]:
        """Return the rows as COPY input and the columns it fills: all that a partition needs, or the values alone."""
        texts = {
            "exchange": self.exchange,
            "symbol": self.bars.symbol,
            "timeframe": self.bars.timeframe,
            "source": self.source,
        }
        columns = _VALUES if is_staged else [*_VALUES, *((name, copy.text_form(text)) for name, text in texts.items())]
        values = texts | {
            "time": copy.pg_time(self.bars.time_ns),
            "trades": 0 if self.trades is None else self.trades,
            "is_empty": self.is_empty,
            **{name: getattr(self.bars, name) for name in PRICES},
        }
        return copy.encoded(columns, values, len(self)), tuple(name for name, _ in columns)


async def merge(tx: Transaction, rows: Incoming) -> Merged:
    """Merge the rows, in order of time and finite, into their series, all or nothing."""
    if len(rows) <= FEW:
        return await _merge_few(tx, rows)
    done, added = Merged(0, 0, 0), Added()
    for start in range(0, len(rows), PIECE):
        done += await merge_piece(tx, rows[start : start + PIECE], added)
    if added.count:  # last: other writers of this series wait from here on
        await tx.execute("bars.note_added", *rows.key, added.oldest, added.newest, added.count)
    return done


@dataclass(slots=True)
class Added:
    """Bars that were copied past the triggers, to be counted in `series`."""

    count: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None

    def note(self, rows: Incoming) -> None:
        first, last = to_datetime(int(rows.bars.time_ns[0])), to_datetime(int(rows.bars.time_ns[-1]))
        self.count += len(rows)
        self.oldest, self.newest = self.oldest or first, last


async def _merge_few(tx: Transaction, rows: Incoming) -> Merged:
    bars = rows.bars
    trades: list[int | None] = [None] * len(rows) if rows.trades is None else rows.trades.tolist()
    row = await tx.fetchrow(
        "bars.merge_rows",
        *rows.key,
        rows.source,
        [to_datetime(int(time_ns)) for time_ns in bars.time_ns],
        *(getattr(bars, name).tolist() for name in PRICES),
        trades,
        rows.is_empty.tolist(),
    )
    return _merged(row, len(rows))


async def merge_piece(tx: Transaction, rows: Incoming, added: Added) -> Merged:
    """Merge at most PIECE rows of one series."""
    is_stored, is_same = await compared(tx, rows)
    new = rows.where(~is_stored)
    rest = rows.where(is_stored & ~is_same)
    inserted = 0
    if len(new) > FEW and await _add(tx, new, added):
        inserted = len(new)
    elif len(new):
        rest = rows.where(~is_same)
    done = await _merge_staged(tx, rest) if len(rest) else Merged(0, 0, 0)
    return Merged(inserted + done.inserted, done.changed, int(is_same.sum()) + done.unchanged)


async def compared(tx: Transaction, rows: Incoming) -> tuple[Bools, Bools]:
    """Return for each row whether its bar is stored, and whether it is stored with the same values."""
    first, last = to_datetime(int(rows.bars.time_ns[0])), to_datetime(int(rows.bars.time_ns[-1]))
    stream = await copy.copy_out(tx.connection, sql("bars.stored"), *rows.key, first, last)
    stored = copy.decoded(_STORED, stream)
    is_stored = np.zeros(len(rows), dtype=np.bool_)
    is_same = np.zeros(len(rows), dtype=np.bool_)
    if not len(stored):
        return is_stored, is_same
    times = copy.time_ns_of(stored) // 1000
    order = np.argsort(times, kind="stable")  # partitions come in any order
    wanted = rows.bars.time_ns // 1000
    found = order[np.minimum(np.searchsorted(times, wanted, sorter=order), len(order) - 1)]
    is_stored = times[found] == wanted
    there = stored[found]
    is_same = is_stored & there["is_complete"] & (there["is_empty"] == rows.is_empty)
    for name in PRICES:
        is_same &= there[name] == getattr(rows.bars, name)
    if rows.trades is not None:
        is_same &= (there["trades"] == rows.trades) | ((rows.trades == 0) & (rows.bars.volume > 0))
    return is_stored, is_same


async def _add(tx: Transaction, rows: Incoming, added: Added) -> bool:
    """COPY new bars into their partitions; False, with nothing done, when a concurrent writer has stored one of
    them."""
    partitions = {row["name"] for row in await tx.fetch("store.partitions")}
    try:
        async with tx.connection.transaction():  # a savepoint
            for table, part in _by_table(rows, partitions):
                stream, columns = part.stream()
                await copy.copy_in(tx.connection, table, stream, columns)
    except (asyncpg.UniqueViolationError, asyncpg.CheckViolationError):
        return False
    if partitions:  # one table alone: its triggers saw the rows
        added.note(rows)
    return True


def _by_table(rows: Incoming, partitions: set[str]) -> Iterator[tuple[str, Incoming]]:
    """Yield the rows month by month with the table to copy them into."""
    if not partitions:
        yield "ohlcv_data", rows
        return
    months = rows.bars.time_ns.astype("datetime64[ns]").astype("datetime64[M]")
    edges = [0, *(np.flatnonzero(np.diff(months.astype(np.int64))) + 1).tolist(), len(rows)]
    for start, end in itertools.pairwise(edges):
        name = month_of(to_datetime(int(rows.bars.time_ns[start])).astimezone(UTC)).name
        yield (name if name in partitions else "ohlcv_data_default"), rows[start:end]


async def _merge_staged(tx: Transaction, rows: Incoming) -> Merged:
    """Merge through a staging table: for changed bars, and for those that another writer stored meanwhile."""
    connection = tx.connection
    await connection.execute(sql("bars.stage"))
    stream, columns = rows.stream(is_staged=True)
    await copy.copy_in(connection, "staged_bars", stream, columns)
    row = await tx.fetchrow("bars.merge_staged", *rows.key, rows.source, rows.trades is not None)
    await connection.execute(sql("bars.unstage"))
    return _merged(row, len(rows))


def _merged(row: Row | None, count: int) -> Merged:
    assert row is not None
    return Merged(row["inserted"], row["changed"], count - row["inserted"] - row["changed"])
