"""This machine's row among those of the cluster: name, settings that must agree, versions, clock skew."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fks.clock import Clock
from fks.config.agreement import agreed, agreement_hash
from fks.config.machine import host_name, machine_of, node_name
from fks.config.machine_http import report
from fks.config.paths import Paths
from fks.config.secrets import Secrets, sealed_keys
from fks.config.settings import Settings
from fks.config.version import VERSION, installed_version, is_installed
from fks.model.errors import FksError
from fks.model.timeframe import to_datetime
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.nodes import NodeRow, NodeStore
from fks.system.node.service import ServiceStatus
from fks.system.process import procfs

REDIS_EVERY = 5  # beats between looks at Redis
INSTALLED_EVERY = 5  # beats between looks at the build on the disk: `fks deploy` leaves the keeper alone
CERTIFICATE_EVERY = 5  # beats between looks at the files of the gateway's certificate


class NodePresence:
    """Writes the machine's row. Soft state: a connection to Redis."""

    def __init__(self, paths: Paths, settings: Settings, secrets: Secrets, redis_url: str, clock: Clock) -> None:
        from fks.system.node.ray_node import resources_of

        self.name = node_name(settings)
        self.agreed = agreed(settings, secrets.ray_token.get_secret_value())
        self._settings, self._redis_url, self._clock = settings, redis_url, clock
        self.machine = machine = machine_of(paths)
        self.facts: dict[str, Any] = {
            "agreed": self.agreed,
            "ray": version("ray"),
            "python": platform.python_version(),
            "host": host_name(),
            "home": str(paths.home),
            "machine": machine.id,
            "boot": machine.boot,
            "resources": resources_of(settings),
        }
        if settings.node.role == "head":
            self.facts |= {"keys": sealed_keys(secrets), "gcs_port": settings.ray.gcs_port}
        self._redis: bool | None = None
        self._beats = 0

    async def beat(
        self, db: Database, statuses: Sequence[tuple[str, ServiceStatus]], *, behind_s: float | None = None
    ) -> None:
        """Write our row once; of a standby (`behind_s`: the age of its head's last renewal), which offers nothing yet.

        Errors: OutageError when PostgreSQL is away.
        """
        store = NodeStore(db)
        skew_ms, error_ms = await store.clock_skew_ms(self._clock.now_ns)
        await self._look_at_redis()
        await self._look_at_certificate()
        if self._beats % INSTALLED_EVERY == 0 and self._settings.node.role != "single":
            self.facts["installed"] = VERSION if is_installed() else await asyncio.to_thread(installed_version)
        self._beats += 1
        raylet = next((entry.pid for _, entry in statuses if entry.name.startswith("raylet")), None)
        node_id, session = raylet_facts(raylet)
        troubles = [f"{entry.name} is {entry.state}" for _, entry in statuses if entry.state != "ready"]
        await store.beat(
            NodeRow(
                name=self.name,
                role=self._settings.node.role if behind_s is None else "standby",
                state="degraded" if troubles else "ready",
                address=self._settings.node.address,
                ray_node_id=node_id,
                version=VERSION,
                config_hash=agreement_hash(self.agreed),
                clock_skew_ms=round(skew_ms, 3),
                detail=self.facts
                | {
                    "session": session,
                    "clock_error_ms": round(error_ms, 3),
                    "redis": self._redis,
                    "troubles": troubles,
                }
                | ({} if behind_s is None else {"behind_s": round(behind_s, 1), "resources": {}, "keys": ""}),
            )
        )

    async def _look_at_redis(self) -> None:
        if self._settings.node.role == "single":
            return  # its own: the keeper supervises it
        if self._beats % REDIS_EVERY == 0:
            self._redis = await answers(self._redis_url)

    async def _look_at_certificate(self) -> None:
        if self._settings.node.role != "single" and self._beats % CERTIFICATE_EVERY == 0:
            self.facts["http"] = await asyncio.to_thread(report, self._settings, to_datetime(self._clock.now_ns()))


async def answers(redis_url: str) -> bool:
    """Return whether the cluster's Redis answers."""
    bus = await Bus.connect(redis_url, timeout_s=1.0)
    try:
        await bus.ping()
    except FksError:
        return False
    finally:
        await bus.close()
    return True


def raylet_facts(pid: int | None) -> tuple[str, str]:
    """Return node id and session of a running raylet, from its command line; "" for a missing one."""
    options: dict[str, str] = {}
    for argument in procfs.arguments(pid) if pid else ():
        name, _, value = argument.decode(errors="replace").partition("=")
        options[name.lstrip("-").replace("-", "_")] = value
    return options.get("node_id", ""), options.get("session_name", "") or Path(options.get("session_dir", "")).name
