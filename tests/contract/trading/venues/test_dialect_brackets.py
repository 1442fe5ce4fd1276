"""V-12: protection attached to the entry, at each exchange that holds it. The order manager, PostgreSQL and Redis are
real; the exchange's log is the witness that each order was sent at most once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fks.model.order import Order, OrderType, State, TimeInForce
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.venues.ccxt.brackets import ids_in
from fks.trading.venues.ccxt.dialects import dialect
from tests.support.dialect_rig import WIRES, DialectRig, Wire, exchange_of
from tests.support.sim_process import SAMPLE
from tests.support.soak_cases import soaked
from tests.support.waiting import until

HOLDERS = [wire for wire in WIRES if dialect(wire.exchange).capabilities.attaches_exits]
each_wire = pytest.mark.parametrize("wire", HOLDERS, ids=lambda wire: wire.exchange)
OUTCOMES = [
    pytest.param(wire, *row, id=f"{wire.exchange} {row[0]['kind']} {row[0].get('msg', '')}")
    for wire in HOLDERS
    for row in wire.outcomes
]


@pytest.fixture
async def rig(wire: Wire, database: Database, bus: Bus, tmp_path: Path) -> AsyncIterator[DialectRig]:
    async with DialectRig.at(wire, exchange_of(wire, tmp_path), database, bus) as made:
        yield made


@pytest.fixture
async def at_rest(wire: Wire, database: Database, bus: Bus, tmp_path: Path) -> AsyncIterator[DialectRig]:
    """A rig whose market stands still until it is told to go on."""
    exchange = exchange_of(wire, tmp_path, "--tape", str(SAMPLE), "--hold")
    async with DialectRig.at(wire, exchange, database, bus) as made:
        yield made


def exits(rig: DialectRig) -> dict[str, Any]:
    """Return a stop loss and a take profit far from the price."""
    return {"stop_loss": rig.price("0.9"), "take_profit": rig.price("1.1")}


async def bracket(rig: DialectRig, entry: str) -> dict[str, str]:
    """Wait until both exits of an entry live; return their ids by role."""

    async def found() -> dict[str, str] | None:
        rows = await rig.db.sql("SELECT role, client_order_id, state, code FROM orders WHERE parent_id = $1", entry)
        live = {row["role"]: row for row in rows if row["state"] in ("ACCEPTED", "WORKING") and row["code"] is None}
        states = {role: row["state"] for role, row in live.items()}
        if states != {"sl": "ACCEPTED", "tp": "WORKING"}:
            return None
        return {role: row["client_order_id"] for role, row in live.items()}

    made = await until(found, deadline_s=15)
    assert made is not None
    return made


def pair_at(rig: DialectRig) -> list[tuple[str, str, str]]:
    """Return type, side and quantity of what rests at the exchange."""
    return sorted((row["type"], row["side"], row["origQty"]) for row in rig.resting())


def pair_over(order: Order) -> list[tuple[str, str, str]]:
    return [(kind, "SELL", f"{order.filled:.8f}") for kind in ("LIMIT_MAKER", "STOP_LOSS_LIMIT")]


@each_wire
async def test_an_entry_and_its_exits_are_one_request(rig: DialectRig) -> None:
    await rig.start()
    entry = await rig.ordered(**exits(rig))
    filled = await rig.becomes(entry.client_order_id, State.FILLED)
    assert (filled.type, filled.time_in_force) == (OrderType.LIMIT, TimeInForce.FOK)
    legs = await bracket(rig, entry.client_order_id)
    assert pair_at(rig) == pair_over(filled)
    (request,) = rig.exchange.received(path=rig.wire.add)
    assert ids_in(request["client_order_id"]) == [entry.client_order_id, legs["sl"], legs["tp"]]
    await rig.agrees()
    leave = await rig.ordered(kind=Kind.EXIT)
    await rig.becomes(leave.client_order_id, State.FILLED)
    await until(rig.is_quiet)
    assert {await rig.state(leg) for leg in legs.values()} == {State.CANCELLED}
    await rig.agrees()
    assert (await rig.coins(), rig.resting()) == (0, [])


@each_wire
async def test_an_entry_that_rests_is_protected_once_it_is_filled(rig: DialectRig) -> None:
    await rig.start()
    entry = await rig.ordered(type=OrderType.LIMIT, limit_price=rig.price("0.95"), **exits(rig))
    await rig.becomes(entry.client_order_id, State.WORKING)
    rows = await rig.db.sql("SELECT state, code FROM orders WHERE parent_id = $1", entry.client_order_id)
    assert [(row["state"], row["code"]) for row in rows] == [("ACCEPTED", "PENDING")] * 2
    await rig.killed_and_restarted()
    await rig.becomes(entry.client_order_id, State.WORKING)
    rows = await rig.db.sql("SELECT state, code FROM orders WHERE parent_id = $1", entry.client_order_id)
    assert [(row["state"], row["code"]) for row in rows] == [("ACCEPTED", "PENDING")] * 2


@each_wire
async def test_a_kill_before_the_answer_leaves_no_fill_without_its_bracket(rig: DialectRig) -> None:
    """The order manager is killed after the exchange took the entry and before its answer."""
    await rig.start()
    rig.exchange.fault("answer_after", path=rig.wire.add, seconds=1.0)
    signal = await rig.enter(**exits(rig))
    await until(lambda: bool(rig.exchange.account()["fills"]), deadline_s=10)
    await rig.crash()
    entry = await rig.entry(signal)
    assert [(kind, side) for kind, side, _ in pair_at(rig)] == [("LIMIT_MAKER", "SELL"), ("STOP_LOSS_LIMIT", "SELL")]
    await rig.killed_and_restarted()
    filled = await rig.becomes(entry.client_order_id, State.FILLED)
    legs = await bracket(rig, entry.client_order_id)
    assert pair_at(rig) == pair_over(filled)
    await rig.agrees()
    assert rig.sent() == dict.fromkeys((entry.client_order_id, *legs.values()), 1)


@pytest.mark.parametrize(("wire", "fault", "is_taken"), soaked(OUTCOMES[::2] + OUTCOMES[1::2], 6))
async def test_an_entry_of_open_outcome_is_asked_about_with_its_exits(
    rig: DialectRig, fault: dict[str, Any], is_taken: bool
) -> None:
    await rig.start()
    rig.exchange.fault(path=rig.wire.add, **fault)
    entry = await rig.ordered(**exits(rig))
    await rig.becomes(entry.client_order_id, State.FILLED if is_taken else State.ABSENT)
    legs = await rig.legs(entry.client_order_id)
    if is_taken:
        legs = list((await bracket(rig, entry.client_order_id)).values())
    await rig.agrees()
    assert len(rig.resting()) == (2 if is_taken else 0)
    assert rig.sent() == dict.fromkeys((entry.client_order_id, *legs), 1)


@each_wire
@pytest.mark.parametrize("filled", ["sl", "tp"])
async def test_an_executed_exit_is_booked_under_its_own_id(at_rest: DialectRig, filled: str) -> None:
    """The market goes on until it reaches the near one of the two exits."""
    rig = at_rest
    await rig.start()
    near = {"sl": {"stop_loss": rig.price("0.9997")}, "tp": {"take_profit": rig.price("1.0003")}}[filled]
    limit = {"type": OrderType.LIMIT, "limit_price": rig.price("1.0002")}
    entry = await rig.ordered(**limit, **exits(rig) | near)
    legs = await bracket(rig, entry.client_order_id)

    def is_reached() -> bool:
        rig.exchange.ask("POST", "/sim/tape/advance", {"bars": 1})
        return len(rig.resting()) == 0

    await until(is_reached, every_s=0.0)
    assert await rig.becomes(legs[filled], State.FILLED)
    await until(rig.is_quiet)
    assert {role: await rig.state(leg) for role, leg in legs.items()} == {
        "sl": State.CANCELLED,
        "tp": State.CANCELLED,
        filled: State.FILLED,
    }
    await rig.agrees()
    assert await rig.coins() == 0


@each_wire
@pytest.mark.parametrize("seed", soaked([3, 4], 1))
async def test_a_run_with_brackets_sends_each_id_once(rig: DialectRig, seed: int) -> None:
    await rig.trade_from(seed, intents=6, exits=lambda: exits(rig))
