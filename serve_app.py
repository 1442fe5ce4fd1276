"""Ray Serve: the gateway and the pages, an application each. Builds what `create_app` of `fks.interfaces.api` and
`fks.interfaces.web` needs on the replica; holds no logic.

A replica reads FKS_HOME itself, so no secret travels as an argument. A database or Redis that is away neither stops a
replica from starting nor makes its health check fail: then Serve would restart what is not broken.

Start Serve with `request_timeout_s=None` (its default): the proxy counts an open websocket as one request and breaks
it, without a close frame, when that time is over. The routes' own limits (statement, lock and order waits) bound a
request.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ray import serve

from actors.ray_internals import close_replica_port

T = TypeVar("T")


class Gateway:
    """One replica. Named by its rank (`gateway:0`), so that its successor takes its row and its counters over.

    Hard state: none. Soft state: connections, remembered tokens, sockets. Guarantees: none beyond each answer's own.
    """

    def __init__(self, home: str) -> None:
        self._home = os.environ.get("FKS_HOME") or home  # of this machine: `home` is where it was deployed
        close_replica_port()

    def __serve_build_asgi_app__(self) -> Any:
        """Return the ASGI app; Serve calls this after the constructor, on the replica."""
        return gateway_app(self._home, f"gateway:{serve.get_replica_context().rank.rank}")

    async def check_health(self) -> None:
        """Answer, which shows that the loop turns; a restart could repair nothing else."""


def gateway_app(home: str, name: str) -> Any:
    """Return the gateway's ASGI app for the node at `home`. Errors: ConfigError, OutageError when no keeper runs
    here."""
    from fks.clock import RealClock
    from fks.config.credentials import without_venue_keys
    from fks.config.endpoints import load_node
    from fks.config.load import load_settings
    from fks.config.machine import node_name
    from fks.config.paths import Paths
    from fks.config.secrets import load_secrets, secret_values
    from fks.interfaces.api.app import create_app
    from fks.interfaces.api.gateway import Deps
    from fks.interfaces.web.pages import host_router, router
    from fks.system.process.log import Redactor, open_log

    settings = load_settings(home)
    paths = Paths.of(settings.home)
    node = load_node(paths)
    runtime = _in_a_thread(lambda: _overlaid(settings, paths, node.database_url))
    settings = runtime.settings
    secrets = load_secrets(paths)
    log = open_log("gateway", paths, settings.log, secret_values(settings, secrets))
    deps = Deps(
        settings=without_venue_keys(settings),
        paths=paths,
        clock=RealClock(),
        log=log,
        database_url=node.database_url,
        redis_url=node.redis_url,
        name=name,
        host=node_name(settings),
        node=lambda: _node_now(paths),
        config_version=runtime.version,
        session_key=secrets.session_key,
        redactor=Redactor(secret_values(settings, secrets)),
        is_behind_serve=True,
        inference=_call_child,
    )
    return create_app(deps, pages=(router,), host_pages=(host_router,))


async def _call_child(id: str, message: Mapping[str, object]) -> Mapping[str, Any]:
    """Return the answer of a language model's process. Errors: OutageError."""
    from actors.system import call_child  # loaded by the first question to a model

    return await call_child(id, message)


class Pages:
    """One replica of the pages. Hard state: none. Soft state: connections to the gateway, and the files it serves."""

    def __init__(self, home: str) -> None:
        self._home = home
        close_replica_port()

    def __serve_build_asgi_app__(self) -> Any:
        """Return the ASGI app; Serve calls this after the constructor, on the replica."""
        return pages_app(self._home, f"pages:{serve.get_replica_context().rank.rank}")

    async def check_health(self) -> None:
        """Answer, which shows that the loop turns."""


