"""Overall status from the states of the parts."""

from __future__ import annotations

from typing import Any

import pytest

from fks.clock import FakeClock
from fks.system.monitor.health import RequestRate, feeds_health, owner_services, tree_health, worst
from fks.system.monitor.status import SILENT_MS, component_view, kill_view, overall


def _component(
    name: str = "orders", state: str = "ready", age: int | None = 100, kind: str = "actor"
) -> dict[str, Any]:
    row = {"name": name, "kind": kind, "state": state, "pid": 7, "node": "n", "restarts": 0, "since": None}
    return component_view({**row, "heartbeat_age_ms": age, "detail": {}, "epoch": 1})


def _feed(state: str = "LIVE", age: int | None = 100) -> dict[str, Any]:
    return {"exchange": "binance", "symbol": "BTCUSDT", "state": state, "age_ms": age}


UNTRADED = {"name": "paper", "state": "COLD", "account": None}


@pytest.mark.parametrize(
    ("components", "feeds", "venues", "status"),
    [
        ([_component()], [_feed()], [{"name": "paper", "state": "READY"}], "healthy"),
        ([_component(), _component("x", "degraded")], [], [], "degraded"),
        ([_component(), _component("x", "starting")], [], [], "starting"),
        ([_component("x", "starting"), _component("y", "failed")], [], [], "degraded"),
        ([_component(age=SILENT_MS + 1)], [], [], "down"),
        ([], [], [], "down"),
        ([_component(), _component("x", age=None)], [], [], "degraded"),
        ([_component(), _component("x", "done", age=10**9)], [], [], "healthy"),
        ([_component()], [_feed("STALE")], [], "degraded"),
        ([_component()], [_feed(age=None)], [], "degraded"),
        ([_component()], [_feed()], [{"name": "ccxt", "state": "SYNCING"}], "degraded"),
        ([_component()], [_feed()], [{"name": "ccxt", "state": "READY", "account": "a"}, UNTRADED], "healthy"),
        ([_component()], [_feed()], [{"name": "ccxt", "state": "SYNCING", "account": "a"}, UNTRADED], "degraded"),
        ([_component()], [_feed()], [UNTRADED], "degraded"),
    ],
)
def test_overall_health_is_the_worst_dependency(components: Any, feeds: Any, venues: Any, status: str) -> None:
    state, reasons = overall(components, feeds, venues)
    assert state == status
    assert bool(reasons) == (status != "healthy")


def test_component_without_beats_is_silent() -> None:
    assert _component(age=SILENT_MS + 1)["state"] == "silent"
    assert _component(state="failed", age=10**9)["state"] == "failed"


def test_the_kill_switch_shows_the_newest_kill() -> None:
    assert kill_view([]) == {"engaged": False}
    kills = [
        {"scope": "system", "reason": "why", "engaged_by": "me", "engaged_at": 2},
        {"scope": "x", "reason": "", "engaged_by": "", "engaged_at": 1},
    ]
    assert kill_view(kills) == {
        "engaged": True,
        "scope": "system",
        "reason": "why",
        "by": "me",
        "since": 2,
        "count": 2,
        "scopes": ["system", "x"],
    }


def test_owner_health_is_down_only_without_the_database() -> None:
    assert worst({"database": "healthy", "redis": "healthy"}) == "healthy"
    assert worst({"database": "healthy", "redis": "down"}) == "degraded"
    assert worst({"database": "down", "redis": "healthy"}) == "down"


def test_tree_and_feeds_have_their_own_health() -> None:
    assert tree_health([]) == "down"
    assert tree_health([_component("supervisor"), _component()]) == "healthy"
    assert tree_health([_component("supervisor"), _component(state="down")]) == "degraded"
    assert tree_health([_component("supervisor", age=SILENT_MS + 1), _component()]) == "down"
    assert feeds_health([]) == "down"
    assert feeds_health([_feed(), _feed("STALE")]) == "degraded"
    assert feeds_health([_feed("STALE")]) == "down"


def test_components_stand_under_the_owners_services() -> None:
    listed = owner_services([_component("collector:binance"), _component("orders", "down")], "now")
    assert {row["id"]: row["status"] for row in listed} == {"fks_data": "healthy", "fks_execution": "down"}


async def test_the_rate_is_of_the_last_minute() -> None:
    clock = FakeClock()
    rate = RequestRate(clock)
    for _ in range(3):
        rate.note()
    await clock.advance(30)
    rate.note()
    assert rate.per_minute() == 4
    await clock.advance(31)
    assert rate.per_minute() == 1
    for _ in range(100):
        await clock.advance(1)
        rate.note()
    assert rate.per_minute() == 60
    await clock.advance(59)
    assert rate.per_minute() == 1
    await clock.advance(1)
    assert rate.per_minute() == 0
