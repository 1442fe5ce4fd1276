"""How long to wait before a market data socket is dialled again. Pure: the times come from outside.

| What ended | The next dial |
|---|---|
| a connection that gave data, once in STEADY_S | at once |
| one that gave data for RETRY_MAX_S or longer | as far from this dial as the last failure said; it is no failure itself
|
| any other: a dial that was refused, a connection cut soon | twice as far from this dial as the last one, RETRY_MAX_S
at most |
| more than PATIENCE of these in a row | twice as far again, RETRY_LONG_S at most |

A connection that gave data for STEADY_S ends the row. What a connection stood counts as waited, so that cuts some
seconds apart cost no waiting; what gives data and dies at once is dialled ever more seldom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

RETRY_FIRST_S, RETRY_MAX_S, RETRY_LONG_S = 0.2, 5.0, 30.0
PATIENCE = 12  # failures, about three quarters of a minute: an exchange that is started again is back by then
STEADY_S = 30.0


@dataclass(slots=True)
class Redials:
    """The ends of one socket's connections, as far as they matter for its next dial."""

    failures: int = 0
    _free_s: float = -math.inf  # when a dial at once was last given

    def wait_s(self, *, began_s: float, now_s: float, has_heard: bool) -> float:
        """Note that the connection dialled at `began_s` is over; return the seconds until the next dial, without
        jitter."""
        stood_s = now_s - began_s
        if has_heard and stood_s >= STEADY_S:
            self.failures = 0
        if has_heard and now_s - self._free_s >= STEADY_S:
            self._free_s = now_s
            return RETRY_FIRST_S
        if not has_heard or stood_s < RETRY_MAX_S:
            self.failures += 1
        return max(RETRY_FIRST_S, _apart_s(self.failures) - stood_s)


def _apart_s(failures: int) -> float:
    patient_s = min(RETRY_FIRST_S * 2.0 ** min(failures, PATIENCE), RETRY_MAX_S)
    return min(patient_s * 2.0 ** min(max(0, failures - PATIENCE), 10), RETRY_LONG_S)
