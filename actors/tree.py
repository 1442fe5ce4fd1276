"""Table of the actor tree: every child of the supervisor, its branch, deadline, dependencies and placement.

Started downwards in waves, stopped upwards. `CLASSES` names the class of each role; the classes never meet but by
message, and a process imports its own alone: importing takes longer than anything else of a start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pkgutil import resolve_name
from typing import Any

from fks.config.settings import WORKERS_MAX, Settings
from fks.runtime import Component
from fks.store.challengers import SHADOW_WORKER
from fks.store.strategies import StrategyStore
from fks.store.supervision import TreeJournal, WantedTree
from fks.supervision import ChildSpec, SupervisorSpec, check_tree, placement
from fks.supervision.spec import counted_alone

#: role -> module:class, or a class
CLASSES: dict[str, Any] = {
    "supervisor": "actors.supervisor:SupervisorActor",
    "guardian": "actors.guardian:GuardianActor",
    "collector": "actors.collector:CollectorActor",
    "orders": "actors.order_manager:OrderManagerActor",
    "strategy": "actors.strategy:StrategyActor",
    "scheduler": "actors.scheduler:SchedulerActor",
    "monitor": "actors.monitor:MonitorActor",
    "ninja": "actors.ninja:NinjaActor",
}

SUPERVISOR = "supervisor"
WORKER = placement.WORKER
SPREAD = frozenset({"collector", "strategy"})  # roles that run on the workers of a cluster unless placed
SHARE = 0.001  # of a node's resource: it says where, not how many


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
    return ChildSpec(SUPERVISOR, "supervisor", stop_s=10.0, args=args, is_leased=False, resources=resources)


def tree_of(
    settings: Settings,
    isolated: Sequence[str] = (),
    exchanges: Sequence[str] = (),
    *,
    has_challengers: bool = False,
    worker_nodes: int = 0,
) -> SupervisorSpec:
    """Return the tree of a system with these settings, checked. `isolated`: strategy instances with a worker of their
    own; `exchanges`: those besides data.exchange that are collected; `has_challengers`: one worker runs them all;
    `worker_nodes`: the pool of strategy workers grows with them.

    Every child is counted for itself and escalates alone, so a crash loop in one does not affect the others. No death
    ends another child: a child waits for its dependencies. The guardian has a branch of its own, and nothing
    waits for it: the order manager starts without it, protects positions, and enters nothing until it runs.
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
            branch(f"link:{group}", child(f"ninja:{group}", "ninja", stop_s=4.0, args=(group,)))
            for group in sorted(settings.ninja.links())
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
    root = counted_alone(SUPERVISOR, tuple(branches), timing)
    check_tree(root)
    return root


def workers_of(settings: Settings, worker_nodes: int) -> int:
    """Return how many strategy workers run."""
    strategies = settings.strategies
    return min(max(strategies.workers, strategies.workers_per_node * worker_nodes), WORKERS_MAX)


def want(component: Component) -> Callable[[], Awaitable[SupervisorSpec]]:
    """Return a function that returns the tree that should run, from the database. Errors of a call: OutageError.

    It also spreads the strategy instances over the strategy workers: when their number changes, as few instances as
    possible move to another worker, and the others go on deciding.
    """
    from fks.exchanges.registry import EXCHANGES  # only the supervisor asks

    journal, strategies = TreeJournal(component.db), StrategyStore(component.db)

    @lru_cache(maxsize=1)  # asked each second, and it is nearly always the same tree
    def tree(wanted: WantedTree) -> SupervisorSpec:
        known = [name for name in wanted.exchanges if name in EXCHANGES]
        return tree_of(
            component.settings,
            wanted.isolated,
            known,
            has_challengers=wanted.has_challengers,
            worker_nodes=wanted.worker_nodes,
        )

    async def wanted() -> SupervisorSpec:
        found = await journal.wanted()
        workers = workers_of(component.settings, found.worker_nodes)
        if not placement.is_balanced(found.workers, workers):
            moved = placement.balance(await strategies.workers(), workers)
            await strategies.assign(moved)
            component.log.info("strategies.moved", instances=",".join(sorted(moved)), workers=workers)
        return tree(found)

    return wanted


def _resources(placement: Mapping[str, str], id: str) -> dict[str, float]:
    """Return the resources that the node of child `id` must offer: a tiny share for each matching pattern."""
    return {resource: SHARE for pattern, resource in placement.items() if fnmatchcase(id, pattern)}
