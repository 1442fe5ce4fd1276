"""Lock that admits one keeper per FKS_HOME, and one parent of it; the kernel frees it when its holder dies, however."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from fks.config.machine import can_reach, process_space
from fks.model.errors import FksError

PARENT_LOCK = "parent.lock"  # beside the keeper's: held by the process that starts it again (fks.system.node.parent)
TRIES = 5
SIZE = 256  # bytes of the file: pid and process space of the holder


class AlreadyRunning(FksError):
    """Another keeper, `pid`, holds this FKS_HOME."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"already running: keeper pid {pid}", remedy="see 'fks status', or stop it with 'fks down'")
        self.pid = pid


@contextlib.contextmanager
def keeper_lock(file: Path) -> Iterator[None]:
    """Hold the lock for the block. Errors: AlreadyRunning."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _take(handle):
            raise AlreadyRunning(holder_of(file) or 0)
        try:  # over what a killed holder wrote, which needs no new block
            os.pwrite(handle, f"{os.getpid()} {process_space()}".ljust(SIZE).encode(), 0)
        except OSError:  # a full disk that copies on write: the lock counts; no pid is shown, rather than a wrong one
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    for _ in range(TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        threading.Event().wait(0.05)  # another process may only be looking (`holder_of`)
    return False


def holder_of(file: Path) -> int | None:
    """Return the pid of the keeper that holds the lock now, None when there is none; 0 when it cannot be reached by a
    pid from here: the lock of a volume that two containers share."""
    try:
        handle = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid, _, space = os.pread(handle, SIZE, 0).decode(errors="replace").strip().partition(" ")
        return int(pid) if pid.isdigit() and can_reach(space) else 0
    finally:
        os.close(handle)
    return None


def has_keeper(run: Path) -> bool:
    """Return whether a keeper lives, or the parent that starts it again, by the locks in the folder `run`."""
    return any(map(_is_locked, (run / "keeper.lock", run / PARENT_LOCK)))


def _is_locked(file: Path) -> bool:
    try:
        with file.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
