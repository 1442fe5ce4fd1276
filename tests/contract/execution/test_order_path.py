"""The order path on a real database: one outcome a signal, one send an order, positions from fills."""

from __future__ import annotations

from decimal import Decimal

from fks.model.order import State
from fks.model.signal import Kind
from tests.support.order_rig import Rig
from tests.support.waiting import until

D = Decimal


async def test_an_entry_becomes_one_order_and_a_position_net_of_fees(rig: Rig) -> None:
    signal = await rig.signal()
    assert await rig.outcome(signal) == ("ordered", None)
    order = await rig.entry(signal)
    await rig.becomes(order.client_order_id, State.FILLED)
    assert rig.venue.received == [order.client_order_id]
    assert await rig.position() == D("9.99")
    assert await rig.held() == rig.venue.totals["BTC"]


async def test_an_exit_sells_what_is_held_and_a_second_one_has_nothing_to_do(rig: Rig) -> None:
    await rig.outcome(await rig.signal())
    await until(lambda: rig.service.book.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("ordered", None)
    await rig.becomes((await rig.entry(out)).client_order_id, State.FILLED)
    assert await rig.position() == 0
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("nothing", None)
    assert await rig.held() == rig.venue.totals["BTC"] == 0
