"""Looks after the actor tree: deploys it, and deploys it again on a new Ray head, when its supervisor is dead for good
(Ray does not retry a constructor that raised: its row falls silent), and from time to time while it is not whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from fks.clock import Clock
from fks.model.errors import FksError, OutageError
from fks.model.ports import Log
from fks.node.service import Seen, Service

SILENT_S = 10.0  # the supervisor beats every second
RETRY_S = 60.0  # between deploys of a tree that stands but is not whole
LOOK_S = 1.0
FAILURES_MAX = 2  # at the first start; later nothing is given up


class Hands(Protocol):
    """What the keeper does above its services (`fks.node.tree.Tree`, a worker's `WorkerHands`). `waits_for`: what
    is away, "" when nothing is."""

    waits_for: str

    async def claim(self) -> None: ...
    async def hold(self) -> None: ...
    async def release(self) -> None: ...
    async def prepare(self) -> None: ...
    async def deploy(self) -> None: ...
    async def stands(self) -> bool: ...
    async def stop(self) -> None: ...
    async def cancel(self) -> None: ...
    async def clear(self) -> None: ...
    async def beat(self, seen: Sequence[tuple[str, Seen]]) -> float | None: ...
    async def status(self) -> dict[str, Any]: ...
    async def close(self) -> None: ...


class Tender:
    """One tree and when to deploy it. `say(state, text)` hears ready, degraded, restarting, failed.

    A tree that stands with a child down counts as deployed: it is degraded and still looks after its open positions.
    """

    def __init__(
        self, hands: Hands, head: Service | None, clock: Clock, log: Log, say: Callable[[str, str], None]
    ) -> None:
        self._hands, self._head, self._clock, self._log, self._say = hands, head, clock, log, say
        self._age_s: float | None = None  # of the supervisor's beat, by the database's clock
        self._store_well_since: float | None = None
        self._deployed_at: float | None = None  # the end of the last try
        self._generation: int | None = None  # of the Ray head that carries the tree
        self._is_whole = False
        self._failures = 0

    @property
    def has_deployed(self) -> bool:
        """Return whether there may be a tree to stop."""
        return self._deployed_at is not None

    async def first(self, need: Callable[[], Awaitable[None]]) -> None:
        """Deploy, FAILURES_MAX times at most, each time once `need` is met. Errors: FksError when no tree stands."""
        for tries_left in range(FAILURES_MAX - 1, -1, -1):
            try:
                return await self._deploy()
            except FksError as error:
                if not tries_left:
                    self._say("failed", str(error))
                    raise
            await need()

    async def look(self, *, before: Callable[[], None]) -> None:
        """Deploy when there is a reason to, else wait LOOK_S. `before` is called before a deploy."""
        reason = self._reason()
        if reason is None:
            await self._clock.sleep(LOOK_S)
            return
        self._log.info("tree.deploying", reason=reason)
        if self._is_whole:
            self._say("restarting", reason)
        try:
            before()
            await self._deploy()
            self._failures = 0
        except Exception as error:  # no room for a file, no process to be had: the keeper and its services go on
            self._failures += 1
            self._log.error("tree.undeployed", reason=str(error), failures=self._failures)
            await self._clock.sleep(min(2.0**self._failures, 30.0))

    async def beat(self, seen: Sequence[tuple[str, Seen]]) -> None:
        """Write the rows of the keeper and its services and read the supervisor's. Never raises: rows are for
        showing."""
        try:
            self._age_s = await self._hands.beat(seen)
            self._store_well_since = self._store_well_since or self._clock.monotonic()
        except (FksError, OSError) as error:  # TimeoutError is an OSError
            self.note_outage()
            self._log.debug("keeper.beat_failed", reason=str(error))
        except Exception:
            self.note_outage()
            self._log.error("keeper.beat_failed")

    def note_outage(self) -> None:
        """Hear that the database is away: nobody can beat now, so silence means nothing."""
        self._store_well_since = None

    def _reason(self) -> str | None:
        now = self._clock.monotonic()
        if self._head is not None and self._head.times_ready != self._generation:
            return "new Ray head"
        since = now - (self._deployed_at or 0.0)
        could_beat = self._store_well_since is not None and now - self._store_well_since > SILENT_S and since > SILENT_S
        if could_beat and (self._age_s is None or self._age_s > SILENT_S):
            return "the supervisor is silent"
        return "the tree is not whole" if not self._is_whole and since > RETRY_S else None

    async def _deploy(self) -> None:
        """Deploy on the Ray head that runs now. Errors: FksError when no tree stands, OutageError when the head
        goes."""
        generation = self._head.times_ready if self._head else 0
        work = asyncio.create_task(self._hands.deploy())
        gone = asyncio.create_task(self._leaves(generation))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise OutageError("Ray's head went away while the tree was deployed")
            work.result()
            self._is_whole = True
            self._say("ready", "")
        except FksError as error:
            self._is_whole = False
            self._log.warning("tree.deploy_failed", reason=str(error))
            if not await self._hands.stands():
                raise
            self._say("degraded", str(error).strip().rpartition("\n")[2].strip())
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            self._deployed_at = self._clock.monotonic()
        self._generation = generation

    async def _leaves(self, generation: int) -> None:
        while self._head is None or (self._head.is_ready and self._head.times_ready == generation):
            await self._clock.sleep(0.2)
