"""Exits: never finally denied, and the position keeps its stop until the close can go out."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.clock.wrong import WrongClock
from fks.config.settings import Risk, Settings
from fks.interfaces.entry.order_entry import OrderEntry, OrderRequest
from fks.model.kill import KillScope, ScopeKind
from fks.model.order import OrderType, Side, State
from fks.model.signal import Kind, SignalState
from fks.store.bus import WAKE
from fks.store.signals import SignalStore
from fks.trading.guardian.journal import Asked, KillJournal, scope_file
from fks.trading.orders.messages import Limits
from tests.support.fast_clock import FastClock
from tests.support.invariants import assert_once
from tests.support.order_rig import Rig
from tests.support.waiting import until

D = Decimal
BOTH = {"stop_loss": D(90), "take_profit": D(120)}
QUICK = Limits(
    clear_s=0.3, unprotected_s=0.5, exit_page_s=0.5, exit_retry_s=0.05, exit_retry_max_s=0.3, protect_retry_max_s=0.3
)


def stops(rig: Rig) -> Decimal:
    """Return how much of the position the venue's live stops cover."""
    return sum((held.order.quantity - held.filled for held in rig.venue.live() if held.order.role.value == "sl"), D(0))


async def protected(rig: Rig, **changes: object) -> None:
    await rig.outcome(await rig.signal(**(BOTH | changes)))
    await until(lambda: stops(rig) == D("9.99"))


async def pages(rig: Rig) -> list[str]:
    return [row["event"] for row in await rig.db.sql("SELECT event FROM alerts WHERE severity = 'page'")]


async def paged(rig: Rig, event: str) -> None:
    async def is_paged() -> bool:
        return event in await pages(rig)

    await until(is_paged)


async def exits(rig: Rig) -> list[tuple[Decimal, str]]:
    rows = await rig.db.sql("SELECT quantity, state FROM orders WHERE role = 'exit' ORDER BY attempt")
    return [(row["quantity"], row["state"]) for row in rows]


async def test_an_exit_that_has_to_wait_leaves_the_stop_and_pages(rig: Rig) -> None:
    await rig.restart(limits=QUICK)
    await protected(rig)
    await rig.db.sql("UPDATE instruments SET is_trading = false WHERE symbol = 'BTCUSDT'")
    await rig.read_slow()
    out = await rig.signal(Kind.EXIT)
    await paged(rig, "exit.waiting")
    assert rig.venue.cancelled == []
    assert stops(rig) == D("9.99")
    await rig.db.sql("UPDATE instruments SET is_trading = true")
    await rig.read_slow()
    assert await rig.outcome(out) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] == 0)
    assert rig.venue.live() == []


async def test_a_held_kill_keeps_the_stop_and_the_exit_waits(rig: Rig) -> None:
    await protected(rig)
    await rig.db.sql("INSERT INTO kill_switch (kill_id, report) VALUES ('k', '{\"flatten\": false}')")
    await rig.read_slow()
    out = await rig.signal(Kind.EXIT)
    denied = await rig.signal(instance="two", source="strategy:two")
    assert await rig.outcome(denied) == ("denied", "KILLED")
    assert rig.venue.cancelled == []
    assert stops(rig) == D("9.99")
    await rig.db.sql("UPDATE kill_switch SET is_engaged = false")
    assert await rig.outcome(out) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] == 0)


@pytest.mark.parametrize(
    "request_",
    [
        {"kind": Kind.EXIT},
        {"kind": Kind.ORDER, "side": Side.SELL, "size": D("9.99")},  # its own legs hold it back: they come down first
    ],
    ids=["exit", "order"],
)
async def test_a_person_closes_a_strategys_position_under_a_held_kill(rig: Rig, request_: dict[str, Any]) -> None:
    await protected(rig)
    await rig.db.sql("INSERT INTO kill_switch (kill_id, report) VALUES ('k', '{\"flatten\": false}')")
    await rig.read_slow()
    out = await rig.signal(source="principal:me", timeframe=None, **request_)
    await until(lambda: rig.venue.totals["BTC"] == 0)
    assert (await rig.outcome(out))[0] == "ordered"
    assert len(rig.venue.received) == 4  # the entry, its legs, one close
    assert rig.venue.live() == []


