"""The process table as /proc shows it. Standard library only: the Ray host has to stay small.

Every function returns an empty answer for a process that has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable

_STATE, _PARENT, _START = 0, 1, 19  # fields of /proc/PID/stat after the program's name
_ENDED = ("Z", "X")


def pids() -> list[int]:
    """Return every process number in this pid namespace."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def is_running(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    fields = _stat(pid)
    return bool(fields) and fields[_STATE] not in _ENDED


def start_ticks(pid: int) -> str | None:
    """Return when a running process was started, in kernel ticks since boot; None for one that has ended."""
    fields = _stat(pid)
    return None if not fields or fields[_STATE] in _ENDED else fields[_START]


def children(pid: int) -> list[int]:
    """Return the children of a process, zombies included."""
    parent = str(pid)
    return [child for child in pids() if _stat(child)[_PARENT : _PARENT + 1] == [parent]]


def session_members(session: int) -> list[int]:
    """Return the running processes of a session, its leader included."""
    found = []
    for pid in pids():
        with contextlib.suppress(OSError):
            if os.getsid(pid) == session and is_running(pid):
                found.append(pid)
    return found


def arguments(pid: int) -> list[bytes]:
    """Return the command line of a process."""
    return _fields(pid, "cmdline")


def environment(pid: int) -> dict[bytes, bytes]:
    """Return the environment a process was started with."""
    return dict(line.split(b"=", 1) for line in _fields(pid, "environ") if b"=" in line)


def kill(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """Signal each pid that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _stat(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _fields(pid: int, name: str) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read().rstrip(b"\0").split(b"\0")
    except OSError:
        return []
