"""`python -m fks.system.node.ray_host [--stored] -- ray start …`: the parent of one node's Ray processes.

`ray start --block` ends everything when any of its children dies, GCS included. Run without `--block`, `ray start`
leaves its daemons to the process that reaps orphans, which is this one (PR_SET_CHILD_SUBREAPER). It restarts in place
what can be restarted in place and ends otherwise, so its own death means exactly one thing: this node's Ray is gone and
has to be started again.

- GCS dead, its tables on disk (`--stored`): started again at once with the same arguments; actors, raylet and held
  handles continue. While that disk is full it is not started, it would only die. Without storage the cluster is lost
  with it.
- raylet dead: all actors of the node are lost with it.
- dashboard, client server, log monitor, autoscaler: started again in place; nothing else is affected.

It imports neither Ray nor asyncio, and its only state comes from /proc. Killed with -9 it leaves its session
behind; the keeper ends that.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fks.config.paths import FULL_MB, free_mb
from fks.model.backoff import Backoff
from fks.system.process import procfs, ray_names
from fks.system.process.ray_names import GCS, RAYLET

STORAGE_ENV = b"RAY_gcs_storage_path"
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
GCS_DEATHS_MAX, GCS_PERIOD_S = 8, 60.0  # more than these and its tables are the cause: the node's Ray starts afresh
SIDE_PERIOD_S, SIDE_WAIT_MAX_S = 300.0, 30.0
GCS_BACKOFF = Backoff(0.1, 0.5)  # from the second death on: control must be back within 5 s
SIDE_BACKOFF = Backoff(1.0, SIDE_WAIT_MAX_S)
STOP_S = 1.0  # for the raylet to leave the cluster in order
KILL_S = 2.0


@dataclass(slots=True)
class RayDaemon:
    """One daemon: its command line and environment, and when it died (monotonic seconds)."""

    name: str
    pid: int
    argv: list[bytes]
    env: dict[bytes, bytes]
    deaths: list[float] = field(default_factory=list)
    due: float | None = None  # when to start it again


def wait_s(name: str, ages: Sequence[float], *, is_stored: bool) -> float | None:
    """Return the seconds to wait before starting a dead part again in place, or None: the node's Ray has to end.

    `ages`: seconds since each of its deaths, this one (0) included.
    """
    if name == RAYLET or (name == GCS and not is_stored):
        return None
    if name == GCS:
        recent = sum(age <= GCS_PERIOD_S for age in ages)
        return None if recent > GCS_DEATHS_MAX else GCS_BACKOFF.wait_s(recent - 1)
    return SIDE_BACKOFF.wait_s(sum(age <= SIDE_PERIOD_S for age in ages) - 1)


def kind_of(argv: Sequence[bytes]) -> str:
    """Return which daemon a command line is, or ""."""
    if not argv:
        return ""
    if found := ray_names.PROGRAMS.get(os.path.basename(os.fsdecode(argv[0]))):
        return found
    text = b"\0".join(argv).decode(errors="replace")
    return next((name for part, name in ray_names.COMMANDS.items() if part in text), "")


class Host:
    """The processes of one `ray start`. `run` returns the exit status: 0 when asked to end, else 1."""

    def __init__(self, command: Sequence[str], *, is_stored: bool) -> None:
        self._command = list(command)
        self._is_stored = is_stored
        self._parts: dict[str, RayDaemon] = {}
        self._must_stop = False
        self._wakeup, wakeup_end = socket.socketpair()
        for end in (self._wakeup, wakeup_end):
            end.setblocking(False)
        signal.set_wakeup_fd(wakeup_end.fileno(), warn_on_full_buffer=False)
        self._wakeup_end = wakeup_end
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._request_stop)

    def run(self) -> int:
        """Start the processes, restart those that can be, and return once all of them have ended."""
        status = self._start()
        if status:
            _print(f"ray start ended with status {status}")
        elif not self._must_stop:
            self._adopt()
            missing = {RAYLET, *([GCS] if "--head" in self._command else [])} - set(self._parts)
            status = self._fail(f"{', '.join(missing)} died at once") if missing else self._watch()
        if self._must_stop:
            self._stop_raylet()
            status = 0
        _end_session()
        return status

    def _start(self) -> int:
        """Run `ray start` to its end; return its status."""
        starter = os.posix_spawnp(self._command[0], self._command, os.environ)
        while not self._must_stop:
            for pid, status in _dead():
                if pid == starter:
                    return os.waitstatus_to_exitcode(status)
            self._sleep(None)
        return 0

    def _adopt(self) -> None:
        for pid in procfs.children(os.getpid()):
            argv = procfs.arguments(pid)
            if (name := kind_of(argv)) and name not in self._parts:
                self._parts[name] = RayDaemon(name, pid, argv, procfs.environment(pid))
        _print("watches " + ", ".join(f"{part.name} {part.pid}" for part in self._parts.values()))

    def _watch(self) -> int:
        while not self._must_stop:
            now = time.monotonic()
            for pid, status in _dead():
                part = next((part for part in self._parts.values() if part.pid == pid), None)
                if part is None:
                    continue  # an orphan of a worker: it only had to be reaped
                part.pid = 0
                part.deaths = [death for death in part.deaths if now - death < SIDE_PERIOD_S] + [now]
                wait = wait_s(part.name, [now - death for death in part.deaths], is_stored=self._is_stored)
                reason = f"{part.name} (pid {pid}) died of {_cause(status)}"
                if wait is None:
                    return self._fail(reason)
                _print(f"{reason}: started again in {wait:g} s")
                part.due = now + wait
            for part in self._parts.values():
                if part.due is not None and part.due <= now:
                    self._restart(part)
            due = [part.due for part in self._parts.values() if part.due is not None]
            self._sleep(max(min(due) - time.monotonic(), 0.0) if due else None)
        return 0

    def _restart(self, part: RayDaemon) -> None:
        if part.name == GCS and (place := part.env.get(STORAGE_ENV)) and free_mb(Path(os.fsdecode(place))) < FULL_MB:
            part.due = time.monotonic() + 1.0
            return
        if part.name == "dashboard":
            _kill_orphans({other.pid for other in self._parts.values()})  # its helpers hold its ports
        null = os.open(os.devnull, os.O_RDWR)
        try:
            actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)]
            part.pid = os.posix_spawn(os.fsdecode(part.argv[0]), part.argv, part.env, file_actions=actions)
        except OSError as error:  # no process to be had at the moment
            _print(f"{part.name} cannot be started: {error.strerror}")
            part.due = time.monotonic() + 1.0
            return
        finally:
            os.close(null)
        part.due = None
        _print(f"{part.name} is back as pid {part.pid}")

    def _fail(self, reason: str) -> int:
        _print(f"{reason}: this node's Ray ends")
        return 1

    def _stop_raylet(self) -> None:
        """Have the raylet leave the cluster in order: the others need not detect its death."""
        raylet = self._parts.get(RAYLET)
        if raylet is None or not raylet.pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(raylet.pid, signal.SIGTERM)
        end = time.monotonic() + STOP_S
        while time.monotonic() < end:
            if raylet.pid in [pid for pid, _ in _dead()] or not os.path.exists(f"/proc/{raylet.pid}"):
                return
            self._sleep(0.05)

    def _request_stop(self, number: int, frame: object) -> None:
        self._must_stop = True

    def _sleep(self, seconds: float | None) -> None:
        """Return after `seconds`, or at the next signal."""
        select.select([self._wakeup], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(4096)


def _dead() -> Iterator[tuple[int, int]]:
    """Yield pid and wait status of every child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found


