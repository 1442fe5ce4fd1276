"""Programs that run code of users: in a process group of their own, ended with their parent, killed past a deadline.

The parent writes one line of JSON and reads lines of JSON. The child calls `answers` first: output of the user's code
is discarded, so that it cannot be taken for an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

_PR_SET_PDEATHSIG = 1
_LINE_MAX = 16_000_000


class Isolated:
    """A running program of `started`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self, limit_s: float) -> Any:
        """Return its next answer, or None when it has ended. Errors: TimeoutError after `limit_s` seconds."""
        assert self._process.stdout is not None
        async with asyncio.timeout(limit_s):
            text = await self._process.stdout.readline()
            if not text:
                await self._process.wait()
                return None
        try:
            return json.loads(text)
        except ValueError:
            return None

    @property
    def end(self) -> str:
        """Return how it ended, for a message."""
        code = self._process.returncode
        if code is None:
            return "was ended"
        if code >= 0:
            return f"ended its process with status {code}"
        with contextlib.suppress(ValueError):
            return f"ended its process by {signal.Signals(-code).name}"
        return f"ended its process by signal {-code}"


@asynccontextmanager
async def started(module: str, request: bytes) -> AsyncIterator[Isolated]:
    """Run `python -m module` on one line of input until the block ends; then it and its children are killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        limit=_LINE_MAX,
    )
    try:
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(request + b"\n")
            await process.stdin.drain()
            process.stdin.close()
        yield Isolated(process)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def answers() -> Callable[[Any], None]:
    """Prepare a child of `started` and return the function that sends an answer. Call it before code of users runs."""
    with contextlib.suppress(OSError, AttributeError):  # where there is none (not Linux), a hung child outlives us
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    own = os.dup(1)
    os.set_inheritable(own, False)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)

    def send(answer: Any) -> None:
        data = (json.dumps(answer, default=str) + "\n").encode()  # not orjson: numbers may be of any size
        while data:
            data = data[os.write(own, data) :]

    return send
