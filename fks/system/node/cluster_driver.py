"""Driver of the cluster, above the keeper's services: the base of `HeadDriver` and `WorkerDriver`."""

from __future__ import annotations

import asyncio
import contextlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from typing import Any

from pydantic import SecretStr

from fks.clock import Clock
from fks.config import builds
from fks.config.agreement import differing
from fks.config.endpoints import NodeEndpoints
from fks.config.machine import process_space
from fks.config.paths import Paths
from fks.config.secrets import adopt_keys
from fks.config.settings import Settings
from fks.config.version import VERSION
from fks.model.errors import ConfigError, FksError
from fks.model.ports import Log
from fks.model.timeframe import to_datetime
from fks.store.alerting import AlertingStore
from fks.store.crash_marks import CrashMarkStore, PostedMark
from fks.store.db import Database
from fks.store.nodes import NodeRow
from fks.store.supervision import TreeJournal
from fks.system.alerts.channels import Sealer
from fks.system.alerts.direct import READ_EVERY_S, DirectPager
from fks.system.alerts.directory import Directory
from fks.system.node.head import OtherBuildError
from fks.system.node.presence import NodePresence
from fks.system.node.service import ServiceStatus, ServiceTree
from fks.system.process.crash_marker import CrashMarker
from fks.system.process.log import Redactor

QUERY_S = 2.0  # the keeper does not wait longer for its database


@dataclass(frozen=True, slots=True)
class KeeperStart:
    """The start of this keeper: under a parent or not, the number of restarts before it, and why the last one ended."""

    has_parent: bool = False
    restarts: int = 0
    ended: str = ""


@dataclass(frozen=True, slots=True)
class KeeperContext:
    """The services that the keeper and its parts are given. `make_node` returns the endpoints as they are now."""

    paths: Paths
    make_node: Callable[[], NodeEndpoints]
    clock: Clock
    log: Log
    redactor: Redactor = field(default_factory=Redactor)
    start: KeeperStart = KeeperStart()
    session_key: SecretStr | None = None  # opens the addresses of the alert channels


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The findings of a beat: the age of the supervisor's own beat, whether our raylet's cluster is gone, whether the
    head ends the whole cluster, and the head's build when this machine goes over to it."""

    supervisor_age_s: float | None
    must_rejoin: bool = False
    must_stop: bool = False
    other_build: OtherBuildError | None = None


_US = 1000


