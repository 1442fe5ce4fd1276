"""The heartbeat of a process in shared memory, written by each turn of its work loop and read on the same machine.

A health call costs the two processes more than a millisecond of CPU together, reading a heartbeat some microseconds. It
shows that the work loop turns, and the status that the process last wrote; it does not reach other machines. It goes
stale when the process is stopped and when its loop is blocked. The clock is CLOCK_MONOTONIC, which all processes of a
machine share.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

# each field is aligned and copied whole, so a reader sees an old or a new one, never a mixture
_BEAT = struct.Struct("@qd")  # pid, monotonic time
_TEXT = struct.Struct("@II")  # length and CRC-32 of the status that follows; 0, 0 = no status
_AT = _BEAT.size + _TEXT.size
SIZE = 16384  # bytes of the file


def heartbeat_file(run: Path, component: str) -> Path:
    """Return the file of a component's heartbeat, e.g. run/strategy%3A0.pulse."""
    return run / f"{quote(component, safe='')}.pulse"


class HeartbeatWriter:
    """A process's own heartbeat. When the file cannot be made nothing is written, and readers fall back to calls."""

    def __init__(self, path: Path) -> None:
        self._memory: mmap.mmap | None = None
        fresh = path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            # a file of its own, renamed into place: a reader that holds the predecessor's sees that one go stale
            with fresh.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, SIZE)  # a full disk is found here, not by a signal later
            fresh.chmod(0o600)
            with fresh.open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), SIZE)
            fresh.replace(path)

    def beat(self, at_s: float) -> None:
        """Write one beat."""
        if self._memory is not None:
            self._memory[: _BEAT.size] = _BEAT.pack(os.getpid(), at_s)

    def write_status(self, beat: Mapping[str, object]) -> None:
        """Write the answer to a health call. One larger than the file is left out: readers fall back to a call."""
        if self._memory is None:
            return
        text = orjson.dumps(beat, default=str)
        if len(text) > SIZE - _AT:
            self._memory[_BEAT.size : _AT] = _TEXT.pack(0, 0)
            return
        # a reader in between finds a checksum that does not match, and falls back to a call
        self._memory[_BEAT.size : _AT + len(text)] = _TEXT.pack(len(text), zlib.crc32(text)) + text


class HeartbeatReader:
    """Reads the heartbeat of process `pid` of this machine."""

    def __init__(self, path: Path, pid: int) -> None:
        self._path, self._pid = path, pid
        self._memory: mmap.mmap | None = None
        self._last_status: tuple[bytes, dict[str, Any]] = b"", {}

    def read(self) -> tuple[float, Mapping[str, Any]] | None:
        """Return (monotonic time of the last beat, status), or None when either cannot be read."""
        if self._memory is None:
            with contextlib.suppress(OSError, ValueError), self._path.open("rb") as file:
                self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._memory is None:
            return None
        pid, at_s = _BEAT.unpack_from(self._memory)
        if pid != self._pid:
            self._memory = None  # its predecessor's, or without a beat yet
            return None
        mark = self._memory[_BEAT.size : _AT]
        if mark != self._last_status[0]:
            length, checksum = _TEXT.unpack(mark)
            text = self._memory[_AT : _AT + length]
            if not length or zlib.crc32(text) != checksum:
                return None
            self._last_status = mark, orjson.loads(text)
        return at_s, self._last_status[1]
