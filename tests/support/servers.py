"""Real servers for tests: started in a directory of their own, away from any running FKS."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from fks.config.paths import Paths
from fks.config.secrets import ensure_secrets, load_secrets
from fks.model.errors import ConfigError
from fks.servers.embedded import PostgresServer, RedisServer, start_and_wait
from tests.support.waiting import wait_until

TEMPLATE = "fks_template"  # the migrated database that tests clone
MEMORY, MEMORY_MIN = "/dev/shm", 4 * 2**30  # used where programs may run in it and it has space for all workers


def place() -> str:
    """Return the directory for servers that need not outlive the machine: in memory a database is cloned ten times as
    fast."""
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return "/tmp"
    wait_drained = found.f_bavail * found.f_frsize >= MEMORY_MIN and not found.f_flag & os.ST_NOEXEC
    return MEMORY if wait_drained and os.access(MEMORY, os.W_OK) else "/tmp"


@contextlib.contextmanager
def home(*, is_on_disk: bool = False) -> Iterator[Paths]:
    """Give the paths of a fresh FKS_HOME that PostgreSQL's user can reach, and remove it with its sockets.

    `is_on_disk`: for benchmarks of durable writes; in memory an fsync costs nothing.
    """
    folder = Path(tempfile.mkdtemp(prefix="fks-test-", dir="/tmp" if is_on_disk else place()))
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


class MortalPostgres:
    """A PostgreSQL of a test's own, killed and started again over the same data."""

    def __init__(self, paths: Paths) -> None:
        self._server = PostgresServer(paths, load_secrets(paths))
        self._log = paths.logs / "postgres.log"
        self.start()

    @property
    def url(self) -> str:
        return self._server.url()

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        return self._process.pid

    def start(self) -> None:
        """Start it as the keeper does: the backends of a killed one have to be gone first."""

        def started() -> bool:
            try:
                self._process = start_and_wait(self._server, log=self._log)
            except ConfigError:
                return False
            return True

        wait_until(started, every_s=0.2)

    def kill(self) -> None:
        """kill -9, of the postmaster: return when it is gone, and its backends, which may answer a moment longer."""
        backends = psutil.Process(self.pid).children()
        assert self._process.send(signal.SIGKILL)
        assert self._process.wait(10)
        assert not psutil.wait_procs(backends, 10)[1]

    def is_alive(self) -> bool:
        """Return whether the postmaster runs, which this process or another one may kill."""
        return self._process.is_alive()

    def stop(self) -> None:
        self._server.stop(self._process)


@functools.cache
def _migrated_home() -> Path:
    """Return a home whose PostgreSQL is stopped and has a migrated database: made once, removed with this process."""
    from fks.store import migrate  # Alembic: a third of the start of a process that uses the rest of this module

    made = contextlib.ExitStack()
    atexit.register(made.close)
    paths = made.enter_context(home())
    postgres = MortalPostgres(paths)
    with ThreadPoolExecutor(1) as beside:  # the caller's event loop may run
        beside.submit(lambda: asyncio.run(migrate.upgrade(postgres.url))).result()
    postgres.stop()
    return paths.home


@contextlib.contextmanager
def mortal_postgres() -> Iterator[MortalPostgres]:
    """Give a running PostgreSQL with a migrated database, in a home of its own, which may be killed and started; it is
    stopped at the end."""
    with home() as paths:
        subprocess.run(["cp", "-a", f"{_migrated_home()}/.", paths.home], check=True)
        postgres = MortalPostgres(paths)
        try:
            yield postgres
        finally:
            postgres.stop()


@contextlib.contextmanager
def running_redis(paths: Paths) -> Iterator[RedisServer]:
    """Give a running embedded Redis; it is stopped at the end."""
    server = RedisServer(paths, load_secrets(paths))
    process = start_and_wait(server, log=paths.logs / "redis.log")
    try:
        yield server
    finally:
        server.stop(process)


async def administer(server: PostgresServer, statement: str) -> None:
    """Run a statement that makes or drops a database."""
    import asyncpg

    connection = await asyncpg.connect(server.url("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def fresh_database(server: PostgresServer) -> AsyncIterator[str]:
    """Give the URL of a fresh, migrated database; it is dropped at the end."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    # files are copied in a tenth of the time that the default takes to log every page
    await administer(server, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
    try:
        yield server.url(name)
    finally:
        await administer(server, f"DROP DATABASE {name} WITH (FORCE)")
