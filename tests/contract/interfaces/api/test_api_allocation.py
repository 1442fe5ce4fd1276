"""Triggers and allocations of portfolios over HTTP, their job on stored bars, and the commands for them."""

from __future__ import annotations

import asyncio
import json
import uuid
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from fks.config.settings import Settings
from fks.interfaces.cli import jobs
from fks.interfaces.cli.base import OK, USAGE
from fks.interfaces.cli.portfolio import allocate as allocate_command
from fks.research.jobs.actions import ACTIONS, checked_params
from fks.research.jobs.runner import run_one
from fks.store.db import Database
from fks.store.jobs import JobStore
from fks.store.portfolio_runs import PortfolioRunStore
from fks.trading.portfolio.allocation import AllocationMethod
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running
from tests.support.strategies import collect

D = Decimal
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
DAYS = 120


@pytest.fixture
async def daily(seeded: Database) -> Database:
    """A portfolio `main` with targets of three instruments, and 120 daily bars of each; SOL moves most."""
    await seeded.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('binance', 'SOLUSDT', 'SOL', 'USDT', 0.01, 0.1, 0.1, 100000, 5)"
    )
    await seeded.sql("INSERT INTO balances (account_id, currency, free, locked) VALUES (1,'USDT',10000,0)")
    rng = np.random.default_rng(3)
    for number, symbol in enumerate(SYMBOLS):
        closes = 100 * np.cumprod(1 + rng.normal(0, 0.01 * (number + 1), DAYS))
        await seeded.sql(
            "INSERT INTO ohlcv_data (exchange, symbol, timeframe, time, open, high, low, close, volume, is_complete)"
            " SELECT 'binance', $1, '1d', date_trunc('day', now(), 'UTC') - ($3 - i) * interval '1 day', c, c, c, c, 1,"
            " true FROM unnest($2::float8[]) WITH ORDINALITY AS t(c, n), LATERAL (SELECT n - 1 AS i) x",
            symbol,
            closes.tolist(),
            DAYS,
        )
    await collect(seeded)
    await seeded.sql("INSERT INTO portfolios (name, base_currency) VALUES ('main', 'USDT')")
    await seeded.sql("INSERT INTO portfolio_members (portfolio_id, account_id) VALUES (1, 1)")
    await seeded.sql(
        "INSERT INTO portfolio_target_sets (portfolio_id, version, account_id, rules) VALUES"
        ' (1, 1, 1, \'{"cash_min": "0.05"}\')'
    )
    for symbol in SYMBOLS:
        await seeded.sql(
            "INSERT INTO portfolio_targets (portfolio_id, version, exchange, symbol, weight) VALUES"
            " (1, 1, 'binance', $1, 0.3)",
            symbol,
        )
    return seeded


async def call(gateway: Running, method: str, path: str, body: Any = None, *, scope: str = "trade") -> httpx.Response:
    async with gateway.client(scope) as client:
        return await client.request(method, f"/portfolios/main{path}", json=body)


async def worked(db: Database) -> None:
    """Run the queued job, as its runner does."""
    job = await JobStore(db).claim()
    assert job is not None
    await run_one(db, job.id, Path("/nonexistent"), settings=Settings())


async def allocated(gateway: Running, db: Database, **body: Any) -> dict[str, Any]:
    begun = await call(gateway, "POST", "/allocate", body)
    assert begun.status_code == 202, begun.text
    assert (begun.json()["state"], begun.json()["allocation"]) == ("queued", None)
    await worked(db)
    found: dict[str, Any] = (await call(gateway, "GET", f"/allocations/{begun.json()['id']}", scope="read")).json()
    return found


