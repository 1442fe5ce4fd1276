"""The Shell of an actor process without a cluster: how it starts while something is away, and whose calls it keeps."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray

from actors import cluster, system, tree
from fks.config.settings import Settings, Supervision
from fks.research.jobs import runner
from fks.system.supervision import ChildSpec, placement
from tests.support.free_port import free_port


@pytest.mark.parametrize(
    ("age_s", "deployment", "done"),
    [(0.1, 3, "adopted"), (0.1, None, "adopted"), (60.0, 3, "started"), (0.1, 2, "started")],
)
def test_a_supervisor_that_hangs_or_was_superseded_is_replaced(
    monkeypatch: pytest.MonkeyPatch, age_s: float, deployment: int | None, done: str
) -> None:
    killed: list[object] = []
    handle = SimpleNamespace(health=SimpleNamespace(remote=lambda: "ref"))

    def spawn(spec: object, **options: object) -> None:
        if not killed:
            raise ValueError("the name is taken")

    monkeypatch.setattr(cluster.ray, "get_actor", lambda name, namespace: handle)
    monkeypatch.setattr(cluster.ray, "get", lambda ref, timeout: {"age_s": age_s, "detail": {"deployment": deployment}})
    monkeypatch.setattr(cluster.ray, "kill", killed.append)
    monkeypatch.setattr(cluster, "spawn_shell", spawn)
    assert cluster.ensure_supervisor(lambda: ("4", "machine"), deployment=3) == done
    assert killed == ([handle] if done == "started" else [])


@pytest.mark.parametrize(("role", "asked"), [("single", {}), ("head", {"head": tree.SHARE})])
def test_the_supervisor_of_a_cluster_stays_on_its_head(
    monkeypatch: pytest.MonkeyPatch, role: str, asked: dict[str, float]
) -> None:
    made: list[ChildSpec] = []

    def absent(name: str, namespace: str) -> None:
        raise ValueError("no such actor")

    monkeypatch.setattr(cluster.ray, "get_actor", absent)
    monkeypatch.setattr(cluster, "spawn_shell", lambda spec, **options: made.append(spec))
    assert cluster.ensure_supervisor(lambda: ("4", "machine"), role) == "started"
    assert (made[0].resources, made[0].args) == (asked, ("4", "machine"))


@pytest.mark.parametrize(("resource", "asked"), [("GPU", "num_gpus"), ("CPU", "num_cpus"), ("ninja", "resources")])
def test_child_can_be_placed_on_any_resource_that_ray_knows(resource: str, asked: str) -> None:
    spec = tree.tree_of(Settings(supervision=Supervision(placement={"monitor": resource})))
    monitor = next(child for child in spec.workers() if child.id == "monitor")
    options = system.options_of(monitor)
    assert options[asked] in (tree.SHARE, {resource: tree.SHARE})

    class Anything:
        pass

    ray.remote(Anything).options(**options)  # refused resources are refused here


def test_child_runs_on_the_node_that_was_chosen_or_not_at_all() -> None:
    """Ray takes a soft affinity for a hint."""
    spec = next(child for child in tree.tree_of(Settings()).workers() if child.spreads)
    strategy = system.options_of(spec, node_id="a" * 56)["scheduling_strategy"]
    assert (strategy.node_id, strategy.soft) == ("a" * 56, False)


async def test_no_child_is_placed_on_or_moved_to_a_node_whose_raylet_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GCS lists it as alive for seconds; there the start would fail."""
    raylet = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    nodes = [
        {"NodeID": id, "Alive": True, "Resources": {}, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}
        for id, port in (("dead", free_port()), ("living", raylet.sockets[0].getsockname()[1]))
    ]
    placed: list[object] = []
    monkeypatch.setattr(system.ray, "nodes", lambda: nodes)
    context = SimpleNamespace(was_current_actor_reconstructed=False)
    monkeypatch.setattr(system.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(system, "spawn_shell", lambda spec, **options: placed.append(options["node_id"]))
    monkeypatch.setattr(placement, "SETTLED_S", 0.0)
    specs = [child for child in tree.tree_of(Settings()).workers() if child.spreads]
    async with raylet:
        world = system.RayWorld()
        for spec in specs:
            await world.spawn(spec, 1, 0.0)
        assert placed == ["living", "living"]
        await world.spawn(replace(specs[0], node_id="its own"), 1, 0.0)
        assert placed.pop() == "its own"
        assert await world.misplaced(specs) is None


def test_research_runs_when_nothing_else_wants_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduling class is that of the thread: each call has one of its own here."""
    seen: list[int] = []

    def note(*args: object, **options: object) -> None:
        seen.append(os.sched_getscheduler(0))

    context = SimpleNamespace(get_actor_name=lambda: "job-1", get_accelerator_ids=dict)
    monkeypatch.setattr(runner, "warm", note)
    monkeypatch.setattr(runner, "run_claimed", note)
    monkeypatch.setattr(system.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(system.threading, "Timer", NoTimer)
    for call in (lambda job: job.warm(1.0), lambda job: job.run("/home", "1")):
        thread = threading.Thread(target=call, args=(system.Job(),))
        thread.start()
        thread.join()
    assert seen == [os.SCHED_IDLE] * 2


class NoTimer:
    """A timer that ends no process."""

    daemon = False

    def __init__(self, *args: object) -> None: ...

    def start(self) -> None: ...

    def cancel(self) -> None: ...
