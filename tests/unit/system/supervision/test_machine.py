"""The machine with delayed answers: for every interleaving no child runs twice, the order holds and the tree comes to
rest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.system.supervision import (
    ChildSpec,
    How,
    Intensity,
    ProcessExit,
    RestartBackoff,
    SupervisorSpec,
    TreeState,
    check_tree,
    decide,
)
from fks.system.supervision.spec import edges, predecessors
from fks.system.supervision.state import (
    Adopted,
    Begin,
    Command,
    Event,
    Exited,
    Find,
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
    TreeWanted,
)

CRASH, ASKED = ProcessExit(How.CRASH, "died"), ProcessExit(How.NORMAL, "asked")


def worker(id: str, *after: str) -> ChildSpec:
    return ChildSpec(id, "r", 1.0, after=after)


def branch(
    id: str,
    *children: ChildSpec | SupervisorSpec,
    limit: int = 3,
    after: tuple[str, ...] = (),
    backoff: RestartBackoff | None = None,
) -> SupervisorSpec:
    return SupervisorSpec(
        id,
        children,
        Intensity(limit, 10.0),
        after,
        backoff or RestartBackoff(first_s=0.5, max_s=4.0),
    )


@dataclass
class World:
    """Processes that answer commands when the test lets them, with a check of every command."""

    state: TreeState
    living: set[str] = field(default_factory=set)  # found alive, when looked for
    alive: dict[str, int] = field(default_factory=dict)
    pending: list[Command] = field(default_factory=list)
    now: float = 100.0
    log: list[Command] = field(default_factory=list)
    pages: list[SendPage] = field(default_factory=list)
    counted: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    excused: set[str] = field(default_factory=set)  # restarted by a person, or leaving: alone, out of order
    is_ending: bool = False

    def post(self, event: Event) -> None:
        before = self.state
        self.state, commands = decide(self.state, event, self.now)
        for command in commands:
            self.log.append(command)
            self.check(command, before)
            if isinstance(command, Find | Start | Stop | Timer):
                self.pending.append(command)

    def check(self, command: Command, before: TreeState) -> None:
        match command:
            case Start(id, run):
                assert not self.is_ending, f"{id} started after the end"
                assert id not in self.alive, f"{id} runs twice"
                self.alive[id] = run
            case Stop(id, run):
                assert self.alive.get(id) == run
                if self.is_ending:
                    self.in_order(id)
            case SendPage():
                self.pages.append(command)
            case Note(id, "restarted") if not self.state.nodes[id].escalation:
                self.count(id)
            case Note(id, "escalated"):
                self.counted.pop(id, None)
                for window in self.counted.values():
                    window[:] = [entry for entry in window if entry[1] != id]

    def in_order(self, id: str) -> None:
        """At the end, whatever starts after `id` is not alive when it is stopped."""
        parents = {child.id: parent for parent, child in edges(self.state.tree)}
        if id in self.excused or self.excused & {self.state.tree.id, *parents}:
            return
        while id in parents:
            parent = parents[id]
            order = predecessors(parent)
            for child in (child for child in parent.children if id in order[child.id]):
                names = {w.id for w in child.workers()} if isinstance(child, SupervisorSpec) else {child.id}
                assert not names & set(self.alive), f"{id} stops before {names} ended"
            if self.state.nodes[parent.id].phase is not Phase.STOPPING:
                return  # a matter of this supervisor's children alone
            id = parent.id

    def count(self, id: str) -> None:
        """No window is ever exceeded by a restart that was done: past it there is an escalation instead."""
        parents = {child.id: parent for parent, child in edges(self.state.tree)}
        parent = parents[id]
        if self.excused & {self.state.tree.id, *parents}:
            return  # a supervisor that a person restarted began with an empty window
        key = parent.id if parent.id != self.state.tree.id else f"{parent.id}/{id}"
        self.counted.setdefault(key, []).append((self.now, id))
        recent = [at for at, _ in self.counted[key] if self.now - at <= parent.limit.period_s]
        assert len(recent) <= parent.limit.restarts_max, f"{key} was exceeded without escalating"

    def answer(self, index: int, *, succeeds: bool = True) -> None:
        """Let one of the pending commands come true."""
        command = self.pending.pop(index % len(self.pending))
        match command:
            case Find(id, run) if id in self.living:
                self.living.discard(id)
                self.alive[id] = run
                self.post(Adopted(id, is_up=succeeds))
                if not succeeds:
                    self.pending.append(Start(id, run))
            case Find(id):
                self.post(NotFound(id))
            case Start(id, run) if self.alive.get(id) == run:
                if not succeeds:
                    del self.alive[id]
                self.post(Started(id, run) if succeeds else Exited(id, run, ProcessExit(How.FAILED_START, "no")))
            case Stop(id, run):
                if self.alive.get(id) == run:
                    del self.alive[id]
                    self.post(Exited(id, run, ASKED))
            case Timer(token):
                self.post(TimerFired(token))

    def kill(self, index: int, end: ProcessExit = CRASH) -> None:
        started = [id for id in sorted(self.alive) if self.state.nodes[id].phase is not Phase.FINDING]
        if started:
            id = started[index % len(started)]
            self.post(Exited(id, self.alive.pop(id), end))

    def calm(self) -> None:
        """Let everything come true, timers last, until nothing is under way."""
        for _ in range(3000):
            if not self.pending:
                return
            ready = [i for i, c in enumerate(self.pending) if not isinstance(c, Timer)]
            if not ready:
                self.now += 100.0
            self.answer(ready[0] if ready else 0)
        raise AssertionError("it never comes to rest")

    def starts_and_stops(self) -> list[str]:
        return [f"{type(c).__name__.lower()} {c.id}" for c in self.log if isinstance(c, Start | Stop)]


def running(tree: SupervisorSpec, *living: str) -> World:
    world = World(TreeState.of(tree), set(living))
    world.post(Begin())
    world.calm()
    world.log.clear()
    return world


# ── every interleaving ───────────────────────────────────────────────────────────────────────────
@st.composite
def trees(draw: st.DrawFn) -> SupervisorSpec:
    count = iter(range(1000))

    def child(depth: int, siblings: list[str]) -> ChildSpec | SupervisorSpec:
        after = tuple(draw(st.lists(st.sampled_from(siblings), max_size=1))) if siblings else ()
        if depth == 0 or draw(st.booleans()):
            found: ChildSpec | SupervisorSpec = worker(f"w{next(count)}", *after)
        else:
            found = branch(
                f"s{next(count)}",
                *children(depth - 1),
                limit=draw(st.integers(0, 3)),
                after=after,
            )
        siblings.append(found.id)
        return found

    def children(depth: int) -> list[ChildSpec | SupervisorSpec]:
        siblings: list[str] = []
        return [child(depth, siblings) for _ in range(draw(st.integers(1, 3)))]

    return branch("top", *children(2), limit=draw(st.integers(0, 3)))


steps = st.lists(
    st.tuples(
        st.sampled_from(["answer"] * 6 + ["fail", "kill", "kill", "end", "later", "ask", "change", "again"]),
        st.integers(0, 50),
    ),
    max_size=50,
)


def changed(tree: SupervisorSpec, choice: int, fresh: str) -> SupervisorSpec:
    """Take one branch out, put one in, or change one's row. `fresh` names what is new."""
    first, *rest = tree.children
    match choice % 3:
        case 0 if rest and not any(first.id in child.after for child in rest):
            return replace(tree, children=tuple(rest))
        case 1:
            return replace(tree, children=(*tree.children, worker(fresh)))
    if isinstance(first, ChildSpec):
        return replace(tree, children=(replace(first, args=(fresh,)), *rest))
    grown = replace(first, children=(*first.children, worker(fresh)))
    return replace(tree, children=(grown, *rest))


