"""Routing of alerts: which channel is notified of what, and when. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from fks.alerts.rules import SEVERITIES, Rule, Silence, rule_for

About = Literal["raised", "resolved", "escalated"]


@dataclass(frozen=True, slots=True)
class Alert:
    """A row of alerts. `raised_to`: the channels that were, or will be, notified that it was raised."""

    id: int
    time: datetime
    severity: str
    event: str
    component: str
    message: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    rule: str | None = None
    resolved_at: datetime | None = None
    routed_at: datetime | None = None
    resolve_routed_at: datetime | None = None
    escalated_at: datetime | None = None
    acknowledged_at: datetime | None = None
    raised_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipient:
    """A channel as routing sees it. Alerts from before it was made are not for it."""

    name: str
    severity_min: str = "warning"
    is_enabled: bool = True
    created_at: datetime | None = None

    def takes(self, severity: str) -> bool:
        """Return whether it takes alerts of a severity that no rule sends to it by name."""
        return _rank(severity) >= _rank(self.severity_min)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One notification: alert × channel × what about. `group_s`: it may join, or wait for, others of its rule."""

    alert_id: int
    channel: str
    about: About
    rule: str
    group_s: float


@dataclass(frozen=True, slots=True)
class Routing:
    """The outcome: the notifications, and the alerts that are done with (a silenced one is not: it waits)."""

    wanted: tuple[Wanted, ...] = ()
    routed: tuple[int, ...] = ()
    resolve_routed: tuple[int, ...] = ()
    escalated: tuple[int, ...] = ()


def route(
    alerts: Sequence[Alert],
    rules: tuple[Rule, ...],
    silences: Collection[Silence],
    recipients: Sequence[Recipient],
    now: datetime,
) -> Routing:
    """Return the notifications that these alerts need now. Each alert is routed once for each of raised, escalated and
    resolved; an end is sent only where the beginning was."""
    by_name = {item.name: item for item in recipients if item.is_enabled}
    wanted: list[Wanted] = []
    routed: list[int] = []
    resolve_routed: list[int] = []
    escalated: list[int] = []
    for alert in alerts:
        rule = rule_for(alert.event, rules, alert.rule)
        is_silenced = any(item.covers(alert.event, alert.component, now) for item in silences)
        raised_to = list(alert.raised_to)
        if alert.routed_at is None:
            if is_silenced and alert.resolved_at is None:
                continue
            routed.append(alert.id)
            if not is_silenced and rule is not None and rule.is_enabled:
                raised_to = [item.name for item in _recipients(rule, alert, recipients)]
                wanted += [Wanted(alert.id, name, "raised", rule.name, rule.group_s) for name in raised_to]
        if alert.resolved_at is not None:
            if alert.resolve_routed_at is None:
                resolve_routed.append(alert.id)
                if rule is not None and rule.is_resolve_sent:
                    names = [name for name in raised_to if name in by_name]
                    wanted += [Wanted(alert.id, name, "resolved", rule.name, rule.group_s) for name in names]
        elif (
            rule is not None
            and rule.escalate_after_s is not None
            and alert.escalated_at is None
            and alert.acknowledged_at is None
            and not is_silenced
            and now - alert.time >= timedelta(seconds=rule.escalate_after_s)
        ):
            escalated.append(alert.id)
            names = [name for name in rule.escalate_to if name in by_name]
            wanted += [Wanted(alert.id, name, "escalated", rule.name, 0.0) for name in names]
    return Routing(tuple(wanted), tuple(routed), tuple(resolve_routed), tuple(escalated))


def _recipients(rule: Rule, alert: Alert, recipients: Sequence[Recipient]) -> list[Recipient]:
    return [
        item
        for item in recipients
        if item.is_enabled
        and (item.created_at is None or alert.time >= item.created_at)
        and (item.name in rule.channels if rule.channels else item.takes(alert.severity))
    ]


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES) - 1


def has_recipient(rule: Rule, recipients: Sequence[Recipient]) -> bool:
    """Return whether an enabled channel would be notified of an alert of this rule."""
    return any(
        item.is_enabled and (item.name in rule.channels if rule.channels else item.takes(rule.severity))
        for item in recipients
    )
