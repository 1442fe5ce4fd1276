"""A supervisor among fake children: no Ray, no processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from actors.supervisor import SupervisorActor
from fks.clock import RealClock
from fks.config.settings import Settings, Supervision
from fks.model.errors import OutageError
from fks.system.supervision import ChildSpec, Intensity, RestartBackoff, SupervisorSpec
from fks.system.supervision.exits import How, ProcessExit
from fks.system.supervisor.tree_supervisor import Want

QUICK = RestartBackoff(first_s=0.01, max_s=0.05)


FAST = Supervision(heartbeat_s=0.05, misses_max=3, backoff_first_s=0.01, backoff_max_s=0.05)


@dataclass
class FakeChild:
    spec: ChildSpec
    epoch: int
    pid: int
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    end: ProcessExit = field(default_factory=lambda: ProcessExit(How.NORMAL, "asked", is_gone=True))
    is_silent: bool = False
    state: str = "ready"
    is_provable: bool = True
    detail: dict[str, object] = field(default_factory=dict)
    problems: list[dict[str, object]] = field(default_factory=list)
    age_s: float = 0.0
    answers_after_s: float = 0.0
    was_drained: bool = False
    joins: int = 0
    join_error: Exception | None = None
    begun_s: float | None = None
    begins_when_allowed: bool = False
    has_heartbeat: bool = False
    is_garbled: bool = False
    calls: int = 0

    async def join(self) -> ProcessExit:
        self.joins += 1
        if self.join_error is not None:
            error, self.join_error = self.join_error, None
            raise error
        await self.ended.wait()
        return self.end

    def read_heartbeat(self) -> Mapping[str, object] | None:
        if self.is_garbled:
            raise ValueError("not a number")
        return self.beat() if self.has_heartbeat else None

    async def health(self, *, timeout_s: float) -> Mapping[str, object]:
        if self.ended.is_set():
            raise OutageError("gone")
        if self.is_silent:
            await asyncio.sleep(timeout_s)
            raise TimeoutError
        if self.answers_after_s:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(self.answers_after_s)
        self.calls += 1
        return self.beat()

    def beat(self) -> Mapping[str, object]:
        return {
            "state": self.state,
            "pid": self.pid,
            "node": "n",
            "epoch": self.epoch,
            "age_s": self.age_s,
            "detail": self.detail,
            "problems": self.problems,
        }

    async def begin(self) -> None:
        self.begun_s = time.monotonic()
        if self.begins_when_allowed:
            self.state = "ready"

    async def stop(self, deadline_s: float) -> ProcessExit:
        self.was_drained = not self.ended.is_set()
        self.ended.set()
        return self.end

    async def kill(self, how: How, reason: str) -> ProcessExit:
        self.die(reason, how)
        return self.end

    def die(self, reason: str, how: How = How.CRASH) -> None:
        self.end = ProcessExit(how, f"died: {reason}", is_gone=self.is_provable)
        self.ended.set()


@dataclass
class FakeWorld:
    was_reconstructed: bool = False
    children: dict[str, FakeChild] = field(default_factory=dict)
    spawned: list[tuple[str, int]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    dies_at_start: bool = False
    state_at_start: str = "ready"
    begins_when_allowed: bool = False
    moves: list[str] = field(default_factory=list)  # children that belong on another node
    usurper: FakeChild | None = None  # holds the name of the next child that is started

    def node_id(self) -> str:
        return "n"

    async def misplaced(self, specs: Sequence[ChildSpec]) -> str | None:
        return self.moves.pop(0) if self.moves else None

    async def find(self, spec: ChildSpec) -> FakeChild | None:
        child = self.usurper or self.children.get(spec.id)
        return child if child is not None and not child.ended.is_set() else None

    async def spawn(self, spec: ChildSpec, epoch: int, wait_s: float) -> FakeChild:
        if self.usurper is not None and not self.usurper.ended.is_set():
            raise OutageError("the name stays taken")
        self.usurper = None
        self.spawned.append((spec.id, epoch))
        self.waits.append(wait_s)
        child = self.children[spec.id] = FakeChild(spec, epoch, 1000 + len(self.spawned), state=self.state_at_start)
        child.begins_when_allowed = self.begins_when_allowed
        if self.dies_at_start:
            child.die("at start")
        return child


def spec(id: str, *, after: tuple[str, ...] = ()) -> ChildSpec:
    return ChildSpec(id, "r", 1.0, after=after, start_s=1.0)


def tree(*children: ChildSpec | SupervisorSpec, restarts_max: int = 20) -> SupervisorSpec:
    return SupervisorSpec("supervisor", children, Intensity(restarts_max, 60.0), backoff=QUICK)


@pytest.fixture
async def run(database: Any, bus: Any, log: Any, meter: Any) -> AsyncIterator[Any]:
    tasks: list[asyncio.Task[None]] = []
    component: Any = SimpleNamespace(
        settings=Settings(supervision=FAST),
        db=database,
        bus=bus,
        clock=RealClock(),
        log=log,
        config_version=0,
        meter=SimpleNamespace(
            count=meter.count, gauge=meter.gauge, observe=meter.observe, remove=meter.remove, snapshot=dict
        ),
    )

    def start(
        world: FakeWorld,
        *children: ChildSpec | SupervisorSpec,
        restarts_max: int = 20,
        want: Want | None = None,
        args: tuple[str, ...] = (),
    ) -> SupervisorActor:
        actor = SupervisorActor(
            component, args, tree=tree(*children, restarts_max=restarts_max), world=world, want=want
        )
        tasks.append(asyncio.create_task(actor.run()))
        return actor

    async def end() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    start.end, start.tasks = end, tasks  # type: ignore[attr-defined]
    yield start
    await end()
