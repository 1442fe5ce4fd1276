"""OTP's supervisor as one pure function: (state, what happened, now) -> (state, what to do).

Sources: the OTP design principles on supervisors, the reference manual of `supervisor`, and its source
(`restart/2`, `terminate_children/2`, `add_restart/1` of supervisor.erl). Taken over as they are:

- permanent, transient, temporary; a transient child whose exit is `shutdown` is not restarted, so a transient
  *supervisor* that ends because its window was exceeded stays down.
- one_for_one restarts the child alone, one_for_all ends and starts all, rest_for_one those listed after it; those are
  ended in reverse order of start, one after another, and started in order when all have ended. A temporary child that
  is ended so does not come back; a transient one that was done does.
- intensity and period per supervisor, over all its direct children; a start that fails counts as one more restart.
- past it the supervisor ends all its children in reverse order, then its parent treats it as a child that exited.

Ours, beyond OTP: starts and stops take time, and other children are looked after meanwhile. Under one_for_one children
start together unless `after` says otherwise. A start that fails the first time is retried like any other, instead of
failing the whole tree. A child that did not last is restarted after a wait (`RestartBackoff`). A supervisor with
`Containment`, and the root, does not end: each of its children is counted for itself, and one that died too often in a
row escalates alone. It is paged, started again every `retry_s`, and stays escalated until a person restarts it. A
restart that a person wants is not counted. The tree may change while it runs.
Not taken over: `significant` children and auto_shutdown.

How it works: an event changes what is wanted of some nodes; `settle` then does whatever has become possible, until
nothing has. `fks.supervision.opentree` knows the order of stops and the order of starts, here is what is wanted and
why.
"""

from __future__ import annotations

from fks.supervision import pages
from fks.supervision.exits import Exit, How
from fks.supervision.opentree import ACTIVE, ALIVE, OpenTree, Spec, edges
from fks.supervision.policy import backoff_s, jitter_draw, note_restart
from fks.supervision.spec import ChildSpec, Containment, RestartType, Strategy, SupervisorSpec
from fks.supervision.state import (
    Adopted,
    Begin,
    Command,
    Event,
    Exited,
    Find,
    Missing,
    Node,
    Note,
    Phase,
    Remembered,
    RestartWanted,
    Started,
    StopWanted,
    TimerFired,
    TreeState,
    TreeWanted,
)

HOUR_S = 3600.0
ROW_MIN = 3  # deaths in a row before the time that they took counts


def decide(state: TreeState, event: Event, now_s: float) -> tuple[TreeState, tuple[Command, ...]]:
    """Return the state after `event` and what is to be done, in this order. `now_s` is monotonic.

    Never raises for an event that comes late, twice or for a child that is not there: it changes nothing.
    """
    machine = _Machine(state, now_s)
    machine.take(event)
    machine.settle()
    return machine.state(), tuple(machine.commands)


