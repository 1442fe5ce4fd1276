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

FULL_MB = 24  # PostgreSQL needs 16 MB at once for its write-ahead log: a disk with less than this free is full
FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)


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

    @property
    def pgdata(self) -> Path:
        return self.home / "postgres"

    @property
    def redis_dir(self) -> Path:
        return self.home / "redis"

    @property
    def sim_dir(self) -> Path:
        return self.home / "sim"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def run(self) -> Path:
        """Return the directory of pid files and endpoints of the running system."""
        return self.home / "run"

    @property
    def wrong_clock(self) -> Path:
        """Return the offset that `fks chaos` gives the clocks of a demo."""
        return self.run / "clock.offset"

    @property
    def config_file(self) -> Path:
        return self.home / "fks.toml"

    @property
    def env_files(self) -> tuple[Path, ...]:
        """Return the `.env` files of this node, strongest last: beside the default `.fks` of a checkout, and in home.

        The first is the one that `fks security-setup` writes.
        """
        beside = (self.home.parent / ".env",) if self.home.name == ".fks" else ()
        return (*beside, self.home / ".env")

    @property
    def secrets_file(self) -> Path:
        return self.home / "secrets.toml"

    @property
    def ray_token_file(self) -> Path:
        return self.home / "ray.token"

    @property
    def gcs_dir(self) -> Path:
        """Return the folder of the cluster's GCS tables (ray.storage)."""
        return self.home / "gcs"

    @property
    def machine_file(self) -> Path:
        """Return the id of this machine (fks.config.machine). A copy of it counts for nothing."""
        return self.home / "machine.id"

    @property
    def cli_token_file(self) -> Path:
        """Return the local admin token the CLI shows the gateway (0600)."""
        return self.home / "cli.token"

    @property
    def node_file(self) -> Path:
        """Return the file in which the keeper writes the endpoints for local processes (0600 JSON)."""
        return self.run / "node.json"

    @property
    def kill_file(self) -> Path:
        """Return the guardian's own fsynced journal."""
        return self.home / "kill.jsonl"

    @property
    def side_journal(self) -> Path:
        """Return the order manager's fsynced journal of protection and exits while PostgreSQL is away."""
        return self.home / "orders.jsonl"

    @property
    def database_record(self) -> Path:
        """Return the order manager's record of the database that it last wrote to (0600 JSON, `fks.store.failover`)."""
        return self.home / "database.json"

    @property
    def reserve_file(self) -> Path:
        """Return the file that the keeper removes when the disk is full (fks.node.home_disk)."""
        return self.home / "disk.reserve"

    @property
    def keeper_socket(self) -> Path:
        return self.sockets / "keeper.sock"

    @property
    def guardian_socket(self) -> Path:
        return self.sockets / "guardian.sock"

    @property
    def backups(self) -> Path:
        return self.home / "backups"

    @property
    def columns(self) -> Path:
        """Return the folder of mapped copies of stored series (fks.store.columns): a cache."""
        return self.home / "columns"

    @property
    def tapes(self) -> Path:
        """Return the folder in which collectors record received messages, a folder an exchange (data.tape)."""
        return self.home / "tapes"

    @property
    def strategies(self) -> Path:
        """Return the folder of a user's own strategy files."""
        return self.home / "strategies"

    def ensure(self) -> Paths:
        """Create the directories, private to this user, and return self.

        Those of an earlier version are narrowed; the home and the strategies stay as their user has set them.
        """
        make_home(self.home)
        _private(self.strategies, 0o700, is_kept=True)
        for path in (self.logs, self.run, self.redis_dir, self.sim_dir, self.backups):
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
