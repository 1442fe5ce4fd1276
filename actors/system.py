"""Ray behind the ports of supervision: how a Shell becomes an actor, is found, watched and ended.

Only this module, `actors.cluster`, `actors.gpus` and `actors.ray_internals` import Ray, which keeps no call order for
async actors: nothing here relies on one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors import tree
from actors.gpus import RayGpus
from actors.ray_internals import address_of_raylet, prestart_worker
from actors.shell import Shell
from fks.config.environment import without_credentials
from fks.config.machine import can_reach, process_space
from fks.config.paths import Paths
from fks.config.runtime import SUPERVISOR
from fks.config.version import installed_s, is_installed
from fks.model.errors import FksError, OutageError, PeerError
from fks.research.jobs.scheduler import RunnerDied
from fks.system.node.probe import listens
from fks.system.process import ray_names
from fks.system.process.crash_files import exit_of
from fks.system.process.handle import ProcessHandle, is_proven_gone
from fks.system.process.heartbeat import HeartbeatReader, heartbeat_file
from fks.system.runtime import Component, IsolatedComponent
from fks.system.supervision import ChildSpec
from fks.system.supervision.exits import How, ProcessExit
from fks.system.supervision.liveness import UP
from fks.system.supervision.placement import Place, misplaced, place_for

NAMESPACE = "fks"
NAME_TRIES, NAME_PAUSE_S = 10, 0.05
GCS_S = 1.0  # how long a kill waits for Ray's control plane
CALL_S = 60.0  # between two calls of a child whose heartbeat is read: it has to answer the cluster, too
READY_AFTER_S = 10.0  # a system that starts needs its processors for itself
READY_EVERY_S = 1.0  # between two looks for a worker process that is ready
READY_SEEN_S = 10.0  # a process that was asked for is there within this
READY_KEEP_S = 86_400  # how long Ray keeps one that is not used; then the next one is made
JOB_ENDS_S = 2.0  # a job's process ends by itself after this: its scheduler may be gone
WARM_S = 600.0  # how long a process without a job is kept ready
WARM_AFTER_S = 0.5  # after a job began the next process is made ready
TAKE_S = 0.3  # a ready process answers within this, or a new one is made
HOLD_S = 30.0  # between taking a ready process and its job


_sys = ray.method(concurrency_group="sys")
Shell.join = _sys(Shell.join)  # type: ignore[method-assign]
Shell.health = _sys(Shell.health)  # type: ignore[method-assign]
Shell.stop = _sys(Shell.stop)  # type: ignore[method-assign]
Shell.begin = _sys(Shell.begin)  # type: ignore[method-assign]


class _OnRay(Shell):
    """A Shell that knows the node it runs on."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        with contextlib.suppress(Exception):  # a constructor of the supervisor must not fail
            context = ray.get_runtime_context()
            self._node_id = str(context.get_node_id())
            if not context.get_accelerator_ids().get("GPU"):
                # a cluster that others started may not have RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO; no library that looks
                # for a GPU is loaded yet
                os.environ["CUDA_VISIBLE_DEVICES"] = ""
            if self._role == SUPERVISOR:
                self._ready_task = asyncio.create_task(keep_workers_ready())


def _class_name(role: str) -> str:
    """Return what the dashboard and the process list show of a role: ray::OrderManager."""
    name: str = tree.CLASSES[role].rpartition(":")[2]
    return name.removesuffix("Actor")


def __getattr__(name: str) -> Any:
    """Return the class of a role: a worker imports it by its name, and needs no other."""
    if name not in {_class_name(role) for role in tree.CLASSES}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = type(name, (_OnRay,), {"__module__": __name__, "__qualname__": name})
    return made


@functools.cache
def _remote_shell(role: str) -> Any:
    """Return the actor class of a role."""
    made = getattr(sys.modules[__name__], _class_name(role))
    return ray.remote(concurrency_groups={"sys": 16})(made)


