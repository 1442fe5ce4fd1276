"""Numbers and JSON from outside: none is dear, none is an error of the server, and JSON has a greatest depth."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import websockets

from fks.store.db import Database
from tests.support.gateway import Running, running
from tests.support.number_fuzz import assert_no_number_hurts


@pytest.fixture
async def gateway(seeded: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway that does not wait for orders; no order manager runs."""
    async with running(seeded, database_url, redis_url, tmp_path, http={"order_wait_s": 0.001}) as gateway:
        yield gateway


async def test_no_number_blocks_the_gateway_or_makes_it_fail(gateway: Running, seeded: Database) -> None:
    await assert_no_number_hurts(gateway, seeded, each=1, least=900)


@pytest.mark.parametrize("levels", [65, 500, 100_000])
async def test_json_too_deep_is_refused_and_its_key_is_free_again(
    gateway: Running, seeded: Database, levels: int
) -> None:
    key = {"Idempotency-Key": f"deep-{levels}"}
    async with gateway.client() as client:
        deep = b'{"minutes": 1, "reason": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"
        for raw in (deep, deep[: levels + 30], deep.replace(b"[]", b'["]"]')):
            refused = await client.post("/alerts/silences", content=raw, headers=key)
            assert (refused.status_code, refused.json()["code"]) == (400, "JSON_DEPTH"), refused.text
            assert refused.json()["remedy"]
        rows = await seeded.sql(
            "SELECT phase, status FROM audit_log WHERE action = 'POST /alerts/silences' ORDER BY id"
        )
        assert [tuple(row.values()) for row in rows] == [("requested", None), ("answered", 400)] * 3
        good = await client.post("/alerts/silences", json={"minutes": 1}, headers=key)
        assert good.status_code == 201, good.text
        assert (await client.post("/alerts/silences", json={"minutes": 1}, headers=key)).json() == good.json()
    assert not [line for line in gateway.log.lines if line[1] == "gateway.failed"]


async def test_json_of_64_levels_is_read(gateway: Running, seeded: Database) -> None:
    async with gateway.client() as client:
        body = b'{"minutes": 1, "reason": ' + b"[" * 63 + b'"]]' + b'["' + b"]" * 63 + b"}"
        answer = await client.post("/alerts/silences", content=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID"), answer.text
        detail = await seeded.sql("SELECT detail FROM audit_log WHERE phase = 'answered' ORDER BY id DESC LIMIT 1")
        assert "reason" in detail[0]["detail"]


async def test_a_socket_answers_deep_json_and_large_numbers_with_an_error(gateway: Running) -> None:
    headers = {"Authorization": f"Bearer {gateway.tokens['read']}"}
    async with websockets.connect(gateway.ws, additional_headers=headers) as socket:
        for raw, code in (("[" * 9000, "JSON_DEPTH"), ('{"type": "checked", "n": 1e999990}', "JSON_NUMBER")):
            await socket.send(raw)
            found = json.loads(await socket.recv())
            while found["type"] != "error":
                found = json.loads(await socket.recv())
            assert found["code"] == code
