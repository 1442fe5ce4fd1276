"""The tree open for changes during one decision: what ends in which order, what starts in which order.

The order of stops is in `_stop_next`, the order of starts in `_start_next`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fks.supervision.spec import ChildSpec, RestartType, Strategy, SupervisorSpec
from fks.supervision.spec import predecessors as order_of
from fks.supervision.state import Command, Note, Phase, Start, Stop, Timer, TreeState

ACTIVE = (Phase.STARTING, Phase.UP)
ALIVE = (Phase.FINDING, Phase.STARTING, Phase.UP, Phase.STOPPING)
Spec = ChildSpec | SupervisorSpec


class OpenTree:
    """A TreeState that can be changed; `commands` collects what is to be done."""

    def __init__(self, state: TreeState, now_s: float) -> None:
        self.commands: list[Command] = []
        self._now_s = now_s
        self._nodes = dict(state.nodes)
        self._timers = state.timers
        self._wanted, self._leaving = state.wanted, state.leaving
        self._is_taking_over = state.is_taking_over
        self._ended_by_itself: list[tuple[str, str]] = []  # supervisors whose children have all ended, with the reason
        self._load(state.tree)

    def _load(self, tree: SupervisorSpec) -> None:
        self._tree = tree
        self._specs: dict[str, Spec] = {tree.id: tree}
        self._parents: dict[str, SupervisorSpec] = {}
        self._order: dict[str, dict[str, frozenset[str]]] = {}
        for parent, child in edges(tree):
            self._specs[child.id], self._parents[child.id] = child, parent

    def state(self) -> TreeState:
        return TreeState(self._tree, self._nodes, self._timers, self._wanted, self._leaving, self._is_taking_over)

    # ── ending ───────────────────────────────────────────────────────────────────────────────────
    def _doom(self, spec: Spec, why: str, *, is_afresh: bool = False) -> None:
        """Have it end, in its turn, and start again; `is_afresh`: those that wait for it wait again."""
        node = self._nodes[spec.id]
        then = Phase.WAITING
        if spec.id in self._leaving or (node.is_doomed and node.then is Phase.IDLE and not node.has_failed):
            then = Phase.IDLE
        elif is_afresh and spec.restart is RestartType.TEMPORARY:
            then = Phase.DONE
        if is_afresh:
            self._set(spec.id, was_up=False)
        if self._is_alive(spec):
            self._set(spec.id, is_doomed=True, then=then, why=node.why if node.is_doomed else why, has_failed=False)
        elif node.phase is not Phase.DONE or spec.restart is not RestartType.TEMPORARY or spec.id in self._leaving:
            self._set(spec.id, phase=then, timer=0 if is_afresh or then is not Phase.WAITING else node.timer)

    def _stop_supervisor(self, spec: SupervisorSpec, why: str) -> None:
        """End all its children, in reverse; none of them comes back unless it does."""
        if self._nodes[spec.id].phase in (Phase.IDLE, Phase.STOPPING) and not self._is_alive(spec):
            return
        self._set(spec.id, phase=Phase.STOPPING, is_doomed=True, timer=0, why=why)
        for child in spec.children:
            if self._is_alive(child):
                self._set(child.id, is_doomed=True, then=Phase.IDLE, why=why, has_failed=False)
            else:
                self._set(child.id, phase=Phase.IDLE, timer=0)

    def _stop(self, spec: Spec) -> None:
        node = self._nodes[spec.id]
        if isinstance(spec, SupervisorSpec):
            self._stop_supervisor(spec, node.why)
            return
        self._set(spec.id, phase=Phase.STOPPING)
        self.commands.append(Note(spec.id, "stopping", node.why))
        self.commands.append(Stop(spec.id, node.run, spec.stop_s, node.why))

    def _rest(self, spec: Spec) -> None:
        """Want nothing of a branch that does not live."""
        for child in spec.children if isinstance(spec, SupervisorSpec) else ():
            self._set(child.id, phase=Phase.IDLE, timer=0)
            self._rest(child)

    def _down(self, id: str) -> None:
        """It has ended as it was to."""
        node = self._nodes[id]
        phase = Phase.IDLE if node.has_failed else node.then
        self._set(id, phase=phase, is_doomed=False, then=Phase.IDLE, timer=0, window=(), has_failed=False)
        if node.has_failed:
            self._ended_by_itself.append((id, node.why))

    # ── what has become possible ─────────────────────────────────────────────────────────────────
    def _settle(self, spec: SupervisorSpec) -> bool:
        has_changed = False
        for child in spec.children:
            if isinstance(child, SupervisorSpec):
                has_changed |= self._settle(child)
        has_changed |= self._stop_next(spec)
        node = self._nodes[spec.id]
        is_over = node.phase is Phase.STOPPING and not any(map(self._is_alive, spec.children))
        if is_over:
            self._down(spec.id)
        return is_over or self._start_next(spec) or has_changed

    def _stop_next(self, spec: SupervisorSpec) -> bool:
        """Stop each doomed child for which no doomed sibling that started after it is left."""
        doomed = [child for child in spec.children if self._nodes[child.id].is_doomed]
        for child in [
            child for child in doomed if not self._is_alive(child)
        ]:  # what was looked for below it is not there
            self._rest(child)
            self._down(child.id)
            return True
        if not doomed:
            return False
        order = self._order_of(spec)
        ready = [
            c
            for c in doomed
            if self._nodes[c.id].phase in (*ACTIVE, Phase.WAITING) and not any(c.id in order[o.id] for o in doomed)
        ]
        for child in reversed(ready):
            self._stop(child)
        return bool(ready)

    def _start_next(self, spec: SupervisorSpec) -> bool:
        """Start each child whose turn and time have come; the supervisor is up when all its children once were."""
        node = self._nodes[spec.id]
        if node.phase not in ACTIVE or not self._runs(spec):
            return False
        waiting = [c for c in spec.children if self._nodes[c.id].phase is Phase.WAITING]
        ready = [c for c in waiting if not self._nodes[c.id].timer]
        if self._is_group_held(spec, waiting):
            ready = []
        ready = [c for c in ready if all(map(self._has_come_up, self._order_of(spec)[c.id]))]
        for child in ready:
            self._start(child)
        if node.phase is Phase.STARTING and all(self._has_come_up(child.id) for child in spec.children):
            self._set(spec.id, phase=Phase.UP, was_up=True, up_s=self._now_s)
            return True
        return bool(ready)

    def _is_group_held(self, spec: SupervisorSpec, waiting: list[Spec]) -> bool:
        """Return whether a group may not start yet: one of it is to end or looked for first, or its wait is not
        over."""
        if spec.strategy is Strategy.ONE_FOR_ONE:
            return False
        if self._is_sought(spec) or any(self._nodes[child.id].is_doomed for child in spec.children):
            return True
        return spec.strategy is Strategy.ONE_FOR_ALL and any(self._nodes[child.id].timer for child in waiting)

    def _start(self, spec: Spec) -> None:
        node = self._nodes[spec.id]
        if isinstance(spec, SupervisorSpec):
            self._set(spec.id, phase=Phase.STARTING)
            for child in spec.children:
                if self._nodes[child.id].phase in (Phase.IDLE, Phase.DONE, Phase.WAITING):
                    self._set(child.id, phase=Phase.WAITING, was_up=False, tries=0)
            return
        self._set(spec.id, phase=Phase.STARTING, run=node.run + 1)
        self.commands.append(Start(spec.id, node.run + 1))

    def _has_come_up(self, id: str) -> bool:
        node = self._nodes[id]
        return (node.was_up and not node.is_doomed) or node.phase in (Phase.DONE, Phase.CONTAINED)

    # ── small ────────────────────────────────────────────────────────────────────────────────────
    def _set(self, id: str, **changes: Any) -> None:
        self._nodes[id] = replace(self._nodes[id], **changes)

    def _timer(self, id: str, after_s: float) -> None:
        self._timers += 1
        self._set(id, timer=self._timers)
        self.commands.append(Timer(self._timers, after_s))

    def _is(self, id: str, run: int | None, *phases: Phase) -> bool:
        node = self._nodes.get(id)
        return node is not None and node.phase in phases and run in (None, node.run)

    def _is_alive(self, spec: Spec) -> bool:
        if self._nodes[spec.id].phase in ALIVE:
            return True
        return isinstance(spec, SupervisorSpec) and any(map(self._is_alive, spec.children))

    def _is_sought(self, spec: Spec) -> bool:
        """Return whether it, or anything below it, is still looked for."""
        if isinstance(spec, SupervisorSpec):
            return any(map(self._is_sought, spec.children))
        return self._nodes[spec.id].phase is Phase.FINDING

    def _runs(self, spec: SupervisorSpec) -> bool:
        """Return whether a supervisor is wanted to run, as are all above it."""
        node = self._nodes[spec.id]
        is_wanted = node.phase in (Phase.WAITING, *ACTIVE) and not node.is_doomed
        return is_wanted and (spec.id not in self._parents or self._runs(self._parents[spec.id]))

    def _order_of(self, spec: SupervisorSpec) -> dict[str, frozenset[str]]:
        if spec.id not in self._order:
            self._order[spec.id] = order_of(spec)
        return self._order[spec.id]


def edges(tree: SupervisorSpec) -> Iterator[tuple[SupervisorSpec, Spec]]:
    """Yield (supervisor, child) for every node but the root, from the top down."""
    for child in tree.children:
        yield tree, child
        if isinstance(child, SupervisorSpec):
            yield from edges(child)
