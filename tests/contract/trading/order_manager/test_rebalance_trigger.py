"""Rebalancings that schedules and drift start: once, held by what would deny their orders, and seen by persons."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from fks.model.errors import InputError
from fks.research.jobs.actions import ACTIONS, checked_params
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.portfolio_runs import PortfolioRunStore
from fks.trading.portfolio.rebalance import Trigger, TriggerPolicy
from tests.support.invariants import assert_once
from tests.support.rebalancing import WEIGHTS, Dying, RebalancedPortfolio, rebalanced
from tests.support.scripted_venue import ScriptedVenue
from tests.support.strategies import collect

D = Decimal
CLOSES = {"BTCUSDT": 100.0, "ETHUSDT": 10.0, "SOLUSDT": 2.0}
#: Bars of a day: no test of a second sees two of them.
DRIFT = TriggerPolicy(Trigger.DRIFT, timeframe="1d", cooldown_s=0)
SCHEDULE = TriggerPolicy(Trigger.SCHEDULE, timeframe="1d")


@pytest.fixture
async def main(database: Database, bus: Bus, venue: ScriptedVenue) -> AsyncIterator[RebalancedPortfolio]:
    """A portfolio with targets of three days ago, and yesterday's bars."""
    async for portfolio in rebalanced(database, bus, venue):
        await portfolio.aim(*WEIGHTS)
        await database.sql("UPDATE portfolio_target_sets SET created_at = now() - interval '3 days'")
        await seal(database, CLOSES)
        yield portfolio


async def seal(db: Database, closes: dict[str, float]) -> None:
    """Store yesterday's bar of each symbol, sealed."""
    day = "date_trunc('day', now(), 'UTC') - interval '1 day'"
    for symbol, close in closes.items():
        await db.sql(
            "INSERT INTO feeds (exchange, symbol, timeframe, state, sealed_through) VALUES"
            f" ('binance', $1, '1d', 'LIVE', {day}) ON CONFLICT DO NOTHING",
            symbol,
        )
        await db.sql(
            "INSERT INTO ohlcv_data (exchange, symbol, timeframe, time, open, high, low, close, volume, is_complete)"
            f" VALUES ('binance', $1, '1d', {day}, $2, $2, $2, $2, 1, true)"
            " ON CONFLICT (symbol, timeframe, time, exchange) DO UPDATE SET close = excluded.close",
            symbol,
            close,
        )


async def request(main: RebalancedPortfolio, id: uuid.UUID, **params: Any) -> str:
    """Do what a schedule with the action `rebalance` does when it is due."""
    component: Any = SimpleNamespace(db=main.rig.db, clock=main.rig.clock)
    return await ACTIONS["rebalance"][1](component, checked_params("rebalance", {"portfolio": "main", **params}), id)


async def runs(main: RebalancedPortfolio) -> list[tuple[str, str | None]]:
    return [(run["state"], run["trigger"]) for run in await main.persons.runs("main")]


async def decision(main: RebalancedPortfolio) -> tuple[str | None, str]:
    found = await main.persons.trigger("main")
    return found["decision"], found["decision_detail"] or ""


async def alerts(main: RebalancedPortfolio) -> list[tuple[str, str]]:
    rows = await main.rig.db.sql("SELECT severity, event FROM alerts WHERE event LIKE 'portfolio.%' ORDER BY id")
    return [tuple(row) for row in rows]


async def test_without_a_trigger_nothing_starts(main: RebalancedPortfolio) -> None:
    assert (await main.persons.trigger("main"))["trigger"] == "person"
    assert await main.trigger().look() == 0
    with pytest.raises(InputError) as error:
        await request(main, uuid.uuid4())
    assert error.value.code == "TRIGGER_WRONG"
    assert await runs(main) == []


async def test_drift_beyond_the_band_starts_one_run_a_bar(main: RebalancedPortfolio) -> None:
    await main.persons.set_trigger("main", DRIFT, "ann")
    trigger = main.trigger()
    assert [await trigger.look() for _ in range(3)] == [1, 0, 0]
    assert await runs(main) == [("running", "drift")]
    assert await decision(main) == ("START", "BTCUSDT ETHUSDT SOLUSDT")
    assert await alerts(main) == [("info", "portfolio.run_automatic")]
    [run] = await main.persons.runs("main")
    found = await main.ended(run)
    assert (found["state"], found["created_by"]) == ("done", "trigger:drift")
    assert await trigger.look() == 0, "the bar was decided on"


