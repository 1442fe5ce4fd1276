"""Alerts: lists them, publishes new ones, and settles those whose cause is over
(`fks/system/monitor/alert_ends.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from fks.store.alerting import settle
from fks.store.db import Querier
from fks.system.monitor.alert_ends import AlertFacts, AlertPlace, is_over
from fks.system.monitor.status import component_view, node_view

#: alerts that one query reads
_READ_MAX = 500


async def listed(db: Querier, *, is_all: bool, limit: int, before: int | None = None) -> list[dict[str, Any]]:
    """Return alerts, newest first: the open ones, or all below id `before`. Errors: OutageError."""
    if is_all:
        return [dict(row) for row in await db.fetch("monitor.all_alerts", limit, before)]
    return [dict(row) for row in await db.fetch("monitor.alerts", limit)]


class NewAlerts:
    """Returns each alert once, to be published. Soft state: the last id seen; it starts at the newest."""

    def __init__(self, db: Querier) -> None:
        self._db = db
        self._seen: int | None = None

    async def new(self) -> list[dict[str, Any]]:
        """Return the messages for the bus: an alert each, but those of the order manager, which publishes its own.

        Errors: OutageError.
        """
        if self._seen is None:
            self._seen = int(await self._db.fetchval("monitor.last_alert"))
            return []
        rows = [dict(row) for row in await self._db.fetch("monitor.alerts_after", self._seen)]
        if rows:
            self._seen = rows[-1]["id"]
        return [message_of(row) for row in rows if row["component"] != "orders" or row["event"].startswith("child.")]


def message_of(row: Mapping[str, Any], severity: str | None = None) -> dict[str, Any]:
    """Return the message for an alert. `severity` "settled": its cause is over."""
    return {
        "type": "alert",
        "id": row["id"],
        "severity": severity or row["severity"],
        "event": row["event"],
        "component": row["component"],
        "message": row["message"],
    }


async def settle_what_is_over(db: Querier, now: datetime) -> list[dict[str, Any]]:
    """Resolve every open alert whose cause is over; return them. Costs one query while none is open.

    An alert of a rule is left to that rule, and one of a condition to the owner of the condition. Errors: OutageError.
    """
    over, last_id = [], 0
    while alerts := [dict(row) for row in await db.fetch("monitor.unsettled", last_id, _READ_MAX)]:
        last_id = alerts[-1]["id"]
        facts = await _facts(db, alerts, now)
        over += [alert["id"] for alert in alerts if is_over(alert, facts)]
        if len(alerts) < _READ_MAX:
            break
    return [dict(row) for row in await settle(db, ids=over)] if over else []


async def _facts(db: Querier, alerts: Sequence[Mapping[str, Any]], now: datetime) -> AlertFacts:
    about = [alert["payload"] for alert in alerts]
    ids = sorted({str(p["client_order_id"]) for p in about if p.get("client_order_id")})
    symbols = sorted({str(p["symbol"]) for p in about if p.get("symbol")})
    orders = await db.fetch("monitor.alert_orders", ids) if ids else []
    held = await db.fetch("monitor.alert_positions", symbols) if symbols else []
    exits = await db.fetch("monitor.alert_exits", symbols) if symbols else []
    components = [component_view(dict(row)) for row in await db.fetch("monitor.components")]
    return AlertFacts(
        now,
        components={row["name"]: row for row in components if row["kind"] == "actor"},
        services={row["name"]: row for row in components if row["kind"] == "service"},
        orders={row["client_order_id"]: dict(row) for row in orders},
        held=frozenset(AlertPlace(**row) for row in held),
        exits=frozenset(AlertPlace(**row) for row in exits),
        instances={row["id"]: dict(row) for row in await db.fetch("monitor.troubled_instances")},
        nodes={row["name"]: node_view(dict(row)) for row in await db.fetch("monitor.nodes")},
        models={row["name"]: dict(row) for row in await db.fetch("monitor.alert_models")},
    )
