"""Shell: hosts one plain object of `actors.tree` in a process of its own. `actors.system` makes it a Ray actor.

Its concurrency group `sys` (join, health, stop) lives on a loop of its own and touches only simple attributes, so it
answers while the work loop is busy; the work loop's own beat age is what health reports.

The plain object has `start()`, `run()`, `stop()`, `is_ready`, `detail()`, and may have `drain()` (stop accepting,
finish what is in flight, flush), `problems()` (its failed self-checks, cheap: called five times a second), `MODULES`
(late imports: loaded in a thread while the rest of the start goes on) and `call` (its answer to a message).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors import tree
from fks.clock.waiting import wait_for_any, wait_for_event
from fks.config.endpoints import load_node
from fks.config.machine import host_name, node_name, process_space
from fks.config.paths import Paths
from fks.config.runtime import SUPERVISOR
from fks.config.secrets import secret_values
from fks.config.version import VERSION, is_installed
from fks.model.errors import FksError, OutageError, StaleEpochError
from fks.model.health import Check
from fks.system.process.crash_files import catch_faults, write_exit
from fks.system.process.heartbeat import HeartbeatWriter, heartbeat_file
from fks.system.process.log import Redactor
from fks.system.process.self_checks import LoopLag, SelfChecks, lease_problems, memory_mb, memory_problems
from fks.system.runtime import Component, IsolatedComponent, kind_of

BEAT_S = 0.2
STATUS_S = 1.0  # between two writes of the whole status into the heartbeat, when nothing changes
WAIT_S = 0.5  # between attempts to start while a dependency of the child is unavailable
JOINS_MAX = 4  # parked joins: one is the supervisor's, older ones belong to supervisors that died
SPARED = ("guardian", "orders")  # roles that the kernel ends last when memory runs out
LAST_S = 1.0  # a supervisor that ends by itself stays this long: Ray would start it again at once, for ever


class Shell:
    """Hosts one plain object: builds it, starts it, runs it, beats, and lets the process die when it raises.

    Asked to stop: the object drains while the process still beats and holds its lease, then its run is cancelled, then
    it stops; the supervisor bounds the time that this takes. Files that a dead process leaves are in
    `fks.system.process.crash_files`.
    """

    def __init__(
        self,
        role: str,
        name: str,
        args: tuple[str, ...],
        epoch: int,
        is_leased: bool,
        wait_s: float,
        ports: Callable[[str, Component | IsolatedComponent], dict[str, Any]],
    ) -> None:
        # Must not fail: a supervisor whose constructor raises is never started again by Ray.
        self._ports = ports
        self._role, self._name, self._args = role, name, args
        self._epoch, self._is_leased, self._wait_s = epoch, is_leased, wait_s
        self._node_id = ""  # Ray's, where there is one
        self._state = "starting"
        self._beat = time.monotonic()
        self._heartbeat: HeartbeatWriter | None = None
        self._status_written_s = float("-inf")  # when the heartbeat last carried the whole status
        self._loop = asyncio.get_running_loop()
        self._stop_requested = asyncio.Event()
        self._may_begin = asyncio.Event()
        self._ending: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._has_ended = False
        self._child: Any = None
        self._detail: dict[str, object] = {}
        self._checks = SelfChecks()
        self._lag = LoopLag(BEAT_S, 0.0)
        self._memory_mb = 0.0
        self._component: Component | IsolatedComponent | None = None
        self._life_task = self._loop.create_task(self._life())

    def __repr__(self) -> str:
        """Return the child's name: Ray's dashboard and logs show it."""
        return self._name

    async def _life(self) -> None:
        """Build, start and run the child. Any error ends the process: the supervisor restarts it."""
        try:
            catch_faults(_paths(), self._name)
            if self._role in SPARED:
                _go_last()
            if not is_installed():  # its process was made ready, and had loaded modules, before the installation
                raise OutageError(
                    "another build was installed while this process waited", remedy="none: it is restarted"
                )
            await self._live()
        except BaseException as error:
            code = 3 if isinstance(error, StaleEpochError) else 1
            self._report(error, code)
            if self._role == SUPERVISOR:
                await asyncio.sleep(LAST_S)
            os._exit(code)
        self._has_ended = True
        for loop, event in list(self._ending):
            loop.call_soon_threadsafe(event.set)

    async def _live(self) -> None:
        # beside the loop, and beside what is waited for below: importing takes longer than anything else of a start
        loaded = asyncio.create_task(asyncio.to_thread(_load, getattr(tree.class_of(self._role), "MODULES", ())))
        # the predecessor is not proven gone: let its lease run out first; the supervisor, which counts from the raised
        # epoch, may end the wait earlier
        if self._wait_s:
            await wait_for_any((self._may_begin, self._stop_requested), self._wait_s)
        component = self._component = await self._opened()
        self._heartbeat = HeartbeatWriter(heartbeat_file(component.paths.run, self._name))
        self._lag = LoopLag(BEAT_S, component.settings.supervision.lag_max_s)
        upkeep: list[asyncio.Task[Any]] = []
        if isinstance(component, Component) and component.lease is not None:
            upkeep.append(asyncio.create_task(component.lease.keep()))
            upkeep.append(asyncio.create_task(component.watch_lease()))
        upkeep.append(asyncio.create_task(component.publish_metrics()))
        await loaded
        child = self._child = await self._started(component)
        if child is not None:
            run = asyncio.create_task(child.run())
            component.log.info("actor.started", epoch=self._epoch, version=VERSION)
            await self._beat_until(self._stop_requested.wait(), [run, *upkeep])
            await self._end(component, child, run, upkeep)
        for task in upkeep:
            task.cancel()
        component.log.info("actor.stopped", epoch=self._epoch)
        await component.close()

    async def _opened(self) -> Component | IsolatedComponent:
        if self._role in tree.ISOLATED:
            return IsolatedComponent.open(self._name, _paths(), self._args[-1])
        component = await Component.open(self._name, epoch=self._epoch, is_leased=self._is_leased)
        return replace(component, is_predecessor_gone=not self._wait_s)

    async def _started(self, component: Component | IsolatedComponent) -> Any:
        """Return the child, started; None when a stop was requested before. A dependency that is unavailable is waited
        for: a crash would count towards an escalation.

        Errors: StaleEpochError, or what its start raised.
        """
        while not self._stop_requested.is_set():
            self._state = "starting"
            try:
                if isinstance(component, Component) and component.lease is not None:
                    await component.lease.renew()
                    component = self._component = await component.with_current_config()
                child = tree.class_of(self._role)(component, self._args, **self._ports(self._role, component))
                if await self._start_unless_stopped(child):
                    return child
                return None
            except OutageError as error:
                component.log.warning("actor.waits", error=str(error))
            self._state = "waiting"
            await wait_for_event(self._stop_requested, WAIT_S)
            if isinstance(component, Component):
                with contextlib.suppress(OutageError):  # what came back has another address
                    component = replace(component, node=load_node(component.paths, kind_of(self._name)))
        return None

    async def _start_unless_stopped(self, child: Any) -> bool:
        """Start the child; False when a stop was requested meanwhile: then it is stopped. Errors: its
        start's."""
        start = asyncio.create_task(child.start())
        stop_requested = asyncio.create_task(self._stop_requested.wait())
        try:
            await asyncio.wait({start, stop_requested}, return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                start.result()
                return True
            start.cancel()
            await asyncio.wait({start})
        except BaseException:
            with contextlib.suppress(Exception):
                await child.stop()
            raise
        finally:
            stop_requested.cancel()
        await child.stop()
        return False

    async def _beat_until(self, done: Any, watched: Sequence[asyncio.Task[Any]], *, may_end: bool = False) -> None:
        """Beat and look at the self-checks until `done` is; raise what it or a watched task raised.

        A watched task may not end before, unless `may_end` and without an error.
        """
        waited = asyncio.ensure_future(done)
        try:
            while not waited.done():
                self._turn()
                for task in watched:
                    if task.done():
                        task.result()
                        if not may_end:
                            raise OutageError(f"{self._name}: the work loop ended by itself", remedy="see its log")
                pending = {waited, *(task for task in watched if not task.done())}
                await asyncio.wait(pending, timeout=BEAT_S, return_when=asyncio.FIRST_COMPLETED)
            await waited
        finally:
            waited.cancel()

    def _turn(self) -> None:
        """One turn of the work loop: the beat whose age health reports."""
        now_s = self._beat = time.monotonic()
        if now_s - self._status_written_s >= STATUS_S:
            self._memory_mb = memory_mb()
        self._look(now_s)
        if now_s - self._status_written_s >= STATUS_S:
            self._status_written_s = now_s
            self._detail = dict(self._child.detail()) if self._child is not None else {}
            if self._heartbeat is not None:
                self._heartbeat.write_status(self._answer(now_s))
        if self._heartbeat is not None:
            self._heartbeat.beat(now_s)

    def _look(self, now_s: float) -> None:
        """Look at the child: its state, its problems."""
        if self._child is None or self._component is None:
            return
        began, ended = self._checks.update(self._problems(self._component, now_s), now_s)
        log = self._component.log
        for problem in began:
            log.warning("check.failed", kind=problem.name, about=problem.about, problem=problem.detail)
        for problem in ended:
            log.info("check.recovered", kind=problem.name, about=problem.about)
        state = "ready" if self._child.is_ready and self._checks.is_well else "degraded"
        if self._state in ("draining", "stopping"):
            state = self._state
        if state != self._state or began or ended:
            self._status_written_s = float("-inf")  # a change is written at once
        self._state = state

    def _problems(self, component: Component | IsolatedComponent, now_s: float) -> list[Check]:
        theirs = getattr(self._child, "problems", None)
        return [
            *self._lag.turn(now_s),
            *memory_problems(self._memory_mb, component.settings.supervision.memory_max_mb),
            *lease_problems(component.lease),
            *(theirs() if theirs is not None else ()),
        ]

    async def _end(
        self,
        component: Component | IsolatedComponent,
        child: Any,
        run: asyncio.Task[Any],
        upkeep: Sequence[asyncio.Task[Any]],
    ) -> None:
        """Drain, cancel the work, stop: the lease is kept all the while, so that what is in flight may be finished."""
        if hasattr(child, "drain"):
            self._state, self._status_written_s = "draining", float("-inf")
            start_s = time.monotonic()
            component.log.info("actor.draining", epoch=self._epoch)
            try:
                await self._beat_until(child.drain(), [run, *upkeep], may_end=True)
                component.log.info("actor.drained", seconds=round(time.monotonic() - start_s, 3))
            except OutageError as error:  # nothing can be flushed: what is not on disk was never promised
                component.log.warning("actor.undrained", error=str(error))
        self._state = "stopping"
        run.cancel()
        await asyncio.wait({run})
        if not run.cancelled():
            run.result()  # it failed meanwhile: that is no orderly end
        await self._beat_until(child.stop(), upkeep)

    def _report(self, error: BaseException, code: int) -> None:
        """Write why the process ends: to its log, and to its exit file, which the supervisor reads."""
        text = "".join(traceback.format_exception(error))
        component = self._component
        hidden: tuple[str, ...] = ()
        if isinstance(component, Component):
            urls = (component.node.database_url, component.node.redis_url)
            hidden = secret_values(component.settings, component.secrets, urls)
        redactor = Redactor(hidden)
        with contextlib.suppress(Exception):
            if component is not None:
                component.log.error("actor.died", error=f"{type(error).__name__}: {error}", traceback=text)
            else:
                os.write(2, redactor.text(text).encode())
        write_exit(_paths(), self._name, code=code, traceback=text, redactor=redactor)

    async def call(self, message: Mapping[str, object]) -> dict[str, object]:
        """Return the child's answer to a message, of a child that has `call`. Errors: OutageError before it has
        started."""
        if self._child is None:
            raise OutageError(f"{self._name} has not started")
        try:
            answer: dict[str, object] = await self._child.call(message)
        except FksError:
            raise
        except Exception as error:  # the caller is given its class alone
            text = "".join(traceback.format_exception(error))
            if self._component is not None:
                self._component.log.error("actor.call_failed", error=f"{type(error).__name__}: {error}", traceback=text)
            raise
        return answer

    # ── group sys ────────────────────────────────────────────────────────────────────────────────
    async def join(self) -> str:
        """Return "normal" after an orderly stop; the caller sees ActorDiedError when the process dies.

        "superseded" when JOINS_MAX newer calls are parked: each holds a slot of the group, and those of a supervisor
        that died would hold theirs for ever.
        """
        event = asyncio.Event()
        self._ending.append((asyncio.get_running_loop(), event))
        for _, oldest in self._ending[:-JOINS_MAX]:
            oldest.set()  # of this very loop: the group has one
        del self._ending[:-JOINS_MAX]
        if not self._has_ended:
            await event.wait()
        return "normal" if self._has_ended else "superseded"

    async def health(self) -> dict[str, object]:
        """Return the beat; simple attributes only, the loops differ."""
        return self._answer(time.monotonic())

    def _answer(self, now_s: float) -> dict[str, object]:
        component = self._component
        return {
            "component": self._name,
            "pid": os.getpid(),
            "node": node_name(component.settings) if component is not None else host_name(),
            "node_id": self._node_id,
            "space": process_space(),
            "epoch": self._epoch,
            "age_s": 0.0 if self._state in ("starting", "waiting") else now_s - self._beat,
            "state": self._state,
            "detail": self._detail,
            "problems": self._checks.beat(now_s),
            "memory_mb": round(self._memory_mb, 1),
            "version": VERSION,
            "config_version": component.config_version if component is not None else 0,
        }

    async def begin(self) -> None:
        """Note that the predecessor's lease has run out."""
        self._loop.call_soon_threadsafe(self._may_begin.set)

    async def stop(self) -> None:
        """Request an orderly end: drain, then stop. `join` returns when it is reached."""
        self._loop.call_soon_threadsafe(self._stop_requested.set)


def _load(modules: Sequence[str]) -> None:
    """Import modules that a child will need. One that cannot be imported raises where it is used."""
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _go_last() -> None:
    """Take the place of the parent in the kernel's order when memory runs out: the raylet, with which this process
    ends anyway. Ray lets its workers go first, all alike. Without Linux nothing changes."""
    with contextlib.suppress(OSError):
        parents = Path(f"/proc/{os.getppid()}/oom_score_adj").read_text()
        Path("/proc/self/oom_score_adj").write_text(parents)


def _paths() -> Paths:
    """Return the node's paths from the environment alone: the settings may be wrong."""
    return Paths.of(os.environ.get("FKS_HOME") or ".fks")
