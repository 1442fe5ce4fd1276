"""A cluster on one machine: a head and two workers on loopback, each with a keeper and an FKS_HOME of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from pathlib import Path

import psutil

from benchmarks.faults.rig import SETTINGS, Missed, Rig, Sample
from tests.support.cluster import Cluster

#: The strategy worker and the scheduler run on whichever worker node there is; what holds sessions stays on the head.
PLACEMENT = "guardian=head,orders=head,collector:*=head,monitor=head,strategy:*=worker,scheduler=worker"
MOVED = ("strategy:0", "scheduler")


def up(place: Path, workers: int = 2, *, is_apart: bool = False) -> Cluster:
    """Start the head and its workers, with the heartbeat that a user gets; `is_apart`: each worker in namespaces of its
    own, so that no process of it is reached by its pid."""
    cluster = Cluster(
        place,
        SETTINGS
        | {
            "FKS_SIM_ENABLED": "true",
            "FKS_SUPERVISION_PLACEMENT": PLACEMENT,
            "FKS_SUPERVISION_HEARTBEAT_S": "1",
        },
        is_apart=is_apart,
    )
    try:
        cluster.start(workers)
    except BaseException:
        cluster.stop()
        raise
    return cluster


async def raylet(rig: Rig) -> dict[str, Sample]:
    """kill -9 of a worker node's raylet: its children run elsewhere; processes left behind hold no valid epoch."""
    pids = await rig.pids()
    assert rig.cluster is not None
    node = rig.cluster.home_of(pids["strategy:0"])
    if not node.startswith("w"):
        raise Missed(f"strategy:0 on a worker: it runs on {node}")
    there = [name for name in MOVED if rig.cluster.home_of(pids[name]) == node]
    others = {name: pid for name, pid in pids.items() if name not in there}
    at = rig.end((await asyncio.to_thread(rig.cluster.row, f"raylet@{node}"))["pid"])
    orphan = asyncio.create_task(_lives_until(pids["strategy:0"]))
    exited = [await rig.event(name, ("exited",), at) for name in there]
    started = [await rig.event(name, ("started",), at, 90.0) for name in there]
    sample = Sample(max(row["at"] for row in exited) - at, max(row["at"] for row in started) - at)
    gone = await orphan
    sample.note = (
        f"{', '.join(there)} moved; the orphan lived {gone - at:.1f} s, the new epoch began at "
        f"{started[0]['at'] - at:.1f} s"
    )
    for row, before in zip(started, exited, strict=True):
        if not row["epoch"] > before["epoch"]:
            sample.wrong.append(f"{row['child']}: epoch {row['epoch']} is not above {before['epoch']}")
    now = await rig.pids()
    if died := [name for name, pid in others.items() if now.get(name) != pid]:
        sample.wrong.append(f"restarted elsewhere: {', '.join(died)}")
    return {"kill -9 raylet of a worker node": sample}


def _pid_here(rig: Rig, node: str, pid: int) -> int:
    """Return the pid, as this machine counts, of the node's process that has `pid` there. By its title the worker of
    another pool would be found, too. Errors: Missed."""
    assert rig.cluster is not None
    home = str(rig.cluster.nodes[node].home)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            spaces = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
            if int(spaces[-1]) == pid and process.environ().get("FKS_HOME") == home:
                return process.pid
    raise Missed(f"process {pid} on {node}")


async def apart(rig: Rig, how: str) -> dict[str, Sample]:
    """A fault of a machine that cannot be reached by pids: `kill` and `stop` of its strategy worker, `raylet` killed."""
    rows = await rig.rows("SELECT name, pid, detail->>'space' AS space FROM component_health")
    spaces, pids = {row["name"]: row["space"] for row in rows}, {row["name"]: row["pid"] for row in rows}
    nodes = [name.partition("@")[2] for name in spaces if name.startswith("keeper@w")]
    node = next((name for name in nodes if spaces[f"keeper@{name}"] == spaces["strategy:0"]), None)
    if node is None or spaces["strategy:0"] == spaces["supervisor"]:
        raise Missed("strategy:0 on a machine of its own")
    there = [name for name in MOVED if spaces[name] == spaces["strategy:0"]] if how == "raylet" else ["strategy:0"]
    victim = f"raylet@{node}" if how == "raylet" else "strategy:0"
    pid = await asyncio.to_thread(_pid_here, rig, node, pids[victim])
    at = rig.end(pid, signal.SIGSTOP if how == "stop" else signal.SIGKILL)
    exited = [await rig.event(name, ("exited",), at) for name in there]
    started = [await rig.event(name, ("started",), at, 90.0) for name in there]
    sample = Sample(max(row["at"] for row in exited) - at, max(row["at"] for row in started) - at)
    sample.note = f"{', '.join(there)} on {node}: {exited[0]['reason'][:90]}"
    for row, before in zip(started, exited, strict=True):
        if not row["epoch"] > before["epoch"]:
            sample.wrong.append(f"{row['child']}: epoch {row['epoch']} is not above {before['epoch']}")
    names = {"kill": "kill -9 strategy:0", "stop": "SIGSTOP strategy:0", "raylet": "kill -9 raylet"}
    return {f"{names[how]}, on a machine apart": sample}


async def _lives_until(pid: int) -> float:
    while psutil.pid_exists(pid):
        await asyncio.sleep(0.02)
    return time.time()
