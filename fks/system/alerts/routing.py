"""Routing of alerts: which channel is notified of what, and when. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from fks.system.alerts.channels import AlertChannel
from fks.system.alerts.rules import AlertRule, Silence, rule_for

About = Literal["raised", "resolved", "escalated"]


@dataclass(frozen=True, slots=True)
class Alert:
    """A row of alerts. `raised_to`: the channels that were, or will be, notified that it was raised. `report`: the
    document of the stored report that it announces."""

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
    report: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class WantedNotification:
    """One notification: alert × channel × what about. `group_s`: it may join, or wait for, others of its rule."""

    alert_id: int
    channel: str
    about: About
    rule: str
    group_s: float


@dataclass(frozen=True, slots=True)
class Routing:
    """The outcome: the notifications, and the alerts that are done with (a silenced one is not: it waits)."""

    wanted: tuple[WantedNotification, ...] = ()
    routed: tuple[int, ...] = ()
    resolve_routed: tuple[int, ...] = ()
    escalated: tuple[int, ...] = ()


def route(
    alerts: Sequence[Alert],
    rules: tuple[AlertRule, ...],
    silences: Collection[Silence],
    channels: Sequence[AlertChannel],
    now: datetime,
) -> Routing:
    """Return the notifications that these alerts need now. Each alert is routed once for each of raised, escalated and
    resolved; an end is sent only where the beginning was."""
    enabled = {channel.name for channel in channels if channel.is_enabled}
    wanted: list[WantedNotification] = []
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
                takers = [channel for channel in channels if channel.takes(rule, alert.severity, alert.time)]
                raised_to = [channel.name for channel in takers if not _is_own_kill(alert, channel)]
                wanted += [WantedNotification(alert.id, name, "raised", rule.name, rule.group_s) for name in raised_to]
        if alert.resolved_at is not None:
            if alert.resolve_routed_at is None:
                resolve_routed.append(alert.id)
                if rule is not None and rule.is_resolve_sent:
                    names = [name for name in raised_to if name in enabled]
                    wanted += [
                        WantedNotification(alert.id, name, "resolved", rule.name, rule.group_s) for name in names
                    ]
        elif (
            rule is not None
            and rule.escalate_after_s is not None
            and alert.escalated_at is None
            and alert.acknowledged_at is None
            and not is_silenced
            and now - alert.time >= timedelta(seconds=rule.escalate_after_s)
        ):
            escalated.append(alert.id)
            names = [name for name in rule.escalate_to if name in enabled]
            wanted += [WantedNotification(alert.id, name, "escalated", rule.name, 0.0) for name in names]
    return Routing(tuple(wanted), tuple(routed), tuple(resolve_routed), tuple(escalated))


def _is_own_kill(alert: Alert, channel: AlertChannel) -> bool:
    """Return whether the user of the channel engaged the kill switch, and so needs no page about it."""
    return bool(channel.user) and alert.event == "kill.switch" and alert.payload.get("by") == f"user:{channel.user}"


def has_recipient(rule: AlertRule, channels: Sequence[AlertChannel]) -> bool:
    """Return whether an enabled channel would be notified of an alert of this rule."""
    return any(channel.takes(rule, rule.severity) for channel in channels)
