"""POST /execute/signal and POST /emergency-stop over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from fks.config.paths import Paths
from fks.model.copies import PREFIX
from fks.store.db import Database
from fks.store.signals import SignalStore
from fks.trading.guardian.service import GuardianSocket
from tests.support.gateway import Running
from tests.support.ports import CollectingLog

SIGNAL = {"symbol": "BTCUSDT", "action": "BUY", "quantity": 0.01, "venue": "paper"}


async def test_the_example_is_a_body_that_is_accepted_and_sends_nothing(gateway: Running, seeded: Database) -> None:
    async with gateway.client("trade") as client:
        example = (await client.get("/execute/signal")).json()
        assert not await seeded.sql("SELECT id FROM signals")
        answer = await client.post("/execute/signal", json=example)
    assert answer.status_code == 202, answer.text
    [row] = await seeded.sql("SELECT symbol, side, size, stop_loss FROM signals")
    assert (row["symbol"], row["side"], str(row["size"])) == ("BTCUSDT", "buy", "0.01")


async def test_the_answer_is_a_result_and_a_repeat_says_so(gateway: Running, seeded: Database) -> None:
    async with gateway.client("trade") as client:
        first = await client.post("/execute/signal", json=SIGNAL)
        second = await client.post("/execute/signal", json=SIGNAL)
    body = first.json()
    assert {"success", "order_id", "filled_quantity", "average_price", "timestamp", "error"} <= body.keys()
    assert (body["success"], body["state"], body["is_repeat"]) == (True, None, False)
    assert first.headers["location"] == f"/orders/{body['signal_id']}"
    assert second.json()["order_id"] == body["order_id"]
    assert second.json()["is_repeat"]
    assert "earlier request" in second.headers["Warning"]
    assert len(await seeded.sql("SELECT id FROM signals")) == 1


async def test_an_emergency_stop_asks_the_guardian(gateway: Running, seeded: Database) -> None:
    asked: list[Mapping[str, Any]] = []

    async def answer(request: Mapping[str, Any]) -> dict[str, Any]:
        asked.append(request)
        return {"ok": True, "engaged": True, "kill_id": "k", "already": len(asked) > 1}

    paths: Paths = gateway.app.state.gateway.deps.paths
    socket = GuardianSocket(paths.guardian_socket, answer, CollectingLog())
    await socket.open()
    try:
        async with gateway.client("trade") as client:
            done = await client.post("/emergency-stop", json={"scope": "system", "reason": "runs away"})
            kept = await client.post("/emergency-stop", json={"reason": "again", "flatten": False})
    finally:
        await socket.close()
    assert (done.status_code, done.json()["through"], done.json()["already"]) == (200, "guardian", False)
    assert kept.json()["already"]
    assert asked[0] == {
        "op": "kill",
        "scope": "system",
        "reason": "runs away",
        "by": "t-trade",
        "flatten": True,
        "wait_s": 0.3,
    }
    assert asked[1]["flatten"] is False
    assert not await seeded.sql("SELECT kill_id FROM kill_switch"), "the guardian writes its own row"


@pytest.mark.parametrize("body", [b'{"ok": true, "enga', b"[]\n", b"5\n", b"", b"\xff\n"])
async def test_a_guardian_that_ends_in_mid_answer_leaves_the_kill_to_the_database(
    gateway: Running, seeded: Database, body: bytes
) -> None:
    async def cut_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(body)
        await writer.drain()
        writer.close()

    paths: Paths = gateway.app.state.gateway.deps.paths
    paths.guardian_socket.parent.mkdir(parents=True, exist_ok=True)
    server = await asyncio.start_unix_server(cut_off, paths.guardian_socket)
    async with server, gateway.client("trade") as client:
        answer = await client.post("/emergency-stop", json={"reason": "stop"})
    assert (answer.status_code, answer.json()["through"]) == (200, "database")
    assert [row["is_engaged"] for row in await seeded.sql("SELECT is_engaged FROM kill_switch")] == [True]


async def test_without_a_guardian_the_kill_is_a_row_that_denies_and_is_joined(
    gateway: Running, seeded: Database
) -> None:
    async with gateway.client("trade") as client:
        first = (await client.post("/emergency-stop", json={"reason": "stop", "flatten": False})).json()
        second = (await client.post("/emergency-stop", json={"reason": "and close"})).json()
        third = (await client.post("/emergency-stop", json={"reason": "keep", "flatten": False})).json()
    assert (first["through"], first["already"], second["already"], third["already"]) == ("database", False, True, True)
    assert first["kill_id"] == second["kill_id"] == third["kill_id"]
    [row] = await seeded.sql("SELECT * FROM kill_switch")
    assert (row["is_engaged"], row["scope"], row["reason"], row["engaged_by"]) == (True, "system", "stop", "t-trade")
    assert row["report"]["flatten"] is True, "closing was asked for later and stays asked for"


async def test_a_stop_beside_a_guardians_kill_outlives_its_release(gateway: Running, seeded: Database) -> None:
    """A resume while PostgreSQL was away is in the guardian's file, and reaches the table only now."""
    await seeded.sql(
        "INSERT INTO kill_switch (kill_id, scope, is_engaged, reason, engaged_by, engaged_at, report) VALUES"
        " ('old', 'system', true, 'earlier', 'me', now() - interval '1 hour', '{\"flatten\": false}')"
    )
    async with gateway.client("trade") as client:
        first = (await client.post("/emergency-stop", json={"reason": "now"})).json()
        again = (await client.post("/emergency-stop", json={"reason": "now, please"})).json()
        assert (first["already"], first["reason"], first["flatten"]) == (False, "now", True)
        assert first["beside"] == ["old"]
        assert (again["already"], again["kill_id"]) == (True, first["kill_id"])
        rows = await seeded.sql("SELECT (report ->> 'flatten')::bool AS flatten FROM kill_switch WHERE is_engaged")
        assert [row["flatten"] for row in rows] == [True, True], "closing was asked for of each that is engaged"
        await seeded.sql("UPDATE kill_switch SET is_engaged = false, released_at = now() WHERE kill_id = 'old'")
        left = await seeded.sql("SELECT kill_id FROM kill_switch WHERE is_engaged")
        assert [row["kill_id"] for row in left] == [first["kill_id"]]