@given(trees(), st.sets(st.integers(0, 12)), steps, st.booleans())
def test_invariants_hold_for_every_interleaving(
    tree: SupervisorSpec, living: set[int], steps: list[tuple[str, int]], is_ended: bool
) -> None:
    world = World(TreeState.of(tree), {f"w{number}" for number in living} & {w.id for w in tree.workers()})
    world.excused = set(world.living)  # adopted children need not have been started in order
    world.post(Begin())
    wanted = tree
    for number, (what, choice) in enumerate(steps):
        match what:
            case "answer" | "fail" if world.pending:
                world.answer(choice, succeeds=what == "answer")
            case "kill" | "end":
                world.kill(choice, CRASH if what == "kill" else ASKED)
            case "later":
                world.now += choice / 5
            case "ask":
                id = sorted(world.state.nodes)[choice % len(world.state.nodes)]
                world.excused.add(id)
                world.post(RestartWanted(id, "a person"))
            case "change":
                wanted = changed(wanted, choice, f"new{number}")
                world.excused |= {child.id for _, child in edges(wanted)}
                check_tree(wanted)
                world.post(TreeWanted(wanted))
            case "again":
                world.post(Started("w0", choice))  # of a run that is long over, or never was
    if not is_ended:
        world.calm()
        assert_all_is_well(world, wanted)
    world.is_ending = True
    world.excused -= set(world.alive)
    world.post(StopWanted())
    world.calm()
    assert not world.alive
    assert world.state.is_stopped
    before = len(world.log)
    for id in world.state.nodes:
        world.post(RestartWanted(id, "too late"))
        world.post(Started(id, world.state.nodes[id].run))
    assert not [c for c in world.log[before:] if isinstance(c, Start | Stop | Find | Timer)]