async def test_weights_inside_their_bands_start_nothing(main: RebalancedPortfolio) -> None:
    await main.ended(await main.start())
    await main.persons.set_trigger("main", replace(DRIFT, band=D("0.05")), "ann")
    assert await main.trigger().look() == 0
    assert await decision(main) == ("IN_BAND", "")
    await seal(main.rig.db, {"SOLUSDT": 3.0})
    assert await main.trigger().look() == 0, "the bar was decided on"
    await main.rig.db.sql("UPDATE portfolio_policies SET decided_bar = decided_bar - interval '1 day'")
    assert await main.trigger().look() == 0
    assert await decision(main) == ("NO_TRADES", "SOLUSDT"), "the price is back in its band by now"


async def test_the_cooldown_counts_from_the_start_of_any_run(main: RebalancedPortfolio) -> None:
    await main.ended(await main.start())
    await main.persons.set_trigger("main", replace(DRIFT, cooldown_s=60), "ann")
    await seal(main.rig.db, {"SOLUSDT": 3.0})
    assert (await main.trigger().look(), (await decision(main))[0]) == (0, "COOLDOWN")
    await main.rig.db.sql("UPDATE portfolio_runs SET started_at = now() - interval '61 s'")
    await main.rig.db.sql("UPDATE feeds SET last_price = 3 WHERE symbol = 'SOLUSDT' AND timeframe = 'trades'")
    assert (await main.trigger().look(), (await decision(main))[0]) == (1, "START")


async def test_targets_of_the_last_bar_start_nothing(main: RebalancedPortfolio) -> None:
    await main.persons.set_trigger("main", DRIFT, "ann")
    await main.rig.db.sql("UPDATE portfolio_target_sets SET created_at = now()")
    assert (await main.trigger().look(), (await decision(main))[0]) == (0, "TARGETS_NEW")


async def test_a_bar_that_is_missing_or_not_sealed_starts_nothing(main: RebalancedPortfolio) -> None:
    await main.persons.set_trigger("main", DRIFT, "ann")
    await main.rig.db.sql("UPDATE feeds SET sealed_through = NULL WHERE symbol = 'ETHUSDT' AND timeframe = '1d'")
    assert (await main.trigger().look(), await decision(main)) == (0, ("BARS_MISSING", "1d of ETHUSDT"))
    await main.rig.db.sql("UPDATE feeds SET sealed_through = now() WHERE symbol = 'ETHUSDT' AND timeframe = '1d'")
    assert await main.trigger().look() == 1


@pytest.mark.parametrize("policy", [DRIFT, SCHEDULE], ids=["drift", "schedule"])
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
    ],
)
async def test_a_start_is_held_until_its_reason_is_over(
    main: RebalancedPortfolio, policy: TriggerPolicy, statement: str, undo: str, code: str
) -> None:
    await main.persons.set_trigger("main", policy, "ann")
    if policy is SCHEDULE:
        assert await request(main, uuid.uuid4()) == "rebalancing of main requested"
    await main.rig.db.sql(statement)
    trigger = main.trigger()
    assert [await trigger.look() for _ in range(3)] == [0, 0, 0]
    found, detail = await decision(main)
    assert (found, detail.partition(":")[0]) == ("HELD", code)
    assert (await runs(main), await alerts(main)) == ([], [])
    assert main.rig.log.events("info").count("portfolio.trigger_waits") == 1
    await main.rig.db.sql(undo)
    await collect(main.rig.db)
    assert [await trigger.look() for _ in range(3)] == [1, 0, 0]
    assert await runs(main) == [("running", policy.trigger.value)]


async def test_the_run_of_a_schedule_starts_once(main: RebalancedPortfolio) -> None:
    await main.persons.set_trigger("main", SCHEDULE, "ann")
    id = uuid.uuid4()
    await request(main, id)
    assert await main.trigger().look() == 1
    await request(main, id)  # its scheduler died before it could write the end
    assert await main.trigger().look() == 0
    await request(main, uuid.uuid4())  # due again while it runs
    assert (await main.trigger().look(), (await decision(main))[0]) == (0, "RUNNING")
    [run] = await main.persons.runs("main")
    assert (await main.ended(run))["state"] == "done"
    assert (await main.trigger().look(), (await decision(main))[0]) == (0, "NO_TRADES")
    assert await runs(main) == [("done", "schedule")]


