"""Checks of the machine before anything starts; each failure is one line with its remedy."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable

from fks.config.home import windows_drive
from fks.config.paths import Paths, make_home
from fks.model.errors import ConfigError, OutageError
from fks.system.servers.directories import FREE_MIN_MB, check_free

PYTHON_MIN = (3, 11)
FREE_USED_MB = 100  # for one that was used before: its database is made
SOCKET_MAX = 107  # bytes of a unix socket's path
#: the longest path of a socket below the directory
RAY_SOCKET = "r/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_MetricsHead"


def check_interpreter(version: tuple[int, ...] | None = None, optimize: int | None = None) -> None:
    """Refuse a Python that is too old, and `-O`: our assertions are part of the safety."""
    found = tuple(sys.version_info[:3]) if version is None else version
    if found[:2] < PYTHON_MIN:
        raise ConfigError(
            f"Python {'.'.join(map(str, found))} is too old: FKS needs {'.'.join(map(str, PYTHON_MIN))} or newer",
            remedy="install one, then 'make install PYTHON=python3.11'",
        )
    if sys.flags.optimize if optimize is None else optimize:
        raise ConfigError(
            "FKS does not run under python -O: it drops the assertions that guard money",
            remedy="run python without -O, and unset PYTHONOPTIMIZE",
        )


def check_place(paths: Paths, *, free_min_mb: int = FREE_MIN_MB) -> None:
    """Refuse a home that cannot hold a system: read-only, full, on a Windows drive, or with too long a socket path.

    Errors: ConfigError; OutageError where a home that was used before has no space at the moment.
    """
    is_used = paths.machine_file.exists()
    if is_used:
        check_free(paths.home, free_min_mb=min(free_min_mb, FREE_USED_MB), error=OutageError)
    else:
        check_free(paths.home, free_min_mb=free_min_mb)
    for check in PLACE.values():
        check(paths)


def check_writable(paths: Paths) -> None:
    """Create the home if need be. Errors: ConfigError when this user may not write there."""
    home = paths.home
    try:
        make_home(home)
        probe = home / f".write-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except (OSError, NotADirectoryError) as error:
        raise ConfigError(
            f"FKS_HOME {home} is not writable: {error.strerror or error}", remedy="set FKS_HOME to a directory of yours"
        ) from error


def check_drive(paths: Paths) -> None:
    """Refuse a home on a Windows drive. Errors: ConfigError."""
    if drive := windows_drive(paths.home):
        raise ConfigError(
            f"FKS_HOME {paths.home} is on the Windows drive {drive}, which has no unix sockets, locks or modes",
            remedy="set FKS_HOME to a directory of the distribution; without one FKS takes ~/.local/share/fks",
        )


def check_sockets(paths: Paths) -> None:
    """Refuse a socket directory whose paths are too long for the kernel, or that another user made before us."""
    size = len(os.fsencode(paths.sockets / RAY_SOCKET))
    if size > SOCKET_MAX:
        raise ConfigError(
            f"sockets under {paths.sockets} would have paths of {size} bytes (at most {SOCKET_MAX})",
            remedy="set TMPDIR to a shorter directory, as in TMPDIR=/tmp",
        )
    try:
        found = paths.sockets.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"{paths.sockets} was made by another user (uid {found.st_uid})",
            remedy="remove it, or set TMPDIR to a directory of yours",
        )


#: Checks of the place of a home, by name: run before each start, and by `fks doctor`.
PLACE: dict[str, Callable[[Paths], None]] = {"home": check_writable, "drive": check_drive, "sockets": check_sockets}
