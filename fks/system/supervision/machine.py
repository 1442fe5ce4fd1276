"""OTP's supervisor as one pure function: (state, what happened, now) -> (state, what to do).

Sources: the OTP design principles on supervisors, the reference manual of `supervisor`, and its source
(`restart/2`, `terminate_children/2`, `add_restart/1` of supervisor.erl). Taken over as they are:

- every child is permanent: it is restarted however it ended.
- every supervisor is one_for_one: it restarts the child alone.
- intensity and period per supervisor, over all its direct children; a start that fails counts as one more restart.
- past it the supervisor ends all its children in reverse order, then its parent treats it as a child that exited.

Ours, beyond OTP: starts and stops take time, and other children are looked after meanwhile. Children start together
unless `after` says otherwise. A start that fails the first time is retried like any other, instead of
failing the whole tree. A child that did not last is restarted after a wait (`RestartBackoff`). A supervisor with
`Containment`, and the root, does not end: each of its children is counted for itself, and one that died too often in a
row escalates alone. It is paged, started again every `retry_s`, and stays escalated until a person restarts it. A
restart that a person wants is not counted. The tree may change while it runs.
Not taken over: one_for_all, rest_for_one, transient and temporary children, `significant` children and auto_shutdown.

How it works: an event changes what is wanted of some nodes; `settle` then does whatever has become possible, until
nothing has. `_stop_next` has the order of stops, `_start_next` the order of starts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fks.system.supervision.exits import How, ProcessExit
from fks.system.supervision.policy import backoff_s, jitter_draw, note_restart
from fks.system.supervision.spec import ChildSpec, Containment, SupervisorSpec, edges, predecessors
from fks.system.supervision.state import (
    Adopted,
    Begin,
    Command,
    Event,
    Exited,
    Find,
    Node,
    Note,
    NotFound,
    Phase,
    Remembered,
    RestartWanted,
    SendPage,
    Start,
    Started,
    Stop,
    StopWanted,
    Timer,
    TimerFired,
    TreeState,
    TreeWanted,
)

ACTIVE = (Phase.STARTING, Phase.UP)
ALIVE = (Phase.FINDING, Phase.STARTING, Phase.UP, Phase.STOPPING)
Spec = ChildSpec | SupervisorSpec
HOUR_S = 3600.0
ROW_MIN = 3  # deaths in a row before the time that they took counts


def decide(state: TreeState, event: Event, now_s: float) -> tuple[TreeState, tuple[Command, ...]]:
    """Return the state after `event` and the commands to run, in this order. `now_s` is monotonic.

    Never raises for an event that comes late, twice or for a child that is not there: it changes nothing.
    """
    machine = _Machine(state, now_s)
    machine.take(event)
    machine.settle()
    return machine.state(), tuple(machine.commands)


class _Machine:
    """One decision: a TreeState that can be changed; `commands` collects what is to be done.

    The order of stops is in `_stop_next`, the order of starts in `_start_next`, and nowhere else.
    """

    def __init__(self, state: TreeState, now_s: float) -> None:
        self.commands: list[Command] = []
        self._now_s = now_s
        self._nodes = dict(state.nodes)
        self._timers = state.timers
        self._wanted, self._leaving = state.wanted, state.leaving
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
        return TreeState(self._tree, self._nodes, self._timers, self._wanted, self._leaving)

    def settle(self) -> None:
        """Do what has become possible, until nothing more has."""
        while self._settle(self._tree) or self._report_failures() or self._change():
            pass

    def _report_failures(self) -> bool:
        """Report supervisors that ended because their windows were exceeded to their parents."""
        ended, self._ended_by_itself = self._ended_by_itself, []
        for id, why in ended:
            self._failed(id, ProcessExit(How.CRASH, why))
        return bool(ended)

    # ── events ───────────────────────────────────────────────────────────────────────────────────
    def take(self, event: Event) -> None:
        match event:
            case Begin():
                self._begin()
            case Remembered():
                self._remember(event)
            case Adopted(id, is_up):
                self._adopted(id, is_up)
            case NotFound(id):
                self._missing(id)
            case Started(id, run):
                if self._is(id, run, Phase.STARTING):
                    self._came_up(id, "started")
            case Exited(id, run, exit):
                self._exited(id, run, exit)
            case TimerFired(token):
                self._fired(token)
            case RestartWanted(id, why):
                self._restart_wanted(id, why)
            case TreeWanted(tree):
                self._tree_wanted(tree)
            case StopWanted(why):
                self._stop_supervisor(self._tree, why)

    def _begin(self) -> None:
        if self._nodes[self._tree.id].phase is not Phase.IDLE:
            return
        self._set(self._tree.id, phase=Phase.STARTING)
        for _, child in edges(self._tree):
            self._bring_in(child)

    def _bring_in(self, child: Spec) -> None:
        """Add a node to a running tree. A worker may run already, so it is looked for first."""
        if isinstance(child, SupervisorSpec):
            self._set(child.id, phase=Phase.WAITING)
            return
        run = self._nodes[child.id].run + 1
        self._set(child.id, phase=Phase.FINDING, run=run)
        self.commands.append(Find(child.id, run))

    def _remember(self, past: Remembered) -> None:
        """Refill the windows. A branch that was itself restarted since began with an empty one; the root goes on."""
        for id, spec in self._specs.items():
            if not isinstance(spec, SupervisorSpec):
                continue
            is_containing = self._containment(spec) is not None
            began = min(past.ages.get(id, ()) if id != self._tree.id else (), default=float("inf"))
            of = past.rows if is_containing and past.rows else past.ages
            old = [
                (self._now_s - age, child.id)
                for child in spec.children
                for age in of.get(child.id, ())
                if age <= min(began, spec.limit.period_s)
            ]
            self._set(id, window=tuple(sorted([*self._nodes[id].window, *old], reverse=True)))
            for child in spec.children if is_containing else ():
                self._remember_child(child.id, past)

    def _remember_child(self, id: str, past: Remembered) -> None:
        node = self._nodes[id]
        row = [self._now_s - age for age in past.rows.get(id, ())]
        deaths = [self._now_s - age for age in past.ages.get(id, ()) if age <= HOUR_S]
        if row:
            self._set(id, tries=node.tries + len(row), row_s=min(row))
        self._set(
            id,
            deaths=tuple(sorted([*node.deaths, *deaths], reverse=True)),
            escalation=node.escalation or past.escalations.get(id, ""),
        )

    def _adopted(self, id: str, is_up: bool) -> None:
        if not self._is(id, None, Phase.FINDING):
            return
        parent: SupervisorSpec | None = self._parents[id]
        while parent is not None and self._nodes[parent.id].phase is Phase.WAITING:
            self._set(parent.id, phase=Phase.STARTING)  # a part of it runs, so it does
            parent = self._parents.get(parent.id)
        self._set(id, phase=Phase.STARTING)
        if is_up:
            self._came_up(id, "adopted")

    def _missing(self, id: str) -> None:
        if not self._is(id, None, Phase.FINDING):
            return
        if self._nodes[id].is_marked:
            self._down(id)
        else:
            self._set(id, phase=Phase.WAITING)

    def _came_up(self, id: str, event: str) -> None:
        self._set(id, phase=Phase.UP, was_up=True, up_s=self._now_s)
        self.commands.append(Note(id, event, ""))

    def _exited(self, id: str, run: int, exit: ProcessExit) -> None:
        if not self._is(id, run, *ALIVE):
            return
        node = self._nodes[id]
        self.commands.append(Note(id, "exited", exit.reason, exit))
        if node.is_marked or node.phase is Phase.STOPPING:
            self._down(id)
        else:
            self._failed(id, exit)

    def _fired(self, token: int) -> None:
        for id, node in self._nodes.items():
            if node.timer == token and token:
                if node.phase is Phase.CONTAINED:
                    self._set(id, phase=Phase.WAITING)
                    self.commands.append(Note(id, "retried", node.escalation))
                self._set(id, timer=0)
                return

    def _restart_wanted(self, id: str, why: str) -> None:
        if id == self._tree.id:
            for child in self._tree.children:
                self._restart_wanted(child.id, why)
            return
        if id not in self._parents or id in self._leaving or self._nodes[self._parents[id].id].phase not in ACTIVE:
            return
        self._clear(self._specs[id], why)
        if self._is_alive(self._specs[id]):
            self._mark_stopping(self._specs[id], why)
        else:
            self._set(id, phase=Phase.WAITING, timer=0)

    def _clear(self, spec: Spec, why: str) -> None:
        """Forget the deaths of a node and of all below it: a person acts on it."""
        for child in spec.children if isinstance(spec, SupervisorSpec) else ():
            self._clear(child, why)
        self._end_escalation(spec.id, why)
        self._set(spec.id, tries=0, deaths=(), unstable_s=float("-inf"))
        parent = self._parents[spec.id]
        if self._containment(parent) is not None:
            self._forget(parent, spec.id)

    def _end_escalation(self, id: str, why: str) -> None:
        if self._nodes[id].escalation:
            self.commands.append(Note(id, "cleared", why))
            self._set(id, escalation="")

    def _forget(self, parent: SupervisorSpec, id: str) -> None:
        window = self._nodes[parent.id].window
        self._set(parent.id, window=tuple((at, child) for at, child in window if child != id))

    # ── the tree changes ─────────────────────────────────────────────────────────────────────────
    def _tree_wanted(self, tree: SupervisorSpec) -> None:
        """End what is not in the new tree as it was; `_change` follows when all of it has ended."""
        if tree.id != self._tree.id:
            return
        old, new = _rows(self._tree), _rows(tree)
        leaving = {id for id, row in old.items() if new.get(id) != row}
        for _, child in edges(self._tree):  # what hangs below a node that leaves leaves with it
            if self._parents[child.id].id in leaving:
                leaving.add(child.id)
        for id in self._leaving - leaving:  # back before it had left
            if self._parents[id].id in self._leaving:
                continue
            if not self._nodes[id].is_marked and self._nodes[id].phase is Phase.IDLE:
                self._set(id, phase=Phase.WAITING)
            self._set(id, then=Phase.WAITING)
        self._wanted, self._leaving = tree, frozenset(leaving)
        for id in leaving:
            if self._parents[id].id not in leaving:
                event = "changed" if id in new else "removed"
                if not self._nodes[id].is_marked:
                    self.commands.append(Note(id, event, "the tree is to be another"))
                self._clear(self._specs[id], f"{event} in the tree")
                self._mark_stopping(self._specs[id], f"{event}: the tree is to be another")

    def _change(self) -> bool:
        """Put the wanted tree in force, once no node that leaves it is alive."""
        tree = self._wanted
        if tree is None or any(self._is_alive(self._specs[id]) for id in self._leaving):
            return False
        before = self._specs.keys()
        self._load(tree)
        fresh = [child for _, child in edges(tree) if child.id in self._leaving or child.id not in before]
        old = self._nodes
        self._nodes = {id: old.get(id, Node()) for id in self._specs}
        for child in fresh:
            self._nodes[child.id] = Node(run=self._nodes[child.id].run)
            if child.id not in before:
                self.commands.append(Note(child.id, "added", ""))
            if self._runs(self._parents[child.id]):
                self._bring_in(child)
        self._wanted, self._leaving = None, frozenset()
        return True

    # ── failure ──────────────────────────────────────────────────────────────────────────────────
    def _failed(self, id: str, exit: ProcessExit) -> None:
        """Restart a child that ended unasked, or escalate."""
        spec, parent, node = self._specs[id], self._parents[id], self._nodes[id]
        if not self._runs(parent):  # what is to end anyway takes no notice
            self._set(id, phase=Phase.IDLE, is_marked=False)
            return
        is_up = node.phase is Phase.UP or (isinstance(spec, SupervisorSpec) and node.was_up)
        has_lasted = is_up and self._now_s - node.up_s >= parent.backoff.reset_s
        tries = 1 if has_lasted else node.tries + 1
        row_s = self._now_s if tries == 1 else node.row_s
        self._set(id, phase=Phase.IDLE, is_marked=False, tries=tries, row_s=row_s)
        containment = self._containment(parent)
        if containment is not None:
            self._contained(parent, containment, id, exit, has_lasted=has_lasted)
        elif self._count(parent, id):
            self._restart(parent, id, exit)
        else:
            self._escalate(parent, id, exit)

    def _containment(self, spec: SupervisorSpec) -> Containment | None:
        return spec.containment or (Containment() if spec.id == self._tree.id else None)

    def _contained(
        self, parent: SupervisorSpec, containment: Containment, id: str, exit: ProcessExit, *, has_lasted: bool
    ) -> None:
        """Restart a child that is counted for itself, or have it escalate."""
        if has_lasted:
            self._forget(parent, id)
        may_go_on = self._count(parent, id)
        node = self._nodes[id]
        is_long = node.tries >= ROW_MIN and self._now_s - node.row_s >= containment.row_s
        self._note_death(id, containment, exit)
        if not node.escalation and (is_long or not may_go_on):
            self._contain(parent, containment, id, exit)
        elif node.escalation and not has_lasted:
            self._set(id, phase=Phase.CONTAINED)
            self._timer(id, containment.retry_s)
            self.commands.append(Note(id, "restarted", exit.reason, exit))
        else:
            self._restart(parent, id, exit)

    def _note_death(self, id: str, containment: Containment, exit: ProcessExit) -> None:
        """Page for a child that dies slowly enough never to escalate, once an hour."""
        node = self._nodes[id]
        deaths = (self._now_s, *(at for at in node.deaths if at > self._now_s - HOUR_S))
        self._set(id, deaths=deaths)
        is_paged = bool(node.escalation) or self._now_s - node.unstable_s < HOUR_S
        if len(deaths) > containment.deaths_hour_max and not is_paged:
            self._set(id, unstable_s=self._now_s)
            self.commands.append(_unstable_page(id, len(deaths), exit))

    def _count(self, parent: SupervisorSpec, id: str) -> bool:
        """Note one more restart; return whether the window allows it."""
        window = self._nodes[parent.id].window
        is_each = self._containment(parent) is not None
        counted = tuple(at for at, child in window if child == id or not is_each)
        _, may_go_on = note_restart(counted, self._now_s, parent.limit)
        kept = tuple((at, child) for at, child in window if at >= self._now_s - parent.limit.period_s)
        self._set(parent.id, window=((self._now_s, id), *kept))
        return may_go_on

    def _restart(self, parent: SupervisorSpec, id: str, exit: ProcessExit) -> None:
        tries = self._nodes[id].tries
        wait_s = backoff_s(tries, parent.backoff, draw=jitter_draw(id, tries, self._now_s))
        self._set(id, phase=Phase.WAITING)
        if wait_s > 0:
            self._timer(id, wait_s)
        self.commands.append(Note(id, "restarted", exit.reason, exit))

    def _escalate(self, parent: SupervisorSpec, id: str, exit: ProcessExit) -> None:
        text = f"{_exceeded_text(parent)}, the last of {id}: {exit.reason}"
        self.commands.append(Note(parent.id, "escalated", text, exit))
        self.commands.append(_branch_escalated_page(parent.id, text))
        self._set(parent.id, has_failed=True)
        self._stop_supervisor(parent, text)

    def _contain(self, parent: SupervisorSpec, containment: Containment, id: str, exit: ProcessExit) -> None:
        """Page, and start the child alone from now on, every `retry_s`."""
        why = _escalation_text(parent, self._nodes[id], exit, self._now_s)
        self._forget(parent, id)
        self._set(id, phase=Phase.CONTAINED, escalation=why)
        self._timer(id, containment.retry_s)
        self.commands.append(Note(id, "escalated", why, exit))
        self.commands.append(_escalated_page(id, why, containment.retry_s))

    # ── ending ───────────────────────────────────────────────────────────────────────────────────
    def _mark_stopping(self, spec: Spec, why: str) -> None:
        """Mark a node to end, in its turn, and to start again unless it leaves the tree."""
        node = self._nodes[spec.id]
        then = Phase.WAITING
        if spec.id in self._leaving or (node.is_marked and node.then is Phase.IDLE and not node.has_failed):
            then = Phase.IDLE
        if self._is_alive(spec):
            self._set(
                spec.id,
                is_marked=True,
                then=then,
                why=node.why if node.is_marked else why,
                has_failed=False,
            )
        else:
            self._set(spec.id, phase=then, timer=0)

    def _stop_supervisor(self, spec: SupervisorSpec, why: str) -> None:
        """End all its children, in reverse; none of them comes back unless it does."""
        if self._nodes[spec.id].phase in (Phase.IDLE, Phase.STOPPING) and not self._is_alive(spec):
            return
        self._set(spec.id, phase=Phase.STOPPING, is_marked=True, timer=0, why=why)
        for child in spec.children:
            if self._is_alive(child):
                self._set(child.id, is_marked=True, then=Phase.IDLE, why=why, has_failed=False)
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
        """Set a branch that is not alive to idle."""
        for child in spec.children if isinstance(spec, SupervisorSpec) else ():
            self._set(child.id, phase=Phase.IDLE, timer=0)
            self._rest(child)

    def _down(self, id: str) -> None:
        """Note that a node has ended as it had to."""
        node = self._nodes[id]
        phase = Phase.IDLE if node.has_failed else node.then
        self._set(id, phase=phase, is_marked=False, then=Phase.IDLE, timer=0, window=(), has_failed=False)
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
        """Stop each marked child for which no marked sibling that started after it is left."""
        marked = [child for child in spec.children if self._nodes[child.id].is_marked]
        # what was looked for below it is not there
        for child in [child for child in marked if not self._is_alive(child)]:
            self._rest(child)
            self._down(child.id)
            return True
        if not marked:
            return False
        order = self._order_of(spec)
        ready = [
            c
            for c in marked
            if self._nodes[c.id].phase in (*ACTIVE, Phase.WAITING) and not any(c.id in order[o.id] for o in marked)
        ]
        for child in reversed(ready):
            self._stop(child)
        return bool(ready)

    def _start_next(self, spec: SupervisorSpec) -> bool:
        """Start each child whose turn and time have come; the supervisor is up when all its children once were."""
        node = self._nodes[spec.id]
        if node.phase not in ACTIVE or not self._runs(spec):
            return False
        ready = [c for c in spec.children if self._nodes[c.id].phase is Phase.WAITING and not self._nodes[c.id].timer]
        ready = [c for c in ready if all(map(self._has_come_up, self._order_of(spec)[c.id]))]
        for child in ready:
            self._start(child)
        if node.phase is Phase.STARTING and all(self._has_come_up(child.id) for child in spec.children):
            self._set(spec.id, phase=Phase.UP, was_up=True, up_s=self._now_s)
            return True
        return bool(ready)

    def _start(self, spec: Spec) -> None:
        node = self._nodes[spec.id]
        if isinstance(spec, SupervisorSpec):
            self._set(spec.id, phase=Phase.STARTING)
            for child in spec.children:
                if self._nodes[child.id].phase in (Phase.IDLE, Phase.WAITING):
                    self._set(child.id, phase=Phase.WAITING, was_up=False, tries=0)
            return
        self._set(spec.id, phase=Phase.STARTING, run=node.run + 1)
        self.commands.append(Start(spec.id, node.run + 1))

    def _has_come_up(self, id: str) -> bool:
        node = self._nodes[id]
        return (node.was_up and not node.is_marked) or node.phase is Phase.CONTAINED

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

    def _runs(self, spec: SupervisorSpec) -> bool:
        """Return whether a supervisor is wanted to run, as are all above it."""
        node = self._nodes[spec.id]
        is_wanted = node.phase in (Phase.WAITING, *ACTIVE) and not node.is_marked
        return is_wanted and (spec.id not in self._parents or self._runs(self._parents[spec.id]))

    def _order_of(self, spec: SupervisorSpec) -> dict[str, frozenset[str]]:
        if spec.id not in self._order:
            self._order[spec.id] = predecessors(spec)
        return self._order[spec.id]


def _rows(tree: SupervisorSpec) -> dict[str, object]:
    """Return what makes each node what it is: a worker's whole row, of a supervisor only its place."""
    return {child.id: (parent.id, child if isinstance(child, ChildSpec) else None) for parent, child in edges(tree)} | {
        tree.id: None
    }


