"""Fixtures every test may use: real PostgreSQL and Redis (started once, when first asked for), and the ports' fakes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from multiprocessing.util import Finalize
from pathlib import Path

import pytest
from hypothesis import settings
from redis import Redis

from fks.clock import FakeClock
from fks.config.paths import Paths
from fks.config.settings import DatabaseSettings
from fks.store import migrate
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.grants import ensure_roles
from fks.system.process.scratch import delete_scratch, hold_scratch
from fks.system.servers.embedded import PostgresServer, RedisServer
from tests.support import servers
from tests.support.browser import close_shared
from tests.support.longest import LONGEST
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.slow import is_slow

# a suite in the background of a shell has SIGINT ignored, and hands that on: the commands under test must receive Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)
# `make soak` tries ten times as many examples
# no property is about how long one takes, and on a busy machine any takes longer than hypothesis' 200 ms
settings.register_profile("fks", deadline=None, max_examples=int(os.environ.get("FKS_EXAMPLES", "40")))
settings.load_profile("fks")
RUN = "fkst"  # begins the name of the folder of a run


def _short_folder(place: Path) -> Path:
    """Make and return a folder with a name that leaves Ray's sockets below it their 107 bytes: its dashboard's take 93
    without it, and more for the digits of a user's number."""
    for number in itertools.count():
        with contextlib.suppress(FileExistsError):
            (folder := place / f"{RUN}{number}").mkdir(0o700)
            return folder
    raise AssertionError


def pytest_configure(config: pytest.Config) -> None:
    """Have every process of this run put its temporary files and sockets into one folder, which is deleted at the end.
    The folders of runs that were killed are deleted, too. What tests write into `tmp_path` stays for a look at it."""
    if hasattr(config, "workerinput"):  # of pytest-xdist: it has the folder of its controller
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = _short_folder(Path(tempfile.gettempdir()))
    held = hold_scratch(folder, RUN)
    folder.chmod(0o1777)  # as /tmp: PostgreSQL's sockets are opened by another account
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    # multiprocessing deletes its own folder with priority -100, and reports one that is gone
    Finalize(None, delete_scratch, (folder, held), exitpriority=-200)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests. Put the longest files first, for `--no-loadscope-reorder`, and those of unit tests, which are
    short, last: when files run out no worker is left with a long one. The order within a file and of the others stays."""
    tests = Path(__file__).parent
    for item in items:
        if is_slow(item.nodeid):
            item.add_marker("slow")
    rank = {tests / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank) + item.path.is_relative_to(tests / "unit")))


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Collect no garbage while tests are: a million objects stay, and each pass over them all takes half a second."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the server of children, if a test that was collected uses one; a controller of workers collects none."""
    gc.freeze()
    gc.enable()
    if "tests.support.children" in sys.modules and not session.config.option.collectonly:
        sys.modules["tests.support.children"].begin_server()


def pytest_sessionfinish() -> None:
    """End the browser that the tests of this process shared, and processes that a failed test left: Python waits for
    them."""
    close_shared()
    for process in multiprocessing.active_children():
        process.kill()


@pytest.fixture(scope="session")
def server_home() -> Iterator[Paths]:
    """The FKS_HOME of the session's own servers."""
    with servers.home() as paths:
        yield paths


@pytest.fixture(scope="session")
def postgres(server_home: Paths) -> Iterator[PostgresServer]:
    """A running embedded PostgreSQL with a migrated database `fks_template` to clone."""
    with servers.running_postgres(server_home) as server:
        asyncio.run(_make_template(server, server_home))
        yield server
        servers.clones_of(server).close()


async def _make_template(server: PostgresServer, paths: Paths) -> None:
    await servers.administer(server, f"CREATE DATABASE {servers.TEMPLATE}")
    await migrate.upgrade(server.url(servers.TEMPLATE))
    db = await Database.connect(server.url(servers.TEMPLATE))
    await ensure_roles(db, server.url(servers.TEMPLATE), servers.ROLE_KEY, paths)
    await db.close()  # else no clone is made


@pytest.fixture
async def database_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """The URL of a fresh, migrated database of this test alone."""
    async with servers.fresh_database(postgres) as url:
        yield url


@pytest.fixture
async def empty_database_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """The URL of a database without a single table."""
    name = f"e_{uuid.uuid4().hex[:12]}"
    await servers.administer(postgres, f"CREATE DATABASE {name}")
    yield postgres.url(name)
    await servers.administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A Database on a fresh, migrated database."""
    db = await Database.connect(database_url, DatabaseSettings(retry_s=3.0), application="test")
    connected: list[Database] = []
    servers.CLONED[db] = (database_url, connected)
    yield db
    for each in (*connected, db):
        await each.close()


@pytest.fixture
async def as_strategy(database_url: str) -> AsyncIterator[Database]:
    """A Database on the test's own database, with the rights of a strategy worker."""
    db = await Database.connect(servers.role_url(database_url, "strategy"), DatabaseSettings(retry_s=3.0))
    yield db
    await db.close()


@pytest.fixture
async def as_collector(database_url: str) -> AsyncIterator[Database]:
    """A Database on the test's own database, with the rights of a collector."""
    db = await Database.connect(servers.role_url(database_url, "collector"), DatabaseSettings(retry_s=3.0))
    yield db
    await db.close()


@pytest.fixture
async def as_jobs(database_url: str) -> AsyncIterator[Database]:
    """A Database on the test's own database, with the rights of a runner of jobs."""
    db = await Database.connect(servers.role_url(database_url, "jobs"), DatabaseSettings(retry_s=3.0))
    yield db
    await db.close()


@pytest.fixture
async def as_monitor(database_url: str) -> AsyncIterator[Database]:
    """A Database on the test's own database, with the rights of the monitor."""
    db = await Database.connect(servers.role_url(database_url, "monitor"), DatabaseSettings(retry_s=3.0))
    yield db
    await db.close()


@pytest.fixture(scope="session")
def redis_server(server_home: Paths) -> Iterator[RedisServer]:
    """The running embedded Redis of the session, with the keys of the last test in it."""
    with servers.running_redis(server_home) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of the session's Redis, without the keys of other tests. A fixture of a module has none: its keys would
    be gone after the first test."""
    with Redis.from_url(redis_server.url()) as client:
        client.flushdb()
    return redis_server.url()


@pytest.fixture
async def bus(redis_url: str) -> AsyncIterator[Bus]:
    """A Bus on the session's Redis, which has no key of another test."""
    bus = await Bus.connect(redis_url)
    yield bus
    await bus.close()


@pytest.fixture
def clock() -> FakeClock:
    """A clock that only moves when the test says so."""
    return FakeClock()


@pytest.fixture
def meter() -> RecordingMeter:
    """A Meter to look into."""
    return RecordingMeter()


@pytest.fixture
def log() -> CollectingLog:
    """A Log to look into."""
    return CollectingLog()
