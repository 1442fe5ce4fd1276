"""Requests of one `WS /ws` client that wait for their answers.

Its messages are read while its requests wait: the answers to checks (`window.py`) come between them, and only they
open a full window. Reading stops only while more than REQUESTS_SIZE characters of requests wait.
"""

from __future__ import annotations

import asyncio
from collections import deque

#: Characters that may wait: the largest number of subscriptions, requested one by one.
REQUESTS_SIZE = 512 * 1024


class Requests:
    """Requests of a client without an answer, in its order."""

    def __init__(self) -> None:
        self._texts: deque[str] = deque()
        self._size = 0
        self._changed = asyncio.Condition()

    async def put(self, text: str) -> None:
        """Add one; waits while REQUESTS_SIZE of them wait, so that nothing more is read from the socket."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._size < REQUESTS_SIZE)
            self._texts.append(text)
            self._size += _size_of(text)
            self._changed.notify_all()

    async def get(self) -> str:
        """Return the oldest, once there is one."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._texts))
            text = self._texts.popleft()
            self._size -= _size_of(text)
            self._changed.notify_all()
            return text


def _size_of(text: str) -> int:
    return len(text) + 100  # an empty one takes memory too