async def test_weights_come_from_stored_bars_and_become_targets(gateway: Running, daily: Database) -> None:
    found = await allocated(gateway, daily, method="risk_parity", window_days=90)
    assert (found["state"], found["error"]) == ("done", None)
    row = found["allocation"]
    weights = {item["symbol"]: D(item["weight"]) for item in row["weights"]}
    assert weights["BTCUSDT"] > weights["ETHUSDT"] > weights["SOLUSDT"] > 0
    assert D("0.949") < sum(weights.values()) <= D("0.95"), "the cash buffer stays"
    assert {item["before"] for item in row["weights"]} == {"0.3"}
    figures = row["diagnostics"]
    assert (figures["observations"], figures["coverage"]) == (89, dict.fromkeys(SYMBOLS, 1.0))
    assert [*figures["risk_shares"].values()] == pytest.approx([1 / 3] * 3, abs=1e-3)
    assert (row["state"], row["targets_version"], row["created_by"]) == ("ready", 1, "t-trade")
    again = await allocated(gateway, daily, method="risk_parity", window_days=90)
    assert again["allocation"]["inputs_hash"] == row["inputs_hash"]
    assert again["allocation"]["weights"] == row["weights"]
    other = await allocated(gateway, daily, method="risk_parity", window_days=80)
    assert other["allocation"]["inputs_hash"] != row["inputs_hash"]
    applied = await call(gateway, "POST", f"/allocations/{row['id']}/apply")
    assert (applied.status_code, applied.json()["version"], applied.headers["etag"]) == (200, 2, '"2"')
    assert {item["symbol"]: D(item["weight"]) for item in applied.json()["items"]} == weights
    late = await call(gateway, "POST", f"/allocations/{again['id']}/apply")
    assert (late.status_code, late.json()["code"]) == (409, "PORTFOLIO_VERSION")
    listed = (await call(gateway, "GET", "/allocations", scope="read")).json()["items"]
    assert [(item["id"], item["state"]) for item in listed][-1] == (row["id"], "applied")
    assert await daily.sql("SELECT FROM portfolio_runs") == [], "nothing is traded"


async def test_bars_after_as_of_change_nothing(gateway: Running, daily: Database) -> None:
    body: dict[str, Any] = {"method": "minimum_variance", "window_days": 60}
    [past] = await daily.sql("SELECT date_trunc('day', now(), 'UTC') - interval '30 days' AS at")
    body["as_of"] = past["at"].isoformat()
    before = await allocated(gateway, daily, **body)
    await daily.sql("UPDATE ohlcv_data SET close = close * random() WHERE time >= $1", past["at"])
    after = await allocated(gateway, daily, **body)
    assert after["allocation"]["inputs_hash"] == before["allocation"]["inputs_hash"]
    assert after["allocation"]["weights"] == before["allocation"]["weights"]


async def test_constraints_may_be_spelled_in_any_way(gateway: Running, daily: Database) -> None:
    found = await allocated(
        gateway, daily, method="minimum_variance", max={"BTC/USDT": 0.4}, min={"binance:SOLUSDT": 0.2},
        groups=[{"name": "layer1", "instruments": ["ETH/USDT", "SOLUSDT"], "max": 0.6}],
    )  # fmt: skip
    weights = {item["symbol"]: D(item["weight"]) for item in found["allocation"]["weights"]}
    assert weights["BTCUSDT"] <= D("0.4")
    assert weights["SOLUSDT"] >= D("0.199999")
    assert weights["ETHUSDT"] + weights["SOLUSDT"] <= D("0.6")


async def test_instruments_without_an_allocation_lose_their_target(gateway: Running, daily: Database) -> None:
    found = await allocated(gateway, daily, method="equal", instruments=["BTC/USDT", "ETH/USDT"])
    weights = {item["symbol"]: (item["weight"], item["before"]) for item in found["allocation"]["weights"]}
    assert weights == {"BTCUSDT": ("0.475", "0.3"), "ETHUSDT": ("0.475", "0.3"), "SOLUSDT": ("0", "0.3")}


