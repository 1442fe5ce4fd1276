"""Servers for the deep checks: an NTP server, and HTTP services that answer as a test sets them."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

_EPOCH = 2_208_988_800


@dataclass
class HttpService:
    """An HTTP service on loopback. `answer` is its status line and headers; `asked` are the requests it received."""

    port: int = 0
    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    is_silent: bool = False
    asked: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def http_service() -> AsyncIterator[HttpService]:
    """Give a service that answers 200 until it is set otherwise."""
    service = HttpService()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        service.asked.append(await reader.readuntil(b"\r\n\r\n"))
        if service.is_silent:
            await reader.read()  # until the client gives up
        else:
            writer.write(service.answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    service.port = server.sockets[0].getsockname()[1]
    try:
        yield service
    finally:
        server.close()


@dataclass
class NtpServer:
    """An NTP server on loopback whose clock is `ahead_s` ahead of the time `now_s` that it is given."""

    now_s: Any
    ahead_s: float = 0.0
    is_silent: bool = False
    address: str = ""


@asynccontextmanager
async def ntp_server(now_s: Any) -> AsyncIterator[NtpServer]:
    """Give a server that answers with the time of `now_s()`."""
    server = NtpServer(now_s)

    class Protocol(asyncio.DatagramProtocol):
        transport: Any = None

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            if not server.is_silent:
                now = server.now_s() + server.ahead_s + _EPOCH
                stamp = struct.pack("!II", int(now) % 2**32, int((now % 1) * 2**32))
                self.transport.sendto(bytes([0x24, 2]) + bytes(22) + data[40:48] + stamp + stamp, addr)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
    server.address = f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    try:
        yield server
    finally:
        transport.close()
