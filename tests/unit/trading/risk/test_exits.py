"""The quantity that a close may move: a table of cases; its split at the market lot, and dust."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.account import Balance
from fks.model.instrument import Lot
from fks.model.order import Order, OrderType, Role, Side, State
from fks.trading.portfolio.position import EXTERNAL
from fks.trading.risk.exits import Books, closable, is_dust, left_at_venue, split_at_lot
from fks.trading.risk.view import without_replaced
from tests.support.order_values import an_instrument, an_order

D = Decimal


def a_sell(quantity: str, **changes: Any) -> Order:
    values = {"side": Side.SELL, "role": Role.EXIT, "state": State.WORKING, "quantity": D(quantity)}
    return an_order(**(values | changes))


def legs(quantity: str, instance: str = "one") -> tuple[Order, Order]:
    stop = a_sell(quantity, role=Role.STOP_LOSS, type=OrderType.STOP, group_id=instance, instance=instance)
    return stop, a_sell(quantity, role=Role.TAKE_PROFIT, type=OrderType.LIMIT, group_id=instance, instance=instance)


@pytest.mark.parametrize(
    ("old", "new", "left"), [("2", "2", "2"), ("2", "3", "3"), ("3", "2", "3"), ("2", None, "2"), (None, "2", "2")]
)
def test_of_a_stop_and_its_successor_the_larger_counts(old: str | None, new: str | None, left: str) -> None:
    """An exit of another instance is not cut while one request puts the one in the place of the other."""
    stops = [a_sell(q, client_order_id=id, role=Role.STOP_LOSS) for id, q in (("old", old), ("new", new)) if q]
    other = a_sell("1", client_order_id="other")
    counted = without_replaced([*stops, other], [("old", "new"), ("gone", "new")])
    assert sum(order.quantity for order in counted) == D(left) + 1


ONE, TWO, BOTH = {"one": "1"}, {"one": "1", "two": "2"}, legs("1")
EXIT_OF_TWO = a_sell("2", instance="two")
PERSONS = a_sell("0.3", role=Role.ORDER, instance="", type=OrderType.LIMIT)
EXIT: dict[str, Any] = {"ends_legs": True}
#: the holdings, the open orders, the instance that closes (None: a person) and the options -> the quantity
CLOSES: dict[str, tuple[dict[str, str], tuple[Order, ...], str | None, dict[str, Any], str]] = {
    "all that is held": (ONE, (), "one", EXIT, "1"),
    "nothing of nothing": ({}, (), "one", EXIT, "0"),
    "its own SL and TP come down first": (ONE, BOTH, "one", EXIT, "1"),
    "beside its SL and TP, which hold it all": (ONE, BOTH, "one", {}, "0"),
    "beside a leg that waits for its entry": (ONE, (replace(BOTH[0], state=State.INTENDED, is_reduce_only=True),), "one", {}, "1"),
    "beyond its own exit": (ONE, (a_sell("0.4"),), "one", EXIT, "0.6"),
    "beyond its own exit of unknown outcome": (ONE, (a_sell("0.4", state=State.UNKNOWN),), "one", EXIT, "0.6"),
    "beyond what its exit has left": (ONE, (a_sell("0.4", filled=D("0.3")),), "one", EXIT, "0.9"),
    "beside its order that has ended, though its executions are not booked": (
        ONE, (a_sell("0.4", state=State.FILLED, reported_cum_qty=D("0.4")),), "one", EXIT, "1"),
    "its own alone, not another's": (TWO, (), "one", EXIT, "1"),
    "its own beyond its exit, whatever another holds": (TWO, (a_sell("1"),), "one", {}, "0"),
    "its own beside another's SL and TP": (TWO, legs("2", "two"), "one", EXIT, "1"),
    "its own beside another's OCO that executed a part": (
        {"one": "1", "two": "0.6"}, (a_sell("1", instance="two", group_id="two"),
         a_sell("1", instance="two", group_id="two", filled=D("0.4"))), "one", EXIT, "1"),
    "its own beside another's exit": (TWO, (EXIT_OF_TWO,), "one", EXIT, "1"),
    "a buy of its own closes nothing": (ONE, (a_sell("0.4", side=Side.BUY),), "one", EXIT, "1"),
    "what the venue lacks": (ONE | {EXTERNAL: "-0.4"}, (), "one", EXIT, "0.6"),
    "nothing while the venue shows none of it": (ONE | {EXTERNAL: "-1"}, (), "one", EXIT, "0"),
    "external coins are not its to sell": (ONE | {EXTERNAL: "5"}, (), "one", EXIT, "1"),
    "what persons' orders sell of the account": (ONE, (PERSONS,), "one", EXIT, "0.7"),
    "external coins that a person sells": (ONE | {EXTERNAL: "1"}, (PERSONS,), "one", EXIT, "1"),
    "a person: all that is held, external coins too": (TWO | {EXTERNAL: "0.5"}, (), None, {}, "3.5"),
    "a person beside every open order": (TWO, (*BOTH, EXIT_OF_TWO), None, {}, "0"),
    "a person beside an OCO, counted once": (TWO, BOTH, None, {}, "2"),
    "no more than the venue has for it": (ONE, (), "one", EXIT | {"at_venue": D("0.3")}, "0.3"),
    "nothing when the venue has less than nothing for it": (ONE, (), "one", EXIT | {"at_venue": D(-1)}, "0"),
    "a short, by a buy": ({"one": "-1"}, (), "one", {"can_short": True}, "1"),
    "a short beyond its own buy": ({"one": "-1"}, (a_sell("0.4", side=Side.BUY),), "one", {"can_short": True}, "0.6"),
    "where shorts are possible, its own against another's": ({"one": "1", "two": "-1"}, (), "one", {"can_short": True}, "1"),
}  # fmt: skip


@pytest.mark.parametrize(("held", "orders", "instance", "how", "expected"), CLOSES.values(), ids=CLOSES)
def test_how_much_a_close_may_move(
    held: dict[str, str], orders: tuple[Order, ...], instance: str | None, how: dict[str, Any], expected: str
) -> None:
    books = Books({name: D(quantity) for name, quantity in held.items()}, orders)
    side = Side.BUY if books.held.get("one", D(0)) < 0 else Side.SELL
    assert closable(books, side, instance, **how) == D(expected)
    assert closable(books, side.opposite, instance, **how) == 0, "on the other side nothing is closed"


#: what is held, the open orders, the venue's total and locked amounts, what other symbols own -> what it has for `one`
AT_VENUE: dict[str, tuple[dict[str, str], tuple[Order, ...], str, str, str, str]] = {
    "what it has": (ONE, (), "0.6", "0", "0", "0.6"),
    "its own SL and TP lock nothing of it": (ONE, BOTH, "1", "1", "0", "1"),
    "its own exit does": (ONE, (a_sell("0.4"),), "1", "0.4", "0", "0.6"),
    "its own exit of unknown outcome too": (ONE, (a_sell("0.4", state=State.UNKNOWN),), "1", "0", "0", "0.6"),
    "what others own": (TWO, (), "3", "0", "0", "1"),
    "what others own first": (TWO, (), "2.5", "0", "0", "0.5"),
    "what others own, under their SL and TP": (TWO, legs("2", "two"), "2.5", "2", "0", "0.5"),
    "external coins": (ONE | {EXTERNAL: "2"}, (), "2.2", "0", "0", "0.2"),
    "what other symbols own of the base": (ONE, (), "3", "0", "2.5", "0.5"),
    "less than others own": (TWO, (), "1", "0", "0", "-1"),
    "external coins that a person sells are counted once": ({"one": "0.5", EXTERNAL: "1"}, (PERSONS,), "1.5", "0.3", "0", "0.5"),
    "a person's sell beyond external coins": ({"one": "0.5", EXTERNAL: "0"}, (PERSONS,), "0.5", "0.3", "0", "0.2"),
    "what orders unknown to us lock": (ONE, (), "1", "0.7", "0", "0.3"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("held", "orders", "total", "locked", "elsewhere", "expected"), AT_VENUE.values(), ids=AT_VENUE
)
def test_how_much_the_venue_has_for_an_exit(
    held: dict[str, str], orders: tuple[Order, ...], total: str, locked: str, elsewhere: str, expected: str
) -> None:
    books = Books({name: D(quantity) for name, quantity in held.items()}, orders)
    balance = Balance("BTC", D(total) - D(locked), D(locked))
    assert left_at_venue(books, "one", balance, D(elsewhere)) == D(expected)


def test_an_exit_is_split_at_the_market_lot() -> None:
    instrument = an_instrument(market_lot=Lot(D(0), D(40), D(0)))
    assert split_at_lot(D("40.000"), instrument) == (D(40),)
    assert split_at_lot(D("40.001"), instrument) == (D("20.001"), D("20.000"))
    assert split_at_lot(D("0.0009"), instrument) == ()
    assert split_at_lot(D(1000), an_instrument()) == (D(1000),)


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
