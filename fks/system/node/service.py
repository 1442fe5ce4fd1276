"""Services of a machine as a tree that the keeper supervises: PostgreSQL, Redis, the local exchange, Ray.

`ServiceTree` runs them by the machine and the child runner that run the actors: the limits, escalations, pages and
history are the same. `NodeService` is one of them: it finds, starts, probes and ends its process.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fks.clock import Clock
from fks.model.errors import ConfigError, FksError, OutageError, StaleEpochError
from fks.model.ports import Log
from fks.store.supervision import TreeJournal
from fks.system.node.child_records import ChildRecord, ChildRecords
from fks.system.node.spec import ServiceSpec, ServiceTiming
from fks.system.node.supervised_child import SupervisedChild
from fks.system.process.handle import KILL_WAIT_S, ProcessHandle, clear_session, start_mark
from fks.system.process.log import Redactor, last_output
from fks.system.supervision.exits import How, ProcessExit
from fks.system.supervision.liveness import LivenessLimits
from fks.system.supervision.spec import ChildSpec, counted_alone
from fks.system.supervision.state import Begin, Event, Node, Note, Phase, RestartWanted, SendPage, TreeWanted
from fks.system.supervisor.child_runner import ChildRunner, RunningChild
from fks.system.supervisor.tree_driver import AT_REST, TreeDriver
from fks.system.supervisor.tree_history import TreeHistory

PART_POLL_S = 0.05
WAIT_S = 1.0  # between attempts to start while a dependency on another machine is unavailable
TAIL_LINES = 12  # of what a program printed, in the error that it failed


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service, or a part of one, as status shows it. `ended`: why its process before this one ended; `escalation`:
    why it escalated, until a person ends that; `is_noted`: its tree keeps its history."""

    name: str
    state: str
    pid: int | None
    restarts: int
    since_ns: int
    detail: str = ""
    ended: str = ""
    escalation: str = ""
    is_noted: bool = False


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """The things that every service of a machine is given. `worker`: this machine's name when it is a worker: its
    services carry it in the history, as `ray@w1`."""

    records: ChildRecords
    clock: Clock
    log: Log
    timing: ServiceTiming
    node: str
    worker: str = ""


@dataclass(frozen=True, slots=True)
class ServiceLimits(LivenessLimits):
    """Limits of a service, which is probed: `hang_s` without an answer end it."""

    hang_s: float = math.inf

    @property
    def silence_max_s(self) -> float:
        return self.hang_s


