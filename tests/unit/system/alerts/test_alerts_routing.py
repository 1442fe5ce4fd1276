"""Routing of alerts: each is sent once to each channel that takes it, its end only where its beginning was."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from fks.model.timeframe import iso, to_ns
from fks.system.alerts.channels import AlertChannel
from fks.system.alerts.engine import MeasuredValue
from fks.system.alerts.observing import checks, parsed, services
from fks.system.alerts.routing import Alert, Routing, has_recipient, route
from fks.system.alerts.rules import DEFAULTS, AlertRule, Silence, rule_for
from fks.system.alerts.texts import ago, compose

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ALL = AlertChannel("all", SecretStr(""), "info")
PAGES = AlertChannel("pages", SecretStr(""), "page")


def _alert(id: int = 1, event: str = "child.escalated", severity: str = "error", **fields: Any) -> Alert:
    return Alert(id, NOW - timedelta(minutes=2), severity, event, "orders", "it died", **fields)


def _sent(plan: Routing) -> set[tuple[int, str, str]]:
    return {(item.alert_id, item.channel, item.about) for item in plan.wanted}


def test_channel_takes_alerts_from_its_severity_on() -> None:
    plan = route([_alert(1), _alert(2, severity="page")], DEFAULTS, [], [ALL, PAGES], NOW)
    assert _sent(plan) == {(1, "all", "raised"), (2, "all", "raised"), (2, "pages", "raised")}
    assert plan.routed == (1, 2)


def test_user_who_engaged_the_kill_is_not_paged_and_all_others_are() -> None:
    channels = [ALL, replace(PAGES, name="ann", user="ann"), replace(PAGES, name="bob", user="bob")]

    def paged(by: str, event: str = "kill.switch") -> set[str]:
        plan = route([_alert(1, event, "page", rule="kill", payload={"by": by})], DEFAULTS, [], channels, NOW)
        assert plan.routed == (1,)
        return {name for _, name, _ in _sent(plan)}

    assert paged("user:ann") == {"all", "bob"}
    assert paged("guardian") == paged("token:ann") == {"all", "ann", "bob"}
    assert paged("user:ann", "position.unprotected") == {"all", "ann", "bob"}, "a channel gets all other alerts"


def test_rule_names_its_channels() -> None:
    rules = (AlertRule(name="x", kind="route", on="child.*", channels=("pages",)), *DEFAULTS)
    assert _sent(route([_alert()], rules, [], [ALL, PAGES], NOW)) == {(1, "pages", "raised")}


def test_longest_pattern_of_a_route_decides() -> None:
    assert [getattr(rule_for(event, DEFAULTS), "name", None) for event in ("order.unknown", "position.x", "a")] == [
        *("unknown-order", "unprotected"),
        "other",
    ]
    assert rule_for("order.unknown", DEFAULTS, "service").name == "service"  # type: ignore[union-attr]


def test_end_is_sent_where_the_beginning_was() -> None:
    over = _alert(routed_at=NOW, resolved_at=NOW, raised_to=("all", "gone"))
    assert _sent(route([over], DEFAULTS, [], [ALL, PAGES], NOW)) == {(1, "all", "resolved")}
    quiet = (AlertRule(name="x", kind="route", on="child.*", is_resolve_sent=False), *DEFAULTS)
    plan = route([over], quiet, [], [ALL], NOW)
    assert (_sent(plan), plan.resolve_routed) == (set(), (1,))


def test_silenced_alert_waits_and_is_dropped_when_it_ends_meanwhile() -> None:
    silence = Silence(event="child.*", until=NOW + timedelta(hours=1))
    plan = route([_alert()], DEFAULTS, [silence], [ALL], NOW)
    assert (plan.wanted, plan.routed) == ((), ())
    after = route([_alert()], DEFAULTS, [silence], [ALL], NOW + timedelta(hours=2))
    assert _sent(after) == {(1, "all", "raised")}
    ended = route([_alert(resolved_at=NOW)], DEFAULTS, [silence], [ALL], NOW)
    assert (ended.wanted, ended.routed, ended.resolve_routed) == ((), (1,), (1,))


def test_escalation_is_sent_once_unless_acknowledged() -> None:
    rules = (AlertRule(name="x", kind="route", on="*", escalate_after_s=60, escalate_to=("pages",)),)
    raised = _alert(routed_at=NOW, raised_to=("all",))
    plan = route([raised], rules, [], [ALL, PAGES], NOW)
    assert (_sent(plan), plan.escalated) == ({(1, "pages", "escalated")}, (1,))
    for change in ({"acknowledged_at": NOW}, {"escalated_at": NOW}, {"time": NOW}):
        assert route([replace(raised, **change)], rules, [], [ALL, PAGES], NOW).wanted == ()


def test_alert_from_before_the_channel_is_not_for_it() -> None:
    assert route([_alert()], DEFAULTS, [], [replace(ALL, created_at=NOW)], NOW).wanted == ()


def test_notice_without_a_taker() -> None:
    fill = next(rule for rule in DEFAULTS if rule.name == "fill")
    assert [has_recipient(fill, [item]) for item in (ALL, PAGES, replace(ALL, is_enabled=False))] == [
        True,
        False,
        False,
    ]


_ALERTS = st.builds(
    _alert,
    st.integers(1, 6),
    st.sampled_from(["child.x", "order.unknown", "service.down"]),
    st.sampled_from(["info", "warning", "page"]),
    resolved_at=st.sampled_from([None, NOW]),
    routed_at=st.sampled_from([None, NOW]),
    resolve_routed_at=st.sampled_from([None, NOW]),
    raised_to=st.sampled_from([(), ("all",)]),
)
_SILENCES = st.lists(st.builds(lambda s: Silence(until=NOW + timedelta(seconds=s)), st.integers(-5, 5)), max_size=2)


@given(st.lists(_ALERTS, unique_by=lambda a: a.id, max_size=6), _SILENCES)
def test_routing_again_after_its_rows_are_written_sends_nothing(alerts: list[Alert], silences: list[Silence]) -> None:
    plan = route(alerts, DEFAULTS, silences, [ALL, PAGES], NOW)
    keys = [(item.alert_id, item.channel, item.about) for item in plan.wanted]
    assert len(keys) == len(set(keys)), "alert, channel and what about are one delivery"
    after = [
        replace(
            item,
            routed_at=NOW if item.id in plan.routed else item.routed_at,
            resolve_routed_at=NOW if item.id in plan.resolve_routed else item.resolve_routed_at,
            raised_to=(*item.raised_to, *(c for i, c, about in keys if i == item.id and about == "raised")),
        )
        for item in alerts
    ]
    assert route(after, DEFAULTS, silences, [ALL, PAGES], NOW).wanted == ()


# ── texts ────────────────────────────────────────────────────────────────────────────────────────
def test_service_that_is_down_has_the_owners_text() -> None:
    alert = Alert(
        7, NOW - timedelta(minutes=2), "error", "service.down", "fks_data", "Connection timeout",
        {"service": "fks_data", "last_seen_s": "120"}, "service",
    )  # fmt: skip
    text = compose([alert], "raised", NOW)
    assert (text.title, text.body) == (
        "",
        "❌ **Service Down Alert**\nService: fks_data\nStatus: Down\nError: Connection timeout\nLast Seen: 2 minutes ago",
    )
    for payload, shown in (
        ({"last_seen": "2026-05-01T11:50:00Z"}, "10 minutes ago"),
        ({"last_seen": ""}, "never"),
        ({}, "never"),
    ):
        found = compose([replace(alert, payload={"service": "fks_data", **payload})], "raised", NOW)
        assert found.body.splitlines()[-1] == f"Last Seen: {shown}"
    over = compose([replace(alert, resolved_at=NOW)], "resolved", NOW)
    assert over.body == "✅ **Service Recovered**\nService: fks_data\nStatus: Up\nDown For: 2 minutes"


def test_text_of_one_and_of_many() -> None:
    one = compose([_alert()], "raised", NOW, is_repeat=True)
    assert one.title == "❌ ERROR: child.escalated"
    assert one.body.splitlines() == [
        "it died",
        "from orders at 2026-05-01 11:58:00 UTC",
        "acknowledge: fks alerts ack 1",
        "alert 1",
        "(repeated)",
    ]
    many = compose([_alert(number) for number in range(1, 20)], "resolved", NOW)
    assert many.title == "✅ RESOLVED: 19 alerts"
    assert many.body.splitlines()[-1] == "and 4 more: fks alerts --all"
    assert len(many.body) < 4000
    long = [replace(_alert(number), message="x" * 500) for number in range(1, 16)]
    listed = compose(long, "raised", NOW).body
    assert len(listed) < 2_000, "Discord refuses more"
    assert listed.splitlines()[-1] == f"and {15 - len(listed.splitlines()) + 1} more: fks alerts --all"


def test_durations_as_text() -> None:
    assert [ago(s) for s in (0, 1, 59.9, 60, 7200, 90000)] == [
        *("0 seconds", "1 second", "59 seconds", "1 minute", "2 hours"),
        "1 day",
    ]


# ── measures ─────────────────────────────────────────────────────────────────────────────────────
def _component(name: str, state: str) -> dict[str, Any]:
    return {"name": name, "state": state, "heartbeat_age_ms": 120_000, "problem": "Connection timeout"}


def test_service_is_down_when_one_of_its_kinds_is() -> None:
    rows = [_component("postgres", "ready"), _component("collector:binance", "silent"), _component("orders", "ready")]
    found = {item.labels["service"]: item for item in services(rows, (), to_ns(NOW))}
    assert {name: item.value for name, item in found.items()} == {"fks_data": 1.0, "fks_execution": 0.0}
    down: MeasuredValue = found["fks_data"]
    assert (down.message, down.detail["last_seen"]) == (
        "collector:binance: Connection timeout", iso(to_ns(NOW - timedelta(seconds=120)))
    )  # fmt: skip
    assert (down.labels, down.detail["components"]) == ({"service": "fks_data"}, "collector:binance")


def _verdict(service: str, reported: str, *, is_service: bool = True, is_fresh: bool = True) -> dict[str, Any]:
    seen = NOW - timedelta(minutes=5) if reported == "down" else None
    return {"service": service, "is_service": is_service, "reported": reported, "error": "e", "is_fresh": is_fresh,
            "last_seen": seen}  # fmt: skip


def test_service_is_down_by_its_components_or_by_the_deep_checks() -> None:
    rows = [_component("postgres", "ready"), _component("orders", "ready")]
    for reported, is_fresh, value in (
        ("down", True, 1.0),
        ("down", False, None),
        ("healthy", True, 0.0),
        ("healthy", False, 0.0),
        ("unknown", True, None),
    ):
        (found,) = [
            item
            for item in services(rows, [_verdict("fks_data", reported, is_fresh=is_fresh)], to_ns(NOW))
            if item.labels["service"] == "fks_data"
        ]
        assert found.value == value, (reported, is_fresh)
    ill = [_component("collector:binance", "silent")]
    (both,) = services(ill, [_verdict("fks_data", "healthy")], to_ns(NOW))
    assert (both.value, both.message) == (1.0, "collector:binance: Connection timeout")
    (theirs,) = services([], [_verdict("theirs", "down"), _verdict("disk", "down", is_service=False)], to_ns(NOW))
    assert theirs.detail == {
        "status": "Down", "error": "e", "last_seen": iso(to_ns(NOW - timedelta(minutes=5)))
    }  # fmt: skip
    (disk,) = checks([_verdict("theirs", "down"), _verdict("disk", "down", is_service=False)])
    assert (disk.name, disk.value, disk.message) == ("check.down", 1.0, "check disk is down: e")


def test_series_of_a_metric() -> None:
    assert parsed('fks_x{a="b c",d="e"}') == ("fks_x", {"a": "b c", "d": "e"})
    assert parsed("fks_x") == ("fks_x", {})
