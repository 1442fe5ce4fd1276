"""Exit quantities: capped to the instance's own holding, split at the market lot, and dust."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fks.model.account import Balance
from fks.model.instrument import Lot
from fks.model.order import Order, OrderType, Role, Side, State
from fks.portfolio.position import EXTERNAL
from fks.risk.exits import exit_quantity_allowed, is_dust, split_at_lot
from tests.support.order_values import an_instrument, an_order

D = Decimal


def allowed(
    buckets: dict[str, Any], *orders: Order, total: str | None = None, locked: str = "0", **more: Any
) -> Decimal:
    balance = None if total is None else Balance("BTC", D(total) - D(locked), D(locked))
    return exit_quantity_allowed(
        "one",
        buckets={name: D(value) for name, value in buckets.items()},
        orders=orders,
        instrument=more.pop("instrument", an_instrument()),
        balance=balance,
        **more,
    )


def a_sell(quantity: str, **changes: Any) -> Order:
    values = {"side": Side.SELL, "role": Role.EXIT, "state": State.WORKING, "quantity": D(quantity)}
    return an_order(**(values | changes))


def legs(quantity: str, instance: str = "one") -> tuple[Order, Order]:
    stop = a_sell(quantity, role=Role.STOP_LOSS, type=OrderType.STOP, group_id=instance, instance=instance)
    return stop, a_sell(quantity, role=Role.TAKE_PROFIT, type=OrderType.LIMIT, group_id=instance, instance=instance)


def test_an_exit_closes_what_is_held_on_the_lot_grid() -> None:
    assert allowed({"one": "1.0009"}) == D("1.000")
    assert allowed({"one": "-1.0009"}, can_short=True) == D("1.000")
    assert allowed({}) == 0
    assert allowed({"one": 2}, limit=D("0.5")) == D("0.5")


def test_own_stop_and_target_do_not_reduce_an_exit() -> None:
    assert allowed({"one": 1}, *legs("1"), total="1", locked="1") == 1


def test_own_closing_orders_reduce_an_exit() -> None:
    assert allowed({"one": 1}, a_sell("0.4"), total="1", locked="0.4") == D("0.6")
    assert allowed({"one": 1}, a_sell("0.4", state=State.UNKNOWN), total="1") == D("0.6")
    assert allowed({"one": 1}, a_sell("0.4")) == D("0.6"), "where the balance is not known either"
    buying = a_sell("0.4", side=Side.BUY)
    assert allowed({"one": "-1"}, buying, can_short=True) == D("0.6")


def test_coins_withdrawn_outside_cap_an_exit() -> None:
    assert allowed({"one": 1, EXTERNAL: "-0.4"}, total="0.6") == D("0.6")


def test_an_exit_never_sells_what_others_own() -> None:
    assert allowed({"one": 1, "two": 2}, total="3") == 1
    assert allowed({"one": 1, "two": 2}, total="2.5") == D("0.5")
    assert allowed({"one": 1, "two": 2}, *legs("2", "two"), total="2.5", locked="2") == D("0.5")
    assert allowed({"one": 1, EXTERNAL: 2}, total="2.2") == D("0.2")
    assert allowed({"one": 1}, total="3", owned_elsewhere=D("2.5")) == D("0.5")
    assert allowed({"one": 1, "two": 2}, total="1") == 0


def test_a_persons_sell_of_external_coins_is_counted_once() -> None:
    sell = a_sell("0.3", role=Role.ORDER, instance="")
    assert allowed({"one": "0.5", EXTERNAL: 1}, sell, total="1.5", locked="0.3") == D("0.5")
    assert allowed({"one": "0.5", EXTERNAL: 0}, sell, total="0.5", locked="0.3") == D("0.2")


def test_coins_that_an_order_unknown_to_us_locks_are_not_sold() -> None:
    assert allowed({"one": 1}, total="1", locked="0.7") == D("0.3")


def test_an_exit_is_split_at_the_market_lot() -> None:
    instrument = an_instrument(market_lot=Lot(D(0), D(40), D(0)))
    assert split_at_lot(D("40.000"), instrument) == (D(40),)
    assert split_at_lot(D("40.001"), instrument) == (D("20.001"), D("20.000"))
    assert split_at_lot(D("0.0009"), instrument) == ()
    assert split_at_lot(D(1000), an_instrument()) == (D(1000),)


@settings(max_examples=100)
@given(quantity=st.decimals(D("0.001"), D(5000), places=3), most=st.decimals(D(1), D(50), places=4))
def test_the_parts_of_an_exit_add_up_and_fit_the_lot(quantity: Decimal, most: Decimal) -> None:
    parts = split_at_lot(quantity, an_instrument(market_lot=Lot(D(0), most, D(0))))
    assert sum(parts) == quantity
    assert all(part <= most and part % D("0.001") == 0 for part in parts)
    assert max(parts) - min(parts) <= D("0.001")


@pytest.mark.parametrize(
    ("quantity", "price", "changes", "expected"),
    [
        ("0.0009", "100000", {}, True),
        ("0.001", "5000", {}, False),
        ("-0.001", "4999", {}, True),
        ("0.001", None, {}, False),
        ("0.001", "4999", {"is_notional_min_for_market": False}, False),
        ("0.09", "5000", {"market_lot": Lot(D("0.1"), D(40), D(0))}, True),
        ("0.19", "40", {"market_lot": Lot(D(0), D(40), D("0.1"))}, True),
    ],
)
def test_what_no_order_can_close_is_dust(
    quantity: str, price: str | None, changes: dict[str, Any], expected: bool
) -> None:
    assert is_dust(D(quantity), None if price is None else D(price), an_instrument(**changes)) is expected
