"""Lots and disposals of recorded executions, transfers and holdings, over HTTP and as a file of the command."""

from __future__ import annotations

import csv
import io
import json
import uuid
from decimal import Decimal
from typing import Any

import httpx
import pytest

from fks.interfaces.cli.base import OK, USAGE
from fks.interfaces.cli.lots import COLUMNS
from fks.store.db import Database
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running
from tests.support.users import bearer

DEMO, SIM = 1, 2


async def fill(
    db: Database,
    time: str,
    side: str,
    quantity: str,
    price: str,
    *,
    fee: str = "0",
    fee_currency: str = "USDT",
    account: int = DEMO,
    venue: str = "paper",
    symbol: str = "BTCUSDT",
    source: str = "stream",
    number: str = "",
) -> str:
    id = str(uuid.uuid4())
    await db.sql(
        "INSERT INTO trades (fill_id, account_id, venue, symbol, trade_type, quantity, price, fee, fee_currency, source,"
        " venue_trade_id, time) VALUES ($1::text::uuid, $2, $3, $4, $5, $6::text::numeric, $7::text::numeric,"
        " $8::text::numeric, $9, $10, $11, $12::text::timestamptz)",
        id, account, venue, symbol, side, quantity, price, fee, fee_currency, source, number, time,
    )  # fmt: skip
    return id


async def transfer(
    db: Database, time: str, kind: str, asset: str, amount: str, *, account: int, fee: str = "0", listed: str = "now"
) -> None:
    await db.sql(
        "INSERT INTO transfers (account_id, kind, reference, asset, amount, fee, time, created_at) VALUES ($1, $2, $3, $4,"
        " $5::text::numeric, $6::text::numeric, $7::text::timestamptz, $8::text::timestamptz)",
        account, kind, uuid.uuid4().hex, asset, amount, fee, time, listed,
    )  # fmt: skip


