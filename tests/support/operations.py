"""A fake supervisor for tests of operations on the running system."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fks.store.db import Database
from fks.store.operations import Operation, OperationStore
from fks.store.runtime_config import RuntimeConfigStore
from fks.system.supervision.rollout import RolloutPart
from fks.system.supervisor.operations import Operations
from tests.support.ports import CollectingLog
from tests.support.waiting import DEFAULT_S, until

IDS = ("guardian", "orders", "collector:binance", "strategy:0", "scheduler")


class Dead(BaseException):
    """The process of the supervisor has ended."""


@dataclass
class FakeParts:
    """Children as a supervisor shows them; a restart gives a new pid, the build `build` and the newest settings."""

    parts: dict[str, RolloutPart] = field(
        default_factory=lambda: {id: RolloutPart("ready", 100 + n, "old", 0, "n") for n, id in enumerate(IDS)}
    )
    restarted: list[str] = field(default_factory=list)
    build: str = "new"
    config_version: Callable[[], int] = lambda: 0
    fails: dict[str, Exception | BaseException] = field(default_factory=dict)
    state_after: dict[str, str] = field(default_factory=dict)
    dies_after: str = ""
    versions: RuntimeConfigStore | None = None  # what a process that starts reads

    looks: int = 0

    def children(self) -> Mapping[str, RolloutPart]:
        self.looks += 1
        return self.parts

    async def restart_child(self, id: str, why: str) -> None:
        if id in self.fails:
            raise self.fails[id]
        self.restarted.append(id)
        old = self.parts[id]
        number = self.config_version()
        if self.versions is not None:
            wanted = await self.versions.wanted()
            number = wanted.version if wanted else 0
        self.parts[id] = replace(
            old,
            pid=(old.pid or 0) + 1000,
            version=self.build,
            config_version=number,
            state=self.state_after.get(id, "ready"),
        )
        if self.dies_after == id:
            self.dies_after = ""
            raise Dead


@dataclass
class Rig:
    db: Database
    store: OperationStore
    versions: RuntimeConfigStore
    parts: FakeParts
    log: CollectingLog
    redeployed: list[float] = field(default_factory=list)
    redeploy_s: float = 0.0
    left: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    component: Any = None

    def start(self) -> asyncio.Task[None]:
        """Start a supervisor's Operations: another call is the supervisor that comes after."""

        async def redeploy() -> None:
            self.redeployed.append(time.monotonic())
            await asyncio.sleep(self.redeploy_s)

        async def leave() -> None:
            self.left += 1
            raise Dead

        task = asyncio.create_task(Operations(self.component, self.parts, redeploy=redeploy, leave=leave).run())
        self.tasks.append(task)
        return task

    async def ended(self, operation: Operation, deadline_s: float = DEFAULT_S) -> Operation:
        async def look() -> Operation | None:
            found = await self.store.get(operation.id)
            return found if found is not None and found.is_ended else None

        found = await until(look, deadline_s=deadline_s)
        assert found is not None
        return found
