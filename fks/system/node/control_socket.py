"""The keeper's control socket: a unix socket (0600), one JSON line in, one JSON line out.

Operations: {"op": "status"}, {"op": "progress"}, {"op": "stop"}, {"op": "restart-service", "name": …}. The answer has
"ok", and "error" when it is false.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

from fks.model.errors import FksError, OutageError

LINE_MAX = 4 * 1024 * 1024
IDLE_S = 60.0  # a connection without a request for this long is closed
Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class ControlSocket:
    """The listening side. One request at a time per connection; a malformed request is answered with an error."""

    def __init__(self, path: Path, handle: Handler) -> None:
        self._path = path
        self._handle = handle
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen. Call only under the keeper's lock: a file at the path is a leftover then."""
        self._path.unlink(missing_ok=True)
        mask = os.umask(0o177)  # the file must never be open to others, not even for a moment
        try:
            self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=LINE_MAX)
        finally:
            os.umask(mask)

    async def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, ValueError):
            while line := await _line(reader):
                writer.write(orjson.dumps(await self._answer(line), default=str) + b"\n")
                await writer.drain()
        writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = orjson.loads(line)
            if not isinstance(request, dict):
                return {"ok": False, "error": "a request is one JSON object"}
            return {"ok": True, **await self._handle(request)}
        except orjson.JSONDecodeError:
            return {"ok": False, "error": "a request is one JSON object"}
        except FksError as error:
            return {"ok": False, "error": str(error)}
        except Exception as error:  # a mistake of ours is answered, the connection goes on
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}


async def _line(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(IDLE_S):
        return await reader.readline()


def ask(path: Path, op: str, *, timeout_s: float = 5.0, **fields: object) -> dict[str, Any]:
    """Return the keeper's answer. Errors: OutageError when no keeper listens or answers in time; FksError when it
    refused."""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(timeout_s)
            link.connect(str(path))
            link.sendall(orjson.dumps({"op": op, **fields}) + b"\n")
            data = b""
            while not data.endswith(b"\n"):
                chunk = link.recv(65536)
                if not chunk:
                    break
                data += chunk
        answer = orjson.loads(data)
    except (OSError, ValueError) as error:
        raise OutageError("no keeper answers", remedy="start FKS with 'fks up'") from error
    if not answer.get("ok"):
        raise FksError(str(answer.get("error", "the keeper refused")))
    found: dict[str, Any] = answer
    return found
