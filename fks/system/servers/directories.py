"""Disk space, socket paths and directories of our own servers: checked before they are used."""

from __future__ import annotations

import os
from pathlib import Path

from fks.config.paths import free_mb
from fks.model.errors import ConfigError, FksError
from fks.system.servers.binaries import SystemUser

FREE_MIN_MB = 500  # for a new home
SOCKET_MAX = 107  # bytes of sockaddr_un.sun_path


def check_free(home: Path, *, free_min_mb: int = FREE_MIN_MB, error: type[FksError] = ConfigError) -> None:
    """Raise an error when the disk under `home` has less than `free_min_mb` MB free."""
    free = free_mb(home)
    if free < free_min_mb:
        raise error(
            f"only {free} MB free under {home} (at least {free_min_mb} MB)",
            remedy="free some, or set FKS_HOME to another disk",
        )


def check_socket(path: Path) -> None:
    """Raise ConfigError when `path` is too long for a unix socket."""
    size = len(os.fsencode(path))
    if size > SOCKET_MAX:
        raise ConfigError(
            f"socket path {path} has {size} bytes (at most {SOCKET_MAX})", remedy="set TMPDIR to a short path"
        )


def own_directory(path: Path, *, mode: int, account: SystemUser | None = None) -> None:
    """Make `path` a directory of ours (of `account`), exactly `mode`.

    Errors: ConfigError when another user owns it or it is a link: names under /tmp can be guessed.
    """
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    found = path.lstat()
    if path.is_symlink() or found.st_uid not in {os.geteuid(), account.uid if account else os.geteuid()}:
        raise ConfigError(f"{path} belongs to another user (uid {found.st_uid})", remedy="remove it, or set TMPDIR")
    if account is not None and found.st_uid != account.uid:
        os.chown(path, account.uid, account.gid)
    if found.st_mode & 0o777 != mode:
        path.chmod(mode)
