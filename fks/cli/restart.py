"""`fks restart`: one service by its keeper, one actor or replica by ending it: whoever supervises it starts it anew."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from fks.cli.base import as_json, emit, paths_of

if TYPE_CHECKING:
    from fks.config.paths import Paths

BACK_S = 45.0
_WELL = ("ready", "running", "degraded")


@click.command()
@click.argument("name")
@as_json
@click.pass_context
def restart(ctx: click.Context, name: str, as_json: bool) -> None:
    """Restart one service or actor and wait until it is back (postgres, redis, sim, ray, orders, strategy:0, …)."""
    from fks.cli.keeper.door import ask
    from fks.cli.status import find_status
    from fks.model.errors import InputError, OutageError

    paths = paths_of(ctx)
    rows = {row["name"]: row for row in find_status(paths)["components"]}
    if not rows:
        raise OutageError("nothing runs", remedy="start it with 'fks up'")
    row = rows.get("raylet" if name == "ray" else name)
    if row is None or row["kind"] == "keeper":
        raise InputError(
            f"no component {name!r} to restart", code="COMPONENT_UNKNOWN", remedy=f"use one of {', '.join(rows)}"
        )
    start = time.monotonic()
    if row["kind"] == "service":
        ask(paths.keeper_socket, "restart-service", name=name)
    else:
        _end(row)
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


def _end(row: dict[str, Any]) -> None:
    """Kill an actor or replica of this host. It may die at any moment anyway; that is what makes this safe."""
    import socket

    from fks.cli.keeper.process import kill
    from fks.model.errors import InputError

    if not row["pid"]:
        raise InputError(
            f"{row['name']} is {row['state']}: there is no process to restart",
            code="NOT_RUNNING",
            remedy="see 'fks status'",
        )
    if row.get("node") not in ("", None, socket.gethostname(), "127.0.0.1"):
        raise InputError(
            f"{row['name']} runs on {row['node']}, not here", code="OTHER_NODE", remedy="run this command there"
        )
    if not _is_rays(row["pid"]):  # a row outlives its process, and the number may be somebody else's by now
        raise InputError(
            f"{row['name']}: pid {row['pid']} is no process of Ray's any more", code="NOT_RUNNING", remedy="see 'fks status'"
        )
    kill([row["pid"]])


def _is_rays(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).name().startswith("ray::")
    except psutil.Error:
        return False


def _wait_for_another(paths: Paths, old: dict[str, Any], before: set[int | None]) -> dict[str, Any]:
    """Return the component's row once a process that was not there before is well. Errors: OutageError after BACK_S."""
    import threading

    from fks.cli.status import find_status
    from fks.model.errors import OutageError

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
