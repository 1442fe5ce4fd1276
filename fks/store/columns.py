"""Cache of stored bars as columns in mapped files, for research.

One folder a series under FKS_HOME/columns, in it an `.npy` of shape (6, capacity): open times (ns), then open, high,
low, close and volume as float64 bits. `meta.json` has the number of valid bars, and the database, revision and newest
bar they come from; it is replaced atomically, after the bars are on disk. Each use reads the row in `series`: with the
same revision the copy is exact up to its newest bar, so that only later ones are read and appended behind the bars that
other processes may have mapped; another revision means a new file. A file in use is never changed below its count.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec
import numpy as np
import numpy.typing as npt

from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.model.bar import Bars, Ints
from fks.store.bars import BarStore, SeriesSummary
from fks.store.db import Database
from fks.store.merging import PRICES

_ROWS = 1 + len(PRICES)
_TICK_NS = 1000  # the resolution of timestamptz
_META, _LOCK = "meta.json", "lock"
_USED_S = 3600.0  # resolution of the last use of a series
_LOST = (OSError, ValueError, msgspec.MsgspecError)  # a file that is gone, cut off, or of another format


@dataclass(frozen=True, slots=True)
class _Meta:
    """Contents of one folder."""

    database: str
    revision: int
    newest_ns: int
    count: int
    file: str


class ColumnCache:
    """Mapped copies of whole series, exact at the time of each read. Safe for several processes.

    A copy that cannot be kept (no space, another process is writing it) is read from the database instead: slower,
    never
    wrong. Beyond `max_mb` the series unused for longest are dropped. Errors of `read`: OutageError.
    """

    def __init__(self, folder: Path, db: Database, *, max_mb: float = 4096) -> None:
        """`folder` is FKS_HOME/columns (Paths.columns); it is made when first needed."""
        self._folder = folder
        self._store = BarStore(db)
        self._db = db
        self._max_bytes = max_mb * 1e6
        self._database: str | None = None

    @staticmethod
    def of(db: Database, settings: Settings) -> ColumnCache:
        """Return the cache of the node that `settings` describe."""
        return ColumnCache(Paths.of(settings.home).columns, db, max_mb=settings.data.columns_max_mb)

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
        """Return what BarStore.read returns, as read-only views of a mapped file."""
        try:
            bars = await self._whole(symbol, timeframe, exchange)
        except _LOST:
            bars = None
        if bars is None:
            return await self._store.read(
                symbol, timeframe, from_ns, to_ns, limit, exchange=exchange, is_newest=is_newest
            )
        start = int(np.searchsorted(bars.time_ns, from_ns))
        end = len(bars) if to_ns is None else int(np.searchsorted(bars.time_ns, to_ns))
        if limit is not None:
            start, end = (max(start, end - limit), end) if is_newest else (start, min(end, start + limit))
        return bars[start : max(start, end)]

    async def _whole(self, symbol: str, timeframe: str, exchange: str) -> Bars | None:
        """Return all bars of a series, mapped; None while another process writes them."""
        if self._database is None:
            self._database = str(await self._db.fetchval("bars.database"))
        series = await self._store.series(symbol, timeframe, exchange=exchange)
        if series is None or series.newest_ns is None:
            return Bars.of(symbol, timeframe, ())
        folder = self._folder / quote(f"{exchange}~{symbol}~{timeframe}", safe="~")
        meta = _load(folder)
        if not self._is_fresh(meta, series):
            with locked(folder) as is_ours:
                if not is_ours:
                    return None
                meta = _load(folder)  # its last writer may just have finished it
                if not self._is_fresh(meta, series):
                    meta = await self._renew(folder, meta, series, symbol, timeframe, exchange)
        assert meta is not None
        return _mapped(folder, meta, symbol, timeframe)

    def _is_fresh(self, meta: _Meta | None, series: SeriesSummary) -> bool:
        return meta is not None and self._is_true(meta, series) and meta.newest_ns == series.newest_ns

    def _is_true(self, meta: _Meta, series: SeriesSummary) -> bool:
        return (meta.database, meta.revision) == (self._database, series.revision) and meta.newest_ns <= (
            series.newest_ns or 0
        )

    async def _renew(
        self, folder: Path, meta: _Meta | None, series: SeriesSummary, symbol: str, timeframe: str, exchange: str
    ) -> _Meta:
        """Update a folder to `series`: append bars after its newest one, or write it again."""
        assert series.newest_ns is not None
        assert self._database is not None
        until_ns = series.newest_ns + _TICK_NS  # excludes bars stored meanwhile: the metadata would not cover them
        after_ns = meta.newest_ns + _TICK_NS if meta is not None and self._is_true(meta, series) else 0
        bars = await self._store.read(symbol, timeframe, after_ns, until_ns, exchange=exchange)
        done: _Meta | None = None
        if meta is not None and after_ns:
            done = await asyncio.to_thread(_append, folder, meta, bars, series.newest_ns)
            if done is None:  # full
                bars = await self._store.read(symbol, timeframe, 0, until_ns, exchange=exchange)
        if done is None:
            label = _Meta(self._database, series.revision, series.newest_ns, len(bars), "")
            done = await asyncio.to_thread(_write, folder, label, bars)
            await asyncio.to_thread(_drop_unused, self._folder, self._max_bytes, folder)
        return done


def _load(folder: Path) -> _Meta | None:
    """Return a folder's metadata and record its use; None when the file is invalid."""
    path = folder / _META
    try:
        meta = msgspec.json.decode(path.read_bytes(), type=_Meta)
        if not (folder / meta.file).is_file():
            return None
        if time.time() - path.stat().st_mtime > _USED_S:
            os.utime(path)
    except _LOST:
        return None
    return meta