def assert_all_is_well(world: World, wanted: SupervisorSpec) -> None:
    """At rest the tree is the wanted one, and every child is up."""
    assert world.state.tree == wanted
    assert set(world.state.nodes) == {wanted.id, *(child.id for _, child in edges(wanted))}

    def check(spec: SupervisorSpec) -> None:
        for child in spec.children:
            phase = world.state.nodes[child.id].phase
            assert phase is Phase.UP, (child.id, phase)
            if isinstance(child, SupervisorSpec):
                check(child)
            else:
                assert child.id in world.alive

    check(wanted)


# ── examples, one sentence each ──────────────────────────────────────────────────────────────────
def test_branch_past_its_window_ends_in_reverse_and_restarts() -> None:
    world = running(branch("top", branch("s", worker("a"), worker("b", "a"), limit=1), worker("c")))
    for _ in range(2):
        world.post(Exited("a", world.alive.pop("a"), CRASH))
        world.calm()
    assert world.starts_and_stops() == ["start a", "stop b", "start a", "start b"]
    assert [page.event for page in world.pages] == ["child.escalated"]


def test_root_contains_one_child_and_retries_it_after_a_minute() -> None:
    world = running(branch("top", worker("a"), worker("b"), limit=1))
    for _ in range(2):
        world.post(Exited("a", world.alive.pop("a"), CRASH))
        for index, command in reversed(list(enumerate(world.pending))):
            if not isinstance(command, Timer):
                world.answer(index)
    assert world.state.nodes["a"].phase is Phase.CONTAINED
    assert "b" in world.alive
    assert [(timer.after_s) for timer in world.pending if isinstance(timer, Timer)] == [60.0]
    assert [page.event for page in world.pages] == ["child.escalated"]
    world.calm()
    assert "a" in world.alive


def test_the_patience_meant_for_one_branch_is_not_used_up_by_another() -> None:
    world = running(branch("top", worker("a"), worker("b"), limit=2))
    for id in ("a", "a", "b", "b"):
        world.post(Exited(id, world.alive.pop(id), CRASH))
        world.pending.sort(key=lambda command: isinstance(command, Timer))
        while world.pending:
            world.answer(0)
    assert not world.pages


def test_waits_double_and_a_child_that_lasted_starts_without_one() -> None:
    world = running(branch("top", worker("a"), limit=100, backoff=RestartBackoff(1.0, 5.0, jitter=0.0, reset_s=60.0)))
    waits = []
    for lived_s in (0.0, 1.0, 1.0, 1.0, 1.0, 61.0):
        world.now += lived_s
        world.post(Exited("a", world.alive.pop("a"), CRASH))
        timers = [command for command in world.pending if isinstance(command, Timer)]
        waits.append(timers[0].after_s if timers else 0.0)
        while world.pending:
            world.answer(0)
    assert waits == [0.0, 1.0, 2.0, 4.0, 5.0, 0.0]


