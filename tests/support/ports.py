"""Fakes of the ports of all packages: strict where it matters, with inspectable state."""

from __future__ import annotations

from dataclasses import dataclass, field

from fks.model.errors import BugError
from fks.model.metrics import METRICS


@dataclass
class RecordingMeter:
    """A Meter that keeps what was counted: `values[name, (("label", "value"), …)]`. Unknown names and labels raise."""

    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = field(default_factory=dict)
    observed: dict[str, list[float]] = field(default_factory=dict)

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        key = self._key(name, "counter", labels)
        self.values[key] = self.values.get(key, 0.0) + value

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.values[self._key(name, "gauge", labels)] = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        self._key(name, "histogram", labels)
        self.observed.setdefault(name, []).append(value)

    def remove(self, name: str, **labels: str) -> None:
        self.values.pop(self._key(name, "gauge", labels), None)

    def total(self, name: str, **labels: str) -> float:
        """Return the sum over every series of `name` that carries `labels`."""
        wanted = set(labels.items())
        return sum(value for (known, has), value in self.values.items() if known == name and wanted <= set(has))

    @staticmethod
    def _key(name: str, kind: str, labels: dict[str, str]) -> tuple[str, tuple[tuple[str, str], ...]]:
        row = METRICS.get(name)
        if row is None or row.kind != kind or set(row.labels) != set(labels):
            raise BugError(f"{kind} {name} with labels {sorted(labels)} is not in fks.model.metrics")
        return name, tuple(sorted(labels.items()))


@dataclass
class CollectingLog:
    """A Log that keeps its lines: (level, event, fields)."""

    lines: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)

    def debug(self, event: str, **fields: object) -> None:
        self.lines.append(("debug", event, fields))

    def info(self, event: str, **fields: object) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: object) -> None:
        self.lines.append(("error", event, fields))

    def events(self, level: str | None = None) -> list[str]:
        """Return the names of the events logged, of one level or all."""
        return [event for known, event, _ in self.lines if level in (None, known)]


@dataclass
class TestLease:
    """A lease that the test holds, or does not."""

    __test__ = False
    name: str
    epoch: int
    is_held: bool = True

    def holds(self) -> bool:
        return self.is_held

    def held_within(self, seconds: float | None) -> bool:
        return True
