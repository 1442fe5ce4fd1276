"""Keepers over small real processes: no Ray, no PostgreSQL, everything else as in `fks up`.

Run as a program it is a keeper of its own: `python -m tests.support.keepers HOME name…`, to be killed by a test; with
`--parent` it is one under a parent (`fks.system.node.parent`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints
from fks.config.paths import Paths
from fks.config.settings import Supervision
from fks.model.errors import OutageError
from fks.model.health import LOST_AFTER_S
from fks.system.node.cluster_driver import ClusterDriver, ClusterState, KeeperContext, KeeperStart
from fks.system.node.control_socket import ask
from fks.system.node.keeper import Keeper
from fks.system.node.lock import PARENT_LOCK, keeper_lock
from fks.system.node.parent import Parent
from fks.system.node.service import ServiceStatus, ServiceTree
from fks.system.node.spec import ServiceSpec, ServiceTiming
from fks.system.process.handle import Launch, ProcessHandle, find_by_command
from tests.support.ports import CollectingLog
from tests.support.waiting import wait_until

PROGRAM = Path(__file__).with_name("small_service.py")
QUICK = ServiceTiming(
    Supervision(
        backoff_first_s=0.05,
        backoff_max_s=0.3,
        backoff_jitter=0.0,
        restarts_max=4,
        restarts_period_s=30.0,
        escalated_retry_s=0.3,
    ),
    probe_s=0.1,
    probe_timeout_s=0.5,
    degraded_s=0.2,
)


def small(paths: Paths, name: str, *args: str, **changes: Any) -> ServiceSpec:
    """Return a service that is a small process: up in 50 ms, ready once its file holds its pid."""
    ready = paths.run / f"{name}.ready"

    def launch() -> Launch:
        command = [sys.executable, "-S", str(PROGRAM), str(ready), *args]
        return Launch(command, dict(os.environ), err=paths.logs / f"{name}.log")

    async def is_ready(process: ProcessHandle) -> bool:
        return pids_of(paths, name)[:1] == [process.pid] and _state(process.pid) != "T"

    options: dict[str, Any] = {"stop": ((signal.SIGTERM, 5.0),), "start_s": 5.0}
    return ServiceSpec(
        name=name,
        launch=launch,
        is_ready=is_ready,
        find=lambda: next(iter(find_by_command(str(ready))), None),
        log=paths.logs / f"{name}.log",
        **(options | changes),
    )


def pids_of(paths: Paths, name: str) -> list[int]:
    """Return what a small service wrote when it was ready: its pid and those of its helpers."""
    try:
        return [int(pid) for pid in (paths.run / f"{name}.ready").read_text().split()]
    except OSError:
        return []


def _state(pid: int) -> str:
    """Return the kernel's letter for a process: T is stopped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


@dataclass
class FakeDriver(ClusterDriver):
    """Replaces what is above the services: counts the calls, and fails with the errors in `fail`."""

    deploys: int = 0
    age_s: float | None = 0.1
    document: dict[str, Any] | None = None
    fail: list[Exception] = field(default_factory=list)
    stopped: int = 0
    waits_for: str = ""
    beats: int = 0
    pages: list[str] = field(default_factory=list)

    async def close(self) -> None: ...

    async def deploy(self) -> None:
        self.deploys += 1
        if self.fail:
            raise self.fail.pop(0)

    async def has_supervisor(self) -> bool:
        return self.age_s is not None and self.age_s < LOST_AFTER_S

    async def stop(self) -> None:
        self.stopped += 1

    async def beat(self, statuses: Sequence[tuple[str, ServiceStatus]]) -> ClusterState:
        self.beats += 1
        return ClusterState(self.age_s)

    async def write_history(self, tree: ServiceTree) -> None: ...

    def page(self, event: str, text: str) -> None:
        self.pages.append(event)

    async def status(self) -> dict[str, Any]:
        if self.document is None:
            raise OutageError("PostgreSQL does not answer")
        return self.document


def start_keeper(paths: Paths, *names: str) -> subprocess.Popen[bytes]:
    """Return a keeper in a process of its own, ready."""
    process = subprocess.Popen([sys.executable, "-m", "tests.support.keepers", str(paths.home), *names])
    try:
        wait_until(lambda: _phase(paths) == "ready")
    except BaseException:
        process.kill()
        raise
    return process


def _phase(paths: Paths) -> str:
    try:
        return str(ask(paths.keeper_socket, "progress")["phase"])
    except OutageError:
        return ""


def start_stray(spec: ServiceSpec) -> subprocess.Popen[bytes]:
    """Return a service that is in no keeper's records."""
    return subprocess.Popen(list(spec.launch().command), start_new_session=True)


def node() -> NodeEndpoints:
    return NodeEndpoints("postgresql:///none", "unix:///none", "127.0.0.1:1", {"host": "127.0.0.1", "port": 1})


def context_of(paths: Paths, log: CollectingLog | None = None, start: KeeperStart | None = None) -> KeeperContext:
    return KeeperContext(paths, node, RealClock(), log or CollectingLog(), start=start or KeeperStart())


def keeper_of(
    paths: Paths,
    specs: Sequence[ServiceSpec],
    driver: ClusterDriver | None = None,
    *,
    log: CollectingLog | None = None,
    start: KeeperStart | None = None,
    **options: Any,
) -> Keeper:
    """Return a keeper with quick restarts and probes."""
    return Keeper(context_of(paths, log, start), specs, driver or FakeDriver(), **({"timing": QUICK} | options))


async def _main(home: str, names: list[str], start: KeeperStart) -> None:
    paths = Paths.of(home).ensure()
    with keeper_lock(paths.run / "keeper.lock"):
        specs = [small(paths, name, is_group=name == "ray") for name in names]
        keeper = keeper_of(paths, specs, start=start)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, keeper.request_stop)
        await keeper.run()


if __name__ == "__main__":
    home, *rest = sys.argv[1:]
    if rest[0] == "--parent":
        paths = Paths.of(home).ensure()
        with keeper_lock(paths.run / PARENT_LOCK):
            command = [sys.executable, "-m", "tests.support.keepers", home, *rest[1:], "--child"]
            sys.exit(Parent(paths, command).run())
    start = KeeperStart()
    if "--child" in rest:
        *rest, _, restarts, ended = rest
        start = KeeperStart(True, int(restarts), ended)
    asyncio.run(_main(home, rest, start))
