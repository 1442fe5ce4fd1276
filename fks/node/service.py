"""One service of the keeper: a running one is taken over, a dead one started, watched and started again.

States: starting → ready ⇄ degraded (it does not answer), then after a death restarting → starting, or down when it died
more often than the policy's window allows; stopping and stopped at the end. `down` is not given up: it is tried at the
longest wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fks.clock import Clock
from fks.clock.waiting import wait_for_event
from fks.model.errors import ConfigError, FksError
from fks.model.ports import Log
from fks.node.child_records import ChildRecord, ChildRecords
from fks.node.spec import RestartPolicy, ServiceSpec
from fks.node.supervised_child import SupervisedChild
from fks.process.handle import ProcessHandle, clear_session, start_mark
from fks.process.log import Redactor, last_output
from fks.supervision.policy import RestartWindow

READY_POLL_S = 0.1
PART_POLL_S = 0.05
TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service, or a part of one, as status shows it. `ended`: why its process before this one ended."""

    name: str
    state: str
    pid: int | None
    restarts: int
    since_ns: int
    detail: str = ""
    ended: str = ""


class NodeService(SupervisedChild):
    """One service and the task that supervises it. Hard state: its record. Soft state: the restart window."""

    def __init__(
        self,
        spec: ServiceSpec,
        records: ChildRecords,
        clock: Clock,
        log: Log,
        policy: RestartPolicy,
        on_change: Callable[[SupervisedChild], None],
    ) -> None:
        super().__init__(spec.name, on_change)
        self.spec = spec
        self.is_misconfigured = False  # the start was refused for a ConfigError: trying again changes nothing
        self.is_adopted = False
        self.process: ProcessHandle | None = None
        self._ended = ""  # why the process before this one ended
        self._parts: Mapping[str, int] = {}
        self._part_restarts: dict[str, int] = {}  # those made by the service itself
        self._part_since_ns: dict[str, int] = {}
        self._records, self._clock, self._log, self._policy = records, clock, log, policy
        record = records.get(spec.name)
        self.restarts = record.restarts if record else 0
        self._since_ns = clock.now_ns()
        self._window = RestartWindow(policy.limit, policy.backoff)
        self._restart_requested = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def statuses(self) -> list[ServiceStatus]:
        """Return what status shows: the service itself, or its parts under their own names."""
        pids: dict[str, int | None] = dict.fromkeys(self.spec.part_names)
        pids |= self._parts
        pids = pids or {self.name: self.process.pid if self.process else None}
        return [
            ServiceStatus(
                name,
                self.state,
                pid,
                self.restarts + self._part_restarts.get(name, 0),
                max(self._since_ns, self._part_since_ns.get(name, 0)),
                self.error,
                self._ended,
            )
            for name, pid in pids.items()
        ]

    def start(self) -> None:
        """Begin to supervise it; returns at once."""
        self._task = asyncio.create_task(self._run(), name=f"service {self.name}")

    def restart(self) -> None:
        """Request a fresh process: the running one is ended first. Does not count towards the window."""
        self._restart_requested.set()

    def retry(self) -> None:
        """Start it now if it waits for its next start, or starts again: what kept it from starting is over, and a start
        that met it may hang. One that an earlier keeper left is not touched."""
        if self.state in ("restarting", "down") or (self.state == "starting" and self.failures and not self.is_adopted):
            self._restart_requested.set()

    async def stop(self) -> None:
        """End the service and its supervision. After return it has ended; its deadline is the spec's."""
        self._move("stopping")
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self.process is not None:
            await self._end(self.process)
        self._records.forget(self.name)
        self._move("stopped")

    async def find(self) -> bool:
        """Look for a running process of an earlier keeper and take it over; return whether there is one."""
        self.process = await self._adopt()
        return self.process is not None

    def failure(self, redactor: Redactor) -> FksError:
        """Return why it does not start, with the last lines of its log."""
        output = last_output(self.spec.log, TAIL_LINES, redactor)
        if self.is_misconfigured:
            return ConfigError(self.error)
        return FksError(
            f"{self.name} does not start: {self.error}", remedy=f"its last output:\n{output}" if output else ""
        )

    async def _run(self) -> None:
        while True:
            try:
                await self._run_once()
            except Exception as error:  # a mistake of ours costs this service a wait, not the keeper
                self._log.error("service.keeping_failed", service=self.name)
                self.error = f"{type(error).__name__}: {error}"
                self._move("down")
                await self._clock.sleep(self._policy.backoff.max_s)

    async def _run_once(self) -> None:
        """Run one process of the service, from its start or adoption to its end and the wait after it."""
        reason = await self._start_and_watch()
        is_requested = self._restart_requested.is_set()
        self._restart_requested.clear()
        if self.process is not None:
            code = self.process.returncode  # before we end what is left of it; None when it hung or is not our child
            reason += "" if code is None else f", signal {-code}" if code < 0 else f", exit code {code}"
            await self._end(self.process, is_orderly=is_requested)
            self.process.close()
        self._ended = "asked" if is_requested else reason
        self.process, self._parts = None, {}
        self._records.forget(self.name)
        await self._wait_to_restart(reason, is_requested)
        self.restarts += 1

    async def _wait_to_restart(self, reason: str, is_requested: bool) -> None:
        self.error = "" if is_requested else reason
        if is_requested:
            self._move("restarting")
            self._log.info("service.restarting", service=self.name, reason="asked")
            return
        wait_s, is_within_limit = self._window.note(self._clock.monotonic())
        self._move("restarting" if is_within_limit else "down")
        self._log.warning("service.died", service=self.name, reason=reason, restart_in_s=wait_s, restarts=self.restarts)
        await wait_for_event(self._restart_requested, wait_s, self._clock)
        self._restart_requested.clear()

    async def _start_and_watch(self) -> str:
        """Start it if need be, wait until it is ready, watch it; return why it has to be started again."""
        try:
            if self.process is None:
                self._move("starting")
                launch = await asyncio.to_thread(self.spec.launch)
                self.process = ProcessHandle.spawn(launch)
                self._since_ns = self._clock.now_ns()
                self._log.info("service.started", service=self.name, service_pid=self.process.pid)
            self._record(self.process)
            if failed := await self._until_ready(self.process):
                self.failures += 1
                return failed
        except (FksError, OSError) as error:
            self.failures += 1
            self.is_misconfigured = isinstance(error, ConfigError)
            return str(error)
        self.failures = 0
        self.times_ready += 1
        self.error = ""
        self._parts = self.spec.parts(self.process) if self.spec.parts else {}
        self._move("ready")
        self._log.info("service.ready", service=self.name, service_pid=self.process.pid, adopted=self.is_adopted)
        return await self._watch(self.process)

    async def _until_ready(self, process: ProcessHandle) -> str:
        deadline = self._clock.monotonic() + self.spec.start_s
        while not await self._answers(process):
            if self.is_adopted and self.spec.is_delayed():  # a part of it waits for space on the disk
                deadline = self._clock.monotonic() + self.spec.start_s
            if not process.is_alive():
                return f"ended while starting (status {process.returncode})"
            if self._restart_requested.is_set():
                return "asked"
            if self._clock.monotonic() > deadline:
                return f"not ready within {self.spec.start_s:g} s"
            await self._clock.sleep(READY_POLL_S)
        return ""

    async def _answers(self, process: ProcessHandle) -> bool:
        try:
            async with asyncio.timeout(self._policy.probe_timeout_s):
                return await self.spec.is_ready(process)
        except (OSError, FksError):  # TimeoutError is an OSError
            return False

    async def _watch(self, process: ProcessHandle) -> str:
        """Return once it died, hung too long, lost a part for good, or a restart was requested."""
        while True:
            reason, part = await self._first_end(process)
            if not part or not self.spec.restarts_own_parts or not await self._part_comes_back(process, part, reason):
                return reason

    async def _first_end(self, process: ProcessHandle) -> tuple[str, str]:
        """Return what ended, and the part's name when it is one."""
        waits = {
            asyncio.create_task(process.ended()): (f"{self.name} (pid {process.pid}) died", ""),
            asyncio.create_task(self._restart_requested.wait()): ("asked", ""),
            asyncio.create_task(self._hangs(process)): (f"{self.name} did not answer for {self.spec.hang_s} s", ""),
        }
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
        self.error = reason
        self._move("degraded")
        self._log.warning("service.part_died", service=self.name, part=part, part_pid=old)
        deadline = self._clock.monotonic() + self.spec.start_s
        while process.is_alive() and not self._restart_requested.is_set() and self._clock.monotonic() < deadline:
            if self.spec.is_delayed():
                deadline = self._clock.monotonic() + self.spec.start_s
            found = self.spec.parts(process)
            is_whole = set(found) >= set(self.spec.part_names) and old not in found.values()
            if is_whole and await self._answers(process):
                self._parts = found
                self._part_restarts[part] = self._part_restarts.get(part, 0) + 1
                self._part_since_ns[part] = self._clock.now_ns()
                self.error = ""
                self._log.info("service.part_back", service=self.name, part=part, part_pid=found[part])
                self._move("ready")
                return True
            await self._clock.sleep(PART_POLL_S)
        return False

    async def _hangs(self, process: ProcessHandle) -> None:
        answered = self._clock.monotonic()
        while True:
            await self._clock.sleep(self._policy.probe_s)
            if await self._answers(process):
                answered = self._clock.monotonic()
                self._move("ready")
                continue
            silent_s = self._clock.monotonic() - answered
            if silent_s > self._policy.degraded_s:
                self.error = f"no answer for {silent_s:.0f} s"
                self._move("degraded")
            if self.spec.hang_s is not None and silent_s > self.spec.hang_s:
                return

    async def _adopt(self) -> ProcessHandle | None:
        """Return the running process of an earlier keeper, and end what is left of a dead one."""
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
            self._log.info("service.adopted", service=self.name, service_pid=found.pid)
        return found

    async def _end(self, process: ProcessHandle, *, is_orderly: bool = True) -> None:
        """End it and its whole session. One that died, hung or lost a part has nothing to save: it is killed."""
        self.is_adopted = False
        is_clean = await process.stop(self.spec.stop if is_orderly else (), is_group=self.spec.is_group)
        if is_orderly and not is_clean:
            self._log.info("service.killed", service=self.name, service_pid=process.pid, stop=self.spec.stop)

    def _record(self, process: ProcessHandle) -> None:
        self._records.put(self.name, ChildRecord(process.pid, process.mark, self._since_ns, self.restarts))
