"""Offset of the bridge's clock, measured by ping and pong."""

from __future__ import annotations

from collections import deque

SAMPLES_MAX = 8
WARN_MS = 2_000
SKEW_MS = 5_000


class ClockOffset:
    """The bridge's clock minus ours, from the quickest of the last 8 round trips: it has the least uncertainty."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES_MAX)

    def add(self, *, sent_ms: int, round_trip_s: float, bridge_ms: int) -> None:
        """Add one round trip: our time when it began, its duration, and the bridge's time in the answer."""
        self._samples.append((round_trip_s, bridge_ms - sent_ms - round(round_trip_s * 500)))

    @property
    def ms(self) -> int:
        """The offset; 0 before the first sample."""
        return min(self._samples)[1] if self._samples else 0

    @property
    def round_trips_s(self) -> tuple[float, ...]:
        """The last round trips, oldest first."""
        return tuple(took for took, _ in self._samples)
