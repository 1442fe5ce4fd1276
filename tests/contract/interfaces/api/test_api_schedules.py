"""Schedules over HTTP and as commands."""

from __future__ import annotations

import json
from typing import Any

from fks.model.schedules import SCHEDULE_ACTIONS
from fks.store.db import Database
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running

MINE = {"name": "nightly", "action": "backup", "cron": "0 3 * * *", "params": {"keep": 3}}
_BARS = {"strategy": "sma_cross", "symbol": "BTCUSDT", "timeframe": "1m"}
#: action -> parameters, of those that need some
NEEDED: dict[str, dict[str, Any]] = {
    "sync": {"symbol": "BTCUSDT"},
    "drift-check": {"instance": "sma"},
    "rebalance": {"portfolio": "core"},
    "allocate": {"portfolio": "core", "method": "risk_parity"},
    "backtest": _BARS,
    "optimize": {**_BARS, "space": {"fast": [5, 7]}},
    "forecast": {"name": "ar", "symbols": ["BTCUSDT"], "timeframe": "1m"},
}


async def test_each_action_of_the_table_is_accepted(gateway: Running, seeded: Database) -> None:
    async with gateway.client("admin") as client:
        for action in SCHEDULE_ACTIONS:
            body = {"name": action, "action": action, "cron": "0 3 * * *", "params": NEEDED.get(action, {})}
            made = await client.post("/schedules", json=body)
            assert (made.status_code, made.json().get("action")) == (201, action), made.text
        refused = (await client.post("/schedules", json={**MINE, "action": "shell"})).json()
        assert refused["remedy"] == f"use {', '.join(SCHEDULE_ACTIONS)}"
        assert f'"description":"{", ".join(SCHEDULE_ACTIONS)}"' in (await client.get("/openapi.json")).text


async def test_a_schedule_is_added_changed_run_and_removed(gateway: Running, seeded: Database) -> None:
    async with gateway.client("admin") as client:
        made = await client.post("/schedules", json=MINE)
        assert made.status_code == 201, made.text
        body = made.json()
        assert (body["action"], body["cron"], body["params"], body["is_own"]) == (
            "backup",
            "0 3 * * *",
            {"keep": 3},
            False,
        )
        assert body["next_run_at"].endswith("T03:00:00Z")
        assert (await client.post("/schedules", json=MINE)).json()["code"] == "SCHEDULE_EXISTS"
        changed = (await client.post("/schedules/nightly", json={"every_s": 3600})).json()
        assert (changed["cron"], changed["every_s"], changed["params"]) == (None, 3600, {"keep": 3})
        paused = (await client.post("/schedules/nightly", json={"is_enabled": False})).json()
        assert (paused["is_enabled"], paused["next_run_at"]) == (False, None)
        asked = await client.post("/schedules/nightly/run")
        assert (asked.status_code, bool(asked.json()["requested_at"])) == (202, True)
        assert (await client.get("/schedules/nightly")).json()["runs"] == []
        assert (await client.delete("/schedules/nightly")).json() == {"name": "nightly", "removed": True}
        for path in ("/schedules/nightly", "/schedules/x%20y"):
            assert (await client.get(path)).json()["code"] == "SCHEDULE_UNKNOWN"


async def test_wrong_schedules_are_refused_and_leave_nothing(gateway: Running, seeded: Database) -> None:
    async with gateway.client("admin") as client:
        for changed, code in (
            ({"cron": "at noon"}, "SCHEDULE_WRONG"),
            ({"cron": "0 0 30 2 *"}, "SCHEDULE_WRONG"),
            ({"every_s": 60}, "SCHEDULE_WRONG"),
            ({"cron": None}, "SCHEDULE_WRONG"),
            ({"name": "a b"}, "SCHEDULE_WRONG"),
            ({"action": "shell"}, "ACTION_UNKNOWN"),
            ({"params": {"keep": "x"}}, "SPEC_WRONG"),
            ({"params": {"typo": 1}}, "SPEC_WRONG"),
            ({"typo": 1}, "INVALID"),
        ):
            answer = await client.post("/schedules", json={**MINE, **changed})
            assert (answer.status_code, answer.json()["code"]) == (422, code), (changed, answer.text)
        assert (await client.get("/schedules")).json()["items"] == []


async def test_own_schedules_are_shown_and_cannot_be_removed(gateway: Running, seeded: Database) -> None:
    await seeded.execute("schedules.seed", "partitions", "0 * * * *", "partitions")
    async with gateway.client("admin") as client:
        assert [(row["name"], row["is_own"]) for row in (await client.get("/schedules")).json()["items"]] == [
            ("partitions", True)
        ]
        assert (await client.delete("/schedules/partitions")).json()["code"] == "SCHEDULE_OWN"
        assert (await client.post("/schedules/partitions", json={"every_s": 60})).json()["code"] == "SCHEDULE_WRONG"
        assert (await client.post("/schedules/partitions", json={"cron": "5 * * * *"})).json()["cron"] == "5 * * * *"


async def test_the_commands_of_schedules(fks: Fks) -> None:
    assert (await fks("schedule", "add", "s", "deep-check", "--every", "600"))[0] == 0
    assert (await fks("schedule", "edit", "s", "--cron", "*/10 * * * *"))[0] == 0
    for command in ("pause", "resume", "run", "show"):
        assert (await fks("schedule", command, "s"))[0] == 0, command
    code, out, _ = await fks("schedule", "list", "--json")
    assert (code, json.loads(out)["items"][0]["name"]) == (0, "s")
    assert (await fks("schedule", "add", "t", "deep-check", "--params", "x"))[0] == 2
    assert (await fks("schedule", "add", "t", "deep-check"))[0] == 2
    assert (await fks("schedule", "remove", "s"))[0] == 0
