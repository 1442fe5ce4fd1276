"""The supervisor: keeps the children of the tree alive by the decisions of fks.supervision.

It never asks what a child does. It knows whether its process lives (a parked join), whether its loop beats (health) and
what its spec says. Ray restarts the supervisor itself; its children go on meanwhile and are adopted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from fks.model.errors import OutageError
from fks.monitor.component import Component
from fks.monitor.tally import Tally
from fks.store.leases import raise_epoch
from fks.store.supervision import HealthRow, TreeJournal
from fks.supervision import ChildSpec, GiveUp, Restart, decide_exit, is_hung, stop_order
from fks.supervision.exits import Exit, How
from fks.supervision.ports import Child, World

SNAPSHOTS_KEY = "fks:snapshots"
_COMING = frozenset({"starting", "waiting"})
SAMPLE_EVERY = 5  # beats between two metric snapshots: a snapshot is bigger than a beat


@dataclass(slots=True)
class Record:
    """What the supervisor remembers of one child: soft state, refilled from rows and by adoption."""

    spec: ChildSpec
    state: str = "waiting"
    child: Child | None = None
    epoch: int = 0
    pid: int | None = None
    node: str = ""
    restarts: int = 0
    since_ns: int = 0
    beat_ns: int | None = None
    history: tuple[float, ...] = ()
    is_gone: bool = True
    detail: dict[str, object] = field(default_factory=dict)
    started: asyncio.Event = field(default_factory=asyncio.Event)


class SupervisorActor:
    """Starts, watches, restarts and stops the children of the tree.

    Hard state: leases, actor_events (restart windows), component_health. Soft state: handles, found again by name.
    Guarantees: a living child is never started twice; a dead one is started under a higher epoch than it had; a child
    that keeps dying is given up for a while and paged, and its neighbours run on.
    """

    def __init__(self, component: Component, args: tuple[str, ...], *, specs: Sequence[ChildSpec], world: World) -> None:
        self._c = component
        self._world = world
        self._journal = TreeJournal(component.db)
        self._tally = Tally(component.meter, component.clock.monotonic)
        self._timing = component.settings.supervision
        self._records = {spec.id: Record(spec) for spec in specs}
        self._since_ns = component.clock.now_ns()
        self._restarts = 0
        self._is_database_down = False
        self._snapshots: dict[str, object] = {}

    async def start(self) -> None:
        """Nothing that can fail: a supervisor whose start fails would be dead for good."""

    async def run(self) -> None:
        """Mind every child until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report())
            for record in self._records.values():
                group.create_task(self._mind(record))

    async def stop(self) -> None:
        """Stop the children in reverse order, each with its deadline."""
        for wave in stop_order([record.spec for record in self._records.values()]):
            records = [self._records[spec.id] for spec in wave]
            await asyncio.gather(*(r.child.stop(r.spec.stop_s) for r in records if r.child), return_exceptions=True)
            for record in records:
                record.state = "stopped"
            await asyncio.gather(*(self._note(record, "stopped", "asked") for record in records))

    @property
    def is_ready(self) -> bool:
        return all(record.state in ("ready", "degraded") for record in self._records.values())

    def detail(self) -> Mapping[str, object]:
        """Return each child's state."""
        return {"children": {id: record.state for id, record in self._records.items()}}

    # ── one child ────────────────────────────────────────────────────────────────────────────────
    async def _mind(self, record: Record) -> None:
        """Keep one child, for ever. What nobody foresaw costs this child a wait, never the tree its supervisor."""
        while True:
            try:
                await self._keep(record)
            except Exception as error:
                self._c.log.error("child.keeping_failed", child=record.spec.id, error=f"{type(error).__name__}: {error}")
                record.is_gone = False
                await self._c.clock.sleep(self._timing.heartbeat_s * self._timing.misses_max)

    async def _keep(self, record: Record) -> None:
        """Adopt or start one child, watch it, start it again."""
        await self._remember(record)
        record.child = await self._adopt(record)
        while True:
            if record.child is None:
                for other in record.spec.after:
                    await self._records[other].started.wait()
                record.child = await self._start(record)
            end = Exit(How.FAILED_START, "failed to start")
            if record.child is not None:
                record.started.set()
                end = await self._watch(record, record.child)
            await self._after_exit(record, end)

    async def _adopt(self, record: Record) -> Child | None:
        """Return the living child of this name, if its loop beats; else make sure that nothing of it is left."""
        child = await self._world.find(record.spec)
        if child is None:
            # the supervisor before us may have ended it without living to see it gone
            record.is_gone = record.is_gone and not self._world.was_reconstructed
            return None
        record.child = child  # from here on it is stopped with the others
        try:
            beat = await child.health(with_metrics=False, timeout_s=self._timing.heartbeat_s * self._timing.misses_max)
            if beat["state"] in _COMING:  # its supervisor died while it started: the deadline is ours now
                beat = await self._until_started(record, child, 0.0)
        except (TimeoutError, OutageError) as error:
            self._c.log.warning("child.not_adopted", child=record.spec.id, error=str(error) or "no answer in time")
            end, record.child = await child.kill(How.HUNG, "found without a beat"), None
            record.is_gone = end.is_gone
            return None
        self._take(record, beat)
        await self._note(record, "adopted", "found alive")
        return child

    async def _start(self, record: Record) -> Child | None:
        """Return a started child under a new epoch, or None when it did not come up in time."""
        spec, timing = record.spec, self._timing
        record.state, record.since_ns = "starting", self._c.clock.now_ns()
        if spec.is_leased:
            record.epoch = await self._next_epoch(record)
        wait_s = 0.0 if record.is_gone or not spec.is_leased else timing.lease_ttl_s + 0.5
        record.state = "starting"
        try:
            child = record.child = await self._world.spawn(spec, record.epoch, wait_s)
        except OutageError as error:
            self._c.log.error("child.start_failed", child=spec.id, error=str(error))
            record.is_gone = False  # whoever holds its name
            return None
        try:
            beat = await self._until_started(record, child, wait_s)
        except (TimeoutError, OutageError) as error:
            self._c.log.error("child.start_failed", child=spec.id, error=str(error) or "no answer in time")
            end, record.child = await child.kill(How.FAILED_START, "did not start in time"), None
            record.is_gone = end.is_gone
            return None
        self._take(record, beat)
        record.is_gone = False
        await self._note(record, "started", f"epoch {record.epoch}")
        return child

    async def _until_started(self, record: Record, child: Child, wait_s: float) -> Mapping[str, object]:
        """Return its first beat as started. While it waits for what is away, its deadline does not run.

        Errors: TimeoutError past `start_s` + `wait_s`; OutageError when it died.
        """
        spec, monotonic = record.spec, self._c.clock.monotonic
        deadline = monotonic() + spec.start_s + wait_s
        while True:
            beat = await child.health(with_metrics=False, timeout_s=spec.start_s + wait_s)
            if beat["state"] not in _COMING:
                return beat
            record.state = str(beat["state"])
            if record.state == "waiting":
                deadline = monotonic() + spec.start_s
            if monotonic() > deadline:
                raise TimeoutError
            await self._c.clock.sleep(0.05)

    async def _next_epoch(self, record: Record) -> int:
        """Return the raised epoch; wait for the database as long as it takes: no lease, no start."""
        while True:
            try:
                return await raise_epoch(self._c.db, record.spec.id, f"supervisor:{os.getpid()}")
            except OutageError:
                record.state = "waiting"  # for the database; not a crash, so it does not count
                await self._c.clock.sleep(0.25)

    async def _watch(self, record: Record, child: Child) -> Exit:
        """Return why the child ended: its process died, or it hung and was killed."""
        timing = self._timing
        join = asyncio.create_task(child.join())
        misses = beats = 0
        try:
            while True:
                done, _ = await asyncio.wait({join}, timeout=timing.heartbeat_s)
                if done:
                    return Exit(How.CRASH, "died: its join was cancelled") if join.cancelled() else join.result()
                beats += 1
                try:
                    want = beats % SAMPLE_EVERY == 0
                    beat = await child.health(with_metrics=want, timeout_s=timing.heartbeat_s)
                    self._take(record, beat)
                    misses = 0
                    age_s = float(str(beat["age_s"]))
                except (TimeoutError, OutageError):
                    misses, age_s = misses + 1, 0.0
                if is_hung(
                    beat_age_s=age_s, misses=misses, heartbeat_s=timing.heartbeat_s, misses_max=timing.misses_max
                ):
                    silence = f"hung: {misses} health calls unanswered, loop silent for {age_s:.1f} s"
                    return await child.kill(How.HUNG, silence)
        finally:
            join.cancel()

    async def _after_exit(self, record: Record, end: Exit) -> None:
        """Do what the policy says after a child ended."""
        record.child, record.state, reason = None, "down", end.reason
        record.is_gone = end.is_gone if end.how is not How.FAILED_START else record.is_gone
        await self._note(record, "exited", reason)
        record.pid = None
        now_s = self._c.clock.monotonic()
        decision = decide_exit(
            record.spec, record.history, now_s, is_normal=end.is_normal,
            first_s=self._timing.backoff_first_s, max_s=self._timing.backoff_max_s,
        )  # fmt: skip
        match decision:
            case Restart(after_s, history):
                record.history, record.restarts = history, record.restarts + 1
                await self._note(record, "restarted", reason)
                await self._c.clock.sleep(after_s)
            case GiveUp(retry_s, history):
                record.history, record.state = history, "failed"
                text = f"{record.spec.id} died {len(history)} times in {record.spec.limit.period_s:g} s: given up"
                self._c.log.error("child.given_up", child=record.spec.id, retry_s=retry_s)
                await self._journal.page("child.given_up", f"{text}; trying again in {retry_s:g} s", record.spec.id)
                await self._c.clock.sleep(retry_s)
            case _:
                record.state = "done"
                await asyncio.Event().wait()

    # ── what is written down ─────────────────────────────────────────────────────────────────────
    def _take(self, record: Record, beat: Mapping[str, object]) -> None:
        """Note a beat."""
        record.beat_ns = self._c.clock.now_ns()
        record.state = str(beat["state"])
        record.pid, record.node = int(str(beat["pid"])), str(beat["node"])
        record.epoch = int(str(beat["epoch"]))
        detail = beat.get("detail")
        record.detail = dict(detail) if isinstance(detail, Mapping) else {}
        snapshot = beat.get("metrics")
        if snapshot:
            self._snapshots[record.spec.id] = snapshot
        self._c.meter.gauge("fks_actor_heartbeat_age_seconds", float(str(beat["age_s"])), child=record.spec.id)

    async def _remember(self, record: Record) -> None:
        """Refill the restart window from rows, so that a new supervisor keeps counting."""
        try:
            ages = await self._journal.restart_ages_s(record.spec.id, record.spec.limit.period_s)
            record.restarts = await self._journal.restart_count(record.spec.id)
        except OutageError:
            return
        now_s = self._c.clock.monotonic()
        record.history = tuple(now_s - age for age in ages)

    async def _note(self, record: Record, event: str, reason: str) -> None:
        facts = {"child": record.spec.id, "reason": reason, "child_pid": record.pid, "epoch": record.epoch}
        if event in ("exited", "restarted"):
            self._c.log.warning(f"child.{event}", **facts)
        else:
            self._c.log.info(f"child.{event}", **facts)
        self._tally.note(record.spec.id, event)
        await self._journal.note(record.spec.id, event, reason, pid=record.pid, epoch=record.epoch)

    async def _report(self) -> None:
        """Write every child's row (and our own) once a second, and hand the metric snapshots on."""
        if self._world.was_reconstructed:
            self._c.log.warning("supervisor.restarted")
            await self._journal.note("supervisor", "restarted", "died, restarted by ray", pid=os.getpid(), epoch=0)
        is_first = True
        while True:
            try:
                if is_first:
                    self._restarts = await self._journal.restart_count("supervisor")
                    await self._journal.forget_others(["supervisor", *self._records])
                is_first = False
                await self._journal.write_health([self._own_row(), *map(_row, self._known())])
                self._say_database(is_down=False)
            except OutageError as error:
                self._say_database(is_down=True, error=str(error))
            except Exception as error:  # rows are for showing: the children are minded all the same
                self._c.log.error("supervisor.report_failed", error=f"{type(error).__name__}: {error}")
            snapshots = {**self._snapshots, "supervisor": self._c.meter.snapshot()}
            await self._c.bus.set(SNAPSHOTS_KEY, orjson.dumps(snapshots), ttl_s=30.0)
            await self._c.clock.sleep(1.0)

    def _known(self) -> list[Record]:
        """Return the children to write down: after our own death the rows of those not yet looked at stay as they were."""
        records = self._records.values()
        return [r for r in records if not self._world.was_reconstructed or r.since_ns or r.beat_ns]

    def _say_database(self, *, is_down: bool, error: str = "") -> None:
        """Log a change, once."""
        if is_down and not self._is_database_down:
            self._c.log.error("database.down", error=error)
        if self._is_database_down and not is_down:
            self._c.log.info("database.back")
        self._is_database_down = is_down

    def _own_row(self) -> HealthRow:
        now_ns = self._c.clock.now_ns()
        node = os.uname().nodename
        return HealthRow("supervisor", "actor", "ready", os.getpid(), node, self._restarts, self._since_ns, now_ns)


def _row(record: Record) -> HealthRow:
    return HealthRow(
        record.spec.id, "actor", record.state, record.pid, record.node, record.restarts,
        record.since_ns or None, record.beat_ns, record.epoch, detail=record.detail,
    )  # fmt: skip
