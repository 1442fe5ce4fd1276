"""Observations that alert rules look at, read from rows and from the metrics of all components."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import orjson

from fks.clock import Clock
from fks.model.health import DOWN, UNKNOWN
from fks.model.kill import KillScope
from fks.model.timeframe import iso, to_ns
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.metrics import MetricStore
from fks.system.alerts.engine import MeasuredValue, Observed, Occurrence
from fks.system.alerts.rules import WINDOW_MAX_S, AlertRule
from fks.system.monitor.deep import FRESH_S
from fks.system.monitor.health import OWNER_SERVICES, kind_of, status_of
from fks.system.monitor.status import WELL, component_view
from fks.system.runtime import SNAPSHOTS, SNAPSHOTS_TTL_S

#: How far back occurrences are read again: a row may be committed after a later one.
BACK_S = 120.0
DRAWDOWN_EVERY_S = 30.0
_SERIES = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')
_METRICS = "fks_"
_ANY = re.compile(r"[*?\[]")


class Observer:
    """Reads what the rules need. Soft state: the drawdowns of the last half minute, and the names of the metrics that
    each component published last."""

    def __init__(self, db: Database, bus: Bus, clock: Clock) -> None:
        self._db = db
        self._bus = bus
        self._clock = clock
        self._drawdowns: list[MeasuredValue] = []
        self._drawdowns_s: float | None = None
        self._published: dict[str, frozenset[str]] = {}
        self._snapshots = MetricStore(db)
        self._has_looked = False

    async def look(self, rules: Sequence[AlertRule]) -> Observed:
        """Return what the rules are about now. The first look goes back as far as a rule can. Errors: OutageError."""
        back_s = BACK_S if self._has_looked else WINDOW_MAX_S
        names = [rule for rule in rules if rule.is_enabled]
        occurrences: list[Occurrence] = []
        for name, (query, made) in _OCCURRENCES.items():
            if any(rule.matches(name) for rule in names):
                occurrences += [made(dict(row)) for row in await self._db.fetch(query, back_s)]
        components = [component_view(dict(row)) for row in await self._db.fetch("monitor.components")]
        verdicts = [dict(row) for row in await self._db.fetch("registry.verdicts", FRESH_S)]
        measures = [*services(components, verdicts, self._clock.now_ns()), *checks(verdicts)]
        measures += [_pending(dict(row)) for row in await self._db.fetch("alerting.pending")]
        newest = {row["scope"]: row for row in reversed(await self._db.fetch("monitor.kills"))}
        for scope, row in newest.items():
            of = "" if KillScope.parse(scope).is_system else f" of {scope}"
            labels = {"scope": str(scope), "by": str(row["engaged_by"]), "reason": str(row["reason"]), "of": of}
            measures.append(MeasuredValue("kill.switch", 1.0, labels))
        measures += await self._drawdown()
        incomplete: frozenset[str] = frozenset()
        if any(rule.on.startswith(_METRICS) for rule in names):
            found, missing = await self._metrics({item["name"] for item in components})
            measures += found
            incomplete = frozenset(rule.name for rule in names if _is_incomplete(rule, missing))
        self._has_looked = True
        return Observed(self._clock.now_ns() / 1e9, measures, occurrences, incomplete)

    async def _drawdown(self) -> list[MeasuredValue]:
        now_s = self._clock.monotonic()
        if self._drawdowns_s is None or now_s - self._drawdowns_s >= DRAWDOWN_EVERY_S:
            rows = await self._db.fetch("alerting.drawdowns")
            self._drawdowns = [
                MeasuredValue("account.drawdown_percent", row["percent"], {"account": row["account"]}) for row in rows
            ]
            self._drawdowns_s = now_s
        return self._drawdowns

    async def _metrics(self, components: Collection[str]) -> tuple[list[MeasuredValue], frozenset[str] | None]:
        """Return every series of every component that published within the last minute, and the names of the series
        that are missing: a component of the system published them, and its snapshot is not there. None: of all.

        Redis that is away, or was flushed, is no evidence that a series has ended. Components then publish to
        PostgreSQL. Errors: OutageError.
        """
        kept = await self._bus.known_fields(SNAPSHOTS)
        snapshots = kept if kept is not None else await self._snapshots.young(SNAPSHOTS_TTL_S)
        found: list[MeasuredValue] = []
        present: dict[str, frozenset[str]] = {}
        for component, body in snapshots.items():
            try:
                snapshot = orjson.loads(body)
            except orjson.JSONDecodeError:
                continue
            if isinstance(snapshot, dict):
                series = [
                    MeasuredValue(name, float(value), {"component": component, **labels})
                    for text, value in snapshot.items()
                    if isinstance(value, int | float)
                    for name, labels in [parsed(str(text))]
                ]
                found += series
                present[component] = frozenset(item.name for item in series)
        self._published = {name: names for name, names in self._published.items() if name in components} | present
        if not present:  # the monitor publishes, too: an empty answer is a lost one
            return found, None
        missing = [names for name, names in self._published.items() if name not in present]
        return found, frozenset().union(*missing)


def _is_incomplete(rule: AlertRule, missing: frozenset[str] | None) -> bool:
    """Return whether a rule may be about a series that is missing; None: every metric is."""
    if missing is not None:
        return any(rule.matches(name) for name in missing)
    literal = _ANY.split(rule.on, maxsplit=1)[0]
    return literal.startswith(_METRICS) or (literal != rule.on and _METRICS.startswith(literal))


def services(
    components: Sequence[Mapping[str, Any]], verdicts: Sequence[Mapping[str, Any]], now_ns: int
) -> list[MeasuredValue]:
    """Return a measure `service.down` for each service: 1 while a kind of its components is down altogether (the
    collector of fks_data), or the deep checks report it down, else 0.

    `verdicts`: the newest look of the deep checks (`registry.verdicts`). One that is too old ends nothing.
    """
    looked = {str(row["service"]): row for row in verdicts if row["is_service"]}
    found: list[MeasuredValue] = []
    for service in sorted({*OWNER_SERVICES, *looked}):
        kinds = OWNER_SERVICES.get(service, ())
        members = [item for item in components if kind_of(item) in kinds]
        if not members and service not in looked:
            continue
        groups = [[item for item in members if kind_of(item) == kind] for kind in sorted(set(map(kind_of, members)))]
        bad = [item for group in groups if status_of(group) == DOWN for item in group]
        value: float | None = 0.0
        error, detail = "", dict[str, str]()
        if bad:
            ages = [float(item["heartbeat_age_ms"]) for item in bad if item["heartbeat_age_ms"] is not None]
            last_seen = iso(now_ns - round(max(ages, default=0.0)) * 1_000_000)
            value, error = 1.0, "; ".join(_fault(item) for item in bad[:3])
            detail = {"components": ", ".join(str(item["name"]) for item in bad[:10]), "last_seen": last_seen}
        elif service in looked:
            value, error, detail = _judged(looked[service])
        shown = {**detail, "status": "Down", "error": error} if value else {}
        found.append(MeasuredValue("service.down", value, {"service": service}, error, shown))
    return found


def checks(verdicts: Sequence[Mapping[str, Any]]) -> list[MeasuredValue]:
    """Return a measure `check.down` for each dependency that the deep checks look at: 1 while it is reported down."""
    found = []
    for row in verdicts:
        if not row["is_service"]:
            value, error, detail = _judged(row)
            name = str(row["service"])
            message = f"check {name} is down: {error}" if error else ""
            found.append(MeasuredValue("check.down", value, {"service": name}, message, detail))
    return found


def _judged(row: Mapping[str, Any]) -> tuple[float | None, str, dict[str, str]]:
    """Return value, error and detail of a verdict. One that is too old does not say that it is over."""
    if row["reported"] != DOWN:
        return None if row["reported"] == UNKNOWN else 0.0, "", {}
    seen = "" if row["last_seen"] is None else iso(to_ns(row["last_seen"]))
    return 1.0 if row["is_fresh"] else None, str(row["error"] or "no reason is known"), {"last_seen": seen}


def _fault(component: Mapping[str, Any]) -> str:
    problem = component.get("problem") or str(component["state"])
    return f"{component['name']}: {problem}" if component["state"] not in WELL else str(component["name"])


def parsed(series: str) -> tuple[str, dict[str, str]]:
    """Return the name and the labels of a Prometheus series."""
    match = _SERIES.fullmatch(series)
    if match is None:
        return series, {}
    return match.group(1), dict(_LABEL.findall(match.group(2) or ""))


def _fill(row: Mapping[str, Any]) -> Occurrence:
    profit = row["realized_pnl"]
    text = f"{row['account']}: {row['side']} {row['quantity']:f} {row['symbol']} at {row['price']:f}"
    if profit:
        text += f", realised {profit:+f}"
    if row["instance"]:
        text += f" ({row['instance']})"
    labels = {name: str(row[name]) for name in ("account", "symbol", "instance", "side")}
    return Occurrence("trade.fill", row["ref"], row["created_at"].timestamp(), labels, text)


def _denial(row: Mapping[str, Any]) -> Occurrence:
    labels = {name: str(row[name] or "") for name in ("account", "symbol", "instance", "side", "code")}
    text = f"{row['account']}: {row['side']} {row['symbol']} was denied: {row['code']} {row['detail'] or ''}".strip()
    return Occurrence("signal.denied", row["ref"], row["decided_at"].timestamp(), labels, text)


def _replacement(row: Mapping[str, Any]) -> Occurrence:
    return Occurrence("serve.replaced", row["ref"], row["time"].timestamp(), {"child": row["child"]})


#: Occurrence → the query of its rows in the last seconds, at most 500, and what one of them becomes.
_OCCURRENCES: dict[str, tuple[str, Callable[[Mapping[str, Any]], Occurrence]]] = {
    "trade.fill": ("alerting.new_fills", _fill),
    "signal.denied": ("alerting.new_denials", _denial),
    "serve.replaced": ("alerting.new_replacements", _replacement),
}


def _pending(row: Mapping[str, Any]) -> MeasuredValue:
    until = "" if row["valid_until"] is None else f", until {row['valid_until']:%H:%M:%S} UTC"
    size = "" if row["size"] is None else f" {row['size']:f}"
    what = f"{row['kind']} {row['side']}{size} {row['symbol']} on {row['account']}"
    what += f" ({row['instance']})" if row["instance"] else ""
    labels = {"id": row["id"], "account": str(row["account"]), "symbol": str(row["symbol"])}
    return MeasuredValue(
        "signal.pending", 1.0, labels | {"instance": str(row["instance"]), "what": f"{what}{until}, id {row['id']}"}
    )
