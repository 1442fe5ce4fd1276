"""Rate limits: calls that count, calls that never do, the headers, and the behaviour without Redis."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fks.config.settings import Settings
from fks.store.db import Database
from fks.store.tokens import TokenStore
from tests.support import servers
from tests.support.gateway import Running, running, serving
from tests.support.raw_redis import raw_redis
from tests.support.waiting import until

FROM_AFAR = {"X-Forwarded-For": "203.0.113.9"}
PROXY: dict[str, Any] = {"behind_proxy": True}
ORDER = {"symbol": "BTCUSDT", "side": "buy", "type": "limit", "quantity": "0.1", "price": "1"}


@asynccontextmanager
async def limited(
    seeded: Database, database_url: str, redis_url: str, home: Path, **auth: int
) -> AsyncIterator[Running]:
    async with running(seeded, database_url, redis_url, home, auth=auth, http=PROXY) as gateway:
        yield gateway


async def test_a_read_past_the_limit_is_refused_and_cancel_is_not(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with (
        limited(seeded, database_url, redis_url, tmp_path, limit_per_hour=50) as gateway,
        gateway.client("trade") as client,
    ):
        assert Settings().auth.limit_per_hour == 1000, "of a caller that nothing is set for"
        made = await client.post("/orders", json=ORDER, headers={"Idempotency-Key": "1"})
        assert made.status_code == 202
        assert made.headers["ratelimit-remaining"] == "49"
        assert (await client.get("/assets")).headers["ratelimit-remaining"] == "49", "orders have their own count"
        cancels = [await client.delete(f"/orders/{made.json()['id']}") for _ in range(51)]
        assert {answer.status_code for answer in cancels} == {409}, "each one reached the order"
        assert "ratelimit-remaining" not in cancels[-1].headers
        statuses = [(await client.get("/assets")).status_code for _ in range(50)]
        assert (statuses.count(200), statuses[-1]) == (49, 429)
        refused = await client.get("/assets")
        assert (refused.json()["code"], refused.headers["ratelimit-remaining"]) == ("RATE_LIMITED", "0")
        metrics = gateway.app.state.gateway.meter.snapshot()
        assert metrics['fks_rate_limited_total{bucket="requests"}'] == 2
        # the rest of the hour, and until one of its 50 is 72 s old
        assert 0 < int(refused.headers["retry-after"]) <= 3672
        assert (await client.delete(f"/orders/{made.json()['id']}")).status_code == 409
        for path in ("/orders", f"/orders/{made.json()['id']}", "/positions", "/fills", "/kill"):
            assert (await client.get(path)).status_code == 200, path
        assert (await client.post("/signals/" + "0" * 32 + "/reject")).status_code == 404
        closing = await client.post("/orders", json=ORDER, headers={"Idempotency-Key": "2"})
        assert closing.status_code == 202, "a position is closed by an order: no reading uses its count up"


async def test_orders_have_a_count_of_their_own(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with (
        limited(seeded, database_url, redis_url, tmp_path, limit_per_hour=2) as gateway,
        gateway.client("trade") as client,
    ):
        sent = [await client.post("/orders", json=ORDER, headers={"Idempotency-Key": str(n)}) for n in range(3)]
        assert [answer.status_code for answer in sent] == [202, 202, 429]
        assert (await client.post("/execute/signal", json={})).status_code == 429
        assert (await client.get("/assets")).status_code == 200


CLOSE = {"symbol": "BTCUSDT", "side": "sell", "type": "market", "quantity": "0.3"}
EXECUTE = {"symbol": "BTCUSDT", "action": "sell", "quantity": "0.3"}


async def test_past_the_limit_only_orders_that_reduce_are_taken(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """A position is closed by an order: whatever was sent before, the way out stays open, and no way in does."""
    (account,) = await seeded.sql("SELECT id, venue FROM accounts ORDER BY id LIMIT 1")
    await seeded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity) VALUES"
        " ($1, $2, 'BTCUSDT', 'key:t-trade', 0.5), ($1, $2, 'BTCUSDT', '', 3), ($1, $2, 'ETHUSDT', 'key:other', 3)",
        account["id"],
        account["venue"],
    )
    async with (
        limited(seeded, database_url, redis_url, tmp_path, limit_per_hour=1) as gateway,
        gateway.client("trade") as client,
    ):
        assert (await client.post("/orders", json=ORDER)).status_code == 202

        async def send(path: str, **body: Any) -> Any:
            return await client.post(path, json=body, headers={"Idempotency-Key": str(uuid.uuid4())})

        closing = await send("/orders", **CLOSE)
        assert (closing.status_code, closing.headers["ratelimit-remaining"]) == (202, "0")
        assert "retry-after" not in closing.headers
        assert (await send("/execute/signal", **EXECUTE)).status_code == 202
        assert (await send("/execute/signal", symbol="BTCUSDT", action="close")).status_code == 202
        rows = await seeded.sql(
            "SELECT is_reduce_only, size, instance FROM signals WHERE kind = 'order' AND side = 'sell'"
        )
        assert [row["is_reduce_only"] for row in rows] == [True, True], "the order manager checks it again"
        assert {row["instance"] for row in rows} == {"key:t-trade"}
        refused = [
            ("/orders", ORDER),
            ("/orders", ORDER | {"reduce_only": True}),
            ("/orders", CLOSE | {"quantity": "0.51"}),
            ("/orders", CLOSE | {"quantity": "0.51", "reduce_only": True}),
            ("/orders", CLOSE | {"stop_loss": "1000000"}),
            ("/orders", CLOSE | {"symbol": "ETHUSDT"}),
            ("/orders", CLOSE | {"side": "nonsense"}),
            ("/execute/signal", EXECUTE | {"action": "buy"}),
            ("/execute/signal", EXECUTE | {"quantity": "0.51"}),
            ("/execute/signal", {"symbol": "ETHUSDT", "action": "close"}),
            ("/execute/signal", {}),
        ]
        for path, body in refused:
            answer = await send(path, **body)
            assert (answer.status_code, answer.json()["code"]) == (429, "RATE_LIMITED"), (path, body)
            assert "retry-after" in answer.headers
        count = await seeded.sql("SELECT 1 FROM signals")
        assert len(count) == 4, "what was refused left nothing"


async def test_past_the_limit_what_open_orders_sell_is_not_sold_twice(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    (account,) = await seeded.sql("SELECT id, venue FROM accounts ORDER BY id LIMIT 1")
    at = (account["id"], account["venue"])
    await seeded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity)"
        " VALUES ($1, $2, 'BTCUSDT', 'key:t-trade', 0.5)",
        *at,
    )
    await seeded.sql(
        "INSERT INTO orders (client_order_id, intent_id, account_id, venue, exchange, symbol, instance, role, side, type,"
        " quantity, filled, group_id, state) SELECT name, gen_random_uuid(), $1, $2, 'binance', 'BTCUSDT', 'key:t-trade', role, 'sell',"
        " 'limit', 0.3, 0.1, 'pair', 'WORKING' FROM (VALUES ('a', 'sl'), ('b', 'tp')) AS o (name, role)",
        *at,
    )
    async with (
        limited(seeded, database_url, redis_url, tmp_path, limit_per_hour=1) as gateway,
        gateway.client("trade") as client,
    ):
        assert (await client.post("/orders", json=ORDER)).status_code == 202
        assert (await client.post("/orders", json=CLOSE | {"quantity": "0.301"})).status_code == 429
        assert (await client.post("/orders", json=CLOSE)).status_code == 202


async def test_each_token_has_its_own_count_and_may_have_its_own_limit(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    own, _ = await TokenStore(seeded).create("own", "read", limit_per_hour=5)
    async with (
        limited(seeded, database_url, redis_url, tmp_path, limit_per_hour=3) as gateway,
        gateway.client("read") as one,
        gateway.client("trade") as two,
        gateway.client(None) as three,
    ):
        assert [(await one.get("/assets")).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert (await two.get("/assets")).status_code == 200
        headers = {"Authorization": f"Bearer {own}"}
        found = [(await three.get("/assets", headers=headers)).status_code for _ in range(6)]
        assert found == [200] * 5 + [429]


async def test_retry_after_of_a_refusal_is_the_reset(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    body = {"user": "nobody", "password": "wrong horse battery"}
    limits = {"anonymous_per_hour": 9, "limit_per_hour": 3, "attempts_max": 2}
    async with (
        limited(seeded, database_url, redis_url, tmp_path, **limits) as gateway,
        gateway.client("read") as client,
        gateway.client(None) as anyone,
    ):
        calls = {
            "RATE_LIMITED": lambda: client.get("/assets"),
            "LOGIN_LOCKED": lambda: anyone.post("/auth/login", json=body, headers=FROM_AFAR),
            "of an address": lambda: anyone.get("/orders", headers=FROM_AFAR),
        }
        for code, call in calls.items():
            answers = [await call() for _ in range(10)]
            refused = [answer for answer in answers if answer.status_code == 429]
            assert refused, code
            for answer in refused:
                assert answer.headers["retry-after"] == answer.headers["ratelimit-reset"], code
            assert int(answers[0].headers["ratelimit-reset"]) > 3500, "of an answer that is no refusal"


async def test_a_costly_call_counts_for_more(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with (
        limited(seeded, database_url, redis_url, tmp_path, limit_per_hour=12) as gateway,
        gateway.client("signal") as client,
    ):
        answer = await client.post("/backtests", json={})
        assert answer.headers["ratelimit-remaining"] == "2"
        assert (await client.post("/backtests", json={})).status_code == 429
        assert (await client.get("/assets")).headers["ratelimit-remaining"] == "1"


async def test_requests_without_a_token_count_by_address(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with (
        limited(seeded, database_url, redis_url, tmp_path, anonymous_per_hour=3) as gateway,
        gateway.client(None) as client,
    ):
        found = [(await client.get("/orders", headers=FROM_AFAR)).status_code for _ in range(4)]
        assert found == [401, 401, 401, 429]
        assert (await client.get("/assets", headers=FROM_AFAR)).status_code == 429
        other = await client.get("/orders", headers={"X-Forwarded-For": "203.0.113.10"})
        assert other.status_code == 401
        assert (await client.get("/ready", headers=FROM_AFAR)).status_code != 429, "a balancer may always ask"


async def test_a_check_without_a_token_uses_up_no_logins(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    limits = {"anonymous_per_hour": 3, "monitoring_per_hour": 8}
    async with (
        limited(seeded, database_url, redis_url, tmp_path, **limits) as gateway,
        gateway.client(None) as client,
    ):
        paths = ["/health", "/fks_api/health", "/fks_api/ready"] * 3
        checks = [(await client.get(path, headers=FROM_AFAR)).status_code for path in paths]
        assert 429 not in checks[:8]
        assert checks[8] == 429
        assert [(await client.get("/orders", headers=FROM_AFAR)).status_code for _ in range(4)][-1] == 429
        body = {"refresh_token": "x" * 43}
        found = [(await client.post("/auth/refresh", json=body, headers=FROM_AFAR)).status_code for _ in range(4)]
        assert found == [401, 401, 401, 429]


async def test_the_owner_on_this_host_watches_without_limit(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    auth = {"anonymous_per_hour": 1, "monitoring_per_hour": 1}
    async with (
        running(seeded, database_url, redis_url, tmp_path, auth=auth) as gateway,
        gateway.client(None) as anyone,
        gateway.client("read") as client,
    ):
        for _ in range(3):
            for path in ("/health", "/metrics", "/monitor/", "/docs", "/health/dashboard/"):
                assert (await anyone.get(path)).status_code != 429, path
            for path in ("/api/status", "/system/tree", "/system/events", "/monitor/api/health/"):
                assert (await client.get(path)).status_code == 200, path
        afar = [(await client.get("/api/status", headers=FROM_AFAR)).status_code for _ in range(2)]
        assert afar == [200, 429]


async def test_without_redis_changes_are_refused_and_orders_and_cancels_are_not(
    seeded: Database, database_url: str, tmp_path: Path
) -> None:
    with servers.home() as home:
        nowhere = f"unix://{home.sockets}/nothing.sock"
        tokens = {scope: (await TokenStore(seeded).create(scope, scope))[0] for scope in ("read", "trade")}
        async with (
            serving(database_url, nowhere, tmp_path, tokens, auth={}) as gateway,
            gateway.client("trade") as trader,
            gateway.client("read") as reader,
        ):
            refused = await trader.post("/assets/disable", json={"symbol": "BTCUSDT"})
            assert (refused.status_code, refused.json()["code"]) == (503, "LIMITS_UNKNOWN")
            closing = await trader.post("/orders", json=ORDER, headers={"Idempotency-Key": "1"})
            assert closing.status_code == 202, "a position is closed by an order"
            assert len(await seeded.sql("SELECT 1 FROM signals")) == 1
            assert (await reader.get("/assets")).status_code == 200
            assert (await trader.delete("/orders/" + "0" * 32)).json()["code"] == "ORDER_UNKNOWN"
            assert (await trader.get("/orders")).status_code == 200


async def test_counts_of_the_hour_before_fade(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with (
        limited(seeded, database_url, redis_url, tmp_path, limit_per_hour=10) as gateway,
        gateway.client("read") as client,
        raw_redis(redis_url) as redis,
    ):
        assert (await client.get("/assets")).status_code == 200
        (key,) = [key async for key in redis.scan_iter("fks:limit:*")]
        since = int(await redis.hget(key, "since"))
        # ten requests in the hour that ended half an hour ago: half of them still count
        await redis.hset(key, mapping={"since": since - 5400 * 1000, "count": 10, "before": 0})
        found = [(await client.get("/assets")).status_code for _ in range(6)]
        assert found == [200] * 5 + [429]

        async def is_served() -> bool:
            await redis.hset(key, mapping={"since": since - 7300 * 1000, "count": 10, "before": 10})
            return (await client.get("/assets")).status_code == 200

        await until(is_served, deadline_s=5)
