"""The supervisor: performs what fks.supervision decides, and tells it what happened. It decides nothing itself.

It never asks what a child does. It knows whether its process lives (a parked join), whether its loop beats (health) and
what its spec says. Ray restarts the supervisor itself; its children go on meanwhile and are adopted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence

from fks.model.errors import ConfigError, InputError, OutageError, StaleEpochError
from fks.runtime import Component
from fks.store.heads import HeadStore
from fks.store.leases import Authority
from fks.store.supervision import HealthRow
from fks.supervision import ChildSpec, SupervisorSpec, TreeState, check_tree, decide
from fks.supervision.machine import HOUR_S
from fks.supervision.policy import death_ages, row_ages
from fks.supervision.ports import World
from fks.supervision.state import (
    Begin,
    Command,
    Event,
    Find,
    Note,
    Page,
    Phase,
    Remembered,
    RestartWanted,
    Start,
    Stop,
    StopWanted,
    Timer,
    TimerFired,
    TreeWanted,
)
from fks.supervision.tree_view import below, shape
from fks.supervisor.child_runner import Keeping, Record
from fks.supervisor.heartbeat_poller import Rounds
from fks.supervisor.operations import Operations, Part
from fks.supervisor.tree_history import SUPERVISOR, Chronicle, health_row

UP = frozenset({"ready", "degraded"})
REPORT_S = 1.0  # between two looks at how the children are, and at which there should be
LOOKS_A_ROW = 2  # of a child that is as it was: its row says when it last beat, and what it tells of itself
NEWS_S = 0.1  # rows follow what happened within this
BACK_S = 30.0  # a child that is restarted has so long, beyond its own deadlines
#: what a row says of a child that is not running
_AT_REST = {Phase.CONTAINED: "failed", Phase.DONE: "done", Phase.IDLE: "stopped", Phase.STOPPING: "draining"}

Want = Callable[[], Awaitable[SupervisorSpec]]


class SupervisorActor:
    """Starts, watches, restarts and stops the children of the tree.

    Hard state: leases, actor_events (restart windows), component_health. Soft state: handles, found again by name.
    Guarantees: only the newest supervisor gives out epochs, an older one ends when it tries, and one of an earlier
    deployment stays down, however often Ray starts it; a living child is never started twice; a dead one is started
    under a higher epoch than it had; a child that dies too often in a row escalates alone: it is paged, started again
    once a minute and the others run on; a database that is away holds up no restart of a child that can start without
    it. `want`, asked once a second, says what the tree should be.
    """

    def __init__(
        self,
        component: Component,
        args: tuple[str, ...],
        *,
        tree: SupervisorSpec,
        world: World,
        want: Want | None = None,
    ) -> None:
        self._c = component
        self._world = world
        self._want = want
        self._state = TreeState.of(tree)
        self._events: asyncio.Queue[Event | StaleEpochError] = asyncio.Queue()
        self._rounds = Rounds(component.clock, component.settings.supervision.heartbeat_s)
        self._deployment = int(args[0]) if args else None  # of a head; None: there is none
        self._machine = args[1] if args else ""
        self._heads = HeadStore(component.db, component.settings.supervision.head_ttl_s)
        self._superseded = ""  # by whom; then it stays down
        self._authority = Authority(
            component.db, f"supervisor:{os.getpid()}", self._events.put_nowait, self._deployment
        )
        self._kept: dict[str, Keeping] = {}
        self._timers: set[asyncio.Task[None]] = set()
        self._chronicle = Chronicle(component, world, os.uname().nodename)
        self._has_news = asyncio.Event()
        self._is_forgetting = False  # rows of components that the tree does not have are to be dropped
        self._has_swept = want is None
        self._has_remembered = False  # before that no row is written
        self._follow_kept()

    async def start(self) -> None:
        """Nothing that can fail: a supervisor whose start fails would be dead for good."""

    async def run(self) -> None:
        """Mind every child until cancelled. Errors: StaleEpochError when a newer supervisor of the same deployment
        acts."""
        self._events.put_nowait(Begin())
        loops = (
            self._rounds.run,
            self._remember,
            self._report,
            self._follow_want,
            self._hold_head,
            Operations(self._c, self).run,
        )
        lost: StaleEpochError | None = None
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._chronicle.write_lines()),
                *(group.create_task(self._guard(loop)) for loop in loops),
            ]
            while lost is None:
                event = await self._events.get()
                if isinstance(event, StaleEpochError):
                    lost = event  # the tree is another's: nothing of it may be touched from here
                else:
                    self._take(event)
            for task in tasks:
                task.cancel()
        await self._stay_down(lost)

    async def _stay_down(self, lost: StaleEpochError) -> None:
        """Do nothing more, for ever, once another deployment is in charge: Ray would start one that ends again at once.

        Of another head's tree nothing runs here; what this supervisor started is in its own cluster, so it ends that.
        Errors: `lost` when no other deployment is in charge; OutageError.
        """
        head = await self._heads.holder()
        if self._deployment is None or head is None or head.deployment == self._deployment:
            raise lost
        self._superseded = f"superseded by deployment {head.deployment} of the head {head.text}"
        self._c.log.error("supervisor.superseded", reason=self._superseded, deployment=self._deployment)
        if head.machine != self._machine:
            await self._stop_children(self._superseded)
        await asyncio.Event().wait()

    async def _hold_head(self) -> None:
        """Renew the place of our head each second: it lives as long as its tree does, even without its keeper."""
        while self._deployment is not None:
            with contextlib.suppress(OutageError):
                if not await self._heads.hold(self._deployment):
                    self._authority.lose()
            await self._c.clock.sleep(REPORT_S)

    async def stop(self) -> None:
        """Stop the children in reverse order, each with its deadline."""
        if self._superseded:
            return
        await self._stop_children("asked")
        await self._chronicle.report(self._rows, self.detail)
        await self._chronicle.flush()

    async def _stop_children(self, why: str) -> None:
        self._take(StopWanted(why))
        while not self._state.is_stopped:
            event = await self._events.get()
            if not isinstance(event, StaleEpochError):
                self._take(event)
            elif not self._superseded:
                raise event
        for task in self._timers:
            task.cancel()

    @property
    def is_ready(self) -> bool:
        return not self._superseded and all(state in UP for state in self._states().values())

    def detail(self) -> dict[str, object]:
        """Return each child's state, the tree as it is, the deployment, and by whom this supervisor was superseded."""
        states = self._states()
        found: dict[str, object] = {"children": states, "tree": shape(self._state, states, self._c.clock.monotonic())}
        if self._deployment is not None:
            found["deployment"] = self._deployment
        return found | ({"reason": self._superseded} if self._superseded else {})

    # ── asked by others in this process ──────────────────────────────────────────────────────────
    def children(self) -> Mapping[str, Part]:
        """Return every child by id, in the order of the tree."""
        states = self._states()
        return {
            id: Part(states[id], kept.record.pid, kept.record.version, kept.record.config_version, kept.record.node)
            for id, kept in self._kept.items()
            if id in states
        }

    async def restart_child(self, id: str, why: str) -> None:
        """Drain a worker (or all below a supervisor of the tree), start it again, return when it is ready or degraded.

        It does not count towards the intensity. Errors: InputError for an id that is not in the tree; OutageError when
        it is not back in time.
        """
        workers = below(self._state.tree, id)
        if not workers:
            raise InputError(f"{id} is no child of the tree", remedy=f"use one of {', '.join(self._states())}")
        runs = {spec.id: self._state.nodes[spec.id].run for spec in workers}
        patience_s = sum(spec.stop_s for spec in workers) + max(spec.start_s for spec in workers) + BACK_S
        deadline_s = self._c.clock.monotonic() + patience_s
        self._events.put_nowait(RestartWanted(id, why))
        while not all(self._is_back(child, run) for child, run in runs.items()):
            states = {child: state for child, state in self._states().items() if child in runs}
            if self._c.clock.monotonic() > deadline_s:
                raise OutageError(f"{id} is not back after {patience_s:g} s: {states}", remedy=f"see 'fks logs {id}'")
            await self._c.clock.sleep(0.02)

    def _is_back(self, id: str, run: int) -> bool:
        node = self._state.nodes.get(id)
        return node is None or (node.run > run and node.phase is Phase.UP and self._kept[id].record.state in UP)

    # ── the machine and its commands ─────────────────────────────────────────────────────────────
    def _take(self, event: Event) -> None:
        """Decide, then do. A decision that fails changes nothing: the tree must not lose its supervisor over it."""
        before = self._state.tree
        try:
            self._state, commands = decide(self._state, event, self._c.clock.monotonic())
        except Exception as error:
            self._c.log.error(
                "supervisor.undecided", about=type(event).__name__, error=f"{type(error).__name__}: {error}"
            )
            return
        self._has_remembered = self._has_remembered or isinstance(event, Remembered)
        if self._state.tree is not before:
            self._follow_kept()
        for command in commands:
            self._do(command)

    def _do(self, command: Command) -> None:
        match command:
            case Find(id, run):
                self._kept[id].find(run)
            case Start(id, run):
                self._kept[id].start(run)
            case Stop(id, run, deadline_s, why):
                self._kept[id].stop(run, deadline_s, why)
            case Timer(token, after_s):
                task = asyncio.create_task(self._fire(token, after_s))
                self._timers.add(task)
                task.add_done_callback(self._timers.discard)
            case Page():
                self._chronicle.page(command)
            case Note():
                self._note(command)

    async def _fire(self, token: int, after_s: float) -> None:
        await self._c.clock.sleep(after_s)
        self._events.put_nowait(TimerFired(token))

    def _note(self, note: Note) -> None:
        kept = self._kept.get(note.id)
        record = kept.record if kept is not None else None
        self._chronicle.note(note, record)
        self._has_news.set()
        if record is None:
            return
        if note.event in ("restarted", "escalated"):
            record.restarts += 1
        if note.event in ("restarted", "escalated", "done", "stopping") or (
            note.event == "exited" and record.child is None
        ):
            record.pid = record.pid if note.event == "stopping" else None

    def _follow_kept(self) -> None:
        """Have a keeping for every worker of the tree, and none for those that are not in it any more."""
        specs = {spec.id: spec for spec in self._state.tree.workers()}
        for id in [id for id in self._kept if id not in specs]:
            self._kept.pop(id).close()
        for id, spec in specs.items():
            if id in self._kept:
                self._kept[id].record.spec = spec
            else:
                self._kept[id] = Keeping(
                    self._c, self._world, Record(spec), self._events.put_nowait, self._authority, self._rounds
                )
        self._kept = {id: self._kept[id] for id in specs}
        self._is_forgetting = True

    def _states(self) -> dict[str, str]:
        """Return each worker's state as its row shows it."""
        states = {}
        for id, kept in self._kept.items():
            phase = self._state.nodes[id].phase
            began = kept.record.is_known or kept.record.since_ns
            states[id] = _AT_REST.get(phase, kept.record.state) if began or phase is not Phase.IDLE else "waiting"
        return states

    # ── loops ────────────────────────────────────────────────────────────────────────────────────
    async def _guard(self, loop: Callable[[], Awaitable[None]]) -> None:
        """A loop of ours that fails for a reason nobody foresaw begins again; the children are minded all the same."""
        while True:
            try:
                return await loop()
            except StaleEpochError:
                return  # posted by the authority
            except Exception as error:
                self._c.log.error("supervisor.loop_failed", error=f"{type(error).__name__}: {error}")
            await self._c.clock.sleep(REPORT_S)

    async def _remember(self) -> None:
        """Refill the restart windows from rows, as soon as the database answers, so that a new supervisor keeps
        counting."""
        began_s = self._c.clock.monotonic()
        supervisors = [self._state.tree, *_supervisors(self._state.tree)]
        periods = [HOUR_S, *(spec.limit.period_s for spec in supervisors)]
        lasting_s = {child.id: spec.backoff.reset_s for spec in supervisors for child in spec.children}
        while True:
            lived_s = self._c.clock.monotonic() - began_s  # what happened since is counted already
            try:
                await self._authority.take()
                past = await self._chronicle.journal.lives(max(periods))
                escalations = await self._chronicle.journal.escalations()
                counts = await self._chronicle.journal.restart_counts()
                break
            except OutageError:
                await self._c.clock.sleep(REPORT_S)
        past = {id: [(event, age) for event, age in life if age > lived_s] for id, life in past.items()}
        rows = {id: row_ages(life, lasting_s.get(id, 0.0), until_s=lived_s) for id, life in past.items()}
        self._events.put_nowait(Remembered({id: death_ages(life) for id, life in past.items()}, rows, escalations))
        self._chronicle.remember(counts)
        for id, kept in self._kept.items():
            kept.record.restarts = max(kept.record.restarts, counts.get(id, 0))

    async def _report(self) -> None:
        states: dict[str, str] = {}
        for look in itertools.count():
            if self._is_forgetting and self._has_swept:
                try:
                    await self._chronicle.journal.forget_others([SUPERVISOR, *self._kept])
                    self._is_forgetting = False
                except OutageError:
                    pass  # with the next report
            if self._has_news.is_set() or states != self._states() or look % LOOKS_A_ROW == 0:
                self._has_news.clear()
                states = self._states()
                if self._has_remembered:  # until then it is not certain that the rows are ours to write
                    await self._chronicle.report(self._rows, self.detail)
            await self._c.clock.sleep(NEWS_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_S - NEWS_S):
                    await self._has_news.wait()

    def _rows(self) -> Sequence[HealthRow]:
        """Return the rows to write: after our own death those of children not yet looked at stay as they were."""
        states = self._states()
        records, now_s = [kept.record for kept in self._kept.values()], self._c.clock.monotonic()
        for record in records:
            if record.beat_s is not None:
                self._c.meter.gauge("fks_actor_heartbeat_age_seconds", now_s - record.beat_s, child=record.spec.id)
            record.escalation = self._state.nodes[record.spec.id].escalation
            if states[record.spec.id] in _AT_REST.values():
                record.state = states[record.spec.id]
        return [
            health_row(record)
            for record in records
            if not self._world.was_reconstructed or record.since_ns or record.is_known
        ]

    async def _follow_want(self) -> None:
        """Ask once a second what the tree should be; what an earlier supervisor left running outside of it is ended."""
        refused, known = "", None
        while self._want is not None:
            try:
                tree = await self._want()
                if tree is not known:  # else it is what was looked at a second ago
                    check_tree(tree)
                known = tree
                if tree != (self._state.wanted or self._state.tree):
                    self._events.put_nowait(TreeWanted(tree))
                if not self._has_swept:
                    await self._sweep(tree)
                    self._has_swept = True
                refused = ""
            except OutageError:
                pass  # the tree stays as it is
            except ConfigError as error:
                if str(error) != refused:
                    self._c.log.error("tree.refused", error=str(error))
                refused = str(error)
            await self._c.clock.sleep(REPORT_S)

    async def _sweep(self, tree: SupervisorSpec) -> None:
        """End the actors that a supervisor before us ran and that the tree does not have any more. Errors:
        OutageError."""
        wanted = {SUPERVISOR, *(spec.id for spec in tree.workers())}
        for name in await self._chronicle.journal.actors():
            if name in wanted:
                continue
            spec = ChildSpec(name, "", 10.0)
            child = await self._world.find(spec)
            if child is not None:
                end = await child.stop(spec.stop_s)
                self._chronicle.note(Note(name, "removed", "left by an earlier supervisor", end), None)


def _supervisors(tree: SupervisorSpec) -> list[SupervisorSpec]:
    found = []
    for child in tree.children:
        if isinstance(child, SupervisorSpec):
            found += [child, *_supervisors(child)]
    return found
