"""The keeper of a worker above its one service: it joins the head's cluster and leaves everything else to the head.

The head may be unavailable for any length of time: a worker waits and reports that it does. It refuses to join a head
with other settings that matter, another Ray or Python, or a node of its own name.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
from collections.abc import Sequence
from importlib.metadata import version

from fks.config.agreement import differing
from fks.config.secrets import adopt_keys
from fks.config.settings import Settings
from fks.model.errors import ConfigError, FksError, OutageError
from fks.node import boot
from fks.node.cluster_driver import QUERY_S, ClusterDriver, ClusterState, KeeperContext
from fks.node.presence import NodePresence
from fks.store.db import Database
from fks.store.nodes import NodeRow, NodeStore
from fks.store.tokens import LOCAL, ensure_local_token

WAIT_S = 1.0
HEAD_S = 5.0  # for the head's rows
OTHER_SESSION_BEATS = 3  # beats in a row with a head of another session before our raylet joins that one


class WorkerDriver(ClusterDriver):
    """Soft state: a connection to the database, and beats in a row that found another session."""

    def __init__(self, context: KeeperContext, settings: Settings, presence: NodePresence) -> None:
        super().__init__(context, settings, presence)
        self.worker_name = presence.name
        self._other_session_beats = 0
        self._adopted = ""  # the head's sealed keys that were taken over last

    async def prepare(self) -> None:
        """Wait until the head runs and agrees. Errors: ConfigError when it does not agree: waiting would not change
        that."""
        while True:
            try:
                async with asyncio.timeout(HEAD_S):
                    rows = await NodeStore(await self._database()).all()
                head = _living_head(rows)
                if head is not None and not head.detail.get("ends") and not self._is_early(rows):
                    self._check(head, rows)
                    await self._adopt(head)
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
        head = _living_head(rows)
        if head is not None and head.detail.get("ends"):
            await asyncio.to_thread(boot.remove, self._context.paths)
            return ClusterState(0.0, must_stop=True)
        if head is not None:
            with contextlib.suppress(ConfigError):  # another token: the head lets nothing of ours in either
                await self._adopt(head)
        return ClusterState(0.0, must_rejoin=self._must_rejoin(rows))

    async def stop(self) -> None:
        """Remove our rows: we leave in order."""
        name = self._presence.name
        with contextlib.suppress(FksError, OSError):
            async with asyncio.timeout(QUERY_S):
                await NodeStore(await self._database()).leave(name, (f"keeper@{name}", f"raylet@{name}"))

    async def _adopt(self, head: NodeRow) -> None:
        """Take the head's keys over, so that a gateway replica here accepts what one there has signed; and make this
        machine's command line known. Errors: ConfigError, OutageError."""
        sealed = str(head.detail.get("keys") or "")  # a head of an earlier build has none
        if sealed in ("", self._adopted):
            return
        if await asyncio.to_thread(adopt_keys, self._context.paths, sealed):
            self._context.log.info("node.keys_adopted", head=head.name)
        await ensure_local_token(await self._database(), self._context.paths, name=f"{LOCAL}@{self.worker_name}")
        self._adopted = sealed

    def _is_early(self, rows: Sequence[NodeRow]) -> bool:
        """Return whether a build before machine ids beat under our name a moment ago: our own predecessor, once it is
        silent. Another machine goes on, and is waited for."""
        ours = self._presence.name
        return any(row.name == ours and row.is_alive and "machine" not in row.detail for row in rows)

    def _check(self, head: NodeRow, rows: Sequence[NodeRow]) -> None:
        """Refuse a head that does not agree with us. Errors: ConfigError."""
        ours, paths = self._presence, self._context.paths
        if keys := differing(ours.agreed, head.detail.get("agreed", {})):
            raise ConfigError(
                f"node {ours.name} differs from the head {head.name} in {', '.join(keys)}",
                remedy=f"make {paths.config_file} and the FKS_ environment the same on both",
            )
        for what, mine in (("ray", version("ray")), ("python", platform.python_version())):
            theirs = head.detail.get(what, mine)
            if theirs != mine:
                raise ConfigError(
                    f"node {ours.name} has {what} {mine}, the head {head.name} has {theirs}",
                    remedy="install the same on both: Ray admits no other",
                )
        for row in rows:
            # by the id file, never by a name; a copy of it is another machine as long as its own boot still beats
            is_ours = (row.detail.get("machine"), row.detail.get("boot")) == (ours.machine.id, ours.machine.boot)
            if row.name == ours.name and row.is_alive and not is_ours:
                raise ConfigError(
                    f"the name {ours.name} belongs to a {row.role} at {row.address}",
                    remedy="give this machine another: --name, or node.name in fks.toml",
                )

    def _must_rejoin(self, rows: Sequence[NodeRow]) -> bool:
        """Return whether the head has run another cluster than our raylet for OTHER_SESSION_BEATS."""
        # a silent head proves nothing: the row of a machine that was the head before may stay for good
        head = _living_head(rows)
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

    def _wait_for(self, what: str) -> None:
        if what != self.waits_for:
            self.waits_for = what
            if what:
                self._context.log.warning("node.waits", what=what)
            else:
                self._context.log.info("node.joins")


def _living_head(rows: Sequence[NodeRow]) -> NodeRow | None:
    return next((row for row in rows if row.role != "worker" and row.is_alive), None)
