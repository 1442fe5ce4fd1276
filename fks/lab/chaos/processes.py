"""Faults of processes: killed, stopped, restarted; one, a service, or all of them at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable

import psutil

from fks.config.python import module
from fks.lab.chaos.observed_system import UP_S, ActiveFault, ObservedSystem
from fks.lab.chaos.outside import Outside, send
from fks.lab.chaos.plan import Injection
from fks.lab.chaos.watch import ComponentRow
from fks.model.errors import InputError, OutageError

TITLES = {"proxy": "ray::ProxyActor", "controller": "ray::ServeController"}


async def kill(system: ObservedSystem, injection: Injection) -> ActiveFault:
    name = injection.target
    _, pid = await system.component(name, "ray::")
    at_s = system.outside.now_s()
    send(pid, signal.SIGKILL)
    return ActiveFault(at_s, system.actor_back(name, pid, at_s), system.gone_since(name, at_s, pid), note=f"pid {pid}")


async def kill_service(system: ObservedSystem, injection: Injection) -> ActiveFault:
    name = injection.target
    _, pid = await system.component(name, "")
    at_s = system.outside.now_s()
    send(pid, signal.SIGKILL)
    return ActiveFault(at_s, system.service_back(name, at_s), system.service_noticed(name, at_s), note=f"pid {pid}")


async def kill_replica(system: ObservedSystem, injection: Injection) -> ActiveFault:
    rows = sorted(row.name for row in _replicas(system) if row.pid)
    if not rows:
        raise InputError("no gateway replica is up")
    name = rows[0 if injection.target.endswith("first") else -1]
    _, pid = await system.component(name, "ray::")
    before = {row.pid for row in _replicas(system)}
    at_s = system.outside.now_s()
    send(pid, signal.SIGKILL)

    def is_back() -> bool:
        fresh = [row.pid for row in _replicas(system) if row.beat_s > at_s + 1.0]
        return pid not in fresh and len(set(fresh)) >= len(before)

    return ActiveFault(at_s, is_back, system.gone_since(name, at_s, pid), note=f"pid {pid}")


def _replicas(system: ObservedSystem) -> list[ComponentRow]:
    return [row for row in system.watch.view.rows.values() if row.name.startswith("gateway:")]


async def kill_serve(system: ObservedSystem, injection: Injection) -> ActiveFault:
    title = TITLES[injection.target]

    def pids() -> list[int]:
        return [task.pid for task in system.outside.tasks() if task.title.startswith(title)]

    await system.watch.until(lambda: bool(pids()), UP_S, every_s=0.5)
    old = pids()
    if not old:
        raise InputError(f"{injection.target} is not up")
    at_s = system.outside.now_s()
    send(old[0], signal.SIGKILL)

    async def is_back() -> bool:
        await system.outside.clock.sleep(0.2)
        return any(pid not in old for pid in pids()) and await system.outside.gateway_answers()

    return ActiveFault(at_s, is_back, note=f"pid {old[0]}")


async def kill_ray(system: ObservedSystem, injection: Injection) -> ActiveFault:
    _, pid = await system.component(injection.target, "")
    at_s = system.outside.now_s()
    send(pid, signal.SIGKILL)

    def is_back() -> bool:
        return system.watch.is_back(injection.target, pid, at_s + 1.0) and system.watch.is_well(at_s + 2.0)

    def when() -> float | None:
        noticed = [system.service_noticed(name, at_s)() for name in ("ray", injection.target)]
        return min((at for at in noticed if at is not None), default=None)

    return ActiveFault(at_s, is_back, when, note=f"pid {pid}")


async def kill_keeper(system: ObservedSystem, injection: Injection) -> ActiveFault:
    _, pid = await system.component("keeper", "")
    env = environment_of(pid)
    at_s = system.outside.now_s()
    send(pid, signal.SIGKILL)

    def is_back() -> bool:
        return system.watch.is_back("keeper", pid, at_s) and system.watch.is_well(at_s)

    return ActiveFault(at_s, is_back, undo=lambda: start_again(system.outside, env), note=f"pid {pid}")


async def power_cut(system: ObservedSystem, _injection: Injection) -> ActiveFault:
    _, pid = await system.component("keeper", "")
    env, victims = environment_of(pid), system.outside.everything()
    at_s = system.outside.now_s()
    for victim in victims:
        send(victim, signal.SIGKILL)
    for victim in system.outside.everything():  # processes born meanwhile
        send(victim, signal.SIGKILL)

    def is_back() -> bool:
        return system.watch.is_back("keeper", pid, at_s) and system.watch.is_well(at_s + 1.0)

    return ActiveFault(at_s, is_back, undo=lambda: start_again(system.outside, env), note=f"{len(victims)} processes")


async def stop(system: ObservedSystem, injection: Injection) -> ActiveFault:
    name = injection.target
    _, pid = await system.component(name, "ray::")
    born_s = psutil.Process(pid).create_time()
    at_s = system.outside.now_s()
    send(pid, signal.SIGSTOP)

    async def wake() -> None:
        with contextlib.suppress(psutil.Error):
            if psutil.Process(pid).create_time() == born_s:
                send(pid, signal.SIGCONT)

    when, is_back = system.gone_since(name, at_s, pid), system.actor_back(name, pid, at_s)
    woken_s = at_s + injection.seconds

    def is_over() -> bool:
        row = system.watch.view.rows.get(name)
        is_same = row is not None and row.pid == pid and when() is None and row.state == "ready"
        return is_back() or (is_same and row is not None and row.beat_s > woken_s + 1.0)

    return ActiveFault(at_s, is_over, when, wake, note=f"pid {pid}", is_replaced=True)


async def stop_service(system: ObservedSystem, injection: Injection) -> ActiveFault:
    _, pid = await system.component(injection.target, "")
    at_s = system.outside.now_s()
    send(pid, signal.SIGSTOP)

    async def wake() -> None:
        send(pid, signal.SIGCONT)

    return ActiveFault(at_s, system.well_since(at_s + injection.seconds), undo=wake, note=f"pid {pid}")


async def restart(system: ObservedSystem, injection: Injection) -> ActiveFault:
    name = injection.target
    await system.component(name, "")
    at_s = system.outside.now_s()
    await system.outside.keeper("restart-service", name=name)
    return ActiveFault(at_s, system.service_back(name, at_s), system.service_noticed(name, at_s))


PROCESSES: dict[str, Callable[[ObservedSystem, Injection], Awaitable[ActiveFault]]] = {
    "kill": kill,
    "kill-service": kill_service,
    "kill-replica": kill_replica,
    "kill-serve": kill_serve,
    "kill-ray": kill_ray,
    "kill-keeper": kill_keeper,
    "power-cut": power_cut,
    "stop": stop,
    "stop-service": stop_service,
    "restart": restart,
}


START_S = 150.0


def environment_of(pid: int) -> dict[str, str]:
    """Return a process's environment, or our own when it may not be read."""
    try:
        return dict(psutil.Process(pid).environ())
    except (psutil.Error, OSError):
        return dict(os.environ)


async def start_again(outside: Outside, env: dict[str, str]) -> None:
    """Run `fks up --detach` on the home and return when it is ready. Errors: OutageError with its last line."""
    command = module("fks.interfaces.cli", "--home", str(outside.paths.home), "up", "--detach")
    process = await asyncio.create_subprocess_exec(
        *command,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(START_S):
            _, stderr = await process.communicate()
    except TimeoutError:
        process.kill()
        raise OutageError(f"'fks up' was not ready after {START_S:g} s") from None
    if process.returncode != 0:
        last = stderr.decode(errors="replace").strip().splitlines()
        raise OutageError(f"'fks up' failed: {last[-1] if last else process.returncode}")
