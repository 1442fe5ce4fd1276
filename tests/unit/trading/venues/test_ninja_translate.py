"""Orders of FKS as messages of a NinjaTrader bridge and back: names, codes, states, quantities."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.config.settings import Settings
from fks.model.account import Environment, VenueIdentity, keeps_bracket
from fks.model.futures import Contract
from fks.model.ids import leg_id
from fks.model.ninja import NinjaEvent
from fks.model.order import Answer, Order, OrderType, Outcome, Refusal, Role, Side, State, TimeInForce
from fks.trading.venues.ninja import translate as t
from fks.trading.venues.ninja.venue import CAPABILITIES
from tests.support.order_values import an_order

D = Decimal
ID = "e9ebdc8e3ad051c98205e0dc04abf493"
NOW_NS = 1_738_594_800_000_000_000  # 2025-02-03 15:00 UTC: ES 03-25 is the front month
WHO = VenueIdentity(Environment.SIM, "sim/Sim101")
#: codes of a nack, and those of requests: what a bridge may answer
CODES = (
    "bad_field", "missing_field", "unknown_field", "unknown_instrument", "expired_contract", "instrument_not_allowed",
    "unknown_account", "account_not_allowed", "expired", "duplicate_mismatch", "duplicate_recovered", "bad_bracket",
    "no_stop", "too_far", "no_quote", "qty_limit", "position_limit", "opposite_position", "daily_loss", "drawdown",
    "outside_session", "news_block", "automation_forbidden", "not_ready", "replaying", "not_connected",
    "price_feed_lost", "flattening", "rate_limited", "not_control", "halted", "not_submitted", "submit_failed",
    "journal_error", "unknown_id", "nothing_to_do", "timeout",
)  # fmt: skip
NOT_FINAL = (
    "no_quote", "not_ready", "replaying", "not_connected", "price_feed_lost", "flattening", "rate_limited",
    "not_control", "halted",
)  # fmt: skip


def order(**changes: Any) -> Order:
    values: dict[str, Any] = {
        "client_order_id": ID,
        "venue": "ninja",
        "symbol": "ES 03-25",
        "quantity": D(2),
        "stop_loss": D("4490.00"),
        "take_profit": D(4520),
    }
    return an_order(**(values | changes))


def body_of(wanted: Order) -> dict[str, Any]:
    found = t.signal_body(wanted, "Sim101", NOW_NS)
    assert isinstance(found, dict), found
    return found


def event(kind: str, **body: Any) -> NinjaEvent:
    return NinjaEvent("a" * 32, 1, kind, "Sim101", ID, body, NOW_NS)


# ── out ──────────────────────────────────────────────────────────────────────────────────────────
def test_an_entry_travels_with_its_stop_and_target() -> None:
    assert body_of(order(instance="")) == {
        "account": "Sim101", "instrument": "ES 03-25", "qty": 2, "action": "buy", "type": "market", "tif": "gtc",
        "sl_price": "4490", "tp_price": "4520",
    }  # fmt: skip


@pytest.mark.parametrize("role", [Role.EXIT, Role.KILL])
def test_what_closes_is_an_exit_with_its_quantity(role: Role) -> None:
    wanted = order(role=role, side=Side.SELL, stop_loss=None, take_profit=None, instance="")
    assert body_of(wanted) == {
        "account": "Sim101", "instrument": "ES 03-25", "qty": 2, "action": "exit", "type": "market",
    }  # fmt: skip


def test_a_persons_order_that_only_reduces_is_an_exit() -> None:
    wanted = order(role=Role.ORDER, side=Side.SELL, stop_loss=None, take_profit=None, is_reduce_only=True)
    assert body_of(wanted)["action"] == "exit"
    assert body_of(replace(wanted, is_reduce_only=False))["action"] == "sell"
    assert body_of(replace(wanted, type=OrderType.LIMIT, price=D(4510)))["action"] == "sell"


def test_an_exit_of_an_expired_contract_is_not_refused_here() -> None:
    assert body_of(order(role=Role.EXIT, symbol="ES 12-24", stop_loss=None, take_profit=None))["action"] == "exit"


@pytest.mark.parametrize(
    ("changes", "refusal", "text"),
    [
        ({"quantity": D("0.5")}, Refusal.QUANTITY, "only whole ones"),
        ({"symbol": "ESH25"}, Refusal.OTHER, "write ES 03-25"),
        ({"symbol": "AAPL"}, Refusal.OTHER, "no futures contract"),
        ({"symbol": "ES 12-24"}, Refusal.OTHER, "the current contract is ES 03-25"),
        ({"time_in_force": TimeInForce.FOK}, Refusal.OTHER, "not offered"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_a_byte(changes: dict[str, Any], refusal: Refusal, text: str) -> None:
    answer = t.signal_body(order(**changes), "Sim101", NOW_NS)
    assert isinstance(answer, Answer)
    assert (answer.outcome, answer.refusal) == (Outcome.REFUSED, refusal)
    assert text in answer.detail


@given(st.decimals(4000, 5000, places=3), st.sampled_from(list(Side)))
def test_prices_are_on_the_tick_and_never_worse_than_asked(price: Decimal, side: Side) -> None:
    found = body_of(
        order(side=side, type=OrderType.STOP_LIMIT, price=price, stop_price=price, stop_loss=price, take_profit=price)
    )
    values = {name: D(found[name]) for name in ("price", "stop_price", "sl_price", "tp_price")}
    assert all(value % Contract.of("ES", 2025, 3).spec.tick == 0 for value in values.values())
    sign = side.sign
    assert (price - values["price"]) * sign >= 0  # a limit is never worse
    assert (values["stop_price"] - price) * sign >= 0  # a stop is never nearer
    assert (price - values["sl_price"]) * sign >= 0
    assert (values["tp_price"] - price) * sign >= 0


# ── back ─────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("code", CODES)
def test_every_code_of_the_bridge_has_a_reason(code: str) -> None:
    answer = t.refusal_of(code, "why")
    if code in t.EXISTS:
        assert answer.outcome is Outcome.EXISTS
        return
    assert code in t.REFUSALS
    assert answer.outcome is Outcome.REFUSED
    assert answer.refusal is not None
    if code in NOT_FINAL:
        assert answer.refusal.is_passing


def test_a_code_of_a_newer_bridge_is_a_refusal_still() -> None:
    assert t.refusal_of("brand_new", "").refusal is Refusal.OTHER


@pytest.mark.parametrize(
    ("name", "role", "leg"),
    [(f"FKS:{ID}:E", "E", ""), (f"FKS:{ID}:S", "S", "S"), (f"FKS:{ID}:T12", "T", "T12")],
)
def test_names_of_platform_orders(name: str, role: str, leg: str) -> None:
    found = t.parse_name(name)
    assert found is not None
    assert (found.signal_id, found.role, found.leg, str(found)) == (ID, role, leg, name)
    assert found.client_order_id == (leg_id(ID, leg) if leg else ID)


def test_legs_of_another_programs_signal_have_no_id_of_our_form() -> None:
    found = t.parse_name("FKS:s0123456789ab-67a0d8f0:S")
    assert found is not None
    assert found.client_order_id == "FKS:s0123456789ab-67a0d8f0:S"


@pytest.mark.parametrize("name", ["", "Close", "FKS:x:Q", "FKS:x:S1", f"FKS:{ID}{ID}:E"])
def test_names_that_are_not_ours(name: str) -> None:
    assert t.parse_name(name) is None


def test_a_changed_leg_reports_its_quantity_and_price() -> None:
    name = t.parse_name(f"FKS:{ID}:S2")
    assert name is not None
    given = event("order", name=str(name), state="ChangePending", qty=1, filled=0, limit=0, stop="4489.75")
    report = t.report_of(name, given.body, "ES 03-25", NOW_NS, "stream")
    assert report is not None
    assert report.leg is not None
    assert (report.state, report.quantity, report.price) == (State.WORKING, 1, None)
    assert (report.leg.role, report.leg.number, report.leg.stop_price) == (Role.STOP_LOSS, 2, D("4489.75"))


def test_a_state_that_proves_nothing_is_no_report() -> None:
    name = t.parse_name(f"FKS:{ID}:E")
    assert name is not None
    assert t.report_of(name, {"state": "Unknown", "qty": 1, "filled": 0}, "ES 03-25", NOW_NS, "stream") is None


def test_a_signal_that_was_proven_absent_is_rejected_as_not_sent() -> None:
    report = t.signal_report(event("signal", state="not_submitted"), "ES 03-25")
    assert report is not None
    assert (report.state, report.refusal, report.code) == (State.REJECTED, Refusal.NOT_SENT, "not_submitted")
    assert t.signal_report(event("signal", state="ambiguous"), "ES 03-25") is None


def test_an_execution_is_a_fill_with_commission_and_fee() -> None:
    given = event(
        "exec", name=f"FKS:{ID}:T", exec_id="X1", op="add", side="sell", qty=2, price="4520.25", commission="2.10",
        fee="0.40", time_ms=NOW_NS // 1_000_000, sod=False,
    )  # fmt: skip
    fill = t.fill_of(given, "ES 03-25", account_id=1, identity=WHO, source="stream")
    assert fill is not None
    assert (fill.client_order_id, fill.side, fill.quantity, fill.price) == (leg_id(ID, "T"), Side.SELL, 2, D("4520.25"))
    assert (fill.fee, fill.fee_currency) == (D("2.50"), "USD")


@pytest.mark.parametrize("changes", [{"op": "update"}, {"op": "remove"}, {"sod": True}, {"qty": 0}])
def test_amendments_and_start_of_day_positions_are_no_fills(changes: dict[str, Any]) -> None:
    body = {"name": "", "exec_id": "X1", "op": "add", "side": "buy", "qty": 1, "price": 1, "time_ms": 1} | changes
    assert t.fill_of(event("exec", **body), "ES 03-25", account_id=1, identity=WHO, source="rest") is None


def test_an_execution_without_our_name_is_external() -> None:
    body = {"name": "Close", "exec_id": "X1", "op": "add", "side": "buy", "qty": 1, "price": 1, "time_ms": 1}
    fill = t.fill_of(event("exec", **body), "ES 03-25", account_id=1, identity=WHO, source="rest")
    assert fill is not None
    assert fill.client_order_id is None


def test_holdings_are_cash_and_contracts_by_their_code() -> None:
    positions = [
        {"instrument": "ES 03-25", "side": "short", "qty": 2},
        {"instrument": "NQ 03-25", "side": "long", "qty": 1},
    ]
    status = {"at_ms": 5, "accounts": [{"name": "Sim101", "values": {"CashValue": "50000.5"}, "positions": positions}]}
    account = t.account_in(status, "Sim101")
    assert account is not None
    totals = {currency: balance.total for currency, balance in account.balances().items()}
    assert totals == {"USD": D("50000.5"), "ESH25": D(-2), "NQH25": D(1)}
    assert t.account_in(status, "Sim102") is None


def test_the_venues_that_keep_brackets_are_named_once() -> None:
    assert CAPABILITIES.keeps_bracket
    assert [keeps_bracket(venue) for venue in (t.VENUE, "ninja:fund", "ccxt")] == [True, True, False]


# ── settings ─────────────────────────────────────────────────────────────────────────────────────
def test_the_account_that_the_venue_trades() -> None:
    assert Settings().ninja.traded() is None
    one = Settings(ninja={"enabled": True, "group": "apex", "account": "Sim101"}).ninja  # type: ignore[arg-type]
    assert one.traded() == ("apex", "Sim101")
    groups = {"a": {"port": 8081}, "b": {"port": 8082}}
    two = {"groups": groups, "account": "X", "account_group": "b"}
    assert Settings(ninja=two).ninja.traded() == ("b", "X")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {"account": "Sim101"},
        {"account": "X", "groups": {"a": {"port": 8081}, "b": {"port": 8082}}},
        {"account": "X", "account_group": "c", "groups": {"a": {"port": 8081}}},
    ],
)
def test_an_account_without_a_group_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="account_group"):
        Settings(ninja=given)  # type: ignore[arg-type]
