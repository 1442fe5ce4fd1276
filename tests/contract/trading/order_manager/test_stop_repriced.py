"""A trailed stop is moved in place where the venue can: the same order, never cancelled, never a second one."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from fks.model.signal import Kind
from tests.support.order_rig import Rig
from tests.support.scripted_venue import ScriptedVenue
from tests.support.trailed_stops import close_at, resting, trailed
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("audited")

D = Decimal


@pytest.fixture
def venue() -> ScriptedVenue:
    return ScriptedVenue(can_reprice=True, has_oco=False, locks_base=True)


async def journalled(rig: Rig) -> list[tuple[Any, ...]]:
    """Return state, request and trigger of the stops in the journal."""
    rows = await rig.db.sql("SELECT state, request, stop_price FROM orders WHERE role = 'sl' ORDER BY attempt")
    return [tuple(row) for row in rows]


async def shows(rig: Rig, *stops: tuple[str, str, Decimal]) -> None:
    async def same() -> bool:
        return await journalled(rig) == list(stops)

    await until(same)


async def test_a_trailed_stop_is_moved_and_keeps_its_id(rig: Rig, venue: ScriptedVenue) -> None:
    stop = await trailed(rig)
    closes: list[float] = []
    for close in (104.0, 108.0, 111.0):
        closes.append(close)
        await close_at(rig, *closes)
        await shows(rig, ("ACCEPTED", "none", D(str(close)) - 10))
        assert resting(rig) == [D(str(close)) - 10]
    assert venue.repriced == [(stop.order.client_order_id, D(price)) for price in (94, 98, 101)]
    assert (len(venue.received), venue.cancelled, venue.replaced) == (2, [], [])
    rows = await rig.db.sql("SELECT payload FROM order_events WHERE event = 'ReplaceAcked' ORDER BY id")
    assert [D(row["payload"]["stop_price"]) for row in rows] == [D(94), D(98), D(101)]


@pytest.mark.parametrize("answer", ["unheard", "lost"])
async def test_a_lost_answer_is_asked_about(rig: Rig, venue: ScriptedVenue, answer: str) -> None:
    """The queried order decides: a stop that was moved is not moved again, one that was not is moved once more."""
    stop = await trailed(rig)
    name = stop.order.client_order_id
    venue.outages["query"] = 3
    venue.reprices.append(answer)
    await close_at(rig, 105.0)
    await shows(rig, ("ACCEPTED", "none", D(95)))
    assert resting(rig) == [D(95)]
    assert venue.repriced == [(name, D(95))] * (1 if answer == "unheard" else 2)
    assert name in venue.queried
    assert (len(venue.received), venue.cancelled) == (2, [])


@pytest.mark.parametrize("answer", ["unheard", "lost"])
async def test_a_kill_before_the_answer_leaves_one_stop(rig: Rig, venue: ScriptedVenue, answer: str) -> None:
    await trailed(rig)
    venue.reprices.append(answer)
    venue.outages["query"] = 1000
    await close_at(rig, 105.0)
    await shows(rig, ("ACCEPTED", "replace_unknown", D(90)))
    await rig.crash()
    venue.outages["query"] = 0
    await rig.start()
    await shows(rig, ("ACCEPTED", "none", D(95)))
    assert resting(rig) == [D(95)]
    assert (len(venue.received), venue.cancelled) == (2, [])


async def test_a_stop_that_cannot_be_moved_is_placed_again(rig: Rig, venue: ScriptedVenue) -> None:
    """After two refusals it is cancelled, its end proven, and placed; the next one is moved in place again."""
    stop = await trailed(rig)
    venue.reprices += ["refuse:-2038", "refuse:-2038"]
    await close_at(rig, 105.0)
    await shows(rig, ("CANCELLED", "none", D(90)), ("ACCEPTED", "none", D(95)))
    assert venue.repriced == [(stop.order.client_order_id, D(95))] * 2
    assert venue.cancelled == [stop.order.client_order_id]
    await close_at(rig, 105.0, 110.0)
    await shows(rig, ("CANCELLED", "none", D(90)), ("ACCEPTED", "none", D(100)))
    assert resting(rig) == [D(100)]


async def test_a_stop_that_filled_before_its_move_is_booked_once(rig: Rig, venue: ScriptedVenue) -> None:
    stop = await trailed(rig)
    venue.streams_fills = False
    venue.fill(stop.order.client_order_id, stop.order.quantity, D(90))
    await close_at(rig, 105.0)
    await until(lambda: rig.position_is(D(0)))
    assert (venue.totals["BTC"], venue.live()) == (0, [])
    await shows(rig, ("FILLED", "none", D(90)))


async def test_an_exit_during_a_move_ends_flat(rig: Rig, venue: ScriptedVenue) -> None:
    await trailed(rig)
    venue.outages["query"] = 5
    venue.reprices.append("unheard")
    await close_at(rig, 105.0)
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("ordered", None)
    await until(lambda: rig.position_is(D(0)))
    assert (venue.totals["BTC"], venue.live()) == (0, [])
