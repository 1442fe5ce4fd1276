"""A cluster on one machine: a head and two workers on loopback, each with a keeper and an FKS_HOME of its own."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil

from benchmarks.faults.rig import SETTINGS, Missed, Rig, Sample
from tests.support.cluster import Cluster

#: The strategy worker and the scheduler run on whichever worker node there is; what holds sessions stays on the head.
PLACEMENT = "guardian=head,orders=head,collector:*=head,monitor=head,strategy:*=worker,scheduler=worker"
MOVED = ("strategy:0", "scheduler")


def up(place: Path, workers: int = 2) -> Cluster:
    """Start the head and its workers, with the heartbeat that a user gets."""
    cluster = Cluster(
        place,
        SETTINGS
        | {
            "FKS_SIM_ENABLED": "true",
            "FKS_SUPERVISION_PLACEMENT": PLACEMENT,
            "FKS_SUPERVISION_HEARTBEAT_S": "1",
        },
    )
    try:
        cluster.start(workers)
    except BaseException:
        cluster.stop()
        raise
    return cluster


async def raylet(rig: Rig) -> dict[str, Sample]:
    """kill -9 of a worker node's raylet: its children run elsewhere; what it leaves behind holds no valid epoch."""
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


async def _lives_until(pid: int) -> float:
    while psutil.pid_exists(pid):
        await asyncio.sleep(0.02)
    return time.time()
