"""The cases that a traded dialect passes at a local exchange process on its wire, with the order manager, the guardian,
PostgreSQL and Redis as they are. The exchange's log is the witness that each order was sent at most once.

Stops are placed by FKS after the fill (`entry_protection = "local"`); V-12 is about those that a venue holds.

V-01 entry and exit, V-02 open outcomes, V-03 lost polls, V-04 kill with an order under way, V-05 guardian, V-06 chaos.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fks.model.order import OrderType, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.venues.ccxt.dialects import NAMES, dialect
from tests.support.dialect_rig import WIRES, DialectRig, Wire, exchange_of, session_at
from tests.support.guarded_trading import ask, at_work
from tests.support.guardian_process import guardian_with
from tests.support.invariants import assert_closed, assert_once
from tests.support.soak_cases import soaked
from tests.support.waiting import until

each_wire = pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.exchange)


@pytest.fixture
async def rig(wire: Wire, database: Database, bus: Bus, tmp_path: Path) -> AsyncIterator[DialectRig]:
    async with DialectRig.at(wire, exchange_of(wire, tmp_path), database, bus, entry_protection="local") as made:
        yield made


def test_every_traded_dialect_has_a_wire() -> None:
    assert {wire.exchange for wire in WIRES} == {name for name in NAMES if dialect(name).reads is not None}


@each_wire
async def test_an_entry_is_filled_and_an_exit_closes_it(rig: DialectRig) -> None:
    """V-01: also protected meanwhile."""
    await rig.start()
    entry = await rig.ordered(**rig.protected())
    filled = await rig.becomes(entry.client_order_id, State.FILLED)
    stop = await rig.resting_stop(entry.client_order_id)
    resting = [(row["clientOrderId"], row["type"], row["side"], row["origQty"]) for row in rig.resting()]
    assert resting == [(stop, rig.wire.stop_type, "SELL", f"{filled.filled:.8f}")]
    await rig.agrees()
    leave = await rig.ordered(kind=Kind.EXIT)
    await rig.becomes(leave.client_order_id, State.FILLED)
    await until(rig.is_quiet)
    assert await rig.state(stop) is State.CANCELLED
    await rig.agrees()
    assert await rig.coins() == 0
    assert rig.sent() == dict.fromkeys((entry.client_order_id, stop, leave.client_order_id), 1)


@each_wire
async def test_an_open_outcome_is_asked_about_and_never_sent_again(rig: DialectRig) -> None:
    """V-02: each outcome of the wire after the other."""
    await rig.start()
    for number, (fault, is_taken) in enumerate(rig.wire.outcomes, 1):
        held = await rig.coins()
        rig.exchange.fault(path=rig.wire.add, **fault)
        entry = await rig.ordered()
        await rig.becomes(entry.client_order_id, State.FILLED if is_taken else State.ABSENT)
        await rig.agrees()
        assert (await rig.coins() > held) is is_taken, fault
        assert (rig.sent()[entry.client_order_id], rig.sent().total()) == (1, number), fault


@each_wire
async def test_polls_that_are_lost_lose_no_execution(rig: DialectRig) -> None:
    """V-03."""
    await rig.start()
    entry = await rig.ordered(type=OrderType.LIMIT, limit_price=rig.price("0.95"))
    await rig.becomes(entry.client_order_id, State.WORKING)
    fault = rig.exchange.fault("drop", path=rig.wire.listed, count=5)
    lost = await rig.ordered(type=OrderType.LIMIT, limit_price=rig.price("1.02"))  # filled while no poll is answered
    await rig.becomes(lost.client_order_id, State.FILLED)
    await rig.agrees()
    assert await rig.state(entry.client_order_id) is State.WORKING
    assert rig.exchange.ask("GET", "/sim/faults", None, id=fault)[0]["struck"] == 5
    assert rig.sent() == {entry.client_order_id: 1, lost.client_order_id: 1}


@each_wire
async def test_a_restart_with_an_order_under_way_finds_it(rig: DialectRig) -> None:
    """V-04: the order manager is killed after the exchange took the order and before its answer."""
    await rig.start()
    rig.exchange.fault("answer_after", path=rig.wire.add, seconds=1.0)
    signal = await rig.enter(**rig.protected())
    await until(lambda: bool(rig.exchange.account()["fills"]), deadline_s=10)
    await rig.killed_and_restarted()
    entry = await rig.entry(signal)
    await rig.becomes(entry.client_order_id, State.FILLED)
    stop = await rig.resting_stop(entry.client_order_id)
    await rig.agrees()
    assert rig.sent() == dict.fromkeys((entry.client_order_id, stop), 1)


@each_wire
async def test_the_guardian_cancels_and_closes_beside_the_order_manager(rig: DialectRig) -> None:
    """V-05."""
    with tempfile.TemporaryDirectory(prefix="fks-v-", dir="/tmp") as name:
        folder = Path(name)
        rig.kill_path = folder / "kill.jsonl"
        await rig.start()
        entry = await rig.ordered(**rig.protected())
        stop = await rig.resting_stop(entry.client_order_id)
        session = session_at(rig.wire, rig.exchange, rig.wire.guardian_key)
        async with at_work(guardian_with({"ccxt": session}, folder, rig.db)) as guardian:
            report = await ask(folder, {"op": "kill", "reason": "test", "by": "me"})
            assert (report["ok"], report["is_quiet"]) == (True, True), report
            await until(lambda: guardian.report()["is_done"])
            await until(rig.is_quiet)
            await rig.agrees()
    assert_closed(await rig.coins())
    assert await rig.state(stop) is State.CANCELLED
    assert rig.exchange.account()["open_orders"] == []
    assert_once(rig.sent().elements())
    assert len(rig.sent()) == 3, "the entry, its stop, and one order that closes"


@each_wire
@pytest.mark.parametrize("seed", soaked([1, 2], 1))
async def test_a_run_with_kills_and_faults_sends_each_id_once(rig: DialectRig, seed: int) -> None:
    """V-06."""
    await rig.trade_from(seed, intents=8)
