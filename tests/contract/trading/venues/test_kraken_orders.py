"""Orders at Kraken through ccxt's own class over a real socket, against a peer that checks signature and nonce."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fks.clock import RealClock
from fks.model.account import Environment, TransferKind, VenueIdentity
from fks.model.errors import ConfigError, KeyRefusedError, OutageError
from fks.model.order import Fill, Order, OrderType, Outcome, Presence, Refusal, Report, Side, State
from fks.model.ports import SessionBack, SessionLost, Venue, VenueEvent
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.ccxt import dialect_session, dialect_venue
from fks.trading.venues.ccxt.dialect_venue import DialectVenue
from fks.trading.venues.ccxt.dialects import dialect
from tests.support.kraken_peer import SECRET, Answer, KrakenPeer, cut, held, saying, taken_then, waiting, with_body
from tests.support.ports import CollectingLog
from tests.support.venue_orders import order as any_order
from tests.support.waiting import until

Make = Callable[..., Awaitable[DialectVenue]]
LATE = waiting(1.3)  # for a session that waits 1 s
OWNER = VenueIdentity(Environment.SIM, "AA88N84GWOAKNMOI")


@pytest.fixture
async def peer() -> AsyncIterator[KrakenPeer]:
    made = KrakenPeer(RealClock())
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.serve)
    async with TestServer(app) as server:
        made.url = str(server.make_url("")).rstrip("/")
        yield made


@pytest.fixture
async def make(peer: KrakenPeer) -> AsyncIterator[Make]:
    """Make opened venues at the peer; they are closed at the end."""
    venues: list[DialectVenue] = []

    async def opened(*, may_send: Callable[[], bool] | None = None, **changes: Any) -> DialectVenue:
        fields: dict[str, Any] = {
            "rest_url": peer.url,
            "account_id": 1,
            "order_timeout_s": 20.0,
            "read_timeout_s": 20.0,
        }
        config = SessionConfig(peer.key, SECRET, exchange="kraken", **fields | changes)
        venue = DialectVenue(dialect("kraken"), config, RealClock(), CollectingLog(), may_send)
        venues.append(venue)
        await venue.open()
        return venue

    yield opened
    for venue in venues:
        await venue.close()


def order(quantity: str = "0.01", **fields: Any) -> Order:
    return any_order(quantity, exchange="kraken", symbol=fields.pop("symbol", "BTC/USD"), **fields)


async def test_it_is_a_venue(make: Make) -> None:
    venue: Venue = await make()
    can = venue.capabilities
    assert (can.has_oco, can.can_amend, can.can_replace, can.can_short) == (False, False, False, False)
    assert can.can_reprice
    assert can.types == frozenset(OrderType)
    assert not can.fee_in_received_asset


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, {"ordertype": "market"}),
        (
            {"type": OrderType.LIMIT, "price": "50000.1"},
            {"ordertype": "limit", "price": "50000.1", "timeinforce": "GTC"},
        ),
        (
            {"type": OrderType.STOP, "stop_price": "49000", "side": Side.SELL},
            {"ordertype": "stop-loss", "price": "49000", "trigger": "last"},
        ),
        (
            {"type": OrderType.STOP_LIMIT, "stop_price": "49000", "price": "48900", "side": Side.SELL},
            {"ordertype": "stop-loss-limit", "price": "49000", "price2": "48900"},
        ),
        (
            {"type": OrderType.TAKE_PROFIT, "price": "51000", "side": Side.SELL},
            {"ordertype": "limit", "price": "51000"},
        ),
    ],
)
async def test_an_order_is_acknowledged_under_our_id(
    peer: KrakenPeer, make: Make, fields: dict[str, Any], wanted: dict[str, str]
) -> None:
    venue = await make()
    placed = order(**fields)
    answer = await venue.submit(placed)
    (form,) = peer.named("AddOrder")
    assert (answer.outcome, answer.report is not None) == (Outcome.ACK, True)
    assert answer.report is not None
    assert (answer.report.state, answer.report.venue_order_id) == (
        State.ACCEPTED,
        *peer.numbers(placed.client_order_id),
    )
    assert {name: form.get(name) for name in wanted} == wanted
    assert (form["pair"], form["volume"], form["cl_ord_id"]) == ("XBTUSD", "0.01", placed.client_order_id)
    assert form["type"] == placed.side.value
    assert form["deadline"].endswith("Z")
    assert answer.sent_ns is not None


@pytest.mark.parametrize(
    ("answer", "outcome", "refusal"),
    [
        (saying("EOrder:Insufficient funds"), Outcome.REFUSED, Refusal.INSUFFICIENT_BALANCE),
        (saying("EOrder:Order minimum not met"), Outcome.REFUSED, Refusal.QUANTITY),
        (saying("EAPI:Invalid nonce"), Outcome.REFUSED, Refusal.CLOCK_SKEW),
        (saying("EService:Market in cancel_only mode"), Outcome.REFUSED, Refusal.HALTED),
        (saying("EOrder:Rate limit exceeded"), Outcome.REFUSED, Refusal.RATE_LIMITED),
        (saying("EService:Deadline elapsed"), Outcome.AMBIGUOUS, None),
        (saying("EService:Unavailable"), Outcome.AMBIGUOUS, None),
        (saying("EOrder:Something new"), Outcome.AMBIGUOUS, None),
        (saying("EGeneral:Invalid arguments:cl_ord_id"), Outcome.EXISTS, None),
        (with_body("<html>checking your browser</html>"), Outcome.AMBIGUOUS, None),
        (with_body("<html>bad gateway</html>", 502), Outcome.AMBIGUOUS, None),
        (with_body("", 520), Outcome.AMBIGUOUS, None),
        (with_body('{"error":["EOrder:Insufficient funds"]}', 500, "application/json"), Outcome.AMBIGUOUS, None),
        (with_body('{"error":[],"result":{"txid":["O1"],', 200, "application/json"), Outcome.AMBIGUOUS, None),
        (with_body('{"error":[],"result":{"txid":["O1"]}}', 200, "application/json"), Outcome.AMBIGUOUS, None),
        (with_body('{"error":[],"result":{"txid":["O1"],"x":NaN}}', 200, "application/json"), Outcome.AMBIGUOUS, None),
        (cut, Outcome.AMBIGUOUS, None),
        (LATE, Outcome.AMBIGUOUS, None),
    ],
    ids=range(18),
)
async def test_each_answer_has_its_outcome(
    peer: KrakenPeer, make: Make, answer: Answer, outcome: Outcome, refusal: Refusal | None
) -> None:
    venue = await make(order_timeout_s=1.0 if answer is LATE else 20.0)
    peer.before["AddOrder"] = [answer]
    found = await venue.submit(order())
    assert (found.outcome, found.refusal) == (outcome, refusal)
    assert len(peer.named("AddOrder")) == 1, "nothing is sent twice"


async def test_a_redirect_is_not_followed(peer: KrakenPeer, make: Make) -> None:
    async def elsewhere(request: web.Request, form: dict[str, str]) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": "/0/private/Elsewhere"})

    venue = await make()
    peer.before["AddOrder"] = [elsewhere]
    answer = await venue.submit(order())
    assert (answer.outcome, peer.named("Elsewhere")) == (Outcome.AMBIGUOUS, [])


async def test_nothing_leaves_without_the_lease(peer: KrakenPeer, make: Make) -> None:
    venue = await make(may_send=lambda: False)
    answer = await venue.submit(order())
    assert (answer.outcome, answer.code, peer.named("AddOrder")) == (Outcome.REFUSED, "NOT_LEADER", [])


async def test_nothing_leaves_without_a_listener(make: Make) -> None:
    venue = await make(rest_url="http://127.0.0.1:9")
    assert (await venue.submit(order())).refusal is Refusal.UNAVAILABLE
    cancelled = await venue.cancel(order())
    assert (cancelled.outcome, cancelled.refusal) == (Outcome.REFUSED, Refusal.UNAVAILABLE)


async def test_an_order_that_cannot_be_sent_is_refused(peer: KrakenPeer, make: Make) -> None:
    venue = await make()
    for wrong in (order("0"), order(type=OrderType.LIMIT), order(symbol="ODD/USD")):
        assert (await venue.submit(wrong)).code == "CLIENT_VALIDATION"
    stop, limit = order(type=OrderType.STOP, stop_price="1"), order(type=OrderType.LIMIT, price="2")
    assert [answer.outcome for answer in await venue.submit_oco(stop, limit)] == [Outcome.REFUSED] * 2
    assert (await venue.amend(limit, Decimal("0.005"))).outcome is Outcome.REFUSED
    assert peer.named("AddOrder") == []


# ── moving a price in place ──────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"type": OrderType.STOP, "stop_price": "49000", "side": Side.SELL}, "trigger_price"),
        ({"type": OrderType.TAKE_PROFIT, "price": "51000", "side": Side.SELL}, "limit_price"),
    ],
)
async def test_a_price_is_moved_in_place(peer: KrakenPeer, make: Make, fields: dict[str, Any], name: str) -> None:
    """By Kraken's id once it is known, else by ours; a query shows the new price."""
    venue = await make()
    placed = order(**fields)
    report = (await venue.submit(placed)).report
    assert report is not None
    known = replace(placed, venue_order_id=report.venue_order_id)
    for one, price in ((placed, "49500"), (known, "49600.5")):
        assert (await venue.reprice(one, Decimal(price))).outcome is Outcome.ACK
    first, second = peer.named("AmendOrder")
    assert (first["cl_ord_id"], first[name]) == (placed.client_order_id, "49500")
    assert (second["txid"], second[name]) == (report.venue_order_id, "49600.5")
    assert all("deadline" in form for form in (first, second))
    found = (await venue.query(placed.symbol, placed.client_order_id)).report
    assert found is not None
    assert Decimal("49600.5") in (found.price, found.stop_price)


