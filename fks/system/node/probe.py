"""Probes of a service over a socket, without an HTTP library in the keeper."""

from __future__ import annotations

import asyncio
import ssl

TIMEOUT_S = 1.5


async def listens(host: str, port: int) -> bool:
    """Return whether a program accepts connections there."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


async def http_get(
    host: str, port: int, path: str, *, limit: int = 65536, tls: ssl.SSLContext | None = None
) -> tuple[int, bytes]:
    """Return status and body of a GET, by HTTPS with `tls`. Errors: OSError when there is no answer in TIMEOUT_S."""
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, port, ssl=tls)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
            answer = await reader.read(limit)
            while chunk := await reader.read(limit):
                if len(answer) > limit:
                    break
                answer += chunk
        finally:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status_line = head.split(b" ", 2)
    if len(status_line) < 2 or not status_line[1].isdigit():
        raise OSError(f"{host}:{port} does not answer in HTTP")
    return int(status_line[1]), body
