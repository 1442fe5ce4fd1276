"""What happens above the services: the schema, the actor tree and the gateway, each by a short-lived process.

The keeper itself never loads Alembic or Ray: it stays small, and a lost GCS can abort nothing but a helper.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from fks.config.endpoints import Node
from fks.config.paths import Paths
from fks.config.python import module
from fks.config.settings import Settings
from fks.model.errors import FksError, OutageError
from fks.model.ports import Log
from fks.model.timeframe import to_datetime
from fks.node.head import HeadClaim
from fks.node.presence import Presence
from fks.node.ray_node import ray_env
from fks.node.service import Seen
from fks.node.tree_deployer import SILENT_S
from fks.process.handle import Launch, ProcessHandle
from fks.process.log import Redactor, last_output
from fks.store.db import Database
from fks.store.nodes import NodeStore

PREPARE_S = 60.0
DEPLOY_S = 90.0
STOP_S = 8.0
TAIL_LINES = 12


class Tree:
    """The keeper's hands above the services. Soft state: a connection to the database."""

    def __init__(
        self,
        paths: Paths,
        settings: Settings,
        redactor: Redactor,
        presence: Presence,
        make_node: Callable[[], Node],
        log: Log,
    ) -> None:
        self._head = HeadClaim(paths, settings, log)
        self.waits_for = ""
        self._paths, self._settings, self._redactor, self._presence = paths, settings, redactor, presence
        self._make_node = make_node
        self._db: Database | None = None
        self._running: ProcessHandle | None = None

    async def claim(self) -> None:
        """Become the head of this database. Errors: ConfigError when another head lives; OutageError."""
        await self._head.claim(await self._database())

    async def hold(self) -> None:
        """Renew the place of the head. Errors: SupersededError when another machine has it; OutageError,
        TimeoutError."""
        if self._head.is_claimed:
            async with asyncio.timeout(2.0):
                await self._head.hold(await self._database())

    async def release(self) -> None:
        """Give the place back, as far as the database answers; one of our own has ended by now."""
        if not self._head.is_claimed or self._settings.database.url is None:
            return
        with contextlib.suppress(FksError, OSError):
            async with asyncio.timeout(2.0):
                await self._head.release(await self._database())
        await self.close()

    async def prepare(self) -> None:
        """Bring the schema up, make partitions, the local token and the demo. Errors: FksError with the last words."""
        await self._run("prepare", module("fks.node.prepare"), PREPARE_S)

    async def deploy(self) -> None:
        """Make the actor tree and the gateway run; safe to repeat. Errors: FksError with the last words."""
        await self._run("deploy", module("actors.commands", "deploy"), DEPLOY_S)

    async def stands(self) -> bool:
        """Return whether a supervisor beats, whatever became of its children."""
        with contextlib.suppress(FksError, OSError):
            async with asyncio.timeout(2.0):
                age: float | None = await (await self._database()).fetchval("keeper.tree_age_s")
            return age is not None and age < SILENT_S
        return False

    async def stop(self) -> None:
        """Stop the actors in reverse order, the gateway with them. Errors: FksError when they did not within STOP_S."""
        try:
            await self._run("stop", module("actors.commands", "stop"), STOP_S)
        finally:
            with contextlib.suppress(FksError, OSError):
                async with asyncio.timeout(2.0):
                    await NodeStore(await self._database()).leave(self._presence.name)

    async def cancel(self) -> None:
        """End the helper that is under way, if any."""
        if self._running is not None:
            await self._running.stop(((signal.SIGTERM, 0.5),), is_group=True)

    async def beat(self, seen: Sequence[tuple[str, Seen]]) -> float | None:
        """Write the rows of the keeper and its services; return the age of the supervisor's beat in seconds.

        Errors: OutageError when PostgreSQL is away.
        """
        async with asyncio.timeout(2.0):
            db = await self._database()
            await db.execute("keeper.beat", *columns(seen), self._presence.name)
            await self._presence.beat(db, seen)
            age: float | None = await db.fetchval("keeper.tree_age_s", retry=False)
        return age

    async def clear(self) -> None:
        """Forget the components of an earlier run."""
        await (await self._database()).execute("keeper.clear", retry=True)

    async def status(self) -> dict[str, Any]:
        """Return the status document as the database tells it. Errors: OutageError."""
        from fks.monitor.status import assemble

        async with asyncio.timeout(2.0):
            return await assemble(await self._database(), self._make_node())

    async def close(self) -> None:
        """Let go of the database."""
        if self._db is not None:
            await self._db.close()
            self._db = None

    async def _database(self) -> Database:
        if self._db is None:
            chosen = self._settings.database.model_copy(
                update={"pool_min": 1, "pool_max": 2, "retry_s": 1.0, "statement_timeout_s": 2.0}
            )
            self._db = await Database.connect(self._make_node().database_url, chosen, application="keeper", retry_s=0.0)
        return self._db

    async def _run(self, name: str, command: Sequence[str], deadline_s: float) -> None:
        log = self._paths.logs / f"{name}.log"
        before = log.stat().st_size if log.exists() else 0
        env = ray_env(self._paths, self._settings)
        process = self._running = ProcessHandle.spawn(Launch(command, env, err=log, out=log.with_suffix(".out")))
        try:
            async with asyncio.timeout(deadline_s):
                await process.ended()
        except TimeoutError:
            raise OutageError(
                f"{name} did not end within {deadline_s:g} s", remedy=self._last_output(log, before)
            ) from None
        finally:
            await process.stop(((signal.SIGTERM, 0.5),), is_group=True)
            self._running = None
        if process.returncode:
            raise FksError(f"{name} failed (status {process.returncode})", remedy=self._last_output(log, before))

    def _last_output(self, log: Path, since: int) -> str:
        output = last_output(log, TAIL_LINES, self._redactor, since=since)
        return f"its last output:\n{output}" if output else "see 'fks logs'"


def columns(seen: Sequence[tuple[str, Seen]]) -> tuple[list[Any], ...]:
    """Return the rows of `keeper.beat`, column by column."""
    since: list[datetime] = [to_datetime(entry.since_ns) for _, entry in seen]
    return (
        [entry.name for _, entry in seen],
        [kind for kind, _ in seen],
        [entry.state for _, entry in seen],
        [entry.pid or 0 for _, entry in seen],
        [entry.restarts for _, entry in seen],
        since,
        [entry.detail for _, entry in seen],
        [entry.ended for _, entry in seen],
    )
