"""Challengers, promotion and roll back over HTTP and on the command line: repeated, they change nothing twice."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.research.jobs.challenge import complete_swaps
from fks.store.db import Database
from fks.store.jobs import JobStore
from fks.store.strategies import StrategyStore
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running
from tests.support.searches import search_of
from tests.support.strategies import add_instance

FAST = {"fast": 5, "slow": 20}


@pytest.fixture
async def instance(seeded: Database) -> str:
    await add_instance(seeded, "a", "sma_cross", {"fast": 10, "slow": 30})
    return "a"


async def test_parameters_are_not_changed_while_an_order_that_enters_is_open(
    gateway: Running, seeded: Database, instance: str
) -> None:
    """It rests at a price of the old parameters, and nothing would ever end it."""
    promote, body = f"/optimizations/{await search_of(seeded)}/promote", {"instance": instance}
    await seeded.sql(
        "INSERT INTO orders (client_order_id, intent_id, account_id, venue, symbol, instance, role, side, type, quantity,"
        " state) VALUES ('o1', gen_random_uuid(), 1, 'paper', 'BTCUSDT', $1, 'entry', 'buy', 'limit', 1, 'WORKING')",
        instance,
    )
    async with gateway.client("trade") as client:
        refused = await client.post(promote, json=body)
        assert (refused.status_code, refused.json()["code"]) == (409, "PROMOTION_REFUSED")
        assert "1 order(s) that enter for instance a are open" in refused.text
        await seeded.sql("UPDATE orders SET role = 'sl'")  # a stop of a position stands in no one's way
        assert (await client.post(promote, json=body)).status_code == 200
        await seeded.sql("UPDATE orders SET role = 'entry'")
        assert (await client.post(f"/strategies/{instance}/rollback")).status_code == 409
        await seeded.sql("UPDATE orders SET state = 'CANCELLED'")
        await signal_waits(seeded, instance)
        for state in ("pending", "ready"):
            await seeded.sql("UPDATE signals SET state = $1", state)
            late = await client.post(f"/strategies/{instance}/rollback")
            assert late.status_code == 409, state
            assert "1 signal(s) to enter for instance a are not ordered yet" in late.text
        await seeded.sql("UPDATE signals SET kind = 'exit'")  # an exit closes what the old parameters opened
        assert (await client.post(f"/strategies/{instance}/rollback")).status_code == 200


async def signal_waits(db: Database, instance: str) -> None:
    """Insert a signal to enter that is not ordered yet."""
    await db.sql(
        "INSERT INTO signals (id, source, instance, account_id, venue, symbol, ts_event, kind, side)"
        " VALUES (gen_random_uuid(), 'strategy:a', $1, 1, 'paper', 'BTCUSDT', now(), 'enter', 'buy')",
        instance,
    )


async def test_promotion_and_rollback_with_a_key_are_done_once(
    gateway: Running, seeded: Database, instance: str
) -> None:
    id = await search_of(seeded)
    path, body, one = f"/optimizations/{id}/promote", {"instance": instance}, {"Idempotency-Key": "one"}
    async with gateway.client("trade") as client:
        made = await client.post(path, json=body, headers=one)
        assert made.status_code == 200, made.text
        assert (made.json()["version"], made.json()["params"]["fast"], made.json()["mode"]) == (2, 5, "paper")
        assert (await client.post(path, json=body, headers=one)).json() == made.json()
        clash = await client.post(f"/strategies/{instance}/rollback", headers=one)
        assert (clash.status_code, clash.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")
        back = await client.post(f"/strategies/{instance}/rollback", headers={"Idempotency-Key": "two"})
        assert (back.json()["version"], back.json()["back_to"], back.json()["params"]["fast"]) == (3, 1, 10)
        again = await client.post(f"/strategies/{instance}/rollback", headers={"Idempotency-Key": "two"})
        assert again.json() == back.json()
        versions = (await client.get(f"/strategies/{instance}/versions")).json()["items"]
        assert [one["version"] for one in versions] == [3, 2, 1]
        refused = await client.post(f"/optimizations/{await search_of(seeded, ['chance'])}/promote", json=body)
        assert (refused.status_code, refused.json()["code"]) == (409, "PROMOTION_REFUSED")
        for wrong, code in ((f"/optimizations/{uuid.uuid4()}/promote", "OPTIMIZATION_UNKNOWN"),):
            assert (await client.post(wrong, json=body)).json()["code"] == code
        none = await client.post(path, json={"instance": "none"})
        assert (none.status_code, none.json()["code"]) == (404, "INSTANCE_UNKNOWN")
        assert (await client.get("/strategies/none/versions")).status_code == 404
    (row,) = await seeded.sql("SELECT params_version, account_id, venue FROM strategy_instances")
    assert row["params_version"] == 3


async def test_a_challenger_is_added_proposed_swapped_and_demoted(
    gateway: Running, seeded: Database, instance: str
) -> None:
    async with gateway.client("signal") as client:
        made = await client.post(f"/strategies/{instance}/challengers", json={"params": FAST})
        assert made.status_code == 201, made.text
        id = made.json()["id"]
        assert (id, made.headers["location"], made.json()["stage"]) == ("a~1", "/challengers/a~1", "shadow")
        assert (await client.post(f"/strategies/{instance}/challengers", json={"params": FAST})).json()["id"] == id
        other = await client.post(f"/strategies/{instance}/challengers", json={"params": {"fast": 7}})
        removed = await client.delete(f"/challengers/{other.json()['id']}")
        assert (removed.json()["stage"], removed.json()["ended_by"]) == ("removed", "t-signal")
        assert (await client.delete(f"/challengers/{other.json()['id']}")).status_code == 200
        listed = (await client.get(f"/strategies/{instance}/challengers")).json()["items"]
        assert [one["id"] for one in listed] == [id]
        both = (await client.get(f"/strategies/{instance}/challengers?ended=true")).json()["items"]
        assert [one["stage"] for one in both] == ["shadow", "removed"]
        key = {"Idempotency-Key": "test-1"}
        asked = await client.post(f"/challengers/{id}/propose", headers=key)
        assert asked.status_code == 202, asked.text
        assert (await client.post(f"/challengers/{id}/propose", headers=key)).json()["job"] == asked.json()["job"]
        assert len(await JobStore(seeded).list(kind="challenge")) == 1
    async with gateway.client("trade") as client:
        refused = await client.post(f"/challengers/{id}/swap", json={})
        assert (refused.status_code, refused.json()["code"]) == (409, "CHALLENGER_NOT_PROPOSED")
        await hold(seeded, "1")
        wanted = {"despite_findings": True}
        now = await client.post(f"/challengers/{id}/swap", json={**wanted, "may_wait": False})
        assert (now.status_code, now.json()["code"]) == (409, "CHALLENGER_NOT_FLAT")
        for _ in range(2):
            waits = await client.post(f"/challengers/{id}/swap", json=wanted)
            assert (waits.status_code, waits.json()["stage"]) == (200, "waiting"), waits.text
        assert waits.json()["waits_for"] == "it holds 1 BTCUSDT"
        assert (await client.delete(f"/challengers/{id}/swap")).json()["stage"] == "shadow"
        await client.post(f"/challengers/{id}/swap", json=wanted)
        await hold(seeded, "0.000001")  # dust: less than a lot
        assert [one.version for one in await complete_swaps(seeded)] == [2]
        assert (await client.post(f"/challengers/{id}/swap", json=wanted)).json()["stage"] == "swapped"
        back = await client.post(f"/strategies/{instance}/demote")
        assert (back.json()["stage"], back.json()["version"]) == ("swapped", 3)
        again = await client.post(f"/strategies/{instance}/demote")
        assert (again.status_code, again.json()["code"]) == (409, "CHALLENGER_NONE")
    versions = await StrategyStore(seeded).versions(instance)
    assert [dict(one.params)["fast"] for one in versions] == [10, 5, 10]
    assert versions[0].changed_by == "t-trade"


async def hold(db: Database, quantity: str) -> None:
    await db.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity)"
        " SELECT id, venue, 'BTCUSDT', 'a', $1 FROM accounts WHERE name = 'demo'"
        " ON CONFLICT (account_id, venue, symbol, instance) DO UPDATE SET quantity = excluded.quantity",
        Decimal(quantity),
    )


async def test_challengers_on_the_command_line(
    fks: Fks, seeded: Database, instance: str, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "fks.toml").write_text(f'[database]\nurl = "{database_url}"\n')
    group = ("strategies", "challengers")

    async def done(*argv: str) -> Any:
        code, out, err = await fks(*group, *argv, "--json")
        assert code == 0, err
        found = json.loads(out)
        return found.get("items", found)

    made = await done("add", instance, "--set", "fast=5", "--set", "slow=20")
    assert (made["id"], made["params"]["fast"]) == ("a~1", 5)
    search = await search_of(seeded, ["chance"])
    assert (await done("add", instance, "--search", str(search)))["id"] == "a~1", "the same parameters"
    code, _, err = await fks(*group, "add", instance)
    assert code == 2, err
    assert [row["id"] for row in await done("list", instance)] == ["a~1"]
    code, _, err = await fks(*group, "propose", "a~1")
    assert (code, "have not decided on the same bars yet" in err) == (2, True), err
    code, _, err = await fks(*group, "swap", "a~1")
    assert "is not proposed: it was not tested yet" in err
    assert (await done("swap", "a~1", "--despite-findings"))["version"] == 2
    assert (await done("demote", instance))["version"] == 3
    code, out, _ = await fks(*group, "list", "--ended")
    assert (code, out.count("swapped")) == (0, 2)
    code, _, err = await fks(*group, "remove", "a~1")
    assert "has ended" in err
    code, out, err = await fks("optimize", "versions", instance)
    assert (code, "challenger a~1" in out, "rolled back to 1" in out) == (0, True, True), err
