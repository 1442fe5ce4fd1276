"""Observations that alert rules look at, read from rows and from the metrics of all components."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from fks.alerts.engine import Measure, Observed, Occurrence
from fks.alerts.rules import WINDOW_MAX_S, Rule
from fks.clock import Clock
from fks.monitor.health import DOWN, OWNER_SERVICES, kind_of, status_of
from fks.monitor.status import WELL, component_view, kill_view
from fks.runtime import SNAPSHOTS
from fks.store.alerting import AlertingStore
from fks.store.bus import Bus
from fks.store.db import Database

#: How far back occurrences are read again: a row may be committed after a later one.
BACK_S = 120.0
DRAWDOWN_EVERY_S = 30.0
_SERIES = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')


class Observer:
    """Reads what the rules need. Soft state: the drawdowns of the last half minute."""

    def __init__(self, db: Database, bus: Bus, clock: Clock) -> None:
        self._db = db
        self._bus = bus
        self._clock = clock
        self._store = AlertingStore(db)
        self._drawdowns: list[Measure] = []
        self._drawdowns_s: float | None = None
        self._has_looked = False

    async def look(self, rules: Sequence[Rule]) -> Observed:
        """Return what the rules are about now. The first look goes back as far as a rule can. Errors: OutageError."""
        back_s = BACK_S if self._has_looked else WINDOW_MAX_S
        names = [rule for rule in rules if rule.is_enabled]
        occurrences: list[Occurrence] = []
        if any(rule.matches("trade.fill") for rule in names):
            occurrences += [_fill(row) for row in await self._store.new_fills(back_s)]
        if any(rule.matches("signal.denied") for rule in names):
            occurrences += [_denial(row) for row in await self._store.new_denials(back_s)]
        components = [component_view(dict(row)) for row in await self._db.fetch("monitor.components")]
        measures = [*services(components), *[_pending(row) for row in await self._store.pending()]]
        kill = kill_view([dict(row) for row in await self._db.fetch("monitor.kills")])
        if kill["engaged"]:
            labels = {"scope": str(kill["scope"]), "by": str(kill["by"]), "reason": str(kill["reason"])}
            measures.append(Measure("kill.switch", 1.0, labels))
        measures += await self._drawdown()
        if any(rule.on.startswith("fks_") for rule in names):
            measures += await self._metrics()
        self._has_looked = True
        return Observed(self._clock.now_ns() / 1e9, measures, occurrences)

    async def _drawdown(self) -> list[Measure]:
        now_s = self._clock.monotonic()
        if self._drawdowns_s is None or now_s - self._drawdowns_s >= DRAWDOWN_EVERY_S:
            rows = await self._store.drawdowns()
            self._drawdowns = [
                Measure("account.drawdown_percent", row["percent"], {"account": row["account"]}) for row in rows
            ]
            self._drawdowns_s = now_s
        return self._drawdowns

    async def _metrics(self) -> list[Measure]:
        """Return every series of every component that published within the last minute."""
        found: list[Measure] = []
        for component, kept in (await self._bus.fields(SNAPSHOTS)).items():
            try:
                snapshot = orjson.loads(kept)
            except orjson.JSONDecodeError:
                continue
            if isinstance(snapshot, dict):
                found += [
                    Measure(name, float(value), {"component": component, **labels})
                    for series, value in snapshot.items()
                    if isinstance(value, int | float)
                    for name, labels in [parsed(str(series))]
                ]
        return found


def services(components: Sequence[Mapping[str, Any]]) -> list[Measure]:
    """Return a measure `service.down` for each of the owner's services that has components: 1 while a kind of them is
    down altogether (the collector of fks_data), else 0."""
    found: list[Measure] = []
    for service, kinds in OWNER_SERVICES.items():
        members = [item for item in components if kind_of(item) in kinds]
        if not members:
            continue
        bad: list[Mapping[str, Any]] = []
        for kind in sorted({kind_of(item) for item in members}):
            of_kind = [item for item in members if kind_of(item) == kind]
            if status_of(of_kind) == DOWN:
                bad += of_kind
        labels = {"service": service}
        error = "; ".join(_fault(item) for item in bad[:3])
        if bad:
            ages = [float(item["heartbeat_age_ms"]) for item in bad if item["heartbeat_age_ms"] is not None]
            labels |= {"components": ", ".join(str(item["name"]) for item in bad[:10])}
            labels |= {"last_seen_s": f"{max(ages, default=0.0) / 1000:.0f}"}
        found.append(Measure("service.down", float(bool(bad)), labels, error))
    return found


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


def _pending(row: Mapping[str, Any]) -> Measure:
    until = "" if row["valid_until"] is None else f", until {row['valid_until']:%H:%M:%S} UTC"
    size = "" if row["size"] is None else f" {row['size']:f}"
    what = f"{row['kind']} {row['side']}{size} {row['symbol']} on {row['account']}"
    what += f" ({row['instance']})" if row["instance"] else ""
    labels = {"id": row["id"], "account": str(row["account"]), "symbol": str(row["symbol"])}
    return Measure(
        "signal.pending", 1.0, labels | {"instance": str(row["instance"]), "what": f"{what}{until}, id {row['id']}"}
    )
