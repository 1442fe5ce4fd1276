"""Reports of recorded equity, executions and denials: over HTTP, by the command, and as a notice of a schedule."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fks.alerts.routing import Alert
from fks.alerts.texts import compose
from fks.cli.base import DENIED, OK
from fks.clock import FakeClock
from fks.config.settings import Settings
from fks.jobs.actions import ACTIONS, checked_params
from fks.model.timeframe import to_datetime, to_ns
from fks.store.db import Database
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running

DAY = "2026-03-02"
NIGHT_NS = to_ns(datetime(2026, 3, 3, 0, 5, tzinfo=UTC))


@pytest.fixture
async def traded(seeded: Database) -> Database:
    """Two accounts over three days. The second day: a deposit, a trade with a third asset's fee, and a denial."""
    for time, account, cause, equity in (
        ("2026-03-01T20:00Z", 1, "snapshot", "1000"),
        ("2026-03-02T06:00Z", 1, "deposit", "1500"),
        ("2026-03-02T12:00Z", 1, "fill", "1490"),
        ("2026-03-03T01:00Z", 1, "fill", "9000"),
        ("2026-03-02T10:00Z", 2, "snapshot", "50"),
        ("2026-03-02T11:00Z", 2, "snapshot", "45"),
    ):
        await seeded.sql(
            "INSERT INTO balance_history (account_id, time, cause, equity, balance, currency) VALUES"
            " ($1, $2::text::timestamptz, $3, $4::text::numeric, 0, 'USDT')",
            account,
            time,
            cause,
            equity,
        )
    for time, account, side, realized, fee, currency in (
        ("2026-03-01T23:59Z", 1, "BUY", "0", "9", "USDT"),
        ("2026-03-02T12:00Z", 1, "SELL", "-8", "2", "USDT"),
        ("2026-03-02T13:00Z", 1, "SELL", "3", "0.01", "BNB"),
        ("2026-03-02T14:00Z", 2, "BUY", "0", "1", "USDT"),
    ):
        await seeded.sql(
            "INSERT INTO trades (fill_id, account_id, venue, symbol, instance, trade_type, quantity, price, fee,"
            " fee_currency, realized_pnl, source, venue_trade_id, time) VALUES ($1::text::uuid, $2, 'paper', 'BTCUSDT',"
            " 'trend', $3, 1, 100, $4::text::numeric, $5, $6::text::numeric, 'stream', $1, $7::text::timestamptz)",
            str(uuid.uuid4()),
            account,
            side,
            fee,
            currency,
            realized,
            time,
        )
    await seeded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, realized_pnl, fees)"
        " VALUES (1,'paper','BTCUSDT','trend',0.5,40000,120,5)"
    )
    await seeded.sql(
        "INSERT INTO alerts (time, severity, event, message, component) VALUES"
        " ('2026-03-02T10:00Z', 'page', 'x', 'm', 'c'), ('2026-03-03T10:00Z', 'page', 'x', 'm', 'c'),"
        " ('2026-03-02T00:05Z', 'info', 'report', 'm', 'c')"
    )
    await seeded.sql(
        "INSERT INTO signals (id, source, account_id, venue, symbol, ts_event, kind, side, state, code, created_at)"
        " SELECT gen_random_uuid(), 's', account, 'paper', 'BTCUSDT', now(), 'enter', 'buy', state, code, time FROM"
        " (VALUES (1, 'denied', 'FEED_STALE', timestamptz '2026-03-02T10:00Z'), (1, 'denied', 'FEED_STALE',"
        " '2026-03-02T11:00Z'), (2, 'denied', 'BALANCE', '2026-03-02T11:00Z'), (1, 'ordered', NULL,"
        " '2026-03-02T11:00Z'), (1, 'denied', 'KILLED', '2026-03-09T00:00Z')) AS s(account, state, code, time)"
    )
    return seeded


async def got(gateway: Running, path: str, **query: str) -> dict[str, Any]:
    async with gateway.client("read") as client:
        answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_day_has_its_equity_executions_and_alerts(gateway: Running, traded: Database) -> None:
    body = await got(gateway, "/reports/daily", day=DAY)
    assert (body["start"], body["end"], body["is_over"]) == ("2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z", True)
    demo, sim = body["accounts"]
    figures = ("account", "equity_start", "equity_end", "transfers", "profit")
    assert [demo[name] for name in figures] == ["demo", "1000", "1490", "500", "-10"]
    assert [sim[name] for name in figures] == ["sim", "50", "45", "0", "-5"]
    assert [point["equity"] for point in demo["curve"]] == ["1500", "1490"]
    first, second = body["trades"]
    assert {name: first[name] for name in first if name not in ("account", "instance", "symbol")} == {
        "executions": 2,
        "won": 1,
        "lost": 1,
        "realized": "-5",
        "best": "3",
        "worst": "-8",
        "fees": "2",
        "fees_unvalued": 1,
    }
    assert (second["account"], second["won"], second["lost"], second["best"]) == ("sim", 0, 0, None)
    assert body["alerts"] == [{"severity": "page", "count": 1, "open": 1}], "a report is not counted"
    assert body["denials"] == [{"code": "FEED_STALE", "count": 2}, {"code": "BALANCE", "count": 1}]
    assert [(row["symbol"], row["quantity"]) for row in body["holdings"]] == [("BTCUSDT", "0.5")]


