"""A stop replaced by one request (cancelReplace): both sessions of Binance spot against the real local exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from fks.model.order import Answer, Order, OrderType, Outcome, Presence, Refusal, Report, Role, Side, State
from fks.model.ports import SessionBack
from fks.trading.venues.binance.venue import SpotVenue
from tests.support.local_exchange import LocalExchange
from tests.support.venue_orders import order
from tests.support.venue_sessions import Listener, Open
from tests.support.waiting import until

D = Decimal
PLACE = "/api/v3/order/cancelReplace"
ACK, REFUSED, UNCLEAR = Outcome.ACK, Outcome.REFUSED, Outcome.AMBIGUOUS


async def stop_at(venue: SpotVenue, factor: str, **changes: Any) -> Order:
    """Return a stop that sells, at `factor` times the last price."""
    last = await venue.last_price("BTCUSDT")
    assert last is not None
    values = {"side": Side.SELL, "type": OrderType.STOP, "role": Role.STOP_LOSS, "is_reduce_only": True}
    return replace(order("0.02", **values), stop_price=(last * D(factor)).quantize(D("0.01")), **changes)


async def resting(venue: SpotVenue) -> Order:
    """Return a stop that rests, the only order of the account: the exchange takes five stops a symbol."""
    for report in await venue.open_orders():
        await venue.cancel(replace(order(), client_order_id=report.client_order_id))
    stop = await stop_at(venue, "0.9")
    assert (await venue.submit(stop)).outcome is ACK
    return stop


def outcomes(answers: tuple[Answer, Answer]) -> tuple[Outcome, Outcome]:
    return answers[0].outcome, answers[1].outcome


async def state_of(venue: SpotVenue, order: Order) -> State | None:
    lookup = await venue.query(order.symbol, order.client_order_id)
    assert lookup.presence is not Presence.NO_ANSWER
    return None if lookup.report is None else lookup.report.state


async def test_one_request_ends_a_stop_and_places_its_successor(
    open_venue: Open, exchange: LocalExchange, listen: Callable[[SpotVenue], Listener]
) -> None:
    venue = await open_venue()
    events = listen(venue)
    await until(lambda: events.of(SessionBack))
    old, new = await resting(venue), await stop_at(venue, "0.95", quantity=D("0.03"))
    ended, placed = await venue.replace(old, new)
    assert (ended.outcome, placed.outcome, placed.detail) == (ACK, ACK, "")
    assert ended.report is not None
    assert placed.report is not None
    assert (ended.report.client_order_id, ended.report.state) == (old.client_order_id, State.CANCELLED)
    assert (placed.report.client_order_id, placed.report.state) == (new.client_order_id, State.ACCEPTED)
    assert (placed.report.stop_price, placed.report.quantity) == (new.stop_price, D("0.03"))
    (seen,) = exchange.received(client_order_id=new.client_order_id)
    wanted = {
        "cancelReplaceMode": "STOP_ON_FAILURE",
        "cancelOrigClientOrderId": old.client_order_id,
        "type": "STOP_LOSS",
    }
    assert {name: seen["params"].get(name) for name in wanted} == wanted
    assert (await state_of(venue, old), await state_of(venue, new)) == (State.CANCELLED, State.ACCEPTED)
    found = lambda: {(r.client_order_id, r.state) for r in events.of(Report)}  # noqa: E731
    await until(lambda: {(old.client_order_id, State.CANCELLED), (new.client_order_id, State.ACCEPTED)} <= found())
    await venue.cancel(new)


async def test_a_successor_that_fails_leaves_the_end_of_the_old_one_proven(open_venue: Open) -> None:
    """−2021: the cancel succeeded, the new stop lies beyond the market."""
    venue = await open_venue()
    old, new = await resting(venue), await stop_at(venue, "1.2")
    ended, placed = await venue.replace(old, new)
    assert (ended.outcome, placed.outcome, placed.refusal) == (ACK, REFUSED, Refusal.WOULD_TRIGGER)
    assert placed.code == "-2010"
    assert (await state_of(venue, old), await state_of(venue, new)) == (State.CANCELLED, None)


async def test_a_stop_that_is_gone_lets_nothing_be_placed(open_venue: Open) -> None:
    """−2022: the cancel failed and the new order was not tried."""
    venue = await open_venue()
    old, new = await resting(venue), await stop_at(venue, "0.95")
    await venue.cancel(old)
    ended, placed = await venue.replace(old, new)
    assert (ended.outcome, ended.code, ended.refusal) == (REFUSED, "UNKNOWN_ORDER", Refusal.UNKNOWN_ORDER)
    assert (placed.outcome, placed.code, placed.refusal) == (REFUSED, "NOT_ATTEMPTED", Refusal.UNKNOWN_ORDER)
    assert placed.sent_ns is not None
    assert await state_of(venue, new) is None


@pytest.mark.parametrize(
    ("fault", "outcome", "refusal"),
    [
        ({"kind": "accept_then_cut"}, UNCLEAR, None),
        ({"kind": "504_1007", "accept": True}, UNCLEAR, None),
        ({"kind": "truncate"}, UNCLEAR, None),
        ({"kind": "drop"}, UNCLEAR, None),
        ({"kind": "429", "seconds": 1}, REFUSED, Refusal.RATE_LIMITED),
        ({"kind": "error", "code": -1013, "msg": "Filter failure: LOT_SIZE", "status": 400}, REFUSED, Refusal.QUANTITY),
        ({"kind": "error", "code": -2021, "msg": "Order cancel-replace partially failed.", "status": 409}, UNCLEAR, None),
    ],
    ids=lambda value: str(value.get("kind")) + str(value.get("code", "")) if isinstance(value, dict) else None,
)  # fmt: skip
async def test_an_answer_without_both_outcomes_is_about_both(
    open_venue: Open, exchange: LocalExchange, fault: dict[str, Any], outcome: Outcome, refusal: Refusal | None
) -> None:
    venue = await open_venue()
    old, new = await resting(venue), await stop_at(venue, "0.95")
    exchange.fault(path=PLACE, method="POST", **fault)
    answers = await venue.replace(old, new)
    assert outcomes(answers) == (outcome, outcome)
    assert {answer.refusal for answer in answers} == {refusal}
    exchange.clear()
    sends = [row for row in exchange.received(client_order_id=new.client_order_id) if row["method"] == "POST"]
    assert len(sends) <= 1
    if outcome is REFUSED:
        open_now = {row["clientOrderId"] for row in exchange.account()["orders"]}
        assert (old.client_order_id in open_now, new.client_order_id in open_now) == (True, False)


async def test_nothing_is_replaced_without_the_lease(open_venue: Open, exchange: LocalExchange) -> None:
    may_send = [True]
    venue = await open_venue(may_send=lambda: may_send[0])
    old, new = await resting(venue), await stop_at(venue, "0.95")
    may_send[0] = False
    answers = await venue.replace(old, new)
    assert {(answer.outcome, answer.code, answer.refusal) for answer in answers} == {
        (REFUSED, "NOT_LEADER", Refusal.NOT_SENT)
    }
    assert exchange.received(client_order_id=new.client_order_id) == []
    may_send[0] = True
    assert (await venue.cancel(old)).outcome is ACK
