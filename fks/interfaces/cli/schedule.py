"""`fks schedule`: actions that run by cron or interval, once per cluster, through the gateway."""

from __future__ import annotations

import json
from typing import Any

import click

from fks.interfaces.cli.base import options, table
from fks.interfaces.cli.client import GatewaySession, gateway_result, path_of
from fks.interfaces.cli.shown import at, time_of
from fks.model.schedules import SCHEDULE_ACTIONS


@click.group()
def schedule() -> None:
    """List, add, edit, run, pause and remove schedules."""


def _rhythm_of(row: dict[str, Any]) -> str:
    return row["cron"] or f"every {row['every_s']} s"


@schedule.command("list")
@gateway_result(
    "fks.schedules/1",
    {
        "NAME": "name",
        "ACTION": "action",
        "UTC": _rhythm_of,
        "NEXT": lambda row: time_of(row["next_run_at"]) if row["is_enabled"] else "paused",
        "LAST": at("last_run_at", "never"),
        "RESULT": "last_result",
    },
    empty="no schedules",
)
def list_(gateway: GatewaySession) -> Any:
    """List the schedules, FKS's own too."""
    return gateway.get("/schedules")["items"]


def _show_runs(found: dict[str, Any], name: str) -> None:
    click.echo(f"{name}: {found['action']} {json.dumps(found['params'])}")
    rows = [
        (time_of(r["due_at"]), r["cause"], r["attempt"], r["state"], time_of(r["finished_at"]), r["result"])
        for r in found["runs"]
    ]
    table(rows, ("DUE (UTC)", "CAUSE", "ATTEMPT", "STATE", "FINISHED", "RESULT"), empty="no runs yet")


@schedule.command()
@click.argument("name")
@gateway_result("fks.schedule/1", _show_runs)
def show(gateway: GatewaySession, name: str) -> Any:
    """Show one schedule with its last runs."""
    return gateway.get(path_of("schedules", name))


_rhythm = options(
    click.option("--cron", help="Five fields, UTC: '0 3 * * *' is 03:00."),
    click.option("--every", "every_s", type=int, metavar="SECONDS", help="Interval, at least 60."),
    click.option("--params", metavar="JSON", help="Parameters of the action."),
)


def _shown(found: dict[str, Any], **_: Any) -> str:
    due = f"next {time_of(found['next_run_at'])}" if found["is_enabled"] else "paused"
    return f"{found['name']}: {found['action']}, {_rhythm_of(found)}, {due}"


_ACTIONS = "\n".join(f"  {action} {params}".rstrip() for action, params in SCHEDULE_ACTIONS.items())


@schedule.command(help=f"Add a schedule that runs ACTION.\n\n\b\nActions, with their parameters:\n{_ACTIONS}")
@click.argument("name")
@click.argument("action")
@_rhythm
@gateway_result("fks.schedule/1", _shown)
def add(gateway: GatewaySession, params: str | None, **body: Any) -> Any:
    return gateway.post("/schedules", {**body, "params": _object(params)})


@schedule.command()
@click.argument("name")
@_rhythm
@gateway_result("fks.schedule/1", _shown)
def edit(gateway: GatewaySession, name: str, params: str | None, **body: Any) -> Any:
    """Change when a schedule runs, or its parameters."""
    return gateway.post(path_of("schedules", name), {**body, "params": _object(params)})


@schedule.command()
@click.argument("name")
@gateway_result("fks.schedule/1", "{name} will run; see 'fks schedule show {name}'")
def run(gateway: GatewaySession, name: str) -> Any:
    """Run a schedule's action now, within seconds."""
    return gateway.post(path_of("schedules", name, "run"))


@schedule.command()
@click.argument("name")
@gateway_result("fks.schedule/1", _shown)
def pause(gateway: GatewaySession, name: str) -> Any:
    """Let a schedule rest until it is resumed."""
    return gateway.post(path_of("schedules", name), {"is_enabled": False})


@schedule.command()
@click.argument("name")
@gateway_result("fks.schedule/1", _shown)
def resume(gateway: GatewaySession, name: str) -> Any:
    """Let a paused schedule run again from its next due time."""
    return gateway.post(path_of("schedules", name), {"is_enabled": True})


@schedule.command()
@click.argument("name")
@gateway_result("fks.schedule-removed/1", "{name} is removed")
def remove(gateway: GatewaySession, name: str) -> Any:
    """Remove a schedule; its runs stay."""
    return gateway.delete(path_of("schedules", name))


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
