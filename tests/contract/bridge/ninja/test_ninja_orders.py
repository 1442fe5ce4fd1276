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
from fks.interfaces.entry.order_entry import OrderEntry
from fks.model.errors import InputError
from fks.model.ids import leg_id
from fks.model.ninja import LINE_MAC
from fks.model.order import OrderType, Side, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.incidents import Incident, IncidentStore, Resolution
from fks.trading.order_manager import lost_orders
from fks.trading.risk.policy import Reach
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
    assert await trading.rig.outcome(out) == ("ordered", None)
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


@pytest.mark.parametrize("is_reported", [True, False])
async def test_a_restart_books_a_leg_that_came_and_went_meanwhile(trading: Trading, is_reported: bool) -> None:
    """The bridge placed it when the entry was filled, and it was executed before the order manager was back: perhaps its
    execution is all that is known of it."""
    price, platform = trading.nt.price, trading.nt.server.platform
    signal = await enter(
        trading, type=OrderType.LIMIT, limit_price=price - 10, stop_loss=price - 20, take_profit=price + 20
    )
    assert await trading.rig.outcome(signal) == ("ordered", None)
    entry = await trading.rig.becomes((await trading.rig.entry(signal)).client_order_id, State.ACCEPTED, State.WORKING)
    await trading.rig.crash()
    platform.trade(ES, price - 11)
    await until(lambda: any(one.name.endswith(":S") and one.is_live for one in platform.orders("Sim101")))
    platform.trade(ES, price - 21)
    await until(lambda: not platform.positions("Sim101"))
    ended = "SELECT 1 FROM ninja_events WHERE kind = 'exec' AND body->>'name' = $1"
    await until(lambda: trading.rig.db.sql(ended, f"FKS:{entry.client_order_id}:S"))
    if not is_reported:
        await trading.nt.cut()
        await trading.rig.db.sql("DELETE FROM ninja_events WHERE kind = 'order' AND body->>'name' LIKE '%:S'")
        await trading.nt.connect()
    trading.nt.venue = type(trading.nt.venue)(trading.nt.config, trading.nt.rows, trading.nt.clock, trading.nt.log)
    trading.rig.venues = {"ninja": trading.nt.venue}
    await trading.rig.start(wait_ready=False)
    await trading.rig.becomes(entry.client_order_id, State.FILLED)
    await trading.leg_is(entry, "S", State.FILLED)
    await trading.holds(0)
    assert await trading.pages() == []
    assert await trading.rig.outcome(await trading.signal(Kind.EXIT)) == ("nothing", None)


async def test_an_entry_that_the_database_lost_is_adopted(trading: Trading, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own events name no side: that of its legs does. It was executed before the first look at executions begins."""
    monkeypatch.setattr(lost_orders, "GRACE_S", 0.3)
    entry, db = await trading.enter(size=1), trading.rig.db
    await trading.rig.crash()
    for table in ("order_events", "trades", "orders", "positions", "signals"):
        await db.sql(f"DELETE FROM {table}")
    ages = "jsonb_set(body, '{time_ms}', to_jsonb((body->>'time_ms')::bigint - 3600000))"
    await db.sql(f"UPDATE ninja_events SET at = at - interval '1 hour', body = coalesce({ages}, body)")
    trading.nt.venue = type(trading.nt.venue)(trading.nt.config, trading.nt.rows, trading.nt.clock, trading.nt.log)
    trading.rig.venues = {"ninja": trading.nt.venue}
    await trading.rig.start(wait_ready=False)
    incidents = IncidentStore(db)

    async def lost() -> list[Incident]:
        return [item for item in await incidents.page(is_open=True) if item.kind == "order"]

    (found,) = await until(lost, deadline_s=20)
    assert (found.subject, f"{ES}, buy 1, FILLED, executed 1" in found.detail) == (entry.client_order_id, True), found
    now_ns = trading.nt.clock.now_ns()
    await incidents.close(found.id, by="ann", resolution=Resolution.ADOPTED, reason="ours", now_ns=now_ns)
    adopted = await trading.rig.becomes(entry.client_order_id, State.FILLED)
    assert (adopted.side, adopted.quantity) == (Side.BUY, 1)
    await trading.holds(1, "")
    for name in "ST":
        await trading.leg_is(entry, name, State.ACCEPTED, State.WORKING)
    await until(lambda: not trading.rig.service.cache.venues["ninja"].lost)
    assert await lost() == []


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
    trading.nt.server.sessions.bridge.config = replace(trading.nt.server.sessions.bridge.config, features=(LINE_MAC,))
    await trading.nt.connect()
    await until(lambda: trading.rig.service.cache.venues["ninja"].reach is Reach.READY, deadline_s=15)
    await trading.enter(size=1)
    signal = await enter(trading, instance="two")
    assert await trading.rig.outcome(signal) == ("ordered", None)
    order = await trading.rig.becomes((await trading.rig.entry(signal)).client_order_id, State.REJECTED)
    assert "update the AddOn" in (order.detail or "")
    assert trading.nt.submits(order.client_order_id) == 0


async def test_a_flatten_at_the_platform_takes_the_position_of_the_instance(trading: Trading) -> None:
    await trading.enter()
    trading.nt.server.platform.flatten("Sim101", [ES])
    await trading.holds(0)
    assert await trading.rig.position("external", ES) == 0
    assert await trading.rig.outcome(await trading.signal(Kind.EXIT)) == ("nothing", None)


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
    assert await rig.outcome(await enter(trading)) == ("denied", "VENUE_DOWN")
    assert await rig.outcome(short) == ("expired", "SIGNAL_EXPIRED")
    await nt.connect()
    assert await rig.outcome(kept) == ("ordered", None)
    order = await rig.becomes((await rig.entry(kept)).client_order_id, State.FILLED)
    assert nt.submits(order.client_order_id) == 1


async def test_an_entry_does_not_wait_past_an_exit_that_follows_it(trading: Trading) -> None:
    nt, rig = trading.nt, trading.rig
    await trading.enter(size=1)
    await nt.cut()
    await until(lambda: rig.service.cache.venues["ninja"].reach is Reach.AWAY, deadline_s=15)
    entry = await enter(trading, valid_until_ns=RealClock().now_ns() + 60 * 10**9)
    await trading.signal(Kind.EXIT)
    assert await rig.outcome(entry) == ("denied", "VENUE_DOWN")
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
