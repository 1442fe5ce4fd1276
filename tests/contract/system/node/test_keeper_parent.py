"""The keeper under its parent: what dies is started again, what ends in order stays ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fks.config.paths import Paths
from fks.model.errors import OutageError
from fks.system.node.control_socket import ask
from fks.system.node.keeper import sweep
from fks.system.node.lock import holder_of
from fks.system.process.handle import start_mark
from tests.support.keepers import pids_of, small, start_keeper
from tests.support.waiting import wait_until


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    paths = Paths.of(tmp_path / "home").ensure()
    yield paths
    for lock in ("parent.lock", "keeper.lock"):
        if pid := holder_of(paths.run / lock):
            os.kill(pid, signal.SIGKILL)
    asyncio.run(sweep(paths, [small(paths, "a")]))


def rows(paths: Paths) -> dict[str, dict[str, object]]:
    """Return the keeper's rows of status once it is ready; {} until then."""
    try:
        document = ask(paths.keeper_socket, "status")["status"]
    except OutageError:
        return {}
    found = {row["name"]: row for row in document["components"] if row["kind"] == "keeper"}
    return found if found["keeper"]["state"] == "ready" else {}


def successor(paths: Paths, pid: int) -> dict[str, dict[str, object]]:
    return wait_until(lambda: (found := rows(paths)) and found["keeper"]["pid"] != pid and found)


def test_dead_keeper_is_started_again_and_takes_over(paths: Paths) -> None:
    parent, child = start_keeper(paths, "--parent", "a"), pids_of(paths, "a")
    before = rows(paths)
    assert (before["keeper-parent"]["state"], before["keeper-parent"]["pid"]) == ("ready", parent.pid)
    os.kill(int(before["keeper"]["pid"]), signal.SIGKILL)
    after = successor(paths, int(before["keeper"]["pid"]))
    assert after["keeper"]["restarts"] == 1
    assert pids_of(paths, "a") == child
    ask(paths.keeper_socket, "stop")
    assert parent.wait(10) == 0, "a keeper that ended in order stays ended"
    assert not list(paths.run.glob("*.json"))


def test_dead_parent_ends_nothing_and_another_takes_its_place(paths: Paths) -> None:
    parent, child = start_keeper(paths, "--parent", "a"), pids_of(paths, "a")
    keeper = rows(paths)["keeper"]["pid"]
    parent.kill()
    parent.wait(10)
    assert wait_until(lambda: rows(paths)["keeper-parent"]["state"] == "down")
    assert rows(paths)["keeper"]["pid"] == keeper
    second = subprocess.Popen([sys.executable, "-m", "tests.support.keepers", str(paths.home), "--parent", "a"])
    wait_until(lambda: rows(paths)["keeper-parent"]["pid"] == second.pid)
    os.kill(int(keeper), signal.SIGKILL)
    successor(paths, int(keeper))
    assert pids_of(paths, "a") == child
    second.terminate()
    assert second.wait(10) == 0, "asked to end, it ends its keeper in order"
    assert start_mark(child[0]) is None


def test_start_that_fails_ends_the_parent_with_its_status(paths: Paths) -> None:
    command = [sys.executable, "-m", "fks.system.node.parent", str(paths.home)]
    env = {**os.environ, "FKS_RAY_GCS_PORT": "1", "FKS_RAY_CLIENT_PORT": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, "port" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("ends", "starts", "status"),
    [
        ([-9, 3, 0], ["0 ", "1 SIGKILL", "2 exit code 3"], 0),
        ([3], ["0 "], 3),
        ([0], ["0 "], 0),
    ],
    ids=["killed, then without space", "first start without space", "stopped"],
)
def test_keeper_that_is_out_of_space_is_started_again_once_it_has_run(
    paths: Paths, ends: list[int], starts: list[str], status: int
) -> None:
    keeper = (
        f"import os, sys; print(*sys.argv[1:], flush=True); end = {ends}[int(sys.argv[1])]; "
        "os.kill(os.getpid(), -end) if end < 0 else sys.exit(end)"
    )
    parent = "import sys; from fks.config.paths import Paths; from fks.system.node.parent import Parent; "
    parent += "sys.exit(Parent(Paths.of(sys.argv[1]), [sys.executable, '-c', sys.argv[2]]).run())"
    command = [sys.executable, "-c", parent, str(paths.home), keeper]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout.splitlines(), done.returncode) == (starts, status), done.stderr
