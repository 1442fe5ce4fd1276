"""The parent of a node's Ray over small daemons: what it mends, what it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from fks.node.ray_host import GCS, RAYLET, kind_of
from fks.process.handle import session_members, start_mark
from tests.support.waiting import wait_until

STARTER = """
import subprocess, sys
for words in ({gcs!r}, {raylet!r}, {board!r}):
    subprocess.Popen([*words[:1], "-S", "-c", "import time; time.sleep(60)", *words[1:]])
"""


@pytest.fixture
def family(tmp_path):
    """Return a function that starts a host with fake daemons, and ends them all."""
    words = {}
    for name in ("gcs_server", "raylet"):
        (tmp_path / name).symlink_to(sys.executable)
        words[name] = [str(tmp_path / name)]
    board = [sys.executable, "ray/dashboard/dashboard.py"]
    starter = tmp_path / "ray.py"
    starter.write_text(STARTER.format(gcs=words["gcs_server"], raylet=words["raylet"], board=board))
    started = []

    def start(*flags):
        command = [
            sys.executable,
            "-m",
            "fks.node.ray_host",
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
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if name := kind_of(words):
                found[name] = pid
    return found


def test_a_stored_gcs_and_a_dashboard_are_started_again_in_place_with_the_same_words(family):
    host = family("--stored")
    old = daemons(host)
    assert set(old) == {GCS, RAYLET, "dashboard"}
    words = Path(f"/proc/{old[GCS]}/cmdline").read_bytes()
    for name in (GCS, "dashboard"):
        os.kill(old[name], signal.SIGKILL)
    wait_until(lambda: set(new := daemons(host)) == set(old) and not {new[GCS], new["dashboard"]} & set(old.values()))
    new = daemons(host)
    assert new[RAYLET] == old[RAYLET]
    assert Path(f"/proc/{new[GCS]}/cmdline").read_bytes() == words
    assert host.poll() is None


@pytest.mark.parametrize("name", [GCS, RAYLET])
def test_what_cannot_be_mended_ends_the_whole_family(family, name):
    host = family()
    old = daemons(host)
    os.kill(old[name], signal.SIGKILL)
    assert host.wait(5) == 1
    assert not any(start_mark(pid) for pid in old.values())
    assert f"{name} (pid {old[name]}) died of SIGKILL" in host.stderr.read()


def test_asked_to_end_it_leaves_nobody(family):
    host = family("--stored")
    old = daemons(host)
    host.terminate()
    assert host.wait(5) == 0
    assert not any(start_mark(pid) for pid in old.values())


def test_a_start_that_fails_is_told_by_its_status():
    command = [sys.executable, "-m", "fks.node.ray_host", "--", sys.executable, "-c", "raise SystemExit(7)"]
    done = subprocess.run(command, start_new_session=True, capture_output=True, text=True, timeout=20)
    assert done.returncode == 7
    assert "ray start ended with status 7" in done.stderr
