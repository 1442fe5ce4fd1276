"""The Shell of an actor process without a cluster: how it starts while something is away, and whose calls it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from actors import cluster, tree
from actors import shell as shells
from fks.config.endpoints import Node
from fks.model.errors import OutageError
from fks.supervision import ChildSpec
from tests.support.waiting import until


class Needy:
    """A child whose start needs what is away, `outages` times."""

    outages = 2
    made: list[Needy] = []  # noqa: RUF012

    def __init__(self, component: Any, args: tuple[str, ...]) -> None:
        self.component = component
        self.is_stopped = False
        Needy.made.append(self)

    async def start(self) -> None:
        if len(Needy.made) <= Needy.outages:
            raise OutageError("PostgreSQL does not answer")

    async def stop(self) -> None:
        self.is_stopped = True

    def detail(self) -> Mapping[str, object]:
        return {}


def shell(**attributes: Any) -> Any:
    """Return a Shell that lives no life of its own."""
    made: Any = shells.Shell.__new__(shells.Shell)
    made.__dict__.update(
        _role="needy",
        _name="needy",
        _args=(),
        _state="starting",
        _has_ended=False,
        _ending=[],
        _stop_requested=asyncio.Event(),
        _ports=lambda role, component: {},
        **attributes,
    )
    return made


async def test_parked_joins_of_dead_supervisors_leave_the_slots_to_the_living() -> None:
    one = shell()
    parked = [asyncio.create_task(one.join()) for _ in range(30)]  # the group has 16 slots
    await until(lambda: sum(task.done() for task in parked) == 30 - shells.JOINS_MAX)
    assert {task.result() for task in parked if task.done()} == {"superseded"}
    assert not any(task.done() for task in parked[-shells.JOINS_MAX :])
    one._has_ended = True
    for _, event in one._ending:
        event.set()
    assert [await task for task in parked[-shells.JOINS_MAX :]] == ["normal"] * shells.JOINS_MAX


async def test_start_waits_for_a_dependency_and_uses_its_new_address(monkeypatch: pytest.MonkeyPatch, log: Any) -> None:
    monkeypatch.setitem(tree.CLASSES, "needy", Needy)
    Needy.made = []
    old = Node("db", "redis", "ray", {}, sim=None)
    new = Node("db", "redis", "ray", {}, sim={"rest": "http://127.0.0.1:1"})
    monkeypatch.setattr(shells, "load_node", lambda paths: new)
    monkeypatch.setattr(shells, "WAIT_S", 0.01)
    monkeypatch.setattr(shells, "replace", lambda component, node: SimpleNamespace(**{**vars(component), "node": node}))
    one = shell()
    child = await one._started(SimpleNamespace(lease=None, log=log, node=old, paths=None))
    assert [made.is_stopped for made in Needy.made] == [True, True, False]
    assert child is Needy.made[-1]
    assert child.component.node is new


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