def _kill_orphans(known: set[int]) -> None:
    """Kill what a dead dashboard left: helpers of Python's multiprocessing, adopted by us."""
    for pid in procfs.children(os.getpid()):
        if pid not in known and b"multiprocessing" in b"\0".join(procfs.arguments(pid)):
            procfs.kill([pid])


def _end_session() -> None:
    """Kill every other process of our session until none is left."""
    end = time.monotonic() + KILL_S
    own = os.getsid(0)
    while time.monotonic() < end:
        left = [pid for pid in procfs.session_members(own) if pid != os.getpid()]
        procfs.kill(left)
        list(_dead())
        if not left:
            return
        select.select([], [], [], 0.02)


def _cause(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"status {code}"


def _print(text: str) -> None:
    sys.stderr.write(f"ray host: {text}\n")
    sys.stderr.flush()


def main(argv: list[str]) -> int:
    """Be the parent of `argv` after "--". Exit 0 when asked to end, 2 when called wrongly, else 1."""
    if "--" not in argv or argv[-1] == "--":
        _print("usage: python -m fks.system.node.ray_host [--stored] -- ray start …")
        return 2
    cut = argv.index("--")
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)  # where there is none (not Linux) the parts are found missing
    return Host(argv[cut + 1 :], is_stored="--stored" in argv[:cut]).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
