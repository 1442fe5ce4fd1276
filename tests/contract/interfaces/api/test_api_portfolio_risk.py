"""Risk, limits, performance and attribution of portfolios over HTTP, and their commands."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from fks.config.settings import Settings
from fks.interfaces.cli.base import OK, USAGE
from fks.research.jobs.portfolio_risk import measure_limits
from fks.research.jobs.valuation import note_portfolio_equity
from fks.store.db import Database
from fks.store.portfolios import PortfolioChanges, PortfolioStore
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running
from tests.support.portfolios import ALL, DAYS, bars, call, price, wave

D = Decimal


@pytest.fixture
async def held(seeded: Database) -> Database:
    """An account with cash and coins, half of them of a strategy, another account, and daily bars of both coins."""
    await seeded.sql(
        "INSERT INTO balances (account_id, currency, free, locked) VALUES (1,'USDT',1000,0), (1,'BTC',0.5,0),"
        " (2,'USDT',200,0), (2,'ETH',2,0)"
    )
    await seeded.sql(
        "INSERT INTO strategy_instances (id, strategy, symbol, timeframe, account_id, venue) VALUES"
        " ('trend','sma_cross','BTCUSDT','1h',1,'paper')"
    )
    await seeded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price) VALUES"
        " (1,'paper','BTCUSDT','trend',0.2,40000)"
    )
    await bars(seeded, "BTCUSDT", wave(50_000))
    await bars(seeded, "ETHUSDT", wave(2_000, phase=0.5))
    await price(seeded, "BTCUSDT", 50_000)
    await price(seeded, "ETHUSDT", 2_000)
    return seeded


async def test_risk_of_two_accounts(gateway: Running, held: Database) -> None:
    await call(gateway, "POST", "/portfolios", {**ALL, "benchmark": "BTC/USDT"})
    answer = await call(gateway, "GET", "/portfolios/all/risk?scenario=BTC=-0.3,ETH=-0.5", scope="read")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["gross"], body["net"], body["largest"]) == ("29000", "29000", "BTC")
    assert (body["is_complete"], body["missing"], body["returns"]) == (True, [], DAYS - 1)
    shares = {(row["kind"], row["name"]): row["net"] for row in body["exposures"]}
    assert (shares["strategy", "trend"], shares["strategy", ""]) == ("10000", "19000")
    assert (shares["venue", "paper"], shares["venue", "ccxt"]) == ("25000", "4000")
    assert shares["currency", "USDT"] == "29000"
    tails = {(row["method"], row["confidence"], row["days"]): row["var"] for row in body["tails"]}
    assert len(tails) == 12
    assert 0 < tails["parametric", 0.95, 1] < tails["parametric", 0.99, 1] < tails["parametric", 0.99, 10]
    assert sum(row["var"] for row in body["components"]) == pytest.approx(tails["parametric", 0.95, 1])
    assert body["beta"] == pytest.approx(25_000 / 30_200 + 4_000 / 30_200 * body["correlations"][0][1], rel=0.05)
    assert [row["profit"] for row in body["stress"] if row["name"] == "yours"] == ["-9500"]


async def test_an_asset_without_a_history_makes_the_risk_incomplete(gateway: Running, held: Database) -> None:
    await call(gateway, "POST", "/portfolios", ALL)
    await held.sql("DELETE FROM ohlcv_data WHERE symbol = 'ETHUSDT' AND time < now() - interval '20 days'")
    await held.sql("INSERT INTO balances (account_id, currency, free, locked) VALUES (2,'XYZ',9,0)")
    body = (await call(gateway, "GET", "/portfolios/all/risk", scope="read")).json()
    assert body["is_complete"] is False
    assert [text.partition(":")[0] for text in body["missing"]] == ["XYZ/USDT", "ETH"]
    assert [row["factor"] for row in body["components"]] == ["BTC"]
    await held.sql("DELETE FROM ohlcv_data")
    body = (await call(gateway, "GET", "/portfolios/all/risk", scope="read")).json()
    assert (body["tails"], body["components"], body["beta"]) == ([], [], None), "no figure, never a zero"


async def test_limits_are_rows_that_are_measured(gateway: Running, held: Database) -> None:
    await call(gateway, "POST", "/portfolios", ALL)
    body = {"limits": [{"kind": "gross_exposure", "value": "30000"}, {"kind": "var_95_1d", "value": "1"}]}
    answer = await call(gateway, "PUT", "/portfolios/all/limits", body)
    assert answer.status_code == 200, answer.text
    gross, var = answer.json()["items"]
    assert (gross["kind"], gross["observed"], gross["age_max_s"], gross["missing"]) == (
        "gross_exposure",
        "29000",
        900,
        "",
    )
    assert D(var["observed"]) > 1
    await held.sql("DELETE FROM ohlcv_data WHERE symbol = 'ETHUSDT'")
    assert await measure_limits(held, Settings(), gateway_now()) == "2 limits of portfolios, 1 not known"
    items = (await call(gateway, "GET", "/portfolios/all/limits", scope="read")).json()["items"]
    assert (items[1]["observed"], items[1]["missing"]) == (None, "ETH: no stored bars")
    assert (items[0]["observed"], items[0]["missing"]) == ("29000", ""), "exposure needs no history"
    assert (await call(gateway, "PUT", "/portfolios/all/limits", {"limits": []})).json()["items"] == []


def gateway_now() -> int:
    return int((datetime.now(UTC) + timedelta(seconds=1)).timestamp() * 1e9)


async def trade(db: Database, side: str, quantity: str, at: str, *, decided: str, fee: str = "5", **more: str) -> None:
    """Book an execution of the strategy with its order and signal, and move the balances by it."""
    order = f"{side}{at}".ljust(32, "0")
    await db.sql(
        "INSERT INTO signals (id, source, instance, account_id, venue, symbol, ts_event, kind, side, reference_price)"
        " VALUES (gen_random_uuid(), 'strategy', 'trend', 1, 'paper', 'BTCUSDT', now(), 'enter', $1, $2)",
        side.lower(),
        D(decided),
    )
    await db.sql(
        "INSERT INTO orders (client_order_id, intent_id, signal_id, account_id, venue, symbol, instance, role, side,"
        " type, quantity, state) SELECT $1, id, id, 1, 'paper', 'BTCUSDT', 'trend', 'entry', $2, 'market', $3, 'FILLED'"
        " FROM signals ORDER BY seq DESC LIMIT 1",
        order,
        side.lower(),
        D(quantity),
    )
    await db.sql(
        "INSERT INTO trades (fill_id, client_order_id, account_id, venue, symbol, instance, trade_type, quantity, price,"
        " fee, fee_currency, realized_pnl, time) VALUES (gen_random_uuid(), $1, 1, 'paper', 'BTCUSDT', 'trend', $2, $3,"
        " $4, $5, 'USDT', $6, now())",
        order,
        side,
        D(quantity),
        D(at),
        D(fee),
        D(more.get("realized", "0")),
    )
    sign = 1 if side == "BUY" else -1
    moved = sign * D(quantity)
    await db.sql("UPDATE balances SET free = free + $1 WHERE account_id = 1 AND currency = 'BTC'", moved)
    await db.sql(
        "UPDATE balances SET free = free - $1 WHERE account_id = 1 AND currency = 'USDT'", moved * D(at) + D(fee)
    )
    await db.sql("UPDATE positions SET quantity = quantity + $1 WHERE instance = 'trend'", moved)


async def a_day(gateway: Running, db: Database) -> None:
    await call(gateway, "POST", "/portfolios", ALL)
    await note_portfolio_equity(db, Settings())
    await trade(db, "BUY", "0.01", "50100", decided="50000")
    await trade(db, "SELL", "0.01", "50900", decided="51000", realized="8", fee="6")
    await db.sql(
        "INSERT INTO transfers (account_id, kind, reference, asset, amount, time) VALUES (2,'deposit','1','USDT',500,now())"
    )
    await db.sql("UPDATE balances SET free = free + 500 WHERE account_id = 2 AND currency = 'USDT'")
    await price(db, "BTCUSDT", 51_000)
    await note_portfolio_equity(db, Settings())


async def test_a_change_of_equity_is_explained_to_its_rows(gateway: Running, held: Database) -> None:
    await a_day(gateway, held)
    body = (await call(gateway, "GET", "/portfolios/all/attribution?rows=true", scope="read")).json()
    parts = {name: amount for name, amount in body["parts"].items() if amount != "0"}
    assert parts == {"price": "510", "slippage": "-2", "fees": "-11", "flows": "500"}
    assert (body["change"], body["rest"], body["is_explained"], body["undecided"]) == ("997", "0", True, 0)
    lines = {(row["account"], row["instance"], row["instrument"]): row["total"] for row in body["items"]}
    assert lines == {
        ("demo", "", "BTC"): "300",
        ("demo", "trend", "BTCUSDT"): "197",
        ("sim", "", "USDT"): "500",
    }
    assert [row["kind"] for row in body["rows"]] == ["holding", "holding", "fill", "fill", "payment"]
    assert sum(D(row["total"]) for row in body["rows"]) == D(body["change"])


async def test_income_is_recorded_once_and_explains_the_change(gateway: Running, held: Database, fks: Fks) -> None:
    """A dividend of 12.5 USDT, a swap of 2 and 0.1 BTC of interest: the venue's balances have them."""
    await held.sql("UPDATE accounts SET venue = 'ccxt' WHERE id = 1")
    await call(gateway, "POST", "/portfolios", ALL)
    await note_portfolio_equity(held, Settings())
    at = datetime.now(UTC).isoformat()
    await held.sql("UPDATE balances SET free = free + 10.5 WHERE account_id = 1 AND currency = 'USDT'")
    await held.sql("UPDATE balances SET free = free + 0.1 WHERE account_id = 1 AND currency = 'BTC'")
    dividend = {"account": "demo", "kind": "dividend", "asset": "USDT", "amount": "12.5", "time": at, "symbol": "XYZ"}
    first = await call(gateway, "POST", "/accounts/payments", dividend, scope="admin")
    again = await call(gateway, "POST", "/accounts/payments", {**dividend, "amount": "12.50"}, scope="admin")
    assert (first.status_code, again.status_code, again.json()) == (201, 200, first.json()), first.text
    for given in (("swap", "USDT", "-2", "NQ"), ("interest", "BTC", "0.1", "")):
        names = zip(("--kind", "--asset", "--amount", "--symbol"), given, strict=True)
        code, _, err = await fks("accounts", "pay", "demo", *(f"{name}={text}" for name, text in names), f"--time={at}")
        assert code == OK, err
    await note_portfolio_equity(held, Settings())
    body = (await call(gateway, "GET", "/portfolios/all/attribution?rows=true", scope="read")).json()
    parts = {name: amount for name, amount in body["parts"].items() if amount != "0"}
    assert parts == {"dividends": "12.5", "funding": "4998"}
    assert (body["change"], body["rest"], body["is_explained"]) == ("5010.5", "0", True)
    assert {row["instrument"]: row["total"] for row in body["items"] if row["total"] != "0"} == {
        "XYZ": "12.5",
        "NQ": "-2",
        "BTC": "5000",
    }
    rows = (await call(gateway, "GET", "/portfolios/all/equity", scope="read")).json()["items"]
    assert [row["net_flow"] for row in rows][1:] == ["0"], "income is no flow"
    paid = (await call(gateway, "GET", "/portfolios/all/income", scope="read")).json()["items"]
    booked = {(row["kind"], row["currency"]): row["booked"] for row in paid}
    assert booked == {("dividend", "USDT"): "12.5", ("swap", "USDT"): "-2", ("interest", "BTC"): "0.1"}
    lots = (await call(gateway, "GET", "/lots?account=demo", scope="read")).json()["items"]
    (lot,) = (row for row in lots if row["kind"] == "income")
    closes = await held.sql("SELECT close FROM ohlcv_data WHERE symbol = 'BTCUSDT' ORDER BY time DESC LIMIT 1")
    assert lot["quantity"] == "0.1"
    assert float(lot["cost"]) == pytest.approx(0.1 * closes[0]["close"]), "the last bar that had ended"
    code, out, err = await fks("accounts", "payments", "demo", "--json")
    assert (code, len(json.loads(out)["items"])) == (OK, 3), err
    _, out, _ = await fks("why", "pnl", datetime.now(UTC).date().isoformat())
    assert "dividend" in out


