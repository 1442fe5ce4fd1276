"""Portfolios: members, holdings in one currency, equity over time; and `fks portfolio`."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest

from fks.clock import RealClock
from fks.config.settings import Settings
from fks.interfaces.cli.base import OK, USAGE
from fks.interfaces.entry.reporting import PortfolioReports
from fks.research.jobs.valuation import note_portfolio_equity
from fks.store.db import Database
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running
from tests.support.portfolios import ALL, call, price
from tests.support.ports import CollectingLog
from tests.support.waiting import until

D = Decimal


@pytest.fixture
async def held(seeded: Database) -> Database:
    """Two accounts with coins and cash, and a strategy of each that holds some of the coins."""
    await seeded.sql(
        "INSERT INTO balances (account_id, currency, free, locked) VALUES (1,'USDT',1000,100), (1,'BTC',0.5,0),"
        " (2,'USDT',200,0), (2,'ETH',2,0)"
    )
    await seeded.sql(
        "INSERT INTO strategy_instances (id, strategy, symbol, timeframe, account_id, venue) VALUES"
        " ('trend','sma_cross','BTCUSDT','1h',1,'paper'), ('mean','sma_cross','ETHUSDT','1h',2,'ccxt')"
    )
    await seeded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, realized_pnl, fees)"
        " VALUES (1,'paper','BTCUSDT','trend',0.5,40000,120,5), (2,'ccxt','ETHUSDT','mean',2,1500,0,3)"
    )
    await price(seeded, "BTCUSDT", 50_000)
    await price(seeded, "ETHUSDT", 2_000)
    return seeded


async def test_two_accounts_become_a_portfolio_with_its_value(gateway: Running, held: Database) -> None:
    made = await call(gateway, "POST", "/portfolios", ALL)
    assert made.status_code == 201, made.text
    assert (made.json()["accounts"], made.json()["version"]) == (["demo", "sim"], 1)
    assert made.headers["location"] == f"/portfolios/{made.json()['id']}"
    body = (await call(gateway, "GET", "/portfolios/all/holdings", scope="read")).json()
    assert [(i["account"], i["asset"], i["quantity"], i["value"]) for i in body["items"]] == [
        ("demo", "BTC", "0.5", "25000"),
        ("demo", "USDT", "1100", "1100"),
        ("sim", "ETH", "2", "4000"),
        ("sim", "USDT", "200", "200"),
    ]
    assert (body["equity"], body["cash"], body["is_complete"], body["missing"]) == ("30300", "1300", True, [])
    assert body["items"][0]["rate_from"] == ["BTCUSDT"]


async def test_a_rate_that_is_missing_or_stale_makes_the_total_incomplete(gateway: Running, held: Database) -> None:
    await call(gateway, "POST", "/portfolios", ALL)
    await held.sql("INSERT INTO balances (account_id, currency, free, locked) VALUES (2,'XYZ',9,0)")
    await price(held, "ETHUSDT", 2_000, age="2 hours")
    body = (await call(gateway, "GET", "/portfolios/all/holdings", scope="read")).json()
    assert (body["equity"], body["is_complete"]) == ("26300", False)
    assert body["missing"] == ["ETH/USDT: stale", "XYZ/USDT: missing"]
    assert [item["value"] for item in body["items"] if item["asset"] in ("ETH", "XYZ")] == [None, None]
    assert await note_portfolio_equity(held, Settings()) == "1 portfolios, 1 without a rate for all"
    [row] = (await call(gateway, "GET", "/portfolios/all/equity", scope="read")).json()["items"]
    assert (row["equity"], row["is_complete"]) == ("26300", False)


async def test_rates_in_a_cycle_are_missing_rates(gateway: Running, held: Database) -> None:
    """AAA, BBB and CCC have prices in each other and none in USDT: no sum of them is made up, and no search is endless."""
    await call(gateway, "POST", "/portfolios", ALL)
    for base, quote in (("AAA", "BBB"), ("BBB", "CCC"), ("CCC", "AAA")):
        await held.sql(
            "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
            " VALUES ('binance', $1, $2, $3, 0.01, 0.0001, 0.0001, 9000, 5)",
            *(base + quote, base, quote),
        )
        await price(held, base + quote, 2)
    await held.sql("INSERT INTO balances (account_id, currency, free, locked) VALUES (2, 'AAA', 9, 0)")
    body = (await call(gateway, "GET", "/portfolios/all/holdings", scope="read")).json()
    assert (body["equity"], body["is_complete"], body["missing"]) == ("30300", False, ["AAA/USDT: missing"])
    drift = await call(gateway, "GET", "/portfolios/all/risk", scope="read")
    assert drift.status_code == 200, drift.text
    assert not drift.json()["is_complete"]


async def test_equity_is_noted_and_deposits_are_flows(gateway: Running, held: Database) -> None:
    await call(gateway, "POST", "/portfolios", ALL)
    await note_portfolio_equity(held, Settings())
    await price(held, "BTCUSDT", 52_000)  # a profit of 1000
    await held.sql("UPDATE balances SET free = free + 500 WHERE account_id = 2 AND currency = 'USDT'")
    await held.sql(
        "INSERT INTO transfers (account_id, kind, reference, asset, amount, time) VALUES"
        " (2,'deposit','1','USDT',500, now()), (2,'deposit','0','USDT',200, now() - interval '1 day')"
    )
    await note_portfolio_equity(held, Settings())
    await held.sql("UPDATE balances SET free = free - 300 WHERE account_id = 1 AND currency = 'USDT'")
    await held.sql(
        "INSERT INTO transfers (account_id, kind, reference, asset, amount, time) VALUES"
        " (1,'withdrawal','1','USDT',300, now())"
    )
    await note_portfolio_equity(held, Settings())
    rows = (await call(gateway, "GET", "/portfolios/all/equity", scope="read")).json()["items"]
    assert [(row["equity"], row["cash"], row["net_flow"]) for row in rows] == [
        ("30300", "1300", "30300"),
        ("31800", "1800", "500"),
        ("31500", "1500", "-300"),
    ]
    shown = (await call(gateway, "GET", "/portfolios", scope="read")).json()["items"][0]
    assert (shown["equity"], shown["is_complete"]) == ("31500", True)
    earned = (await call(gateway, "GET", "/portfolios/all/performance", scope="read")).json()
    assert (earned["equity_at_start"], earned["equity"], earned["net_flow"], earned["profit"]) == (
        "30300", "31500", "200", "1000",
    )  # fmt: skip
    assert earned["return_pct"] == pytest.approx(100 * (31_800 / 30_800 - 1))
    assert (earned["hours"], earned["hours_incomplete"], earned["sharpe"], earned["max_drawdown_pct"]) == (
        3,
        0,
        None,
        0,
    )


async def test_equity_is_noted_at_the_end_of_the_day_and_at_each_flow(gateway: Running, held: Database) -> None:
    await call(gateway, "POST", "/portfolios", ALL)

    async def noted() -> list[str]:
        reports = PortfolioReports(held, RealClock(), Settings(), CollectingLog())
        await reports.look()
        rows = (await call(gateway, "GET", "/portfolios/all/equity", scope="read")).json()["items"]
        return [row["net_flow"] for row in rows]

    assert await noted() == [], "the schedule makes the first row"
    await note_portfolio_equity(held, Settings())
    assert await noted() == ["30300"], "neither a flow nor the end of a day since"
    await held.sql("UPDATE balances SET free = free + 500 WHERE account_id = 2 AND currency = 'USDT'")
    await held.sql(
        "INSERT INTO transfers (account_id, kind, reference, asset, amount, time) VALUES (2,'deposit','1','USDT',500, now())"
    )
    assert await noted() == ["30300", "500"]
    assert await noted() == ["30300", "500"], "once"
    await held.sql("DELETE FROM currency_rates")
    for table, column in (("portfolio_members", "joined_at"), ("transfers", "time"), ("portfolio_equity", "time")):
        await held.sql(f"UPDATE {table} SET {column} = {column} - interval '2 minutes'")
    assert len(await noted()) == 2
    await held.sql(
        "UPDATE portfolios SET day_end_min = extract(hour FROM at) * 60 + extract(minute FROM at)"
        " FROM (SELECT (now() - interval '1 minute') AT TIME ZONE 'UTC' AS at) moment"
    )
    assert await noted() == ["30300", "500", "0"], "its day has just ended"
    assert len(await noted()) == 3


async def test_a_flow_of_an_incomplete_hour_is_counted_once(gateway: Running, held: Database) -> None:
    await call(gateway, "POST", "/portfolios", ALL)
    await note_portfolio_equity(held, Settings())
    await price(held, "ETHUSDT", 2_000, age="2 hours")
    await held.sql("UPDATE balances SET free = free + 500 WHERE account_id = 2 AND currency = 'USDT'")
    await held.sql(
        "INSERT INTO transfers (account_id, kind, reference, asset, amount, time) VALUES"
        " (2,'deposit','1','USDT',500, now())"
    )
    await note_portfolio_equity(held, Settings())
    await note_portfolio_equity(held, Settings())
    await price(held, "ETHUSDT", 2_100)
    await note_portfolio_equity(held, Settings())
    rows = (await call(gateway, "GET", "/portfolios/all/equity", scope="read")).json()["items"]
    assert [(row["net_flow"], row["is_complete"]) for row in rows] == [
        ("30300", True), ("500", False), ("0", False), ("0", True),
    ]  # fmt: skip
    assert D(rows[-1]["equity"]) - sum(D(row["net_flow"]) for row in rows) == 200


async def test_a_strategy_as_a_member_counts_by_what_it_holds(gateway: Running, held: Database) -> None:
    made = await call(gateway, "POST", "/portfolios", {"name": "t", "base_currency": "USDT", "instances": ["trend"]})
    assert made.status_code == 201, made.text
    await note_portfolio_equity(held, Settings())
    # it sells the half at 52000: 13000 go back to its account, with a fee of 13
    await price(held, "BTCUSDT", 52_000)
    await held.sql(
        "UPDATE positions SET quantity = 0.25, realized_pnl = realized_pnl + 3000, fees = fees + 13"
        " WHERE instance = 'trend'"
    )
    await note_portfolio_equity(held, Settings())
    rows = (await call(gateway, "GET", "/portfolios/t/equity", scope="read")).json()["items"]
    assert [(row["equity"], row["net_flow"]) for row in rows] == [("25000", "25000"), ("13000", "-12987")]
    assert D(rows[1]["equity"]) - D(rows[0]["equity"]) - D(rows[1]["net_flow"]) == 500 + 500 - 13


async def test_of_contracts_the_open_profit_counts(gateway: Running, held: Database) -> None:
    await held.sql(
        "INSERT INTO accounts (id, name, venue, currency) OVERRIDING SYSTEM VALUE VALUES (9,'fut','ninja','USD')"
    )
    await held.sql("INSERT INTO balances (account_id, currency, free, locked) VALUES (9,'USD',5000,0)")
    await held.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price) VALUES"
        " (9,'ninja','NQ 12-26','',2,20000)"
    )
    await call(gateway, "POST", "/portfolios", {"name": "f", "base_currency": "USD", "accounts": ["fut"]})
    body = (await call(gateway, "GET", "/portfolios/f/holdings", scope="read")).json()
    assert (body["equity"], body["missing"]) == ("5000", ["price of NQ 12-26: missing or stale"])
    await price(held, "NQ 12-26", 20_010)
    body = (await call(gateway, "GET", "/portfolios/f/holdings", scope="read")).json()
    assert (body["equity"], body["cash"], body["is_complete"]) == ("5400", "5000", True)


async def test_a_holding_belongs_to_one_portfolio(gateway: Running, held: Database) -> None:
    assert (await call(gateway, "POST", "/portfolios", {**ALL, "accounts": ["demo"]})).status_code == 201
    for members in ({"accounts": ["demo"]}, {"instances": ["trend"]}, {"accounts": ["sim"], "instances": ["mean"]}):
        answer = await call(gateway, "POST", "/portfolios", {"name": "two", "base_currency": "USDT", **members})
        assert (answer.status_code, answer.json()["code"]) == (409, "PORTFOLIO_MEMBER"), members
        assert "remove it there first" in answer.json()["remedy"]
    assert (
        await call(gateway, "POST", "/portfolios", {"name": "two", "base_currency": "EUR", "instances": ["mean"]})
    ).status_code == 201
    answer = await call(gateway, "POST", "/portfolios", {"name": "three", "base_currency": "EUR", "accounts": ["sim"]})
    assert answer.json()["code"] == "PORTFOLIO_MEMBER"
    assert len((await call(gateway, "GET", "/portfolios", scope="read")).json()["items"]) == 2, (
        "nothing is half-written"
    )


async def test_requests_at_once_give_a_holding_one_portfolio(gateway: Running, held: Database) -> None:
    bodies = [{"name": f"p{n}", "base_currency": "USDT", "accounts": ["demo"]} for n in range(6)]
    bodies += [{"name": f"i{n}", "base_currency": "USDT", "instances": ["trend"]} for n in range(6)]
    answers = await asyncio.gather(*(call(gateway, "POST", "/portfolios", body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 11
    members = await held.sql("SELECT count(*) AS n FROM portfolio_members WHERE left_at IS NULL")
    assert members[0]["n"] == 1


async def test_changes_replace_the_members_of_a_kind_at_a_version(gateway: Running, held: Database) -> None:
    await call(gateway, "POST", "/portfolios", ALL)
    await note_portfolio_equity(held, Settings())
    changed = await call(
        gateway,
        "PATCH",
        "/portfolios/all",
        {"version": 1, "accounts": ["demo"], "instances": ["mean"], "benchmark": "btc/usdt"},
    )
    assert changed.status_code == 200, changed.text
    body = changed.json()
    assert (body["version"], body["accounts"], body["instances"], body["benchmark"]) == (
        2, ["demo"], ["mean"], "binance:BTCUSDT",
    )  # fmt: skip
    stale = await call(gateway, "PATCH", "/portfolios/all", {"version": 1, "name": "other"})
    assert (stale.status_code, stale.json()["code"]) == (409, "PORTFOLIO_VERSION")
    assert (await call(gateway, "PATCH", "/portfolios/all", {"version": 2, "benchmark": ""})).json()[
        "benchmark"
    ] is None
    assert (await call(gateway, "PATCH", f"/portfolios/{body['id']}", {"version": 3, "name": "new"})).json()[
        "name"
    ] == "new"
    await note_portfolio_equity(held, Settings())
    rows = (await call(gateway, "GET", "/portfolios/new/equity", scope="read")).json()["items"]
    assert (rows[1]["equity"], rows[1]["net_flow"]) == ("30100", "-200"), "an account that left is a flow"


async def test_a_member_that_joins_while_equity_is_noted_is_a_flow(gateway: Running, held: Database) -> None:
    """The change begins first, waits for the writer of the equity, and ends after it."""
    await call(gateway, "POST", "/portfolios", {**ALL, "accounts": ["demo"]})
    await note_portfolio_equity(held, Settings())
    async with held.transaction() as writer:
        at = await writer.fetchval("portfolios.lock", 1)
        join = asyncio.create_task(
            call(gateway, "PATCH", "/portfolios/all", {"version": 1, "accounts": ["demo", "sim"]})
        )

        async def is_waiting() -> bool:
            return bool(await held.sql("SELECT FROM pg_locks WHERE NOT granted"))

        await until(is_waiting)
        assert at is not None
    await note_portfolio_equity(held, Settings())
    assert (await join).status_code == 200
    await note_portfolio_equity(held, Settings())
    rows = (await call(gateway, "GET", "/portfolios/all/equity", scope="read")).json()["items"]
    assert rows[-1]["equity"] == "30300"
    assert sum(D(row["net_flow"]) for row in rows) == 30_300, "nothing of it is profit"


async def test_an_equity_that_waited_for_a_change_of_members_is_later(gateway: Running, held: Database) -> None:
    """It has the holdings of the new member, and the hours after it their profit."""
    await call(gateway, "POST", "/portfolios", {**ALL, "accounts": ["demo"]})
    await note_portfolio_equity(held, Settings())
    async with held.transaction() as change:
        await change.fetchrow("portfolios.change", 1, 1, None, None, False, None)
        note = asyncio.create_task(note_portfolio_equity(held, Settings()))

        async def is_waiting() -> bool:
            return bool(await held.sql("SELECT FROM pg_locks WHERE NOT granted"))

        await until(is_waiting)
        await change.execute("portfolios.join", 1, [2], [])
    await note
    await held.sql("UPDATE balances SET free = free + 7 WHERE account_id = 2 AND currency = 'USDT'")
    await note_portfolio_equity(held, Settings())
    rows = (await call(gateway, "GET", "/portfolios/all/equity", scope="read")).json()["items"]
    assert [row["net_flow"] for row in rows[1:]] == ["4200", "0"]
    body = (await call(gateway, "GET", "/portfolios/all/attribution", scope="read")).json()
    assert (body["first_at"], body["change"]) == (rows[1]["time"], "7")


async def test_an_archived_portfolio_keeps_its_history_and_frees_its_members(gateway: Running, held: Database) -> None:
    await call(gateway, "POST", "/portfolios", ALL)
    await note_portfolio_equity(held, Settings())
    gone = (await call(gateway, "DELETE", "/portfolios/all")).json()
    assert (gone["state"], gone["accounts"]) == ("archived", ["demo", "sim"])
    assert await note_portfolio_equity(held, Settings()) == "0 portfolios"
    assert len((await call(gateway, "GET", "/portfolios/all/equity", scope="read")).json()["items"]) == 1
    assert (await call(gateway, "GET", "/portfolios", scope="read")).json()["items"] == []
    assert len((await call(gateway, "GET", "/portfolios?all=true", scope="read")).json()["items"]) == 1
    for method, body in (("DELETE", None), ("PATCH", {"version": 2, "name": "x"})):
        again = await call(gateway, method, "/portfolios/all", body)
        assert (again.status_code, again.json()["code"]) == (409, "PORTFOLIO_ARCHIVED")
    assert (await call(gateway, "POST", "/portfolios", {**ALL, "name": "next"})).status_code == 201


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({**ALL, "accounts": ["nobody"]}, 404, "ACCOUNT_UNKNOWN"),
        ({**ALL, "instances": ["nothing"]}, 404, "INSTANCE_UNKNOWN"),
        ({**ALL, "benchmark": "NOPE"}, 404, "SYMBOL_UNKNOWN"),
        ({**ALL, "name": "12"}, 422, "PORTFOLIO_WRONG"),
        ({**ALL, "name": "a b"}, 422, "PORTFOLIO_WRONG"),
        ({**ALL, "base_currency": "usdt"}, 422, "INVALID"),
        ({**ALL, "weights": {"BTC": 1}}, 422, "INVALID"),
        ({"name": "x"}, 422, "INVALID"),
    ],
)
async def test_wrong_input_is_a_coded_answer_with_its_remedy(
    gateway: Running, seeded: Database, body: dict[str, Any], status: int, code: str
) -> None:
    answer = await call(gateway, "POST", "/portfolios", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["remedy"]
    assert await seeded.sql("SELECT * FROM portfolios") == []


async def test_a_portfolio_there_or_unknown_is_refused(gateway: Running, held: Database) -> None:
    assert (await call(gateway, "POST", "/portfolios", ALL)).status_code == 201
    assert (await call(gateway, "POST", "/portfolios", ALL)).json()["code"] == "PORTFOLIO_EXISTS"
    assert (await call(gateway, "PATCH", "/portfolios/all", {"version": 1})).json()["code"] == "PORTFOLIO_WRONG"
    for path in ("", "/holdings", "/equity", "/performance"):
        assert (await call(gateway, "GET", f"/portfolios/nothing{path}", scope="read")).json()[
            "code"
        ] == "PORTFOLIO_UNKNOWN"


async def test_the_commands_make_show_change_and_archive(fks: Fks, held: Database) -> None:
    code, out, _ = await fks("portfolio", "create", "mine", "--currency", "usdt", "--account", "demo", "--json")
    assert (code, json.loads(out)["schema"]) == (OK, "fks.portfolio/1")
    await note_portfolio_equity(held, Settings())
    assert "26100.00 USDT" in (await fks("portfolio", "list"))[1]
    assert "version 1: demo; equity 26100.00 USDT" in (await fks("portfolio", "show", "mine"))[1]
    assert "26100.00" in (await fks("portfolio", "holdings", "mine"))[1]
    assert "26100.00" in (await fks("portfolio", "equity", "mine"))[1]
    assert "not defined yet" in (await fks("portfolio", "performance", "mine"))[1]
    earned = json.loads((await fks("portfolio", "performance", "mine", "--json"))[1])
    assert (earned["schema"], earned["hours"]) == ("fks.portfolio.performance/1", 1)
    code, out, _ = await fks("portfolio", "change", "mine", "--account", "sim", "--account", "1", "--json")
    assert (code, json.loads(out)["accounts"]) == (OK, ["demo", "sim"])
    code, _, err = await fks("portfolio", "change", "mine", "--no-accounts", "--version", "1")
    assert (code, "PORTFOLIO_VERSION" in err) == (USAGE, True)
    assert (await fks("portfolio", "change", "mine", "--no-accounts"))[0] == OK
    for name, schema in (("holdings", "fks.portfolio.holdings/1"), ("equity", "fks.portfolio.equity/1")):
        assert json.loads((await fks("portfolio", name, "mine", "--json"))[1])["schema"] == schema
    assert "archived" in (await fks("portfolio", "archive", "mine"))[1]
    assert "no portfolios" in (await fks("portfolio", "list"))[1]
    assert "mine" in (await fks("portfolio", "list", "--all"))[1]
