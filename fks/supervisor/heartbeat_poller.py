"""One waking for many children: each is glanced at when its beat is due, and only one that is not plainly well is woken
for.

A task that wakes for every beat of every child costs more than all that it then does.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from fks.clock import Clock

A_BEAT = 4  # rounds in one heartbeat


class Watched(Protocol):
    """A child under watch."""

    def glance(self) -> bool:
        """Return whether it is plainly well. Never waits."""
        ...


@dataclass(slots=True)
class _Visit:
    due_s: float
    wanted: asyncio.Future[Any]


class Rounds:
    """Soft state: who is waited for, and when they are due."""

    def __init__(self, clock: Clock, heartbeat_s: float) -> None:
        self._clock, self._heartbeat_s = clock, heartbeat_s
        self._visits: dict[Watched, _Visit] = {}

    async def run(self) -> None:
        """Go round for ever."""
        while True:
            await self._clock.sleep(self._heartbeat_s / A_BEAT)
            now_s = self._clock.monotonic()
            for child, visit in list(self._visits.items()):
                if visit.due_s > now_s:
                    continue
                if _is_plainly_well(child):
                    visit.due_s = now_s + self._heartbeat_s * (1 - 0.5 / A_BEAT)  # the round after next is a beat later
                elif not visit.wanted.done():
                    visit.wanted.set_result(None)

    async def needed(self, child: Watched, ended: asyncio.Task[Any]) -> None:
        """Return when somebody has to look closer: at the first glance, a beat from now or later, that does not find
        the child well, or when `ended` is."""
        wanted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._visits[child] = _Visit(self._clock.monotonic() + self._heartbeat_s * (1 - 0.5 / A_BEAT), wanted)
        try:
            await asyncio.wait({ended, wanted}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._visits.pop(child, None)


def _is_plainly_well(child: Watched) -> bool:
    """Return what a glance tells; one that fails for a reason nobody foresaw must not blind us to the other
    children."""
    try:
        return child.glance()
    except Exception:
        return False  # its own watch looks closer, fails the same way, and says so
