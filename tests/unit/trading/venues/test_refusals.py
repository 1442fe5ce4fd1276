"""Typed refusals: each venue reports why it refused in words that no venue owns."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from fks.clock import FakeClock
from fks.model.instrument import Instrument
from fks.model.order import Answer, Order, OrderType, Outcome, Refusal, Side
from fks.trading.matching import CostModel
from fks.trading.venues.binance.classify import DEFINITIVE, REJECT_REASONS, CallCourse, classify
from fks.trading.venues.binance.dialect import report_of, report_of_event
from fks.trading.venues.paper import PaperVenue
from tests.support.scripted_venue import ScriptedVenue
from tests.support.venue_orders import order

D = Decimal
#: Binance's code and text (its errors page, read 2026-07), and what they mean
BINANCE: list[tuple[int, str, Refusal]] = [
    (-1003, "Too many requests.", Refusal.RATE_LIMITED),
    (-1015, "Too many new orders; current limit is 100 orders per 10 SECOND.", Refusal.RATE_LIMITED),
    (-1021, "Timestamp for this request is outside of the recvWindow.", Refusal.CLOCK_SKEW),
    (-1022, "Signature for this request is not valid.", Refusal.PERMISSION),
    (-2014, "API-key format invalid.", Refusal.PERMISSION),
    (-2015, "Invalid API-key, IP, or permissions for action.", Refusal.PERMISSION),
    (-1013, "Filter failure: PRICE_FILTER", Refusal.PRICE),
    (-1013, "Filter failure: PERCENT_PRICE", Refusal.PRICE),
    (-1013, "Filter failure: PERCENT_PRICE_BY_SIDE", Refusal.PRICE),
    (-1013, "Invalid price.", Refusal.PRICE),
    (-1013, "Filter failure: LOT_SIZE", Refusal.QUANTITY),
    (-1013, "Filter failure: MARKET_LOT_SIZE", Refusal.QUANTITY),
    (-1013, "Filter failure: NOTIONAL", Refusal.QUANTITY),
    (-1013, "Filter failure: MIN_NOTIONAL", Refusal.QUANTITY),
    (-1013, "Invalid quantity.", Refusal.QUANTITY),
    (-1013, "Filter failure: MAX_NUM_ORDERS", Refusal.TOO_MANY_ORDERS),
    (-1013, "Filter failure: MAX_NUM_ALGO_ORDERS", Refusal.TOO_MANY_ORDERS),
    (-1013, "Filter failure: EXCHANGE_MAX_NUM_ORDERS", Refusal.TOO_MANY_ORDERS),
    (-1013, "Market is closed.", Refusal.HALTED),
    (-1013, "Stop loss orders are not supported for this symbol.", Refusal.PERMISSION),
    (-1013, "Filter failure: MAX_POSITION", Refusal.OTHER),
    (-1111, "Parameter 'price' has too much precision.", Refusal.PRICE),
    (-1111, "Parameter 'stopPrice' has too much precision.", Refusal.PRICE),
    (-1111, "Parameter 'quantity' has too much precision.", Refusal.QUANTITY),
    (-1111, "Precision is over the maximum defined for this asset.", Refusal.QUANTITY),
    (-1116, "Invalid orderType.", Refusal.PERMISSION),
    (-1121, "Invalid symbol.", Refusal.OTHER),
    (-2010, "Account has insufficient balance for requested action.", Refusal.INSUFFICIENT_BALANCE),
    (-2010, "Order would trigger immediately.", Refusal.WOULD_TRIGGER),
    (-2010, "Stop price would trigger immediately.", Refusal.WOULD_TRIGGER),
    (-2010, "The relationship of the prices for the orders is not correct.", Refusal.WOULD_TRIGGER),
    (-2010, "Order would immediately match and take.", Refusal.WOULD_MATCH),
    (-2010, "Market is closed.", Refusal.HALTED),
    (-2010, "Order book liquidity is less than LOT_SIZE filter minimum quantity.", Refusal.UNAVAILABLE),
    (-2010, "Price * QTY is zero or less.", Refusal.QUANTITY),
    (-2010, "This action is disabled on this account.", Refusal.PERMISSION),
    (-2010, "Rest API trading is not enabled.", Refusal.PERMISSION),
    (-2010, "This account may not place or cancel orders.", Refusal.PERMISSION),
    (-2010, "This symbol is not permitted for this account.", Refusal.PERMISSION),
    (-2010, "OCO orders are not supported for this symbol.", Refusal.PERMISSION),
    (-2010, "Something new.", Refusal.OTHER),
    (-2038, "Order Amend (quantity reduction) failed.", Refusal.OTHER),
]


def on_wire(code: int, text: str, status: int = 400, retry_after_s: float | None = None) -> CallCourse:
    return CallCourse(True, status=status, payload={"code": code, "msg": text}, retry_after_s=retry_after_s)


@pytest.mark.parametrize(("code", "text", "refusal"), BINANCE, ids=lambda v: v if isinstance(v, int) else None)
def test_each_binance_refusal_has_its_meaning(code: int, text: str, refusal: Refusal) -> None:
    verdict = classify(on_wire(code, text), None)
    assert (verdict.outcome, verdict.refusal, verdict.code) == (Outcome.REFUSED, refusal, str(code))


def test_each_row_of_the_binance_table_is_reached() -> None:
    reached = {next(row for row in DEFINITIVE if row.fits(code, text)) for code, text, _ in BINANCE}
    reached.add(next(row for row in DEFINITIVE if row.fits(-2010, "Duplicate order sent.")))
    assert set(DEFINITIVE) == reached


@pytest.mark.parametrize(("status", "refusal"), [(429, Refusal.RATE_LIMITED), (418, Refusal.BANNED)])
def test_a_gate_status_names_its_wait(status: int, refusal: Refusal) -> None:
    verdict = classify(on_wire(-1003, "Too much request weight used.", status, 7.0), None)
    assert (verdict.outcome, verdict.refusal, verdict.retry_after_s) == (Outcome.REFUSED, refusal, 7.0)


def test_a_refusal_is_set_exactly_when_refused() -> None:
    wires = [
        CallCourse(),
        CallCourse(is_held_back=True),
        CallCourse(True),
        on_wire(-2010, "Duplicate order sent."),
        on_wire(-1007, "Timeout"),
        on_wire(-2010, "Account has insufficient balance for requested action.", 500),
    ]
    for wire in wires:
        verdict = classify(wire, OSError("x"), is_network=True)
        assert (verdict.refusal is not None) == (verdict.outcome is Outcome.REFUSED), verdict
    assert classify(CallCourse(is_held_back=True), None).refusal is Refusal.NOT_SENT
    assert classify(CallCourse(), OSError("x"), is_network=True).refusal is Refusal.UNAVAILABLE
    assert classify(CallCourse(), ValueError("x")).refusal is Refusal.OTHER


@pytest.mark.parametrize(
    ("reason", "refusal"), [*REJECT_REASONS.items(), ("NONE", Refusal.OTHER), ("NEW", Refusal.OTHER)]
)
def test_a_rejected_report_names_its_refusal(reason: str, refusal: Refusal) -> None:
    event: dict[str, Any] = {
        "s": "BTCUSDT",
        "c": "ours",
        "C": "",
        "S": "BUY",
        "o": "LIMIT",
        "q": "1",
        "p": "2",
        "x": "REJECTED",
        "X": "REJECTED",
        "i": 7,
        "z": "0",
        "T": 5,
        "r": reason,
    }
    assert report_of_event(event).refusal is refusal
    assert report_of_event({**event, "X": "NEW", "r": "NONE"}).refusal is None
    info = {"status": "REJECTED", "orderId": 1, "symbol": "BTCUSDT", "clientOrderId": "x"}
    assert report_of(info, source="rest").refusal is Refusal.OTHER


@pytest.mark.parametrize(
    ("expiry", "reason", "refusal"),
    [
        *(("REJECTED", reason, refusal) for reason, refusal in REJECT_REASONS.items()),
        ("REJECTED", "NONE", Refusal.OTHER),
        ("INSUFFICIENT_LIQUIDITY", "NONE", Refusal.PRICE),
        ("NONE", "NONE", None),
    ],
)
def test_an_expired_report_names_its_refusal(expiry: str, reason: str, refusal: Refusal | None) -> None:
    """An exit that went out with its entry expires when the venue refuses it at the entry's fill."""
    event = {"s": "BTCUSDT", "c": "ours", "C": "", "S": "SELL", "o": "STOP_LOSS", "q": "1", "p": "0", "i": 7, "z": "0"}
    event |= {"T": 5, "x": "EXPIRED", "X": "EXPIRED", "eR": expiry, "r": reason}
    assert report_of_event(event).refusal is refusal


