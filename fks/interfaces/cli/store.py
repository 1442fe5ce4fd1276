"""Access of commands to the database whether FKS runs or not: the node's, an external one, or an embedded one started
for the command."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fks.config.paths import Paths
from fks.config.settings import DatabaseSettings as Options
from fks.config.settings import Settings
from fks.interfaces.cli.base import settings_of
from fks.model.errors import ConfigError

if TYPE_CHECKING:
    from fks.store.db import Database

T = TypeVar("T")


@contextlib.contextmanager
def opened_store(ctx: click.Context, *, create: bool = False) -> Iterator[tuple[str, Settings, Paths]]:
    """Yield the database URL with settings and paths. An embedded server that was down is stopped again at the end,
    also when this process is killed.

    `create` makes the secrets (and so the cluster) when there are none. Errors: ConfigError, OutageError.
    """
    settings = settings_of(ctx)
    paths = Paths.of(settings.home)
    if settings.database.url is not None:
        yield settings.database.url.get_secret_value(), settings, paths
        return
    from fks.config.endpoints import load_node
    from fks.config.load import given_passwords
    from fks.config.secrets import ensure_secrets, load_secrets
    from fks.system.servers.embedded import PostgresServer, StoppedWithUs, start_and_wait

    if create:
        paths.ensure()
        ensure_secrets(paths, given=given_passwords(paths))
    server = PostgresServer(paths, load_secrets(paths))
    # a node that was given its database by an environment file, which this command has not read; a file that a killed
    # node left, or that was copied with the home of another one, names a database that may not be this home's
    if is_running(paths) and paths.node_file.exists() and (url := load_node(paths).database_url) != server.url():
        yield url, settings, paths
        return
    was_running = server.adopt() is not None
    paths.ensure()
    process = start_and_wait(server, log=paths.logs / "postgres.log")
    watch = None if was_running else StoppedWithUs(process, paths)
    try:
        yield server.url(), settings, paths
    finally:
        if watch is not None:
            server.stop(process)
            watch.close()


async def on_database(
    url: str, work: Callable[[Database], Awaitable[T]], settings: Options | None = None, **connect: Any
) -> T:
    """Return the result of `work` on a pool opened for it. `connect` and errors: those of `Database.connect`, and
    ConfigError for a database that FKS has not made its tables in."""
    from fks.store.db import Database, is_without_tables

    db = await Database.connect(url, settings, **connect)
    try:
        return await work(db)
    except Exception as error:
        if is_without_tables(error):
            raise ConfigError(
                "the database has no tables of FKS, or those of an earlier version",
                remedy="start FKS once with 'fks up': it makes them",
            ) from error
        raise
    finally:
        await db.close()


def is_running(paths: Paths) -> bool:
    """Return whether FKS runs here: a keeper (it holds the lock of its file as long as it lives), or servers that
    outlived theirs."""
    from fks.system.node.lock import has_keeper

    if has_keeper(paths.run):
        return True
    from fks.system.servers.embedded import postgres_pid, redis_pid  # loading it takes 0.2 s

    return postgres_pid(paths) is not None or redis_pid(paths) is not None
