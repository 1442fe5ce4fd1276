"""PostgreSQL, Redis and the venue go away and come back: nothing is lost, nothing is doubled, nothing crashes."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from fks.model.order import OrderType, State
from fks.model.ports import SessionBack
from fks.model.signal import Kind
from fks.trading.order_manager.service import OrderManager
from tests.support.invariants import assert_once
from tests.support.order_rig import Rig
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal


async def kill_connections(rig: Rig) -> None:
    """Cut every connection of the service to its database, as a restart of PostgreSQL does."""
    await rig.db.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


async def test_connections_cut_at_any_moment_lose_no_signal_and_send_nothing_twice(rig: Rig) -> None:
    wanted = []
    for turn in range(6):
        wanted.append(await rig.signal(instance="one" if turn % 2 else "two", source="strategy:x"))
        await kill_connections(rig)
        await asyncio.sleep(0)
    for signal in wanted:
        state, _ = await rig.outcome(signal)
        assert state in ("ordered", "denied")
    await until(lambda: rig.service.cache.counts()["SENDING"] == 0)
    assert_once(rig.venue.received)
    await until(lambda: sum(p.quantity for p in rig.service.cache.positions.values()) == rig.venue.totals["BTC"])
    assert await rig.held() == rig.venue.totals["BTC"]
    assert not rig.task.done()  # type: ignore[union-attr]


async def test_without_redis_everything_still_works_by_polling(idle: Rig) -> None:
    from fks.store.bus import Bus

    idle.bus = await Bus.connect("redis://127.0.0.1:1/0", timeout_s=0.2)
    await idle.start()
    signal = await idle.signal()
    assert await idle.outcome(signal) == ("ordered", None)
    await until(lambda: idle.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    assert await idle.outcome(await idle.signal(Kind.EXIT)) == ("ordered", None)


async def without_sweeps(idle: Rig) -> Rig:
    """Start it; nothing is compared but what the stream asks for."""
    idle.settings = idle.settings.model_copy(
        update={"venue": idle.settings.venue.model_copy(update={"sweep_s": 3600.0})}
    )
    return await idle.start()


async def test_a_lost_session_denies_entries_and_lets_exits_go(idle: Rig) -> None:
    rig = await without_sweeps(idle)
    await rig.outcome(await rig.signal())
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    rig.venue.outages["open_orders"] = 10_000
    rig.venue.lose_session()
    await until(lambda: rig.service.cache.venues["ccxt"].state == "STALE")
    assert await rig.outcome(await rig.signal()) == ("denied", "VENUE_NOT_RECONCILED")
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("ordered", None)
    rows = await rig.db.sql("SELECT state FROM venue_states WHERE venue = 'ccxt'")
    assert rows[0]["state"] in ("STALE", "SYNCING")


async def test_a_session_that_is_lost_during_a_sweep_is_not_forgotten(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries without a stream of their fills: the sweep was right, and proves nothing about the stream."""
    status, read, lost = rig.service.cache.venues["ccxt"], rig.venue.open_orders, []
    await until(lambda: status.state == "READY")

    async def lost_meanwhile() -> Any:
        found = await read()
        if not lost:
            lost.append(True)
            rig.venue.lose_session()
            await until(lambda: status.state == "STALE")
        return found

    monkeypatch.setattr(rig.venue, "open_orders", lost_meanwhile)
    await until(lambda: lost and status.state in ("READY", "SYNCING"))
    assert status.state == "SYNCING"
    assert await rig.outcome(await rig.signal()) == ("denied", "VENUE_NOT_RECONCILED")
    rig.venue.push(SessionBack())
    await until(lambda: status.state == "READY")


async def test_what_happened_in_a_hole_of_the_stream_is_read_again(idle: Rig) -> None:
    rig = await without_sweeps(idle)
    rig.venue.script.append("rest")
    await rig.signal()
    await until(lambda: rig.venue.live())
    order = rig.venue.live()[0].order.client_order_id
    await rig.becomes(order, State.WORKING)
    rig.venue.lose_session()
    await until(lambda: rig.service.cache.venues["ccxt"].state == "STALE")
    rig.venue.streams_fills = False
    rig.venue.fill(order, D(10))
    rig.venue.push(SessionBack())
    await rig.becomes(order, State.FILLED)
    await until(lambda: rig.service.is_ready)
    assert await rig.held() == rig.venue.totals["BTC"]


