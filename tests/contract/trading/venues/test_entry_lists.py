"""An entry with its exits as one request: both sessions of Binance spot against the real local exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from fks.model import ids
from fks.model.order import (
    PENDING,
    Answer,
    Fill,
    Order,
    OrderType,
    Outcome,
    Presence,
    Refusal,
    Report,
    Role,
    Side,
    State,
    TimeInForce,
)
from fks.model.ports import SessionBack
from fks.trading.venues.binance.venue import SpotVenue
from tests.support.local_exchange import LocalExchange
from tests.support.venue_orders import order
from tests.support.venue_sessions import Listener, Open
from tests.support.waiting import until

D = Decimal
Listen = Callable[[SpotVenue], Listener]
SHAPES = {(False, 1): "oto", (False, 2): "otoco", (True, 1): "opo", (True, 2): "opoco"}


async def listed(venue: SpotVenue, legs: int, **changes: Any) -> tuple[Order, list[Order]]:
    """Return a buy that fills at once or expires, and one exit or two, with the ids of one intent."""
    last = await venue.last_price("BTCUSDT")
    assert last is not None
    at = lambda factor: (last * D(factor)).quantize(D("0.01"))  # noqa: E731
    entry = replace(
        order("0.02", role=Role.ENTRY, type=OrderType.LIMIT, time_in_force=TimeInForce.FOK),
        price=at("1.01"),
    )
    entry = replace(entry, **changes)

    def leg(role: Role, **fields: Any) -> Order:
        name = ids.client_order_id(entry.intent_id, role.value)
        values = {"side": Side.SELL, "quantity": D("0.01998"), "price": None, "time_in_force": TimeInForce.GTC}
        return replace(entry, **values | {"role": role, "client_order_id": name, "code": PENDING} | fields)

    stop = leg(Role.STOP_LOSS, type=OrderType.STOP, stop_price=at("0.9"))
    limit = leg(Role.TAKE_PROFIT, type=OrderType.TAKE_PROFIT, price=at("1.1"))
    return entry, [stop, limit][:legs]


def states(answers: tuple[Answer, ...]) -> list[tuple[State, str | None]]:
    assert all(answer.report is not None for answer in answers), answers
    return [(answer.report.state, answer.report.code) for answer in answers if answer.report is not None]


@pytest.mark.parametrize("sells_received", [False, True])
@pytest.mark.parametrize("legs", [1, 2])
async def test_an_entry_that_fills_at_once_has_its_exits(
    open_venue: Open, exchange: LocalExchange, listen: Listen, legs: int, sells_received: bool
) -> None:
    venue = await open_venue()
    events = listen(venue)
    await until(lambda: events.of(SessionBack))
    entry, exits = await listed(venue, legs)
    answers = await venue.submit_entry(entry, exits, sells_received=sells_received)
    assert [(answer.outcome, answer.detail) for answer in answers] == [(Outcome.ACK, "")] * (1 + legs)
    assert states(answers) == [(State.FILLED, None)] + [(State.ACCEPTED, PENDING)] * legs
    assert sum(fill.quantity for fill in answers[0].fills) == entry.quantity
    (row,) = exchange.received(client_order_id=entry.client_order_id)
    assert row["path"] == f"/api/v3/orderList/{SHAPES[sells_received, legs]}"
    assert row["params"]["listClientOrderId"] == f"oto{entry.client_order_id}"
    assert ("pendingQuantity" in row["params"]) is not sells_received
    # the stream shows the exits waiting, then on the book: with what was received when they sell that
    size = D("0.02") if sells_received else D("0.01998")  # the free balance pays the commission
    for leg in exits:
        name = leg.client_order_id
        seen = lambda name=name: [r for r in events.of(Report) if r.client_order_id == name]  # noqa: E731
        await until(lambda seen=seen: len(seen()) == 2)
        resting = State.ACCEPTED if leg.type is OrderType.STOP else State.WORKING
        assert [(r.state, r.code) for r in seen()] == [(State.ACCEPTED, PENDING), (resting, None)]
        lookup = await venue.query("BTCUSDT", name)
        assert lookup.report is not None
        assert (lookup.report.state, lookup.report.code, lookup.report.quantity) == (resting, None, size)
    assert sum(f.quantity for f in events.of(Fill) if f.client_order_id == entry.client_order_id) == entry.quantity
    ended = await venue.cancel(exits[0])
    assert ended.report is not None
    assert ended.report.state is State.CANCELLED
    assert await venue.open_orders() == []


async def test_an_entry_beyond_its_price_expires_with_its_exits(open_venue: Open, listen: Listen) -> None:
    venue = await open_venue()
    events = listen(venue)
    await until(lambda: events.of(SessionBack))
    entry, exits = await listed(venue, 2)
    assert entry.price is not None
    entry = replace(entry, price=(entry.price * D("0.95")).quantize(D("0.01")))
    answers = await venue.submit_entry(entry, exits, sells_received=True)
    assert states(answers)[0] == (State.EXPIRED, "UNFILLED_FOK_ORDER_EXPIRED")
    names = [leg.client_order_id for leg in exits]
    ended = lambda: {r.client_order_id for r in events.of(Report) if r.state is State.EXPIRED}  # noqa: E731
    await until(lambda: set(names) <= ended())
    for name in names:
        report = (await venue.query("BTCUSDT", name)).report
        assert report is not None
        assert (report.state, report.code) == (State.EXPIRED, "OTO_PHASE_ONE_EXPIRED")
    assert await venue.open_orders() == []


async def test_a_resting_entry_waits_with_its_exits_and_ends_with_them(open_venue: Open) -> None:
    venue = await open_venue()
    entry, exits = await listed(venue, 2, time_in_force=TimeInForce.GTC)
    assert entry.price is not None
    entry = replace(entry, price=(entry.price * D("0.95")).quantize(D("0.01")))
    answers = await venue.submit_entry(entry, exits, sells_received=False)
    assert states(answers) == [(State.WORKING, None), (State.ACCEPTED, PENDING), (State.ACCEPTED, PENDING)]
    assert {(r.client_order_id, r.code) for r in await venue.open_orders()} == {
        (entry.client_order_id, None), *((leg.client_order_id, PENDING) for leg in exits)
    }  # fmt: skip
    cancelled = await venue.cancel(entry)
    assert cancelled.outcome is Outcome.ACK
    for name in (entry.client_order_id, *(leg.client_order_id for leg in exits)):
        report = (await venue.query("BTCUSDT", name)).report
        assert report is not None
        assert (report.state, report.code) == (State.CANCELLED, None)


#: filters of the symbol, changes of the entry, whether the exits sell what it receives, and what the refusal means
REFUSED: tuple[tuple[dict[str, Any], dict[str, Any], bool, Refusal], ...] = (
    ({"oto_allowed": False}, {}, False, Refusal.PERMISSION),
    ({"opo_allowed": False}, {}, True, Refusal.PERMISSION),
    ({"oco_allowed": False}, {}, True, Refusal.PERMISSION),
    ({"algo_orders_max": 0}, {}, False, Refusal.TOO_MANY_ORDERS),
    ({"orders_max": 2}, {}, True, Refusal.TOO_MANY_ORDERS),
    ({"status": "CANCEL_ONLY"}, {}, True, Refusal.HALTED),
    ({}, {"quantity": D(100)}, True, Refusal.INSUFFICIENT_BALANCE),
    ({}, {"quantity": D("0.000015")}, True, Refusal.QUANTITY),
)


async def test_a_refused_list_is_refused_for_each_order_and_leaves_none(
    open_venue: Open, exchange: LocalExchange
) -> None:
    venue = await open_venue()
    usual: dict[str, Any] = {"symbol": "BTCUSDT", "orders_max": 200, "algo_orders_max": 5, "status": "TRADING"}
    usual |= dict.fromkeys(("oco_allowed", "oto_allowed", "opo_allowed"), True)
    for filters, changes, sells_received, refusal in REFUSED:
        entry, exits = await listed(venue, 2, **changes)
        exchange.ask("POST", "/sim/filters", usual | filters)
        answers = await venue.submit_entry(entry, exits, sells_received=sells_received)
        exchange.ask("POST", "/sim/filters", usual)
        assert [(a.outcome, a.refusal) for a in answers] == [(Outcome.REFUSED, refusal)] * 3, (filters, answers)
    assert await venue.open_orders() == []
    entry, exits = await listed(venue, 2)
    wrong = await venue.submit_entry(replace(entry, type=OrderType.MARKET), exits, sells_received=True)
    assert {(a.outcome, a.code) for a in wrong} == {(Outcome.REFUSED, "CLIENT_VALIDATION")}
    assert exchange.received(client_order_id=entry.client_order_id) == []


@pytest.mark.parametrize("kind", ["accept_then_cut", "drop", "504_1007"])
async def test_a_list_without_a_clear_answer_is_ambiguous_for_each_order(
    open_venue: Open, exchange: LocalExchange, kind: str
) -> None:
    venue = await open_venue()
    entry, exits = await listed(venue, 2)
    exchange.fault(kind, path="/api/v3/orderList/opoco", method="POST", count=1)
    answers = await venue.submit_entry(entry, exits, sells_received=True)
    assert [answer.outcome for answer in answers] == [Outcome.AMBIGUOUS] * 3
    assert len(exchange.received(client_order_id=entry.client_order_id)) == 1
    names = [item.client_order_id for item in (entry, *exits)]
    found = [(await venue.query("BTCUSDT", name)).presence for name in names]
    assert len(set(found)) == 1, "all three exist, or none"
    if found[0] is Presence.FOUND:
        await venue.cancel(exits[0])