# ── strategy instances ───────────────────────────────────────────────────────────────────────────
async def traded(db: Database, id: str, symbol: str, size: int, account: int = 1) -> None:
    """An instance of the member account since 100 days, which holds its size since 95 days."""
    await db.sql(
        "INSERT INTO strategy_instances (id, strategy, symbol, timeframe, account_id, venue, size, created_at) VALUES"
        " ($1, 's', $2, '1d', $4, 'paper', $3, now() - interval '100 days')",
        *(id, symbol, D(size), account),
    )
    await db.sql(
        "INSERT INTO trades (fill_id, account_id, venue, symbol, instance, trade_type, quantity, price, fee,"
        " fee_currency, time) SELECT gen_random_uuid(), $4, 'paper', $2, $1, 'BUY', $3 / close::numeric,"
        " close::numeric, 1, 'USDT', time + interval '1 day' FROM ohlcv_data WHERE symbol = $2"
        " ORDER BY time OFFSET 25 LIMIT 1",
        *(id, symbol, D(size), account),
    )


@pytest.fixture
async def strategies(daily: Database) -> Database:
    """`main` has the target 0.3 of ETHUSDT alone, and 0.2 and 0.1 of the instances `btc` and `sol`."""
    await daily.sql("DELETE FROM portfolio_targets WHERE symbol <> 'ETHUSDT'")
    for id, symbol, size, weight in (("btc", "BTCUSDT", 2000, "0.2"), ("sol", "SOLUSDT", 500, "0.1")):
        await traded(daily, id, symbol, size)
        await daily.sql(
            "INSERT INTO instance_targets (portfolio_id, version, instance_id, weight) VALUES (1, 1, $1, $2)",
            *(id, D(weight)),
        )
    return daily


def by_name(allocation: dict[str, Any]) -> dict[str, tuple[Decimal, str | None]]:
    return {row["instance"] or row["symbol"]: (D(row["weight"]), row["before"]) for row in allocation["weights"]}


async def test_weights_of_instances_come_from_their_profits(gateway: Running, strategies: Database) -> None:
    body: dict[str, Any] = {"method": "inverse_volatility", "window_days": 60}
    found = (await allocated(gateway, strategies, **body, instances=["btc", "sol"]))["allocation"]
    weights = by_name(found)
    assert {name: before for name, (_, before) in weights.items()} == {"btc": "0.2", "sol": "0.1"}
    assert weights["btc"][0] > weights["sol"][0] > 0, "SOL moves three times as much"
    assert weights["btc"][0] + weights["sol"][0] == pytest.approx(D("0.65"), abs=D("0.00001")), "ETH keeps its 0.3"
    assert found["diagnostics"]["coverage"] == {"btc": 1.0, "sol": 1.0}
    before = await strategies.sql("SELECT id, size, params_version FROM strategy_instances ORDER BY id")
    applied = (await call(gateway, "POST", f"/allocations/{found['id']}/apply")).json()
    assert {row["instance"]: D(row["weight"]) for row in applied["instances"]} == {
        name: weight for name, (weight, _) in weights.items()
    }
    assert [(row["symbol"], D(row["weight"])) for row in applied["items"]] == [("ETHUSDT", D("0.3"))]
    after = await strategies.sql("SELECT id, size, params_version FROM strategy_instances ORDER BY id")
    assert [tuple(row) for row in after] == [tuple(row) for row in before], "the sizes wait for the scheduler"
    assert await strategies.sql("SELECT FROM signals") == [], "nothing is traded"


async def test_the_role_of_job_runners_may_allocate_instances(
    gateway: Running, strategies: Database, as_jobs: Database
) -> None:
    for instances in (None, ["btc", "sol"]):
        begun = await call(gateway, "POST", "/allocate", {"method": "equal", "instances": instances})
        await worked(as_jobs)
        found = (await call(gateway, "GET", f"/allocations/{begun.json()['id']}", scope="read")).json()
        assert (found["state"], found["error"]) == ("done", None)


