"""One process of this machine: started or found, signalled, awaited and ended through a pidfd.

The kernel reuses process numbers; a pidfd names one process for ever, so a signal never reaches another one. Records on
disk identify a process by its number and start mark (kernel ticks since boot). A zombie counts as ended: where nothing
reaps orphans (containers) it would otherwise live for ever. Systems without pidfds (not Linux) are polled.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from fks.clock import RealClock
from fks.clock.waiting import wait_for_event
from fks.config.machine import can_reach, is_in_this_space
from fks.system.process import procfs
from fks.system.process.procfs import kill

POLL_S = 0.05  # between two looks at a process that is ending
KILL_WAIT_S = 3.0  # SIGKILL needs this long at most, unless the kernel holds the process
KILLED_S = 1.0  # a process that still runs this long after SIGKILL is not proven to have ended
STACKS_S = 0.2  # a hung process has this long to write its stacks
REAPED_S = 0.1  # the exit code is known when the parent has fetched it
Signals = Sequence[tuple[int, float]]  # each signal with the seconds it is given
_CLOCK = RealClock()  # processes end in real time, whatever clock the keeper is given

_INFO = struct.Struct("=QQ11Ii")  # struct pidfd_info, as of Linux 6.13; the exit code came with 6.15
_GET_INFO = (3 << 30) | (_INFO.size << 16) | (0xFF << 8) | 11
_INFO_EXIT = 1 << 3


def start_mark(pid: int) -> str | None:
    """Return a mark that distinguishes this process from a later one with the same pid; None when it does not run."""
    if sys.platform == "linux":
        return procfs.start_ticks(pid)
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return f"{process.create_time():.2f}"
    return None


def is_proven_gone(pid: int, space: object) -> bool:
    """Return whether the process that reported `pid` and `space` has certainly ended: False where it cannot be reached,
    and where another process has its number by now."""
    return can_reach(space) and not psutil.pid_exists(pid)


def session_members(session: int) -> list[int]:
    """Return the running processes of a session, its leader included."""
    if sys.platform == "linux":
        return procfs.session_members(session)
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getsid(pid) == session and start_mark(pid) is not None:
                found.append(pid)
    return found


def find_by_command(text: str, *, programs: tuple[str, ...] = ("",)) -> list[int]:
    """Return the running processes, except this one, whose command line contains `text` and whose name begins with one
    of `programs`: an editor that shows one of our logs is not one of them, and a container's process with the same
    paths is not either."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.pid != os.getpid()
                and text in "\0".join(process.cmdline())
                and process.name().startswith(programs)
                and is_in_this_space(process.pid)
                and start_mark(process.pid) is not None
            ):
                found.append(process.pid)
    return found


def runs_in(pid: int, name: str, directory: Path) -> bool:
    """Return whether `pid` is a running program `name` whose working directory is `directory`."""
    try:
        process = psutil.Process(pid)
        return (
            process.name() == name
            and process.status() != psutil.STATUS_ZOMBIE
            and Path(process.cwd()).samefile(directory)
        )
    except (psutil.Error, OSError):
        return False


@dataclass(frozen=True, slots=True)
class Launch:
    """A process to start. `err` is appended to (None: discarded); `out`, when given, is emptied first.

    `popen` is passed on to Popen: the user to run as. Directories are inherited, so that a `.env` beside us is found.
    """

    command: Sequence[str]
    env: Mapping[str, str]
    err: Path | None
    out: Path | None = None
    popen: Mapping[str, Any] = field(default_factory=dict)


