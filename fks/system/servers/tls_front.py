"""`python -m fks.system.servers.tls_front CERT KEY KIND=HOST:PORT=SOCKET…`: TLS in front of PostgreSQL and Redis.

The embedded programs are built without TLS and listen on unix sockets only. KIND is `postgres`, where a client asks for
TLS in PostgreSQL's own protocol first, or `redis`, where it begins at once. A client without TLS gets nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import struct
import sys
from dataclasses import dataclass

HANDSHAKE_S = 10.0
CLOSE_S = 5.0  # for the last bytes to a client
CONNECTIONS_MAX = 600  # of both together; PostgreSQL itself takes 150
CHUNK = 1 << 16
_ASK = struct.Struct("!II")
_SSL, _GSS = 80877103, 80877104  # codes of PostgreSQL's SSLRequest and GSSENCRequest
_REFUSED = b"SFATAL\0VFATAL\0C28000\0Mthis server takes connections with TLS only: add sslmode=verify-full\0\0"


@dataclass(frozen=True, slots=True)
class TlsFront:
    """One address, and the unix socket behind it."""

    kind: str
    host: str
    port: int
    target: str

    @staticmethod
    def parse(text: str) -> TlsFront:
        """Return the front that an argument names."""
        kind, address, target = text.split("=", 2)
        host, _, port = address.rpartition(":")
        return TlsFront(kind, host, int(port), target)

    def __str__(self) -> str:
        return f"{self.kind}={self.host}:{self.port}={self.target}"


class TlsFronts:
    """Accepts on every front until cancelled. Soft state: the connections."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._free = asyncio.Semaphore(CONNECTIONS_MAX)

    async def serve(self, front: TlsFront) -> None:
        """Accept connections of one front. Errors: OSError when the address is taken."""
        family = socket.AF_INET6 if ":" in front.host else socket.AF_INET
        with socket.create_server((front.host, front.port), family=family, backlog=128) as listener:
            listener.setblocking(False)
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._free.acquire()
                    try:
                        accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
                    except OSError:  # the client has gone, or no file descriptor is left
                        self._free.release()
                        await asyncio.sleep(0.05)
                        continue
                    tasks.create_task(self._connection(front, accepted))

    async def _connection(self, front: TlsFront, accepted: socket.socket) -> None:
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            with contextlib.suppress(OSError, EOFError):  # ssl.SSLError and TimeoutError are OSErrors
                await self._relay(front, accepted)
        finally:
            accepted.close()
            self._free.release()

    async def _relay(self, front: TlsFront, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(HANDSHAKE_S):
            if front.kind == "postgres" and not await _asks_for_tls(accepted):
                return
            reader = asyncio.StreamReader(limit=CHUNK)
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted, ssl=self._context)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(front.target, limit=CHUNK)
        except OSError:
            transport.abort()
            raise
        ways = [_copy(reader, server_writer), _copy(server_reader, writer)]
        tasks = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            server_writer.close()
            writer.close()
            with contextlib.suppress(OSError):  # what the server said last has to reach the client
                async with asyncio.timeout(CLOSE_S):
                    await writer.wait_closed()
            transport.abort()


async def _asks_for_tls(accepted: socket.socket) -> bool:
    """Answer PostgreSQL's first message; return whether TLS follows. Only that message is read: bytes that a stranger
    put behind it are no part of the session."""
    loop = asyncio.get_running_loop()
    while True:
        length, code = _ASK.unpack(await _exactly(accepted, _ASK.size))
        if (length, code) == (_ASK.size, _SSL):
            await loop.sock_sendall(accepted, b"S")
            return True
        if (length, code) != (_ASK.size, _GSS):
            await loop.sock_sendall(accepted, b"E" + struct.pack("!I", len(_REFUSED) + 4) + _REFUSED)
            return False
        await loop.sock_sendall(accepted, b"N")


async def _exactly(accepted: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not (chunk := await asyncio.get_running_loop().sock_recv(accepted, size - len(found))):
            raise EOFError
        found += chunk
    return found


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while chunk := await source.read(CHUNK):
        target.write(chunk)
        await target.drain()


async def _run(cert: str, key: str, fronts: list[TlsFront]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    served = TlsFronts(context)
    tasks = [asyncio.create_task(served.serve(front)) for front in fronts]
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: [task.cancel() for task in tasks])
    ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in ended:
        if not task.cancelled():
            task.result()


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], sys.argv[2], [TlsFront.parse(text) for text in sys.argv[3:]]))
