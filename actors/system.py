"""The only module that imports Ray: one generic Shell, names, and how the supervisor finds, starts and ends actors.

A Shell hosts any plain class of actors.tree. Its concurrency group `sys` (join, health, stop) lives on a loop of its own
and touches only simple attributes, so it answers while the work loop is busy; the work loop's own beat age is what health
reports. Ray keeps no call order for async actors: nothing here relies on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psutil
import ray

from actors import tree
from fks.config.endpoints import load_node
from fks.model.errors import OutageError, StaleEpochError
from fks.monitor.component import Component
from fks.supervision import ChildSpec

NAMESPACE = "fks"
BEAT_S = 0.2
WAIT_S = 0.5  # between tries to start while something that the child needs is away
JOINS_MAX = 4  # parked joins: one is the supervisor's, older ones belong to supervisors that died
LAST_S = 1.0  # a supervisor that ends by itself stays this long: Ray would start it again at once, for ever
WEDGED_S = 10.0  # a supervisor whose work loop is silent for so long is replaced


class Shell:
    """Hosts one plain object: builds it, starts it, runs it, beats, and lets the process die when it raises."""

    def __init__(self, role: str, name: str, args: tuple[str, ...], epoch: int, is_leased: bool, wait_s: float) -> None:
        # Must not fail: a supervisor whose constructor raises is never started again by Ray.
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
                child = tree.CLASSES[self._role](component, self._args, **_ports(self._role, component))
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
            "component": self._name, "pid": os.getpid(), "node": _node_name(), "epoch": self._epoch,
            "age_s": 0.0 if self._state in ("starting", "waiting") else time.monotonic() - self._beat,
            "state": self._state,
            "detail": self._detail,
            "metrics": component.meter.snapshot() if with_metrics and component is not None else {},
        }  # fmt: skip

    async def stop(self) -> None:
        """Ask for an orderly end; join tells when it is reached."""
        self._stop_wanted.set()


def _ports(role: str, component: Component) -> dict[str, Any]:
    """Return what a role needs of the cluster itself."""
    if role == "supervisor":
        return {"specs": tree.children(component.settings), "world": RayWorld()}
    if role == "scheduler":
        return {"run_job": run_job}
    return {}


def _node_name() -> str:
    return os.uname().nodename


_sys = ray.method(concurrency_group="sys")
Shell.join = _sys(Shell.join)  # type: ignore[method-assign]
Shell.health = _sys(Shell.health)  # type: ignore[method-assign]
Shell.stop = _sys(Shell.stop)  # type: ignore[method-assign]
_RemoteShell = ray.remote(concurrency_groups={"sys": 16})(Shell)


def spawn_shell(spec: ChildSpec, *, epoch: int, wait_s: float, max_restarts: int = 0) -> Any:
    """Return the handle of a new detached actor. Errors: ValueError when the name is still taken."""
    return _RemoteShell.options(
        name=spec.id, namespace=NAMESPACE, lifetime="detached", num_cpus=0, resources=spec.resources or None,
        max_restarts=max_restarts, max_task_retries=0, max_pending_calls=1000,
    ).remote(spec.role, spec.id, spec.args, epoch, spec.is_leased, wait_s)  # fmt: skip


class RayChild:
    """A child behind a Ray handle."""

    def __init__(self, spec: ChildSpec, handle: Any) -> None:
        self._spec = spec
        self._handle = handle
        self._pid: int | None = None
        self._node = ""

    async def join(self) -> str:
        """Return how it ended; a hiccup of the network is waited out, not taken for a death."""
        while True:
            try:
                ending = str(await self._handle.join.remote())
                if ending == "superseded":
                    continue
                ray.kill(self._handle)  # an orderly stop leaves an empty process: end it
                return ending
            except ray.exceptions.ActorUnavailableError:
                await asyncio.sleep(0.2)
            except ray.exceptions.RayActorError as error:
                return f"died: {_cause(error)}"

    async def health(self, *, with_metrics: bool, timeout_s: float) -> Mapping[str, object]:
        """Return the beat. Errors: TimeoutError; OutageError when the actor is gone or out of reach."""
        try:
            async with asyncio.timeout(timeout_s):
                beat: dict[str, object] = await self._handle.health.remote(with_metrics)
        except ray.exceptions.RayError as error:
            raise OutageError(f"{self._spec.id}: {_cause(error)}") from error
        self._pid, self._node = int(str(beat["pid"])), str(beat["node"])
        return beat

    async def stop(self, deadline_s: float) -> None:
        """Ask, wait, then kill."""
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._handle.stop.remote()
                await self._handle.join.remote()
        await self.kill()

    async def kill(self) -> bool:
        """Kill through Ray and, on this host, by pid: Ray alone lets a stopped process live for 5 s."""
        with contextlib.suppress(Exception):
            ray.kill(self._handle)
        if self._pid is None or self._node != _node_name():
            return False
        return await asyncio.to_thread(_kill_pid, self._pid)


def _kill_pid(pid: int) -> bool:
    """Return whether the Ray worker `pid` is gone within a second of SIGKILL."""
    try:
        process = psutil.Process(pid)
        if not process.name().startswith("ray::") and "ray" not in " ".join(process.cmdline()):
            return True  # the number was given to somebody else: ours is gone
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=1.0)
    except psutil.NoSuchProcess:
        return True
    except (psutil.TimeoutExpired, psutil.AccessDenied):
        return False
    return True


def _cause(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "exit" in line.lower() or "killed" in line.lower()]
    return (telling or lines or [type(error).__name__])[0][:300]


class RayWorld:
    """The cluster as the supervisor sees it."""

    def __init__(self) -> None:
        self.was_reconstructed = bool(ray.get_runtime_context().was_current_actor_reconstructed)

    async def find(self, spec: ChildSpec) -> RayChild | None:
        """Return the named actor if it answers: a name may outlive its process for a moment."""
        try:
            handle = await asyncio.to_thread(ray.get_actor, spec.id, NAMESPACE)
        except ValueError:
            return None
        return RayChild(spec, handle)

    async def spawn(self, spec: ChildSpec, epoch: int, wait_s: float) -> RayChild:
        """Return a new child; a name still taken by a dead one is cleared. Errors: OutageError when it stays taken."""
        for attempt in range(50):
            try:
                return RayChild(spec, spawn_shell(spec, epoch=epoch, wait_s=wait_s))
            except ValueError:
                with contextlib.suppress(ValueError):
                    ray.kill(await asyncio.to_thread(ray.get_actor, spec.id, NAMESPACE))
                await asyncio.sleep(0.02 * (attempt + 1))
        raise OutageError(f"the actor name {spec.id} stays taken", remedy="look at it in the Ray dashboard")


@ray.remote(num_cpus=1, max_retries=0)  # type: ignore[untyped-decorator]
def _job(home: str, job_id: str) -> None:
    from fks.jobs.runner import run_claimed

    run_claimed(home, job_id)


async def run_job(home: str, job_id: str) -> None:
    """Run one claimed job as a Ray task and wait for its end. Errors: OutageError when its worker died."""
    try:
        await _job.remote(home, job_id)
    except ray.exceptions.RayError as error:
        raise OutageError(f"job {job_id}: {_cause(error)}") from error


# ── what actors.commands does to a cluster ───────────────────────────────────────────────────────
CONNECT_S = 20.0


def connect(address: str, token_file: str) -> None:
    """Join the running cluster as a driver. Never starts one. Errors: OutageError when it cannot be reached in time."""
    # Explicit in both directions: a client with the token but without the mode is refused once a second for ever.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=token_file, RAY_USAGE_STATS_ENABLED="0")
    outcome: list[BaseException | None] = []

    def dial() -> None:
        try:
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=dial, daemon=True)  # ray.init has no timeout of its own
    thread.start()
    thread.join(CONNECT_S)
    if not outcome or outcome[0] is not None:
        reason = outcome[0] if outcome else f"no answer in {CONNECT_S:g} s"
        raise OutageError(f"cannot join the Ray cluster at {address}: {reason}", remedy="see 'fks status'")


def ensure_supervisor() -> str:
    """Start the supervisor unless it lives and its work loop turns; return what was done: "adopted", or "started"."""
    spec = tree.supervisor_spec()
    try:
        handle = ray.get_actor(spec.id, namespace=NAMESPACE)
        beat = ray.get(handle.health.remote(False), timeout=5.0)
        if beat["age_s"] < WEDGED_S:
            return "adopted"
    except (ValueError, ray.exceptions.RayError):
        pass
    for _ in range(50):
        try:
            spawn_shell(spec, epoch=0, wait_s=0.0, max_restarts=-1)
            return "started"
        except ValueError:
            with contextlib.suppress(ValueError):
                ray.kill(ray.get_actor(spec.id, namespace=NAMESPACE))
            time.sleep(0.1)
    raise OutageError("the name of a dead supervisor stays taken", remedy="run 'fks down' and 'fks up'")


def tree_health(timeout_s: float = 5.0) -> dict[str, object]:
    """Return the supervisor's beat. Errors: OutageError."""
    try:
        handle = ray.get_actor(tree.SUPERVISOR, namespace=NAMESPACE)
        beat: dict[str, object] = ray.get(handle.health.remote(False), timeout=timeout_s)
        return beat
    except (ValueError, ray.exceptions.RayError) as error:
        raise OutageError(f"the supervisor does not answer: {_cause(error)}") from error


def deploy_gateway(settings: Any, *, host: str, port: int) -> None:
    """Put the gateway on Serve and return when it answers; one that runs already is left alone."""
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    import serve_app

    # no request_timeout_s: it would cut every websocket that lives longer; the application has its own deadlines
    http = {"host": host, "port": port}
    serve.start(proxy_location="HeadOnly", http_options=http)
    running = serve.status().applications.get("gateway")
    if running is not None and running.status == ApplicationStatus.RUNNING:
        return
    serve.run(serve_app.build(settings), name="gateway", route_prefix="/", blocking=False)


def stop_tree(deadline_s: float) -> None:
    """Stop the children in reverse order, then the supervisor, then what is left of Serve's controller."""
    try:
        handle = ray.get_actor(tree.SUPERVISOR, namespace=NAMESPACE)
    except ValueError:
        return
    child = RayChild(tree.supervisor_spec(), handle)
    with contextlib.suppress(OutageError, TimeoutError):
        asyncio.run(child.health(with_metrics=False, timeout_s=2.0))
    asyncio.run(child.stop(deadline_s))
