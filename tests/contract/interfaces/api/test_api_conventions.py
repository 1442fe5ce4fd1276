"""Rules of all routes: /api/v1, request ids and traces, ETags, idempotency keys, and parts that are down."""

from __future__ import annotations

import asyncio
import re
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from fks.interfaces.api.app import routes_of, table
from fks.interfaces.api.idempotency import KEPT_S, RUNNING_S, has_own_key, is_kept_here
from fks.interfaces.api.policy import FREE, JOURNALED, READS
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.gateway import Running, running
from tests.support.order_rig import Rig, seed
from tests.support.raw_redis import raw_redis
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
ORDER = {"symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "1"}
SPEC = {"strategy": "sma_cross", "symbol": "BTCUSDT", "timeframe": "1m"}
#: Pages and redirects to them, and the metrics.
NOT_JSON = {"/docs", "/guide/{path}", "/", "/admin", "/admin/", "/monitor", "/monitor/", "/metrics"}
#: Changes whose answers are kept under a key: two bodies that differ. The others are listed below, with the reason.
KEYED: dict[tuple[str, str], tuple[Any, Any]] = {
    ("POST", "/accounts"): ({"name": "one"}, {"name": "two"}),
    ("POST", "/accounts/change"): ({"name": "demo", "is_enabled": True}, {"name": "demo", "is_enabled": False}),
    ("POST", "/assets/enable"): ({"symbol": "ETHUSDT"}, {"symbol": "BTCUSDT"}),
    ("POST", "/assets/disable"): ({"symbol": "ETHUSDT"}, {"symbol": "BTCUSDT"}),
    ("POST", "/tokens"): ({"name": "one", "scope": "read"}, {"name": "two", "scope": "read"}),
    ("POST", "/users"): (
        {"name": "one", "password": "correct horse battery", "scope": "read"},
        {"name": "two", "password": "correct horse battery", "scope": "read"},
    ),
    ("POST", "/webhooks"): (
        {"name": "one", "account": "demo", "symbols": ["BTCUSDT"], "sizing": "quantity", "size": "1"},
        {"name": "two", "account": "demo", "symbols": ["BTCUSDT"], "sizing": "quantity", "size": "1"},
    ),
    ("POST", "/portfolios"): (
        {"name": "one", "base_currency": "USDT"},
        {"name": "two", "base_currency": "USDT"},
    ),
    ("POST", "/documents"): ({"name": "a.markdown", "text": "one"}, {"name": "a.markdown", "text": "two"}),
    ("POST", "/config/versions"): (
        {"set": {"risk.orders_per_minute": 7}, "reason": "one", "base_version": 0},
        {"set": {"risk.orders_per_minute": 8}, "reason": "two", "base_version": 0},
    ),
}
#: Kept under a key by the same rule; their objects exist only after other changes, so that they are not called here.
SAME_RULE = {
    *(("POST", "/alerts/{id}/settle"), ("POST", "/signals/{id}/approve"), ("POST", "/orders/{id}/settle")),
    *(("POST", "/webhooks/{name}/rotate"), ("POST", "/webhooks/{name}/test"), ("DELETE", "/webhooks/{name}")),
    *(("POST", "/incidents/{id}/close"), ("DELETE", "/backtests/{id}"), ("DELETE", "/optimizations/{id}")),
    *(("POST", "/users/{name}"), ("POST", "/users/{name}/unlock"), ("DELETE", "/users/{name}/sessions")),
    *(("POST", "/strategies/{id}/challengers"), ("DELETE", "/challengers/{id}"), ("POST", "/challengers/{id}/swap")),
    *(("POST", "/strategies/{id}/demote"), ("DELETE", "/tokens/{name}"), ("DELETE", "/documents/{id}")),
    *(("PATCH", "/portfolios/{id}"), ("DELETE", "/portfolios/{id}")),
    *(("POST", "/auth/password"), ("POST", "/auth/totp"), ("POST", "/auth/totp/confirm")),
}


async def test_every_path_has_its_alias_and_openapi_lists_it_once(gateway: Running) -> None:
    async with gateway.client("read") as client:
        for method, path, _, _ in table(gateway.app):
            if method != "GET" or "{" in path or path in NOT_JSON:
                continue
            one, other = await client.get(path), await client.get("/api/v1" + path)
            assert (one.status_code, one.headers["content-type"]) == (other.status_code, other.headers["content-type"])
        document = (await client.get("/api/v1/openapi.json")).json()
        assert not [path for path in document["paths"] if path.startswith("/api/v1")]
        missing = await client.get("/api/v1/orders/x")
        assert missing.json()["instance"] == "/api/v1/orders/x"
        wrong = await client.put("/api/v1/orders")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "DELETE, GET, HEAD, POST")
        assert (await client.get("/api/v1/nowhere")).json()["code"] == "NOT_FOUND"
        assert (await client.post("/api/v1/orders", json=ORDER)).json()["code"] == "SCOPE_MISSING"
        names = [str(name) for name in gateway.app.state.gateway.meter.snapshot()]
        assert not [name for name in names if "/api/v1" in name], "a route is counted under its own name"


