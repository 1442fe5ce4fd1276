"""A person's figures give way to the venue's executions, each share once."""

from __future__ import annotations

import uuid
from dataclasses import replace
from decimal import Decimal

from fks.model import ids
from fks.model.order import Fill, Side, State
from fks.store.orders import ExecutionRow
from fks.trading.order_manager.person_fills import PERSON, PersonFills, reversal
from fks.trading.orders import events as e
from fks.trading.orders.machine import advance
from tests.support.order_values import an_order

D = Decimal
ORDER = an_order(quantity=D(10), state=State.UNKNOWN)
MINE = Fill(
    fill_id=ids.person_fill_id(ORDER.client_order_id, "10"),
    client_order_id=ORDER.client_order_id,
    venue_order_id=None,
    venue_trade_id="",
    account_id=1,
    venue="ccxt",
    symbol="BTCUSDT",
    side=Side.BUY,
    quantity=D(10),
    price=D(101),
    fee=D("0.01"),
    fee_currency="BTC",
    time_ns=1,
    source=PERSON,
)


def theirs(number: str, quantity: str) -> Fill:
    return replace(MINE, fill_id=uuid.uuid4(), venue_trade_id=number, quantity=D(quantity), price=D(100), source="rest")


def test_each_execution_takes_its_own_quantity_back_and_the_fee_with_it() -> None:
    reported = PersonFills()
    reported.load([ExecutionRow(MINE, "one", D(0))])
    taken, fees, numbers = D(0), D(0), set[str]()
    for fill in (theirs("1", "4"), theirs("2", "3"), theirs("3", "5")):
        for bust in reported.replaced_by(fill, []):
            entry = reversal(bust, ORDER)
            assert (entry.side, entry.price, bust.instance) == (Side.SELL, D(101), "one")
            taken, fees = taken + entry.quantity, fees + entry.fee
            numbers.add(entry.venue_trade_id)
            reported.note(ExecutionRow(entry, "one", D(0)))
    assert (taken, fees, len(numbers)) == (D(10), D("-0.01"), 3)
    assert reported.replaced_by(theirs("4", "1"), []) == []


def test_executions_of_one_batch_do_not_take_the_same_share_back() -> None:
    reported = PersonFills()
    reported.load([ExecutionRow(MINE, "one", D(0))])
    (first,) = reported.replaced_by(theirs("1", "6"), [])
    (second,) = reported.replaced_by(theirs("2", "6"), [ExecutionRow(reversal(first, ORDER), "one", D(0))])
    assert (first.quantity, second.quantity) == (D(6), D(4))


def test_a_replacement_leaves_a_settled_order_as_the_person_set_it() -> None:
    stamp = {"event_id": "s", "recv_ns": 1}
    order = advance(ORDER, e.Settled(**stamp, outcome=State.CANCELLED, by="ann", reason="r", filled=D(4))).order
    order = advance(order, e.FillSeen(event_id="f", fill=replace(MINE, quantity=D(4)))).order
    assert (order.state, order.filled, order.is_late) == (State.CANCELLED, D(4), False)
    bust = e.Busted(event_id="b", fill_id=MINE.fill_id, quantity=D(4), price=D(101), is_replaced=True)
    step = advance(order, bust)
    assert (step.number, step.order.state, step.order.filled) == (39, State.CANCELLED, D(0))
    real = advance(step.order, e.FillSeen(event_id="r", fill=theirs("1", "4")))
    assert (real.order.state, real.order.filled, real.order.average_price, real.order.is_late) == (
        State.CANCELLED,
        D(4),
        D(100),
        False,
    )
