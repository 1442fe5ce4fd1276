"""Our own session of Binance spot: one connection for orders, REST before the first byte alone, never both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal

import pytest

from fks.model.order import Fill, OrderType, Outcome, Presence, Refusal
from fks.model.ports import SessionBack, SessionLost
from fks.trading.venues.binance.venue import SpotVenue
from tests.support.free_port import free_port
from tests.support.local_exchange import LocalExchange
from tests.support.venue_orders import order
from tests.support.venue_sessions import Listener, Open
from tests.support.waiting import until

Listen = Callable[[SpotVenue], Listener]


@pytest.fixture
def session() -> str:
    return "binance"


async def test_orders_go_over_the_connection(open_venue: Open, exchange: LocalExchange) -> None:
    venue = await open_venue()
    last = await venue.last_price("BTCUSDT")
    assert last is not None
    wanted = order(type=OrderType.LIMIT, price=str((last * Decimal("0.9")).quantize(Decimal("0.01"))))
    for step in (venue.submit, venue.cancel):
        assert (await step(wanted)).outcome is Outcome.ACK
    assert [row.get("socket_method") for row in exchange.received(client_order_id=wanted.client_order_id)] == [
        "order.place",
        "order.cancel",
    ]


async def test_without_the_connection_orders_go_over_rest(open_venue: Open, exchange: LocalExchange) -> None:
    venue = await open_venue(ws_api_url=f"ws://127.0.0.1:{free_port()}/ws-api/v3")
    wanted = order()
    answer = await venue.submit(wanted)
    assert answer.outcome is Outcome.ACK, answer
    assert answer.fills
    (row,) = exchange.received(client_order_id=wanted.client_order_id)
    assert "socket_method" not in row


@pytest.mark.parametrize("kind", ["accept_then_cut", "drop", "truncate", "hang"])
async def test_an_order_that_may_have_left_is_never_sent_on_the_other_way(
    open_venue: Open, exchange: LocalExchange, kind: str
) -> None:
    venue = await open_venue(order_timeout_s=1.5 if kind == "hang" else 20.0, backoff_first_s=0.05)
    exchange.fault(kind, path="/api/v3/order", method="POST", seconds=4)
    wanted = order()
    answer = await venue.submit(wanted)
    assert answer.outcome is Outcome.AMBIGUOUS
    exchange.clear()

    async def goes_again() -> bool:
        return (await venue.query("BTCUSDT", wanted.client_order_id)).presence is not Presence.NO_ANSWER

    await until(goes_again)
    rows = exchange.received(client_order_id=wanted.client_order_id, method="POST")
    assert [row.get("socket_method") for row in rows] == ["order.place"]


async def test_many_orders_are_under_way_at_once(open_venue: Open, exchange: LocalExchange, listen: Listen) -> None:
    venue = await open_venue(order_timeout_s=10.0)
    events = listen(venue)
    await until(lambda: events.of(SessionBack))
    slow, *others = (order("0.001") for _ in range(20))
    exchange.fault("answer_after", client_order_id=slow.client_order_id, seconds=3.0)
    waiting = asyncio.create_task(venue.submit(slow))
    answers = await asyncio.gather(*(venue.submit(one) for one in others))
    assert {answer.outcome for answer in answers} == {Outcome.ACK}
    assert not waiting.done()
    assert (await waiting).outcome is Outcome.ACK
    ids = {one.client_order_id for one in (slow, *others)}
    await until(lambda: ids <= {fill.client_order_id for fill in events.of(Fill)})
    assert not events.of(SessionLost)


async def test_a_lost_lease_is_noticed_before_the_first_byte(open_venue: Open, exchange: LocalExchange) -> None:
    holds = [True]
    venue = await open_venue(may_send=lambda: holds[-1])
    assert (await venue.submit(order())).outcome is Outcome.ACK
    holds.append(False)
    wanted = order()
    answer = await venue.submit(wanted)
    assert (answer.outcome, answer.code, answer.refusal) == (Outcome.REFUSED, "NOT_LEADER", Refusal.NOT_SENT)
    assert not exchange.received(client_order_id=wanted.client_order_id)
