"""The journal of closed trades: written from executions and bars, searched, noted and exported."""

from __future__ import annotations

import csv
import io
import json
import random
import uuid
from datetime import UTC, datetime
from typing import Any

import httpx

from fks.config.settings import Settings
from fks.interfaces.cli.base import OK
from fks.model.timeframe import to_ns
from fks.research.jobs.schedule import write_journal
from fks.store.db import Database
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running
from tests.support.portfolios import call

NOW_NS = to_ns(datetime(2026, 3, 3, tzinfo=UTC))


async def _fill(
    db: Database,
    time: str,
    side: str,
    quantity: str,
    price: str,
    *,
    realized: str = "0",
    fee: str = "0",
    fee_currency: str = "USDT",
    instance: str = "trend",
    account: int = 1,
    number: str = "",
    source: str = "stream",
    role: str | None = None,
    decided: str | None = None,
    reason: str = "",
) -> uuid.UUID:
    """Book an execution; with a `role` of an order and a signal of its own."""
    id, order = uuid.uuid4(), None
    if role is not None:
        order, signal = uuid.uuid4().hex, uuid.uuid4()
        await db.sql(
            "INSERT INTO signals (id, source, instance, account_id, venue, symbol, ts_event, kind, side, state, reason,"
            " reference_price) VALUES ($1, 'strategy:x', $2, $3, 'paper', 'BTCUSDT', now(), 'enter', 'buy', 'ordered',"
            " $4, $5::text::numeric)",
            *(signal, instance, account, reason, decided),
        )
        await db.sql(
            "INSERT INTO orders (client_order_id, intent_id, signal_id, account_id, venue, symbol, instance, role, side,"
            " type, quantity, state) VALUES ($1, $2, $3, $4, 'paper', 'BTCUSDT', $5, $6, $7, 'market', 1, 'FILLED')",
            *(order, uuid.uuid4(), signal, account, instance, role, side.lower()),
        )
    await db.sql(
        "INSERT INTO trades (fill_id, client_order_id, account_id, venue, symbol, instance, trade_type, quantity, price,"
        " fee, fee_currency, realized_pnl, source, venue_trade_id, time) VALUES ($1, $2, $3, 'paper', 'BTCUSDT', $4, $5,"
        " $6::text::numeric, $7::text::numeric, $8::text::numeric, $9, $10::text::numeric, $11, $12,"
        " $13::text::timestamptz)",
        *(id, order, account, instance, side, quantity, price, fee, fee_currency, realized, source, number, time),
    )
    return id


async def _bars(db: Database, *bars: tuple[str, float, float]) -> None:
    for time, low, high in bars:
        await db.sql(
            "INSERT INTO ohlcv_data (exchange, symbol, timeframe, time, open, high, low, close, volume, is_complete)"
            " VALUES ('binance', 'BTCUSDT', '1m', $1::text::timestamptz, $2, $3, $2, $3, 1, true)",
            *(time, low, high),
        )


async def _write(db: Database) -> str:
    return await write_journal(db, Settings(), NOW_NS)


async def _rows(db: Database) -> list[dict[str, Any]]:
    return [dict(row) for row in await db.sql("SELECT * FROM journal_entries ORDER BY exit_time, id")]


