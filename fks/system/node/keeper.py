"""The keeper: starts everything, supervises it, answers on its control socket, stops everything.

Start: all services at once; the schema as soon as PostgreSQL answers; the actor tree as soon as everything does. Until
the first "ready" a service that fails twice ends the start with its last output, unless the disk is full: then the
start goes on once it is not. After it nothing is given up, nor by a keeper in place of one that died: a dead service is
started again without an end, as an actor is (`ServiceTree`), and the tree is deployed again when it has to be
(`TreeDeployer.due`).
Stop: the tree in its own reverse order, then waves of services, the highest first; a second request skips the tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from fks.config.endpoints import clear_node, save_node
from fks.config.machine import host_name
from fks.config.paths import Paths
from fks.config.urls import is_on_this_host
from fks.config.version import build_id
from fks.model.errors import ConfigError, FksError, InputError, OutageError
from fks.system.node.child_records import ChildRecords
from fks.system.node.cluster_driver import ClusterDriver, KeeperContext
from fks.system.node.control_socket import ControlSocket
from fks.system.node.head import AnotherHeadError, BeginAgainError, OtherBuildError, SupersededError
from fks.system.node.home_disk import HomeDisk
from fks.system.node.http_standby import HttpStandby
from fks.system.node.lock import PARENT_LOCK, holder_of
from fks.system.node.ports import check_free
from fks.system.node.ray_node import HEAD_FILE, forget_storage, ray_processes, serve_proxy
from fks.system.node.ray_node import SERVICE as RAY
from fks.system.node.service import NodeService, ServiceContext, ServiceStatus, ServiceTree
from fks.system.node.spec import ServiceSpec, ServiceTiming
from fks.system.node.status_view import StatusView
from fks.system.node.supervised_child import SupervisedChild
from fks.system.node.tree_deployer import TreeDeployer
from fks.system.process.handle import ProcessHandle, clear_session, kill
from fks.system.process.output_logs import rotate

BEAT_S = 1.0
DISK_LOOK_S = 1.0  # between two looks at the free space of FKS_HOME
ROTATE_S = 60.0  # between two looks at the size of what the servers print
SIDE_WORK_S = 5.0  # until work that failed beside the services, or a start on a full disk, is begun again
TREE_LOOK_S = 1.0  # between two looks whether the tree has to be deployed
FAILURES_MAX = 2  # of a service or of the tree at the first start; later nothing is given up
NO_PARENT = "a keeper that dies stays dead; 'fks up --detach' starts another parent"
#: what only a running node has, besides node.json and the records
RUN_FILES = ("sim.json", "ports", HEAD_FILE, "database-roles.json")
ReportProgress = Callable[[str, str, str], None]


def _is_passing(error: BaseException) -> bool:
    """Return whether a start that failed so may succeed later: no setting is wrong, and no other head lives."""
    return isinstance(error, FksError | OSError) and not isinstance(
        error, ConfigError | SupersededError | BeginAgainError
    )


class Keeper:
    """One node's keeper. Hard state: the child records. Soft state: the rest, which the next keeper finds again.

    `on_progress(name, state, text)` is called for every step and change: running, done, failed, then ready, degraded,
    down, …. A worker (`driver.worker_name`) joins its cluster before it starts anything and never gives up; its rows
    carry its name.
    """

    def __init__(
        self,
        context: KeeperContext,
        specs: Sequence[ServiceSpec],
        driver: ClusterDriver,
        *,
        timing: ServiceTiming | None = None,
        on_progress: ReportProgress | None = None,
    ) -> None:
        clock, log = context.clock, context.log
        self.phase = "starting"
        self.steps: list[dict[str, str]] = []
        self._context, self._driver, self._on_progress = context, driver, on_progress
        self._paths, self._clock, self._log = context.paths, clock, log
        self._worker = driver.worker_name
        # PostgreSQL refuses to start while the process table still has the one that was killed with the last keeper
        self._may_give_up = not self._worker and not context.start.restarts
        self._disk = HomeDisk(context.paths, clock, log)
        self._records = ChildRecords(context.paths.run / "keeper.json", self._disk.write)
        self._since_ns = clock.now_ns()
        self._changed = asyncio.Event()
        self.ending = asyncio.Event()
        self._must_hurry = asyncio.Event()
        self._must_end_all = False  # the workers of this head, too
        services = ServiceContext(
            self._records, clock, log, timing or ServiceTiming(), driver.node_name or host_name(), self._worker
        )
        self.tree = ServiceTree(specs, services, self._on_change, self._page)
        self.services = self.tree.services
        self._view = StatusView(clock, driver.node_name)
        self._standby: HttpStandby | None = None
        self._has_taken_over = False  # something that an earlier keeper left runs
        self._reported: set[str] = set()  # services whose first "ready" was reported
        self._deployer = TreeDeployer(driver, self.services.get(RAY), clock, log, self._on_change)

    def request_stop(self) -> None:
        """Request an orderly end; after a second request the tree is not waited for."""
        if self.ending.is_set():
            self._must_hurry.set()
        self.ending.set()

    async def run(self) -> None:
        """Run until asked to stop. Call under `keeper_lock`.

        Errors: FksError when the first start fails; everything is down again then.
        """
        control = ControlSocket(self._paths.keeper_socket, self._handle)
        self._paths.sockets.mkdir(mode=0o711, parents=True, exist_ok=True)
        await control.open()
        if (start := self._context.start).restarts:
            self._log.warning("keeper.restarted", reason=start.ended, restarts=start.restarts)
        beside = (
            self._beside("standby", self._stand_by),
            self._beside("logs", self._rotate_logs),
            self._beside("disk", self._look_at_disk),
            self._beside("gateway", self._grow),
        )
        works = (self._keep(), self.tree.supervise(), self._beat(), self._hold(), self._stop_wait(), *beside)
        tasks = [asyncio.create_task(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except (FksError, asyncio.CancelledError) as error:
            # what an earlier keeper left trades on, its guardian with it; the next keeper takes it over
            leaves = self._has_taken_over and self.phase == "starting" and _is_passing(error)
            if leaves:
                self._log.error("keeper.start_failed", reason=str(error))
            await self._end(tasks, control, leaves=leaves or isinstance(error, OtherBuildError))
            raise
        except Exception:  # a mistake of ours is no reason to stop what trades: the next keeper takes it over
            self._log.error("keeper.crashed", remedy="'fks up' takes over what runs")
            await control.close()
            raise
        await self._end(tasks, control)

    async def _end(self, tasks: Sequence[asyncio.Task[None]], control: ControlSocket, *, leaves: bool = False) -> None:
        """End this keeper and all that it runs; with `leaves` what runs goes on."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not leaves:
            await self._take_down()
        await control.close()
        if leaves:
            return
        clean(self._paths, self._records)
        self._log.info("keeper.stopped")

    # ── up ────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self) -> None:
        await self._find()
        self._save_node()
        if not self._worker and "postgres" not in self.services:  # a second head starts nothing, and migrates nothing
            await self._become_head()
        if self._worker and not any(service.is_adopted for service in self.services.values()):
            await self._step("cluster", self._driver.prepare())
        for name in self.services:
            self._report(name, "running")
        self.tree.begin()
        while True:
            try:
                await self._bring_up()
                break
            except (FksError, OSError) as error:
                if not (self._disk.is_likely_cause() and _is_passing(error)):
                    raise
                self._log.warning("keeper.start_delayed", reason=str(error))
            await self._clock.sleep(SIDE_WORK_S)
        self.phase = "ready"
        self._log.info("keeper.ready", services={name: service.restarts for name, service in self.services.items()})
        self._report("fks", "ready")
        while True:
            await self._need("postgres", RAY)
            if reason := self._deployer.due():
                self._save_node()
                await self._deployer.redeploy(reason)
            else:
                await self._clock.sleep(TREE_LOOK_S)

    async def _become_head(self) -> None:
        """Claim the place of the head. Errors: AnotherHeadError; BeginAgainError once a standby has waited."""
        self._report("head", "running")
        try:
            await self._driver.claim()
        except FksError as error:
            if not (isinstance(error, AnotherHeadError) and self._driver.is_standby):
                self._report("head", "failed", str(error))
                raise
            if not self._has_taken_over:  # else what runs here is another head's tree now, and ends first
                self.phase = "standby"
                self._report("head", "standby", "another head lives: this machine takes over when it is gone")
                if not await self._driver.stand_by():
                    self._log.warning("node.ends", reason="the head ends the whole cluster")
                    self.request_stop()
                    return
            raise BeginAgainError("another head was found at the start") from error
        self._report("head", "done")

    async def _bring_up(self) -> None:
        """Wait for the services, then make the schema and the tree; safe to repeat. Errors: FksError, OSError."""
        if not self._worker:
            await self._need("postgres")
            await self._driver.claim()
            await self._step("schema", self._driver.prepare())
            await self._driver.claim()  # the schema had no place for it before
        if RAY in self.services and not self.services[RAY].is_adopted:
            await self._driver.clear()
        await self._need(*self.services)
        self._save_node()
        self._report("actors", "running")
        await self._first_deploy()

    async def _first_deploy(self) -> None:
        """Deploy the tree, FAILURES_MAX times at most. Errors: FksError when no tree runs and the start is given up."""
        for tries_left in range(FAILURES_MAX - 1, -1, -1):
            try:
                return await self._deployer.deploy()
            except FksError as error:
                if not tries_left:
                    self._deployer.note_failed(error)
                    if self._may_give_up:
                        raise
                    return  # it is deployed again as one that was lost later
            await self._need(*self.services)

    def _save_node(self) -> None:
        file = self._paths.node_file
        self._disk.write(file.name, lambda: save_node(self._paths, self._context.make_node()))

    async def _find(self) -> None:
        """Take over what runs; refuse to start when another program holds a port that a new process will need."""
        for service in self.services.values():
            if await service.adopt():
                self._has_taken_over = True
            else:
                await asyncio.to_thread(check_free, service.spec.ports)

    async def _need(self, *names: str) -> None:
        """Return once all these services are ready. Errors: FksError when one does not come up at the first start."""
        while True:
            self._changed.clear()
            late = [service for name in names if (service := self.services.get(name)) and not service.is_ready]
            if not late:
                return
            for service in late:
                has_failed = service.failures >= FAILURES_MAX and self._may_give_up
                is_given_up = service.is_misconfigured or has_failed
                is_given_up = is_given_up and not self._disk.is_likely_cause()
                if self.phase == "starting" and service.times_ready == 0 and is_given_up:
                    self._report(service.name, "failed", service.error)
                    raise service.failure(self._context.redactor)
            await self._changed.wait()

    async def _step(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._report(name, "running")
        try:
            await work
        except FksError as error:
            self._report(name, "failed", str(error))
            raise
        self._report(name, "done")

    async def _beat(self) -> None:
        while True:
            postgres = self.services.get("postgres")
            if self.phase == "ready" and (postgres is None or postgres.is_ready):
                await self._write_rows()
            else:
                self._deployer.note_outage()
            await self._clock.sleep(BEAT_S)

    async def _write_rows(self) -> None:
        """Write the rows of the keeper and its services. Raises only OtherBuildError: the rows are for display."""
        try:
            state = await self._driver.beat(self._statuses())
        except (FksError, OSError) as error:  # TimeoutError is an OSError
            self._deployer.note_outage()
            self._log.debug("keeper.beat_failed", reason=str(error))
            return
        except Exception:
            self._deployer.note_outage()
            self._log.error("keeper.beat_failed")
            return
        self._deployer.note_beat(state.supervisor_age_s)
        with contextlib.suppress(FksError, OSError):  # the next beat does it
            await self._driver.write_history(self.tree)
        if state.other_build is not None:
            self._log.warning("node.goes_over", reason=str(state.other_build))
            raise state.other_build
        if state.must_rejoin:
            self.tree.restart(RAY, "it belongs to an older cluster")
        if state.must_stop:
            self._log.warning("node.ends", reason="the head ends the whole cluster")
            self.request_stop()

    def _page(self, event: str, text: str) -> None:
        """Send a page through the channels themselves where its row would not leave: without the database, or without
        the actor that delivers alerts."""
        needed = [service for name in ("postgres", RAY) if (service := self.services.get(name))]
        if not (self._deployer.is_beating and all(service.is_ready for service in needed)):
            self._driver.page(event, text)

    async def _beside(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do for ever what no service needs: its fault (a full disk, a mistake of ours) must not end the keeper."""
        while True:
            try:
                await work()
            except Exception as error:
                self._log.error("keeper.work_failed", work=name, error=f"{type(error).__name__}: {error}")
            await self._clock.sleep(SIDE_WORK_S)

    async def _look_at_disk(self) -> None:
        """Keep the reserve, and report a full disk; services that died of it are tried again at once when it is not."""
        before = ""
        while True:
            await self._disk.look()
            if (problem := self._disk.problem) and not before:
                self._report("disk", "degraded", problem)
            elif before and not problem:
                self._report("disk", "ready")
                self.tree.retry("the disk has space again")
            before = problem
            await self._clock.sleep(DISK_LOOK_S)

    async def _rotate_logs(self) -> None:
        """Rotate what the servers print; their programs do not."""
        while True:
            await self._clock.sleep(ROTATE_S)
            await asyncio.to_thread(rotate, self._paths.logs)

    async def _grow(self) -> None:
        """Put the gateway on machines that join, once everything here is ready."""
        while self.phase != "ready":
            await self._clock.sleep(BEAT_S)
        await self._driver.grow()

    async def _hold(self) -> None:
        """Renew the claim to be the head, from the first one on. Errors: SupersededError."""
        while True:
            with contextlib.suppress(OutageError, TimeoutError):
                await self._driver.hold()
            await self._clock.sleep(BEAT_S)

    async def _stop_wait(self) -> None:
        await self.ending.wait()

    async def _stand_by(self) -> None:
        """Watch Serve's proxy, and keep the gateway's port open while it is started again, where that is on this
        machine alone."""
        http, ray = self._context.make_node().http, self.services.get(RAY)
        if ray is None or not http.get("port"):
            await asyncio.Event().wait()  # until cancelled
            return
        may_hold = not self._worker and is_on_this_host(http["host"])

        def find_proxy() -> int | None:
            return serve_proxy(ray.process.pid) if ray.process is not None else None

        address = str(http["host"]), int(http["port"])
        if self._standby is None:
            self._standby = HttpStandby(address, find_proxy, lambda: may_hold and ray.is_ready, self._clock, self._log)
        await self._standby.run()

    # ── down ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _take_down(self) -> None:
        self.phase = "stopping"
        head = self.services.get(RAY)
        if self._deployer.has_deployed and (head is None or head.is_ready):
            work = asyncio.create_task(self._step("actors stop", self._driver.stop()))
            hurry = asyncio.create_task(self._must_hurry.wait())
            await asyncio.wait({work, hurry}, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            if not work.done():
                await self._driver.cancel()
            with contextlib.suppress(FksError, OSError):
                await work
        await self._driver.cancel()
        if self._must_end_all:
            await self._step("workers stop", self._driver.end_workers(self._statuses))
        await self._driver.close()
        for wave in sorted({service.spec.wave for service in self.services.values()}, reverse=True):
            services = [service for service in self.services.values() if service.spec.wave == wave]
            for service in services:
                self._report(f"{service.name} stop", "running")
            await self.tree.stop(services)
        await self._driver.release()

    # ── status ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _statuses(self) -> list[tuple[str, ServiceStatus]]:
        waits_for = self._driver.waits_for
        state = "waiting" if waits_for and self.phase != "stopping" else self.phase
        detail = f"waits for {waits_for}" if waits_for else self._disk.problem
        if state == "ready" and detail:
            state = "degraded"
        start = self._context.start
        rows = [
            ("keeper", ServiceStatus("keeper", state, os.getpid(), start.restarts, self._since_ns, detail, start.ended))
        ]
        if start.has_parent:
            rows.append(("keeper", self._parent_status()))
        rows += [("service", status) for service in self.services.values() for status in service.statuses()]
        if self._standby is not None and (proxy := self._standby.status()) is not None:
            rows.append(("service", proxy))
        name = self._driver.node_name if self.phase == "standby" else self._worker
        if not name:
            return rows
        return [(kind, replace(status, name=f"{status.name}@{name}")) for kind, status in rows]

    def _parent_status(self) -> ServiceStatus:
        pid = holder_of(self._paths.run / PARENT_LOCK)
        state, detail = ("down", NO_PARENT) if pid is None else ("ready", "")
        return ServiceStatus("keeper-parent", state, pid, 0, self._since_ns, detail)

    async def status(self) -> dict[str, Any]:
        """Return the status document: from the database when it answers, with our own services as they are now."""
        document: dict[str, Any] | None = None
        postgres = self.services.get("postgres")
        if self.phase != "stopping" and (postgres is None or postgres.is_ready):
            with contextlib.suppress(FksError, OSError):
                document = await self._driver.status()
        return self._view.merge(document, self._statuses(), self.phase, self._context.make_node())

    async def _handle(self, request: dict[str, Any]) -> dict[str, Any]:
        match request.get("op"):
            case "status":
                return {"status": await self.status()}
            case "progress":
                has_parent = self._context.start.has_parent
                found = {"phase": self.phase, "pid": os.getpid(), "version": build_id(), "steps": self.steps}
                return {**found, "has_parent": has_parent}
            case "stop":
                self._must_end_all = bool(request.get("all"))
                self.request_stop()
                return {"pid": os.getpid(), "services": list(self.services)}
            case "restart-service":
                return {"restarting": self._restart(str(request.get("name", "")))}
        raise InputError(
            f"no such operation {request.get('op')!r}", remedy="use status, progress, stop or restart-service"
        )

    def _restart(self, name: str) -> str:
        service = name.removesuffix(f"@{self._worker}") if self._worker else name
        service = RAY if service in ("raylet", "gcs") else service
        if service not in self.services:
            raise InputError(f"no service {name!r}", remedy=f"use one of {', '.join(self.services)}")
        self.tree.restart(service)
        return service

    def _on_change(self, child: SupervisedChild) -> None:
        self._changed.set()
        if not isinstance(child, NodeService):
            is_first = (self.phase, child.state) == ("starting", "ready")
            self._report(child.name, "done" if is_first else child.state, child.error)
        elif self.phase == "stopping":
            if child.state == "stopped":
                self._report(f"{child.name} stop", "done")
        elif child.state == "ready" and self.phase == "starting":
            if child.name not in self._reported:
                self._reported.add(child.name)
                self._report(child.name, "done", "still running, taken over" if child.is_adopted else "")
        elif self.phase == "ready" and child.state != "starting":
            if child.state == "ready":
                self._save_node()  # it has another pid now
            self._report(child.name, child.state, child.error)

    def _report(self, name: str, state: str, text: str = "") -> None:
        if self.phase != "ready":
            self.steps.append({"name": name, "state": state, "text": text})
        if self._on_progress is not None:
            self._on_progress(name, state, text)


async def sweep(paths: Paths, specs: Sequence[ServiceSpec]) -> list[str]:
    """End the processes that a dead keeper left behind, and return their names. Call under `keeper_lock`."""
    records = ChildRecords(paths.run / "keeper.json")
    found = []
    for spec in sorted(specs, key=lambda spec: -spec.wave):
        record = records.get(spec.name)
        process = ProcessHandle.find(record.pid, record.mark) if record and record.pid else None
        if process is None and (pid := spec.find()):
            process = ProcessHandle.of(pid)
        if process is not None:
            found.append(spec.name)
            await process.stop(spec.stop, is_group=spec.is_group)
        elif record and record.pid and spec.is_group:
            await clear_session(record.pid, record.mark)
    clean(paths, records)
    return found


def clean(paths: Paths, records: ChildRecords) -> None:
    """Remove what only a running system needs, and kill any process of Ray's that left its session."""
    kill(ray_processes(paths))
    forget_storage(paths)
    clear_node(paths)
    records.remove()
    paths.reserve_file.unlink(missing_ok=True)
    for name in RUN_FILES:
        (paths.run / name).unlink(missing_ok=True)
    shutil.rmtree(paths.sockets, ignore_errors=True)
