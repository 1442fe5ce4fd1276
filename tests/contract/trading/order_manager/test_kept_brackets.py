"""A venue that keeps the bracket: its legs are orders in the journal, and the order manager never touches them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import cast

import pytest

from fks.model.ids import leg_id
from fks.model.order import Order, OrderType, Role, Side, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.orders import OrderStore
from fks.trading.orders.messages import Limits
from tests.support.bracket_venue import BracketVenue
from tests.support.histories import save
from tests.support.invariants import assert_journal
from tests.support.order_rig import Rig, seed
from tests.support.waiting import until

D = Decimal
BOTH = {"stop_loss": D(90), "take_profit": D(120)}
QUICK = Limits(unprotected_s=0.5, exit_page_s=2.0, exit_retry_s=0.05, exit_retry_max_s=0.3)


@pytest.fixture
async def rig(database: Database, bus: Bus, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A rig whose venue keeps the bracket. The journal of every test is audited at its end."""
    await seed(database)
    rig = await Rig(database, bus, BracketVenue(), limits=QUICK).start()
    yield rig
    await rig.stop()
    save(request.node.name, rig.histories)
    await assert_journal(database)


def venue_of(rig: Rig) -> BracketVenue:
    return cast(BracketVenue, rig.venue)


async def entered(rig: Rig, **changes: object) -> Order:
    """Enter with SL and TP, and return the entry once both legs are in the journal."""
    signal = await rig.signal(**(BOTH | changes))
    assert await rig.outcome(signal) == ("ordered", None)
    entry = await rig.entry(signal)
    await until(lambda: legs_are(rig, entry, 2))
    return entry


async def legs_of(rig: Rig, entry: Order) -> list[Order]:
    return await OrderStore(rig.db).legs([entry.client_order_id])


async def legs_are(rig: Rig, entry: Order, number: int) -> bool:
    return len(await legs_of(rig, entry)) == number


async def alerts(rig: Rig, severity: str = "page") -> list[str]:
    return [row["event"] for row in await rig.db.sql("SELECT event FROM alerts WHERE severity = $1", severity)]


async def test_reported_legs_are_orders_and_none_of_ours_was_sent(rig: Rig) -> None:
    entry = await entered(rig)
    stop, limit = sorted(await legs_of(rig, entry), key=lambda leg: leg.role)
    assert (stop.client_order_id, stop.role) == (leg_id(entry.client_order_id, "S"), Role.STOP_LOSS)
    assert (limit.client_order_id, limit.role) == (leg_id(entry.client_order_id, "T"), Role.TAKE_PROFIT)
    assert (stop.type, stop.stop_price, stop.quantity, stop.side) == (OrderType.STOP, D(90), D(10), Side.SELL)
    assert (limit.type, limit.price, limit.quantity) == (OrderType.TAKE_PROFIT, D(120), D(10))
    assert {stop.signal_id, limit.signal_id} == {entry.signal_id}
    assert stop.is_acknowledged
    assert stop.is_reduce_only
    steps = await rig.db.sql("SELECT * FROM order_events WHERE client_order_id = $1 ORDER BY id", stop.client_order_id)
    assert (steps[0]["event"], steps[0]["from_state"]) == ("LegReported", None)
    assert rig.venue.received == [entry.client_order_id]


async def test_a_filled_stop_moves_the_position_and_is_booked_once(rig: Rig) -> None:
    entry = await entered(rig)
    venue = venue_of(rig)
    venue.fill(venue.leg("S").order.client_order_id, D(10), D(90))
    await until(lambda: rig.position_is(D(0)))
    await rig.becomes(leg_id(entry.client_order_id, "S"), State.FILLED)
    await rig.becomes(leg_id(entry.client_order_id, "T"), State.EXPIRED)
    booked = await rig.db.sql("SELECT client_order_id FROM trades")
    assert sorted(row["client_order_id"] for row in booked) == sorted(
        [entry.client_order_id, leg_id(entry.client_order_id, "S")]
    )
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("nothing", None)
    assert rig.venue.received == [entry.client_order_id]


async def test_an_exit_goes_at_once_and_cancels_no_leg(rig: Rig) -> None:
    entry = await entered(rig)
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("ordered", None)
    close = await rig.entry(out)
    await rig.becomes(close.client_order_id, State.FILLED)
    await until(lambda: rig.position_is(D(0)))
    for name in "ST":
        await rig.becomes(leg_id(entry.client_order_id, name), State.CANCELLED)
    assert rig.venue.cancelled == []
    assert rig.venue.received == [entry.client_order_id, close.client_order_id]
    assert await alerts(rig) == []


async def test_a_short_position_is_closed_by_a_buy(rig: Rig) -> None:
    entry = await entered(rig, side=Side.SELL, stop_loss=D(110), take_profit=D(80))
    assert await rig.position() == D(-10)
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("ordered", None)
    close = await rig.entry(out)
    assert (close.side, close.quantity) == (Side.BUY, D(10))
    await until(lambda: rig.position_is(D(0)))
    assert rig.venue.received == [entry.client_order_id, close.client_order_id]


