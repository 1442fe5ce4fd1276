"""Access to the database: named queries, values, and errors when the server goes away."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from fks.config.paths import Paths
from fks.config.settings import DatabaseSettings
from fks.model.errors import BugError, ConfigError, OutageError
from fks.store.db import Database, UnresetConnection, sql
from fks.system.servers.embedded import PostgresServer, start_and_wait
from tests.support import servers
from tests.support.waiting import until

#: the connections that are being made
BEGUN = "SELECT FROM pg_stat_activity WHERE state = 'starting'"
#: ends the connections named "left", and waits until they have ended
ENDED = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'fks left'"


async def test_a_named_query_answers(database: Database) -> None:
    assert await database.fetchval("store.ping") == 1
    assert await database.ping() < 5.0


@pytest.mark.parametrize("name", ["store.nothing", "nowhere.ping", "store", "schema"])
async def test_an_unknown_query_is_our_mistake(database: Database, name: str) -> None:
    with pytest.raises(BugError):
        await database.fetch(name)


async def test_a_wrong_argument_count_is_our_mistake_and_not_an_outage(database: Database) -> None:
    with pytest.raises(asyncpg.InterfaceError):
        await database.fetch("store.ping", 1)


async def test_values_come_back_as_they_went(database: Database) -> None:
    moment = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
    key = uuid.uuid4()
    document = {"a": [1, None, "x"], "price": Decimal("0.10"), "id": key}
    row = (
        await database.sql(
            "SELECT $1::numeric AS n, $2::timestamptz AS t, $3::uuid AS u, $4::jsonb AS j, $4::jsonb::json AS k",
            Decimal("12345678901234567890.123456789"),
            moment,
            key,
            document,
        )
    )[0]
    assert row["n"] == Decimal("12345678901234567890.123456789")
    assert row["t"] == moment
    assert row["u"] == key
    assert row["j"] == row["k"] == {"a": [1, None, "x"], "price": "0.10", "id": str(key)}


async def test_a_transaction_commits_whole_or_not_at_all(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.sql("INSERT INTO leases (name) VALUES ('kept')")
        assert await tx.fetchval("store.ping") == 1
    with pytest.raises(ZeroDivisionError):
        await _fail_inside(database)
    assert [row["name"] for row in await database.sql("SELECT name FROM leases")] == ["kept"]


async def _fail_inside(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.sql("INSERT INTO leases (name) VALUES ('lost')")
        raise ZeroDivisionError


async def test_exception_of_a_block_survives_a_lost_connection(database: Database) -> None:
    async def fail() -> None:
        async with database.transaction() as tx:
            tx.connection.terminate()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await database.fetchval("store.ping") == 1


async def test_a_connection_lost_at_the_commit_is_an_outage(database: Database) -> None:
    async def lose() -> None:
        async with database.transaction() as tx:
            tx.connection.terminate()

    with pytest.raises(OutageError):
        await lose()


async def test_what_the_server_refuses_reaches_the_caller(database: Database) -> None:
    await database.sql("INSERT INTO leases (name) VALUES ('a')")
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.sql("INSERT INTO leases (name) VALUES ('a')")


async def test_a_serialisation_failure_is_tried_again(database_url: str) -> None:
    settings = DatabaseSettings(retry_s=5.0)
    first, second = await Database.connect(database_url, settings), await Database.connect(database_url, settings)
    try:
        await first.sql("INSERT INTO leases (name, epoch) VALUES ('x', 0)")
        await second.sql("SET default_transaction_isolation = 'serializable'")

        async def raise_epoch(db: Database) -> None:
            await db.sql("UPDATE leases SET epoch = epoch + 1 WHERE name = 'x'")

        await asyncio.gather(*(raise_epoch(db) for db in (first, second) * 10))
        assert (await first.sql("SELECT epoch FROM leases WHERE name = 'x'"))[0][0] == 20
    finally:
        await first.close()
        await second.close()


async def test_a_statement_that_takes_too_long_is_an_outage(database_url: str) -> None:
    db = await Database.connect(database_url, DatabaseSettings(statement_timeout_s=0.2, retry_s=5.0))
    try:
        with pytest.raises(OutageError, match="statement timeout"):
            await db.sql("SELECT pg_sleep(5)")
    finally:
        await db.close()


async def test_a_statement_cancelled_before_it_is_run_leaves_nothing_open(
    database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncpg sends a statement in two parts. Cancelled between them it leaves the server in a transaction that
    asyncpg does not know of, and that the next user of the connection would be in."""

    async def cancelled(connection: Any, query: str) -> None:
        await connection.prepare(query)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    db = await Database.connect(database_url, DatabaseSettings(pool_min=1, pool_max=1))
    try:
        for use in (_one_statement, _on_an_acquired_connection):
            with monkeypatch.context() as patch:
                patch.setattr(UnresetConnection, "fetch", cancelled)
                with pytest.raises(asyncio.CancelledError):
                    await use(db)
            await _assert_next_is_alone(db, database)
    finally:
        await db.close()


async def test_an_argument_that_cannot_be_sent_leaves_nothing_open(database_url: str, database: Database) -> None:
    """It is refused after the statement was prepared, and before it is run."""
    db = await Database.connect(database_url, DatabaseSettings(pool_min=1, pool_max=1))
    try:
        for use in (db.sql("SELECT $1::int", 2**70), db.hot_row("SELECT $1::int + 1", 2**70, what="a test")):
            with pytest.raises(asyncpg.DataError):
                await use
            await _assert_next_is_alone(db, database)
    finally:
        await db.close()


