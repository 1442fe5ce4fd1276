"""The written rule of `--fills tape`, row by row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.lab.sim.orders import SimOrder
from fks.lab.sim.tapefills import Entry, TapeBar, Touch, choose, touch, touch_after

EARLIER, DURING, ROW = 4, 5, 5


def order(side: str, kind: str, *, price: int = 0, stop: int = 0, placed: int = EARLIER, number: int = 1) -> SimOrder:
    waits = kind.startswith(("STOP", "TAKE"))
    return SimOrder(
        number,
        "BTCUSDT",
        f"o{number}",
        side,
        kind,
        "GTC",
        price,
        100,
        0,
        stop,
        "NONE",
        0,
        is_working=not waits,
        placed_row=placed,
    )


def bar(open_: int, high: int, low: int, close: int | None = None) -> TapeBar:
    return TapeBar(ROW, 0, open_, high, low, open_ if close is None else close)


@pytest.mark.parametrize(
    ("given_order", "given_bar", "wanted"),
    [
        # a stop that sells
        (order("SELL", "STOP_LOSS", stop=90), bar(100, 110, 91), None),
        (order("SELL", "STOP_LOSS", stop=90), bar(100, 110, 90), Touch(90, False)),
        (order("SELL", "STOP_LOSS", stop=90), bar(80, 85, 70), Touch(80, True)),
        (order("SELL", "STOP_LOSS", stop=90, placed=DURING), bar(80, 85, 70), Touch(90, False)),
        # a stop that buys
        (order("BUY", "STOP_LOSS", stop=110), bar(100, 109, 90), None),
        (order("BUY", "STOP_LOSS", stop=110), bar(100, 110, 90), Touch(110, False)),
        (order("BUY", "STOP_LOSS", stop=110), bar(120, 125, 115), Touch(120, True)),
        # limits, and profits that are triggered
        (order("SELL", "LIMIT", price=110), bar(100, 110, 90), Touch(110, False)),
        (order("SELL", "LIMIT_MAKER", price=110), bar(120, 121, 90), Touch(120, True)),
        (order("SELL", "LIMIT", price=110, placed=DURING), bar(120, 121, 90), Touch(110, False)),
        (order("BUY", "LIMIT", price=95), bar(100, 110, 95), Touch(95, False)),
        (order("BUY", "LIMIT", price=95), bar(90, 110, 80), Touch(90, True)),
        (order("BUY", "LIMIT", price=95), bar(100, 110, 96), None),
        (order("SELL", "TAKE_PROFIT", stop=110), bar(100, 115, 90), Touch(110, False)),
        (order("BUY", "TAKE_PROFIT", stop=95), bar(90, 115, 80), Touch(90, True)),
        # a trigger with a limit of its own
        (order("SELL", "STOP_LOSS_LIMIT", stop=90, price=85), bar(100, 110, 80), Touch(90, False)),
        (order("SELL", "STOP_LOSS_LIMIT", stop=90, price=85), bar(80, 84, 70), Touch(80, True, rests=True)),
        (order("BUY", "STOP_LOSS_LIMIT", stop=110, price=115), bar(120, 130, 100), Touch(120, True, rests=True)),
        (order("SELL", "TAKE_PROFIT_LIMIT", stop=110, price=105), bar(100, 112, 90), Touch(110, False)),
        # the close shows that the price came back to its limit
        (order("SELL", "STOP_LOSS_LIMIT", stop=90, price=85), bar(80, 86, 70, 85), Touch(85, False)),
        (order("BUY", "STOP_LOSS_LIMIT", stop=110, price=105), bar(100, 112, 94, 95), Touch(105, False)),
        (order("BUY", "STOP_LOSS_LIMIT", stop=110, price=105), bar(100, 112, 94, 106), Touch(110, False, rests=True)),
    ],
)
def test_the_rule(given_order: SimOrder, given_bar: TapeBar, wanted: Touch | None) -> None:
    assert touch(given_order, given_bar) == wanted


AT_OPEN, LATE, TRIGGERED = Entry(False, False), Entry(True, False), Entry(False, True)


@pytest.mark.parametrize(
    ("entry", "given_order", "given_bar", "wanted"),
    [
        # after a limit only the close shows a profit
        (AT_OPEN, order("SELL", "LIMIT_MAKER", price=110, placed=DURING), bar(100, 115, 90, 105), Touch(110, False)),
        (LATE, order("SELL", "LIMIT_MAKER", price=110, placed=DURING), bar(100, 115, 90, 109), None),
        (LATE, order("SELL", "LIMIT_MAKER", price=110, placed=DURING), bar(100, 115, 90, 110), Touch(110, False)),
        (LATE, order("BUY", "TAKE_PROFIT", stop=90, placed=DURING), bar(100, 115, 85, 89), Touch(90, False)),
        (LATE, order("SELL", "STOP_LOSS", stop=95, placed=DURING), bar(100, 101, 94, 100), Touch(95, False)),
        # where the open lies beyond the stop of an entry that its bar triggered, the close decides
        (TRIGGERED, order("SELL", "STOP_LOSS", stop=105, placed=DURING), bar(100, 120, 100, 106), None),
        (TRIGGERED, order("SELL", "STOP_LOSS", stop=105, placed=DURING), bar(100, 120, 90, 104), Touch(104, False)),
        (TRIGGERED, order("BUY", "STOP_LOSS", stop=95, placed=DURING), bar(100, 101, 80, 96), Touch(96, False)),
        (TRIGGERED, order("SELL", "STOP_LOSS", stop=95, placed=DURING), bar(100, 120, 94, 106), Touch(95, False)),
        (TRIGGERED, order("SELL", "LIMIT_MAKER", price=118, placed=DURING), bar(100, 120, 94, 106), Touch(118, False)),
    ],
)
def test_what_came_with_an_entry_meets_the_rest_of_its_bar(
    entry: Entry, given_order: SimOrder, given_bar: TapeBar, wanted: Touch | None
) -> None:
    assert touch_after(entry, given_order, given_bar) == wanted


@pytest.mark.parametrize(
    ("given_order", "given_bar", "entry"),
    [
        (order("BUY", "LIMIT", price=95), bar(90, 100, 80), AT_OPEN),
        (order("BUY", "LIMIT", price=95), bar(100, 101, 80), LATE),
        (order("BUY", "STOP_LOSS", stop=110), bar(111, 112, 100), AT_OPEN),
        (order("BUY", "STOP_LOSS", stop=110), bar(100, 112, 100), TRIGGERED),
        (order("BUY", "STOP_LOSS_LIMIT", stop=110, price=115), bar(100, 112, 100), TRIGGERED),
        (order("BUY", "STOP_LOSS_LIMIT", stop=110, price=105), bar(100, 112, 94, 95), LATE),
    ],
)
def test_an_entry_is_read_from_how_its_order_met_the_bar(
    given_order: SimOrder, given_bar: TapeBar, entry: Entry
) -> None:
    met = touch(given_order, given_bar)
    assert met is not None
    assert Entry.of(given_order, met) == entry


def test_of_two_hit_in_one_bar_the_stop_acts_unless_the_open_took_the_profit() -> None:
    stop, profit = order("SELL", "STOP_LOSS", stop=90), order("SELL", "LIMIT_MAKER", price=110, number=2)
    for legs in ([stop, profit], [profit, stop]):
        both = [(leg, met) for leg in legs if (met := touch(leg, bar(100, 115, 85)))]
        assert choose(both)[0] is stop
        gapped = [(leg, met) for leg in legs if (met := touch(leg, bar(112, 115, 85)))]
        assert choose(gapped) == (profit, Touch(112, True))


ORDERS = st.builds(
    order,
    st.sampled_from(["BUY", "SELL"]),
    st.sampled_from(["LIMIT", "STOP_LOSS", "TAKE_PROFIT"]),
    price=st.integers(1, 50),
    stop=st.integers(1, 50),
    placed=st.sampled_from([EARLIER, DURING]),
)


@given(ORDERS, st.integers(1, 50), st.integers(0, 20), st.integers(0, 20))
def test_a_fill_is_inside_the_bar_and_never_better_than_the_market_was(
    o: SimOrder, open_: int, up: int, down: int
) -> None:
    given_bar = bar(open_, open_ + up, max(1, open_ - down))
    met = touch(o, given_bar)
    if met is None:
        return
    level = o.stop_price if o.is_conditional else o.price
    if met.at_open:
        assert met.price == open_
        assert o.placed_row < given_bar.row
    else:
        assert met.price == level
    if o.type == "LIMIT":
        assert met.price <= o.price if o.is_buy else met.price >= o.price
