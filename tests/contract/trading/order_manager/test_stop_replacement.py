"""A trailed stop without a take profit is replaced by one request: the exchange's log of resting stops has no gap."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from fks.model.order import Order, OrderType, Role, Side, State
from fks.model.signal import Kind
from tests.support.invariants import assert_once
from tests.support.order_rig import Rig
from tests.support.scripted_venue import Held, ScriptedVenue
from tests.support.trailed_stops import close_at, resting, trailed
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("audited")

D = Decimal
HELD = D("9.99")


class LoggedVenue(ScriptedVenue):
    """A venue that logs what its resting stops cover after each request, once the first one rests."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.covered: list[Decimal] = []

    async def submit(self, order):  # type: ignore[no-untyped-def]
        return self.noted(await super().submit(order))

    async def cancel(self, order):  # type: ignore[no-untyped-def]
        return self.noted(await super().cancel(order))

    async def amend(self, order, quantity):  # type: ignore[no-untyped-def]
        return self.noted(await super().amend(order, quantity))

    async def replace(self, old, new):  # type: ignore[no-untyped-def]
        return self.noted(await super().replace(old, new))

    def noted(self, answer):  # type: ignore[no-untyped-def]
        covered = sum((h.order.quantity - h.filled for h in self.stops()), D(0))
        if self.covered or covered:
            self.covered.append(covered)
        return answer

    def stops(self) -> list[Held]:
        return [held for held in self.live() if held.order.role is Role.STOP_LOSS]


@pytest.fixture
def venue() -> LoggedVenue:
    return LoggedVenue(can_replace=True)


async def leg_of(rig: Rig, held: Held) -> str:
    rows = await rig.db.sql("SELECT state, request FROM orders WHERE client_order_id = $1", held.order.client_order_id)
    return f"{rows[0]['state']} {rows[0]['request']}"


@pytest.mark.parametrize("can_replace", [True, False])
async def test_a_trailed_stop_rests_at_each_moment(idle: Rig, venue: LoggedVenue, can_replace: bool) -> None:
    venue.capabilities = replace(venue.capabilities, can_replace=can_replace)
    venue.locks_base = True
    rig = await idle.start()
    await trailed(rig)
    for closes in ([104.0], [104.0, 108.0], [104.0, 108.0, 111.0]):
        await close_at(rig, *closes)
        await until(lambda closes=closes: resting(rig) == [D(str(closes[-1])) - 10])
    assert (D(0) in venue.covered) is not can_replace
    assert set(venue.covered) <= {D(0), HELD}
    assert (len(venue.replaced), len(venue.cancelled)) == ((3, 0) if can_replace else (0, 3))
    assert_once(venue.received)
    assert len(venue.received) == 1 + 4

    async def are_journalled() -> bool:  # the venue has it first
        return [await leg_of(rig, held) for held in venue.by_role("sl")] == ["CANCELLED none"] * 3 + ["ACCEPTED none"]

    await until(are_journalled)


async def test_a_pair_that_trails_keeps_a_half_of_its_cover_while_the_other_moves(
    idle: Rig, venue: LoggedVenue
) -> None:
    venue.capabilities = replace(venue.capabilities, can_amend=True)
    venue.locks_base = True
    rig = await idle.start()
    assert await rig.outcome(await rig.signal(stop_loss=D(90), take_profit=D(200), trail=D(10))) == ("ordered", None)
    await until(lambda: resting(rig) == [D(90)])
    for closes in ([104.0], [104.0, 108.0], [104.0, 108.0, 111.0]):
        await close_at(rig, *closes)
        await until(lambda closes=closes: resting(rig) == [D(str(closes[-1])) - 10] * 2)
        assert sum(held.order.quantity for held in venue.stops()) == HELD
    assert min(venue.covered) == D("4.995")
    assert (len(venue.amended), len(venue.replaced)) == (1, 0)
    assert_once(venue.received)
    assert len(venue.received) == 1 + 2 + 3 * 4  # the entry, and pairs of legs