def options_of(spec: ChildSpec, *, max_restarts: int = 0, node_id: str | None = None) -> dict[str, Any]:
    """Return the options of a child's actor. Ray takes its own two resources by other names. `node_id`: where it is to
    run, or not at all: Ray takes a soft affinity for a hint, and starts every second child beside a process that waits
    on the head. On a node that dies meanwhile the start fails, and the next one goes elsewhere."""
    wanted = dict(spec.resources)
    return {
        **({"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)} if node_id else {}),
        "num_cpus": wanted.pop("CPU", 0),
        "num_gpus": wanted.pop("GPU", None),
        **({"runtime_env": {"env_vars": without_credentials(os.environ)}} if spec.role in tree.ISOLATED else {}),
        "resources": wanted or None,
        "name": spec.id,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "max_restarts": max_restarts,
        "max_task_retries": 0,
        "max_pending_calls": 1000,
    }


def spawn_shell(
    spec: ChildSpec, *, epoch: int, wait_s: float, max_restarts: int = 0, node_id: str | None = None
) -> Any:
    """Return the handle of a new detached actor. Errors: ValueError when the name is still taken."""
    if not is_installed():
        end_ready_workers()
    kind = _remote_shell(spec.role).options(**options_of(spec, max_restarts=max_restarts, node_id=node_id))
    return kind.remote(spec.role, spec.id, spec.args, epoch, spec.is_leased, wait_s, ports_of)


async def keep_workers_ready() -> None:
    """Keep one worker process of this node waiting, until cancelled: the next child that is started here runs in it,
    and does not wait for a new process to import Ray and this module's dependencies. Where a child without credentials
    runs, whose process has an environment of its own, keep one with that environment, too.

    Ray offers this to its own parts only: where the call fails, a start takes longer and nothing else changes.
    """
    await asyncio.sleep(READY_AFTER_S)
    known: dict[bool, psutil.Process | None] = {}
    here = str(ray.get_runtime_context().get_node_id())
    while True:
        for is_isolated in (False, True) if any(child.is_up_at(here) for child in _isolated) else (False,):
            with contextlib.suppress(Exception):
                known[is_isolated] = await asyncio.to_thread(_make_worker_ready, known.get(is_isolated), is_isolated)
        await asyncio.sleep(READY_EVERY_S)


def _make_worker_ready(known: psutil.Process | None, is_isolated: bool) -> psutil.Process | None:
    """Have this node's raylet, which is the parent of its workers, start one, unless one waits or starts; return that.

    `known` was found last: while it waits, the other processes of the machine are not looked at.
    """
    if known is not None and _is_ready(known):
        return known
    if (found := _ready_worker(is_isolated)) is None:
        environment = without_credentials(os.environ) if is_isolated else None
        prestart_worker(address_of_raylet(), READY_KEEP_S, environment)
        end_s = time.monotonic() + READY_SEEN_S  # a second request before that would start a second one
        while (found := _ready_worker(is_isolated)) is None and time.monotonic() < end_s:
            time.sleep(READY_EVERY_S)
    return found


def _ready_worker(is_isolated: bool) -> psutil.Process | None:
    """Return a worker process that waits or starts, with or without the variables that hold credentials."""
    emptied = without_credentials(os.environ).items()
    for process in _ready_workers():
        with contextlib.suppress(psutil.Error):
            if (emptied <= process.environ().items()) is is_isolated:
                return process
    return None


def _ready_workers() -> list[psutil.Process]:
    """Return the worker processes of this node's raylet that wait for work or start."""
    return [process for process in psutil.Process(os.getppid()).children() if _is_ready(process)]


def _is_ready(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        command = " ".join(process.cmdline())
        return command.startswith(ray_names.IDLE) or ray_names.STARTING in command
    return False


def end_ready_workers() -> None:
    """End the worker processes that wait for work and have loaded a build that is not installed any more."""
    with contextlib.suppress(psutil.Error, OSError):
        at_s = installed_s()
        for process in _ready_workers():
            if process.create_time() <= at_s:
                process.kill()


#: children without credentials, as long as the supervisor holds them
_isolated: weakref.WeakSet[RayChild] = weakref.WeakSet()


class RayChild:
    """A child behind a Ray handle, and behind a pidfd where its process is on this host."""

    def __init__(self, spec: ChildSpec, handle: Any, paths: Paths | None = None, node_id: str = "") -> None:
        self._spec = spec
        self._handle = handle
        self._paths = paths
        self._pid: int | None = None
        self._node, self._node_id = "", node_id
        self._space: object = None  # where its process can be reached by its pid: a host name would not prove that
        self._process: ProcessHandle | None = None
        self._heartbeat: HeartbeatReader | None = None
        self._was_up, self._called_s = False, 0.0  # of its last answer to a call, and when that came

    def is_up_at(self, node_id: str) -> bool:
        """Return whether it has answered that it is up, on this node."""
        return self._was_up and self._node_id == node_id

    @property
    def node_id(self) -> str:
        """Return Ray's id of the node it runs on; until its first answer that of the node it was started for."""
        return self._node_id

    async def health(self, *, timeout_s: float) -> Mapping[str, object]:
        """Return the beat, from shared memory or by a call.

        Errors: TimeoutError; OutageError when the actor is gone or out of reach.
        """
        if (read := self.read_heartbeat()) is not None:
            return read
        try:
            async with asyncio.timeout(timeout_s):
                beat: dict[str, object] = await self._handle.health.remote()
        except ray.exceptions.RayError as error:
            raise OutageError(f"{self._spec.id}: {cause(error)}") from error
        if self._pid is None:
            self._pid, self._node = int(str(beat["pid"])), str(beat["node"])
            self._node_id = str(beat.get("node_id") or "")
            self._space = beat.get("space")
            if can_reach(self._space):
                self._process = ProcessHandle.reported(self._pid, self._space, command=b"ray")
                if self._paths is not None:
                    self._heartbeat = HeartbeatReader(heartbeat_file(self._paths.run, self._spec.id), self._pid)
        self._was_up, self._called_s = beat["state"] in UP, time.monotonic()
        return beat

    def read_heartbeat(self) -> Mapping[str, object] | None:
        """Return the status of its heartbeat, with its age; None when it has to be called."""
        if self._heartbeat is None or not self._was_up or time.monotonic() - self._called_s > CALL_S:
            return None  # not before it is up: by then the file is its own, not that of an earlier boot's pid
        heartbeat = self._heartbeat.read()
        if heartbeat is None:
            return None
        at_s, status = heartbeat
        return {**status, "age_s": max(time.monotonic() - at_s, 0.0)}

    async def begin(self) -> None:
        """End its wait; when the message is lost it waits to the end."""
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):  # a stopped one answers nothing, for ever
            async with asyncio.timeout(1.0):
                await self._handle.begin.remote()

    async def join(self) -> ProcessExit:
        """Return how it ended, seen by the end of its process or reported by Ray, whichever comes first."""
        reported = asyncio.create_task(self._reported_end())
        waits: set[asyncio.Task[Any]] = {reported}
        if self._process is not None:
            waits.add(asyncio.create_task(self._process.ended()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            how, reason = reported.result() if reported.done() else (How.CRASH, "died")
            # Ray frees the name before the process is gone: only its end proves it. An orderly stop leaves an empty
            # one.
            return await self.kill(how, reason)
        finally:
            for task in waits:
                task.cancel()

    async def _reported_end(self) -> tuple[How, str]:
        """Return its end as Ray reports it; a short network failure is waited out, not taken for a death."""
        while True:
            try:
                ending = str(await self._handle.join.remote())
                if ending != "superseded":
                    return How.NORMAL, "asked" if ending == "normal" else ending
            except ray.exceptions.ActorUnavailableError:
                await asyncio.sleep(0.2)
            except ray.exceptions.RayActorError as error:
                is_lost = "node has died" in str(error).lower()
                return How.NODE_LOST if is_lost else How.CRASH, f"died: {cause(error)}"

    async def stop(self, deadline_s: float) -> ProcessExit:
        """Have it stop, wait, then kill."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._handle.stop.remote()
                return await self.join()
        except ray.exceptions.RayActorError as error:
            return await self.kill(How.CRASH, f"died: {cause(error)}")
        except (ray.exceptions.RayError, TimeoutError):
            return await self.kill(How.KILLED, f"did not end within {deadline_s:g} s")

    async def _is_node_lost(self) -> bool:
        """Return whether Ray already reports the node it ran on as dead."""
        if not self._node_id:
            return False
        with contextlib.suppress(Exception):
            async with asyncio.timeout(GCS_S):
                return not await asyncio.to_thread(_is_alive, self._node_id)
        return False

    async def kill(self, how: How, reason: str) -> ProcessExit:
        """Kill by pid on this host, and through Ray: Ray alone lets a stopped process live for 5 s."""
        if self._process is not None:
            await self._process.kill(is_hung=how is How.HUNG)
        elif how is How.HUNG and await self._is_node_lost():
            how, reason = How.NODE_LOST, f"its node {self._node} is gone; {reason}"
        # on a thread: it waits for the GCS, which may be away
        with contextlib.suppress(Exception):
            async with asyncio.timeout(GCS_S):
                await asyncio.to_thread(ray.kill, self._handle)
        end = await exit_of(how, reason, self._process, self._paths, self._spec.id)
        if self._process is None and self._pid is not None:
            end = replace(end, is_gone=is_proven_gone(self._pid, self._space))
        if self._process is not None and end.is_gone:
            self._process.close()
        return end


def _is_alive(node_id: str) -> bool:
    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())


async def call_child(id: str, message: Mapping[str, object]) -> dict[str, Any]:
    """Return the answer of a child to a message. Cancelled, the child ends its work on it.

    Errors: OutageError when there is no such child, it has not begun, or it died meanwhile; PeerError when it raised
    another error: its text is in the log of the process alone.
    """
    try:
        handle = await asyncio.to_thread(ray.get_actor, id, NAMESPACE)
        answer = handle.call.remote(dict(message))
        try:
            return dict(await answer)
        except asyncio.CancelledError:
            ray.cancel(answer)
            raise
    except (ValueError, ray.exceptions.RayError) as error:
        raise failure_of_call(id, error) from error


def failure_of_call(id: str, error: Exception) -> OutageError | PeerError:
    """Return the error of `call_child` for one of Ray."""
    if not isinstance(error, ray.exceptions.RayTaskError):
        return OutageError(f"{id}: {cause(error)}")
    if isinstance(error.cause, FksError):
        return OutageError(error.cause.message)
    return PeerError(f"{id} failed: {type(error.cause).__name__}")


def cause(error: BaseException) -> str:
    """Return the line of a Ray error that names the cause; of an exception raised in a process: its own text."""
    if isinstance(error, ray.exceptions.RayTaskError):
        raised = error.cause
        text = str(raised).strip().partition("\n")[0]
        name = "" if isinstance(raised, FksError) else type(raised).__name__
        return ": ".join(part for part in (name, text) if part)[:300]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "exit" in line.lower() or "killed" in line.lower()]
    return (named or lines or [type(error).__name__])[0][:300]


class RayWorld:
    """The cluster. Calls that wait for the GCS run on a thread: it may be unavailable for a while."""

    def __init__(self, paths: Paths | None = None) -> None:
        self._paths = paths
        self.was_reconstructed = bool(ray.get_runtime_context().was_current_actor_reconstructed)
        self._children: dict[str, RayChild] = {}  # those that spread, as they were last found or started
        self._chosen: dict[str, str] = {}  # the node of each child that is being started
        self._seen_s: dict[str, float] = {}  # node -> when it was first seen
        self._known: list[Place] = []

    def node_id(self) -> str:
        """Return Ray's id of the node this process runs on."""
        return str(ray.get_runtime_context().get_node_id())

    async def find(self, spec: ChildSpec) -> RayChild | None:
        """Return the named actor if Ray knows one: a name may outlive its process for a moment."""
        try:
            handle = await asyncio.to_thread(ray.get_actor, spec.id, NAMESPACE)
        except ValueError:
            return None
        return self._note(spec, RayChild(spec, handle, self._paths))

    async def misplaced(self, specs: Sequence[ChildSpec]) -> str | None:
        """Return a child that should be started again on another node."""
        return misplaced(specs, await self._places(), self._where())

    async def spawn(self, spec: ChildSpec, epoch: int, wait_s: float) -> RayChild:
        """Return a new child. Kills no process: a name that stays taken is its holder's. Errors: OutageError then."""
        places = await self._places() if spec.spreads else []
        node_id = spec.node_id or place_for(spec, places, self._where())
        if node_id is not None:  # from here on: children that start at the same time go to different nodes
            self._chosen[spec.id] = node_id
        try:
            for _ in range(NAME_TRIES):
                making = asyncio.ensure_future(
                    asyncio.to_thread(spawn_shell, spec, epoch=epoch, wait_s=wait_s, node_id=node_id)
                )
                try:
                    return self._note(spec, RayChild(spec, await asyncio.shield(making), self._paths, node_id or ""))
                except ValueError:
                    await asyncio.sleep(NAME_PAUSE_S)  # a dead one's is free some 10 ms after its death
                except asyncio.CancelledError:
                    making.add_done_callback(_undo)
                    raise
            raise OutageError(f"the actor name {spec.id} stays taken", remedy="look at it in the Ray dashboard")
        finally:
            self._chosen.pop(spec.id, None)

    def _note(self, spec: ChildSpec, child: RayChild) -> RayChild:
        if spec.spreads:
            self._children[spec.id] = child
        if spec.role in tree.ISOLATED:
            _isolated.add(child)
        return child

    def _where(self) -> dict[str, str]:
        """Return the node of each child that spreads, as far as it is known or chosen."""
        return {id: child.node_id for id, child in self._children.items() if child.node_id} | self._chosen

    async def _places(self) -> list[Place]:
        """Return the nodes whose raylet answers; of those known before while the GCS does not, so that no start waits
        for it."""
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            async with asyncio.timeout(GCS_S):
                nodes = await asyncio.to_thread(ray.nodes)
            now = time.monotonic()
            alive = {str(node["NodeID"]): node for node in nodes if node["Alive"]}
            self._seen_s = {id: self._seen_s.get(id, now) for id in alive}
            self._known = [
                Place(
                    id, node["Resources"], now - self._seen_s[id], (node["NodeManagerAddress"], node["NodeManagerPort"])
                )
                for id, node in alive.items()
            ]
        return await answering(self._known)


async def answering(places: Sequence[Place]) -> list[Place]:
    """Return the nodes whose raylet accepts connections: for some seconds the GCS lists one that has died as alive."""
    listening = await asyncio.gather(*(listens(*place.address) for place in places))
    return list(itertools.compress(places, listening))


def _undo(making: asyncio.Future[Any]) -> None:
    """Kill a new actor whose caller was cancelled."""
    if not making.cancelled() and making.exception() is None:
        ray.kill(making.result())


class Job:
    """Runs one claimed job in a process of its own, which outlives the scheduler that started it."""

    _ending: threading.Timer | None = None

    def warm(self, keep_s: float) -> None:
        """Load what a job needs, and end after `keep_s` seconds without one."""
        from fks.research.jobs.runner import warm

        _yield_to_others()
        self._end_after(keep_s)
        warm()

    def hold(self) -> None:
        """Stay for the job that comes next; if none does, its scheduler has died meanwhile."""
        self._end_after(HOLD_S)

    def run(self, home: str, job_id: str) -> None:
        """Run the job; its row holds the result. The process ends soon after, with or without a caller that waits."""
        from fks.research.jobs.runner import run_claimed

        _yield_to_others()
        if self._ending is not None:
            self._ending.cancel()
        try:
            runner = {
                "actor": ray.get_runtime_context().get_actor_name(),
                "pid": os.getpid(),
                "space": process_space(),
            }
            home = os.environ.get("FKS_HOME") or home  # on another machine: that one's own
            gpus = len(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))
            run_claimed(home, job_id, runner=runner, inference=call_child, gpus=gpus)
        finally:
            self._end_after(JOB_ENDS_S)

    def _end_after(self, seconds: float) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._ending = threading.Timer(seconds, os._exit, (0,))
        self._ending.daemon = True
        self._ending.start()


def _yield_to_others() -> None:
    """Have the kernel run this process when nothing else wants the processor."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


_Job = ray.remote(max_restarts=0, max_task_retries=0)(Job)


def job_place(gpus: int) -> dict[str, Any]:
    """Return what a job asks of a node: a resource of its own, so that it takes nothing that trading needs. A cluster
    that was started by an earlier build, or by other means, offers none: there it is a CPU. `gpus`: asked for where
    they are free, on whichever machine."""
    offered = ray.cluster_resources()
    if gpus and ray.available_resources().get("GPU", 0.0) >= gpus:
        return {"num_gpus": gpus, **({"num_cpus": 0, "resources": {"research": 1}} if offered.get("research") else {})}
    if offered.get("research"):
        # spread over the workers where there are some: the head trades
        worker = {tree.WORKER: tree.SHARE} if offered.get(tree.WORKER) else {}
        return {"num_cpus": 0, "resources": {"research": 1, **worker}, "scheduling_strategy": "SPREAD"}
    return {"num_cpus": 1}


class JobProcesses:
    """The processes of jobs. After a job one is kept ready for the next, for WARM_S seconds, where a place is free:
    it has everything loaded, so that a job that is submitted then begins at once."""

    def __init__(self) -> None:
        self._spare: Any = None
        self._handles: dict[str, Any] = {}  # of the jobs that are waited for
        self._warming: asyncio.Task[None] | None = None

    async def run(self, home: str, job_id: str, gpus: int = 0) -> None:
        """Run one claimed job and wait for its end; cancelled, it goes on by itself. Where so many `gpus` are not free
        its process gets none, and the job says so. Errors: OutageError when its process died."""
        spare: Any = None if gpus else await self._take()
        runner = spare or await asyncio.to_thread(_make_job, job_id, gpus)
        self._handles[job_id] = runner
        try:
            ended = runner.run.remote(home, job_id)
            self._warm_next()
            await ended
        except (ray.exceptions.RayTaskError, ray.exceptions.ActorDiedError) as error:
            raise RunnerDied(f"job {job_id}: {cause(error)}") from error
        except ray.exceptions.RayError as error:
            raise OutageError(f"job {job_id}: {cause(error)}") from error
        finally:
            self._handles.pop(job_id, None)
        ray.kill(runner)

    async def end(self, job_id: str, runner: Mapping[str, Any] | None) -> None:
        """End the process of a job that hangs: by its pid where that counts, and through Ray. `runner`: the process as
        it named itself; without one a process that this scheduler started for the job. Errors: OutageError."""
        handle, named = self._handles.get(job_id), runner or {}
        if handle is None and named.get("actor"):
            with contextlib.suppress(ValueError):  # it has ended
                handle = await asyncio.to_thread(ray.get_actor, named["actor"], NAMESPACE)
        if handle is not None:
            try:
                await asyncio.to_thread(ray.kill, handle)
            except ray.exceptions.RayError as error:
                raise OutageError(f"job {job_id}: {cause(error)}") from error
        if named.get("pid"):  # Ray alone lets a stopped process live for 5 s
            process = ProcessHandle.reported(int(named["pid"]), named.get("space"), command=ray_names.TITLE.encode())
            if process is not None:
                await process.kill(is_hung=True)
                process.close()

    async def _take(self) -> Any:
        """Return the process that is ready and still there, or None."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        try:
            async with asyncio.timeout(TAKE_S):
                await spare.hold.remote()
        except (ray.exceptions.RayError, TimeoutError):
            return None
        return spare

    def _warm_next(self) -> None:
        if self._spare is None and (self._warming is None or self._warming.done()):
            self._warming = asyncio.create_task(self._warm())

    async def _warm(self) -> None:
        await asyncio.sleep(WARM_AFTER_S)  # the job that begins comes first
        try:
            spare = await asyncio.to_thread(_make_spare)
            if spare is not None:
                await spare.warm.remote(WARM_S)
                self._spare = spare
        except ray.exceptions.RayError:
            return  # the next job makes its own process, and tries this again


def _make_spare() -> Any:
    """Return a process without a job, or None: without a free place a waiting job would have to wait for this one."""
    if ray.available_resources().get("research", 0.0) < 1.0:
        return None
    return _make_job("spare")


def _make_job(job_id: str, gpus: int = 0) -> Any:
    # an actor and not a task: Ray ends the tasks of an owner that died
    name = f"job:{job_id}:{uuid.uuid4().hex[:8]}"
    return _Job.options(name=name, namespace=NAMESPACE, lifetime="detached", **job_place(gpus)).remote()


def ports_of(role: str, component: Component | IsolatedComponent) -> dict[str, Any]:
    """Return the arguments of a role's class that come from the cluster."""
    if role == SUPERVISOR and isinstance(component, Component):
        world = RayWorld(component.paths)
        gpus = RayGpus(NAMESPACE, component.settings.ray.autoscaling_config)
        return {"tree": tree.tree_of(component.settings), "world": world, "want": tree.want(component, gpus)}
    if role == "scheduler":
        processes = JobProcesses()
        return {"run_job": processes.run, "end_job": processes.end, "inference": call_child}
    return {}
