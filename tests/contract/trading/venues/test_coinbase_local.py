"""The session and the order manager at a local exchange process on Coinbase's wire: what only Coinbase has. Its other
cases are those of every traded dialect (test_dialect_trading)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.model.errors import OutageError
from fks.model.order import OrderType, Outcome, Presence, Refusal, State
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.venues.ccxt.dialect_venue import DialectVenue
from tests.support.dialect_rig import COINBASE, DialectRig, exchange_of, session_at
from tests.support.local_exchange import LocalExchange
from tests.support.venue_orders import order as any_order
from tests.support.waiting import until

D = Decimal
ORDERS, LISTED = COINBASE.add, COINBASE.listed
FILLS = f"{ORDERS}/historical/fills"


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[LocalExchange]:
    made = exchange_of(COINBASE, tmp_path)
    yield made
    made.stop()


@pytest.fixture
async def rig(database: Database, bus: Bus, exchange: LocalExchange) -> AsyncIterator[DialectRig]:
    async with DialectRig.at(COINBASE, exchange, database, bus) as made:
        yield made


@pytest.fixture
async def venue(exchange: LocalExchange) -> AsyncIterator[DialectVenue]:
    made = session_at(COINBASE, exchange)
    await made.open()
    yield made
    await made.close()


def limit(price: str = "30000", **fields: Any) -> Any:
    return any_order("0.01", exchange="coinbase", symbol="BTC-USDT", type=OrderType.LIMIT, price=price, **fields)


# ── the session ──────────────────────────────────────────────────────────────────────────────────
async def test_the_account_is_read_page_by_page(exchange: LocalExchange, venue: DialectVenue) -> None:
    orders = [limit() for _ in range(45)]
    answers = await asyncio.gather(*(venue.submit(order) for order in orders))
    assert {answer.outcome for answer in answers} == {Outcome.ACK}, answers[0]
    assert {report.client_order_id for report in await venue.open_orders()} == {o.client_order_id for o in orders}
    bought = [any_order("0.001", exchange="coinbase", symbol="BTC-USDT") for _ in range(25)]
    await asyncio.gather(*(venue.submit(order) for order in bought))
    fills = await venue.fills_since("BTC-USDT", 0)
    assert {fill.client_order_id for fill in fills} == {order.client_order_id for order in bought}
    assert sum(fill.quantity for fill in fills) == D("0.025")
    assert len({fill.fill_id for fill in fills}) == len(fills)
    balances = await venue.balances()
    assert balances["BTC"].total == D("0.025")
    assert balances["USDT"].locked == D("45") * D("300.3")
    assert await venue.last_price("BTC-USDT") is not None
    assert await venue.last_price("ODD-USDT") is None
    assert abs(await venue.skew_ms()) < 1000
    rights = await venue.read_rights()
    assert (rights.may_withdraw, rights.is_address_bound) == (False, None)
    assert (await venue.identity()).environment.value == "sim"


async def test_absence_is_proven_to_the_last_page(exchange: LocalExchange, venue: DialectVenue) -> None:
    """Also in a session that did not send the order: then the whole list is read, or what is as new as the order."""
    lost, taken, sent_ns = limit(), limit(), time.time_ns()
    exchange.fault("drop", path=ORDERS)
    assert (await venue.submit(lost)).outcome is Outcome.AMBIGUOUS
    exchange.fault("accept_then_cut", path=ORDERS)
    assert (await venue.submit(taken)).outcome is Outcome.AMBIGUOUS
    for _ in range(30):  # newer ones: what is asked for is on the second page
        await venue.submit(limit())
    other = session_at(COINBASE, exchange)
    await other.open()
    try:
        for asking, since_ns, is_whole in ((venue, 0, False), (other, 0, True), (other, sent_ns, False)):
            known = len(exchange.received(path=LISTED, limit=1000))
            found = await asking.query("BTC-USDT", taken.client_order_id, since_ns)
            assert (found.presence, found.report is not None) == (Presence.FOUND, True)
            assert (await asking.query("BTC-USDT", lost.client_order_id, since_ns)).presence is Presence.NOT_FOUND
            for path, faults in ((LISTED, 2), (FILLS, 2)):
                exchange.fault("drop", path=path, count=faults)
                assert (await asking.query("BTC-USDT", lost.client_order_id, since_ns)).presence is Presence.NO_ANSWER
                exchange.clear()
            rows = exchange.received(path=LISTED, limit=1000)[known:]
            asked = [row["params"] for row in rows if "product_ids" in row["params"]]
            assert {"start_date" not in params for params in asked} == {is_whole}
            assert any("cursor" in params for params in asked)
    finally:
        await other.close()


async def test_an_execution_of_an_order_that_is_not_shown_proves_nothing(
    exchange: LocalExchange, venue: DialectVenue
) -> None:
    """The exchange's lists lag: an order may have executed before they show it."""
    bought = any_order("0.01", exchange="coinbase", symbol="BTC-USDT")
    exchange.fault("accept_then_cut", path=ORDERS)
    assert (await venue.submit(bought)).outcome is Outcome.AMBIGUOUS
    hidden = exchange.fault("hide_order", client_order_id=bought.client_order_id, count=100)
    assert (await venue.query("BTC-USDT", bought.client_order_id)).presence is Presence.NO_ANSWER
    exchange.clear(hidden)
    exchange.fault("hide_order", client_order_id=bought.client_order_id, count=1)
    found = await venue.query("BTC-USDT", bought.client_order_id)
    assert found.report is not None, "the list lacks it, the read by the id of its execution does not"
    assert found.report.state is State.FILLED


