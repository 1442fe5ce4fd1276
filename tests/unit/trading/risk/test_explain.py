"""An explanation says of every check what it said, with its limit and the value it saw."""

from __future__ import annotations

import uuid
from dataclasses import replace
from decimal import Decimal
from typing import Any

from fks.config.settings import Risk
from fks.model.account import Account, Balance
from fks.model.codes import Code
from fks.model.kill import KillMode
from fks.model.order import OrderType, Role, Side, State, TimeInForce
from fks.trading.risk.check import CHECKS, Approved, RiskDenied, check
from fks.trading.risk.explain import CheckOutcome, CheckResult, as_payload, explain, figures, rules
from fks.trading.risk.intent import Intent
from fks.trading.risk.view import RiskView
from tests.support.order_values import an_instrument, an_order

D = Decimal
INTENT = Intent(
    intent_id=uuid.UUID(int=1),
    signal_id=None,
    account_id=1,
    venue="ccxt",
    exchange="binance",
    symbol="BTCUSDT",
    instance="one",
    role=Role.ENTRY,
    side=Side.BUY,
    type=OrderType.MARKET,
    time_in_force=TimeInForce.GTC,
    quantity=D(2),
)


def a_view(**changes: Any) -> RiskView:
    values: dict[str, Any] = {
        "now_ns": 1_767_225_600_000_000_000,
        "limits": Risk(),
        "account": Account(1, "main", "personal", "ccxt", "", "USDT", D(0)),
        "instrument": an_instrument(),
        "mark": D(100),
        "feed_age_s": 0.4,
        "orders_last_minute": 3,
        "loss_today": D(7),
        "open_orders": (an_order(client_order_id="o", symbol="ETHUSDT", state=State.WORKING),),
        "balances": {"USDT": Balance("USDT", D(1000), D(0)), "BTC": Balance("BTC", D(0), D(0))},
        "instruments": {"ETHUSDT": an_instrument(symbol="ETHUSDT", base="ETH")},
        "marks": {"ETHUSDT": D(10)},
    }
    return RiskView(**(values | changes))


def by_code(intent: Intent, view: RiskView) -> dict[Code, CheckResult]:
    return {result.code: result for result in explain(intent, view)}


def test_what_passed_shows_its_limit_and_the_value_seen() -> None:
    view = a_view()
    assert isinstance(check(INTENT, view), Approved)
    found = by_code(INTENT, view)
    assert list(found) == [code for code, _ in CHECKS]
    assert {result.outcome for result in found.values()} == {CheckOutcome.PASSED}
    limits = view.limits
    expected = {
        Code.FEED_STALE: (f"{limits.feed_age_max_s:g} s", "0.4 s"),
        Code.NOTIONAL_MAX_ORDER: (f"{limits.notional_max_order} USDT", "200"),
        Code.EXPOSURE_INSTRUMENT: (f"{limits.exposure_max_instrument} USDT", "200"),
        Code.ORDER_COUNT: (str(limits.orders_open_max), "1 open"),
        Code.RATE_ACCOUNT: (f"{limits.orders_per_minute} a minute", "3"),
        Code.BALANCE: ("900 USDT free of reservations", "200 needed"),
    }
    assert {code: (found[code].limit, found[code].observed) for code in expected} == expected
    assert found[Code.LOSS_DAY].observed.startswith("7 lost")
    assert found[Code.KILLED] == CheckResult(Code.KILLED, CheckOutcome.PASSED, rules()[Code.KILLED])


def test_every_failure_is_shown_with_its_denial_text() -> None:
    view = a_view(feed_age_s=99.0, kill=KillMode.FLATTEN)
    denied = check(INTENT, view, explain=True)
    assert isinstance(denied, RiskDenied)
    failed = [result for result in explain(INTENT, view) if result.outcome is CheckOutcome.FAILED]
    assert [(r.code, r.limit, r.observed) for r in failed] == [(d.code, d.limit, d.observed) for d in denied.all]
    assert [result.code for result in failed] == [Code.KILLED, Code.FEED_STALE]


def test_an_exit_is_exempt_where_only_entries_are_denied() -> None:
    sell = replace(INTENT, role=Role.EXIT, side=Side.SELL, quantity=D(1))
    view = a_view(held=D(1), position=D(1), feed_age_s=99.0, balances={"BTC": Balance("BTC", D(1), D(0))})
    assert isinstance(check(sell, view), Approved)
    found = by_code(sell, view)
    assert (found[Code.FEED_STALE].outcome, found[Code.FEED_STALE].observed) == (CheckOutcome.EXEMPT, "99.0 s")
    assert (found[Code.SHORT_FORBIDDEN].limit, found[Code.SHORT_FORBIDDEN].observed) == ("1 held", "1 sold")


def test_without_an_instrument_the_rest_is_skipped() -> None:
    found = by_code(INTENT, a_view(instrument=None))
    assert found[Code.INSTRUMENT_UNKNOWN].outcome is CheckOutcome.FAILED
    assert found[Code.NOTIONAL_MAX_ORDER].outcome is CheckOutcome.SKIPPED


def test_a_payload_keeps_figures_and_failures() -> None:
    payload = as_payload(explain(INTENT, a_view(kill=KillMode.FLATTEN)))
    assert payload[0][:2] == ["KILLED", "failed"]
    assert ["ORDER_COUNT", "passed", str(Risk().orders_open_max), "1 open"] in payload
    assert all(len(row) == 4 for row in payload)
    assert len(payload) < 20


def test_an_approved_intent_carries_the_same_figures() -> None:
    approved = check(INTENT, a_view())
    assert isinstance(approved, Approved)
    assert figures(approved) == as_payload(explain(INTENT, a_view()))
