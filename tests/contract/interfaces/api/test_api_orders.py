"""POST /orders: exact numbers, one order per key, and every kind of no."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from fks.model import ids
from fks.store.db import Database
from tests.support.gateway import Running, running
from tests.support.waiting import until

ORDER = {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.10", "price": 60000.10}


@pytest.fixture
async def gateway(seeded: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway that waits 0.2 s for an order; no order manager runs."""
    async with running(seeded, database_url, redis_url, tmp_path, http={"order_wait_s": 0.2}) as gateway:
        yield gateway


async def _place(client: httpx.AsyncClient, key: str = "k1", **change: Any) -> httpx.Response:
    body = {name: value for name, value in {**ORDER, **change}.items() if value is not ...}
    return await client.post("/orders", json=body, headers={"Idempotency-Key": key})


async def test_what_is_not_decided_in_time_is_accepted_with_a_place_to_look(gateway: Running, seeded: Database) -> None:
    async with gateway.client("trade") as client:
        answer = await _place(client)
        assert answer.status_code == 202, answer.text
        body = answer.json()
        assert body["state"] is None
        id = uuid.UUID(body["id"])
        assert id == ids.request_signal_id("t-trade", "k1")
        assert body["client_order_id"] == ids.client_order_id(ids.intent_id(id), "order")
        for place in (answer.headers["location"], f"/orders/{body['client_order_id']}", f"/orders/{id}"):
            found = (await client.get(place)).json()
            assert (found["id"], found["client_order_id"], found["state"]) == (
                body["id"],
                body["client_order_id"],
                None,
            )
        [row] = await seeded.sql("SELECT * FROM signals")
        assert (row["symbol"], row["size"], row["limit_price"]) == ("BTCUSDT", Decimal("0.1"), Decimal("60000.1"))
        assert (await client.delete(f"/orders/{id}")).json()["code"] == "ORDER_NOT_YET"


async def test_numbers_arrive_digit_for_digit(gateway: Running, seeded: Database) -> None:
    async with gateway.client("trade") as client:
        for number in ("0.100000000000000000001", "0.1", '"0.100000000000000000001"', "1"):
            text = '{"symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": ' + number + "}"
            answer = await client.post("/orders", content=text, headers={"Idempotency-Key": number.strip('"') + "k"})
            assert answer.status_code == 202, answer.text
            [row] = await seeded.sql("SELECT size FROM signals WHERE id = $1", uuid.UUID(answer.json()["id"]))
            assert row["size"] == Decimal(number.strip('"'))