async def test_a_wrong_stop_is_refused_clearly(gateway: Running, seeded: Database) -> None:
    async with gateway.client("trade") as client:
        other = await client.post("/emergency-stop", json={"scope": "BTCUSDT", "reason": "x"})
        assert (other.status_code, other.json()["code"]) == (422, "SCOPE_UNKNOWN")
        for body in ({}, {"reason": ""}, {"reason": "x", "force": True}, []):
            assert (await client.post("/emergency-stop", json=body)).status_code == 422
    assert not await seeded.sql("SELECT kill_id FROM kill_switch")


async def test_a_release_goes_to_the_guardian_and_is_recorded(gateway: Running, seeded: Database) -> None:
    answers: list[dict[str, Any]] = [
        {"ok": False, "error": "the kill is still at work", "code": "KILL_WORKING", "remedy": "wait"},
        {"ok": True, "engaged": False, "already": False, "kill_id": "k"},
    ]
    asked: list[Mapping[str, Any]] = []

    async def answer(request: Mapping[str, Any]) -> dict[str, Any]:
        asked.append(request)
        return answers[len(asked) - 1]

    paths: Paths = gateway.app.state.gateway.deps.paths
    async with gateway.client("admin") as client:
        away = await client.post("/emergency-stop/release")
        socket = GuardianSocket(paths.guardian_socket, answer, CollectingLog())
        await socket.open()
        try:
            early = await client.post("/emergency-stop/release")
            done = await client.post("/emergency-stop/release")
        finally:
            await socket.close()
        audit = (await client.get("/audit", params={"limit": 50})).json()["items"]
    assert (away.status_code, "fks resume" in away.json()["remedy"]) == (503, True)
    assert (early.status_code, early.json()["code"]) == (409, "KILL_WORKING")
    assert (done.status_code, done.json()["engaged"]) == (200, False)
    assert asked == [{"op": "resume", "by": "t-admin", "force": False}] * 2
    recorded = [row["status"] for row in audit if row["action"].endswith("/emergency-stop/release")]
    assert {200, 409, 503} <= set(recorded)


