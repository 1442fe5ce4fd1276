"""The Shell: hosts one plain object of actors.tree in a process of its own. `actors.system` makes it a Ray actor.

Its concurrency group `sys` (join, health, stop) lives on a loop of its own and touches only simple attributes, so it
answers while the work loop is busy; the work loop's own beat age is what health reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from actors import tree
from fks.config.endpoints import load_node
from fks.model.errors import OutageError, StaleEpochError
from fks.monitor.component import Component

BEAT_S = 0.2
WAIT_S = 0.5  # between tries to start while something that the child needs is away
JOINS_MAX = 4  # parked joins: one is the supervisor's, older ones belong to supervisors that died
LAST_S = 1.0  # a supervisor that ends by itself stays this long: Ray would start it again at once, for ever


class Shell:
    """Hosts one plain object: builds it, starts it, runs it, beats, and lets the process die when it raises."""

    def __init__(
        self, role: str, name: str, args: tuple[str, ...], epoch: int, is_leased: bool, wait_s: float,
        ports: Callable[[str, Component], dict[str, Any]],
    ) -> None:  # fmt: skip
        # Must not fail: a supervisor whose constructor raises is never started again by Ray.
        self._ports = ports
        self._role, self._name, self._args = role, name, args
        self._epoch, self._is_leased, self._wait_s = epoch, is_leased, wait_s
        self._state = "starting"
        self._beat = time.monotonic()
        self._stop_wanted = threading.Event()
        self._ending: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._has_ended = False
        self._child: Any = None
        self._detail: dict[str, object] = {}
        self._component: Component | None = None
        self._life_task = asyncio.get_running_loop().create_task(self._life())

    async def _life(self) -> None:
        """Build, start and run the child. Any error ends the process: the supervisor restarts it."""
        try:
            await self._live()
        except BaseException as error:
            self._report(error)
            if self._role == tree.SUPERVISOR:
                await asyncio.sleep(LAST_S)
            os._exit(3 if isinstance(error, StaleEpochError) else 1)

    async def _live(self) -> None:
        if self._wait_s:
            await asyncio.sleep(self._wait_s)  # the predecessor is not proven gone: let its lease run out first
        component = await Component.open(self._name, epoch=self._epoch, is_leased=self._is_leased)
        self._component = component
        keeper = None
        if component.lease is not None:
            keeper = asyncio.create_task(component.lease.keep())
        self._child = await self._started(component)
        run = asyncio.create_task(self._child.run())
        component.log.info("actor.started", epoch=self._epoch)
        while not self._stop_wanted.is_set():
            self._beat = time.monotonic()
            self._detail = dict(self._child.detail())
            self._state = "ready" if self._child.is_ready else "degraded"
            for task in (run, keeper):
                if task is not None and task.done():
                    task.result()
                    raise OutageError(f"{self._name}: the work loop ended by itself", remedy="see its log")
            await asyncio.sleep(BEAT_S)
        self._state = "stopping"
        run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await run
        await self._child.stop()
        if keeper is not None:
            keeper.cancel()
        component.log.info("actor.stopped", epoch=self._epoch)
        await component.close()
        self._has_ended = True
        for loop, event in list(self._ending):
            loop.call_soon_threadsafe(event.set)

    async def _started(self, component: Component) -> Any:
        """Return the child, started. What it needs and is away is waited for: a crash would count, and end in giving up.

        Errors: StaleEpochError; OutageError when it was asked to stop while it waited.
        """
        while not self._stop_wanted.is_set():
            self._state = "starting"
            try:
                if component.lease is not None:
                    await component.lease.renew()
                child = tree.CLASSES[self._role](component, self._args, **self._ports(self._role, component))
                try:
                    await child.start()
                    return child
                except OutageError:
                    with contextlib.suppress(Exception):
                        await child.stop()
                    raise
            except OutageError as error:
                component.log.warning("actor.waits", error=str(error))
            self._state = "waiting"
            await asyncio.sleep(WAIT_S)
            with contextlib.suppress(OutageError):
                component = replace(component, node=load_node(component.paths))  # what came back has another address
        raise OutageError(f"{self._name}: asked to stop before it had started")

    def _report(self, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        if self._component is not None:
            self._component.log.error("actor.died", error=f"{type(error).__name__}: {error}", traceback=text)
        else:
            os.write(2, text.encode())

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

    async def health(self, with_metrics: bool) -> dict[str, object]:
        """Return the beat; simple attributes only, the loops differ."""
        component = self._component
        return {
            "component": self._name, "pid": os.getpid(), "node": node_name(), "epoch": self._epoch,
            "age_s": 0.0 if self._state in ("starting", "waiting") else time.monotonic() - self._beat,
            "state": self._state,
            "detail": self._detail,
            "metrics": component.meter.snapshot() if with_metrics and component is not None else {},
        }  # fmt: skip

    async def stop(self) -> None:
        """Ask for an orderly end; join tells when it is reached."""
        self._stop_wanted.set()


def node_name() -> str:
    """Return this machine's name."""
    return os.uname().nodename
