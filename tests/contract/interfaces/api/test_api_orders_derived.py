"""POST /orders without an Idempotency-Key, as the plans of the replaced services send it: one order for one request."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fks.model import ids
from fks.model.errors import OutageError
from fks.store.db import Database
from fks.store.orders import OrderStore
from fks.store.signals import SignalRecord, SignalStore
from tests.support.gateway import Running, running, serving
from tests.support.gateway_process import replica
from tests.support.programs import require
from tests.support.waiting import until

#: the plan's body and line, as written there
PLAN = """\
curl -X POST http://localhost:8000/orders -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '{
  "symbol": "BTCUSDT",
  "side": "BUY",
  "order_type": "MARKET",
  "quantity": 0.01,
  "strategy_id": "rsi_btc_001",
  "signal_id": "signal_123"
}'
"""
ORDER = {"symbol": "BTCUSDT", "side": "buy", "type": "limit", "quantity": "0.1", "price": "60000"}
WAIT = {"order_wait_s": 0.2}


@pytest.fixture
async def gateway(seeded: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway that waits 0.2 s for an order; no order manager runs."""
    async with running(seeded, database_url, redis_url, tmp_path, http=WAIT) as gateway:
        yield gateway


async def _age(db: Database, seconds: float) -> None:
    """Let the first request have come that long ago."""
    await db.sql("UPDATE derived_keys SET first_at = now() - make_interval(secs => $1)", seconds)


async def _count(db: Database) -> int:
    return int((await db.sql("SELECT count(*) AS n FROM signals"))[0]["n"])


async def test_the_line_of_the_plan_places_one_order(gateway: Running, seeded: Database) -> None:
    require("curl")
    line = PLAN.replace("http://localhost:8000", gateway.url)
    answers = []
    for _ in range(2):
        shell = await asyncio.create_subprocess_shell(
            line.replace("curl", "curl -sS -i --noproxy '*'"),
            stdout=asyncio.subprocess.PIPE,
            env={"TOKEN": gateway.tokens["trade"], "PATH": "/usr/bin:/bin"},
        )
        out, _error = await shell.communicate()
        head, _, body = out.decode().partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 202"), out
        answers.append((head, json.loads(body)))
    (first_head, first), (second_head, second) = answers
    assert first["id"] == second["id"]
    assert (first["is_repeat"], second["is_repeat"]) == (False, True)
    assert 'warning: 299 fks "no Idempotency-Key' in first_head.lower().replace("idempotency-key", "Idempotency-Key")
    assert "earlier request" in second_head
    [row] = await seeded.sql("SELECT * FROM signals")
    assert (row["side"], row["type"], str(row["size"])) == ("buy", "market", "0.01")
    assert row["reason"] == "order of t-trade strategy rsi_btc_001 signal signal_123"


async def test_the_same_body_within_ten_seconds_of_the_first_is_the_same_order(
    gateway: Running, seeded: Database
) -> None:
    async with gateway.client("trade") as client:
        first = (await client.post("/orders", json=ORDER)).json()
        assert first["is_repeat"] is False
        await _age(seeded, 6)
        second = await client.post("/orders", json={**ORDER, "quantity": 0.10, "price": "60000.0"})  # the same numbers
        assert (second.json()["id"], second.json()["is_repeat"]) == (first["id"], True)
        await _age(seeded, 8)
        assert (await client.post("/orders", json=ORDER)).json()["id"] == first["id"]
        await _age(seeded, 10.01)  # whenever the last one came: the window does not slide
        third = (await client.post("/orders", json=ORDER)).json()
        assert (third["id"] != first["id"], third["is_repeat"]) == (True, False)
        assert (await client.post("/orders", json=ORDER)).json()["id"] == third["id"]
    assert await _count(seeded) == 2


