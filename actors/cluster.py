"""Commands of a driver to the cluster: join it, ensure a supervisor, deploy the gateway, stop the tree."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors import tree
from actors.ray_internals import http_options_of_serve
from actors.system import NAMESPACE, RayChild, cause, spawn_shell
from fks.config.machine_http import can_spread, is_on_fewer, machines_of_gateway
from fks.config.runtime import SUPERVISOR
from fks.model.errors import OutageError
from fks.model.health import LOST_AFTER_S

CONNECT_S = 20.0
LOG_ANSWER_S, LOG_LOOK_S = 10.0, 0.5  # for a machine's lines; between two looks


def connect(address: str, token_file: str, *, home: str | None = None) -> None:
    """Join the running cluster as a driver. Never starts one. Errors: OutageError when it cannot be reached in time.

    `home`: FKS_HOME for the processes of a cluster that no keeper of ours started, where it is not set.
    """
    # Explicit in both directions: a client with the token but without the mode is refused once a second for ever.
    os.chdir(Path(token_file).parent)  # Ray has workers import from where its driver stands, before anywhere else
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=token_file, RAY_USAGE_STATS_ENABLED="0")
    outcome: list[BaseException | None] = []

    def join() -> None:
        try:
            runtime = {"env_vars": {"FKS_HOME": home}} if home else None
            ray.init(
                address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR", runtime_env=runtime
            )
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=join, daemon=True)  # ray.init has no timeout of its own
    thread.start()
    thread.join(CONNECT_S)
    if not outcome or outcome[0] is not None:
        reason = outcome[0] if outcome else f"no answer in {CONNECT_S:g} s"
        remedy = "see 'fks status'"
        if home:
            remedy = "it needs a node of that cluster on this machine, and its token in FKS_HOME/ray.token"
        raise OutageError(f"cannot join the Ray cluster at {address}: {reason}", remedy=remedy)


def ensure_supervisor(make_args: Callable[[], tuple[str, ...]], role: str = "single", deployment: int = 0) -> str:
    """Start the supervisor unless it lives, its work loop turns and it is of this deployment; return what was done:
    "adopted", or "started".

    `make_args` returns what a new one is given; `role`: this node's (`node.role`).
    """
    try:
        handle = ray.get_actor(SUPERVISOR, namespace=NAMESPACE)
        beat = ray.get(handle.health.remote(), timeout=5.0)
        of = (beat.get("detail") or {}).get("deployment")
        if beat["age_s"] < LOST_AFTER_S and of in (None, deployment):
            return "adopted"
    except (ValueError, ray.exceptions.RayError):
        pass
    spec = tree.supervisor_spec(role, make_args())
    for _ in range(50):
        try:
            spawn_shell(spec, epoch=0, wait_s=0.0, max_restarts=-1)
            return "started"
        except ValueError:
            with contextlib.suppress(ValueError):
                ray.kill(ray.get_actor(spec.id, namespace=NAMESPACE))
            time.sleep(0.1)
    raise OutageError("the name of a dead supervisor stays taken", remedy="run 'fks down' and 'fks up'")


def tree_health(timeout_s: float = 5.0) -> dict[str, object]:
    """Return the supervisor's beat. Errors: OutageError."""
    try:
        handle = ray.get_actor(SUPERVISOR, namespace=NAMESPACE)
        beat: dict[str, object] = ray.get(handle.health.remote(), timeout=timeout_s)
        return beat
    except (ValueError, ray.exceptions.RayError) as error:
        raise OutageError(f"the supervisor does not answer: {cause(error)}") from error


def deploy_pages(settings: Any) -> None:
    """Put the pages on Serve, beside the gateway, in place of those that run. It does not wait for them, and their
    failure is none of the gateway's: Serve goes on trying, and `fks logs web` says why."""
    from ray import serve

    import serve_app

    if settings.web.enabled:
        target = serve.RunTarget(serve_app.build_pages(settings), name="pages", route_prefix="/app")
        with contextlib.suppress(RuntimeError):
            serve.run_many([target], blocking=False, wait_for_applications_running=False)
    elif "pages" in serve.status().applications:
        serve.delete("pages")