@pytest.mark.parametrize(
    ("answer", "outcome", "refusal"),
    [
        (saying("EOrder:Unknown order"), Outcome.REFUSED, Refusal.UNKNOWN_ORDER),
        (saying("EOrder:Invalid price"), Outcome.REFUSED, Refusal.PRICE),
        (saying("EService:Deadline elapsed"), Outcome.AMBIGUOUS, None),
        (with_body({"error": [], "result": {}}), Outcome.AMBIGUOUS, None),
        (cut, Outcome.AMBIGUOUS, None),
    ],
)
async def test_a_move_without_an_acknowledgement_is_no_move(
    peer: KrakenPeer, make: Make, answer: Answer, outcome: Outcome, refusal: Refusal | None
) -> None:
    venue = await make()
    placed = order(type=OrderType.STOP, stop_price="49000", side=Side.SELL)
    await venue.submit(placed)
    peer.before["AmendOrder"] = [answer]
    found = await venue.reprice(placed, Decimal(49500))
    assert (found.outcome, found.refusal) == (outcome, refusal)


# ── proof of presence and absence ────────────────────────────────────────────────────────────────
async def test_an_unclear_order_is_found_by_our_id(peer: KrakenPeer, make: Make) -> None:
    venue = await make()
    placed = order()
    peer.before["AddOrder"] = [taken_then(peer, cut)]
    assert (await venue.submit(placed)).outcome is Outcome.AMBIGUOUS
    found = await venue.query("BTC/USD", placed.client_order_id)
    assert found.presence is Presence.FOUND
    assert found.report is not None
    assert (found.report.state, found.report.quantity) == (State.WORKING, Decimal("0.01"))
    peer.fill(*peer.numbers(placed.client_order_id), "0.01", "50000")
    closed = await venue.query("BTC/USD", placed.client_order_id)
    assert closed.report is not None
    assert (closed.report.state, closed.report.filled) == (State.FILLED, Decimal("0.01"))