@pytest.mark.parametrize("can_replace", [True, False])
async def test_a_moved_stop_that_was_passed_is_closed_without_a_second_try(
    idle: Rig, venue: LoggedVenue, can_replace: bool
) -> None:
    """The price is back at 100 by then. Where neither half of a replacement was tried, the old stop ends first."""
    venue.capabilities = replace(venue.capabilities, can_replace=can_replace)
    rig = await idle.start()
    stop = await trailed(rig)
    (venue.replaces if can_replace else venue.script).append("refuse:-2010:would_trigger")
    await close_at(rig, 105.0)
    await until(lambda: rig.position_is(D(0)))
    assert [held.order.type for held in venue.by_role("sl")] == [OrderType.STOP, OrderType.MARKET]
    assert (stop.state, venue.live()) == (State.CANCELLED, [])
    assert_once(venue.received)
    assert len(venue.received) == 1 + 3


@pytest.mark.parametrize("is_passed", [False, True])
async def test_a_successor_that_is_refused_is_placed_at_once(rig: Rig, venue: LoggedVenue, is_passed: bool) -> None:
    """The cancel succeeded and the new order failed (−2021); beyond the stop's price it is closed at the market."""
    stop = await trailed(rig)
    venue.replaces.append("halfway:-2010:would_trigger" if is_passed else "halfway:-2010")
    await close_at(rig, *([105.0, 94.0] if is_passed else [105.0]))
    if is_passed:
        await until(lambda: rig.position_is(D(0)))
        assert [held.order.type for held in venue.by_role("sl")] == [OrderType.STOP, OrderType.MARKET]
        assert venue.live() == []
    else:
        await until(lambda: resting(rig) == [D(95)])
        assert venue.covered == [HELD, D(0), HELD]
    assert stop.state is State.CANCELLED

    async def is_rejected() -> bool:
        rows = await rig.db.sql("SELECT state FROM orders WHERE role = 'sl' AND attempt = 1")
        return [row["state"] for row in rows] == ["REJECTED"]

    await until(is_rejected)


