"""Table of the actor tree: every child of the supervisor, its branch, deadline, dependencies and placement.

Started downwards in waves, stopped upwards. `CLASSES` names the class of each role; the classes never meet but by
message, and a process imports its own alone: importing takes longer than anything else of a start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pkgutil import resolve_name
from typing import Any, Protocol

from fks.ai.engines.deployment import Deployment
from fks.ai.placement import GpuNode, HeldShare, place
from fks.config.runtime import SUPERVISOR
from fks.config.settings import WORKERS_MAX, Settings
from fks.model.ninja import MT5, PLATFORMS
from fks.store.challengers import SHADOW_WORKER
from fks.store.deployments import DeploymentStore
from fks.store.strategies import StrategyStore
from fks.store.supervision import TreeJournal, WantedTree
from fks.system.runtime import Component, isolated_settings
from fks.system.supervision import ChildSpec, SupervisorSpec, check_tree, placement
from fks.system.supervision.spec import counted_alone

#: role -> module:class, or a class
CLASSES: dict[str, Any] = {
    SUPERVISOR: "actors.supervisor:SupervisorActor",
    "guardian": "actors.guardian:GuardianActor",
    "collector": "actors.collector:CollectorActor",
    "orders": "actors.order_manager:OrderManagerActor",
    "strategy": "actors.strategy:StrategyActor",
    "scheduler": "actors.scheduler:SchedulerActor",
    "monitor": "actors.monitor:MonitorActor",
    "ninja": "actors.ninja:NinjaActor",
    "mt5": "actors.ninja:NinjaActor",
    "inference": "actors.inference:InferenceActor",
}

WORKER = placement.WORKER
SPREAD = frozenset({"collector", "strategy"})  # roles that run on the workers of a cluster unless placed
ISOLATED = frozenset({"inference"})  # roles whose processes are given no credential of the node
SHARE = 0.001  # of a node's resource: it says where, not how many
MODEL_LOAD_S_GB = 20.0  # more time to start for each GB of a model's file, which is read twice
SECOND_DEATH_S = 2.0  # in it the supervisor notes a model that ended its process twice, so that it is not loaded again
MODEL_MEMORY = 1.5  # memory that a model may take, as a multiple of its file


def class_of(role: str) -> Any:
    """Return the class of a role, imported."""
    found = CLASSES[role]
    return resolve_name(found) if isinstance(found, str) else found


def supervisor_spec(role: str = "single", args: tuple[str, ...] = ()) -> ChildSpec:
    """Return the supervisor's own row: Ray restarts it, without a limit and with the same `args`: its deployment and
    the machine that is its head.

    `role`: of the node that deploys it. In a cluster it stays on the head: Ray would put what asks for nothing on any
    machine, and there the gateway it replaces would be a worker's, and a worker lost would take it along.
    """
    resources = {"head": SHARE} if role == "head" else {}
    return ChildSpec(SUPERVISOR, SUPERVISOR, stop_s=10.0, args=args, is_leased=False, resources=resources)


def tree_of(
    settings: Settings,
    isolated: Sequence[str] = (),
    exchanges: Sequence[str] = (),
    *,
    has_challengers: bool = False,
    worker_nodes: int = 0,
    models: Sequence[Deployment] = (),
    model_nodes: Mapping[str, str] | None = None,
    has_mt5: bool = False,
) -> SupervisorSpec:
    """Return the tree of a system with these settings, checked. `isolated`: strategy instances with a worker of their
    own; `exchanges`: those besides data.exchange that are collected; `has_challengers`: one worker runs them all;
    `worker_nodes`: the pool of strategy workers grows with them; `models`: each replica has a process of its own;
    `model_nodes`: the replicas that may run, each with its node ("": any), None for all; `has_mt5`: there is an account
    of the venue mt5.

    Every child is counted for itself and escalates alone, so a crash loop in one does not affect the others. No death
    ends another child: a child waits for its dependencies. The guardian has a branch of its own, and nothing
    waits for it: the order manager starts without it, protects positions, and enters nothing until it runs. The process
    of a model has its own engine, also the one that embeds, and the job that calls it keeps nothing of it.
    Errors: ConfigError.
    """
    timing = settings.supervision

    def child(id: str, role: str, *, stop_s: float, args: tuple[str, ...] = ()) -> ChildSpec:
        # The guardian must come up while the database is down (G5), so it alone takes no epoch.
        return ChildSpec(
            id,
            role,
            stop_s,
            args=args,
            is_leased=role != "guardian",
            start_s=timing.start_timeout_s,
            resources=_resources(timing.placement, id),
            memory_max_mb=timing.memory_max_mb,
            spreads=timing.spread and role in SPREAD,
        )

    def branch(id: str, *children: ChildSpec) -> SupervisorSpec:
        return counted_alone(id, children, timing)

    exchange = settings.data.exchange
    workers = workers_of(settings, worker_nodes)
    others = sorted(set(exchanges) - {exchange})
    branches = [
        branch("safety", child("guardian", "guardian", stop_s=3.0)),
        branch("trading", child("orders", "orders", stop_s=5.0)),
        *(
            branch(f"link:{of.key(group)}", child(of.link(group), of.name, stop_s=4.0, args=(group,)))
            for of in PLATFORMS.values()
            if of is not MT5 or has_mt5
            for group in sorted(settings.links(of))
        ),
        branch("data", child(f"collector:{exchange}", "collector", stop_s=3.0, args=(exchange,))),
        *(branch(f"data:{name}", child(f"collector:{name}", "collector", stop_s=3.0, args=(name,))) for name in others),
        branch(
            "strategies",
            *(child(f"strategy:{n}", "strategy", stop_s=3.0, args=(str(n),)) for n in range(workers)),
        ),
        branch("core", child("scheduler", "scheduler", stop_s=3.0), child("monitor", "monitor", stop_s=2.0)),
    ]
    if isolated:
        solos = (child(f"strategy:solo:{id}", "strategy", stop_s=3.0, args=("solo", id)) for id in isolated)
        branches.append(branch("isolated", *solos))
    if has_challengers:
        branches.append(branch("challengers", child(SHADOW_WORKER, "strategy", stop_s=3.0, args=("shadow",))))
    if models:
        replicas = (spec for model in models for spec in _inference(settings, model, model_nodes))
        inference = branch("inference", *replicas)
        wait_s = max(timing.backoff_first_s, SECOND_DEATH_S)
        backoff = replace(inference.backoff, first_s=wait_s, max_s=max(timing.backoff_max_s, wait_s))
        branches.append(replace(inference, backoff=backoff))
    root = counted_alone(SUPERVISOR, tuple(branches), timing)
    check_tree(root)
    return root


def _inference(settings: Settings, model: Deployment, nodes: Mapping[str, str] | None) -> list[ChildSpec]:
    """Return a child for each replica of a model that may run. It holds no lease, which is a row of the database, and
    has its deployment and the few settings that it needs as arguments: it reads no file with a credential in it."""
    size_gb = model.size_bytes / 1e9
    memory_mb = model.memory_mb or settings.supervision.memory_max_mb + int(MODEL_MEMORY * size_gb * 1024)
    placement = settings.supervision.placement
    return [
        ChildSpec(
            id,
            "inference",
            stop_s=3.0,
            args=(model.dump(), isolated_settings(settings, memory_mb)),
            is_leased=False,
            start_s=model.load_s or settings.supervision.start_timeout_s + MODEL_LOAD_S_GB * size_gb,
            resources=_resources(placement, id) | ({"GPU": model.gpus} if model.gpus else {}),
            memory_max_mb=memory_mb,
            node_id=(nodes or {}).get(id, ""),
        )
        for id in model.children()
        if nodes is None or id in nodes
    ]


def workers_of(settings: Settings, worker_nodes: int) -> int:
    """Return how many strategy workers run."""
    strategies = settings.strategies
    return min(max(strategies.workers, strategies.workers_per_node * worker_nodes), WORKERS_MAX)


class GpuCluster(Protocol):
    """The GPUs of the cluster. Errors of its methods: OutageError."""

    async def look(
        self, wanted: Sequence[Deployment], loaded: frozenset[str]
    ) -> tuple[list[GpuNode], dict[str, HeldShare], float]:
        """Return its nodes, the replicas that hold a share, and the GPUs of the largest machine still to be had."""

    async def request(self, wanted: Sequence[Deployment]) -> None:
        """Ask for machines on which all replicas fit."""

    def note(self, wanted: Sequence[Deployment], nodes: Mapping[str, str]) -> None:
        """Keep the nodes on which replicas were placed."""


def want(component: Component, gpus: GpuCluster) -> Callable[[], Awaitable[SupervisorSpec]]:
    """Return a function that returns the tree that should run, from the database. Errors of a call: OutageError.

    It also spreads the strategy instances over the strategy workers: when their number changes, as few instances as
    possible move to another worker, and the others go on deciding.
    """
    from fks.market.exchanges.registry import EXCHANGES  # only the supervisor asks

    journal, strategies, deployments = (
        TreeJournal(component.db), StrategyStore(component.db), DeploymentStore(component.db),
    )  # fmt: skip

    @lru_cache(maxsize=1)  # asked each second, and it is nearly always the same tree
    def tree(wanted: WantedTree, models: tuple[Deployment, ...], nodes: tuple[tuple[str, str], ...]) -> SupervisorSpec:
        known = [name for name in wanted.exchanges if name in EXCHANGES]
        return tree_of(
            component.settings,
            wanted.isolated,
            known,
            has_challengers=wanted.has_challengers,
            worker_nodes=wanted.worker_nodes,
            models=models,
            model_nodes=dict(nodes),
            has_mt5=wanted.has_mt5,
        )

    async def placed() -> tuple[tuple[Deployment, ...], tuple[tuple[str, str], ...]]:
        failed = await deployments.fail()
        found = tuple(await deployments.wanted())
        nodes: list[GpuNode] = []
        held: dict[str, HeldShare] = {}
        to_come = 0.0
        if any(one.gpus for one in found):
            ready = frozenset(child for row in await deployments.all() for child in row["ready"])
            nodes, held, to_come = await gpus.look(found, ready)
        limit_gb = component.settings.ai.cpu_model_max_gb
        placement = place(
            found,
            nodes,
            held,
            cpu_model_max_gb=limit_gb,
            gpus_to_come=to_come,
            resources=lambda child: _resources(component.settings.supervision.placement, child),
        )
        gpus.note(found, placement.nodes)
        for change in [*failed, *await deployments.note(placement)]:
            if change.state == "wanted":
                component.log.info("model.placed", model=change.name, reason=change.reason)
            else:
                component.log.warning("model.refused", model=change.name, state=change.state, reason=change.reason)
        await gpus.request(found)
        models = tuple(one for one in found if placement.nodes.keys() & set(one.children()))
        return models, tuple(sorted(placement.nodes.items()))

    async def wanted() -> SupervisorSpec:
        found = await journal.wanted()
        workers = workers_of(component.settings, found.worker_nodes)
        if not placement.is_balanced(found.workers, workers):
            moved = placement.balance(await strategies.workers(), workers)
            await strategies.assign(moved)
            component.log.info("strategies.moved", instances=",".join(sorted(moved)), workers=workers)
        if not found.has_deployments:
            await gpus.request(())
            return tree(found, (), ())
        return tree(found, *await placed())

    return wanted


def _resources(placement: Mapping[str, str], id: str) -> dict[str, float]:
    """Return the resources that the node of child `id` must offer: a tiny share for each matching pattern."""
    return {resource: SHARE for pattern, resource in placement.items() if fnmatchcase(id, pattern)}
