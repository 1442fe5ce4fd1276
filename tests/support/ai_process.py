"""A process of a model for tests, and the way to it: the engine and the queue of an inference actor behind a socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fks.ai.engines import engine_of
from fks.ai.engines.deployment import Deployment
from fks.ai.engines.port import InferenceCall
from fks.ai.engines.queue import InferenceQueue
from fks.model.errors import OutageError

LINE_MAX = 2**24


def socket_of(folder: Path, child: str) -> Path:
    """Return the socket of a process. `folder`: a short path, as sockets need."""
    return folder / f"{child.replace(':', '-')}.sock"


def embedded(folder: Path) -> int:
    """Return how many requests for vectors of documents the processes began."""
    return sum(file.stat().st_size for file in folder.glob("*.embedded"))


async def replica(folder: Path, deployment: Deployment, child: str, delay_s: float = 0.0) -> None:
    """Serve one replica until it is killed. `delay_s`: how long vectors of documents take longer than they do."""
    engine = engine_of(deployment)
    await engine.load()
    queue, place = InferenceQueue(engine), socket_of(folder, child)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = json.loads(await reader.readline())
        if "embed" in message and not message["embed"]["is_question"]:
            with place.with_suffix(".embedded").open("ab") as count:
                count.write(b".")
            await asyncio.sleep(delay_s)
        work, left = asyncio.ensure_future(queue.call(message)), asyncio.ensure_future(reader.read())
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()  # the caller has left
        left.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            writer.write(json.dumps(await work).encode() + b"\n")
            await writer.drain()
        writer.close()

    place.unlink(missing_ok=True)
    async with await asyncio.start_unix_server(serve, place, limit=LINE_MAX) as server:
        await server.serve_forever()


def call_of(folder: Path) -> InferenceCall:
    """Return the way to the processes whose sockets are in a folder."""

    async def call(child: str, message: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            reader, writer = await asyncio.open_unix_connection(socket_of(folder, child), limit=LINE_MAX)
            try:
                writer.write(json.dumps(message).encode() + b"\n")
                await writer.drain()
                line = await reader.readline()
            finally:
                writer.close()
        except OSError as error:
            raise OutageError(f"{child} does not answer") from error
        if not line.endswith(b"\n"):
            raise OutageError(f"{child} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    return call