@pytest.mark.parametrize(
    ("known_to", "outcome"),
    [("tables", ("denied", "KILLED")), ("file", ("ordered", None))],  # by the file alone it ends before its bytes
    ids=["tables", "file"],
)
async def test_a_person_sells_nothing_that_the_kill_of_a_strategy_closes(
    rig: Rig, tmp_path: Path, known_to: str, outcome: tuple[str, str | None]
) -> None:
    """It would be sold twice, the second time from the owner's own coins."""
    person: dict[str, Any] = {"source": "principal:me", "timeframe": None, "kind": Kind.ORDER, "instance": ""}
    await rig.outcome(await rig.signal())
    await rig.outcome(await rig.signal(size=D(2), **person))
    assert await rig.position("one") == D("9.99")
    rig.venue.totals["BTC"] += 100
    if known_to == "file":
        rig.kill_path = tmp_path / "kill.jsonl"
        one = KillScope(ScopeKind.STRATEGY, "one")
        KillJournal(scope_file(rig.kill_path, one)).engage("k", Asked(str(one), "", "me", True, 1))
    else:
        engage = "INSERT INTO kill_switch (kill_id, scope, report) VALUES ('k', 'strategy:one', '{\"flatten\": true}')"
        await rig.db.sql(engage)
    sent = len(rig.venue.received)
    for size in (D(11), D("2.5")):
        assert await rig.outcome(await rig.signal(side=Side.SELL, size=size, **person)) == outcome
    assert len(rig.venue.received) == sent
    assert await rig.outcome(await rig.signal(side=Side.SELL, size=D(1), **person)) == ("ordered", None)
    await until(lambda: len(rig.venue.received) == sent + 1)


async def test_a_fill_that_crosses_a_held_kill_is_protected(rig: Rig) -> None:
    rig.venue.script.append("slow")
    rig.venue.streams_fills = False
    await rig.signal(**BOTH)
    await until(lambda: len(rig.venue.received) == 1)
    await rig.db.sql("INSERT INTO kill_switch (kill_id, report) VALUES ('k', '{\"flatten\": false}')")
    await until(lambda: stops(rig) == D("9.99"))
    assert await rig.outcome(await rig.signal(instance="two", source="strategy:two")) == ("denied", "KILLED")


async def test_a_missing_stop_is_placed_under_a_held_kill(rig: Rig) -> None:
    await protected(rig)
    await rig.db.sql("INSERT INTO kill_switch (kill_id, report) VALUES ('k', '{\"flatten\": false}')")
    await rig.read_slow()
    rig.venue.end(next(held for held in rig.venue.live() if held.order.role.value == "sl"), State.CANCELLED)
    await until(lambda: stops(rig) == D("9.99"))
    assert {held.order.attempt for held in rig.venue.live()} == {1}


async def test_between_the_attempts_of_an_exit_the_position_is_protected(rig: Rig) -> None:
    # without its stop for most of the wait between two attempts, it would page
    await rig.restart(limits=Limits(exit_retry_s=3.0, exit_retry_max_s=3.0, unprotected_s=2.0))
    await protected(rig)
    rig.venue.script.extend(
        ["refuse:-1015", "ok", "refuse:-1003", "ok", "ok"]
    )  # a close, the stop again, a close, the stop, a close
    out = await rig.signal(Kind.EXIT)
    for attempt in (1, 2):
        await until(lambda: {held.order.attempt for held in rig.venue.live()} == {attempt})  # noqa: B023
        assert stops(rig) == D("9.99")
    await until(lambda: rig.venue.totals["BTC"] == 0)
    assert await rig.outcome(out) == ("ordered", None)
    assert await exits(rig) == [(D("9.99"), "REJECTED"), (D("9.99"), "REJECTED"), (D("9.99"), "FILLED")]
    await until(lambda: not rig.venue.live())
    assert await pages(rig) == []


async def test_a_close_that_cannot_go_in_time_leaves_the_legs_as_they_are(rig: Rig) -> None:
    await rig.restart(limits=QUICK)
    await protected(rig)
    rig.venue.cancels.extend(["lost"] * 3)
    rig.venue.outages["query"] = 40
    out = await rig.signal(Kind.EXIT)
    await until(lambda: len(rig.venue.cancelled) >= 1)
    await asyncio.sleep(0.4)
    assert stops(rig) == D("9.99")
    await until(lambda: rig.venue.totals["BTC"] == 0, deadline_s=15)
    assert (await rig.outcome(out))[0] == "ordered"
    assert_once(rig.venue.received)


