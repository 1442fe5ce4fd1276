"""A small disk of its own (tmpfs) that a test fills and frees while a system uses it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.support.programs import leave_out

_BLOCK = b"\0" * 65536


class SmallDisk:
    """The mounted disk. While it is full, every byte that a program or the keeper's reserve gives back is taken at once."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def free_mb(self) -> int:
        return shutil.disk_usage(self.place).free // 1_000_000

    def fill(self) -> None:
        """Fill it, once: space that is given back stays free. Returns when not one page fits."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (len(_BLOCK), 4096):
                with contextlib.suppress(OSError):
                    while file.write(_BLOCK[:size]):
                        pass

    def fill_to(self, left: int) -> None:
        """Leave so many of the bytes that are free now, even if other programs free space meanwhile."""
        with self._filler.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.place).free - left)

    def give(self, size: int) -> None:
        """Make so many bytes free after `fill`."""
        os.truncate(self._filler, max(self._filler.stat().st_size - size, 0))

    def keep_full(self) -> None:
        """Fill it and keep it so until `free`."""
        self.fill()
        self._ending.clear()
        self._thread = threading.Thread(target=self._refill, daemon=True)
        self._thread.start()

    def _refill(self) -> None:
        while not self._ending.wait(0.05):
            self.fill()

    def free(self) -> None:
        """Make space again. Idempotent."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._filler.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(place: Path, *, size_mb: int) -> Iterator[SmallDisk]:
    """Mount a disk of this size at `place`. Skips the test where the kernel does not let us."""
    place.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=755", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.partition("\n")[0].rpartition(": ")[2].rstrip(".")
        leave_out(f"no tmpfs ({reason}), a full disk was left out: run as root")
    disk = SmallDisk(place)
    try:
        yield disk
    finally:
        disk.free()
        subprocess.run(["umount", "--lazy", str(place)], check=True)
