"""The disk of FKS_HOME as the keeper uses it: its files, which a full disk delays and never stops, and a reserve file.

The reserve is released when the disk is full, so that PostgreSQL, the guardian's file and the logs have space to
finish, and made again once there is space for twice its size.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from fks.clock import Clock
from fks.config.paths import FULL_ERRORS, FULL_MB, Paths, free_mb
from fks.model.ports import Log

RESERVE_MB = 64
FREE_AGAIN_MB = 2 * RESERVE_MB + FULL_MB  # with so much the reserve is made, and the disk is no longer full
AFTER_S = 60.0  # a start that fails so soon after the disk was full failed because of it
REMEDY = f"free some ('fks db status' shows what takes how much): with {FREE_AGAIN_MB} MB everything goes on by itself"


class HomeDisk:
    """Soft state: what could not be written yet, and since when the disk is full."""

    def __init__(self, paths: Paths, clock: Clock, log: Log) -> None:
        self._home, self._reserve, self._clock, self._log = paths.home, paths.reserve_file, clock, log
        self._unwritten: dict[str, Callable[[], None]] = {}
        self._fault = ""  # why the last write failed, where the disk is not full
        self._full_since: float | None = None
        self._full_until: float | None = None

    def write(self, name: str, write: Callable[[], None]) -> None:
        """Write a file of the keeper by `write`; where that fails, `look` tries it again until it succeeds.

        A later write of the same name takes its place. Never raises an OSError.
        """
        try:
            write()
            self._unwritten.pop(name, None)
            return
        except OSError as error:
            is_full = error.errno in FULL_ERRORS
            if name not in self._unwritten:
                self._log.warning("keeper.write_failed", file=name, error=str(error))
            self._unwritten[name] = write
            self._fault = "" if is_full else f"{name} cannot be written: {error.strerror or error}"
        if is_full:
            self._note_full()

    async def look(self) -> None:
        """Measure the free space: release or make the reserve, and write what could not be written. Once a second."""
        for name, write in list(self._unwritten.items()):
            self.write(name, write)
        free = free_mb(self._home)
        if free < FULL_MB:
            self._note_full()
        if free < FREE_AGAIN_MB or self._unwritten:
            return
        if self._full_since is not None:
            now = self._clock.monotonic()
            self._log.info("disk.freed", free_mb=free, full_s=round(now - self._full_since, 1))
            self._full_since, self._full_until = None, now
        if not self._reserve.exists():
            with contextlib.suppress(OSError):
                await asyncio.to_thread(_allocate, self._reserve)

    @property
    def problem(self) -> str:
        """Return what is wrong with the disk and the remedy; "" while nothing is."""
        if self._full_since is not None:
            return f"the disk of FKS_HOME is full: {free_mb(self._home)} MB free under {self._home}; {REMEDY}"
        return self._fault if self._unwritten else ""

    def is_likely_cause(self) -> bool:
        """Measure; return whether the disk is full, or was within AFTER_S: a start that fails now is tried again."""
        if self._full_since is None and free_mb(self._home) < FULL_MB:
            self._note_full()  # it was not when `look` measured last
        if self._full_since is not None:
            return True
        return self._full_until is not None and self._clock.monotonic() - self._full_until < AFTER_S

    def _note_full(self) -> None:
        """Release the reserve, then record it: there is space for the line now."""
        was_held = self._reserve.exists()
        with contextlib.suppress(OSError):
            self._reserve.unlink(missing_ok=True)
        if self._full_since is None:
            self._full_since = self._clock.monotonic()
            released_mb = RESERVE_MB if was_held else 0
            self._log.error("disk.full", place=str(self._home), reserve_released_mb=released_mb, remedy=REMEDY)


def _allocate(file: Path) -> None:
    """Make the reserve, whole or not at all."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(handle, 0, RESERVE_MB * 1_000_000)
    except OSError:
        file.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