async def test_equity_of_the_day_counts_no_transfer_as_profit(gateway: Running, seeded: Database) -> None:
    """Also if the deposit is the first record after days without one."""
    await seeded.sql(
        "INSERT INTO balance_history (account_id, time, cause, equity, balance, currency) SELECT 1, time, cause, equity, 0,"
        " 'USDT' FROM (VALUES (now() - interval '5 days', 'snapshot', 1000), (date_trunc('day', now(), 'UTC'), 'deposit',"
        " 1500), (now(), 'fill', 1490)) AS h(time, cause, equity)"
    )
    (row,) = (await got(gateway, "/equity"))["items"]
    assert (row["equity"], row["transfers_today"], row["pnl_today"]) == ("1490", "500", "-10")


async def test_a_week_and_one_account(gateway: Running, traded: Database) -> None:
    body = await got(gateway, "/reports/weekly", day=DAY, account="demo")
    assert (body["start"], body["end"]) == ("2026-03-02T00:00:00Z", "2026-03-09T00:00:00Z")
    assert [(row["account"], row["equity_end"], row["profit"]) for row in body["accounts"]] == [
        ("demo", "9000", "7500")
    ]
    assert {row["account"] for row in body["trades"]} == {"demo"}
    assert body["alerts"] == [], "they belong to no account"
    assert body["denials"] == [{"code": "FEED_STALE", "count": 2}]


async def test_a_deposit_after_days_without_records_is_no_profit(gateway: Running, traded: Database) -> None:
    """The system was off for a week, and the deposit is the first record after it."""
    for time, cause, equity in (("2026-03-10T20:00Z", "deposit", "9500"), ("2026-03-10T21:00Z", "fill", "9510")):
        await traded.sql(
            "INSERT INTO balance_history (account_id, time, cause, equity, balance, currency) VALUES"
            " (1, $1::text::timestamptz, $2, $3::text::numeric, 0, 'USDT')",
            time,
            cause,
            equity,
        )
    body = await got(gateway, "/reports/daily", day="2026-03-10", account="demo")
    [demo] = body["accounts"]
    assert (demo["equity_start"], demo["equity_end"], demo["transfers"], demo["profit"]) == (
        "9000",
        "9510",
        "500",
        "10",
    )


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/reports/yearly", 422, "INVALID"),
        ("/reports/daily?day=2999-01-01", 422, "INVALID"),
        ("/reports/daily?day=tomorrow", 422, "INVALID"),
        ("/reports/daily?account=nobody", 404, "ACCOUNT_UNKNOWN"),
    ],
)
async def test_wrong_input_is_refused_with_a_code(gateway: Running, path: str, status: int, code: str) -> None:
    async with gateway.client("read") as client:
        answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_command_prints_it_and_writes_a_page(fks: Fks, traded: Database, tmp_path: Path) -> None:
    file = tmp_path / "day.html"
    code, out, err = await fks("report", "daily", "--day", DAY, "--html", str(file))
    assert code == OK, err
    assert "demo (paper): 1,490.00 USDT, profit -10.00 (-1.00 %), transfers +500.00" in out
    assert "Daily report, 2026-03-02" in file.read_text()
    code, out, _ = await fks("report", "monthly", "--day", DAY, "--json")
    assert (code, json.loads(out)["schema"], json.loads(out)["period"]) == (OK, "fks.report/1", "monthly")
    code, _, err = await fks("report", "--account", "nobody")
    assert code == DENIED
    assert "nobody" in err


async def test_a_schedule_reports_each_period_once(traded: Database) -> None:
    component: Any = SimpleNamespace(db=traded, clock=FakeClock(NIGHT_NS), settings=Settings())
    params = checked_params("report", {"period": "daily"})
    for expected in ("Daily report, 2026-03-02", "Daily report, 2026-03-02: was reported before"):
        assert await ACTIONS["report"][1](component, params, uuid.uuid4()) == expected
    (row,) = await traded.sql("SELECT * FROM alerts WHERE event = 'report' AND message <> 'm'")
    assert (row["severity"], row["rule"], row["resolved_at"] is not None) == ("info", "report", True)
    alert = Alert(row["id"], row["time"], "info", "report", row["component"], row["message"], rule="report")
    text = compose([alert], "raised", to_datetime(component.clock.now_ns()))
    assert text.title == "Daily report, 2026-03-02"
    assert "profit -10.00" in text.body
    assert len(text.body) < 2000
