"""Backoff: the wait after each failure in a row. Pure; the random draw for jitter is an argument."""

from __future__ import annotations

from dataclasses import dataclass

_DOUBLINGS_MAX = 60  # 2.0 ** 60 s is longer than any `max_s`; beyond it the power would overflow


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from `first_s` up to `max_s`, each less up to the share `jitter` of it."""

    first_s: float
    max_s: float
    jitter: float = 0.0

    def wait_s(self, failures: int, *, draw: float = 0.0) -> float:
        """Return the wait after the n-th failure in a row; 0.0 when there was none.

        `draw` in [0, 1): 0 takes nothing off, towards 1 the whole share `jitter`.
        """
        if failures < 1:
            return 0.0
        full_s = min(self.first_s * 2.0 ** min(failures - 1, _DOUBLINGS_MAX), self.max_s)
        return full_s * (1.0 - self.jitter * draw)

    def next_s(self, wait_s: float) -> float:
        """Return the wait that follows a wait of `wait_s`; `first_s` after 0.0, which is no failure."""
        return min(max(wait_s * 2.0, self.first_s), self.max_s)