class _Machine(OpenTree):
    """One decision under way."""

    def settle(self) -> None:
        """Do what has become possible, until nothing more has."""
        while self._settle(self._tree) or self._report_failures() or self._change():
            pass

    def _report_failures(self) -> bool:
        """Tell the parents of the supervisors that have ended because their windows were exceeded."""
        ended, self._ended_by_itself = self._ended_by_itself, []
        for id, why in ended:
            self._failed(id, Exit(How.CRASH, why), may_return=False)
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
            case Missing(id):
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
        self._is_taking_over = True
        for _, child in edges(self._tree):
            self._bring_in(child)

    def _bring_in(self, child: Spec) -> None:
        """A node of a running tree whose past nobody here knows: workers are looked for first."""
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
        self._looked_for(id)

    def _missing(self, id: str) -> None:
        if not self._is(id, None, Phase.FINDING):
            return
        if self._nodes[id].is_doomed:
            self._down(id)
        else:
            self._set(id, phase=Phase.WAITING)
        self._looked_for(id)

    def _looked_for(self, id: str) -> None:
        """When the last of a group was looked for at the beginning: those whose fate is a missing one's end with it."""
        parent: SupervisorSpec | None = self._parents[id]
        while self._is_taking_over and parent is not None and not self._is_sought(parent):
            if parent.strategy is not Strategy.ONE_FOR_ONE:
                self._avenge(parent)
            parent = self._parents.get(parent.id)
        self._is_taking_over = self._is_taking_over and self._is_sought(self._tree)

    def _avenge(self, parent: SupervisorSpec) -> None:
        for child in parent.children:
            if self._nodes[child.id].phase is not Phase.WAITING:
                continue
            for other in self._fellows(parent, child.id):
                if self._nodes[other.id].phase in ACTIVE:
                    self._doom(other, f"{child.id} ended while there was no supervisor", is_afresh=True)

    def _came_up(self, id: str, event: str) -> None:
        self._set(id, phase=Phase.UP, was_up=True, up_s=self._now_s)
        self.commands.append(Note(id, event, ""))

    def _exited(self, id: str, run: int, exit: Exit) -> None:
        if not self._is(id, run, *ALIVE):
            return
        node = self._nodes[id]
        self.commands.append(Note(id, "exited", exit.reason, exit))
        if node.is_doomed or node.phase is Phase.STOPPING:
            self._down(id)
        else:
            self._failed(id, exit, may_return=not exit.is_normal)

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
            self._doom(self._specs[id], why)
        else:
            self._set(id, phase=Phase.WAITING, timer=0)

    def _clear(self, spec: Spec, why: str) -> None:
        """Forget the deaths of a node and of all below it: a person has taken it in hand."""
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
            if not self._nodes[id].is_doomed and self._nodes[id].phase is Phase.IDLE:
                self._set(id, phase=Phase.WAITING)
            self._set(id, then=Phase.WAITING)
        self._wanted, self._leaving = tree, frozenset(leaving)
        for id in leaving:
            if self._parents[id].id not in leaving:
                event = "changed" if id in new else "removed"
                if not self._nodes[id].is_doomed:
                    self.commands.append(Note(id, event, "the tree is to be another"))
                self._clear(self._specs[id], f"{event} in the tree")
                self._doom(self._specs[id], f"{event}: the tree is to be another")

    def _change(self) -> bool:
        """Put the wanted tree in force, once nothing that leaves it lives."""
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
    def _failed(self, id: str, exit: Exit, *, may_return: bool) -> None:
        """A child ended unasked. `may_return`: its end was no orderly one, so a transient child is restarted."""
        spec, parent, node = self._specs[id], self._parents[id], self._nodes[id]
        if not self._runs(parent):  # what is to end anyway takes no notice
            self._set(id, phase=Phase.IDLE, is_doomed=False)
            return
        if spec.restart is RestartType.TEMPORARY or (spec.restart is RestartType.TRANSIENT and not may_return):
            self._set(id, phase=Phase.DONE, is_doomed=False)
            self.commands.append(Note(id, "done", exit.reason, exit))
            return
        is_up = node.phase is Phase.UP or (isinstance(spec, SupervisorSpec) and node.was_up)
        has_lasted = is_up and self._now_s - node.up_s >= parent.backoff.reset_s
        tries = 1 if has_lasted else node.tries + 1
        row_s = self._now_s if tries == 1 else node.row_s
        self._set(id, phase=Phase.IDLE, is_doomed=False, tries=tries, row_s=row_s)
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
        self, parent: SupervisorSpec, containment: Containment, id: str, exit: Exit, *, has_lasted: bool
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

    def _note_death(self, id: str, containment: Containment, exit: Exit) -> None:
        """Page for a child that dies slowly enough never to escalate, once an hour."""
        node = self._nodes[id]
        deaths = (self._now_s, *(at for at in node.deaths if at > self._now_s - HOUR_S))
        self._set(id, deaths=deaths)
        is_paged = bool(node.escalation) or self._now_s - node.unstable_s < HOUR_S
        if len(deaths) > containment.deaths_hour_max and not is_paged:
            self._set(id, unstable_s=self._now_s)
            self.commands.append(pages.unstable(id, len(deaths), exit))

    def _count(self, parent: SupervisorSpec, id: str) -> bool:
        """Note one more restart; return whether the window allows it."""
        window = self._nodes[parent.id].window
        is_each = self._containment(parent) is not None
        counted = tuple(at for at, child in window if child == id or not is_each)
        _, may_go_on = note_restart(counted, self._now_s, parent.limit)
        kept = tuple((at, child) for at, child in window if at >= self._now_s - parent.limit.period_s)
        self._set(parent.id, window=((self._now_s, id), *kept))
        return may_go_on

    def _restart(self, parent: SupervisorSpec, id: str, exit: Exit) -> None:
        tries = self._nodes[id].tries
        wait_s = backoff_s(tries, parent.backoff, draw=jitter_draw(id, tries, self._now_s))
        self._set(id, phase=Phase.WAITING)
        if wait_s > 0:
            self._timer(id, wait_s)
        self.commands.append(Note(id, "restarted", exit.reason, exit))
        if parent.strategy is not Strategy.ONE_FOR_ONE:
            self._set(id, was_up=False)
        for other in self._fellows(parent, id):
            self._doom(other, f"{id} ended", is_afresh=True)

    def _fellows(self, parent: SupervisorSpec, id: str) -> tuple[Spec, ...]:
        """Return the siblings that end when `id` does."""
        index = [child.id for child in parent.children].index(id)
        match parent.strategy:
            case Strategy.ONE_FOR_ALL:
                return (*parent.children[:index], *parent.children[index + 1 :])
            case Strategy.REST_FOR_ONE:
                return parent.children[index + 1 :]
            case _:
                return ()

    def _escalate(self, parent: SupervisorSpec, id: str, exit: Exit) -> None:
        text = f"{pages.exceeded(parent)}, the last of {id}: {exit.reason}"
        self.commands.append(Note(parent.id, "escalated", text, exit))
        self.commands.append(pages.branch_escalated(parent.id, text))
        self._set(parent.id, has_failed=True)
        self._stop_supervisor(parent, text)

    def _contain(self, parent: SupervisorSpec, containment: Containment, id: str, exit: Exit) -> None:
        """Page, and start the child alone from now on, every `retry_s`."""
        why = pages.escalation(parent, self._nodes[id], exit, self._now_s)
        self._forget(parent, id)
        self._set(id, phase=Phase.CONTAINED, escalation=why)
        self._timer(id, containment.retry_s)
        self.commands.append(Note(id, "escalated", why, exit))
        self.commands.append(pages.escalated(id, why, containment.retry_s))


def _rows(tree: SupervisorSpec) -> dict[str, object]:
    """Return what makes each node what it is: a worker's whole row, of a supervisor only its place."""
    return {child.id: (parent.id, child if isinstance(child, ChildSpec) else None) for parent, child in edges(tree)} | {
        tree.id: None
    }
