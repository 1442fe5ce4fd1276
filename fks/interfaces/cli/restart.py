"""`fks restart`: a service by its keeper, a component of the tree by its supervisor, drained; `--now` ends it at
once."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import NotRunning, as_json, emit, paths_of
from fks.model.errors import OutageError, invalid

if TYPE_CHECKING:
    from fks.config.paths import Paths

BACK_S = 45.0
_WELL = ("ready", "running", "degraded")
SUPERVISED = ("actor", "serve")


@click.command()
@click.argument("name")
@click.option("--why", default="", metavar="TEXT", help="The reason, kept with the operation.")
@click.option("--now", "is_now", is_flag=True, help="Kill it instead of draining it: it is started again all the same.")
@as_json
@click.pass_context
def restart(ctx: click.Context, name: str, why: str, is_now: bool, as_json: bool) -> None:
    """Restart one part and wait until it is well again.

    An actor (orders, strategy:0, supervisor, …) is drained first: it stops accepting, finishes what is in flight,
    and its neighbours run on. `gateway` replaces the replicas one by one while the others answer. A service
    (postgres, redis, sim, ray) is restarted by its keeper.

    \b
    fks restart orders --why "after changing the account"
    fks restart gateway
    fks restart strategy:0 --now
    fks restart fks_app

    The name of a replaced service (fks_app, fks_data, …) restarts each actor that it became, one after the other.
    """
    from fks.interfaces.cli.status import find_status

    paths = paths_of(ctx)
    rows = {row["name"]: row for row in find_status(paths)["components"]}
    if not rows:
        raise NotRunning("nothing runs", remedy="start it with 'fks up'")
    parts = parts_of(name, rows, is_now=is_now)
    if as_json and len(parts) > 1:
        raise click.UsageError(f"{name} is {', '.join(parts)}: with --json name one of them")
    for part in parts:
        _restart_one(paths, part, rows, why=why, is_now=is_now, as_json=as_json)


def parts_of(name: str, rows: dict[str, dict[str, Any]], *, is_now: bool) -> list[str]:
    """Return the parts to restart: those of a replaced service that are supervised, or `name` itself.

    Errors: InputError when nothing of the service runs.
    """
    from fks.system.monitor.health import OWNER_SERVICES

    if name not in OWNER_SERVICES:
        return [name]
    kinds = OWNER_SERVICES[name]
    found = [row for row in rows.values() if row["name"].partition(":")[0] in kinds and row["kind"] in SUPERVISED]
    # the replicas of the gateway are replaced together; PostgreSQL and Redis are restarted by their own names alone
    parts = list(dict.fromkeys("gateway" if row["kind"] == "serve" and not is_now else row["name"] for row in found))
    if not parts:
        raise invalid("COMPONENT_UNKNOWN", f"nothing of {name} runs here", "see 'fks status'")
    return sorted(parts)


def _restart_one(
    paths: Paths, name: str, rows: dict[str, dict[str, Any]], *, why: str, is_now: bool, as_json: bool
) -> None:
    row = rows.get(f"raylet{name[3:]}" if name.partition("@")[0] == "ray" else name)
    is_gateway = name == "gateway" and not is_now
    if not is_gateway and (row is None or row["kind"] == "keeper"):
        names = ", ".join(["gateway", *(other for other, found in rows.items() if found["kind"] != "keeper")])
        raise invalid("COMPONENT_UNKNOWN", f"no component {name!r} to restart", f"use one of {names}")
    if is_gateway or (row is not None and row["kind"] in SUPERVISED and not is_now):
        _drained(paths, name, why, as_json=as_json)
    else:
        assert row is not None
        _at_once(paths, row, rows, as_json=as_json)


def _drained(paths: Paths, name: str, why: str, *, as_json: bool) -> None:
    """Request the restart from the supervisor and watch it."""
    from fks.interfaces.cli.client import OwnGateway, new_key
    from fks.interfaces.cli.operation import follow

    with OwnGateway(paths) as gateway:
        try:
            asked = gateway.post("/operations", {"kind": "restart", "target": name, "reason": why}, key=new_key())
        except NotRunning as error:
            raise NotRunning(
                f"{error.message}: nobody can be asked to drain {name}",
                remedy=f"see 'fks status'; 'fks restart {name} --now' kills it, and its supervisor starts it again",
            ) from None
        done = follow(gateway, asked, is_quiet=as_json)
    step = done["result"]["steps"][0]
    if as_json:
        answer = {"name": step["part"], "old_pid": step["pid_before"], "pid": step.get("pid"), "took_s": step["took_s"]}
        emit({**answer, "operation": done["id"]}, as_json=True, schema="fks.restart/1")


def _at_once(paths: Paths, row: dict[str, Any], rows: dict[str, dict[str, Any]], *, as_json: bool) -> None:
    """Restart a service by its keeper, or end a process, which its supervisor starts again."""
    from fks.system.node.control_socket import ask

    start = time.monotonic()
    if row["kind"] == "service" and not row["name"].startswith("proxy"):  # Ray Serve restarts its proxy itself
        ask(paths.keeper_socket, "restart-service", name=row["name"])
    else:
        kill_process(row)
    back = _wait_for_another(paths, row, {other["pid"] for other in rows.values()})
    took_s = round(time.monotonic() - start, 1)
    if as_json:
        emit(
            {"name": row["name"], "old_pid": row["pid"], "pid": back["pid"], "took_s": took_s},
            as_json=True,
            schema="fks.restart/1",
        )
    else:
        click.echo(f"{row['name']} is back after {took_s} s: pid {row['pid']} → {back['pid']}")


def kill_process(row: dict[str, Any]) -> None:
    """Kill an actor or replica of this machine. It may die at any moment anyway; that is what makes this safe."""
    from fks.config.machine import can_reach
    from fks.system.process import ray_names
    from fks.system.process.handle import ProcessHandle

    if not row["pid"]:
        raise invalid(
            "NOT_RUNNING", f"{row['name']} is {row['state']}: there is no process to restart", "see 'fks status'"
        )
    # a host name proves nothing: containers share one; a pid means this process only in the same boot and pid namespace
    space = (row.get("detail") or {}).get("space")
    if not can_reach(space):
        raise invalid(
            "OTHER_NODE",
            f"{row['name']} runs on {row['node'] or 'another machine'}, not on this machine (its boot or pid namespace "
            "is another)",
            "run this command there",
        )
    process = ProcessHandle.reported(row["pid"], space, command=ray_names.TITLE.encode())
    if process is None:  # a row outlives its process, and the pid may belong to another one by now
        raise invalid(
            "NOT_RUNNING", f"{row['name']}: pid {row['pid']} is no process of Ray's any more", "see 'fks status'"
        )
    process.send(signal.SIGKILL)


def _wait_for_another(paths: Paths, old: dict[str, Any], before: set[int | None]) -> dict[str, Any]:
    """Return the component's row once a process that was not there before is well. Errors: OutageError after BACK_S."""
    import threading

    from fks.interfaces.cli.status import find_status

    kin = old["name"].partition(":")[0] if old["kind"] == "serve" else old["name"]
    end = time.monotonic() + BACK_S
    while time.monotonic() < end:
        for row in find_status(paths)["components"]:
            is_kin = row["name"] == old["name"] or (old["kind"] == "serve" and row["name"].partition(":")[0] == kin)
            if is_kin and row["pid"] and row["pid"] not in before and row["state"] in _WELL:
                return dict(row)
        threading.Event().wait(0.2)
    raise OutageError(
        f"{old['name']} was ended and is not back after {BACK_S:g} s", remedy=f"see 'fks logs {old['name']}'"
    )
