"""An HTTP server that stands for Serve's proxy: it listens with SO_REUSEPORT, and answers with its pid.

`python -m tests.support.small_proxy PORT LOG`: each request's first line is appended to LOG before it is answered.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path


async def _serve(port: int, log: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            length = 0
            while (header := await reader.readline()).strip():
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            body = await reader.readexactly(length)
            with log.open("ab") as file:
                file.write(line.split()[1] + b" " + str(len(body)).encode() + b"\n")
            if line.split()[1] == b"/slow":
                await asyncio.sleep(60.0)
            text = str(os.getpid()).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))
            await writer.drain()
        writer.close()

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    async with await asyncio.start_server(answer, sock=listener, backlog=512) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