@pytest.mark.parametrize("day", ["x", "2026-13-01", "BTCUSDT"])
async def test_why_pnl_of_no_day_names_the_form_of_a_day(fks: Fks, held: Database, day: str) -> None:
    code, _, err = await fks("why", "pnl", day)
    assert (code, f"'{day}' is no day" in err, "2026-05-01" in err) == (USAGE, True, True), err
    assert "10m" not in err, "the hint of a time"


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"amount": "1", "reference": "r"}, 409, "PAYMENT_CHANGED"),
        ({"amount": "0"}, 422, "PAYMENT_WRONG"),
        ({"time": "2999-01-01T00:00:00Z"}, 422, "PAYMENT_WRONG"),
        ({"time": "0001-01-01T00:00:00+14:00"}, 422, "INVALID"),
        ({"account": "sim"}, 422, "PAYMENT_WRONG"),
        ({"account": "nobody"}, 404, "ACCOUNT_UNKNOWN"),
        ({"kind": "gift"}, 422, "INVALID"),
        ({"amount": "NaN"}, 422, "INVALID"),
    ],
)
async def test_wrong_income_is_a_coded_answer(
    gateway: Running, held: Database, change: dict[str, str], status: int, code: str
) -> None:
    await held.sql("UPDATE accounts SET venue = CASE id WHEN 1 THEN 'ccxt' ELSE 'paper' END")
    body = {"account": "demo", "kind": "swap", "asset": "USDT", "amount": "2", "time": "2026-05-01T00:00:00Z"}
    assert (
        await call(gateway, "POST", "/accounts/payments", {**body, "reference": "r"}, scope="admin")
    ).status_code == 201
    answer = await call(gateway, "POST", "/accounts/payments", body | change, scope="admin")
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["remedy"]
    assert len((await call(gateway, "GET", "/accounts/payments?account=1", scope="read")).json()["items"]) == 1


