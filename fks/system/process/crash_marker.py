"""Crash marker: a small file that names the strategy instance that a worker is running, and survives the worker.

The file is the mark as the dead process leaves it; the keeper of its node posts it as a row
(`fks.system.node.cluster_driver`), so that a successor on another node finds it too.

Before user code runs, the worker marks the instance; after it, the mark is cleared. These are two `pwrite` calls of a
microsecond each, never fsynced: the page cache survives the process, and the death of a machine is not caused by a
strategy. If a mark cannot be written (a full disk), a crash is not attributed; the evaluation goes on.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

_HEAD = struct.Struct("<4sqqqH")  # magic, set at, bar time, epoch, length of the id
_MAGIC = b"FKS1"
_SIZE = 512
_EMPTY = bytes(_SIZE)


@dataclass(frozen=True, slots=True)
class CrashMark:
    """`instance` was running since `at_ns`, on the bar that opened at `bar_ns` (0: while it was loaded)."""

    instance: str
    at_ns: int
    bar_ns: int
    epoch: int


class CrashMarker:
    """Mark file of one worker. `path` None: no marks (a worker without a home, as in tests and replays)."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: int | None = None
        self._is_forgiven = False

    @staticmethod
    def path(run: Path, worker: str) -> Path:
        """Return the file of a worker, e.g. run/strategy%3A0.inhand."""
        return run / f"{quote(worker, safe='')}.inhand"

    @classmethod
    def all_left(cls, run: Path) -> list[tuple[str, CrashMark]]:
        """Return (worker, mark) of every mark in a node's run directory; those of living workers are among them."""
        found = []
        for path in sorted(run.glob("*.inhand")):
            if (mark := cls(path).left()) is not None:
                found.append((unquote(path.stem), mark))
        return found

    def left(self) -> CrashMark | None:
        """Return the mark that the predecessor left when it died; None when there is none, or it cannot be read."""
        if self._path is None:
            return None
        try:
            data = self._path.read_bytes()
        except OSError:
            return None
        if len(data) < _HEAD.size:
            return None
        magic, at_ns, bar_ns, epoch, length = _HEAD.unpack_from(data)
        name = data[_HEAD.size : _HEAD.size + length]
        if magic != _MAGIC or len(name) != length:
            return None
        return CrashMark(name.decode(errors="replace"), at_ns, bar_ns, epoch)

    def set(self, instance: str, *, at_ns: int, bar_ns: int, epoch: int) -> None:
        """Mark an instance."""
        if self._is_forgiven:
            return
        name = instance.encode()[: _SIZE - _HEAD.size]
        self._write(_HEAD.pack(_MAGIC, at_ns, bar_ns, epoch, len(name)) + name)

    def forgive(self) -> None:
        """Write no marks from here on: the worker was asked to end, and a running instance is only slow."""
        self._is_forgiven = True
        self.clear()

    def clear(self) -> None:
        """Clear the mark."""
        self._write(_EMPTY[: _HEAD.size])

    @contextlib.contextmanager
    def holding(self, instance: str, *, at_ns: int, bar_ns: int, epoch: int) -> Iterator[None]:
        """Mark an instance for as long as the block runs."""
        self.set(instance, at_ns=at_ns, bar_ns=bar_ns, epoch=epoch)
        try:
            yield
        finally:
            self.clear()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, data: bytes) -> None:
        try:
            if self._file is None:
                if self._path is None:
                    return
                self._file = self._open(self._path)
            os.pwrite(self._file, data, 0)
        except OSError:  # the crash is not attributed; the evaluation goes on
            return

    @staticmethod
    def _open(path: Path) -> int:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(file).st_size < _SIZE:
            os.pwrite(file, _EMPTY, 0)  # the block is allocated now: a full disk fails here or never
        return file
