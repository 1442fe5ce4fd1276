"""Keeps one service running: takes over a living one, starts a dead one, watches, starts again.

States: starting → ready ⇄ degraded (it does not answer), then after a death restarting → starting, or down when it died
more often than the policy's window allows; stopping and stopped at the end. `down` is not given up: it is tried at the
longest wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fks.clock import Clock
from fks.model.errors import ConfigError, FksError
from fks.model.ports import Log
from fks.node.child_records import Book, Entry
from fks.node.spec import Policy, ServiceSpec
from fks.process.handle import ProcessHandle, clear_session, start_mark
from fks.process.log import Redactor, last_output
from fks.supervision.policy import backoff_s, note_restart
from fks.supervision.spec import Backoff

READY_POLL_S = 0.1
PART_POLL_S = 0.05
TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class Seen:
    """A service, or a part of one, as status shows it. `ended`: why its process before this one ended."""

    name: str
    state: str
    pid: int | None
    restarts: int
    since_ns: int
    detail: str = ""
    ended: str = ""


class Service:
    """One service and the task that keeps it. Hard state: its entry in the book. Soft state: the restart window."""

    def __init__(
        self,
        spec: ServiceSpec,
        book: Book,
        clock: Clock,
        log: Log,
        policy: Policy,
        on_change: Callable[[Service], None],
    ) -> None:
        self.spec = spec
        self.state = "starting"
        self.error = ""
        self._ended = ""
        self.failures = 0  # starts in a row that never became ready
        self.times_ready = 0
        self.is_hopeless = False  # what it was refused for, trying again does not mend
        self.is_adopted = False
        self.process: ProcessHandle | None = None
        self._parts: Mapping[str, int] = {}
        self._part_restarts: dict[str, int] = {}  # those that were mended inside the service
        self._part_since_ns: dict[str, int] = {}
        self._book, self._clock, self._log, self._policy, self._on_change = book, clock, log, policy, on_change
        entry = book.get(spec.name)
        self.restarts = entry.restarts if entry else 0
        self._since_ns = clock.now_ns()
        self._history: tuple[float, ...] = ()
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """Return the service's name."""
        return self.spec.name

    @property
    def is_ready(self) -> bool:
        """Return whether it has come up and lives, even if it does not answer at the moment."""
        return self.state in ("ready", "degraded")

    def seen(self) -> list[Seen]:
        """Return what status shows: the service itself, or its parts under their own names."""
        pids: dict[str, int | None] = dict.fromkeys(self.spec.part_names)
        pids |= self._parts
        pids = pids or {self.name: self.process.pid if self.process else None}
        return [
            Seen(
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
        """Begin to keep it; returns at once."""
        self._task = asyncio.create_task(self._run(), name=f"keep {self.name}")

    def restart(self) -> None:
        """Ask for a fresh process: the living one is ended first. Does not count towards the window."""
        self._asked.set()

    async def stop(self) -> None:
        """End the service and the keeping. Returned, it is dead; its deadline is the spec's."""
        self._move("stopping")
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self.process is not None:
            await self._end(self.process)
        self._book.forget(self.name)
        self._move("stopped")

    async def find(self) -> bool:
        """Look for a living process of an earlier keeper and take it over; return whether there is one."""
        self.process = await self._adopt()
        return self.process is not None

    def failure(self, redactor: Redactor) -> FksError:
        """Return why it does not start, with the last words of its log."""
        output = last_output(self.spec.log, TAIL_LINES, redactor)
        if self.is_hopeless:
            return ConfigError(self.error)
        return FksError(
            f"{self.name} does not start: {self.error}", remedy=f"its last output:\n{output}" if output else ""
        )

    async def _run(self) -> None:
        while True:
            try:
                await self._life()
            except Exception as error:  # a mistake of ours costs this service a wait, not the keeper
                self._log.error("service.keeping_failed", service=self.name)
                self.error = f"{type(error).__name__}: {error}"
                self._move("down")
                await self._clock.sleep(self._policy.backoff_max_s)

    async def _life(self) -> None:
        """One life of the service, from its start or taking over to its burial and the wait after it."""
        reason = await self._live()
        was_asked = self._asked.is_set()
        self._asked.clear()
        if self.process is not None:
            code = self.process.returncode  # before we end what is left of it; None when it hung or is not our child
            reason += "" if code is None else f", signal {-code}" if code < 0 else f", exit code {code}"
            await self._end(self.process, is_orderly=was_asked)
        self._ended = "asked" if was_asked else reason
        self.process, self._parts = None, {}
        self._book.forget(self.name)
        await self._pause(reason, was_asked)
        self.restarts += 1

    async def _pause(self, reason: str, was_asked: bool) -> None:
        self.error = "" if was_asked else reason
        if was_asked:
            self._move("restarting")
            self._log.info("service.restarting", service=self.name, reason="asked")
            return
        now = self._clock.monotonic()
        self._history, may_go_on = note_restart(self._history, now, self._policy.limit)
        policy = self._policy
        backoff = Backoff(policy.backoff_first_s, policy.backoff_max_s, jitter=0.0)
        wait = backoff_s(len(self._history), backoff, luck=0.0) if may_go_on else policy.backoff_max_s
        self._move("restarting" if may_go_on else "down")
        self._log.warning("service.died", service=self.name, reason=reason, restart_in_s=wait, restarts=self.restarts)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._asked.wait()
        self._asked.clear()

    async def _live(self) -> str:
        """Start it if need be, wait until it is ready, watch it; return why it has to be started again."""
        try:
            if self.process is None:
                self._move("starting")
                launch = await asyncio.to_thread(self.spec.launch)
                self.process = ProcessHandle.spawn(launch)
                self._since_ns = self._clock.now_ns()
                self._log.info("service.started", service=self.name, service_pid=self.process.pid)
            self._note(self.process)
            if failed := await self._until_ready(self.process):
                self.failures += 1
                return failed
        except (FksError, OSError) as error:
            self.failures += 1
            self.is_hopeless = isinstance(error, ConfigError)
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
            if not process.is_alive():
                return f"ended while starting (status {process.returncode})"
            if self._asked.is_set():
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
        """Return once it died, hung too long, lost a part for good, or a restart was asked for."""
        while True:
            reason, part = await self._first_end(process)
            if not part or not self.spec.is_mended_inside or not await self._is_mended(process, part, reason):
                return reason

    async def _first_end(self, process: ProcessHandle) -> tuple[str, str]:
        """Return what ended, and the part's name when it is one."""
        waits = {
            asyncio.create_task(process.ended()): (f"{self.name} (pid {process.pid}) died", ""),
            asyncio.create_task(self._asked.wait()): ("asked", ""),
            asyncio.create_task(self._hangs(process)): (f"{self.name} did not answer for {self.spec.hang_s} s", ""),
        }
        for name, pid in self._parts.items():
            part = ProcessHandle(pid, start_mark(pid) or "")
            waits[asyncio.create_task(part.ended())] = (f"{name} (pid {pid}) died", name)
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return max((waits[task] for task in done), key=lambda found: found[1])  # a part tells more than the whole
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _is_mended(self, process: ProcessHandle, part: str, reason: str) -> bool:
        """Return whether the service itself starts the dead part again and answers, before it dies or start_s is
        over."""
        assert self.spec.parts is not None
        old = self._parts[part]
        self.error = reason
        self._move("degraded")
        self._log.warning("service.part_died", service=self.name, part=part, part_pid=old)
        deadline = self._clock.monotonic() + self.spec.start_s
        while process.is_alive() and not self._asked.is_set() and self._clock.monotonic() < deadline:
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
        """Return the living process of an earlier keeper, and clear what is left of a dead one."""
        entry = self._book.get(self.name)
        found = ProcessHandle.find(entry.pid, entry.mark) if entry and entry.pid else None
        if found is None and entry and entry.pid and self.spec.is_group:
            await clear_session(entry.pid, entry.mark)
        if found is None:
            pid = await asyncio.to_thread(self.spec.find)
            mark = start_mark(pid) if pid else None
            found = ProcessHandle(pid, mark) if pid and mark else None
        if found is not None:
            self.is_adopted = True
            self._since_ns = entry.since_ns if entry and entry.pid == found.pid else self._clock.now_ns()
            self._log.info("service.adopted", service=self.name, service_pid=found.pid)
        return found

    async def _end(self, process: ProcessHandle, *, is_orderly: bool = True) -> None:
        """End it, and all of its session. What is dead, hung or has lost a part has nothing to save: it is killed."""
        self.is_adopted = False
        is_clean = await process.stop(self.spec.stop if is_orderly else (), is_group=self.spec.is_group)
        if is_orderly and not is_clean:
            self._log.info("service.killed", service=self.name, service_pid=process.pid, stop=self.spec.stop)

    def _note(self, process: ProcessHandle) -> None:
        self._book.note(self.name, Entry(process.pid, process.mark, self._since_ns, self.restarts))

    def _move(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._on_change(self)