async def test_a_cancel_names_the_exchanges_id(exchange: LocalExchange, venue: DialectVenue) -> None:
    order = limit()
    await venue.submit(order)
    answer = await venue.cancel(order)  # its id is looked up
    assert answer.outcome is Outcome.ACK
    assert answer.report is not None
    assert answer.report.state is State.CANCELLED
    again = await venue.cancel(order)
    assert (again.outcome, again.refusal) == (Outcome.REFUSED, Refusal.UNKNOWN_ORDER)
    never = await venue.cancel(limit())
    assert (never.outcome, never.refusal, never.sent_ns) == (Outcome.REFUSED, Refusal.UNKNOWN_ORDER, None)
    unread = limit()
    await venue.submit(unread)
    exchange.fault("drop", path=LISTED, count=5)
    found = await venue.cancel(unread)
    assert (found.outcome, found.refusal, found.sent_ns) == (Outcome.REFUSED, Refusal.UNAVAILABLE, None)
    assert len(exchange.received(path=f"{ORDERS}/batch_cancel")) == 2


async def test_another_key_signs_the_requests_after_it(exchange: LocalExchange, venue: DialectVenue) -> None:
    """Also a secret of one line, as it is in the exchange's file."""
    made = exchange.ask("POST", "/sim/keys", {"may_withdraw": True})
    venue.use_key(made["api_key"], made["api_secret"].replace("\n", "\\n"))
    assert (await venue.read_rights()).may_withdraw is True
    venue.use_key(made["api_key"], exchange.info["api_secret"])
    with pytest.raises(OutageError, match="unauthorized"):
        await venue.read_rights()


async def test_a_client_id_that_exists_is_asked_about(rig: DialectRig) -> None:
    """DUPLICATE_CLIENT_ORDER_ID is evidence of the order, and no refusal."""
    await rig.start()
    rig.exchange.fault("error", path=ORDERS, msg="DUPLICATE_CLIENT_ORDER_ID")
    entry = await rig.ordered()
    await rig.becomes(entry.client_order_id, State.ABSENT)  # here the exchange was wrong
    assert rig.sent() == {entry.client_order_id: 1}


async def test_a_refused_order_is_over(rig: DialectRig) -> None:
    await rig.start()
    rig.exchange.fault("error", path=ORDERS, msg="INSUFFICIENT_FUND")
    entry = await rig.ordered()
    await rig.becomes(entry.client_order_id, State.REJECTED)
    assert rig.sent() == {entry.client_order_id: 1}


async def test_a_resting_entry_is_cancelled_by_an_exit_of_its_time(rig: DialectRig) -> None:
    await rig.start()
    until_ns = rig.clock.now_ns() + 3 * 10**9
    entry = await rig.ordered(type=OrderType.LIMIT, limit_price=rig.price("0.96"), rests_until_ns=until_ns)
    await rig.becomes(entry.client_order_id, State.WORKING)
    await until(rig.is_quiet)
    assert rig.exchange.account()["open_orders"] == []
    assert rig.sent() == {entry.client_order_id: 1}
