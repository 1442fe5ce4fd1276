"""Reports of recorded equity, executions and denials: over HTTP, by the command, and as a notice of a schedule."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fks.clock import FakeClock
from fks.config.settings import Settings
from fks.interfaces.cli.base import DENIED, OK
from fks.interfaces.entry.reporting import PortfolioReports
from fks.model.timeframe import to_datetime, to_ns
from fks.research.jobs.actions import ACTIONS, checked_params
from fks.research.jobs.schedule import write_journal
from fks.store.db import Database
from fks.system.alerts.routing import Alert
from fks.system.alerts.texts import compose
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running
from tests.support.portfolios import call
from tests.support.ports import CollectingLog

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


# ── reports of portfolios, their rows and their delivery ─────────────────────────────────────────
async def _look(db: Database, at_ns: int) -> int:
    """Have another scheduler look, at a time."""
    return await PortfolioReports(db, FakeClock(at_ns), Settings(), CollectingLog()).look()


async def _portfolio(db: Database, gateway: Running) -> None:
    """A portfolio of `demo` whose day ends at 22:00, with two hours of equity on either side of its end."""
    made = await call(gateway, "POST", "/portfolios", {"name": "main", "base_currency": "USDT", "accounts": ["demo"]})
    assert made.status_code == 201, made.text
    changed = await call(gateway, "PATCH", "/portfolios/main", {"version": 1, "day_end_min": 22 * 60})
    assert changed.json()["day_end_min"] == 22 * 60
    await db.sql("UPDATE portfolios SET created_at = '2026-02-27T00:00Z'")
    for time, equity, flow in (
        ("2026-03-01T22:00Z", "1000", "0"),
        ("2026-03-02T21:00Z", "1530", "500"),
        ("2026-03-02T22:00Z", "9", "0"),
    ):
        await db.sql(
            "INSERT INTO portfolio_equity (portfolio_id, time, equity, cash, net_flow, is_complete) SELECT id,"
            " $1::text::timestamptz, $2::text::numeric, 0, $3::text::numeric, true FROM portfolios",
            *(time, equity, flow),
        )


async def test_reports_of_a_portfolio_are_made_once_when_its_day_ends(
    gateway: Running, fks: Fks, traded: Database, tmp_path: Path
) -> None:
    await _portfolio(traded, gateway)
    await write_journal(traded, Settings(), NIGHT_NS)
    at = to_ns(datetime(2026, 3, 2, 21, 59, tzinfo=UTC))
    assert await _look(traded, at) == 3, "the last day, week and month before"
    assert await _look(traded, at + 60 * 10**9) == 1, "the day ends at 22:00"
    assert await _look(traded, NIGHT_NS) == 0
    newest = (await got(gateway, "/reports", portfolio="main"))["items"]
    assert [(row["period"], row["is_late"]) for row in newest[:1]] == [("daily", False)]
    assert {row["is_late"] for row in newest[1:]} == {True}, "they ended long before"
    stored = await got(gateway, f"/reports/{newest[0]['id']}")
    assert stored["title"] == "Daily report of main, 2026-03-02"
    equity = stored["equity"]
    figures = {"currency": "USDT", "equity_start": "1000", "equity_end": "1530", "transfers": "500", "profit": "30"}
    assert {name: equity[name] for name in figures} == figures
    assert {row["account"] for row in stored["trades"]} == {"demo"}
    assert "main: 1,530.00 USDT, profit +30.00 (+3.00 %), flows +500.00" in stored["text"]
    live = await got(gateway, "/reports/daily", portfolio="main", day=DAY)
    assert live["equity"]["profit"] == "30"
    file = tmp_path / "main.html"
    code, out, err = await fks("report", "show", newest[0]["id"], "--html", str(file))
    assert code == OK, err
    assert "Portfolio main" in file.read_text()
    code, out, _ = await fks("report", "list")
    assert code == OK
    assert "late" in out
    (notices,) = await traded.sql("SELECT count(*) AS count FROM alerts WHERE rule = 'report'")
    assert notices["count"] == 4, "each report has one notice, which channels deliver"


async def test_realised_profit_to_date_is_that_of_the_journal(gateway: Running, seeded: Database) -> None:
    for year, realized in (("2025", "7"), ("2026", "-2")):
        for minute, side in ((0, "BUY"), (1, "SELL")):
            await seeded.sql(
                "INSERT INTO trades (fill_id, account_id, venue, symbol, trade_type, quantity, price, fee, fee_currency,"
                " realized_pnl, time) VALUES (gen_random_uuid(), 1, 'paper', 'BTCUSDT', $1, 1, 100, 0.5, 'USDT',"
                " $2::text::numeric, $3::text::timestamptz)",
                *(side, realized if side == "SELL" else "0", f"{year}-03-02T10:0{minute}Z"),
            )
    await write_journal(seeded, Settings(), NIGHT_NS)
    body = await got(gateway, "/reports/daily", day=DAY)
    (closed,), (realized_row,) = body["closed"], body["realized"]
    assert (closed["count"], closed["won"], closed["lost"], closed["profit"]) == (1, 0, 1, "-3")
    assert (realized_row["profit"], realized_row["year_profit"]) == ("3", "-3")


async def test_a_report_is_sent_once_to_each_channel_and_again_only_if_it_was_given_up(
    gateway: Running, fks: Fks, traded: Database
) -> None:
    component: Any = SimpleNamespace(db=traded, clock=FakeClock(NIGHT_NS), settings=Settings())
    await ACTIONS["report"][1](component, checked_params("report", {"period": "daily"}), uuid.uuid4())
    (row,) = (await got(gateway, "/reports"))["items"]
    assert (row["portfolio"], row["deliveries"]) == (None, [])
    for name in ("team", "boss"):
        channel = {"name": name, "url": f"json://127.0.0.1:9/{name}"}
        assert (await call(gateway, "POST", "/alerts/channels", channel, scope="admin")).status_code < 300
    path = f"/reports/{row['id']}/send"
    answers = await asyncio.gather(*(call(gateway, "POST", path, {"channel": "team"}) for _ in range(4)))
    codes = sorted(answer.json().get("code", "") for answer in answers)
    assert codes == ["", "REPORT_SENT", "REPORT_SENT", "REPORT_SENT"]
    code, out, err = await fks("report", "send", row["id"], "--channel", "boss")
    assert code == OK, err
    assert "boss gets it" in out
    assert len(await traded.sql("SELECT FROM alert_deliveries")) == 2
    await traded.sql("UPDATE alert_deliveries SET state = 'failed', finished_at = now() WHERE channel = 'team'")
    again = await call(gateway, "POST", path, {"channel": "team"})
    assert again.status_code == 202, again.text
    assert {item["channel"]: item["state"] for item in again.json()["stored"]["deliveries"]} == {
        "team": "queued",
        "boss": "queued",
    }
    assert len(await traded.sql("SELECT FROM alert_deliveries")) == 2, "it is the same message"
    unknown = await call(gateway, "POST", path, {"channel": "nobody"})
    assert unknown.status_code == 404
    assert (await call(gateway, "POST", f"/reports/{uuid.uuid4()}/send", {"channel": "team"})).status_code == 404
    await traded.sql("DELETE FROM alerts WHERE event = 'report'")
    assert (await call(gateway, "POST", path, {"channel": "team"})).json()["code"] == "REPORT_OLD"


async def test_a_late_report_says_so(traded: Database) -> None:
    component: Any = SimpleNamespace(db=traded, clock=FakeClock(NIGHT_NS), settings=Settings())
    await ACTIONS["report"][1](component, checked_params("report", {"period": "daily"}), uuid.uuid4())
    (row,) = await traded.sql("SELECT * FROM alerts WHERE event = 'report' AND message <> 'm'")
    alert = Alert(row["id"], row["time"], "info", "report", row["component"], row["message"], row["payload"], "report")
    title = "Daily report, 2026-03-02"
    assert compose([alert], "raised", to_datetime(NIGHT_NS + 3_600 * 10**9)).title == title
    assert compose([alert], "raised", to_datetime(NIGHT_NS + 3_601 * 10**9)).title == f"{title} (late)"
    made_late = replace(alert, payload={"is_late": True})
    assert compose([made_late], "raised", to_datetime(NIGHT_NS)).title == f"{title} (late)"