async def test_same_key_is_the_same_order_and_another_body_a_conflict(gateway: Running, seeded: Database) -> None:
    async with gateway.client("trade") as client, gateway.client("admin") as other:
        answers = await asyncio.gather(*(_place(client) for _ in range(5)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert (await _place(client, price="60000.1")).json()["id"] == answers[0].json()["id"]  # the same number
        conflict = await _place(client, quantity="0.11")
        assert (conflict.status_code, conflict.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")
        assert (await _place(other)).json()["id"] != answers[0].json()["id"]  # another principal's keys are its own
    assert (await seeded.sql("SELECT count(*) AS n FROM signals"))[0]["n"] == 2


async def test_a_denial_is_422_with_its_code_as_a_problem(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async def deny() -> None:  # as the order manager does
        async def wanted() -> Any:
            return await seeded.sql("SELECT id FROM signals WHERE state = 'ready'")

        [row] = await until(wanted)
        client_id = ids.client_order_id(ids.intent_id(row["id"]), "order")
        await seeded.sql(
            "WITH done AS (UPDATE signals SET state = 'denied', code = 'FEED_STALE', client_order_id = $2 WHERE id = "
            "$1)"
            " INSERT INTO orders (client_order_id, intent_id, signal_id, account_id, venue, symbol, role, side, type,"
            " quantity, state, code, detail) VALUES ($2, $3, $1, 1, 'paper', 'BTCUSDT', 'order', 'buy', 'limit', 0.1,"
            " 'DENIED', 'FEED_STALE', 'the feed is 40 s old, limit 15 s')",
            row["id"],
            client_id,
            ids.intent_id(row["id"]),
        )

    async with (
        running(seeded, database_url, redis_url, tmp_path, http={"order_wait_s": 15.0}) as gateway,
        gateway.client("trade") as client,
    ):
        answer, _ = await asyncio.gather(_place(client), deny())
        for again in (answer, await _place(client)):
            assert again.status_code == 422
            assert again.headers["content-type"] == "application/problem+json"
            body = again.json()
            assert (body["code"], body["state"]) == ("FEED_STALE", "DENIED")
            assert body["type"] == "urn:fks:problem:feed-stale"
            assert "40 s" in body["detail"]
            assert body["client_order_id"]


BAD = [
    ({"quantity": "-1"}, 422, "quantity"),
    ({"quantity": 0}, 422, "quantity"),
    ({"quantity": "abc"}, 422, "quantity"),
    ({"quantity": True}, 422, "quantity"),
    ({"quantity": ...}, 422, "quantity"),
    ({"quantity": "1e999999"}, 422, "quantity"),
    ({"symbol": "NOPE"}, 404, "NOPE"),
    ({"symbol": ...}, 422, "symbol"),
    ({"side": "hold"}, 422, "side"),
    ({"type": "iceberg"}, 422, "type"),
    ({"price": ...}, 422, "price"),
    ({"type": "market"}, 422, "price"),
    ({"colour": "red"}, 422, "colour"),
    ({"account": "nobody"}, 404, "nobody"),
    ({"valid_until": "soon"}, 422, "valid_until"),
    ({"time_in_force": "day"}, 422, "time_in_force"),
]


async def test_bad_input_is_one_clear_problem_and_nothing_is_committed(gateway: Running, seeded: Database) -> None:
    async with gateway.client("trade") as client:
        for change, status, says in BAD:
            answer = await _place(client, **change)
            assert answer.status_code == status, (change, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert says in answer.json()["detail"], (change, answer.text)
            assert answer.json()["remedy"], change
    assert not await seeded.sql("SELECT id FROM signals")


async def test_an_unusable_key_or_body_is_refused(gateway: Running) -> None:
    async with gateway.client("trade") as client:
        for key in ("x" * 201, ""):
            assert (await client.post("/orders", json=ORDER, headers={"Idempotency-Key": key})).status_code in (
                400,
                422,
            )
        for body in (b"[]", b"1", b"null"):
            answer = await client.post("/orders", content=body, headers={"Idempotency-Key": "k"})
            assert answer.status_code == 422


async def test_a_cancel_is_wanted_once_and_an_ended_order_cannot_be_cancelled(
    gateway: Running, seeded: Database
) -> None:
    open_, ended = uuid.uuid4().hex, uuid.uuid4().hex
    for id, state in ((open_, "WORKING"), (ended, "FILLED")):
        await seeded.sql(
            "INSERT INTO orders (client_order_id, intent_id, account_id, venue, symbol, role, side, type, quantity, "
            "state)"
            " VALUES ($1, $2, 1, 'paper', 'BTCUSDT', 'order', 'buy', 'limit', 0.1, $3)",
            id,
            uuid.uuid4(),
            state,
        )
    async with gateway.client("trade") as client:
        for _ in range(2):
            answer = await client.delete(f"/orders/{open_}")
            assert answer.status_code == 202, answer.text
            assert answer.json()["state"] == "WORKING"
        assert (await client.get(f"/orders/{open_}")).json()["request"] == "cancel_wanted"
        refused = await client.delete(f"/orders/{ended}")
        assert (refused.status_code, refused.json()["code"]) == (409, "ORDER_ENDED")
        assert (await client.delete(f"/orders/{uuid.uuid4().hex}")).status_code == 404


BRACKET = {
    "kind": "bracket", "stop_loss": "50000", "break_even": {"after_target": 1},
    "targets": [{"price": 61000.5, "share": "0.5"}, {"price": "62000", "share": 0.5}],
}  # fmt: skip


async def test_a_bracket_is_committed_with_its_plan(gateway: Running, seeded: Database) -> None:
    async with gateway.client("trade") as client:
        answer = await _place(client, **BRACKET)
        assert answer.status_code == 202, answer.text
        [row] = await seeded.sql("SELECT plan FROM parent_orders WHERE signal_id = $1", uuid.UUID(answer.json()["id"]))
        assert row["plan"]["targets"] == [{"price": "61000.5", "share": "0.5"}, {"price": "62000", "share": "0.5"}]
        assert row["plan"]["break_even"] == {"after_target": 1, "at_risk": None, "offset_ticks": 0}
        again = await _place(client, **BRACKET)
        other = await _place(client, **{**BRACKET, "break_even": {"after_target": 2}})
        assert (again.json()["id"], other.status_code) == (answer.json()["id"], 409)


async def test_a_bracket_that_contradicts_itself_is_refused(gateway: Running, seeded: Database) -> None:
    for change, code in [
        ({"kind": "ladder"}, "KIND"),
        ({"kind": "single"}, "KIND"),
        ({"stop_loss": ...}, "STOP_LOSS"),
        ({"targets": []}, "TARGETS"),
        ({"targets": [{"price": "61000", "share": "0.2"}] * 6}, "TARGETS"),
        ({"targets": [{"price": "62000", "share": "0.5"}, {"price": "61000", "share": "0.5"}]}, "TARGETS"),
        ({"targets": [{"price": "61000", "share": "0.5"}, {"price": "62000", "share": "0.4"}]}, "TARGETS"),
        ({"targets": [{"price": "61000", "share": "1", "side": "buy"}]}, "TARGETS"),
        ({"targets": [{"price": "nan", "share": "1"}]}, "NUMBER"),
        ({"break_even": {"after_target": 3}}, "BREAK_EVEN"),
        ({"break_even": {"after_target": 1, "at_risk": "1"}}, "BREAK_EVEN"),
        ({"break_even": {}}, "BREAK_EVEN"),
        ({"take_profit": "63000"}, "KIND"),
        ({"reduce_only": True}, "KIND"),
    ]:
        async with gateway.client("trade") as client:
            answer = await _place(client, **{**BRACKET, **change})
            assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
            assert await seeded.sql("SELECT FROM signals") == []
