"""GPUs of the cluster as Ray knows them: those that are free on each node, the free video memory, the replicas that
hold a share, and the machines that Ray's autoscaler is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.ray_internals import available_by_node, node_of_actor, request_nodes
from fks.ai.engines.deployment import Deployment
from fks.ai.machine import free_video_memory
from fks.ai.placement import GpuNode, HeldShare, gpus_to_come
from fks.model.errors import OutageError

GCS_S = 2.0  # how long Ray's control plane may take to answer
KEPT_S = 15.0  # how long a replica without a process keeps its share: the longest pause before a restart and a start
READ_AGAIN_S = 10.0  # age of a reading of video memory after which it is read again
READ_S = 30.0  # how long a node may take to read it: a process may have to be started there
FIRST_READ_S = 5.0  # how long a placement waits for the first reading of a node

#: returns the free bytes of the devices of this machine that CUDA_VISIBLE_DEVICES names (None: all). Errors: PeerError,
#: with the reason
MemoryReader = Callable[[str | None], Sequence[int]]


def _read_here(read_memory: MemoryReader) -> Sequence[int]:
    """Return the free video memory of this node. Ray has hidden the GPUs from this process, which asked for none: those
    that it offers are in the environment of the raylet."""
    visible = None
    with contextlib.suppress(psutil.Error):
        visible = psutil.Process(os.getppid()).environ().get("CUDA_VISIBLE_DEVICES")
    return read_memory(visible)


#: made once: the GCS would keep each one
_reading_task = ray.remote(num_cpus=0, num_gpus=0, max_retries=0)(_read_here)


class RayGpus:
    """Looks at the GPUs of the cluster, and asks for machines. Holds the newest readings of video memory."""

    def __init__(
        self, namespace: str, autoscaling_file: str | None, read_memory: MemoryReader = free_video_memory
    ) -> None:
        """`autoscaling_file`: what `ray up` left for Ray's autoscaler, None where there is none."""
        self._namespace, self._read_memory = namespace, read_memory
        self._autoscaling_file = Path(autoscaling_file) if autoscaling_file else None
        self._placed: dict[str, tuple[str, float]] = {}  # node and share of each replica by the newest placement
        self._seen_s: dict[str, float] = {}  # when each replica last had a process
        self._readings: dict[str, tuple[float, tuple[int, ...] | None, str]] = {}  # node -> when, memory, problem
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpus")  # a call waits for a GCS that is away
        self._asking: asyncio.Future[Any] | None = None
        self._asked: list[float] | None = None

    def note(self, wanted: Sequence[Deployment], nodes: Mapping[str, str]) -> None:
        """Keep a placement, for replicas that Ray has not put on their node yet, and for those that die."""
        shares = {child: one.gpus for one in wanted if one.gpus for child in one.children()}
        self._placed = {child: (nodes[child], gpus) for child, gpus in shares.items() if child in nodes}

    async def look(
        self, wanted: Sequence[Deployment], loaded: frozenset[str]
    ) -> tuple[list[GpuNode], dict[str, HeldShare], float]:
        """Return the nodes with GPUs, the replicas of `wanted` that hold a share, and the GPUs of the largest machine
        that can still be started. `loaded`: replicas whose model is loaded. Errors: OutageError while Ray's control
        plane does not answer."""
        children = [child for one in wanted if one.gpus for child in one.children()]
        nodes, free, where = await self._answer_of_ray(children)
        held = self._held(children, where, loaded)
        offered = {str(node["NodeID"]): node for node in nodes if node["Alive"] and node["Resources"].get("GPU")}
        if len(held) < len(children):  # a reading starts a process there: without need there is none
            await self._read(list(offered))
        found = [
            GpuNode(
                id,
                str(node["NodeName"]),
                float(node["Resources"]["GPU"]),
                free.get(id, {}).get("GPU", 0.0),
                *self._readings.get(id, (0.0, None, "it has not been read yet"))[1:],
                frozenset(node["Resources"]),
            )
            for id, node in sorted(offered.items())
        ]
        return found, held, await asyncio.to_thread(self._to_come, sum(node.gpus for node in found))

    async def _answer_of_ray(
        self, children: Sequence[str]
    ) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, str]]:
        """Return the nodes, their free resources, and the node of each replica that has a process. Errors: OutageError,
        also while an earlier question is not answered."""
        if self._asking is not None and not self._asking.done():
            raise OutageError("Ray does not say which GPUs there are")
        self._asking = asyncio.get_running_loop().run_in_executor(self._thread, self._asked_of_ray, children)
        try:
            async with asyncio.timeout(GCS_S):
                found: tuple[list[dict[str, Any]], dict[str, Any], dict[str, str]] = await asyncio.shield(self._asking)
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise OutageError("Ray does not say which GPUs there are") from error
        return found

    def _held(self, children: Sequence[str], where: Mapping[str, str], loaded: frozenset[str]) -> dict[str, HeldShare]:
        """Return the replicas that hold a share. One that has died keeps it for some seconds: it is started there
        again, and Ray counts its share as taken for a moment."""
        now = time.monotonic()
        self._seen_s = {child: now if child in where else self._seen_s.get(child, now - KEPT_S) for child in children}
        held = {}
        for child in children:
            if now - self._seen_s[child] < KEPT_S:
                node, gpus = self._placed.get(child, ("", None))
                held[child] = HeldShare(where.get(child) or node, child in where and child in loaded, gpus)
        return held

    def _asked_of_ray(self, children: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, str]]:
        where = {}
        for child in children:
            with contextlib.suppress(ValueError):  # it has no process
                where[child] = node_of_actor(ray.get_actor(child, self._namespace))
        return ray.nodes(), available_by_node(), where

    async def _read(self, nodes: Sequence[str]) -> None:
        """Read the video memory of nodes whose reading is old, and wait a moment for those that have none."""
        now = time.monotonic()
        self._readings = {id: found for id, found in self._readings.items() if id in nodes}
        for id in nodes:
            if now - self._readings.get(id, (-READ_AGAIN_S,))[0] >= READ_AGAIN_S and id not in self._reading:
                self._reading[id] = asyncio.create_task(self._read_node(id))
        first = [task for id, task in self._reading.items() if id not in self._readings]
        if first:
            await asyncio.wait(first, timeout=FIRST_READ_S)

    async def _read_node(self, id: str) -> None:
        memory, problem = None, ""
        at = NodeAffinitySchedulingStrategy(id, soft=False)
        try:
            reading = _reading_task.options(scheduling_strategy=at).remote(self._read_memory)
            async with asyncio.timeout(READ_S):
                memory = tuple(int(free) for free in await reading)
        except ray.exceptions.RayTaskError as error:
            problem = str(error.cause)[:200]
        except TimeoutError:
            problem = f"it took more than {READ_S:g} s"
            ray.cancel(reading, force=True)
        except Exception as error:  # whatever it is: no model is placed without a reading
            problem = f"{type(error).__name__}: {error}"[:200]
        finally:
            del self._reading[id]
        self._readings[id] = (time.monotonic(), memory, problem)

    def _to_come(self, gpus: float) -> float:
        if self._autoscaling_file is None:
            return 0.0
        import yaml  # type: ignore[import-untyped]

        try:
            found = yaml.safe_load(self._autoscaling_file.read_text())
            return gpus_to_come(found, gpus) if isinstance(found, dict) else 0.0
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
            return 0.0  # Ray's own autoscaler does not start with such a file

    async def request(self, wanted: Sequence[Deployment]) -> None:
        """Ask Ray's autoscaler for machines on which all replicas of `wanted` that want GPUs fit, until other ones are
        asked for. Without an autoscaler nothing is asked. Errors: OutageError."""
        shares = sorted(one.gpus for one in wanted if one.gpus for _ in range(one.replicas))
        if self._autoscaling_file is None or shares == self._asked:
            return
        try:
            async with asyncio.timeout(GCS_S):
                await asyncio.to_thread(request_nodes, [{"GPU": share} for share in shares])
        except (ray.exceptions.RayError, RuntimeError, TimeoutError) as error:
            raise OutageError("Ray's autoscaler cannot be asked for a node with a GPU") from error
        self._asked = shares