async def test_a_fill_the_stream_lost_is_found_by_the_sweep(rig: Rig) -> None:
    signal = await rig.signal(type=OrderType.LIMIT, limit_price=D(99))
    await rig.outcome(signal)
    await until(lambda: rig.venue.live())
    rig.venue.streams_fills = False
    rig.venue.fill(rig.venue.live()[0].order.client_order_id, D(4))
    order = await rig.becomes((await rig.entry(signal)).client_order_id, State.PARTIAL)
    assert order.filled == D(4)


async def test_a_venue_that_cannot_be_read_gets_no_order_and_holds_up_no_other(idle: Rig) -> None:
    await idle.db.sql("INSERT INTO accounts (name, venue) VALUES ('second', 'other')")
    other = ScriptedVenue(name="other", account_id=3)
    idle.venue.outages["open_orders"] = 1_000_000
    idle.venues = {"ccxt": idle.venue, "other": other}
    await idle.start(wait_ready=False)
    book = idle.service.cache
    await until(lambda: "other" in book.venues and book.venues["other"].state == "READY")
    assert book.venues["ccxt"].state != "READY"
    assert await idle.outcome(await idle.signal(venue="other", account_id=3)) == ("ordered", None)
    assert idle.venue.received == []
    idle.venue.outages.clear()
    await until(lambda: book.venues["ccxt"].state == "READY", deadline_s=30)
    assert book.venues["ccxt"].ready_times == 1


async def test_reconciling_twice_writes_nothing_the_second_time(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    count = "SELECT (SELECT count(*) FROM trades) + (SELECT count(*) FROM order_events) AS n"
    before = await rig.db.sql(count)
    await asyncio.sleep(0)
    queried = len(rig.log.lines)
    rig.venue.lose_session()
    from fks.model.ports import SessionBack

    rig.venue.push(SessionBack())
    await until(lambda: rig.service.cache.venues["ccxt"].ready_times >= 2)
    assert len(rig.log.lines) > queried
    assert await rig.db.sql(count) == before


async def test_killed_means_no_order_of_a_strategy_leaves(rig: Rig) -> None:
    """An entry is denied; an exit waits: the guardian closes, and the rest is closed after the release."""
    await rig.outcome(await rig.signal())
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    await rig.db.sql("INSERT INTO kill_switch (kill_id) VALUES ('k')")
    assert await rig.outcome(await rig.signal(instance="two", source="strategy:two")) == ("denied", "KILLED")
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(await rig.signal(instance="two", source="strategy:two")) == ("denied", "KILLED")
    assert len(rig.venue.received) == 1
    await rig.db.sql("UPDATE kill_switch SET is_engaged = false")
    assert (await rig.outcome(out))[0] == "ordered"
    await until(lambda: rig.venue.totals["BTC"] == 0)


async def test_executions_of_others_are_external_and_never_a_strategys(rig: Rig) -> None:
    from dataclasses import replace

    await rig.outcome(await rig.signal())
    await until(lambda: rig.venue.trades)
    foreign = replace(
        rig.venue.trades[0],
        fill_id=rig.venue.trades[0].fill_id.__class__(int=7),
        client_order_id="web_1",
        venue_order_id="999",
        venue_trade_id="77",
        quantity=D(3),
        fee=D(0),
    )
    rig.venue.trades.append(foreign)
    rig.venue.totals["BTC"] += D(3)
    rig.venue.push(foreign)
    rig.venue.push(foreign)

    async def booked() -> bool:
        return await rig.position("external") == D(3)

    await until(booked)
    assert await rig.position() == D("9.99")
    assert await rig.held() == rig.venue.totals["BTC"]


async def test_what_the_account_held_before_is_external(idle: Rig) -> None:
    idle.venue.totals["BTC"] = D("1.5")
    await idle.start()
    assert await idle.position("external") == D("1.5")


async def test_detail_is_small_and_plain(rig: Rig) -> None:
    import json

    detail = rig.service.detail()
    assert isinstance(rig.service, OrderManager)
    assert json.loads(json.dumps(detail)) == detail
    assert detail["venues"] == {"ccxt": "READY"}
