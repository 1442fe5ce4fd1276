"""The services of a node, from its settings: data that the keeper walks and that can be printed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

from fks.config.paths import Paths
from fks.config.secrets import NAMES, Secrets
from fks.config.settings import Settings
from fks.system.node.database_node import tls_service
from fks.system.node.ray_node import ray_service
from fks.system.node.sim_node import sim_service
from fks.system.node.spec import ServiceSpec
from fks.system.process.handle import Launch, ProcessHandle
from fks.system.servers.embedded import PostgresServer, RedisServer

Stop = tuple[tuple[int, float], ...]
_POSTGRES_STOP: Stop = ((signal.SIGINT, 4.0), (signal.SIGQUIT, 1.0))  # fast, then immediate: data is safe in both
_REDIS_STOP: Stop = ((signal.SIGTERM, 1.5),)
#: The title of each service on the first screen.
TITLES = {"postgres": "PostgreSQL", "redis": "Redis", "tls": "TLS", "sim": "local exchange", "ray": "Ray"}


def services(paths: Paths, settings: Settings, secrets: Secrets) -> tuple[ServiceSpec, ...]:
    """Return the services this node runs itself, in the order they are stopped from last to first."""
    if settings.node.role == "worker":
        return (ray_service(paths, settings),)
    found: list[ServiceSpec] = []
    if settings.database.url is None:
        found.append(_embedded(PostgresServer(paths, secrets), paths, _POSTGRES_STOP, start_s=60.0, hang_s=None))
    if settings.redis.url is None:
        found.append(_embedded(RedisServer(paths, secrets), paths, _REDIS_STOP, start_s=15.0, hang_s=20.0))
    if settings.node.role == "database":
        return (*found, tls_service(paths, settings, secrets))
    if settings.sim.enabled:
        found.append(sim_service(paths, settings))
    if settings.ray.address is None:
        found.append(ray_service(paths, settings))
    return tuple(found)


def _embedded(
    server: PostgresServer | RedisServer, paths: Paths, stop: Stop, *, start_s: float, hang_s: float | None
) -> ServiceSpec:
    log = paths.logs / f"{server.name}.log"

    def launch() -> Launch:
        server.prepare()
        return server.launch(log)

    return ServiceSpec(
        name=server.name,
        launch=launch,
        is_ready=_in_thread(server.is_ready),
        find=server.adopt,
        log=log,
        stop=stop,
        start_s=start_s,
        hang_s=hang_s,
    )


def _in_thread(ask: Callable[[], bool]) -> Callable[[ProcessHandle], Awaitable[bool]]:
    async def is_ready(process: ProcessHandle) -> bool:
        return await asyncio.to_thread(ask)

    return is_ready


def leftovers(paths: Paths) -> tuple[ServiceSpec, ...]:
    """Return the services a keeper of this home can have left behind, found without settings that may be broken now."""
    from pydantic import SecretStr

    none = SecretStr("")
    secrets = Secrets(*(none for _ in NAMES))
    return services(paths, Settings(home=paths.home), secrets)
