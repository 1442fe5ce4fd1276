"""Paths of a node: all state under FKS_HOME, sockets under a short path derived from it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import overload

FULL_MB = 24  # PostgreSQL needs 16 MB at once for its write-ahead log: a disk with less than this free is full
FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)


class _Below:
    """A path in another directory of a node, as an attribute of Paths."""

    def __init__(self, directory: str, name: str) -> None:
        self._directory, self._name = directory, name

    @overload
    def __get__(self, paths: None, _: type) -> _Below: ...
    @overload
    def __get__(self, paths: Paths, _: type) -> Path: ...
    def __get__(self, paths: Paths | None, _: type) -> Path | _Below:
        if paths is None:
            return self
        directory: Path = getattr(paths, self._directory)
        return directory / self._name


@dataclass(frozen=True, slots=True)
class Paths:
    """Every path of a node. `home` is absolute. Nothing here touches the disk; `ensure` does."""

    home: Path

    @staticmethod
    def of(home: Path | str) -> Paths:
        """Return the paths of the node whose FKS_HOME is `home` (made absolute)."""
        return Paths(Path(home).expanduser().absolute())

    @property
    def key(self) -> str:
        """Return 8 hex characters that identify this FKS_HOME on the host."""
        return hashlib.sha256(str(self.home).encode()).hexdigest()[:8]

    @property
    def sockets(self) -> Path:
        """Return the short directory of sockets and Ray's temp files: AF_UNIX paths end at 107 bytes."""
        return Path(tempfile.gettempdir()) / f"fks-{os.getuid()}-{self.key}"

    @property
    def ray_temp(self) -> Path:
        """Return Ray's temp directory. Ray opens it and its sockets to every user: its parent keeps them out (0700)."""
        return self.sockets / "r" / "ray"

    pgdata = _Below("home", "postgres")
    redis_dir = _Below("home", "redis")
    sim_dir = _Below("home", "sim")
    logs = _Below("home", "logs")
    #: The directory of pid files and endpoints of the running system.
    run = _Below("home", "run")
    #: The offset that `fks chaos` gives the clocks of a demo.
    wrong_clock = _Below("run", "clock.offset")
    config_file = _Below("home", "fks.toml")

    @property
    def env_files(self) -> tuple[Path, ...]:
        """Return the `.env` files of this node, strongest last: beside the default `.fks` of a checkout, and in home.

        The first is the one that `fks security-setup` writes.
        """
        beside = (self.home.parent / ".env",) if self.home.name == ".fks" else ()
        return (*beside, self.home / ".env")

    secrets_file = _Below("home", "secrets.toml")
    #: The key that encrypts stored keys of venues (0600), unless `venue.credentials_key_file` names one.
    credentials_key = _Below("home", "credentials.key")
    #: This node's copy of the encrypted keys of venues, for a guardian without PostgreSQL (0600 JSON).
    credentials_copy = _Below("run", "credentials.json")
    ray_token_file = _Below("home", "ray.token")
    #: The folder of the cluster's GCS tables (ray.storage).
    gcs_dir = _Below("home", "gcs")
    #: The id of this machine (fks.config.machine). A copy of it counts for nothing.
    machine_file = _Below("home", "machine.id")
    #: The local admin token the CLI shows the gateway (0600).
    cli_token_file = _Below("home", "cli.token")
    #: The file in which the keeper writes the endpoints for local processes (0600 JSON).
    node_file = _Below("run", "node.json")
    #: The file with the database URL of each kind of process that has a role of its own (0600 JSON).
    database_roles = _Below("run", "database-roles.json")
    #: The guardian's own fsynced journal.
    kill_file = _Below("home", "kill.jsonl")
    #: The order manager's fsynced journal of protection and exits while PostgreSQL is away.
    side_journal = _Below("home", "orders.jsonl")
    #: The order manager's record of the database that it last wrote to (0600 JSON, `fks.store.failover`).
    database_record = _Below("home", "database.json")
    #: The file that the keeper removes when the disk is full (fks.system.node.home_disk).
    reserve_file = _Below("home", "disk.reserve")
    keeper_socket = _Below("sockets", "keeper.sock")
    guardian_socket = _Below("sockets", "guardian.sock")
    backups = _Below("home", "backups")
    #: The folder of mapped copies of stored series (fks.store.columns): a cache.
    columns = _Below("home", "columns")
    #: The folder in which collectors record received messages, a folder an exchange (data.tape).
    tapes = _Below("home", "tapes")
    #: The folder of a user's own strategy files.
    strategies = _Below("home", "strategies")
    #: The folder of the artifacts of trained models.
    models = _Below("home", "models")

    def ensure(self) -> Paths:
        """Create the directories, private to this user, and return self.

        Those of an earlier version are narrowed; the home and the strategies stay as their user has set them.
        """
        make_home(self.home)
        _private(self.strategies, 0o700, is_kept=True)
        for path in (self.logs, self.run, self.redis_dir, self.sim_dir, self.backups, self.models):
            _private(path, 0o700)
        self.sockets.mkdir(mode=0o711, parents=True, exist_ok=True)
        return self


def free_mb(place: Path) -> int:
    """Return the free space, MB, of the disk that `place` is on, or will be on once it is made."""
    found = next(parent for parent in (place, *place.parents) if parent.exists())
    return shutil.disk_usage(found).free // 1_000_000


def make_home(home: Path) -> None:
    """Create the home, private to this user; root's can be passed through (0711): its PostgreSQL runs under another
    account."""
    _private(home, 0o711 if os.geteuid() == 0 else 0o700, is_kept=True)


def _private(path: Path, mode: int, *, is_kept: bool = False) -> None:
    """Create a directory with `mode`; narrow one that is there to it, unless `is_kept` or it is another user's."""
    try:
        path.mkdir(mode=mode, parents=True)
    except FileExistsError:
        if not path.is_dir():
            raise
        found = path.stat()
        if not is_kept and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & ~mode:
            path.chmod(mode)