async def test_stop_of_a_scope_through_the_database_and_its_release_name_it(gateway: Running, seeded: Database) -> None:
    asked: list[Mapping[str, Any]] = []

    async def answer(request: Mapping[str, Any]) -> dict[str, Any]:
        asked.append(request)
        return {"ok": True, "engaged": False, "already": False, "kill_id": "k", "beside": [{"scope": "system"}]}

    paths: Paths = gateway.app.state.gateway.deps.paths
    async with gateway.client("admin") as client:
        first = (await client.post("/emergency-stop", json={"scope": "venue:paper", "reason": "one"})).json()
        again = (await client.post("/emergency-stop", json={"scope": "venue:paper", "reason": "two"})).json()
        whole = (await client.post("/emergency-stop", json={"reason": "all"})).json()
        shown = (await client.get("/kill")).json()
        unknown = await client.post("/emergency-stop", json={"scope": "strategy:typo", "reason": "x"})
        socket = GuardianSocket(paths.guardian_socket, answer, CollectingLog())
        await socket.open()
        try:
            done = await client.post("/emergency-stop/release", json={"scope": "venue:paper"})
        finally:
            await socket.close()
        wrong = await client.post("/emergency-stop/release", json={"venue": "paper"})
    assert (first["scope"], again["kill_id"], again["already"]) == ("venue:paper", first["kill_id"], True)
    assert (whole["scope"], whole["already"], whole["beside"]) == ("system", False, [first["kill_id"]])
    assert sorted(shown["scopes"]) == ["system", "venue:paper"]
    assert (unknown.status_code, unknown.json()["code"]) == (422, "SCOPE_UNKNOWN")
    assert (done.status_code, done.json()["beside"]) == (200, [{"scope": "system"}])
    assert asked == [{"op": "resume", "by": "t-admin", "force": False, "scope": "venue:paper"}]
    assert wrong.status_code == 422
    rows = await seeded.sql("SELECT scope FROM kill_switch WHERE is_engaged ORDER BY scope")
    assert [row["scope"] for row in rows] == ["system", "venue:paper"]


async def test_closing_a_position_commits_one_exit_for_each_of_ours(gateway: Running, seeded: Database) -> None:
    await seeded.sql(
        "UPDATE api_tokens SET name = 'cli@t' WHERE name = 't-trade'"
    )  # a machine's command line: a person
    await seeded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price) VALUES"
        " (1,'paper','BTCUSDT','a',0.1,63000), (1,'paper','BTCUSDT','b',-0.2,64000), (1,'paper','BTCUSDT','external',5,1)"
    )
    async with gateway.client("trade") as client:
        headers = {"Idempotency-Key": "close-1"}
        one = await client.post("/positions/BTC/USDT/close", headers=headers)
        again = await client.post("/positions/BTC/USDT/close", headers=headers)
        none = await client.post("/positions/ETHUSDT/close")
    assert (one.status_code, again.status_code) == (202, 202)
    assert [(item["instance"], item["quantity"]) for item in one.json()["items"]] == [("a", "0.1"), ("b", "-0.2")]
    assert (none.status_code, none.json()["code"]) == (409, "NOTHING_HELD")
    rows = await seeded.sql("SELECT instance, kind, side, source, state FROM signals ORDER BY instance")
    assert [tuple(row) for row in rows] == [
        ("a", "exit", "sell", "principal:cli@t", "ready"),
        ("b", "exit", "buy", "principal:cli@t", "ready"),
    ]


async def test_an_api_key_closes_its_own_positions_alone(gateway: Running, seeded: Database) -> None:
    """Its exits are a program's: a held kill stops them, as it stops a strategy's."""
    own = "key:t-trade"
    await seeded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price) VALUES"
        " (1,'paper','BTCUSDT','a',0.1,63000), (1,'paper','BTCUSDT','',0.2,63000), (1,'paper','BTCUSDT','key:other',1,1),"
        " (1,'paper','BTCUSDT',$1,0.3,63000), (2,'ccxt','BTCUSDT',$2,0.4,63000), (1,'paper','ETHUSDT','a',1,1)",
        own,
        f"{PREFIX}{own}",
    )
    async with gateway.client("trade") as client:
        closed = await client.post("/positions/BTCUSDT/close")
        none = await client.post("/positions/ETHUSDT/close")
    assert closed.status_code == 202
    assert {(item["instance"], item["quantity"]) for item in closed.json()["items"]} == {
        (own, "0.3"),
        (f"{PREFIX}{own}", "0.4"),
    }
    assert (none.status_code, none.json()["code"]) == (409, "NOTHING_HELD")
    ids = [row["id"] for row in await seeded.sql("SELECT id FROM signals")]
    signals = [record.signal for id in ids if (record := await SignalStore(seeded).get(id)) is not None]
    assert [signal.is_by_person for signal in signals] == [False, False]
