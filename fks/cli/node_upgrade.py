"""Upgrade of a running node to the build that is installed, started by a second `ray up`."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import click

from fks.config.version import build_id
from fks.model.errors import FksError, OutageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fks.config.paths import Paths
    from fks.store.nodes import NodeRow

BY_SYSTEMD_S = 10.0  # until systemd has started a killed keeper again
WORKERS_S = 900.0  # Ray's autoscaler installs on the workers, one ssh session each
_pause = threading.Event().wait


def upgrade(ctx: click.Context, paths: Paths, role: str, *, is_json: bool) -> None:
    """Bring a node that runs another build to the installed one; print that it runs when it is the same.

    The keeper is replaced, and takes over what runs. A head then waits until every machine has the build, and replaces
    the parts of the tree and the gateway one by one (`fks deploy`). Errors: FksError; what runs goes on then.
    """
    from fks.cli.deploy import check_schema, deploy
    from fks.cli.up import print_running
    from fks.node.control_socket import ask
    from fks.node.ray_up import restart_autoscaler

    progress = ask(paths.keeper_socket, "progress")
    running, installed = str(progress.get("version", "")), build_id()
    if running == installed and not _others(paths, installed):
        print_running(paths, int(progress["pid"]), is_json=is_json)
        return
    if role == "head":
        check_schema(paths, None)
    if running != installed:
        click.echo(f"upgrading the keeper from {running or 'an earlier build'} to {installed}", err=is_json)
        _replace_keeper(paths, int(progress["pid"]), is_json=is_json)
    if role != "head":
        return
    restart_autoscaler(paths.ray_temp)
    _wait_for_workers(paths, installed, is_json=is_json)
    ctx.invoke(
        deploy, wheel=None, only=None, rollback=False, install_only=False, why="ray up: another build", as_json=is_json
    )


def behind(rows: Sequence[NodeRow], build: str) -> list[str]:
    """Return the living machines whose keeper runs another build, with it."""
    return [f"{row.name} ({row.version})" for row in rows if row.is_alive and row.version != build]


def _others(paths: Paths, build: str) -> bool:
    """Return whether a machine of this head runs another build: an upgrade that was interrupted."""
    try:
        return bool(behind(_rows(paths), build))
    except (FksError, OSError):
        return False


def _replace_keeper(paths: Paths, pid: int, *, is_json: bool) -> None:
    from fks.cli.up import run_keeper
    from fks.node import boot
    from fks.node.lock import PARENT_LOCK, holder_of
    from fks.process.handle import kill

    is_by_systemd = boot.is_running(paths)
    parent = holder_of(paths.run / PARENT_LOCK)
    # it leaves what runs to the next keeper; asked to stop it would stop everything
    kill([parent, pid] if parent else [pid])
    end = time.monotonic() + BY_SYSTEMD_S
    while time.monotonic() < end:
        holder = holder_of(paths.run / "keeper.lock")
        if holder not in (None, pid) or (holder is None and not is_by_systemd):
            break
        _pause(0.1)
    run_keeper(paths, is_detached=True, is_quiet=True, is_json=is_json, is_silent=True)


def _wait_for_workers(paths: Paths, build: str, *, is_json: bool) -> None:
    """Return once no living machine runs another build: a child may start on any of them. Errors: OutageError."""
    end, shown = time.monotonic() + WORKERS_S, ""
    while left := behind(_rows(paths), build):
        if time.monotonic() > end:
            raise OutageError(
                f"{', '.join(left)} did not come to {build} within {WORKERS_S:g} s",
                remedy=f"see {paths.ray_temp}/session_latest/logs/monitor.log; 'ray up' again goes on from here",
            )
        if (text := ", ".join(left)) != shown:
            shown = text
            click.echo(f"waiting for {text}", err=is_json)
        _pause(1.0)


def _rows(paths: Paths) -> list[NodeRow]:
    from fks.config.endpoints import load_node
    from fks.config.settings import Database as Options
    from fks.store.db import Database
    from fks.store.nodes import NodeStore

    async def work() -> list[NodeRow]:
        db = await Database.connect(load_node(paths).database_url, Options(pool_max=1), application="node", retry_s=5.0)
        try:
            return await NodeStore(db).all()
        finally:
            await db.close()

    return asyncio.run(work())