def test_a_restart_a_person_wants_is_drained_not_counted_and_ends_a_wait() -> None:
    world = running(branch("top", worker("a"), limit=0))
    for _ in range(5):
        world.post(RestartWanted("a", "a person"))
        world.calm()
    assert world.starts_and_stops() == ["stop a", "start a"] * 5
    world.post(Exited("a", world.alive.pop("a"), CRASH))
    assert world.state.nodes["a"].phase is Phase.CONTAINED
    world.post(RestartWanted("a", "a person"))
    assert world.starts_and_stops()[-1] == "start a"


def test_a_restart_of_a_supervisor_takes_its_children_in_order() -> None:
    world = running(branch("top", branch("s", worker("a"), worker("b", "a")), worker("c", "s")))
    world.post(RestartWanted("s", "a person"))
    assert world.starts_and_stops() == ["stop b"], "a ends once b has ended"
    world.calm()
    assert world.starts_and_stops() == ["stop b", "stop a", "start a", "start b"]


def test_nothing_starts_before_those_it_names_came_up() -> None:
    world = World(TreeState.of(branch("top", branch("s", worker("a"), worker("b")), worker("c", "s"))))
    world.post(Begin())
    for _ in range(3):
        world.answer(0)
    assert world.starts_and_stops() == ["start a", "start b"]
    world.answer(0)
    assert world.starts_and_stops() == ["start a", "start b"]
    world.answer(0)
    assert world.starts_and_stops() == ["start a", "start b", "start c"]


def test_the_living_are_adopted_and_only_the_dead_are_started() -> None:
    world = World(
        TreeState.of(branch("top", branch("s", worker("a"), worker("b", "a")), branch("t", worker("c")))), {"b", "c"}
    )
    world.post(Begin())
    world.calm()
    assert world.starts_and_stops() == ["start a"]
    assert [note.id for note in world.log if isinstance(note, Note) and note.event == "adopted"] == ["b", "c"]


@pytest.mark.parametrize("younger_restart_of_s", [(), (4.0,)])
def test_windows_go_on_where_the_supervisor_before_left_them(younger_restart_of_s: tuple[float, ...]) -> None:
    world = running(branch("top", branch("s", worker("a"), worker("b"), limit=2)))
    world.post(Remembered({"a": (5.0, 11.0), "b": (6.0,), "s": younger_restart_of_s, "top": (1.0,)}))
    world.post(Exited("a", world.alive.pop("a"), CRASH))
    has_escalated = any(isinstance(note, Note) and note.event == "escalated" for note in world.log)
    assert has_escalated is not bool(younger_restart_of_s)


def test_changed_tree_stops_removed_and_starts_added_children_only() -> None:
    world = running(branch("top", branch("s", worker("a"), worker("b")), worker("c")))
    changed_b = replace(worker("b"), args=("new",))
    world.post(TreeWanted(branch("top", branch("s", worker("a"), changed_b, worker("d")), limit=9)))
    world.calm()
    assert sorted(world.starts_and_stops()) == ["start b", "start d", "stop b", "stop c"]
    assert set(world.alive) == {"a", "b", "d"}
    assert world.state.tree.limit.restarts_max == 9


def test_child_that_returns_to_the_tree_while_leaving_is_restarted() -> None:
    tree = branch("top", worker("a"), worker("b"))
    world = running(tree)
    world.post(TreeWanted(branch("top", worker("a"))))
    world.post(TreeWanted(tree))
    world.calm()
    assert set(world.alive) == {"a", "b"}


def test_events_of_another_life_change_nothing() -> None:
    world = running(branch("top", worker("a")))
    before = world.state
    for event in (
        Exited("a", 1, CRASH),
        Exited("nobody", 1, CRASH),
        Started("a", 99),
        TimerFired(7),
        NotFound("a"),
        Adopted("a"),
    ):
        world.post(event)
    assert world.state == before
