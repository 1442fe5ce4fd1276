"""A drain of the order manager under load: signals being handled are finished, the others stay ready, none is lost
or doubled."""

from __future__ import annotations

import asyncio
import time
import uuid
from decimal import Decimal

import pytest

from fks.config.settings import Risk
from fks.model.errors import OutageError
from fks.model.order import OrderType, State
from fks.model.signal import Kind, SignalState
from fks.store.bus import WAKE
from fks.store.signals import SignalStore
from tests.support.invariants import assert_kept, assert_once
from tests.support.order_rig import Rig, signal_of
from tests.support.waiting import until

D = Decimal
WIDE = Risk(
    feed_age_max_s=3600,
    orders_open_max=10**6,
    orders_per_minute=10**6,
    notional_max_order=D(10**9),
    exposure_max_instrument=D(10**9),
    exposure_max_account=D(10**9),
)
LEGS = {"stop_loss": D(90), "take_profit": D(120)}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow Redis or disk is not what these tests are about; the bound has a test of its own."""
    monkeypatch.setattr("fks.trading.order_manager.service.DRAIN_S", 20.0)
    monkeypatch.setattr("fks.trading.order_manager.service.PUBLISH_S", 20.0)


async def unsettled(rig: Rig) -> list[str]:
    """Return the orders whose outcome only the venue knows."""
    rows = await rig.db.sql("SELECT client_order_id, state FROM orders WHERE state IN ('SENDING', 'UNKNOWN')")
    return [f"{row['client_order_id']} {row['state']}" for row in rows]


async def counted(rig: Rig) -> dict[str, int]:
    rows = await rig.db.sql("SELECT state, count(*) AS n FROM signals GROUP BY state")
    return {row["state"]: row["n"] for row in rows}


async def test_drains_under_load_lose_no_signal_and_double_no_order(idle: Rig) -> None:
    """Four hand-overs while signals of two instances and two symbols keep coming, resting orders and fills among
    them."""
    idle.settings = idle.settings.model_copy(update={"risk": WIDE})
    idle.venue.totals["USDT"] = D(10**9)
    rig = await idle.start()
    sent: list[uuid.UUID] = []
    is_over = asyncio.Event()

    async def load() -> None:
        for number in range(10_000):
            if is_over.is_set():
                return
            symbol, price = (("BTCUSDT", 100), ("ETHUSDT", 10))[number % 2]
            limit = {"type": OrderType.LIMIT, "limit_price": D(price) * D("0.95")} if number % 3 else {}
            size = {"size": D(1), "instance": ("one", "two")[number % 2], "symbol": symbol}
            signal = signal_of(**size, **limit, reference_price=D(price), trace_id=str(number))
            await SignalStore(rig.db).insert([signal])
            sent.append(signal.id)
            await rig.bus.publish(WAKE, {"type": "signal", "id": str(signal.id)})
            await until(lambda: len(rig.venue.received) > len(sent) - 50, deadline_s=20)

    rig.venue.script.extend(["slow", "ok", "ok"] * 2000)
    producer = asyncio.create_task(load())
    for _ in range(4):
        before = len(rig.venue.received)
        await until(lambda: len(rig.venue.received) > before + 20)  # noqa: B023
        await rig.service.drain()
        assert await unsettled(rig) == []
        sent_count = len(rig.venue.received)
        await rig.crash()
        await rig.service.stop()
        assert len(rig.venue.received) == sent_count, "it sent after it was drained"
        await rig.start()
    is_over.set()
    await producer

    async def all_decided() -> bool:
        return not (await counted(rig)).get("ready")

    await until(all_decided)
    assert_kept(sent, [row["id"] for row in await rig.db.sql("SELECT id FROM signals")])
    assert sum((await counted(rig)).values()) == len(sent)
    assert_once(rig.venue.received)
    rows = await rig.db.sql("SELECT signal_id, count(*) AS n FROM orders WHERE parent_id IS NULL GROUP BY signal_id")
    assert_once(row["signal_id"] for row in rows for _ in range(row["n"]))
    assert_kept(sent, [row["signal_id"] for row in rows])
    assert {row["signal_id"] for row in rows} == set(sent)

    async def is_settled() -> bool:
        return not await unsettled(rig)

    await until(is_settled)


async def test_what_is_being_sent_gets_its_answer_and_what_is_not_stays_ready(rig: Rig) -> None:
    rig.venue.script.append("hang")
    first = await rig.signal(reference_price=D(100))
    await until(lambda: len(rig.venue.received) == 1)
    draining = asyncio.create_task(rig.service.drain())
    await until(lambda: rig.service.detail()["state"] == "draining")
    second = await rig.signal(trace_id="second")
    other = await rig.signal(symbol="ETHUSDT", reference_price=D(10))  # nothing of its symbol is in hand
    await draining  # the venue's call is bounded: its silence is an answer too
    for late in (second, other):
        record = await SignalStore(rig.db).get(late)
        assert record is not None
        assert record.signal.state is SignalState.READY
    assert (await rig.outcome(first))[0] == "ordered"
    assert (await rig.entry(first)).state is State.FILLED  # its answer never came, the stream reported it
    await rig.crash()
    await rig.service.stop()
    await rig.start()
    assert await rig.outcome(second) == ("ordered", None)
    assert await rig.outcome(other) == ("ordered", None)
    assert len(rig.venue.received) == 3


async def test_an_entry_that_fills_while_it_drains_is_protected_by_the_next_epoch(rig: Rig) -> None:
    rig.venue.script.append("slow")
    signal = await rig.signal(**LEGS)
    await until(lambda: len(rig.venue.received) >= 1)
    await rig.hand_over()
    await rig.outcome(signal)
    await until(lambda: sum(held.order.parent_id is not None for held in rig.venue.live()) == 2)
    assert_once(rig.venue.received)


async def test_a_drain_is_bounded_while_a_venue_does_not_answer(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fks.trading.order_manager.service.DRAIN_S", 0.3)
    rig.venue.script.append("hang")  # the submission does not end in time
    await rig.signal(reference_price=D(100))
    await until(lambda: len(rig.venue.received) == 1)
    start = time.monotonic()
    with pytest.raises(OutageError):
        await rig.service.drain()
    assert time.monotonic() - start < 10


# ── self-checks ──────────────────────────────────────────────────────────────────────────────────
async def test_a_venue_that_is_away_is_a_problem_that_no_restart_mends(idle: Rig) -> None:
    idle.settings = idle.settings.model_copy(
        update={"supervision": idle.settings.supervision.model_copy(update={"sessions_wait_max_s": 0.3})}
    )
    idle.venue.outages["open_orders"] = 10_000
    await idle.start(wait_ready=False)
    (found,) = await until(idle.service.problems)
    assert (found.name, found.about, found.is_mended_by_restart) == ("venue", "ccxt", False)
    idle.venue.outages.clear()
    await until(lambda: not idle.service.problems())


async def test_an_exit_that_waits_for_a_halt_restarts_nothing(idle: Rig) -> None:
    idle.settings = idle.settings.model_copy(
        update={"supervision": idle.settings.supervision.model_copy(update={"signals_wait_max_s": 0.5})}
    )
    rig = await idle.start()
    await rig.outcome(await rig.signal())
    place = (1, "ccxt", "BTCUSDT")
    await until(lambda: rig.service.cache.position(*place, "one").quantity > 0)
    await rig.db.sql("UPDATE instruments SET is_trading = false WHERE symbol = 'BTCUSDT'")
    await rig.read_slow()
    await rig.signal(Kind.EXIT, trace_id="exit")
    (found,) = await until(rig.service.problems)
    assert (found.name, found.is_mended_by_restart) == ("queue", False)
    at_s = rig.service.cache.held[place][1]
    await until(lambda: rig.service.cache.held[place][1] > at_s)  # it is looked at again and again


async def test_signals_that_wait_though_their_venue_is_ready_are_a_problem(idle: Rig) -> None:
    idle.settings = idle.settings.model_copy(
        update={"supervision": idle.settings.supervision.model_copy(update={"signals_wait_max_s": 0.5})}
    )
    await idle.start()
    assert idle.service.problems() == []
    async with idle.db.transaction() as tx:  # whatever holds the one statement up, before it can have begun
        await tx.sql("LOCK TABLE orders IN SHARE MODE")
        await SignalStore(idle.db).insert([signal_of()])
        await idle.bus.publish(WAKE, {"type": "signal"})
        (found,) = await until(idle.service.problems)
        assert (found.name, found.about, found.is_mended_by_restart) == ("queue", "ccxt", True)
    await until(lambda: not idle.service.problems())
