"""The order manager and the venue `ninja` together, against the simulated NinjaTrader: signals in, positions out."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.entry.order_entry import OrderEntry
from fks.model.errors import InputError
from fks.model.ids import leg_id
from fks.model.order import Side, State
from fks.model.signal import Kind
from fks.risk.policy import Reach
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.ninja_trading import SETTINGS, Trading, ninja_trading
from tests.support.ninja_venue import ES
from tests.support.waiting import until

D = Decimal


@pytest.fixture
async def trading(database: Database, bus: Bus, tmp_path: Path) -> AsyncIterator[Trading]:
    async with ninja_trading(database, bus, tmp_path / "nt8") as trading:
        yield trading


async def test_an_entry_is_protected_by_the_bridge_and_an_exit_ends_flat(trading: Trading) -> None:
    entry = await trading.enter()
    await trading.holds(2)
    out = await trading.signal(Kind.EXIT)
    assert await trading.rig.outcome(out, deadline_s=15) == ("ordered", None)
    await trading.holds(0)
    for name in "ST":
        await trading.leg_is(entry, name, State.CANCELLED)
    assert await trading.pages() == []
    assert trading.nt.server.platform.positions("Sim101") == []


async def test_a_short_entry_is_closed_by_its_stop(trading: Trading) -> None:
    entry = await trading.enter(Side.SELL, 1)
    await trading.holds(-1)
    assert entry.stop_loss is not None
    trading.nt.server.platform.trade(ES, entry.stop_loss + 1)
    await trading.leg_is(entry, "S", State.FILLED)
    await trading.holds(0)
    await trading.leg_is(entry, "T", State.CANCELLED)
    assert await trading.rig.outcome(await trading.signal(Kind.EXIT)) == ("nothing", None)


async def test_a_restart_finds_what_was_filled_meanwhile(trading: Trading) -> None:
    entry = await trading.enter(size=1)
    await trading.rig.crash()
    assert entry.take_profit is not None
    trading.nt.server.platform.trade(ES, entry.take_profit + 1)
    trading.nt.venue = type(trading.nt.venue)(trading.nt.config, trading.nt.rows, trading.nt.clock, trading.nt.log)
    trading.rig.venues = {"ninja": trading.nt.venue}
    await trading.rig.start(wait_ready=False)
    await trading.leg_is(entry, "T", State.FILLED)
    await trading.holds(0)
    await trading.leg_is(entry, "S", State.CANCELLED)
    assert trading.nt.submits(entry.client_order_id) == 1


async def test_two_instances_on_one_contract_keep_their_own_stops(trading: Trading) -> None:
    await add_instance(trading, "two")
    first, second = await trading.enter(size=1), await trading.enter(size=1, instance="two")
    await trading.signal(Kind.EXIT, instance="two")
    await trading.leg_is(second, "S", State.CANCELLED)
    await until(lambda: trading.nt.server.platform.positions("Sim101")[0].qty == 1)
    await asyncio.sleep(3)  # the bridge repairs what it takes for unprotected after 2 s
    await trading.leg_is(first, "S", State.ACCEPTED, State.WORKING)
    stops = [
        one.name for one in trading.nt.server.platform.orders("Sim101") if one.is_live and one.type == "StopMarket"
    ]
    assert stops == [f"FKS:{first.client_order_id}:S"]
    assert [await trading.rig.position(one, ES) for one in ("one", "two")] == [1, 0]


async def test_a_second_instance_is_refused_where_exits_cannot_name_entries(trading: Trading) -> None:
    await add_instance(trading, "two")
    await trading.nt.cut()
    trading.nt.server.sessions.bridge.config = replace(trading.nt.server.sessions.bridge.config, features=())
    await trading.nt.connect()
    await until(lambda: trading.rig.service.cache.venues["ninja"].reach is Reach.READY, deadline_s=15)
    await trading.enter(size=1)
    signal = await enter(trading, instance="two")
    assert await trading.rig.outcome(signal, deadline_s=15) == ("ordered", None)
    order = await trading.rig.becomes((await trading.rig.entry(signal)).client_order_id, State.REJECTED)
    assert "update the AddOn" in (order.detail or "")
    assert trading.nt.submits(order.client_order_id) == 0


async def test_a_flatten_at_the_platform_takes_the_position_of_the_instance(trading: Trading) -> None:
    await trading.enter()
    trading.nt.server.platform.flatten("Sim101", [ES])
    await trading.holds(0)
    assert await trading.rig.position("external", ES) == 0
    assert await trading.rig.outcome(await trading.signal(Kind.EXIT), deadline_s=15) == ("nothing", None)


async def test_a_person_cannot_cancel_a_leg_that_the_bridge_keeps(trading: Trading) -> None:
    entry = await trading.enter(size=1)
    gateway = OrderEntry(trading.rig.db, trading.rig.bus, RealClock(), SETTINGS)
    with pytest.raises(InputError) as refused:
        await gateway.cancel(leg_id(entry.client_order_id, "S"), "ann")
    assert (refused.value.status, refused.value.code) == (409, "LEG_KEPT")


async def test_an_entry_with_a_time_limit_waits_for_a_link_that_is_away(trading: Trading) -> None:
    nt, rig = trading.nt, trading.rig
    await nt.cut()
    await until(lambda: rig.service.cache.venues["ninja"].reach is Reach.AWAY, deadline_s=15)
    now_ns = RealClock().now_ns()
    kept = await enter(trading, valid_until_ns=now_ns + 40 * 10**9)
    short = await enter(trading, valid_until_ns=now_ns + 10**9)
    assert await rig.outcome(await enter(trading), deadline_s=15) == ("denied", "VENUE_DOWN")
    assert await rig.outcome(short, deadline_s=15) == ("expired", "SIGNAL_EXPIRED")
    await nt.connect()
    assert await rig.outcome(kept, deadline_s=30) == ("ordered", None)
    order = await rig.becomes((await rig.entry(kept)).client_order_id, State.FILLED, deadline_s=30)
    assert nt.submits(order.client_order_id) == 1


async def test_an_entry_does_not_wait_past_an_exit_that_follows_it(trading: Trading) -> None:
    nt, rig = trading.nt, trading.rig
    await trading.enter(size=1)
    await nt.cut()
    await until(lambda: rig.service.cache.venues["ninja"].reach is Reach.AWAY, deadline_s=15)
    entry = await enter(trading, valid_until_ns=RealClock().now_ns() + 60 * 10**9)
    await trading.signal(Kind.EXIT)
    assert await rig.outcome(entry, deadline_s=15) == ("denied", "VENUE_DOWN")
    await nt.connect()
    await trading.holds(0)


@pytest.mark.parametrize("seed", [3, 8])
async def test_entries_while_link_and_bridge_die_are_submitted_once_or_denied(trading: Trading, seed: int) -> None:
    dice, nt, rig, signals = random.Random(seed), trading.nt, trading.rig, list[uuid.UUID]()
    for number in range(8):
        signals.append(await enter(trading))
        await asyncio.sleep(dice.random() / 10)
        if number in (1, 5):
            nt.server.restart_bridge()
        elif number == 3:
            await nt.cut()
            await nt.connect()
    outcomes = {signal: await rig.outcome(signal, deadline_s=60) for signal in signals}

    # an entry that comes while link or bridge is away is refused; once both are back, the next one goes
    async def is_submitted() -> bool:
        signal = await enter(trading)
        outcomes[signal] = await rig.outcome(signal, deadline_s=60)
        if outcomes[signal][0] == "denied":
            return False
        id = (await rig.entry(signal)).client_order_id
        ended = await rig.becomes(id, State.FILLED, State.REJECTED, State.EXPIRED, deadline_s=60)
        return ended.state is State.FILLED and nt.submits(id) == 1

    await until(is_submitted, deadline_s=60, every_s=1.0)

    async def is_settled() -> bool:
        open_ = await rig.db.sql("SELECT 1 FROM orders WHERE state IN ('INTENDED', 'SENDING', 'UNKNOWN')")
        held = sum(one.qty for one in nt.server.platform.positions("Sim101"))
        return not open_ and await rig.held(ES) == held

    await until(is_settled, deadline_s=60)
    for signal, (state, code) in outcomes.items():
        orders = await rig.db.sql("SELECT * FROM orders WHERE signal_id = $1 AND parent_id IS NULL", signal)
        count = sum(nt.submits(order["client_order_id"]) for order in orders)
        if state == "denied" or orders[0]["state"] in ("REJECTED", "EXPIRED", "CANCELLED"):
            assert count == 0, (state, code, orders)
            assert code or orders[0]["code"], "a denial has a code"
        else:
            assert (state, len(orders), count) == ("ordered", 1, 1), (state, code, orders)
    bought = await rig.db.sql("SELECT coalesce(sum(filled), 0) AS quantity FROM orders WHERE role = 'entry'")
    assert bought[0]["quantity"] == await rig.position(symbol=ES)
    assert await rig.position("external", ES) == 0


async def add_instance(trading: Trading, name: str) -> None:
    await trading.rig.db.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size, pyramiding)"
        " VALUES ($1, 'sma_cross', 'ninja', $2, '1m', 1, 'ninja', 1000, 100)",
        name,
        ES,
    )
    await trading.rig.service.refresh()


async def enter(trading: Trading, **changes: Any) -> uuid.UUID:
    """Send an entry whose stop and target are far away."""
    price = trading.nt.price
    levels = {"stop_loss": price - 40, "take_profit": price + 40, "reference_price": price}
    return await trading.signal(Kind.ENTER, size=D(1), **(levels | changes))