async def test_an_exit_is_split_at_the_market_lot(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    await until(lambda: rig.venue.totals.get("BTC") == D("9.99"))
    await rig.db.sql("UPDATE instruments SET qty_max = 4 WHERE symbol = 'BTCUSDT'")
    await rig.read_slow()
    await rig.signal(Kind.EXIT)
    await until(lambda: rig.venue.totals["BTC"] == 0)
    assert [quantity <= 4 for quantity, _ in await exits(rig)] == [True] * 3


@pytest.mark.parametrize("executed", ["sl", "tp"])
async def test_an_exit_is_not_cut_by_the_leg_of_another_whose_sibling_has_executed(rig: Rig, executed: str) -> None:
    """The venue reports the ends of an OCO's legs apart: the core and the checks know that the other is over, too."""
    await protected(rig)
    await rig.outcome(await rig.signal(instance="two", source="strategy:two"))
    await until(lambda: rig.venue.totals["BTC"] == D("19.98"))
    rig.venue.cancels.extend(["lost"] * 1000)
    (leg,) = rig.venue.by_role(executed)
    leg.sibling = None  # the report of its end does not come
    rig.venue.fill(leg.order.client_order_id, D("9.99"))

    async def is_booked() -> bool:
        return not await rig.db.sql("SELECT FROM positions WHERE instance = 'one' AND quantity <> 0")

    await until(is_booked)
    out = await rig.signal(Kind.EXIT, instance="two", source="strategy:two")
    assert await rig.outcome(out) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] == 0)
    assert [quantity for quantity, _ in await exits(rig)] == [D("9.99")]
    assert [held.order.role.value for held in rig.venue.live()] == [{"sl": "tp", "tp": "sl"}[executed]]


async def test_a_disabled_account_and_old_metadata_do_not_hold_an_exit_up(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    await until(lambda: rig.venue.totals.get("BTC") == D("9.99"))
    await rig.db.sql("UPDATE accounts SET is_enabled = false")
    await rig.db.sql("UPDATE instruments SET updated_at = now() - interval '9 days'")
    await rig.read_slow()
    assert (await rig.outcome(await rig.signal(instance="two", source="strategy:two")))[1] == "ACCOUNT_UNKNOWN"
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] == 0)


async def test_coins_withdrawn_outside_cap_the_exit_and_page_for_the_rest(rig: Rig) -> None:
    await rig.restart(limits=QUICK)
    rig.venue.locks_base = True
    await rig.outcome(await rig.signal())
    await until(lambda: rig.venue.totals.get("BTC") == D("9.99"))
    rig.venue.totals["BTC"] = D(5)
    await rig.signal(Kind.EXIT)
    await until(lambda: rig.venue.totals["BTC"] == 0, deadline_s=10)
    await paged(rig, "exit.waiting")
    assert (await exits(rig))[-1] == (D(5), "FILLED")
    assert_once(rig.venue.received)


async def test_one_wrong_balance_at_a_restart_ends_no_exit(rig: Rig) -> None:
    await rig.restart(limits=QUICK)
    await rig.outcome(await rig.signal())
    await until(lambda: rig.venue.totals.get("BTC") == D("9.99"))
    await rig.crash()
    rig.venue.totals["BTC"] = D(0)
    await rig.start()
    out = await rig.signal(Kind.EXIT)
    await paged(rig, "exit.waiting")
    record = await SignalStore(rig.db).get(out)
    assert record is not None
    assert record.signal.state is SignalState.READY
    rig.venue.totals["BTC"] = D("9.99")
    assert await rig.outcome(out) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] == 0)

    async def is_booked() -> bool:
        return await exits(rig) == [(D("9.99"), "FILLED")]

    await until(is_booked)


