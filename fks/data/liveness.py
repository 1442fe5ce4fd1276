"""How old one channel of one symbol is, and how old it may be: C7, by what was heard, never by the socket."""

from __future__ import annotations

from collections import deque
from statistics import median

_GAPS_KEPT = 64
USUAL = 20  # a channel is silent after so many of its usual gaps


class Pulse:
    """The rhythm of one channel of one symbol. Times are monotonic seconds."""

    __slots__ = ("_gaps", "_heard_s", "_limit_s", "_max_s", "_min_s")

    def __init__(self, now_s: float, min_s: float, max_s: float) -> None:
        self._heard_s = now_s
        self._gaps: deque[float] = deque(maxlen=_GAPS_KEPT)
        self._min_s, self._max_s = min_s, max_s
        self._limit_s: float | None = None

    def heard(self, now_s: float) -> None:
        """Note a message."""
        self._gaps.append(now_s - self._heard_s)
        self._heard_s = now_s
        self._limit_s = None

    def vouch(self, now_s: float) -> None:
        """Note that nothing was missed until now, though nothing was heard: silence that somebody else proved."""
        self._heard_s = max(self._heard_s, now_s)

    def touch(self, now_s: float) -> None:
        """Start anew: a subscription was just made."""
        self._heard_s = now_s
        self._gaps.clear()
        self._limit_s = None

    def age_s(self, now_s: float) -> float:
        """Return the age of the last message, or of the subscription when there was none since."""
        return max(0.0, now_s - self._heard_s)

    def limit_s(self) -> float:
        """Return the age at which the channel is stale: twenty times its usual gap, within the settings' bounds."""
        if self._limit_s is None:
            usual = USUAL * median(self._gaps) if self._gaps else 0.0
            self._limit_s = min(max(self._min_s, usual), self._max_s)
        return self._limit_s

    def is_silent(self, now_s: float) -> bool:
        """Return whether it has been silent for longer than is usual."""
        return self.age_s(now_s) > self.limit_s()