async def test_a_schedule_keeps_to_its_calendar(main: RebalancedPortfolio, monkeypatch: pytest.MonkeyPatch) -> None:
    await main.persons.set_trigger("main", SCHEDULE, "ann")
    monkeypatch.setattr("fks.model.calendars.is_open_at", lambda calendar, time_ns: False)
    assert await request(main, uuid.uuid4(), calendar="XNYS") == "the market of XNYS is closed"
    assert await main.trigger().look() == 0
    with pytest.raises(InputError) as error:
        checked_params("rebalance", {"portfolio": "main", "calendar": "NOPE"})
    assert error.value.code == "SPEC_WRONG"


async def test_a_request_that_is_held_for_too_long_expires(main: RebalancedPortfolio) -> None:
    await main.persons.set_trigger("main", SCHEDULE, "ann")
    await request(main, uuid.uuid4())
    await main.rig.db.sql("UPDATE feeds SET state = 'STALE'")
    await main.trigger().look()
    await main.rig.db.sql("UPDATE portfolio_policies SET requested_at = now() - interval '2 hours'")
    await main.trigger().look()
    found, detail = await decision(main)
    assert (found, detail.startswith("HELD: FEED_STALE")) == ("EXPIRED", True)
    assert await alerts(main) == [("warning", "portfolio.trigger_expired")]
    await main.rig.db.sql("UPDATE feeds SET state = 'LIVE'")
    await collect(main.rig.db)
    assert (await main.trigger().look(), await runs(main)) == (0, [])


@pytest.mark.parametrize("policy", [DRIFT, SCHEDULE], ids=["drift", "schedule"])
async def test_an_instrument_that_is_not_listed_any_more_holds_a_start(
    main: RebalancedPortfolio, policy: TriggerPolicy
) -> None:
    await main.persons.set_trigger("main", policy, "ann")
    if policy is SCHEDULE:
        await request(main, uuid.uuid4())
    await main.rig.db.sql("DELETE FROM instruments WHERE symbol = 'SOLUSDT'")
    assert await main.trigger().look() == 0
    found, detail = await decision(main)
    assert (found, detail.partition(":")[0]) == ("HELD", "TARGETS_WRONG")
    await main.rig.db.sql("UPDATE portfolio_policies SET requested_at = now() - interval '2 hours'")
    assert await main.trigger().look() == 0
    assert (await decision(main))[0] == ("EXPIRED" if policy is SCHEDULE else "HELD")


@pytest.mark.parametrize("policy", [DRIFT, SCHEDULE], ids=["drift", "schedule"])
async def test_schedulers_at_once_start_one_run(main: RebalancedPortfolio, policy: TriggerPolicy) -> None:
    await main.persons.set_trigger("main", policy, "ann")
    if policy is SCHEDULE:
        await request(main, uuid.uuid4())
    started = await asyncio.gather(*(main.trigger().look() for _ in range(4)))
    assert sorted(started) == [0, 0, 0, 1]
    assert (await runs(main), len(await alerts(main))) == ([("running", policy.trigger.value)], 1)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_trigger_killed_at_every_statement_starts_one_run(main: RebalancedPortfolio, after: bool) -> None:
    await main.persons.set_trigger("main", DRIFT, "ann")
    died = 0
    for at in range(1, 100):
        try:
            await main.trigger(Dying(main.rig.db, at, after=after)).look()
            break
        except asyncio.CancelledError:
            died += 1
            assert len(await runs(main)) == len(await alerts(main)) <= 1
    assert died >= 20, "it was killed at each statement of a start"
    assert (await runs(main), len(await alerts(main))) == ([("running", "drift")], 1)
    [run] = await main.persons.runs("main")
    assert (await main.ended(run))["state"] == "done"
    assert_once(main.rig.venue.received)
    assert len(main.rig.venue.received) == 3


