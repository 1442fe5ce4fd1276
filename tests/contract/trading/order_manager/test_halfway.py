"""A crash, a hang or a repeated message between two steps of the order path."""

from __future__ import annotations

import uuid
from decimal import Decimal

import pytest

from fks.clock import RealClock
from fks.interfaces.entry.order_entry import OrderEntry, OrderRequest
from fks.model.order import OrderType, Side, State
from fks.model.ports import SessionBack
from fks.model.signal import Kind
from fks.store.bus import WAKE
from fks.store.orders import OrderStore
from fks.store.signals import SignalStore
from fks.trading.order_manager.venue_orders import VenueOrders
from tests.support.invariants import assert_once, assert_one
from tests.support.order_rig import Rig, signal_of
from tests.support.waiting import until

D = Decimal
BOTH = {"stop_loss": D(90), "take_profit": D(120)}


def legs(rig: Rig) -> list[str]:
    return [held.order.client_order_id for held in rig.venue.live() if held.order.parent_id]


async def test_a_cancel_that_was_committed_and_never_sent_is_sent_by_the_next_epoch(rig: Rig) -> None:
    signal = await rig.signal(type=OrderType.LIMIT, limit_price=D(99))
    await rig.outcome(signal)
    order = await rig.becomes((await rig.entry(signal)).client_order_id, State.WORKING)
    rig.lease.is_held = False  # the request is committed, its bytes wait for the lease
    await OrderEntry(rig.db, rig.bus, RealClock(), rig.settings).cancel(order.client_order_id, "me")

    async def is_asked() -> bool:
        known = await OrderStore(rig.db).get(order.client_order_id)
        return known is not None and known.request.value == "cancel"

    await until(is_asked)
    assert rig.venue.cancelled == []
    await rig.restart()
    await rig.becomes(order.client_order_id, State.CANCELLED)


async def test_an_exit_is_not_held_up_by_a_cancel_that_an_earlier_self_never_sent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.outcome(await rig.signal(**BOTH))
    await until(lambda: len(legs(rig)) == 2)
    rig.lease.is_held = False
    monkeypatch.setattr(VenueOrders, "send_cancel", lambda requests, order: None)  # dies before the bytes
    rig.lease.is_held = True
    await rig.signal(Kind.EXIT)

    async def is_asked() -> bool:
        rows = await rig.db.sql("SELECT 1 FROM orders WHERE request = 'cancel'")
        return bool(rows)

    await until(is_asked)
    monkeypatch.undo()
    await rig.restart()
    await until(lambda: rig.venue.totals["BTC"] == 0, deadline_s=8)


async def test_a_kill_known_only_to_the_file_stops_an_order_at_once(rig: Rig) -> None:
    rig.killed = True
    signal = await rig.signal()
    await rig.outcome(signal)
    order = await rig.becomes((await rig.entry(signal)).client_order_id, State.REJECTED, State.DENIED)
    assert order.code == "KILLED"
    assert rig.venue.received == []


