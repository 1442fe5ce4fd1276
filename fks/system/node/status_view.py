"""The status document of the keeper, for when the gateway is down: the database's rows if they can be read, else the
last ones, with the keeper and its services always as they are at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fks.clock import Clock
from fks.config.endpoints import NodeEndpoints
from fks.config.machine import host_name
from fks.model.json_fields import json_fields
from fks.model.timeframe import iso
from fks.store.supervision import ESCALATION
from fks.system.monitor.status import overall, problem_of, sim_view
from fks.system.node.service import ServiceStatus


class StatusView:
    """The last document from the database. Soft state only."""

    def __init__(self, clock: Clock, node: str = "") -> None:
        self._clock = clock
        self._node = node or host_name()
        self._last: dict[str, Any] = {"components": [], "feeds": [], "venues": [], "kill": {"engaged": None}}
        self._last_at = clock.monotonic()

    def merge(
        self,
        document: dict[str, Any] | None,
        own: Sequence[tuple[str, ServiceStatus]],
        phase: str,
        node: NodeEndpoints | None,
    ) -> dict[str, Any]:
        """Return the whole document. `document` None: the database does not answer, the last one ages."""
        if document is not None:
            self._last, self._last_at = document, self._clock.monotonic()
        passed_ms = 0 if document is not None else int((self._clock.monotonic() - self._last_at) * 1000)
        mine = {status.name: self._component(kind, status) for kind, status in own}
        others = [_aged(row, passed_ms) for row in self._last["components"] if row["name"] not in mine]
        components = [*mine.values(), *others]
        feeds = [_aged(row, passed_ms) for row in self._last["feeds"]]
        last = self._last
        state, reasons = overall(components, feeds, last["venues"], last.get("nodes", ()), last.get("strategies", ()))
        if document is None and phase == "ready":
            state, reasons = "degraded", ["PostgreSQL does not answer: actors, feeds and venues as last seen", *reasons]
        return {
            **self._last,
            "state": {"starting": "starting", "stopping": "down"}.get(phase, state),
            "reasons": reasons,
            "components": components,
            "feeds": feeds,
            "sim": sim_view(node),
            "source": "keeper",
        }

    def _component(self, kind: str, status: ServiceStatus) -> dict[str, Any]:
        detail = {"detail": status.detail} if status.detail else {}
        detail |= {ESCALATION: status.escalation} if status.escalation else {}
        return {
            **json_fields(status, "name", "state", "pid", "restarts"),
            "kind": kind,
            "node": self._node,
            "since": iso(status.since_ns),
            "heartbeat_age_ms": 0,
            "detail": detail,
            "problem": problem_of(status.state, 0, detail),
        }


def _aged(row: dict[str, Any], passed_ms: int) -> dict[str, Any]:
    key = "heartbeat_age_ms" if "heartbeat_age_ms" in row else "age_ms"
    return {**row, key: row[key] + passed_ms if row.get(key) is not None else None}