class LeftMarks:
    """Soft state: the newest mark of each worker that was posted."""

    def __init__(self, paths: Paths, node: str) -> None:
        self._run, self._node = paths.run, node
        self._posted: dict[str, int] = {}

    async def post(self, db: Database) -> None:
        """Post the marks whose workers have ended. Errors: OutageError."""
        store = CrashMarkStore(db)
        for worker, mark in CrashMarker.all_left(self._run):
            if self._posted.get(worker, 0) >= mark.at_ns:
                continue
            posted = PostedMark(mark.instance, mark.at_ns // _US * _US, mark.bar_ns, mark.epoch)
            if await store.post(worker, posted, node=self._node):
                self._posted[worker] = mark.at_ns


class ClusterDriver:
    """The defaults do nothing. Soft state: a connection to the database.

    `waits_for`: the unavailable service, "" when there is none. `node_name`: this node's; `worker_name`: the same when
    it is a worker. `is_standby`: another head is waited for, not an error.
    """

    worker_name = ""
    node_name = ""
    is_standby = False

    def __init__(self, context: KeeperContext, settings: Settings, presence: NodePresence) -> None:
        self.waits_for = ""
        self.node_name = presence.name
        self._context, self._settings, self._presence = context, settings, presence
        self._left_marks = LeftMarks(context.paths, presence.name)
        self._db: Database | None = None
        self._pager: DirectPager | None = None
        self._channels_due_s = 0.0
        self._adopted = ""  # the head's sealed keys that were taken over last

    async def claim(self) -> None:
        """Become the head of the database."""

    async def stand_by(self) -> bool:
        """Wait until the head is gone; return False when it ended the whole cluster."""
        return True

    async def hold(self) -> None:
        """Renew the claim."""

    async def release(self) -> None:
        """Give the claim back."""

    async def prepare(self) -> None:
        """Make ready what the services and the tree need."""

    async def deploy(self) -> None:
        """Make the actor tree and the gateway run; safe to repeat. Errors: FksError."""

    async def grow(self) -> None:
        """Put the gateway on machines that have joined. Returns when cancelled."""
        await asyncio.Event().wait()

    async def has_supervisor(self) -> bool:
        """Return whether a supervisor beats, whatever the state of its children."""
        return True

    async def stop(self) -> None:
        """Stop the actors."""

    async def end_workers(self, statuses: Callable[[], Sequence[tuple[str, ServiceStatus]]]) -> None:
        """Have every worker of this head stop, and wait until they have."""

    async def cancel(self) -> None:
        """End what is under way."""

    async def clear(self) -> None:
        """Remove the rows of an earlier run."""

    async def beat(self, statuses: Sequence[tuple[str, ServiceStatus]]) -> ClusterState:
        """Write the rows of the keeper and its services; return the state of the cluster. Errors: OutageError."""
        async with asyncio.timeout(QUERY_S):
            db = await self._database()
            await db.execute("keeper.beat", *beat_columns(statuses), self._presence.name, process_space())
            await self._presence.beat(db, statuses)
            with contextlib.suppress(FksError):  # the next beat does it
                await self._left_marks.post(db)
            return await self._cluster_state(db)

    def other_build(self, head: NodeRow) -> OtherBuildError | None:
        """Return the head's build when it is another one, and installed beside ours. Once per build: where its keeper
        ended, or it refused the settings, the machine stays with ours."""
        build = builds.find(head.version) if head.version != VERSION else None
        tried = self._context.paths.run / builds.TRIED_FILE
        if build is None or (tried.exists() and tried.read_text() == build.name):
            return None
        tried.write_text(build.name)
        return OtherBuildError(build, head.version)

    def check_agrees(self, head: NodeRow, rows: Sequence[NodeRow]) -> None:
        """Refuse a head that does not agree with us. Errors: ConfigError."""
        ours, paths = self._presence, self._context.paths
        if keys := differing(ours.agreed, head.detail.get("agreed", {})):
            raise ConfigError(
                f"node {ours.name} differs from the head {head.name} in {', '.join(keys)}",
                remedy=f"make {paths.config_file} and the FKS_ environment the same on both",
            )
        if VERSION not in (theirs := {head.version, str(head.detail.get("installed", head.version))}):
            raise ConfigError(
                f"node {ours.name} has FKS {VERSION}, the head {head.name} has {' and '.join(sorted(theirs))}",
                remedy="install the head's build here, as 'ray up' does",
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

    async def adopt_keys(self, head: NodeRow) -> None:
        """Take the head's keys over: its signatures and sealed texts are valid here, too. Errors: ConfigError."""
        sealed = str(head.detail.get("keys") or "")  # a head of an earlier build has none
        if sealed in ("", self._adopted):
            return
        if await asyncio.to_thread(adopt_keys, self._context.paths, sealed):
            self._context.log.info("node.keys_adopted", head=head.name)
        await self._adopt_more()
        self._adopted = sealed

    async def _adopt_more(self) -> None:
        """Do what new keys need besides."""

    async def write_history(self, tree: ServiceTree) -> None:
        """Write what the history of the services has not written yet, and keep the alert channels current. Errors:
        OutageError."""
        db = await self._database()
        await tree.write(TreeJournal(db))
        if self._pager is not None and self._context.clock.monotonic() >= self._channels_due_s:
            await self._pager.read()
            self._channels_due_s = self._context.clock.monotonic() + READ_EVERY_S

    def page(self, event: str, text: str) -> None:
        """Send a page to every alert channel, as they were read last; never waits. Without a database since our start
        no channel is known."""
        if self._pager is not None:
            self._pager.page(event, text)

    async def _cluster_state(self, db: Database) -> ClusterState:
        raise NotImplementedError

    async def status(self) -> dict[str, Any]:
        """Return the status document from the database. Errors: OutageError."""
        from fks.system.monitor.status import assemble

        async with asyncio.timeout(QUERY_S):
            return await assemble(await self._database(), self._context.make_node())

    async def close(self) -> None:
        """Close the connection to the database."""
        if self._db is not None:
            await self._db.close()
            self._db = None

    async def _database(self) -> Database:
        if self._db is None:
            chosen = self._settings.database.model_copy(
                update={"pool_min": 1, "pool_max": 2, "retry_s": 1.0, "statement_timeout_s": QUERY_S}
            )
            url = self._context.make_node().database_url
            self._db = await Database.connect(url, chosen, application="keeper", retry_s=0.0)
            if self._context.session_key is not None:
                alerts, context = self._settings.alerts, self._context
                directory = Directory(AlertingStore(self._db), alerts, Sealer(self._context.session_key))
                self._pager = DirectPager(directory, context.clock, context.log, hosts=alerts.hosts)
                self._channels_due_s = 0.0
        return self._db


def beat_columns(statuses: Sequence[tuple[str, ServiceStatus]]) -> tuple[list[Any], ...]:
    """Return the rows of `keeper.beat`, column by column."""
    since: list[datetime] = [to_datetime(entry.since_ns) for _, entry in statuses]
    return (
        [entry.name for _, entry in statuses],
        [kind for kind, _ in statuses],
        [entry.state for _, entry in statuses],
        [entry.pid or 0 for _, entry in statuses],
        [entry.restarts for _, entry in statuses],
        since,
        [entry.detail for _, entry in statuses],
        [entry.ended for _, entry in statuses],
        [entry.escalation for _, entry in statuses],
        [entry.is_noted for _, entry in statuses],
    )
