"""The written fill rule, clause by clause, on numbers small enough to check by eye."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.bar import Bar
from fks.model.errors import BugError, InputError
from fks.model.instrument import Instrument
from fks.model.order import OrderType, Side
from fks.trading.matching import (
    BarRange,
    CostModel,
    Leg,
    Resting,
    Slippage,
    after_entry,
    collar,
    is_accepted,
    match_market,
    match_oco,
    match_resting,
    match_take_profit,
    range_of,
    rests_as_limit,
)

BTC = Instrument(
    "binance",
    "BTCUSDT",
    "BTC",
    "USDT",
    Decimal("0.01"),
    Decimal("0.00001"),
    Decimal("0.00001"),
    Decimal(9000),
    Decimal(5),
)


def stop(side: Side, level: int) -> Resting[int]:
    return Resting(side, OrderType.STOP, stop=level)


def limit(side: Side, level: int) -> Resting[int]:
    return Resting(side, OrderType.LIMIT, price=level)


BAR = BarRange(open=100, high=110, low=90, close=102)


def test_a_market_order_gets_the_open() -> None:
    assert match_market(BAR) == 100


@pytest.mark.parametrize(
    ("order", "entered_at", "price"),
    [
        (stop(Side.SELL, 95), None, 95),  # reached inside the bar
        (stop(Side.SELL, 100), None, 100),  # exactly the open
        (stop(Side.SELL, 105), None, 100),  # jumped over: the open, worse than the stop
        (stop(Side.SELL, 105), 103, 103),  # the entry's own price is beyond it already
        (stop(Side.SELL, 97), 103, 97),
        (stop(Side.SELL, 90), None, 90),  # touched is reached
        (stop(Side.SELL, 89), None, None),
        (stop(Side.SELL, 89), 103, None),
        (stop(Side.BUY, 105), None, 105),
        (stop(Side.BUY, 95), None, 100),
        (stop(Side.BUY, 95), 97, 97),
        (stop(Side.BUY, 111), None, None),
        (limit(Side.SELL, 105), None, 105),
        (limit(Side.SELL, 95), None, 100),  # better than asked
        (limit(Side.SELL, 95), 97, 97),
        (limit(Side.SELL, 102), 97, 102),
        (limit(Side.SELL, 110), None, 110),
        (limit(Side.SELL, 111), None, None),
        (limit(Side.BUY, 95), None, 95),
        (limit(Side.BUY, 105), None, 100),
        (limit(Side.BUY, 105), 103, 103),
        (limit(Side.BUY, 89), None, None),
    ],
)
def test_resting_orders(order: Resting[int], entered_at: int | None, price: int | None) -> None:
    assert match_resting(order, BAR if entered_at is None else after_entry(BAR, entered_at)) == price


@pytest.mark.parametrize(
    ("stop_at", "limit_at", "met", "outcome"),
    [
        (95, 105, 100, (Leg.STOP, 95)),  # both inside one bar: the stop wins
        (95, 105, 97, (Leg.STOP, 95)),
        (89, 105, 100, (Leg.LIMIT, 105)),
        (95, 111, 100, (Leg.STOP, 95)),
        (95, 99, 100, (Leg.LIMIT, 100)),  # the open was through the take profit before anything else could happen
        (95, 99, 98, (Leg.STOP, 95)),  # the entry's price, which the pair meets first, is through neither
        (95, 99, 104, (Leg.LIMIT, 104)),
        (102, 105, 100, (Leg.STOP, 100)),  # the open was through the stop
        (102, 105, 101, (Leg.STOP, 101)),
        (102, 99, 100, (Leg.STOP, 100)),  # through both: the stop
        (89, 111, 100, None),
    ],
)
def test_a_pair_that_guards_a_long(stop_at: int, limit_at: int, met: int, outcome: object) -> None:
    found = match_oco(stop(Side.SELL, stop_at), limit(Side.SELL, limit_at), after_entry(BAR, met))
    assert found == outcome


prices = st.integers(1, 200)


@given(prices, prices, prices, prices, prices, prices, st.booleans())
def test_shorts_mirror_longs(a: int, b: int, c: int, d: int, stop_at: int, limit_at: int, is_late: bool) -> None:
    low, open_, close, high = sorted((a, b, c, d))
    bar, mirror = BarRange(open_, high, low, close), BarRange(201 - open_, 201 - low, 201 - high, 201 - close)
    long = match_oco(stop(Side.SELL, stop_at), limit(Side.SELL, limit_at), bar, is_late=is_late)
    short = match_oco(stop(Side.BUY, 201 - stop_at), limit(Side.BUY, 201 - limit_at), mirror, is_late=is_late)
    assert (long is None) == (short is None)
    if long and short:
        assert (long[0], 201 - long[1]) == short


@given(prices, prices, prices, prices, st.sampled_from(list(Side)), st.sampled_from(["stop", "limit"]))
def test_no_fill_is_outside_the_bar_or_better_than_asked_for_a_stop(
    a: int, b: int, c: int, level: int, side: Side, kind: str
) -> None:
    """`open_`: the first price that the order meets, the bar's open or the price of its entry."""
    low, open_, high = sorted((a, b, c))
    order = stop(side, level) if kind == "stop" else limit(side, level)
    price = match_resting(order, BarRange(open_, high, low, open_))
    ticks = match_resting(
        Resting(side, order.type, *(None if v is None else Decimal(v) for v in (order.price, order.stop))),
        BarRange(Decimal(open_), Decimal(high), Decimal(low), Decimal(open_)),
    )
    assert (ticks is None) == (price is None)
    if price is not None:
        assert ticks == price  # ticks and Decimals give one answer
        assert low <= price <= high
        gained = (price - level) * (1 if side is Side.SELL else -1)
        assert gained >= 0 if kind == "limit" else gained <= 0
        assert kind == "limit" or (price - open_) * side.sign >= 0  # a stop brings no gain to an entry at that price


