"""Real servers for tests: started in a directory of their own, away from any running FKS."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fks.config.paths import Paths
from fks.config.secrets import ensure_secrets, load_secrets
from fks.store.embedded import PostgresServer, RedisServer, start_and_wait

MEMORY, MEMORY_MIN = "/dev/shm", 4 * 2**30  # used where programs may be run in it and it has room for all workers


def place() -> str:
    """Return the directory for servers that need not outlive the machine: in memory a database is cloned ten times as fast."""
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return "/tmp"
    has_room = found.f_bavail * found.f_frsize >= MEMORY_MIN and not found.f_flag & os.ST_NOEXEC
    return MEMORY if has_room and os.access(MEMORY, os.W_OK) else "/tmp"


@contextlib.contextmanager
def home() -> Iterator[Paths]:
    """Give the paths of a fresh FKS_HOME that PostgreSQL's user can reach, and remove it with its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="fks-test-", dir=place()))
    os.chmod(folder, 0o755)
    paths = Paths.of(folder).ensure()
    ensure_secrets(paths)
    try:
        yield paths
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(paths.sockets, ignore_errors=True)


@contextlib.contextmanager
def running_postgres(paths: Paths, *, is_durable: bool = False) -> Iterator[PostgresServer]:
    """Give a running embedded PostgreSQL; it is stopped at the end."""
    server = PostgresServer(paths, load_secrets(paths), is_durable=is_durable)
    process = start_and_wait(server, log=paths.logs / "postgres.log")
    try:
        yield server
    finally:
        server.stop(process)


@contextlib.contextmanager
def running_redis(paths: Paths) -> Iterator[RedisServer]:
    """Give a running embedded Redis; it is stopped at the end."""
    server = RedisServer(paths, load_secrets(paths))
    process = start_and_wait(server, log=paths.logs / "redis.log")
    try:
        yield server
    finally:
        server.stop(process)
