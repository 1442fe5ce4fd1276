"""A second machine on this one: processes in network, pid, mount and UTS namespaces of their own, with another boot id.

The host name stays the same, as that of a cloned machine does.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs import leave_out, require

BOOT = "/proc/sys/kernel/random/boot_id"
CLONE_BOOT = "c10ec10e-0000-4000-8000-000000000000"
UNSHARE = ("unshare", "--net", "--pid", "--mount", "--uts", "--fork", "--kill-child", "--mount-proc")


def require_namespaces() -> None:
    """Skip the test where the kernel refuses namespaces: a program can be installed, another kernel cannot."""
    require("unshare")
    tried = subprocess.run([*UNSHARE, "mount", "--bind", "/dev/null", BOOT], capture_output=True, text=True)
    if tried.returncode != 0:
        leave_out(
            f"no namespaces ({tried.stderr.strip()}), machines that share a host name were left out: run as root, or allow them"
        )


def apart(directory: Path, name: str, command: list[str]) -> list[str]:
    """Return the command that runs `command` on a machine of its own and keeps that machine after its end: another boot,
    pids and mounts of its own; the network and the files are shared. It prints "apart" once the command has ended
    well."""
    boot = directory / f"boot_id.{name}"
    boot.write_text(f"{uuid.uuid4()}\n")
    script = f'mount --bind {boot} {BOOT} && "$@" && echo apart && exec sleep infinity'
    return [*(part for part in UNSHARE if part != "--net"), "bash", "-c", script, "bash", *command]


class Clone:
    """A machine that was cloned from this one: the same host name and files, another boot, pids of its own."""

    def __init__(self, directory: Path) -> None:
        self._boot = directory / "boot_id"
        self._boot.write_text(f"{CLONE_BOOT}\n")

    def command(self, code: str, *arguments: str, title: str = sys.executable) -> list[str]:
        """Return the command that runs Python `code` there; `title` is its first argument."""
        script = f'mount --bind {self._boot} {BOOT} && exec -a "$0" {sys.executable} -c "$@"'
        return [*UNSHARE, "bash", "-c", script, title, code, *arguments]

    def output(self, code: str, *arguments: str) -> str:
        """Return what the code prints."""
        done = subprocess.run(self.command(code, *arguments), capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @contextmanager
    def running(self, code: str, *arguments: str, title: str = sys.executable) -> Iterator[str]:
        """Run the code until the block ends; yield its first line, which it prints when it is up."""
        command = self.command(code, *arguments, title=title)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().strip()
            finally:
                process.kill()
