"""Rules that end an alert."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fks.system.monitor.alert_ends import AlertFacts, AlertPlace, is_over, rule_of

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def _alert(
    event: str, component: str = "orders", age_s: float = 60.0, severity: str = "page", **payload: Any
) -> dict[str, Any]:
    return {
        "event": event,
        "component": component,
        "severity": severity,
        "time": NOW - timedelta(seconds=age_s),
        "payload": payload,
    }


def _child(state: str, up_s: float) -> dict[str, Any]:
    return {"state": state, "since": NOW - timedelta(seconds=up_s)}


@pytest.mark.parametrize(
    ("child", "is_over_now"),
    [
        (_child("ready", 60), True),
        (_child("ready", 3), False),
        (_child("failed", 60), False),
        (_child("degraded", 60), False),
    ],
)
def test_an_escalated_child_must_be_well_for_a_while(child: dict[str, Any], is_over_now: bool) -> None:
    facts = AlertFacts(NOW, components={"orders": child})
    assert is_over(_alert("child.escalated"), facts) == is_over_now


def test_a_child_that_keeps_dying_slowly_stays_paged_for_an_hour() -> None:
    facts = AlertFacts(NOW, components={"orders": _child("ready", 60)})
    assert not is_over(_alert("child.unstable", age_s=3500), facts)
    assert is_over(_alert("child.unstable", age_s=3700), facts)


def test_a_supervisor_of_the_tree_is_well_when_all_children_are() -> None:
    alert = _alert("child.escalated", "strategies")
    assert is_over(alert, AlertFacts(NOW, components={"orders": _child("ready", 15)}))
    assert not is_over(alert, AlertFacts(NOW, components={"orders": _child("ready", 5)}))
    assert not is_over(alert, AlertFacts(NOW, components={"orders": _child("down", 5)}))


def test_an_unknown_order_is_over_when_it_is_known() -> None:
    alert = _alert("order.unknown", client_order_id="a")
    assert not is_over(alert, AlertFacts(NOW, orders={"a": {"state": "UNKNOWN"}}))
    assert not is_over(alert, AlertFacts(NOW)), "an order nobody finds proves nothing"
    assert is_over(alert, AlertFacts(NOW, orders={"a": {"state": "ABSENT"}}))


def test_an_exit_that_was_refused_is_over_when_the_position_is_flat() -> None:
    alert = _alert("exit.rejected", symbol="BTCUSDT", instance="i")
    assert not is_over(alert, AlertFacts(NOW, held=frozenset({AlertPlace(1, "paper", "BTCUSDT", "i")})))
    assert is_over(alert, AlertFacts(NOW, held=frozenset({AlertPlace(1, "paper", "BTCUSDT", "other")})))


def test_alert_of_a_strategy_that_runs_again_is_over() -> None:
    alert = _alert("strategy.disabled", "strategy:0", instance="i")
    assert not is_over(alert, AlertFacts(NOW, instances={"i": {"is_enabled": False, "error": "x"}}))
    assert is_over(alert, AlertFacts(NOW, instances={"i": {"is_enabled": True, "error": None}}))
    assert is_over(alert, AlertFacts(NOW))


@pytest.mark.parametrize("event", ["strategy.drift", "strategy.challenger_disabled", "strategy.challenger_proposed"])
def test_alert_about_a_running_strategy_does_not_end_at_once(event: str) -> None:
    facts = AlertFacts(NOW)
    assert not is_over(_alert(event, "jobs", severity="warning", instance="i"), facts)
    assert is_over(_alert(event, "jobs", severity="warning", age_s=2 * 86400, instance="i"), facts)
    assert not is_over(_alert(event, "jobs", age_s=2 * 86400, instance="i"), facts), "a page waits for a person"


def test_alert_of_an_isolated_strategy_lasts_as_long_as_its_isolation() -> None:
    alert = _alert("strategy.isolated", "strategy:0", severity="warning", age_s=2 * 86400, instance="i")
    runs = {"is_enabled": True, "error": None}
    assert not is_over(alert, AlertFacts(NOW, instances={"i": {**runs, "is_isolated": True}}))
    assert is_over(alert, AlertFacts(NOW, instances={"i": {**runs, "is_isolated": False}}))
    assert is_over(alert, AlertFacts(NOW))


def test_an_info_alert_settles_itself_after_a_day() -> None:
    assert not is_over(_alert("portfolio.run_automatic", "scheduler", severity="info"), AlertFacts(NOW))
    assert is_over(_alert("portfolio.run_automatic", "scheduler", 2 * 86400, "info"), AlertFacts(NOW))
    assert not is_over(_alert("account.drift", "orders", 2 * 86400, "error"), AlertFacts(NOW))


def test_single_events_wait_for_a_person_warnings_for_a_day() -> None:
    assert rule_of("order.lost") is None
    assert not is_over(_alert("order.lost", age_s=10 * 86400), AlertFacts(NOW))
    assert not is_over(_alert("order.rejected", severity="warning"), AlertFacts(NOW))
    assert is_over(_alert("order.rejected", severity="warning", age_s=2 * 86400), AlertFacts(NOW))
    assert is_over(_alert("journal.down", severity="error"), AlertFacts(NOW)), "it was read from the database"
