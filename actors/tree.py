"""THE table: every child of the supervisor, its restart policy, its deadline and what it waits for.

Started downwards in waves, stopped upwards. `CLASSES` names the class of each role; the classes never meet but by message.
"""

from __future__ import annotations

from typing import Any

from actors.collector import CollectorActor
from actors.guardian import GuardianActor
from actors.monitor import MonitorActor
from actors.order_manager import OrderManagerActor
from actors.scheduler import SchedulerActor
from actors.strategy import StrategyActor
from actors.supervisor import SupervisorActor
from fks.config.settings import Settings
from fks.supervision import ChildSpec, Intensity, check_tree

CLASSES: dict[str, Any] = {
    "supervisor": SupervisorActor,
    "guardian": GuardianActor,
    "collector": CollectorActor,
    "orders": OrderManagerActor,
    "strategy": StrategyActor,
    "scheduler": SchedulerActor,
    "monitor": MonitorActor,
}

SUPERVISOR = "supervisor"


def supervisor_spec() -> ChildSpec:
    """Return the supervisor's own row: Ray restarts it, so its limit is Ray's (none)."""
    return ChildSpec(SUPERVISOR, "supervisor", Intensity(restarts_max=0, period_s=1.0), stop_s=10.0, is_leased=False)


def children(settings: Settings) -> tuple[ChildSpec, ...]:
    """Return the tree of a node with these settings, checked."""
    timing = settings.supervision
    limit = Intensity(restarts_max=timing.restarts_max, period_s=timing.restarts_period_s)
    start_s = timing.start_timeout_s

    def child(id: str, role: str, *, stop_s: float, args: tuple[str, ...] = (), after: tuple[str, ...] = ()) -> ChildSpec:
        # The guardian must come up while the database is down (G5), so it is the one that takes no epoch.
        return ChildSpec(
            id, role, limit, stop_s, args=args, after=after, is_leased=role != "guardian", start_s=start_s
        )  # fmt: skip

    exchange = settings.data.exchange
    strategies = tuple(
        child(f"strategy:{shard}", "strategy", stop_s=3.0, args=(str(shard), str(settings.strategies.workers)))
        for shard in range(settings.strategies.workers)
    )
    specs = (
        child("guardian", "guardian", stop_s=3.0),
        child("orders", "orders", stop_s=5.0, after=("guardian",)),
        child(f"collector:{exchange}", "collector", stop_s=3.0, args=(exchange,)),
        *strategies,
        child("scheduler", "scheduler", stop_s=3.0, after=("orders",)),
        child("monitor", "monitor", stop_s=2.0, after=("orders",)),
    )
    check_tree(specs)
    return specs
