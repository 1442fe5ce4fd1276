"""Folders for files of one process, which do not stay when it is killed: the next one deletes them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

NEW_S: Final = 60.0  # of a folder that may have no lock yet


def make_scratch(prefix: str, place: Path | None = None) -> tuple[Path, int]:
    """Return a new folder in `place`, or where temporary files are, and a descriptor with a lock on it. The folders of
    processes that were killed, which have no lock, are deleted. Errors: OSError."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    return path, hold_scratch(path, prefix)


def hold_scratch(path: Path, prefix: str) -> int:
    """Return a descriptor with a lock on a new folder. Those beside it with the same prefix that no process holds are
    deleted. Errors: OSError."""
    held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):  # some network file systems have no locks: nothing is deleted there
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for old in path.parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if old != path and time.time() - old.lstat().st_ctime > NEW_S:  # a new one has no lock yet
                _delete_left(old)
    return held


def _delete_left(path: Path) -> None:
    """Delete a folder that no process holds. Errors: OSError when one does, or it is of another account."""
    held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(held)


def delete_scratch(path: Path, held: int) -> None:
    """Delete a folder that is held by a descriptor, and let go of it."""
    shutil.rmtree(path, ignore_errors=True)
    os.close(held)
