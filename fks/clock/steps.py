"""Ages on monotonic time of moments that were noted on the wall clock, and the steps of that clock."""

from __future__ import annotations

from fks.clock.real import Clock

_NS = 1_000_000_000
#: two readings of a busy process are less far apart than this, seconds: what is more is a step
_STEP_MIN_NS = _NS
_STEPS_MAX = 16


class ClockSteps:
    """Measures the steps of the wall clock since it was made, so that no age contains them.

    Of the time before that the wall clock alone knows: across a restart there is nothing else.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # the offsets of the wall clock from monotonic time, each with the monotonic time from which on it holds
        self._offsets = [(float("-inf"), self._offset_ns())]

    @property
    def now_s(self) -> float:
        """Return monotonic time."""
        return self._clock.monotonic()

    def at_s(self, at_ns: int) -> float:
        """Return the monotonic time at which the wall clock showed `at_ns`, at most now. Of a moment that a clock which
        was set back has shown twice: the second time."""
        self._look()
        until_s = now_s = self.now_s
        for from_s, offset_ns in reversed(self._offsets):
            at_s = (at_ns - offset_ns) / _NS
            if from_s <= at_s <= until_s:
                return at_s
            until_s = from_s
        return min((at_ns - self._offsets[-1][1]) / _NS, now_s)

    def age_s(self, at_ns: int) -> float:
        """Return how long ago the wall clock showed `at_ns`, at least 0."""
        return self.now_s - self.at_s(at_ns)

    def since_s(self) -> float:
        """Return how long ago the last step was noticed; infinite when there was none."""
        self._look()
        return self.now_s - self._offsets[-1][0]

    @property
    def spread_ns(self) -> int:
        """Return how far the steps moved the wall clock, at most: by another clock, a moment noted on this one may lie
        so far away."""
        self._look()
        offsets = [offset_ns for _, offset_ns in self._offsets]
        return max(offsets) - min(offsets)

    def _look(self) -> None:
        offset_ns = self._offset_ns()
        if abs(offset_ns - self._offsets[-1][1]) > _STEP_MIN_NS:
            self._offsets = [*self._offsets[1 - _STEPS_MAX :], (self.now_s, offset_ns)]

    def _offset_ns(self) -> int:
        return self._clock.now_ns() - round(self._clock.monotonic() * _NS)
