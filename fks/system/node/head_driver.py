"""The keeper of a head above its services: the schema, the actor tree and the gateway, each by a short-lived process.

The keeper itself never loads Alembic or Ray: it stays small, and a lost GCS can abort nothing but a helper process.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fks.config.machine_http import Fault, can_spread, lacking
from fks.config.python import module
from fks.config.settings import Settings
from fks.model.errors import FksError, OutageError
from fks.model.health import LOST_AFTER_S
from fks.store.db import Database
from fks.store.nodes import NodeStore, living_head
from fks.system.node import boot
from fks.system.node.cluster_driver import QUERY_S, ClusterDriver, ClusterState, KeeperContext
from fks.system.node.head import AnotherHeadError, BeginAgainError, HeadClaim, SupersededError
from fks.system.node.presence import NodePresence
from fks.system.node.ray_node import ray_env
from fks.system.node.service import TAIL_LINES, ServiceStatus
from fks.system.process.handle import Launch, ProcessHandle
from fks.system.process.log import last_output

PREPARE_S = 60.0
DEPLOY_S = 90.0
STOP_S = 8.0
END_WORKERS_S = 30.0  # a worker looks once a second, and ends within 15 s
END_LOOK_S = 0.5
LOOK_S = 1.0  # of a standby at its head
GROW_AFTER_S, GROW_LOOK_S = 20.0, 1.0  # a worker that has stayed so long counts: children move first; between two looks
_HELPER_STOP = ((signal.SIGTERM, 0.5),)


class GatewayGrowth:
    """Decides when the gateway is put on more machines: when more workers than it runs on could have it for
    GROW_AFTER_S. Soft state: the earlier findings."""

    def __init__(self) -> None:
        self._grown = self._steady = 0
        self._since_s = -math.inf
        self._faults: dict[str, Fault] = {}

    def news(self, faults: Mapping[str, Fault]) -> dict[str, Fault]:
        """Return the faults that were not there, or others, at the last call."""
        found = {name: fault for name, fault in faults.items() if self._faults.get(name) != fault}
        self._faults = dict(faults)
        return found

    def is_due(self, now_s: float, workers: int) -> bool:
        """Return whether the gateway has to be put on that many workers now; 0 while one of them lacks something."""
        if workers != self._steady:
            self._steady, self._since_s = workers, now_s
        self._grown = min(self._grown, workers)
        return workers > self._grown and now_s - self._since_s >= GROW_AFTER_S

    def note_grown(self) -> None:
        """Note that the gateway runs on as many as the last call of `is_due` named."""
        self._grown = self._steady


class HeadDriver(ClusterDriver):
    """Soft state: a connection to the database, and the helper process that runs."""

    def __init__(self, context: KeeperContext, settings: Settings, presence: NodePresence) -> None:
        super().__init__(context, settings, presence)
        self._claim = HeadClaim(context.paths, settings, context.log)
        self._helper: ProcessHandle | None = None
        self.is_standby = settings.node.standby

    async def claim(self) -> None:
        """Become the head of this database. Errors: AnotherHeadError; OutageError."""
        await self._claim.claim(await self._database())

    async def stand_by(self) -> bool:
        """Wait until the head is silent for its whole lease; return False when it ended the whole cluster.

        A head that was stopped in order is no reason to take over: a person stopped the trading. Meanwhile our row says
        that we stand by, and the head's keys are ours. Errors: ConfigError when the head does not agree with
        us; OtherBuildError.
        """
        is_checked = False
        try:
            while True:
                with contextlib.suppress(OutageError, OSError):  # TimeoutError is an OSError
                    async with asyncio.timeout(QUERY_S):
                        db = await self._database()
                        rows, found = await NodeStore(db).all(), await self._claim.head(db)
                        if (living := living_head(rows)) is not None:
                            if living.detail.get("ends"):
                                await asyncio.to_thread(boot.remove, self._context.paths)
                                return False
                            if (other := self.other_build(living)) is not None:
                                raise other
                            if not is_checked:
                                self.check_agrees(living, rows)
                                is_checked = True
                            await self.adopt_keys(living)
                        if found is None or (not found.is_released and found.wait_s <= 0):
                            self._context.log.warning("head.takes_over", of=found.text if found else "no head")
                            return True
                        await self._presence.beat(db, (), behind_s=found.age_s)
                await self._context.clock.sleep(LOOK_S)
        finally:
            with contextlib.suppress(FksError, OSError):
                async with asyncio.timeout(QUERY_S):
                    await NodeStore(await self._database()).leave(self._presence.name)

    async def hold(self) -> None:
        """Renew the claim. Errors: SupersededError when another machine has it, BeginAgainError for one that stands by
        then; OutageError, TimeoutError."""
        if self._claim.is_claimed:
            async with asyncio.timeout(QUERY_S):
                try:
                    await self._claim.hold(await self._database())
                except (AnotherHeadError, SupersededError) as error:
                    if not self.is_standby:
                        raise
                    raise BeginAgainError(str(error)) from error

    async def release(self) -> None:
        """Give the claim back if the database answers; a database of our own has been stopped by now."""
        if not self._claim.is_claimed or self._settings.database.url is None:
            return
        with contextlib.suppress(FksError, OSError):
            async with asyncio.timeout(QUERY_S):
                await self._claim.release(await self._database())
        await self.close()

    async def prepare(self) -> None:
        """Migrate the schema, create partitions, the local token and the demo. Errors: FksError with the last
        output."""
        await self._run("prepare", module("fks.system.node.prepare"), PREPARE_S)

    async def deploy(self) -> None:
        """Make the actor tree and the gateway run; safe to repeat. Errors: FksError with the last output."""
        await self._run("deploy", module("actors.commands", "deploy"), DEPLOY_S)

    async def grow(self) -> None:
        """Put the gateway on workers once they have been there for GROW_AFTER_S, and each can answer as the head does.
        Errors: FksError with the last output."""
        if not can_spread(self._settings):
            await super().grow()
        growth = GatewayGrowth()
        while True:
            rows = [row for row in await NodeStore(await self._database()).all() if row.is_alive]
            workers = sum(row.role == "worker" for row in rows)
            faults = lacking((row.name, row.role, row.detail) for row in rows)
            for name, (text, remedy) in growth.news(faults).items():
                self._context.log.warning("gateway.not_spread", machine=name, reason=text, remedy=remedy)
            if growth.is_due(self._context.clock.monotonic(), 0 if faults else workers):
                await self._run("grow", module("actors.commands", "grow"), DEPLOY_S)
                growth.note_grown()
            await self._context.clock.sleep(GROW_LOOK_S)

    async def has_supervisor(self) -> bool:
        """Return whether a supervisor beats, whatever the state of its children."""
        with contextlib.suppress(FksError, OSError):
            async with asyncio.timeout(QUERY_S):
                age: float | None = await (await self._database()).fetchval("keeper.tree_age_s")
            return age is not None and age < LOST_AFTER_S
        return False

    async def stop(self) -> None:
        """Stop the actors in reverse order, the gateway with them. Errors: FksError when they did not within STOP_S."""
        try:
            await self._run("stop", module("actors.commands", "stop"), STOP_S)
        finally:
            with contextlib.suppress(FksError, OSError):
                async with asyncio.timeout(QUERY_S):
                    await NodeStore(await self._database()).leave(self._presence.name)

    async def end_workers(self, statuses: Callable[[], Sequence[tuple[str, ServiceStatus]]]) -> None:
        """Report in our row that the cluster ends, until no worker beats any more, for END_WORKERS_S at most."""
        self._presence.facts |= {"ends": True}
        name, clock = self._presence.name, self._context.clock
        end = clock.monotonic() + END_WORKERS_S
        while clock.monotonic() < end:
            with contextlib.suppress(FksError, OSError):
                await self.beat(statuses())
                rows = await NodeStore(await self._database()).all()
                if not any(row.is_alive for row in rows if row.role in ("worker", "standby")):
                    break
            await clock.sleep(END_LOOK_S)
        with contextlib.suppress(FksError, OSError):
            async with asyncio.timeout(QUERY_S):
                await NodeStore(await self._database()).leave(name)

    async def cancel(self) -> None:
        """End the helper process that runs, if any."""
        if self._helper is not None:
            await self._helper.stop(_HELPER_STOP, is_group=True)

    async def clear(self) -> None:
        """Remove the components of an earlier run."""
        await (await self._database()).execute("keeper.clear", retry=True)

    async def _cluster_state(self, db: Database) -> ClusterState:
        return ClusterState(await db.fetchval("keeper.tree_age_s", retry=False))

    async def _run(self, name: str, command: Sequence[str], deadline_s: float) -> None:
        log = self._context.paths.logs / f"{name}.log"
        before = log.stat().st_size if log.exists() else 0
        env = ray_env(self._context.paths, self._settings)
        process = self._helper = ProcessHandle.spawn(Launch(command, env, err=log, out=log.with_suffix(".out")))
        try:
            if not await process.ended(deadline_s):
                raise OutageError(f"{name} did not end within {deadline_s:g} s", remedy=self._last_output(log, before))
        finally:
            await process.stop(_HELPER_STOP, is_group=True)
            self._helper = None
        if process.returncode:
            raise FksError(f"{name} failed (status {process.returncode})", remedy=self._last_output(log, before))

    def _last_output(self, log: Path, since: int) -> str:
        output = last_output(log, TAIL_LINES, self._context.redactor, since=since)
        return f"its last output:\n{output}" if output else "see 'fks logs'"
