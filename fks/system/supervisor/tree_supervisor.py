"""The supervisor: drives the tree of actors, writes its rows and follows the tree that is wanted.

It does not know what a child does, only whether its process lives (a parked join), whether its loop beats
(heartbeat, health) and what its spec says. Ray restarts the supervisor itself; its children run on meanwhile and are
adopted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence

from fks.clock.waiting import retry, wait_for_event
from fks.config.machine import node_name
from fks.config.runtime import SUPERVISOR
from fks.model.backoff import Backoff
from fks.model.errors import ConfigError, InputError, OutageError, StaleEpochError
from fks.store.heads import HeadStore
from fks.store.leases import Authority
from fks.store.operations import OperationStore
from fks.store.supervision import HealthRow, TreeJournal
from fks.system.runtime import Component
from fks.system.supervision import ChildSpec, SupervisorSpec, check_tree
from fks.system.supervision.liveness import UP, LivenessLimits
from fks.system.supervision.ports import World
from fks.system.supervision.rollout import RolloutPart
from fks.system.supervision.state import Begin, Event, Note, Phase, Remembered, RestartWanted, StopWanted, TreeWanted
from fks.system.supervision.tree_view import below, shape
from fks.system.supervisor.child_runner import ChildLeases, ChildRunner, RunningChild
from fks.system.supervisor.heartbeat_poller import HeartbeatPoller
from fks.system.supervisor.operations import Operations
from fks.system.supervisor.tree_driver import AT_REST, TreeDriver
from fks.system.supervisor.tree_history import SupervisorHistory, health_row

REPORT_S = 1.0  # between two looks at the states of the children, and at the tree that is wanted
LOOKS_PER_ROW = 2  # rows of unchanged children are written this seldom: they carry the last beat and the detail
NEWS_S = 0.1  # rows follow an event within this
SPREAD_S = 5.0  # between two looks whether a child belongs on another node
MOVED_S = 60.0  # a child that was moved, or could not be, is left where it is for so long
BACK_S = 30.0  # a child that is restarted has this long, beyond its own deadlines

Want = Callable[[], Awaitable[SupervisorSpec]]


class TreeSupervisor(TreeDriver):
    """Starts, watches, restarts and stops the children of the tree.

    Hard state: leases, actor_events (restart windows), component_health. Soft state: handles, found again by name.
    Guarantees: only the newest supervisor gives out epochs, an older one ends when it tries, and one of an earlier
    deployment stays down, however often Ray starts it; a living child is never started twice; a dead one is started
    under a higher epoch than it had; a child that dies too often in a row escalates alone: it is paged, started again
    once a minute and the others run on; a database that is away holds up no restart of a child that can start without
    it. `want`, called once a second, returns the tree that should run. `deployment`: that of a head, None without one;
    `machine`: the id of that head.
    """

    def __init__(
        self,
        component: Component,
        tree: SupervisorSpec,
        world: World,
        *,
        want: Want | None = None,
        deployment: int | None = None,
        machine: str = "",
    ) -> None:
        journal = TreeJournal(component.db)
        self._history: SupervisorHistory = SupervisorHistory(
            component.clock,
            component.log,
            component.meter,
            journal,
            node_name(component.settings),
            config_version=component.config_version,
            was_reconstructed=world.was_reconstructed,
        )
        super().__init__(tree, component.clock, component.log, self._history)
        self._c = component
        self._world = world
        self._want = want
        timing = component.settings.supervision
        self._limits = LivenessLimits(timing.heartbeat_s, timing.misses_max, timing.unwell_s)
        self._poller = HeartbeatPoller(component.clock, timing.heartbeat_s)
        self._deployment, self._machine = deployment, machine
        self._heads = HeadStore(component.db, timing.head_ttl_s)
        self._superseded = ""  # the deployment that replaced this one; then it stays down
        self._authority = Authority(
            component.db, f"supervisor:{os.getpid()}", self._events.put_nowait, self._deployment
        )
        self._leases = ChildLeases(
            component.clock,
            journal,
            component.bus,
            self._authority,
            ttl_s=timing.lease_ttl_s + 0.5,
            was_reconstructed=world.was_reconstructed,
        )
        self._operations = OperationStore(component.db)
        self._must_forget = False  # rows of components that are not in the tree have to be removed
        self._has_swept = want is None  # actors outside the tree were stopped
        self._has_remembered = False  # no row is written before
        self._follow_tree()

    async def run(self) -> None:
        """Supervise the children until cancelled. Errors: StaleEpochError when a newer supervisor of the deployment
        acts."""
        self._events.put_nowait(Begin())
        loops = (
            self._poller.run,
            self._remember,
            self._report,
            self._follow_want,
            self._hold_head,
            self._spread,
            Operations(self._c, self).run,
        )
        lost: StaleEpochError | None = None
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._history.write_lines()),
                *(group.create_task(self._guard(loop)) for loop in loops),
            ]
            while lost is None:
                event = await self._events.get()
                if isinstance(event, StaleEpochError):
                    lost = event  # another supervisor owns the tree: nothing of it may be touched from here
                else:
                    self._take(event)
            for task in tasks:
                task.cancel()
        await self._stay_down(lost)

    async def _stay_down(self, lost: StaleEpochError) -> None:
        """Wait without an end once another deployment is in charge: Ray would restart a supervisor that ends.

        No part of another head's tree runs here: this supervisor's children are in its own cluster, so it stops them.
        Errors: `lost` when no other deployment is in charge; OutageError.
        """
        head = await self._heads.holder()
        if self._deployment is None or head is None or head.deployment == self._deployment:
            raise lost
        self._superseded = f"superseded by deployment {head.deployment} of the head {head.text}"
        self._log.error("supervisor.superseded", reason=self._superseded, deployment=self._deployment)
        if head.machine != self._machine:
            await self._stop_children(self._superseded)
        await asyncio.Event().wait()

    async def _hold_head(self) -> None:
        """Renew the claim of our head each second: it lasts as long as its tree, even without its keeper."""
        while self._deployment is not None:
            with contextlib.suppress(OutageError):
                if not await self._heads.hold(self._deployment):
                    self._authority.lose()
            await self._clock.sleep(REPORT_S)

    async def stop(self) -> None:
        """Stop the children in reverse order, each with its deadline."""
        if self._superseded:
            return
        await self._stop_children("asked")
        await self._write_rows()
        await self._history.flush(self._history.journal)

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
        """Return each child's state, the tree as it is, the deployment, and the one that superseded this supervisor."""
        states = self._states()
        found: dict[str, object] = {"children": states, "tree": shape(self._state, states, self._clock.monotonic())}
        if self._deployment is not None:
            found["deployment"] = self._deployment
        return found | ({"reason": self._superseded} if self._superseded else {})

    # ── used by operations ───────────────────────────────────────────────────────────────────────
    def children(self) -> Mapping[str, RolloutPart]:
        """Return every child by id, in the order of the tree."""
        states = self._states()
        return {
            id: RolloutPart(
                states[id],
                runner.record.pid,
                runner.record.version,
                runner.record.config_version,
                runner.record.node,
            )
            for id, runner in self._runners.items()
            if id in states
        }

    async def restart_child(self, id: str, why: str) -> None:
        """Drain a child (or all below a supervisor of the tree), start it again, return when it is ready or degraded.

        It does not count towards the intensity. Errors: InputError for an id that is not in the tree; OutageError when
        it is not back in time.
        """
        workers = below(self._state.tree, id)
        if not workers:
            raise InputError(f"{id} is no child of the tree", remedy=f"use one of {', '.join(self._states())}")
        runs = {spec.id: self._state.nodes[spec.id].run for spec in workers}
        patience_s = sum(spec.stop_s for spec in workers) + max(spec.start_s for spec in workers) + BACK_S
        deadline_s = self._clock.monotonic() + patience_s
        self._events.put_nowait(RestartWanted(id, why))
        while not all(self._is_back(child, run) for child, run in runs.items()):
            states = {child: state for child, state in self._states().items() if child in runs}
            if self._clock.monotonic() > deadline_s:
                raise OutageError(f"{id} is not back after {patience_s:g} s: {states}", remedy=f"see 'fks logs {id}'")
            await self._clock.sleep(0.02)

    def _is_back(self, id: str, run: int) -> bool:
        node = self._state.nodes.get(id)
        return node is None or (node.run > run and node.phase is Phase.UP and self._runners[id].record.state in UP)

    # ── the machine and its commands ─────────────────────────────────────────────────────────────
    def _take(self, event: Event) -> None:
        super()._take(event)
        self._has_remembered = self._has_remembered or isinstance(event, Remembered)

    def _follow_tree(self) -> None:
        super()._follow_tree()
        self._must_forget = True

    def _runner(self, spec: ChildSpec) -> ChildRunner:
        record = RunningChild(spec, self._limits)
        return ChildRunner(
            self._clock, self._log, self._world, record, self._events.put_nowait, self._leases, self._poller
        )

    # ── loops ────────────────────────────────────────────────────────────────────────────────────
    async def _guard(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop; after an unexpected error it begins again, and the children are supervised all the same."""
        while True:
            try:
                return await loop()
            except StaleEpochError:
                return  # posted by the authority
            except Exception as error:
                self._log.error("supervisor.loop_failed", error=f"{type(error).__name__}: {error}")
            await self._clock.sleep(REPORT_S)

    async def _remember(self) -> None:
        """Refill the restart windows from rows, as soon as the database answers, so that a new supervisor keeps
        counting."""

        async def load() -> tuple[Remembered, dict[str, int]]:
            await self._authority.take()
            return await self._past(self._history.journal), await self._history.journal.restart_counts()

        past, counts = await retry(load, self._clock, Backoff(REPORT_S, REPORT_S), errors=OutageError)
        self._events.put_nowait(past)
        self._history.remember(counts)
        for id, runner in self._runners.items():
            runner.record.restarts = max(runner.record.restarts, counts.get(id, 0))

    async def _report(self) -> None:
        states: dict[str, str] = {}
        for look in itertools.count():
            if self._must_forget and self._has_swept:
                try:
                    await self._history.journal.forget_others([SUPERVISOR, *self._runners])
                    self._must_forget = False
                except OutageError:
                    pass  # with the next report
            if self._has_news.is_set() or states != self._states() or look % LOOKS_PER_ROW == 0:
                self._has_news.clear()
                states = self._states()
                if self._has_remembered:  # until then it is not certain that the rows are ours to write
                    await self._write_rows()
            await self._clock.sleep(NEWS_S)
            await wait_for_event(self._has_news, REPORT_S - NEWS_S, self._clock)

    async def _write_rows(self) -> None:
        await self._history.report(self._rows(), self.detail(), self._authority.epoch)

    def _rows(self) -> Sequence[HealthRow]:
        """Return the rows to write; after our own restart those of children not yet found stay as they were."""
        states = self._states()
        records, now_s = [runner.record for runner in self._runners.values()], self._clock.monotonic()
        for record in records:
            if record.beat_s is not None:
                self._c.meter.gauge("fks_actor_heartbeat_age_seconds", now_s - record.beat_s, child=record.spec.id)
            record.escalation = self._state.nodes[record.spec.id].escalation
            if states[record.spec.id] in AT_REST.values():
                record.state = states[record.spec.id]
        return [
            health_row(record)
            for record in records
            if not self._world.was_reconstructed or record.since_ns or record.is_known
        ]

    async def _follow_want(self) -> None:
        """Follow the tree that is wanted, once a second, and stop the actors that an earlier supervisor left outside of
        it."""
        refused, known = "", None
        while self._want is not None:
            try:
                tree = await self._want()
                if tree is not known:  # else it was checked before
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
                    self._log.error("tree.refused", error=str(error))
                refused = str(error)
            await self._clock.sleep(REPORT_S)

    async def _spread(self) -> None:
        """Start children again on the nodes where they belong, one at a time, while all of them are well."""
        moved: dict[str, float] = {}
        while True:
            await self._clock.sleep(SPREAD_S)
            now = self._clock.monotonic()
            specs = [
                runner.record.spec
                for runner in self._runners.values()
                if now - moved.get(runner.record.spec.id, -MOVED_S) >= MOVED_S
            ]
            if any(runner.record.state not in UP for runner in self._runners.values()):
                continue
            try:
                if await self._operations.list(state="running", limit=1):
                    continue
                if (id := await self._world.misplaced(specs)) is not None:
                    moved[id] = now
                    await self.restart_child(id, "it belongs on another node")
            except (OutageError, InputError) as error:
                self._log.warning("child.not_moved", error=str(error))

    async def _sweep(self, tree: SupervisorSpec) -> None:
        """Stop the actors that an earlier supervisor ran and that are not in the tree any more. Errors: OutageError."""
        expected = {SUPERVISOR, *(spec.id for spec in tree.workers())}
        for name in await self._history.journal.actors():
            if name in expected:
                continue
            spec = ChildSpec(name, "", 10.0)
            child = await self._world.find(spec)
            if child is not None:
                end = await child.stop(spec.stop_s)
                self._history.note(Note(name, "removed", "left by an earlier supervisor", end), None)
