"""The supervisor over a world of asyncio children and a real database: adopt, restart, fence, give up, stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from actors.supervisor import SupervisorActor
from fks.clock import RealClock
from fks.config.settings import Settings, Supervision
from fks.model.errors import OutageError
from fks.supervision import ChildSpec, Intensity
from tests.support.waiting import until

FAST = Supervision(heartbeat_s=0.05, misses_max=3, backoff_first_s=0.01, backoff_max_s=0.05)


@dataclass
class FakeChild:
    spec: ChildSpec
    epoch: int
    pid: int
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = "normal"
    is_silent: bool = False

    async def join(self) -> str:
        await self.ended.wait()
        return self.reason

    async def health(self, *, with_metrics: bool, timeout_s: float) -> Mapping[str, object]:
        if self.ended.is_set():
            raise OutageError("gone")
        if self.is_silent:
            await asyncio.sleep(timeout_s)
            raise TimeoutError
        return {"state": "ready", "pid": self.pid, "node": "n", "epoch": self.epoch, "age_s": 0.0, "detail": {}}

    async def stop(self, deadline_s: float) -> None:
        self.ended.set()

    async def kill(self) -> bool:
        self.die("killed")
        return True

    def die(self, reason: str) -> None:
        self.reason = f"died: {reason}"
        self.ended.set()


@dataclass
class FakeWorld:
    was_reconstructed: bool = False
    children: dict[str, FakeChild] = field(default_factory=dict)
    spawned: list[tuple[str, int]] = field(default_factory=list)
    dies_at_start: bool = False

    async def find(self, spec: ChildSpec) -> FakeChild | None:
        child = self.children.get(spec.id)
        return child if child is not None and not child.ended.is_set() else None

    async def spawn(self, spec: ChildSpec, epoch: int, wait_s: float) -> FakeChild:
        self.spawned.append((spec.id, epoch))
        child = self.children[spec.id] = FakeChild(spec, epoch, pid=1000 + len(self.spawned))
        if self.dies_at_start:
            child.die("at start")
        return child


def spec(id: str, *, after: tuple[str, ...] = (), restarts_max: int = 20) -> ChildSpec:
    return ChildSpec(id, "r", Intensity(restarts_max, 60.0), 1.0, after=after, start_s=1.0)


@pytest.fixture
async def run(database: Any, bus: Any, log: Any, meter: Any) -> AsyncIterator[Any]:
    tasks: list[asyncio.Task[None]] = []
    component: Any = SimpleNamespace(
        settings=Settings(supervision=FAST), db=database, bus=bus, clock=RealClock(), log=log,
        meter=SimpleNamespace(count=meter.count, gauge=meter.gauge, snapshot=dict),
    )  # fmt: skip

    def start(world: FakeWorld, *specs: ChildSpec) -> SupervisorActor:
        actor = SupervisorActor(component, (), specs=specs, world=world)
        tasks.append(asyncio.create_task(actor.run()))
        return actor

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_dead_child_comes_back_under_a_higher_epoch(run: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"))
    await until(lambda: supervisor.is_ready)
    first = world.children["a"]
    first.die("kill -9")
    await until(lambda: len(world.spawned) == 2 and supervisor.is_ready)
    assert world.children["a"].epoch > first.epoch


async def test_a_living_child_is_adopted_and_not_started_again(run: Any) -> None:
    world = FakeWorld(children={"a": FakeChild(spec("a"), epoch=7, pid=42)})
    supervisor = run(world, spec("a"), spec("b"))
    await until(lambda: supervisor.is_ready)
    assert [name for name, _ in world.spawned] == ["b"]


async def test_a_silent_child_is_killed_and_replaced(run: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"))
    await until(lambda: supervisor.is_ready)
    hung = world.children["a"]
    hung.is_silent = True
    await until(lambda: len(world.spawned) == 2 and supervisor.is_ready)
    assert hung.ended.is_set()


async def test_a_child_waits_for_what_it_names(run: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("b", after=("a",)), spec("a"))
    await until(lambda: supervisor.is_ready)
    assert [name for name, _ in world.spawned] == ["a", "b"]


async def test_a_child_that_keeps_dying_is_given_up_and_paged_while_its_neighbour_lives(run: Any, database: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a", restarts_max=2), spec("b"))
    await until(lambda: supervisor.is_ready)
    for _ in range(3):
        count = len(world.spawned)
        world.children["a"].die("again")
        if _ < 2:
            await until(lambda count=count: len(world.spawned) > count and supervisor.is_ready)
    await until(lambda: supervisor.detail()["children"]["a"] == "failed")
    await until(lambda: supervisor.detail()["children"]["b"] == "ready")
    rows = await database.sql("SELECT event, severity FROM alerts")
    assert [(row["event"], row["severity"]) for row in rows] == [("child.given_up", "page")]


async def test_a_new_supervisor_keeps_counting_the_old_ones_restarts(run: Any, database: Any) -> None:
    await database.sql("INSERT INTO actor_events (child, event) SELECT 'a', 'restarted' FROM generate_series(1, 2)")
    world = FakeWorld()
    supervisor = run(world, spec("a", restarts_max=2))
    await until(lambda: supervisor.is_ready)
    world.children["a"].die("third in the window")
    await until(lambda: supervisor.detail()["children"]["a"] == "failed")


async def test_every_child_has_a_row_with_its_pid_and_state(run: Any, database: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"))
    await until(lambda: supervisor.is_ready)

    async def row() -> Any:
        rows = await database.sql("SELECT state, pid, kind FROM component_health WHERE name = 'a'")
        return rows and rows[0]["state"] == "ready" and rows[0]
    found = await until(row)
    assert (found["pid"], found["kind"]) == (1001, "actor")


async def test_stopping_goes_in_reverse(run: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"), spec("b", after=("a",)))
    await until(lambda: supervisor.is_ready)
    await supervisor.stop()
    assert all(child.ended.is_set() for child in world.children.values())
    assert len(world.spawned) == 2
