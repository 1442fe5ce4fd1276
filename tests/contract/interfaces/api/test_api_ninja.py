"""Links to NinjaTrader over HTTP and as a command: connected is not able to trade, and the missing part is named."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fks.bridge.ninja.machine import LIVE
from fks.interfaces.cli.base import OK
from fks.model.ninja import CONNECTED, LinkReport, NinjaEvent, NinjaRequest, RequestKind
from fks.store.db import Database
from fks.store.leases import raise_epoch
from fks.store.ninja import NinjaStore
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running, running
from tests.support.ports import TestLease
from tests.support.waiting import until

ACCOUNT = {"name": "Sim101", "sim": True, "mode": "auto", "connected": True}
READY = LinkReport("READY", True, False, (ACCOUNT,), 12)
GROUPS = {"enabled": True, "host": "10.0.0.5", "groups": {"apex": {"port": 8082, "required": True}}}


@pytest.fixture
async def gateway(seeded: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(seeded, database_url, redis_url, tmp_path, ninja=GROUPS) as gateway:
        yield gateway


@pytest.fixture
async def link(seeded: Database) -> NinjaStore:
    """The rows as the actor ninja:sim writes them: an event, and two requests that wait."""
    store = NinjaStore(seeded, TestLease("ninja:sim", await raise_epoch(seeded, "ninja:sim", "test")))
    now_ns = time.time_ns()
    await store.record_link("sim", READY)
    await store.record_events("sim", [NinjaEvent("e" * 32, 0, "epoch", None, None, {"before": None}, now_ns)])
    await store.record_events("sim", [NinjaEvent("e" * 32, 1, "exec", "Sim101", "a1", {"exec_id": "X1"}, now_ns)])
    for id in ("a1", "a2"):
        await store.ask(NinjaRequest(id, "sim", RequestKind.CANCEL, {"id": "x"}, "test"), now_ns)
    return store


async def links_of(gateway: Running) -> dict[str, dict[str, Any]]:
    async with gateway.client("read") as client:
        answer = await client.get("/api/v1/ninja/links")
    assert answer.status_code == 200
    return {item["group"]: item for item in answer.json()["items"]}


def test_the_states_of_a_connection_are_those_of_the_session() -> None:
    assert {state.value for state in LIVE} == CONNECTED


async def test_each_group_is_listed_with_its_state_and_what_waits(gateway: Running, link: NinjaStore) -> None:
    found = await links_of(gateway)
    sim, apex = found["sim"], found["apex"]
    assert (sim["state"], sim["connected"], sim["can_trade"], sim["halted"]) == ("READY", True, True, False)
    assert (sim["accounts"], sim["waiting"], sim["stored_seq"]) == ([ACCOUNT], {"NEW": 2}, 1)
    assert (sim["last_event"]["kind"], sim["last_event"]["signal_id"]) == ("exec", "a1")
    assert (apex["state"], apex["connected"], apex["required"], apex["port"]) == ("NONE", False, True, 8082)
    await link.record_link("sim", LinkReport("READY", True, True, (ACCOUNT,), 12))
    sim = (await links_of(gateway))["sim"]
    assert (sim["connected"], sim["can_trade"], sim["halted"]) == (True, False, True)


async def test_the_connection_test_has_the_form_of_the_replaced_service(gateway: Running, link: NinjaStore) -> None:
    async with gateway.client("read") as client:
        body = (await client.get("/api/v1/connection/test", params={"group": "sim"})).json()
        assert (body["connected"], body["host"], body["port"]) == (True, "10.0.0.5", 8080)
        assert "error" not in body
        body = (await client.get("/api/v1/connection/test", params={"group": "apex"})).json()
        assert (body["connected"], body["port"]) == (False, 8082)
        assert "ninja:apex does not run" in body["error"]
        unknown = await client.get("/api/v1/connection/test", params={"group": "gold"})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "GROUP_UNKNOWN")
        await link.record_link("sim", LinkReport("BACKOFF", False, False, (), 0, "auth_failed: compare the files"))
        body = (await client.get("/connection/test", params={"group": "sim"})).json()
        assert body["error"] == "auth_failed: compare the files"
    async with gateway.client(None) as client:
        assert (await client.get("/api/v1/connection/test")).status_code == 401


async def test_the_connection_test_is_of_the_group_that_trades(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path, link: NinjaStore
) -> None:
    traded = {**GROUPS, "account": "Sim101", "account_group": "sim"}
    rest = (database_url, redis_url, tmp_path)
    async with running(seeded, *rest, ninja=traded) as gateway, gateway.client("read") as client:
        body = (await client.get("/api/v1/connection/test")).json()
    assert (body["group"], body["connected"], body["port"]) == ("sim", True, 8080), "apex is the first by name"


async def test_ready_tells_connected_from_able_to_trade(gateway: Running, link: NinjaStore, seeded: Database) -> None:
    async def ready() -> dict[str, Any]:
        async with gateway.client(None) as client:
            body: dict[str, Any] = (await client.get("/fks_ninja/ready")).json()
        return body

    async with gateway.client(None) as client:
        body = (await client.get("/fks_ninja/health")).json()
    assert (body["status"], body["dependencies"]["ninja"]) == ("down", "down: nothing of it runs, see 'fks status'")
    await seeded.sql(
        "INSERT INTO component_health (name, kind, state, pid, beat_at, since, detail) VALUES"
        " ('ninja:sim','actor','ready',1,now(),now(),'{}')"
    )
    await until(lambda: _is(ready, status="ready", ninja_connected=True, ninja_can_trade=True))
    await link.record_link("sim", LinkReport("READY", True, True, (ACCOUNT,), 12))
    await until(lambda: _is(ready, status="ready", ninja_connected=True, ninja_can_trade=False))
    await link.record_link("sim", LinkReport("BACKOFF", False, False, (), 0))
    await until(lambda: _is(ready, status="ready", ninja_connected=False, ninja_can_trade=False))


async def _is(read: Any, **wanted: object) -> bool:
    body = await read()
    return all(body[name] == value for name, value in wanted.items())


async def test_the_command_shows_the_links(fks: Fks, link: NinjaStore) -> None:
    code, out, _ = await fks("ninja", "status")
    assert code == OK
    assert "Sim101 auto" in out
    assert "2 NEW" in out
    assert "1 exec" in out
    assert "no actor" in out
    code, out, _ = await fks("ninja", "status", "--json")
    document = json.loads(out)
    assert (code, document["schema"]) == (OK, "fks.ninja.status/1")
    assert [item["group"] for item in document["items"]] == ["apex", "sim"]
