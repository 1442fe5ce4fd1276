"""The keeper itself: brings everything up, keeps it up, answers at its door, takes everything down.

Start: all services at once; the schema as soon as PostgreSQL answers; the actor tree as soon as everything does. Until
the first "ready" a service that fails twice ends the start with its last words. After it nothing is given up: a dead
service is started again for ever, and the tree is deployed again when it has to be (`tend`).
Stop: the tree in its own reverse order, then waves of services, the highest first; a second request skips the tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from fks.clock import Clock
from fks.config.endpoints import Node, clear_node, save_node
from fks.config.paths import Paths
from fks.model.errors import FksError, InputError, OutageError
from fks.model.ports import Log
from fks.node.child_records import Book
from fks.node.control_socket import Door
from fks.node.ports import check_free
from fks.node.ray_node import forget_storage, ray_processes
from fks.node.service import Seen, Service
from fks.node.spec import Policy, ServiceSpec
from fks.node.tree_deployer import FAILURES_MAX, Hands, Tender
from fks.node.view import StatusView
from fks.process.handle import ProcessHandle, clear_session, kill, start_mark
from fks.process.log import Redactor

BEAT_S = 1.0
RUN_FILES = ("sim.json", "ports")  # what only a running node has, besides node.json and the book
Say = Callable[[str, str, str], None]


class Keeper:
    """One node's keeper. Hard state: the book. Soft state: everything else; the next keeper rebuilds it by looking.

    `say(name, state, text)` hears of every step and change: running, done, failed, then ready, restarting, down, ….
    `worker`: this node's name when it is a worker of a cluster: it joins before it starts anything, never gives up, and
    its rows carry its name.
    """

    def __init__(
        self,
        paths: Paths,
        specs: Sequence[ServiceSpec],
        hands: Hands,
        make_node: Callable[[], Node],
        clock: Clock,
        log: Log,
        *,
        redactor: Redactor | None = None,
        policy: Policy | None = None,
        say: Say = lambda name, state, text: None,
        worker: str = "",
    ) -> None:
        self.phase = "starting"
        self._worker = worker
        self.steps: list[dict[str, str]] = []
        self._paths, self._hands, self._make_node, self._clock, self._log, self._tell = (
            paths,
            hands,
            make_node,
            clock,
            log,
            say,
        )
        self._specs = tuple(specs)
        self._redactor = redactor or Redactor()
        self._book = Book(paths.run / "keeper.json")
        self._since_ns = clock.now_ns()
        self._changed = asyncio.Event()
        self.ending = asyncio.Event()
        self._hurry = asyncio.Event()
        self.services = {
            spec.name: Service(spec, self._book, clock, log, policy or Policy(), self._on_change)
            for spec in self._specs
        }
        self._view = StatusView(clock)
        self._told: set[str] = set()  # services whose first "ready" was told
        self._tender = Tender(hands, self.services.get("ray"), clock, log, self._say_actors)

    def request_stop(self) -> None:
        """Ask for an orderly end; asked again, the tree is not waited for."""
        if self.ending.is_set():
            self._hurry.set()
        self.ending.set()

    async def run(self) -> None:
        """Run until asked to stop. Call under `keeper_lock`.

        Errors: FksError when the first start fails; everything is down again then.
        """
        door = Door(self._paths.keeper_socket, self._handle)
        self._paths.sockets.mkdir(mode=0o711, parents=True, exist_ok=True)
        await door.open()
        tasks = [asyncio.create_task(work) for work in (self._keep(), self._beat(), self._hold(), self._stop_wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except (FksError, asyncio.CancelledError):
            await self._end(tasks, door)
            raise
        except Exception:  # a mistake of ours is no reason to stop what trades: the next keeper takes it over
            self._log.error("keeper.crashed", remedy="'fks up' takes over what runs")
            await door.close()
            raise
        await self._end(tasks, door)

    async def _end(self, tasks: Sequence[asyncio.Task[None]], door: Door) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._take_down()
        await door.close()
        clean(self._paths, self._book)
        self._log.info("keeper.stopped")

    # ── up ────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self) -> None:
        await self._find()
        save_node(self._paths, self._make_node())
        if not self._worker and "postgres" not in self.services:  # a second head starts nothing, and migrates nothing
            await self._step("head", self._hands.claim())
        if self._worker and not any(service.is_adopted for service in self.services.values()):
            await self._step("cluster", self._hands.prepare())
        for service in self.services.values():
            self._say(service.name, "running")
            service.start()
        if not self._worker:
            await self._need("postgres")
            await self._hands.claim()
            await self._step("schema", self._hands.prepare())
            await self._hands.claim()  # the schema had no place for it before
        if "ray" in self.services and not self.services["ray"].is_adopted:
            await self._hands.clear()
        await self._need(*self.services)
        save_node(self._paths, self._make_node())
        self._say("actors", "running")
        await self._tender.first(lambda: self._need(*self.services))
        self.phase = "ready"
        self._log.info("keeper.ready", services={name: service.restarts for name, service in self.services.items()})
        self._say("fks", "ready")
        while True:
            await self._need("postgres", "ray")
            await self._tender.look(before=lambda: save_node(self._paths, self._make_node()))

    def _say_actors(self, state: str, text: str) -> None:
        self._say("actors", "done" if (self.phase, state) == ("starting", "ready") else state, text)

    async def _find(self) -> None:
        """Take over what lives; refuse to start when somebody else holds a port that a new process will need."""
        for service in self.services.values():
            if not await service.find():
                await asyncio.to_thread(check_free, service.spec.ports)

    async def _need(self, *names: str) -> None:
        """Return once all these services are ready. Errors: FksError when one does not come up at the first start."""
        while True:
            self._changed.clear()
            late = [service for name in names if (service := self.services.get(name)) and not service.is_ready]
            if not late:
                return
            for service in late:
                is_given_up = service.is_hopeless or (service.failures >= FAILURES_MAX and not self._worker)
                if self.phase == "starting" and service.times_ready == 0 and is_given_up:
                    self._say(service.name, "failed", service.error)
                    raise service.failure(self._redactor)
            await self._changed.wait()

    async def _step(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._say(name, "running")
        try:
            await work
        except FksError as error:
            self._say(name, "failed", str(error))
            raise
        self._say(name, "done")

    async def _beat(self) -> None:
        while True:
            postgres = self.services.get("postgres")
            if self.phase == "ready" and (postgres is None or postgres.is_ready):
                await self._tender.beat(self._own())
            else:
                self._tender.note_outage()
            await self._clock.sleep(BEAT_S)

    async def _hold(self) -> None:
        """Renew our place as the head, from the first claim on. Errors: SupersededError."""
        while True:
            with contextlib.suppress(OutageError, TimeoutError):
                await self._hands.hold()
            await self._clock.sleep(BEAT_S)

    async def _stop_wait(self) -> None:
        await self.ending.wait()

    # ── down ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _take_down(self) -> None:
        self.phase = "stopping"
        head = self.services.get("ray")
        if self._tender.has_deployed and (head is None or head.is_ready):
            work = asyncio.create_task(self._step("actors stop", self._hands.stop()))
            hurry = asyncio.create_task(self._hurry.wait())
            await asyncio.wait({work, hurry}, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            if not work.done():
                await self._hands.cancel()
            with contextlib.suppress(FksError):
                await work
        await self._hands.cancel()
        await self._hands.close()
        waves = groupby(sorted(self._specs, key=lambda spec: -spec.wave), key=lambda spec: spec.wave)
        for _, wave in waves:
            await asyncio.gather(*(self._stop_service(self.services[spec.name]) for spec in list(wave)))
        await self._hands.release()

    async def _stop_service(self, service: Service) -> None:
        self._say(f"{service.name} stop", "running")
        await service.stop()
        self._say(f"{service.name} stop", "done")

    # ── what others see ───────────────────────────────────────────────────────────────────────────────────────────────

    def _own(self) -> list[tuple[str, Seen]]:
        waits_for = self._hands.waits_for
        state = "waiting" if waits_for and self.phase != "stopping" else self.phase
        rows = [
            (
                "keeper",
                Seen("keeper", state, os.getpid(), 0, self._since_ns, f"waits for {waits_for}" if waits_for else ""),
            )
        ]
        rows += [("service", seen) for service in self.services.values() for seen in service.seen()]
        if not self._worker:
            return rows
        return [(kind, replace(seen, name=f"{seen.name}@{self._worker}")) for kind, seen in rows]

    async def status(self) -> dict[str, Any]:
        """Return the status document: the database's when it answers, with our own services as they are now."""
        document: dict[str, Any] | None = None
        postgres = self.services.get("postgres")
        if self.phase != "stopping" and (postgres is None or postgres.is_ready):
            with contextlib.suppress(FksError, OSError):
                document = await self._hands.status()
        return self._view.merge(document, self._own(), self.phase, self._make_node())

    async def _handle(self, request: dict[str, Any]) -> dict[str, Any]:
        match request.get("op"):
            case "status":
                return {"status": await self.status()}
            case "progress":
                return {"phase": self.phase, "pid": os.getpid(), "steps": self.steps}
            case "stop":
                self.request_stop()
                return {"pid": os.getpid(), "services": list(self.services)}
            case "restart-service":
                return {"restarting": self._restart(str(request.get("name", "")))}
        raise InputError(
            f"no such operation {request.get('op')!r}", remedy="use status, progress, stop or restart-service"
        )

    def _restart(self, name: str) -> str:
        wanted = "ray" if name in ("raylet", "gcs") else name
        if wanted not in self.services:
            raise InputError(f"no service {name!r}", remedy=f"use one of {', '.join(self.services)}")
        self.services[wanted].restart()
        return wanted

    def _on_change(self, service: Service) -> None:
        self._changed.set()
        if service.state == "ready" and self.phase == "starting":
            if service.name not in self._told:
                self._told.add(service.name)
                self._say(service.name, "done", "still running, taken over" if service.is_adopted else "")
        elif self.phase == "ready" and service.state != "starting":
            if service.state == "ready":
                save_node(self._paths, self._make_node())  # it has another pid now
            self._say(service.name, service.state, service.error)

    def _say(self, name: str, state: str, text: str = "") -> None:
        if self.phase != "ready":
            self.steps.append({"name": name, "state": state, "text": text})
        self._tell(name, state, text)


async def sweep(paths: Paths, specs: Sequence[ServiceSpec]) -> list[str]:
    """End what a keeper that died left behind, and return the names of what was found. Call under `keeper_lock`."""
    book = Book(paths.run / "keeper.json")
    found = []
    for spec in sorted(specs, key=lambda spec: -spec.wave):
        entry = book.get(spec.name)
        process = ProcessHandle.find(entry.pid, entry.mark) if entry and entry.pid else None
        if process is None and (pid := spec.find()):
            process = ProcessHandle(pid, start_mark(pid) or "")
        if process is not None:
            found.append(spec.name)
            await process.stop(spec.stop, is_group=spec.is_group)
        elif entry and entry.pid and spec.is_group:
            await clear_session(entry.pid, entry.mark)
    clean(paths, book)
    return found


def clean(paths: Paths, book: Book) -> None:
    """Remove what only a running system needs, and end any process of Ray's that slipped out of its session."""
    kill(ray_processes(paths))
    forget_storage(paths)
    clear_node(paths)
    book.remove()
    for name in RUN_FILES:
        (paths.run / name).unlink(missing_ok=True)
    shutil.rmtree(paths.sockets, ignore_errors=True)
