"""Brackets at Coinbase's wire when reads are late or show what another program made. The order manager, PostgreSQL and
Redis are real; the exchange's account is the witness.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

import pytest

from fks.model.order import OrderType, State, TimeInForce
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.venues.ccxt import brackets
from tests.support.dialect_rig import COINBASE, DialectRig, exchange_of
from tests.support.sim_process import SAMPLE
from tests.support.venue_orders import order
from tests.support.waiting import until


@pytest.fixture
async def rig(database: Database, bus: Bus, tmp_path: Path) -> AsyncIterator[DialectRig]:
    """A rig whose market stands still until it is told to go on."""
    exchange = exchange_of(COINBASE, tmp_path, "--tape", str(SAMPLE), "--hold")
    async with DialectRig.at(COINBASE, exchange, database, bus) as made:
        yield made


async def test_a_position_can_be_closed_whose_bracket_was_shown_late(
    rig: DialectRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing could sell the coins: the bracket held them, and its late report was taken for an old one."""
    monkeypatch.setattr(brackets, "MISSING_NS", 500_000_000)
    await rig.start()
    far = {"stop_loss": rig.price("0.9"), "take_profit": rig.price("1.1")}
    entry = await rig.ordered(type=OrderType.LIMIT, limit_price=rig.price("0.9999"), **far)
    (request,) = rig.exchange.received(path=rig.wire.add)
    attached = str(uuid5(NAMESPACE_OID, f"attached{request['client_order_id']}"))
    fault = rig.exchange.fault("hide_order", client_order_id=attached, count=100_000)
    legs = await rig.legs(entry.client_order_id)

    def is_executed() -> bool:
        rig.exchange.ask("POST", "/sim/tape/advance", {"bars": 1})
        return bool(rig.exchange.account()["fills"])

    await until(is_executed, every_s=0.0)
    await rig.becomes(entry.client_order_id, State.FILLED)
    for leg in legs:
        await rig.becomes(leg, State.EXPIRED)
    rig.exchange.clear(fault)
    for leg in legs:  # shown: it lives after all; protection of ours follows once it has ended
        await rig.becomes(leg, State.CANCELLED)
    await rig.resting_stop(entry.client_order_id)
    leave = await rig.ordered(kind=Kind.EXIT)
    await rig.becomes(leave.client_order_id, State.FILLED)
    await until(rig.is_quiet)
    await rig.agrees()
    assert (await rig.coins(), rig.resting()) == (0, [])


async def test_an_order_of_another_program_does_not_end_the_polling(rig: DialectRig) -> None:
    """Its client id is a SHA-256, as long as two of ours."""
    await rig.start()
    other = rig.session()
    await other.open()
    id = sha256(b"another program").hexdigest()
    await other.submit(order("0.01", client_order_id=id, type=OrderType.MARKET, symbol=rig.wire.symbol))
    await other.close()
    await until(lambda: bool(rig.exchange.account()["fills"]), deadline_s=10)
    far = {"stop_loss": rig.price("0.9"), "take_profit": rig.price("1.1")}
    entry = await rig.ordered(**far)
    await rig.becomes(entry.client_order_id, State.FILLED)
    await rig.resting_stop(entry.client_order_id)
    await until(lambda: rig.log.events("warning").count("fill.external") == 1, deadline_s=15)


async def test_an_entry_that_must_fill_at_once_has_its_exits_whatever_it_fills(rig: DialectRig) -> None:
    """Coinbase attaches exits to limit orders that may rest and to those that fill whole, and to no other."""
    await rig.start()
    far = {"stop_loss": rig.price("0.9"), "take_profit": rig.price("1.1")}
    rig.exchange.fault("thin_book")
    limit = {"type": OrderType.LIMIT, "limit_price": rig.price("1.002"), "time_in_force": TimeInForce.IOC}
    entry = await rig.ordered(**limit, **far)
    part = await rig.becomes(entry.client_order_id, State.CANCELLED)
    assert 0 < part.filled < part.quantity
    await rig.resting_stop(entry.client_order_id)
    await rig.agrees()
    leave = await rig.ordered(kind=Kind.EXIT)
    await rig.becomes(leave.client_order_id, State.FILLED)
    await until(rig.is_quiet)
    await rig.agrees()
    assert (await rig.coins(), rig.resting()) == (0, [])
