"""OTP's supervisor as one pure function: (state, what happened, now) -> (state, what to do).

Sources: the OTP design principles on supervisors, the reference manual of `supervisor`, and its source
(`restart/2`, `terminate_children/2`, `add_restart/1` of supervisor.erl). Taken over as they are:

- permanent, transient, temporary; a transient child whose exit is `shutdown` is not restarted, so a transient
  *supervisor* that ends because its window was exceeded stays down.
- one_for_one restarts the child alone, one_for_all ends and starts all, rest_for_one those listed after it; those are
  ended in reverse order of start, one after another, and started in order when all have ended. A temporary child that is
  ended so does not come back; a transient one that was done does.
- intensity and period per supervisor, over all its direct children; a start that fails counts as one more restart.
- past it the supervisor ends all its children in reverse order, then its parent treats it as a child that exited.

Ours, beyond OTP: starts and stops take time, and other children are looked after meanwhile. Under one_for_one children
start together unless `after` says otherwise. A start that fails the first time is retried like any other, instead of
failing the whole tree. There is a wait before the restart of a child that did not last (`Backoff`). The root does not
end: it gives up the branch that failed, pages, tries again after six times the longest wait, and counts each branch for
itself, so that no branch uses up the patience meant for another. A restart that a person wants is not counted. The tree may change while it runs.
Not taken over: `significant` children and auto_shutdown.

How it works: an event changes what is wanted of some nodes; `settle` then does whatever has become possible, until
nothing has. `fks.supervision.opentree` knows the order of stops and the order of starts, here is what is wanted and why.
"""

from __future__ import annotations

from fks.supervision.exits import Exit, How
from fks.supervision.opentree import ACTIVE, ALIVE, OpenTree, Spec, edges
from fks.supervision.policy import backoff_s, luck_of, note_restart
from fks.supervision.spec import ChildSpec, RestartType, Strategy, SupervisorSpec
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
    Page,
    Phase,
    Remembered,
    RestartWanted,
    Started,
    StopWanted,
    TimerFired,
    TreeState,
    TreeWanted,
)  # fmt: skip

RETRY_FACTOR = 6.0  # a branch given up is tried again after so many longest waits


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
            case Remembered(ages):
                self._remember(dict(ages))
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

    def _remember(self, ages: dict[str, tuple[float, ...]]) -> None:
        """Refill the windows. A branch that was itself restarted since began with an empty one; the root goes on."""
        for id, spec in self._specs.items():
            if not isinstance(spec, SupervisorSpec):
                continue
            began = min(ages.get(id, ()) if id != self._tree.id else (), default=float("inf"))
            old = [
                (self._now_s - age, child.id)
                for child in spec.children for age in ages.get(child.id, ()) if age <= min(began, spec.limit.period_s)
            ]  # fmt: skip
            self._set(id, window=tuple(sorted([*self._nodes[id].window, *old], reverse=True)))

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
                if node.phase is Phase.GIVEN_UP:
                    self._set(id, phase=Phase.WAITING, tries=0)
                    self.commands.append(Note(id, "retried", "the time for another try has come"))
                self._set(id, timer=0)
                return

    def _restart_wanted(self, id: str, why: str) -> None:
        if id == self._tree.id:
            for child in self._tree.children:
                self._restart_wanted(child.id, why)
            return
        if id not in self._parents or id in self._leaving or self._nodes[self._parents[id].id].phase not in ACTIVE:
            return
        self._set(id, tries=0)
        if self._is_alive(self._specs[id]):
            self._doom(self._specs[id], why)
        else:
            self._set(id, phase=Phase.WAITING, timer=0)

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
        has_lasted = node.was_up and self._now_s - node.up_s >= parent.backoff.reset_s
        self._set(id, phase=Phase.IDLE, is_doomed=False, tries=1 if has_lasted else node.tries + 1)
        if self._count(parent, id):
            self._restart(parent, id, exit)
        elif parent.id == self._tree.id:
            self._give_up(parent, id, exit)
        else:
            self._escalate(parent, id, exit)

    def _count(self, parent: SupervisorSpec, id: str) -> bool:
        """Note one more restart; return whether the window allows it. The root counts each branch for itself."""
        window = self._nodes[parent.id].window
        is_root = parent.id == self._tree.id
        counted = tuple(at for at, child in window if child == id or not is_root)
        _, may_go_on = note_restart(counted, self._now_s, parent.limit)
        kept = tuple((at, child) for at, child in window if at >= self._now_s - parent.limit.period_s)
        self._set(parent.id, window=((self._now_s, id), *kept))
        return may_go_on

    def _restart(self, parent: SupervisorSpec, id: str, exit: Exit) -> None:
        tries = self._nodes[id].tries
        wait_s = backoff_s(tries, parent.backoff, luck=luck_of(id, tries, self._now_s))
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
        text = f"{_exceeded(parent)}, the last of {id}: {exit.reason}"
        self.commands.append(Note(parent.id, "escalated", text, exit))
        self.commands.append(Page("child.escalated", parent.id, f"{parent.id}: {text}; all its children start anew"))
        self._set(parent.id, has_failed=True)
        self._stop_supervisor(parent, text)

    def _give_up(self, root: SupervisorSpec, id: str, exit: Exit) -> None:
        retry_s = root.backoff.max_s * RETRY_FACTOR
        text = f"{_exceeded(root)}, the last: {exit.reason}"
        window = tuple((at, child) for at, child in self._nodes[root.id].window if child != id)
        self._set(root.id, window=window)
        self._set(id, phase=Phase.GIVEN_UP)
        self._timer(id, retry_s)
        self.commands.append(Note(id, "given_up", text, exit))
        self.commands.append(
            Page("child.given_up", id, f"{id}: {text}; given up, the others run on; tried again in {retry_s:g} s")
        )

def _rows(tree: SupervisorSpec) -> dict[str, object]:
    """Return what makes each node what it is: a worker's whole row, of a supervisor only its place."""
    return {
        child.id: (parent.id, child if isinstance(child, ChildSpec) else None) for parent, child in edges(tree)
    } | {tree.id: None}


def _exceeded(spec: SupervisorSpec) -> str:
    return f"more than {spec.limit.restarts_max} restarts in {spec.limit.period_s:g} s"