async def test_a_past_valuation_has_the_rates_that_it_used(gateway: Running, held: Database) -> None:
    """Prices of the past that change later (bars that are corrected or imported) change neither it nor an attribution."""
    await a_day(gateway, held)
    wanted = (await call(gateway, "GET", "/portfolios/all/holdings", scope="read")).json()
    (first, last) = (await call(gateway, "GET", "/portfolios/all/equity", scope="read")).json()["items"]
    rows = await held.sql(
        "SELECT asset, rate, legs FROM currency_rates WHERE time = $1", datetime.fromisoformat(last["time"])
    )
    assert {row["asset"]: (row["rate"], row["legs"]) for row in rows} == {
        "USDT": (1, []), "BTC": (51_000, ["BTCUSDT"]), "ETH": (2_000, ["ETHUSDT"]),
    }  # fmt: skip
    day = datetime.now(UTC).date().isoformat()
    before = (await fks_of_day(gateway, day))["rows"]
    await price(held, "BTCUSDT", 10)
    await held.sql("DELETE FROM ohlcv_data")
    for row in (first, last):
        past = (await call(gateway, "GET", f"/portfolios/all/holdings?at={row['time']}", scope="read")).json()
        assert (past["time"], past["equity"], past["cash"]) == (row["time"], row["equity"], row["cash"])
        assert past["is_complete"]
        assert sum(D(item["value"]) for item in past["items"]) == D(row["equity"])
    for item in past["items"]:
        (now,) = (
            other
            for other in wanted["items"]
            if other["account"] == item["account"] and other["asset"] == item["asset"]
        )
        assert {**now, "rate_time": None} == {**item, "rate_time": None}
    assert (await fks_of_day(gateway, day))["rows"] == before, "fks why pnl of a past day"
    missing = await call(gateway, "GET", "/portfolios/all/holdings?at=2020-01-01", scope="read")
    assert (missing.status_code, missing.json()["code"]) == (404, "VALUATION_MISSING")
    for at in ("0001-01-01T00:00:00%2B14:00", "9999-12-31T23:00:00-14:00"):
        wrong = await call(gateway, "GET", f"/portfolios/all/holdings?at={at}", scope="read")
        assert (wrong.status_code, wrong.json()["code"]) == (422, "TIME_INVALID")