async def test_what_is_left_below_the_smallest_order_ends_the_exit_as_dust(rig: Rig) -> None:
    await rig.restart(limits=QUICK)
    rig.venue.fee_rate = D("0.00013")
    await rig.outcome(await rig.signal(**BOTH))
    await until(lambda: stops(rig) == D("9.998"))
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] == D("0.0007"))
    again = await rig.signal(Kind.EXIT)
    assert (await rig.outcome(again))[0] == "nothing"
    record = await SignalStore(rig.db).get(again)
    assert record is not None
    assert "dust" in (record.detail or "")
    await asyncio.sleep(QUICK.unprotected_s + 0.3)
    assert rig.venue.live() == []
    assert await pages(rig) == []


async def test_a_partly_filled_exit_is_finished_and_so_it_is_after_a_restart(rig: Rig) -> None:
    await protected(rig)
    rig.venue.script.append("rest")
    await rig.signal(Kind.EXIT)
    await until(lambda: any(held.order.role.value == "exit" for held in rig.venue.live()))
    resting = next(held for held in rig.venue.live() if held.order.role.value == "exit")
    rig.venue.fill(resting.order.client_order_id, D(4))
    await rig.becomes(resting.order.client_order_id, State.PARTIAL)
    await rig.crash()
    rig.venue.end(resting, State.EXPIRED)
    await rig.start(wait_ready=False)
    await until(lambda: rig.venue.totals["BTC"] == 0, deadline_s=10)
    assert_once(rig.venue.received)
    await until(lambda: not rig.venue.live())


async def test_what_a_person_buys_after_a_close_is_kept_by_a_restart(rig: Rig) -> None:
    """A person closes a symbol and buys again: the close was done, whatever the bucket holds by now."""
    entry = OrderEntry(rig.db, rig.bus, RealClock(), rig.settings)
    buy = {"symbol": "BTCUSDT", "venue": "ccxt", "side": "buy", "type": "market"}
    await entry.submit(OrderRequest.parse(buy | {"quantity": "2"}), "ann", "1")
    out = await rig.signal(Kind.EXIT, instance="", source="principal:ann", timeframe=None)
    assert await rig.outcome(out) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] == 0)
    await entry.submit(OrderRequest.parse(buy | {"quantity": "3"}), "ann", "2")
    await until(lambda: rig.position_is(D("2.997"), ""))
    await rig.restart()
    await asyncio.sleep(0.3)  # nothing is to happen
    assert rig.venue.totals["BTC"] == D("2.997")
    assert await exits(rig) == [(D("1.998"), "FILLED")]


async def test_an_exit_of_unknown_outcome_is_not_sent_again_before_it_is_absent(rig: Rig) -> None:
    await protected(rig)
    rig.venue.script.append("lost")
    rig.venue.outages["query"] = 30
    await rig.signal(Kind.EXIT)
    await until(lambda: any(o.state is State.UNKNOWN for o in rig.service.cache.orders.values()))
    sent = len(rig.venue.received)
    await asyncio.sleep(0.3)
    assert len(rig.venue.received) == sent
    await until(lambda: rig.venue.totals["BTC"] == 0, deadline_s=15)

    async def is_done() -> bool:
        return [state for _, state in await exits(rig)] == ["ABSENT", "FILLED"]

    await until(is_done)


async def test_a_second_close_waits_as_long_whatever_the_clock_shows(idle: Rig) -> None:
    """The first close is lost, then the machine's clock is set: the second one leaves once the first is absent, after
    45 s, and not within a minute of the step."""
    clock = FastClock()
    idle.clock, idle.settings = clock, Settings(risk=Risk(feed_age_max_s=3600))
    rig = await idle.start()
    await protected(rig)
    rig.venue.script.append("lost")
    sent = len(rig.venue.received)
    await rig.signal(Kind.EXIT)
    await until(lambda: len(rig.venue.received) == sent + 1, every_s=0.001)
    first_s = clock.monotonic()
    clock.run(20.0)
    await until(lambda: clock.monotonic() > first_s + 1, every_s=0.001)
    clock.step(60.0)
    await until(lambda: rig.venue.totals["BTC"] == 0, every_s=0.001)
    assert clock.monotonic() - first_s > 60
    clock.run(1.0)


