"""A person ends an exit at any moment: with an order open, between two attempts, and before its first order."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from decimal import Decimal

import pytest

from fks.clock import RealClock
from fks.interfaces.entry.order_entry import EntryAnswer, OrderEntry
from fks.model.errors import InputError
from fks.model.order import Order, State
from fks.model.signal import Kind, SignalState
from fks.store.signals import SignalStore
from fks.trading.orders.messages import Limits
from tests.support.order_rig import Rig
from tests.support.waiting import until

D = Decimal
BOTH = {"stop_loss": D(90), "take_profit": D(120)}
PATIENT = Limits(clear_s=0.3, unprotected_s=0.5, exit_page_s=30, exit_retry_s=1.0, exit_retry_max_s=1.0)
ENDED = "ann ended the exit; 9.99 is still held"


def entry_of(rig: Rig) -> OrderEntry:
    return OrderEntry(rig.db, rig.bus, RealClock(), rig.settings)


def stops(rig: Rig) -> Decimal:
    """Return how much of the position the venue's live stops cover."""
    return sum((held.order.quantity - held.filled for held in rig.venue.live() if held.order.role.value == "sl"), D(0))


async def exits(rig: Rig) -> list[str]:
    rows = await rig.db.sql("SELECT state FROM orders WHERE role = 'exit' ORDER BY created_at, attempt")
    return [row["state"] for row in rows]


async def detail(rig: Rig, signal_id: uuid.UUID) -> tuple[SignalState, str | None]:
    record = await SignalStore(rig.db).get(signal_id)
    assert record is not None
    return record.signal.state, record.detail


async def refused_once(rig: Rig) -> tuple[uuid.UUID, Order]:
    """Return the signal of an exit that waits after its first attempt was refused, and that attempt."""
    await rig.restart(limits=PATIENT)
    await rig.outcome(await rig.signal(**BOTH))
    await until(lambda: stops(rig) == D("9.99"))
    rig.venue.script.append("refuse:-1015")
    out = await rig.signal(Kind.EXIT)
    await rig.outcome(out)
    return out, await rig.becomes((await rig.entry(out)).client_order_id, State.REJECTED)


async def ended(rig: Rig, signal_id: uuid.UUID, expected: tuple[SignalState, str]) -> None:
    async def outcome() -> tuple[SignalState, str] | None:
        state, text = await detail(rig, signal_id)
        return (state, text) if text is not None else None

    assert await until(outcome) == expected


async def stays_ended(rig: Rig, count: int) -> None:
    """Show for longer than the wait between two attempts that no closing order follows, and that the stop lives."""
    await until(lambda: stops(rig) == D("9.99"))
    await asyncio.sleep(PATIENT.exit_retry_s + 0.3)
    assert len(await exits(rig)) == count
    assert (stops(rig), await rig.position()) == (D("9.99"), D("9.99"))


def accepted(answer: EntryAnswer) -> bool:
    return (answer.status, answer.body["exit_end"]["state"]) == (202, "accepted")


async def test_an_exit_between_two_attempts_is_ended_by_its_last_order(rig: Rig) -> None:
    out, order = await refused_once(rig)
    assert accepted(await entry_of(rig).cancel(order.client_order_id, "ann"))
    await ended(rig, out, (SignalState.ORDERED, ENDED))
    await stays_ended(rig, 1)
    with pytest.raises(InputError, match="has ended: REJECTED") as refused:
        await entry_of(rig).cancel(order.client_order_id, "ann")
    assert (refused.value.status, refused.value.code) == (409, "ORDER_ENDED")
    warnings = await rig.db.sql("SELECT message FROM alerts WHERE event = 'exit.ended'")
    assert [row["message"] for row in warnings] == [f"BTCUSDT: {ENDED}"]


async def test_an_exit_ended_between_two_attempts_stays_ended_after_a_restart(rig: Rig) -> None:
    _, order = await refused_once(rig)
    assert accepted(await entry_of(rig).cancel(order.client_order_id, "ann"))
    await rig.restart()
    await stays_ended(rig, 1)


async def test_an_end_requested_while_no_order_manager_runs_holds(rig: Rig) -> None:
    out, order = await refused_once(rig)
    await rig.crash()
    entry = OrderEntry(rig.db, rig.bus, RealClock(), rig.settings.model_copy(update={"http": brief(rig)}))
    answer = await entry.cancel(order.client_order_id, "ann")
    assert (answer.status, answer.body["exit_end"]["state"]) == (202, "requested")
    await rig.start()
    await ended(rig, out, (SignalState.ORDERED, ENDED))
    await stays_ended(rig, 1)


def brief(rig: Rig) -> object:
    return rig.settings.http.model_copy(update={"order_wait_s": 0.1})


async def test_an_open_order_of_an_ended_exit_is_cancelled(rig: Rig) -> None:
    await rig.restart(limits=PATIENT)
    await rig.outcome(await rig.signal(**BOTH))
    await until(lambda: stops(rig) == D("9.99"))
    rig.venue.script.append("rest")
    out = await rig.signal(Kind.EXIT)
    await rig.outcome(out)
    order = await rig.becomes((await rig.entry(out)).client_order_id, State.WORKING)
    assert accepted(await entry_of(rig).cancel(order.client_order_id, "ann"))
    await rig.becomes(order.client_order_id, State.CANCELLED)
    await ended(rig, out, (SignalState.ORDERED, ENDED))
    await stays_ended(rig, 1)
    await rig.restart()
    await stays_ended(rig, 1)


