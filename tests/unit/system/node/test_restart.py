"""`fks restart` ends the process it names, and no other one that has its number by now."""

from __future__ import annotations

import subprocess

import pytest

from fks.config.machine import process_space
from fks.interfaces.cli.restart import kill_process
from fks.model.errors import InputError


def test_pid_that_another_process_has_by_now_is_left_alone() -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        row = {"name": "gateway:0", "state": "silent", "pid": stranger.pid, "detail": {"space": process_space()}}
        with pytest.raises(InputError, match="no process of Ray's any more"):
            kill_process(row)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
