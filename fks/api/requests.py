"""What one listener of `WS /ws` asked for and nobody has done yet.

What it says is read while its requests wait for room: the answers to checks (`window.py`) come between them, and a
window that is full opens by nothing else. Only who asks for more than REQUESTS_SIZE without waiting is not read any
further.
"""

from __future__ import annotations

import asyncio
from collections import deque

#: Characters that may wait: the largest number of subscriptions, said one by one.
REQUESTS_SIZE = 512 * 1024


class Requests:
    """What a client asked for and has no answer to, in its order."""

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
    return len(text) + 100  # an empty one takes room too