async def test_absence_needs_both_lists(peer: KrakenPeer, make: Make) -> None:
    venue = await make()
    assert (await venue.query("BTC/USD", "a" * 32)).presence is Presence.NOT_FOUND
    for method in ("OpenOrders", "ClosedOrders"):
        for answer in (
            saying("EService:Unavailable"),
            cut,
            with_body("<html></html>"),
            saying("EAPI:Rate limit exceeded"),
        ):
            peer.before[method] = [answer]
            assert (await venue.query("BTC/USD", "a" * 32)).presence is Presence.NO_ANSWER


async def test_a_list_of_other_orders_proves_nothing(peer: KrakenPeer, make: Make) -> None:
    """A gateway that ignores the filter answers with the newest orders: ours may be behind them."""
    venue = await make()
    await venue.submit(order())
    peer.ignores_ids = True
    assert (await venue.query("BTC/USD", "a" * 32)).presence is Presence.NO_ANSWER


# ── cancels ──────────────────────────────────────────────────────────────────────────────────────
async def test_a_cancel_brings_what_was_executed(peer: KrakenPeer, make: Make) -> None:
    venue = await make()
    placed = order(type=OrderType.LIMIT, price="50000")
    await venue.submit(placed)
    peer.fill(*peer.numbers(placed.client_order_id), "0.004", "50000")
    answer = await venue.cancel(placed)
    assert answer.outcome is Outcome.ACK
    assert answer.report is not None
    assert (answer.report.state, answer.report.filled) == (State.CANCELLED, Decimal("0.004"))
    again = await venue.cancel(placed)
    assert (again.outcome, again.code, again.refusal) == (Outcome.REFUSED, "UNKNOWN_ORDER", Refusal.UNKNOWN_ORDER)


