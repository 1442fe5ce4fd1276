"""Restart of parts that only a person or systemd restarts: `fks up`, with the environment of the dead keeper."""

from __future__ import annotations

import asyncio
import os

import psutil

from fks.chaos.outside import Outside
from fks.config.python import module
from fks.model.errors import OutageError

START_S = 150.0


def environment_of(pid: int) -> dict[str, str]:
    """Return a process's environment, or our own when it may not be read."""
    try:
        return dict(psutil.Process(pid).environ())
    except (psutil.Error, OSError):
        return dict(os.environ)


async def start_again(outside: Outside, env: dict[str, str]) -> None:
    """Run `fks up --detach` on the home and return when it is ready. Errors: OutageError with its last line."""
    command = module("fks.cli", "--home", str(outside.paths.home), "up", "--detach")
    process = await asyncio.create_subprocess_exec(
        *command,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(START_S):
            _, stderr = await process.communicate()
    except TimeoutError:
        process.kill()
        raise OutageError(f"'fks up' was not ready after {START_S:g} s") from None
    if process.returncode != 0:
        last = stderr.decode(errors="replace").strip().splitlines()
        raise OutageError(f"'fks up' failed: {last[-1] if last else process.returncode}")
