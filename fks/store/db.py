"""PostgreSQL: a pool, named queries and classified errors.

SQL lives in `fks/store/sql/<package>.sql`, each statement under `-- name: <name>` and one sentence of description; it
is called as "<package>.<name>". Values are converted: jsonb ⇄ Python, numeric ⇄ Decimal, uuid ⇄ UUID,
timestamptz ⇄ aware datetime.

Errors are classified once, here: a statement the server rolled back (serialisation failure, deadlock) and a connection
that could not be had are always tried again; a connection lost while a statement ran is tried again only when the
caller declares the statement idempotent (`retry`). After `retry_s` seconds it is an OutageError. Every other error of
the server (a unique key, a check) reaches the caller as asyncpg's error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any, Protocol, TypeVar

import asyncpg
import orjson

from fks.config.settings import DatabaseSettings
from fks.config.urls import certificate_fault
from fks.model.backoff import Backoff
from fks.model.errors import BugError, ConfigError, OutageError
from fks.store.copy import copy_out
from fks.store.roles import TAKE

Row = asyncpg.Record
T = TypeVar("T")
#: called with each new connection (asyncpg has no type for a connection of a pool)
Checks = list[Callable[[Any], Awaitable[None]]]

_ROLLED_BACK = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,  # a server killed in mid-statement leaves asyncpg's own state in pieces
    ConnectionError,
    OSError,
)
_MAYBE_LOST = (*_LOST, asyncpg.InterfaceError, TimeoutError)
_GONE = ("clos", "released back", "another operation is in progress")
#: the server answers and cannot work: disk full, no memory, I/O errors. An outage, as space may be freed
_UNWELL = (asyncpg.InsufficientResourcesError, asyncpg.PostgresSystemError)
_REFUSED = (
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
_RETRY = Backoff(0.05, 1.0)
_KEPT_MAX = 2  # of the order manager's two queues, one statement in flight each


class Querier(Protocol):
    """Interface for named queries: a Database (each statement by itself) or a Transaction."""

    async def fetch(self, query: str, *args: object, retry: bool = True) -> list[Row]: ...
    async def fetchrow(self, query: str, *args: object, retry: bool = True) -> Row | None: ...
    async def fetchval(self, query: str, *args: object, retry: bool = True) -> Any: ...
    async def execute(self, query: str, *args: object, retry: bool = False) -> str: ...
    async def executemany(self, query: str, rows: Iterable[Sequence[object]]) -> None: ...


@cache
def _statements(package: str) -> dict[str, str]:
    """Return the statements of `fks/store/sql/<package>.sql` by name. Errors: BugError."""
    file = resources.files("fks.store") / "sql" / f"{package}.sql"
    if not file.is_file():
        raise BugError(f"no query file fks/store/sql/{package}.sql")
    found: dict[str, str] = {}
    for block in file.read_text().split("-- name:")[1:]:
        name, _, body = block.partition("\n")
        if name.strip() in found:
            raise BugError(f"query {package}.{name.strip()} is defined twice")
        found[name.strip()] = body.strip()
    return found


def sql(query: str) -> str:
    """Return the text of the named query "<package>.<name>". Errors: BugError when there is none."""
    package, _, name = query.partition(".")
    try:
        return _statements(package)[name]
    except KeyError:
        raise BugError(
            f"no query {query!r}: fks/store/sql/{package}.sql has {', '.join(_statements(package))}"
        ) from None


class Transaction:
    """One connection inside one transaction. An exception inside rolls everything back, so `retry` has no effect."""

    def __init__(self, connection: Any) -> None:
        #: the raw asyncpg connection, for COPY and cursors in store repositories
        self.connection = connection

    async def fetch(self, query: str, *args: object, retry: bool = True) -> list[Row]:
        rows: list[Row] = await self.connection.fetch(sql(query), *args)
        return rows

    async def fetchrow(self, query: str, *args: object, retry: bool = True) -> Row | None:
        row: Row | None = await self.connection.fetchrow(sql(query), *args)
        return row

    async def fetchval(self, query: str, *args: object, retry: bool = True) -> Any:
        return await self.connection.fetchval(sql(query), *args)

    async def execute(self, query: str, *args: object, retry: bool = False) -> str:
        status: str = await self.connection.execute(sql(query), *args)
        return status

    async def executemany(self, query: str, rows: Iterable[Sequence[object]]) -> None:
        await self.connection.executemany(sql(query), rows)

    async def sql(self, text: str, *args: object) -> list[Row]:
        """Run unnamed SQL: generated DDL, the shell, tests."""
        rows: list[Row] = await self.connection.fetch(text, *args)
        return rows


class UnresetConnection(asyncpg.Connection):
    """A connection that is not reset when it returns to the pool: a reset is a round trip for each statement.

    No session state is ever changed: settings are SET LOCAL, locks are of the transaction. Only a statement that
    failed after asyncpg prepared it, and before it was run (cancelled, or an argument that cannot be sent), leaves a
    transaction open, which asyncpg does not know of: the next statement would be in it, with the `now()` of its
    beginning. An unprepared query ends that transaction.
    """

    has_failed = False

    def note_failed(self) -> None:
        self.has_failed = True

    def get_reset_query(self) -> str:
        return "SELECT 1" if self.has_failed else ""

    async def reset(self, *, timeout: float | None = None) -> None:
        await super().reset(timeout=timeout)
        self.has_failed = False


class Database:
    """A pool of connections to one database. Safe to share between tasks of one event loop."""

    def __init__(self, pool: Any, settings: DatabaseSettings, checks: Checks) -> None:
        self._pool = pool
        self._settings = settings
        self._checks = checks
        self._kept: list[Any] = []  # connections that `hot_row` keeps between statements
        self._acquiring: set[asyncio.Timeout] = set()  # of calls that wait for a connection

    @staticmethod
    async def connect(
        url: str,
        settings: DatabaseSettings | None = None,
        *,
        application: str = "fks",
        retry_s: float | None = None,
        is_readonly: bool = False,
    ) -> Database:
        """Open the pool, waiting up to `retry_s` (default: the settings') for the server to come up.

        With `is_readonly` the server refuses changes unless a transaction asks for them.

        Errors: OutageError when it does not, ConfigError when it refuses the credentials or has no such database.
        """
        chosen = settings or DatabaseSettings()

        async def attempt() -> Database:
            checks: Checks = []
            return Database(await _open_pool(url, chosen, application, checks, is_readonly), chosen, checks)

        return await _persist(attempt, chosen.retry_s if retry_s is None else retry_s, is_safe=True, what="connect")

    @staticmethod
    async def lazy(
        url: str, settings: DatabaseSettings | None = None, *, application: str = "fks", is_api: bool = False
    ) -> Database:
        """Return a Database that connects at its first use: for components that must start while the server is away.

        With `is_api` its connections take the role of the gateway (`fks.store.roles`), where the database has it.
        """
        chosen = settings or DatabaseSettings()
        checks: Checks = [_take_api_role] if is_api else []
        pool = await _open_pool(url, chosen.model_copy(update={"pool_min": 0}), application, checks)
        return Database(pool, chosen, checks)

    def check_connections(self, check: Callable[[Any], Awaitable[None]]) -> None:
        """Call `check` with each connection made from now on, before it is used; its exceptions reach the caller."""
        self._checks.append(check)

    async def close(self) -> None:
        """Close every connection, waiting 2 s for statements under way, and give up connections that are being made."""
        while self._kept:
            await self._release(self._kept.pop())
        while self._acquiring:  # the pool's own close leaves them
            self._acquiring.pop().reschedule(0)
        try:
            async with asyncio.timeout(2.0):
                await self._pool.close()
        except _MAYBE_LOST:
            self._pool.terminate()

    async def fetch(self, query: str, *args: object, retry: bool = True) -> list[Row]:
        return await self._one(query, lambda c: c.fetch(sql(query), *args), retry)

    async def fetchrow(self, query: str, *args: object, retry: bool = True, wait_s: float | None = None) -> Row | None:
        """Return the first row. `wait_s`: the longest wait for a connection, for answers that are soon out of date."""
        return await self._one(query, lambda c: c.fetchrow(sql(query), *args), retry, wait_s)

    async def fetchval(self, query: str, *args: object, retry: bool = True) -> Any:
        return await self._one(query, lambda c: c.fetchval(sql(query), *args), retry)

    async def execute(self, query: str, *args: object, retry: bool = False) -> str:
        """Run a statement and return the server's status ("UPDATE 1")."""
        return await self._one(query, lambda c: c.execute(sql(query), *args), retry)

    async def executemany(self, query: str, rows: Iterable[Sequence[object]], retry: bool = False) -> None:
        """Run a statement once per row, all of them or none."""
        kept = list(rows)
        await self._one(query, lambda c: c.executemany(sql(query), kept), retry)

    async def hot_row(self, text: str, *args: object, what: str) -> Row | None:
        """Run the SQL `text`, a write, on a kept connection and return its first row. `what` names it in errors.

        Taking a connection from the pool and giving it back costs two tasks and a timer, a fifth of a durable
        statement. It is kept until an error, or until `close`.

        Errors: OutageError when the connection is lost meanwhile: the write may have taken effect.
        """

        async def attempt() -> Row | None:
            connection = self._kept.pop() if self._kept else None
            if connection is None or connection.is_closed():
                if connection is not None:
                    await self._release(connection)
                connection = await self._take(deadline - time.monotonic(), what)
            try:
                row: Row | None = await connection.fetchrow(text, *args)
            except BaseException as error:
                if isinstance(error, (*_LOST, asyncio.CancelledError)):  # its answer may come after the next one's
                    _drop(connection)
                _note_failed(connection)
                await self._release(connection)
                raise
            if len(self._kept) < _KEPT_MAX:
                self._kept.append(connection)
            else:
                await self._release(connection)
            return row

        deadline = time.monotonic() + self._settings.retry_s
        return await _persist(attempt, self._settings.retry_s, is_safe=False, what=what)

    async def copy_out(self, query: str, *args: object) -> bytearray:
        """Return the rows of a query as a binary COPY stream, for fks.store.copy.decoded. Tried again like `fetch`."""
        return await self._one(query, lambda c: copy_out(c, sql(query), *args), True)

    async def sql(self, text: str, *args: object) -> list[Row]:
        """Run unnamed SQL: generated DDL, the shell, tests. Never retried once sent."""
        return await self._one("sql", lambda c: c.fetch(text, *args), False)

    @asynccontextmanager
    async def transaction(
        self, *, isolation: str = "read_committed", is_readonly: bool = False
    ) -> AsyncIterator[Transaction]:
        """Yield a transaction: committed when the block ends, rolled back when it raises.

        Getting the connection is retried, the block never is. A lost connection is an OutageError: when it happened at
        the commit, the outcome is unknown.
        """
        async with self.acquire() as connection:
            frame = connection.transaction(isolation=isolation, readonly=is_readonly)
            try:
                await frame.start()
                try:
                    yield Transaction(connection)
                except BaseException:
                    with contextlib.suppress(*_MAYBE_LOST):  # the block's exception matters, not the rollback's
                        await frame.rollback()
                    raise
                await frame.commit()
            except _MAYBE_LOST as error:
                if not _is_lost(error):
                    raise
                raise _outage("transaction", error) from error
            except _UNWELL as error:
                raise _outage("transaction", error) from error
            except asyncpg.InsufficientPrivilegeError as error:
                _note_remedy(error)
                raise

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """Yield a raw asyncpg connection (COPY, cursors). Only for repositories in fks.store."""
        connection = await _persist(self._acquire, self._settings.retry_s, is_safe=True, what="acquire")
        async with self._released(connection):
            yield connection

    async def ping(self) -> float:
        """Return the seconds one round trip took. Errors: OutageError at once, without retrying."""
        start = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                connection = await self._acquire()
                async with self._released(connection):
                    await connection.fetchval(sql("store.ping"))
        except (*_MAYBE_LOST, asyncpg.PostgresError) as error:  # any error means that it does not work
            raise _outage("ping", error) from error
        return time.monotonic() - start

    async def _acquire(self) -> Any:
        async with asyncio.timeout(None) as limit:
            self._acquiring.add(limit)
            try:
                return await self._pool.acquire(timeout=self._settings.connect_timeout_s)
            finally:
                self._acquiring.discard(limit)

    async def _take(self, wait_s: float, what: str) -> Any:
        return await _persist(self._acquire, wait_s, is_safe=True, what=what)

    @asynccontextmanager
    async def _released(self, connection: Any) -> AsyncIterator[None]:
        """Give a connection back to the pool at the end of a block."""
        try:
            yield
        except BaseException:
            _note_failed(connection)
            raise
        finally:
            await self._release(connection)

    async def _release(self, connection: Any) -> None:
        try:
            await self._pool.release(connection)
        except _MAYBE_LOST:
            _drop(connection)

    async def _one(self, what: str, call: Callable[[Any], Awaitable[T]], retry: bool, wait_s: float | None = None) -> T:
        async def attempt() -> T:
            connection = await self._take(deadline - time.monotonic(), what)
            async with self._released(connection):
                try:
                    return await call(connection)
                except _LOST:
                    _drop(connection)
                    raise

        deadline = time.monotonic() + (self._settings.retry_s if wait_s is None else wait_s)
        return await _persist(attempt, self._settings.retry_s, is_safe=retry, what=what)


async def _persist(attempt: Callable[[], Awaitable[T]], deadline_s: float, *, is_safe: bool, what: str) -> T:
    """Call `attempt` until it answers or `deadline_s` has passed. Without `is_safe` only statements that were surely
    rolled back are tried again."""
    end = time.monotonic() + deadline_s
    wait = _RETRY.first_s
    while True:
        try:
            return await attempt()
        except _REFUSED as error:
            raise ConfigError(
                f"PostgreSQL refused the connection: {error}", remedy="check database.url and the secrets"
            ) from error
        except _ROLLED_BACK as error:
            if time.monotonic() + wait > end:
                raise _outage(what, error) from error
        except asyncpg.QueryCanceledError as error:
            raise OutageError("PostgreSQL cancelled the statement", detail=f"{what}: {error}") from error
        except _MAYBE_LOST as error:
            if not _is_lost(error):
                raise
            if not is_safe or time.monotonic() + wait > end:
                raise _outage(what, error) from error
        except _UNWELL as error:
            raise _outage(what, error) from error
        except asyncpg.InsufficientPrivilegeError as error:
            _note_remedy(error)
            raise
        # jitter, so that the readers of a restarted server do not all connect at once
        await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311
        wait = _RETRY.next_s(wait)


def is_without_tables(error: BaseException) -> bool:
    """Return whether a statement failed because its table is not there: a first start has not made the schema yet."""
    return isinstance(error, asyncpg.UndefinedTableError)


def _is_lost(error: BaseException) -> bool:
    """Return whether the connection is lost: asyncpg raises InterfaceError also for wrong argument counts.

    A connection cut in the middle of a COPY may report that it is still busy; connections are never shared here.
    """
    if not isinstance(error, asyncpg.InterfaceError):
        return True
    return not isinstance(error, ValueError) and any(text in str(error) for text in _GONE)


def _note_remedy(error: asyncpg.PostgresError) -> None:
    """Add the next step to the traceback: its last line is the reason in the page of a part that ends again and
    again."""
    error.add_note(f"PostgreSQL: {error}; 'fks db upgrade' grants what the statements of this build need")


def _note_failed(connection: Any) -> None:
    with contextlib.suppress(AttributeError):  # closed meanwhile: it does not return to the pool
        connection.note_failed()


def _drop(connection: Any) -> None:
    """Cut a connection of unknown state, so that it never returns to the pool; it may be closed already."""
    with contextlib.suppress(asyncpg.InterfaceError):
        connection.terminate()


def _outage(what: str, error: BaseException) -> OutageError:
    return OutageError("PostgreSQL does not answer", detail=f"{what}: {type(error).__name__}: {error}")


async def _open_pool(
    url: str, settings: DatabaseSettings, application: str, checks: Checks, is_readonly: bool = False
) -> Any:
    async def prepare(connection: Any) -> None:
        await _prepare_connection(connection)
        for check in checks:
            await check(connection)

    if (fault := certificate_fault(url, os.environ)) is not None:
        raise ConfigError(f"database.url: {fault[0]}", remedy=fault[1])
    timeout_ms = str(int(settings.statement_timeout_s * 1000))
    return await asyncpg.create_pool(
        url,
        init_size=settings.pool_min,
        # With more, asyncpg replaces lost connections in a task of the pool. In a pool left unclosed that task outlives
        # the event loop in the middle of a connect: the backend waits a minute for the password, and CREATE and DROP
        # DATABASE wait for the backend.
        min_size=0,
        max_size=max(settings.pool_max, settings.pool_min),
        timeout=settings.connect_timeout_s,
        command_timeout=settings.statement_timeout_s + 5.0,  # the server's own limit comes first
        max_inactive_connection_lifetime=60.0,  # a backend costs PostgreSQL about 5 MB
        init=prepare,
        connection_class=UnresetConnection,
        server_settings={
            "application_name": f"fks {application}",
            "statement_timeout": timeout_ms,
            "idle_in_transaction_session_timeout": timeout_ms,
            "timezone": "UTC",
            **({"default_transaction_read_only": "on"} if is_readonly else {}),
        },
    )


async def _take_api_role(connection: Any) -> None:
    await connection.execute(TAKE)


async def _prepare_connection(connection: Any) -> None:
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + _json(value),
        decoder=lambda data: orjson.loads(data[1:]),
    )
    await connection.set_type_codec("json", schema="pg_catalog", format="binary", encoder=_json, decoder=orjson.loads)


def _json(value: object) -> bytes:
    return orjson.dumps(value, default=_plain)


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
