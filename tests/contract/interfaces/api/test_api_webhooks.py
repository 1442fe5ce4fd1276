"""POST /webhook/tradingview: its senders, messages, sizes and rate limits; and `fks webhooks`."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from fks.store.db import Database
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running, hold_lease, running, serving

WAIT = {"order_wait_s": 0.2}
HOOK = {"name": "tv", "account": "demo", "symbols": ["BTC/USDT"], "sizing": "payload", "size": "0.5"}
PATH = "/webhook/tradingview"


@pytest.fixture
async def gateway(seeded: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway without an order manager."""
    async with running(seeded, database_url, redis_url, tmp_path, http=WAIT) as gateway:
        yield gateway


def _now(seconds: float = 0) -> str:
    """Return what TradingView puts for {{timenow}}."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _made(gateway: Running, **change: Any) -> str:
    """Make a webhook and return its secret."""
    async with gateway.client() as admin:
        answer = await admin.post("/webhooks", json={**HOOK, **change})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["secret"])


def _message(given: str, **change: Any) -> dict[str, Any]:
    message = {"secret": given, "symbol": "BTCUSDT", "action": "buy", "quantity": 0.1, "timenow": _now(), **change}
    return {name: value for name, value in message.items() if value is not ...}


async def _send(gateway: Running, message: dict[str, Any], **headers: str) -> httpx.Response:
    async with gateway.client(None) as client:
        return await client.post(PATH, json=message, headers=headers)


async def _count(db: Database) -> int:
    return int((await db.sql("SELECT count(*) AS n FROM signals"))[0]["n"])


async def test_an_alert_as_tradingview_sends_it_becomes_one_signal(gateway: Running, seeded: Database) -> None:
    secret = await _made(gateway)
    # the old service's message, in an alert's text: TradingView sends what is JSON as JSON, all else as text/plain
    text = json.dumps(
        {
            "secret": secret, "symbol": "BTC/USDT", "side": "buy", "order_type": "market", "quantity": 0.1,
            "price": 67000.0, "stop_loss": 66000.0, "take_profit": 69000.0, "confidence": 0.85, "exchange": "binance",
            "timenow": _now(),
        }
    )  # fmt: skip
    async with gateway.client(None) as client:
        for kind in ("application/json; charset=utf-8", "text/plain; charset=utf-8", "text/plain"):
            answer = await client.post(PATH, content=text, headers={"Content-Type": kind})
            assert answer.status_code == 202, answer.text
            body = answer.json()
            assert (body["success"], body["error"]) == (True, None)
    [row] = await seeded.sql("SELECT * FROM signals")
    assert (row["source"], row["side"], row["type"], row["symbol"]) == (
        "principal:webhook:tv",
        "buy",
        "market",
        "BTCUSDT",
    )
    assert (str(row["size"]), str(row["stop_loss"]), row["limit_price"]) == ("0.1", "66000.0", None)
    assert str(row["id"]) == body["signal_id"]


async def test_a_signed_message_needs_no_secret_in_it(gateway: Running, seeded: Database) -> None:
    secret = await _made(gateway)
    message = _message(secret)
    del message["secret"]
    raw = json.dumps(message).encode()
    signature = hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
    async with gateway.client(None) as client:
        for given in (signature, f"sha256={signature.upper()}"):
            assert (await client.post(PATH, content=raw, headers={"X-FKS-Signature": given})).status_code == 202
        forged = raw.replace(b"0.1", b"0.5")
        assert (await client.post(PATH, content=forged, headers={"X-FKS-Signature": signature})).status_code == 401
    assert await _count(seeded) == 1


async def test_a_wrong_secret_is_refused_whatever_else_is_wrong(gateway: Running, seeded: Database) -> None:
    secret = await _made(gateway)
    wrong: list[object] = [
        "",
        "whs_wrong",
        secret[:-1],
        secret + "x",
        secret.upper(),
        None,
        5,
        ["x"],
        {"a": secret},
        "ü",
    ]
    for given in wrong:
        answer = await _send(gateway, {"secret": given, "symbol": "NOPE"})
        assert (answer.status_code, answer.json()["code"]) == (401, "WEBHOOK_UNAUTHORIZED"), given
    async with gateway.client(None) as client:
        for raw, status in ((b"buy BTC", 400), (b"[]", 422), (b"", 400)):
            assert (await client.post(PATH, content=raw)).status_code == status
    assert await _count(seeded) == 0


async def test_the_secret_is_nowhere_but_in_the_answer_that_made_it(gateway: Running, seeded: Database) -> None:
    secret = await _made(gateway)
    await _send(gateway, _message(secret))
    refused = await _send(gateway, _message(secret, colour="red", symbol="ETHUSDT"))
    async with gateway.client() as admin:
        listed = await admin.get("/webhooks")
    rows = [dict(row) for row in await seeded.sql("SELECT * FROM webhooks")]
    rows += [dict(row) for row in await seeded.sql("SELECT * FROM signals")]
    rows += [dict(row) for row in await seeded.sql("SELECT * FROM derived_keys")]
    for place in (refused.text, listed.text, str(rows), str(gateway.log.lines)):
        assert secret not in place
        assert secret.removeprefix("whs_") not in place
        assert hashlib.sha256(secret.encode()).hexdigest() not in place


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"symbol": "ETHUSDT"}, "WEBHOOK_SYMBOL"),
        ({"symbol": ...}, "WEBHOOK_SYMBOL"),
        ({"symbol": ["BTCUSDT"]}, "WEBHOOK_SYMBOL"),
        ({"quantity": 0.6}, "WEBHOOK_SIZE"),
        ({"quantity": ...}, "WEBHOOK_SIZE"),
        ({"quantity": -1}, "NUMBER"),
        ({"timenow": _now(-61)}, "WEBHOOK_TIME"),
        ({"timenow": _now(3600)}, "WEBHOOK_TIME"),
        ({"timenow": ...}, "WEBHOOK_TIME"),
        ({"timenow": "{{timenow}}"}, "WEBHOOK_TIME"),
        ({"timenow": "2026-05-01T00:00:00"}, "WEBHOOK_TIME"),
        ({"confidence": 0.5}, "WEBHOOK_CONFIDENCE"),
        ({"confidence": 1.5}, "WEBHOOK_CONFIDENCE"),
        ({"action": "reverse"}, "ACTION"),
        ({"action": ...}, "ACTION"),
        ({"order_type": "limit"}, "PRICE"),
        ({"stop_los": 1}, "FIELD_UNKNOWN"),
        ({"account": "sim"}, "FIELD_UNKNOWN"),
        ({"ticker": "BTCUSDT"}, "FIELD_UNKNOWN"),
    ],
)
async def test_what_the_row_does_not_allow_is_refused_and_counts(
    gateway: Running, seeded: Database, change: dict[str, Any], code: str
) -> None:
    secret = await _made(gateway)
    answer = await _send(gateway, _message(secret, **change))
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert answer.json()["remedy"]
    assert await _count(seeded) == 0
    assert (await seeded.sql("SELECT used FROM webhooks"))[0]["used"] == 1


async def test_milliseconds_and_other_names_are_understood(gateway: Running, seeded: Database) -> None:
    secret = await _made(gateway)
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    other = {"passphrase": secret, "ticker": "BINANCE:BTCUSDT", "side": "SELL", "quantity": "0.1", "timestamp": now_ms}
    assert (await _send(gateway, other)).status_code == 202
    old = await _send(gateway, {**other, "timestamp": now_ms - 61_000})
    assert old.json()["code"] == "WEBHOOK_TIME"
    assert await _count(seeded) == 1


async def test_repeats_at_two_replicas_are_one_signal_and_count_once(
    gateway: Running, seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    secret = await _made(gateway)
    message = _message(secret)
    async with (
        serving(
            database_url, redis_url, tmp_path, gateway.tokens, name="gateway:1", beside=gateway, http=WAIT
        ) as second,
        gateway.client(None) as here,
        second.client(None) as there,
    ):
        first = await here.post(PATH, json=message)
        answers = await asyncio.gather(*(client.post(PATH, json=message) for client in (here, there) * 4))
        assert {answer.json()["signal_id"] for answer in answers} == {first.json()["signal_id"]}
        assert (await seeded.sql("SELECT used FROM webhooks"))[0]["used"] == 1
        burst = [_message(secret, alert_id=number) for number in range(2) for _ in range(4)]
        clients = (here, there) * 4
        await asyncio.gather(*(client.post(PATH, json=item) for client, item in zip(clients, burst, strict=True)))
    assert await _count(seeded) == 3


async def test_the_quota_holds_also_for_messages_at_once(gateway: Running, seeded: Database) -> None:
    secret = await _made(gateway, quota_per_hour=3)
    async with gateway.client(None) as client:
        messages = [_message(secret, alert_id=number) for number in range(8)]
        answers = await asyncio.gather(*(client.post(PATH, json=message) for message in messages))
        assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 5
        over = next(answer for answer in answers if answer.status_code == 429)
        assert (over.json()["code"], 3595 < int(over.headers["retry-after"]) <= 3600) == ("WEBHOOK_QUOTA", True)
        assert await _count(seeded) == 3
        accepted = next(m for m, answer in zip(messages, answers, strict=True) if answer.status_code == 202)
        assert (await client.post(PATH, json=accepted)).status_code == 202, "a repeat is no new signal"
        await seeded.sql("UPDATE webhooks SET window_at = now() - interval '50 minutes'")
        for message in (_message(secret, alert_id="soon"), _message(secret, colour="red")):
            late = await client.post(PATH, json=message)
            assert (late.status_code, 590 < int(late.headers["retry-after"]) <= 600) == (429, True)
        await seeded.sql("UPDATE webhooks SET window_at = now() - interval '61 minutes'")
        assert (await client.post(PATH, json=_message(secret, alert_id="later"))).status_code == 202


async def test_beyond_the_quota_only_what_reduces_a_position_is_taken(gateway: Running, seeded: Database) -> None:
    secret = await _made(gateway, quota_per_hour=1)
    (account,) = await seeded.sql("SELECT id, venue FROM accounts ORDER BY id LIMIT 1")
    await seeded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity)"
        " VALUES ($1, $2, 'BTCUSDT', 'webhook:tv', 0.1)",
        account["id"],
        account["venue"],
    )
    async with gateway.client(None) as client:
        assert (await client.post(PATH, json=_message(secret))).status_code == 202
        again = await client.post(PATH, json=_message(secret, alert_id="in"))
        assert (again.status_code, again.json()["code"]) == (429, "WEBHOOK_QUOTA")
        leaving = _message(secret, action="sell")
        await seeded.sql("UPDATE positions SET quantity = 0.05")
        beyond = await client.post(PATH, json=leaving)
        assert (beyond.status_code, beyond.json()["code"]) == (429, "WEBHOOK_QUOTA")
        await seeded.sql("UPDATE positions SET quantity = 0.1")
        assert (await client.post(PATH, json=leaving)).status_code == 202
        closing = await client.post(PATH, json=_message(secret, action="close"))
        assert closing.status_code == 202
        await seeded.sql("DELETE FROM positions")
        assert (await client.post(PATH, json=_message(secret, action="flat"))).status_code == 429
    rows = await seeded.sql("SELECT instance, kind, side, size, is_reduce_only FROM signals ORDER BY seq")
    assert [tuple(row) for row in rows] == [
        ("webhook:tv", "order", "buy", Decimal("0.1"), False),
        ("webhook:tv", "order", "sell", Decimal("0.1"), True),
        ("webhook:tv", "exit", "sell", None, False),
    ]


async def test_failed_messages_use_up_the_quota(gateway: Running, seeded: Database) -> None:
    secret = await _made(gateway, sizing="risk", size="100", quota_per_hour=3)
    wrong: tuple[dict[str, Any], ...] = ({"timestamp": 1, "timenow": ...}, {"colour": "red"}, {"stop_loss": "1"})
    codes = [(await _send(gateway, _message(secret, **change))).json()["code"] for change in (*wrong, *wrong)]
    assert codes == ["WEBHOOK_TIME", "FIELD_UNKNOWN", "SIZE_WRONG", *["WEBHOOK_QUOTA"] * 3]
    (row,) = await seeded.sql("SELECT used FROM webhooks")
    assert row["used"] == 3
    assert (await _send(gateway, _message(secret[:-1]))).status_code == 401, (
        "only who has the secret is told of the quota"
    )


async def test_only_tradingviews_addresses_where_the_row_says_so(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    http = {**WAIT, "behind_proxy": True}
    async with running(seeded, database_url, redis_url, tmp_path, http=http) as gateway:
        secret = await _made(gateway, tradingview_only=True)
        for address, status in (("203.0.113.9", 403), ("52.89.214.238", 202)):
            headers = {"X-Forwarded-For": f"52.89.214.238, {address}"}
            assert (await _send(gateway, _message(secret), **headers)).status_code == status


async def test_a_size_by_the_row_ignores_the_messages(gateway: Running, seeded: Database) -> None:
    await hold_lease(seeded)
    await seeded.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price)"
        " VALUES ('binance', 'BTCUSDT', 'trades', 'LIVE', now(), 50000)"
    )
    secret = await _made(gateway, sizing="notional", size="1000")
    answer = await _send(gateway, _message(secret, quantity=9, price=1))  # a price of 1 would make it 1000 BTC
    assert answer.status_code == 202, answer.text
    for limit, quantity in (("1", 0.02), ("100000", 0.01)):  # a limit far from the market does not make it larger
        message = _message(secret, order_type="limit", action="sell", price=limit)
        assert (await _send(gateway, message)).status_code == 202
        newest = await seeded.sql("SELECT size::float FROM signals ORDER BY seq DESC LIMIT 1")
        assert newest[0]["size"] == quantity
    by_risk = await _made(gateway, name="risky", sizing="risk", size="100")
    assert (await _send(gateway, _message(by_risk))).json()["code"] == "SIZE_WRONG"
    assert (await _send(gateway, _message(by_risk, stop_loss="49000"))).status_code == 202
    sizes = [row["size"] for row in await seeded.sql("SELECT size::float FROM signals ORDER BY seq")]
    assert sizes == [0.02, 0.02, 0.01, 0.1]


async def test_a_limit_in_a_message_makes_a_size_by_risk_no_larger(gateway: Running, seeded: Database) -> None:
    await hold_lease(seeded)
    await seeded.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price)"
        " VALUES ('binance', 'BTCUSDT', 'trades', 'LIVE', now(), 50000)"
    )
    secret = await _made(gateway, sizing="risk", size="100")
    sent: tuple[tuple[dict[str, Any], float], ...] = (
        ({"price": "49001", "stop_loss": "49000"}, 0.1),  # a limit one away from the stop-loss would buy 100 BTC
        ({"price": "51000", "stop_loss": "49000"}, 0.05),  # filled at the limit, it loses 2000 a coin
        ({"action": "sell", "price": "50999", "stop_loss": "51000"}, 0.1),
        ({"order_type": "stop", "stop_price": "49001", "stop_loss": "49000"}, 0.1),
    )
    for change, size in sent:
        answer = await _send(gateway, _message(secret, **{"order_type": "limit", **change}))
        assert answer.status_code == 202, answer.text
        newest = await seeded.sql("SELECT size::float FROM signals ORDER BY seq DESC LIMIT 1")
        assert newest[0]["size"] == size, change
    wrong_sides: tuple[dict[str, Any], ...] = (
        {"price": "60000", "stop_loss": "55000"},
        {"action": "sell", "price": "40000", "stop_loss": "45000"},
        {"price": "48000", "stop_loss": "49000"},
    )
    for change in wrong_sides:
        refused = await _send(gateway, _message(secret, order_type="limit", **change))
        assert (refused.status_code, refused.json()["code"]) == (422, "SIZE_WRONG"), change
    await seeded.sql("UPDATE feeds SET state = 'STALE'")
    refused = await _send(gateway, _message(secret, order_type="limit", price="49500", stop_loss="49000"))
    assert refused.json()["code"] == "SIZE_WRONG", "without a newest price nothing bounds the size"
    assert await _count(seeded) == len(sent)


@pytest.mark.parametrize(("exchange", "symbol"), [("okx", "SOL-USDT"), ("coinbase", "SOL-USD"), ("kraken", "SOL/USD")])
async def test_a_symbol_with_a_separator_is_matched_in_every_spelling(
    gateway: Running, seeded: Database, exchange: str, symbol: str
) -> None:
    await seeded.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ($1, $2, 'SOL', $3, 0.01, 0.00001, 0.00001, 9000, 5)",
        exchange,
        symbol,
        symbol[4:],
    )
    secret = await _made(gateway, symbols=[symbol])
    for spelling in (symbol, symbol.replace("/", "").replace("-", ""), f"{exchange.upper()}:{symbol.lower()}"):
        answer = await _send(gateway, _message(secret, symbol=spelling))
        assert answer.status_code == 202, answer.text
    other = await _send(gateway, _message(secret, symbol="BTCUSDT"))
    assert other.json()["code"] == "WEBHOOK_SYMBOL"
    found = await seeded.sql("SELECT DISTINCT exchange, symbol FROM signals")
    assert [tuple(row.values()) for row in found] == [(exchange, symbol)]
    async with gateway.client() as admin:
        assert (await admin.post("/webhooks/tv/test", json={})).status_code == 200, "the sample is a good message"


async def test_two_spellings_of_one_symbol_are_refused(gateway: Running, seeded: Database) -> None:
    async with gateway.client() as admin:
        answer = await admin.post("/webhooks", json={**HOOK, "symbols": ["BTC/USDT", "btc-usdt"]})
    assert (answer.status_code, answer.json()["code"]) == (422, "WEBHOOK_WRONG")
    assert not await seeded.sql("SELECT id FROM webhooks")


@pytest.mark.parametrize("name", ["secret", "passphrase"])
async def test_a_secret_in_a_rehearsed_message_is_not_in_the_audit(
    gateway: Running, seeded: Database, name: str
) -> None:
    secret = await _made(gateway)
    message = _message("", **{"secret": ..., name: secret})
    async with gateway.client() as admin:
        assert (await admin.post("/webhooks/tv/test", json=message)).status_code == 200
    rows = await seeded.sql("SELECT * FROM audit_log WHERE action = 'POST /webhooks/{name}/test' ORDER BY id")
    assert [row["phase"] for row in rows] == ["requested", "answered"]
    assert secret not in str([dict(row) for row in rows])
    assert "BTCUSDT" not in str([dict(row) for row in rows]), "the message is left out"


async def test_an_address_past_its_limit_is_refused_before_its_message_is_read(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"http": {**WAIT, "behind_proxy": True}, "auth": {"anonymous_per_hour": 4}}
    async with (
        running(seeded, database_url, redis_url, tmp_path, **settings) as gateway,
        gateway.client(None) as client,
    ):
        secret = await _made(gateway)
        senders = ({"X-Forwarded-For": "203.0.113.9"}, {"X-Forwarded-For": "52.89.214.238"})
        for sender in senders:
            wrong = (b"x" * 300_000, b"{", b"[]", b"{}", b"{}")
            found = [await client.post(PATH, content=raw, headers=sender) for raw in wrong]
            assert [answer.status_code for answer in found] == [413, 400, 422, 401, 429], "whatever is wrong counts"
        afar, tradingview = senders
        unread = await client.post(PATH, content=b"x" * 300_000, headers=afar)
        assert (unread.status_code, unread.json()["code"]) == (429, "RATE_LIMITED"), "413 if it had been read"
        assert 0 < int(unread.headers["Retry-After"]) <= 60
        good = await client.post(PATH, json=_message(secret), headers=tradingview)
        assert good.status_code == 202, "another user of TradingView must not stop these alerts"
        other = await client.post(PATH, json=_message(secret), headers={"X-Forwarded-For": "203.0.113.10"})
        assert other.status_code == 202


async def test_the_commands_add_test_rotate_list_and_remove(gateway: Running, fks: Fks, seeded: Database) -> None:
    code, out, error = await fks(
        "webhooks", "add", "tv", "--account", "demo", "--symbol", "BTC/USDT", "--size", "0.5", "--json"
    )
    assert code == 0, error
    made = json.loads(out)
    assert made["message"]["timenow"] == "{{timenow}}"
    assert made["message"]["secret"] == made["secret"]
    assert (await _send(gateway, {**made["message"], "timenow": _now()})).status_code == 202
    code, out, _ = await fks("webhooks", "test", "tv", "--json")
    assert code == 0
    assert json.loads(out)["signal"]["size"] == "0.5"
    code, _, error = await fks("webhooks", "test", "tv", "--message", '{"symbol": "ETHUSDT", "action": "buy"}')
    assert code != 0
    assert "timenow" in error
    assert await _count(seeded) == 1, "a test sends nothing"
    code, out, _ = await fks("webhooks", "rotate", "tv", "--json")
    new = json.loads(out)["secret"]
    assert (await _send(gateway, _message(made["secret"]))).status_code == 401
    assert (await _send(gateway, _message(new))).status_code == 202
    code, out, _ = await fks("webhooks", "list")
    assert (code, "2/60" in out, new in out) == (0, True, False)
    assert (await fks("webhooks", "add", "tv", "--account", "demo", "--symbol", "BTCUSDT", "--size", "1"))[0] != 0
    assert (await fks("webhooks", "remove", "tv"))[0] == 0
    assert (await _send(gateway, _message(new))).status_code == 401


async def test_a_webhook_that_cannot_be_made_is_refused(gateway: Running, seeded: Database) -> None:
    async with gateway.client() as admin:
        for change, status in (
            ({"name": "a b"}, 422), ({"symbols": []}, 422), ({"symbols": ["NOPE"]}, 404), ({"account": "no"}, 404),
            ({"sizing": "all"}, 422), ({"size": 0}, 422), ({"quota_per_hour": 0}, 422), ({"limit": 1}, 422),
        ):  # fmt: skip
            assert (await admin.post("/webhooks", json={**HOOK, **change})).status_code == status, change
    assert not await seeded.sql("SELECT id FROM webhooks")


async def test_a_webhook_is_changed_over_http_and_the_next_message_meets_it(
    gateway: Running, seeded: Database, fks: Fks
) -> None:
    secret = await _made(gateway)
    async with gateway.client() as admin:
        for body, code in (
            ({}, "WEBHOOK_WRONG"),
            ({"sizing": "notional"}, "WEBHOOK_WRONG"),
            ({"symbols": ["BTC/USDT", "BTC-USDT"]}, "WEBHOOK_WRONG"),
            ({"account": "sim"}, "INVALID"),
            ({"secret": "x"}, "INVALID"),
            ({"quota_per_hour": 0}, "INVALID"),
        ):
            answer = await admin.post("/webhooks/tv", json=body)
            assert (answer.status_code, answer.json()["code"]) == (422, code), body
        assert (await admin.post("/webhooks/other", json={"quota_per_hour": 5})).status_code == 404
        changed = await admin.post("/webhooks/tv", json={"symbols": ["ETH/USDT"], "quota_per_hour": 5})
        assert changed.status_code == 200, changed.text
        found = changed.json()
        assert (found["symbols"], found["quota_per_hour"], found["sizing"], found["size"]) == (
            ["ETHUSDT"],
            5,
            "payload",
            "0.5",
        )
        assert "secret" not in found
        audited = (await admin.get("/audit", params={"action": "POST /webhooks/{name}"})).json()["items"]
        assert audited[0]["detail"] == {"symbols": ["ETH/USDT"], "quota_per_hour": 5}
    assert (await _send(gateway, _message(secret))).status_code == 422
    assert (await _send(gateway, _message(secret, symbol="ETHUSDT"))).status_code == 202, "the secret stays"
    code, out, err = await fks(
        "webhooks", "edit", "tv", "--sizing", "notional", "--size", "50", "--tradingview-only", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["is_tradingview_only"] is True
    assert (await _send(gateway, _message(secret, symbol="ETHUSDT"))).status_code in (401, 403)
    assert (await fks("webhooks", "edit", "nobody", "--quota", "5"))[0] == 2
