"""A worker's keeper above its one service: it joins the head's cluster, and leaves everything else to the head.

The head may be away for as long as it likes: a worker waits for ever, and says so. It refuses to join what it does not
fit: other settings that matter, another Ray or Python, a name that is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from fks.clock import Clock
from fks.config.agreement import differing
from fks.config.endpoints import Node
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.model.errors import ConfigError, FksError, OutageError
from fks.model.ports import Log
from fks.node.presence import Presence
from fks.node.service import Seen
from fks.node.tree import columns
from fks.store.db import Database
from fks.store.nodes import NodeRow, NodeStore

WAIT_S = 1.0
STRANGE_BEATS = 3  # beats in a row with a head of another session before our raylet has to join that one


class WorkerHands:
    """What a worker's keeper does besides keeping its raylet. Soft state: a connection to the database."""

    def __init__(
        self,
        paths: Paths,
        settings: Settings,
        presence: Presence,
        make_node: Callable[[], Node],
        clock: Clock,
        log: Log,
    ) -> None:
        self.waits_for = ""
        self.rejoin: Callable[[], None] = lambda: None  # starts the raylet anew; the keeper's
        self._paths, self._settings, self._presence, self._make_node = paths, settings, presence, make_node
        self._clock, self._log = clock, log
        self._db: Database | None = None
        self._strange = 0

    async def claim(self) -> None:
        """Claim nothing: a worker is no head."""

    async def hold(self) -> None:
        """Hold nothing."""

    async def release(self) -> None:
        """Release nothing."""

    async def prepare(self) -> None:
        """Wait until the head runs and fits. Errors: ConfigError when it does not fit: waiting would not mend that."""
        while True:
            try:
                async with asyncio.timeout(5.0):
                    rows = await NodeStore(await self._database()).all()
                head = next((row for row in rows if row.role != "worker" and row.is_alive), None)
                if head is not None:
                    self._check(head, rows)
                    self._wait_for("")
                    return
                self._wait_for("the head's keeper to speak")
            except (OutageError, OSError) as error:  # TimeoutError is an OSError
                self._wait_for(f"the database: {error or 'no answer in 5 s'}")
            await self._clock.sleep(WAIT_S)

    async def beat(self, seen: Sequence[tuple[str, Seen]]) -> float | None:
        """Write our rows. Our raylet joins anew when the head runs another cluster by now. Errors: OutageError."""
        async with asyncio.timeout(2.0):
            db = await self._database()
            await db.execute("keeper.beat", *columns(seen), self._presence.name)
            await self._presence.beat(db, seen)
            rows = await NodeStore(db).all()
        self._look_at_head(rows)
        return 0.0  # the tree is the head's to tend

    async def status(self) -> dict[str, Any]:
        """Return the status document as the database tells it. Errors: OutageError."""
        from fks.monitor.status import assemble

        async with asyncio.timeout(2.0):
            return await assemble(await self._database(), self._make_node())

    async def stop(self) -> None:
        """Take our rows away: we leave in order."""
        name = self._presence.name
        with contextlib.suppress(FksError, OSError):
            async with asyncio.timeout(2.0):
                await NodeStore(await self._database()).leave(name, (f"keeper@{name}", f"raylet@{name}"))

    async def close(self) -> None:
        """Let go of the database."""
        if self._db is not None:
            await self._db.close()
            self._db = None

    async def deploy(self) -> None:
        """Nothing: the head deploys the tree."""

    async def stands(self) -> bool:
        """Return True: there is nothing of ours that could have fallen."""
        return True

    async def cancel(self) -> None:
        """Nothing is ever under way."""

    async def clear(self) -> None:
        """Nothing: the rows are the head's."""

    def _check(self, head: NodeRow, rows: Sequence[NodeRow]) -> None:
        """Refuse a head that we do not fit. Errors: ConfigError."""
        ours = self._presence
        if keys := differing(ours.agreed, head.detail.get("agreed", {})):
            raise ConfigError(
                f"node {ours.name} differs from the head {head.name} in {', '.join(keys)}",
                remedy=f"make {self._paths.config_file} and the FKS_ environment say the same on both",
            )
        for what, mine in (("ray", version("ray")), ("python", platform.python_version())):
            theirs = head.detail.get(what, mine)
            if theirs != mine:
                raise ConfigError(
                    f"node {ours.name} has {what} {mine}, the head {head.name} has {theirs}",
                    remedy="install the same on both: Ray admits no other",
                )
        for row in rows:
            is_ours = row.detail.get("home") == str(self._paths.home) and row.detail.get("host") == platform.node()
            if row.name == ours.name and row.is_alive and not is_ours:
                raise ConfigError(
                    f"the name {ours.name} belongs to a {row.role} at {row.address}",
                    remedy="give this machine another: --name, or node.name in fks.toml",
                )

    def _look_at_head(self, rows: Sequence[NodeRow]) -> None:
        # one that is silent says nothing: the row of a machine that was the head before may stay for good
        head = next((row for row in rows if row.role != "worker" and row.is_alive), None)
        own = next((row for row in rows if row.name == self._presence.name), None)
        theirs, mine = (row.detail.get("session") if row else None for row in (head, own))
        if head is None:
            self._wait_for("the head's keeper to speak")
        elif keys := differing(self._presence.agreed, head.detail.get("agreed", {})):
            self._wait_for(f"settings that agree with the head's again: {', '.join(keys)}; see 'fks cluster check'")
        else:
            self._wait_for("")
        self._strange = self._strange + 1 if theirs and mine and theirs != mine else 0
        if self._strange >= STRANGE_BEATS:
            self._strange = 0
            self._log.warning("node.rejoins", head=head.name if head else "", session=theirs)
            self.rejoin()

    def _wait_for(self, what: str) -> None:
        if what != self.waits_for:
            self.waits_for = what
            if what:
                self._log.warning("node.waits", what=what)
            else:
                self._log.info("node.joins")

    async def _database(self) -> Database:
        if self._db is None:
            chosen = self._settings.database.model_copy(
                update={"pool_min": 1, "pool_max": 2, "retry_s": 1.0, "statement_timeout_s": 2.0}
            )
            self._db = await Database.connect(self._make_node().database_url, chosen, application="keeper", retry_s=0.0)
        return self._db
