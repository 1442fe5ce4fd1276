"""Processes of tests, forked from one that has imported the library.

A fresh interpreter imports it for up to two seconds of a processor. The fork server of Python's multiprocessing has
imported it, one for each worker of pytest; it has no thread and no event loop. Tests of properties of a fresh
interpreter (exit code of a command, imports, time to start) start one by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import IO, Any

import pytest

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "fks.interfaces.cli.sim",
        "fks.lab.sim.server",
        "fks.lab.sim.kraken.account",
        "tests.support.ai_process",
        "tests.support.collecting",
        "tests.support.forecast_process",
        "tests.support.gateway_process",
        "tests.support.guardian_process",
        "tests.support.mt5_agent_process",
        "tests.support.ninja_link_process",
        "tests.support.order_chaos_process",
        "tests.support.scheduler_process",
        "tests.support.search_process",
        "tests.support.strategy_process",
        "tests.support.zombie_process",
    ]
)


def begin_server() -> None:
    """Start the server, unless it runs, and do not wait: the event loop of a test would wait for its imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        forkserver.ensure_running()


class Child:
    """A running process that calls `run(*args)`, with the environment and the folder of this moment.

    `run` is a function or a coroutine function of a module; its result is the exit code, as for sys.exit. Used as a
    `subprocess.Popen` is; `stdout` is a pipe of text where it `is_read`, and else the output goes where ours goes.
    """

    def __init__(
        self, run: Callable[..., object], *args: Any, is_read: bool = False, stderr: IO[Any] | None = None
    ) -> None:
        begin_server()
        self.stdout: IO[str] | None = None
        read, write = os.pipe() if is_read else (-1, os.dup(1))
        error = Connection(os.dup(2 if stderr is None else stderr.fileno()))
        with Connection(write) as output, error:
            self._process = _CONTEXT.Process(target=_call, args=(output, error, dict(os.environ), run, args))
            self._process.start()
        if is_read:
            self.stdout = os.fdopen(read)
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal's number, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raise subprocess.TimeoutExpired if it still runs after `timeout` seconds."""
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
        return code

    async def ended(self) -> int:
        """Return the exit code when it has ended."""
        end, loop = asyncio.Event(), asyncio.get_running_loop()
        handle = os.dup(self._process.sentinel)  # a loop has one reader for a handle, and several tasks may wait
        loop.add_reader(handle, end.set)
        try:
            await end.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)
        return self.wait()

    async def reader(self) -> asyncio.StreamReader:
        """Return a reader of its output, for a test that does not wait for it in a call."""
        assert self.stdout is not None
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self.stdout)
        return reader

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):  # the fork server has reaped it, which is known here later
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _end_with_tests() -> None:
    """Have the kernel end this process when that of the tests has ended: by SIGIO, as its end of a pipe is closed then.
    The server is no help: it lives as long as one of its children."""
    tests = multiprocessing.parent_process()
    assert tests is not None
    fcntl.fcntl(tests.sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(tests.sentinel, fcntl.F_SETFL, fcntl.fcntl(tests.sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    if wait([tests.sentinel], 0):  # it ended before
        os._exit(1)


def _call(
    output: Connection, error: Connection, environ: Mapping[str, str], run: Callable[..., object], args: tuple[Any, ...]
) -> None:
    _end_with_tests()
    gc.freeze()  # a collection would copy the memory that is shared with the server
    for number, handle in ((1, output), (2, error)):
        os.dup2(handle.fileno(), number)
        handle.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environ)
    result = run(*args)
    code: Any = asyncio.run(result) if asyncio.iscoroutine(result) else result
    sys.exit(code)