async def test_head_answers_as_get_without_the_body_on_every_route(gateway: Running) -> None:
    changing = {"date", "x-request-id", "traceparent", "content-length", "etag"}  # most bodies hold the time
    asked = 0
    async with gateway.client("admin") as client:
        for path in {path for _, path, _, _ in table(gateway.app)} - {"/ws"}:
            path = re.sub(r"{\w+}", "6f0c1d0e-5a1b-4f6e-9d0a-0c5f6b5a9f11", path)
            for address in (path, "/api/v1" + path):
                get, head = await client.get(address), await client.head(address)
                assert head.content == b"", address
                assert head.status_code == get.status_code, address
                shown = [{k: v for k, v in a.headers.items() if k not in changing} for a in (get, head)]
                assert shown[0] == shown[1], address
                assert ("content-length" in head.headers) == ("content-length" in get.headers), address
                asked += get.status_code != 405
        assert asked > 150
        page, head = await client.get("/docs"), await client.head("/docs")
        assert int(head.headers["content-length"]) == len(page.content)
        changed = await client.head("/orders/x/settle")
        assert (changed.status_code, changed.headers["allow"]) == (405, "POST")


async def test_answers_name_the_request_and_its_trace_once(
    gateway: Running, seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with gateway.client("read") as client:
        answer = await client.get("/orders", headers={"traceparent": PARENT, "x-request-id": "mine-1"})
        assert answer.headers.get_list("x-request-id") == ["mine-1"]
        assert answer.headers["traceparent"].startswith(f"00-{TRACE}-")
        assert answer.headers["traceparent"] != PARENT
        bare = await client.get("/nowhere")
        assert len(bare.headers["traceparent"]) == 55
        assert len(bare.headers.get_list("x-request-id")) == 1


async def test_trace_of_an_order_is_in_its_journal_and_logs(
    database: Database, bus: Bus, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    await seed(database, pyramiding=1)
    rig = Rig(database, bus, ScriptedVenue())
    await rig.start(wait_ready=True)
    try:
        served = running(database, database_url, redis_url, tmp_path, http={"order_wait_s": 5.0})
        async with served as gateway, gateway.client("trade") as client:
            bodies = {"/orders": ORDER, "/execute/signal": {"symbol": "BTCUSDT", "action": "buy", "quantity": "1"}}
            for number, (path, body) in enumerate(bodies.items()):
                trace = f"{TRACE[:-1]}{number}"
                headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "Idempotency-Key": path}
                answer = await client.post(path, json=body | {"venue": "ccxt"}, headers=headers)
                assert answer.headers["traceparent"].startswith(f"00-{trace}-")
                rows = await database.sql("SELECT trace_id FROM signals WHERE trace_id = $1", trace)
                assert len(rows) == 1, path

                async def journaled(trace: str = trace) -> list[Any]:
                    return list(await database.sql("SELECT trace_id FROM orders WHERE trace_id = $1", trace))

                assert await until(journaled)
                assert [line for line in rig.log.lines if line[2].get("trace_id") == trace], "no line of the log"
    finally:
        await rig.stop()


async def test_history_that_did_not_change_is_not_sent_again(gateway: Running, seeded: Database) -> None:
    await seeded.sql(
        "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume)"
        " SELECT '2026-05-01T00:00:00Z'::timestamptz + n * interval '1 minute', 'BTCUSDT', '1m', 1, 1, 1, 1, 1"
        " FROM generate_series(0, 9) n"
    )
    async with gateway.client("read") as client:
        for path in ("/historical/BTCUSDT?timeframe=1m", "/fills", "/api/v1/historical/BTCUSDT?timeframe=1m&limit=2"):
            first = await client.get(path)
            assert first.headers["cache-control"] == "private, no-cache"
            assert "Authorization" in first.headers["vary"]
            again = await client.get(path, headers={"If-None-Match": first.headers["etag"]})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
            assert again.headers["cache-control"] == "private, no-cache"
        path = "/historical/BTCUSDT?timeframe=1m"
        tag = (await client.get(path)).headers["etag"]
        await seeded.sql("UPDATE ohlcv_data SET close = 2, revision = revision + 1 WHERE time = '2026-05-01T00:03:00Z'")
        changed = await client.get(path, headers={"If-None-Match": tag})
        assert (changed.status_code, changed.headers["etag"] == tag) == (200, False)
        assert (await client.get("/orders")).headers["cache-control"] == "no-store"
    async with gateway.client(None) as client:
        assert (await client.get(path, headers={"If-None-Match": tag})).status_code == 401


async def test_every_change_has_a_rule_for_its_idempotency_key(gateway: Running) -> None:
    ruled = set()
    for route in routes_of(gateway.app):
        for method in (route.methods or set()) - READS:
            name = (method, str(route.path_format))
            if has_own_key(route) or name in FREE | JOURNALED or not is_kept_here({"route": route}, name):
                continue
            ruled.add(name)
    ruled -= {("POST", "/auth/login"), ("POST", "/auth/refresh"), ("POST", "/webhook/tradingview")}  # before a caller
    assert ruled >= set(KEYED)
    assert {name for name in SAME_RULE if name not in ruled} == set()


async def test_repeat_of_a_change_with_its_key_gets_the_first_answer(gateway: Running) -> None:
    run = _key()
    async with gateway.client() as client:
        for (method, path), (body, other) in KEYED.items():
            headers = {"Idempotency-Key": run + path}
            first = await client.request(method, path, json=body, headers=headers)
            assert first.status_code < 300, (path, first.text)
            again = await client.request(method, path, json=body, headers=headers)
            assert (again.status_code, again.content) == (first.status_code, first.content), path
            assert again.headers["idempotent-replayed"] == "true"
            assert again.headers.get("location") == first.headers.get("location")
            conflict = await client.request(method, path, json=other, headers=headers)
            assert (conflict.status_code, conflict.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT"), path
        names = [row["name"] for row in (await client.get("/accounts")).json()["items"]]
        assert names == ["demo", "sim", "one"]
    async with gateway.client("trade") as other_caller:
        answer = await other_caller.post(
            "/assets/enable", json={"symbol": "BTCUSDT"}, headers={"Idempotency-Key": run + "/assets/enable"}
        )
        assert "idempotent-replayed" not in answer.headers, "a key is its caller's own"


async def test_two_calls_at_once_with_one_key_make_one(gateway: Running) -> None:
    async with gateway.client() as client:
        headers = {"Idempotency-Key": _key()}
        body = {"name": "one", "scope": "read"}
        calls = [client.post("/tokens", json=body, headers=headers) for _ in range(6)]
        answers = await asyncio.gather(*calls)
    made = {answer.content for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    refused = {answer.json()["code"] for answer in answers if answer.status_code != 201}
    assert refused <= {"IDEMPOTENCY_RUNNING"}


async def _kept(gateway: Running, *, age_s: float | None = None, value: bytes | None = None) -> bytes:
    """Return the one call that is kept under a key; make it `age_s` old, or put `value` in its place."""
    async with raw_redis(gateway.app.state.gateway.deps.redis_url) as redis:
        (name,) = [name async for name in redis.scan_iter("fks:idempotency:*")]
        if value is not None:
            await redis.set(name, value, keepttl=True)
        if age_s is not None:
            await redis.pexpire(name, round((KEPT_S - age_s) * 1000))
        return bytes(await redis.get(name))


async def _is_claimed(gateway: Running) -> bool:
    async with raw_redis(gateway.app.state.gateway.deps.redis_url) as redis:
        return bool([name async for name in redis.scan_iter("fks:idempotency:*")])


async def _flush(gateway: Running) -> None:
    async with raw_redis(gateway.app.state.gateway.deps.redis_url) as redis:
        await redis.flushdb()


async def test_call_without_an_answer_is_not_made_again_under_its_key(gateway: Running, database_url: str) -> None:
    await _flush(gateway)
    headers, body = {"Idempotency-Key": _key()}, {"name": "slow"}
    blocker = await asyncpg.connect(database_url)
    async with gateway.client() as client:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE")
        first = asyncio.create_task(client.post("/accounts", json=body, headers=headers))
        try:
            await until(lambda: _is_claimed(gateway))
            early = await client.post("/accounts", json=body, headers=headers)
            assert (early.status_code, early.json()["code"]) == (409, "IDEMPOTENCY_RUNNING")
            await _kept(gateway, age_s=RUNNING_S + 1)
            unknown = await client.post("/accounts", json=body, headers=headers)
            assert (unknown.status_code, unknown.json()["code"]) == (409, "IDEMPOTENCY_UNKNOWN")
            assert "new key" in unknown.json()["remedy"]
            other = await client.post("/accounts", json={"name": "other"}, headers=headers)
            assert other.json()["code"] == "IDEMPOTENCY_CONFLICT"
        finally:
            await transaction.rollback()
            await blocker.close()
        made = await first
        assert made.status_code == 201
        again = await client.post("/accounts", json=body, headers=headers)
        assert (again.status_code, again.content) == (201, made.content), "it had an answer in the end"


async def test_call_that_failed_midway_is_not_made_again_under_its_key(gateway: Running, seeded: Database) -> None:
    await seeded.sql(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'midway'; END $$"
    )
    await seeded.sql("CREATE TRIGGER fail BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION fail()")
    headers = {"Idempotency-Key": _key()}
    async with gateway.client() as client:
        assert (await client.post("/accounts", json={"name": "x"}, headers=headers)).status_code == 500
        await seeded.sql("DROP TRIGGER fail ON accounts")
        again = await client.post("/accounts", json={"name": "x"}, headers=headers)
        assert (again.status_code, again.json()["code"]) == (409, "IDEMPOTENCY_UNKNOWN")
        assert (await client.post("/accounts", json={"name": "x"}, headers={"Idempotency-Key": _key()})).is_success


async def test_answer_that_cannot_be_read_is_replaced_by_one_call(gateway: Running) -> None:
    """It was made with another session key: of many repeats at once one runs, and it is not overwritten."""
    await _flush(gateway)
    headers, body = {"Idempotency-Key": _key()}, {"name": "one", "scope": "read"}
    async with gateway.client() as client:
        assert (await client.post("/tokens", json=body, headers=headers)).status_code == 201
        await _kept(gateway, value=b"gAAAAA-of-another-key")
        body["name"] = "two"
        answers = await asyncio.gather(*[client.post("/tokens", json=body, headers=headers) for _ in range(6)])
        assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
        refused = {answer.json()["code"] for answer in answers if answer.status_code != 201}
        assert refused <= {"IDEMPOTENCY_RUNNING"}, "TOKEN_EXISTS would mean that two ran"


async def test_late_end_of_a_call_leaves_a_key_that_another_call_has(gateway: Running, database_url: str) -> None:
    await _flush(gateway)
    headers, body = {"Idempotency-Key": _key()}, {"name": "slow"}
    blocker = await asyncpg.connect(database_url)
    async with gateway.client() as client:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE")
        first = asyncio.create_task(client.post("/accounts", json=body, headers=headers))
        await until(lambda: _is_claimed(gateway))
        other = (await _kept(gateway)).rpartition(b" ")[0] + b" of-another-call"
        await _kept(gateway, value=other)
        await transaction.rollback()
        await blocker.close()
        assert (await first).status_code == 201
        assert await _kept(gateway) == other


async def test_refusal_keeps_no_key_and_unusable_keys_are_refused(gateway: Running) -> None:
    headers = {"Idempotency-Key": _key()}
    async with gateway.client() as client:
        assert (await client.post("/accounts", json={"nmae": "x"}, headers=headers)).status_code == 422
        assert (await client.post("/accounts", json={"name": "x"}, headers=headers)).status_code == 201
        for key in ("", "x" * 201):
            wrong = await client.post("/accounts", json={"name": "y"}, headers={"Idempotency-Key": key})
            assert (wrong.status_code, wrong.json()["code"]) == (422, "IDEMPOTENCY_KEY")
        large = await client.post("/accounts", content=b" " * 300_000, headers=headers)
        assert (large.status_code, large.json()["code"]) == (413, "BODY_TOO_LARGE")


async def test_answer_with_a_secret_is_not_in_redis(gateway: Running) -> None:
    async with gateway.client() as client:
        answer = await client.post(
            "/tokens", json={"name": "one", "scope": "read"}, headers={"Idempotency-Key": _key()}
        )
    async with raw_redis(gateway.app.state.gateway.deps.redis_url) as redis:
        kept = [await redis.get(name) async for name in redis.scan_iter("fks:idempotency:*")]
    assert kept
    assert answer.json()["token"].encode() not in b"".join(filter(None, kept))


async def test_key_of_a_backtest_with_another_body_is_refused(gateway: Running, seeded: Database) -> None:
    await seeded.sql(
        "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume)"
        " SELECT '2026-05-01T00:00:00Z'::timestamptz + n * interval '1 minute', 'BTCUSDT', '1m', 1, 1, 1, 1, 1"
        " FROM generate_series(0, 9) n"
    )
    headers = {"Idempotency-Key": _key()}
    async with gateway.client("signal") as client:
        first = await client.post("/backtests", json=SPEC, headers=headers)
        assert first.status_code == 202, first.text
        again = await client.post("/backtests", json=SPEC, headers=headers)
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        other = await client.post("/backtests", json=SPEC | {"cash": "5"}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")


async def test_key_of_an_operation_with_another_body_is_refused(gateway: Running, seeded: Database) -> None:
    await seeded.sql("INSERT INTO component_health (name, kind, state, pid) VALUES ('orders','actor','ready',1)")
    headers = {"Idempotency-Key": _key()}
    async with gateway.client() as client:
        assert (
            await client.post("/operations", json={"kind": "restart", "target": "orders"}, headers=headers)
        ).is_success
        other = await client.post("/operations", json={"kind": "restart", "target": "supervisor"}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")


@pytest.mark.parametrize("state", ["ready", "dead"])
async def test_call_that_needs_a_dead_part_is_503_and_changes_nothing(
    gateway: Running, seeded: Database, state: str
) -> None:
    """The actor was killed: its row is there, and its beats have stopped (or the supervisor calls it dead)."""
    await seeded.sql("INSERT INTO venue_states (account_id, venue) VALUES (1, 'paper')")
    age = "60" if state == "ready" else "0"
    await seeded.sql(
        "INSERT INTO component_health (name, kind, state, pid, beat_at) VALUES"
        f" ('orders','actor','{state}',1, now() - interval '{age} seconds')"
    )
    async with gateway.client() as client:
        answer = await client.post("/reconcile", json={})
        _is_down(answer)
        assert not await seeded.sql("SELECT 1 FROM reconcile_requests")


def _key() -> str:
    """Return a key of its own: Redis outlives a test."""
    return uuid.uuid4().hex


def _is_down(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"], answer.json()["part"]) == (503, "PART_DOWN", "orders"), (
        answer.text
    )
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["content-type"] == "application/problem+json"
