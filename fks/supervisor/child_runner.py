"""One child, kept: looked for, started under a higher epoch, watched, stopped. What happens to it is posted as events.

What it costs when something nobody foresaw is raised here: this child waits, the tree keeps its supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fks.model.errors import OutageError
from fks.runtime import Component
from fks.store.bus import HEALTH
from fks.store.leases import Authority
from fks.store.supervision import TreeJournal
from fks.supervision.exits import Exit, How
from fks.supervision.ports import Child, World
from fks.supervision.spec import ChildSpec
from fks.supervision.state import Adopted, Event, Exited, Missing, Started
from fks.supervision.verdict import COMING, Timing, judge
from fks.supervisor.heartbeat_poller import Rounds

LOOK_S = 0.05  # between looks at a child that starts
EVICTIONS_MAX = 3  # tries to get a name that somebody holds
PATIENCE_MAX = 4  # times its deadline for a child that was late again and again: a starved machine is no broken child


@dataclass(slots=True)
class Record:
    """What the supervisor remembers of one child: soft state, refilled from rows and by adoption.

    `is_gone`: no process of it is left, for certain. `is_known`: this supervisor saw it alive, or saw it end.
    """

    spec: ChildSpec
    run: int = 0
    state: str = "waiting"
    child: Child | None = None
    epoch: int = 0
    pid: int | None = None
    node: str = ""
    version: str = ""
    config_version: int = 0
    restarts: int = 0
    since_ns: int = 0
    beat_ns: int | None = None
    beat_s: float | None = None
    is_gone: bool = True
    is_known: bool = False
    late: int = 0  # starts in a row that were not up in time
    escalation: str = ""  # why it escalated, until a person ends that
    detail: dict[str, object] = field(default_factory=dict)

    def take(self, beat: Mapping[str, object], now_ns: int, now_s: float) -> None:
        """Note a beat."""
        self.beat_ns, self.beat_s = now_ns, now_s
        self.is_known, self.is_gone = True, False
        self.state = str(beat["state"])
        self.pid, self.node = int(str(beat["pid"])), str(beat["node"])
        self.epoch = int(str(beat["epoch"]))
        self.version = str(beat.get("version") or "")
        self.config_version = int(str(beat.get("config_version") or 0))
        detail = beat.get("detail")
        self.detail = dict(detail) if isinstance(detail, Mapping) else {}
        if space := beat.get("space"):
            self.detail["space"] = str(space)
        if problems := beat.get("problems"):
            self.detail["problems"] = problems

    @property
    def start_s(self) -> float:
        """Return how long its next start may take: twice as long after each that was late."""
        return self.spec.start_s * min(1 << self.late, PATIENCE_MAX)

    def ended(self, end: Exit) -> None:
        """Note its end."""
        self.child, self.state = None, "down"
        self.is_known, self.is_gone = True, end.is_gone


class Keeping:
    """Performs the commands of the machine for one child, and answers each with the event it waits for.

    Guarantees: its epoch is raised before a new process is started; one whose predecessor is not proven gone begins
    after the lease has run out; every `start` and `stop` is answered, whatever is raised.
    """

    def __init__(
        self,
        component: Component,
        world: World,
        record: Record,
        post: Callable[[Event], None],
        authority: Authority,
        rounds: Rounds,
    ) -> None:
        self._authority, self._rounds = authority, rounds
        self._glanced_s = 0.0
        self.record = record
        self._c, self._world, self._post = component, world, post
        settings = component.settings.supervision
        self._lease_s = settings.lease_ttl_s + 0.5
        self._timing = Timing(settings.heartbeat_s, settings.misses_max, settings.unwell_s)
        self._journal = TreeJournal(component.db)
        self._life: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[bool] | None = None

    # ── commands ─────────────────────────────────────────────────────────────────────────────────
    def find(self, run: int) -> None:
        """Look whether it lives, and watch it if it does."""
        self._begin(run, self._find(run))

    def start(self, run: int) -> None:
        """Start a new process of it, and watch it."""
        self._begin(run, self._start(run))

    def stop(self, run: int, deadline_s: float, why: str) -> None:
        """End it: asked, then killed."""
        if self._ending is None or self._ending.done():
            self._ending = asyncio.create_task(self._stop(run, deadline_s, why))

    def close(self) -> None:
        """Forget it: nothing is watched any more, nothing is ended."""
        for task in (self._life, self._ending):
            if task is not None:
                task.cancel()

    def _begin(self, run: int, life: Coroutine[Any, Any, None]) -> None:
        if self._life is not None:
            self._life.cancel()
        self.record.run = run
        self._life = asyncio.create_task(self._guard(run, life))

    async def _guard(self, run: int, life: Coroutine[Any, Any, None]) -> None:
        """Live; what nobody foresaw on the way up counts as a failed start whose process may have been left behind."""
        try:
            await life
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._c.log.error("child.keeping_failed", child=self.record.spec.id, error=text)
            self._post_end(run, Exit(How.FAILED_START, text))

    # ── finding and starting ─────────────────────────────────────────────────────────────────────
    async def _find(self, run: int) -> None:
        record = self.record
        child = None if record.is_known and record.child is None else await self._world.find(record.spec)
        if child is None:
            self._post(Missing(record.spec.id))
            return
        record.child = child
        try:
            beat = await child.health(timeout_s=self._timing.silence_max_s)
        except (TimeoutError, OutageError) as error:
            await self._evict(child, "found without a beat", str(error) or "no answer in time")
            self._post(Missing(record.spec.id))
            return
        self._take(beat)
        if beat["state"] not in COMING:
            self._post(Adopted(record.spec.id))
            await self._watched(run, child)
            return
        self._post(Adopted(record.spec.id, is_up=False))  # its supervisor died meanwhile: the deadline is ours now
        await self._come_up(run, child, 0.0)

    async def _evict(self, child: Child, reason: str, text: str) -> None:
        """Kill a holder of the name that does not answer, or that nobody started; its lease may live on without it."""
        end = await child.kill(How.HUNG, reason)
        self._c.log.warning("child.not_adopted", child=self.record.spec.id, error=text, is_gone=end.is_gone)
        self.record.ended(end)

    async def _start(self, run: int) -> None:
        record, spec = self.record, self.record.spec
        record.state, record.since_ns = "starting", self._c.clock.now_ns()
        raised_s = self._c.clock.monotonic()
        if spec.is_leased:
            record.epoch = await self._next_epoch()
            raised_s = self._c.clock.monotonic()
            # whoever relied on the one before must hear at once, e.g. the order manager of a feed that has nobody now
            told = {"type": "epoch", "name": spec.id, "epoch": record.epoch}
            self._telling = asyncio.create_task(self._c.bus.publish(HEALTH, told))  # a hung Redis holds up no restart
            if not record.is_known:
                record.is_gone = await self._is_proven_gone(record.epoch)
        record.state = "starting"
        for _ in range(EVICTIONS_MAX):
            wait_s = 0.0 if record.is_gone or not spec.is_leased else self._lease_s
            try:
                child = record.child = await self._world.spawn(spec, record.epoch, wait_s)
            except OutageError as error:
                holder, reason = await self._world.find(spec), str(error)
                record.is_gone = False
                if holder is not None:
                    await self._evict(holder, "held the name of its successor", reason)
                continue
            await self._come_up(run, child, wait_s, raised_s)
            return
        self._post_end(run, Exit(How.FAILED_START, reason))

    async def _next_epoch(self) -> int:
        """Return the raised epoch; wait for the database as long as it takes: no lease, no start."""
        while True:
            try:
                return await self._authority.raise_epoch(self.record.spec.id)
            except OutageError:
                self.record.state = "waiting"  # for the database; not a crash, so it does not count
                await self._c.clock.sleep(0.25)

    async def _is_proven_gone(self, epoch: int) -> bool:
        """Return whether no process from before our time is left: none ever was, or the last one was seen to end.

        It may be on a node that nobody reaches, or have lost its cluster, or been ended by a supervisor that did not
        live to see it gone: then its lease is waited out.
        """
        if epoch == 1 and not self._world.was_reconstructed:
            return True
        with contextlib.suppress(OutageError):
            return await self._journal.proven_end(self.record.spec.id) == epoch - 1
        return False

    async def _come_up(self, run: int, child: Child, wait_s: float, raised_s: float = 0.0) -> None:
        """Wait until it is up, then watch it; kill it when it is not in time."""
        spec = self.record.spec
        try:
            beat = await self._until_started(child, wait_s, raised_s)
        except (TimeoutError, OutageError) as error:
            reason = str(error) or f"not up within {self.record.start_s + wait_s:g} s"
            self.record.late += int(not str(error))
            if spec.resources and not str(error):
                reason += f"; it needs a node that offers {', '.join(sorted(spec.resources))}"
            self._c.log.error("child.start_failed", child=spec.id, error=reason)
            self._post_end(run, await child.kill(How.FAILED_START, reason))
            return
        self.record.late = 0
        self._take(beat)
        self._post(Started(spec.id, run))
        await self._watched(run, child)

    async def _until_started(self, child: Child, wait_s: float, raised_s: float) -> Mapping[str, object]:
        """Return its first beat as started. While it waits for what is away, its deadline does not run.

        `wait_s` counts from `raised_s`, when nobody could renew the predecessor's lease any more: placing it on another
        machine may have taken longer than that already, which only we can know.

        Errors: TimeoutError past `start_s` + `wait_s`; OutageError when it died.
        """
        start_s, monotonic = self.record.start_s, self._c.clock.monotonic
        deadline = monotonic() + start_s + wait_s
        while True:
            beat = await child.health(timeout_s=start_s + wait_s)
            if beat["state"] not in COMING:
                return beat
            self._take(beat)
            if wait_s and monotonic() - raised_s >= wait_s:
                await child.begin()
                wait_s = 0.0
            if self.record.state == "waiting":
                deadline = monotonic() + start_s
            if monotonic() > deadline:
                raise TimeoutError
            await self._c.clock.sleep(LOOK_S)

    # ── watching ─────────────────────────────────────────────────────────────────────────────────
    async def _watched(self, run: int, child: Child) -> None:
        """Watch to the end, and tell it. A watch that fails for a reason nobody foresaw begins again after a pause."""
        while True:
            try:
                end = await self._watch(child)
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
                self._c.log.error("child.keeping_failed", child=self.record.spec.id, error=text)
                await self._c.clock.sleep(self._timing.silence_max_s)
                continue
            self._post_end(run, end)
            return

    async def _watch(self, child: Child) -> Exit:
        """Return how the child ended: by itself, or hung and killed, or unwell and drained."""
        timing, monotonic = self._timing, self._c.clock.monotonic
        join = asyncio.create_task(child.join())
        answered_s = self._glanced_s = monotonic()
        pause_s = timing.heartbeat_s
        try:
            while True:
                asked_s = monotonic()
                if pause_s < timing.heartbeat_s:
                    await asyncio.wait({join}, timeout=pause_s)
                else:
                    await self._rounds.needed(self, join)
                    if self._glanced_s > asked_s:
                        asked_s = answered_s = self._glanced_s
                if join.done():
                    return Exit(How.CRASH, "died: its join was cancelled") if join.cancelled() else join.result()
                left_s = max(answered_s + timing.silence_max_s - monotonic(), 0.0) + LOOK_S
                beat = await self._beat(child, left_s)
                late_s = monotonic() - asked_s - pause_s - left_s
                if beat is not None or late_s > timing.heartbeat_s:
                    answered_s = monotonic()  # when it was us who stood still, nobody was there to hear it
                verdict = judge(beat, silence_s=monotonic() - answered_s, spec=self.record.spec, timing=timing)
                if verdict.how is not None and not join.done():
                    return await self._end_ill(child, verdict.how, verdict.reason)
                pause_s = self._pause_s(beat)
        finally:
            join.cancel()

    async def _beat(self, child: Child, timeout_s: float) -> Mapping[str, object] | None:
        """Return its answer, or None without one. One call waits for as long as there is patience: calls are dear."""
        try:
            beat = await child.health(timeout_s=timeout_s)
        except (TimeoutError, OutageError):
            return None
        self._take(beat)
        return beat

    def glance(self) -> bool:
        """Feel the child, and return whether that tells that it is well. One that has to be asked is not."""
        beat = self.record.child.felt() if self.record.child is not None else None
        if beat is None or float(str(beat["age_s"])) > self._timing.heartbeat_s:
            return False
        if judge(beat, silence_s=0.0, spec=self.record.spec, timing=self._timing).how is not None:
            return False
        self._take(beat)
        self._glanced_s = self._c.clock.monotonic()
        return True

    def _pause_s(self, beat: Mapping[str, object] | None) -> float:
        """Return when to ask again: a loop that stands still is asked at the very end of our patience, not a beat
        later."""
        age_s = float(str(beat["age_s"])) if beat is not None else 0.0
        if age_s <= self._timing.heartbeat_s:
            return self._timing.heartbeat_s
        return min(self._timing.heartbeat_s, max(self._timing.silence_max_s - age_s, 0.0) + LOOK_S)

    async def _end_ill(self, child: Child, how: How, reason: str) -> Exit:
        """Kill a hung child; drain one that is unwell."""
        if how is How.HUNG:
            return await child.kill(how, reason)
        self._c.log.warning("child.unwell", child=self.record.spec.id, reason=reason)
        end = await child.stop(self.record.spec.stop_s)
        return replace(end, how=how, reason=reason)

    def _take(self, beat: Mapping[str, object]) -> None:
        self.record.take(beat, self._c.clock.now_ns(), self._c.clock.monotonic())

    # ── ending ───────────────────────────────────────────────────────────────────────────────────
    async def _stop(self, run: int, deadline_s: float, why: str) -> None:
        record, life = self.record, self._life
        if record.run != run:
            return
        if life is not None:
            life.cancel()
            await asyncio.wait({life})
        if record.run != run:
            return  # it had ended by itself, and its successor is under way
        try:
            end = Exit(How.NORMAL, f"{why}; it had not started", is_gone=record.is_gone)
            if record.child is not None:
                end = await record.child.stop(deadline_s)
        except Exception as error:
            end = Exit(How.KILLED, f"stopping it failed: {type(error).__name__}: {error}")
        self._post_end(run, end)

    def _post_end(self, run: int, end: Exit) -> None:
        """Tell its end, once for each run."""
        if self.record.run == run:
            self.record.ended(end)
            self._post(Exited(self.record.spec.id, run, end))
