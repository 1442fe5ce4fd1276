"""Answers of the gateway: shapes, exact numbers, symbols in any spelling, pages."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

from fks.store.db import Database
from tests.support.gateway import Running, hold_lease, running
from tests.support.waiting import until

SPELLINGS = ("BTCUSDT", "BTC/USDT", "BTC-USDT", "btc/usdt", "binance:BTCUSDT", "BTC%2FUSDT")


async def _feed(db: Database) -> None:
    await hold_lease(db)
    await db.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_price, last_message_at, sealed_through) VALUES"
        " ('binance','BTCUSDT','trades','LIVE',64000.10,now(),NULL),"
        " ('binance','BTCUSDT','1m','LIVE',NULL,NULL,'2026-05-01T00:04:00Z')"
    )
    await db.sql(
        "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume)"
        " SELECT '2026-05-01T00:00:00Z'::timestamptz + n * interval '1 minute', 'BTCUSDT', '1m', 100.1 + n, 101.5 + n,"
        " 99.5 + n, 100.7 + n, 0.1 FROM generate_series(0, 9) n"
    )


async def test_market_data_answers_every_spelling(gateway: Running, seeded: Database) -> None:
    await _feed(seeded)
    async with gateway.client("read") as client:
        answers = [await client.get(f"/market-data/{symbol}") for symbol in SPELLINGS]
    assert [answer.status_code for answer in answers] == [200] * len(SPELLINGS)
    assert len({str(_ageless(answer.json())) for answer in answers}) == 1
    body = answers[0].json()
    assert (body["symbol"], body["name"], body["price"], body["state"]) == ("BTCUSDT", "BTC/USDT", "64000.1", "LIVE")
    assert body["age_ms"] < 60_000
    assert body["bars"]["1m"]["time"] == "2026-05-01T00:04:00Z"
    assert body["bars"]["1m"]["close"] == 104.7


def _ageless(received: dict[str, Any]) -> dict[str, Any]:
    """Return a message without the ages, of the quote and the book too: they rise from one answer to the next."""
    return {
        name: _ageless(value) if isinstance(value, dict) else value
        for name, value in received.items()
        if name != "age_ms"
    }


async def test_an_unknown_symbol_is_a_404_that_names_the_known_ones(gateway: Running) -> None:
    async with gateway.client("read") as client:
        for path in ("/market-data/NOPE", "/historical/NOPE/USDT", "/positions/NOPE", "/orders?symbol=NOPE"):
            answer = await client.get(path)
            assert answer.status_code == 404, path
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] == "SYMBOL_UNKNOWN"
            assert "BTCUSDT" in answer.json()["remedy"]


async def test_history_is_paged_forward_and_the_newest_come_without_from(gateway: Running, seeded: Database) -> None:
    await _feed(seeded)
    async with gateway.client("read") as client:
        newest = (await client.get("/historical/BTC/USDT", params={"timeframe": "1m", "limit": 3})).json()
        assert [bar["time"][14:16] for bar in newest["bars"]] == ["07", "08", "09"]
        seen: list[str] = []
        start: str | None = "2026-05-01T00:00:00Z"
        while start:
            page = (
                await client.get("/historical/BTCUSDT", params={"timeframe": "1m", "from": start, "limit": 4})
            ).json()
            seen += [bar["time"] for bar in page["bars"]]
            start = page["next"]
        assert seen == sorted(set(seen))
        assert len(seen) == 10
        part = await client.get(
            "/historical/BTCUSDT",
            params={"timeframe": "1m", "from": "2026-05-01T00:02:00Z", "to": "2026-05-01T00:04:00Z"},
        )
        assert [bar["open"] for bar in part.json()["bars"]] == [102.1, 103.1]


WRONG = ({"timeframe": "7m"}, {"from": "yesterday"}, {"from": "2026-05-02", "to": "2026-05-01"}, {"limit": "0"})


async def test_a_wrong_query_is_one_clear_problem(gateway: Running) -> None:
    async with gateway.client("read") as client:
        for query in WRONG:
            answer = await client.get("/historical/BTCUSDT", params=query)
            assert answer.status_code in (400, 422), query
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["detail"]
            assert answer.json()["remedy"]


async def test_assets_are_enabled_and_disabled_in_any_spelling(gateway: Running) -> None:
    async with gateway.client("trade") as client:
        assert (await client.post("/assets/enable", json={"symbol": "ETH/USDT"})).json()["items"][0]["is_enabled"]
        listed = {row["symbol"]: row for row in (await client.get("/assets")).json()["items"]}
        assert listed["ETHUSDT"]["is_enabled"]
        assert listed["ETHUSDT"]["name"] == "ETH/USDT"
        assert (await client.post("/assets/disable", json={"symbols": ["ETH-USDT"]})).status_code == 200
        listed = {row["symbol"]: row for row in (await client.get("/assets")).json()["items"]}
        assert not listed["ETHUSDT"]["is_enabled"]
        assert (await client.post("/assets/enable", json={"symbols": ["BTCUSDT", "NOPE"]})).status_code == 404
        assert (await client.post("/assets/enable", json={})).status_code == 422


async def _order(db: Database, n: int, state: str = "FILLED", quantity: str = "0.00100") -> str:
    id = uuid.uuid5(uuid.NAMESPACE_OID, str(n)).hex
    await db.sql(
        "INSERT INTO orders (client_order_id, intent_id, signal_id, account_id, venue, symbol, role, side, type, "
        "quantity,"
        " state, created_at) VALUES ($1, $2, $3, 1, 'paper', 'BTCUSDT', 'order', 'buy', 'market', $4::text::numeric, "
        "$5, $6)",
        id,
        uuid.uuid4(),
        uuid.uuid5(uuid.NAMESPACE_URL, str(n)),
        quantity,
        state,
        datetime(2026, 5, 1, tzinfo=UTC) + timedelta(seconds=n // 2),
    )
    return id


async def test_orders_are_paged_without_losing_or_repeating_one(gateway: Running, seeded: Database) -> None:
    made = {await _order(seeded, n) for n in range(7)}
    async with gateway.client("read") as client:
        seen: list[str] = []
        before = None
        while True:
            query = {"limit": "3"} | ({"before": before} if before else {})
            answer = await client.get("/orders", params=query)
            assert answer.status_code == 200, (answer.text, gateway.log)
            page = answer.json()
            seen += [item["client_order_id"] for item in page["items"]]
            before = page["next"]
            if before is None:
                break
        assert len(seen) == 7
        assert set(seen) == made


async def test_an_order_is_found_by_its_client_id_and_by_its_signal(gateway: Running, seeded: Database) -> None:
    id = await _order(seeded, 1)
    await _order(seeded, 2, "WORKING", "1")
    async with gateway.client("read") as client:
        by_client = (await client.get(f"/orders/{id}")).json()
        by_signal = (await client.get(f"/orders/{uuid.uuid5(uuid.NAMESPACE_URL, '1')}")).json()
        assert by_client == by_signal
        assert by_client["quantity"] == "0.001"
        opened = (await client.get("/orders", params={"open": "true"})).json()["items"]
        assert [item["state"] for item in opened] == ["WORKING"]
        for id in ("nonsense", uuid.uuid4().hex):
            missing = await client.get(f"/orders/{id}")
            assert missing.status_code == 404
            assert missing.json()["code"] == "ORDER_UNKNOWN"


async def test_positions_add_up_and_are_valued_exactly(gateway: Running, seeded: Database) -> None:
    await _feed(seeded)
    await seeded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, realized_pnl, fees) "
        "VALUES"
        " (1,'paper','BTCUSDT','a',0.1,63000.1,1.5,0.2), (1,'paper','BTCUSDT','',0.2,64000.1,0,0.1),"
        " (1,'paper','BTCUSDT','flat',0,0,7,0)"
    )
    async with gateway.client("read") as client:
        rows = (await client.get("/positions")).json()["items"]
        assert {row["instance"]: row["unrealized_pnl"] for row in rows} == {"": "0", "a": "100"}
        one = (await client.get("/positions/BTC/USDT")).json()
        assert (one["quantity"], one["realized_pnl"], one["fees"]) == ("0.3", "8.5", "0.3")
        assert len(one["items"]) == 3
        assert (await client.get("/positions/ETHUSDT")).json()["quantity"] == "0"


async def test_fees_in_a_third_asset_are_in_the_sum_once_they_have_a_rate(gateway: Running, seeded: Database) -> None:
    await _feed(seeded)
    await seeded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, fees) VALUES"
        " (1,'paper','BTCUSDT','a',0.1,63000,2), (1,'paper','BTCUSDT','b',0.1,63000,0)"
    )
    for instance, fee, currency, value, rate in (
        ("a", 2, "USDT", 0, None),
        ("a", "0.01", "BNB", 6, 600),
        ("a", "0.02", "BNB", 0, None),
        ("b", "0.03", "BNB", 0, None),
    ):
        [row] = await seeded.sql(
            "INSERT INTO trades (fill_id, account_id, venue, symbol, instance, trade_type, quantity, price, fee, "
            "fee_currency, time) "
            "VALUES (gen_random_uuid(), 1, 'paper', 'BTCUSDT', $1, 'BUY', 0.1, 63000, $2, $3, now()) RETURNING id",
            instance, Decimal(fee), currency,
        )  # fmt: skip
        if rate is not None:
            await seeded.sql("INSERT INTO trade_fees VALUES ($1, $2, $3)", row["id"], Decimal(value), Decimal(rate))
    async with gateway.client("read") as client:
        rows = (await client.get("/positions")).json()["items"]
        assert [(row["instance"], row["fees"], row["fees_unvalued"]) for row in rows] == [("a", "8", 1), ("b", "0", 1)]
        one = (await client.get("/positions/BTC/USDT")).json()
        assert (one["fees"], one["fees_unvalued"]) == ("8", 2)
        fills = (await client.get("/fills")).json()["items"]
        assert [fill["fee_quote"] for fill in fills] == [None, None, "6", "2"]


async def test_an_unexplained_difference_has_no_value(gateway: Running, seeded: Database) -> None:
    """A venue that holds 6 more than the executions explain shows no profit of six times the price."""
    await _feed(seeded)
    await seeded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price) VALUES"
        " (1,'paper','BTCUSDT','external',6,0), (1,'paper','BTCUSDT','',1,64000.1)"
    )
    async with gateway.client("read") as client:
        rows = (await client.get("/positions")).json()["items"]
        assert [(row["instance"], row["average_price"], row["unrealized_pnl"]) for row in rows] == [
            ("", "64000.1", "0"),
            ("external", None, None),
        ]
        assert (await client.get("/positions/BTC/USDT")).json()["quantity"] == "7"


async def test_accounts_are_made_once(gateway: Running) -> None:
    async with gateway.client() as client:
        made = await client.post("/accounts", json={"name": "My Trading Account", "initial_balance": 10000.10})
        assert made.status_code == 201, made.text
        assert made.json()["initial_balance"] == "10000.1"
        again = await client.post("/accounts", json={"name": "My Trading Account"})
        assert again.json()["code"] == "ACCOUNT_EXISTS"
        names = [row["name"] for row in (await client.get("/accounts")).json()["items"]]
        assert names == ["demo", "sim", "My Trading Account"]


async def test_an_accounts_mode_is_fixed_with_its_identity(gateway: Running, database: Database) -> None:
    async with gateway.client() as client:
        made = await client.post("/accounts/change", json={"name": "demo", "mode": "live", "is_enabled": False})
        assert (made.status_code, made.json()["mode"], made.json()["is_enabled"]) == (200, "live", False)
        await database.sql("UPDATE accounts SET environment = 'live', uid = '9' WHERE name = 'demo'")
        made = await client.post("/accounts/change", json={"name": "demo", "is_enabled": True})
        assert made.json()["is_enabled"] is True
        await _problem(
            await client.post("/accounts/change", json={"name": "demo", "mode": "paper"}), 409, "ACCOUNT_TIED"
        )
        await _problem(await client.post("/accounts/change", json={"name": "x"}), 404, "ACCOUNT_UNKNOWN")
        assert [row["uid"] for row in (await client.get("/accounts")).json()["items"]] == ["9", None]


async def test_every_answer_has_the_security_headers_and_no_cors(gateway: Running) -> None:
    async with gateway.client("read") as client:
        for path in ("/health", "/orders", "/nowhere", "/guide/", "/docs"):
            answer = await client.get(path, headers={"Origin": "https://evil.example"})
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert "access-control-allow-origin" not in answer.headers
            assert "strict-transport-security" not in answer.headers  # plain HTTP
            assert answer.headers["x-request-id"]


async def test_unknown_paths_methods_and_bodies_are_problems(gateway: Running) -> None:
    async with gateway.client() as client:
        await _problem(await client.get("/nowhere"), 404, "NOT_FOUND")
        wrong = await client.put("/orders")
        await _problem(wrong, 405, "METHOD_NOT_ALLOWED")
        assert "GET" in wrong.headers["allow"]
        for body in (b"{", b"", b'{"a": NaN}', b'{"name": "x", "name": "y"}', b"\xff", b"[" * 64):
            await _problem(await client.post("/accounts", content=body), 400, "JSON_MALFORMED")
        await _problem(await client.post("/accounts", content=b"[" * 65), 400, "JSON_DEPTH")
        await _problem(await client.post("/accounts", content=b"[" * 100_000), 400, "JSON_DEPTH")
        await _problem(await client.post("/accounts", content=b'{"initial_balance": 1e999}'), 400, "JSON_NUMBER")
        await _problem(await client.post("/accounts", content=b" " * 300_000), 413, "BODY_TOO_LARGE")
        await _problem(await client.post("/accounts", json={"name": "x", "nmae": "y"}), 422, "INVALID")
        for balance in (True, "abc", "Infinity", "1e999999", "-1", None, []):
            await _problem(
                await client.post("/accounts", json={"name": "x", "initial_balance": balance}), 422, "INVALID"
            )


async def _problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["title"]
    assert body["detail"]
    assert "Traceback" not in answer.text


async def test_a_replica_writes_its_own_row_and_status_shows_it(gateway: Running, seeded: Database) -> None:
    async def beating() -> list[object]:
        return [row for row in await seeded.fetch("monitor.components") if row["name"] == "gateway:0"]

    await until(beating)
    async with gateway.client("read") as client:
        status = (await client.get("/api/status")).json()
    assert set(status) >= {"state", "components", "feeds", "venues", "kill", "sim"}
    row = status["components"][0]
    assert set(row) >= {"name", "kind", "state", "pid", "node", "restarts", "since", "heartbeat_age_ms"}
    assert (row["name"], row["kind"], row["state"], row["restarts"]) == ("gateway:0", "serve", "ready", 0)
    assert row["heartbeat_age_ms"] < 5000
    assert status["kill"] == {"engaged": False}


async def test_status_shows_the_local_exchange_keys_only_to_admin(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    sim = {
        "rest": "http://x",
        "ws": "ws://x",
        "ws_api": "ws://x/ws-api/v3",
        "api_key": "K",
        "api_secret": "S",
        "pid": 7,
    }
    async with running(seeded, database_url, redis_url, tmp_path, node=SimpleNamespace(sim=sim)) as gateway:
        async with gateway.client() as client:
            assert (await client.get("/api/status")).json()["sim"] == sim
        async with gateway.client("trade") as client:
            assert "api_secret" not in (await client.get("/api/status")).json()["sim"]


async def test_kill_state_comes_from_rows_and_from_the_guardian_file(gateway: Running, seeded: Database) -> None:
    async with gateway.client("read") as client:
        assert (await client.get("/kill")).json() == {"engaged": False, "kills": [], "guardian": {"engaged": False}}
        await seeded.sql("INSERT INTO kill_switch (kill_id, reason, engaged_by) VALUES ('k', 'drill', 'me')")
        line = {"act": "engaged", "kill_id": "k", "scope": "system", "reason": "drill", "by": "me", "flatten": True}
        kill_file = gateway.app.state.gateway.deps.paths.kill_file
        kill_file.write_text(json.dumps({**line, "at": "2026-05-01T00:00:00+00:00"}) + "\n")
        body = (await client.get("/kill")).json()
        assert (body["engaged"], body["by"], body["kills"][0]["kill_id"]) == (True, "me", "k")
        assert body["guardian"] == {
            "engaged": True,
            "kill_id": "k",
            "scope": "system",
            "reason": "drill",
            "by": "me",
            "since": "2026-05-01T00:00:00Z",
            "done": False,
            "scopes": ["system"],
        }
        assert (await client.get("/api/status")).json()["kill"]["engaged"]


async def test_the_health_document_is_the_owners(gateway: Running, seeded: Database) -> None:
    async with gateway.client(None) as client:
        for path in ("/health", "/api/health"):
            body = (await client.get(path)).json()
            assert set(body) == {"status", "service", "version", "timestamp", "dependencies", "metadata"}
            assert body["status"] == "degraded"  # nothing collects here
            assert body["timestamp"].endswith("Z")
            assert body["dependencies"] == {"database": "healthy", "redis": "healthy", "tree": "down", "feeds": "down"}
            assert set(body["metadata"]) == {"uptime_seconds", "requests_per_minute"}
        assert (await client.get("/ready")).json()["status"] == "ready"


async def test_the_owners_monitor_paths_group_components_under_their_services(
    gateway: Running, seeded: Database
) -> None:
    await seeded.sql(
        "INSERT INTO component_health (name, kind, state, pid, beat_at) VALUES"
        " ('collector:binance','actor','ready',1,now()), ('orders','actor','degraded',2,now()),"
        " ('guardian','actor','ready',3,now())"
    )
    async with gateway.client("read") as client:
        body = (await client.get("/monitor/api/health/")).json()
        texts = {row["id"]: row["status"] for row in body["services"]}
        assert texts["fks_data"] == "healthy"
        assert texts["fks_execution"] == "degraded"
        assert (await client.get("/monitor/api/health/fks_data/")).json()["components"] == ["collector:binance"]
        assert (await client.get("/monitor/api/health/fks_web/")).status_code == 404
        assert (await client.get("/monitor/api/services/")).json()["count"] == len(body["services"])
        assert (await client.get("/monitor/api/ping/")).json()["status"] == "ok"
        assert (await client.get("/health/dashboard/", headers={"Accept": "*/*"})).json()["services"]
    async with gateway.client(None) as client:
        proxied = await client.get("/health/dashboard/", headers={"X-Forwarded-For": "203.0.113.7"})
        assert proxied.status_code == 401
        page = await client.get("/health/dashboard/", headers={"Accept": "text/html,application/json;q=0.9"})
        assert (page.status_code, page.headers["location"]) == (307, "/app/monitor")


async def test_addresses_of_pages_lead_to_the_pages(gateway: Running) -> None:
    places = {"/": "/app/", "/admin": "/app/users", "/admin/": "/app/users"}
    places |= dict.fromkeys(("/monitor", "/monitor/"), "/app/monitor")
    async with gateway.client(None) as client:
        for path, place in places.items():
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["location"]) == (307, place), path


async def test_browser_reads_health_as_json_while_pages_are_off(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with (
        running(seeded, database_url, redis_url, tmp_path, web={"enabled": False}) as gateway,
        gateway.client("read") as client,
    ):
        answer = await client.get("/health/dashboard/", headers={"Accept": "text/html,application/json;q=0.9"})
        assert (answer.status_code, bool(answer.json()["services"])) == (200, True)


async def test_the_openapi_document_names_every_route_with_its_scope(gateway: Running) -> None:
    async with gateway.client("read") as client:
        document = (await client.get("/openapi.json")).json()
    assert document["paths"]["/orders"]["post"]["x-fks-scope"] == "trade"
    assert document["paths"]["/orders"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"][
        "side"
    ]
    assert document["paths"]["/health"]["get"]["x-fks-scope"] == "open"
    assert "security" not in document["paths"]["/health"]["get"]
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["x-fks-scope"]
            assert operation["summary"]
            assert operation.get("description")


async def test_a_named_origin_may_call_and_no_other(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    http = {"cors_origins": ("https://desk.example",), "behind_proxy": True}
    async with (
        running(seeded, database_url, redis_url, tmp_path, http=http) as gateway,
        gateway.client("read") as client,
    ):
        asks = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,idempotency-key",
        }
        allowed = await client.options("/orders", headers={"Origin": "https://desk.example", **asks})
        assert allowed.headers["access-control-allow-origin"] == "https://desk.example"
        assert "access-control-allow-credentials" not in allowed.headers
        refused = await client.options("/orders", headers={"Origin": "https://evil.example", **asks})
        assert "access-control-allow-origin" not in refused.headers
        answer = await client.get("/orders", headers={"Origin": "https://desk.example"})
        assert answer.headers["access-control-allow-origin"] == "https://desk.example"
        assert answer.headers["strict-transport-security"].startswith("max-age=")
