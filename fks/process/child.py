"""A child's process on this host, held by a pidfd: its end is seen at once, proven, and told with what can be known of
it.

A pidfd means one process for ever: a number that was given to somebody else is never signalled. Without pidfds (no
Linux) nothing here is known, and Ray's word is all there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
from collections import deque
from pathlib import Path

import orjson
import psutil

from fks.config.paths import Paths
from fks.process.crash_files import crash_file, exit_file
from fks.process.log import log_file
from fks.supervision.exits import Exit, How

KILLED_S = 1.0  # a process that was sent SIGKILL and still is after this counts as not proven gone
STACKS_S = 0.2  # a hung process has so long to write down where it stands
REAPED_S = 0.1  # the exit code is known when its parent has fetched it
LINES, LINE_MAX, TEXT_MAX = 5, 500, 8000

_INFO = struct.Struct("=QQ11Ii")  # struct pidfd_info, as of Linux 6.13; the exit code came with 6.15
_GET_INFO = (3 << 30) | (_INFO.size << 16) | (0xFF << 8) | 11
_INFO_EXIT = 1 << 3


class Process:
    """One process, for as long as somebody holds this. Belongs to the event loop it was made in."""

    def __init__(self, pid: int, fd: int, began_s: float) -> None:
        self.pid = pid
        self._fd = fd
        self._began_s = began_s
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._was_killed = False
        self._loop.add_reader(fd, self._seen)

    @staticmethod
    def hold(pid: int) -> Process | None:
        """Return the Ray worker `pid`, or None when there is none (any more), or no way to hold one."""
        try:
            fd = os.pidfd_open(pid)
        except (AttributeError, OSError):
            return None
        try:
            process = psutil.Process(pid)
            if process.name().startswith("ray::") or "ray" in " ".join(process.cmdline()):
                return Process(pid, fd, process.create_time())
        except psutil.Error:
            pass
        os.close(fd)  # the number was given to somebody else
        return None

    def _seen(self) -> None:
        self._loop.remove_reader(self._fd)
        self._gone.set()

    @property
    def is_gone(self) -> bool:
        """Return whether it is proven to be no more (or a zombie, which acts no more)."""
        return self._gone.is_set()

    @property
    def was_killed(self) -> bool:
        """Return whether it lived until it was killed here."""
        return self._was_killed

    async def gone(self, timeout_s: float | None = None) -> bool:
        """Wait for its end; return whether it has come."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._gone.wait()
        return self._gone.is_set()

    async def kill(self, *, is_hung: bool = False) -> bool:
        """Kill it; a hung one is asked first where it stands. Return whether it is proven gone."""
        if is_hung and self._send(signal.SIGUSR1):
            await self.gone(STACKS_S)
        self._was_killed = self._send(signal.SIGKILL)
        return await self.gone(KILLED_S)

    def _send(self, number: signal.Signals) -> bool:
        if self._gone.is_set():
            return False
        try:
            signal.pidfd_send_signal(self._fd, number)
        except OSError:
            return False
        return True

    async def status(self) -> int | None:
        """Return how it ended as wait(2) has it; None while, or where, nobody can know."""
        deadline = self._loop.time() + REAPED_S
        while self._gone.is_set() and self._fd >= 0:
            try:
                raw = fcntl.ioctl(self._fd, _GET_INFO, _INFO.pack(_INFO_EXIT, *[0] * 13))
            except OSError:
                return None
            mask, *_, status = _INFO.unpack(raw)
            if mask & _INFO_EXIT:
                return int(status)
            if self._loop.time() > deadline:
                return None
            await asyncio.sleep(0.005)
        return None

    def left(self, path: Path) -> str:
        """Return the end of a file that this process wrote; "" when it is missing, or an older process's."""
        try:
            if path.stat().st_mtime < self._began_s - 1.0:
                return ""
            return path.read_text(errors="replace")[-TEXT_MAX:]
        except OSError:
            return ""

    def close(self) -> None:
        """Let go of it. It is not ended."""
        if self._fd >= 0:
            with contextlib.suppress(Exception):
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


async def facts(how: How, reason: str, process: Process | None, paths: Paths | None, component: str) -> Exit:
    """Return everything that is known of an end. `reason` stands when the process tells nothing better."""
    if process is None:
        return Exit(how, reason)
    status = None if process.was_killed else await process.status()
    code = os.waitstatus_to_exitcode(status) if status is not None else None
    exit_code, number = (None, None) if code is None else (code, None) if code >= 0 else (None, -code)
    is_inferred = process.was_killed and how is not How.NORMAL
    if is_inferred:  # its parent may take its time to fetch the code, and we know what we sent
        number = int(signal.SIGKILL)
    trace = ""
    if paths is not None:
        trace, told = _trace(process, paths, component)
        if code is None and told is not None and not process.was_killed:
            exit_code, is_inferred = told, True
    if how is How.CRASH:
        reason = _said(exit_code, number, trace) or reason
    lines = tuple(last_lines(log_file(paths, component))) if paths is not None and how is not How.NORMAL else ()
    return Exit(
        how,
        reason,
        is_gone=process.is_gone,
        exit_code=exit_code,
        signal=number,
        is_inferred=is_inferred,
        last_lines=lines,
        traceback=trace if how is not How.NORMAL else "",
    )


def _trace(process: Process, paths: Paths, component: str) -> tuple[str, int | None]:
    """Return the traceback it left and the exit code it meant to end with."""
    told = process.left(exit_file(paths, component))
    with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        found = orjson.loads(told)
        return str(found["traceback"])[-TEXT_MAX:], int(found["code"])
    return process.left(crash_file(paths, component)), None


def _said(exit_code: int | None, number: int | None, trace: str) -> str:
    """Return a crash in a line: the signal, or the exit code and the error."""
    if number is not None:
        with contextlib.suppress(ValueError):
            return f"died: signal {signal.Signals(number).name}"
        return f"died: signal {number}"
    if exit_code is None:
        return ""
    error = trace.strip().splitlines()[-1][:300] if trace.strip() else ""
    return f"died: exit code {exit_code}" + (f": {error}" if error else "")


def last_lines(path: Path) -> list[str]:
    """Return the last lines of a log, oldest first; [] without one."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - 32_768, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line[:LINE_MAX] for line in deque(text.splitlines(), maxlen=LINES)]
