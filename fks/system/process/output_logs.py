"""Rotation of what servers print: `FKS_HOME/logs/*.log` and `*.out`, which other programs append to.

A server does not open its file again, so the file keeps its place: it is copied to `.1` and emptied. What is written
between the copy and the truncation is lost; a second of a server's chatter is worth no more.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

BYTES_MAX: Final = 20_000_000
FILES_KEPT: Final = 3
_ENDS: Final = (".log", ".out")


def rotate(folder: Path, *, bytes_max: int = BYTES_MAX, files_kept: int = FILES_KEPT) -> list[str]:
    """Rotate the files of a folder that have more than `bytes_max` bytes and return their names. `.1` is the newest.

    A full disk leaves the file emptied without a copy: the disk is worth more. Other errors skip the file.
    """
    done = []
    for path in sorted(folder.glob("*")):
        if path.suffix not in _ENDS:
            continue
        with contextlib.suppress(OSError):
            if path.is_symlink() or path.stat().st_size <= bytes_max:
                continue
            for number in range(files_kept - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    _numbered(path, number).replace(_numbered(path, number + 1))
            kept = _numbered(path, 1)
            try:
                shutil.copyfile(path, kept)
                kept.chmod(0o600)
            except OSError:
                kept.unlink(missing_ok=True)
            os.truncate(path, 0)
            done.append(path.name)
    return done


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
