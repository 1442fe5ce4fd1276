"""Trailing stops of journaled entries: the rule of backtests, one direction only, one stop for a position."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from fks.model.instrument import distance_of
from fks.model.order import Order, Side, State
from fks.model.parent import BreakEven, ParentPlan
from fks.trading.matching import behind
from fks.trading.orders import events as e
from fks.trading.orders.machine import advance
from fks.trading.orders.trailing import is_below_step, left_behind, moved_stop, stop_of
from tests.support.order_values import an_instrument, an_order

D = Decimal
TICK = D("0.05")
INSTRUMENT = an_instrument(tick=TICK)


def entry(stop: Decimal | None, side: Side = Side.BUY, **changes: object) -> Order:
    return an_order(**{"side": side, "stop_loss": stop, "state": State.FILLED, "filled": D(10)} | changes)


def moved(order: Order, stop: Decimal) -> Order:
    return advance(order, e.StopMoved(event_id="x", stop_loss=stop, bar_ns=1)).order


@given(
    closes=st.lists(st.integers(1_800, 2_200), min_size=1, max_size=30),
    trail=st.decimals("0.01", "9", places=2),
    side=st.sampled_from(Side),
    cuts=st.sets(st.integers(0, 30)),
)
def test_batches_of_bars_move_the_stop_as_each_bar_does(
    closes: list[int], trail: Decimal, side: Side, cuts: set[int]
) -> None:
    """A backtest moves it at each close; live it is moved by the best close of the bars sealed since, however many they
    are, and again after a restart."""
    prices = [close * TICK for close in closes]
    distance, ticks = distance_of(trail, TICK), int(distance_of(trail, TICK) / TICK)
    start = prices[0] - side.sign * distance
    expected, order = start, entry(start, side)
    for index, close in enumerate(closes):
        level = behind(close, ticks, side.sign, 1) * TICK
        expected = max(expected, level) if side is Side.BUY else min(expected, level)
        if index in cuts or index == len(closes) - 1:
            best = (max if side is Side.BUY else min)(prices[: index + 1])
            stop = moved_stop([order], best, trail, INSTRUMENT)
            assert stop is not None
            order = moved(order, stop)
            assert order.stop_loss == expected


def test_a_stop_never_moves_back_or_by_an_entry_that_was_never_sent() -> None:
    assert moved(entry(D(95)), D(96)).stop_loss == D(96)
    assert moved(entry(D(95)), D(94)).stop_loss == D(95)
    assert moved(entry(D(105), Side.SELL), D(104)).stop_loss == D(104)
    assert moved(entry(D(105), Side.SELL), D(106)).stop_loss == D(105)
    assert moved(entry(None), D(96)).stop_loss is None
    for state in (State.INTENDED, State.DENIED, State.ABANDONED):
        assert moved(entry(D(95), state=state), D(96)).stop_loss == D(95)


def test_a_step_is_measured_from_where_the_stop_is() -> None:
    entries = [entry(D(95)), entry(D(100), client_order_id="b" * 32)]
    assert [is_below_step(entries, stop, D("0.5")) for stop in (D("100.45"), D("100.5"), D(100))] == [
        True,
        False,
        False,
    ]
    assert not is_below_step(entries, D("100.05"), D(0))
    assert is_below_step([entry(D(100), Side.SELL)], D("99.55"), D("0.5"))
    assert not is_below_step([entry(D(100), Side.SELL)], D("99.5"), D("0.5"))
    assert not is_below_step([entry(None)], D(100), D("0.5"))


def test_a_close_that_comes_far_enough_moves_the_stop_to_break_even() -> None:
    plan = ParentPlan(D(95), (), BreakEven(at_risk=D(2), offset_ticks=1))
    held, short = entry(D(95), average_price=D(100)), entry(D(105), Side.SELL, average_price=D(100))
    assert moved_stop([held], D("109.95"), None, INSTRUMENT, plan) == D(95)
    assert moved_stop([held], D(110), None, INSTRUMENT, plan) == D("100.05")
    assert moved_stop([held], D(110), D(5), INSTRUMENT, plan) == D(105)  # its trailing stop is nearer
    assert moved_stop([held], None, None, INSTRUMENT, plan) == D(95)
    short_plan = ParentPlan(D(105), (), plan.break_even)
    assert moved_stop([short], D(90), None, INSTRUMENT, short_plan) == D("99.95")


def test_entries_of_a_position_share_the_nearest_stop() -> None:
    first, added = entry(D(97), client_order_id="a" * 32), entry(D(95), client_order_id="b" * 32)
    assert stop_of([added, first]) == D(97)
    assert stop_of([entry(None)]) is None
    assert moved_stop([added, first], None, D(5), INSTRUMENT) == D(97)  # no bar ended since the added one filled
    assert left_behind([added, first], D(97)) == [added]
    assert moved_stop([added, first], D(101), D(5), INSTRUMENT) == D(97)
    assert moved_stop([added, first], D("103.02"), D(5), INSTRUMENT) == D(98)