async def test_an_earlier_order_of_an_exit_ends_it_and_its_open_attempt(rig: Rig) -> None:
    await rig.restart(limits=replace(PATIENT, exit_retry_s=0.1, exit_retry_max_s=0.1))
    await rig.outcome(await rig.signal(**BOTH))
    await until(lambda: stops(rig) == D("9.99"))
    rig.venue.script.extend(["refuse:-1015", "ok", "rest"])  # a close, the stop again, a close that rests
    out = await rig.signal(Kind.EXIT)
    await until(lambda: any(held.order.role.value == "exit" for held in rig.venue.live()))
    rows = await rig.db.sql("SELECT client_order_id FROM orders WHERE role = 'exit' AND attempt = 0")
    assert accepted(await entry_of(rig).cancel(rows[0]["client_order_id"], "ann"))
    await ended(rig, out, (SignalState.ORDERED, ENDED))
    assert await exits(rig) == ["REJECTED", "CANCELLED"]
    await stays_ended(rig, 2)


async def test_an_exit_is_ended_before_its_first_order(rig: Rig) -> None:
    await rig.restart(limits=PATIENT)
    await rig.outcome(await rig.signal(**BOTH))
    await until(lambda: stops(rig) == D("9.99"))
    await rig.db.sql("UPDATE instruments SET is_trading = false WHERE symbol = 'BTCUSDT'")
    await rig.read_slow()
    out, behind = await rig.signal(Kind.EXIT), await rig.signal(Kind.EXIT)
    key = (1, "ccxt", "BTCUSDT")
    await until(lambda: rig.service.cache.held.get(key, (0, 0.0))[0] == 2)
    assert accepted(await entry_of(rig).end_exit(behind, "ann"))
    await ended(rig, behind, (SignalState.NOTHING, "ann ended the exit before its first order"))
    assert accepted(await entry_of(rig).end_exit(out, "bob"))
    await ended(rig, out, (SignalState.NOTHING, "bob ended the exit; 9.99 is still held"))
    await rig.db.sql("UPDATE instruments SET is_trading = true")
    await rig.read_slow()
    await stays_ended(rig, 0)


async def test_a_stop_outlives_an_ended_exit_whose_cancel_was_lost(rig: Rig) -> None:
    await rig.restart(limits=PATIENT)
    await rig.outcome(await rig.signal(**BOTH))
    await until(lambda: stops(rig) == D("9.99"))
    rig.venue.cancels.append("lost")
    rig.venue.outages["query"] = 8
    out = await rig.signal(Kind.EXIT)
    await until(lambda: rig.venue.cancelled)
    assert accepted(await entry_of(rig).end_exit(out, "ann"))
    await stays_ended(rig, 0)

    async def is_settled() -> bool:
        return not await rig.db.sql("SELECT FROM orders WHERE request <> 'none'")

    await until(is_settled)
    assert (len(rig.venue.cancelled), {held.order.attempt for held in rig.venue.live()}) == (1, {0})


async def test_a_start_repeats_no_cancel_of_a_stop_whose_exit_was_ended_before(rig: Rig) -> None:
    """The order manager stops before it withdraws the cancel: the stop is wanted again, and its cancel is not sent."""
    await rig.restart(limits=PATIENT)
    await rig.outcome(await rig.signal(**BOTH))
    await until(lambda: stops(rig) == D("9.99"))
    rig.venue.cancels.append("lost")
    rig.venue.outages["query"] = 10**6
    out = await rig.signal(Kind.EXIT)
    await until(lambda: rig.venue.cancelled)
    await rig.stop()
    http = rig.settings.http.model_copy(update={"order_wait_s": 0.1})
    entry = OrderEntry(rig.db, rig.bus, RealClock(), rig.settings.model_copy(update={"http": http}))
    assert (await entry.end_exit(out, "ann")).body["exit_end"]["state"] == "requested"
    rig.venue.outages.clear()
    await rig.start()
    await ended(rig, out, (SignalState.NOTHING, "ann ended the exit before its first order"))
    await stays_ended(rig, 0)

    async def is_settled() -> bool:
        return not await rig.db.sql("SELECT FROM orders WHERE request <> 'none'")

    await until(is_settled)
    assert (len(rig.venue.cancelled), {held.order.attempt for held in rig.venue.live()}) == (1, {0})


async def test_an_exit_that_is_done_cannot_be_ended(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    await until(lambda: rig.venue.totals.get("BTC") == D("9.99"))
    out = await rig.signal(Kind.EXIT)
    await rig.outcome(out)
    order = await rig.becomes((await rig.entry(out)).client_order_id, State.FILLED)
    with pytest.raises(InputError, match="has ended: FILLED"):
        await entry_of(rig).cancel(order.client_order_id, "ann")
    with pytest.raises(InputError, match="not in progress"):
        await entry_of(rig).end_exit(out, "ann")


async def test_an_exit_that_ended_as_dust_is_refused_by_the_order_manager(rig: Rig) -> None:
    rig.venue.fee_rate = D("0.00013")
    await rig.outcome(await rig.signal())
    out = await rig.signal(Kind.EXIT)
    await rig.outcome(out)
    await until(lambda: rig.venue.totals["BTC"] == D("0.0007"))
    order = await rig.becomes((await rig.entry(out)).client_order_id, State.FILLED)
    with pytest.raises(InputError, match="its exit is not in progress any more") as refused:
        await entry_of(rig).cancel(order.client_order_id, "ann")
    assert refused.value.status == 409
