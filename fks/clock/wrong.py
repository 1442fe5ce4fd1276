"""A clock that can be put wrong on purpose: what `fks chaos` does to a demo. Nothing else ever has one."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from pathlib import Path

from fks.clock.real import RealClock

_WORDS = struct.Struct("@qd")  # offset in ns; until when, by the monotonic clock: it ends by itself, whoever forgot it


class WrongClock(RealClock):
    """The machine's clock, and an offset that every process with the same `file` shares. Only the time of day is
    wrong."""

    def __init__(self, file: Path) -> None:
        self._memory: mmap.mmap | None = None
        with contextlib.suppress(OSError):
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(handle, 0, _WORDS.size)
                self._memory = mmap.mmap(handle, _WORDS.size)
            finally:
                os.close(handle)

    def now_ns(self) -> int:
        if self._memory is None:
            return super().now_ns()
        offset_ns, until_s = _WORDS.unpack(self._memory)
        return super().now_ns() + (offset_ns if self.monotonic() < until_s else 0)

    def put_wrong(self, seconds: float, for_s: float) -> None:
        """Be `seconds` ahead (behind, when negative) for so long, in every process that shares the file."""
        if self._memory is not None:
            self._memory[:] = _WORDS.pack(round(seconds * 1e9), self.monotonic() + for_s)