async def test_instruments_and_instances_are_allocated_together(gateway: Running, strategies: Database) -> None:
    found = (await allocated(gateway, strategies, method="equal", max={"btc": 0.2, "ETH/USDT": 0.25}))["allocation"]
    assert by_name(found) == {"ETHUSDT": (D("0.25"), "0.3"), "btc": (D("0.2"), "0.2"), "sol": (D("0.499999"), "0.1")}
    alone = (await allocated(gateway, strategies, method="equal", instruments=["ETH/USDT"]))["allocation"]
    assert by_name(alone) == {"ETHUSDT": (D("0.65"), "0.3")}, "what the instances leave"
    applied = (await call(gateway, "POST", f"/allocations/{alone['id']}/apply")).json()
    assert {row["instance"]: D(row["weight"]) for row in applied["instances"]} == {"btc": D("0.2"), "sol": D("0.1")}
    one = (await allocated(gateway, strategies, method="equal", instances=["btc"]))["allocation"]
    assert by_name(one) == {"btc": (D("0.2"), "0.2")}, "0.65 and 0.1 stay"


async def test_a_fee_in_the_coin_leaves_no_holding_behind(strategies: Database) -> None:
    await strategies.sql("DELETE FROM trades")
    for side, quantity, fee, currency in (("BUY", "2", "0.002", "BTC"), ("SELL", "1.998", "0", "USDT")):
        await strategies.sql(
            "INSERT INTO trades (fill_id, account_id, venue, symbol, instance, trade_type, quantity, price, fee,"
            " fee_currency, time) VALUES (gen_random_uuid(), 1, 'paper', 'BTCUSDT', 'btc', $1, $2, 100, $3, $4, now())",
            *(side, D(quantity), D(fee), currency),
        )
    fills = await PortfolioRunStore(strategies).instance_fills("btc")
    assert sum(fill.quantity for fill in fills) == 0
    assert sum(fill.quantity * fill.price + (fill.fee or 0) for fill in fills) == D("0.2"), "paid: 200 less 199.8"


async def test_executions_have_the_size_of_their_time(strategies: Database) -> None:
    store = PortfolioRunStore(strategies)
    assert [fill.size for fill in await store.instance_fills("btc")] == [2000], "no version has one"
    await strategies.sql(
        "INSERT INTO trades (fill_id, account_id, venue, symbol, instance, trade_type, quantity, price, fee, time)"
        " SELECT gen_random_uuid(), 1, 'paper', 'BTCUSDT', 'btc', 'BUY', 1, 100, 0, time + n * interval '1 day'"
        " FROM trades, generate_series(1, 4) n WHERE instance = 'btc'"
    )
    await strategies.sql(
        "INSERT INTO strategy_parameters (instance_id, version, strategy, params, size, created_at)"
        " SELECT 'btc', n, 's', '{}', NULLIF(n, 3) * 10, min(time) + n * interval '1 day' FROM trades, generate_series(1, 4) n"
        " WHERE instance = 'btc' GROUP BY n"
    )
    assert [fill.size for fill in await store.instance_fills("btc")] == [10, 10, 20, 20, 40]


async def test_fees_without_a_rate_are_counted(gateway: Running, strategies: Database) -> None:
    await strategies.sql("UPDATE trades SET fee_currency = 'BNB' WHERE instance = 'btc'")
    found = await allocated(gateway, strategies, method="equal", instances=["btc", "sol"])
    assert found["allocation"]["diagnostics"]["fees_unvalued"] == {"btc": 1}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"instances": ["btc", "sol"], "window_days": 110}, "btc 9"),
        ({"instances": ["idle", "btc"], "method": "inverse_volatility"}, "all returns of idle"),
    ],
)
async def test_an_allocation_of_instances_that_fails_says_why(
    gateway: Running, strategies: Database, body: dict[str, Any], named: str
) -> None:
    await traded(strategies, "idle", "ETHUSDT", 100)
    await strategies.sql("DELETE FROM trades WHERE instance = 'idle'")
    found = await allocated(gateway, strategies, **{"method": "equal", **body})
    assert (found["state"], found["allocation"]) == ("failed", None)
    assert named in found["error"]
    assert await strategies.sql("SELECT FROM allocations") == []


