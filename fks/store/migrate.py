"""Migrations: upgrade a database to a revision, report its revision, compare it with the tables in code.

An empty database is made from the tables and routines in code and has the newest revision at once; migrations are for
those that exist, from FIRST on.

Alembic runs over asyncpg, the only driver here. One upgrade runs at a time per database: others wait for its lock.
"""

from __future__ import annotations

import contextlib
import re
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from fks.config import builds
from fks.model.errors import ConfigError, InputError, OutageError, invalid
from fks.store.grants import grants
from fks.store.roles import GRANT
from fks.store.routines import VECTOR

T = TypeVar("T")
#: where a build keeps its migrations, within its sources
VERSIONS = "fks/store/migrations/versions"
_REVISION = re.compile(r'^revision = "(\w+)"$', re.MULTILINE)
_PARENT = re.compile(r'^down_revision = "(\w+)"$', re.MULTILINE)
_CANNOT_ROLL = re.compile(r"^can_roll = False$", re.MULTILINE)
_FOLDER = Path(__file__).parent / "migrations"
#: the oldest revision that can be upgraded, and the commit that upgrades older ones to it
FIRST, UPGRADES_OLDER = "0048", "d3c4a1c2a560ed9581e9f8240de7a0e046e0db8f"
_LOCK = 7_206_151  # an arbitrary number, the same in every process
_MADE_AT_RUN_TIME = re.compile(r"(ohlcv_data|market_trades)_(p\d+|default)|trades_by_time")
_VECTOR_INDEX = re.compile(r"ix_ai_embeddings_hnsw_\d+")


def _is_ours(thing: object, name: str | None, kind: str, is_reflected: bool, other: object) -> bool:
    """Keep partitions and indexes of vectors, which are made at run time, out of the comparison."""
    if kind == "index" and _VECTOR_INDEX.fullmatch(name or ""):
        return False
    table = getattr(getattr(thing, "table", thing), "name", name) or ""
    return not _MADE_AT_RUN_TIME.fullmatch(str(table))


#: how Alembic compares a database with the metadata
COMPARE: dict[str, Any] = {"include_object": _is_ours, "compare_type": True, "compare_server_default": True}


@dataclass(frozen=True, slots=True)
class Revision:
    """One step of the schema."""

    id: str
    parent: str | None
    message: str


async def upgrade(url: str, revision: str = "head") -> str | None:
    """Bring the database to `revision` and return the revision it is at. Safe to repeat.

    Errors: OutageError when PostgreSQL is away, InputError for an unknown revision, ConfigError when the database was
    made by a newer FKS.
    """
    return await _run(url, lambda connection: _upgraded(connection, revision))


async def upgrade_unless_ahead(url: str, *, folders: Iterable[Path] | None = None) -> str | None:
    """Upgrade, but leave the tables of a database alone that a later build has migrated by steps with which this build
    can run: the later build is installed beside this one (`folders`, as in `check_rolling`). Errors: as `upgrade`."""
    at = await current(url)
    if at is not None and at not in {step.id for step in history()}:
        with contextlib.suppress(InputError):
            check_rolling(at, own_sources(), build="this build", folders=folders)
            await grant(url)
            return at
    return await upgrade(url)


async def grant(url: str) -> None:
    """Give the database's roles what the statements of this build need, as an upgrade does. Errors: as `upgrade`."""
    await _run(url, _granted)


async def downgrade(url: str, revision: str) -> str | None:
    """Take the database back to `revision` ("base", "-1", an id) and return where it is. Data of dropped tables is
    lost."""
    return await _run(url, lambda connection: _act(connection, lambda config: command.downgrade(config, revision)))


async def current(url: str) -> str | None:
    """Return the revision the database is at, or None for an empty one."""
    return await _run(url, _current)


async def usable(url: str) -> str | None:
    """Return the revision of a database that a command may use, None for an empty one. Errors: ConfigError for one of
    an older FKS; OutageError."""
    at = await current(url)
    if at is not None and int(at) < int(head()):
        raise ConfigError(
            f"the database is of an older FKS: its schema is {at}, and this one needs {head()}",
            remedy="run 'fks db upgrade', or 'fks up', which does",
        )
    return at


async def differences(url: str) -> list[Any]:
    """Return what differs between the database and fks.store.schema: an empty list when the migrations are right."""
    return await _run(url, _differences)


async def make_revision(url: str, message: str, *, folder: Path | None = None) -> Path:
    """Write a new version file from `differences`, and return it; with `folder`, the first one of that folder.

    Errors: InputError without a message.
    """
    if not message.strip():
        raise InputError("a revision needs a message", remedy="say what changes: fks db revision -m 'add …'")

    def write(connection: Connection) -> Path:
        config = _config(connection)
        if folder is not None:
            config.set_main_option("version_locations", str(folder))
        number = "0001" if folder is not None else f"{max(int(step.id) for step in history()) + 1:04d}"
        try:
            made = command.revision(config, message=message, autogenerate=True, rev_id=number)
        except CommandError as error:
            raise invalid("REVISION_FAILED", f"{error}", "run 'fks db upgrade' first") from error
        script = made[0] if isinstance(made, list) else made
        assert script is not None
        return Path(script.path)

    return await _run(url, write)


def own_sources() -> list[str]:
    """Return the texts of this build's migrations."""
    return [file.read_text() for file in (_FOLDER / "versions").glob("[0-9]*.py")]


