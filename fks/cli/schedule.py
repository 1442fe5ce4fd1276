"""`fks schedule`: actions that run by cron or interval, once per cluster, through the gateway."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of
from fks.cli.shown import time_of


@click.group()
def schedule() -> None:
    """List, add, edit, run, pause and remove schedules."""


@schedule.command("list")
@as_json
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the schedules, FKS's own too."""
    with gateway_of(ctx) as gateway:
        items = gateway.get("/schedules")["items"]
    emit(items, as_json=as_json, schema="fks.schedules/1")
    if not as_json:
        rows = [
            (
                row["name"],
                row["action"],
                row["cron"] or f"every {row['every_s']} s",
                (time_of(row["next_run_at"]) or "") if row["is_enabled"] else "paused",
                time_of(row["last_run_at"]) or "never",
                row["last_result"] or "",
            )
            for row in items
        ]
        table(rows, ("NAME", "ACTION", "UTC", "NEXT", "LAST", "RESULT"), empty="no schedules")


@schedule.command()
@click.argument("name")
@as_json
@click.pass_context
def show(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show one schedule with its last runs."""
    with gateway_of(ctx) as gateway:
        found = gateway.get(_path(name))
    emit(found, as_json=as_json, schema="fks.schedule/1")
    if not as_json:
        click.echo(f"{name}: {found['action']} {json.dumps(found['params'])}")
        rows = [
            (time_of(r["due_at"]), r["cause"], r["attempt"], r["state"], time_of(r["finished_at"]), r["result"])
            for r in found["runs"]
        ]
        table(rows, ("DUE (UTC)", "CAUSE", "ATTEMPT", "STATE", "FINISHED", "RESULT"), empty="no runs yet")


def _rhythm(command: Any) -> Any:
    for option in (
        click.option("--params", metavar="JSON", help="Parameters of the action."),
        click.option("--every", "every_s", type=int, metavar="SECONDS", help="Interval, at least 60."),
        click.option("--cron", help="Five fields, UTC: '0 3 * * *' is 03:00."),
    ):
        command = option(command)
    return command


@schedule.command()
@click.argument("name")
@click.argument("action")
@_rhythm
@as_json
@click.pass_context
def add(
    ctx: click.Context, name: str, action: str, cron: str | None, every_s: int | None, params: str | None, as_json: bool
) -> None:
    """Add a schedule that runs ACTION.

    Actions: deep-check, retention; backup {"keep": 7}; sync {"symbol": "BTCUSDT"}; drift-check {"instance": ID};
    backtest {the spec of POST /backtests, of one strategy}; optimize {the spec of POST /optimizations}.
    """
    body = {"name": name, "action": action, "cron": cron, "every_s": every_s, "params": _object(params)}
    with gateway_of(ctx) as gateway:
        _shown(gateway.post("/schedules", body), as_json=as_json)


@schedule.command()
@click.argument("name")
@_rhythm
@as_json
@click.pass_context
def edit(
    ctx: click.Context, name: str, cron: str | None, every_s: int | None, params: str | None, as_json: bool
) -> None:
    """Change when a schedule runs, or its parameters."""
    with gateway_of(ctx) as gateway:
        body = {"cron": cron, "every_s": every_s, "params": _object(params)}
        _shown(gateway.post(_path(name), body), as_json=as_json)


@schedule.command()
@click.argument("name")
@as_json
@click.pass_context
def run(ctx: click.Context, name: str, as_json: bool) -> None:
    """Run a schedule's action now, within seconds."""
    with gateway_of(ctx) as gateway:
        found = gateway.post(f"{_path(name)}/run")
    emit(found, as_json=as_json, schema="fks.schedule/1")
    if not as_json:
        click.echo(f"{name} will run; see 'fks schedule show {name}'")


@schedule.command()
@click.argument("name")
@as_json
@click.pass_context
def pause(ctx: click.Context, name: str, as_json: bool) -> None:
    """Let a schedule rest until it is resumed."""
    with gateway_of(ctx) as gateway:
        _shown(gateway.post(_path(name), {"is_enabled": False}), as_json=as_json)


@schedule.command()
@click.argument("name")
@as_json
@click.pass_context
def resume(ctx: click.Context, name: str, as_json: bool) -> None:
    """Let a paused schedule run again from its next due time."""
    with gateway_of(ctx) as gateway:
        _shown(gateway.post(_path(name), {"is_enabled": True}), as_json=as_json)


@schedule.command()
@click.argument("name")
@as_json
@click.pass_context
def remove(ctx: click.Context, name: str, as_json: bool) -> None:
    """Remove a schedule; its runs stay."""
    with gateway_of(ctx) as gateway:
        answer = gateway.delete(_path(name))
    emit(answer, as_json=as_json, schema="fks.schedule-removed/1")
    if not as_json:
        click.echo(f"{name} is removed")


def _object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise click.UsageError("--params is no JSON object")
    return found


def _path(name: str) -> str:
    return f"/schedules/{quote(name, safe='')}"


def _shown(found: dict[str, Any], *, as_json: bool) -> None:
    emit(found, as_json=as_json, schema="fks.schedule/1")
    if not as_json:
        when = found["cron"] or f"every {found['every_s']} s"
        due = f"next {time_of(found['next_run_at'])}" if found["is_enabled"] else "paused"
        click.echo(f"{found['name']}: {found['action']}, {when}, {due}")