BTC = Instrument("binance", "BTCUSDT", "BTC", "USDT", D("0.01"), D("0.00001"), D("0.00001"), D(9000), D(5))
PAPER: list[tuple[Order, Refusal]] = [
    (order("-1"), Refusal.OTHER),
    (order(symbol="NOPEUSDT"), Refusal.OTHER),
    (order(), Refusal.UNAVAILABLE),  # no price yet
    (order("5", side=Side.SELL, type=OrderType.LIMIT, price="100"), Refusal.INSUFFICIENT_BALANCE),
]


@pytest.mark.parametrize(("wanted", "refusal"), PAPER)
async def test_each_paper_refusal_has_its_meaning(wanted: Order, refusal: Refusal) -> None:
    venue = PaperVenue([BTC], CostModel(), {"USDT": D(100)}, FakeClock())
    assert (await venue.submit(wanted)).refusal is refusal
    assert (await venue.cancel(wanted)).refusal is Refusal.UNKNOWN_ORDER


async def test_a_paper_stop_that_is_passed_would_trigger() -> None:
    venue = PaperVenue([BTC], CostModel(), {"BTC": D(1)}, FakeClock())
    venue.on_price("BTCUSDT", D(90))
    stop = order("1", side=Side.SELL, type=OrderType.STOP, stop_price="95")
    assert (await venue.submit(stop)).refusal is Refusal.WOULD_TRIGGER