async def test_a_stop_that_the_venue_has_lost_holds_its_exit_up_for_a_while_alone(rig: Rig) -> None:
    """The venue does not know the stop any more: nothing will ever say whether it filled."""
    await rig.restart(limits=replace(QUICK, unresolved_s=3.0))
    await rig.outcome(await rig.signal(stop_loss=D(90)))
    await until(lambda: stops(rig) == D("9.99"))
    (stop,) = rig.venue.live()
    del rig.venue.orders[stop.order.client_order_id]
    await rig.signal(Kind.EXIT)
    await rig.becomes(stop.order.client_order_id, State.UNKNOWN)
    await asyncio.sleep(0.5)
    assert await exits(rig) == []
    await until(lambda: rig.venue.totals["BTC"] == 0)
    assert await rig.state(stop.order.client_order_id) is State.UNKNOWN


async def test_a_persons_far_limit_sell_never_takes_a_stops_place(rig: Rig) -> None:
    entry = OrderEntry(rig.db, rig.bus, RealClock(), rig.settings)
    body = {"symbol": "BTCUSDT", "venue": "ccxt"}
    await entry.submit(
        OrderRequest.parse(body | {"side": "buy", "type": "market", "quantity": "2", "stop_loss": "90"}), "ann", "1"
    )
    await until(lambda: stops(rig) == D("1.998"))
    answer = await entry.submit(
        OrderRequest.parse(body | {"side": "sell", "type": "limit", "quantity": "1", "price": "105"}), "ann", "2"
    )
    assert (answer.status, answer.body["code"]) == (422, "BALANCE") or (answer.status, answer.body["code"]) == (
        422,
        "SHORT_FORBIDDEN",
    )
    assert rig.venue.cancelled == []
    assert stops(rig) == D("1.998")


async def test_a_person_ends_an_exit_and_the_position_is_protected_again(rig: Rig) -> None:
    await protected(rig)
    rig.venue.script.append("rest")
    out = await rig.signal(Kind.EXIT)
    await rig.outcome(out)
    order = await rig.becomes((await rig.entry(out)).client_order_id, State.WORKING)
    await OrderEntry(rig.db, rig.bus, RealClock(), rig.settings).cancel(order.client_order_id, "ann")
    await until(lambda: stops(rig) == D("9.99"))
    await rig.restart()
    await asyncio.sleep(0.3)
    assert stops(rig) == D("9.99")
    assert len([name for name in rig.venue.received if name == order.client_order_id]) == 1


async def test_an_exit_that_is_done_sells_nothing_after_the_clock_was_set_back(rig: Rig, tmp_path: Path) -> None:
    """By the clock the first entry and its exit are newer than the entry that followed; by the journal they are not."""
    ahead = WrongClock(tmp_path / "clock")
    ahead.put_wrong(20.0, for_s=3600.0)
    await rig.restart(clock=ahead)
    assert await rig.outcome(await rig.signal(stop_loss=D(90))) == ("ordered", None)
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("ordered", None)
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity < D("0.001"))
    await rig.restart(clock=RealClock())
    assert await rig.outcome(await rig.signal(stop_loss=D(80))) == ("ordered", None)
    await until(lambda: [held.order.stop_price for held in rig.venue.live()] == [D(80)])
    held, sent = await rig.held(), len(rig.venue.received)
    await rig.restart()
    await until(lambda: rig.service.cache.venues["ccxt"].ready_times > 0)
    await asyncio.sleep(4 * Limits().exit_retry_s)
    assert (await rig.held(), len(rig.venue.received)) == (held, sent)
    assert [held.order.stop_price for held in rig.venue.live()] == [D(80)]


# ── protection ───────────────────────────────────────────────────────────────────────────────────
async def test_a_stop_that_is_refused_again_and_again_pages_and_is_placed_in_the_end(rig: Rig) -> None:
    await rig.restart(limits=QUICK)
    rig.venue.script.extend(["ok", *["refuse:-1013"] * 6])
    await rig.outcome(await rig.signal(stop_loss=D(90)))
    await paged(rig, "position.unprotected")
    await until(lambda: stops(rig) == D("9.99"), deadline_s=20)
    assert (await pages(rig)).count("position.unprotected") == 1


async def test_an_alert_about_a_missing_stop_does_not_outlive_a_restart_that_places_it(rig: Rig) -> None:
    """While it is open no further gap pages."""
    await rig.restart(limits=QUICK)
    rig.venue.script.extend(["ok", *["refuse:-1013"] * 400])
    await rig.outcome(await rig.signal(stop_loss=D(90)))
    await paged(rig, "position.unprotected")
    rig.venue.script.clear()
    await rig.restart(limits=QUICK)
    await until(lambda: stops(rig) == D("9.99"), deadline_s=20)

    async def is_over() -> bool:
        return not await rig.db.sql("SELECT 1 FROM alerts WHERE event = 'position.unprotected' AND resolved_at IS NULL")

    await until(is_over)