async def test_a_commit_that_lands_after_its_connection_died_is_still_sent_once(rig: Rig) -> None:
    signal = signal_of()
    async with rig.db.transaction() as tx:
        await SignalStore(rig.db).insert([signal])
        await tx.sql("SELECT 1 FROM signals WHERE id = $1 FOR UPDATE", signal.id)
        await rig.bus.publish(WAKE, {"type": "signal"})
        blocked = (
            "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )

        async def waits(count: int) -> bool:
            return (await rig.db.sql(blocked))[0]["n"] >= count

        await until(lambda: waits(1))
        assert rig.own is not None
        for holder in rig.own._pool._holders:  # the client side of the waiting statement is cut; the server goes on
            if holder._con is not None and holder._in_use is not None:
                holder._con.terminate()
        await until(lambda: waits(2), deadline_s=10)
    await until(lambda: rig.venue.received, deadline_s=5)
    order = await rig.entry(signal.id)
    await rig.becomes(order.client_order_id, State.FILLED)
    assert_one(rig.venue.received)
    assert rig.venue.received == [order.client_order_id]


async def test_signals_that_wait_in_one_instrument_hold_up_no_other(rig: Rig) -> None:
    await rig.db.sql("UPDATE instruments SET is_trading = false WHERE symbol = 'ETHUSDT'")
    await until(lambda: True)
    waiting = [
        signal_of(Kind.EXIT, symbol="ETHUSDT", venue="ccxt", instance="one", id=uuid.uuid4(), ordinal=n)
        for n in range(600)
    ]
    rig.service.cache.venues["ccxt"].is_connected = False
    await SignalStore(rig.db).insert(waiting)
    fresh = await rig.signal()
    state, _ = await rig.outcome(fresh)
    assert state in ("ordered", "denied")


async def test_a_number_beyond_all_bounds_is_denied_and_breaks_nothing(rig: Rig) -> None:
    entry = OrderEntry(rig.db, rig.bus, RealClock(), rig.settings)
    for fields in (
        {"quantity": D(10) ** 30, "type": "market"},
        {"quantity": D(1), "type": "limit", "price": D(10) ** 30},
        {"quantity": D(1), "type": "market", "stop_loss": D("1e-35")},
    ):
        answer = await entry.submit(
            OrderRequest(symbol="BTCUSDT", side="buy", account="main", **fields),
            "me",
            uuid.uuid4().hex,  # type: ignore[arg-type]
        )
        assert answer.status == 422, answer.body
    assert rig.task is not None
    assert not rig.task.done()
    assert rig.venue.received == []


async def test_a_venue_that_blinks_while_a_position_is_armed_leaves_it_protected(rig: Rig) -> None:
    rig.venue.script.extend(["ok", *["refuse:VENUE_DOWN"] * 4])
    await rig.outcome(await rig.signal(**BOTH))
    await until(lambda: len(legs(rig)) == 2, deadline_s=10)
    assert_once(rig.venue.received)


async def test_what_a_person_sold_is_not_sold_again_and_the_next_exit_still_goes(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    sold = await rig.signal(
        Kind.ORDER,
        source="principal:me",
        instance="",
        side=Side.SELL,
        size=D("9.99"),
        timeframe=None,
        reference_price=None,
    )
    assert await rig.outcome(sold) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] == 0)
    await rig.becomes((await rig.entry(sold)).client_order_id, State.FILLED)
    assert (await rig.outcome(await rig.signal(Kind.EXIT)))[0] == "nothing"
    await rig.outcome(await rig.signal())
    await until(lambda: rig.venue.totals["BTC"] > 0)
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity == D("9.99"))
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("ordered", None)
    await until(lambda: rig.venue.totals["BTC"] == 0)


async def test_an_exit_refused_before_an_outage_is_sent_after_it(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    rig.venue.script.append("refuse:VENUE_DOWN")
    status = rig.service.cache.venues["ccxt"]
    await rig.signal(Kind.EXIT)
    await until(lambda: len(rig.venue.received) == 2)
    rig.venue.outages["open_orders"] = 10_000
    rig.venue.lose_session()
    await until(lambda: not status.is_connected)
    rig.venue.outages.clear()
    rig.venue.push(SessionBack())
    await until(lambda: rig.service.is_ready)
    await until(lambda: rig.venue.totals["BTC"] == 0, deadline_s=15)


async def test_an_exit_that_was_refused_before_a_crash_is_taken_up_by_the_next_epoch(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    rig.venue.script.append("refuse:RATE_VENUE")
    out = await rig.signal(Kind.EXIT)
    await until(lambda: len(rig.venue.received) == 2)
    await rig.becomes((await rig.entry(out)).client_order_id, State.REJECTED)
    await rig.restart()
    await until(lambda: rig.venue.totals["BTC"] == 0)
    await rig.restart()
    assert_once(rig.venue.received)
    assert len(rig.venue.received) == 3


async def test_an_account_that_the_session_does_not_belong_to_gets_no_order(rig: Rig) -> None:
    await rig.db.sql("INSERT INTO accounts (name, venue, initial_balance) VALUES ('other', 'ccxt', 1000)")
    await rig.read_slow()
    assert await rig.outcome(await rig.signal(account_id=3)) == ("denied", "ACCOUNT_UNKNOWN")
