"""`python -m actors.commands deploy | gateway | grow | logs | stop`: commands of `fks up` and others to a cluster.

A process of its own, so that the keeper never loads Ray and a lost GCS can abort nothing but this.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fks.config.endpoints import NodeEndpoints, load_node
from fks.config.load import load_settings
from fks.config.machine import machine_of
from fks.config.machine_http import can_spread, lacking
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.model.errors import FksError, OutageError
from fks.store.db import Database
from fks.store.heads import HeadStore
from fks.store.nodes import NodeRow, NodeStore
from fks.store.runtime_config import overlaid

READY_S = 45.0
STOP_S = 7.0


def _home_of_cluster(settings: Settings) -> str | None:
    """Return FKS_HOME for a cluster that no keeper started; None where raylets of our own nodes have it."""
    return str(settings.home) if settings.ray.address else None


def deploy() -> None:
    """Make the tree and the gateway run: starts what is missing, adopts what lives. Safe to run again."""
    from actors import cluster

    settings = load_settings(os.environ.get("FKS_HOME"))
    paths = Paths.of(settings.home)
    node = load_node(paths)
    cluster.connect(node.ray_address, str(paths.ray_token_file), home=_home_of_cluster(settings))
    heads = Heads(settings, paths, node.database_url)
    done = cluster.ensure_supervisor(heads.new_deployment, settings.node.role, heads.deployment())
    sys.stdout.write(f"supervisor {done}\n")
    sys.stdout.flush()
    runtime, ready = with_runtime(settings, paths, node.database_url), ready_nodes(settings, node)
    cluster.deploy_gateway(runtime, http=node.http, ready=ready)
    sys.stdout.write("gateway up\n")
    deadline = time.monotonic() + READY_S
    while True:
        beat = cluster.tree_health()
        detail = beat["detail"]
        states = detail.get("children", {}) if isinstance(detail, dict) else {}
        if states and all(state in ("ready", "degraded") for state in states.values()):
            sys.stdout.write("tree up\n")
            return
        if time.monotonic() > deadline:
            late = {name: state for name, state in states.items() if state not in ("ready", "degraded")}
            raise OutageError(f"not up after {READY_S:g} s: {late}", remedy="see 'fks logs'")
        time.sleep(0.2)


class Heads:
    """This machine as the head of its database. Errors of both methods: OutageError, also when it is not the head."""

    def __init__(self, settings: Settings, paths: Paths, database_url: str) -> None:
        self._settings, self._url = settings, database_url
        self._machine = machine_of(paths)

    def deployment(self) -> int:
        """Return the number of the newest deployment."""

        async def ask(store: HeadStore) -> int | None:
            head = await store.holder()
            is_ours = head is not None and (head.machine, head.boot) == (self._machine.id, self._machine.boot)
            return head.deployment if head is not None and is_ours else None

        return self._asked(ask)

    def new_deployment(self) -> tuple[str, ...]:
        """Return the arguments of a new supervisor; every earlier one is superseded from here on."""
        return (str(self._asked(lambda store: store.deploy(self._machine))), self._machine.id)

    def _asked(self, ask: Callable[[HeadStore], Awaitable[int | None]]) -> int:
        async def work() -> int | None:
            db = await Database.lazy(self._url, self._settings.database, application="commands")
            try:
                return await ask(HeadStore(db, self._settings.supervision.head_ttl_s))
            finally:
                await db.close()

        found = asyncio.run(work())
        if found is None:
            raise OutageError("this machine is not the head of its database", remedy="see 'fks status'")
        return found


def gateway() -> None:
    """Replace the gateway's replicas one by one, with the installed build and the present settings."""
    grow(must_replace=True)


def grow(*, must_replace: bool = False) -> None:
    """Put the gateway on machines that have joined; nothing when it is on all of them, unless `must_replace`."""
    from actors import cluster

    settings = load_settings(os.environ.get("FKS_HOME"))
    paths = Paths.of(settings.home)
    node = load_node(paths)
    cluster.connect(node.ray_address, str(paths.ray_token_file), home=_home_of_cluster(settings))
    runtime, ready = with_runtime(settings, paths, node.database_url), ready_nodes(settings, node)
    if must_replace or cluster.gateway_lacks(runtime, ready):
        cluster.deploy_gateway(runtime, http=node.http, ready=ready, must_replace=True)


def logs() -> None:
    """Print the log lines of components on the other machines, as JSON, one a line, and an empty object after the
    newest ones; with --follow until ended."""
    from actors import cluster

    settings = load_settings(os.environ.get("FKS_HOME"))
    paths = Paths.of(settings.home)
    given = sys.argv[2:]
    lines = next((int(one.partition("=")[2]) for one in given if one.startswith("--lines=")), 50)
    names = tuple(one for one in given if not one.startswith("--"))
    cluster.connect(load_node(paths).ray_address, str(paths.ray_token_file), home=_home_of_cluster(settings))

    def write(found: list[dict[str, Any]]) -> None:
        for line in found:
            sys.stdout.write(json.dumps(line, default=str) + "\n")
        sys.stdout.flush()

    cluster.follow_logs(names, lines, write, is_following="--follow" in given)


def with_runtime(settings: Settings, paths: Paths, database_url: str) -> Settings:
    """Return the settings with the newest runtime version over them."""

    async def ask() -> Settings:
        db = await Database.lazy(database_url, settings.database, application="commands")
        try:
            return (await overlaid(settings, paths, db)).settings
        finally:
            await db.close()

    return asyncio.run(ask())


def ready_nodes(settings: Settings, node: NodeEndpoints) -> frozenset[str] | None:
    """Return the Ray node ids of the workers that can answer HTTP as this head does, by the rows that their keepers
    write; None when any machine can. Errors: OutageError."""
    if not can_spread(settings):
        return None

    async def ask() -> list[NodeRow]:
        db = await Database.lazy(node.database_url, settings.database, application="commands")
        try:
            return await NodeStore(db).all()
        finally:
            await db.close()

    workers = [row for row in asyncio.run(ask()) if row.is_alive and row.role == "worker"]
    head = ("", "head", {"http": {**node.http, "spreads": True}})  # its own row may not be there yet
    faults = lacking([head, *((row.name, row.role, row.detail) for row in workers)])
    if node.tls_cert is None and not faults:
        return None
    return frozenset(row.ray_node_id for row in workers if row.name not in faults)


def stop() -> None:
    """Stop the tree in reverse order, each child with its deadline."""
    from actors import cluster

    settings = load_settings(os.environ.get("FKS_HOME"))
    paths = Paths.of(settings.home)
    cluster.connect(load_node(paths).ray_address, str(paths.ray_token_file), home=_home_of_cluster(settings))
    cluster.stop_tree(STOP_S)


def main() -> int:
    """Run one command; one line and exit 1 when it fails."""
    commands = {"deploy": deploy, "gateway": gateway, "grow": grow, "logs": logs, "stop": stop}
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in commands:
        sys.stderr.write(f"usage: python -m actors.commands {' | '.join(commands)}\n")
        return 2
    try:
        commands[name]()
    except FksError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.stdout.flush()
    code = main()
    sys.stdout.flush()
    os._exit(code)  # Ray's shutdown of a driver takes 1.5 s and has nothing to save
