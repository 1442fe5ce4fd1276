"""Standby listener: keeps the gateway's port open while Serve's HTTP proxy is started again.

Serve has one HTTP proxy a node, and takes 4 to 12 s to replace one that died; the port is closed meanwhile. The keeper
sees the death of the process at once, listens on the same port (SO_REUSEPORT, which Serve's own listener sets too), and
holds what connects. When the new proxy listens, the keeper stops listening first and then passes the held bytes on in
both directions, TLS included. While a proxy lives the keeper listens nowhere, so that a request costs nothing more.

A client that leaves while it waits is dropped, and none of its bytes are passed on: a request without a waiting client
must not become an order. A held request is at most `HOLD_S` old when it reaches the gateway, the default `max_age` of a
request without `valid_until`; after that it is answered 503 and was never accepted.
Used on loopback only: the gateway would take the keeper's address for the client's.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable

import psutil

from fks.clock import Clock
from fks.model.ports import Log
from fks.system.node.service import ServiceStatus
from fks.system.process.handle import ProcessHandle

HOLD_S = 10.0
HELD_MAX = 1000  # connections; the kernel's queue takes as many again, then connects are refused as without us
FILES = 4096  # open files that this many connections with their other ends need
BUFFER_MAX = 65536  # bytes of a held request; more stay in the kernel until the proxy is there
LOOK_S = 0.1  # between two looks for the new proxy
IDLE_LOOK_S = 1.0  # between two looks while no proxy has run yet
CONNECT_S = 5.0
_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 2\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b"
)
_PROBLEM = (
    b'{"type":"about:blank","title":"the gateway is being restarted","status":503,"code":"GATEWAY_DOWN",'
    b'"remedy":"nothing of this request was accepted: send it again, with the same Idempotency-Key"}'
)


class HttpStandby:
    """Soft state: the proxy it watches (`watched`, its pid) and the connections it holds.

    `find_proxy` returns the pid of Serve's proxy on this node. `may_hold` says whether a new proxy can be expected at
    all; without one, connections are refused as by a closed port.
    """

    def __init__(
        self,
        address: tuple[str, int],
        find_proxy: Callable[[], int | None],
        may_hold: Callable[[], bool],
        clock: Clock,
        log: Log,
    ) -> None:
        self._address, self._find_proxy, self._may_hold = address, find_proxy, may_hold
        self._clock, self._log = clock, log
        self.watched: int | None = None
        self._restarts, self._since_ns = -1, 0  # the first proxy is no restart
        self._passed: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Watch the proxy for ever. Cancelled: every connection that it holds or passes on is closed."""
        _allow_files(FILES)
        try:
            while True:
                proxy = await self._listening_proxy(IDLE_LOOK_S)
                self.watched = proxy.pid
                self._restarts, self._since_ns = self._restarts + 1, self._clock.now_ns()
                await proxy.ended()
                self.watched = None
                proxy.close()
                await self._bridge()
        finally:
            for task in self._passed:
                task.cancel()
            await asyncio.gather(*self._passed, return_exceptions=True)

    def status(self) -> ServiceStatus | None:
        """Return the proxy as status shows it; None before there was one."""
        if self._restarts < 0:
            return None
        state = "ready" if self.watched is not None else "restarting"
        ended = "Ray Serve starts another one" if self._restarts else ""
        return ServiceStatus("proxy", state, self.watched, self._restarts, self._since_ns, "", ended)

    async def _listening_proxy(self, look_s: float) -> ProcessHandle:
        while True:
            pid = await asyncio.to_thread(self._find_proxy)
            is_listening = pid is not None and await asyncio.to_thread(_listens, pid, self._address[1])
            if pid is not None and is_listening and (proxy := ProcessHandle.of(pid)):
                return proxy
            await self._clock.sleep(look_s)

    async def _bridge(self) -> None:
        """Hold connections until the next proxy listens, or until none is to be expected."""
        if not self._may_hold():
            return
        started_s = self._clock.monotonic()
        try:
            listener = _listener(self._address)
        except OSError as error:
            self._log.warning("http_standby.failed", reason=str(error))
            return
        is_back = asyncio.Event()
        held: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()

        def accept() -> None:
            while len(held) < HELD_MAX:
                try:
                    connection, _ = listener.accept()
                except OSError:  # BlockingIOError: none is left
                    return
                connection.setblocking(False)
                task = loop.create_task(self._hold(connection, is_back))
                held.append(task)
                self._passed.add(task)
                task.add_done_callback(self._passed.discard)
            loop.remove_reader(listener)

        loop.add_reader(listener, accept)
        proxy: ProcessHandle | None = None
        try:
            while proxy is None and self._may_hold():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        proxy = await self._listening_proxy(LOOK_S)
            accept()
        finally:
            loop.remove_reader(listener)
            listener.close()
            if proxy is None:
                for task in held:
                    task.cancel()
            else:
                proxy.close()
            is_back.set()
        self._log.info("http_standby.held", connections=len(held), seconds=self._clock.monotonic() - started_s)

    async def _hold(self, connection: socket.socket, is_back: asyncio.Event) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=connection, limit=BUFFER_MAX)
        except OSError:
            connection.close()
            return
        try:
            received = bytearray()
            try:
                async with asyncio.timeout(HOLD_S):
                    if not await _receive_until(is_back, reader, received):
                        return
                async with asyncio.timeout(CONNECT_S):
                    to_proxy = await asyncio.open_connection(*self._address)
            except OSError:  # TimeoutError is an OSError: held for too long, or the new proxy died again
                if received[:1].isalpha():  # a request in clear text; a TLS record begins with 0x16
                    writer.write(_AWAY % (len(_PROBLEM), _PROBLEM))
                    await writer.drain()
                return
            await _pass_on(bytes(received), (reader, writer), to_proxy)
        except OSError:
            return  # the client left
        finally:
            writer.close()


async def _receive_until(is_back: asyncio.Event, reader: asyncio.StreamReader, received: bytearray) -> bool:
    """Collect what the client sends until the proxy is back; return False when the client left before."""
    back = asyncio.ensure_future(is_back.wait())
    try:
        while not back.done():
            if len(received) >= BUFFER_MAX:
                await back
                break
            read = asyncio.ensure_future(reader.read(BUFFER_MAX - len(received)))
            try:
                await asyncio.wait({read, back}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not read.done():
                    read.cancel()
                    await asyncio.wait({read})
            if read.cancelled():
                break
            if not read.result():
                return False
            received += read.result()
        return True
    finally:
        back.cancel()


async def _pass_on(
    first: bytes,
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    proxy: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Copy bytes both ways until both ends have closed."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(BUFFER_MAX):
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()

    try:
        proxy[1].write(first)
        await asyncio.gather(copy(client[0], proxy[1]), copy(proxy[0], client[1]))
    finally:
        proxy[1].close()


def _listener(address: tuple[str, int]) -> socket.socket:
    """Return a listener beside the proxy's own. Errors: OSError when another program has the port."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # what it accepts inherits this: in TIME_WAIT it would keep the port from the next Ray for a minute
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(HELD_MAX)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _listens(pid: int, port: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(
            row.status == psutil.CONN_LISTEN and row.laddr.port == port
            for row in psutil.Process(pid).net_connections(kind="tcp")
        )
    return False


def _allow_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
