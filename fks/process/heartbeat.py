"""The beat of a process where everybody on its machine can feel it: shared memory, written by each turn of its work
loop.

A health call costs the two processes more than a millisecond of CPU together, feeling a pulse some microseconds. It
tells that the work loop turns, and what the process last said of itself; it tells nothing of other machines. A stopped
process and a blocked loop both leave it standing still. The clock is CLOCK_MONOTONIC, which all processes of a machine
share.
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

# each word is aligned and copied whole, so a reader sees an old or a new one, never a mixture
_BEAT = struct.Struct("@qd")  # pid, monotonic time
_TEXT = struct.Struct("@II")  # length and CRC-32 of what follows; 0, 0 = nothing said
_AT = _BEAT.size + _TEXT.size
ROOM = 16384  # bytes for all of it


def pulse_file(run: Path, component: str) -> Path:
    """Return where a component's pulse is, e.g. run/strategy%3A0.pulse."""
    return run / f"{quote(component, safe='')}.pulse"


class Pulse:
    """A process's own pulse. Without room for the file it beats for nobody, and calls tell."""

    def __init__(self, path: Path) -> None:
        self._memory: mmap.mmap | None = None
        fresh = path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            # a file of its own, renamed into place: who still holds the predecessor's feels that one stand still
            with fresh.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, ROOM)  # a full disk is found here, not by a signal later
            fresh.chmod(0o600)
            with fresh.open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), ROOM)
            fresh.replace(path)

    def beat(self, at_s: float) -> None:
        """Write one beat."""
        if self._memory is not None:
            self._memory[: _BEAT.size] = _BEAT.pack(os.getpid(), at_s)

    def say(self, beat: Mapping[str, object]) -> None:
        """Write what a call would be answered. What does not fit is not said, and asked for."""
        if self._memory is None:
            return
        text = orjson.dumps(beat, default=str)
        if len(text) > ROOM - _AT:
            self._memory[_BEAT.size : _AT] = _TEXT.pack(0, 0)
            return
        # a reader in between finds a checksum that is not that of the text, and asks instead
        self._memory[_BEAT.size : _AT + len(text)] = _TEXT.pack(len(text), zlib.crc32(text)) + text


class Finger:
    """Feels the pulse of process `pid` of this machine."""

    def __init__(self, path: Path, pid: int) -> None:
        self._path, self._pid = path, pid
        self._memory: mmap.mmap | None = None
        self._heard: tuple[bytes, dict[str, Any]] = b"", {}

    def feel(self) -> tuple[float, Mapping[str, Any]] | None:
        """Return (monotonic time of the last beat, what it says), or None when either cannot be felt."""
        if self._memory is None:
            with contextlib.suppress(OSError, ValueError), self._path.open("rb") as file:
                self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._memory is None:
            return None
        pid, at_s = _BEAT.unpack_from(self._memory)
        if pid != self._pid:
            self._memory = None  # its predecessor's, or not begun
            return None
        mark = self._memory[_BEAT.size : _AT]
        if mark != self._heard[0]:
            length, checksum = _TEXT.unpack(mark)
            text = self._memory[_AT : _AT + length]
            if not length or zlib.crc32(text) != checksum:
                return None
            self._heard = mark, orjson.loads(text)
        return at_s, self._heard[1]
