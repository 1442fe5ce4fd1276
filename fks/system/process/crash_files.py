"""Files that a process leaves when it dies, and everything that can be known of its end.

Beside the component's log: `<component>.crash` is written by the fault handler (SIGSEGV, SIGABRT, …, and SIGUSR1, which
makes a hung process write its stacks), `<component>.exit` by the process itself. A new start keeps its predecessor's
stacks as `<component>.crash.1`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from collections import deque
from pathlib import Path

import orjson

from fks.config.paths import Paths
from fks.system.process.handle import ProcessHandle
from fks.system.process.log import Redactor, log_file
from fks.system.supervision.exits import How, ProcessExit

TEXT_MAX = 20_000  # characters of a traceback that a process writes
TEXT_KEPT_MAX = 8000  # characters of it in an `Exit`
#: the fault handler's name of each signal that it reports
_FAULTS = {
    "Segmentation fault": signal.SIGSEGV,
    "Floating-point exception": signal.SIGFPE,
    "Floating point exception": signal.SIGFPE,
    "Aborted": signal.SIGABRT,
    "Bus error": signal.SIGBUS,
    "Illegal instruction": signal.SIGILL,
}
LINES, LINE_MAX = 5, 500  # of the log in an `Exit`


def crash_file(paths: Paths, component: str) -> Path:
    """Return where faults of the living process of a component are written; empty while there was none."""
    return log_file(paths, component).with_suffix(".crash")


def last_crash_file(paths: Paths, component: str) -> Path:
    """Return the stacks that the process before the living one left; missing when it left none."""
    return log_file(paths, component).with_suffix(".crash.1")


def exit_file(paths: Paths, component: str) -> Path:
    """Return where an error that ended the process is kept: one line of JSON, {"code", "traceback"}; none after a
    start."""
    return log_file(paths, component).with_suffix(".exit")


def catch_faults(paths: Paths, component: str) -> None:
    """From here on faults of this process, and SIGUSR1, write the stacks of all threads to its crash file.

    Never fails: a file that cannot be opened costs the stacks, not the start.
    """
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        paths.logs.mkdir(parents=True, exist_ok=True)
        exit_file(paths, component).unlink(missing_ok=True)
        file, last = crash_file(paths, component), last_crash_file(paths, component)
        last.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_size:
                file.rename(last)
        # never closed: the fault handler writes to its number
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        faulthandler.enable(handle, all_threads=True)
        faulthandler.register(signal.SIGUSR1, handle, all_threads=True, chain=False)


def write_exit(paths: Paths, component: str, *, code: int, traceback: str, redactor: Redactor) -> None:
    """Write why this process is about to end, without secrets. Never fails."""
    with contextlib.suppress(Exception):
        line = orjson.dumps({"code": code, "traceback": redactor.text(traceback[-TEXT_MAX:])})
        exit_file(paths, component).write_bytes(line + b"\n")


async def exit_of(
    how: How, reason: str, process: ProcessHandle | None, paths: Paths | None, component: str
) -> ProcessExit:
    """Return everything that is known of an end. `reason` stands when the process left nothing more precise."""
    if process is None:
        return ProcessExit(how, reason)
    status = None if process.was_killed else await process.wait_status()
    code = os.waitstatus_to_exitcode(status) if status is not None else None
    exit_code, number = (None, None) if code is None else (code, None) if code >= 0 else (None, -code)
    is_inferred = process.was_killed and how is not How.NORMAL
    if is_inferred:  # its parent may take its time to fetch the code, and we know what we sent
        number = int(signal.SIGKILL)
    trace = ""
    if paths is not None:
        trace, intended_code = _trace(process, paths, component)
        if code is None and not process.was_killed and (intended_code is not None or how is How.CRASH):
            # the kernel does not report it (before Linux 6.15 only a parent learns it): what it left says it
            exit_code, number = _inferred(trace, intended_code)
            is_inferred = True
    if how is How.CRASH:
        reason = _crash_text(exit_code, number, trace) or reason
        reason += " (inferred: it left no trace)" if is_inferred and number == signal.SIGKILL else ""
    lines = tuple(last_lines(log_file(paths, component))) if paths is not None and how is not How.NORMAL else ()
    return ProcessExit(
        how,
        reason,
        is_gone=not process.is_alive(),
        exit_code=exit_code,
        signal=number,
        is_inferred=is_inferred,
        last_lines=lines,
        traceback=trace if how is not How.NORMAL else "",
    )


def _trace(process: ProcessHandle, paths: Paths, component: str) -> tuple[str, int | None]:
    """Return the traceback a process left and the exit code it meant to end with."""
    text = _left(process, exit_file(paths, component))
    with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        found = orjson.loads(text)
        return str(found["traceback"])[-TEXT_KEPT_MAX:], int(found["code"])
    return _left(process, crash_file(paths, component)), None


def _inferred(trace: str, intended_code: int | None) -> tuple[int | None, int | None]:
    """Return (exit code, signal) of an end that left this: an exit file, the fault handler's first line, or nothing.

    Only SIGKILL leaves nothing, the out-of-memory killer's too: every error of Python writes an exit file, and every
    other deadly signal the stacks.
    """
    if intended_code is not None:
        return intended_code, None
    for text, number in _FAULTS.items():
        if f"Fatal Python error: {text}" in trace:
            return None, int(number)
    return (None, None) if trace.strip() else (None, int(signal.SIGKILL))


def _left(process: ProcessHandle, path: Path) -> str:
    """Return the end of a file that this process wrote; "" when it is missing, or an older process's."""
    try:
        if path.stat().st_mtime < process.started_at_s - 1.0:
            return ""
        return path.read_text(errors="replace")[-TEXT_KEPT_MAX:]
    except OSError:
        return ""


def _crash_text(exit_code: int | None, number: int | None, trace: str) -> str:
    """Return a crash in one line: the signal, or the exit code and the error."""
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
