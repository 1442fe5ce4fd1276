"""Metrics: each process counts in a registry of its own, a snapshot rides on health, and one merger adds them up.

A snapshot maps a series (`fks_fills_total{symbol="BTCUSDT"}`) to its value; it is flat and JSON-able, so it crosses
Ray, Redis and a restart alike. The label `component` is added when snapshots are merged, not in each process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fks.model.errors import BugError
from fks.model.metrics import METRICS, Metric

#: Redis key of the merged text of all actors, written by the monitor actor.
TEXT_KEY = "fks:metrics"
#: Redis key prefix of one gateway replica's snapshot; the component's name follows.
SNAPSHOT_PREFIX = "fks:metrics:"
#: A component whose snapshot has not changed for this long is silent: its gauges are not shown any more.
SILENT_S = 30.0
#: Seconds, from a venue's answer on loopback to a slow reconciliation.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

Snapshot = Mapping[str, float]
_Instrument = Counter | Gauge | Histogram


class PrometheusMeter:
    """The meter of one process (port `fks.model.ports.Meter`), over a prometheus_client registry of its own.

    `base` is a snapshot of an earlier life of the same component: counters and histograms go on from it.
    Errors: BugError when a name or its labels are not a row of `fks.model.metrics`.
    """

    def __init__(self, component: str, base: Snapshot | None = None) -> None:
        self.component = component
        self._registry = CollectorRegistry(auto_describe=False)
        self._instruments: dict[str, _Instrument] = {}
        self._base = {key: float(value) for key, value in (base or {}).items() if is_monotonic(key)}

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add `value` to a counter."""
        child = self._child(name, "counter", labels)
        assert isinstance(child, Counter)
        child.inc(value)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        child = self._child(name, "gauge", labels)
        assert isinstance(child, Gauge)
        child.set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add one observation, in seconds, to a histogram."""
        child = self._child(name, "histogram", labels)
        assert isinstance(child, Histogram)
        child.observe(value)

    def remove(self, name: str, **labels: str) -> None:
        """Forget a gauge's series; harmless when there is none."""
        row = self._row(name, "gauge", labels)
        instrument = self._instruments.get(name)
        if instrument is not None and not row.labels:
            self._registry.unregister(self._instruments.pop(name))
        elif instrument is not None:
            with contextlib.suppress(KeyError):
                instrument.remove(*(labels[label] for label in row.labels))

    def snapshot(self) -> dict[str, float]:
        """Return every series of this process, base included, as plain numbers."""
        found = dict(self._base)
        for family in self._registry.collect():
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    key = series(sample.name, sample.labels)
                    found[key] = sample.value + self._base.get(key, 0.0)
        return found

    @staticmethod
    def _row(name: str, kind: str, labels: Mapping[str, str]) -> Metric:
        row = METRICS.get(name)
        if row is None or row.kind != kind or set(labels) != set(row.labels):
            raise BugError(f"{kind} {name}{sorted(labels)} is no row of fks.model.metrics", remedy="add it there first")
        return row

    def _child(self, name: str, kind: str, labels: Mapping[str, str]) -> _Instrument:
        row = self._row(name, kind, labels)
        instrument = self._instruments.get(name)
        if instrument is None:
            instrument = self._instruments[name] = self._make(row)
        return instrument.labels(**labels) if row.labels else instrument

    def _make(self, row: Metric) -> _Instrument:
        if row.kind == "histogram":
            return Histogram(row.name, row.help, row.labels, registry=self._registry, buckets=BUCKETS)
        return (Counter if row.kind == "counter" else Gauge)(row.name, row.help, row.labels, registry=self._registry)


def parse_snapshot(kept: bytes | None) -> dict[str, float]:
    """Return the numbers of a snapshot that was kept as JSON; values that are not numbers are left out (other programs
    may write to Redis)."""
    try:
        found = orjson.loads(kept or b"{}")
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        key: float(value)
        for key, value in found.items()
        if isinstance(value, int | float) and family_of(key) is not None
    }


def series(name: str, labels: Mapping[str, str]) -> str:
    """Return the name of one series as Prometheus writes it, labels sorted and escaped."""
    inner = ",".join(f'{key}="{_escape(value)}"' for key, value in sorted(labels.items()))
    return f"{name}{{{inner}}}" if inner else name


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def family_of(key: str) -> Metric | None:
    """Return the row of METRICS that a series belongs to, or None."""
    name = key.partition("{")[0]
    for suffix in ("", "_bucket", "_sum", "_count"):
        if name.endswith(suffix) and (row := METRICS.get(name.removesuffix(suffix))) is not None:
            return row
    return None


def is_monotonic(key: str) -> bool:
    """Return whether a series only grows: counters, and all of a histogram."""
    row = family_of(key)
    return row is not None and row.kind != "gauge"


