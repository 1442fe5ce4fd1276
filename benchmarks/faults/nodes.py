"""A cluster on one machine: a head and two workers on loopback, each with a keeper and an FKS_HOME of its own."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import psutil

from benchmarks.faults.rig import Missed, Rig, Sample
from tests.support.system import System

#: The strategy worker and the scheduler run on whichever worker node there is; what holds sessions stays on the head.
PLACEMENT = "guardian=head,orders=head,collector:*=head,monitor=head,strategy:*=worker,scheduler=worker"
MOVED = ("strategy:0", "scheduler")


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def up(rig: Rig, place: Path, workers: int = 2) -> None:
    """Start the head and its workers; the workers are kept in `rig.workers`."""
    head, port = rig.system, free_port()
    head.env.update(FKS_SIM_ENABLED="true", FKS_SUPERVISION_PLACEMENT=PLACEMENT)
    starting = head.fks("node", "head", "--address", "127.0.0.1", "--port", str(port), "--name", "head", "--detach",
                        timeout_s=300.0, check=False)  # fmt: skip
    for number in range(workers):
        home = place / f"worker{number}"
        env = head.env | {
            "FKS_HOME": str(home), "FKS_DATABASE_URL": head.node["database_url"], "FKS_REDIS_URL": head.node["redis_url"],
        }  # fmt: skip
        worker = System(home, env)
        rig.workers.append(worker)
        worker.fks("node", "worker", "--address", f"127.0.0.1:{port}", "--node-ip", "127.0.0.1", "--name", f"worker{number}",
                   "--token-file", str(head.home / "ray.token"), "--detach", timeout_s=300.0)  # fmt: skip
    if starting.returncode and "not up" not in starting.stderr + starting.stdout:
        raise Missed(f"fks node head: {starting.stderr.strip()[-300:]}")


def home_of(rig: Rig, pid: int) -> System:
    """Return the node that a process belongs to."""
    home = psutil.Process(pid).environ().get("FKS_HOME", "")
    return next(system for system in [*rig.workers, rig.system] if str(system.home) == home)


async def raylet(rig: Rig) -> dict[str, Sample]:
    """kill -9 of a worker node's raylet: its children run elsewhere; what it leaves behind holds no valid epoch."""
    pids = await rig.pids()
    node = home_of(rig, pids["strategy:0"])
    if node is rig.system:
        raise Missed("strategy:0 runs on the head")
    there = [name for name in MOVED if home_of(rig, pids[name]) is node]
    others = {name: pid for name, pid in pids.items() if name not in there}
    victim = next(p.pid for p in node.processes() if p.name() == "raylet")
    at = rig.end(victim)
    orphan = asyncio.create_task(_lives_until(pids["strategy:0"]))
    exited = [await rig.event(name, ("exited",), at) for name in there]
    started = [await rig.event(name, ("started",), at, 90.0) for name in there]
    sample = Sample(max(row["at"] for row in exited) - at, max(row["at"] for row in started) - at)
    gone = await orphan
    sample.note = f"{', '.join(there)} moved; the orphan lived {gone - at:.1f} s, the new epoch began at {started[0]['at'] - at:.1f} s"
    for row, before in zip(started, exited, strict=True):
        if not row["epoch"] > before["epoch"]:
            sample.wrong.append(f"{row['child']}: epoch {row['epoch']} is not above {before['epoch']}")
    now = await rig.pids()
    if died := [name for name, pid in others.items() if now.get(name) != pid]:
        sample.wrong.append(f"restarted elsewhere: {', '.join(died)}")
    return {"kill -9 raylet of a worker node": sample}


async def _lives_until(pid: int) -> float:
    while psutil.pid_exists(pid):
        await asyncio.sleep(0.02)
    return time.time()