async def fks_of_day(gateway: Running, day: str) -> Any:
    """Return the document that `fks why pnl` of a day shows."""
    path = f"/portfolios/all/attribution?from={day}&rows=true"
    return (await call(gateway, "GET", path, scope="read")).json()


async def test_a_change_that_no_row_explains_is_shown(gateway: Running, held: Database) -> None:
    await call(gateway, "POST", "/portfolios", ALL)
    await note_portfolio_equity(held, Settings())
    await held.sql("UPDATE balances SET free = free - 40 WHERE account_id = 1 AND currency = 'USDT'")
    await note_portfolio_equity(held, Settings())
    body = (await call(gateway, "GET", "/portfolios/all/attribution", scope="read")).json()
    assert (body["change"], body["rest"], body["is_explained"]) == ("-40", "-40", False)
    assert body["unexplained"] == [
        {"account": "demo", "asset": "USDT", "amount": "-40", "value": "-40", "incident": None}
    ]


@pytest.mark.parametrize("members", [{}, {"accounts": [], "instances": ["trend"]}])
async def test_a_split_leaves_no_change_unexplained(gateway: Running, held: Database, members: dict[str, Any]) -> None:
    """The strategy holds 0.2 BTC: 2 for 1 makes them 0.4 at half the price. Other coins of the account had none."""
    await held.sql("UPDATE balances SET free = 0.2 WHERE currency = 'BTC'")
    await call(gateway, "POST", "/portfolios", ALL | members)
    await note_portfolio_equity(held, Settings())
    await held.sql(
        "INSERT INTO position_splits (id, account_id, venue, exchange, symbol, day, new_shares, old_shares, effective_at,"
        " quantity_before, quantity_after) VALUES (gen_random_uuid(), 1, 'paper', 'binance', 'BTCUSDT', now(), 2, 1, now(),"
        " 0.2, 0.4)"
    )
    await held.sql("UPDATE balances SET free = 0.4 WHERE currency = 'BTC'")
    await held.sql("UPDATE positions SET quantity = 0.4, average_price = 20000 WHERE instance = 'trend'")
    await price(held, "BTCUSDT", 25_000)
    await note_portfolio_equity(held, Settings())
    body = (await call(gateway, "GET", "/portfolios/all/attribution?rows=true", scope="read")).json()
    assert (body["change"], body["parts"]["price"], body["rest"], body["unexplained"]) == ("0", "0", "0", [])
    assert [(row["kind"], row["total"]) for row in body["rows"]] == [("holding", "-5000"), ("split", "5000")]


