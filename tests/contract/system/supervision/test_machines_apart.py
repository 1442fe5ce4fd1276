"""Machines with one host name, as clones are: neither reaches the other's processes by a pid, or proves them gone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from actors import system
from actors.system import RayChild
from fks.config.machine import can_reach, host_name, machine_of, process_space
from fks.config.paths import Paths
from fks.interfaces.cli.restart import kill_process
from fks.model.errors import InputError
from fks.system.node.child_records import ChildRecord, ChildRecords
from fks.system.node.lock import holder_of, keeper_lock
from fks.system.process.handle import find_by_command, start_mark
from fks.system.supervision import ChildSpec, How
from tests.support.namespaces import CLONE_BOOT, Clone, require_namespaces

REPORT = """
import os, sys, orjson
from dataclasses import asdict
from fks.config.machine import host_name, machine_of, process_space
from fks.config.paths import Paths
machine = asdict(machine_of(Paths.of(sys.argv[1])))
print(orjson.dumps({"host": host_name(), "space": process_space(), "machine": machine, "pid": os.getpid()}).decode())
"""
KEEPER = """
import os, sys, time
from pathlib import Path
from fks.system.node.child_records import ChildRecord, ChildRecords
from fks.system.node.lock import keeper_lock
run = Path(sys.argv[1])
with keeper_lock(run / "keeper.lock"):
    ChildRecords(run / "keeper.json").put("postgres", ChildRecord(int(sys.argv[2]), sys.argv[3], 0))
    print("up", flush=True)
    time.sleep(60)
"""
SLEEP = "import time; print('up', flush=True); time.sleep(60)"


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    require_namespaces()
    return Clone(tmp_path)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.of(tmp_path / "home").ensure()


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[str]]:
    """A process of this machine that calls itself a worker of Ray's."""
    command = ["ray::OrderManager.join", "-c", SLEEP]
    with subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def report(clone: Clone, paths: Paths) -> dict[str, Any]:
    """Return what a process on the clone says of itself."""
    found: dict[str, Any] = orjson.loads(clone.output(REPORT, str(paths.home)))
    return found


def test_clone_has_our_host_name_and_is_another_machine(clone: Clone, paths: Paths) -> None:
    mine, theirs = machine_of(paths), report(clone, paths)
    assert theirs["host"] == host_name()
    assert theirs["machine"] == {"id": mine.id, "boot": CLONE_BOOT}  # the same files, so only the boot differs
    assert mine.boot != CLONE_BOOT
    assert not can_reach(theirs["space"])
    assert can_reach(process_space())


def child_of(beat: dict[str, Any], paths: Paths) -> RayChild:
    """Return a child whose process answered with this beat."""

    async def health() -> dict[str, Any]:
        return {"node": host_name(), "node_id": "", "age_s": 0.0, "state": "ready", **beat}

    handle = SimpleNamespace(health=SimpleNamespace(remote=health))
    return RayChild(ChildSpec("orders", "orders", 1.0), handle, paths)


async def test_hung_child_of_a_clone_kills_no_process_of_that_pid_here(
    clone: Clone, paths: Paths, victim: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system.ray, "kill", lambda handle: None)
    theirs = child_of({"pid": victim.pid, "space": report(clone, paths)["space"]}, paths)
    await theirs.health(timeout_s=1.0)
    end = await theirs.kill(How.HUNG, "no beat")
    assert (end.is_gone, victim.poll()) == (False, None)
    ours = child_of({"pid": victim.pid, "space": process_space()}, paths)
    await ours.health(timeout_s=1.0)
    assert (await ours.kill(How.HUNG, "no beat")).is_gone


async def test_pid_that_is_free_here_is_no_proof_of_a_clones_end(
    clone: Clone, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system.ray, "kill", lambda handle: None)
    child = child_of({"pid": 2**22 - 1, "space": report(clone, paths)["space"]}, paths)
    await child.health(timeout_s=1.0)
    assert not (await child.kill(How.CRASH, "died")).is_gone, "its lease has to be waited out"


def test_restart_of_a_clones_component_ends_nothing_here(
    clone: Clone, paths: Paths, victim: subprocess.Popen[str]
) -> None:
    row = {"name": "orders", "state": "ready", "pid": victim.pid, "node": host_name()}
    with pytest.raises(InputError, match="not on this machine"):
        kill_process(row | {"detail": {"space": report(clone, paths)["space"]}})
    assert victim.poll() is None
    kill_process(row | {"detail": {"space": process_space()}})
    assert victim.wait(5.0) == -9


def test_keeper_of_a_clone_on_our_volume_has_no_pid_here(clone: Clone, paths: Paths) -> None:
    """Its lock holds, but what it recorded are numbers of its own pid namespace."""
    mark = start_mark(1) or ""
    with clone.running(KEEPER, str(paths.run), "1", mark):
        assert holder_of(paths.run / "keeper.lock") == 0
        assert ChildRecords(paths.run / "keeper.json").get("postgres") is None
    with keeper_lock(paths.run / "other.lock"):
        assert holder_of(paths.run / "other.lock") not in (None, 0)


def test_records_of_this_machine_are_read_again(paths: Paths) -> None:
    record = ChildRecord(1, start_mark(1) or "", 0)
    ChildRecords(paths.run / "keeper.json").put("postgres", record)
    assert ChildRecords(paths.run / "keeper.json").get("postgres") == record


def test_process_of_a_container_with_our_paths_is_not_found(clone: Clone, paths: Paths) -> None:
    """The kernel shows the processes of a container to the host, with the container's own paths."""
    mark = f"{paths.home}/r/ray/"
    with clone.running(SLEEP, mark):
        assert find_by_command(mark, programs=("python",)) == []
    command = [sys.executable, "-c", SLEEP, mark]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert find_by_command(mark, programs=("python",)) == [process.pid]
        process.kill()
