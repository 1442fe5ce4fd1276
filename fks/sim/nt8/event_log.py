"""The events that the bridge keeps for its clients: their numbers, the newest of them, and how far they are acknowledged.

In memory only: what is added here is in the journal.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from fks.sim.nt8.journal import EVENTS_MAX

Message = dict[str, Any]


class EventLog:
    """Events in order of their numbers, the newest EVENTS_MAX of them. `acked`: stored by the control client."""

    def __init__(self) -> None:
        self.last_seq = 0
        self.acked = 0
        self._kept: deque[Message] = deque()

    @property
    def oldest_seq(self) -> int:
        """Return the first event that is kept; last_seq + 1 when none is."""
        return int(self._kept[0]["seq"]) if self._kept else self.last_seq + 1

    def after(self, seq: int) -> list[Message]:
        """Return the kept events with a higher number, oldest first."""
        return [event for event in self._kept if event["seq"] > seq]

    def restore(self, event: Message) -> None:
        """Add an event of the journal, with the number that it has there."""
        self._kept.append(event)
        self.last_seq = int(event["seq"])

    def add(self, event: Message) -> None:
        """Add the next event."""
        self.restore(event)
        if len(self._kept) > EVENTS_MAX:
            self._kept.popleft()

    def acknowledge(self, seq: int) -> bool:
        """Record that a client has stored the events up to a number; return whether that is news."""
        is_news = seq > self.acked
        self.acked = max(self.acked, seq)
        return is_news

    def drop_acknowledged(self) -> None:
        """Forget the events that are acknowledged."""
        while self._kept and self._kept[0]["seq"] <= self.acked:
            self._kept.popleft()