async def test_each_lot_of_an_entry_has_its_legs(rig: Rig) -> None:
    rig.venue.script.append("rest")
    signal = await rig.signal(**BOTH)
    await rig.outcome(signal)
    entry = await rig.entry(signal)
    rig.venue.fill(entry.client_order_id, D(4))
    rig.venue.fill(entry.client_order_id, D(6))
    await until(lambda: legs_are(rig, entry, 4))
    legs = {leg.client_order_id: leg for leg in await legs_of(rig, entry)}
    quantities = [legs[leg_id(entry.client_order_id, name)].quantity for name in ("S", "S2", "T", "T2")]
    assert quantities == [D(4), D(6), D(4), D(6)]
    await rig.service.refresh()
    assert await alerts(rig) == []


async def test_a_leg_that_the_venue_changed_has_its_new_quantity_and_price(rig: Rig) -> None:
    entry = await entered(rig)
    venue_of(rig).change("S", D(7), D(95))
    name = leg_id(entry.client_order_id, "S")

    async def is_changed() -> bool:
        order = await OrderStore(rig.db).get(name)
        return order is not None and (order.quantity, order.stop_price) == (D(7), D(95))

    await until(is_changed)
    assert await rig.state(name) is State.ACCEPTED


async def test_a_position_whose_stop_is_not_there_pages_and_gets_none_of_ours(rig: Rig) -> None:
    venue_of(rig).places_legs = False
    signal = await rig.signal(**BOTH)
    await rig.outcome(signal)

    async def is_paged() -> bool:
        return "position.unprotected" in await alerts(rig)

    await until(is_paged)
    assert rig.venue.received == [(await rig.entry(signal)).client_order_id]


async def test_an_execution_that_comes_before_its_leg_is_booked_to_the_leg(rig: Rig) -> None:
    venue = venue_of(rig)
    venue.says_legs = False
    signal = await rig.signal(**BOTH)
    await rig.outcome(signal)
    entry = await rig.entry(signal)
    await until(lambda: rig.position_is(D(10)))
    stop = venue.leg("S")
    venue.streams_fills = False
    fill = venue.fill(stop.order.client_order_id, D(10), D(90))
    venue.push(fill)
    venue.push(venue.report(stop))
    await rig.becomes(leg_id(entry.client_order_id, "S"), State.FILLED)
    await until(lambda: rig.position_is(D(0)))
    assert await rig.db.sql("SELECT 1 FROM trades WHERE instance <> 'one'") == []


async def test_legs_placed_and_filled_while_we_were_down_are_found(rig: Rig) -> None:
    venue = venue_of(rig)
    venue.says_legs = False
    signal = await rig.signal(**BOTH)
    await rig.outcome(signal)
    entry = await rig.entry(signal)
    await until(lambda: rig.position_is(D(10)))
    await rig.crash()
    venue.fill(venue.leg("T").order.client_order_id, D(4), D(120))
    await rig.start()
    await until(lambda: legs_are(rig, entry, 2))
    await until(lambda: rig.position_is(D(6)))
    assert await rig.state(leg_id(entry.client_order_id, "T")) is State.PARTIAL
    assert rig.venue.received == [entry.client_order_id]


async def test_legs_are_the_same_orders_after_a_restart(rig: Rig) -> None:
    entry = await entered(rig)
    before = {leg.client_order_id for leg in await legs_of(rig, entry)}
    await rig.restart()
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("ordered", None)
    await until(lambda: rig.position_is(D(0)))
    assert {leg.client_order_id for leg in await legs_of(rig, entry)} == before
    assert rig.venue.cancelled == []


async def test_a_kill_closes_at_once_and_touches_no_leg(rig: Rig) -> None:
    entry = await entered(rig)
    await rig.db.sql("INSERT INTO kill_switch (kill_id, report) VALUES ('k1', '{\"flatten\": true}')")
    await rig.service.refresh()
    await until(lambda: rig.position_is(D(0)))
    assert rig.venue.cancelled == []
    roles = [row["role"] for row in await rig.db.sql("SELECT role FROM orders ORDER BY created_at")]
    assert sorted(roles) == ["entry", "kill", "sl", "tp"]
    assert rig.venue.received[0] == entry.client_order_id
    assert len(rig.venue.received) == 2


async def test_what_the_platform_closed_by_itself_is_taken_from_the_instance(rig: Rig) -> None:
    await entered(rig)
    venue_of(rig).close_outside("BTCUSDT", D(10))
    await until(lambda: rig.position_is(D(0)))
    assert await rig.position("external") == 0

    async def is_reported() -> bool:
        return await alerts(rig, "warning") == ["fill.external"]

    await until(is_reported)
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("nothing", None)


async def test_more_than_was_held_is_external(rig: Rig) -> None:
    await entered(rig)
    venue_of(rig).close_outside("BTCUSDT", D(12))
    await until(lambda: rig.position_is(D(0)))
    await until(lambda: rig.position_is(D(-2), "external"))


async def test_a_persons_cancel_of_a_leg_is_not_sent(rig: Rig) -> None:
    entry = await entered(rig)
    name = leg_id(entry.client_order_id, "S")
    await OrderStore(rig.db).want_cancel(name, by="ann", now_ns=rig.clock.now_ns())
    await until(lambda: "order.kept_by_venue" in rig.log.events("warning"))
    assert rig.venue.cancelled == []
    assert await rig.state(name) is State.ACCEPTED