async def tried_again(rig: Rig) -> None:
    """Wait until the venue received three requests more."""
    before = len(rig.venue.received)
    await until(lambda: len(rig.venue.received) >= before + 3, deadline_s=20)


async def test_a_stop_that_stays_missing_over_restarts_is_one_page(rig: Rig) -> None:
    """Each new process takes the open page over: it is ended with its cause, and only a later gap pages again."""
    await rig.restart(limits=replace(QUICK, unprotected_s=0.5))
    rig.venue.script.extend(["ok", *["refuse:-1013"] * 800])
    await rig.outcome(await rig.signal(stop_loss=D(90)))
    await paged(rig, "position.unprotected")
    for _ in range(2):
        await rig.restart(limits=replace(QUICK, unprotected_s=0.5))
        await tried_again(rig)
        await asyncio.sleep(1.0)  # twice the time after which a gap pages
    rows = await rig.db.sql("SELECT resolved_at FROM alerts WHERE event = 'position.unprotected'")
    assert [row["resolved_at"] for row in rows] == [None]


async def test_the_page_about_a_stop_of_a_position_that_was_closed_meanwhile_is_ended(rig: Rig) -> None:
    await rig.restart(limits=QUICK)
    rig.venue.script.extend(["ok", *["refuse:-1013"] * 400])
    await rig.outcome(await rig.signal(stop_loss=D(90)))
    await paged(rig, "position.unprotected")
    await rig.crash()
    await rig.db.sql("UPDATE positions SET quantity = 0")
    await rig.start()

    async def is_over() -> bool:
        return not await rig.db.sql("SELECT 1 FROM alerts WHERE event = 'position.unprotected' AND resolved_at IS NULL")

    await until(is_over)


@pytest.mark.parametrize("leg", [{"stop_loss": D(90)}, {"take_profit": D(110)}], ids=["stop", "target alone"])
async def test_a_position_without_its_leg_pages_while_its_exit_is_refused(rig: Rig, leg: dict[str, Decimal]) -> None:
    """Each close that is tried covers the position for a moment, and closes nothing."""
    await rig.restart(limits=replace(QUICK, unprotected_s=1.0, exit_retry_s=0.2, exit_retry_max_s=0.2))
    await rig.outcome(await rig.signal(**leg))
    await until(lambda: len(rig.venue.live()) == 1)
    rig.venue.script.extend(["refuse:-1013"] * 400)
    await rig.signal(Kind.EXIT)
    await paged(rig, "position.unprotected")
    rig.venue.script.clear()

    async def is_flat() -> bool:
        return await rig.held() < D("0.001")

    await until(is_flat)
    assert (await pages(rig)).count("position.unprotected") == 1


async def test_more_than_twenty_protected_entries_are_all_protected_after_a_restart(rig: Rig) -> None:
    rig.venue.locks_base = True
    for _ in range(23):
        signal = await rig.signal(
            Kind.ORDER,
            source="principal:me",
            instance="",
            side=Side.BUY,
            size=D("0.5"),
            timeframe=None,
            stop_loss=D(90),
        )
        assert await rig.outcome(signal) == ("ordered", None)
    await until(lambda: stops(rig) >= D("11.47"), deadline_s=20)
    await rig.crash()
    for held in rig.venue.live():
        rig.venue.end(held, State.CANCELLED)
    await rig.start(wait_ready=False)
    await until(lambda: stops(rig) >= D("11.47"), deadline_s=20)


# ── requests that no venue carries ───────────────────────────────────────────────────────────────
async def test_an_entry_for_a_venue_that_is_not_configured_is_denied_at_once(rig: Rig) -> None:
    await rig.db.sql("INSERT INTO accounts (name, venue, initial_balance) VALUES ('far', 'mt5', 1000)")
    await rig.read_slow()
    assert await rig.outcome(await rig.signal(account_id=3, venue="mt5")) == ("denied", "ACCOUNT_UNKNOWN")
    out = await rig.signal(Kind.EXIT, account_id=3, venue="mt5")
    await rig.db.sql(
        "INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price, realized_pnl, fees)"
        " VALUES (3, 'mt5', 'BTCUSDT', 'one', 1, 100, 0, 0)"
    )
    await paged(rig, "exit.waiting")
    record = await SignalStore(rig.db).get(out)
    assert record is not None
    assert record.signal.state is SignalState.READY


