"""The process of a job that hangs is ended: by its pid where that counts, and through Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from actors import system
from actors.system import JobProcesses, job_place
from fks.config.machine import process_space

SLEEP = "import time; print('up', flush=True); time.sleep(60)"


@pytest.fixture
def hung() -> Iterator[subprocess.Popen[str]]:
    """A stopped process that calls itself a job."""
    command = ["ray::Job.run", "-c", SLEEP]
    with subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)  # else a later SIGUSR1 could be taken first, and end it
        yield process
        process.kill()


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the actors that were killed through Ray."""
    found: list[str] = []

    def get_actor(name: str, namespace: str) -> str:
        if name == "gone":
            raise ValueError(name)
        return name

    monkeypatch.setattr(system.ray, "get_actor", get_actor)
    monkeypatch.setattr(system.ray, "kill", found.append)
    return found


@pytest.mark.parametrize("actor", ["job:x:1", "gone"])
async def test_stopped_job_of_this_machine_is_killed_at_once(
    hung: subprocess.Popen[str], killed: list[str], actor: str
) -> None:
    await JobProcesses().end("x", {"actor": actor, "pid": hung.pid, "space": process_space()})
    assert hung.wait(5.0) == -signal.SIGKILL
    assert killed == [name for name in [actor] if name != "gone"]


@pytest.mark.parametrize("runner", [None, {"actor": "job:x:1", "pid": None, "space": "another boot:pid:[1]"}])
async def test_job_elsewhere_is_ended_through_ray_alone(
    hung: subprocess.Popen[str], killed: list[str], runner: dict[str, Any] | None
) -> None:
    await JobProcesses().end("x", runner and {**runner, "pid": hung.pid})
    assert hung.poll() is None
    assert killed == ([] if runner is None else ["job:x:1"])


@pytest.mark.parametrize(
    ("gpus", "free", "options"),
    [
        (1, 1.0, {"num_gpus": 1, "num_cpus": 0, "resources": {"research": 1}}),
        (1, 0.0, {"num_cpus": 0, "resources": {"research": 1}, "scheduling_strategy": "SPREAD"}),
        (0, 1.0, {"num_cpus": 0, "resources": {"research": 1}, "scheduling_strategy": "SPREAD"}),
    ],
)
def test_a_job_asks_for_a_gpu_that_is_free(
    monkeypatch: pytest.MonkeyPatch, gpus: int, free: float, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(system.ray, "cluster_resources", lambda: {"research": 2.0, "GPU": 1.0})
    monkeypatch.setattr(system.ray, "available_resources", lambda: {"research": 2.0, "GPU": free})
    assert job_place(gpus) == options
    system.ray.remote(JobProcesses).options(**options)  # refused options are refused here