class NodeService(SupervisedChild):
    """One service: the source of its processes and the handle to the present one, for its runner.

    Hard state: its record. Soft state: the rest.
    """

    def __init__(
        self, spec: ServiceSpec, context: ServiceContext, on_change: Callable[[SupervisedChild], None]
    ) -> None:
        super().__init__(spec.name, on_change)
        self.spec = spec
        self._records, self._clock, self._log = context.records, context.clock, context.log
        self._timing = timing = context.timing
        record = self._records.get(spec.name)
        self.child = RunningChild(
            ChildSpec(
                f"{spec.name}@{context.worker}" if context.worker else spec.name,
                "service",
                sum(seconds for _, seconds in spec.stop) + KILL_WAIT_S,
                is_leased=False,
                start_s=spec.start_s,
            ),
            ServiceLimits(timing.probe_s, 1, math.inf, math.inf if spec.hang_s is None else spec.hang_s),
            node=context.node,
            restarts=record.restarts if record else 0,
        )
        self.is_misconfigured = False  # the start was refused for a ConfigError: trying again changes nothing
        self.is_adopted = False
        self.process: ProcessHandle | None = None
        self._escalation = ""
        self._refusal = ""  # why the last start gave no process
        self._ended = ""  # why the process before this one ended
        self._is_up = False  # this process has answered
        self._answered_s = 0.0
        self._parts: Mapping[str, int] = {}
        self._is_part_lost = False
        self._part_restarts: dict[str, int] = {}  # those made by the service itself
        self._part_since_ns: dict[str, int] = {}
        self._since_ns = self._clock.now_ns()

    @property
    def is_ready(self) -> bool:
        """Return whether it has come up and its process lives; its end may not have been noted yet."""
        return self.process is not None and super().is_ready

    @property
    def restarts(self) -> int:
        """Return how often it was started again after it had died."""
        return self.child.restarts

    @property
    def is_held(self) -> bool:
        """Return whether it waits for its next start, or starts again. One that an earlier keeper left is not held."""
        is_starting_again = self.state == "starting" and self.failures > 0 and not self.is_adopted
        return is_starting_again or self.state in ("waiting", "down", "failed")

    def statuses(self) -> list[ServiceStatus]:
        """Return what status shows: the service itself, or its parts under their own names."""
        pids: dict[str, int | None] = dict.fromkeys(self.spec.part_names)
        pids |= self._parts
        pids = pids or {self.name: self.process.pid if self.process else None}
        state = "degraded" if self._escalation and self.state == "ready" else self.state
        return [
            ServiceStatus(
                name,
                state,
                pid,
                self.restarts + self._part_restarts.get(name, 0),
                max(self._since_ns, self._part_since_ns.get(name, 0)),
                self.error,
                self._ended,
                self._escalation,
                name == self.name,
            )
            for name, pid in pids.items()
        ]

    def failure(self, redactor: Redactor) -> FksError:
        """Return why it does not start, with the last lines of its log."""
        output = last_output(self.spec.log, TAIL_LINES, redactor)
        if self.is_misconfigured:
            return ConfigError(self.error)
        return FksError(
            f"{self.name} does not start: {self.error}", remedy=f"its last output:\n{output}" if output else ""
        )

    def note(self, note: Note) -> None:
        """Note an event of the tree."""
        if note.event in ("started", "adopted"):
            self.failures, self.times_ready = 0, self.times_ready + 1
            self._move("ready", "")
        elif note.exit is not None and note.event == "exited":
            self.failures += note.exit.how is How.FAILED_START
            self._ended = "asked" if note.exit.is_normal else note.exit.reason
            if note.exit.is_normal:
                self.error = ""
            else:
                self._move("down", note.exit.reason)

    def follow(self, node: Node | None) -> None:
        """Show the state of a service that does not run; None: it has left the tree."""
        self._escalation = node.escalation if node is not None else ""
        phase = node.phase if node is not None else Phase.IDLE
        if phase in AT_REST:
            self._move(AT_REST[phase])

    # ── the source of its processes ───────────────────────────────────────────────────────────────────────────────────

    async def adopt(self) -> bool:
        """Take over the running process of an earlier keeper, and end what is left of a dead one; return whether there
        is one."""
        record = self._records.get(self.name)
        found = ProcessHandle.find(record.pid, record.mark) if record and record.pid else None
        if found is None and record and record.pid and self.spec.is_group:
            await clear_session(record.pid, record.mark)
        if found is None:
            pid = await asyncio.to_thread(self.spec.find)
            found = ProcessHandle.of(pid) if pid else None
        if found is not None:
            self.is_adopted = True
            self._since_ns = record.since_ns if record and record.pid == found.pid else self._clock.now_ns()
            self._hold(found)
        return found is not None

    async def find(self, spec: ChildSpec) -> NodeService | None:
        """Return the service if a process of it was taken over."""
        return self if self.process is not None else None

    async def spawn(self, spec: ChildSpec, epoch: int, wait_s: float) -> NodeService:
        """Start a process. While a dependency on another machine is unavailable it waits: that is no crash, so it does
        not count. A start that is refused shows as a process that has ended."""
        while True:
            self._move("starting")
            self._refusal, self.is_misconfigured = "", False
            try:
                launch = await asyncio.to_thread(self.spec.launch)
                self._since_ns = self._clock.now_ns()
                self._hold(ProcessHandle.spawn(launch))
            except OutageError as error:
                self.failures += 1
                self._move("waiting", str(error))
                await self._clock.sleep(WAIT_S)
                continue
            except (FksError, OSError) as error:
                self._refusal, self.is_misconfigured = str(error), isinstance(error, ConfigError)
            else:
                assert self.process is not None
                self._log.info("service.started", service=self.name, service_pid=self.process.pid)
            return self

    def _hold(self, process: ProcessHandle) -> None:
        self.process, self._is_up, self._answered_s = process, False, self._clock.monotonic()
        self._records.put(self.name, ChildRecord(process.pid, process.mark, self._since_ns, self.restarts))

    # ── the process ───────────────────────────────────────────────────────────────────────────────────────────────────

    def read_heartbeat(self) -> None:
        """Return None: a service is probed."""

    async def begin(self) -> None:
        """Do nothing: a service waits for no lease."""

    async def health(self, *, timeout_s: float) -> Mapping[str, object]:
        """Probe it. Errors: OutageError when its process has ended."""
        process = self.process
        if process is None:
            raise OutageError(self._refusal)
        is_answering, now_s = await self._answers(process), self._clock.monotonic()
        if not is_answering and not process.is_alive():
            raise OutageError(f"ended while starting (status {process.returncode})")
        if is_answering and not self._is_up:
            self._is_up = True
            self._parts = self.spec.parts(process) if self.spec.parts else {}
        if is_answering or self._is_part_lost:
            self._answered_s = now_s
        silent_s = now_s - self._answered_s
        state = "ready"
        if not self._is_up:
            silent_s = 0.0
            is_delayed = self.is_adopted and self.spec.is_delayed()  # a part of it waits for space on the disk
            state = "waiting" if is_delayed else "starting"
        elif silent_s > self._timing.degraded_s:
            state = "degraded"
            self._move(state, f"no answer for {silent_s:.0f} s")
        elif self.state == "degraded" and not self._is_part_lost:
            self._move(state, "")
        return {"state": state, "pid": process.pid, "node": self.child.node, "epoch": 0, "age_s": silent_s}

    async def join(self) -> ProcessExit:
        """Wait until it has died, or lost a part for good; its other processes are killed."""
        process = self.process
        assert process is not None
        while True:
            reason, part = await self._first_end(process)
            if not part or not self.spec.restarts_own_parts or not await self._part_comes_back(process, part, reason):
                break
        code = process.returncode  # before we end what is left of it; None when it is not our child
        reason += "" if code is None else f", signal {-code}" if code < 0 else f", exit code {code}"
        return await self._end(How.CRASH, reason, code)

    async def stop(self, deadline_s: float) -> ProcessExit:
        """End it by its own signals, whose deadlines are the spec's, and then by SIGKILL."""
        return await self._end(How.NORMAL, "asked", None)

    async def kill(self, how: How, reason: str) -> ProcessExit:
        """Kill it: one that hung or did not start has nothing to save."""
        if how is How.HUNG:
            reason = f"{self.name} did not answer for {self._clock.monotonic() - self._answered_s:.0f} s"
        return await self._end(how, reason, self.process.returncode if self.process is not None else None)

    async def _end(self, how: How, reason: str, code: int | None) -> ProcessExit:
        """End it and its whole session, and return its end."""
        process = self.process
        if process is not None:
            is_orderly = how is How.NORMAL
            is_clean = await process.stop(self.spec.stop if is_orderly else (), is_group=self.spec.is_group)
            if is_orderly and not is_clean:
                self._log.info("service.killed", service=self.name, service_pid=process.pid, stop=self.spec.stop)
            process.close()
        self.is_adopted, self._is_part_lost = False, False
        self.process, self._parts = None, {}
        self._records.forget(self.name)
        is_signal = code is not None and code < 0
        return ProcessExit(
            how,
            reason,
            is_gone=True,
            exit_code=None if is_signal else code,
            signal=-code if code is not None and is_signal else None,
        )

    async def _answers(self, process: ProcessHandle) -> bool:
        try:
            async with asyncio.timeout(self._timing.probe_timeout_s):
                return await self.spec.is_ready(process)
        except (OSError, FksError):  # TimeoutError is an OSError
            return False

    async def _first_end(self, process: ProcessHandle) -> tuple[str, str]:
        """Return what ended, and the part's name when it is one."""
        waits = {asyncio.create_task(process.ended()): (f"{self.name} (pid {process.pid}) died", "")}
        for name, pid in self._parts.items():
            part = ProcessHandle(pid, start_mark(pid) or "")
            waits[asyncio.create_task(part.ended())] = (f"{name} (pid {pid}) died", name)
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return max((waits[task] for task in done), key=lambda found: found[1])  # a part says more than the whole
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _part_comes_back(self, process: ProcessHandle, part: str, reason: str) -> bool:
        """Return whether the service itself starts the dead part again and answers, before it dies or start_s is
        over."""
        assert self.spec.parts is not None
        old = self._parts[part]
        self._is_part_lost = True
        self._move("degraded", reason)
        self._log.warning("service.part_died", service=self.name, part=part, part_pid=old)
        deadline = self._clock.monotonic() + self.spec.start_s
        while process.is_alive() and self._clock.monotonic() < deadline:
            if self.spec.is_delayed():
                deadline = self._clock.monotonic() + self.spec.start_s
            found = self.spec.parts(process)
            is_whole = set(found) >= set(self.spec.part_names) and old not in found.values()
            if is_whole and await self._answers(process):
                self._parts, self._is_part_lost = found, False
                self._part_restarts[part] = self._part_restarts.get(part, 0) + 1
                self._part_since_ns[part] = self._clock.now_ns()
                self._log.info("service.part_back", service=self.name, part=part, part_pid=found[part])
                self._move("ready", "")
                return True
            await self._clock.sleep(PART_POLL_S)
        return False