async def test_an_exit_of_another_account_at_a_configured_venue_waits_and_pages(rig: Rig) -> None:
    await rig.db.sql("INSERT INTO accounts (name, venue, initial_balance) VALUES ('other', 'ccxt', 1000)")
    await rig.read_slow()
    assert await rig.outcome(await rig.signal(account_id=3)) == ("denied", "ACCOUNT_UNKNOWN")
    out = await rig.signal(Kind.EXIT, account_id=3)
    await paged(rig, "exit.waiting")
    record = await SignalStore(rig.db).get(out)
    assert record is not None
    assert record.signal.state is SignalState.READY


async def test_a_close_that_waited_is_checked_again_before_its_bytes(rig: Rig) -> None:
    waited: list[str] = []

    def at(point: str) -> None:
        if point == "place.after" and is_closing and not waited:
            waited.append(point)
            for position in list(rig.service.cache.positions.values()):  # the guardian sold it during a slow commit
                rig.service.cache.put_position(replace(position, quantity=D(0)))
            time.sleep(1.1)

    is_closing = False
    rig.at = at
    await rig.restart()
    await protected(rig)
    is_closing = True
    out = await rig.signal(Kind.EXIT)
    await rig.outcome(out)
    await rig.becomes((await rig.entry(out)).client_order_id, State.REJECTED)
    assert rig.venue.by_role("exit") == []


# ── freshness ────────────────────────────────────────────────────────────────────────────────────
MINUTE = 60_000_000_000


async def test_an_old_decision_is_not_traded(rig: Rig) -> None:
    now_ns = RealClock().now_ns()
    old = await rig.signal(ts_event_ns=now_ns - 3 * MINUTE)
    assert await rig.outcome(old) == ("denied", "STALE_DECISION")
    request = {"timeframe": None, "source": "principal:me", "instance": "", "size": D(1)}
    late = await rig.signal(Kind.ORDER, ts_event_ns=now_ns - 11_000_000_000, **request)
    assert await rig.outcome(late) == ("denied", "STALE_DECISION")
    assert rig.venue.received == []
    young = await rig.signal(Kind.ORDER, ts_event_ns=now_ns - 2_000_000_000, **request)
    assert await rig.outcome(young) == ("ordered", None)


