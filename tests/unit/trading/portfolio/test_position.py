"""Positions from fills: equity is conserved whatever the fee's currency, and no instance sells another's position."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from fks.model.account import Position
from fks.model.instrument import assumed_instrument
from fks.model.order import Fill, Side
from fks.trading.portfolio.position import EXTERNAL, allocate, apply_fill, fee_in_quote, share_of
from tests.support.order_values import a_fill, an_instrument

D = Decimal
FLAT = Position(1, "ccxt", "BTCUSDT", "one", D(0), D(0), D(0), D(0))
INSTRUMENT = an_instrument()


def test_a_base_fee_makes_the_position_smaller() -> None:
    bought = apply_fill(FLAT, a_fill(quantity=D(1), fee=D("0.001"), fee_currency="BTC"), INSTRUMENT).position
    assert (bought.quantity, bought.average_price, bought.fees) == (D("0.999"), D(100), D("0.1"))
    sold = apply_fill(
        bought, a_fill(2, side=Side.SELL, quantity=D("0.999"), price=D(110), fee=D("0.10989")), INSTRUMENT
    )
    assert (sold.position.quantity, sold.realized) == (0, D("9.99"))
    assert sold.position.fees == D("0.20989")


def test_a_fee_in_a_third_asset_has_no_value_without_a_rate() -> None:
    fill = a_fill(quantity=D(1), fee=D("0.01"), fee_currency="BNB")
    assert fee_in_quote(fill, INSTRUMENT) is None
    assert apply_fill(FLAT, fill, INSTRUMENT).position.fees == 0  # its value is in trade_fees, once it has one
    assert fee_in_quote(replace(fill, fee=D(0)), INSTRUMENT) == 0
    assert fee_in_quote(replace(fill, fee_currency="USDT"), INSTRUMENT) == D("0.01")
    assert fee_in_quote(replace(fill, fee_currency="BTC"), INSTRUMENT) == 1


def test_without_metadata_a_fee_in_a_third_asset_is_not_taken_for_quote() -> None:
    fill = a_fill(quantity=D(1), fee=D("0.01"), fee_currency="BNB")
    assert fee_in_quote(fill, assumed_instrument("binance", "BTCUSDT", "BNB")) is None
    assert fee_in_quote(replace(fill, fee_currency="USDT"), assumed_instrument("binance", "BTCUSDT", "USDT")) == D(
        "0.01"
    )


def test_averages_move_only_when_more_is_opened() -> None:
    one = apply_fill(FLAT, a_fill(quantity=D(1), price=D(100)), INSTRUMENT).position
    two = apply_fill(one, a_fill(2, quantity=D(3), price=D(120)), INSTRUMENT).position
    assert two.average_price == D(115)
    less = apply_fill(two, a_fill(3, side=Side.SELL, quantity=D(2), price=D(130)), INSTRUMENT)
    assert (less.position.average_price, less.realized) == (D(115), D(30))


def test_a_fill_through_zero_closes_and_opens_at_its_own_price() -> None:
    long = apply_fill(FLAT, a_fill(quantity=D(2), price=D(100)), INSTRUMENT).position
    flipped = apply_fill(long, a_fill(2, side=Side.SELL, quantity=D(5), price=D(90)), INSTRUMENT)
    assert (flipped.position.quantity, flipped.position.average_price, flipped.realized) == (D(-3), D(90), D(-20))


FILLS = st.lists(
    st.tuples(
        st.sampled_from(Side),
        st.integers(1, 50),
        st.integers(50, 150),
        st.sampled_from(["BTC", "USDT"]),
        st.integers(0, 3),
    ),
    max_size=25,
)


@given(rows=FILLS)
def test_equity_is_cash_plus_what_is_held(rows: list[tuple[Side, int, int, str, int]]) -> None:
    position, cash, held, mark = FLAT, D(0), D(0), D(100)
    for number, (side, quantity, price, currency, fee) in enumerate(rows):
        paid = D(fee) / 1000 * (1 if currency == "BTC" else price)
        fill = a_fill(number, side=side, quantity=D(quantity), price=D(price), fee=paid, fee_currency=currency)
        position = apply_fill(position, fill, INSTRUMENT).position
        cash -= side.sign * fill.quantity * fill.price + (paid if currency == "USDT" else 0)
        held += side.sign * fill.quantity - (paid if currency == "BTC" else 0)
    assert position.quantity == held
    open_profit = position.quantity * (mark - position.average_price)
    equity = cash + held * mark
    assert abs(position.realized_pnl - position.fees + open_profit - equity) < D("0.0001")


def test_what_is_held_at_an_unknown_cost_makes_no_profit() -> None:
    unexplained = replace(FLAT, instance=EXTERNAL, quantity=D(6))
    sold = apply_fill(unexplained, a_fill(side=Side.SELL, quantity=D(2), price=D(226_000)), INSTRUMENT)
    more = apply_fill(sold.position, a_fill(2, quantity=D(1), price=D(226_000)), INSTRUMENT)
    assert (sold.realized, sold.position.quantity) == (0, 4)
    assert (more.realized, more.position.quantity, more.position.average_price) == (0, 5, 0)


def test_a_persons_sale_closes_persons_holding_then_external_then_the_others_by_name() -> None:
    sell = a_fill(side=Side.SELL, quantity=D(5))
    buckets = {"two": D(1), "one": D(1), EXTERNAL: D(2), "": D(2)}
    assert allocate(sell, buckets, "", is_flattening=True) == [("", 2), (EXTERNAL, 2), ("one", 1)]
    more = replace(sell, quantity=D(7))
    assert allocate(more, buckets, "", is_flattening=True) == [("", 2), ("one", 1), ("two", 1), (EXTERNAL, 3)]


def test_a_reducing_fill_closes_its_own_instance_and_the_rest_is_external() -> None:
    sell = a_fill(side=Side.SELL, quantity=D(5))
    buckets = {"one": D(3), "two": D(4)}
    assert allocate(sell, buckets, "one") == [("one", D(3)), (EXTERNAL, D(2))]
    assert allocate(sell, buckets, "one", is_flattening=True) == [("one", D(3)), ("two", D(2))]
    assert allocate(sell, {}, "one") == [(EXTERNAL, D(5))]


@given(quantities=st.lists(st.integers(1, 9), min_size=1, max_size=5), fee=st.integers(0, 10**6))
def test_shares_of_a_fill_add_up(quantities: list[int], fee: int) -> None:
    whole: Fill = replace(a_fill(), quantity=D(sum(quantities)), fee=D(fee) / 10**8)
    taken, fees = D(0), D(0)
    for quantity in quantities:
        fees += share_of(whole, D(quantity), taken).fee
        taken += D(quantity)
    assert (taken, fees) == (whole.quantity, whole.fee)
