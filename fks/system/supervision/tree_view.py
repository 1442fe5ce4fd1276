"""The tree as a value to show: which supervisor has which children, under which rule, and how each of them is."""

from __future__ import annotations

from collections.abc import Mapping

from fks.system.supervision.liveness import UP
from fks.system.supervision.spec import ChildSpec, SupervisorSpec, edges
from fks.system.supervision.state import Phase, TreeState


def shape(state: TreeState, states: Mapping[str, str], now_s: float) -> dict[str, object]:
    """Return the tree in JSON values: id, strategy, limit, used (restarts in the window), state, children.

    `states` are the workers' own; a supervisor is ready when all below it are, degraded when it runs and some are not.
    """
    return _branch(state, state.tree, states, now_s)


def _branch(state: TreeState, spec: SupervisorSpec, states: Mapping[str, str], now_s: float) -> dict[str, object]:
    return {
        "id": spec.id,
        "strategy": "one_for_one",
        "limit": {"restarts_max": spec.limit.restarts_max, "period_s": spec.limit.period_s},
        "used": _used(state, spec, now_s),
        "state": _state(state, spec, states),
        "children": [
            _branch(state, child, states, now_s)
            if isinstance(child, SupervisorSpec)
            else {"id": child.id, "state": states.get(child.id, "waiting")} | _escalation(state, child.id)
            for child in spec.children
        ],
    }


def _used(state: TreeState, spec: SupervisorSpec, now_s: float) -> int:
    """Return the restarts in the window; where each child is counted for itself, those of the worst one."""
    recent = [child for at, child in state.nodes[spec.id].window if at >= now_s - spec.limit.period_s]
    if spec.containment is None and spec.id != state.tree.id:
        return len(recent)
    return max((recent.count(child) for child in recent), default=0)


def _escalation(state: TreeState, id: str) -> dict[str, object]:
    why = state.nodes[id].escalation
    return {"escalation": why} if why else {}


def _state(state: TreeState, spec: SupervisorSpec, states: Mapping[str, str]) -> str:
    match state.nodes[spec.id].phase:
        case Phase.STARTING:
            return "starting"
        case Phase.UP:
            return "ready" if all(states.get(worker.id) in UP for worker in spec.workers()) else "degraded"
        case Phase.STOPPING:
            return "stopping"
        case Phase.IDLE:
            return "stopped"
        case Phase.CONTAINED:
            return "failed"
        case _:
            return "waiting"


def below(tree: SupervisorSpec, id: str) -> tuple[ChildSpec, ...]:
    """Return the worker of this id, or all workers below the supervisor of this id; () when the tree has no such id."""
    if id == tree.id:
        return tuple(tree.workers())
    for _, child in edges(tree):
        if child.id == id:
            return tuple(child.workers()) if isinstance(child, SupervisorSpec) else (child,)
    return ()
