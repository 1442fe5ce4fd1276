"""What an exchange's connections count, as metrics."""

from __future__ import annotations

from collections import Counter

from fks.model.market import ConnectionCounters
from fks.model.ports import Meter

KINDS_MAX = 50  # unknown kinds and fields with a series of their own; a peer that invents more fills no monitor
OTHERS = "other"


class Counts:
    """Hands the ConnectionCounters's numbers to the meter, each difference once. One loop drives it."""

    def __init__(self, counters: ConnectionCounters, meter: Meter) -> None:
        self._counters, self._meter = counters, meter
        self._told: dict[str, Counter[str]] = {}

    def tell(self) -> None:
        """Count what was counted since the last call."""
        self._rise(
            "fks_market_dropped_total", "channel", Counter({c.value: n for c, n in self._counters.overflowed.items()})
        )
        self._rise(
            "fks_market_conflated_total", "channel", Counter({c.value: n for c, n in self._counters.conflated.items()})
        )
        self._rise("fks_market_unknown_total", "kind", self._counters.unknown)

    def _rise(self, metric: str, label: str, now: Counter[str]) -> None:
        told = self._told.setdefault(metric, Counter())
        for place, (name, count) in enumerate(list(now.items())):  # a Counter keeps the order in which names came
            if count > told[name]:
                shown = name if place < KINDS_MAX else OTHERS
                self._meter.count(metric, count - told[name], **{label: shown})
                told[name] = count
