"""A clock with an offset that `fks chaos` sets in a demo; nothing else uses it."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from pathlib import Path

from fks.clock.real import RealClock

_LAYOUT = struct.Struct("@qd")  # offset in ns; its end by the monotonic clock, so that it ends by itself


class WrongClock(RealClock):
    """The machine's clock plus an offset that all processes with the same `file` share. Only the time of day is
    wrong."""

    def __init__(self, file: Path) -> None:
        self._memory: mmap.mmap | None = None
        with contextlib.suppress(OSError):
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(handle, 0, _LAYOUT.size)
                self._memory = mmap.mmap(handle, _LAYOUT.size)
            finally:
                os.close(handle)

    def now_ns(self) -> int:
        if self._memory is None:
            return super().now_ns()
        offset_ns, until_s = _LAYOUT.unpack(self._memory)
        return super().now_ns() + (offset_ns if self.monotonic() < until_s else 0)

    def put_wrong(self, seconds: float, for_s: float) -> None:
        """Set the clock ahead by `seconds` (behind, when negative) for `for_s`, in every process that shares the
        file."""
        if self._memory is not None:
            self._memory[:] = _LAYOUT.pack(round(seconds * 1e9), self.monotonic() + for_s)
