"""Texts of notifications. A service that is down is reported in the owner's words (docs/deviations.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from fks.model.accounting.period import LATE_S
from fks.system.alerts.channels import Text
from fks.system.alerts.report import page_of, text_of
from fks.system.alerts.routing import About, Alert

_MARKS = {"info": "\N{INFORMATION SOURCE}\ufe0f", "warning": "⚠️", "error": "❌", "page": "🚨"}
_LISTED_MAX = 15
_LIST_MAX = 1_800  # characters: Discord refuses a message of more than 2,000
_LINE_MAX = 400
REPEATED = "(repeated)"
LATE = "(late)"


def compose(
    alerts: Sequence[Alert], about: About, now: datetime, *, is_repeat: bool = False, is_mail: bool = False
) -> Text:
    """Return the text about alerts of one rule: the whole of one, or a list. `is_repeat`: an earlier attempt to send it
    may have succeeded. `is_mail`: a stored report is whole, and has its page, too."""
    text = _of_one(alerts[0], about, now, is_mail=is_mail) if len(alerts) == 1 else _of_many(alerts, about)
    if not is_repeat:
        return text
    title = f"{text.title} {REPEATED}" if text.page else text.title
    return replace(text, title=title, body=f"{text.body}\n{REPEATED}")


def ago(seconds: float) -> str:
    """Return a duration in the largest unit that fits: 2 minutes."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {unit}{'' if number == 1 else 's'}"
    number = max(int(seconds), 0)
    return f"{number} second{'' if number == 1 else 's'}"


def _of_one(alert: Alert, about: About, now: datetime, *, is_mail: bool) -> Text:
    if alert.event == "service.down" and about != "escalated":
        return _service(alert, about, now)
    if alert.event == "report":
        title, _, body = alert.message.partition("\n")
        if alert.payload.get("is_late") or (now - alert.time).total_seconds() > LATE_S:
            title = f"{title} {LATE}"
        if is_mail and alert.report is not None:
            return Text(title, text_of(alert.report), page_of(alert.report))
        return Text(title, body if len(body) <= _LIST_MAX else f"{body[:_LIST_MAX]}\nthe rest: fks report")
    label = {"raised": alert.severity.upper(), "resolved": "RESOLVED", "escalated": "NOT ACKNOWLEDGED"}[about]
    mark = "✅" if about == "resolved" else _MARKS.get(alert.severity, "🚨")
    message = alert.message
    if about == "resolved":
        message = str(alert.payload.get("resolve_message") or alert.message)
    source = alert.component or f"rule {alert.rule}"
    lines = [message[:_LINE_MAX], f"from {source} at {alert.time:%Y-%m-%d %H:%M:%S} UTC"]
    if about == "resolved" and alert.resolved_at is not None:
        lines.append(f"it lasted {ago((alert.resolved_at - alert.time).total_seconds())}")
    if about == "escalated":
        lines.append(f"nobody has acknowledged it for {ago((now - alert.time).total_seconds())}")
    if about != "resolved" and alert.resolved_at is None:
        lines.append(f"acknowledge: fks alerts ack {alert.id}")
    lines.append(f"alert {alert.id}")
    return Text(f"{mark} {label}: {alert.event}", "\n".join(lines))


def _of_many(alerts: Sequence[Alert], about: About) -> Text:
    first = alerts[0]
    mark = "✅" if about == "resolved" else _MARKS.get(first.severity, "🚨")
    label = {"raised": first.severity.upper(), "resolved": "RESOLVED", "escalated": "NOT ACKNOWLEDGED"}[about]
    lines: list[str] = []
    for alert in alerts[:_LISTED_MAX]:
        line = f"- {alert.event}: {alert.message[:200]} (alert {alert.id})"
        if sum(map(len, lines)) + len(lines) + len(line) > _LIST_MAX:
            break
        lines.append(line)
    if len(alerts) > len(lines):
        lines.append(f"and {len(alerts) - len(lines)} more: fks alerts --all")
    return Text(f"{mark} {label}: {len(alerts)} alerts", "\n".join(lines))


def _service(alert: Alert, about: About, now: datetime) -> Text:
    service = str(alert.payload.get("service") or alert.component)
    if about == "resolved":
        end = alert.resolved_at or now
        lines = [
            "✅ **Service Recovered**",
            f"Service: {service}",
            "Status: Up",
            f"Down For: {ago((end - alert.time).total_seconds())}",
        ]
    else:
        lines = [
            "❌ **Service Down Alert**",
            f"Service: {service}",
            "Status: Down",
            f"Error: {alert.message[:_LINE_MAX]}",
            f"Last Seen: {_last_seen(alert, now)}",
        ]
    return Text("", "\n".join(lines))


def _last_seen(alert: Alert, now: datetime) -> str:
    """Return when a service worked last, in words: from `last_seen` (ISO 8601), or `last_seen_s` before the alert."""
    seen = str(alert.payload.get("last_seen") or "")
    if seen:
        return f"{ago((now - datetime.fromisoformat(seen)).total_seconds())} ago"
    if "last_seen_s" in alert.payload:
        return f"{ago(float(alert.payload['last_seen_s'] or 0.0))} ago"
    return "never"
