"""Groups of entries on a real database: the legs of one decision are made together or not at all, also over a kill."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest

from fks.clock import RealClock
from fks.model.order import TERMINAL, Answer, Order, OrderType, Outcome, Refusal, Role, State
from fks.model.ports import SessionBack
from fks.model.signal import Kind, SignalState
from fks.model.timeframe import NS
from fks.store.signals import SignalStore
from fks.trading.orders.crash_points import nowhere
from tests.support.crash_points import CrashPoints
from tests.support.invariants import assert_once
from tests.support.order_rig import D, Rig, signal_of
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until


@dataclass
class OneSided(ScriptedVenue):
    """Refuses the orders in some symbols, whatever the script."""

    refused: set[str] = field(default_factory=set)

    async def submit(self, order: Order) -> Answer:
        if order.symbol in self.refused:
            self.received.append(order.client_order_id)
            return Answer(Outcome.REFUSED, code="-2010", detail="refused", refusal=Refusal.OTHER)
        return await super().submit(order)


@pytest.fixture
def venue() -> OneSided:
    return OneSided()


LEGS = "BTCUSDT ETHUSDT"
PRICES = {"BTCUSDT": D(100), "ETHUSDT": D(10)}


def leg(group: uuid.UUID, symbol: str, **changes: Any) -> dict[str, Any]:
    """Return the changes that make a signal the leg of a group: BTC of the instance `one`, ETH of `two`."""
    instance = "one" if symbol == "BTCUSDT" else "two"
    return {
        "instance": instance,
        "source": f"strategy:{instance}",
        "symbol": symbol,
        "reference_price": PRICES[symbol],
        "valid_until_ns": RealClock().now_ns() + 60 * NS,
        "group_id": group,
        "group_legs": LEGS,
        **changes,
    }


async def signals(rig: Rig, *symbols: str, **changes: dict[str, Any]) -> list[uuid.UUID]:
    """Insert the legs of one group, with changes by symbol, and return their ids."""
    group = uuid.uuid4()
    return [await rig.signal(**leg(group, symbol, **changes.get(symbol, {}))) for symbol in symbols]


async def exits(rig: Rig) -> list[tuple[str, str, str]]:
    """Return the exits of legs that were sent: symbol, state, reason."""
    rows = await rig.db.sql(
        "SELECT symbol, state, reason FROM signals WHERE kind = 'exit' AND group_id IS NOT NULL ORDER BY symbol"
    )
    return [(row["symbol"], row["state"], row["reason"]) for row in rows]


async def test_legs_are_entered_once_all_are_there(rig: Rig) -> None:
    group = uuid.uuid4()
    first = await rig.signal(**leg(group, "BTCUSDT"))
    await rig.service.refresh()
    assert await rig.db.sql("SELECT 1 FROM orders") == []
    second = await rig.signal(**leg(group, "ETHUSDT"))
    assert [await rig.outcome(one) for one in (first, second)] == [("ordered", None)] * 2
    for one in (first, second):
        order = await rig.entry(one)
        await rig.becomes(order.client_order_id, State.FILLED)
    assert await exits(rig) == []


async def test_a_denial_of_one_leg_denies_all_with_its_code(rig: Rig) -> None:
    first, second = await signals(rig, "BTCUSDT", "ETHUSDT", ETHUSDT={"size": D(10_000_000)})
    assert await rig.outcome(first) == ("denied", "GROUP_DENIED")
    assert await rig.outcome(second) == ("denied", "QTY_MAX")
    record = await SignalStore(rig.db).get(first)
    assert record is not None
    assert "ETHUSDT QTY_MAX" in str(record.detail)
    assert not rig.venue.received
    entry = await rig.signal(instance="one")  # what the group had reserved is free
    assert await rig.outcome(entry) == ("ordered", None)


async def test_legs_are_checked_with_the_money_of_the_others_reserved(idle: Rig) -> None:
    """The account covers each of them, of 1000 USDT, and not both."""
    idle.venue.totals["USDT"] = D(1500)
    rig = await idle.start()
    legs = await signals(rig, "BTCUSDT", "ETHUSDT")
    assert [await rig.outcome(one) for one in legs] == [("denied", "GROUP_DENIED"), ("denied", "BALANCE")]
    assert not rig.venue.received
    alone = await rig.signal(instance="one")
    assert await rig.outcome(alone) == ("ordered", None)


async def test_a_malformed_leg_denies_the_others_and_ends_nothing(rig: Rig) -> None:
    first, second = await signals(rig, "BTCUSDT", "ETHUSDT", ETHUSDT={"size": D("1e1000")})
    assert await rig.outcome(first) == ("denied", "GROUP_DENIED")
    assert await rig.outcome(second) == ("denied", "QTY_MAX")


async def test_a_leg_that_stays_alone_expires(rig: Rig) -> None:
    (first,) = await signals(rig, "BTCUSDT", BTCUSDT={"valid_until_ns": RealClock().now_ns() + NS // 2})
    assert await rig.outcome(first) == ("expired", "SIGNAL_EXPIRED")
    assert not rig.venue.received


async def test_a_leg_of_a_group_that_failed_is_denied(rig: Rig) -> None:
    group = uuid.uuid4()
    failed = signal_of(**leg(group, "ETHUSDT", state=SignalState.DECLINED))
    await SignalStore(rig.db).insert([failed])
    first = await rig.signal(**leg(group, "BTCUSDT"))
    assert await rig.outcome(first) == ("denied", "GROUP_DENIED")


async def test_a_leg_that_the_venue_refuses_ends_the_other(rig: Rig, venue: OneSided) -> None:
    venue.refused.add("ETHUSDT")
    first, second = await signals(rig, "BTCUSDT", "ETHUSDT")
    assert [await rig.outcome(one) for one in (first, second)] == [("ordered", None)] * 2

    async def is_flat() -> bool:
        return bool(await exits(rig)) and await rig.held() == 0

    await until(is_flat)
    ((symbol, _, reason),) = await exits(rig)
    assert symbol == "BTCUSDT"
    assert reason.startswith("GROUP_DENIED: ETHUSDT ")


async def test_an_exit_is_not_held_up_by_a_leg_that_waits(rig: Rig) -> None:
    """The entry that waits for its other leg is denied, so that it cannot come after the exit."""
    held = await rig.signal(instance="one")
    order = await rig.entry(held) if await rig.outcome(held) == ("ordered", None) else None
    assert order is not None
    await rig.becomes(order.client_order_id, State.FILLED)
    (waits,) = await signals(rig, "BTCUSDT")
    exit_ = await rig.signal(Kind.EXIT, instance="one")
    assert await rig.outcome(exit_) == ("ordered", None)
    assert await rig.outcome(waits) == ("denied", "GROUP_INCOMPLETE")


@pytest.mark.parametrize("label", ["place.before", "place.after", "send.before", "send.after", "ack.after"])
@pytest.mark.parametrize("count", [1, 2])
async def test_a_kill_at_any_step_leaves_all_legs_or_none(idle: Rig, label: str, count: int) -> None:
    died = asyncio.Event()

    def die() -> None:
        assert idle.task is not None
        idle.task.cancel()
        died.set()

    idle.at = CrashPoints(label, count, die)
    rig = await idle.start()
    legs = await signals(rig, "BTCUSDT", "ETHUSDT")
    await asyncio.wait_for(died.wait(), 10)
    await rig.restart(at=nowhere)
    for one in legs:  # one that was not sent is denied, if the venue never got the other one
        assert await rig.outcome(one) in (("ordered", None), ("denied", "GROUP_DENIED"))

    async def is_settled() -> bool:
        states = [(await rig.entry(one)).state for one in legs]
        if not all(state in TERMINAL for state in states):
            return False
        held = [bool(await rig.held(symbol)) for symbol in PRICES]
        return held[0] is held[1] and held[0] is (State.FILLED in states and not await exits(rig))

    await until(is_settled)
    assert_once(rig.venue.received)


async def test_a_broken_group_found_after_a_kill_is_ended_once(rig: Rig, venue: OneSided) -> None:
    """The order manager dies as the venue refuses the second leg, and again after it has sent the exit."""
    venue.refused.add("ETHUSDT")
    rig.venue.script.extend(["hang", "hang"])
    legs = await signals(rig, "BTCUSDT", "ETHUSDT")
    await until(lambda: len(rig.venue.received) == 2)
    await rig.restart()

    async def is_flat() -> bool:
        return bool(await exits(rig)) and await rig.held() == 0

    await until(is_flat)
    await rig.restart()
    await rig.service.refresh()
    assert len(await exits(rig)) == 1
    assert [(await rig.outcome(one))[0] for one in legs] == ["ordered", "ordered"]
    assert await rig.held() == 0


async def entered(rig: Rig, venue: OneSided, **second: Any) -> tuple[uuid.UUID, uuid.UUID, Order]:
    """Enter a group whose ETH leg is a limit that rests; return the legs and the order that rests."""
    changes = {"type": OrderType.LIMIT, "limit_price": D(9), **second}
    legs = await signals(rig, "BTCUSDT", "ETHUSDT", ETHUSDT=changes)
    assert [await rig.outcome(one) for one in legs] == [("ordered", None)] * 2
    await rig.becomes((await rig.entry(legs[0])).client_order_id, State.FILLED)
    resting = await rig.entry(legs[1])
    await rig.becomes(resting.client_order_id, State.WORKING)
    return legs[0], legs[1], resting


async def ends(rig: Rig, order: Order) -> None:
    """Let an order end at the venue without an execution."""
    rig.venue.end(rig.venue.orders[order.client_order_id], State.CANCELLED)
    await rig.becomes(order.client_order_id, State.CANCELLED)


async def test_a_leg_that_left_by_its_own_exit_is_not_ended_again(rig: Rig, venue: OneSided) -> None:
    _, _, resting = await entered(rig, venue)
    own = await rig.signal(Kind.EXIT, instance="one")
    assert await rig.outcome(own) == ("ordered", None)
    await until(lambda: rig.position_is(D(0)))
    await ends(rig, resting)
    assert await SignalStore(rig.db).broken() == []
    assert await exits(rig) == []


async def test_the_next_entry_of_a_leg_is_not_denied_by_the_end_of_the_last(rig: Rig, venue: OneSided) -> None:
    """Both legs turn on the next bar: BTC has its exit and waits for the ETH entry as the ETH limit is cancelled."""
    _, _, resting = await entered(rig, venue)
    assert await rig.outcome(await rig.signal(Kind.EXIT, instance="one")) == ("ordered", None)
    await until(lambda: rig.position_is(D(0)))
    group = uuid.uuid4()
    first = await rig.signal(**leg(group, "BTCUSDT"))
    await ends(rig, resting)
    assert await SignalStore(rig.db).broken() == []
    second = await rig.signal(**leg(group, "ETHUSDT"))
    assert [await rig.outcome(one) for one in (first, second)] == [("ordered", None)] * 2
    assert await exits(rig) == []


async def test_a_leg_that_was_added_to_is_ended_with_its_group(rig: Rig, venue: OneSided) -> None:
    _, _, resting = await entered(rig, venue)
    added = await rig.signal(instance="one", is_add=True)
    assert await rig.outcome(added) == ("ordered", None)
    await rig.becomes((await rig.entry(added)).client_order_id, State.FILLED)
    await ends(rig, resting)
    await until(lambda: rig.position_is(D(0)))
    assert [symbol for symbol, _, _ in await exits(rig)] == ["BTCUSDT"]


async def test_a_leg_is_ended_however_long_the_other_rested(rig: Rig, venue: OneSided) -> None:
    first, second, resting = await entered(rig, venue)
    await rig.db.sql(
        "UPDATE signals SET created_at = now() - interval '8 days' WHERE id = ANY($1::uuid[])", [first, second]
    )
    await ends(rig, resting)
    await until(lambda: rig.position_is(D(0)))
    assert [symbol for symbol, _, _ in await exits(rig)] == ["BTCUSDT"]


async def turning(rig: Rig) -> uuid.UUID:
    """Hold ETH, and leave it by an exit whose order rests; return the exit."""
    held = await rig.signal(**{**leg(uuid.uuid4(), "ETHUSDT"), "group_id": None, "group_legs": ""})
    assert await rig.outcome(held) == ("ordered", None)
    await rig.becomes((await rig.entry(held)).client_order_id, State.FILLED)
    rig.venue.script.append("rest")
    own = await rig.signal(Kind.EXIT, instance="two", source="strategy:two", symbol="ETHUSDT", reference_price=D(10))
    await until(lambda: len(rig.venue.received) == 2)
    return own


def close(rig: Rig) -> None:
    """Fill the order of the exit that rests."""
    resting = next(one for one in rig.venue.live() if one.order.role is Role.EXIT)
    rig.venue.fill(resting.order.client_order_id, resting.order.quantity)


async def test_a_leg_is_not_sent_once_the_venue_refused_another(rig: Rig, venue: OneSided) -> None:
    """ETH turns: its entry was approved with that of BTC, and waits for its exit as the venue refuses BTC."""
    await turning(rig)
    venue.refused.add("BTCUSDT")
    first, second = await signals(rig, "BTCUSDT", "ETHUSDT")
    assert await rig.outcome(first) == ("ordered", None)
    await rig.becomes((await rig.entry(first)).client_order_id, State.REJECTED)
    sent = len(rig.venue.received)
    close(rig)
    assert await rig.outcome(second) == ("denied", "GROUP_DENIED")
    assert len(rig.venue.received) == sent


async def test_a_leg_whose_instance_is_disabled_before_its_turn_is_denied(rig: Rig) -> None:
    """ETH waits for its exit for over a second, until which its instance is disabled. BTC is ended."""
    await turning(rig)
    first, second = await signals(rig, "BTCUSDT", "ETHUSDT")
    assert await rig.outcome(first) == ("ordered", None)
    late_s = rig.clock.monotonic() + 1.1
    await rig.db.sql("UPDATE strategy_instances SET is_enabled = false WHERE id = 'two'")
    await rig.read_slow()
    await until(lambda: rig.clock.monotonic() > late_s)
    close(rig)
    assert await rig.outcome(second) == ("denied", "STRATEGY_DISABLED")
    await until(lambda: rig.position_is(D(0)))
    assert [symbol for symbol, _, _ in await exits(rig)] == ["BTCUSDT"]


async def test_a_session_lost_while_a_leg_waits_for_its_exit_ends_nothing(rig: Rig, venue: OneSided) -> None:
    """ETH turns: its money is reserved, and its entry waits for its exit, which rests, as the session breaks."""
    own = await turning(rig)
    first, second = await signals(rig, "BTCUSDT", "ETHUSDT")
    assert await rig.outcome(first) == ("ordered", None)
    rig.venue.lose_session()
    rig.venue.push(SessionBack())
    await until(lambda: rig.service.cache.venues["ccxt"].ready_times == 2)
    close(rig)
    assert await rig.outcome(own) == ("ordered", None)
    assert await rig.outcome(second) == ("ordered", None)
    await rig.becomes((await rig.entry(second)).client_order_id, State.FILLED)
    assert await exits(rig) == []
    assert rig.task is not None
    assert not rig.task.done()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)])
async def test_two_pairs_of_one_decision_are_one_group(rig: Rig, order: tuple[int, ...]) -> None:
    await rig.db.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size, pyramiding)"
        " SELECT id || '2', strategy, exchange, symbol, timeframe, account_id, venue, size, pyramiding"
        " FROM strategy_instances"
    )
    await rig.read_slow()
    group = uuid.uuid4()
    wanted = [("BTCUSDT", "one"), ("BTCUSDT", "one2"), ("ETHUSDT", "two"), ("ETHUSDT", "two2")]
    made = [signal_of(**leg(group, symbol, instance=name, source=f"strategy:{name}")) for symbol, name in wanted]
    await SignalStore(rig.db).insert([made[place] for place in order])
    await rig.service.refresh()
    assert [await rig.outcome(one.id) for one in made] == [("ordered", None)] * 4
