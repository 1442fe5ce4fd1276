"""Signals in the form of fks_ninja over HTTP: committed as signals of the venue ninja, answered in that form."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from fks.clock import RealClock
from fks.interfaces.cli.base import OK, USAGE
from fks.lab.sim.nt8.server import front_contract
from fks.model.futures import contract_of
from fks.store.db import Database
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running, running

ES = front_contract("ES", RealClock().now_ns() // 1_000_000)
BODY = {"action": "buy", "instrument": ES, "price": 4500.25, "tp_points": 20, "sl_points": 10}
#: ends the connection in the middle of an INSERT
BREAK = """
CREATE FUNCTION break_connection() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); RETURN NEW; END $$;
CREATE TRIGGER break BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION break_connection();
"""


@pytest.fixture
async def traded(seeded: Database) -> Database:
    """An account at NinjaTrader, and its contract."""
    contract = contract_of(ES)
    assert contract is not None
    await seeded.sql("INSERT INTO accounts (name, venue, currency, initial_balance) VALUES ('nt','ninja','USD',100000)")
    await seeded.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min, "
        "multiplier) VALUES ('ninja', $1, $2, 'USD', 0.25, 1, 1, 10000, 0, 50)",
        ES,
        contract.code,
    )
    return seeded


@pytest.fixture
async def gateway(traded: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(traded, database_url, redis_url, tmp_path, http={"order_wait_s": 0.2}) as gateway:
        yield gateway


async def rows(db: Database) -> list[Any]:
    return await db.sql("SELECT * FROM signals ORDER BY seq")


@pytest.mark.parametrize("path", ["/api/v1/signals/send", "/api/v1/signals", "/signals/send"])
async def test_a_signal_is_committed_and_queued(gateway: Running, traded: Database, path: str) -> None:
    async with gateway.client("trade") as client:
        answer = await client.post(path, json=BODY)
    body = answer.json()
    assert (answer.status_code, body["success"], body["message"].split(":")[0]) == (200, True, "queued")
    (row,) = await rows(traded)
    assert str(row["id"]) == body["signal_id"]
    assert (row["venue"], row["exchange"], row["symbol"], row["side"], row["type"]) == (
        "ninja", "ninja", ES, "buy", "limit",
    )  # fmt: skip
    assert (row["limit_price"], row["stop_loss"], row["take_profit"], row["size"]) == (
        Decimal("4500.25"), Decimal("4490.25"), Decimal("4520.25"), 1,
    )  # fmt: skip
    assert (row["valid_until"] - row["ts_event"]).total_seconds() == 30


async def test_a_short_signal_has_its_stop_above_and_keeps_its_own_end(gateway: Running, traded: Database) -> None:
    body = {**BODY, "action": "short", "quantity": 2, "valid_until": "2030-01-01T00:00:00Z", "account": "nt"}
    async with gateway.client("trade") as client:
        assert (await client.post("/signals/send", json=body)).status_code == 200
    (row,) = await rows(traded)
    assert (row["side"], row["stop_loss"], row["take_profit"], row["size"]) == (
        "sell", Decimal("4510.25"), Decimal("4480.25"), 2,
    )  # fmt: skip
    assert row["valid_until"].year == 2030


async def test_the_command_sends_the_same_signal(fks: Fks, gateway: Running, traded: Database) -> None:
    arguments = ["ninja", "send", "buy", ES, "--price", "4500.25", "--tp-points", "20", "--sl-points", "10"]
    code, out, err = await fks(*arguments, "--key", "k1")
    assert code == OK, err
    (row,) = await rows(traded)
    assert str(row["id"]) in out
    assert "queued" in out
    assert (row["stop_loss"], row["take_profit"]) == (Decimal("4490.25"), Decimal("4520.25"))
    code, out, _ = await fks(*arguments, "--key", "k1", "--json")
    assert (code, orjson.loads(out)["signal_id"]) == (OK, str(row["id"]))
    code, _, err = await fks("ninja", "send", "buy", "nothing", "--price", "1")
    assert code == USAGE
    assert "write it as ES 03-25" in err


async def test_a_repeat_is_the_same_signal_and_a_key_names_one_body(gateway: Running, traded: Database) -> None:
    async with gateway.client("trade") as client:
        first, again = [(await client.post("/signals/send", json=BODY)).json() for _ in range(2)]
        assert first["signal_id"] == again["signal_id"]
        assert again["is_repeat"]
        headers = {"Idempotency-Key": "k1"}
        keyed = (await client.post("/signals/send", json=BODY, headers=headers)).json()
        assert keyed["signal_id"] != first["signal_id"]
        other = await client.post("/signals/send", json={**BODY, "price": 4501}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")
    assert len(await rows(traded)) == 2


async def test_a_body_without_action_is_the_native_form(gateway: Running, traded: Database) -> None:
    native = {"symbol": ES, "side": "buy", "type": "market", "quantity": "1", "account": "nt", "exchange": "ninja"}
    async with gateway.client("trade") as client:
        answer = await client.post("/api/v1/signals", json=native)
    assert answer.status_code == 202
    assert answer.json()["state"] is None
    (row,) = await rows(traded)
    assert (row["venue"], row["type"]) == ("ninja", "market")


async def test_a_denied_signal_is_422_with_the_code(gateway: Running, traded: Database) -> None:
    await traded.sql(
        "CREATE FUNCTION deny() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.state = 'denied';"
        " NEW.code = 'FEED_STALE'; NEW.detail = 'no price'; RETURN NEW; END $$"
    )
    await traded.sql("CREATE TRIGGER deny BEFORE INSERT ON signals FOR EACH ROW EXECUTE FUNCTION deny()")
    async with gateway.client("trade") as client:
        answer = await client.post("/signals/send", json=BODY)
    body = answer.json()
    assert (answer.status_code, body["code"], body["success"]) == (422, "FEED_STALE", False)
    assert body["error"] == "no price"
    assert body["signal_id"]


async def test_a_wrong_signal_is_refused_and_nothing_committed(gateway: Running, traded: Database) -> None:
    for changes, status, code in [
        ({"action": "hold"}, 422, "ACTION"),
        ({"instrument": "BTCUSDT"}, 422, "SYMBOL"),
        ({"instrument": 7}, 422, "SYMBOL"),
        ({"price": None}, 422, "PRICE"),
        ({"sl_points": 5000}, 422, "NUMBER"),
        ({"quantity": 0}, 422, "NUMBER"),
        ({"qyt": 1}, 422, "FIELD_UNKNOWN"),
        ({"account": "demo"}, 404, "ACCOUNT_UNKNOWN"),
        ({"valid_until": "soon"}, 422, "VALID_UNTIL"),
    ]:
        async with gateway.client("trade") as client:
            answer = await client.post("/signals/send", json={**BODY, **changes})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert await rows(traded) == []


async def test_an_expired_contract_is_refused_and_the_current_one_named(gateway: Running, traded: Database) -> None:
    await traded.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min, "
        "multiplier) VALUES ('ninja', 'ES 03-20', 'ESH20', 'USD', 0.25, 1, 1, 10000, 0, 50)"
    )
    async with gateway.client("trade") as client:
        answer = await client.post("/signals/send", json={**BODY, "instrument": "ES 03-20"})
    assert (answer.status_code, answer.json()["code"]) == (422, "CONTRACT_EXPIRED")
    assert ES in answer.json()["remedy"]
    assert await rows(traded) == []


@pytest.mark.parametrize("is_listed", [True, False])
async def test_every_way_in_names_the_current_contract(
    fks: Fks, gateway: Running, traded: Database, is_listed: bool
) -> None:
    if is_listed:
        await traded.sql(
            "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min, "
            "multiplier) VALUES ('ninja', 'ES 03-25', 'ESH25', 'USD', 0.25, 1, 1, 10000, 0, 50)"
        )
    hook = {"name": "tv", "account": "nt", "symbols": ["ES 03-25"], "sizing": "payload", "size": "1"}
    place = {"symbol": "ES 03-25", "account": "nt", "quantity": 1}
    order = {**place, "side": "buy", "type": "market"}
    message = {"symbol": "ES 03-25", "action": "buy", "quantity": 1, "timenow": datetime.now(UTC).isoformat()}
    async with gateway.client() as client:
        if is_listed:
            secret = (await client.post("/webhooks", json=hook)).json()["secret"]
            signal = {**message, "secret": secret}
            ways = {"/webhook/tradingview": signal, "/webhooks/tv/test": message}
        else:
            ways = {"/signals/send": {**BODY, "instrument": "ES 03-25"}}
        ways |= {"/orders": order, "/execute/signal": {**place, "action": "buy"}}
        for path, body in ways.items():
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (422, "CONTRACT_EXPIRED"), (path, answer.text)
            assert answer.json()["remedy"] == f"the current contract is {ES}"
        assert await rows(traded) == []
        reducing = await client.post("/orders", json={**order, "reduce_only": True})
        assert reducing.status_code == (202 if is_listed else 422), "an exit is never refused for its contract"
    code, _, err = await fks("ninja", "send", "buy", "ES 03-25", "--price", "6000")
    assert code != OK
    assert f"the current contract is {ES}" in err


@pytest.mark.parametrize(
    ("table", "status", "code"), [("derived_keys", 503, "UNAVAILABLE"), ("signals", 504, "COMMIT_UNKNOWN")]
)
async def test_503_means_that_nothing_was_committed(
    gateway: Running, traded: Database, table: str, status: int, code: str
) -> None:
    async with traded.acquire() as connection:
        await connection.execute(BREAK.format(table=table))
    async with gateway.client("trade") as client:
        answer = await client.post("/signals/send", json=BODY)
    body = answer.json()
    assert (answer.status_code, body["code"], body["success"], body["signal_id"]) == (status, code, False, None)
    assert body["error"]
    if status == 504:
        assert "Idempotency-Key" in body["remedy"]
    assert await rows(traded) == []
