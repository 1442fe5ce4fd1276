"""The order path on a real database: one outcome a signal, one send an order, positions from fills."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fks.model.codes import Code
from fks.model.order import OrderType, State
from fks.model.signal import OUTCOMES, Kind
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
    await until(lambda: rig.service.cache.position(1, "ccxt", "BTCUSDT", "one").quantity > 0)
    out = await rig.signal(Kind.EXIT)
    assert await rig.outcome(out) == ("ordered", None)
    await rig.becomes((await rig.entry(out)).client_order_id, State.FILLED)
    assert await rig.position() == 0
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("nothing", None)
    assert await rig.held() == rig.venue.totals["BTC"] == 0


async def test_the_first_signal_of_a_symbol_just_collected_is_not_denied(rig: Rig) -> None:
    """A symbol's metadata, price and instance come between two looks; the signal comes before the next one."""
    await rig.db.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ('binance', 'SOLUSDT', 'SOL', 'USDT', 0.01, 0.001, 0.001, 100000, 5)"
    )
    await rig.db.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, epoch, last_message_at, last_price, updated_at)"
        " SELECT 'binance', 'SOLUSDT', timeframe, state, epoch, now(), 100, updated_at FROM feeds WHERE symbol = "
        "'BTCUSDT'"
    )
    await rig.db.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size)"
        " VALUES ('sol', 'sma_cross', 'binance', 'SOLUSDT', '1m', 1, 'ccxt', 1000)"
    )
    assert await rig.outcome(await rig.signal(symbol="SOLUSDT", instance="sol")) == ("ordered", None)


@pytest.mark.parametrize(
    "change", ["is_enabled = false", "state = 'CRASHED'", "is_enabled = false, state = 'DISABLED'"]
)
async def test_a_resting_entry_ends_with_its_instance(rig: Rig, change: str) -> None:
    """Nothing decides for the instance any more, so nothing else would ever cancel it; its neighbours' orders rest on."""
    at_99 = {"type": OrderType.LIMIT, "limit_price": D(99)}
    ended = await rig.signal(**at_99)
    other = await rig.signal(instance="two", source="strategy:two", **at_99)
    for id in (ended, other):
        assert await rig.outcome(id) == ("ordered", None)
        await rig.becomes((await rig.entry(id)).client_order_id, State.WORKING)
    await rig.db.sql(f"UPDATE strategy_instances SET {change} WHERE id = 'one'")
    await rig.becomes((await rig.entry(ended)).client_order_id, State.CANCELLED)
    assert [held.order.instance for held in rig.venue.live()] == ["two"]


async def test_the_protections_of_a_position_stay_when_its_instance_is_disabled(rig: Rig) -> None:
    await rig.signal(stop_loss=D(90))
    await until(lambda: len(rig.venue.live()) == 1)
    resting = await rig.signal(type=OrderType.LIMIT, limit_price=D(99))
    await rig.outcome(resting)
    await rig.db.sql("UPDATE strategy_instances SET is_enabled = false WHERE id = 'one'")
    await rig.becomes((await rig.entry(resting)).client_order_id, State.CANCELLED)
    assert [held.order.role.value for held in rig.venue.live()] == ["sl"]


async def test_counters_of_outcomes_begin_at_zero(rig: Rig) -> None:
    """To Prometheus a series that begins at one has not increased."""
    labels = {
        "fks_denials_total": [{"code": code.value} for code in Code],
        "fks_orders_total": [{"state": state.value} for state in State],
        "fks_signals_total": [{"state": state.value} for state in OUTCOMES],
    }
    for name, sets in labels.items():
        for one in sets:
            assert rig.meter.values[name, tuple(one.items())] == 0
