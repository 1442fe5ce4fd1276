"""`fks alerts`: list and settle alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fks.cli.base import as_json, emit, paths_of, table

if TYPE_CHECKING:
    from fks.config.paths import Paths

_COLOURS = {"page": "red", "error": "red", "warning": "yellow"}


@click.group(invoke_without_command=True)
@click.option("--all", "is_all", is_flag=True, help="Settled ones too, newest first.")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
@as_json
@click.pass_context
def alerts(ctx: click.Context, is_all: bool, limit: int, as_json: bool) -> None:
    """List open alerts. One whose cause is over settles itself."""
    if ctx.invoked_subcommand is not None:
        return
    found = find_alerts(paths_of(ctx), is_all=is_all, limit=limit)
    if as_json:
        emit(found, as_json=True, schema="fks.alerts/1")
        return
    table(
        [
            (
                row["id"],
                str(row["time"])[:19].replace("T", " "),
                click.style(row["severity"], fg=_COLOURS.get(row["severity"])),
                row["component"],
                row["event"],
                row["message"],
                _settled(row),
            )
            for row in found
        ],
        ("id", "time (UTC)", "severity", "from", "event", "message", "settled" if is_all else ""),
        empty="no alerts" if is_all else "no open alerts ('fks alerts --all' shows the settled ones)",
    )


@alerts.command()
@click.argument("ids", nargs=-1, type=click.IntRange(1))
@click.option("--all", "is_all", is_flag=True, help="Every open one.")
@as_json
@click.pass_context
def settle(ctx: click.Context, ids: tuple[int, ...], is_all: bool, as_json: bool) -> None:
    """Settle alerts by their id: you have seen to them."""
    from fks.cli.client import gateway_of
    from fks.model.errors import InputError

    if bool(ids) == is_all:
        raise InputError("name the alerts, or --all", remedy="see 'fks alerts'")
    with gateway_of(ctx) as gateway:
        wanted = ids or [row["id"] for row in gateway.get("/alerts", limit=1000)["items"]]
        done = [gateway.post(f"/alerts/{number}/settle") for number in wanted]
    if as_json:
        emit(done, as_json=True, schema="fks.alerts.settle/1")
    else:
        click.echo(f"{sum(row['is_changed'] for row in done)} settled")


def find_alerts(paths: Paths, *, is_all: bool, limit: int) -> list[dict[str, Any]]:
    """Return alerts, newest first, from the gateway, else from the database itself. Errors: OutageError, NotRunning."""
    from fks.cli.base import NotRunning
    from fks.cli.client import own_gateway
    from fks.cli.status import ask_database
    from fks.model.errors import OutageError
    from fks.monitor.alerts import listed

    try:
        with own_gateway(paths) as gateway:
            return list(gateway.get("/alerts", all=is_all, limit=limit)["items"])
    except (NotRunning, OutageError):
        return ask_database(paths, lambda db: listed(db, is_all=is_all, limit=limit))


def _settled(row: dict[str, Any]) -> str:
    if not row.get("resolved_at"):
        return ""
    by = (row.get("payload") or {}).get("resolved_by", "")
    return f"{str(row['resolved_at'])[5:19].replace('T', ' ')}{f', {by}' if by else ''}"
