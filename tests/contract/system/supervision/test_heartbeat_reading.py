"""Between two calls of a child on this machine its status and the age of its beat are read from shared memory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors import system
from actors.system import RayChild
from fks.config.machine import host_name, process_space
from fks.config.paths import Paths
from fks.system.process.heartbeat import SIZE, HeartbeatWriter, heartbeat_file
from fks.system.supervision import ChildSpec, How


class Counted:
    """A child behind a handle that counts the calls."""

    def __init__(self, paths: Paths, state: str) -> None:
        self.state, self.calls, self.space = state, 0, process_space()
        handle = SimpleNamespace(health=SimpleNamespace(remote=self._answer))
        self.child = RayChild(ChildSpec("orders", "orders", 1.0), handle, paths)
        self.heartbeat = HeartbeatWriter(heartbeat_file(paths.run, "orders"))

    async def _answer(self) -> dict[str, Any]:
        self.calls += 1
        return self.status()

    def status(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "node": host_name(),
            "space": self.space,
            "node_id": "n",
            "age_s": 0.0,
            "state": self.state,
        }

    async def beat(self) -> Any:
        return await self.child.health(timeout_s=1.0)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.of(tmp_path / "home").ensure()


async def test_status_is_read_from_shared_memory_between_two_calls(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(paths, "ready")
    assert (await counted.beat())["age_s"] == 0.0
    counted.state = "degraded"
    counted.heartbeat.write_status(counted.status())
    counted.heartbeat.beat(time.monotonic() - 5.0)
    beat = await counted.beat()
    assert beat["state"] == "degraded"
    assert 5.0 <= beat["age_s"] < 6.0
    assert counted.calls == 1
    monkeypatch.setattr(system, "CALL_S", 0.0)  # now and then it is called all the same
    assert (await counted.beat())["age_s"] == 0.0
    assert counted.calls == 2


async def test_starting_child_is_called(paths: Paths) -> None:
    counted = Counted(paths, "starting")
    counted.heartbeat.write_status({**counted.status(), "state": "ready"})  # an earlier process may have had this pid
    counted.heartbeat.beat(time.monotonic())
    assert (await counted.beat())["state"] == "starting"
    counted.state = "ready"
    assert (await counted.beat())["state"] == "ready"
    assert counted.calls == 2


async def test_child_with_too_large_a_status_is_called(paths: Paths) -> None:
    counted = Counted(paths, "ready")
    counted.heartbeat.write_status({**counted.status(), "detail": "x" * SIZE})
    counted.heartbeat.beat(time.monotonic())
    for _ in range(3):
        assert (await counted.beat())["state"] == "ready"
    assert counted.calls == 3


async def test_pid_of_another_machine_with_our_host_name_proves_nothing(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two containers may share a host name: a pid that is free here proves nothing of the process over there."""
    counted = Counted(paths, "ready")
    counted.space = "another boot:pid:[1]"
    monkeypatch.setattr(counted, "status", lambda status=counted.status: {**status(), "pid": 2**22 - 1})
    await counted.beat()
    monkeypatch.setattr(system.ray, "kill", lambda handle: None)
    end = await counted.child.kill(How.HUNG, "no beat")
    assert not end.is_gone, "its lease has to be waited out"
    again = Counted(paths, "ready")
    monkeypatch.setattr(again, "status", lambda status=again.status: {**status(), "pid": 2**22 - 1})
    await again.beat()
    assert (await again.child.kill(How.HUNG, "no beat")).is_gone
