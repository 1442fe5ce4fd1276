"""Faults of processes: killed, stopped, restarted; one, a service, or all of them at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Awaitable, Callable

import psutil

from fks.chaos.outside import send
from fks.chaos.plan import Injection
from fks.chaos.scenario import UP_S, Deed, Scene
from fks.chaos.up import environment_of, start_again
from fks.model.errors import InputError

TITLES = {"proxy": "ray::ProxyActor", "controller": "ray::ServeController"}


async def kill(scene: Scene, injection: Injection) -> Deed:
    name = injection.target
    _, pid = await scene.component(name, "ray::")
    at_s = scene.outside.now_s()
    send(pid, signal.SIGKILL)
    return Deed(at_s, scene.actor_back(name, pid, at_s), scene.gone_since(name, at_s, pid), note=f"pid {pid}")


async def kill_service(scene: Scene, injection: Injection) -> Deed:
    name = injection.target
    _, pid = await scene.component(name, "")
    at_s = scene.outside.now_s()
    send(pid, signal.SIGKILL)
    return Deed(at_s, scene.service_back(name, at_s), scene.service_noticed(name, at_s), note=f"pid {pid}")


async def kill_replica(scene: Scene, injection: Injection) -> Deed:
    rows = sorted(row.name for row in scene.watch.view.rows.values() if row.kind == "serve" and row.pid)
    if not rows:
        raise InputError("no gateway replica is up")
    name = rows[0 if injection.target.endswith("first") else -1]
    _, pid = await scene.component(name, "ray::")
    before = {row.pid for row in scene.watch.view.rows.values() if row.kind == "serve"}
    at_s = scene.outside.now_s()
    send(pid, signal.SIGKILL)

    def is_back() -> bool:
        fresh = [row.pid for row in scene.watch.view.rows.values() if row.kind == "serve" and row.beat_s > at_s + 1.0]
        return pid not in fresh and len(set(fresh)) >= len(before)

    return Deed(at_s, is_back, scene.gone_since(name, at_s, pid), note=f"pid {pid}")


async def kill_serve(scene: Scene, injection: Injection) -> Deed:
    title = TITLES[injection.target]

    def pids() -> list[int]:
        return [task.pid for task in scene.outside.tasks() if task.title.startswith(title)]

    await scene.watch.until(lambda: bool(pids()), UP_S, every_s=0.5)
    old = pids()
    if not old:
        raise InputError(f"{injection.target} is not up")
    at_s = scene.outside.now_s()
    send(old[0], signal.SIGKILL)

    async def is_back() -> bool:
        await scene.outside.clock.sleep(0.2)
        return any(pid not in old for pid in pids()) and await scene.outside.gateway_answers()

    return Deed(at_s, is_back, note=f"pid {old[0]}")


async def kill_ray(scene: Scene, injection: Injection) -> Deed:
    _, pid = await scene.component(injection.target, "")
    at_s = scene.outside.now_s()
    send(pid, signal.SIGKILL)

    def is_back() -> bool:
        return scene.watch.is_back(injection.target, pid, at_s + 1.0) and scene.watch.is_well(at_s + 2.0)

    def when() -> float | None:
        told = [scene.service_noticed(name, at_s)() for name in ("ray", injection.target)]
        return min((at for at in told if at is not None), default=None)

    return Deed(at_s, is_back, when, note=f"pid {pid}")


async def kill_keeper(scene: Scene, injection: Injection) -> Deed:
    _, pid = await scene.component("keeper", "")
    env = environment_of(pid)
    at_s = scene.outside.now_s()
    send(pid, signal.SIGKILL)

    def is_back() -> bool:
        return scene.watch.is_back("keeper", pid, at_s) and scene.watch.is_well(at_s)

    return Deed(at_s, is_back, undo=lambda: start_again(scene.outside, env), note=f"pid {pid}")


async def power_cut(scene: Scene, _injection: Injection) -> Deed:
    _, pid = await scene.component("keeper", "")
    env, victims = environment_of(pid), scene.outside.everything()
    at_s = scene.outside.now_s()
    for victim in victims:
        send(victim, signal.SIGKILL)
    for victim in scene.outside.everything():  # processes born meanwhile
        send(victim, signal.SIGKILL)

    def is_back() -> bool:
        return scene.watch.is_back("keeper", pid, at_s) and scene.watch.is_well(at_s + 1.0)

    return Deed(at_s, is_back, undo=lambda: start_again(scene.outside, env), note=f"{len(victims)} processes")


async def stop(scene: Scene, injection: Injection) -> Deed:
    name = injection.target
    _, pid = await scene.component(name, "ray::")
    born_s = psutil.Process(pid).create_time()
    at_s = scene.outside.now_s()
    send(pid, signal.SIGSTOP)

    async def wake() -> None:
        with contextlib.suppress(psutil.Error):
            if psutil.Process(pid).create_time() == born_s:
                send(pid, signal.SIGCONT)

    when, is_back = scene.gone_since(name, at_s, pid), scene.actor_back(name, pid, at_s)
    woken_s = at_s + injection.seconds

    def is_over() -> bool:
        row = scene.watch.view.rows.get(name)
        is_same = row is not None and row.pid == pid and when() is None and row.state == "ready"
        return is_back() or (is_same and row is not None and row.beat_s > woken_s + 1.0)

    return Deed(at_s, is_over, when, wake, note=f"pid {pid}", is_replaced=True)


async def stop_service(scene: Scene, injection: Injection) -> Deed:
    _, pid = await scene.component(injection.target, "")
    at_s = scene.outside.now_s()
    send(pid, signal.SIGSTOP)

    async def wake() -> None:
        send(pid, signal.SIGCONT)

    return Deed(at_s, scene.well_since(at_s + injection.seconds), undo=wake, note=f"pid {pid}")


async def restart(scene: Scene, injection: Injection) -> Deed:
    name = injection.target
    await scene.component(name, "")
    at_s = scene.outside.now_s()
    await scene.outside.keeper("restart-service", name=name)
    return Deed(at_s, scene.service_back(name, at_s), scene.service_noticed(name, at_s))


PROCESSES: dict[str, Callable[[Scene, Injection], Awaitable[Deed]]] = {
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
