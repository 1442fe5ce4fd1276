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


@contextlib.contextmanager
def home() -> Iterator[Paths]:
    """Give the paths of a fresh FKS_HOME that PostgreSQL's user can reach, and remove it with its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="fks-test-", dir="/tmp"))
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
