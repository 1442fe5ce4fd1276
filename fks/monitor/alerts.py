"""Alerts, and the rules that decide from rows when one is over.

An alert has a cause that lasts (a child that stays down, a position without protection) and ends with it, or is about
something that happened (a stray fill). Those wait for a person (`fks alerts settle`); a warning of
that sort settles itself after a day, so that only alerts that still matter are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from fks.monitor.status import WELL, component_view, node_view
from fks.store.alerting import settle
from fks.store.db import Querier

#: A child that was down must be well for this long before its alert is over.
CALM = timedelta(seconds=10)
WARNING_KEPT = timedelta(hours=24)
#: alerts that one query reads
_READ_MAX = 500


@dataclass(frozen=True, slots=True)
class AlertFacts:
    """The rows that the rules use, read together. `orders`: state and number of protections by client order id."""

    now: datetime
    components: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    orders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    held: frozenset[tuple[str, str]] = frozenset()  # (symbol, instance) with a position
    instances: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # strategy instances in trouble
    nodes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


Rule = Callable[[Mapping[str, Any], AlertFacts], bool]


def _child_is_back(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    row = facts.components.get(alert["component"])
    if row is None:  # no longer in the tree, or a supervisor of it: its children decide
        return _has_passed(CALM, alert["time"], facts) and all(_is_calm(c, facts) for c in facts.components.values())
    return _is_calm(row, facts)


def _is_an_hour_old(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    return _has_passed(timedelta(hours=1), alert["time"], facts)  # it is raised again while the child goes on dying


def _is_calm(row: Mapping[str, Any], facts: AlertFacts) -> bool:
    return row["state"] in WELL and row["since"] is not None and _has_passed(CALM, row["since"], facts)


def _has_passed(wait: timedelta, since: datetime, facts: AlertFacts) -> bool:
    return facts.now - since > wait


def _instance_runs(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    name = alert["payload"].get("instance") or alert["component"]
    row = facts.instances.get(str(name))
    return row is None or bool(row["is_enabled"] and not row["error"])


def _node_is_back(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    row = facts.nodes.get(str(alert["payload"].get("node") or alert["component"]).rpartition("@")[2])
    return row is None or row["state"] in WELL


def _is_known_again(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    order = facts.orders.get(str(alert["payload"].get("client_order_id")))
    return order is not None and order["state"] not in ("UNKNOWN", "SENDING")


def _is_flat(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    return (str(alert["payload"].get("symbol")), str(alert["payload"].get("instance") or "")) not in facts.held


def _is_protected(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    order = facts.orders.get(str(alert["payload"].get("client_order_id")))
    return _is_flat(alert, facts) or (order is not None and int(order["protections"]) > 0)


def _database_answers(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    return True  # these facts were read from it


#: the longest prefix of the event that is here decides
RULES: dict[str, Rule] = {
    "child.": _child_is_back,
    "child.unstable": _is_an_hour_old,
    "strategy.": _instance_runs,
    "instance.": _instance_runs,
    "node.": _node_is_back,
    "journal.down": _database_answers,
    "journal.side_failed": _database_answers,
    "database.down": _database_answers,
    "order.unknown": _is_known_again,
    "exit.": _is_flat,
    "position.naked": _is_protected,
    "position.unprotectable": _is_flat,
    "stop.unfilled": _is_flat,
}


def rule_of(event: str) -> Rule | None:
    """Return the rule that says when an alert of this event is over; None when only a person can."""
    known = [prefix for prefix in RULES if event.startswith(prefix)]
    return RULES[max(known, key=len)] if known else None


def is_over(alert: Mapping[str, Any], facts: AlertFacts) -> bool:
    """Return whether the cause of an alert has ended."""
    rule = rule_of(alert["event"])
    if rule is not None:
        return rule(alert, facts)
    return alert["severity"] == "warning" and _has_passed(WARNING_KEPT, alert["time"], facts)


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
    components = [component_view(dict(row)) for row in await db.fetch("monitor.components")]
    return AlertFacts(
        now,
        components={row["name"]: row for row in components if row["kind"] == "actor"},
        orders={row["client_order_id"]: dict(row) for row in orders},
        held=frozenset((row["symbol"], row["instance"]) for row in held),
        instances={row["id"]: dict(row) for row in await db.fetch("monitor.troubled_instances")},
        nodes={row["name"]: node_view(dict(row)) for row in await db.fetch("monitor.nodes")},
    )
