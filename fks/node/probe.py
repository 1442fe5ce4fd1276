"""Small questions to a service over a socket, without an HTTP library in the keeper."""

from __future__ import annotations

import asyncio

TIMEOUT_S = 1.5


async def listens(host: str, port: int) -> bool:
    """Return whether somebody accepts connections there."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


async def http_get(host: str, port: int, path: str, *, limit: int = 65536) -> tuple[int, bytes]:
    """Return status and body of a GET. Errors: OSError when there is no answer in TIMEOUT_S."""
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, port)
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
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise OSError(f"{host}:{port} does not speak HTTP")
    return int(words[1]), body
