"""Real servers for tests: started in a directory of their own, away from any running FKS. They end with the process of
the tests, also when that is killed."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import psutil
from pydantic import SecretStr

from fks.config.paths import Paths
from fks.config.secrets import ensure_secrets, load_secrets
from fks.config.settings import DatabaseSettings
from fks.model.errors import ConfigError
from fks.store.db import Database
from fks.store.grants import url_of
from fks.system.process.scratch import delete_scratch, make_scratch
from fks.system.servers.embedded import PostgresServer, RedisServer, StoppedWithUs, start_and_wait
from tests.support.waiting import wait_until

TEMPLATE = "fks_template"  # the migrated database that tests clone
ROLE_KEY = SecretStr("k" * 43)  # from which the passwords of the template's roles follow
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
    folder, held = make_scratch("fks-tests-", Path("/tmp" if is_on_disk else place()))
    os.chmod(folder, 0o755)
    paths = Paths.of(folder).ensure()
    ensure_secrets(paths)
    try:
        yield paths
    finally:
        delete_scratch(folder, held)
        shutil.rmtree(paths.sockets, ignore_errors=True)


@contextlib.contextmanager
def running_postgres(paths: Paths, *, is_durable: bool = False) -> Iterator[PostgresServer]:
    """Give a running embedded PostgreSQL; it is stopped at the end."""
    server = PostgresServer(paths, load_secrets(paths), is_durable=is_durable)
    process = start_and_wait(server, log=paths.logs / "postgres.log")
    watch = StoppedWithUs(process, paths)
    try:
        yield server
    finally:
        server.stop(process)
        watch.close()


class MortalPostgres:
    """A PostgreSQL of a test's own, killed and started again over the same data."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._server = PostgresServer(paths, load_secrets(paths))
        self._log = paths.logs / "postgres.log"
        self._watch: StoppedWithUs | None = None
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
        self._end_watch()
        self._watch = StoppedWithUs(self._process, self._paths)

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
        """Stop it. One that was killed is started first: it removes the shared memory that the kill left."""
        if not self.is_alive():
            self.start()
        self._server.stop(self._process)
        self._end_watch()

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None


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


async def empty(postgres: MortalPostgres) -> None:
    """Remove every row but those of the audit, which refuses it. A server that a test left dead is started first."""
    import asyncpg

    if not postgres.is_alive():
        await asyncio.to_thread(postgres.start)
    connection = await asyncpg.connect(postgres.url)
    try:
        names = await connection.fetchval(
            "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables"
            " WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'audit_log')"
        )
        await connection.execute(f"TRUNCATE {names} RESTART IDENTITY CASCADE")
    finally:
        await connection.close()


def role_url(url: str, kind: str) -> str:
    """Return the URL with which a kind of process connects to a clone of the template: its role is the template's, and
    so are its grants, which a clone has."""
    name, template = f"{urlsplit(url).path}?", f"/{TEMPLATE}?"
    return url_of(url.replace(name, template), kind, ROLE_KEY).replace(template, name)


#: the URL of each database with roles, and the Databases that `as_role` made for it
CLONED: WeakKeyDictionary[Database, tuple[str, list[Database]]] = WeakKeyDictionary()


async def as_role(db: Database, kind: str) -> Database:
    """Return a Database on the same clone with the rights of a kind of process, or `db` itself where it is no clone.
    The fixture of `db` closes it."""
    if db not in CLONED:
        return db
    url, connected = CLONED[db]
    connected.append(await Database.connect(role_url(url, kind), DatabaseSettings(retry_s=3.0), application=kind))
    return connected[-1]


@contextlib.contextmanager
def running_redis(paths: Paths) -> Iterator[RedisServer]:
    """Give a running embedded Redis; it is stopped at the end."""
    server = RedisServer(paths, load_secrets(paths))
    process = start_and_wait(server, log=paths.logs / "redis.log")
    watch = StoppedWithUs(process, paths)
    try:
        yield server
    finally:
        server.stop(process)
        watch.close()


async def administer(server: PostgresServer, statement: str) -> None:
    """Run a statement that makes or drops a database."""
    import asyncpg

    connection = await asyncpg.connect(server.url("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


class Clones:
    """Clones of one server's template. They are made and dropped by a thread, over one connection: the next one is made
    while a test runs, and no test waits for the end of one that is over."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._thread = ThreadPoolExecutor(1)
        self._runner = asyncio.Runner()  # of the thread's event loop
        self._connection: Any = None
        self._next: Future[str] | None = None
        self._dropped: list[Future[None]] = []

    async def take(self) -> str:
        """Return the name of a fresh clone, and have the next one made."""
        made = self._next or self._thread.submit(self._make)
        self._next = self._thread.submit(self._make)
        return await asyncio.wrap_future(made)

    def drop(self, name: str) -> None:
        """Have a clone dropped, whatever is connected to it."""
        self._dropped.append(self._thread.submit(self._run, f"DROP DATABASE {name} WITH (FORCE)"))

    def close(self) -> None:
        """Wait until the thread has done everything, and end it. Errors: that of a clone that could not be dropped."""
        self._thread.submit(self._disconnect).result()
        self._thread.shutdown()
        for dropped in self._dropped:
            dropped.result()

    def _make(self) -> str:
        name = f"t_{uuid.uuid4().hex[:12]}"
        # files are copied in a tenth of the time that the default takes to log every page
        self._run(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
        return name

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._runner.run(self._connection.close())
        self._runner.close()

    def _run(self, statement: str) -> None:
        self._runner.run(self._execute(statement))

    async def _execute(self, statement: str) -> None:
        import asyncpg

        if self._connection is None:
            self._connection = await asyncpg.connect(self._server.url("postgres"))
        await self._connection.execute(statement)


@functools.cache
def clones_of(server: PostgresServer) -> Clones:
    """Return the clones of a server that has a template. Who started the server closes them before it is stopped."""
    return Clones(server)


@contextlib.asynccontextmanager
async def fresh_database(server: PostgresServer) -> AsyncIterator[str]:
    """Give the URL of a fresh, migrated database; it is dropped at the end."""
    clones = clones_of(server)
    name = await clones.take()
    try:
        yield server.url(name)
    finally:
        clones.drop(name)
