"""A head and workers on this one machine, each with a home and a loopback address of its own; driven as a user
would."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.free_port import free_port
from tests.support.namespaces import apart
from tests.support.system import FKS, System
from tests.support.waiting import wait_until

START_S = 170.0


@dataclass
class Cluster:
    """A head `h0` and workers `w1`, `w2`, …"""

    place: Path
    settings: dict[str, str]
    address: str = "127.0.0.2"
    nodes: dict[str, System] = field(default_factory=dict)
    is_apart: bool = False  # each worker in namespaces of its own: its processes cannot be reached by their pids
    machines: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def head(self) -> System:
        return self.nodes["h0"]

    def start(self, workers: int) -> None:
        """Start the head, then the workers, all at once; each says that it is ready, and the head that it is there."""
        port = free_port(self.address)
        self.nodes["h0"] = System.at(self.place / "h0", **self.settings)
        self.head.fks(
            "node",
            "head",
            "--address",
            self.address,
            "--port",
            str(port),
            "--name",
            "h0",
            "--detach",
            timeout_s=START_S,
        )
        urls = {"FKS_DATABASE_URL": self.head.node["database_url"], "FKS_REDIS_URL": self.head.node["redis_url"]}
        names = [f"w{number}" for number in range(1, workers + 1)]
        self.nodes |= {name: System.at(self.place / name, **self.settings, **urls) for name in names}
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: self.join(name, port=port), names))
        rows = {f"{service}@{name}" for service in ("keeper", "raylet") for name in names}
        wait_until(lambda: rows <= set(self.head.components()), deadline_s=30.0)  # each writes its rows once a second

    def join(self, name: str, *, port: int | None = None) -> None:
        """Start a worker's keeper; it takes over what an earlier one left."""
        where = self.head.node["ray_address"] if port is None else f"{self.address}:{port}"
        self._run(
            name,
            "node",
            "worker",
            "--address",
            where,
            "--node-ip",
            f"127.0.0.{2 + int(name[1:])}",
            "--name",
            name,
            "--token-file",
            str(self.head.home / "ray.token"),
            "--detach",
        )

    def _run(self, name: str, *args: str) -> None:
        """Run a command of a node, on its own machine when they are apart."""
        node = self.nodes[name]
        if not self.is_apart:
            node.fks(*args, timeout_s=START_S)
            return
        command = apart(self.place, name, [FKS, *args])
        machine = subprocess.Popen(command, env=node.env, stdout=subprocess.PIPE, text=True)
        self.machines.append(machine)
        assert machine.stdout is not None
        lines: list[str] = []
        while (line := machine.stdout.readline()) not in ("apart\n", ""):
            lines.append(line)
        assert line, "".join(lines)

    def stop(self) -> None:
        workers = [node for name, node in self.nodes.items() if name != "h0"]
        with ThreadPoolExecutor() as pool:
            list(pool.map(System.down, workers))
        for machine in self.machines:
            machine.kill()
            machine.wait()
        if "h0" in self.nodes:
            self.head.down()

    def row(self, name: str) -> dict[str, Any]:
        """Return a component's row, from the head's status."""
        found: dict[str, Any] = self.head.components()[name]
        return found

    def home_of(self, pid: int) -> str:
        """Return the node that a process belongs to, by the environment it was started with."""
        with contextlib.suppress(psutil.Error):
            return Path(psutil.Process(pid).environ().get("FKS_HOME", "")).name
        return ""

    def kill_node(self, name: str) -> None:
        """kill -9 a machine's keeper, host process and raylet at once: its workers are left to themselves."""
        raylet = psutil.Process(self.row(f"raylet@{name}")["pid"])
        keeper, host = psutil.Process(self.row(f"keeper@{name}")["pid"]), raylet.parent()
        keeper.kill()
        for process in (host, raylet):
            if process is not None:
                with contextlib.suppress(psutil.NoSuchProcess):  # the keeper's end takes its host process along
                    process.kill()


@contextlib.contextmanager
def running_cluster(workers: int, **settings: str) -> Iterator[Cluster]:
    """Give a running cluster; everything of it is gone at the end."""
    place = Path(tempfile.mkdtemp(prefix="fks-nodes-"))
    place.chmod(0o755)
    cluster = Cluster(place, settings)
    try:
        cluster.start(workers)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(place, ignore_errors=True)