class Merger:
    """Adds the snapshots of all components up so that counters never fall when a component is restarted.

    Soft state: the last snapshot of each component, and the sum of those of its ended lives. `state` and `restore`
    carry it over the merger's own restart; without that, counters begin at zero, which Prometheus reads as a reset.
    """

    def __init__(self) -> None:
        self._ended: dict[str, dict[str, float]] = {}
        self._last: dict[str, tuple[str, dict[str, float]]] = {}

    def take(self, component: str, snapshot: Mapping[str, object], incarnation: object = None) -> None:
        """Take in the newest snapshot. A new `incarnation` (the pid), or a counter that fell, begins a new life."""
        values = {key: float(value) for key, value in snapshot.items() if isinstance(value, int | float)}
        life = "" if incarnation is None else str(incarnation)
        before = self._last.get(component)
        if before is not None and (before[0] != life or _fell(before[1], values)):
            ended = self._ended.setdefault(component, {})
            for key, value in before[1].items():
                if is_monotonic(key):
                    ended[key] = ended.get(key, 0.0) + value
        self._last[component] = (life, values)

    def forget(self, component: str) -> None:
        """Drop a component that is no longer in the tree."""
        self._last.pop(component, None)
        self._ended.pop(component, None)

    def totals(self) -> dict[str, dict[str, float]]:
        """Return, per component, every series over all its lives."""
        return {
            component: {
                **(ended := self._ended.get(component, {})),
                **{k: v + ended.get(k, 0.0) for k, v in last.items()},
            }
            for component, (_, last) in self._last.items()
        }

    def exposition(self, silent_s: Mapping[str, float] | None = None) -> str:
        """Return the Prometheus text of all components.

        `silent_s`: for how long each has published nothing new. An age grows by that time, so that a feed whose
        collector is dead does not look fresh; other gauges are left out after SILENT_S.
        """
        since = silent_s or {}
        return exposition(
            {name: _now(values, since.get(name, 0.0)) for name, values in self.totals().items()},
        )

    def state(self) -> dict[str, object]:
        """Return what `restore` needs, JSON-able."""
        return {"ended": self._ended, "last": {name: list(value) for name, value in self._last.items()}}

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from an earlier merger's `state`; anything that is not one is ignored."""
        ended, last = state.get("ended"), state.get("last")
        if isinstance(ended, dict) and isinstance(last, dict):
            self._ended = {name: dict(values) for name, values in ended.items()}
            self._last = {name: (str(pair[0]), dict(pair[1])) for name, pair in last.items()}


def joined(*texts: str) -> str:
    """Return one Prometheus text of several: each family once, and no line that is not a series of METRICS."""
    lines: dict[str, list[str]] = {}
    for text in texts:
        for line in text.splitlines():
            row = None if line.startswith("#") else family_of(line)
            if row is not None:
                lines.setdefault(row.name, []).append(line)
    return "".join(_family(METRICS[name], lines[name]) for name in METRICS if name in lines)


def _now(values: Snapshot, silent_s: float) -> dict[str, float]:
    """Return what a component's values are `silent_s` after its last snapshot."""
    found = {}
    for key, value in values.items():
        if is_monotonic(key):
            found[key] = value
        elif key.partition("{")[0].endswith("_age_seconds"):
            found[key] = value + silent_s
        elif silent_s <= SILENT_S:
            found[key] = value
    return found


def _fell(before: Snapshot, now: Snapshot) -> bool:
    """Return whether a series that only grows went back: a process never takes one away, so a missing one fell too."""
    return any(now.get(key, 0.0) < value for key, value in before.items() if is_monotonic(key))


def merge(snapshots: Mapping[str, Snapshot]) -> str:
    """Return the Prometheus text of one snapshot per component, without memory of earlier lives."""
    return exposition(snapshots)


def exposition(totals: Mapping[str, Snapshot]) -> str:
    """Return Prometheus text (format 0.0.4): families in the order of METRICS, each series with its component."""
    lines: dict[str, list[str]] = {}
    for component, values in sorted(totals.items()):
        for key, value in values.items():
            row = family_of(key)
            if row is not None:
                lines.setdefault(row.name, []).append(f"{_labelled(key, component)} {_number(value)}")
    return "".join(_family(METRICS[name], lines[name]) for name in METRICS if name in lines)


def _labelled(key: str, component: str) -> str:
    name, _, rest = key.partition("{")
    inner = rest.removesuffix("}")
    return f'{name}{{component="{_escape(component)}"{"," + inner if inner else ""}}}'


def _family(row: Metric, lines: Iterable[str]) -> str:
    return f"# HELP {row.name} {row.help}\n# TYPE {row.name} {row.kind}\n" + "".join(f"{line}\n" for line in lines)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
