"""Writing of tape files: block by block, closed by size and age; the oldest files of the exchange are removed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import zlib
from pathlib import Path
from typing import BinaryIO

import msgspec

from fks.market.tape.records import BLOCK, END, ENDING, HEAD, HEAD_CRC, Header
from fks.model.ports import Log
from fks.model.timeframe import to_datetime

LEVEL = 3  # of zlib: frames shrink to about a tenth at 100 MB/s; higher levels cost more than they save


class TapeWriter:
    """Writes the files of one run into a folder. Not for two threads at once. Errors of all methods: OSError.

    Beyond `keep_bytes` the oldest recordings of its exchange are removed, each logged (`tape.removed`), but none that
    is being read or written, and no file of another name; None: nothing is removed.
    """

    def __init__(
        self, folder: Path, header: Header, log: Log, *, file_bytes: int, file_s: float, keep_bytes: int | None
    ) -> None:
        self._folder, self._header, self._log = folder, header, log
        self._file_bytes, self._file_ns, self._keep_bytes = file_bytes, round(file_s * 1e9), keep_bytes
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self._digest = hashlib.sha256()
        self._size = self._records = self._blocks = self._begun_ns = self._line_crc = 0
        self._number = 0
        self.files: list[Path] = []

    @property
    def path(self) -> Path | None:
        """Return the file being written."""
        return self._path

    def is_due(self, now_ns: int) -> bool:
        """Return whether the next block begins another file (the caller then records the open connections)."""
        return self._file is None or self._size >= self._file_bytes or now_ns - self._begun_ns >= self._file_ns

    def begin(self, now_ns: int) -> None:
        """Close the file and begin the next one, removing the oldest when the folder is over its limit."""
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._number += 1
        moment = to_datetime(self._header.run)
        self._path = self._folder / f"{self._header.exchange}-{moment:%Y%m%dT%H%M%S%f}-{self._number:05d}{ENDING}"
        self._file = self._path.open("xb")
        lock_shared(self._file)
        self.files.append(self._path)
        self._digest, self._size, self._records, self._blocks, self._begun_ns = hashlib.sha256(), 0, 0, 0, now_ns
        line = msgspec.json.encode(msgspec.structs.replace(self._header, number=self._number)) + b"\n"
        self._line_crc = zlib.crc32(line)
        self._put(line)
        self._file.flush()  # a reader sees an empty tape now
        self._prune()

    def write(self, parts: list[bytes], records: int, first_ns: int, last_ns: int) -> None:
        """Append a block; after return the operating system has it."""
        assert self._file is not None
        raw = b"".join(parts)
        packed = zlib.compress(raw, LEVEL)
        self._blocks += 1
        head = HEAD.pack(BLOCK, self._blocks, len(packed), len(raw), records, zlib.crc32(packed), first_ns, last_ns)
        self._put(head + HEAD_CRC.pack(zlib.crc32(head, self._line_crc)) + packed)
        self._file.flush()
        self._records += records

    def close(self) -> None:
        """Write the end and sync the file to disk."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with file:
            file.write(END + self._digest.digest() + self._records.to_bytes(8, "little"))
            file.flush()
            os.fsync(file.fileno())

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def _prune(self) -> None:
        if self._keep_bytes is None:
            return
        name = re.compile(rf"{re.escape(self._header.exchange)}-(\d{{8}}T\d{{12}})-(\d+){re.escape(ENDING)}")
        own = [
            (found[1], int(found[2]), path) for path in self._folder.iterdir() if (found := name.fullmatch(path.name))
        ]
        sizes: dict[Path, int] = {}
        for _, _, path in sorted(own):
            with contextlib.suppress(FileNotFoundError):  # another recorder of the exchange removed it
                sizes[path] = path.stat().st_size
        total = sum(sizes.values())
        for path, size in sizes.items():
            if total <= self._keep_bytes:
                return
            if path != self._path and not _is_held(path):
                path.unlink(missing_ok=True)
                self._log.info("tape.removed", path=str(path), bytes=size)
                total -= size


def lock_shared(file: BinaryIO) -> None:
    """Lock an open tape file, so that it is not removed as one of the oldest before it is closed."""
    with contextlib.suppress(OSError):  # it is being removed, or the file system has no locks
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _is_held(path: Path) -> bool:
    # suppressed: a file system without locks
    with contextlib.suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