class ServiceTree(TreeDriver):
    """The services of this machine, started together and counted each for itself.

    `services`: each by its name. `on_page(event, text)` is called with each page, besides its row, which is written
    once the database answers.
    """

    def __init__(
        self,
        specs: Sequence[ServiceSpec],
        context: ServiceContext,
        on_change: Callable[[SupervisedChild], None],
        on_page: Callable[[str, str], None],
    ) -> None:
        self.services = {spec.name: NodeService(spec, context, on_change) for spec in specs}
        self._by_id = {service.child.spec.id: service for service in self.services.values()}
        children = tuple(service.child.spec for service in self.services.values())
        tree = counted_alone("keeper", children, context.timing.supervision)
        super().__init__(tree, context.clock, context.log, TreeHistory(context.clock, context.log))
        self._on_page = on_page
        self._has_remembered = False
        self._task: asyncio.Task[None] | None = None
        self._follow_tree()

    async def supervise(self) -> None:
        """Supervise the services from `begin` until `stop`, even if this call is cancelled. Errors: an event that
        cannot be decided."""
        self._task = asyncio.create_task(self._run())
        await asyncio.shield(self._task)

    async def _run(self) -> None:
        while True:
            event = await self._events.get()
            if not isinstance(event, StaleEpochError):  # only an authority over leases posts one
                self._take(event)

    def begin(self) -> None:
        """Watch the services that `adopt` found, and start the others; returns at once."""
        self._events.put_nowait(Begin())

    def restart(self, name: str, why: str = "asked") -> None:
        """Request a fresh process: the running one is ended first. It does not count, and ends an escalation."""
        self._events.put_nowait(RestartWanted(self.services[name].child.spec.id, why))

    def retry(self, why: str) -> None:
        """Start the services that are held now: what kept them from starting is over, and a start that met it may
        hang."""
        for name, service in self.services.items():
            if service.is_held:
                self.restart(name, why)

    async def write(self, journal: TreeJournal) -> None:
        """Write the history and the pages that wait, after the restart windows were refilled from it. Errors:
        OutageError."""
        if not self._has_remembered:
            self._take(await self._past(journal))
            self._has_remembered = True
        await self._history.flush(journal)

    async def stop(self, services: Sequence[NodeService]) -> None:
        """End these services and their supervision; each within the deadlines of its spec."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        tree = self._state.tree
        if self._state.is_stopped:  # not begun: there are only processes that were taken over
            await asyncio.gather(*(service.stop(service.child.spec.stop_s) for service in services))
        else:
            left = tuple(child for child in tree.children if self._by_id[child.id] not in services)
            self._take(TreeWanted(replace(tree, children=left)))
            while self._state.wanted is not None:
                event = await self._events.get()
                if not isinstance(event, StaleEpochError):
                    self._take(event)
        for service in services:
            service.follow(None)

    def _runner(self, spec: ChildSpec) -> ChildRunner:
        service = self._by_id[spec.id]
        return ChildRunner(self._clock, self._log, service, service.child, self._events.put_nowait)

    def _take(self, event: Event) -> None:
        super()._take(event)
        for id, service in self._by_id.items():
            service.follow(self._state.nodes.get(id))

    def _note(self, note: Note) -> None:
        super()._note(note)
        if note.id in self._by_id:
            self._by_id[note.id].note(note)

    def _page(self, page: SendPage) -> None:
        super()._page(page)
        self._on_page(page.event, page.text)
