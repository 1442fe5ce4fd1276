"""Operations and settings over the API and the command line, with a supervisor behind that performs them."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fks import __version__
from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.interfaces.cli import operation
from fks.interfaces.cli.base import FAILED, NOT_RUNNING, OK, USAGE
from fks.model.errors import OutageError
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.operations import OperationStore
from fks.store.runtime_config import RuntimeConfigStore
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running
from tests.support.operations import IDS, FakeParts, Rig
from tests.support.ports import CollectingLog
from tests.support.waiting import until


@pytest.fixture
async def rig(seeded: Database, bus: Bus, log: CollectingLog) -> AsyncIterator[Rig]:
    """A supervisor that performs what is asked, and its children's rows."""
    component: Any = SimpleNamespace(db=seeded, bus=bus, clock=RealClock(), log=log, config_version=0)
    rig = Rig(seeded, OperationStore(seeded), RuntimeConfigStore(seeded), FakeParts(), log, component=component)

    rig.parts.versions = rig.versions
    for id in IDS:
        await seeded.sql(
            "INSERT INTO component_health (name, kind, state, pid, beat_at) VALUES ($1, 'actor', 'ready', 1, now())", id
        )
    yield rig
    for task in rig.tasks:
        task.cancel()
    await asyncio.gather(*rig.tasks, return_exceptions=True)


async def test_an_operation_is_asked_for_once_per_key_and_followed_by_its_id(gateway: Running, rig: Rig) -> None:
    rig.start()
    async with gateway.client("admin") as client, gateway.client("trade") as trader:
        body = {"kind": "restart", "target": "orders", "reason": "tidy"}
        assert (await trader.post("/operations", json=body)).status_code == 403
        key = {"Idempotency-Key": str(uuid.uuid4())}
        made = await client.post("/operations", json=body, headers=key)
        assert made.status_code == 202, made.text
        assert made.json()["requested_by"] == "t-admin"
        assert (await client.post("/operations", json=body, headers=key)).json()["id"] == made.json()["id"]
        other = await client.post("/operations", json={**body, "target": "guardian"}, headers=key)
        assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")
        where = made.headers["location"]

        async def is_done() -> bool:
            return bool((await trader.get(where)).json()["state"] == "done")

        await until(is_done)
        assert rig.parts.restarted == ["orders"]
        assert [item["id"] for item in (await trader.get("/operations?state=done")).json()["items"]] == [
            made.json()["id"]
        ]
        assert (await client.get(f"/operations/{uuid.uuid4()}")).json()["code"] == "OPERATION_UNKNOWN"
        unknown = await client.post("/operations", json={"kind": "restart", "target": "nobody"})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "COMPONENT_UNKNOWN")
        assert "orders" in unknown.json()["remedy"]
        assert (await client.post("/operations", json={"kind": "config"})).status_code == 422


async def test_settings_change_at_run_time_and_go_back(gateway: Running, rig: Rig) -> None:
    rig.start()
    async with gateway.client("admin") as client:

        async def change(**body: Any) -> Any:
            base = (await client.get("/config")).json()["version"]
            return await client.post("/config/versions", json={"reason": "r", "base_version": base, **body})

        async def active(version: int) -> None:
            async def is_active() -> bool:
                return bool((await client.get(f"/config/versions/{version}")).json()["state"] == "active")

            await until(is_active)

        made = await change(
            set={"risk.notional_max_order": "5000", "venue.sweep_s": 30, "venue.poll_delays_s": [1, 2.5]}
        )
        assert made.status_code == 202, made.text
        first = made.json()
        assert first["values"] == {
            "risk.notional_max_order": "5000",
            "venue.sweep_s": 30.0,
            "venue.poll_delays_s": [1.0, 2.5],
        }
        await active(first["version"])
        assert rig.parts.restarted == ["guardian", "orders"]
        rows = {row["key"]: row for row in (await client.get("/config")).json()["settings"]}
        assert (rows["risk.notional_max_order"]["value"], rows["risk.notional_max_order"]["file"]) == ("5000", "50000")

        second = (await change(unset=["risk.notional_max_order"], set={"data.stale_min_s": 20})).json()
        await active(second["version"])
        assert rig.parts.restarted[2:] == ["orders", "collector:binance"]
        back = (await change(rollback_to=first["version"])).json()
        assert (back["kind"], back["rolls_back_to"], back["values"]) == ("rollback", first["version"], first["values"])
        await active(back["version"])
        files = (await change(rollback_to=0)).json()
        assert files["values"] == {}
        await active(files["version"])
        listed = (await client.get("/config/versions")).json()["items"]
        assert [item["state"] for item in listed] == ["active", "superseded", "superseded", "superseded"]
        assert {item["changed_by"] for item in listed} == {"t-admin"}


async def test_a_change_that_cannot_be_is_refused_and_leaves_nothing(gateway: Running, seeded: Database) -> None:
    for body, status, code in [
        ({"set": {"risk.nonsense": 1}}, 422, "CONFIG_KEY"),
        ({"set": {"venue.live": True}}, 422, "CONFIG_KEY"),
        ({"set": {"supervision.lease_ttl_s": 9}}, 422, "CONFIG_KEY"),
        ({"set": {"venue.api_key": "x"}}, 422, "CONFIG_KEY"),
        ({"unset": ["risk.orders_open_max"]}, 422, "CONFIG_KEY"),
        ({"set": {"risk.orders_open_max": "many"}}, 422, "CONFIG_WRONG"),
        ({"set": {"risk.orders_open_max": -1}}, 422, "CONFIG_WRONG"),
        ({"set": {"data.stale_min_s": 500}}, 422, "CONFIG_WRONG"),
        ({"set": {"log.level": "LOUD"}}, 422, "CONFIG_WRONG"),
        ({}, 422, "CONFIG_SAME"),
        ({"rollback_to": 77}, 404, "CONFIG_VERSION_UNKNOWN"),
        ({"rollback_to": 0, "set": {"venue.sweep_s": 3}}, 422, "INVALID"),
        ({"set": {"venue.sweep_s": 3}, "base_version": 7}, 409, "CONFIG_CHANGED"),
        ({"set": {"venue.sweep_s": 3}, "reason": ""}, 422, "INVALID"),
    ]:
        async with gateway.client("admin") as client:
            answer = await client.post("/config/versions", json={"reason": "r", "base_version": 0, **body})
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert await seeded.sql("SELECT 1 FROM runtime_config") == []
        assert await seeded.sql("SELECT 1 FROM operations") == []


