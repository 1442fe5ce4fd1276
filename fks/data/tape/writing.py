"""Tape files on disk: written block by block, closed by size and age, the oldest removed."""

from __future__ import annotations

import hashlib
import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import msgspec

from fks.data.tape.records import BLOCK, END, ENDING, HEAD, Header
from fks.model.timeframe import to_datetime

LEVEL = 3  # of zlib: frames shrink to about a tenth at 100 MB/s; higher levels cost more than they save


class TapeWriter:
    """Writes the files of one run into a folder. Not for two threads at once. Errors of all methods: OSError."""

    def __init__(self, folder: Path, header: Header, *, file_bytes: int, file_s: float, keep_bytes: int) -> None:
        self._folder, self._header = folder, header
        self._file_bytes, self._file_ns, self._keep_bytes = file_bytes, round(file_s * 1e9), keep_bytes
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self._digest = hashlib.sha256()
        self._size = self._records = self._begun_ns = 0
        self._number = 0
        self.files: list[Path] = []

    @property
    def path(self) -> Path | None:
        """Return the file being written."""
        return self._path

    def is_due(self, now_ns: int) -> bool:
        """Return whether the next block begins another file (the caller then says what stands)."""
        return self._file is None or self._size >= self._file_bytes or now_ns - self._begun_ns >= self._file_ns

    def begin(self, now_ns: int) -> None:
        """Close the file and begin the next one, removing the oldest when the folder is over its limit."""
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._number += 1
        moment = to_datetime(self._header.run)
        self._path = self._folder / f"{self._header.exchange}-{moment:%Y%m%dT%H%M%S%f}-{self._number:05d}{ENDING}"
        self._file = self._path.open("xb")
        self.files.append(self._path)
        self._digest, self._size, self._records, self._begun_ns = hashlib.sha256(), 0, 0, now_ns
        self._put(msgspec.json.encode(replace(self._header, number=self._number)) + b"\n")
        self._prune()

    def write(self, parts: list[bytes], records: int, first_ns: int, last_ns: int) -> None:
        """Append a block; it is with the operating system when this returns."""
        assert self._file is not None
        raw = b"".join(parts)
        packed = zlib.compress(raw, LEVEL)
        head = HEAD.pack(BLOCK, len(packed), len(raw), records, zlib.crc32(packed), first_ns, last_ns)
        self._put(head + packed)
        self._file.flush()
        self._records += records

    def close(self) -> None:
        """Write the end and put the file on disk."""
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
        files = sorted(self._folder.glob(f"*{ENDING}"), key=lambda path: path.name)
        sizes = {path: path.stat().st_size for path in files}
        for path in files:
            if sum(sizes.values()) <= self._keep_bytes or path == self._path:
                return
            path.unlink(missing_ok=True)
            del sizes[path]