def deploy_gateway(
    settings: Any, *, http: dict[str, Any], ready: frozenset[str] | None = None, must_replace: bool = False
) -> None:
    """Put the gateway on Serve and return when it answers; one that runs already is left alone.

    `http` has host and port, and for HTTPS the files tls_cert and tls_key. `ready`: Ray node ids of the workers that
    can answer there; None when any machine can.
    With `must_replace` its replicas are replaced one by one by the code that is installed now, while the others answer.
    Errors: OutageError when the new ones do not come up; the old ones that are left go on answering.
    """
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    import serve_app

    # no request_timeout_s: it would cut every websocket that lives longer; the application has its own deadlines
    options = {"host": http["host"], "port": http["port"]}
    if http.get("tls_cert"):
        options |= {"ssl_certfile": http["tls_cert"], "ssl_keyfile": http["tls_key"]}
    # EveryNode: a proxy on the head, and on each machine that has a replica
    location, may_spread = ("EveryNode", True) if can_spread(settings) else ("HeadOnly", False)
    serve.start(proxy_location=location, http_options=options)
    if settings.ray.address is None and (other := _other_options(options)):
        # they hold for the life of a Serve (here it is ours alone); every client goes by the node file, which has these
        sys.stdout.write(f"Serve is started again: other {', '.join(other)}\n")
        serve.shutdown()
        serve.start(proxy_location=location, http_options=options)
    status, others = serve.status(), other_machines()
    without = frozenset() if ready is None else others - ready
    nodes = machines_of_gateway(len(others) + 1, len(status.proxies), may_spread=may_spread, is_ready=not without)
    running = status.applications.get("gateway")
    if running is not None and running.status == ApplicationStatus.RUNNING and not must_replace:
        if settings.web.enabled and "pages" not in status.applications:
            deploy_pages(settings)
        return
    try:
        # every deployment is a new version to Serve, however alike the code looks: all replicas are replaced
        serve.run(serve_app.build(settings, nodes, without), name="gateway", route_prefix="/", blocking=False)
    except RuntimeError as error:
        raise OutageError(f"the gateway did not come up: {cause(error)}", remedy="see 'fks logs gateway'") from error
    deploy_pages(settings)


def _other_options(wanted: dict[str, Any]) -> list[str]:
    """Return the HTTP options in which the Serve that runs differs from the settings."""
    running = http_options_of_serve()
    names = ("host", "port", "ssl_certfile", "ssl_keyfile")
    return [name for name in names if getattr(running, name) != wanted.get(name)]


def other_machines() -> frozenset[str]:
    """Return the Ray node ids of the machines in the cluster beside this one."""
    here = ray.get_runtime_context().get_node_id()
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here)


def gateway_lacks(settings: Any, ready: frozenset[str] | None) -> bool:
    """Return whether the gateway runs on fewer machines than there are, and all of them can have it."""
    from ray import serve

    import serve_app

    status, others = serve.status(), other_machines()
    running = status.applications.get("gateway")
    if running is None or not others or not can_spread(settings) or not (ready is None or others <= ready):
        return False
    replicas, count = sum(running.deployments["gateway"].replica_states.values()), len(others) + 1
    return is_on_fewer(count, len(status.proxies), replicas, serve_app.replicas_per_node(settings, count))


class LogReader:
    """Reads log lines of components on its own machine, without secrets. Ends with its driver."""

    def __init__(self, names: tuple[str, ...], lines: int) -> None:
        from fks.config.load import load_settings
        from fks.config.machine import node_name
        from fks.config.paths import Paths
        from fks.config.secrets import load_secrets, secret_values
        from fks.system.monitor.logs import BYTES_RECENT, FolderReader, LogFilter
        from fks.system.process.log import Redactor

        settings = load_settings(os.environ.get("FKS_HOME"))
        paths = Paths.of(settings.home)
        self._node, self._lines = node_name(settings), lines
        self._reader, self._wanted = FolderReader(paths.logs, BYTES_RECENT), LogFilter(names)
        self._redactor = Redactor(secret_values(settings, load_secrets(paths)))

    def drain(self) -> list[dict[str, Any]]:
        """Return the lines since the last call, at most so many of the last ones the first time."""
        found = sorted((line for line in self._reader.drain() if self._wanted.takes(line)), key=lambda line: line.time)
        kept, self._lines = found[-self._lines :] if self._lines else [], 10_000
        rows = [asdict(line) | {"node": self._node, "raw": self._redactor.text(line.raw)} for line in kept]
        return [
            row | {"fields": {key: self._redactor.field(key, value) for key, value in row["fields"].items()}}
            for row in rows
        ]


def follow_logs(
    names: tuple[str, ...], lines: int, write: Callable[[list[dict[str, Any]]], None], *, is_following: bool
) -> None:
    """Give `write` the log lines of components on all other machines, {} after the newest ones. A machine that joins is
    read too; one that does not answer is left out until it does."""
    here, readers = ray.get_runtime_context().get_node_id(), dict[str, Any]()
    remote, is_first = ray.remote(num_cpus=0)(LogReader), True
    while True:
        for node in ray.nodes():
            if node["Alive"] and node["NodeID"] not in (here, *readers):
                where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                readers[node["NodeID"]] = remote.options(scheduling_strategy=where).remote(names, lines)
        for node_id, reader in list(readers.items()):
            try:
                write(ray.get(reader.drain.remote(), timeout=LOG_ANSWER_S))
            except ray.exceptions.RayError:
                del readers[node_id]
        if is_first:
            write([{}])
            is_first = False
        if not is_following:
            return
        time.sleep(LOG_LOOK_S)


def stop_tree(deadline_s: float) -> None:
    """Stop the children in reverse order, then the supervisor, then what is left of Serve's controller."""
    try:
        handle = ray.get_actor(SUPERVISOR, namespace=NAMESPACE)
    except ValueError:
        return
    child = RayChild(tree.supervisor_spec(), handle)

    async def end() -> None:
        with contextlib.suppress(OutageError, TimeoutError):
            await child.health(timeout_s=2.0)
        await child.stop(deadline_s)

    asyncio.run(end())
