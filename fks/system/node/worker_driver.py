"""The keeper of a worker above its one service: it joins the head's cluster and leaves everything else to the head.

The head may be unavailable for any length of time: a worker waits and reports that it does. It refuses to join a head
with other settings that matter, another Ray or Python, or a node of its own name.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from fks.config.agreement import differing
from fks.config.secrets import load_secrets
from fks.config.settings import Settings
from fks.model.errors import ConfigError, FksError, OutageError
from fks.store.db import Database
from fks.store.grants import ensure_roles
from fks.store.nodes import NodeRow, NodeStore, living_head
from fks.store.tokens import LOCAL, ensure_local_token
from fks.system.node import boot
from fks.system.node.cluster_driver import QUERY_S, ClusterDriver, ClusterState, KeeperContext
from fks.system.node.presence import NodePresence
from fks.system.node.ray_node import save_head_address

WAIT_S = 1.0
HEAD_S = 5.0  # for the head's rows
OTHER_SESSION_BEATS = 3  # beats in a row with a head of another session before our raylet joins that one


class WorkerDriver(ClusterDriver):
    """Soft state: a connection to the database, and beats in a row that found another session."""

    def __init__(self, context: KeeperContext, settings: Settings, presence: NodePresence) -> None:
        super().__init__(context, settings, presence)
        self.worker_name = presence.name
        self._other_session_beats = 0

    async def prepare(self) -> None:
        """Wait until the head runs and agrees. Errors: ConfigError when it does not agree: waiting would not change
        that."""
        while True:
            try:
                async with asyncio.timeout(HEAD_S):
                    rows = await NodeStore(await self._database()).all()
                head = living_head(rows)
                if head is not None and not head.detail.get("ends") and not self._is_early(rows):
                    if (other := self.other_build(head)) is not None:
                        raise other
                    self.check_agrees(head, rows)
                    self._follow(head)
                    await self.adopt_keys(head)
                    self._wait_for("")
                    return
                self._wait_for(
                    "a beat of the head's keeper"
                    if head is None
                    else "the end of the earlier build's beats as this node"
                )
            except (OutageError, OSError) as error:  # TimeoutError is an OSError
                self._wait_for(f"the database: {error or f'no answer in {HEAD_S:g} s'}")
            await self._context.clock.sleep(WAIT_S)

    async def _cluster_state(self, db: Database) -> ClusterState:
        """Return the state of the cluster; the tree is the head's to watch."""
        rows = await NodeStore(db).all()
        head = living_head(rows)
        if head is not None and head.detail.get("ends"):
            await asyncio.to_thread(boot.remove, self._context.paths)
            return ClusterState(0.0, must_stop=True)
        if head is not None:
            with contextlib.suppress(ConfigError):  # another token: the head lets nothing of ours in either
                await self.adopt_keys(head)
        other = self.other_build(head) if head is not None else None
        return ClusterState(0.0, must_rejoin=self._must_rejoin(rows), other_build=other)

    async def stop(self) -> None:
        """Remove our rows: we leave in order."""
        name = self._presence.name
        with contextlib.suppress(FksError, OSError):
            async with asyncio.timeout(QUERY_S):
                await NodeStore(await self._database()).leave(name)

    async def _adopt_more(self) -> None:
        """Make this machine's command line known to a gateway replica here, and have its processes use the database's
        roles, whose passwords follow from the head's keys."""
        db, paths = await self._database(), self._context.paths
        await ensure_local_token(db, paths, name=f"{LOCAL}@{self.worker_name}")
        await ensure_roles(db, self._context.make_node().database_url, load_secrets(paths).session_key, paths)

    def _is_early(self, rows: Sequence[NodeRow]) -> bool:
        """Return whether a build before machine ids beat under our name a moment ago: our own predecessor, once it is
        silent. Another machine goes on, and is waited for."""
        ours = self._presence.name
        return any(row.name == ours and row.is_alive and "machine" not in row.detail for row in rows)

    def _must_rejoin(self, rows: Sequence[NodeRow]) -> bool:
        """Return whether the head has run another cluster than our raylet for OTHER_SESSION_BEATS."""
        # a silent head proves nothing: the row of a machine that was the head before may stay for good
        head = living_head(rows)
        if head is not None:
            self._follow(head)
        own = next((row for row in rows if row.name == self._presence.name), None)
        theirs, mine = (row.detail.get("session") if row else None for row in (head, own))
        if head is None:
            self._wait_for("a beat of the head's keeper")
        elif keys := differing(self._presence.agreed, head.detail.get("agreed", {})):
            self._wait_for(f"settings that agree with the head's again: {', '.join(keys)}; see 'fks cluster check'")
        else:
            self._wait_for("")
        is_other = bool(theirs and mine and theirs != mine)
        self._other_session_beats = self._other_session_beats + 1 if is_other else 0
        if self._other_session_beats < OTHER_SESSION_BEATS:
            return False
        self._other_session_beats = 0
        self._context.log.warning("node.rejoins", head=head.name if head else "", session=theirs)
        return True

    def _follow(self, head: NodeRow) -> None:
        """Note where the head's Ray is, for the next start of our raylet."""
        if port := head.detail.get("gcs_port"):  # a head of an earlier build says none: `ray.address` does
            save_head_address(self._context.paths, f"{head.address}:{port}")

    def _wait_for(self, what: str) -> None:
        if what != self.waits_for:
            self.waits_for = what
            if what:
                self._context.log.warning("node.waits", what=what)
            else:
                self._context.log.info("node.joins")