@pytest.mark.parametrize(
    ("stop_at", "limit_at", "close", "price", "rests"),
    [
        (95, 94, 102, 95, False),
        (105, 104, 102, None, True),  # the open is beyond its limit, and the close as well
        (105, 104, 104, 104, True),  # the close shows that the price came back
        (105, 104, 107, 104, True),
        (95, 97, 98, 97, True),  # its limit is better than its stop
        (95, 97, 96, None, True),
        (85, 80, 102, None, False),
    ],
)
def test_stop_limit_fills_at_its_trigger_or_rests_as_a_limit(
    stop_at: int, limit_at: int, close: int, price: int | None, rests: bool
) -> None:
    order, bar = Resting(Side.SELL, OrderType.STOP_LIMIT, price=limit_at, stop=stop_at), replace(BAR, close=close)
    assert (match_resting(order, bar), rests_as_limit(order, bar)) == (price, rests)


@pytest.mark.parametrize(("close", "outcome"), [(104, None), (105, (Leg.LIMIT, 105)), (108, (Leg.LIMIT, 105))])
def test_of_a_late_entrys_bar_the_close_alone_may_take_profit(close: int, outcome: object) -> None:
    bar = replace(after_entry(BAR, 95), close=close)
    assert match_oco(stop(Side.SELL, 89), limit(Side.SELL, 105), bar, is_late=True) == outcome
    assert match_take_profit(limit(Side.SELL, 105), bar, is_late=True) == (None if outcome is None else 105)
    assert match_oco(stop(Side.SELL, 92), limit(Side.SELL, 105), bar, is_late=True) == (Leg.STOP, 92)


def test_an_order_without_its_price_is_our_bug() -> None:
    with pytest.raises(BugError, match="needs a stop price"):
        match_resting(Resting(Side.SELL, OrderType.STOP), BAR)


def test_bars_become_the_decimals_they_stand_for() -> None:
    bar = Bar("x", "X", "1m", 0, 0.1, 0.3, 0.07, 0.2, 1.0)
    assert range_of(bar) == BarRange(*map(Decimal, ("0.1", "0.3", "0.07", "0.2")))


@pytest.mark.parametrize(
    ("fee_in", "side", "quantity", "price", "fee"),
    [
        ("received", Side.BUY, "0.12345", "60000.01", ("0.00012345", "BTC")),
        ("received", Side.SELL, "0.12345", "60000.01", ("7.40700123", "USDT")),  # 7.4070012345
        ("quote", Side.BUY, "0.12345", "60000.01", ("7.40700123", "USDT")),
        ("received", Side.BUY, "0.00005", "1", ("0.00000005", "BTC")),
        ("received", Side.BUY, "0.000015", "1", ("0.00000002", "BTC")),  # 1.5e-8: half goes to the even digit
        ("received", Side.BUY, "0.000025", "1", ("0.00000002", "BTC")),  # 2.5e-8
    ],
)
def test_fees(fee_in: str, side: Side, quantity: str, price: str, fee: tuple[str, str]) -> None:
    found = CostModel(Decimal("0.001"), fee_in).fee(side, Decimal(quantity), Decimal(price), BTC)
    assert (found.amount, found.currency) == (Decimal(fee[0]), fee[1])


# ── makers, takers and slippage ──────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("text", "side", "price"),
    [
        ("none", Side.BUY, "100.03"),
        ("2 ticks", Side.BUY, "100.05"),
        ("1 tick", Side.SELL, "100.02"),
        ("5 bps", Side.BUY, "100.09"),  # 0.050015, rounded up to 6 ticks
        ("5 bps", Side.SELL, "99.97"),
        ("0.1 range", Side.BUY, "100.25"),  # 0.22 of a range of 2.2
        ("0.001 range", Side.SELL, "100.02"),  # a fifth of a tick costs one
        ("10000 ticks", Side.SELL, "0.03"),
        ("10 range", Side.SELL, "78.03"),
    ],
)
def test_slippage_of_a_taker_is_a_number_of_ticks(text: str, side: Side, price: str) -> None:
    found = Slippage.parse(text).apply(side, Decimal("100.03"), Decimal("2.2"), Decimal("0.01"))
    assert found == Decimal(price)


