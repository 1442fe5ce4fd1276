"""Polls the heartbeats of many children in one task; only a child that is not plainly well wakes its own runner.

A task that wakes for every beat of every child costs more than all that it then does.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from fks.clock import Clock

POLLS = 4  # in one heartbeat interval


class Polled(Protocol):
    """A child whose heartbeat can be read."""

    def check_heartbeat(self) -> bool:
        """Return whether the heartbeat shows that the child is well. Never waits."""
        ...


@dataclass(slots=True)
class _Entry:
    due_s: float
    is_suspect: asyncio.Future[Any]


class HeartbeatPoller:
    """Soft state: the children that are polled, and when each is due."""

    def __init__(self, clock: Clock, heartbeat_s: float) -> None:
        self._clock, self._heartbeat_s = clock, heartbeat_s
        self._polled: dict[Polled, _Entry] = {}

    async def run(self) -> None:
        """Poll the children that are due, POLLS times in a heartbeat interval, without an end."""
        while True:
            await self._clock.sleep(self._heartbeat_s / POLLS)
            now_s = self._clock.monotonic()
            for child, entry in list(self._polled.items()):
                if entry.due_s > now_s:
                    continue
                if _is_well(child):
                    entry.due_s = self._next_s(now_s)
                elif not entry.is_suspect.done():
                    entry.is_suspect.set_result(None)

    async def until_suspect(self, child: Polled, ended: asyncio.Task[Any]) -> None:
        """Return at the first poll, a heartbeat interval from now or later, that does not find the child well, or when
        `ended` is done."""
        entry = _Entry(self._next_s(self._clock.monotonic()), asyncio.get_running_loop().create_future())
        self._polled[child] = entry
        try:
            await asyncio.wait({ended, entry.is_suspect}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._polled.pop(child, None)

    def _next_s(self, now_s: float) -> float:
        """Return a time half a poll before the next heartbeat: the poll that follows it is on time."""
        return now_s + self._heartbeat_s * (1 - 0.5 / POLLS)


def _is_well(child: Polled) -> bool:
    """Return what the heartbeat shows; an unexpected error must not keep the other children from being polled."""
    try:
        return child.check_heartbeat()
    except Exception:
        return False  # its own runner calls it, meets the same error and logs it