@pytest.mark.parametrize("members", [{}, {"accounts": [], "instances": ["trend"]}])
async def test_dividends_and_funding_are_expected_and_compared(
    gateway: Running, held: Database, fks: Fks, members: dict[str, Any]
) -> None:
    """10 shares of XYZ, of which 4 were bought after the ex-day; a perpetual with a rate, then none for a day."""
    await call(gateway, "POST", "/portfolios", ALL | members)
    is_account = not members
    await held.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('polygon', 'XYZ', 'XYZ', 'USD', 0.01, 1, 1, 9000, 1), ('binanceusdm', 'BTCPERP', 'BTC', 'USDT', 0.1, 0.001, 0.001, 9, 5),"
        " ('polygon', 'NEW', 'NEW', 'USD', 0.01, 1, 1, 9000, 1)"
    )
    await held.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price) VALUES"
        " (1,'paper','XYZ','trend',10,40), (1,'paper','BTCPERP','trend',-2,40000), (1,'paper','NEW','trend',3,1)"
    )
    await held.sql(
        "INSERT INTO trades (fill_id, account_id, venue, symbol, instance, trade_type, quantity, price, time)"
        " VALUES (gen_random_uuid(), 1, 'paper', 'XYZ', 'trend', 'BUY', 4, 41, now() - interval '1 day')"
    )
    await held.sql(
        "INSERT INTO corporate_actions (exchange, symbol, kind, day, amount, currency, published_at)"
        " VALUES ('polygon', 'XYZ', 'dividend', (now() - interval '3 days')::date, 0.5, 'USD', now())"
    )
    await held.sql(
        "INSERT INTO funding_rates (exchange, symbol, time, rate, mark_price, published_at)"
        " VALUES ('binanceusdm', 'BTCPERP', now() - interval '1 hour', 0.0001, 50000, now())"
    )
    await held.sql(
        "INSERT INTO incidents (account_id, kind, subject, payload, opened_at, closed_at, closed_by, resolution) VALUES"
        " (1, 'drift', 'USD', '{\"difference\": \"2.55\"}', now() - interval '2 days', now(), 'ann', 'explained: Dividend of XYZ'),"
        " (1, 'drift', 'USDT', '{\"difference\": \"4\"}', now() - interval '2 days', now(), 'ann', 'adopted: funding, no dividend'),"
        " (1, 'drift', 'USD', '{\"difference\": \"9\"}', now() - interval '2 days', now(), 'ann', 'adopted: a gift')"
    )
    body = (await call(gateway, "GET", "/portfolios/all/income?rows=true", scope="read")).json()
    lines = {
        (i["kind"], i["currency"]): (i["expected"], i["known"], i["unknown"], i["booked"], i["difference"])
        for i in body["items"]
    }
    booked, paid = ("2.55", "4") if is_account else ("0", "0")
    assert lines == {
        ("dividend", "USD"): (None, "3", 1, booked, None),
        ("funding", "USDT"): (None, "10", 1, paid, None),
    }
    rows = [(r["symbol"], r["kind"], r["quantity"], r["expected"], r["note"][:5]) for r in body["rows"]]
    assert sorted(rows, key=str) == [
        ("BTCPERP", "funding", "-2", "10", ""),
        ("BTCPERP", "funding", "-2", None, "no fu"),
        ("NEW", "dividend", "3", None, "no ev"),
        ("XYZ", "dividend", "6", "3", ""),
    ]
    code, out, err = await fks("portfolio", "income", "all", "--rows")
    assert code == OK, err
    assert "unknown" in out
    assert "no funding rate is stored" in out
    assert body["not_expected"] == ["interest", "swap"]
    assert "no table has rates of them: interest, swap" in err


