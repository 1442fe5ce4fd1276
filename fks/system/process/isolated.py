"""Programs that run code of users: in a process group of their own, ended with their parent, killed past a deadline.

The parent writes one line of JSON and reads lines of JSON. The child calls `answers` first: output of the user's code
is discarded, so that it cannot be taken for an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fks.system.process.confinement import confined_command, ends_with_parent, environment

_LINE_MAX = 16_000_000


class Isolated:
    """A running program of `started`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self, limit_s: float) -> Any:
        """Return its next answer, or None when it has ended. Errors: TimeoutError after `limit_s` seconds."""
        assert self._process.stdout is not None
        async with asyncio.timeout(limit_s):
            try:
                text = await self._process.stdout.readline()
            except ValueError:  # it is too long
                return None
            if not text:
                await self._process.wait()
                return None
        try:
            return storable(json.loads(text))
        except (ValueError, RecursionError):
            return None

    @property
    def end(self) -> str:
        """Return how it ended, for a message."""
        return end_of(self._process.returncode)


def storable(value: Any) -> Any:
    """Return JSON with texts that databases and encoders take: NUL and halves of characters are "?". Errors:
    RecursionError when it is nested too deep."""
    if isinstance(value, str):
        return value.replace("\0", "?").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {storable(name): storable(one) for name, one in value.items()}
    return [storable(one) for one in value] if isinstance(value, list) else value


def end_of(code: int | None) -> str:
    """Return how a process ended, for a message, from its status."""
    if code is None:
        return "was ended"
    if code >= 0:
        return f"ended its process with status {code}"
    with contextlib.suppress(ValueError):
        return f"ended its process by {signal.Signals(-code).name}"
    return f"ended its process by signal {-code}"


@asynccontextmanager
async def started(module: str, request: bytes, *, readable: Sequence[Path] | None = None) -> AsyncIterator[Isolated]:
    """Run `python -m module` on one line of input until the block ends; then it and its children are killed.

    With `readable` it is confined to reading these files and folders (`fks.system.process.confinement`).
    """
    is_confined = readable is not None
    process = await asyncio.create_subprocess_exec(
        *(confined_command(module, readable) if readable is not None else (sys.executable, "-m", module)),
        env=environment() if is_confined else None,
        cwd="/" if is_confined else None,
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
    ends_with_parent()
    send_bytes = discard_output()

    def send(answer: Any) -> None:
        send_bytes((json.dumps(answer, default=str) + "\n").encode())  # not orjson: numbers may be of any size

    return send


def discard_output() -> Callable[[bytes], None]:
    """Discard what is printed from here on, and return the function that writes to standard output as it was."""
    own = os.dup(1)
    os.set_inheritable(own, False)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)

    def write(data: bytes) -> None:
        while data:
            data = data[os.write(own, data) :]

    return write
