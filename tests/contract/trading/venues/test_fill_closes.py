"""V-12 where each fill of an entry makes its own stop (Kraken). The order manager, PostgreSQL and Redis are real; the
exchange's log is the witness that no stop was sent beside them.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.interfaces.entry.amending import Amending
from fks.model.order import OrderType, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.dialect_rig import KRAKEN, D, DialectRig, exchange_of, session_at
from tests.support.guarded_trading import ask, at_work
from tests.support.guardian_process import guardian_with
from tests.support.sim_process import SAMPLE
from tests.support.soak_cases import soaked
from tests.support.waiting import until

PERSON = {"kind": Kind.ORDER, "instance": "", "source": "principal:ann", "timeframe": None}


@pytest.fixture
async def rig(database: Database, bus: Bus, tmp_path: Path) -> AsyncIterator[DialectRig]:
    async with DialectRig.at(KRAKEN, exchange_of(KRAKEN, tmp_path), database, bus) as made:
        yield made


@pytest.fixture
async def at_rest(database: Database, bus: Bus, tmp_path: Path) -> AsyncIterator[DialectRig]:
    """A rig whose market stands still until it is told to go on."""
    exchange = exchange_of(KRAKEN, tmp_path, "--tape", str(SAMPLE), "--hold")
    async with DialectRig.at(KRAKEN, exchange, database, bus) as made:
        yield made


async def closes_of(rig: DialectRig, entry: str, quantity: Decimal, *, states: str = "ACCEPTED") -> list[str]:
    """Wait until legs in these states cover a quantity; return their ids."""

    async def found() -> list[str]:
        rows = await rig.db.sql(
            "SELECT client_order_id, quantity FROM orders WHERE parent_id = $1 AND state = $2 ORDER BY attempt DESC",
            entry,
            states,
        )
        covered = sum((row["quantity"] for row in rows), D(0))
        return [row["client_order_id"] for row in rows] if covered == quantity else []

    made = await until(found, deadline_s=20)
    assert made
    return list(made)


def stops_at(rig: DialectRig) -> list[Decimal]:
    """Return the quantities of the stops that rest at the exchange."""
    assert {(row["type"], row["side"]) for row in rig.resting()} <= {("STOP_LOSS", "SELL")}
    return [D(row["origQty"]) for row in rig.resting()]


def requests(rig: DialectRig) -> list[dict[str, Any]]:
    return [row["params"] for row in rig.exchange.received(path=KRAKEN.add)]


async def test_an_entry_and_its_stop_are_one_request(rig: DialectRig) -> None:
    await rig.start()
    protected = rig.protected()
    entry = await rig.ordered(**protected)
    filled = await rig.becomes(entry.client_order_id, State.FILLED)
    legs = await closes_of(rig, entry.client_order_id, filled.filled)
    (request,) = requests(rig)
    assert (request["close[ordertype]"], D(request["close[price]"])) == ("stop-loss", protected["stop_loss"])
    assert stops_at(rig) == [filled.filled]
    await rig.agrees()
    leave = await rig.ordered(kind=Kind.EXIT)
    await rig.becomes(leave.client_order_id, State.FILLED)
    await until(rig.is_quiet)
    assert {await rig.state(leg) for leg in legs} == {State.CANCELLED}
    await rig.agrees()
    assert (await rig.coins(), rig.resting(), len(requests(rig))) == (0, [], 2)


async def test_each_part_of_an_entry_has_a_stop_of_its_own(at_rest: DialectRig) -> None:
    """The book holds a half; the other comes with the next bar."""
    rig = at_rest
    await rig.start()
    rig.exchange.fault("thin_book", symbol="BTCUSDT", count=1)
    limit = {"type": OrderType.LIMIT, "limit_price": rig.price("1.002")}
    entry = await rig.ordered(**PERSON, **limit, size=D("0.02"), **rig.protected())
    await rig.becomes(entry.client_order_id, State.PARTIAL)
    rig.exchange.ask("POST", "/sim/tape/advance", {"bars": 1})
    await rig.becomes(entry.client_order_id, State.FILLED)
    legs = await closes_of(rig, entry.client_order_id, D("0.02"))
    await rig.agrees()
    assert stops_at(rig) == [D("0.01")] * 2
    assert len(requests(rig)) == 1
    nearer = rig.price("0.95")
    amending = Amending(rig.db, rig.bus, RealClock(), rig.settings)
    await amending.amend(entry.client_order_id, {"stop_loss": str(nearer)}, "ann")
    await until(lambda: {D(row["stopPrice"]) for row in rig.resting()} == {nearer}, deadline_s=20)
    assert await closes_of(rig, entry.client_order_id, D("0.02")) == legs
    assert len(requests(rig)) == 1


async def test_a_kill_before_the_answer_leaves_one_stop(rig: DialectRig) -> None:
    """The order manager is killed after the exchange took the entry and before its answer."""
    await rig.start()
    rig.exchange.fault("answer_after", path=KRAKEN.add, seconds=1.0)
    signal = await rig.enter(**rig.protected())
    await until(lambda: bool(rig.exchange.account()["fills"]), deadline_s=10)
    await rig.crash()
    entry = await rig.entry(signal)
    assert len(stops_at(rig)) == 1
    await rig.killed_and_restarted()
    filled = await rig.becomes(entry.client_order_id, State.FILLED)
    await closes_of(rig, entry.client_order_id, filled.filled)
    await rig.agrees()
    assert (stops_at(rig), len(requests(rig))) == ([filled.filled], 1)


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_stop_that_executed_meanwhile_is_booked_under_its_id(at_rest: DialectRig, is_known: bool) -> None:
    """The order manager is dead while the market reaches it; `is_known`: it had read the stop before."""
    rig = at_rest
    await rig.start()
    if not is_known:
        rig.exchange.fault("http_500", path=KRAKEN.listed, count=1000)
    entry = await rig.ordered(**PERSON, size=D("0.01"), stop_loss=rig.price("0.9999"))
    if is_known:
        await closes_of(rig, entry.client_order_id, D("0.01"))
    else:
        await until(lambda: bool(rig.exchange.account()["fills"]), deadline_s=10)
    await rig.crash()
    rig.exchange.clear()

    def is_reached() -> bool:
        rig.exchange.ask("POST", "/sim/tape/advance", {"bars": 1})
        return len(rig.resting()) == 0

    await until(is_reached, every_s=0.0, deadline_s=60)
    await rig.killed_and_restarted()
    await closes_of(rig, entry.client_order_id, D("0.01"), states="FILLED")
    await rig.agrees()
    assert (await rig.coins(), rig.resting(), len(requests(rig))) == (0, [], 1)


async def test_a_stop_that_a_person_cancels_is_placed_again(rig: DialectRig) -> None:
    await rig.start()
    entry = await rig.ordered(**rig.protected())
    filled = await rig.becomes(entry.client_order_id, State.FILLED)
    (leg,) = await closes_of(rig, entry.client_order_id, filled.filled)
    close = await rig.becomes(leg, State.ACCEPTED)
    elsewhere = session_at(KRAKEN, rig.exchange, "guardian_")
    await elsewhere.open()
    await elsewhere.cancel(close)
    await elsewhere.close()
    await rig.becomes(leg, State.CANCELLED)
    (placed,) = await closes_of(rig, entry.client_order_id, filled.filled)
    assert placed != leg
    assert (stops_at(rig), len(requests(rig))) == ([filled.filled], 2)


async def test_a_kill_by_the_guardian_ends_the_stops_and_closes(rig: DialectRig) -> None:
    with tempfile.TemporaryDirectory(prefix="fks-v-", dir="/tmp") as name:
        folder = Path(name)
        rig.kill_path = folder / "kill.jsonl"
        await rig.start()
        entry = await rig.ordered(**rig.protected())
        filled = await rig.becomes(entry.client_order_id, State.FILLED)
        (leg,) = await closes_of(rig, entry.client_order_id, filled.filled)
        session = session_at(KRAKEN, rig.exchange, KRAKEN.guardian_key)
        async with at_work(guardian_with({"ccxt": session}, folder, rig.db)) as guardian:
            report = await ask(folder, {"op": "kill", "reason": "test", "by": "me"})
            assert (report["ok"], report["is_quiet"]) == (True, True), report
            await until(lambda: guardian.report()["is_done"])
            await until(rig.is_quiet)
            await rig.agrees()
    assert (await rig.coins(), rig.resting(), len(requests(rig))) == (0, [], 2)
    assert await rig.state(leg) is State.CANCELLED


@pytest.mark.parametrize("seed", soaked([3, 2], 1))
async def test_a_run_with_kills_and_faults_sends_each_id_once(rig: DialectRig, seed: int) -> None:
    await rig.trade_from(seed, intents=6)