async def got(gateway: Running, path: str, **query: object) -> dict[str, Any]:
    async with gateway.client("read") as client:
        answer = await client.get(path, params={name: str(value) for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def brief(answer: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    """Return rows oldest first, by some of their members."""
    return [tuple(item[name] for name in names) for item in reversed(answer["items"])]


async def test_fills_become_lots_and_disposals(gateway: Running, seeded: Database) -> None:
    first = await fill(seeded, "2025-12-30T10:00Z", "BUY", "2", "100", fee="4")
    await fill(seeded, "2025-12-31T10:00Z", "BUY", "1", "130")
    sold = await fill(seeded, "2026-01-01T00:00Z", "SELL", "1", "150", fee="0.1", fee_currency="BTC")
    answer = await got(gateway, "/lots/disposals")
    # cost (200 + 4) / 2 = 102; the fee of 0.1 BTC is worth 15: proceeds 135, and it uses up 0.1 of the lot: 10.2
    assert brief(answer, "pool", "kind", "quantity", "proceeds", "cost", "gain", "lot_id", "disposal_id") == [
        ("paper", "sale", "1", "135", "102", "33", first, sold),
        ("paper", "fee", "0.1", "15", "10.2", "4.8", first, sold),
    ]
    assert (answer["method"], answer["currency"], answer["unknown_symbols"]) == ("fifo", "USDT", [])
    assert "no tax advice" in answer["notice"]
    assert answer["items"][0]["acquired_at"] == "2025-12-30T10:00:00Z"
    lots = await got(gateway, "/lots")
    assert brief(lots, "asset", "quantity", "cost", "note") == [("BTC", "0.9", "91.8", ""), ("BTC", "1", "130", "")]
    pool = await got(gateway, "/lots", method="average")
    # 3 BTC for 334; 1.1 go: 334 / 3 = 111.33333333, then 0.1 of the rest, 222.66666667 x 0.1 / 2 = 11.13333333
    assert brief(pool, "asset", "kind", "quantity", "cost", "acquired_at") == [
        ("BTC", "pool", "1.9", "211.53333334", None)
    ]
    assert [len((await got(gateway, "/lots/disposals", year=year))["items"]) for year in (2025, 2026)] == [0, 2]


async def test_pages_are_newest_first_and_complete(gateway: Running, seeded: Database) -> None:
    await fill(seeded, "2026-01-01T00:00Z", "BUY", "9", "100")
    for minute in range(5):
        await fill(seeded, f"2026-01-02T00:0{minute}Z", "SELL", "1", "150")
    found, before = [], None
    while True:
        query = {"limit": 2} | ({} if before is None else {"before": before})
        answer = await got(gateway, "/lots/disposals", **query)
        found += [item["seq"] for item in answer["items"]]
        if (before := answer["next"]) is None:
            break
    assert found == [5, 4, 3, 2, 1]


async def test_transfer_keeps_its_cost_and_paper_money_its_own_pool(gateway: Running, seeded: Database) -> None:
    """Accounts a and b are live; the pool of the paper account is another one."""
    for name in ("a", "b"):
        await seeded.sql("INSERT INTO accounts (name, venue, mode) VALUES ($1, 'ccxt', 'live')", name)
    a, b = [row["id"] for row in await seeded.sql("SELECT id FROM accounts WHERE mode = 'live' ORDER BY id")]
    await fill(seeded, "2026-01-01T00:00Z", "BUY", "1", "999")
    await fill(seeded, "2026-01-01T00:00Z", "BUY", "2", "100", account=a, venue="ccxt")
    await transfer(seeded, "2026-01-02T00:00Z", "withdrawal", "BTC", "1", account=a, fee="0.5")
    await transfer(seeded, "2026-01-02T01:00Z", "deposit", "BTC", "1", account=b)
    await fill(seeded, "2026-01-03T00:00Z", "SELL", "1", "150", account=b, venue="ccxt")
    one = await got(gateway, "/lots/disposals", account="b")
    assert brief(one, "pool", "kind", "proceeds", "cost", "gain") == [("b", "sale", "150", "100", "50")]
    # no stored bars give a rate for the fee of the network: its value is not known, its cost is
    every = await got(gateway, "/lots/disposals")
    assert brief(every, "pool", "kind", "quantity", "proceeds", "cost", "note") == [
        ("live", "fee", "0.5", None, "50", "no rate"),
        ("live", "sale", "1", "150", "100", ""),
    ]
    lots = await got(gateway, "/lots")
    assert brief(lots, "pool", "quantity", "cost") == [("live", "0.5", "50"), ("paper", "1", "999")]


async def test_holdings_before_fks_and_adopted_differences_have_no_cost(gateway: Running, seeded: Database) -> None:
    """An opening of 3 BTC contains the deposit that was listed before it; 1 more was adopted, 0.5 were explained away."""
    await transfer(seeded, "2025-05-01T00:00Z", "deposit", "BTC", "3", account=SIM, listed="2025-06-01T00:00Z")
    await seeded.sql(
        "INSERT INTO account_assets (account_id, asset, opening, opened_at)"
        " VALUES ($1, 'BTC', 3, '2025-06-02'), ($1, 'USDT', 500, '2025-06-02')",
        SIM,
    )
    await transfer(seeded, "2025-07-01T00:00Z", "deposit", "ETH", "2", account=SIM)
    for difference, resolution, by, day in (
        ("1", "adopted: mine", "ann", "2025-08-01"),
        ("-0.5", "explained: lost", "ann", "2025-08-02"),
        ("7", "booked: a trade", "ann", "2025-08-03"),
        ("9", "the difference is gone", "", "2025-08-04"),
    ):
        await seeded.sql(
            "INSERT INTO incidents (account_id, kind, subject, payload, closed_by, closed_at, resolution) VALUES"
            " ($1, 'drift', 'BTC', jsonb_build_object('difference', $2::text), $3, $4::text::timestamptz, $5)",
            SIM, difference, by, day, resolution,
        )  # fmt: skip
    await fill(seeded, "2025-09-01T00:00Z", "SELL", "1", "100", account=SIM, venue="ccxt")
    lots = await got(gateway, "/lots", account="sim")
    assert brief(lots, "asset", "kind", "quantity", "cost", "note") == [
        ("BTC", "opening", "1.5", None, "cost unknown"),
        ("BTC", "adopted", "1", None, "cost unknown"),
        ("ETH", "deposit", "2", None, "cost unknown"),
    ]
    gone = await got(gateway, "/lots/disposals", account="sim")
    assert brief(gone, "kind", "quantity", "proceeds", "cost", "note") == [
        ("adopted", "0.5", None, None, "no sale"),
        ("sale", "1", "100", None, "cost unknown"),
    ]


async def test_amounts_convert_at_the_rate_of_their_own_time(gateway: Running, seeded: Database) -> None:
    """In EUR by way of EUR/USDT bars: 1.25 when the BTC is bought, 1.00 when it is sold, none for the sale of ETH."""
    await seeded.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ('binance','EURUSDT','EUR','USDT',0.0001,0.1,0.1,900000,5)"
    )
    for hour, close in (("2026-01-01T09:00Z", 1.25), ("2026-02-01T09:00Z", 1.0)):
        await seeded.sql(
            "INSERT INTO ohlcv_data (exchange, symbol, timeframe, time, open, high, low, close, volume)"
            " VALUES ('binance', 'EURUSDT', '1h', $1::text::timestamptz, $2, $2, $2, $2, 1)",
            hour,
            close,
        )
    await fill(seeded, "2026-01-01T10:30Z", "BUY", "1", "100", fee="5", fee_currency="USDT")
    await fill(seeded, "2026-02-01T10:00Z", "SELL", "1", "150")
    await fill(seeded, "2026-02-01T11:01Z", "BUY", "1", "10", symbol="ETHUSDT")
    answer = await got(gateway, "/lots/disposals", account="demo", currency="EUR")
    # bought: 100 / 1.25 = 80, its fee 4; sold: 150. USDT are an asset then: 100,000 of the account's begin without a cost
    assert brief(answer, "asset", "kind", "quantity", "proceeds", "cost", "gain", "note") == [
        ("USDT", "sale", "100", "80", None, None, "cost unknown"),
        ("USDT", "fee", "5", "4", None, None, "cost unknown"),
        ("BTC", "sale", "1", "150", "84", "66", ""),
        ("USDT", "sale", "10", None, None, None, "cost unknown"),
    ]
    lots = await got(gateway, "/lots", account="demo", currency="EUR")
    assert brief(lots, "asset", "quantity", "cost", "note") == [
        ("ETH", "1", None, "no rate"),
        ("USDT", "99885", None, "cost unknown"),
        ("USDT", "150", "150", ""),
    ]


async def test_busts_contracts_and_unknown_symbols(gateway: Running, seeded: Database) -> None:
    bought = await fill(seeded, "2026-01-01T00:00Z", "BUY", "3", "100", fee="3")
    await fill(seeded, "2026-01-02T00:00Z", "SELL", "1", "100", fee="-1", source="bust", number=f"bust:{bought}:x")
    await fill(seeded, "2026-01-03T00:00Z", "BUY", "1", "5", symbol="XYZ")
    for day, side, price in (("04", "SELL", "5000"), ("05", "BUY", "4990")):
        await fill(seeded, f"2026-01-{day}T00:00Z", side, "2", price, symbol="ES 03-26", fee_currency="USD")
    lots = await got(gateway, "/lots")
    # of the profit in USD no stored bars give a value in USDT
    assert brief(lots, "asset", "quantity", "cost") == [("BTC", "2", "202"), ("USD", "1000", None)]
    assert lots["unknown_symbols"] == ["XYZ"]
    result = (await got(gateway, "/lots/disposals", currency="USD"))["items"][0]
    # 2 contracts of 50 USD a point, 10 points
    assert (result["asset"], result["kind"], result["gain"], result["proceeds"]) == (
        ("ES 03-26", "contract", "1000", None)
    )


async def test_refusals_name_what_to_do(gateway: Running, seeded: Database) -> None:
    await seeded.sql("UPDATE accounts SET currency = 'EUR' WHERE name = 'sim'")
    async with gateway.client("read") as client:
        answers = [
            await client.get(path)
            for path in (
                "/lots",
                "/lots?account=nobody",
                "/lots?method=lifo",
                "/lots/disposals?year=12",
                "/lots?limit=0",
            )
        ]
        assert (await client.get("/lots?account=sim")).json()["currency"] == "EUR"
        assert (await client.get("/lots?currency=USD")).status_code == 200
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (422, "INVALID"),
        (404, "ACCOUNT_UNKNOWN"),
        (422, "INVALID"),
        (422, "INVALID"),
        (422, "INVALID"),
    ]
    assert all(answer.json()["remedy"] for answer in answers[:2])
    assert "EUR, USDT" in answers[0].json()["detail"]


async def test_bound_caller_pools_its_own_accounts_only(gateway: Running, seeded: Database) -> None:
    await fill(seeded, "2026-01-01T00:00Z", "BUY", "1", "100")
    await fill(seeded, "2026-01-02T00:00Z", "SELL", "1", "150", account=SIM, venue="ccxt")
    async with gateway.client("admin") as admin:
        made = await admin.post("/tokens", json={"name": "bound", "scope": "read", "accounts": ["sim"]})
    async with httpx.AsyncClient(base_url=gateway.url, headers=bearer(made.json()["token"])) as client:
        (item,) = (await client.get("/lots/disposals")).json()["items"]
        assert (item["kind"], item["cost"]) == ("short", None)
        assert (await client.get("/lots?account=demo")).status_code == 404


async def test_a_year_becomes_a_file(fks: Fks, seeded: Database) -> None:
    await fill(seeded, "2025-01-01T00:00Z", "BUY", "2", "100.10")
    await fill(seeded, "2026-03-01T00:00Z", "SELL", "3", "150")
    code, out, err = await fks("lots", "export", "--year", "2026", "--method", "fifo", "--format", "csv")
    assert code == OK, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["kind"], row["quantity"], row["proceeds"], row["cost"], row["gain"]) for row in rows] == [
        ("sale", "2", "300", "200.2", "99.8"),
        ("short", "1", "150", "", ""),
    ]
    assert {(row["currency"], row["method"], row["pool"]) for row in rows} == {("USDT", "fifo", "paper")}
    assert "note: short (more was sold than FKS knows to have been held): rows: 1" in err
    assert "no tax advice" in err
    for argv in (("--format", "json"), ("--json",)):
        code, out, _ = await fks("lots", "export", "--year", "2026", *argv)
        document = json.loads(out)
        assert (code, document["schema"], document["year"]) == (OK, "fks.lots_export/1", 2026)
        assert [Decimal(item["quantity"]) for item in document["items"]] == [2, 1]
        assert "no tax advice" in document["notice"]
    assert (await fks("lots", "export"))[0] == USAGE


async def test_lots_are_listed(fks: Fks, seeded: Database) -> None:
    code, out, err = await fks("lots", "list")
    assert (code, "nothing is held" in out) == (OK, True)
    await fill(seeded, "2025-01-01T00:00Z", "BUY", "2", "100")
    code, out, err = await fks("lots", "list", "--method", "average", "--account", "demo")
    assert (code, "COST USDT" in out, "200.00" in out) == (OK, True, True), err
    code, out, _ = await fks("lots", "list", "--json")
    assert (json.loads(out)["schema"], len(json.loads(out)["items"])) == ("fks.lots/1", 1)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_order_of_booking_changes_no_row(gateway: Running, seeded: Database, order: tuple[int, ...]) -> None:
    rows = (
        ("2026-01-01T00:00Z", "BUY", "1", "7"),
        ("2026-01-01T00:00Z", "BUY", "2", "8"),
        ("2026-01-02T00:00Z", "SELL", "5", "2"),
    )
    for number in order:
        time, side, price, venue_number = rows[number]
        await fill(seeded, time, side, "1", price, number=venue_number)
    answer = await got(gateway, "/lots/disposals")
    assert brief(answer, "cost", "proceeds") == [("1", "5")], "of one moment the venue's trade number decides"
