"""Work for a client that may leave: it ends then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Final, TypeVar

from fastapi import Request
from starlette.responses import Response

T = TypeVar("T")

#: between two looks whether the client is still there
DISCONNECT_S: Final = 0.5
#: the answer to a client that left, as nginx records it
LEFT: Final = 499


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | Response:
    """Return the result of work, which ends when the client leaves: then a response that it does not read."""
    working = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({working}, timeout=DISCONNECT_S))[0]:
            if await request.is_disconnected():
                return Response(status_code=LEFT)
        return await working
    finally:
        working.cancel()


async def until_left(request: Request, first: T, events: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Yield `first` and the events after it; when the client leaves, `events` is closed."""
    event: T | None = first
    coming: asyncio.Future[T | None] | None = None
    try:
        while event is not None:
            yield event
            coming = asyncio.ensure_future(anext(events, None))
            while not (await asyncio.wait({coming}, timeout=DISCONNECT_S))[0]:
                if await request.is_disconnected():
                    return
            event = coming.result()
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})
        await events.aclose()