@pytest.mark.parametrize(
    ("side", "limit", "price"),
    [
        (Side.BUY, "100.20", "100.20"),  # 100.53 is beyond the limit
        (Side.BUY, "101.00", "100.53"),
        (Side.BUY, "99.00", "100.03"),  # the rule's price is beyond it already
        (Side.SELL, "99.90", "99.90"),
        (Side.SELL, "99.00", "99.53"),
        (Side.SELL, "101.00", "100.03"),
    ],
)
def test_a_limit_order_is_never_slipped_beyond_its_limit(side: Side, limit: str, price: str) -> None:
    slippage = Slippage.parse("50 ticks")
    found = slippage.apply(side, Decimal("100.03"), Decimal(0), Decimal("0.01"), limit=Decimal(limit))
    assert found == Decimal(price)


def test_a_sell_is_never_slipped_below_one_tick() -> None:
    found = Slippage.parse("500 ticks").apply(Side.SELL, Decimal("1.00"), Decimal(0), Decimal("0.01"))
    assert found == Decimal("0.01")


@given(
    st.integers(1, 10**9), st.integers(0, 10**7), st.integers(1, 10**6), st.sampled_from(["bps", "range"]),
    st.sampled_from(list(Side)),
)  # fmt: skip
def test_slippage_is_the_least_number_of_ticks_that_covers_it(
    price: int, span: int, millionths: int, unit: str, side: Side
) -> None:
    tick, value = Decimal("0.05"), Decimal(millionths) / 10**6
    before = price * tick
    found = Slippage.parse(f"{value:f} {unit}").apply(side, before, span * tick, tick)
    wanted = before * value / 10_000 if unit == "bps" else span * tick * value
    moved = (found - before) * side.sign
    assert moved % tick == 0
    assert found == tick or wanted <= moved < wanted + tick


@pytest.mark.parametrize("text", ["much", "-1 ticks", "1.5 ticks", "5000.1 bps", "0.1234567 range", "5"])
def test_a_slippage_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not understood"):
        Slippage.parse(text)


def test_the_text_of_a_slippage_is_read_back() -> None:
    for text in ("none", "2 ticks", "2.5 bps", "0.1 range"):
        assert str(Slippage.parse(text)) == text


def test_makers_have_a_rate_of_their_own() -> None:
    costs = CostModel(Decimal("0.001"), "quote", Decimal("0.0002"))
    assert costs.fee(Side.SELL, Decimal(2), Decimal(50), BTC).amount == Decimal("0.1")
    assert costs.fee(Side.SELL, Decimal(2), Decimal(50), BTC, is_maker=True).amount == Decimal("0.02")
    assert CostModel(Decimal("0.001")).rate(is_maker=True) == Decimal("0.001")


@given(st.integers(1, 10**9), st.integers(1, 1000), st.integers(1, 10**7), st.sampled_from(list(Side)))
def test_collar_is_the_last_tick_within_the_guard_in_ticks_and_decimals(
    price: int, tick: int, millionths: int, side: Side
) -> None:
    """`millionths` of a percent; a price on the collar is accepted, one tick beyond it is not."""
    over, times = 100 * 10**6, millionths
    found = collar(price, times, over, side.sign, tick)
    percent = Decimal(millionths) / 10**6
    assert found == collar(Decimal(price), percent, Decimal(100), side.sign, Decimal(tick))
    worst = Decimal(price) * (1 + side.sign * percent / 100)
    instrument = replace(BTC, tick=Decimal(tick))
    assert found == instrument.round_price(worst, side=side.value)
    assert found % tick == 0
    assert is_accepted(Decimal(found), worst, side.sign)
    assert not is_accepted(Decimal(found + side.sign * tick), worst, side.sign)
    assert is_accepted(found, found, side.sign)
    assert not is_accepted(found + side.sign, found, side.sign)


@pytest.mark.parametrize(
    ("changes", "exits", "takes"),
    [
        ({}, (True, True), True),
        ({"has_oto": False}, (True, True), False),
        ({"has_oco": False}, (True, True), False),
        ({"has_oco": False}, (True, False), True),
        ({"has_oco": False}, (False, True), True),
        ({}, (False, False), False),
    ],
)
def test_entry_goes_out_with_its_exits_where_the_symbol_takes_them(
    changes: dict[str, bool], exits: tuple[bool, bool], takes: bool
) -> None:
    item = replace(BTC, **{"has_oto": True} | changes)
    stop, profit = exits
    assert item.takes_entry_list(side="buy", has_stop_loss=stop, has_take_profit=profit) is takes
    assert not item.takes_entry_list(side="sell", has_stop_loss=stop, has_take_profit=profit)
