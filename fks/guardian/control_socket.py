"""The guardian's control socket: a unix socket for this user alone, one JSON object a line each way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from fks.model.errors import FksError
from fks.model.ports import Log

_LINE_MAX = 65_536


class GuardianSocket:
    """Serves `answer`. Answers carry "ok"; a refusal has "error", "remedy" and "code". Callers do not disturb each
    other."""

    def __init__(self, path: Path, answer: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]], log: Log) -> None:
        self._path = path
        self._answer = answer
        self._log = log
        self._server: asyncio.AbstractServer | None = None
        self._talks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Listen, in place of a dead predecessor's socket. Errors: OSError."""
        self._path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)  # the supervisor runs one guardian at a time
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._talk, self._path, limit=_LINE_MAX)
        finally:
            os.umask(mask)

    async def close(self) -> None:
        """Stop listening, hang up, remove the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
        for task in list(self._talks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def is_open(self) -> bool:
        return self._server is not None and self._server.is_serving()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one caller until it hangs up. One that goes away early does not end what it asked for."""
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._reply(line), default=str).encode() + b"\n")
                await writer.drain()
        except (ValueError, OSError):  # a line without end, a caller gone
            pass
        finally:
            self._talks.discard(task)
            writer.close()

    async def _reply(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            return {"ok": False, "error": "not a JSON object", "remedy": 'send {"op": "status"}', "code": "OP_UNKNOWN"}
        try:
            return await self._answer(request)
        except FksError as error:
            code = getattr(error, "code", "FAILED")
            return {"ok": False, "error": error.message, "remedy": error.remedy, "code": code}
        except Exception as error:  # the caller gets an answer, whatever was raised
            self._log.error("guardian.request_failed", error=f"{type(error).__name__}: {error}")
            return {
                "ok": False,
                "error": f"{type(error).__name__}: {error}",
                "remedy": "see 'fks logs guardian'",
                "code": "BUG",
            }
