"""Targets, previews and rebalancings of portfolios over HTTP, and the commands of `fks portfolio` for them."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from typing import Any

import httpx
import pytest

from fks.interfaces.cli.base import OK, USAGE
from fks.store.db import Database
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running
from tests.support.strategies import collect

D = Decimal
BTC, ETH = {"instrument": "BTC/USDT", "weight": "0.5"}, {"instrument": "ETHUSDT", "weight": "0.3"}


@pytest.fixture
async def funded(seeded: Database) -> Database:
    """A portfolio `main` with the account `demo`: 10000 USDT, and fresh prices of two instruments."""
    await seeded.sql("INSERT INTO balances (account_id, currency, free, locked) VALUES (1,'USDT',10000,0)")
    for symbol, last in (("BTCUSDT", 50_000), ("ETHUSDT", 2_000)):
        await seeded.sql(
            "INSERT INTO feeds (exchange, symbol, timeframe, state, last_price, last_message_at) VALUES"
            " ('binance', $1, 'trades', 'LIVE', $2, now())",
            symbol,
            D(last),
        )
    await collect(seeded)
    await seeded.sql("INSERT INTO venue_states (venue, account_id, state) VALUES ('paper', 1, 'READY')")
    await seeded.sql("INSERT INTO portfolios (name, base_currency) VALUES ('main', 'USDT')")
    await seeded.sql("INSERT INTO portfolio_members (portfolio_id, account_id) VALUES (1, 1)")
    return seeded


async def call(
    gateway: Running, method: str, path: str, body: Any = None, *, scope: str = "trade", **headers: str
) -> httpx.Response:
    async with gateway.client(scope) as client:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.request(method, f"/portfolios/main{path}", json=body, headers=sent)


async def aim(gateway: Running, *targets: dict[str, str], version: int = 0, **rules: Any) -> httpx.Response:
    return await call(gateway, "PUT", "/targets", {"version": version, "targets": targets, "rules": rules})


async def test_targets_are_replaced_at_their_version(gateway: Running, funded: Database) -> None:
    first = await call(gateway, "GET", "/targets", scope="read")
    assert (first.json()["version"], first.json()["items"], first.headers["etag"]) == (0, [], '"0"')
    made = await aim(gateway, BTC, ETH | {"min": "0.2", "max": "0.4"}, band="0.05")
    assert (made.status_code, made.headers["etag"]) == (200, '"1"'), made.text
    body = made.json()
    assert (body["account"], body["currency"], body["rules"]["band"], body["created_by"]) == (
        "demo", "USDT", "0.05", "t-trade",
    )  # fmt: skip
    assert [(i["symbol"], i["weight"], i["min"], i["max"]) for i in body["items"]] == [
        ("BTCUSDT", "0.5", None, None),
        ("ETHUSDT", "0.3", "0.2", "0.4"),
    ]
    assert (await call(gateway, "GET", "/targets", scope="read")).json() == body
    stale = await aim(gateway, BTC)
    assert (stale.status_code, stale.json()["code"]) == (409, "PORTFOLIO_VERSION")
    matched = await call(gateway, "PUT", "/targets", {"targets": [BTC]}, If_Match='"1"')
    assert (matched.json()["version"], len(matched.json()["items"])) == (2, 1)
    late = await call(gateway, "PUT", "/targets", {"targets": [BTC]}, If_Match='"1"')
    assert (late.status_code, late.json()["code"]) == (409, "PORTFOLIO_VERSION")
    kept = await funded.sql("SELECT version FROM portfolio_target_sets ORDER BY version")
    assert [row["version"] for row in kept] == [1, 2], "former targets stay"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"version": 0, "targets": [BTC, ETH | {"weight": "0.6"}]}, 422, "TARGETS_WRONG"),
        ({"version": 0, "targets": [BTC | {"weight": "1"}]}, 422, "TARGETS_WRONG"),  # and the cash buffer
        ({"version": 0, "targets": [BTC, {"instrument": "BTCUSDT", "weight": "0.1"}]}, 422, "TARGETS_WRONG"),
        ({"version": 0, "targets": [BTC | {"min": "0.6"}]}, 422, "TARGETS_WRONG"),
        ({"version": 0, "targets": [BTC], "account": "sim"}, 422, "TARGETS_WRONG"),
        ({"version": 0, "targets": [{"instrument": "ETHBTC", "weight": "0.1"}]}, 422, "TARGETS_WRONG"),
        ({"version": 0, "targets": [{"instrument": "NOPE", "weight": "0.1"}]}, 404, "SYMBOL_UNKNOWN"),
        ({"targets": [BTC]}, 422, "TARGETS_WRONG"),
        ({"version": 0, "targets": [BTC | {"weight": "-0.1"}]}, 422, "INVALID"),
        ({"version": 0, "targets": [BTC | {"weight": "NaN"}]}, 422, "INVALID"),
        ({"version": 0, "targets": [BTC], "rules": {"band": "2"}}, 422, "INVALID"),
        ({"version": 0, "targets": [BTC], "rules": {"bands": "0.1"}}, 422, "INVALID"),
        ({"version": 0}, 422, "INVALID"),
    ],
)
async def test_wrong_targets_are_a_coded_answer_with_its_remedy(
    gateway: Running, funded: Database, body: dict[str, Any], status: int, code: str
) -> None:
    await funded.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ('binance','ETHBTC','ETH','BTC',0.01,0.0001,0.0001,9000,5)"
    )
    answer = await call(gateway, "PUT", "/targets", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["remedy"]
    assert await funded.sql("SELECT * FROM portfolio_target_sets") == []


async def test_the_symbol_of_a_weighted_strategy_is_no_target(gateway: Running, funded: Database) -> None:
    await funded.sql(
        "INSERT INTO strategy_instances (id, strategy, symbol, timeframe, account_id, venue, size) VALUES"
        " ('trend', 'sma_cross', 'BTCUSDT', '1h', 1, 'paper', 1000)"
    )
    body: dict[str, Any] = {"version": 0, "instances": [{"instance": "trend", "weight": "0.2"}]}
    mixed = await call(gateway, "PUT", "/targets", body | {"targets": [BTC]})
    assert (mixed.status_code, mixed.json()["code"]) == (422, "TARGETS_MIXED"), mixed.text
    assert ("BTCUSDT" in mixed.json()["detail"], bool(mixed.json()["remedy"])) == (True, True)
    assert await funded.sql("SELECT * FROM portfolio_target_sets") == [], "nothing is half-written"
    made = await call(gateway, "PUT", "/targets", body | {"targets": [ETH]})
    assert made.status_code == 200, made.text


async def test_a_delisted_instrument_is_no_target(gateway: Running, funded: Database) -> None:
    for days, code in ((-1, None), (0, "TARGETS_WRONG")):
        await funded.sql(
            "INSERT INTO corporate_actions (exchange, symbol, kind, day, published_at)"
            " SELECT exchange, symbol, 'delisting', (now() AT TIME ZONE 'UTC')::date - $1::int, now() - interval '1 hour'"
            " FROM instruments WHERE symbol = 'BTCUSDT'", days,
        )  # fmt: skip
        answer = await aim(gateway, BTC, version=1 if code else 0)
        assert answer.json().get("code") == code, answer.text
    assert "delisted" in answer.json()["detail"]
    assert answer.json()["remedy"]


async def test_an_account_with_the_number_of_another_as_its_name_trades(gateway: Running, funded: Database) -> None:
    [row] = await funded.sql(
        "INSERT INTO accounts (name, venue, initial_balance) VALUES ('1', 'paper', 5) RETURNING id"
    )
    await funded.sql("INSERT INTO portfolio_members (portfolio_id, account_id) VALUES (1, $1)", row["id"])
    made = await call(gateway, "PUT", "/targets", {"version": 0, "targets": [BTC], "account": "1"})
    assert made.json()["account"] == "1", "a name comes before a number"
    kept = await call(gateway, "PUT", "/targets", {"version": 1, "targets": [BTC]})
    assert kept.json()["account"] == "1", "the account of the targets before stays"


async def test_a_preview_has_each_order_its_costs_and_its_denial(gateway: Running, funded: Database) -> None:
    await aim(gateway, BTC, ETH)
    drift = (await call(gateway, "GET", "/drift", scope="read")).json()
    assert [(i["symbol"], i["weight"], i["is_outside"], i["target"], i["reason"]) for i in drift["items"]] == [
        ("BTCUSDT", "0", True, "0.5", "BAND"),
        ("ETHUSDT", "0", True, "0.3", "BAND"),
    ], "the reason is that of what a rebalancing would leave: the costs alone"
    await funded.sql("UPDATE feeds SET state = 'STALE' WHERE symbol = 'ETHUSDT'")
    body = (await call(gateway, "POST", "/preview")).json()
    assert [(t["symbol"], t["quantity"], t["value"], t["fee"]) for t in body["trades"]] == [
        ("BTCUSDT", "0.1", "5000", "5"),
        ("ETHUSDT", "1.5", "3000", "3"),
    ]
    assert [t["denial"] and t["denial"]["code"] for t in body["trades"]] == [None, "FEED_STALE"]
    assert (body["capital"], body["cash"], body["cash_after"], body["fees"]) == ("10000", "10000", "1992", "8")
    assert len(body["plan_hash"]) == 64
    assert (await call(gateway, "GET", "/runs", scope="read")).json()["items"] == [], "a preview is no run"
    assert await funded.sql("SELECT * FROM signals") == []


async def test_a_preview_has_the_gain_of_each_sell_by_lot(gateway: Running, funded: Database, fks: Fks) -> None:
    """By hand: bought 0.1 at 20000 with fee 2, 0.1 at 40000; 0.15 are sold at 50000 with fee 7.5."""
    await funded.sql(
        "INSERT INTO trades (fill_id, account_id, venue, symbol, instance, trade_type, quantity, price, fee, fee_currency,"
        " time) VALUES (gen_random_uuid(), 1, 'paper', 'BTCUSDT', 'portfolio:1', 'BUY', 0.1, 20000, 2, 'USDT', '2026-01-01'),"
        " (gen_random_uuid(), 1, 'paper', 'BTCUSDT', 'portfolio:1', 'BUY', 0.1, 40000, 0, 'USDT', '2026-02-01')"
    )
    await funded.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price) VALUES"
        " (1, 'paper', 'BTCUSDT', 'portfolio:1', 0.2, 30000)"
    )
    await aim(gateway, BTC | {"weight": "0.125"})
    (plain,) = (await call(gateway, "POST", "/preview")).json()["trades"]
    assert (plain["side"], plain["quantity"], plain["fee"]) == ("sell", "0.15", "7.5")
    assert (plain["gain"], plain["lots"]) == (None, []), "they were not asked for"
    seen = (await call(gateway, "POST", "/preview?lots=true")).json()
    (trade,) = seen["trades"]
    assert [(lot["acquired_at"][:10], lot["quantity"], lot["cost"], D(lot["gain"])) for lot in trade["lots"]] == [
        ("2026-01-01", "0.1", "2002", D(5000) - 5 - 2002),
        ("2026-02-01", "0.05", "2000", D(2500) - D("2.5") - 2000),
    ]
    assert D(trade["gain"]) == D("3490.5")
    shown = (await fks("portfolio", "preview", "main", "--lots"))[1]
    assert ("2993.00" in shown, "497.50" in shown) == (True, True), shown
    await funded.sql("DELETE FROM trades")
    (unknown,) = (await call(gateway, "POST", "/preview?lots=true")).json()["trades"]
    assert (unknown["gain"], [lot["gain"] for lot in unknown["lots"]]) == (None, [None]), "never zero"
    started = await call(gateway, "POST", "/rebalance", {"plan_hash": seen["plan_hash"]})
    assert started.status_code == 202, "lots change no plan"


async def test_a_plan_becomes_a_run_that_can_be_read_and_cancelled(gateway: Running, funded: Database) -> None:
    await aim(gateway, BTC, ETH)
    plan = (await call(gateway, "POST", "/preview")).json()
    begun = await call(gateway, "POST", "/rebalance", {"plan_hash": plan["plan_hash"]})
    assert (begun.status_code, begun.json()["state"]) == (202, "running"), begun.text
    run = begun.json()["id"]
    assert begun.headers["location"] == f"/portfolios/main/runs/{run}"
    assert (await call(gateway, "POST", "/rebalance", {"plan_hash": plan["plan_hash"]})).json()["id"] == run
    [row] = (await call(gateway, "GET", "/runs", scope="read")).json()["items"]
    assert (row["id"], row["capital"], row["created_by"]) == (run, "10000", "t-trade")
    steps = (await call(gateway, "GET", f"/runs/{run}", scope="read")).json()["steps"]
    assert [(s["step"], s["symbol"], s["state"], s["filled"]) for s in steps] == [
        (1, "BTCUSDT", "waiting", "0"),
        (2, "ETHUSDT", "waiting", "0"),
    ]
    ended = await call(gateway, "POST", f"/runs/{run}/cancel")
    assert (ended.status_code, ended.json()["state"], ended.json()["reason"]) == (
        202, "cancelling", "cancelled by t-trade",
    )  # fmt: skip


async def test_a_plan_hash_is_used_once(gateway: Running, funded: Database) -> None:
    """A retry while the run is under way returns it; after its end, or of a cancelled plan, it is refused."""
    await aim(gateway, BTC, ETH)
    sent = {"plan_hash": (await call(gateway, "POST", "/preview")).json()["plan_hash"]}
    run = (await call(gateway, "POST", "/rebalance", sent)).json()["id"]
    for state in ("running", "cancelling"):
        again = await call(gateway, "POST", "/rebalance", sent)
        assert (again.status_code, again.json()["id"], again.json()["state"]) == (202, run, state)
        await call(gateway, "POST", f"/runs/{run}/cancel")
    for state in ("done", "partial", "cancelled"):
        await funded.sql("UPDATE portfolio_runs SET state = $1, ended_at = now()", state)
        used = await call(gateway, "POST", "/rebalance", sent)
        assert (used.status_code, used.json()["code"]) == (409, "PLAN_USED"), used.text
        assert (run in used.json()["detail"], "preview" in used.json()["remedy"]) == (True, True)
    assert len((await call(gateway, "GET", "/runs", scope="read")).json()["items"]) == 1


async def test_what_there_is_not_is_refused(gateway: Running, funded: Database) -> None:
    for method, path in (("GET", "/drift"), ("POST", "/preview")):
        answer = await call(gateway, method, path)
        assert (answer.status_code, answer.json()["code"]) == (404, "TARGETS_MISSING")
    answer = await call(gateway, "POST", "/rebalance", {"plan_hash": "0" * 64})
    assert (answer.status_code, answer.json()["code"]) == (409, "PLAN_UNKNOWN")
    assert (await call(gateway, "POST", "/rebalance", {"plan_hash": "x"})).json()["code"] == "INVALID"
    for method, path in (("GET", ""), ("POST", "/cancel")):
        answer = await call(gateway, method, f"/runs/{uuid.uuid4()}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "RUN_UNKNOWN")
    await funded.sql("UPDATE portfolios SET state = 'archived'")
    assert (await aim(gateway, BTC)).json()["code"] in ("PORTFOLIO_ARCHIVED", "TARGETS_WRONG")


async def test_the_commands_set_show_preview_start_and_cancel(fks: Fks, funded: Database) -> None:
    code, out, _ = await fks(
        "portfolio", "targets", "main", "--set", "BTC/USDT=0.5", "--set", "ETHUSDT=0.3,0.2,0.4", "--rule", "band=0.05"
    )
    assert (code, "50.00 %" in out, "version 1, account demo; band 0.05" in out) == (OK, True, True), out
    assert "40.00 %" in (await fks("portfolio", "targets", "main"))[1]
    assert "band 0.01" in (await fks("portfolio", "targets", "main", "--rule", "band=0.01"))[1], "the weights stay"
    for wrong in ("BTC/USDT", "BTC/USDT=x", "BTC/USDT=0.5,0.4"):
        assert (await fks("portfolio", "targets", "main", "--set", wrong))[0] == USAGE
    assert (await fks("portfolio", "targets", "main", "--rule", "bands=1"))[0] == USAGE
    assert "capital 10000.00 USDT" in (await fks("portfolio", "drift", "main"))[1]
    assert "never rebalanced" in (await fks("portfolio", "runs", "main"))[1]
    shown = (await fks("portfolio", "preview", "main"))[1]
    assert "turnover 8000.00, fees 8.00" in shown
    plan = json.loads((await fks("portfolio", "preview", "main", "--json"))[1])
    assert plan["schema"] == "fks.portfolio.preview/1"
    begun = json.loads((await fks("portfolio", "rebalance", "main", plan["plan_hash"], "--json"))[1])
    assert (begun["schema"], begun["state"]) == ("fks.portfolio.run/1", "running")
    assert "running" in (await fks("portfolio", "runs", "main"))[1]
    assert "waiting" in (await fks("portfolio", "run", "main", begun["id"]))[1]
    assert "cancelling" in (await fks("portfolio", "cancel", "main", begun["id"]))[1]
    assert "PLAN_UNKNOWN" in (await fks("portfolio", "rebalance", "main", "0" * 64))[2]


@pytest.mark.parametrize("name", ["99999999999999999999", "a%00b", "..%2fmain", "-1", "%F0%9F%98%80", "x" * 300])
async def test_a_name_of_no_portfolio_is_unknown(gateway: Running, funded: Database, name: str) -> None:
    async with gateway.client("trade") as client:
        for method, path, body in (
            ("GET", "targets", None),
            ("GET", "drift", None),
            ("POST", "preview", None),
            ("POST", "rebalance", {"plan_hash": "0" * 64}),
            ("GET", "runs", None),
        ):
            answer = await client.request(method, f"/portfolios/{name}/{path}", json=body)
            assert 400 <= answer.status_code < 500, (method, path, answer.text)
            assert "Traceback" not in answer.text


async def test_a_plan_starts_its_own_portfolio_alone(gateway: Running, funded: Database) -> None:
    await funded.sql("INSERT INTO portfolios (name, base_currency) VALUES ('other', 'USDT')")
    await aim(gateway, BTC, ETH)
    plan = (await call(gateway, "POST", "/preview")).json()
    async with gateway.client("trade") as client:
        answer = await client.post("/portfolios/other/rebalance", json={"plan_hash": plan["plan_hash"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "PLAN_UNKNOWN")
    assert await funded.sql("SELECT FROM portfolio_runs WHERE state <> 'planned'") == []
    begun = (await call(gateway, "POST", "/rebalance", {"plan_hash": plan["plan_hash"]})).json()
    async with gateway.client("trade") as client:
        for method, path in (("GET", ""), ("POST", "/cancel")):
            answer = await client.request(method, f"/portfolios/other/runs/{begun['id']}{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "RUN_UNKNOWN")


@pytest.mark.parametrize(
    "body",
    [
        {"targets": [BTC | {"weight": "1e400"}]},
        {"targets": [BTC | {"weight": "Infinity"}]},
        {"targets": [BTC | {"weight": True}]},
        {"targets": [BTC | {"weight": "0x1"}]},
        {"targets": [BTC], "rules": {"trade_min": "1e400"}},
        {"targets": [BTC], "rules": {"run_max_age_s": "inf"}},
        {"targets": [BTC], "rules": {"run_max_age_s": "nan"}},
        {"targets": [BTC], "rules": {"cash_min": "-0.1"}},
        {"targets": [BTC], "rules": {"price_tolerance": "0"}},
        {"targets": [BTC], "rules": {"collar": "0"}},
        {"targets": [BTC], "rules": {"collar": "0.11"}},
        {"targets": [BTC], "version": 2**31},
    ],
)
async def test_a_number_that_is_no_share_changes_no_targets(
    gateway: Running, funded: Database, body: dict[str, Any]
) -> None:
    answer = await call(gateway, "PUT", "/targets", {"version": 0} | body)
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID"), answer.text
    assert await funded.sql("SELECT FROM portfolio_target_sets") == []
