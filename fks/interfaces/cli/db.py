"""`fks db`: upgrade, inspect, back up and restore the database."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import click

from fks.interfaces.cli.base import Columns, as_json, emit, paths_of, result, table

if TYPE_CHECKING:
    from fks.config.settings import Data as DataSettings
    from fks.store.db import Database
    from fks.store.timescale import Found, StatementGroup


_passphrase_file = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File (mode 0600) whose first line is the key file's passphrase.",
)


@click.group()
def db() -> None:
    """Migrate and inspect the database."""


@db.command()
@click.argument("revision", default="head")
@result(
    "fks.db.upgrade/1",
    lambda done, **_: (
        f"at {done['to']}" + (" already" if done["from"] == done["to"] else f" (was {done['from'] or 'empty'})")
    ),
)
def upgrade(ctx: click.Context, revision: str) -> Any:
    """Bring the schema to REVISION (default: the newest) and make the partitions of the time ahead. Safe to repeat."""
    from fks.interfaces.cli.store import opened_store
    from fks.store import migrate

    async def work(url: str) -> tuple[str | None, str | None]:
        before = await migrate.current(url)
        after = await migrate.upgrade(url, revision)
        if after is not None:
            await _ensure_partitions(url)
        return before, after

    with opened_store(ctx, create=True) as (url, _, _):
        before, after = asyncio.run(work(url))
    return {"from": before, "to": after}


@db.command()
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask.")
@result("fks.db.downgrade/1", lambda done, **_: f"at {done['revision'] or 'empty'}; backup {done['backup']}")
def downgrade(ctx: click.Context, revision: str, yes: bool) -> Any:
    """Take the schema back to REVISION ("base", an id, or -1 after a "--"). Data of dropped tables and columns is lost;
    a backup is made first."""
    from fks.interfaces.cli.store import opened_store
    from fks.store import migrate
    from fks.system.servers import backup

    if not yes:
        click.confirm(f"take the schema back to {revision}? data may be lost (a backup is made first)", abort=True)
    with opened_store(ctx) as (url, _, paths):
        kept = backup.dump(url, paths, label="before-downgrade")
        after = asyncio.run(migrate.downgrade(url, revision))
    return {"revision": after, "backup": str(kept)}


@db.command()
@click.option("-m", "--message", required=True, help="What changes, in a few words.")
@click.option("--empty", is_flag=True, help="Write one although nothing differs.")
@click.pass_context
def revision(ctx: click.Context, message: str, empty: bool) -> None:
    """Write a new migration from the differences between the database and fks/store/schema.py (autogenerate)."""
    from fks.interfaces.cli.store import opened_store
    from fks.model.errors import InputError
    from fks.store import migrate

    with opened_store(ctx, create=True) as (url, _, _):
        if not empty and not asyncio.run(migrate.differences(url)):
            raise InputError(
                "nothing differs between the database and fks/store/schema.py",
                remedy="change the schema first, or write an empty one with --empty",
            )
        path = asyncio.run(migrate.make_revision(url, message))
    click.echo(f"wrote {path}: read it before you commit it")


@db.command()
@result("fks.db.history/1", {"ID": "id", "AFTER": "parent", "WHAT": "message"})
def history(_: click.Context) -> Any:
    """List the steps of the schema, newest first."""
    from fks.store import migrate

    return [{"id": step.id, "parent": step.parent, "message": step.message} for step in migrate.history()]


def _show_status(answer: dict[str, Any]) -> None:
    step = "up to date" if answer["is_current"] else f"the newest is {answer['head']}: run 'fks db upgrade'"
    click.echo(f"{answer['server']} PostgreSQL {answer['server_version']}, database {answer['database']}")
    click.echo(f"schema {answer['revision'] or 'empty'}, {step}")
    click.echo(f"{_size(answer['bytes'])}, {answer['connections']} connections, up {answer['uptime_s']:.0f} s")
    columns: Columns = {"TABLE": "name", "ROWS (ABOUT)": "rows", "SIZE": lambda t: _size(t["bytes"])}
    table(answer["tables"], columns, empty="no tables yet")


@db.command()
@result("fks.db.status/1", _show_status)
def status(ctx: click.Context) -> Any:
    """Show the schema's revision, the database's size, and its contents."""
    from fks.interfaces.cli.store import opened_store
    from fks.store import migrate

    with opened_store(ctx) as (url, _, paths):
        answer = asyncio.run(_overview(url))
    server = "embedded" if str(paths.sockets) in unquote(url) else "external"
    return {**answer, "server": server, "head": migrate.head(), "is_current": answer["revision"] == migrate.head()}


@db.command(context_settings={"ignore_unknown_options": True})
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def shell(ctx: click.Context, args: tuple[str, ...]) -> None:
    """Open psql on the database (it can write). ARGS go to psql: fks db shell -c 'SELECT 1'."""
    from fks.interfaces.cli.store import opened_store
    from fks.system.servers import backup

    with opened_store(ctx) as (url, _, paths):
        code = backup.psql(url, paths.run, args)
    if code:
        raise click.exceptions.Exit(code if sys.stdin.isatty() is False else 1)


def _show_roles(rows: list[dict[str, str]], *, is_sql: bool) -> None:
    columns: Columns = {"KIND": "kind", "ROLE": "role", "STATE": "state"}
    if not is_sql:
        table(rows, columns)
    for row in rows:
        if is_sql and row["sql"]:
            click.echo(f"{row['sql']};")


@db.command()
@click.option("--sql", "is_sql", is_flag=True, help="Print the statements that make the roles which are not used.")
@result("fks.db.roles/1", _show_roles)
def roles(ctx: click.Context, is_sql: bool) -> Any:
    """Show the database roles of strategy workers and other processes. A state other than "used": they connect as the
    owner of the tables.

    The statements of --sql are for an administrator of the database; the next 'fks up' grants the rest. They hold
    a hash of the password, not the password.
    """
    from fks.config.secrets import load_secrets
    from fks.interfaces.cli.store import on_database, opened_store
    from fks.store.grants import creation, role_of, standing

    with opened_store(ctx) as (url, settings, paths):
        key = load_secrets(paths).session_key
        states = asyncio.run(on_database(url, lambda db: standing(db, url, key), settings.database))
    verbs = {"absent": "CREATE", "refused": "ALTER"}
    return [
        {
            "kind": kind,
            "role": role_of(url, kind),
            "state": state,
            "sql": creation(url, kind, key, verb=verbs[state]) if state in verbs else "",
        }
        for kind, state in states.items()
    ]


@db.command("backup")
@as_json
@click.pass_context
def backup_command(ctx: click.Context, as_json: bool) -> None:
    """Write a backup: the database as of one moment, restored into a scratch database and compared. With
    backup.recipient it is encrypted and holds secrets, settings and strategies as well.

    A schedule does the same every night. Exit 1 when the restore was not tried or gave other rows; the file is kept.
    """
    from fks.clock import RealClock
    from fks.interfaces.cli.store import opened_store
    from fks.system.servers import bundle

    with opened_store(ctx) as (url, settings, paths):
        made = asyncio.run(bundle.make(url, paths, settings, label="backup", clock=RealClock()))
    found, size = made.manifest, made.file.stat().st_size
    answer = {
        "file": str(made.file),
        "bytes": size,
        "is_encrypted": made.file.suffix == bundle.ENCRYPTED,
        "is_verified": found.is_verified,
        "why": found.why,
        "rows": sum(found.rows.values()),
        "files": list(found.files),
    }
    emit(answer, as_json=as_json, schema="fks.db.backup/2")
    if not as_json:
        proof = "restored and compared" if found.is_verified else f"NOT verified: {found.why}"
        click.echo(f"{made.file} ({_size(size)}, {answer['rows']} rows, {proof})")
        if not answer["is_encrypted"]:
            click.echo("secrets and strategies are not in it: see 'fks db backup-key --help'", err=True)
    if not found.is_verified and settings.backup.verify:
        raise click.exceptions.Exit(1)


def _show_key(made: dict[str, str], **_: Any) -> None:
    click.echo(f"{made['file']} is made: keep it where FKS_HOME is not, for nothing else opens the backups", err=True)
    click.echo(f"fks config set backup.recipient {made['recipient']}")


@db.command("backup-key")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--passphrase", "is_protected", is_flag=True, help="Protect the key by a passphrase, which is asked for.")
@_passphrase_file
@result("fks.db.backup-key/1", _show_key)
def backup_key(ctx: click.Context, file: Path, is_protected: bool, passphrase_file: Path | None) -> Any:
    """Make the key that opens encrypted backups, in FILE outside of FKS_HOME, and show its public part.

    Only FILE opens the backups: keep it on another machine or on paper. The public part goes into backup.recipient.
    """
    from fks.system.servers import bundle

    passphrase = None
    if passphrase_file is not None:
        passphrase = _first_line(passphrase_file)
    elif is_protected:
        passphrase = click.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True)
    return {"file": str(file), "recipient": bundle.make_key(file, paths_of(ctx), passphrase)}


def _restored(done: dict[str, Any], **_: Any) -> None:
    click.echo(f"restored {done['file']}; run 'fks db upgrade' if it is of an older FKS")
    if done["written"]:
        click.echo(f"also restored: {', '.join(done['written'])}")
    if done["kept"]:
        click.echo(f"kept as they are here (--replace-files restores them): {', '.join(done['kept'])}", err=True)


@db.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), help="Key file of an encrypted backup.")
@_passphrase_file
@click.option("--replace-files", is_flag=True, help="Write settings, secrets and strategies over those that are there.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@result("fks.db.restore/1", _restored)
def restore_command(
    ctx: click.Context, file: Path, key: Path | None, passphrase_file: Path | None, replace_files: bool, yes: bool
) -> Any:
    """Replace the database's content by that of FILE, all or nothing. FKS must be down.

    An encrypted backup also brings back secrets, settings and strategies that are not here.
    """
    from fks.interfaces.cli.store import is_running, opened_store
    from fks.model.errors import ConfigError
    from fks.system.servers import backup, bundle

    paths = paths_of(ctx)
    if is_running(paths):
        raise ConfigError("a backup is not restored under a running system", remedy="run 'fks down' first")
    identity = None
    if key is not None:
        passphrase = None if passphrase_file is None else _first_line(passphrase_file)
        if passphrase is None and bundle.is_protected(key):
            passphrase = click.prompt("passphrase", hide_input=True, err=True)
        identity = bundle.identity_of(key, passphrase)
    if not yes:
        click.confirm(f"replace everything in the database by {file}?", abort=True)
    with bundle.opened(file, paths, identity) as (dump, files):
        written, kept = bundle.put_files(files, paths, replace=replace_files)
        with opened_store(ctx, create=True) as (url, _, _):
            backup.restore(url, paths, dump, without=("nodes", "component_health"))  # beats of what ran then
    return {"file": str(file), "written": written, "kept": kept}


def _first_line(file: Path) -> str:
    """Return the passphrase that a file holds. Errors: ConfigError when others can read it, or it is empty."""
    from fks.config.secrets import check_private
    from fks.model.errors import ConfigError

    try:
        check_private(file)
        found = file.read_text().partition("\n")[0]
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}", remedy="name a file with the passphrase") from error
    if not found:
        raise ConfigError(f"{file} is empty", remedy="write the passphrase into its first line")
    return found


@db.command()
@click.option("--apply", "is_applied", is_flag=True, help="Run the steps shown, after a backup. FKS must be down.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_context
def timescale(ctx: click.Context, is_applied: bool, yes: bool, as_json: bool) -> None:
    """Show the TimescaleDB of this database, and the SQL that would make hypertables of our tables.

    It was run by hand with TimescaleDB 2.21 on PostgreSQL 15, and no test runs it: try it on a copy first.
    """
    from fks.interfaces.cli.store import is_running, opened_store
    from fks.model.errors import ConfigError
    from fks.system.servers import backup

    with opened_store(ctx) as (url, settings, paths):
        found, steps = asyncio.run(_timescale(url, settings.data))
        shown = [{"name": step.name, "what": step.what, "statements": list(step.statements)} for step in steps]
        emit({"found": found.summary(), "steps": shown}, as_json=as_json, schema="fks.db.timescale/1")
        if not as_json:
            click.echo(found.summary())
            for step in steps:
                click.echo(f"\n-- {step.what}\nBEGIN;\n" + ";\n".join(step.statements) + ";\nCOMMIT;")
        if not is_applied or not steps:
            return
        if is_running(paths_of(ctx)):
            raise ConfigError("tables are not rewritten under a running system", remedy="run 'fks down' first")
        if not yes:
            click.confirm(f"rewrite {len(steps)} tables? a backup is made first", abort=True)
        kept = backup.dump(url, paths, label="before-timescale")
        asyncio.run(_timescale(url, settings.data, steps))
    click.echo(f"done; backup {kept}", err=as_json)


async def _timescale(
    url: str, data: DataSettings, steps: list[StatementGroup] | None = None
) -> tuple[Found, list[StatementGroup]]:
    from fks.interfaces.cli.store import on_database
    from fks.store import timescale

    async def work(store: Database) -> tuple[Found, list[StatementGroup]]:
        if steps is not None:
            await timescale.apply(store, steps)
        found = await timescale.find(store)
        return found, timescale.plan(found, data)

    return await on_database(url, work, application="db timescale", retry_s=5.0)


async def _ensure_partitions(url: str) -> None:
    from fks.clock import RealClock
    from fks.interfaces.cli.store import on_database
    from fks.model.timeframe import to_datetime
    from fks.store.partitions import ensure_partitions

    now = to_datetime(RealClock().now_ns())
    await on_database(url, lambda store: ensure_partitions(store, now), application="db upgrade", retry_s=5.0)


async def _overview(url: str) -> dict[str, Any]:
    from fks.interfaces.cli.store import on_database
    from fks.store import migrate

    async def work(store: Database) -> dict[str, Any]:
        row = await store.fetchrow("store.overview")
        assert row is not None
        return {**row, "tables": [dict(found) for found in await store.fetch("store.sizes")]}

    answer = await on_database(url, work, application="db status", retry_s=5.0)
    tables, uptime = answer.pop("tables"), answer.pop("uptime")
    return {"revision": await migrate.current(url), **answer, "uptime_s": uptime.total_seconds(), "tables": tables}


def _size(count: int) -> str:
    return (
        f"{count / 1e9:.1f} GB"
        if count >= 1e9
        else f"{count / 1e6:.1f} MB"
        if count >= 1e6
        else f"{count / 1e3:.0f} kB"
    )
