"""Count of the last sixty seconds, to the second."""

from __future__ import annotations

from collections import deque


class LastMinute:
    """Counts per second, of the last sixty. Bounded: sixty numbers. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque(maxlen=60)

    def add(self, count: int, now_s: float) -> None:
        """Count what happens now."""
        second = int(now_s)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, self._seconds[-1][1] + count)
        else:
            self._seconds.append((second, count))

    def total(self, now_s: float) -> int:
        """Return the count of the last sixty seconds."""
        first = int(now_s) - 59
        return sum(count for second, count in self._seconds if second >= first)
