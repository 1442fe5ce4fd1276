"""A journal in one file: JSON lines, fsynced line by line, written by one process alone.

The guardian keeps a kill in one, the order manager what happens to protection while PostgreSQL is away. A line cut
short by a crash is passed over: its event had not been acted upon, or the venue is asked about it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fks.config.paths import FULL_ERRORS


def read_lines(path: Path) -> list[Mapping[str, Any]]:
    """Return the lines of a file, oldest first; a missing file has none. Errors: OSError when it cannot be read."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    found: list[Mapping[str, Any]] = []
    for part in raw.split(b"\n"):
        try:
            value = json.loads(part)
        except ValueError:  # empty, or cut short by a crash
            continue
        if isinstance(value, dict) and value not in found[-1:]:  # written again where the disk did not confirm it
            found.append(value)
    return found


def sync_folder(path: Path) -> None:
    """Have the names of a folder's files on disk. Errors: OSError."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class JournalFile:
    """The one writer of a file. `error` says why lines could not be written, None when all of them are on disk.

    Lines that cannot be written wait in memory, in their order, for the next one or for `flush`.
    """

    def __init__(self, path: Path, reserve: Path | None = None) -> None:
        """`reserve`: a file that takes space for the case that the disk is full (`Paths.reserve_file`)."""
        self.path, self._reserve = path, reserve
        self.error: str | None = None
        self._unwritten: list[bytes] = []
        self._file: int | None = None
        self._lock: int | None = None

    @property
    def is_locked(self) -> bool:
        """Return whether this process is the file's writer."""
        return self._lock is not None

    def lock(self) -> bool:
        """Be the only writer of this file until `close`, or the process's end; False while another process is.

        A lock file that cannot be made (disk full, read-only) keeps no writer from its work: `error` says so.
        """
        if self._lock is not None:
            return True
        path = self.path.with_suffix(".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self.error = f"{path}: {error.strerror or error}"
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        except OSError as error:  # a file system without locks
            os.close(lock)
            self.error = f"{path}: {error.strerror or error}"
            return True
        self._lock = lock
        return True

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line. Returned: it is on disk, or `error` is set."""
        self._unwritten.append(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self.flush()

    def drop_unwritten(self) -> None:
        """Forget the lines that are not on disk: the acts that they were to allow are not done."""
        self._unwritten.clear()

    def flush(self) -> None:
        """Write the lines that could not be written when they were made. On a full disk the keeper's reserve is removed
        for them."""
        try:
            try:
                self._write_all()
            except OSError as error:
                if error.errno not in FULL_ERRORS or self._reserve is None:
                    raise
                self._reserve.unlink()  # an OSError of its own where it is gone already
                self._write_all()
        except OSError as error:
            self.error = f"{self.path}: {error.strerror or error}"
            if self._file is not None:  # a part of the line may be there: `_open` ends it
                file, self._file = self._file, None
                with contextlib.suppress(OSError):  # a file system may say here, too, that it is full
                    os.close(file)

    def empty(self) -> None:
        """Remove every line. Errors: OSError; the file is then as it was."""
        file = self._open()
        os.ftruncate(file, 0)
        os.fsync(file)
        self.error = None

    def close(self) -> None:
        """Let go of the file and the lock."""
        for file in (self._file, self._lock):
            if file is not None:
                os.close(file)
        self._file = self._lock = None

    def _write_all(self) -> None:
        while self._unwritten:
            self._write(self._unwritten[0])
            del self._unwritten[0]
            self.error = None

    def _write(self, data: bytes) -> None:
        file = self._open()
        if os.write(file, data) != len(data):
            raise OSError("only a part of a line was written")
        os.fsync(file)

    def _open(self) -> int:
        """Return the open file; a line that a crash cut short is ended first, so that ours starts on its own."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            size = os.fstat(self._file).st_size
            if size and os.pread(self._file, 1, size - 1) != b"\n":
                os.write(self._file, b"\n")
            sync_folder(self.path.parent)
        return self._file