async def _journal(gateway: Running, **query: str) -> list[dict[str, Any]]:
    async with gateway.client("read") as client:
        answer = await client.get("/journal", params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


async def test_a_closed_trade_has_prices_costs_reasons_and_excursions(gateway: Running, seeded: Database) -> None:
    await _bars(seeded, ("2026-03-02T09:59Z", 1, 999), ("2026-03-02T10:01Z", 90, 130), ("2026-03-02T10:02Z", 95, 120))
    bought = {"role": "entry", "reason": "cross v1", "decided": "99", "fee": "0.2"}
    await _fill(seeded, "2026-03-02T10:00:30Z", "BUY", "2", "100", **bought)
    assert await _write(seeded) == "0 trades of 1 positions written"
    assert await _journal(gateway) == [], "the trade is open"
    await _fill(seeded, "2026-03-02T10:03:30Z", "SELL", "2", "110", role="sl", realized="20", fee="0.3")
    assert await _write(seeded) == "1 trades of 1 positions written"
    (found,) = await _journal(gateway)
    wanted = {
        "account": "demo",
        "currency": "USDT",
        "venue": "paper",
        "symbol": "BTCUSDT",
        "instance": "trend",
        "side": "long",
        "quantity": "2",
        "entry_price": "100",
        "exit_price": "110",
        "executions": 2,
        "entry_time": "2026-03-02T10:00:30Z",
        "exit_time": "2026-03-02T10:03:30Z",
        "hold_s": 180.0,
        "realized": "20",
        "fees": "0.5",
        "profit": "19.5",
        "slippage": "-2",
        "undecided": 1,
        "rate": "1",
        "entry_reason": "signal: cross v1",
        "exit_reason": "stop loss",
        "mae_pct": "10",
        "mfe_pct": "30",
        "bars": 2,
        "is_void": False,
        "tags": [],
        "note": "",
        "version": 1,
    }
    assert {name: found[name] for name in wanted} == wanted
    before = await _rows(seeded)
    assert await _write(seeded) == "0 trades of 0 positions written"
    await seeded.sql("DELETE FROM journal_positions")
    await seeded.sql("DELETE FROM journal_entries")
    await _write(seeded)
    dropped = ("seq", "written_at")
    rebuilt = [{name: row[name] for name in row if name not in dropped} for row in await _rows(seeded)]
    assert rebuilt == [{name: row[name] for name in row if name not in dropped} for row in before]


async def test_a_fee_that_is_valued_later_completes_the_entry(gateway: Running, seeded: Database) -> None:
    await _fill(seeded, "2026-03-02T10:00Z", "BUY", "1", "100", fee="0.01", fee_currency="BNB")
    await _fill(seeded, "2026-03-02T11:00Z", "SELL", "1", "110", realized="10")
    await _write(seeded)
    (row,) = await _journal(gateway)
    assert (row["fees"], row["fees_unvalued"], row["is_complete"]) == ("0", 1, False)
    await seeded.sql("INSERT INTO trade_fees (trade_id, fee_quote, fee_rate) SELECT min(id), 6, 600 FROM trades")
    assert await _write(seeded) == "0 trades of 0 positions written", "it is looked at every ten minutes"
    await seeded.sql("UPDATE journal_entries SET written_at = '2026-03-02T23:00Z'")
    assert await _write(seeded) == "1 trades of 1 positions written"
    (row,) = await _journal(gateway)
    assert (row["fees"], row["profit"], row["is_complete"]) == ("6", "4", True)


async def test_late_executions_and_busts_change_the_trades_and_keep_the_notes(
    gateway: Running, seeded: Database
) -> None:
    await _fill(seeded, "2026-03-02T10:00Z", "BUY", "1", "100")
    await _fill(seeded, "2026-03-02T11:00Z", "SELL", "1", "110", realized="10")
    await _write(seeded)
    (first,) = await _journal(gateway)
    path = f"/journal/{first['id']}"
    answer = await call(gateway, "PATCH", path, {"version": 1, "note": "too early", "tags": ["b", "a"]})
    assert answer.status_code == 200, answer.text
    await _fill(seeded, "2026-03-02T09:00Z", "BUY", "1", "90", number="7")
    await _write(seeded)
    assert await _journal(gateway) == [], "the position is open: one more was bought before"
    kept = (await call(gateway, "GET", path)).json()
    assert (kept["is_void"], kept["note"]) == (True, "too early")
    sold = await _fill(seeded, "2026-03-02T12:00Z", "SELL", "1", "120", realized="25")
    await _write(seeded)
    (whole,) = await _journal(gateway)
    assert (whole["quantity"], whole["realized"], whole["note"], whole["tags"]) == ("2", "35", "too early", ["a", "b"])
    assert (await call(gateway, "GET", path)).status_code == 404, "its notes are those of the whole trade now"
    taken = {"realized": "-25", "source": "bust", "number": f"bust:{sold}"}
    await _fill(seeded, "2026-03-02T13:00Z", "BUY", "1", "120", **taken)
    await _fill(seeded, "2026-03-02T14:00Z", "SELL", "1", "80", realized="-15")
    await _write(seeded)
    (busted,) = await _journal(gateway)
    assert (busted["exit_time"], busted["realized"], busted["executions"]) == ("2026-03-02T14:00:00Z", "-5", 4)
    assert busted["note"] == "too early"


async def test_entries_do_not_depend_on_when_they_are_written(seeded: Database) -> None:
    """Random trades in two positions, written after each execution and all at once, in another order of booking."""
    rand, fills = random.Random(5), list[dict[str, Any]]()
    for instance in ("a", "b"):
        held = 0
        for minute in range(40):
            wanted = -held if minute == 39 or rand.random() < 0.3 else rand.choice([-2, -1, 1, 2, 3])
            if wanted:
                held += wanted
                side = "BUY" if wanted > 0 else "SELL"
                fills.append({
                    "time": f"2026-03-02T10:{minute:02d}Z", "side": side, "quantity": str(abs(wanted)),
                    "price": str(rand.randint(90, 110)), "realized": str(rand.randint(-5, 5)), "fee": "0.1",
                    "instance": instance, "number": str(minute + (100 if instance == "b" else 0)),
                })  # fmt: skip

    def facts(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        names = ("instance", "side", "entry_time", "exit_time", "quantity", "entry_price", "exit_price", "realized")
        return sorted(tuple(row[name] for name in (*names, "fees", "executions")) for row in rows)

    rand.shuffle(fills)
    for fill in fills:
        await _fill(seeded, **fill)
        await _write(seeded)
    at_each = facts(await _rows(seeded))
    assert len(at_each) > 5
    for table in ("journal_entries", "journal_positions", "trades"):
        await seeded.sql(f"DELETE FROM {table}")
    rand.shuffle(fills)
    for fill in fills:
        await _fill(seeded, **fill)
    await _write(seeded)
    assert facts(await _rows(seeded)) == at_each


async def test_search_by_symbol_instance_tag_text_result_and_time(gateway: Running, seeded: Database) -> None:
    for hour, instance, realized in (("10", "trend", "5"), ("12", "", "-4"), ("14", "trend", "0")):
        await _fill(seeded, f"2026-03-02T{hour}:00Z", "BUY", "1", "100", instance=instance)
        await _fill(seeded, f"2026-03-02T{hour}:30Z", "SELL", "1", "100", instance=instance, realized=realized)
    await _write(seeded)
    even, lost, won = await _journal(gateway)
    assert [row["profit"] for row in (even, lost, won)] == ["0", "-4", "5"]
    await call(gateway, "PATCH", f"/journal/{won['id']}", {"version": 1, "note": "Patient 100%", "tags": ["good"]})

    async def ids(**query: str) -> list[str]:
        return [row["id"] for row in await _journal(gateway, **query)]

    for query, wanted in (
        ({"symbol": "BTC/USDT"}, [even, lost, won]),
        ({"symbol": "ETHUSDT"}, []),
        ({"instance": "trend"}, [even, won]),
        ({"instance": ""}, [lost]),
        ({"tag": "good"}, [won]),
        ({"text": "patient 100%"}, [won]),
        ({"result": "won"}, [won]),
        ({"result": "lost"}, [lost]),
        ({"result": "even"}, [even]),
        ({"since": "2026-03-02T12:30:00Z"}, [even, lost]),
        ({"until": "2026-03-02T12:30:00Z"}, [won]),
        ({"account": "sim"}, []),
        ({"before": str(even["seq"])}, [lost, won]),
    ):
        assert await ids(**query) == [row["id"] for row in wanted], query


async def test_notes_change_at_the_version_that_was_read_alone(gateway: Running, seeded: Database) -> None:
    await _fill(seeded, "2026-03-02T10:00Z", "BUY", "1", "100")
    await _fill(seeded, "2026-03-02T11:00Z", "SELL", "1", "110")
    await _write(seeded)
    path = f"/journal/{(await _journal(gateway))[0]['id']}"
    async with gateway.client("trade") as client:
        tag = (await client.get(path)).headers["ETag"]
        changed = await client.patch(path, json={"note": "x"}, headers={"If-Match": tag})
        assert (changed.status_code, changed.headers["ETag"], changed.json()["noted_by"]) == (200, '"2"', "t-trade")
        stale = await client.patch(path, json={"note": "y"}, headers={"If-Match": tag})
        answers: list[tuple[httpx.Response, int, str]] = [
            (stale, 409, "JOURNAL_VERSION"),
            (await client.patch(path, json={"note": "y"}), 422, "JOURNAL_WRONG"),
            (await client.patch(path, json={"version": 2}), 422, "JOURNAL_WRONG"),
            (await client.patch(path, json={"version": 2, "tags": ["NO"]}), 422, "INVALID"),
            (await client.patch(f"/journal/{uuid.uuid4()}", json={"version": 1, "note": ""}), 404, "JOURNAL_UNKNOWN"),
        ]
    assert [(answer.status_code, answer.json()["code"]) for answer, *_ in answers] == [row[1:] for row in answers]
    assert (await call(gateway, "GET", path)).json()["note"] == "x"


async def test_the_command_lists_shows_notes_tags_and_exports(fks: Fks, seeded: Database) -> None:
    await _fill(seeded, "2026-03-02T10:00Z", "BUY", "1", "100")
    await _fill(seeded, "2026-03-02T11:00Z", "SELL", "1", "110", realized="10", fee="1")
    await _write(seeded)
    code, out, _ = await fks("journal", "list")
    assert code == OK
    assert "9.00 USDT" in out
    id = json.loads((await fks("journal", "list", "--json"))[1])["items"][0]["id"]
    code, out, _ = await fks("journal", "tag", id[:8], "good", "calm")
    assert code == OK
    assert "tags: calm good" in out
    code, out, _ = await fks("journal", "note", id[:8], "=1+1")
    assert (code, out.splitlines()[-1]) == (OK, "=1+1")
    code, out, _ = await fks("journal", "show", id)
    assert code == OK
    assert "profit 9.00 USDT: realised 10.00, fees 1.00" in out
    code, out, _ = await fks("journal", "export")
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["profit"], row["tags"], row["note"]) == ("9", "calm good", "'=1+1")
    code, out, _ = await fks("journal", "export", "--result", "lost")
    assert list(csv.DictReader(io.StringIO(out))) == []