async def _assert_next_is_alone(db: Database, other: Database) -> None:
    """Assert that the next statement on `db` begins its own transaction: not before a time that PostgreSQL answered on
    another connection."""
    earlier = (await other.sql("SELECT clock_timestamp() AS time"))[0]["time"]
    begun = (await db.sql("SELECT now() AS begun"))[0]["begun"]
    assert begun >= earlier, "the statement ran in a transaction that was begun earlier"


async def _one_statement(db: Database) -> None:
    await db.sql("SELECT 'alone'")


async def _on_an_acquired_connection(db: Database) -> None:
    async with db.acquire() as connection:
        await connection.fetch("SELECT 'acquired'")


@pytest.mark.parametrize("sqlstate", ["53100", "53200", "58030"])
async def test_a_full_disk_no_memory_and_an_io_error_are_outages(database: Database, sqlstate: str) -> None:
    statement = f"DO $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '{sqlstate}'; END $$"
    with pytest.raises(OutageError):
        await database.sql(statement)
    with pytest.raises(OutageError):
        async with database.transaction() as tx:
            await tx.sql(statement)


async def test_a_readonly_database_refuses_changes(database_url: str) -> None:
    db = await Database.connect(database_url, is_readonly=True)
    try:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await db.sql("INSERT INTO leases (name) VALUES ('a')")
    finally:
        await db.close()


async def test_close_gives_up_connections_that_are_being_made(
    postgres: PostgresServer, empty_database_url: str
) -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send PostgreSQL what the client sends, and the client no answer."""
        _, server = await asyncio.open_unix_connection(str(postgres.socket))
        while data := await reader.read(65536):
            server.write(data)
        server.close()
        writer.close()

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as link:
        host = f"127.0.0.1:{link.sockets[0].getsockname()[1]}"
        url = empty_database_url.replace("@/", f"@{host}/").partition("?")[0] + "?sslmode=disable"
        db = await Database.lazy(url, DatabaseSettings(connect_timeout_s=60.0, retry_s=0.1))
        admin = await Database.connect(postgres.url("postgres"))
        reading = asyncio.create_task(db.fetch("store.ping"))
        await until(lambda: admin.sql(BEGUN))
        await db.close()

        async def is_gone() -> bool:
            return not await admin.sql(BEGUN)

        await until(is_gone, deadline_s=20)
        with pytest.raises(OutageError):
            await reading
        await admin.close()


def test_a_database_left_unclosed_holds_up_no_drop(postgres: PostgresServer) -> None:
    """Its connections end after the last statement on its event loop. PostgreSQL drops no database while one of its
    backends waits for a password."""
    name = f"e_{uuid.uuid4().hex[:12]}"
    with asyncio.Runner() as runner, asyncio.Runner() as left:
        runner.run(servers.administer(postgres, f"CREATE DATABASE {name}"))
        db = left.run(Database.connect(postgres.url(name), DatabaseSettings(pool_min=2), application="left"))
        runner.run(servers.administer(postgres, ENDED))
        for _ in range(50):  # the last turns of a loop: it sees the loss, and no answer to a new connect
            left.run(asyncio.sleep(0))
        drop = servers.administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")
        runner.run(asyncio.wait_for(drop, 10.0))
        left.run(db.close())


async def test_the_wrong_password_is_the_operators_fault(postgres: PostgresServer) -> None:
    wrong = postgres.url().split("@")[0].rsplit(":", 1)[0] + ":wrong@" + postgres.url().split("@")[1]
    with pytest.raises(ConfigError):
        await Database.connect(wrong)


@pytest.fixture
def own_home() -> Iterator[Paths]:
    with servers.home() as paths:
        yield paths


@pytest.fixture
async def own_server(own_home: Paths) -> AsyncIterator[PostgresServer]:
    with servers.running_postgres(own_home) as server:
        yield server


async def test_without_a_server_connecting_ends_in_an_outage(own_home: Paths) -> None:
    from fks.config.secrets import load_secrets

    url = PostgresServer(own_home, load_secrets(own_home)).url()
    with pytest.raises(OutageError):
        await Database.connect(url, DatabaseSettings(retry_s=0.3))


async def test_reads_outlast_a_killed_server_and_writes_raise_outage(
    own_home: Paths, own_server: PostgresServer
) -> None:
    db = await Database.connect(own_server.url(), DatabaseSettings(retry_s=20.0, connect_timeout_s=2.0))
    try:
        sleeper = asyncio.create_task(db.sql("SELECT pg_sleep(30)"))
        await until(lambda: db.sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"))
        pid = own_server.adopt()
        assert pid is not None
        own_server.stop(pid)
        with pytest.raises(OutageError):
            await sleeper  # sent, and it is unknown whether it ran: not repeated
        with pytest.raises(OutageError):
            await db.ping()
        reader = asyncio.create_task(db.fetchval("store.ping"))
        await asyncio.to_thread(start_and_wait, own_server, log=own_home.logs / "postgres.log")
        assert await reader == 1
        assert await db.ping() < 5.0
    finally:
        await db.close()
        pid = own_server.adopt()
        if pid is not None:
            own_server.stop(pid)


def test_every_named_query_has_a_sentence() -> None:
    from importlib import resources

    for file in (resources.files("fks.store") / "sql").iterdir():
        space = file.name.removesuffix(".sql")
        for block in file.read_text().split("-- name:")[1:]:
            name = block.partition("\n")[0].strip()
            lines = sql(f"{space}.{name}").splitlines()
            assert lines[0].startswith("-- "), f"{space}.{name} has no sentence"
            assert len(lines) > 1, f"{space}.{name} is empty"
