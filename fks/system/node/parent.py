"""`python -m fks.system.node.parent HOME`: the parent of the keeper of `fks up --detach`; it starts a keeper that died
again.

The next keeper takes over what runs. A keeper that ended in order (it was stopped, or its start failed and everything
is down) ends its parent with the same status. The parent has no other duty and no state: its own death ends nothing,
and `fks up --detach` puts another one beside a keeper that has lost its own. systemd does the same for a unit, so there
is no parent there.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from fks.config import builds
from fks.config.paths import Paths
from fks.config.python import module
from fks.model.backoff import Backoff
from fks.system.node.lock import PARENT_LOCK, AlreadyRunning, holder_of, keeper_lock

BACKOFF = Backoff(0.5, 5.0)
STEADY_S = 60.0  # a keeper that ran so long died of something new
LOOK_S = 0.5  # between two looks whether a keeper that is not our child still runs


class Parent:
    """The keepers of one home, one after the other."""

    def __init__(self, paths: Paths, command: Sequence[str]) -> None:
        """`command` starts a keeper; how often it was started again, and why, are appended."""
        self._paths, self._command = paths, command
        self._keeper: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)

    def run(self) -> int:
        """Start keepers until one ends in order; return its status."""
        restarts, failures, ended = 0, 0, ""
        while True:
            begun = time.monotonic()
            status = 0
            if not self._wait_for_other():
                self._keeper = subprocess.Popen([*self._command, str(restarts), ended], stdin=subprocess.DEVNULL)
                if self._ending.is_set():
                    self._keeper.terminate()
                status = self._keeper.wait()
            if self._ending.is_set() or self._is_over(status, restarts):
                return max(status, 0)
            failures = 1 if time.monotonic() - begun > STEADY_S else failures + 1
            restarts += 1
            ended = signal.Signals(-status).name if status < 0 else f"exit code {status}" if status else "died"
            self._ending.wait(BACKOFF.wait_s(failures))
            if self._ending.is_set():
                return 0

    def _wait_for_other(self) -> bool:
        """Wait for the end of a keeper that another parent left; return whether there was one."""
        lock, is_found = self._paths.run / "keeper.lock", False
        while holder_of(lock) is not None and not self._ending.is_set():
            is_found = True
            self._ending.wait(LOOK_S)
        return is_found

    def _is_over(self, status: int, restarts: int) -> bool:
        """Return whether the keeper ended in order: nothing of it runs. A later one that lacks what it needs (status 3:
        space on the disk) is started again."""
        from fks.system.node.child_records import has_living  # loaded only when a keeper has ended

        return status >= 0 and not (status == 3 and restarts) and not has_living(self._paths)

    def _end(self, number: int, frame: object) -> None:
        self._ending.set()
        if self._keeper is not None:
            self._keeper.terminate()


def _python() -> str:
    """Return the Python of the build to which this machine's link leads when a keeper is started, else ours."""
    return sys.executable if builds.current() is None else str(builds.program("python"))


def main(argv: list[str]) -> int:
    """Run until the keeper ended in order. Exit with its status, 1 where another parent runs."""
    paths = Paths.of(argv[0])
    try:
        with keeper_lock(paths.run / PARENT_LOCK):
            return Parent(paths, [_python(), *module("fks.system.node", str(paths.home))[1:]]).run()
    except AlreadyRunning as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
