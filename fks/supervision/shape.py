"""The tree as a value to show: which supervisor has which children, under which rule, and how each of them is."""

from __future__ import annotations

from collections.abc import Mapping

from fks.supervision.opentree import edges
from fks.supervision.spec import ChildSpec, SupervisorSpec
from fks.supervision.state import Phase, TreeState

_WELL = frozenset({"ready", "degraded", "done"})


def shape(state: TreeState, states: Mapping[str, str], now_s: float) -> dict[str, object]:
    """Return the tree in JSON values: id, strategy, limit, used (restarts in the window), state, children.

    `states` are the workers' own; a supervisor is ready when all below it are, degraded when it runs and some are not.
    """
    return _branch(state, state.tree, states, now_s)


def _branch(state: TreeState, spec: SupervisorSpec, states: Mapping[str, str], now_s: float) -> dict[str, object]:
    window = state.nodes[spec.id].window
    return {
        "id": spec.id,
        "strategy": spec.strategy.value,
        "limit": {"restarts_max": spec.limit.restarts_max, "period_s": spec.limit.period_s},
        "used": sum(at >= now_s - spec.limit.period_s for at, _ in window),
        "state": _state(state, spec, states),
        "children": [
            _branch(state, child, states, now_s) if isinstance(child, SupervisorSpec)
            else {"id": child.id, "state": states.get(child.id, "waiting")}
            for child in spec.children
        ],
    }  # fmt: skip


def _state(state: TreeState, spec: SupervisorSpec, states: Mapping[str, str]) -> str:
    match state.nodes[spec.id].phase:
        case Phase.STARTING:
            return "starting"
        case Phase.UP:
            return "ready" if all(states.get(worker.id) in _WELL for worker in spec.workers()) else "degraded"
        case Phase.STOPPING:
            return "stopping"
        case Phase.IDLE:
            return "stopped"
        case Phase.DONE:
            return "done"
        case Phase.GIVEN_UP:
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