async def test_a_plan_waits_for_approval(main: RebalancedPortfolio) -> None:
    await main.persons.set_trigger("main", replace(DRIFT, needs_approval=True), "ann")
    trigger = main.trigger()
    assert [await trigger.look() for _ in range(2)] == [1, 0]
    [run] = await main.persons.runs("main")
    assert (run["state"], run["started_at"], await alerts(main)) == (
        "planned", None, [("warning", "portfolio.approval")],
    )  # fmt: skip
    await main.persons.preview("main", "bob")  # deletes old previews, and not this plan
    await main.rig.db.sql("UPDATE portfolio_policies SET decided_bar = decided_bar - interval '1 day'")
    assert (await trigger.look(), (await decision(main))[0]) == (0, "APPROVAL_PENDING")
    assert main.rig.venue.received == []
    await main.rig.db.sql("UPDATE portfolio_runs SET created_at = created_at - interval '2 min'")
    begun = await main.persons.rebalance("main", run["plan_hash"], "bob")
    assert (begun["state"], begun["created_by"]) == ("running", "bob")
    assert (await main.ended(begun))["state"] == "done"


async def test_a_declined_plan_never_starts(main: RebalancedPortfolio) -> None:
    await main.persons.set_trigger("main", replace(DRIFT, needs_approval=True), "ann")
    await main.trigger().look()
    [run] = await main.persons.runs("main")
    ended = await main.persons.cancel("main", run["id"], "bob")
    assert (ended["state"], ended["reason"]) == ("cancelled", "cancelled by bob")
    with pytest.raises(InputError) as refused:
        await main.persons.rebalance("main", run["plan_hash"], "bob")
    assert refused.value.code == "PLAN_USED"
    assert await main.driver().advance() == 0
    assert main.rig.venue.received == []


@pytest.mark.parametrize("needs_approval", [False, True])
async def test_drift_starts_nothing_after_a_cancel_until_a_person_says_so(
    main: RebalancedPortfolio, needs_approval: bool
) -> None:
    policy = replace(DRIFT, needs_approval=needs_approval)
    await main.persons.set_trigger("main", policy, "ann")
    assert await main.trigger().look() == 1
    [run] = await main.persons.runs("main")
    ended = await main.ended(await main.persons.cancel("main", run["id"], "bob"))
    assert ended["state"] == "cancelled"
    for change in (  # a day goes by
        "UPDATE portfolio_policies SET decided_bar = decided_bar - interval '1 day'",
        "UPDATE portfolio_runs SET trigger_key = 'yesterday'",
    ):
        await main.rig.db.sql(change)
    assert (await main.trigger().look(), (await decision(main))[0]) == (0, "CANCELLED"), "it would trade each bar"
    assert main.rig.venue.received == []
    await main.persons.set_trigger("main", policy, "ann")
    assert (await main.trigger().look(), (await decision(main))[0]) == (1, "START")


class Delayed:
    """A database that awaits `work` before the first transaction that writes."""

    def __init__(self, db: Database, work: Callable[[], Awaitable[Any]]) -> None:
        self._db, self._work = db, [work]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    @asynccontextmanager
    async def transaction(self, **how: Any) -> AsyncIterator[Any]:
        while self._work and not how.get("is_readonly"):
            await self._work.pop()()
        async with self._db.transaction(**how) as tx:
            yield tx


@pytest.mark.parametrize("policy", [DRIFT, SCHEDULE], ids=["drift", "schedule"])
async def test_a_plan_from_before_the_end_of_a_run_never_starts(
    main: RebalancedPortfolio, policy: TriggerPolicy
) -> None:
    await main.persons.set_trigger("main", policy, "ann")
    if policy is SCHEDULE:
        await request(main, uuid.uuid4())

    async def rebalance() -> None:
        assert (await main.ended(await main.start()))["state"] == "done"

    assert await main.trigger(Delayed(main.rig.db, rebalance)).look() == 0, "it would buy everything again"
    assert await runs(main) == [("done", None)]
    assert (await decision(main))[0] == "HELD"
    await main.rig.db.sql("UPDATE feeds SET last_price = 3 WHERE symbol = 'SOLUSDT' AND timeframe = 'trades'")
    await seal(main.rig.db, {"SOLUSDT": 3.0})
    assert (await main.trigger().look(), (await decision(main))[0]) == (1, "START"), "it was not decided on"


