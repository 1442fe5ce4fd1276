"""Order entry under fuzzed input: 4xx problem documents, and a row exactly where something was accepted."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from fks.interfaces.api.app import schema
from fks.store.db import Database
from tests.support.gateway import Running, running

GOOD = {"symbol": "BTCUSDT", "side": "buy", "type": "limit", "quantity": "0.1", "price": "100"}
ORDER = "a" * 32
QUIET = settings(
    database=None,
    derandomize=True,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
    max_examples=12,
)
FUZZED = (
    ("/orders", "POST"),
    ("/orders/{id}", "DELETE"),
    ("/orders/{id}/settle", "POST"),
    ("/reconcile", "POST"),
    ("/incidents/{id}/close", "POST"),
    ("/signals/{id}/approve", "POST"),
    ("/signals/{id}/reject", "POST"),
)
NUMBERS = (
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "-Infinity",
    "9" * 100,
    "0." + "9" * 100,
    "1e-400",
    "0",
    "-0.0",
    "-1",
    "true",
    "null",
    "[1]",
    "{}",
    '"1e999"',
    '"NaN"',
    '"\\ud800"',
    '"1_0"',
    '""',
    "01",
    "1.",
    "+1",
    "9" * 5000,
)
TEXTS = (
    '"\\ud800"',
    '"\\u0000"',
    '"' + "x" * 5000 + '"',
    "7",
    "null",
    "[]",
    "{}",
    "true",
    '""',
    '" "',
    '"\\u202e"',
    '"a\\u001fb"',
)


@pytest.fixture
async def gateway(seeded: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway that does not wait for orders; no order manager runs."""
    async with running(seeded, database_url, redis_url, tmp_path, http={"order_wait_s": 0.001}) as gateway:
        yield gateway


def checked(status: int, headers: Any, text: str, what: object) -> int:
    """Return the status of an answer that has the right form."""
    assert status < 500, (what, text)
    if status >= 400:
        assert "application/problem+json" in headers["content-type"], (what, text)
        problem = json.loads(text)
        assert problem["code"], what
        assert len(text) < 20_000, what
    return status


async def test_what_the_schema_allows_and_what_it_does_not(gateway: Running, seeded: Database) -> None:
    document = schemathesis.openapi.from_dict(schema(gateway.app))
    accepted, proposed, numbers = set[str](), set[str](), itertools.count()
    await seeded.sql(
        "INSERT INTO orders (client_order_id, intent_id, account_id, venue, symbol, role, side, type, quantity, state)"
        " VALUES ($1, $2, 1, 'ccxt', 'BTCUSDT', 'order', 'buy', 'market', 1, 'UNKNOWN')",
        ORDER,
        uuid.uuid4(),
    )

    def fuzz(path: str, method: str, mode: GenerationMode) -> None:
        @QUIET
        @given(document[path][method].as_strategy(generation_mode=mode))
        def each(case: Any) -> None:
            key = f"fuzz-{next(numbers)}"
            case.headers = {"Authorization": f"Bearer {gateway.tokens['admin']}", "Idempotency-Key": key}
            if path.startswith("/orders/{id}") and next(numbers) % 2:
                case.path_parameters = {"id": ORDER}
            answer = case.call(base_url=gateway.url)
            status = checked(answer.status_code, answer.headers, answer.text, case.body)
            if status == 202 and path == "/orders":
                accepted.add(answer.json()["id"])
            if status == 200 and path.endswith("/settle"):
                proposed.add(answer.json()["confirm"])

        each()

    for path, method in FUZZED:
        for mode in GenerationMode:
            await asyncio.to_thread(fuzz, path, method, mode)
    rows = await seeded.sql("SELECT id, symbol, size, source FROM signals")
    assert {str(row["id"]) for row in rows} == accepted
    assert all(row["symbol"] in ("BTCUSDT", "ETHUSDT") and row["size"] > 0 for row in rows)
    settlements = await seeded.sql("SELECT confirm_code, confirmed_at FROM order_settlements")
    assert {(row["confirm_code"], row["confirmed_at"]) for row in settlements} == {(code, None) for code in proposed}
    [order] = await seeded.sql("SELECT client_order_id, state, filled FROM orders")
    assert tuple(order) == (ORDER, "UNKNOWN", 0)


async def test_bodies_that_no_schema_describes(gateway: Running, seeded: Database) -> None:
    names = sorted(
        {
            *GOOD,
            "account",
            "stop_loss",
            "take_profit",
            "stop_price",
            "valid_until",
            "time_in_force",
            "venue",
            "exchange",
        }
    )
    accepted = set[str]()

    def fuzz() -> None:
        client = httpx.Client(
            base_url=gateway.url, trust_env=False, headers={"Authorization": f"Bearer {gateway.tokens['trade']}"}
        )

        @QUIET
        @given(st.sampled_from(names), st.sampled_from(NUMBERS + TEXTS), st.booleans(), st.binary(max_size=20))
        def each(name: str, value: str, is_twice: bool, noise: bytes) -> None:
            parts = [f'"{key}": {json.dumps(known)}' for key, known in GOOD.items() if key != name or is_twice]
            body = ("{" + ", ".join([*parts, f'"{name}": {value}']) + "}").encode()
            for content in (body, body + noise, noise + body, body[: len(body) // 2]):
                answer = client.post("/orders", content=content, headers={"Idempotency-Key": str(uuid.uuid4())})
                if checked(answer.status_code, answer.headers, answer.text, content) == 202:
                    accepted.add(answer.json()["id"])

        each()
        for content, status in (
            (b"x" * 300_000, 413),
            (b"[" * 100_000, 400),
            (b'{"a":' * 40_000, 400),
            (b"", 400),
            (b"[]", 422),
        ):
            answer = client.post("/orders", content=content, headers={"Idempotency-Key": "k"})
            assert checked(answer.status_code, answer.headers, answer.text, content[:20]) == status
        for key in ("", "a" * 201, "\xe9" * 200, "%00"):
            answer = client.post("/orders", json=GOOD, headers={"Idempotency-Key": key.encode("latin-1")})
            if checked(answer.status_code, answer.headers, answer.text, key) == 202:
                accepted.add(answer.json()["id"])
        client.close()

    await asyncio.to_thread(fuzz)
    rows = await seeded.sql("SELECT id FROM signals")
    assert accepted
    assert {str(row["id"]) for row in rows} == accepted