async def test_another_body_or_another_caller_is_another_order(gateway: Running, seeded: Database) -> None:
    changes: list[dict[str, Any]] = [{}, {"quantity": "0.2"}, {"signal_id": "1"}, {"signal_id": "2"}]
    async with gateway.client("trade") as client, gateway.client("admin") as other:
        found = {(await client.post("/orders", json={**ORDER, **change})).json()["id"] for change in changes}
        found.add((await other.post("/orders", json=ORDER)).json()["id"])
    assert len(found) == 5
    assert await _count(seeded) == 5


async def test_the_derived_key_is_an_ordinary_key(gateway: Running, seeded: Database) -> None:
    async with gateway.client("trade") as client:
        first = await client.post("/orders", json=ORDER)
        key = first.headers["Idempotency-Key"]
        assert key == first.json()["idempotency_key"]
        assert uuid.UUID(first.json()["id"]) == ids.request_signal_id("t-trade", key)
        await _age(seeded, 3600)
        again = await client.post("/orders", json=ORDER, headers={"Idempotency-Key": key})
        assert again.json()["id"] == first.json()["id"]
        assert "Warning" not in again.headers
        assert "is_repeat" not in again.json()
        other = await client.post("/orders", json={**ORDER, "quantity": 1}, headers={"Idempotency-Key": key})
        assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")
        empty = await client.post("/orders", json=ORDER, headers={"Idempotency-Key": ""})
        assert (empty.status_code, empty.json()["code"]) == (400, "IDEMPOTENCY_KEY_MISSING")
    assert await _count(seeded) == 1


async def test_a_wrong_request_leaves_nothing_behind(gateway: Running, seeded: Database) -> None:
    async with gateway.client("trade") as client:
        for change in ({"symbol": "NOPE"}, {"account": "nobody"}, {"quantity": 0}, {"order_type": "market"}):
            assert (await client.post("/orders", json={**ORDER, **change})).status_code in (404, 422)
    assert not await seeded.sql("SELECT key FROM derived_keys")
    assert await _count(seeded) == 0


