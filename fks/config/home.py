"""The default home of a node: `.fks` of the checkout, or a native directory when that is on a Windows drive."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

DEFAULT = ".fks"
_DRIVE_TYPES = ("9p", "drvfs", "v9fs")


def default_home() -> str:
    """Return the home to use without --home and FKS_HOME.

    Under WSL a checkout on a Windows drive gets `~/.local/share/fks/<key>`: PostgreSQL, locks and unix sockets need a
    Linux file system. The key differs between checkouts. A `.fks` elsewhere is used as it is.
    """
    here = Path.cwd()
    if windows_drive(here) is None:
        return DEFAULT
    base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return str(base / "fks" / hashlib.sha256(str(here).encode()).hexdigest()[:8])


def windows_drive(path: Path, mounts: Path = Path("/proc/mounts"), version: Path = Path("/proc/version")) -> str | None:
    """Return the mount point of the Windows drive that `path` is on under WSL, or None."""
    try:
        if "microsoft" not in version.read_text().lower():
            return None
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return None
    best = ("", "")
    for fields in lines:
        point = fields[1].replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, fields[2])
    return best[0] if best[1] in _DRIVE_TYPES else None
