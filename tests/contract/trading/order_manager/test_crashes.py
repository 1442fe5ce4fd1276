"""A crash between any two steps: nothing is sent twice, nothing is lost, positions are the venue's."""

from __future__ import annotations

import traceback
from decimal import Decimal

import asyncpg
import pytest

from fks.model.errors import StaleEpochError
from fks.model.order import OPEN, OrderType, State
from fks.model.signal import Kind
from fks.store.leases import raise_epoch
from fks.store.orders import OrderStore
from tests.support.invariants import assert_journal, assert_once
from tests.support.order_rig import Rig
from tests.support.servers import TEMPLATE
from tests.support.waiting import until

D = Decimal


async def test_a_signal_that_came_while_nothing_ran_is_taken_up(idle: Rig) -> None:
    signal = await idle.signal()
    await idle.start()
    assert await idle.outcome(signal) == ("ordered", None)


async def test_an_order_in_flight_at_a_crash_is_asked_about_and_not_sent_again(rig: Rig) -> None:
    rig.venue.script.append("hang")
    rig.venue.streams_fills = False
    await rig.signal()
    await until(lambda: rig.venue.received)
    await rig.restart()
    order = rig.venue.received[0]
    await rig.becomes(order, State.FILLED)
    assert_once(rig.venue.received)
    assert rig.venue.received == [order]
    assert await rig.position() == D("9.99")


async def test_refused_right_ends_the_service_and_nothing_is_sent_again(rig: Rig) -> None:
    """A statement that its database role lacks: the reason and the remedy are in the supervisor's page."""
    role = f"{TEMPLATE}_orders"
    await rig.db.sql(f"REVOKE INSERT ON trades FROM {role}")
    await rig.signal()
    task = rig.task
    assert task is not None
    await until(task.done)
    error = task.exception()
    assert isinstance(error, asyncpg.InsufficientPrivilegeError)
    assert "permission denied for table trades; 'fks db upgrade'" in traceback.format_exception(error)[-1]
    (order,) = rig.venue.received
    assert await rig.state(order) in OPEN
    await rig.db.sql(f"GRANT INSERT ON trades TO {role}")
    await rig.restart()
    await rig.becomes(order, State.FILLED)
    assert_once(rig.venue.received)
    assert rig.venue.received == [order]
    assert await rig.position() == D("9.99")


async def test_an_order_whose_bytes_never_left_before_a_crash_becomes_absent(rig: Rig) -> None:
    rig.lease.is_held = False  # between commit and bytes the lease is looked at again
    await rig.db.sql("UPDATE leases SET holder = 'test'")
    signal = await rig.signal()
    rig.lease.is_held = True
    await until(lambda: rig.service.cache.orders or rig.venue.received)
    await rig.crash()
    await rig.start()
    state, _ = await rig.outcome(signal)
    assert state == "ordered"
    assert len(rig.venue.received) <= 1


async def test_a_cancel_wanted_while_nothing_ran_is_sent_after_the_start(rig: Rig) -> None:
    rig.venue.script.append("rest")
    await rig.signal()
    await until(lambda: rig.venue.live())
    order = rig.venue.live()[0].order.client_order_id
    await rig.becomes(order, State.WORKING)
    await rig.crash()
    await OrderStore(rig.db).want_cancel(order, by="ann", now_ns=rig.clock.now_ns())
    await rig.start()
    await rig.becomes(order, State.CANCELLED)
    assert rig.venue.live() == []
    await assert_journal(rig.db)


async def test_what_filled_while_we_were_away_is_booked_at_the_start(rig: Rig) -> None:
    rig.venue.script.append("rest")
    await rig.signal()
    await until(lambda: rig.venue.live())
    order = rig.venue.live()[0].order.client_order_id
    await rig.becomes(order, State.WORKING)
    await rig.crash()
    rig.venue.streams_fills = False
    rig.venue.fill(order, D(4))
    rig.venue.fill(order, D(6), D(101))
    await rig.start()
    done = await rig.becomes(order, State.FILLED)
    assert done.average_price == D("100.6")
    assert await rig.held() == rig.venue.totals["BTC"]


async def test_a_second_start_books_nothing_again(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    before = await rig.db.sql("SELECT * FROM trades")
    await rig.restart()
    await rig.restart()
    assert await rig.db.sql("SELECT * FROM trades") == before
    assert await rig.position() == D("9.99")


async def test_an_older_self_writes_nothing_and_ends(rig: Rig) -> None:
    await raise_epoch(rig.db, "orders", "successor")
    await rig.signal()
    assert rig.task is not None
    with pytest.raises(StaleEpochError):
        await rig.task
    assert rig.venue.received == []
    rows = await rig.db.sql("SELECT count(*) AS n FROM orders")
    assert rows[0]["n"] == 0


async def test_a_lost_lease_pauses_sending_and_does_not_end_it(rig: Rig) -> None:
    rig.lease.is_held = False
    signal = await rig.signal()
    await until(lambda: not rig.service.is_ready)
    assert rig.venue.received == []
    rig.lease.is_held = True
    assert await rig.outcome(signal) == ("ordered", None)


async def test_a_signal_replayed_after_its_outcome_changes_nothing(rig: Rig) -> None:
    signal = await rig.signal()
    await rig.outcome(signal)
    await rig.signal(id=signal)
    other = await rig.signal(Kind.EXIT)
    await rig.outcome(other)
    assert_once(rig.venue.received)
    assert len(rig.venue.received) == 2


async def test_a_report_that_says_the_same_again_is_recorded_again(rig: Rig) -> None:
    """An order that was WORKING, then not found, then WORKING again: its events must make what its row says (A3)."""
    rig.venue.script.append("unheard")
    await rig.signal(
        Kind.ORDER,
        instance="",
        source="principal:me",
        type=OrderType.LIMIT,
        limit_price=D(99),
        size=D(1),
        timeframe=None,
    )
    await until(lambda: rig.venue.live())
    order = rig.venue.live()[0].order.client_order_id
    await rig.becomes(order, State.WORKING)
    rig.venue.hidden[order] = 1
    await rig.restart()
    await until(lambda: not rig.venue.hidden[order])
    await rig.becomes(order, State.WORKING)
    steps = await rig.db.sql("SELECT * FROM order_events ORDER BY id")
    assert "NotListed" in [step["event"] for step in steps]
    await assert_journal(rig.db)