# ── pages: what happened, and what the reader can do ──
def _exceeded_text(spec: SupervisorSpec) -> str:
    """Return in words that the window of a supervisor was exceeded."""
    return f"more than {spec.limit.restarts_max} restarts in {spec.limit.period_s:g} s"


def _escalation_text(parent: SupervisorSpec, node: Node, exit: ProcessExit, now_s: float) -> str:
    """Return why a child escalated."""
    row = f"{node.tries} deaths in {now_s - node.row_s:.0f} s, none after {parent.backoff.reset_s:g} s up"
    return f"{row}; the last: {exit.reason}"


def _escalated_page(id: str, why: str, retry_s: float) -> SendPage:
    """Return the page for a child that is contained from now on."""
    text = f"{id}: {why}; the others run on; it is started again every {retry_s:g} s until you end that"
    return SendPage("child.escalated", id, f"{text}: 'fks restart {id}'; see 'fks events {id} --full'")


def _branch_escalated_page(id: str, why: str) -> SendPage:
    """Return the page for a supervisor that ends its children and leaves the rest to its parent."""
    return SendPage("child.escalated", id, f"{id}: {why}; all its children start anew")


def _unstable_page(id: str, deaths: int, exit: ProcessExit) -> SendPage:
    """Return the page for a child that dies too often within an hour, and too seldom to escalate."""
    text = f"{id}: {deaths} deaths within an hour, the last: {exit.reason}"
    return SendPage("child.unstable", id, f"{text}; it is restarted each time; see 'fks events {id} --full'")
