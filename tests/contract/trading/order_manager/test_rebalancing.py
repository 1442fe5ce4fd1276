"""Rebalancing of a portfolio through the real order manager: previews, runs, and crashes between any two steps."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from fks.interfaces.entry.rebalancing import RebalanceDriver
from fks.model.account import Balance
from fks.model.errors import InputError
from fks.model.order import Side
from fks.model.signal import Kind
from fks.model.timeframe import NS, to_datetime, to_ns
from fks.research.jobs.scheduler import Scheduler
from fks.store.accounts import AccountStore
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.portfolios import PortfolioChanges
from tests.support.fast_clock import FastClock
from tests.support.invariants import assert_once
from tests.support.order_rig import seed
from tests.support.rebalancing import OWN, WEIGHTS, Dying, RebalancedPortfolio, rebalanced
from tests.support.scripted_venue import ScriptedVenue
from tests.support.strategies import collect
from tests.support.waiting import until

D = Decimal


@pytest.fixture
async def main(database: Database, bus: Bus, venue: ScriptedVenue) -> AsyncIterator[RebalancedPortfolio]:
    async for portfolio in rebalanced(database, bus, venue):
        yield portfolio


async def test_a_portfolio_comes_to_its_targets(main: RebalancedPortfolio) -> None:
    assert (await main.aim(*WEIGHTS))["version"] == 1
    seen = await main.persons.preview("main", "ann")
    assert [(t["side"], t["symbol"], t["quantity"], t["denial"]) for t in seen["trades"]] == [
        ("buy", "BTCUSDT", D(40), None),
        ("buy", "ETHUSDT", D(300), None),
        ("buy", "SOLUSDT", D(1000), None),
    ]
    assert (seen["capital"], seen["fees"], seen["turnover"]) == (D(10_000), D(9), D(9_000))
    run = await main.ended(await main.persons.rebalance("main", seen["plan_hash"], "ann"))
    assert (run["state"], run["reason"], {step["state"] for step in run["steps"]}) == ("done", None, {"filled"})
    held = await main.held()
    assert held == {"BTCUSDT": D("39.96"), "ETHUSDT": D("299.7"), "SOLUSDT": D("999")}, "less a fee of 0.1 %"
    for row in run["items"]:
        assert row["reason"] == "BAND"
        assert D(row["weight_min"]) <= D(row["weight"]) <= D(row["weight_max"])
    assert (await main.persons.preview("main", "ann"))["trades"] == [], "nothing is left to trade"
    principals = await main.rig.db.sql("SELECT DISTINCT source, instance FROM signals")
    assert [tuple(row) for row in principals] == [(f"principal:{OWN}", OWN)]


async def test_buys_wait_for_the_fills_of_their_sells(main: RebalancedPortfolio) -> None:
    await main.aim(("BTCUSDT", D("0.9")))
    await main.ended(await main.start())
    await main.aim(("ETHUSDT", D("0.9")), version=1)
    main.rig.venue.script.append("rest")
    run, driver = await main.start(), main.driver()
    assert [(step["side"], step["symbol"]) for step in run["steps"]] == [("sell", "BTCUSDT"), ("buy", "ETHUSDT")]

    async def is_resting() -> dict[str, Any] | None:
        await driver.advance()
        found = await main.persons.run("main", run["id"])
        return found if found["steps"][0]["order_state"] in ("ACCEPTED", "WORKING") else None

    found = await until(is_resting)
    await driver.advance()
    assert found["steps"][1]["state"] == "waiting"
    sold = found["steps"][0]
    main.rig.venue.fill(sold["client_order_id"], sold["quantity"])
    run = await main.ended(run, driver)
    assert run["state"] == "done", run
    held = await main.held()
    assert held["BTCUSDT"] < D("0.001")
    assert D(8_800) < held["ETHUSDT"] * 10 < D(9_000)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_driver_killed_at_every_statement_orders_each_step_once(main: RebalancedPortfolio, after: bool) -> None:
    """Each driver dies one statement later than the one before it, on the rows that these have left; again from the
    first statement on, while the run waits for the order manager."""
    venue = main.rig.venue
    await main.aim(*WEIGHTS)
    await main.ended(await main.start())
    await main.aim(("BTCUSDT", D("0.1")), ("ETHUSDT", D("0.1")), ("SOLUSDT", D("0.7")), version=1)
    before = await main.held()
    run, died = await main.start(), 0
    for turn in range(2_000):
        driver = main.driver(Dying(main.rig.db, 1 + turn % 80, after=after))
        try:
            await driver.advance()
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            died += 1
        if (await main.persons.run("main", run["id"]))["ended_at"] is not None:
            break
    found = await main.persons.run("main", run["id"])
    assert (found["state"], {step["state"] for step in found["steps"]}) == ("done", {"filled"})
    assert died >= 20, "it was killed at each statement of a turn"
    assert_once(venue.received)
    assert len(venue.received) == 6, "each client order id once"
    for step in found["steps"]:
        if step["side"] == Side.SELL.value:
            assert step["filled"] <= before[step["symbol"]], "nothing is sold beyond the holding"
    for row in found["items"]:
        assert D(row["weight_min"]) <= D(row["weight"]) <= D(row["weight_max"]), row


async def test_a_restarted_order_manager_ends_the_run(main: RebalancedPortfolio) -> None:
    await main.aim(*WEIGHTS)
    run, driver = await main.start(), main.driver()
    await main.rig.crash()
    await driver.advance()
    await main.rig.start()
    found = await main.ended(run)
    assert found["state"] == "done"
    assert_once(main.rig.venue.received)
    assert len(main.rig.venue.received) == 3


async def test_the_scheduler_carries_a_run_out(main: RebalancedPortfolio) -> None:
    rig = main.rig
    component: Any = SimpleNamespace(
        db=rig.db, bus=rig.bus, clock=rig.clock, settings=rig.settings, log=rig.log, meter=rig.meter, lease=None
    )

    async def run_job(home: str, job_id: str, gpus: int) -> None: ...

    await main.aim(*WEIGHTS)
    run = await main.start()
    scheduler = asyncio.create_task(Scheduler(component, run_job, advance_runs=main.driver().advance).run())

    async def is_over() -> bool:
        return (await main.persons.run("main", run["id"]))["state"] == "done"

    try:
        await until(is_over)
    finally:
        scheduler.cancel()
        await asyncio.gather(scheduler, return_exceptions=True)
    assert "portfolio.run_ended" in rig.log.events("info")


async def test_a_buy_that_the_cash_does_not_pay_for_any_more_becomes_smaller(main: RebalancedPortfolio) -> None:
    """The sell brings less than planned: its price fell within the tolerance."""
    await main.aim(("BTCUSDT", D("0.9")))
    await main.ended(await main.start())
    await main.aim(("ETHUSDT", D("0.98")), version=1)
    seen = await main.persons.preview("main", "ann")
    main.rig.venue.prices["BTCUSDT"] = D("99.2")
    run = await main.ended(await main.persons.rebalance("main", seen["plan_hash"], "ann"))
    sold, bought = run["steps"]
    assert (run["state"], run["reason"]) == ("partial", "CASH")
    assert (sold["state"], bought["state"]) == ("filled", "filled")
    assert bought["filled"] == bought["ordered_quantity"] < bought["quantity"]
    cash = main.rig.venue.totals["USDT"]
    beyond = cash - D("0.02") * run["capital"]
    assert 0 <= beyond < bought["filled"] * 10 * D("0.001") + 1, "the buffer stays; this venue takes the fee in base"


async def test_orders_with_a_collar_expire_beyond_it_and_the_run_ends_partial(main: RebalancedPortfolio) -> None:
    await main.aim(*WEIGHTS, collar=D("0.005"))
    seen = await main.persons.preview("main", "ann")
    limits = {trade["symbol"]: trade["limit_price"] for trade in seen["trades"]}
    assert limits == {"BTCUSDT": D("100.5"), "ETHUSDT": D("10.05"), "SOLUSDT": D("2.01")}
    main.rig.venue.prices |= {"BTCUSDT": D("100.51"), "ETHUSDT": D("10.05")}
    run = await main.ended(await main.persons.rebalance("main", seen["plan_hash"], "ann"))
    assert (run["state"], run["reason"]) == ("partial", "SLIPPAGE_GUARD")
    steps = {step["symbol"]: step for step in run["steps"]}
    assert [(steps[symbol]["state"], steps[symbol]["code"]) for symbol in limits] == [
        ("ended", "SLIPPAGE_GUARD"), ("filled", None), ("filled", None),
    ]  # fmt: skip
    assert steps["ETHUSDT"]["average_price"] == D("10.05"), "a fill at the limit is one"
    assert {row["symbol"] for row in run["items"] if row["weight"] < row["weight_min"]} == {"BTCUSDT"}
    rows = await main.rig.db.sql("SELECT DISTINCT type, time_in_force FROM orders")
    assert [tuple(row) for row in rows] == [("limit", "fok")]
    main.rig.venue.prices["BTCUSDT"] = D("100.5")
    again = await main.ended(await main.start())
    assert (again["state"], [step["symbol"] for step in again["steps"]]) == ("done", ["BTCUSDT"])


async def test_equal_balances_read_after_an_execution_count_as_newer(database: Database) -> None:
    """Balances that were read between an execution and its booking have it already: those read next are equal."""
    await seed(database)
    store, now_ns, seen = AccountStore(database), to_ns(datetime.now(UTC)), list[int]()
    for second in (0, 1, 3, 4):
        if second == 3:
            await database.sql(
                "INSERT INTO trades (fill_id, account_id, venue, symbol, trade_type, quantity, price, fee, fee_currency,"
                " time, created_at) VALUES (gen_random_uuid(), 1, 'ccxt', 'BTCUSDT', 'SELL', 1, 100, 0, 'USDT', $1, $2)",
                to_datetime(now_ns), to_datetime(now_ns + 2 * NS),
            )  # fmt: skip
        await store.save_balances(1, [Balance("USDT", D(100), D(0))], now_ns + second * NS)
        seen.append((await store.balances(1))[0].updated_ns - now_ns)
    assert seen == [0, 0, 3 * NS, 3 * NS], "others are left alone"


async def test_balances_count_from_when_they_were_asked_for(main: RebalancedPortfolio) -> None:
    """An execution between question and answer is not among them, though they are written after it was booked."""
    venue, is_asked, may_answer = main.rig.venue, asyncio.Event(), asyncio.Event()
    read = venue.balances

    async def slow() -> dict[str, Balance]:
        found = await read()
        is_asked.set()
        await may_answer.wait()
        return found

    venue.totals["USDT"] += 1
    venue.balances = slow  # type: ignore[method-assign]
    await is_asked.wait()
    answered_ns = to_ns(datetime.now(UTC))
    may_answer.set()

    async def row() -> Any:
        found = {item.balance.currency: item for item in await AccountStore(main.rig.db).balances(1)}
        return found.get("USDT")

    async def is_kept() -> bool:
        return bool((await row()).balance.total == venue.totals["USDT"])

    await until(is_kept)
    assert (await row()).updated_ns < answered_ns


async def test_many_orders_are_sent_a_few_at_a_time(main: RebalancedPortfolio) -> None:
    await main.rig.db.sql("UPDATE instruments SET qty_max = 5 WHERE symbol = 'BTCUSDT'")
    await main.rig.read_slow()
    await main.aim(("BTCUSDT", D("0.4")))
    run, driver = await main.start(), main.driver()
    assert [step["quantity"] for step in run["steps"]] == [D(5)] * 8
    await driver.advance()
    assert sum(step["state"] != "waiting" for step in (await main.persons.run("main", run["id"]))["steps"]) == 3
    assert (await main.ended(run, driver))["state"] == "done"


async def test_coins_of_others_are_neither_counted_nor_sold(main: RebalancedPortfolio) -> None:
    bought = await main.rig.signal(size=D(20), timeframe=None, instance="", source="principal:ann", kind=Kind.ORDER)
    assert (await main.rig.outcome(bought))[0] == "ordered"
    await until(lambda: main.rig.position_is(D("19.98"), ""))
    await main.aim(("BTCUSDT", D(0)), ("ETHUSDT", D("0.5")))

    async def is_cash_read() -> bool:
        return (await main.persons.drift("main"))["cash"] == D(8000)

    await until(is_cash_read)
    seen = await main.persons.preview("main", "ann")
    assert (seen["capital"], [t["symbol"] for t in seen["trades"]]) == (D(8000), ["ETHUSDT"])
    await main.ended(await main.persons.rebalance("main", seen["plan_hash"], "ann"))
    assert await main.rig.position("") == D("19.98")


# ── reasons to wait, and ends ────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("statement", "undo", "code"),
    [
        ("UPDATE feeds SET state = 'STALE'", "UPDATE feeds SET state = 'LIVE'", "FEED_STALE"),
        (
            "INSERT INTO kill_switch (kill_id, is_engaged, scope, engaged_at, report) VALUES"
            " ('k', true, 'system', now(), '{\"flatten\": false}')",
            "UPDATE kill_switch SET is_engaged = false",
            "KILLED",
        ),
        (
            "UPDATE venue_states SET state = 'SYNCING'",
            "UPDATE venue_states SET state = 'READY'",
            "VENUE_NOT_RECONCILED",
        ),
        (
            "INSERT INTO venues (name, is_enabled, updated_by) SELECT DISTINCT venue, false, 'ann' FROM accounts",
            "UPDATE venues SET is_enabled = NULL",
            "VENUE_DISABLED",
        ),
        (
            "UPDATE feeds SET last_price = 1.05 * last_price",
            "UPDATE feeds SET last_price = last_price / 1.05",
            "PRICE_MOVED",
        ),
    ],
)
async def test_a_run_is_held_until_its_reason_is_over(
    main: RebalancedPortfolio, statement: str, undo: str, code: str
) -> None:
    await main.aim(*WEIGHTS)
    run, driver = await main.start(), main.driver()
    await main.rig.db.sql(statement)
    await driver.advance()
    found = await main.persons.run("main", run["id"])
    assert (found["state"], found["reason"].partition(":")[0]) == ("running", code), found
    assert {step["state"] for step in found["steps"]} == {"waiting"}
    await main.rig.db.sql(undo)
    await collect(main.rig.db)
    await main.rig.service.refresh()
    assert (await main.ended(run, driver))["state"] == "done"
    assert main.rig.log.events("warning").count("portfolio.run_held") == 1


async def test_past_its_time_a_run_ends_partial_with_the_drift_left(main: RebalancedPortfolio) -> None:
    await main.aim(*WEIGHTS)
    await main.rig.db.sql("UPDATE feeds SET state = 'STALE' WHERE symbol = 'SOLUSDT'")
    filled = ("filled", "FILLED")
    run = await main.ended_by_age(await main.start(), filled, filled, ("waiting", None))
    assert (run["state"], run["reason"]) == ("partial", "MAX_AGE")
    assert [step["code"] for step in run["steps"]] == [None, None, "NOT_SENT"]
    left = {row["symbol"]: row["drift_after"] for row in run["items"]}
    assert len(left) == 3


async def test_an_order_of_unknown_outcome_is_never_sent_again(main: RebalancedPortfolio) -> None:
    await main.aim(("BTCUSDT", D("0.5")))
    main.rig.venue.script.append("unheard")
    main.rig.venue.outages["query"] = 10_000
    main.rig.venue.history_hidden, main.rig.venue.streams_fills = True, False
    run = await main.ended_by_age(await main.start(), ("sent", "UNKNOWN"))
    assert (run["state"], run["steps"][0]["order_state"], run["steps"][0]["code"]) == ("partial", "UNKNOWN", "UNKNOWN")
    assert len(main.rig.venue.received) == 1
    seen = await main.persons.preview("main", "ann")
    assert (seen["trades"], seen["items"][0]["reason"]) == ([], "ORDER_UNKNOWN")


async def test_a_refused_step_ends_its_run_partial_and_the_rest_goes_on(main: RebalancedPortfolio) -> None:
    await main.aim(*WEIGHTS)
    main.rig.venue.script.append("refuse:-2010:other")
    run = await main.ended(await main.start())
    assert run["state"] == "partial"
    assert sorted(step["state"] for step in run["steps"]) == ["ended", "filled", "filled"]
    again = await main.ended(await main.start())
    assert (again["state"], len(again["steps"])) == ("done", 1), "another run trades what was left"


async def test_a_cancelled_run_keeps_what_has_filled_and_sends_no_more(main: RebalancedPortfolio) -> None:
    await main.aim(("BTCUSDT", D("0.9")))
    await main.ended(await main.start())
    await main.aim(("ETHUSDT", D("0.9")), version=1)
    main.rig.venue.script.append("rest")
    run, driver = await main.start(), main.driver()

    async def is_resting() -> bool:
        await driver.advance()
        return (await main.persons.run("main", run["id"]))["steps"][0]["order_state"] in ("ACCEPTED", "WORKING")

    await until(is_resting)
    assert (await main.persons.cancel("main", run["id"], "ann"))["state"] == "cancelling"
    found = await main.ended(run, driver)
    assert (found["state"], found["reason"]) == ("cancelled", "cancelled by ann")
    assert [(step["state"], step["code"]) for step in found["steps"]] == [("ended", "CANCELLED"), ("ended", "NOT_SENT")]
    with pytest.raises(InputError) as error:
        await main.persons.cancel("main", run["id"], "ann")
    assert (error.value.status, error.value.code) == (409, "RUN_ENDED")


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────
async def test_a_plan_is_started_once_and_only_while_it_holds(main: RebalancedPortfolio) -> None:
    await main.aim(*WEIGHTS)
    assert await main.refused("0" * 64) == (409, "PLAN_UNKNOWN")
    old = await main.persons.preview("main", "ann")
    await main.rig.db.sql("UPDATE portfolio_runs SET created_at = created_at - interval '61 s'")
    assert await main.refused(old["plan_hash"]) == (409, "PLAN_EXPIRED")
    seen = await main.persons.preview("main", "ann")
    await main.rig.db.sql("UPDATE feeds SET last_price = 102 WHERE symbol = 'BTCUSDT'")
    assert await main.refused(seen["plan_hash"]) == (409, "PRICE_MOVED")
    await main.rig.db.sql("UPDATE feeds SET last_price = 100.5 WHERE symbol = 'BTCUSDT'")
    await main.aim(("BTCUSDT", D("0.5")), version=1)
    assert await main.refused(seen["plan_hash"]) == (409, "PLAN_OUTDATED")
    first, second = [await main.persons.preview("main", "ann") for _ in range(2)]
    started = await asyncio.gather(*(main.persons.rebalance("main", first["plan_hash"], "ann") for _ in range(5)))
    assert {run["id"] for run in started} == {started[0]["id"]}, "the same hash is the same run"
    assert await main.refused(second["plan_hash"]) == (409, "PORTFOLIO_RUNNING")
    changes = PortfolioChanges(main.rig.db)
    for refused in (changes.archive("main"), changes.change("main", version=1, accounts=[]), main.aim(version=2)):
        with pytest.raises(InputError) as error:
            await refused
        assert (error.value.status, error.value.code) == (409, "PORTFOLIO_RUNNING")
    await main.ended(started[0])


async def test_a_plan_hash_used_twice_makes_no_order_twice(main: RebalancedPortfolio) -> None:
    await main.aim(*WEIGHTS)
    seen = await main.persons.preview("main", "ann")
    run = await main.persons.rebalance("main", seen["plan_hash"], "ann")
    driver = main.driver()
    await driver.advance()
    again = await main.persons.rebalance("main", seen["plan_hash"], "ann")
    assert (again["id"], again["state"]) == (run["id"], "running")
    await main.ended(again)
    assert await main.refused(seen["plan_hash"]) == (409, "PLAN_USED")
    await driver.advance()
    orders = await main.rig.db.sql("SELECT symbol FROM orders ORDER BY symbol")
    assert [row["symbol"] for row in orders] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]


async def test_of_several_plans_started_at_once_one_runs(main: RebalancedPortfolio) -> None:
    await main.aim(*WEIGHTS)
    hashes = [(await main.persons.preview("main", "ann"))["plan_hash"] for _ in range(4)]
    answers = await asyncio.gather(
        *(main.persons.rebalance("main", hash, "ann") for hash in hashes), return_exceptions=True
    )
    assert sum(isinstance(answer, dict) for answer in answers) == 1
    assert {answer.code for answer in answers if isinstance(answer, InputError)} == {"PORTFOLIO_RUNNING"}


async def test_a_replaced_scheduler_claims_no_step(main: RebalancedPortfolio) -> None:
    await main.aim(*WEIGHTS)
    run = await main.start()
    await main.rig.take_over()
    old = main.rig.lease
    await main.rig.take_over()
    zombie = RebalanceDriver(main.rig.db, main.rig.bus, main.rig.clock, main.rig.settings, main.rig.log, old)
    with contextlib.suppress(InputError):
        await zombie.advance()
    assert {step["state"] for step in (await main.persons.run("main", run["id"]))["steps"]} == {"waiting"}
    assert await main.rig.db.sql("SELECT FROM signals") == []


async def test_a_run_of_another_portfolio_or_none_is_unknown(main: RebalancedPortfolio) -> None:
    for found in (main.persons.run("main", uuid.uuid4()), main.persons.cancel("main", uuid.uuid4(), "ann")):
        with pytest.raises(InputError) as error:
            await found
        assert (error.value.status, error.value.code) == (404, "RUN_UNKNOWN")
    with pytest.raises(InputError) as missing:
        await main.persons.preview("main", "ann")
    assert (missing.value.status, missing.value.code) == (404, "TARGETS_MISSING")


async def test_the_account_changes_once_nothing_is_held_on_it(main: RebalancedPortfolio) -> None:
    await main.aim(("BTCUSDT", D("0.9")))
    await main.ended(await main.start())
    changes = PortfolioChanges(main.rig.db)
    await changes.change("main", version=1, accounts=["main", "sheet"])

    async def move() -> dict[str, Any]:
        return await main.persons.set_targets(
            "main", version=2, account="sheet", targets=[("BTCUSDT", D("0.5"), None, None)], rules={}, by="ann"
        )

    await main.aim(("BTCUSDT", D(0)), version=1)
    with pytest.raises(InputError) as error:
        await move()
    assert (error.value.status, error.value.code) == (422, "TARGETS_WRONG")
    await main.ended(await main.start())
    assert (await move())["account"] == "sheet"


# ── cancels, ends and cash that others change ────────────────────────────────────────────────────
async def test_a_signal_of_a_cancelled_run_is_used_by_no_order_manager(main: RebalancedPortfolio) -> None:
    await main.aim(*WEIGHTS)
    run, driver = await main.start(), main.driver()
    await main.rig.crash()
    await driver.advance()
    assert len(await main.rig.db.sql("SELECT FROM signals WHERE state = 'ready'")) == 3
    await main.persons.cancel("main", run["id"], "ann")
    await driver.advance()
    await main.rig.start()
    found = await main.ended(run, driver)
    assert (found["state"], main.rig.venue.received) == ("cancelled", [])
    assert {(step["state"], step["code"]) for step in found["steps"]} == {("ended", "NOT_SENT")}


async def test_no_order_is_sent_past_the_time_of_its_run(main: RebalancedPortfolio) -> None:
    await main.aim(("BTCUSDT", D("0.5")), run_max_age_s=20)
    run, driver = await main.start(), main.driver()
    await main.rig.crash()
    await driver.advance()
    assert len(await main.rig.db.sql("SELECT FROM signals WHERE state = 'ready'")) == 1
    main.rig.clock = later = FastClock()
    later.step(21)  # the scheduler is away, too
    driver = main.driver()
    await main.rig.start()
    found = await main.ended(run, driver)
    assert (found["state"], found["reason"], main.rig.venue.received) == ("partial", "MAX_AGE", [])


class After:
    """A database with which something happens once, right after one statement."""

    def __init__(self, db: Database, statement: str, event: Callable[[], Awaitable[Any]]) -> None:
        self._db, self._statement, self._event = db, statement, event

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._db, name)
        if name not in ("fetch", "fetchrow", "fetchval", "execute"):
            return method

        async def call(statement: str, *args: Any, **kwargs: Any) -> Any:
            answer = await method(statement, *args, **kwargs)
            if statement == self._statement:
                self._statement = ""
                await self._event()
            return answer

        return call


@pytest.mark.parametrize("statement", ["portfolio_runs.steps", "portfolio_runs.claim_step"])
async def test_a_run_cancelled_while_it_is_advanced_sends_nothing(main: RebalancedPortfolio, statement: str) -> None:
    await main.aim(("BTCUSDT", D("0.5")))
    run = await main.start()

    async def cancel() -> None:
        await main.persons.cancel("main", run["id"], "ann")

    await main.driver(After(main.rig.db, statement, cancel)).advance()
    found = await main.ended(run)
    assert (found["state"], main.rig.venue.received) == ("cancelled", [])


async def test_a_cancel_reaches_open_orders_while_the_scheduler_is_away(main: RebalancedPortfolio) -> None:
    await main.aim(("BTCUSDT", D("0.5")))
    main.rig.venue.script.append("rest")
    run = await main.start()
    await main.driver().advance()

    async def order_state() -> str | None:
        return (await main.persons.run("main", run["id"]))["steps"][0]["order_state"]  # type: ignore[no-any-return]

    async def is_resting() -> bool:
        return await order_state() in ("ACCEPTED", "WORKING")

    async def is_cancelled() -> bool:
        return await order_state() == "CANCELLED"

    await until(is_resting)
    await main.persons.cancel("main", run["id"], "ann")
    await until(is_cancelled)


async def test_cash_that_others_spend_meanwhile_is_not_spent_again(main: RebalancedPortfolio) -> None:
    """The buffer stays, although the plan counted cash that a person spends before the run buys."""
    await main.aim(("ETHUSDT", D("0.5")), cash_min=D("0.4"))
    seen = await main.persons.preview("main", "ann")
    bought = await main.rig.signal(size=D(30), timeframe=None, instance="", source="principal:ann", kind=Kind.ORDER)
    assert (await main.rig.outcome(bought))[0] == "ordered"

    async def is_cash_read() -> bool:
        return (await main.persons.drift("main"))["cash"] == D(7000)

    await until(is_cash_read)
    run = await main.ended(await main.persons.rebalance("main", seen["plan_hash"], "ann"))
    assert (run["state"], run["reason"]) == ("partial", "CASH")
    assert D(4000) <= main.rig.venue.totals["USDT"] < D(4010), "the buffer of the plan's capital"


async def test_a_run_does_not_end_with_the_cash_of_before_its_buys(main: RebalancedPortfolio) -> None:
    """The venue gives no balances for 20 s after them: what was bought counted twice, as coins and as cash."""
    await main.aim(("BTCUSDT", D("0.9")))
    run, driver = await main.start(), main.driver()
    main.rig.venue.outages["balances"] = 1_000_000

    async def is_filled() -> bool:
        await driver.advance()
        steps = (await main.persons.run("main", run["id"]))["steps"]
        return all(step["filled"] == step["quantity"] for step in steps)

    await until(is_filled)
    for table, age in (("orders", "20 s"), ("balances", "30 s")):
        await main.rig.db.sql(f"UPDATE {table} SET updated_at = updated_at - interval '{age}'")
    await driver.advance()
    assert (await main.persons.run("main", run["id"]))["state"] == "running"
    main.rig.venue.outages["balances"] = 0
    ended = await main.ended(run, driver)
    [bought] = [item for item in ended["items"] if item["symbol"] == "BTCUSDT"]
    assert (ended["state"], abs(D(bought["weight"]) - D("0.9")) < D("0.01")) == ("done", True)


async def test_a_run_ends_at_a_kill_that_sells_everything(main: RebalancedPortfolio) -> None:
    await main.aim(*WEIGHTS)
    run, driver = await main.start(), main.driver()
    await main.rig.db.sql(
        "INSERT INTO kill_switch (kill_id, is_engaged, scope, engaged_at, report) VALUES"
        " ('k', true, 'system', now(), '{\"flatten\": true}')"
    )
    await driver.advance()
    await main.rig.db.sql("UPDATE kill_switch SET is_engaged = false")
    found = await main.ended(run, driver)
    assert (found["state"], found["reason"].partition(":")[0], main.rig.venue.received) == ("cancelled", "KILLED", [])


async def test_coins_that_a_person_sold_meanwhile_are_not_sold_again(main: RebalancedPortfolio) -> None:
    await main.aim(("BTCUSDT", D("0.9")))
    await main.ended(await main.start())
    one = await main.rig.signal(size=D(2), timeframe=None, instance="", source="principal:ann", kind=Kind.ORDER)
    await main.rig.outcome(one)
    await until(lambda: main.rig.position_is(D("1.998"), ""))
    await main.aim(("BTCUSDT", D(0)), version=1)

    async def is_settled() -> bool:
        return (await main.persons.drift("main"))["cash"] == D(800)

    await until(is_settled)
    seen = await main.persons.preview("main", "ann")
    before = (await main.held())["BTCUSDT"]
    sold = await main.rig.signal(
        size=D(50), side=Side.SELL, timeframe=None, instance="", source="principal:ann", kind=Kind.ORDER
    )
    await main.rig.outcome(sold)
    await until(lambda: _is_below(main, before))
    run = await main.ended(await main.persons.rebalance("main", seen["plan_hash"], "ann"))
    assert (run["state"], run["reason"]) == ("partial", "HELD"), run
    held = await main.held()
    assert held["BTCUSDT"] >= 0
    assert await main.rig.position("") >= 0


async def _is_below(main: RebalancedPortfolio, before: Decimal) -> bool:
    return (await main.held())["BTCUSDT"] < before


async def test_the_account_stays_while_an_order_on_it_may_still_fill(main: RebalancedPortfolio) -> None:
    await PortfolioChanges(main.rig.db).change("main", version=1, accounts=["main", "sheet"])
    await main.persons.set_targets(
        "main", version=0, account="main", targets=[("BTCUSDT", D("0.5"), None, None)], rules={}, by="ann"
    )
    main.rig.venue.script.append("unheard")
    main.rig.venue.outages["query"] = 10_000
    main.rig.venue.history_hidden, main.rig.venue.streams_fills = True, False
    await main.ended_by_age(await main.start(), ("sent", "UNKNOWN"))
    with pytest.raises(InputError) as error:
        await main.persons.set_targets(
            "main", version=1, account="sheet", targets=[("BTCUSDT", D("0.5"), None, None)], rules={}, by="ann"
        )
    assert (error.value.status, error.value.code) == (422, "TARGETS_WRONG")


async def test_a_claimed_step_that_cash_no_longer_pays_for_is_not_ordered(main: RebalancedPortfolio) -> None:
    """The process that claimed it died; a person spent the cash before the next one goes on."""
    await main.aim(("ETHUSDT", D("0.5")), cash_min=D("0.4"))
    run = await main.start()

    async def die() -> None:
        raise asyncio.CancelledError

    with contextlib.suppress(asyncio.CancelledError):
        await main.driver(After(main.rig.db, "portfolio_runs.claim_step", die)).advance()
    assert (await main.persons.run("main", run["id"]))["steps"][0]["state"] == "sent"
    bought = await main.rig.signal(size=D(30), timeframe=None, instance="", source="principal:ann", kind=Kind.ORDER)
    assert (await main.rig.outcome(bought))[0] == "ordered"
    run = await main.ended(run)
    assert (run["state"], run["reason"]) == ("partial", "CASH")
    assert main.rig.venue.totals["USDT"] >= D(4000), "the buffer of the plan's capital"


async def test_a_run_whose_instrument_is_gone_ends(main: RebalancedPortfolio) -> None:
    await main.aim(*WEIGHTS, run_max_age_s=1.5)
    run, driver = await main.start(), main.driver()
    await main.rig.db.sql("DELETE FROM instruments WHERE symbol = 'SOLUSDT'")
    run = await main.ended(run, driver)
    assert run["state"] == "partial"


async def test_an_account_disabled_meanwhile_buys_nothing(main: RebalancedPortfolio) -> None:
    await main.aim(*WEIGHTS, run_max_age_s=1.5)
    run = await main.start()
    await main.rig.db.sql("UPDATE accounts SET is_enabled = false WHERE name = 'main'")
    run = await main.ended(run)
    assert (run["state"], main.rig.venue.received) == ("partial", [])


@pytest.mark.parametrize("is_made_meanwhile", [False, True], ids=["before", "meanwhile"])
async def test_a_plan_from_before_the_end_of_a_run_is_not_started(
    main: RebalancedPortfolio, is_made_meanwhile: bool
) -> None:
    """It would sell again what the run has sold."""
    await main.aim(("BTCUSDT", D("0.8")))
    await main.ended(await main.start())
    await main.aim(("BTCUSDT", D("0.4")), version=1)
    seen = await main.persons.preview("main", "ann")
    run = await main.start()
    if is_made_meanwhile:
        seen = await main.persons.preview("main", "ann")
    assert [trade["side"] for trade in seen["trades"]] == ["sell"]
    await main.ended(run)
    assert await main.refused(seen["plan_hash"]) == (409, "PLAN_UNKNOWN")
    assert (await main.persons.preview("main", "ann"))["trades"] == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_driver_killed_at_every_statement_of_a_cancel_sends_nothing(
    main: RebalancedPortfolio, after: bool
) -> None:
    await main.aim(*WEIGHTS)
    run = await main.start()
    await main.rig.crash()
    await main.driver().advance()
    await main.rig.db.sql("UPDATE portfolio_runs SET state = 'cancelling'")  # the person's process was killed, too
    for at in range(1, 200):
        with contextlib.suppress(asyncio.CancelledError):
            await main.driver(Dying(main.rig.db, at, after=after)).advance()
        if (await main.persons.run("main", run["id"]))["ended_at"] is not None:
            break
    await main.rig.start()
    found = await main.ended(run)
    assert {step["code"] for step in found["steps"]} == {"NOT_SENT"}
    await asyncio.sleep(0.3)
    assert (found["state"], main.rig.venue.received) == ("cancelled", [])
