"""Placement of models on the nodes of a cluster by free GPUs and free video memory. Pure.

A replica that holds its share of a GPU keeps it. Another one needs a node on which as much is free, and devices whose
free video memory, as it was read there, is enough for its file. A node whose video memory cannot be read takes none. A
model that asks for a GPU is never placed on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fks.ai.engines.deployment import GPU_HEADROOM, Deployment

#: wanted: at least one replica may run; waiting: for a node that the cluster can start
PlacementState = Literal["wanted", "waiting", "unschedulable"]


@dataclass(frozen=True, slots=True)
class GpuNode:
    """A node that offers GPUs. `gpus`: in all; `free`: not reserved; `memory`: free bytes of each device, None where
    they cannot be read, for the reason `problem`; `resources`: names of the resources that it offers."""

    id: str
    name: str
    gpus: float
    free: float
    memory: tuple[int, ...] | None = None
    problem: str = ""
    resources: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class HeldShare:
    """A replica's share of the GPUs of a node. `gpus`: as many as it was given, None if as many as its deployment asks
    for; `is_loaded`: its model is in the video memory already."""

    node_id: str
    is_loaded: bool = False
    gpus: float | None = None


@dataclass(frozen=True, slots=True)
class ModelPlacement:
    """The replicas that may run, each with the id of its node ("": any); and for each deployment its state, and why
    replicas of it wait."""

    nodes: dict[str, str] = field(default_factory=dict)
    states: dict[str, tuple[PlacementState, str]] = field(default_factory=dict)


def place(
    wanted: Sequence[Deployment],
    nodes: Sequence[GpuNode],
    held: Mapping[str, HeldShare],
    *,
    cpu_model_max_gb: float,
    gpus_to_come: float = 0.0,
    resources: Callable[[str], Iterable[str]] = lambda child: (),
) -> ModelPlacement:
    """Return the placement of the replicas of deployments, the first deployments first.

    `held`: the replicas that have a process, by id. One on a node that has left, or with another share than its
    deployment asks for now, counts as without. `gpus_to_come`: GPUs of the largest machine that the cluster can still
    start. `resources` returns those that the node of a replica must offer besides GPUs.
    """
    found = ModelPlacement()
    capacities = {node.id: _Capacity(node) for node in nodes}
    for one in wanted:
        for child in one.children():
            share = held.get(child)
            if one.gpus and share and share.node_id in capacities and share.gpus in (None, one.gpus):
                capacities[share.node_id].hold(one, share)
                found.nodes[child] = share.node_id
    for one in wanted:
        found.states[one.name] = _placed(one, capacities, found.nodes, cpu_model_max_gb, gpus_to_come, resources)
    return found


def _placed(
    one: Deployment,
    capacities: Mapping[str, _Capacity],
    nodes: dict[str, str],
    cpu_model_max_gb: float,
    gpus_to_come: float,
    resources: Callable[[str], Iterable[str]],
) -> tuple[PlacementState, str]:
    if not one.gpus:
        if one.size_bytes > cpu_model_max_gb * 1e9:
            limit = f"on the CPU run models up to {cpu_model_max_gb:g} GB (ai.cpu_model_max_gb)"
            return "unschedulable", f"it has {one.size_bytes / 1e9:.1f} GB; {limit}"
        nodes.update(dict.fromkeys(one.children(), ""))
        return "wanted", ""
    children = one.children()
    for child in children:
        if child in nodes:
            continue
        fitting = [capacity for capacity in capacities.values() if not capacity.refusal(one, resources(child))]
        if fitting:  # the fullest one: whole GPUs stay free for those who need them
            capacity = min(fitting, key=lambda capacity: (capacity.free, capacity.node.id))
            capacity.reserve(one)
            nodes[child] = capacity.node.id
    left = [child for child in children if child not in nodes]
    if not left:
        return "wanted", ""
    refusals = [capacity.refusal(one, resources(left[0])) for capacity in capacities.values()]
    reason = f"it asks for {one.gpus:g} GPU; {'; '.join(refusals) or 'no node of the cluster has one'}"
    if len(left) < len(children):
        return "wanted", f"{len(left)} of {len(children)} replicas wait: {reason}"
    if one.gpus <= gpus_to_come:
        return "waiting", f"a node with a GPU is asked for: {reason}"
    return "unschedulable", reason


class _Capacity:
    """Free GPUs and video memory of a node, less that of the replicas placed so far."""

    def __init__(self, node: GpuNode) -> None:
        self.node, self.free = node, node.free
        self._unheld = node.gpus  # a process may have begun a moment ago: Ray counts its share as free then
        self._memory = None if node.memory is None else sorted(node.memory, reverse=True)

    def hold(self, one: Deployment, share: HeldShare) -> None:
        """Count a replica that has a process: Ray has taken its share off `free`, or is about to."""
        self._unheld = _rounded(self._unheld - one.gpus)
        self.free = min(self.free, self._unheld)
        if not share.is_loaded:
            self._take_memory(one)

    def refusal(self, one: Deployment, resources: Iterable[str]) -> str:
        """Return why a replica cannot run on this node, "" if it can."""
        node = self.node
        if lacking := sorted(set(resources) - node.resources):
            return f"{node.name} does not offer {', '.join(lacking)} (supervision.placement)"
        if self.free < one.gpus:
            return f"{node.name} has {self.free:g} of {node.gpus:g} free"
        if self._memory is None:
            return f"the video memory of {node.name} cannot be read: {node.problem}"
        devices, need = _need(one)
        if len(self._memory) < devices or self._memory[devices - 1] < need:
            found = f"{node.name} has {max(self._memory, default=0) / 1e9:.1f} GB of video memory free"
            return f"{found}, and {need / 1e9:.1f} GB are needed" + f" on each of {devices} devices" * (devices > 1)
        return ""

    def reserve(self, one: Deployment) -> None:
        """Take what a replica needs."""
        self.free = _rounded(self.free - one.gpus)
        self._unheld = _rounded(self._unheld - one.gpus)
        self._take_memory(one)

    def _take_memory(self, one: Deployment) -> None:
        if self._memory is not None:
            devices, need = _need(one)
            taken = [free - need * (at < devices) for at, free in enumerate(self._memory)]
            self._memory = sorted(taken, reverse=True)


def _need(one: Deployment) -> tuple[int, int]:
    """Return on how many devices a replica is loaded, and the video memory that it needs on each."""
    devices = math.ceil(one.gpus)
    return devices, int(one.size_bytes * GPU_HEADROOM / devices)


def _rounded(gpus: float) -> float:
    return round(gpus, 4)  # Ray's own resolution


def gpus_to_come(cluster: Mapping[str, object], gpus: float) -> float:
    """Return the GPUs of the largest machine that Ray's autoscaler can still start, 0 where it can start none.

    `cluster`: the content of a cluster file of `ray up`; `gpus`: those that the cluster has.
    """
    provider, types = cluster.get("provider"), cluster.get("available_node_types")
    if not isinstance(provider, Mapping) or provider.get("type") == "local" or not isinstance(types, Mapping):
        return 0.0
    each, most = [0.0], 0.0
    for name, kind in types.items():
        offered, count = float(kind.get("resources", {}).get("GPU", 0)), int(kind.get("max_workers", 0))
        if name == cluster.get("head_node_type"):
            most += offered
        elif offered and count:
            each.append(offered)
            most += offered * count
    return max(each) if most > gpus else 0.0