async def test_a_bar_whose_run_was_started_before_starts_no_other(main: RebalancedPortfolio) -> None:
    await main.persons.set_trigger("main", DRIFT, "ann")
    await main.trigger().look()
    [run] = await main.persons.runs("main")
    await main.ended(run)
    await main.rig.db.sql("UPDATE feeds SET last_price = 3 WHERE symbol = 'SOLUSDT' AND timeframe = 'trades'")
    await seal(main.rig.db, {"SOLUSDT": 3.0})
    before = await alerts(main)
    for policy in (TriggerPolicy(), DRIFT):  # forgets which bar was decided on
        await main.persons.set_trigger("main", policy, "ann")
    assert await main.trigger().look() == 0
    assert await runs(main) == [("done", "drift")]
    assert await alerts(main) == before, "an alert about a run that there is not"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("UPDATE portfolio_runs SET created_at = created_at - interval '2 hours'", "PLAN_EXPIRED"),
        ("UPDATE feeds SET last_price = 1.05 * last_price", "PRICE_MOVED"),
        (None, "PLAN_OUTDATED"),
    ],
)
async def test_a_late_approval_is_refused(main: RebalancedPortfolio, change: str | None, code: str) -> None:
    await main.persons.set_trigger("main", replace(DRIFT, needs_approval=True), "ann")
    await main.trigger().look()
    [run] = await main.persons.runs("main")
    if change is None:
        await main.aim(*WEIGHTS, version=1)
        assert await main.persons.runs("main") == [], "it waits for nobody any more"
    else:
        await main.rig.db.sql(change)
    assert await main.refused(run["plan_hash"]) == (409, code)


async def test_a_changed_policy_decides_anew(main: RebalancedPortfolio) -> None:
    await main.persons.set_trigger("main", SCHEDULE, "ann")
    await request(main, uuid.uuid4())
    await main.persons.set_trigger("main", TriggerPolicy(), "ann")
    assert (await main.trigger().look(), await runs(main)) == (0, [])
    await main.persons.set_trigger("main", SCHEDULE, "ann")
    assert await main.trigger().look() == 0, "the request before was dropped"


# ── allocations ──────────────────────────────────────────────────────────────────────────────────
async def allocated(main: RebalancedPortfolio, weights: dict[str, str], state: str = "ready") -> uuid.UUID:
    id, before = uuid.uuid4(), {"BTCUSDT": "0.4", "ETHUSDT": "0.3", "SOLUSDT": "0.2"}
    rows = [
        {"exchange": "binance", "symbol": symbol, "weight": weights.get(symbol, "0"), "before": before[symbol]}
        for symbol in before
    ]
    await PortfolioRunStore(main.rig.db).add_allocation(id, 1, "equal", 0, "h", rows, {}, 1, state, "ann")
    return id


async def test_a_person_applies_any_allocation_once(main: RebalancedPortfolio) -> None:
    id = await allocated(main, {"BTCUSDT": "0.9"})
    found = await main.persons.apply("main", id, "bob")
    assert (found["version"], found["created_by"], found["rules"]["band"]) == (2, "bob", "0.005")
    assert {row["symbol"]: row["weight"] for row in found["items"]} == {
        "BTCUSDT": D("0.9"), "ETHUSDT": D(0), "SOLUSDT": D(0),
    }  # fmt: skip
    assert (await main.persons.apply("main", id, "bob"))["version"] == 2, "a second time changes nothing"
    assert (await main.persons.allocation("main", id))["applied_version"] == 2
    late = await allocated(main, {"BTCUSDT": "0.5"})
    with pytest.raises(InputError) as error:
        await main.persons.apply("main", late, "bob")
    assert error.value.code == "PORTFOLIO_VERSION", "it was calculated for other targets"


async def test_an_allocation_is_applied_by_itself_within_the_change_alone(main: RebalancedPortfolio) -> None:
    await main.persons.set_trigger("main", replace(TriggerPolicy(), change_max=D("0.05")), "ann")
    far = await allocated(main, {"BTCUSDT": "0.46", "ETHUSDT": "0.3", "SOLUSDT": "0.2"}, "waiting")
    await main.trigger().look()
    assert (await main.persons.allocation("main", far))["state"] == "refused"
    assert await alerts(main) == [("warning", "portfolio.allocation_refused")]
    assert (await main.persons.targets("main"))["version"] == 1
    near = await allocated(main, {"BTCUSDT": "0.45", "ETHUSDT": "0.3", "SOLUSDT": "0.2"}, "waiting")
    await main.trigger().look()
    assert (await main.persons.allocation("main", near))["state"] == "applied"
    assert (await main.persons.targets("main"))["version"] == 2
    assert (await runs(main), main.rig.venue.received) == ([], []), "targets trade nothing"
