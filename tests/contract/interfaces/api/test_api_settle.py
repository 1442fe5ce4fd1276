"""Settlements, comparisons and incidents over HTTP and the command line, with an order manager behind them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import FAILED, OK, USAGE, run
from fks.model.order import Order, State
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.incidents import IncidentStore
from fks.store.tokens import ensure_local_token
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running, running
from tests.support.order_rig import Rig, seed
from tests.support.scripted_venue import ScriptedVenue

D = Decimal
SEEN = {"reason": "seen in the exchange's app"}
BOUGHT = {"outcome": "filled", "price": "100", "fee": "0.01", "fee_currency": "btc", **SEEN}


@pytest.fixture
async def rig(database: Database, bus: Bus) -> AsyncIterator[Rig]:
    """An order manager whose venue answers no query, and whose orders are never called absent."""
    await seed(database)
    rig = Rig(database, bus, ScriptedVenue())
    venue = rig.settings.venue.model_copy(update={"absent_age_s": 600.0})
    rig.settings = rig.settings.model_copy(update={"venue": venue})
    yield await rig.start()
    await rig.stop()


@pytest.fixture
async def gateway(rig: Rig, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(rig.db, database_url, redis_url, tmp_path) as gateway:
        yield gateway


@pytest.fixture
async def order(rig: Rig) -> Order:
    """An UNKNOWN order of 10 BTC that the exchange executed."""
    rig.venue.script.append("unheard")
    rig.venue.streams_fills, rig.venue.history_hidden = False, True
    rig.venue.outages.update(query=1_000_000)
    signal = await rig.signal()
    await rig.outcome(signal)
    return await rig.becomes((await rig.entry(signal)).client_order_id, State.UNKNOWN)


async def _settle(client: httpx.AsyncClient, id: str, **body: Any) -> tuple[int, dict[str, Any]]:
    answer = await client.post(f"/orders/{id}/settle", json=body)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()


async def test_two_steps_end_an_unknown_order(gateway: Running, rig: Rig, order: Order) -> None:
    name = order.client_order_id
    async with gateway.client() as client:
        status, shown = await _settle(client, name, **BOUGHT)
        assert status == 200
        assert shown["will"] == (
            f"end order {name} as FILLED; book buy 10 BTCUSDT at 100, fee 0.01 BTC, which moves the position of one "
            "by 9.99"
        )
        assert (await rig.state(name), await rig.position()) == (State.UNKNOWN, 0)
        assert (await _settle(client, name, confirm="AAAA-AAAA"))[1]["code"] == "SETTLE_CODE"
        assert (await _settle(client, name, **(BOUGHT | {"price": "101"}), confirm=shown["confirm"]))[1][
            "code"
        ] == "SETTLE_CHANGED"
        status, done = await _settle(client, name, confirm=shown["confirm"])
        assert (status, done["settlement"], done["state"], D(done["filled"])) == (200, "applied", "FILLED", D(10))
        assert await rig.position() == D("9.99")
        again = await _settle(client, name, **BOUGHT, confirm=shown["confirm"].lower())
        assert (again[0], again[1]["state"]) == (200, "FILLED")
        assert (await _settle(client, name, **BOUGHT))[1]["code"] == "ORDER_NOT_UNKNOWN"
    assert len(await rig.db.sql("SELECT 1 FROM trades")) == 1


async def test_a_code_is_of_one_person_and_of_five_minutes(gateway: Running, rig: Rig, order: Order) -> None:
    name = order.client_order_id
    async with gateway.client() as client:
        _, shown = await _settle(client, name, **BOUGHT)
        await rig.db.sql("UPDATE order_settlements SET requested_at = requested_at - interval '301 s'")
        status, late = await _settle(client, name, confirm=shown["confirm"])
        assert (status, late["code"]) == (409, "SETTLE_CODE")
        assert "time is over" in late["detail"]
        _, shown = await _settle(client, name, **BOUGHT)
        await rig.db.sql("UPDATE order_settlements SET by = 'another'")
        assert (await _settle(client, name, confirm=shown["confirm"]))[1]["code"] == "SETTLE_CODE"
    assert await rig.state(name) is State.UNKNOWN


WRONG: tuple[dict[str, Any], ...] = (
    {},
    {"outcome": "filled"},
    {"outcome": "filled", "reason": " "},
    {"outcome": "filled", **SEEN},
    {**BOUGHT, "fee": None},
    {**BOUGHT, "quantity": "4"},
    {**BOUGHT, "quantity": "11"},
    {**BOUGHT, "fee_currency": None},
    {**BOUGHT, "trade_ids": ["1"]},
    {"outcome": "filled", "trade_ids": ["1", "1"], **SEEN},
    {**BOUGHT, "outcome": "absent"},
    {**BOUGHT, "outcome": "busted"},
    {"outcome": "busted", "trade_ids": ["4711"], **SEEN},
    {**BOUGHT, "price": "NaN"},
    {**BOUGHT, "price": "1e999"},
    {**BOUGHT, "fee": "-1e999"},
    {**BOUGHT, "outcome": "lost"},
    {**BOUGHT, "quantity": "0"},
    {"outcome": "absent", "reason": "x" * 501},
    {**BOUGHT, "surprise": 1},
    {"confirm": ""},
    {"confirm": 7},
)


async def test_a_wrong_settlement_is_refused_and_nothing_is_kept(gateway: Running, rig: Rig, order: Order) -> None:
    async with gateway.client() as client:
        for body in WRONG:
            status, answer = await _settle(client, order.client_order_id, **body)
            assert (status, answer["code"] in ("SETTLE_WRONG", "INVALID")) == (422, True), (body, answer)
    assert await rig.db.sql("SELECT 1 FROM order_settlements") == []


@pytest.fixture
async def fks(
    gateway: Running, rig: Rig, database_url: str, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Fks:
    """Run a command against the gateway, as a user of this node would."""
    paths = Paths.of(tmp_path)
    await ensure_local_token(rig.db, paths)
    save_node(
        paths,
        NodeEndpoints(database_url, redis_url, "", {"host": "127.0.0.1", "port": int(gateway.url.rpartition(":")[2])}),
    )

    async def call(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(run, cli, ["--home", str(tmp_path), *argv])
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


async def test_the_command_line_settles_in_two_steps(fks: Fks, rig: Rig, order: Order) -> None:
    name = order.client_order_id
    assert (await fks("orders", "settle", name))[0] == USAGE
    code, out, err = await fks("orders", "settle", name, "--as", "cancelled", "--reason", "support ticket 12", "--json")
    assert (code, err) == (OK, "")
    shown = json.loads(out)
    assert (shown["schema"], shown["will"]) == ("fks.settlement/1", f"end order {name} as CANCELLED; book nothing")
    code, out, _ = await fks("orders", "settle", name, "--as", "absent", "--reason", "support ticket 12")
    assert f"this will end order {name} as ABSENT; book nothing" in out
    command = out.splitlines()[1].partition(": fks ")[2].split()
    code, out, _ = await fks(*command)
    assert (code, out.strip()) == (OK, f"order {name}: applied; it is ABSENT, filled 0")
    assert await rig.state(name) is State.ABSENT
    assert (await fks("orders", "settle", name, "--confirm", shown["confirm"]))[0] == USAGE


async def test_reconcile_shows_what_was_found(fks: Fks, rig: Rig, order: Order) -> None:
    rig.venue.outages.clear()
    rig.venue.history_hidden = False
    code, out, _ = await fks("reconcile", "--json")
    assert code == OK, out
    document = json.loads(out)
    assert document["schema"] == "fks.reconcile/1"
    [found] = document["items"]
    assert (found["venue"], found["result"]["state"], found["error"]) == ("ccxt", "READY", None)
    await rig.becomes(order.client_order_id, State.FILLED)
    code, out, _ = await fks("reconcile", "--venue", "ccxt")
    assert (code, "READY" in out) == (OK, True)
    assert (await fks("reconcile", "--venue", "moon"))[0] == USAGE


async def test_venue_that_does_not_answer_is_reported(fks: Fks, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fks.trading.order_manager.settlement.COMPARE_S", 0.3)
    rig.venue.outages.update(open_orders=1000, balances=1000)
    code, out, _ = await fks("reconcile", "--json")
    assert code == FAILED
    [found] = json.loads(out)["items"]
    assert "not compared within" in found["error"]
    assert "fails by script" in found["error"]


async def test_incidents_are_listed_and_closed_once(fks: Fks, rig: Rig) -> None:
    opened = await IncidentStore(rig.db).open(
        1, "drift", "BTC", detail="1 BTC less than expected", now_ns=1, payload={"difference": "-1"}
    )
    assert opened is not None
    id = str(opened[0].id)
    code, out, _ = await fks("incidents", "list", "--json")
    [item] = json.loads(out)["items"]
    assert (item["account"], item["kind"], item["subject"], item["is_open"]) == ("main", "drift", "BTC", True)
    assert "1 BTC less than expected" in (await fks("incidents"))[1]
    assert (await fks("incidents", "close", id, "--as", "explained", "--reason", "cold storage"))[0] == OK
    code, _, err = await fks("incidents", "close", id, "--as", "explained", "--reason", "again")
    assert (code, "INCIDENT_CLOSED" in err) == (USAGE, True)
    assert (await fks("incidents", "close", "4711", "--as", "booked", "--reason", "x"))[0] == USAGE
    assert "no open incidents" in (await fks("incidents"))[1]
    assert "explained: cold storage" in (await fks("incidents", "list", "--all"))[1]