async def test_repeats_at_two_replicas_at_once_are_one_order(
    gateway: Running, seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with (
        serving(database_url, redis_url, tmp_path / "b", gateway.tokens, name="gateway:1", http=WAIT) as second,
        gateway.client("trade") as here,
        second.client("trade") as there,
    ):
        for quantity in (1, 2):
            body = {**ORDER, "quantity": quantity}
            answers = await asyncio.gather(*(client.post("/orders", json=body) for client in (here, there) * 8))
            assert {answer.status_code for answer in answers} == {202}
            assert len({answer.json()["id"] for answer in answers}) == 1
            assert sum(not answer.json()["is_repeat"] for answer in answers) == 1
    assert await _count(seeded) == 2


async def test_a_repeat_after_the_first_replica_was_killed_is_the_same_order(
    gateway: Running, seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    headers = {"Authorization": f"Bearer {gateway.tokens['trade']}"}

    async def claimed() -> bool:
        return bool(await seeded.sql("SELECT key FROM derived_keys"))

    async with replica(database_url, redis_url, tmp_path / "b", "gateway:1") as (url, process):
        async with seeded.transaction() as tx:
            await tx.sql("LOCK TABLE signals IN EXCLUSIVE MODE")  # the replica claims its key and cannot commit
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                lost = asyncio.create_task(client.post(f"{url}/orders", json=ORDER, headers=headers))
                await until(claimed, deadline_s=20)
                process.kill()
                with pytest.raises(httpx.HTTPError):
                    await lost
        assert await _count(seeded) == 0
    await _age(seeded, 1)
    async with gateway.client("trade") as client:
        answers = await asyncio.gather(*(client.post("/orders", json=ORDER) for _ in range(4)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert all(answer.json()["is_repeat"] for answer in answers), "the first one is the one that was lost"
    key = (await seeded.sql("SELECT key FROM derived_keys"))[0]["key"]
    assert uuid.UUID(answers[0].json()["id"]) == ids.request_signal_id("t-trade", key)
    assert await _count(seeded) == 1


async def test_a_request_whose_replica_went_on_after_the_repeat_is_one_order(
    gateway: Running, seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """The first replica is only slow: it commits after the second one did, and finds the order there."""
    async with (
        serving(database_url, redis_url, tmp_path / "b", gateway.tokens, name="gateway:1", http=WAIT) as second,
        gateway.client("trade") as here,
        second.client("trade") as there,
    ):

        async def waiting() -> bool:
            rows = await seeded.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            return len(rows) >= 2

        async with seeded.transaction() as tx:
            await tx.sql("LOCK TABLE signals IN EXCLUSIVE MODE")
            tasks = [asyncio.create_task(client.post("/orders", json=ORDER)) for client in (here, there)]
            await until(waiting, deadline_s=20)
        answers = await asyncio.gather(*tasks)
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await _count(seeded) == 1


async def test_a_clock_that_was_set_back_does_not_swallow_orders(gateway: Running, seeded: Database) -> None:
    async with gateway.client("trade") as client:
        first = (await client.post("/orders", json=ORDER)).json()
        await _age(seeded, -3600)  # the first request seems to come from the future
        second = (await client.post("/orders", json=ORDER)).json()
    assert second["is_repeat"] is False
    assert second["id"] != first["id"]


async def test_old_keys_are_removed(gateway: Running, seeded: Database) -> None:
    async with gateway.client("trade") as client:
        for quantity in range(1, 5):
            await client.post("/orders", json={**ORDER, "quantity": quantity})
        await _age(seeded, 90_000)
        await client.post("/orders", json={**ORDER, "quantity": 1})
    assert len(await seeded.sql("SELECT key FROM derived_keys")) == 1


@pytest.mark.parametrize("away", ["orders", "signals"])
async def test_an_outage_after_the_commit_is_an_accepted_order_with_its_key(
    gateway: Running, seeded: Database, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    get = SignalStore.get

    async def no_order(store: OrderStore, signal_id: uuid.UUID) -> None:
        raise OutageError("PostgreSQL does not answer")

    async def no_signal(store: SignalStore, signal_id: uuid.UUID) -> SignalRecord | None:
        if await get(store, signal_id) is not None:
            raise OutageError("PostgreSQL does not answer")
        return None

    with monkeypatch.context() as patch:
        if away == "orders":
            patch.setattr(OrderStore, "by_signal", no_order)
        else:
            patch.setattr(SignalStore, "get", no_signal)
        async with gateway.client("trade") as client:
            first = await client.post("/orders", json=ORDER)
    assert first.status_code == 202, first.text
    assert (first.json()["state"], first.json()["signal_state"]) == (None, "ready")
    key = first.json()["idempotency_key"]
    assert first.headers["Idempotency-Key"] == key
    await _age(seeded, 60)
    async with gateway.client("trade") as client:
        again = await client.post("/orders", json=ORDER, headers={"Idempotency-Key": key})
    assert again.json()["id"] == first.json()["id"]
    assert await _count(seeded) == 1


@pytest.mark.parametrize("is_claimed", [False, True])
async def test_an_outage_of_the_claim_promises_no_key_and_may_be_repeated(
    gateway: Running, seeded: Database, monkeypatch: pytest.MonkeyPatch, is_claimed: bool
) -> None:
    """Whether the claim is on disk is unknown, and another replica's may have been first."""
    claim = SignalStore.claim_key

    async def unheard(store: SignalStore, principal: str, body_hash: str, key: str, window_s: float) -> str:
        if is_claimed:
            await claim(store, principal, body_hash, key, window_s)
        raise OutageError("PostgreSQL does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(SignalStore, "claim_key", unheard)
        async with gateway.client("trade") as client:
            lost = await client.post("/orders", json=ORDER)
    assert (lost.status_code, lost.json()["code"]) == (503, "UNAVAILABLE")
    assert "nothing of this request was committed" in lost.json()["detail"]
    assert "derived-" not in lost.text
    assert "idempotency-key" not in lost.headers
    assert await _count(seeded) == 0
    async with gateway.client("trade") as client:
        again, repeat = [await client.post("/orders", json=ORDER) for _ in range(2)]
    assert again.json()["id"] == repeat.json()["id"]
    assert await _count(seeded) == 1