async def test_command_line_restarts_and_prints_the_time_it_took(fks: Fks, rig: Rig) -> None:
    rig.start()
    code, out, err = await fks("restart", "orders", "--why", "tidy")
    assert (code, err) == (OK, "")
    assert "orders is back after" in out
    assert "pid 101 → 1101" in out
    code, out, _ = await fks("restart", "strategy:0", "--json")
    assert code == OK
    answer = json.loads(out)
    assert (answer["schema"], answer["name"], answer["old_pid"], answer["pid"]) == (
        "fks.restart/1",
        "strategy:0",
        103,
        1103,
    )
    code, out, _ = await fks("restart", "gateway")
    assert (code, len(rig.redeployed)) == (OK, 1)
    code, _, err = await fks("restart", "nobody")
    assert code == USAGE
    assert "orders" in err
    rig.parts.fails["guardian"] = OutageError("guardian is not back after 30 s")
    code, _, err = await fks("restart", "guardian")
    assert code == FAILED
    assert "guardian is not back" in err


async def test_deployment_is_shown_part_by_part(fks: Fks, rig: Rig) -> None:
    rig.parts.build = ""  # a child that reports no build is not compared: ours may be edited while this runs
    rig.start()
    code, out, err = await fks("deploy", "--only", "strategy:0", "--why", "new idea")
    assert (code, err) == (OK, "")
    assert "strategy:0 is back after" in out
    assert f"strategy:0 runs {__version__}+" in out
    rig.parts.fails["orders"] = OutageError("orders is not back after 30 s")
    code, out, err = await fks("deploy")
    assert code == FAILED
    assert "guardian is back" in out
    assert "orders did not come back" in out
    assert "orders is not back after 30 s" in err
    assert rig.parts.restarted == ["strategy:0", "guardian"]


async def test_settings_from_the_command_line(fks: Fks, rig: Rig) -> None:
    rig.start()
    code, out, err = await fks("config", "set", "risk.notional_max_order", "5000", "--why", "smaller")
    assert (code, err) == (OK, "")
    assert "risk.notional_max_order: as in the file → 5000" in out
    assert "version 1 is in force" in out
    code, out, _ = await fks("config", "show", "risk.notional")
    assert "runtime version 1 (default: 50000)" in out
    code, out, _ = await fks("config", "set", "venue.sweep_s", "30", "--why", "calm", "--json")
    assert json.loads(out)["changes"] == {"venue.sweep_s": {"from": None, "to": 30.0}}
    code, out, _ = await fks("config", "diff", "1", "2")
    assert "venue.sweep_s: as in the file → 30.0" in out
    code, out, _ = await fks("config", "rollback", "1", "--why", "not calm")
    assert (code, "version 3 is in force" in out) == (OK, True)
    code, out, _ = await fks("config", "history")
    assert "back to 1: venue.sweep_s = as in the file" in out
    assert "smaller" in out
    code, _, err = await fks("config", "unset", "venue.sweep_s", "--why", "x")
    assert (code, "venue.sweep_s is not set at run time" in err) == (USAGE, True)
    code, _, err = await fks("config", "set", "data.symbols", "BTCUSDT", "--why", "x")
    assert (code, "fks assets" in err) == (USAGE, True)
    code, _, err = await fks("config", "set", "venue.sweep_s", "--why", "x")
    assert code == USAGE
    code, out, _ = await fks("venues", "configure", "ccxt", "sweep_s", "20", "--why", "slow", "--json")
    assert json.loads(out)["changes"] == {"venue.sweep_s": {"from": None, "to": 20.0}}
    code, _, err = await fks("venues", "configure", "mt5", "port", "1", "--why", "x")
    assert (code, "mt5.port cannot change while the system runs" in err) == (USAGE, True)
    code, _, err = await fks("venues", "configure", "risk", "notional_max_order", "1", "--why", "x")
    assert (code, "there is no venue risk" in err) == (USAGE, True)
    code, out, _ = await fks("config", "keys", "data")
    assert (code, "collector:*" in out) == (OK, True)


async def test_drained_restart_without_a_gateway_names_the_alternative(
    fks: Fks, rig: Rig, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    save_node(Paths.of(tmp_path), NodeEndpoints(database_url, redis_url, "", {"host": "127.0.0.1", "port": 1}))
    code, _, err = await fks("restart", "orders")
    assert code == NOT_RUNNING
    assert "--now" in err


async def test_waiting_for_an_unclaimed_operation_ends(
    gateway: Running, rig: Rig, fks: Fks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation, "ABANDONED_S", 0.5)
    await rig.store.request("restart", target="guardian")
    other = await rig.store.claim()  # that one is being performed: the next waits
    assert other is not None
    waiting = asyncio.ensure_future(fks("restart", "orders"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2.0):
            await asyncio.shield(waiting)
    await rig.store.finish(other, "done", result={})
    code, _, err = await waiting
    assert (code, "no supervisor claimed operation" in err) == (NOT_RUNNING, True)
