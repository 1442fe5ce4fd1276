"""Runs one child: finds it, starts it under a higher epoch, watches it, stops it, and posts what happens as events.

An unexpected exception delays this child, never the supervisor. What a beat means is decided in
`fks.system.supervision.liveness`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fks.clock import Clock
from fks.clock.waiting import retry
from fks.model.backoff import Backoff
from fks.model.errors import OutageError
from fks.model.ports import Log
from fks.store.bus import HEALTH, Bus
from fks.store.leases import Authority
from fks.store.supervision import TreeJournal
from fks.system.supervision.exits import How, ProcessExit
from fks.system.supervision.liveness import COMING, LOOK_S, LivenessLimits, LivenessWatch, StartStep, StartWatch
from fks.system.supervision.ports import Child, ChildSource
from fks.system.supervision.spec import ChildSpec
from fks.system.supervision.state import Adopted, Event, Exited, NotFound, Started
from fks.system.supervisor.heartbeat_poller import HeartbeatPoller

EVICTIONS_MAX = 3  # tries to get a name that another process holds
LATE_FACTOR_MAX = 4  # times its deadline for a child that was late repeatedly: a slow machine is no broken child
DATABASE_RETRY = Backoff(0.25, 0.25)


class Silenced(OutageError):
    """A child that starts answered, and does not any more: it was stopped, or the machine is too slow for it."""


@dataclass(slots=True)
class RunningChild:
    """The state of one child in the supervisor: soft state, refilled from rows and by adoption.

    `is_gone`: it is proven that no process of it is left. `is_known`: this supervisor saw it alive, or saw it end.
    """

    spec: ChildSpec
    limits: LivenessLimits
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
        return self.spec.start_s * min(1 << self.late, LATE_FACTOR_MAX)

    def ended(self, end: ProcessExit) -> None:
        """Note its end."""
        self.child, self.state = None, "down"
        self.is_known, self.is_gone = True, end.is_gone


class ChildLeases:
    """The authority over the leases of children: raises their epochs, and knows when a lease has run out."""

    def __init__(
        self,
        clock: Clock,
        journal: TreeJournal,
        bus: Bus,
        authority: Authority,
        ttl_s: float,
        *,
        was_reconstructed: bool,
    ) -> None:
        """`ttl_s`: a lease that is not renewed has certainly run out after it. `was_reconstructed`: an earlier
        supervisor of this deployment may have left processes."""
        self.ttl_s = ttl_s
        self._clock, self._journal, self._bus, self._authority = clock, journal, bus, authority
        self._was_reconstructed = was_reconstructed
        self._publishing: set[asyncio.Task[bool]] = set()

    async def take(self, record: RunningChild) -> None:
        """Raise the epoch of a child and note whether its predecessor is proven to have ended. Waits for the database
        as long as it takes: no lease, no start."""

        async def note_outage(error: Exception) -> None:
            record.state = "waiting"  # for the database; not a crash, so it does not count

        record.epoch = await retry(
            lambda: self._authority.raise_epoch(record.spec.id),
            self._clock,
            DATABASE_RETRY,
            errors=OutageError,
            on_failure=note_outage,
        )
        # its dependents must know at once, e.g. the order manager that this feed has no collector now
        message = {"type": "epoch", "name": record.spec.id, "epoch": record.epoch}
        publishing = asyncio.create_task(self._bus.publish(HEALTH, message))  # a hung Redis delays no start
        self._publishing.add(publishing)
        publishing.add_done_callback(self._publishing.discard)

    async def is_proven_gone(self, record: RunningChild) -> bool:
        """Return whether no process of an earlier supervisor is left: there never was one, or the last one was seen to
        end.

        It may be on an unreachable node, or have lost its cluster, or been stopped by a supervisor that died before it
        saw the end: then its lease is waited out.
        """
        if record.epoch == 1 and not self._was_reconstructed:
            return True
        with contextlib.suppress(OutageError):
            return await self._journal.proven_end(record.spec.id) == record.epoch - 1
        return False


class ChildRunner:
    """Performs the commands of the machine for one child, and answers each with the event it waits for.

    Guarantees: with `leases` the epoch of a leased child is raised before a new process is started, and one whose
    predecessor is not proven to have ended begins after the lease has run out; every `start` and `stop` is answered,
    whatever is raised. `poller` reads heartbeats from shared memory; None for children that have none.
    """

    def __init__(
        self,
        clock: Clock,
        log: Log,
        source: ChildSource,
        record: RunningChild,
        post: Callable[[Event], None],
        leases: ChildLeases | None = None,
        poller: HeartbeatPoller | None = None,
    ) -> None:
        self.record = record
        self._clock, self._log, self._source, self._post = clock, log, source, post
        self._leases, self._poller = leases, poller
        self._watch: LivenessWatch | None = None
        self._run: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    # ── commands ─────────────────────────────────────────────────────────────────────────────────
    def find(self, run: int) -> None:
        """Look whether the child runs, and watch it if it does."""
        self._begin(run, self._find(run))

    def start(self, run: int) -> None:
        """Start a new process of the child, and watch it."""
        self._begin(run, self._start(run))

    def stop(self, run: int, deadline_s: float, why: str) -> None:
        """End the child: drained, killed at the deadline."""
        if self._stopping is None or self._stopping.done():
            self._stopping = asyncio.create_task(self._stop(run, deadline_s, why))

    def close(self) -> None:
        """Forget the child: nothing is watched any more, nothing is ended."""
        for task in (self._run, self._stopping):
            if task is not None:
                task.cancel()

    def _begin(self, run: int, work: Coroutine[Any, Any, None]) -> None:
        if self._run is not None:
            self._run.cancel()
        self.record.run = run
        self._run = asyncio.create_task(self._guard(run, work))

    async def _guard(self, run: int, work: Coroutine[Any, Any, None]) -> None:
        """Run one life of the child; an unexpected error before it is up counts as a failed start whose process may
        still run."""
        try:
            await work
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._log.error("child.keeping_failed", child=self.record.spec.id, error=text)
            self._post_end(run, ProcessExit(How.FAILED_START, text))

    # ── finding and starting ─────────────────────────────────────────────────────────────────────
    async def _find(self, run: int) -> None:
        record = self.record
        child = None if record.is_known and record.child is None else await self._source.find(record.spec)
        if child is None:
            self._post(NotFound(record.spec.id))
            return
        record.child = child
        try:
            beat = await child.health(timeout_s=self.record.limits.silence_max_s)
        except (TimeoutError, OutageError) as error:
            await self._evict(child, "found without a beat", str(error) or "no answer in time")
            self._post(NotFound(record.spec.id))
            return
        self._take(beat)
        if beat["state"] not in COMING:
            self._post(Adopted(record.spec.id))
            await self._watch_until_end(run, child)
            return
        self._post(Adopted(record.spec.id, is_up=False))  # its supervisor died meanwhile: this one has the deadline now
        await self._come_up(run, child, 0.0)

    async def _evict(self, child: Child, reason: str, text: str) -> None:
        """Kill a holder of the name that does not answer, or that this supervisor did not start; its lease may outlive
        it."""
        end = await child.kill(How.HUNG, reason)
        self._log.warning("child.not_adopted", child=self.record.spec.id, error=text, is_gone=end.is_gone)
        self.record.ended(end)

    async def _start(self, run: int) -> None:
        record, spec = self.record, self.record.spec
        record.state, record.since_ns = "starting", self._clock.now_ns()
        raised_s, lease_s = self._clock.monotonic(), 0.0
        if spec.is_leased and self._leases is not None:
            await self._leases.take(record)
            raised_s, lease_s = self._clock.monotonic(), self._leases.ttl_s
            if not record.is_known:
                record.is_gone = await self._leases.is_proven_gone(record)
        record.state = "starting"
        for _ in range(EVICTIONS_MAX):
            wait_s = 0.0 if record.is_gone else lease_s
            try:
                child = record.child = await self._source.spawn(spec, record.epoch, wait_s)
            except OutageError as error:
                holder, reason = await self._source.find(spec), str(error)
                record.is_gone = False
                if holder is not None:
                    await self._evict(holder, "held the name of its successor", reason)
                continue
            await self._come_up(run, child, wait_s, raised_s)
            return
        self._post_end(run, ProcessExit(How.FAILED_START, reason))

    async def _come_up(self, run: int, child: Child, wait_s: float, raised_s: float = 0.0) -> None:
        """Wait until the child is up, then watch it; kill it when it is late."""
        spec, start_s = self.record.spec, self.record.start_s
        try:
            beat = await self._until_started(child, StartWatch(start_s, wait_s, raised_s, self._clock.monotonic()))
        except (TimeoutError, OutageError) as error:
            reason = str(error) or f"not up within {start_s + wait_s:g} s"
            # a machine that is that slow is no broken child: twice as long the next time
            self.record.late += int(isinstance(error, Silenced) or not str(error))
            if spec.resources and not str(error):
                reason += f"; it needs a node that offers {', '.join(sorted(spec.resources))}"
            self._log.error("child.start_failed", child=spec.id, error=reason)
            self._post_end(run, await child.kill(How.FAILED_START, reason))
            return
        self.record.late = 0
        self._take(beat)
        self._post(Started(spec.id, run))
        await self._watch_until_end(run, child)

    async def _until_started(self, child: Child, watch: StartWatch) -> Mapping[str, object]:
        """Return the first beat of the child as started. Errors: TimeoutError when it is late; OutageError when it died
        or fell silent (Silenced)."""
        timeout_s = watch.start_s + watch.wait_s
        has_answered = False
        while True:
            try:
                beat = await child.health(timeout_s=timeout_s)
            except TimeoutError:
                if not has_answered:
                    raise
                raise Silenced(f"it answered while it started, and then not for {timeout_s:g} s") from None
            # from here on its process is there, and answers beside its imports: silence means that it was stopped
            has_answered, timeout_s = True, watch.silence_max_s
            step = watch.take(beat["state"], self._clock.monotonic())
            if step is StartStep.UP:
                return beat
            self._take(beat)
            if step is StartStep.BEGIN:
                await child.begin()
            if step is StartStep.LATE:
                raise TimeoutError
            await self._clock.sleep(LOOK_S)

    # ── watching ─────────────────────────────────────────────────────────────────────────────────
    async def _watch_until_end(self, run: int, child: Child) -> None:
        """Watch the child to its end, and post it. After an unexpected error watching begins again after a pause."""
        while True:
            try:
                end = await self._end_of(child)
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
                self._log.error("child.keeping_failed", child=self.record.spec.id, error=text)
                await self._clock.sleep(self.record.limits.silence_max_s)
                continue
            self._post_end(run, end)
            return

    async def _end_of(self, child: Child) -> ProcessExit:
        """Return how the child ended: by itself, hung and killed, or unwell and drained."""
        monotonic = self._clock.monotonic
        join = asyncio.create_task(child.join())
        watch = self._watch = LivenessWatch(self.record.spec, self.record.limits, monotonic())
        try:
            while True:
                watch.begin_look(monotonic())
                if watch.is_suspect or self._poller is None:
                    await asyncio.wait({join}, timeout=watch.pause_s)
                else:
                    await self._poller.until_suspect(self, join)
                if join.done():
                    return ProcessExit(How.CRASH, "died: its join was cancelled") if join.cancelled() else join.result()
                beat = await self._call(child, watch.call_timeout_s(monotonic()))
                watch.spec = self.record.spec
                found = watch.take(beat, monotonic())
                if found.how is not None and not join.done():
                    return await self._end_ill(child, found.how, found.reason)
        finally:
            join.cancel()

    async def _call(self, child: Child, timeout_s: float) -> Mapping[str, object] | None:
        """Return the answer of the child, or None without one."""
        try:
            beat = await child.health(timeout_s=timeout_s)
        except (TimeoutError, OutageError):
            return None
        self._take(beat)
        return beat

    def check_heartbeat(self) -> bool:
        """Read the child's heartbeat; return whether it shows that the child is well. A child without one has to be
        called."""
        beat = self.record.child.read_heartbeat() if self.record.child is not None else None
        if beat is None or self._watch is None:
            return False
        self._watch.spec = self.record.spec
        if not self._watch.note_heartbeat(beat, self._clock.monotonic()):
            return False
        self._take(beat)
        return True

    async def _end_ill(self, child: Child, how: How, reason: str) -> ProcessExit:
        """Kill a hung child; drain one that is unwell."""
        if how is How.HUNG:
            return await child.kill(how, reason)
        self._log.warning("child.unwell", child=self.record.spec.id, reason=reason)
        end = await child.stop(self.record.spec.stop_s)
        return replace(end, how=how, reason=reason)

    def _take(self, beat: Mapping[str, object]) -> None:
        self.record.take(beat, self._clock.now_ns(), self._clock.monotonic())

    # ── ending ───────────────────────────────────────────────────────────────────────────────────
    async def _stop(self, run: int, deadline_s: float, why: str) -> None:
        record, running = self.record, self._run
        if record.run != run:
            return
        if running is not None:
            running.cancel()
            await asyncio.wait({running})
        if record.run != run:
            return  # it had ended by itself, and its successor is on its way
        try:
            end = ProcessExit(How.NORMAL, f"{why}; it had not started", is_gone=record.is_gone)
            if record.child is not None:
                end = await record.child.stop(deadline_s)
        except Exception as error:
            end = ProcessExit(How.KILLED, f"stopping it failed: {type(error).__name__}: {error}")
        self._post_end(run, end)

    def _post_end(self, run: int, end: ProcessExit) -> None:
        """Post the end of a run, once."""
        if self.record.run == run:
            self.record.ended(end)
            self._post(Exited(self.record.spec.id, run, end))
