"""Every check by its row: just inside passes, just outside is denied, and what only reduces risk behaves as marked."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import fks
from fks.config.settings import Risk
from fks.model.account import Account, Balance, PortfolioLimit
from fks.model.codes import ENDS_RESTING, Code, Denial
from fks.model.instrument import Lot, PercentPrice
from fks.model.kill import KillMode
from fks.model.order import OrderType, Role, Side, State, TimeInForce
from fks.model.ports import VenueCapabilities
from fks.model.timeframe import NS
from fks.trading.risk.check import CHECKS, Approved, RiskDenied, check
from fks.trading.risk.intent import Intent, intent_of
from fks.trading.risk.limits import reduces
from fks.trading.risk.resting import RestingEntries
from fks.trading.risk.view import RiskView, VenueView
from tests.support.order_values import an_instrument, an_order

D = Decimal
NOW = 1_767_225_600_000_000_000
HOUR = 3_600_000_000_000
ACCOUNT = Account(1, "main", "personal", "ccxt", "", "USDT", D(0))


def an_intent(**changes: Any) -> Intent:
    values: dict[str, Any] = {
        "intent_id": uuid.UUID(int=1),
        "signal_id": None,
        "account_id": 1,
        "venue": "ccxt",
        "exchange": "binance",
        "symbol": "BTCUSDT",
        "instance": "one",
        "role": Role.ENTRY,
        "side": Side.BUY,
        "type": OrderType.MARKET,
        "time_in_force": TimeInForce.GTC,
        "quantity": D(1),
    }
    return Intent(**(values | changes))


def a_view(**changes: Any) -> RiskView:
    values: dict[str, Any] = {
        "now_ns": NOW,
        "limits": Risk(),
        "account": ACCOUNT,
        "instrument": an_instrument(),
        "mark": D(100),
        "balances": {"USDT": Balance("USDT", D(1000), D(0)), "BTC": Balance("BTC", D(0), D(0))},
    }
    return RiskView(**(values | changes))


def code_of(intent: Intent, view: RiskView) -> Code | None:
    verdict = check(intent, view)
    return None if isinstance(verdict, Approved) else verdict.denial.code


def resting(**changes: Any) -> Any:
    return an_order(**({"state": State.WORKING, "type": OrderType.LIMIT, "price": D(90), "quantity": D(1)} | changes))


def limited(**changes: Any) -> dict[str, Any]:
    return {"limits": Risk(**changes)}


def of_portfolio(kind: str = "var_95_1d", observed: str | None = "500", age_s: float | None = 10.0) -> dict[str, Any]:
    """A limit of 500 of a portfolio in the account's currency, and its measurement."""
    measured_ns = None if age_s is None else NOW - int(age_s * NS)
    value = None if observed is None else D(observed)
    limit = PortfolioLimit("main", "USDT", kind, D(500), 900.0, value, measured_ns, "XYZ: no stored bars")
    return {"portfolio_limits": (PortfolioLimit("main", "USDT", "weight_max", D(1), 900.0, D(1), NOW), limit)}


STOPLESS = VenueCapabilities(frozenset({OrderType.MARKET, OrderType.LIMIT}), frozenset(TimeInForce))
#: a spot exchange without lists of orders, such as Kraken
NO_OCO = {"venue": VenueView(capabilities=VenueCapabilities(frozenset(OrderType), frozenset(TimeInForce)))}
KEEPS = {
    "venue": VenueView(capabilities=VenueCapabilities(frozenset(OrderType), frozenset(TimeInForce), keeps_bracket=True))
}
LIMIT = {"type": OrderType.LIMIT, "price": D(100)}
ETH = {"instruments": {"ETHUSDT": an_instrument(symbol="ETHUSDT", base="ETH")}, "marks": {"ETHUSDT": D(10)}}
#: one ETH at 0.05 BTC and 100,000 USDT a BTC: 5,000 USDT
IN_BTC = {"symbol": "ETHBTC"}
IN_BTC_VIEW = {
    "instrument": an_instrument(symbol="ETHBTC", base="ETH", quote="BTC", notional_min=D("0.0001")),
    "mark": D("0.05"),
    "rates": {"BTC": D(100_000)},
    "balances": {"BTC": Balance("BTC", D(1), D(0))},
}
NO_STOPS = an_instrument(order_types=frozenset({"market", "limit", "take_profit"}))
#: an instrument whose exchange reports filters
FILTERED = {
    "instrument": an_instrument(
        market_lot=Lot(D("0.5"), D(2), D(0)), percent_price=PercentPrice(D("0.95"), D("1.05"), D("0.8"), D("1.2"))
    )
}


