"""Driver of one client session: opens sockets, moves bytes, and ticks the session when it is due."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import socket
from collections.abc import Callable

from fks.bridge.ninja import outputs as o
from fks.bridge.ninja.machine import LinkState
from fks.bridge.ninja.session import PORTS, ClientSession, Draws
from fks.clock import Clock

UNSENT_MAX = 8 * 1024 * 1024  # bytes that wait in the socket; beyond it the connection is given up
READ_MAX = 64 * 1024
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def system_draws() -> Draws:
    """Return nonces from the system's random source, and jitter."""
    return Draws(nonce=lambda: secrets.token_hex(32), share=random.random)


def ports_of(port: int) -> tuple[int, ...]:
    """Return the ports to try: the bridge takes the second one where another program owns the default."""
    return PORTS if port == PORTS[0] else (port,)


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, so that a secret of 16 bytes is enough."""
    return host in _LOOPBACK


class Link:
    """One session on real sockets.

    `run` owns the session until it has stopped. Everything happens in the task of `run`, and in calls of the
    application between its awaits: after a call that sends (`session.send`, `request`, `stored`, `stop`) it calls
    `flush`, which writes at once. `publish` receives the events of the session in order and must not block.
    """

    def __init__(self, session: ClientSession, host: str, clock: Clock, publish: Callable[[o.Event], None]) -> None:
        # the bridge listens on IPv4; `localhost` may name ::1 first
        self._host = "127.0.0.1" if host == "localhost" else host
        self.session = session
        self._clock, self._publish = clock, publish
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._dialling: asyncio.Task[tuple[asyncio.StreamReader, asyncio.StreamWriter]] | None = None
        self._reading: asyncio.Task[bytes] | None = None
        self._closing: set[asyncio.StreamWriter] = set()
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Connect and stay connected until the session has stopped. Cancelling it closes the socket."""
        self.session.start()
        self.flush()
        try:
            while self.session.state is not LinkState.STOPPED:
                await self._wait()
                self.session.tick()
                self.flush()
        finally:
            await self._end()

    def flush(self) -> None:
        """Perform the session's commands and publish its events."""
        for output in self.session.take():
            match output:
                case o.Write():
                    if self._writer is not None:
                        self._writer.write(output.data)
                case o.Close():
                    self._close()
                case o.Dial():
                    self._dialling = asyncio.create_task(self._opened(output.port))
                case _:
                    self._publish(output)
        if self._writer is not None and self._writer.transport.get_write_buffer_size() > UNSENT_MAX:
            self._close()
            self.session.closed("the bridge does not read what is sent")
            self.flush()
        self._woken.set()

    async def _opened(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, port)

    async def _wait(self) -> None:
        """Wait for bytes, a socket, a call of the application, or the time of the next tick."""
        self._woken.clear()
        if self._reader is not None and self._reading is None:
            self._reading = asyncio.create_task(self._reader.read(READ_MAX))
        due_s = self.session.due_s()
        timeout_s = None if due_s is None else max(0.0, due_s - self._clock.monotonic())
        woken = asyncio.create_task(self._woken.wait())
        waited = {task for task in (self._dialling, self._reading) if task is not None}
        try:
            await asyncio.wait({woken, *waited}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
        if self._dialling is not None and self._dialling.done():
            self._take_socket(self._dialling)
        if self._reading is not None and self._reading.done():
            self._take_bytes(self._reading)

    def _take_socket(self, done: asyncio.Task[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
        self._dialling = None
        try:
            self._reader, self._writer = done.result()
        except OSError as error:
            self.session.dial_failed(_reason(error))
        else:
            raw = self._writer.get_extra_info("socket")
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.session.connected()
        self.flush()

    def _take_bytes(self, done: asyncio.Task[bytes]) -> None:
        self._reading = None
        try:
            data = done.result()
        except OSError as error:
            data = b""
            reason = _reason(error)
        else:
            reason = "closed by the bridge"
        if data:
            self.session.receive(data)
        else:
            self._close()
            self.session.closed(reason)
        self.flush()

    def _close(self) -> None:
        for task in (self._dialling, self._reading):
            if task is not None:
                task.cancel()
        if self._dialling is not None:
            # the socket may have opened before the cancellation reached it
            self._dialling.add_done_callback(_close_opened)
        self._dialling = self._reading = None
        self._reader = None
        if self._writer is not None:
            self._writer.close()
            self._closing.add(self._writer)
            self._writer = None

    async def _end(self) -> None:
        self._close()
        for writer in self._closing:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()
        self._closing.clear()


def _close_opened(task: asyncio.Task[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result()[1].close()


def _reason(error: OSError) -> str:
    # asyncio replaces the system's text by one of its own
    return os.strerror(error.errno) if error.errno else str(error)
