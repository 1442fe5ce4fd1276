"""Crash loops under the shipped settings, on a virtual clock: every child of the tree, start times and look-ups
included."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from actors.tree import tree_of
from fks.ai.engines.deployment import Deployment
from fks.config.settings import Settings, Strategies, Supervision
from fks.lab.chaos.kinds import SCENARIOS
from fks.lab.chaos.plan import Roster, make_plan
from fks.store.supervision import MONEY
from fks.system.supervision import How, ProcessExit, SupervisorSpec, TreeState, decide
from fks.system.supervision.policy import death_ages, row_ages
from fks.system.supervision.state import (
    Begin,
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
    Timer,
    TimerFired,
)

SETTINGS = Settings(strategies=Strategies(workers=2))
TREE = tree_of(SETTINGS, ["solo"], ["kraken"])
CHILDREN = [worker.id for worker in TREE.workers()]
MINUTES_5 = 300.0
DIED = ProcessExit(How.CRASH, "died")
#: seconds until a new process reports its first beat: at once, the usual, a slow machine, nearly the deadline
STARTS_S = (0.0, 2.0, 10.0, 29.0)

Life = Callable[[str, int], tuple[float, float | None]]  # (child, run) → (start, uptime), None: it lives for ever


@dataclass
class Clock:
    """A machine whose commands come true after the time they take. `ended` sums how long each child was not up."""

    tree: SupervisorSpec
    life: Life
    now: float = 0.0
    state: TreeState = field(init=False)
    queue: list[tuple[float, int, Event]] = field(default_factory=list)
    order: itertools.count[int] = field(default_factory=itertools.count)
    notes: list[tuple[float, Note]] = field(default_factory=list)
    pages: list[tuple[float, SendPage]] = field(default_factory=list)
    starts: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = TreeState.of(self.tree)
        self.later(0.0, Begin())

    def later(self, after_s: float, event: Event) -> None:
        heapq.heappush(self.queue, (self.now + after_s, next(self.order), event))

    def run(self, until_s: float) -> None:
        while self.queue and self.queue[0][0] <= until_s:
            self.now, _, event = heapq.heappop(self.queue)
            self.post(event)
        self.now = until_s

    def post(self, event: Event) -> None:
        self.state, commands = decide(self.state, event, self.now)
        for command in commands:
            match command:
                case Find(id):
                    self.later(0.0, NotFound(id))
                case Start(id, run):
                    self.starts.setdefault(id, []).append(self.now)
                    start_s, up_s = self.life(id, run)
                    self.later(start_s, Started(id, run))
                    if up_s is not None:
                        self.later(start_s + up_s, Exited(id, run, DIED))
                case Stop(id, run):
                    self.later(0.1, Exited(id, run, ProcessExit(How.NORMAL, "asked")))
                case Timer(token, after_s):
                    self.later(after_s, TimerFired(token))
                case Note():
                    self.notes.append((self.now, command))
                case SendPage():
                    self.pages.append((self.now, command))

    def kill(self, id: str) -> None:
        node = self.state.nodes[id]
        if node.phase in (Phase.STARTING, Phase.UP):
            self.post(Exited(id, node.run, DIED))

    def escalations(self) -> list[tuple[float, str]]:
        return [(at, note.id) for at, note in self.notes if note.event == "escalated"]


def loop_of(child: str, start_s: float, up_s: float) -> Life:
    return lambda id, run: (start_s, up_s) if id == child else (1.0, None)


@pytest.mark.parametrize("child", CHILDREN)
def test_a_crash_loop_of_any_child_escalates_within_five_minutes(child: str) -> None:
    for start_s, up_s in itertools.product(STARTS_S, [0.0, 0.1, 0.5, *map(float, range(1, 21))]):
        clock = Clock(TREE, loop_of(child, start_s, up_s))
        clock.run(MINUTES_5)
        assert [id for _, id in clock.escalations()] == [child], (start_s, up_s)
        assert [page.event for _, page in clock.pages] == ["child.escalated"], (start_s, up_s)
        assert {id: len(starts) for id, starts in clock.starts.items() if id != child} == dict.fromkeys(
            [other for other in CHILDREN if other != child], 1
        ), "its siblings run on"


@pytest.mark.parametrize("child", ["inference:small:0", "inference:words:0"])
def test_a_model_in_a_crash_loop_ends_no_other_process(child: str) -> None:
    """Neither its other replica, nor another engine, nor the one that embeds."""
    small = Deployment("small", "llama_cpp", "/m", sha256="a" * 64, size_bytes=1, replicas=2)
    words = replace(small, name="words", replicas=1, purpose="embed")
    tree = tree_of(SETTINGS, models=(small, words))
    for up_s in (0.0, 2.0, 20.0):
        clock = Clock(tree, loop_of(child, 1.0, up_s))
        clock.run(MINUTES_5)
        assert [id for _, id in clock.escalations()] == [child], up_s
        assert len(clock.starts[child]) > 5, up_s
        others = [worker.id for worker in tree.workers() if worker.id != child]
        assert {id: len(clock.starts[id]) for id in others} == dict.fromkeys(others, 1)


def test_a_child_that_never_comes_up_in_time_escalates() -> None:
    deadlines = [30.0, 60.0, 120.0, 120.0]  # the deadline doubles, twice at most

    def life(id: str, run: int) -> tuple[float, float | None]:
        return (1.0, None) if id != "orders" else (float("inf"), deadlines[min(run - 2, 3)])

    clock = Clock(TREE, life)
    for _ in range(4):
        clock.run(clock.now + 0.001)
    for deadline in deadlines[:3]:
        clock.run(clock.now + deadline)
        clock.kill("orders")
        clock.run(clock.now + 1.0)
    assert [id for _, id in clock.escalations()] == ["orders"]
    assert clock.now < MINUTES_5


def test_an_escalated_child_starts_every_minute_until_a_person_restarts_it() -> None:
    clock = Clock(TREE, loop_of("orders", 1.0, 2.0))
    clock.run(MINUTES_5)
    before = len(clock.starts["orders"])
    clock.run(MINUTES_5 + 3600)
    assert len(clock.starts["orders"]) - before == pytest.approx(3600 / 63, abs=1)
    assert len(clock.escalations()) == len(clock.pages) == 1, "one escalation, one page"
    clock.life = lambda id, run: (1.0, None)
    clock.post(RestartWanted("orders", "a person"))
    clock.run(clock.now + 120)
    assert clock.state.nodes["orders"].phase is Phase.UP
    assert not clock.state.nodes["orders"].escalation
    assert [note.id for _, note in clock.notes if note.event == "cleared"] == ["orders"]
    clock.kill("orders")
    clock.run(clock.now + 2)
    assert clock.state.nodes["orders"].phase is Phase.UP, "its history is forgotten: it restarts without a wait"


def test_escalated_child_that_lasts_stays_escalated() -> None:
    lives = iter([2.0] * 9 + [600.0])
    clock = Clock(TREE, lambda id, run: (1.0, next(lives, None)) if id == "orders" else (1.0, None))
    clock.run(800)
    assert len(clock.starts["orders"]) == 11
    assert clock.starts["orders"][10] - clock.starts["orders"][9] == pytest.approx(601.0), "it had lasted"
    assert clock.state.nodes["orders"].escalation, "only a person ends it"


def test_a_child_in_a_slow_loop_pages_above_ten_deaths_an_hour() -> None:
    for up_s in (31.0, 60.0, 200.0, 320.0):
        clock = Clock(TREE, loop_of("orders", 1.0, up_s))
        clock.run(3600)
        assert [(page.event, page.id) for _, page in clock.pages] == [("child.unstable", "orders")], up_s
        assert not clock.escalations()
    clock = Clock(TREE, loop_of("orders", 1.0, 400.0))
    clock.run(4 * 3600)
    assert not clock.pages


def test_only_orders_crashing_leaves_the_guardian_up_all_the_time() -> None:
    """With restarts_max=5 the guardian was down 657 of 900 s while it shared a branch with the order manager."""
    settings = Settings(supervision=Supervision(restarts_max=5))
    for up_s in (0.0, 5.0, 20.0):
        clock = Clock(tree_of(settings), loop_of("orders", 1.0, up_s))
        clock.run(900)
        assert clock.starts["guardian"] == [0.0]
        assert clock.state.nodes["guardian"].phase is Phase.UP
        assert [note.event for _, note in clock.notes if note.id in ("guardian", "safety")] == ["started"]


def test_nothing_delays_the_start_of_a_money_child() -> None:
    """Not even the other one: without a guardian the order manager enters nothing, and protects what is held."""
    clock = Clock(TREE, loop_of("guardian", float("inf"), float("inf")))
    clock.run(1.0)
    assert {id: clock.starts[id] for id in MONEY} == {"guardian": [0.0], "orders": [0.0]}


def test_kills_at_the_rate_of_the_chaos_soak_never_escalate() -> None:
    """Ten faults a minute, as the soak plans them: whatever ends a child ends it here, for 100 soaks of 20 minutes."""
    roster = Roster((*CHILDREN[:1], "supervisor", *CHILDREN[1:]), ("postgres", "redis", "sim", "raylet", "gcs"))
    narrow = Roster(
        ("collector:binance", "guardian", "monitor", "orders", "scheduler", "strategy:0", "supervisor"), roster.services
    )
    one_by_one = {"kill", "stop", "cut-database"}
    everything = {"kill-ray", "power-cut"}
    deaths = 0
    for seed, names in itertools.product(range(50), (roster, narrow)):
        clock = Clock(TREE, lambda id, run: (random.Random(f"{id}{run}").uniform(0.5, 4.0), None))
        for injection in make_plan(seed=seed, minutes=20, count=200, scenarios=[SCENARIOS["all"]], roster=names):
            clock.run(10.0 + injection.at_s)
            for id in CHILDREN if injection.kind in everything else [injection.target] * (injection.kind in one_by_one):
                if id in CHILDREN:
                    deaths += 1
                    clock.kill(id)
        assert not clock.escalations(), seed
    assert deaths > 5000


def test_new_supervisor_continues_windows_and_escalations() -> None:
    life = [
        ("started", 100.0),
        ("restarted", 90.0),
        ("started", 89.0),
        ("restarted", 40.0),
        ("started", 39.0),
        ("restarted", 20.0),
    ]
    assert row_ages(life, 30.0) == (20.0, 40.0), "the life of 49 s had lasted"
    assert row_ages([*life, ("started", 19.0)], 30.0) == (20.0, 40.0)
    assert row_ages([*life, ("started", 19.0)], 15.0) == (), "the present one has, too"
    assert row_ages([*life, ("cleared", 5.0)], 30.0) == ()
    assert death_ages(life) == (20.0, 40.0, 90.0)
    clock = Clock(TREE, loop_of("orders", 1.0, 2.0))
    clock.post(Begin())
    ages = tuple(float(age) for age in range(1, 8))
    clock.post(Remembered({"orders": ages}, {"orders": ages}, {"guardian": "nine deaths"}))
    clock.run(20.0)
    assert [id for _, id in clock.escalations()] == ["orders"], "two more deaths are too many"
    clock.kill("guardian")
    assert clock.state.nodes["guardian"].phase is Phase.CONTAINED


def test_a_model_that_died_twice_is_not_loaded_before_the_supervisor_could_note_it() -> None:
    model = Deployment("noise", "llama_cpp", "/models/noise.gguf")
    child = model.child(0)
    clock = Clock(tree_of(Settings(), models=[model]), loop_of(child, 0.05, 0.01))
    clock.run(60.0)
    first, second, third, *_ = clock.starts[child]
    assert second - first < 0.1, "the first death is followed by a start at once"
    assert third - second > 1.5, "the tree is compared with the database each second"
