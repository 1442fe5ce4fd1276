"""The beat of a process where everybody on its machine can feel it: 24 bytes of shared memory, written each turn of its loop.

A health call costs the two processes more than a millisecond of CPU together, feeling a pulse some microseconds. It tells
that the work loop turns, and whether there is news worth a call; it tells nothing of other machines. A stopped process and a
blocked loop both leave it standing still. The clock is CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from pathlib import Path
from urllib.parse import quote

# each word is aligned and copied whole, so a reader sees an old or a new one, never a mixture
_WORDS = struct.Struct("@qdq")


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
            fresh.write_bytes(bytes(_WORDS.size))
            fresh.chmod(0o600)
            with fresh.open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), _WORDS.size)
            fresh.replace(path)

    def beat(self, at_s: float, news: int) -> None:
        """Write one beat. `news` is a number that changes when a call would tell something new."""
        if self._memory is not None:
            self._memory[:] = _WORDS.pack(os.getpid(), at_s, news)


class Finger:
    """Feels the pulse of process `pid` of this machine."""

    def __init__(self, path: Path, pid: int) -> None:
        self._path, self._pid = path, pid
        self._memory: mmap.mmap | None = None

    def feel(self) -> tuple[float, int] | None:
        """Return (monotonic time of the last beat, news), or None when it cannot be felt."""
        if self._memory is None:
            with contextlib.suppress(OSError, ValueError), self._path.open("rb") as file:
                self._memory = mmap.mmap(file.fileno(), _WORDS.size, access=mmap.ACCESS_READ)
        if self._memory is None:
            return None
        pid, at_s, news = _WORDS.unpack(self._memory)
        if pid == self._pid:
            return at_s, news
        self._memory = None  # its predecessor's, or not begun
        return None