def of_two(legs: int, stops: int = 5) -> dict[str, Any]:
    """Return a view with a resting entry that will have a stop and a target: three of the exchange's orders, one a
    stop."""
    entry = resting(stop_loss=D(80), take_profit=D(120))
    instrument = an_instrument(orders_max=3 + legs, algo_orders_max=stops)
    return {"open_orders": (entry,), "instrument": instrument, "balances": {"USDT": Balance("USDT", D(10_000), D(0))}}


MOVING = limited(exposure_max_correlated=D(500)) | {"exposures": {"ETHUSDT": D(300)}, "correlations": {"ETHUSDT": 0.9}}
ENTERING = an_order(symbol="ETHUSDT", type=OrderType.LIMIT, price=D(200), quantity=D(1), side=Side.BUY)
EXITING = replace(ENTERING, side=Side.SELL)

#: code -> (intent changes, view changes that pass, view changes that deny) or with intent changes in both
ROWS: list[tuple[Code, dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (Code.KILLED, {}, {}, {}, {"kill": KillMode.FLATTEN}),
    (Code.NOT_LEADER, {}, {}, {}, {"is_leader": False}),
    (Code.JOURNAL_DOWN, {}, {}, {}, {"is_journal_up": False}),
    (Code.CLOCK_SKEW, {}, {"venue": VenueView(skew_ms=-500.0)}, {}, {"venue": VenueView(skew_ms=-500.1)}),
    (Code.CLOCK_SKEW, {}, {"venue": VenueView(skew_age_s=60.0)}, {}, {"venue": VenueView(skew_age_s=60.1)}),
    (Code.CLOCK_SKEW, {}, {}, {}, {"venue": VenueView(skew_ms=None)}),
    (Code.VENUE_DOWN, {}, {}, {}, {"venue": VenueView(is_connected=False)}),
    (Code.VENUE_DOWN, {}, {}, {}, {"venue": VenueView(state="DOWN", is_connected=False, skew_ms=None)}),
    (Code.VENUE_NOT_RECONCILED, {}, {}, {}, {"venue": VenueView(state="STALE")}),
    (Code.VENUE_PLAINTEXT, {}, {}, {}, {"venue": VenueView(is_plaintext=True)}),
    (Code.PORTFOLIO_LIMIT, {}, of_portfolio(), {}, of_portfolio(observed="500.01")),
    (Code.PORTFOLIO_LIMIT, {}, of_portfolio(age_s=900), {}, of_portfolio(age_s=901)),
    (Code.PORTFOLIO_LIMIT, {}, of_portfolio(), {}, of_portfolio(observed=None)),
    (Code.PORTFOLIO_LIMIT, {}, of_portfolio(), {}, of_portfolio(age_s=None)),
    (Code.PORTFOLIO_LIMIT, {}, of_portfolio(kind="gross_exposure", observed="400"), {}, of_portfolio(kind="gross_exposure", observed="400.01")),
    (Code.KEY_MAY_WITHDRAW, {}, {}, {}, {"venue": VenueView(key_fault="the API key may withdraw")}),
    (Code.VENUE_DISABLED, {}, {}, {}, {"venue": VenueView(is_enabled=False)}),
    (Code.VENUE_STAGE, {}, {}, {}, {"venue": VenueView(unproven="template 0.1.0")}),
    (Code.ACCOUNT_UNKNOWN, {}, {}, {}, {"account": None}),
    (Code.ACCOUNT_UNKNOWN, {}, {}, {}, {"account": replace(ACCOUNT, is_enabled=False)}),
    (Code.ACCOUNT_UNKNOWN, {}, {}, {}, {"account": replace(ACCOUNT, venue="paper")}),
    (Code.INSTRUMENT_UNKNOWN, {}, {"instrument": an_instrument(updated_ns=NOW - 24 * HOUR)}, {},
     {"instrument": an_instrument(updated_ns=NOW - 24 * HOUR - HOUR)}),
    (Code.INSTRUMENT_HALTED, {}, {}, {}, {"instrument": an_instrument(is_trading=False)}),
    (Code.FEED_STALE, {}, {"feed_age_s": 15.0}, {}, {"feed_age_s": 15.1}),
    (Code.FEED_STALE, {}, {}, {}, {"feed_age_s": None}),
    (Code.PRICE_MISSING, {}, {}, {}, {"mark": None}),
    (Code.UNKNOWN_ORDER, {}, {"open_orders": (an_order(state=State.UNKNOWN, symbol="ETHUSDT"),), **ETH}, {},
     {"open_orders": (an_order(state=State.UNKNOWN),)}),
    (Code.UNKNOWN_ORDER, {}, {}, {}, {"open_orders": (an_order(state=State.FILLED, reported_cum_qty=D(10)),)}),
    (Code.SIGNAL_EXPIRED, {"valid_until_ns": NOW}, {}, {"valid_until_ns": NOW - 1}, {}),
    (Code.TYPE_UNSUPPORTED, LIMIT, {}, {"type": OrderType.LIMIT}, {}),
    (Code.TYPE_UNSUPPORTED, {}, {}, {"price": D(100)}, {}),
    (Code.TYPE_UNSUPPORTED, {}, {}, {"type": OrderType.STOP, "stop_price": D(110)}, {"venue": VenueView(capabilities=STOPLESS)}),
    (Code.PRICE_TICK, LIMIT, {}, LIMIT | {"price": D("100.001")}, {}),
    (Code.PRICE_TICK, LIMIT | {"stop_loss": D(90)}, {}, LIMIT | {"stop_loss": D("90.005")}, {}),
    (Code.PRICE_BAND, LIMIT | {"price": D(110)}, {}, LIMIT | {"price": D("110.01")}, {}),
    (Code.PRICE_BAND, LIMIT | {"price": D(90)}, {}, LIMIT | {"price": D("89.99")}, {}),
    (Code.STOP_WRONG_SIDE, {"type": OrderType.STOP, "stop_price": D("100.01")}, {},
     {"type": OrderType.STOP, "stop_price": D(100)}, {}),
    (Code.STOP_WRONG_SIDE, {"stop_loss": D("99.99")}, {}, {"stop_loss": D(100)}, {}),
    (Code.STOP_WRONG_SIDE, {"take_profit": D("100.01")}, {}, {"take_profit": D(100)}, {}),
    (Code.QTY_STEP, {"quantity": D("1.001")}, {}, {"quantity": D("1.0005")}, {}),
    (Code.QTY_MIN, {"quantity": D("0.1")}, {"instrument": an_instrument(qty_min=D("0.1"))}, {"quantity": D("0.099")},
     {"instrument": an_instrument(qty_min=D("0.1"))}),
    (Code.QTY_MIN, {}, {}, {"quantity": D(0)}, {}),
    (Code.QTY_MAX, {"quantity": D(2)}, {"instrument": an_instrument(qty_max=D(2))}, {"quantity": D("2.001")},
     {"instrument": an_instrument(qty_max=D(2))}),
    (Code.NOTIONAL_MIN, {"quantity": D("0.05")}, {}, {"quantity": D("0.049")}, {}),
    (Code.NOTIONAL_MAX_ORDER, {"quantity": D(5)}, limited(notional_max_order=D(500)), {"quantity": D("5.001")},
     limited(notional_max_order=D(500))),
    (Code.BALANCE, {"quantity": D(10)}, {}, {"quantity": D("10.001")}, {}),
    (Code.BALANCE, {"quantity": D(9)}, {"open_orders": (resting(price=D(100), side=Side.BUY),)}, {"quantity": D("9.001")},
     {"open_orders": (resting(price=D(100), side=Side.BUY),)}),
    (Code.EXPOSURE_INSTRUMENT, {"quantity": D(2)}, limited(exposure_max_instrument=D(500)) | {"position": D(3)},
     {"quantity": D("2.001")}, limited(exposure_max_instrument=D(500)) | {"position": D(3)}),
    (Code.EXPOSURE_ACCOUNT, {"quantity": D(2)}, limited(exposure_max_account=D(500)) | {"exposures": {"ETHUSDT": D(300)}},
     {"quantity": D("2.001")}, limited(exposure_max_account=D(500)) | {"exposures": {"ETHUSDT": D(300)}}),
    (Code.EXPOSURE_CORRELATED, {"quantity": D(2)}, MOVING, {"quantity": D("2.001")}, MOVING),
    (Code.EXPOSURE_CORRELATED, {"quantity": D(3)}, MOVING | {"correlations": {"ETHUSDT": 0.69}},
     {"quantity": D(3)}, MOVING | {"correlations": {"ETHUSDT": 0.7}}),
    (Code.EXPOSURE_CORRELATED, {"quantity": D(3)}, MOVING | {"shorts": frozenset({"ETHUSDT"})},
     {"quantity": D(3)}, MOVING | {"shorts": frozenset({"ETHUSDT"}), "correlations": {"ETHUSDT": -0.8}}),
    (Code.EXPOSURE_CORRELATED, {"quantity": D(3)}, MOVING | {"correlations": {"ETHUSDT": -1.0}},
     {"quantity": D(3)}, MOVING | {"correlations": {}}),
    (Code.EXPOSURE_CORRELATED, {"quantity": D(3)}, {"exposures": {"ETHUSDT": D(300)}},
     {"quantity": D(3)}, MOVING | {"correlations": {"ETHUSDT": None}}),
    (Code.EXPOSURE_CORRELATED, {"quantity": D("3.9")}, MOVING | {"exposures": {}, **ETH, "open_orders": (EXITING,)},
     {"quantity": D("3.9")}, MOVING | {"exposures": {}, **ETH, "open_orders": (ENTERING,)}),
    (Code.ORDER_COUNT, {}, limited(orders_open_max=2) | {"open_orders": (resting(),)}, {},
     limited(orders_open_max=1) | {"open_orders": (resting(),)}),
    (Code.NO_PROTECTION, {}, {"venue": VenueView(capabilities=STOPLESS)}, {"stop_loss": D(90)},
     {"venue": VenueView(capabilities=STOPLESS)}),
    (Code.LOSS_DAY, {}, limited(loss_day_max=D(50)) | {"loss_today": D("49.99")}, {},
     limited(loss_day_max=D(50)) | {"loss_today": D(50)}),
    *((code, {}, {}, {}, {"prop": Denial(code, "rules", "why", "account", "see")}) for code in (
        Code.PROP_DAILY, Code.PROP_TRAILING, Code.PROP_SIZE, Code.PROP_NEWS, Code.PROP_HOURS, Code.PROP_OFF)),
    (Code.RATE_ACCOUNT, {}, limited(orders_per_minute=5) | {"orders_last_minute": 4}, {},
     limited(orders_per_minute=5) | {"orders_last_minute": 5}),
    (Code.RATE_VENUE, {}, {"venue": VenueView(wait_s=0.25)}, {}, {"venue": VenueView(wait_s=0.26)}),
    (Code.SELF_TRADE, LIMIT | {"price": D(99)}, {"open_orders": (resting(side=Side.SELL, price=D("99.01")),)},
     LIMIT | {"price": D("99.01")}, {"open_orders": (resting(side=Side.SELL, price=D("99.01")),)}),
    (Code.STRATEGY_DISABLED, {}, {}, {}, {"instance_state": "DISABLED"}),
    (Code.STRATEGY_CRASHED, {}, {}, {}, {"instance_state": "CRASHED"}),
    (Code.STALE_DECISION, {"decided_ns": NOW - 10 * NS, "max_age_s": 10.0}, {}, {"decided_ns": NOW - 10 * NS - 1, "max_age_s": 10.0}, {}),
    (Code.STALE_DECISION, {"decided_ns": NOW - 10 * NS, "max_age_s": 10.0}, {}, {"decided_ns": NOW - 10 * NS, "max_age_s": 10.0},
     {"venue": VenueView(skew_ms=1.0)}),
    (Code.GUARDIAN_DOWN, {}, {}, {}, {"is_guardian_alive": False}),
    (Code.ESCALATED, {}, {}, {}, {"escalated": ("orders", "9 deaths in 16 s")}),
    (Code.DISK_FULL, {}, {"disk_free_mb": 1000.0, "disk_free_min_mb": 1000.0},
     {}, {"disk_free_mb": 999.0, "disk_free_min_mb": 1000.0}),
    (Code.QTY_MAX, {"quantity": D(2)}, FILTERED, {"quantity": D("2.001")}, FILTERED),
    (Code.QTY_MAX, LIMIT | {"quantity": D(2), "stop_loss": D(90)}, FILTERED,
     LIMIT | {"quantity": D("2.001"), "stop_loss": D(90)}, FILTERED),
    (Code.QTY_MIN, {"quantity": D("0.5")}, FILTERED, {"quantity": D("0.499")}, FILTERED),
    (Code.QTY_STEP, {"quantity": D("1.2")}, {"instrument": an_instrument(market_lot=Lot(D(0), D(0), D("0.1")))},
     {"quantity": D("1.25")}, {"instrument": an_instrument(market_lot=Lot(D(0), D(0), D("0.1")))}),
    (Code.NOTIONAL_MIN, {"quantity": D("0.01")}, {"instrument": an_instrument(is_notional_min_for_market=False)},
     LIMIT | {"quantity": D("0.01")}, {"instrument": an_instrument(is_notional_min_for_market=False)}),
    (Code.PRICE_BAND, LIMIT | {"price": D(95)}, FILTERED, LIMIT | {"price": D("94.99")}, FILTERED),
    (Code.PRICE_BAND, {"take_profit": D(120)}, FILTERED, {"take_profit": D("120.01")}, FILTERED),
    (Code.TYPE_UNSUPPORTED, LIMIT, {"instrument": NO_STOPS}, {"type": OrderType.STOP, "stop_price": D(110)}, {"instrument": NO_STOPS}),
    (Code.NO_PROTECTION, {"take_profit": D(110)}, {"instrument": NO_STOPS}, {"stop_loss": D(90)}, {"instrument": NO_STOPS}),
    (Code.NO_PROTECTION, {"stop_loss": D(90), "take_profit": D(110), "quantity": D("0.06")}, {},
     {"stop_loss": D(90), "take_profit": D(110), "quantity": D("0.055")}, {}),
    (Code.NO_PROTECTION, {"stop_loss": D(90), "quantity": D("0.057")}, {"fee_in_base": D("0.017")},
     {"stop_loss": D(90), "quantity": D("0.056")}, {"fee_in_base": D("0.017")}),
    (Code.NO_PROTECTION, {"stop_loss": D(90), "quantity": D("0.056")}, {},
     {"stop_loss": D(90), "quantity": D("0.056")}, {"fee_in_base": D("0.001")}),
    (Code.NO_PROTECTION, {"stop_loss": D(90)}, {"instrument": an_instrument(has_oco=False)},
     {"stop_loss": D(90), "take_profit": D(110)}, {"instrument": an_instrument(has_oco=False)}),
    (Code.NO_PROTECTION, {"stop_loss": D(90)}, NO_OCO, {"stop_loss": D(90), "take_profit": D(110)}, NO_OCO),
    (Code.NO_PROTECTION, {"stop_loss": D(90), "take_profit": D(110)}, KEEPS,
     {"stop_loss": D(90), "take_profit": D(110)}, NO_OCO),
    (Code.ORDER_COUNT, {"stop_loss": D(90), "take_profit": D(110)}, of_two(legs=2),
     LIMIT | {"stop_loss": D(90), "take_profit": D(110)}, of_two(legs=2)),
    (Code.ORDER_COUNT, LIMIT, of_two(legs=2, stops=1), {"stop_loss": D(90)}, of_two(legs=2, stops=1)),
    (Code.PYRAMIDING, {}, {"entries": 1, "pyramiding": 2}, {}, {"entries": 1}),
    (Code.PYRAMIDING, {"instance": ""}, {"entries": 1}, {}, {"entries": 2, "pyramiding": 2}),
    (Code.PRICE_MISSING, {}, {"unvalued": ()}, {}, {"unvalued": ("ETHUSDT",)}),
    (Code.PRICE_MISSING, {}, {"open_orders": (an_order(symbol="ETHUSDT"),), **ETH}, {},
     {"open_orders": (an_order(symbol="ETHUSDT"),), **ETH, "marks": {}}),
    (Code.PRICE_MISSING, {}, {"open_orders": (an_order(symbol="ETHUSDT"),), **ETH}, {},
     {"open_orders": (an_order(symbol="ETHUSDT"),)}),
    (Code.PRICE_MISSING, IN_BTC, IN_BTC_VIEW, IN_BTC, IN_BTC_VIEW | {"rates": {}}),
    (Code.NOTIONAL_MAX_ORDER, IN_BTC, IN_BTC_VIEW | limited(notional_max_order=D(5000)), IN_BTC | {"quantity": D("1.001")},
     IN_BTC_VIEW | limited(notional_max_order=D(5000))),
    (Code.EXPOSURE_INSTRUMENT, IN_BTC, IN_BTC_VIEW | limited(exposure_max_instrument=D(10000)) | {"position": D(1)},
     IN_BTC | {"quantity": D("1.001")}, IN_BTC_VIEW | limited(exposure_max_instrument=D(10000)) | {"position": D(1)}),
    (Code.EXPOSURE_ACCOUNT, IN_BTC, IN_BTC_VIEW | limited(exposure_max_account=D(6000)) | {"exposures": {"BTCUSDT": D(1000)}},
     IN_BTC | {"quantity": D("1.001")}, IN_BTC_VIEW | limited(exposure_max_account=D(6000)) | {"exposures": {"BTCUSDT": D(1000)}}),
    (Code.BALANCE, {"quantity": D(8)}, {"coins_of_others": D(200)}, {"quantity": D("8.001")}, {"coins_of_others": D(200)}),
    (Code.INCIDENT_OPEN, {}, {"incidents": {"ETH": 1}}, {}, {"incidents": {"BTC": 1}}),
    (Code.INCIDENT_OPEN, {}, {}, {}, {"incidents": {"USDT": 2}}),
    (Code.REDUCE_ONLY, {}, {}, {"must_reduce": True}, {}),
    (Code.NO_POSITION, {"is_add": True}, {"entries": 1, "pyramiding": 2}, {"is_add": True}, {"pyramiding": 2}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[f"{index}-{row[0]}" for index, row in enumerate(ROWS)])
def test_just_inside_passes_and_just_outside_is_denied(row: Any) -> None:
    code, inside_intent, inside_view, outside_intent, outside_view = row
    assert code_of(an_intent(**inside_intent), a_view(**inside_view)) is None
    intent, view = an_intent(**outside_intent), a_view(**outside_view)
    verdict = check(intent, view)
    assert isinstance(verdict, RiskDenied)
    assert verdict.denial.code is code
    for text in (verdict.denial.limit, verdict.denial.observed, verdict.denial.scope, verdict.denial.remedy):
        assert text


SHORT = VenueCapabilities(frozenset(OrderType), frozenset(TimeInForce), can_short=True)


def test_spot_is_never_sold_below_what_is_held() -> None:
    held = {"held": D(2), "balances": {"BTC": Balance("BTC", D(2), D(0))}}
    assert code_of(an_intent(side=Side.SELL, quantity=D(2)), a_view(**held)) is None
    assert code_of(an_intent(side=Side.SELL, quantity=D("2.001")), a_view(**held)) is Code.BALANCE
    rich = {"held": D(1), "balances": {"BTC": Balance("BTC", D(9), D(0))}}
    assert code_of(an_intent(side=Side.SELL, quantity=D(2)), a_view(**rich)) is Code.SHORT_FORBIDDEN
    assert code_of(an_intent(side=Side.SELL), a_view(venue=VenueView(capabilities=SHORT))) is None


@pytest.mark.parametrize(
    ("changes", "is_denied"),
    [
        ({"quantity": D("1.5")}, False),
        ({"quantity": D("1.501")}, True),
        ({"side": Side.BUY}, True),
        ({"stop_loss": D(110)}, True),
        ({"must_reduce": False, "quantity": D("1.501")}, False),
    ],
)
def test_an_order_that_must_reduce_is_denied_when_it_could_do_more(changes: dict[str, Any], is_denied: bool) -> None:
    """Of 2 that are held, half a unit is sold by another order already."""
    selling = an_order(client_order_id="s", state=State.WORKING, side=Side.SELL, quantity=D("0.5"))
    view = a_view(
        held=D(2),
        position=D(2),
        open_orders=(selling,),
        venue=VenueView(capabilities=SHORT),
        balances={"USDT": Balance("USDT", D(1000), D(0)), "BTC": Balance("BTC", D(2), D(0))},
    )
    intent = an_intent(**({"side": Side.SELL, "quantity": D(1), "is_by_person": True, "must_reduce": True} | changes))
    verdict = check(intent, view, only={Code.REDUCE_ONLY})
    assert isinstance(verdict, RiskDenied) is is_denied


@pytest.mark.parametrize(("side", "held"), [(Side.SELL, D(2)), (Side.BUY, D(-2))])
def test_a_person_never_closes_beyond_flat_beside_a_stop(side: Side, held: Decimal) -> None:
    stop = an_order(
        client_order_id="s",
        state=State.ACCEPTED,
        side=side,
        role=Role.STOP_LOSS,
        type=OrderType.STOP,
        stop_price=D(90),
        quantity=D(2),
        is_reduce_only=True,
    )
    shorts = {"venue": VenueView(capabilities=SHORT), "held": held, "position": held}
    order = an_intent(side=side, quantity=D(1), is_by_person=True, type=OrderType.LIMIT, price=D(100))
    assert code_of(order, a_view(**shorts)) is None
    verdict = check(order, a_view(**shorts, open_orders=(stop,)))
    assert isinstance(verdict, RiskDenied)
    assert (verdict.denial.code, verdict.denial.observed) == (Code.SHORT_FORBIDDEN, "1 beside 2 of its protection")
    half = replace(stop, quantity=D(1))
    assert code_of(order, a_view(**shorts, open_orders=(half,))) is None
    assert code_of(order, a_view(venue=VenueView(capabilities=SHORT), open_orders=(stop,))) is None


def test_an_order_only_reduces_after_all_that_may_still_fill() -> None:
    sell = an_intent(side=Side.SELL, quantity=D(2))
    assert reduces(sell, a_view(held=D(2)))
    assert not reduces(sell, a_view(held=D("1.999")))
    assert not reduces(sell, a_view(held=D(3), open_orders=(resting(side=Side.SELL, quantity=D(2)),)))
    assert not reduces(replace(sell, stop_loss=D(110)), a_view(held=D(2)))
    dormant = an_order(state=State.INTENDED, side=Side.SELL, is_reduce_only=True)
    assert reduces(sell, a_view(held=D(2), open_orders=(dormant,)))


#: Of the codes that have a row: nothing can be sent, the venue takes nothing, or all is stopped. Nothing else keeps a
#: position from being closed.
DENIES_EXITS = {Code.NOT_LEADER, Code.JOURNAL_DOWN, Code.VENUE_DOWN, Code.ACCOUNT_UNKNOWN}
DENIES_EXITS |= {Code.INSTRUMENT_HALTED, Code.KILLED}
EXIT = an_intent(side=Side.SELL, role=Role.EXIT, quantity=D(1))
DENYING: dict[Code, dict[str, Any]] = {row[0]: row[4] for row in ROWS if not row[3] and "open_orders" not in row[4]}


@pytest.mark.parametrize("code", sorted(DENYING))
def test_an_exit_is_denied_by_the_marked_codes_alone(code: Code) -> None:
    seen = code_of(EXIT, a_view(**({"held": D(1)} | DENYING[code])))
    assert seen is (code if code in DENIES_EXITS else None)


def test_a_person_may_exit_while_killed() -> None:
    """Under a kill that keeps positions; one that closes them closes them alone."""
    view = a_view(held=D(1), kill=KillMode.HELD)
    assert code_of(EXIT, view) is Code.KILLED
    assert code_of(replace(EXIT, is_by_person=True), view) is None
    assert code_of(an_intent(is_by_person=True), view) is Code.KILLED
    assert code_of(replace(EXIT, is_by_person=True), replace(view, kill=KillMode.FLATTEN)) is Code.KILLED


def test_every_check_is_tested_and_the_order_is_the_enum_s() -> None:
    checked = [code for code, _ in CHECKS]
    assert checked == [code for code in Code if code in set(checked)]
    tested = {row[0] for row in ROWS} | {Code.SHORT_FORBIDDEN}
    assert tested == set(checked)


#: reserved: stored rows and other programs may have them, nothing denies with them yet
RESERVED = frozenset(
    {
        *(Code.SESSION_CLOSED, Code.SIGNAL_UNAPPROVED, Code.LEVERAGE, Code.EXPOSURE_STRATEGY),
        *(Code.POSITION_COUNT, Code.RISK_PER_TRADE, Code.LOSS_WEEK, Code.DRAWDOWN, Code.PROP_CONSISTENCY),
        *(Code.LOSS_STREAK, Code.COOLDOWN, Code.RATE_STRATEGY, Code.BORROW, Code.MANUAL_HOLD),
    }
)


def test_every_code_is_given_or_reserved() -> None:
    package = Path(fks.__file__).parent
    files = [path for path in package.rglob("*.py") if path.name != "codes.py"]
    text = "\n".join(path.read_text() for path in files)
    given = {Code[name] for name in re.findall(r"\bCode\.([A-Z0-9_]+)\b", text) if name in Code.__members__}
    assert set(Code) - given == RESERVED


def test_explain_lists_every_failure_and_the_first_decides() -> None:
    verdict = check(an_intent(), a_view(kill=KillMode.HELD, mark=None), explain=True)
    assert isinstance(verdict, RiskDenied)
    assert [denial.code for denial in verdict.all][:2] == [Code.KILLED, Code.PRICE_MISSING]
    assert verdict.denial.code is Code.KILLED


@pytest.mark.parametrize(
    ("side", "resting_at", "is_met"),
    [
        (Side.BUY, "100.01", False),
        (Side.BUY, "100", True),
        (Side.BUY, "99", True),
        (Side.SELL, "99.99", False),
        (Side.SELL, "100", True),
        (Side.SELL, "101", True),
    ],
)
def test_a_market_order_meets_only_what_rests_at_the_market(side: Side, resting_at: str, is_met: bool) -> None:
    other = resting(side=side.opposite, price=D(resting_at))
    intent = an_intent(side=side, is_by_person=True)
    verdict = check(intent, a_view(open_orders=(other,)), only={Code.SELF_TRADE})
    assert isinstance(verdict, RiskDenied) is is_met
    assert isinstance(check(intent, a_view(open_orders=(other,), mark=None), only={Code.SELF_TRADE}), RiskDenied)


def test_two_orders_cannot_spend_the_same_money() -> None:
    first = an_order(quantity=D(6), state=State.SENDING)
    spent: Callable[..., RiskView] = a_view
    assert code_of(an_intent(quantity=D(5)), spent(open_orders=(first,))) is Code.BALANCE
    assert code_of(an_intent(quantity=D(4)), spent(open_orders=(first,))) is None


def test_exposure_counts_orders_that_may_still_fill() -> None:
    limits = limited(exposure_max_instrument=D(500))
    buying = resting(side=Side.BUY, quantity=D(3))
    assert code_of(an_intent(quantity=D(2)), a_view(**limits, open_orders=(buying,))) is None
    assert code_of(an_intent(quantity=D(3)), a_view(**limits)) is None
    assert code_of(an_intent(quantity=D(3)), a_view(**limits, open_orders=(buying,))) is Code.EXPOSURE_INSTRUMENT


def test_sells_that_may_still_fill_are_not_sold_again() -> None:
    rich = {"held": D(3), "balances": {"BTC": Balance("BTC", D(9), D(0))}}
    selling = resting(side=Side.SELL, quantity=D(2), price=D(120))
    sell = an_intent(side=Side.SELL, quantity=D(2))
    assert code_of(sell, a_view(**rich)) is None
    assert code_of(sell, a_view(**rich, open_orders=(selling,))) is Code.SHORT_FORBIDDEN
    assert code_of(replace(sell, quantity=D(1)), a_view(**rich, open_orders=(selling,))) is None


def test_an_oco_is_reserved_once() -> None:
    legs = tuple(
        an_order(
            client_order_id=name,
            side=Side.SELL,
            type=kind,
            state=State.WORKING,
            group_id="g",
            quantity=D(2),
            price=D(120),
        )
        for name, kind in (("a", OrderType.STOP), ("b", OrderType.LIMIT))
    )
    assert a_view(open_orders=legs).reserved("BTC") == 2
    assert a_view(open_orders=legs).pending("BTCUSDT", Side.SELL) == 2


def test_a_disabled_account_does_not_hold_an_exit_up() -> None:
    view = a_view(held=D(1), account=replace(ACCOUNT, is_enabled=False))
    assert code_of(EXIT, view) is None
    assert code_of(an_intent(), view) is Code.ACCOUNT_UNKNOWN


# ── entries that rest ────────────────────────────────────────────────────────────────────────────
RESTING_ENTRY = intent_of(resting())


def test_codes_end_what_rests_at_once_after_ten_seconds_or_never() -> None:
    at_once = {code for code, after_s in ENDS_RESTING.items() if after_s == 0}
    assert {code for code in Code if code.startswith("PROP_")} < at_once
    assert at_once >= {Code.LOSS_DAY, Code.ESCALATED, Code.KILLED}
    later = {code: after_s for code, after_s in ENDS_RESTING.items() if after_s}
    assert later == dict.fromkeys((Code.FEED_STALE, Code.GUARDIAN_DOWN, Code.INCIDENT_OPEN), 10.0)


@pytest.mark.parametrize(
    ("changes", "code", "after_s"),
    [
        ({"loss_today": D(10**6)}, Code.LOSS_DAY, 0.0),
        ({"kill": KillMode.HELD}, Code.KILLED, 0.0),
        ({"escalated": ("orders", "it died too often")}, Code.ESCALATED, 0.0),
        ({"is_guardian_alive": False}, Code.GUARDIAN_DOWN, 10.0),
        ({"feed_age_s": None}, Code.FEED_STALE, 10.0),
        ({"incidents": {"USDT": 1}}, Code.INCIDENT_OPEN, 10.0),
        ({"mark": None}, None, 0.0),
        ({"orders_last_minute": 10**6}, None, 0.0),
    ],
)
def test_an_entry_ends_once_its_code_held_for_its_time(
    changes: dict[str, Any], code: Code | None, after_s: float
) -> None:
    watch, view = RestingEntries(0.0), a_view(**changes)
    seen = [watch.due(RESTING_ENTRY, view, now_s) for now_s in (100.0, 109.9, 110.0)]
    first = 0 if after_s == 0 else 2
    assert [None if no is None else no.code for no in seen] == [None] * first + [code] * (3 - first)


def test_the_time_of_a_code_begins_again_when_it_passed() -> None:
    watch, down, up = RestingEntries(0.0), a_view(is_guardian_alive=False), a_view()
    assert [
        watch.due(RESTING_ENTRY, view, at_s) for view, at_s in ((down, 0.0), (up, 9.0), (down, 11.0), (down, 20.9))
    ] == [None] * 4
    assert watch.due(RESTING_ENTRY, down, 21.0) is not None
    watch.keep(())
    assert watch.due(RESTING_ENTRY, down, 22.0) is None


@pytest.mark.parametrize("changes", [{"feed_age_s": None}, {"is_guardian_alive": False}])
def test_processes_that_start_with_the_order_manager_end_nothing_before_they_had_their_time(
    changes: dict[str, Any],
) -> None:
    watch, view = RestingEntries(60.0), a_view(**changes)
    assert [watch.due(RESTING_ENTRY, view, at_s) for at_s in (1.0, 20.0, 69.9)] == [None] * 3
    assert watch.due(RESTING_ENTRY, view, 70.0) is not None
    lost = a_view(loss_today=D(10**6))
    assert RestingEntries(60.0).due(RESTING_ENTRY, lost, 1.0) is not None, "a limit is known from the start"


def test_what_only_reduces_rests_on() -> None:
    sale = replace(RESTING_ENTRY, side=Side.SELL, is_by_person=True)
    assert RestingEntries(0.0).due(sale, a_view(held=D(1), loss_today=D(10**6)), 0.0) is None