@pytest.mark.parametrize("answer", [saying("EService:Busy"), cut, with_body("<html></html>"), saying("ENew:Error")])
async def test_an_unclear_cancel_is_ambiguous(peer: KrakenPeer, make: Make, answer: Answer) -> None:
    venue = await make()
    placed = order(type=OrderType.LIMIT, price="50000")
    await venue.submit(placed)
    peer.before["CancelOrder"] = [answer]
    assert (await venue.cancel(placed)).outcome is Outcome.AMBIGUOUS
    assert len(peer.named("CancelOrder")) == 1


async def test_a_cancel_whose_end_is_not_shown_is_ambiguous(peer: KrakenPeer, make: Make) -> None:
    venue = await make()
    placed = order(type=OrderType.LIMIT, price="50000")
    await venue.submit(placed)
    peer.before["ClosedOrders"] = [saying("EService:Busy")]
    assert (await venue.cancel(placed)).outcome is Outcome.AMBIGUOUS
    peer.before["CancelOrder"] = [
        with_body('{"error":[],"result":{"count":1,"pending":true}}', 200, "application/json")
    ]
    assert (await venue.cancel(placed)).outcome is Outcome.AMBIGUOUS


# ── nonces ───────────────────────────────────────────────────────────────────────────────────────
async def test_nonces_grow_on_the_wire(peer: KrakenPeer, make: Make) -> None:
    """Orders, cancels and reads at once: none is refused for its nonce."""
    venue = await make()
    orders = [order(type=OrderType.LIMIT, price="50000") for _ in range(20)]
    reads = [venue.open_orders() for _ in range(5)] + [venue.balances() for _ in range(5)]
    answers = await asyncio.gather(*(venue.submit(item) for item in orders), *reads)
    assert [answer.outcome for answer in answers[:20]] == [Outcome.ACK] * 20
    sent = [int(form["nonce"]) for _, form in peer.asked if "nonce" in form]
    assert len(sent) >= 30
    assert sent == sorted(set(sent))


async def test_an_order_does_not_wait_for_a_read(peer: KrakenPeer, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect_session, "OVERTAKE_S", 60.0)  # as it waits for another order: here until its timeout
    venue, may_answer = await make(), asyncio.Event()
    peer.before["OpenOrders"] = [held(may_answer)]
    read = asyncio.create_task(venue.open_orders())
    await until(lambda: bool(peer.named("OpenOrders")))
    answer = await venue.submit(order())
    assert (answer.outcome, read.done()) == (Outcome.ACK, False)
    may_answer.set()
    with pytest.raises(OutageError):  # its nonce is behind the order's by then
        await read