@pytest.mark.parametrize(
    ("body", "status", "code", "named"),
    [
        ({"instances": ["none"]}, 404, "INSTANCE_UNKNOWN", "there is no instance 'none'"),
        ({"instances": ["far"]}, 422, "TARGETS_WRONG", "is of no member"),
        ({"instances": ["percent"]}, 422, "TARGETS_WRONG", "sized by equity_pct"),
        ({"instances": ["btc", "btc"]}, 422, "ALLOCATION_INPUTS", "named twice"),
        ({"instances": []}, 422, "ALLOCATION_INPUTS", "no instance to allocate"),
        ({"instances": ["btc"], "max": {"btc": 0.1}}, 422, "ALLOCATION_INFEASIBLE", "max of btc 0.1"),
        ({"instances": ["btc"], "max": {"sol": 0.1}}, 404, "SYMBOL_UNKNOWN", "sol"),
        ({"instances": ["idle"]}, 422, "ALLOCATION_INFEASIBLE", "nothing is left"),
    ],
)
async def test_an_allocation_of_instances_that_cannot_be_is_refused_at_once(
    gateway: Running, strategies: Database, body: dict[str, Any], status: int, code: str, named: str
) -> None:
    for id, account, sizing in (("far", 2, "notional"), ("percent", 1, "equity_pct"), ("idle", 1, "notional")):
        await traded(strategies, id, "ETHUSDT", 100, account)
        await strategies.sql("UPDATE strategy_instances SET sizing = $2 WHERE id = $1", *(id, sizing))
    if named == "nothing is left":
        await strategies.sql("UPDATE portfolio_targets SET weight = 0.65")
    await is_refused_at_once(gateway, strategies, {"method": "equal", **body}, status, code, named)


@pytest.mark.parametrize(
    ("body", "status", "code", "named"),
    [
        ({"max": {"BTC/USDT": 0.1, "ETH/USDT": 0.1, "SOL/USDT": 0.1}}, 422, "ALLOCATION_INFEASIBLE", "max of BTCUSDT"),
        ({"instruments": ["NOPE"]}, 404, "SYMBOL_UNKNOWN", "NOPE"),
        ({"instruments": []}, 422, "ALLOCATION_INPUTS", "no instrument"),
        ({"method": "fixed", "fixed": {"BTC/USDT": 0.5}}, 422, "ALLOCATION_WRONG", "other symbols"),
        ({"turnover_penalty": 0.1}, 422, "ALLOCATION_WRONG", "turnover penalty"),
    ],
)
async def test_an_allocation_that_cannot_be_is_refused_at_once(
    gateway: Running, daily: Database, body: dict[str, Any], status: int, code: str, named: str
) -> None:
    await is_refused_at_once(gateway, daily, {"method": "equal", **body}, status, code, named)


async def test_an_allocation_without_targets_or_instruments_is_refused(gateway: Running, daily: Database) -> None:
    await daily.sql("DELETE FROM portfolio_targets")
    await is_refused_at_once(gateway, daily, {"method": "equal"}, 422, "ALLOCATION_INPUTS", "no instrument")
    await daily.sql("DELETE FROM portfolio_target_sets")
    await is_refused_at_once(gateway, daily, {"method": "equal"}, 422, "ALLOCATION_INPUTS", "no instrument")


