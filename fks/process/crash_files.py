"""What a process leaves behind when it dies: the stacks of a fault, and the error that ended it.

Beside the component's log: `<component>.crash` is written by the fault handler (SIGSEGV, SIGABRT, …, and SIGUSR1, which
asks a hung process where it stands), `<component>.exit` by the process itself. A new start keeps its predecessor's
stacks as `<component>.crash.1`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from pathlib import Path

import orjson

from fks.config.paths import Paths
from fks.process.log import Redactor, log_file

TEXT_MAX = 20_000  # characters of a traceback kept


def crash_file(paths: Paths, component: str) -> Path:
    """Return where the living process of a component has its faults written; empty while there was none."""
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

    Never fails: a file that cannot be had costs the stacks, not the start.
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
    """Keep why this process is about to end, without secrets. Never fails."""
    with contextlib.suppress(Exception):
        line = orjson.dumps({"code": code, "traceback": redactor.text(traceback[-TEXT_MAX:])})
        exit_file(paths, component).write_bytes(line + b"\n")