async def test_no_request_overtakes_one_of_its_kind(
    peer: KrakenPeer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nonce behind a later one is refused: a slow read holds up reads, a slow order holds up orders for a moment."""
    monkeypatch.setattr(dialect_session, "OVERTAKE_S", 20.0)  # a busy machine may take longer than a moment
    venue = await make()
    peer.before["OpenOrders"] = [waiting(0.2)]
    assert await asyncio.gather(venue.open_orders(), venue.balances()) == [[], await venue.balances()]
    peer.before["AddOrder"] = [waiting(0.2)]
    answers = await asyncio.gather(venue.submit(order()), venue.submit(order()))
    assert [answer.outcome for answer in answers] == [Outcome.ACK] * 2


async def test_a_hanging_order_holds_the_next_one_up_for_a_moment_only(peer: KrakenPeer, make: Make) -> None:
    venue, may_answer = await make(), asyncio.Event()
    peer.before["AddOrder"] = [held(may_answer)]
    first = asyncio.create_task(venue.submit(order()))
    await until(lambda: len(peer.named("AddOrder")) == 1)
    answer = await asyncio.wait_for(venue.submit(order()), dialect_session.OVERTAKE_S + 5.0)
    assert (answer.outcome, first.done()) == (Outcome.ACK, False)
    may_answer.set()
    assert (await first).refusal is Refusal.CLOCK_SKEW, "the other one overtook it: it was not executed"
    assert len(peer.orders) == 1


# ── reads ────────────────────────────────────────────────────────────────────────────────────────
async def test_executions_are_read_to_the_last_page(peer: KrakenPeer, make: Make) -> None:
    venue = await make()
    placed = order("2")
    await venue.submit(placed)
    (number,) = peer.numbers(placed.client_order_id)
    for _ in range(120):
        peer.fill(number, "0.01", "50000")
    fills = await venue.fills_since("BTC/USD", 0)
    assert (len(fills), sum(fill.quantity for fill in fills)) == (120, Decimal("1.20"))
    assert len({fill.fill_id for fill in fills}) == 120
    first = fills[0]
    assert (first.client_order_id, first.fee_currency, first.account_id) == (placed.client_order_id, "USD", 1)
    assert [fill.time_ns for fill in fills] == sorted(fill.time_ns for fill in fills)
    assert await venue.fills_since("LTC/USDT", 0) == []


async def test_fill_ids_are_those_of_another_session(peer: KrakenPeer, make: Make) -> None:
    first = await make()
    placed = order()
    await first.submit(placed)
    peer.fill(*peer.numbers(placed.client_order_id), "0.01", "50000")
    second = await make()
    ours, theirs = await first.fills_since("BTC/USD", 0), await second.fills_since("BTC/USD", 0)
    assert [fill.fill_id for fill in ours] == [fill.fill_id for fill in theirs]
    assert theirs[0].client_order_id == placed.client_order_id, "the order is looked up by its number"


async def test_the_account_is_read(peer: KrakenPeer, make: Make) -> None:
    venue = await make()
    assert await venue.identity() == OWNER
    balances = {name: (row.free, row.locked) for name, row in (await venue.balances()).items()}
    assert balances == {"USD": (Decimal("1000.5"), Decimal(0)), "USDT": (Decimal("9.5"), Decimal("0.5"))}
    assert await venue.last_price("BTC/USD") == Decimal("50000.1")
    assert await venue.last_price("ODD/USD") is None
    assert await venue.transfers_since(0) == [], "a local server keeps no ledger"


@pytest.mark.parametrize(
    "answer", [saying("EAPI:Rate limit exceeded"), cut, with_body("<html></html>"), with_body("[]")]
)
async def test_a_read_without_an_answer_is_an_outage(peer: KrakenPeer, make: Make, answer: Answer) -> None:
    venue = await make()
    for method, read in (
        ("OpenOrders", venue.open_orders),
        ("BalanceEx", venue.balances),
        ("TradesHistory", lambda: venue.fills_since("BTC/USD", 0)),
        ("GetApiKeyInfo", venue.identity),
        ("Time", venue.skew_ms),
    ):
        peer.before[method] = [answer, answer]  # aiohttp repeats a public GET whose kept connection was closed
        with pytest.raises(OutageError):
            await read()
        assert len(peer.named(method)) - (method == "Time") == (2 if answer is cut and method == "Time" else 1)


@pytest.mark.parametrize(
    ("shift_s", "least_ms", "most_ms"), [(0.0, 0, 0), (10.0, 9_000, 10_100), (-10.0, -10_100, -9_000)]
)
async def test_the_clock_difference_is_no_larger_than_proven(
    peer: KrakenPeer, make: Make, shift_s: float, least_ms: float, most_ms: float
) -> None:
    peer.shift_s = shift_s
    venue = await make()
    assert least_ms <= await venue.skew_ms() <= most_ms


async def test_a_refused_session_sends_and_answers_nothing(peer: KrakenPeer, make: Make) -> None:
    venue = await make()
    venue.refuse("another account")
    assert (await venue.submit(order())).code == "ACCOUNT_UNKNOWN"
    assert (await venue.cancel(order())).code == "ACCOUNT_UNKNOWN"
    assert (await venue.query("BTC/USD", "a" * 32)).presence is Presence.NO_ANSWER
    for read in (venue.open_orders, lambda: venue.fills_since("BTC/USD", 0), lambda: venue.transfers_since(0)):
        with pytest.raises(OutageError):
            await read()
    venue.admit(OWNER)
    assert await venue.open_orders() == []


@pytest.mark.parametrize("permissions", [["modify-trades", "withdraw-funds"], None])
async def test_a_live_key_that_may_withdraw_is_refused(
    peer: KrakenPeer, make: Make, permissions: list[str] | None
) -> None:
    peer.permissions = permissions  # type: ignore[assignment]
    with pytest.raises(ConfigError):
        await make(is_live=True)
    peer.permissions = ["modify-trades"]
    await make(is_live=True)


async def test_a_key_in_use_that_may_withdraw_opens_with_a_fault(peer: KrakenPeer, make: Make) -> None:
    peer.permissions = ["modify-trades", "withdraw-funds"]
    venue = await make(is_live=True, is_key_in_use=True)
    assert "withdraw" in venue.key_fault
    peer.permissions = ["modify-trades"]
    assert (await venue.read_rights()).may_withdraw is False
    assert venue.key_fault == ""


async def test_another_key_signs_the_requests_after_it(peer: KrakenPeer, make: Make) -> None:
    venue = await make()
    await venue.open_orders()
    assert set(peer.nonces) == {peer.key}
    venue.use_key(peer.guardian_key, SECRET)
    await venue.open_orders()
    assert set(peer.nonces) == {peer.key, peer.guardian_key}


@pytest.mark.parametrize("fault", ["EAPI:Invalid key", "EAPI:Invalid signature"])
async def test_a_refused_key_is_told_apart_from_an_outage(peer: KrakenPeer, make: Make, fault: str) -> None:
    venue = await make()
    peer.before["GetApiKeyInfo"] = [saying(fault), saying("EService:Unavailable")]
    with pytest.raises(KeyRefusedError):
        await venue.read_rights()
    with pytest.raises(OutageError) as raised:
        await venue.read_rights()
    assert not isinstance(raised.value, KeyRefusedError)


async def test_transfers_of_the_real_exchange_are_its_ledgers(peer: KrakenPeer, make: Make) -> None:
    venue = await make()
    venue.config = replace(venue.config, rest_url=None)  # asked at the peer, as if it were the exchange itself
    (found,) = await venue.transfers_since(0)
    assert (found.kind, found.asset, found.amount) == (TransferKind.DEPOSIT, "USD", Decimal(100))
    assert [form["type"] for form in peer.named("Ledgers")] == ["deposit", "withdrawal"]


# ── events ───────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
async def listen(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[DialectVenue], list[VenueEvent]]]:
    """Start reading a venue's events, polled fast."""
    monkeypatch.setattr(dialect_venue, "POLL_S", 0.1)
    monkeypatch.setattr(dialect_venue, "IDLE_POLL_S", 0.1)
    tasks: list[asyncio.Task[None]] = []

    def start(venue: DialectVenue) -> list[VenueEvent]:
        events: list[VenueEvent] = []

        async def read() -> None:
            async for event in venue.events():
                events.append(event)

        tasks.append(asyncio.create_task(read()))
        return events

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Listen = Callable[[DialectVenue], list[VenueEvent]]


async def test_executions_come_before_the_report_that_counts_them(peer: KrakenPeer, make: Make, listen: Listen) -> None:
    venue = await make()
    events = listen(venue)
    placed = order(type=OrderType.LIMIT, price="50000")
    await venue.submit(placed)
    (number,) = peer.numbers(placed.client_order_id)
    peer.fill(number, "0.004", "50000")
    await until(lambda: any(isinstance(event, Report) and event.state is State.PARTIAL for event in events))
    peer.fill(number, "0.006", "50001")
    await until(lambda: any(isinstance(event, Report) and event.state is State.FILLED for event in events))
    seen: dict[str, Decimal] = {}
    for event in events:
        if isinstance(event, Fill):
            seen[event.venue_trade_id] = event.quantity
            assert event.client_order_id == placed.client_order_id
        elif isinstance(event, Report):
            assert event.filled <= sum(seen.values())
    assert sorted(seen.values()) == [Decimal("0.004"), Decimal("0.006")]


async def test_a_stop_of_another_session_is_reported(peer: KrakenPeer, make: Make, listen: Listen) -> None:
    first, second = await make(), await make()
    events = listen(second)
    placed = order(type=OrderType.STOP, stop_price="49000", side=Side.SELL)
    await first.submit(placed)
    await until(lambda: any(isinstance(event, Report) and event.state is State.ACCEPTED for event in events))
    peer.end(*peer.numbers(placed.client_order_id), "canceled")
    await until(lambda: any(isinstance(event, Report) and event.state is State.CANCELLED for event in events))


async def test_a_lost_exchange_is_reported_once(peer: KrakenPeer, make: Make, listen: Listen) -> None:
    venue = await make()
    events = listen(venue)
    await until(lambda: any(isinstance(event, SessionBack) for event in events))
    peer.before["OpenOrders"] = [saying("EService:Unavailable")] * 6
    await until(lambda: any(isinstance(event, SessionLost) for event in events))
    await until(lambda: sum(isinstance(event, SessionBack) for event in events) == 2)
    kinds = [type(event) for event in events if isinstance(event, SessionBack | SessionLost)]
    assert kinds == [SessionBack, SessionLost, SessionBack]


async def test_all_stops_that_fills_made_are_found_open_or_ended(peer: KrakenPeer, make: Make) -> None:
    """One that executed between two polls is in no list of open orders, and is behind more than a page of others."""
    venue = await make()
    entry = order("0.02", type=OrderType.LIMIT, price="50000", stop_loss=Decimal("49000"))
    assert await venue.closes_made(entry) == []
    assert (await venue.submit_closing(entry)).outcome is Outcome.ACK
    (number,) = peer.numbers(entry.client_order_id)
    peer.fill(number, "0.02", "50000")
    stop = {"pair": "XBTUSD", "type": "sell", "ordertype": "stop-loss", "price": "49000", "volume": "0.01"}
    made = [peer.place(stop) for _ in range(2)]
    for close in made:
        peer.orders[close]["refid"] = number
    peer.fill(made[0], "0.01", "48990")
    for _ in range(60):
        peer.end(peer.place(stop), "canceled")
    found = {report.venue_order_id: report for report in await venue.closes_made(entry)}
    assert [found[close].state for close in made] == [State.FILLED, State.ACCEPTED]
    assert {report.leg.parent_id for report in found.values() if report.leg} == {entry.client_order_id}
    assert len(found) == 2
    peer.before["ClosedOrders"] = [saying("EService:Unavailable")]
    with pytest.raises(OutageError):
        await venue.closes_made(entry)
