"""A stand-in as a process in the foreground: it says where it is, and runs until SIGTERM, Ctrl-C or its own failure."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Protocol

import click

from fks.model.errors import OutageError


class StandIn(Protocol):
    """A server that was started. `failed` is done, with the error, when it stopped by itself."""

    failed: asyncio.Future[BaseException]

    async def stop(self) -> None: ...


def stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM and Ctrl-C set. Call it before the server is started."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    return stopped


async def serve_until(stopped: asyncio.Event, server: StandIn, line: str, what: str) -> None:
    """Print `line`, wait for the end, and stop the server. Errors: OutageError when it stopped by itself."""
    click.echo(line)
    sys.stdout.flush()
    server.failed.add_done_callback(lambda _: stopped.set())
    await stopped.wait()
    await server.stop()
    if server.failed.done():
        raise OutageError(f"{what} stopped: {server.failed.result()!r}", remedy="see the log above; start it again")
