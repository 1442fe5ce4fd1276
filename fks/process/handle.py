"""One process of the machine, whoever its parent is: who it is, whether it lives, how it ends.

A pid alone proves nothing, pids are used again: a process is told by its pid and its start mark (kernel ticks since
boot). A zombie counts as dead: where nobody reaps orphans (containers) it would otherwise live for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from fks.clock import RealClock

POLL_S = 0.05  # between looks at a process that is ending
_CLOCK = RealClock()  # processes end in real time, whatever clock the keeper is given
KILL_WAIT_S = 3.0  # SIGKILL needs this long at most, unless the kernel holds the process


def start_mark(pid: int) -> str | None:
    """Return what tells this process from a later one with the same pid, or None when it does not live."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return f"{process.create_time():.2f}"
    return None


def members(session: int) -> list[int]:
    """Return the living processes of a session, its leader included."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getsid(pid) == session and start_mark(pid) is not None:
                found.append(pid)
    return found


def holding(text: str, *, programs: tuple[str, ...] = ("",)) -> list[int]:
    """Return the living processes, but for this one, whose command line holds `text` and whose name begins with one of
    `programs`: somebody may be reading a log of ours."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.pid != os.getpid()
                and text in "\0".join(process.cmdline())
                and process.name().startswith(programs)
                and start_mark(process.pid) is not None
            ):
                found.append(process.pid)
    return found


def kill(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """Signal each pid that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a process. `err` is appended to; `out`, when given, is emptied first: it holds one answer.

    `popen` is passed on to Popen: the user to run as. Directories are inherited, so that a `.env` beside us is found.
    """

    command: Sequence[str]
    env: Mapping[str, str]
    err: Path
    out: Path | None = None
    popen: Mapping[str, Any] = field(default_factory=dict)


class Process:
    """A process we started, or found running and took over."""

    def __init__(self, pid: int, mark: str, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.mark = mark
        self._popen = popen

    @staticmethod
    def spawn(launch: Launch) -> Process:
        """Start it in a session of its own, so that neither Ctrl-C nor our own death reaches it.

        Errors: OSError when the program cannot be run.
        """
        launch.err.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
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
        return Process(popen.pid, start_mark(popen.pid) or "", popen)

    @staticmethod
    def find(pid: int, mark: str) -> Process | None:
        """Return the process when it still is the one that was written down."""
        return Process(pid, mark) if mark and start_mark(pid) == mark else None

    def is_alive(self) -> bool:
        """Return whether this very process lives; reaps it when it is our child and ended."""
        if self._popen is not None and self._popen.poll() is not None:
            return False
        return bool(self.mark) and start_mark(self.pid) == self.mark

    @property
    def returncode(self) -> int | None:
        """Return the exit status of a child of ours that ended (negative: the signal)."""
        return self._popen.poll() if self._popen is not None else None

    async def ended(self) -> None:
        """Return once the process is dead, whoever its parent is."""
        await ended(self.pid, self.is_alive)

    async def stop(self, signals: Sequence[tuple[int, float]], *, is_group: bool = False) -> bool:
        """End it: each signal with the seconds it is given, then SIGKILL. `is_group`: then all that is left of its
        session.

        Returns whether it ended without SIGKILL. Returned, it is dead (or the kernel does not let it die).
        """
        is_clean = True
        for number, deadline_s in (*signals, (signal.SIGKILL, KILL_WAIT_S)):
            if not self.is_alive():
                break
            is_clean = number != signal.SIGKILL
            kill([self.pid], number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline_s):
                    await self.ended()
        if is_group:
            await clear_session(self.pid, self.mark)
        self.is_alive()  # reaps
        return is_clean


async def clear_session(session: int, mark: str) -> None:
    """Kill every process of a session until none is left, for KILL_WAIT_S at most.

    `mark` is the leader's. The kernel gives a session's number to nobody else while a member lives, so what is found
    is ours, unless another process took the leader's pid after all of ours had gone.
    """
    if start_mark(session) not in (None, mark):
        return
    end = _CLOCK.monotonic() + KILL_WAIT_S
    while (left := members(session)) and _CLOCK.monotonic() < end:
        kill(left)
        await _CLOCK.sleep(POLL_S)


async def ended(pid: int, is_alive: Callable[[], bool]) -> None:
    """Return once the process is dead. The kernel tells (pidfd) where it can; else it is looked at every POLL_S."""
    try:
        handle = os.pidfd_open(pid)
    except (OSError, AttributeError):  # gone already; no pidfd (not Linux)
        while is_alive():
            await _CLOCK.sleep(POLL_S * 4)
        return
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(handle, _settle, gone)
        if is_alive():
            await gone
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