async def is_refused_at_once(
    gateway: Running, db: Database, body: dict[str, Any], status: int, code: str, named: str
) -> None:
    answer = await call(gateway, "POST", "/allocate", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert named in answer.json()["detail"]
    assert answer.json()["remedy"]
    assert await db.sql("SELECT FROM jobs") == [], "nothing is queued"


async def test_a_job_that_finds_too_few_bars_says_why(gateway: Running, daily: Database) -> None:
    found = await allocated(gateway, daily, method="equal", window_days=300)
    assert (found["state"], found["allocation"]) == ("failed", None)
    assert "BTCUSDT 40.0%" in found["error"]
    assert await daily.sql("SELECT FROM allocations") == []


@pytest.mark.parametrize("method", list(AllocationMethod))
async def test_each_method_finds_weights_for_a_caller(gateway: Running, daily: Database, method: str) -> None:
    fixed = {"BTC/USDT": 0.4, "ETH/USDT": 0.3, "SOL/USDT": 0.2} if method == "fixed" else {}
    found = await allocated(gateway, daily, method=method, fixed=fixed)
    assert (found["state"], found["error"]) == ("done", None)
    weights = {item["symbol"]: D(item["weight"]) for item in found["allocation"]["weights"]}
    assert {*weights} == {*SYMBOLS}
    assert min(weights.values()) >= 0
    assert D(0) < sum(weights.values()) <= D("0.95"), "the cash buffer stays"
    if fixed:
        assert weights == {"BTCUSDT": D("0.4"), "ETHUSDT": D("0.3"), "SOLUSDT": D("0.2")}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"method": "best"},
        {"method": "equal", "window_days": 1},
        {"method": "equal", "timeframe": "1M"},
        {"method": "equal", "coverage_min": 0},
        {"method": "equal", "max": {"BTC/USDT": 2}},
        {"method": "equal", "fixed": {"BTC/USDT": "NaN"}},
        {"method": "equal", "apply": True},
        {"method": "equal", "portfolio": "other"},
    ],
)
async def test_a_wrong_request_queues_nothing(gateway: Running, daily: Database, body: dict[str, Any]) -> None:
    answer = await call(gateway, "POST", "/allocate", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID"), answer.text
    assert await daily.sql("SELECT FROM jobs") == []


async def test_a_killed_job_writes_its_row_once(gateway: Running, daily: Database) -> None:
    begun = (await call(gateway, "POST", "/allocate", {"method": "equal"})).json()
    await worked(daily)
    await daily.sql(
        "UPDATE jobs SET state = 'queued', result = NULL, finished_at = NULL"
    )  # died before its end was written
    await worked(daily)
    rows = await daily.sql("SELECT id, created_by FROM allocations")
    assert [(str(row["id"]), row["created_by"]) for row in rows] == [(begun["id"], "t-trade")]


async def test_a_schedule_has_its_weights_applied(daily: Database) -> None:
    params = checked_params("allocate", {"portfolio": "main", "method": "equal", "apply": True})
    component: Any = SimpleNamespace(db=daily)
    id = uuid.uuid4()
    for _ in range(2):
        assert await ACTIONS["allocate"][1](component, params, id) == f"job {id}"
    await worked(daily)
    rows = await daily.sql("SELECT id, state, created_by FROM allocations")
    assert [tuple(row) for row in rows] == [(id, "waiting", "schedule")]


async def test_a_trigger_is_set_and_shown(gateway: Running, daily: Database) -> None:
    first = (await call(gateway, "GET", "/trigger", scope="read")).json()
    assert (first["trigger"], first["cooldown_s"], first["decision"]) == ("person", 3600.0, None)
    made = await call(gateway, "PUT", "/trigger", {"trigger": "drift", "band": "0.03", "needs_approval": True})
    assert made.status_code == 200, made.text
    body = made.json()
    assert (body["trigger"], body["band"], body["needs_approval"], body["updated_by"]) == (
        "drift", "0.03", True, "t-trade",
    )  # fmt: skip
    assert (await call(gateway, "GET", "/trigger", scope="read")).json() == body
    for wrong in (
        {"trigger": "always"}, {"band": "2"}, {"cooldown_s": -1}, {"cooldown_s": "inf"}, {"change_max": "NaN"},
    ):  # fmt: skip
        answer = await call(gateway, "PUT", "/trigger", wrong)
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID"), answer.text
    assert (await call(gateway, "PUT", "/trigger", {"timeframe": "7m"})).json()["code"] == "TIMEFRAME_UNKNOWN"
    await daily.sql("UPDATE portfolios SET state = 'archived'")
    assert (await call(gateway, "PUT", "/trigger", {})).json()["code"] == "PORTFOLIO_ARCHIVED"


async def test_an_allocation_of_another_portfolio_is_unknown(gateway: Running, daily: Database) -> None:
    found = await allocated(gateway, daily, method="equal")
    await daily.sql("INSERT INTO portfolios (name, base_currency) VALUES ('other', 'USDT')")
    async with gateway.client("trade") as client:
        for method, path in (("GET", ""), ("POST", "/apply")):
            answer = await client.request(method, f"/portfolios/other/allocations/{found['id']}{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "ALLOCATION_UNKNOWN")
    assert (await call(gateway, "GET", f"/allocations/{uuid.uuid4()}")).json()["code"] == "ALLOCATION_UNKNOWN"


async def test_an_instance_is_allocated_by_command(
    fks: Fks, strategies: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.05)

    async def runner() -> None:
        while (job := await JobStore(strategies).claim()) is None:
            await asyncio.sleep(0.05)
        await run_one(strategies, job.id, Path("/nonexistent"), settings=Settings())

    running = asyncio.create_task(runner())
    code, out, err = await fks(
        "portfolio", "allocate", "main", "--method", "equal", "--window", "60d", "--instance", "btc", "--instance", "sol",
        "--max", "btc=0.2", "--group", "both=btc,sol:0.7", "--apply",
    )  # fmt: skip
    await running
    assert (code, "20.00 %" in out, "45.00 %" in out, "applied" in out) == (OK, True, True, True), err
    shown = json.loads((await fks("portfolio", "targets", "main", "--json"))[1])
    assert {row["instance"]: D(row["weight"]) for row in shown["instances"]} == {"btc": D("0.2"), "sol": D("0.45")}


async def test_the_commands_allocate_apply_and_set_the_trigger(
    fks: Fks, daily: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice: Any = next(option for option in allocate_command.params if option.name == "method").type
    assert [*choice.choices] == [method.value for method in AllocationMethod]
    monkeypatch.setattr(jobs, "POLL_S", 0.05)

    async def runner() -> None:
        while True:
            if (job := await JobStore(daily).claim()) is not None:
                await run_one(daily, job.id, Path("/nonexistent"), settings=Settings())
            await asyncio.sleep(0.05)

    running = asyncio.create_task(runner())
    try:
        code, out, err = await fks(
            "portfolio", "allocate", "main", "--method", "equal", "--window", "60d",
            "--max", "BTC/USDT=0.2", "--group", "rest=ETH/USDT,SOL/USDT:0.8",
        )  # fmt: skip
        assert (code, "20.00 %" in out, "37.50 %" in out, "fks portfolio apply main" in out) == (
            OK,
            True,
            True,
            True,
        ), err
        assert "ready" in (await fks("portfolio", "allocations", "main"))[1]
        code, out, _ = await fks("portfolio", "allocate", "main", "--method", "inverse_volatility", "--apply", "--json")
        found = json.loads(out)
        assert (code, found["state"], found["applied_version"]) == (OK, "applied", 2)
        code, _, err = await fks("portfolio", "allocate", "main", "--method", "equal", "--window", "900d")
        assert (code != OK, "too few" in err) == (True, True)
        assert "version 2" in (await fks("portfolio", "apply", "main", found["id"]))[1]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    for wrong in (("--max", "BTC/USDT"), ("--group", "a=b"), ("--window", "x")):
        assert (await fks("portfolio", "allocate", "main", "--method", "equal", *wrong))[0] == USAGE
    assert "person" in (await fks("portfolio", "trigger", "main"))[1]
    assert "5.00 %" in (await fks("portfolio", "trigger", "main", "--by", "drift", "--band", "0.05", "--approval"))[1]
    shown = (await fks("portfolio", "trigger", "main", "--band", "", "--cooldown", "60"))[1]
    assert ("the band of each target" in shown, "60 s" in shown, "waits for a person" in shown) == (True, True, True)