def check_rolling(at: str | None, sources: Iterable[str], *, build: str, folders: Iterable[Path] | None = None) -> None:
    """Refuse a build whose parts cannot run beside those that run now, with the database at revision `at`.

    `sources` are the texts of the build's migrations, `folders` have those of this FKS and of the builds beside it. A
    migration with `can_roll = False` changes what earlier builds use; a test compares the mark with its statements.

    Errors: InputError when the build needs a migration that the database has not, or lacks one that it has and that
    cannot roll.
    """
    if folders is None:
        folders = (_FOLDER / "versions", *(place / VERSIONS for place in builds.beside()))
    theirs = {_REVISION.findall(text)[0]: text for text in sources if _REVISION.search(text)}
    ours = {file.stem.split("_")[0]: file.read_text() for folder in folders for file in folder.glob("[0-9]*.py")}
    applied = _applied(at, [*theirs.values(), *ours.values()])
    missing = sorted(theirs.keys() - applied)
    unknown = sorted(applied & ours.keys() - theirs.keys())
    breaking = [id for id in (*missing, *unknown) if _CANNOT_ROLL.search((theirs | ours)[id])]
    if breaking:
        raise invalid(
            "DEPLOY_SCHEMA",
            f"{build} cannot be rolled out: migration {', '.join(breaking)} changes tables that the parts "
            "of the other build use",
            "'fks down', install the build, 'fks up'",
        )
    if missing:
        raise invalid(
            "DEPLOY_SCHEMA",
            f"{build} needs migration {', '.join(missing)}, and the database is at {at}",
            "run 'fks db upgrade' of that build first, or 'fks down', install it, 'fks up'",
        )


def _applied(at: str | None, sources: Iterable[str]) -> set[str]:
    """Return the revisions of a database at `at`: the chain decides, not the numbers, which parallel work mixes up."""
    found: set[str] = set()
    parents: dict[str, str | None] = {}
    for source in sources:  # of two builds: the first step of the newer one has a parent in an older one
        for id in _REVISION.findall(source)[:1]:
            parents[id] = (_PARENT.findall(source) or [parents.get(id)])[0]
    while at is not None and at not in found:
        found.add(at)
        at = parents.get(at)
    return found


def history() -> list[Revision]:
    """Return every step this FKS knows, newest first."""
    scripts = ScriptDirectory.from_config(_config(None)).walk_revisions()
    return [Revision(s.revision, _one(s.down_revision), (s.doc or "").strip()) for s in scripts]


def head() -> str:
    """Return the newest revision this FKS knows."""
    found = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert found is not None
    return found


def _one(down: Any) -> str | None:
    return down if isinstance(down, str) or down is None else ", ".join(down)


def _config(connection: Connection | None) -> Config:
    config = Config(cmd_opts=Namespace(quiet=True))  # Alembic would print
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _upgraded(connection: Connection, revision: str) -> str | None:
    def act(config: Config) -> None:
        if _current(connection) is None and revision == "head":
            _make(connection)
            command.stamp(config, "head")
        else:
            command.upgrade(config, revision)

    at = _act(connection, act)
    _granted(connection)  # after each one: a restored or copied table has no grants
    connection.exec_driver_sql(VECTOR)  # a backup leaves it out, and a server may have got it since the last upgrade
    return at


def _granted(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    connection.exec_driver_sql(GRANT)
    connection.exec_driver_sql(grants())


def _make(connection: Connection) -> None:
    from fks.store.routines import STATEMENTS
    from fks.store.schema import metadata

    metadata.create_all(connection, checkfirst=False)
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)


def _act(connection: Connection, action: Callable[[Config], None]) -> str | None:
    # a lock of the transaction: it ends with the connection
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    at = _current(connection)
    if at is not None and at < FIRST:
        raise ConfigError(
            f"the database is at revision {at}, and this FKS upgrades from {FIRST} on; nothing was changed",
            remedy=f"'git checkout {UPGRADES_OLDER}', 'make install', 'fks db upgrade'; then install this FKS again",
        )
    if at is not None and at not in {step.id for step in history()}:
        raise ConfigError(
            f"the database is at revision {at}, which this FKS does not know", remedy="install the newer FKS again"
        )
    try:
        action(_config(connection))
    except CommandError as error:
        raise invalid("REVISION_UNKNOWN", f"{error}", "see 'fks db history'") from error
    return _current(connection)


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _differences(connection: Connection) -> list[Any]:
    from fks.store.schema import metadata

    return list(compare_metadata(MigrationContext.configure(connection, opts=COMPARE), metadata))


async def _run(url: str, work: Callable[[Connection], T]) -> T:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url, timeout=10.0), poolclass=NullPool
    )
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidCatalogNameError) as error:
        raise ConfigError(
            f"PostgreSQL refused the connection: {error}", remedy="check database.url and the secrets"
        ) from error
    except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError) as error:
        raise OutageError(f"PostgreSQL does not answer ({type(error).__name__})", remedy="see 'fks status'") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise OutageError(
                "PostgreSQL went away during the migration", remedy="run 'fks db upgrade' again"
            ) from error
        message = str(error.orig).splitlines()[0]
        raise ConfigError(
            f"the migration failed and changed nothing: {message}",
            remedy="restore a backup (fks db restore) or repair the database by hand",
        ) from error
    finally:
        await engine.dispose()
