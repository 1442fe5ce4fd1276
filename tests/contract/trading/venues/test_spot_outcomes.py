"""The table of outcomes in docs/venues.md as tests (C13): the meaning of each answer to a send, a query and a cancel;
bytes at most once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from fks.model.order import Fill, Outcome, Presence, Refusal, Report, Role, State
from fks.trading.venues import base
from fks.trading.venues.binance.venue import SpotVenue
from tests.support.local_exchange import LocalExchange
from tests.support.venue_orders import order
from tests.support.venue_sessions import Listener, Open
from tests.support.waiting import until

A, R, E = Outcome.AMBIGUOUS, Outcome.REFUSED, Outcome.EXISTS


def error(code: int, msg: str, status: int = 400) -> dict[str, Any]:
    return {"kind": "error", "code": code, "msg": msg, "status": status}


#: what happens on the wire, what ccxt makes of it, what it means, our code
ROWS: list[tuple[dict[str, Any], str, Outcome, str | None]] = [
    ({"kind": "drop"}, "ExchangeNotAvailable", A, None),
    ({"kind": "disconnect"}, "ExchangeNotAvailable", A, None),
    ({"kind": "accept_then_cut"}, "ExchangeNotAvailable", A, None),
    ({"kind": "hang", "seconds": 5}, "", A, None),
    ({"kind": "answer_after", "seconds": 4}, "", A, None),
    ({"kind": "truncate"}, "ExchangeError", A, None),
    ({"kind": "html_200"}, "", A, None),
    ({"kind": "html_200", "accept": True}, "", A, None),
    ({"kind": "html_502"}, "ExchangeNotAvailable", A, None),
    ({"kind": "html_502", "accept": True}, "ExchangeNotAvailable", A, None),
    ({"kind": "http_500"}, "ExchangeNotAvailable", A, None),
    ({"kind": "503", "accept": True}, "ExchangeNotAvailable", A, None),
    ({"kind": "504_1007", "accept": True}, "RequestTimeout", A, "-1007"),
    ({"kind": "busy_1008"}, "OperationFailed", A, "-1008"),
    ({"kind": "429", "seconds": 1}, "DDoSProtection", R, "-1003"),
    ({"kind": "418", "seconds": 1}, "DDoSProtection", R, "-1003"),
    ({"kind": "skew"}, "InvalidNonce", R, "-1021"),
    ({"kind": "halt", "seconds": 30}, "MarketClosed", R, "-1013"),
    (error(-1000, "An unknown error occurred while processing the request."), "OperationFailed", A, "-1000"),
    (error(-1001, "Internal error; unable to process your request. Please try again."), "OperationFailed", A, "-1001"),
    (error(-1004, "Server is busy, please wait and try again"), "OperationFailed", A, "-1004"),
    (error(-1006, "An unexpected response was received from the message bus."), "OperationFailed", A, "-1006"),
    (error(-1007, "Timeout waiting for response from backend server."), "RequestTimeout", A, "-1007"),
    (error(-1003, "Too much request weight used."), "RateLimitExceeded", R, "-1003"),
    (error(-1015, "Too many new orders."), "RateLimitExceeded", R, "-1015"),
    (error(-1013, "Filter failure: LOT_SIZE"), "InvalidOrder", R, "-1013"),
    (error(-1013, "Filter failure: PRICE_FILTER"), "InvalidOrder", R, "-1013"),
    (error(-1013, "Filter failure: NOTIONAL"), "BadRequest", R, "-1013"),
    (error(-1022, "Signature for this request is not valid."), "AuthenticationError", R, "-1022"),
    (error(-2014, "API-key format invalid.", 401), "AuthenticationError", R, "-2014"),
    (error(-2015, "Invalid API-key, IP, or permissions for action.", 401), "", R, "-2015"),
    (error(-1100, "Illegal characters found in a parameter."), "BadRequest", R, "-1100"),
    (error(-1102, "Mandatory parameter was not sent."), "BadRequest", R, "-1102"),
    (error(-1111, "Precision is over the maximum defined for this asset."), "BadRequest", R, "-1111"),
    (error(-1121, "Invalid symbol."), "BadSymbol", R, "-1121"),
    (error(-1130, "Data sent for parameter is not valid."), "BadRequest", R, "-1130"),
    (error(-2010, "Account has insufficient balance for requested action."), "InsufficientFunds", R, "-2010"),
    (error(-2010, "Order would immediately match and take."), "OrderImmediatelyFillable", R, "-2010"),
    (error(-2010, "Stop price would trigger immediately."), "OrderImmediatelyFillable", R, "-2010"),
    (error(-2010, "This action is disabled on this account."), "", R, "-2010"),
    (error(-2010, "Duplicate order sent."), "InvalidOrder", E, "-2010"),
    # not in the table, or not the venue's definitive no: unknown
    (error(-9999, "Something new."), "ExchangeError", A, "-9999"),
    (error(-2010, "Account has insufficient balance for requested action.", 500), "", A, "-2010"),
    (error(-1131, "recvWindow must be less than 60000"), "BadRequest", A, "-1131"),
]


@pytest.mark.parametrize(
    ("fault", "raised", "outcome", "code"),
    ROWS,
    ids=lambda v: str(v.get("kind")) + str(v.get("code", "")) if isinstance(v, dict) else None,
)
async def test_outcome_of_a_send_follows_the_table(
    open_venue: Open,
    exchange: LocalExchange,
    session: str,
    fault: dict[str, Any],
    raised: str,
    outcome: Outcome,
    code: str | None,
) -> None:
    venue = await open_venue(order_timeout_s=1.5 if fault["kind"] in ("hang", "answer_after") else 20.0)
    exchange.fault(path="/api/v3/order", method="POST", **fault)
    wanted = order()
    answer = await venue.submit(wanted)
    if session == "binance" and fault["kind"] in ("html_200", "html_502", "http_500", "503"):
        code = "-1000"  # there is no HTML on the WebSocket API
    assert (answer.outcome, answer.code) == (outcome, code), answer.detail
    assert raised in answer.detail or session != "ccxt"
    assert answer.report is None
    assert (answer.refusal is not None) == (outcome is R)
    assert "signature=" not in answer.detail.replace("signature=…", "")
    exchange.clear()
    sends = [r for r in exchange.received(client_order_id=wanted.client_order_id) if r["method"] == "POST"]
    assert len(sends) <= 1
    known = [row for row in exchange.account()["orders"] if row["clientOrderId"] == wanted.client_order_id]
    if outcome is R:
        assert not known, "a definitive refusal must be true"


@pytest.mark.parametrize("kind", ["", "accept_then_cut"])
async def test_the_time_of_the_first_byte_is_after_any_wait(
    open_venue: Open, exchange: LocalExchange, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(base, "RESERVE_WAIT_S", 20.0)
    venue = await open_venue(order_timeout_s=2.0)
    exchange.fault("429", path="/api/v3/order", method="POST", seconds=3)
    if kind:  # of the second order: the first is refused before
        exchange.fault(kind, path="/api/v3/order", method="POST")
    assert (await venue.submit(order(role=Role.EXIT))).code == "-1003"
    before_ns = time.time_ns()
    until_ns = before_ns + int(venue.wait_s() * 1e9)
    assert before_ns < until_ns - 100_000_000
    answer = await venue.submit(order(role=Role.EXIT))  # waits longer than for an answer
    assert answer.sent_ns is not None
    assert until_ns - 100_000_000 < answer.sent_ns < time.time_ns()
    assert answer.outcome is (A if kind else Outcome.ACK)


@pytest.mark.parametrize("kind", ["accept_then_cut", "truncate", "answer_after", "html_200"])
async def test_what_was_accepted_unheard_is_found_by_our_id(
    open_venue: Open, exchange: LocalExchange, kind: str
) -> None:
    venue = await open_venue(order_timeout_s=1.5 if kind == "answer_after" else 20.0)
    exchange.fault(
        kind, path="/api/v3/order", method="POST", seconds=4.0, **({"accept": True} if kind == "html_200" else {})
    )
    wanted = order()
    answer = await venue.submit(wanted)
    assert answer.outcome is A
    lookup = await venue.query("BTCUSDT", wanted.client_order_id)
    assert lookup.presence is Presence.FOUND
    assert lookup.report is not None
    assert lookup.report.state is State.FILLED


async def test_retry_after_is_obeyed(open_venue: Open, exchange: LocalExchange) -> None:
    venue = await open_venue()
    exchange.fault("429", path="/api/v3/order", method="POST", seconds=3)
    first = await venue.submit(order())
    assert (first.retry_after_s, first.refusal) == (3.0, Refusal.RATE_LIMITED)
    held = order()
    answer = await venue.submit(held)
    assert (answer.outcome, answer.code, answer.refusal) == (R, "RATE_VENUE", Refusal.RATE_LIMITED)
    assert answer.retry_after_s is not None
    assert (await venue.query("BTCUSDT", held.client_order_id)).presence is Presence.NO_ANSWER
    assert not exchange.received(client_order_id=held.client_order_id)

    async def goes_again() -> bool:
        return (await venue.submit(order())).outcome is Outcome.ACK

    await until(goes_again, deadline_s=8.0, every_s=0.1)


@pytest.mark.parametrize(
    "wrong", [{"quantity": "0"}, {"quantity": "-1"}, {"type": "limit"}, {"type": "stop"}, {"quantity": "NaN"}], ids=str
)
async def test_what_cannot_be_sent_leaves_no_byte(
    open_venue: Open, exchange: LocalExchange, wrong: dict[str, Any]
) -> None:
    from fks.model.order import OrderType

    if "type" in wrong:
        wrong = {"type": OrderType(wrong["type"])}
    bad = order(**wrong)
    answer = await (await open_venue()).submit(bad)
    assert (answer.outcome, answer.code) == (R, "CLIENT_VALIDATION")
    assert not exchange.received(client_order_id=bad.client_order_id)


async def test_a_query_counts_only_the_venues_own_no(open_venue: Open, exchange: LocalExchange) -> None:
    venue = await open_venue(read_timeout_s=1.5)
    known = order()
    assert (await venue.submit(known)).outcome is Outcome.ACK
    assert (await venue.query("BTCUSDT", order().client_order_id)).presence is Presence.NOT_FOUND
    for fault in (
        {"kind": "503"},
        {"kind": "drop", "count": 2},
        {"kind": "hang", "seconds": 3},
        {"kind": "html_200"},
        error(-2026, "archived"),
    ):
        exchange.fault(path="/api/v3/order", method="GET", **fault)
        assert (await venue.query("BTCUSDT", known.client_order_id)).presence is Presence.NO_ANSWER, fault
        exchange.clear()
    exchange.fault("hide_order", count=1)
    assert (await venue.query("BTCUSDT", known.client_order_id)).presence is Presence.NOT_FOUND
    assert (await venue.query("BTCUSDT", known.client_order_id)).presence is Presence.FOUND


async def test_a_caller_that_is_cancelled_gets_the_answer_from_the_events(
    open_venue: Open, exchange: LocalExchange, listen: Any
) -> None:
    venue: SpotVenue = await open_venue(order_timeout_s=10.0)
    events: Listener = listen(venue)
    await until(lambda: events.events)
    exchange.fault("lose_report", count=10)
    exchange.fault("answer_after", path="/api/v3/order", method="POST", seconds=2.0)
    wanted = order()
    sending = asyncio.create_task(venue.submit(wanted))
    await until(lambda: exchange.received(client_order_id=wanted.client_order_id))
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await until(lambda: events.of(Report) and events.of(Fill))
    report = events.of(Report)[-1]
    assert (report.client_order_id, report.state) == (wanted.client_order_id, State.FILLED)
    assert len(exchange.received(client_order_id=wanted.client_order_id)) == 1
