"""Memory runs out in a control group of the kernel that has the whole system in it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.programs import leave_out
from tests.support.system import System
from tests.support.waiting import wait_until

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
KILLED_MIN = 5  # fewer than there are other children: without any the kernel has no choice
#: takes 10 MB with each line that it reads, and cannot be killed for it
HOG = """
import sys
open("/proc/self/oom_score_adj", "w").write("-1000")
taken = []
for _ in sys.stdin:
    taken.append(b"x" * 10_000_000)
    print(len(taken), flush=True)
"""


class Group:
    """A control group with a limit of memory."""

    def __init__(self) -> None:
        self._is_v1 = V1.is_dir()
        self.place = (V1 if self._is_v1 else V2) / f"fks-test-{os.getpid()}"
        if not self._is_v1:
            (V2 / "cgroup.subtree_control").write_text("+memory")
        self.place.mkdir()
        self._events = self.place / ("memory.oom_control" if self._is_v1 else "memory.events")

    def adopt(self, pid: int) -> None:
        (self.place / "cgroup.procs").write_text(str(pid))

    def limit(self) -> None:
        """Allow what is used now and 50 MB more."""
        used = self.place / ("memory.usage_in_bytes" if self._is_v1 else "memory.current")
        limit = self.place / ("memory.limit_in_bytes" if self._is_v1 else "memory.max")
        limit.write_text(str(int(used.read_text()) + 50_000_000))

    def is_empty(self) -> bool:
        """End the processes that a stop left here; return whether there was none."""
        left = (self.place / "cgroup.procs").read_text().split()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        return not left

    @property
    def killed(self) -> int:
        """Return how many processes the kernel killed here for want of memory."""
        return int(dict(line.split() for line in self._events.read_text().splitlines())["oom_kill"])


@contextlib.contextmanager
def group() -> Iterator[Group]:
    try:
        made = Group()
    except OSError as error:
        leave_out(f"no control group of memory can be made here: {error}")
    try:
        yield made
    finally:
        wait_until(made.is_empty, deadline_s=60.0, every_s=0.5)
        made.place.rmdir()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_kernel_spares_guardian_and_order_manager_when_memory_runs_out() -> None:
    """It kills five other processes of the tree; what takes the memory is none of its choices."""
    with tempfile.TemporaryDirectory(prefix="fks-memory-") as folder, group() as memory:
        Path(folder).chmod(0o755)
        system = System.at(Path(folder) / "home")
        up = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"
        try:
            fks = str(Path(sys.executable).with_name("fks"))
            starting = [sys.executable, "-c", up, str(memory.place / "cgroup.procs"), fks, "up", "--detach"]
            subprocess.run(starting, env=system.env, check=True, timeout=180)
            before = {name: row["pid"] for name, row in system.components().items() if row["pid"]}
            spared = {name: psutil.Process(before[name]) for name in ("guardian", "orders")}
            with subprocess.Popen(
                [sys.executable, "-c", HOG], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as hog:
                assert hog.stdin is not None
                assert hog.stdout is not None
                try:
                    memory.adopt(hog.pid)
                    memory.limit()
                    while memory.killed < KILLED_MIN:
                        hog.stdin.write("\n")
                        hog.stdin.flush()
                        assert hog.stdout.readline(), "the program that takes the memory ended"
                finally:
                    hog.kill()
            gone = sorted(name for name, pid in before.items() if not psutil.pid_exists(pid))
            print(f"{memory.killed} killed for want of memory; of the components {gone}")
            assert all(process.is_running() for process in spared.values()), gone
        finally:
            system.down()