def pages_app(home: str, name: str) -> Any:
    """Return the pages' ASGI app for the node at `home`. It talks to this node's gateway alone; only the row of this
    replica goes to the database. Errors: ConfigError, OutageError when no keeper runs here."""
    from fks.clock import RealClock
    from fks.config.endpoints import load_node
    from fks.config.load import load_settings
    from fks.config.machine import node_name
    from fks.config.paths import Paths
    from fks.config.secrets import derived, load_secrets, secret_values
    from fks.interfaces.web.app import create_app
    from fks.interfaces.web.assets import AssetFiles
    from fks.interfaces.web.client import GatewayClient
    from fks.interfaces.web.site import SiteDeps
    from fks.store.db import Database
    from fks.system.monitor.replica import ReplicaBeat
    from fks.system.process.log import open_log

    settings = load_settings(home)
    paths = Paths.of(settings.home)
    node, secrets = load_node(paths), load_secrets(paths)
    log = open_log("web", paths, settings.log, secret_values(settings, secrets))
    gateway = GatewayClient(
        node.gateway_url,
        forward_key=derived(secrets.session_key.get_secret_value(), "pages"),
        is_tls=settings.http.behind_proxy or settings.http.tls_cert is not None,
        trust=node.trust(),
    )

    async def beside() -> None:
        options = settings.database.model_copy(update={"pool_min": 1, "pool_max": 1})
        db = await Database.lazy(node.database_url, options, application=name, is_api=True)
        await ReplicaBeat(db, RealClock(), name, node_name(settings)).run(log)

    deps = SiteDeps(http=settings.http, clock=RealClock(), log=log, gateway=gateway, assets=AssetFiles())
    return create_app(deps, beside=beside)


async def _overlaid(settings: Any, paths: Any, database_url: str) -> Any:
    """Return the node's settings with the newest runtime version over them."""
    from fks.store.db import Database
    from fks.store.runtime_config import overlaid

    db = await Database.lazy(database_url, settings.database, application="gateway settings")
    try:
        return await overlaid(settings, paths, db)
    finally:
        await db.close()


def _in_a_thread(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return what a coroutine gives, on a loop of its own: Serve may call us from inside one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(make())).result()


def _node_now(paths: Any) -> Any:
    from fks.config.endpoints import load_node
    from fks.model.errors import FksError

    try:
        return load_node(paths)
    except FksError:
        return None  # the keeper is stopping: status goes on without the local exchange


def build(args: Any = None, nodes: int = 1, without: Collection[str] = ()) -> serve.Application:
    """Return the application of the gateway. `args`: the node's Settings, or a mapping with `home` and `replicas`
    (serve's own CLI). `nodes`: machines on which replicas run, each on as many. `without`: Ray node ids of machines
    that get none."""
    given = args if isinstance(args, dict) else {}
    home = given.get("home") or getattr(args, "home", None) or os.environ.get("FKS_HOME") or ".fks"
    replicas = int(given.get("replicas") or (args.http.replicas if hasattr(args, "http") else 2))
    options: dict[str, Any] = {"num_cpus": 0}
    spread: dict[str, Any] = {}
    if nodes > 1:
        per_node = replicas_per_node(args, nodes)
        replicas, spread = per_node * nodes, {"max_replicas_per_node": per_node}
        if without:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(without))})"}
    elif hasattr(args, "node") and args.node.role == "head":
        options["resources"] = {"head": 0.001}
    deployment = serve.deployment(
        name="gateway",
        num_replicas=replicas,
        **spread,
        max_ongoing_requests=200,  # every open websocket holds one
        **_COMMON,
        ray_actor_options=options,
    )(serve.ingress()(Gateway))
    return deployment.bind(os.path.abspath(str(home)))


def replicas_per_node(settings: Any, nodes: int) -> int:
    """Return how many replicas of the gateway each machine runs: http.replicas shared out, http.replicas_per_node at
    least."""
    return max(int(settings.http.replicas_per_node), -(-int(settings.http.replicas) // nodes))


def build_pages(settings: Any) -> serve.Application:
    """Return the application of the pages. `settings`: the node's Settings."""
    options: dict[str, Any] = {"num_cpus": 0}
    if settings.node.role == "head":
        options["resources"] = {"head": 0.001}
    deployment = serve.deployment(
        name="pages",
        num_replicas=settings.web.replicas,
        max_ongoing_requests=100,
        **_COMMON,
        ray_actor_options=options,
    )(serve.ingress()(Pages))
    return deployment.bind(os.path.abspath(str(settings.home)))


_COMMON: dict[str, Any] = {
    "max_queued_requests": 1000,  # a flood is answered with 503 instead of filling the proxy's memory
    "health_check_period_s": 1,
    "health_check_timeout_s": 5,
    "graceful_shutdown_timeout_s": 3,  # an open websocket holds a leaving replica this long
    "graceful_shutdown_wait_loop_s": 0.2,
    # a line per request would be the biggest log of the node; /metrics counts them and failures have their own event
    "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
}
