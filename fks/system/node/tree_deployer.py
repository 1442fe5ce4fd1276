"""Deploys the actor tree: at the start, on a new Ray head, when its supervisor has ended for good (Ray does not retry a
constructor that raised: its row goes stale), and once a minute while it is not whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fks.clock import Clock
from fks.model.backoff import Backoff
from fks.model.errors import FksError, OutageError
from fks.model.health import LOST_AFTER_S
from fks.model.ports import Log
from fks.system.node.cluster_driver import ClusterDriver
from fks.system.node.service import NodeService
from fks.system.node.supervised_child import SupervisedChild

RETRY_S = 60.0  # between deploys of a tree that runs but is not whole
HEAD_POLL_S = 0.2  # between two looks at Ray's head during a deploy
BACKOFF = Backoff(2.0, 30.0)  # between deploys that failed


class TreeDeployer(SupervisedChild):
    """The actor tree as a child of the keeper; `head` is Ray's service, if this node runs it.

    A tree that runs with a child down counts as deployed: it is degraded and still manages its open positions.
    """

    def __init__(
        self,
        driver: ClusterDriver,
        head: NodeService | None,
        clock: Clock,
        log: Log,
        on_change: Callable[[SupervisedChild], None],
    ) -> None:
        super().__init__("actors", on_change)
        self._driver, self._head, self._clock, self._log = driver, head, clock, log
        self._supervisor_age_s: float | None = None  # of the supervisor's beat, by the database's clock
        self._database_up_since: float | None = None
        self._deployed_at: float | None = None  # the end of the last attempt
        self._head_start: int | None = None  # which start of the Ray head carries the tree
        self._is_whole = False

    @property
    def has_deployed(self) -> bool:
        """Return whether there may be a tree to stop."""
        return self._deployed_at is not None

    @property
    def is_beating(self) -> bool:
        """Return whether the database answers and the supervisor beats there."""
        return (
            self._database_up_since is not None
            and self._supervisor_age_s is not None
            and self._supervisor_age_s <= LOST_AFTER_S
        )

    def note_beat(self, supervisor_age_s: float | None) -> None:
        """Note that the database answered, and the age of the supervisor's beat there."""
        self._supervisor_age_s = supervisor_age_s
        self._database_up_since = self._database_up_since or self._clock.monotonic()

    def note_outage(self) -> None:
        """Note that the database is unavailable: no supervisor can beat now, so a stale row means nothing."""
        self._database_up_since = None

    def note_failed(self, error: FksError) -> None:
        """Note that the first start is given up."""
        self._move("failed", str(error))

    def due(self) -> str:
        """Return why the tree has to be deployed now; "" when it need not be."""
        now = self._clock.monotonic()
        if self._head is not None and self._head.times_ready != self._head_start:
            return "new Ray head"
        since = now - (self._deployed_at or 0.0)
        up_since = self._database_up_since
        could_beat = up_since is not None and now - up_since > LOST_AFTER_S and since > LOST_AFTER_S
        if could_beat and (self._supervisor_age_s is None or self._supervisor_age_s > LOST_AFTER_S):
            return "the supervisor is silent"
        return "the tree is not whole" if not self._is_whole and since > RETRY_S else ""

    async def redeploy(self, reason: str) -> None:
        """Deploy for `reason`. Never raises: after a failure it waits, longer after each one in a row."""
        self._log.info("tree.deploying", reason=reason)
        if self._is_whole:
            self._move("restarting", reason)
        try:
            await self.deploy()
            self.failures = 0
        except Exception as error:  # e.g. a full disk, no process left: the keeper and its services go on
            self.failures += 1
            self._log.error("tree.undeployed", reason=str(error), failures=self.failures)
            await self._clock.sleep(BACKOFF.wait_s(self.failures))

    async def deploy(self) -> None:
        """Deploy on the Ray head that runs now. Errors: FksError when no tree runs, OutageError when the head dies
        meanwhile."""
        head_start = self._head.times_ready if self._head else 0
        work = asyncio.create_task(self._driver.deploy())
        lost = asyncio.create_task(self._head_lost(head_start))
        try:
            await asyncio.wait({work, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise OutageError("Ray's head went away while the tree was deployed")
            work.result()
            self._is_whole = True
            self.times_ready += 1
            self._move("ready", "")
        except FksError as error:
            self._is_whole = False
            self._log.warning("tree.deploy_failed", reason=str(error))
            if not await self._driver.has_supervisor():
                raise
            # a command that failed ends its output with the reason; one that did not end has none there
            is_late = isinstance(error, OutageError)
            self._move("degraded", error.message if is_late else str(error).strip().splitlines()[-1].strip())
        finally:
            for task in (work, lost):
                task.cancel()
            await asyncio.gather(work, lost, return_exceptions=True)
            self._deployed_at = self._clock.monotonic()
        self._head_start = head_start

    async def _head_lost(self, head_start: int) -> None:
        while self._head is None or (self._head.is_ready and self._head.times_ready == head_start):
            await self._clock.sleep(HEAD_POLL_S)
