"""Metrics of the tree: events of its children, time to detect an end, time to recover."""

from __future__ import annotations

from collections.abc import Callable

from fks.model.ports import Meter
from fks.supervision.exits import How

_COUNTERS = {
    "started": "fks_actor_starts_total",
    "adopted": "fks_actor_adoptions_total",
    "escalated": "fks_actor_escalations_total",
}
_BY_HOW = {"exited": "fks_actor_exits_total", "restarted": "fks_actor_restarts_total"}
_UP = frozenset({"started", "adopted"})
_DOWN = frozenset({"exited", "stopped"})


class TreeCounters:
    """Counts the tree's events and measures recovery. Soft state: when each child that is down was seen to end.

    Called for every event; one without a metric of its own changes nothing. `monotonic` returns seconds.
    """

    def __init__(self, meter: Meter, monotonic: Callable[[], float]) -> None:
        self._meter = meter
        self._monotonic = monotonic
        self._ended: dict[str, tuple[float, str]] = {}

    def expect(self, child: str) -> None:
        """Begin a child's counters at zero: an increase from nothing would be no increase to Prometheus."""
        for name in _COUNTERS.values():
            self._meter.count(name, 0.0, child=child)
        for name in _BY_HOW.values():
            for how in How:
                self._meter.count(name, 0.0, child=child, how=how.value)

    def forget(self, child: str) -> None:
        """Let a child that left the tree vanish from the gauges: it is not down."""
        for name in ("fks_actor_up", "fks_actor_heartbeat_age_seconds"):
            self._meter.remove(name, child=child)
        self._ended.pop(child, None)

    def note(self, child: str, event: str, *, how: str = "", unseen_s: float | None = None) -> None:
        """Count one event of `child` (the names of `actor_events`). `how`: what ended it; `unseen_s`: how long it had
        given no sign of life when that was noted."""
        if event in _COUNTERS:
            self._meter.count(_COUNTERS[event], child=child)
        if event in _BY_HOW:
            self._meter.count(_BY_HOW[event], child=child, how=how or "crash")
        if event in _UP | _DOWN:
            self._meter.gauge("fks_actor_up", float(event in _UP), child=child)
        if event == "exited":
            self._ended.setdefault(child, (self._monotonic(), how or "crash"))
            if unseen_s is not None:
                self._meter.observe("fks_actor_detection_seconds", unseen_s, how=how or "crash")
        elif event in _UP and (ended := self._ended.pop(child, None)) is not None:
            self._meter.observe("fks_actor_recovery_seconds", self._monotonic() - ended[0], how=ended[1])
        elif event == "stopped":
            self._ended.pop(child, None)
        elif event == "removed":
            self.forget(child)