async def test_an_exit_of_another_instance_is_whole_while_a_stop_is_replaced(
    rig: Rig, venue: LoggedVenue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the stop and its successor is at the venue: both together held half of the other position back."""
    two: dict[str, Any] = {"instance": "two", "source": "strategy:two", "timeframe": None}
    assert await rig.outcome(await rig.signal(**two)) == ("ordered", None)
    await trailed(rig)
    is_asked, may_answer, answered = asyncio.Event(), asyncio.Event(), venue.replace

    async def slow(old: Order, new: Order) -> Any:
        is_asked.set()
        await may_answer.wait()
        return await answered(old, new)

    monkeypatch.setattr(venue, "replace", slow)
    await close_at(rig, 105.0)
    await is_asked.wait()
    await rig.signal(Kind.EXIT, **two, side=Side.SELL)
    exits = "SELECT quantity, state FROM orders WHERE role = 'exit' AND instance = 'two'"
    await until(lambda: rig.db.sql(exits))
    may_answer.set()
    await until(lambda: resting(rig) == [D(95)])

    async def is_whole() -> bool:
        return [tuple(row) for row in await rig.db.sql(exits)] == [(HELD, "FILLED")]

    await until(is_whole)


@pytest.mark.parametrize("answer", ["lost", "unheard", "raise"])
async def test_an_unclear_answer_leaves_both_unresolved(rig: Rig, venue: LoggedVenue, answer: str) -> None:
    """Each is queried by its id; neither is sent again before the venue has answered about both."""
    stop = await trailed(rig)
    venue.outages["query"] = 20
    venue.replaces.append(answer)
    await close_at(rig, 105.0)
    await until(lambda: len(venue.received) == 3)
    successor = venue.received[2]
    await rig.becomes(successor, State.UNKNOWN)
    if answer != "unheard":  # else the event stream names the end of the old one

        async def is_unclear() -> bool:
            return await leg_of(rig, stop) == "ACCEPTED replace_unknown"

        await until(is_unclear)
    await asyncio.sleep(0.1)
    assert (len(venue.received), venue.cancelled) == (3, [])
    await until(lambda: resting(rig) == [D(95)], deadline_s=10)
    sent = 3 if answer == "unheard" else 4  # the lost one is proven absent, and the next attempt goes out
    assert_once(venue.received)
    assert len(venue.received) == sent
    asked = {successor} if answer == "unheard" else {successor, stop.order.client_order_id}
    assert asked <= set(venue.queried)
    await rig.becomes(successor, State.ACCEPTED if answer == "unheard" else State.ABSENT)
    await rig.becomes(stop.order.client_order_id, State.CANCELLED)
    assert D(0) not in venue.covered


async def test_a_stop_stays_when_neither_half_was_tried(rig: Rig, venue: LoggedVenue) -> None:
    """After two refusals in a row the stop is cancelled and placed, as where no request does both."""
    stop = await trailed(rig)
    venue.replaces += ["refuse:-2010", "refuse:-2010"]
    await close_at(rig, 105.0)
    await until(lambda: resting(rig) == [D(95)])
    assert venue.replaced == [stop.order.client_order_id] * 2
    assert venue.cancelled == [stop.order.client_order_id]
    assert venue.covered[:3] == [HELD] * 3
    assert_once(venue.received)
    assert len(venue.received) == 1 + 1 + 2 + 1


async def test_a_stop_that_filled_before_its_replacement_is_booked_once(rig: Rig, venue: LoggedVenue) -> None:
    stop = await trailed(rig)
    venue.streams_fills = False
    venue.fill(stop.order.client_order_id, HELD, D(90))
    await close_at(rig, 105.0)
    await until(lambda: rig.position_is(D(0)))
    assert venue.totals["BTC"] == 0
    assert venue.live() == []
    assert await leg_of(rig, stop) == "FILLED none"


@pytest.mark.parametrize("is_sent", [True, False])
async def test_a_crash_in_a_replacement_sends_nothing_twice(rig: Rig, venue: LoggedVenue, is_sent: bool) -> None:
    """After the start both are queried; the orders that the venue has decide."""
    await trailed(rig)
    venue.replaces.append("unheard" if is_sent else "lost")
    venue.outages["query"] = 1000
    await close_at(rig, 105.0)
    await until(lambda: len(venue.received) == 3)
    await rig.crash()
    venue.outages["query"] = 0
    await rig.start()
    await until(lambda: resting(rig) == [D(95)], deadline_s=10)
    assert_once(venue.received)
    assert D(0) not in venue.covered


async def test_an_exit_during_a_replacement_ends_flat(rig: Rig, venue: LoggedVenue) -> None:
    await trailed(rig)
    venue.outages["query"] = 5
    venue.replaces.append("unheard")
    await close_at(rig, 105.0)
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("ordered", None)
    await until(lambda: rig.position_is(D(0)))
    assert venue.totals["BTC"] == 0
    assert venue.live() == []


async def test_a_stop_of_a_pair_is_not_replaced_by_one_request(rig: Rig, venue: LoggedVenue) -> None:
    """Such a request would end the whole list at the venue and leave the position without its take profit."""
    assert await rig.outcome(await rig.signal(stop_loss=D(90), take_profit=D(200), trail=D(10))) == ("ordered", None)
    await until(lambda: len([held for held in venue.live() if held.order.parent_id]) == 2)
    await close_at(rig, 105.0)
    await until(lambda: resting(rig) == [D(95)])
    assert venue.replaced == []
    assert [held.order.price for held in venue.by_role("tp") if held in venue.live()] == [D(200)]


async def test_a_stop_waits_for_the_step_of_its_account(idle: Rig, venue: LoggedVenue) -> None:
    """Closes that bring it less than the step count again with the next one; a restart changes nothing of it."""
    step = idle.settings.venue.model_copy(update={"trail_step_pct": D(5)})
    idle.settings = idle.settings.model_copy(update={"venue": step})
    rig = await idle.start()
    await trailed(rig)
    closes: list[float] = []
    for close, stop in ((103.0, 90), (104.0, 90), (101.0, 90), (104.5, D("94.5")), (106.0, D("94.5"))):
        closes.append(close)
        await close_at(rig, *closes)
        await until(lambda stop=stop: resting(rig) == [stop])
    await rig.restart()
    assert resting(rig) == [D("94.5")]
    moves = await rig.db.sql("SELECT payload FROM order_events WHERE event = 'StopMoved'")
    assert [D(row["payload"]["stop_loss"]) for row in moves] == [D("94.5")]