async def test_an_old_exit_is_traded(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    await until(lambda: rig.venue.totals.get("BTC") == D("9.99"))
    assert await rig.outcome(await rig.signal(Kind.EXIT, ts_event_ns=RealClock().now_ns() - 600 * MINUTE)) == (
        "ordered",
        None,
    )


async def test_an_approval_is_the_decision(rig: Rig) -> None:
    old_ns = RealClock().now_ns() - 10 * MINUTE
    pending = await rig.signal(ts_event_ns=old_ns, state=SignalState.PENDING, valid_until_ns=old_ns + 60 * MINUTE)
    assert await SignalStore(rig.db).decide(pending, approve=True, by="ann", now_ns=RealClock().now_ns())
    await rig.bus.publish(WAKE, {"type": "signal"})
    assert await rig.outcome(pending) == ("ordered", None)


async def test_a_decision_that_ages_between_commit_and_bytes_is_not_sent(rig: Rig) -> None:
    await rig.restart(
        settings=rig.settings.model_copy(
            update={"risk": rig.settings.risk.model_copy(update={"decision_age_max_s": 1.5})}
        )
    )
    from tests.support.order_rig import signal_of

    signal = signal_of()
    await SignalStore(rig.db).insert([signal])
    async with rig.db.transaction() as tx:
        await tx.sql("SELECT 1 FROM signals WHERE id = $1 FOR UPDATE", signal.id)
        await rig.bus.publish(WAKE, {"type": "signal"})
        await asyncio.sleep(2.0)
    await rig.outcome(signal.id)
    order = await rig.becomes((await rig.entry(signal.id)).client_order_id, State.REJECTED, State.DENIED)
    assert order.code == "STALE_DECISION"
    assert rig.venue.received == []


async def test_sent_at_is_the_time_of_the_first_byte(rig: Rig) -> None:
    from tests.support.order_rig import signal_of

    rig.venue.script.append("lost")
    signal = signal_of()
    await SignalStore(rig.db).insert([signal])
    async with rig.db.transaction() as tx:
        await tx.sql("SELECT 1 FROM signals WHERE id = $1 FOR UPDATE", signal.id)
        await rig.bus.publish(WAKE, {"type": "signal"})
        await asyncio.sleep(1.0)
    await rig.outcome(signal.id)
    order = await rig.becomes((await rig.entry(signal.id)).client_order_id, State.ABSENT)
    assert order.sent_ns is not None
    assert order.sent_ns - order.created_ns > 0.9e9
    assert (order.updated_ns - order.sent_ns) / 1e9 >= rig.settings.venue.absent_age_s


async def test_a_halt_survives_a_restart(rig: Rig) -> None:
    import uuid

    from fks.model import ids
    from fks.model.order import Role

    await rig.outcome(await rig.signal())
    denied = await rig.signal(size=D(999))
    await rig.outcome(denied)
    await until(lambda: rig.venue.trades)
    wrong = replace(
        rig.venue.trades[0],
        fill_id=uuid.uuid4(),
        venue_trade_id="77",
        client_order_id=ids.client_order_id(ids.intent_id(denied), Role.ENTRY),
    )
    rig.venue.push(wrong)
    await until(lambda: "IMPOSSIBLE_FILL" in rig.log.events("error"))

    async def is_written() -> bool:
        return (await rig.db.sql("SELECT state FROM strategy_instances WHERE id = 'one'"))[0]["state"] == "CRASHED"

    await until(is_written)
    await rig.restart()
    assert await rig.outcome(await rig.signal()) == ("denied", "STRATEGY_CRASHED")


async def test_a_resting_entry_is_cancelled_by_the_exit_of_its_instance(rig: Rig) -> None:
    entry = await rig.signal(type=OrderType.LIMIT, limit_price=D(99))
    await rig.outcome(entry)
    order = await rig.becomes((await rig.entry(entry)).client_order_id, State.WORKING)
    assert (await rig.outcome(await rig.signal(Kind.EXIT)))[0] == "nothing"
    await rig.becomes(order.client_order_id, State.CANCELLED)


async def cancels_requested(rig: Rig) -> list[tuple[str, str]]:
    rows = await rig.db.sql(
        "SELECT client_order_id AS id, payload->>'reason' AS reason FROM order_events"
        " WHERE event = 'CancelRequested' ORDER BY id"
    )
    return [(row["id"], row["reason"]) for row in rows]


async def test_a_lost_cancel_is_requested_again_once_the_order_is_found_open(rig: Rig) -> None:
    """The owner of its requests repeats it, and the journal shows each request."""
    await protected(rig)
    rig.venue.cancels.append("lost")
    rig.venue.outages["query"] = 3
    await rig.signal(Kind.EXIT)
    await until(lambda: rig.venue.totals["BTC"] == 0, deadline_s=15)
    requests = await cancels_requested(rig)
    assert [reason for _, reason in requests] == ["exit", "its cancel got lost, and the venue shows it open"]
    assert len({id for id, _ in requests}) == 1


async def test_a_start_repeats_a_lost_cancel_that_its_exit_still_wants_at_once(rig: Rig) -> None:
    """The first comparison waits for the exit, so the cancel must not wait for the end of that comparison."""
    await rig.restart(limits=Limits())
    await protected(rig)
    rig.venue.cancels.append("lost")
    rig.venue.outages["query"] = 10**6
    await rig.signal(Kind.EXIT)
    await until(lambda: len(rig.venue.cancelled) >= 1)
    await rig.stop()
    rig.venue.outages = {"open_orders": 1}  # the exit is known before the comparison that succeeds
    await rig.start(wait_ready=False)
    await until(lambda: rig.venue.totals["BTC"] == 0, deadline_s=Limits().clear_s)
    requests = await cancels_requested(rig)
    assert (len(requests), len({id for id, _ in requests})) == (2, 1)
