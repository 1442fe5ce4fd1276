"""Who of a collector's sockets asks next for leave to dial: who waits longest, quotes and books as if they had come
later.

One asks at a time, so that whoever comes and is more urgent waits for one leave at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

ASIDE_S = 60.0  # how much later: trades go first, and nobody waits for ever


@dataclass(eq=False, slots=True)
class _Place:
    since_s: float
    is_aside: Callable[[], bool]

    @property
    def due_s(self) -> float:
        return self.since_s + (ASIDE_S if self.is_aside() else 0.0)


class Turns:
    """Turns at `connect_permit`. One loop drives it; who is cancelled gives up its place."""

    def __init__(self, connect_permit: Callable[[], Awaitable[None]], monotonic: Callable[[], float]) -> None:
        self._may_dial, self._monotonic = connect_permit, monotonic
        self._places: dict[_Place, None] = {}
        self._asking: _Place | None = None
        self._changed = asyncio.Event()

    async def take(self, is_aside: Callable[[], bool]) -> None:
        """Return when a socket may be dialled; `is_aside`: whether it is one without trades, as of now. Errors: those
        of `connect_permit`."""
        mine = _Place(self._monotonic(), is_aside)
        self._places[mine] = None
        try:
            while self._asking is not None or min(self._places, key=lambda place: place.due_s) is not mine:
                await self._changed.wait()
            self._asking = mine
            await self._may_dial()
        finally:
            del self._places[mine]
            if self._asking is mine:
                self._asking = None
            self._changed.set()
            self._changed = asyncio.Event()
