"""The parent of a node's Ray over small daemons: which deaths it repairs in place and which end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from fks.system.node.ray_host import GCS, RAYLET, kind_of
from fks.system.process.handle import session_members, start_mark
from tests.support.small_disk import small_disk
from tests.support.waiting import wait_until

STARTER = """
import subprocess, sys
for command in ({gcs!r}, {raylet!r}, {board!r}):
    subprocess.Popen([*command[:1], "-S", "-c", "import time; time.sleep(60)", *command[1:]])
"""


@pytest.fixture
def family(tmp_path):
    """Return a function that starts a host with fake daemons, and ends them all."""
    commands = {}
    for name in ("gcs_server", "raylet"):
        (tmp_path / name).symlink_to(sys.executable)
        commands[name] = [str(tmp_path / name)]
    board = [sys.executable, "ray/dashboard/dashboard.py"]
    starter = tmp_path / "ray.py"
    starter.write_text(STARTER.format(gcs=commands["gcs_server"], raylet=commands["raylet"], board=board))
    started = []

    def start(*flags):
        command = [
            sys.executable,
            "-m",
            "fks.system.node.ray_host",
            *flags,
            "--",
            sys.executable,
            str(starter),
            "--head",
        ]
        host = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
        started.append(host)
        assert "watches gcs" in host.stderr.readline()
        return host

    yield start
    for host in started:
        for pid in session_members(host.pid):
            os.kill(pid, signal.SIGKILL)
        host.wait(5)


def daemons(host):
    found = {}
    for pid in session_members(host.pid):
        with suppress(OSError):  # it may end while we look
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if name := kind_of(command):
                found[name] = pid
    return found


def test_stored_gcs_and_dashboard_restart_with_the_same_arguments(family):
    host = family("--stored")
    old = daemons(host)
    assert set(old) == {GCS, RAYLET, "dashboard"}
    command_line = Path(f"/proc/{old[GCS]}/cmdline").read_bytes()
    for name in (GCS, "dashboard"):
        os.kill(old[name], signal.SIGKILL)
    wait_until(lambda: set(new := daemons(host)) == set(old) and not {new[GCS], new["dashboard"]} & set(old.values()))
    new = daemons(host)
    assert new[RAYLET] == old[RAYLET]
    assert Path(f"/proc/{new[GCS]}/cmdline").read_bytes() == command_line
    assert host.poll() is None


def test_stored_gcs_is_started_once_its_disk_has_space(family, tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", size_mb=64) as disk:
        monkeypatch.setenv("RAY_gcs_storage_path", str(disk.place / "gcs"))
        host = family("--stored")
        old = daemons(host)
        disk.fill()
        os.kill(old[GCS], signal.SIGKILL)
        os.kill(old["dashboard"], signal.SIGKILL)
        wait_until(lambda: daemons(host).get("dashboard") not in (None, old["dashboard"]))
        assert GCS not in daemons(host)
        disk.free()
        wait_until(lambda: daemons(host).get(GCS) not in (None, old[GCS]))
        assert daemons(host)[RAYLET] == old[RAYLET]


@pytest.mark.parametrize("name", [GCS, RAYLET])
def test_death_that_cannot_be_repaired_ends_all_processes(family, name):
    host = family()
    old = daemons(host)
    os.kill(old[name], signal.SIGKILL)
    assert host.wait(5) == 1
    assert not any(start_mark(pid) for pid in old.values())
    assert f"{name} (pid {old[name]}) died of SIGKILL" in host.stderr.read()


def test_stop_leaves_no_process(family):
    host = family("--stored")
    old = daemons(host)
    host.terminate()
    assert host.wait(5) == 0
    assert not any(start_mark(pid) for pid in old.values())


def test_failed_start_is_reported_with_its_status():
    command = [sys.executable, "-m", "fks.system.node.ray_host", "--", sys.executable, "-c", "raise SystemExit(7)"]
    done = subprocess.run(command, start_new_session=True, capture_output=True, text=True, timeout=20)
    assert done.returncode == 7
    assert "ray start ended with status 7" in done.stderr
