"""Both sessions of Binance spot against the real local exchange: order types, OCO, fills under one id, sessions that
break and recover."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from fks.clock import RealClock
from fks.model import ids
from fks.model.errors import OutageError
from fks.model.order import Fill, OrderType, Outcome, Presence, Report, Role, Side, State
from fks.model.ports import BalancesSeen, SessionBack, SessionLost
from fks.trading.venues.binance import venue as venue_module
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.venue import SpotVenue
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog
from tests.support.venue_orders import order
from tests.support.venue_sessions import SESSIONS, Listener, Open
from tests.support.waiting import until

Listen = Callable[[SpotVenue], Listener]


async def price_at(venue: SpotVenue, factor: str) -> str:
    """Return a price on the tick grid, `factor` times the last."""
    last = await venue.last_price("BTCUSDT")
    assert last is not None
    return str((last * Decimal(factor)).quantize(Decimal("0.01")))


async def test_the_bytes_of_a_market_order(open_venue: Open, exchange: LocalExchange) -> None:
    venue = await open_venue()
    wanted = order("0.0100")
    answer = await venue.submit(wanted)
    assert answer.outcome is Outcome.ACK
    assert answer.detail == ""
    (seen,) = exchange.received(client_order_id=wanted.client_order_id)
    sent = {key: value for key, value in seen["params"].items() if key not in ("timestamp", "signature")}
    assert sent == {
        "symbol": "BTCUSDT",
        "side": "BUY",
        "type": "MARKET",
        "quantity": "0.01",
        "recvWindow": "10000",
        "newClientOrderId": wanted.client_order_id,
        "newOrderRespType": "FULL",
    }


async def test_opening_requests_only_the_time(exchange: LocalExchange, open_venue: Open) -> None:
    before = len(exchange.received(all=1))
    await open_venue(is_admitted=False)
    rows = exchange.received(all=1)[before:]
    assert [row["path"] for row in rows if not row["path"].startswith("/sim")] == ["/api/v3/time"]


async def test_a_fill_has_one_id_wherever_it_is_seen(open_venue: Open, listen: Listen) -> None:
    venue = await open_venue()
    events = listen(venue)
    await until(lambda: events.of(SessionBack))
    wanted = order("0.37")
    answer = await venue.submit(wanted)
    assert answer.report is not None
    total = sum(fill.quantity for fill in answer.fills)
    assert total == answer.report.filled == wanted.quantity
    mine = lambda: [f for f in events.of(Fill) if f.client_order_id == wanted.client_order_id]  # noqa: E731
    await until(lambda: sum(f.quantity for f in mine()) == total)
    history = [f for f in await venue.fills_since("BTCUSDT", 0) if f.client_order_id == wanted.client_order_id]
    assert {f.fill_id for f in answer.fills} == {f.fill_id for f in mine()} == {f.fill_id for f in history}
    assert {f.fee for f in answer.fills} == {f.fee for f in mine()} == {f.fee for f in history}
    first = answer.fills[0]
    who = await venue.identity()
    assert first.fill_id == ids.fill_id_v2(who.uid, "sim", who.network_epoch, "BTCUSDT", first.venue_trade_id)
    assert first.fee_currency == "BTC"
    assert isinstance(first.fee, Decimal)
    await until(lambda: events.of(BalancesSeen))


async def test_second_session_finds_client_ids_of_earlier_fills(
    open_venue: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    venue = await open_venue()
    wanted = [order("0.01") for _ in range(5)]
    for item in wanted:
        assert (await venue.submit(item)).outcome is Outcome.ACK
    monkeypatch.setattr(venue_module, "PAGE", 2)
    other = await open_venue()
    found = await other.fills_since("BTCUSDT", 0)
    assert {item.client_order_id for item in wanted} <= {fill.client_order_id for fill in found}
    assert len({fill.fill_id for fill in found}) == len(found)


async def test_resting_orders_are_cancelled_by_our_id(open_venue: Open) -> None:
    venue = await open_venue()
    low, high = await price_at(venue, "0.9"), await price_at(venue, "1.1")
    limit = order(type=OrderType.LIMIT, price=low)
    stop = order(side=Side.SELL, type=OrderType.STOP, stop_price=low)
    both = order(side=Side.BUY, type=OrderType.STOP_LIMIT, stop_price=high, price=high)
    states = {}
    for item in (limit, stop, both):
        answer = await venue.submit(item)
        assert answer.outcome is Outcome.ACK, answer
        assert answer.detail == ""
        assert answer.report is not None
        states[item.client_order_id] = answer.report.state
    assert list(states.values()) == [State.WORKING, State.ACCEPTED, State.ACCEPTED]
    open_now = {report.client_order_id: report.state for report in await venue.open_orders()}
    assert open_now == states
    for item in (limit, stop, both):
        answer = await venue.cancel(item)
        assert answer.outcome is Outcome.ACK
        assert answer.report is not None
        assert (answer.report.client_order_id, answer.report.state) == (item.client_order_id, State.CANCELLED)
        again = await venue.cancel(item)
        assert (again.outcome, again.code) == (Outcome.REFUSED, "UNKNOWN_ORDER")
        lookup = await venue.query("BTCUSDT", item.client_order_id)
        assert lookup.report is not None
        assert lookup.report.state is State.CANCELLED


async def test_oco_places_both_legs_and_ends_both(open_venue: Open, listen: Listen) -> None:
    venue = await open_venue()
    events = listen(venue)
    await until(lambda: events.of(SessionBack))
    stop = order(
        "0.02", side=Side.SELL, type=OrderType.STOP, stop_price=await price_at(venue, "0.9"), role=Role.STOP_LOSS
    )
    limit = order(
        "0.02", side=Side.SELL, type=OrderType.TAKE_PROFIT, price=await price_at(venue, "1.1"), role=Role.TAKE_PROFIT
    )
    answers = await venue.submit_oco(stop, limit)
    assert [a.outcome for a in answers] == [Outcome.ACK, Outcome.ACK], answers
    assert [a.detail for a in answers] == ["", ""]
    assert [a.report.state for a in answers if a.report] == [State.ACCEPTED, State.WORKING]
    assert {r.client_order_id for r in await venue.open_orders()} == {stop.client_order_id, limit.client_order_id}
    balance = (await venue.balances())["BTC"]
    assert balance.locked == Decimal("0.02")
    answer = await venue.cancel(limit)
    assert answer.outcome is Outcome.ACK
    assert answer.report is not None
    assert answer.report.client_order_id == limit.client_order_id
    assert await venue.open_orders() == []
    ended = lambda: {r.client_order_id for r in events.of(Report) if r.state is State.CANCELLED}  # noqa: E731
    await until(lambda: {stop.client_order_id, limit.client_order_id} <= ended())


async def test_oco_for_a_buy_and_one_that_is_refused(open_venue: Open) -> None:
    venue = await open_venue()
    stop = order(
        type=OrderType.STOP_LIMIT, stop_price=await price_at(venue, "1.1"), price=await price_at(venue, "1.11")
    )
    limit = order(type=OrderType.TAKE_PROFIT, price=await price_at(venue, "0.9"))
    answers = await venue.submit_oco(stop, limit)
    assert [a.outcome for a in answers] == [Outcome.ACK, Outcome.ACK], answers
    await venue.cancel(stop)
    wrong = order(side=Side.SELL, type=OrderType.TAKE_PROFIT, price=await price_at(venue, "0.8"))
    other = order(side=Side.SELL, type=OrderType.STOP, stop_price=await price_at(venue, "0.9"))
    answers = await venue.submit_oco(other, wrong)
    assert [a.outcome for a in answers] == [Outcome.REFUSED, Outcome.REFUSED], answers
    assert await venue.open_orders() == []


@pytest.mark.parametrize("kind", ["cut_stream", "half_open", "stream_terminated", "freeze_stream"])
async def test_broken_user_stream_is_detected_and_resubscribed(
    open_venue: Open, exchange: LocalExchange, listen: Listen, kind: str
) -> None:
    venue = await open_venue(probe_s=0.3, probe_timeout_s=1.0, echo_s=1.0, backoff_first_s=0.05)
    events = listen(venue)
    await until(lambda: events.of(SessionBack))
    exchange.fault(kind, path="/ws-api/v3", seconds=2.5)
    if kind == "freeze_stream":  # probes are answered still: only an order that is not reported gives it away
        assert (await venue.submit(order())).outcome is Outcome.ACK
    await until(lambda: events.of(SessionLost), deadline_s=5.0)
    await until(lambda: len(events.of(SessionBack)) >= 2, deadline_s=12.0)
    exchange.clear()
    wanted = order()

    async def has_arrived() -> bool:
        return any(f.client_order_id == wanted.client_order_id for f in events.of(Fill))

    assert (await venue.submit(wanted)).outcome is Outcome.ACK
    await until(has_arrived, deadline_s=5.0)


async def test_duplicates_and_disorder_carry_the_same_ids(
    open_venue: Open, exchange: LocalExchange, listen: Listen
) -> None:
    venue = await open_venue()
    events = listen(venue)
    await until(lambda: events.of(SessionBack))
    exchange.fault("duplicate_report", event="TRADE")
    wanted = order()
    answer = await venue.submit(wanted)
    await until(lambda: len(events.of(Fill)) >= len(answer.fills) + 1)
    assert {f.fill_id for f in events.of(Fill)} == {f.fill_id for f in answer.fills}


async def test_the_clock_difference_is_measured_and_signed_with(open_venue: Open, exchange: LocalExchange) -> None:
    venue = await open_venue()
    assert abs(await venue.skew_ms()) < 500
    exchange.fault("clock_jump", seconds=90)
    refused = await venue.submit(order())
    assert (refused.outcome, refused.code) == (Outcome.REFUSED, "-1021")
    assert await venue.skew_ms() == pytest.approx(90_000, abs=1000)
    assert (await venue.submit(order())).outcome is Outcome.ACK


async def test_kill_9_of_the_exchange(tmp_path: Path, listen: Listen, session: str) -> None:
    exchange = LocalExchange(
        tmp_path, ["--rate-limits", "off", "--balance", "USDT=100000", "--balance", "BTC=1"]
    ).start()
    info = exchange.info
    config = SessionConfig(
        info["api_key"],
        info["api_secret"],
        account_id=1,
        rest_url=info["rest"],
        ws_url=info["ws"],
        ws_api_url=info["ws_api"],
        order_timeout_s=2.0,
        backoff_first_s=0.05,
        backoff_max_s=0.5,
    )
    venue = SESSIONS[session](config, RealClock(), CollectingLog())
    await venue.open()
    try:
        events = listen(venue)
        await until(lambda: events.of(SessionBack))
        resting = order(type=OrderType.LIMIT, price=await price_at(venue, "0.9"))
        assert (await venue.submit(resting)).outcome is Outcome.ACK
        exchange.kill()
        await until(lambda: events.of(SessionLost))
        unsent = order()
        answer = await venue.submit(unsent)
        assert (answer.outcome, answer.code) == (Outcome.REFUSED, "VENUE_DOWN"), answer.detail
        assert (await venue.query("BTCUSDT", resting.client_order_id)).presence is Presence.NO_ANSWER
        with pytest.raises(OutageError):
            await venue.open_orders()
        exchange.start()
        await until(lambda: len(events.of(SessionBack)) == 2, deadline_s=10.0)
        assert [r.client_order_id for r in await venue.open_orders()] == [resting.client_order_id]
        assert not exchange.received(client_order_id=unsent.client_order_id)
    finally:
        await venue.close()
        exchange.stop()


async def test_closing_leaves_no_task_behind(open_venue: Open, listen: Listen) -> None:
    before = asyncio.all_tasks()
    venue = await open_venue()
    events = listen(venue)
    await until(lambda: events.of(SessionBack))
    await venue.close()
    with pytest.raises(OutageError):
        await venue.balances()

    def left() -> bool:
        names = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before if not task.done()}
        return not any("ccxt" in name or "Client" in name or "run" in name for name in names)

    await until(left)


async def test_each_operation_is_one_request_to_its_endpoint(open_venue: Open, exchange: LocalExchange) -> None:
    """Contract C13: a ccxt that calls another endpoint fails here."""
    venue = await open_venue()
    low = await price_at(venue, "0.9")
    resting = order(type=OrderType.LIMIT, price=low)
    stop = order("0.02", side=Side.SELL, type=OrderType.STOP, stop_price=low)
    limit = order("0.02", side=Side.SELL, type=OrderType.TAKE_PROFIT, price=await price_at(venue, "1.1"))
    steps = [
        (lambda: venue.skew_ms(), "GET /api/v3/time"),
        (lambda: venue.last_price("BTCUSDT"), "GET /api/v3/ticker/price"),
        (lambda: venue.submit(resting), "POST /api/v3/order"),
        (lambda: venue.query("BTCUSDT", resting.client_order_id), "GET /api/v3/order"),
        (lambda: venue.open_orders(), "GET /api/v3/openOrders"),
        (lambda: venue.cancel(resting), "DELETE /api/v3/order"),
        (lambda: venue.submit_oco(stop, limit), "POST /api/v3/orderList/oco"),
        (lambda: venue.cancel(limit), "DELETE /api/v3/order"),
        (lambda: venue.balances(), "GET /api/v3/account"),
        # from far ahead on: the orders of fills are looked up too, and a test before may have moved the clock of the
        # exchange
        (lambda: venue.fills_since("BTCUSDT", time.time_ns() + 30 * 86400 * 10**9), "GET /api/v3/myTrades"),
    ]
    for call, expected in steps:
        before = exchange.received(all=1)[-1]["seq"]
        await call()
        rows = [r for r in exchange.received(all=1, after=before) if not r["path"].startswith("/sim")]
        assert [f"{row['method']} {row['path']}" for row in rows] == [expected]