@pytest.mark.parametrize(("members", "before", "difference"), [({}, "10", "-0.3333"), (["trend"], "9", None)])
async def test_a_split_that_drops_a_part_is_expected_of_all_shares(
    gateway: Running, held: Database, members: Any, before: str, difference: str | None
) -> None:
    """1 share for 3 left 3 of 10: the third of one is paid in cash. Of an instance the part is not known."""
    await call(gateway, "POST", "/portfolios", ALL | ({"accounts": [], "instances": members} if members else {}))
    await held.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('polygon', 'XYZ', 'XYZ', 'USD', 0.01, 1, 1, 9000, 1)"
    )
    await held.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price) VALUES"
        " (1, 'paper', 'XYZ', 'trend', 3, 40)"
    )
    await held.sql(
        "INSERT INTO corporate_actions (exchange, symbol, kind, day, new_shares, old_shares, published_at)"
        " VALUES ('polygon', 'XYZ', 'split', (now() - interval '3 days')::date, 1, 3, now())"
    )
    await held.sql(
        "INSERT INTO position_splits (id, account_id, venue, exchange, symbol, day, new_shares, old_shares, effective_at,"
        " quantity_before, quantity_after) SELECT gen_random_uuid(), 1, 'paper', exchange, symbol, day, 1, 3,"
        " day::timestamp AT TIME ZONE 'America/New_York', 10, 3 FROM corporate_actions WHERE symbol = 'XYZ'"
    )
    body = (await call(gateway, "GET", "/portfolios/all/income?rows=true", scope="read")).json()
    (row,) = body["rows"]
    (line,) = body["items"]
    assert (row["kind"], D(row["quantity"])) == ("split", D(before))
    assert line["booked"] == ("-7" if difference else "0")
    if difference:
        assert D(line["difference"]).quantize(D("0.0001")) == D(difference)