def _mapped(folder: Path, meta: _Meta, symbol: str, timeframe: str) -> Bars:
    columns: npt.NDArray[np.int64] = np.load(folder / meta.file, mmap_mode="r")[:, : meta.count]
    time_ns: Ints = np.asarray(columns[0])
    return Bars(symbol, timeframe, time_ns, *(np.asarray(columns[row]).view(np.float64) for row in range(1, _ROWS)))


def _write(folder: Path, label: _Meta, bars: Bars) -> _Meta:
    """Write a new file with capacity for half as many bars again (sparse, no blocks), and point the folder to it."""
    handle, name = tempfile.mkstemp(dir=folder, suffix=".npy")
    with open(handle, "wb") as file:
        capacity = len(bars) + len(bars) // 2 + 4096
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (_ROWS, capacity)})
        head = file.tell()
        file.truncate(head + _ROWS * capacity * 8)
        _put(file.fileno(), head, capacity, 0, bars)
    return _point(folder, _Meta(label.database, label.revision, label.newest_ns, len(bars), Path(name).name))


def _append(folder: Path, meta: _Meta, bars: Bars, newest_ns: int) -> _Meta | None:
    """Write bars behind the valid ones; None when the file has no capacity for them."""
    with open(folder / meta.file, "r+b") as file:
        np.lib.format.read_magic(file)
        (_, capacity), _, _ = np.lib.format.read_array_header_1_0(file)
        if meta.count + len(bars) > capacity:
            return None
        _put(file.fileno(), file.tell(), capacity, meta.count, bars)
    return _point(folder, _Meta(meta.database, meta.revision, newest_ns, meta.count + len(bars), meta.file))


def _put(handle: int, head: int, capacity: int, at: int, bars: Bars) -> None:
    """Write columns durably. Not through a map: there a full disk is a SIGBUS, here an OSError."""
    for row, name in enumerate(("time_ns", *PRICES)):
        data = memoryview(getattr(bars, name).tobytes())
        offset = head + (row * capacity + at) * 8
        while data:
            written = os.pwrite(handle, data, offset)
            data, offset = data[written:], offset + written
    os.fdatasync(handle)


def _point(folder: Path, meta: _Meta) -> _Meta:
    """Make `meta` the folder's metadata, and remove files that it no longer names."""
    beside = folder / f"{_META}.new"
    beside.write_bytes(msgspec.json.encode(meta))
    beside.replace(folder / _META)
    for file in folder.glob("*.npy"):
        if file.name != meta.file:
            file.unlink(missing_ok=True)
    return meta


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Yield whether this process has the write lock of the folder, until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _drop_unused(root: Path, max_bytes: float, keep: Path) -> None:
    """Remove the series unused for longest until the others fit."""
    found: list[tuple[float, int, Path]] = []
    for folder in root.iterdir():
        with contextlib.suppress(OSError):
            size = sum(file.stat().st_blocks * 512 for file in folder.iterdir())
            found.append((float("inf") if folder == keep else (folder / _META).stat().st_mtime, size, folder))
    total = sum(size for _, size, _ in found)
    for _, size, folder in sorted(found, key=lambda one: one[0]):
        if total <= max_bytes or folder == keep:
            return
        with locked(folder) as is_ours:
            if is_ours:
                shutil.rmtree(folder, ignore_errors=True)
                total -= size