SCRIPTED: list[tuple[str, str, Refusal]] = [
    ("refuse:-1021", "-1021", Refusal.CLOCK_SKEW),
    ("refuse:-1003", "-1003", Refusal.RATE_LIMITED),
    ("refuse:-1015", "-1015", Refusal.RATE_LIMITED),
    ("refuse:429", "429", Refusal.RATE_LIMITED),
    ("refuse:RATE_VENUE", "RATE_VENUE", Refusal.RATE_LIMITED),
    ("refuse:418", "418", Refusal.BANNED),
    ("refuse:VENUE_DOWN", "VENUE_DOWN", Refusal.UNAVAILABLE),
    ("refuse:NOT_LEADER", "NOT_LEADER", Refusal.NOT_SENT),
    ("refuse:KILLED", "KILLED", Refusal.NOT_SENT),
    ("refuse:insufficient", "insufficient", Refusal.INSUFFICIENT_BALANCE),
    ("refuse:-2010", "-2010", Refusal.OTHER),
    ("refuse:-2010:insufficient_balance", "-2010", Refusal.INSUFFICIENT_BALANCE),
    ("refuse:-1013:halted", "-1013", Refusal.HALTED),
]


@pytest.mark.parametrize(("part", "code", "refusal"), SCRIPTED)
async def test_each_scripted_refusal_has_its_meaning(part: str, code: str, refusal: Refusal) -> None:
    venue = ScriptedVenue()
    venue.script.extend([part, part])
    venue.cancels.append(part)
    wanted = order()
    answers: list[Answer] = [
        await venue.submit(wanted),
        *await venue.submit_oco(wanted, wanted),
        await venue.cancel(wanted),
    ]
    assert {(a.outcome, a.code, a.refusal) for a in answers} == {(Outcome.REFUSED, code, refusal)}