async def test_attribution_begins_after_the_last_change_of_members(gateway: Running, held: Database) -> None:
    await call(gateway, "POST", "/portfolios", {**ALL, "accounts": ["demo"]})
    await note_portfolio_equity(held, Settings())
    alone = await call(gateway, "GET", "/portfolios/all/attribution", scope="read")
    assert (alone.status_code, alone.json()["code"]) == (404, "ATTRIBUTION_MISSING")
    await call(gateway, "PATCH", "/portfolios/all", {"version": 1, "accounts": ["demo", "sim"]})
    await note_portfolio_equity(held, Settings())
    assert (await call(gateway, "GET", "/portfolios/all/attribution", scope="read")).status_code == 404
    await price(held, "ETHUSDT", 2_100)
    await note_portfolio_equity(held, Settings())
    body = (await call(gateway, "GET", "/portfolios/all/attribution", scope="read")).json()
    assert (body["change"], body["parts"]["price"], body["rest"]) == ("200", "200", "0")


async def test_performance_with_trades_and_a_benchmark(gateway: Running, held: Database) -> None:
    await a_day(gateway, held)
    body = (await call(gateway, "GET", "/portfolios/all/performance?benchmark=BTCUSDT", scope="read")).json()
    assert (body["executions"], body["won"], body["lost"], body["hit_rate_pct"], body["payoff"]) == (2, 1, 0, 100, None)
    mean = (D(30_200) + D(31_197)) / 2
    assert body["turnover"] == pytest.approx(float((501 + 509) / mean))
    assert body["money_weighted_pct"] == pytest.approx(100 * (31_197 - 500 - 30_200) / 30_200)
    assert body["benchmark"] == "binance:BTCUSDT"
    cash = (await call(gateway, "GET", "/portfolios/all/performance?cash_rate=0.04", scope="read")).json()
    assert (cash["benchmark"], cash["beta"]) == ("cash:0.04", None)
    blend = "/portfolios/all/performance?benchmark=0.5*BTC/USDT%2B0.5*cash:0.04"
    half = (await call(gateway, "GET", blend, scope="read")).json()
    assert half["benchmark"] == "0.5*binance:BTCUSDT+0.5*cash:0.04"
    wanted = (body["benchmark_return_pct"] + cash["benchmark_return_pct"]) / 2
    assert half["benchmark_return_pct"] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/risk?scenario=BTC", None, 422, "PORTFOLIO_WRONG"),
        ("GET", "/risk?scenario=BTC=-2", None, 422, "PORTFOLIO_WRONG"),
        ("GET", "/risk?scenario=BTC=NaN", None, 422, "PORTFOLIO_WRONG"),
        ("GET", "/risk?benchmark=NOPE", None, 404, "SYMBOL_UNKNOWN"),
        ("GET", "/risk?days=5", None, 422, "INVALID"),
        ("GET", "/performance?benchmark=BTCUSDT&cash_rate=0.1", None, 422, "PORTFOLIO_WRONG"),
        ("GET", "/attribution?from=2026-01-02&to=2026-01-01", None, 422, "PORTFOLIO_WRONG"),
        ("PUT", "/limits", {"limits": [{"kind": "luck", "value": "1"}]}, 422, "INVALID"),
        ("PUT", "/limits", {"limits": [{"kind": "weight_max", "value": "-1"}]}, 422, "INVALID"),
        ("PUT", "/limits", {"limits": [{"kind": "weight_max", "value": "1"}] * 2}, 422, "PORTFOLIO_WRONG"),
    ],
)
async def test_wrong_input_is_a_coded_answer(
    gateway: Running, held: Database, method: str, path: str, body: Any, status: int, code: str
) -> None:
    await call(gateway, "POST", "/portfolios", ALL)
    answer = await call(gateway, method, f"/portfolios/all{path}", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["remedy"]
    assert await held.sql("SELECT * FROM portfolio_limits") == []


async def test_the_commands_show_risk_limits_and_attribution(fks: Fks, gateway: Running, held: Database) -> None:
    await a_day(gateway, held)
    code, out, _ = await fks("portfolio", "risk", "all", "--scenario", "BTC=-0.3")
    assert code == OK
    assert "parametric" in out
    assert "yours" in out
    assert json.loads((await fks("portfolio", "risk", "all", "--json"))[1])["schema"] == "fks.portfolio.risk/1"
    code, out, _ = await fks("portfolio", "limits", "all", "--set", "weight_max=0.5", "--set", "var_95_1d=100")
    assert (code, "weight_max" in out) == (OK, True)
    code, out, _ = await fks("portfolio", "limits", "all", "--remove", "var_95_1d", "--json")
    assert [row["kind"] for row in json.loads(out)["items"]] == ["weight_max"]
    assert (await fks("portfolio", "limits", "all", "--remove", "var_95_1d"))[0] == USAGE
    code, out, _ = await fks("portfolio", "attribution", "all", "--days", "1", "--rows")
    assert "SLIPPAGE" in out
    assert "rest 0.00\n" in out
    today = datetime.now(UTC).date().isoformat()
    code, out, _ = await fks("why", "pnl", today)
    assert (code, "change 997.00" in out, "rest 0.00\n" in out) == (OK, True, True)
    found = json.loads((await fks("why", "pnl", today, "--portfolio", "all", "--json"))[1])
    assert (found["schema"], found["items"][0]["kind"], found["items"][0]["rest"]) == ("fks.why/1", "pnl", "0")
    code, out, err = await fks("portfolio", "holdings", "all", "--at", datetime.now(UTC).isoformat())
    assert (code, "equity 31197.00 USDT" in out) == (OK, True), err
    out = (await fks("portfolio", "performance", "all", "--cash-rate", "0.04"))[1]
    assert "information ratio" in out


async def test_limits_are_measured_again_when_members_change(gateway: Running, held: Database) -> None:
    """A measurement without a new member lets no entry through, whichever process wrote it, and when."""
    await call(gateway, "POST", "/portfolios", {**ALL, "accounts": ["demo"]})
    body = {"limits": [{"kind": "gross_exposure", "value": "26000"}]}
    assert (await call(gateway, "PUT", "/portfolios/all/limits", body)).json()["items"][0]["observed"] == "25000"
    before_ns = int(datetime.now(UTC).timestamp() * 1e9)
    answer = await call(gateway, "PATCH", "/portfolios/all", {"version": 1, "accounts": ["demo", "sim"]})
    assert answer.status_code == 200, answer.text
    assert await observed(gateway) == ["29000"]
    changes, store = PortfolioChanges(held), PortfolioStore(held)
    await changes.change("all", version=2, accounts=["sim"])
    assert await observed(gateway) == [None]
    await store.note_limit((await store.get("all")).id, "gross_exposure", D(29_000), before_ns, "")
    assert await observed(gateway) == [None], "one that began before the change is late"
    await measure_limits(held, Settings(), gateway_now())
    assert await observed(gateway) == ["4000"]


async def observed(gateway: Running) -> list[str | None]:
    items = (await call(gateway, "GET", "/portfolios/all/limits", scope="read")).json()["items"]
    return [row["observed"] for row in items]
