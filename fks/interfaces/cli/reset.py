"""`fks reset`: clear all data of this node and start again."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import result, settings_of
from fks.model.errors import ConfigError, FksError, InputError

if TYPE_CHECKING:
    from fks.config.paths import Paths


def _shown(done: dict[str, Any], **_: Any) -> None:
    kept = f"backup {done['backup']}" if done["backup"] else "no backup"
    click.echo(f"removed {', '.join(done['removed']) or 'nothing'}; {kept}")
    click.echo("start again with 'fks up'")


@click.command()
@click.option("--yes-delete", metavar="NAME", help="Do not ask: NAME is the last part of FKS_HOME's path.")
@click.option("--no-backup", is_flag=True, help="Do not keep a copy of the database first.")
@result("fks.reset/1", _shown)
def reset(ctx: click.Context, yes_delete: str | None, no_backup: bool) -> Any:
    """Clear all data and start again: bars, signals, orders, fills, accounts, the local exchange, logs.

    fks.toml, the secrets, your strategies, the backups and an engaged kill switch stay.
    """
    from fks.config.paths import Paths
    from fks.interfaces.cli.store import is_running

    settings = settings_of(ctx)
    paths = Paths.of(settings.home)
    if not paths.home.is_dir():
        raise InputError(f"nothing to reset at {paths.home}", remedy="set FKS_HOME or use --home")
    if is_running(paths):
        raise ConfigError(f"FKS runs at {paths.home}", remedy="run 'fks down' first")
    _confirm(paths, yes_delete)
    backup = None if no_backup else _backup(ctx, paths)
    if settings.database.url is not None:
        from fks.store import migrate

        asyncio.run(migrate.downgrade(settings.database.url.get_secret_value(), "base"))
    removed = _remove(paths)
    return {"removed": removed, "backup": str(backup) if backup else None}


def _confirm(paths: Paths, typed: str | None) -> None:
    name = paths.home.name
    if typed is None:
        click.echo(f"This clears all data under {paths.home} (a backup of the database is made first).")
        typed = click.prompt(f"Type {name} to go on", default="", show_default=False)
    if typed != name:
        raise InputError(
            f"nothing was removed: {typed!r} is not {name!r}", remedy=f"type {name}, or use --yes-delete {name}"
        )


def _backup(ctx: click.Context, paths: Paths) -> object | None:
    from fks.interfaces.cli.store import opened_store
    from fks.system.servers import backup

    external = settings_of(ctx).database.url is not None
    if not external and not (paths.pgdata / "PG_VERSION").exists():
        return None
    try:
        with opened_store(ctx) as (url, _, _):
            return backup.dump(url, paths, label="before-reset")
    except FksError as error:
        raise ConfigError(
            f"nothing was removed: no backup could be made ({error.message})", remedy="use --no-backup to go on without"
        ) from error


def _remove(paths: Paths) -> list[str]:
    removed = []
    for path in (
        paths.pgdata,
        *paths.home.glob(f"{paths.pgdata.name}.*"),  # clusters of before an upgrade of PostgreSQL
        paths.home / ".postgres.password-mark",
        paths.redis_dir,
        paths.sim_dir,
        # positions for the guardian to close while the database is away
        paths.kill_file.with_name("kill-positions.json"),
        paths.side_journal,  # it belongs to the database that is removed
        paths.logs,
        paths.run,
        paths.sockets,
    ):
        if not path.exists():
            continue
        removed.append(path.name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return removed