class ProcessHandle:
    """One process, whichever its parent is. Its end is awaited in one event loop; `close` lets go of it."""

    _fd = -1

    def __init__(self, pid: int, mark: str, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.mark = mark
        self.was_killed = False  # it ran until `kill` killed it
        self._popen = popen
        self._fd = _pidfd(pid)  # -1 where there is none
        if popen is None and self._fd >= 0 and start_mark(pid) != mark:
            os.close(self._fd)  # the number belongs to another process by now
            self._fd = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    @staticmethod
    def spawn(launch: Launch) -> ProcessHandle:
        """Start a process in a session of its own: neither Ctrl-C nor our own death ends it.

        Errors: OSError when the program cannot be run.
        """
        with contextlib.ExitStack() as stack:
            err: Any = subprocess.DEVNULL
            if launch.err is not None:
                launch.err.parent.mkdir(parents=True, exist_ok=True)
                err = stack.enter_context(open(launch.err, "ab", opener=_private))
            out = stack.enter_context(open(launch.out, "wb", opener=_private)) if launch.out else err
            popen = subprocess.Popen(
                list(launch.command),
                env=dict(launch.env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                **launch.popen,
            )
        return ProcessHandle(popen.pid, start_mark(popen.pid) or "", popen)

    @staticmethod
    def find(pid: int, mark: str) -> ProcessHandle | None:
        """Return the process if it still is the one that was recorded."""
        return ProcessHandle(pid, mark) if mark and start_mark(pid) == mark else None

    @staticmethod
    def of(pid: int) -> ProcessHandle | None:
        """Return the process that runs as `pid` now."""
        mark = start_mark(pid)
        return ProcessHandle(pid, mark) if mark else None

    @staticmethod
    def hold(pid: int, *, command: bytes) -> ProcessHandle | None:
        """Return the running process `pid` if its command line contains `command` and it can be held by a pidfd."""
        handle = ProcessHandle.of(pid)
        if handle is None or handle._fd < 0 or command not in b"\0".join(procfs.arguments(pid)):
            return None
        return handle

    @staticmethod
    def reported(pid: int, space: object, *, command: bytes) -> ProcessHandle | None:
        """Return the process that a row or a beat names by its pid, as `hold` does; None where `space`, which came with
        it, is not ours: there the number belongs to another process, or to none."""
        return ProcessHandle.hold(pid, command=command) if can_reach(space) else None

    @property
    def started_at_s(self) -> float:
        """Return when the process was started, in seconds since 1970."""
        return psutil.boot_time() + int(self.mark) / os.sysconf("SC_CLK_TCK")

    @property
    def returncode(self) -> int | None:
        """Return the exit status of a child of ours that has ended (negative: the signal)."""
        return self._popen.poll() if self._popen is not None else None

    def is_alive(self) -> bool:
        """Return whether this very process runs; reaps it when it is our child and has ended."""
        if self._popen is not None and self._popen.poll() is not None:
            return False
        if self._fd >= 0:
            return not _is_readable(self._fd, 0.0)
        return bool(self.mark) and start_mark(self.pid) == self.mark

    async def ended(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the process, at most `timeout_s`; return whether it has ended."""
        if self._fd < 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    while self.is_alive():
                        await _CLOCK.sleep(POLL_S)
            return not self.is_alive()
        loop = asyncio.get_running_loop()
        if self._loop is not loop and not self._end.is_set():
            self._loop, self._end = loop, asyncio.Event()
            loop.add_reader(self._fd, self._note_end)
        return await wait_for_event(self._end, timeout_s)

    def _note_end(self) -> None:
        assert self._loop is not None
        self._loop.remove_reader(self._fd)
        self._end.set()

    def wait(self, timeout_s: float) -> bool:
        """Block until the process has ended, at most `timeout_s`; return whether it has."""
        if self._fd >= 0:
            _is_readable(self._fd, timeout_s)
        elif self._popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout_s)
        else:
            with contextlib.suppress(psutil.Error):
                psutil.Process(self.pid).wait(timeout_s)
        return not self.is_alive()

    def send(self, number: int) -> bool:
        """Send a signal; return whether the process was there to receive it."""
        if not self.is_alive():
            return False
        try:
            if self._fd >= 0:
                signal.pidfd_send_signal(self._fd, number)
            else:
                os.kill(self.pid, number)
        except OSError:
            return False
        return True

    async def stop(self, signals: Signals, *, is_group: bool = False) -> bool:
        """End the process: each signal with its deadline, then SIGKILL; with `is_group` then the rest of its session.

        Returns whether it ended without SIGKILL. After return it has ended, or the kernel does not let it end.
        """
        is_clean = True
        for number, deadline_s in (*signals, (signal.SIGKILL, KILL_WAIT_S)):
            if not self.is_alive():
                break
            is_clean = number != signal.SIGKILL
            self.send(number)
            await self.ended(deadline_s)
        if is_group:
            await clear_session(self.pid, self.mark)
        self.is_alive()  # reaps
        return is_clean

    def stop_blocking(self, signals: Signals) -> None:
        """End the process as `stop` does, for callers without an event loop."""
        for number, deadline_s in (*signals, (signal.SIGKILL, KILL_WAIT_S)):
            if not self.send(number) or self.wait(deadline_s):
                return

    async def kill(self, *, is_hung: bool = False) -> bool:
        """Kill the process; a hung one first writes its stacks (SIGUSR1). Return whether it is proven to have ended."""
        if is_hung and self.send(signal.SIGUSR1):
            await self.ended(STACKS_S)
        self.was_killed = self.send(signal.SIGKILL)
        return await self.ended(KILLED_S)

    async def wait_status(self) -> int | None:
        """Return how the process ended, as wait(2) reports it; None while it runs, or when the kernel cannot report
        it."""
        deadline_s = _CLOCK.monotonic() + REAPED_S
        while self._fd >= 0 and not self.is_alive():
            try:
                raw = fcntl.ioctl(self._fd, _GET_INFO, _INFO.pack(_INFO_EXIT, *[0] * 13))
            except OSError:
                return None
            mask, *_, status = _INFO.unpack(raw)
            if mask & _INFO_EXIT:
                return int(status)
            if _CLOCK.monotonic() > deadline_s:
                return None
            await asyncio.sleep(0.005)
        return None

    def close(self) -> None:
        """Let go of the process. It is not ended."""
        if self._fd >= 0:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


async def clear_session(session: int, mark: str) -> None:
    """Kill every process of a session until none is left, for KILL_WAIT_S at most.

    `mark` is the leader's. The kernel does not reuse a session's number while a member lives, so the processes found
    are ours, unless another process took the leader's pid after all of ours had ended.
    """
    if start_mark(session) not in (None, mark):
        return
    end = _CLOCK.monotonic() + KILL_WAIT_S
    while (left := session_members(session)) and _CLOCK.monotonic() < end:
        kill(left)
        await _CLOCK.sleep(POLL_S)


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def _is_readable(fd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


__all__ = [
    "Launch",
    "ProcessHandle",
    "clear_session",
    "find_by_command",
    "is_proven_gone",
    "kill",
    "runs_in",
    "session_members",
    "start_mark",
]
