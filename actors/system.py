"""Ray as the supervisor sees it: names, how a Shell becomes an actor, how one is found, watched and ended.

Only this module and `actors.cluster` import Ray. Ray keeps no call order for async actors: nothing here relies on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from typing import Any

import psutil
import ray

from actors import tree
from actors.shell import Shell, node_name
from fks.model.errors import OutageError
from fks.monitor.component import Component
from fks.supervision import ChildSpec
from fks.supervision.exits import Exit, How

NAMESPACE = "fks"


_sys = ray.method(concurrency_group="sys")
Shell.join = _sys(Shell.join)  # type: ignore[method-assign]
Shell.health = _sys(Shell.health)  # type: ignore[method-assign]
Shell.stop = _sys(Shell.stop)  # type: ignore[method-assign]


class _OnRay(Shell):
    """A Shell that knows the node it runs on."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        with contextlib.suppress(Exception):  # a constructor of the supervisor must not fail
            self._node_id = str(ray.get_runtime_context().get_node_id())


def _remote_shell(role: str) -> Any:
    """Return the actor class of a role. Its name is what the dashboard and the process list show: ray::OrderManager."""
    name = tree.CLASSES[role].__name__.removesuffix("Actor")
    made = type(name, (_OnRay,), {"__module__": __name__, "__qualname__": name})
    globals()[name] = made  # a worker imports the class by this name
    return ray.remote(concurrency_groups={"sys": 16})(made)


_REMOTE = {role: _remote_shell(role) for role in tree.CLASSES}


def spawn_shell(spec: ChildSpec, *, epoch: int, wait_s: float, max_restarts: int = 0) -> Any:
    """Return the handle of a new detached actor. Errors: ValueError when the name is still taken."""
    return _REMOTE[spec.role].options(
        name=spec.id, namespace=NAMESPACE, lifetime="detached", num_cpus=0, resources=spec.resources or None,
        max_restarts=max_restarts, max_task_retries=0, max_pending_calls=1000,
    ).remote(spec.role, spec.id, spec.args, epoch, spec.is_leased, wait_s, ports_of)  # fmt: skip


class RayChild:
    """A child behind a Ray handle."""

    def __init__(self, spec: ChildSpec, handle: Any) -> None:
        self._spec = spec
        self._handle = handle
        self._pid: int | None = None
        self._node = ""

    async def join(self) -> Exit:
        """Return how it ended; a hiccup of the network is waited out, not taken for a death."""
        while True:
            try:
                ending = str(await self._handle.join.remote())
                if ending == "superseded":
                    continue
                return await self.kill(How.NORMAL, ending)  # an orderly stop leaves an empty process: end it
            except ray.exceptions.ActorUnavailableError:
                await asyncio.sleep(0.2)
            except ray.exceptions.RayActorError as error:
                # Ray frees the name before the process is gone: only the pid proves it
                return await self.kill(How.CRASH, f"died: {cause(error)}")

    async def health(self, *, with_metrics: bool, timeout_s: float) -> Mapping[str, object]:
        """Return the beat. Errors: TimeoutError; OutageError when the actor is gone or out of reach."""
        try:
            async with asyncio.timeout(timeout_s):
                beat: dict[str, object] = await self._handle.health.remote(with_metrics)
        except ray.exceptions.RayError as error:
            raise OutageError(f"{self._spec.id}: {cause(error)}") from error
        self._pid, self._node = int(str(beat["pid"])), str(beat["node"])
        return beat

    async def stop(self, deadline_s: float) -> Exit:
        """Ask, wait, then kill."""
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._handle.stop.remote()
                await self._handle.join.remote()
                return await self.kill(How.NORMAL, "asked")
        return await self.kill(How.KILLED, f"did not end within {deadline_s:g} s")

    async def kill(self, how: How, reason: str) -> Exit:
        """Kill through Ray and, on this host, by pid: Ray alone lets a stopped process live for 5 s."""
        with contextlib.suppress(Exception):
            ray.kill(self._handle)
        is_gone = False
        if self._pid is not None and self._node == node_name():
            is_gone = await asyncio.to_thread(_kill_pid, self._pid)
        return Exit(how, reason, is_gone=is_gone)


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


def cause(error: BaseException) -> str:
    """Return the telling line of an error of Ray's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "exit" in line.lower() or "killed" in line.lower()]
    return (telling or lines or [type(error).__name__])[0][:300]


class RayWorld:
    """The cluster as the supervisor sees it."""

    def __init__(self) -> None:
        self.was_reconstructed = bool(ray.get_runtime_context().was_current_actor_reconstructed)

    def node_id(self) -> str:
        """Return Ray's id of the node this process runs on."""
        return str(ray.get_runtime_context().get_node_id())

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
        raise OutageError(f"job {job_id}: {cause(error)}") from error


def ports_of(role: str, component: Component) -> dict[str, Any]:
    """Return what a role needs of the cluster itself."""
    if role == "supervisor":
        return {"specs": tree.children(component.settings), "world": RayWorld()}
    if role == "scheduler":
        return {"run_job": run_job}
    return {}
