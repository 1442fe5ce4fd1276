"""Whatever is asked, the gateway answers with something below 500, in one form."""

from __future__ import annotations

import random
from urllib.parse import quote

import pytest

from fks.interfaces.api.app import schema
from tests.support.gateway import Running, code_of_error
from tests.support.soak_cases import soaked

NASTY = (
    "",
    "\0",
    "%",
    "'; DROP TABLE orders; --",
    "../../etc/passwd",
    "é" * 40,
    "9" * 400,
    "-1",
    "1e999",
    "NaN",
    "null",
    "[]",
    "{}",
    "a" * 5000,
    "2026-13-45",
    "9999-12-31T23:59:59Z",
    "0001-01-01",
    "\r\nX: y",
    "\u202e",
    "\U0001f600",
    "BTC/USDT/X",
    str(2**63),
    "true",
    "00000000-0000-0000-0000-000000000000",
)
BODIES = (
    b"",
    b"{}",
    b"[]",
    b"null",
    b'"x"',
    b"1",
    b'{"symbol": {}}',
    b'{"name": "\\u0000"}',
    b'{"symbol": "\\u0000"}',
    b"\xff\xfe",
    b'{"symbols": [[[[]]]]}',
    b'{"strategy": [], "symbol": 1}',
    b'{"strategy": "sma_cross", "symbol": "BTCUSDT", "params": 7}',
    b'{"strategy": "sma_cross", "symbol": "BTCUSDT", "from": -1}',
    b'{"name": "' + b"x" * 9000 + b'", "scope": "read"}',
    b'{"symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": 1e-39}',
    b'{"symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "1", "valid_until": 0}',
    b'{"symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "1", "account": 99999999999999999999}',
    b'{"symbol": "BTCUSDT", "side": [], "type": {}, "quantity": [1]}',
    b'{"a": ' + b"9" * 5000 + b"}",
)

#: nothing but the guardian can do these, and none runs here: 503, whatever was sent
OF_THE_GUARDIAN = {("post", "/emergency-stop/release")}


@pytest.mark.parametrize("turns", soaked([8, 64], 1))
async def test_no_input_makes_the_gateway_fail(gateway: Running, turns: int) -> None:
    dice = random.Random(7)
    failed = []
    async with gateway.client() as client:
        for path, operations in schema(gateway.app)["paths"].items():
            for verb, operation in operations.items():
                for turn in range(turns if verb == "get" else len(BODIES)):
                    url = path
                    query = {}
                    for parameter in operation.get("parameters", []):
                        value = dice.choice(NASTY)
                        if parameter["in"] == "path":
                            url = url.replace("{" + parameter["name"] + "}", quote(value, safe="/"))
                        elif parameter["in"] == "query" and dice.random() < 0.6:
                            query[parameter["name"]] = value
                    body = BODIES[turn] if verb == "post" else None
                    answer = await client.request(
                        verb.upper(), url, params=query, content=body, headers={"Idempotency-Key": f"fuzz-{turn}"}
                    )
                    if (verb, path) in OF_THE_GUARDIAN and answer.status_code >= 500:
                        assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE"), answer.text
                    elif answer.status_code >= 500:
                        failed.append((verb, url[:80], query, body, answer.text[:200]))
                    elif answer.status_code >= 400:
                        assert code_of_error(answer), (verb, url, answer.text)
    assert failed == [], [line for line in gateway.log.lines if line[1] == "gateway.failed"][:2]
