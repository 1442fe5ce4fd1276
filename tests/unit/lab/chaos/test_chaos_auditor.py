"""An auditor that cannot fail is worthless: each case is a system that is sound but for one thing, which must be
found."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.lab.chaos.auditor import Evidence, RequestEvidence, audit_evidence
from fks.lab.chaos.cover import SmallestAmounts, net
from fks.lab.chaos.decisions import ORACLES, InstanceStart, MissedDecisions, edges, expected_signals
from fks.lab.chaos.evaluated import strategy_of, targets_of
from fks.model.bar import Bars
from fks.system.node.prepare import INSTANCES

NOW = 1_800_000_000.0
THEN = datetime.fromtimestamp(NOW, UTC) - timedelta(minutes=2)
ENTRY, EXIT, STOP = "e" * 32, "f" * 32, "5" * 32
BAR = int(THEN.timestamp())
CLOSES = [(BAR - 20 + i, Decimal(price)) for i, price in enumerate((100,) * 10 + (101,) * 6 + (99,) * 8)]
PARAMS = {"fast": 2, "slow": 4}
DECIDED = [target for target in ORACLES["sma_cross"](CLOSES, PARAMS) if target[0] > CLOSES[5][0]]
EDGES = [(at_s, kind) for at_s, kind, _ in edges(DECIDED, 0.0)]


def signal(at_s: int, kind: str, order: str) -> dict[str, Any]:
    return {
        "id": f"signal-{kind}",
        "source": "strategy:sma",
        "instance": "sma",
        "state": "ordered",
        "client_order_id": order,
        "created_at": THEN,
        "valid_until": None,
        "ts_event": datetime.fromtimestamp(at_s, UTC),
        "kind": kind,
        "side": "buy" if kind == "enter" else "sell",
    }


def order(id: str, role: str, signal_id: str, filled: str, **more: Any) -> dict[str, Any]:
    return {
        "client_order_id": id,
        "signal_id": signal_id,
        "role": role,
        "side": "buy" if role == "entry" else "sell",
        "state": "FILLED",
        "venue": "ccxt",
        "symbol": "BTCUSDT",
        "instance": "sma",
        "quantity": Decimal(2),
        "filled": Decimal(filled),
        "created_at": THEN,
        "updated_at": THEN,
        "parent_id": None,
        "stop_loss": None,
        "take_profit": None,
        "is_reduce_only": role == "exit",
    } | more


def theirs(id: str, number: int, executed: str, status: str = "FILLED", quantity: str = "2.00") -> dict[str, Any]:
    return {
        "clientOrderId": id,
        "orderId": number,
        "orderListId": -1,
        "symbol": "BTCUSDT",
        "side": "SELL",
        "status": status,
        "origQty": quantity,
        "executedQty": executed,
    }


def stop(e: dict[str, Any], id: str, quantity: str) -> None:
    """Add a stop that rests at the exchange."""
    e["orders"].append(order(id, "sl", "signal-enter", "0", state="WORKING", parent_id=ENTRY))
    e["exchange_orders"].append(theirs(id, len(e["exchange_orders"]) + 1, "0", "NEW", quantity))
    e["received"].append(sent(id))


def flatten(e: dict[str, Any]) -> None:
    """Sell what is held, and leave the stop where it is."""
    e["orders"][1].update(filled=Decimal("1.998"))
    e["exchange_orders"][1].update(executedQty="1.998")
    e["exchange_fills"][1].update(qty="1.998")
    e["trades"][1].update(quantity=Decimal("1.998"))
    e["positions"][0].update(quantity=Decimal(0))


def fill(number: int, order_number: int, quantity: str, fee: str, currency: str, *, is_buyer: bool) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "id": number,
        "orderId": order_number,
        "qty": quantity,
        "price": "100.00",
        "commission": fee,
        "commissionAsset": currency,
        "isBuyer": is_buyer,
        "wallTime": BAR * 1000,
    }


def trade(number: int, quantity: str, fee: str, currency: str, side: str) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "venue": "ccxt",
        "venue_trade_id": str(number),
        "instance": "sma",
        "trade_type": side,
        "quantity": Decimal(quantity),
        "price": Decimal(100),
        "fee": Decimal(fee),
        "fee_currency": currency,
    }


def sent(id: str) -> dict[str, Any]:
    return {"method": "POST", "path": "/api/v3/order", "outcome": "200", "client_order_ids": [id]}


def sound() -> dict[str, Any]:
    """A system that bought, sold most of it, has a stop over the rest, and has a bar for every second."""
    bars = {at_s: (close, Decimal(1)) for at_s, close in CLOSES}
    made: dict[str, Any] = {
        "now_s": NOW,
        "received": [sent(ENTRY), sent(EXIT), {"method": "GET", "path": "/api/v3/order", "client_order_ids": [ENTRY]}],
        "exchange_orders": [theirs(ENTRY, 1, "2.00"), theirs(EXIT, 2, "1.50")],
        "exchange_fills": [
            fill(7, 1, "2.00", "0.002", "BTC", is_buyer=True),
            fill(8, 2, "1.5", "0.15", "USDT", is_buyer=False),
        ],
        "signals": [signal(at_s, kind, ENTRY if kind == "enter" else EXIT) for at_s, kind in EDGES],
        "orders": [
            order(ENTRY, "entry", "signal-enter", "2", stop_loss=Decimal(90)),
            order(EXIT, "exit", "signal-exit", "1.5"),
        ],
        "trades": [trade(7, "2", "0.002", "BTC", "BUY"), trade(8, "1.5", "0.15", "USDT", "SELL")],
        "positions": [
            {
                "venue": "ccxt",
                "symbol": "BTCUSDT",
                "instance": "sma",
                "quantity": Decimal("0.498"),
                "average_price": Decimal(100),
            }
        ],
        "instances": [
            {
                "id": "sma",
                "strategy": "sma_cross",
                "params": PARAMS,
                "timeframe": "1s",
                "is_enabled": True,
                "state": "RUNNING",
                "error": None,
                "sealed_through": datetime.fromtimestamp(CLOSES[-1][0], UTC),
                "cursor_time": datetime.fromtimestamp(CLOSES[-1][0], UTC),
            }
        ],
        "started": {"sma": InstanceStart("sma", CLOSES[5][0], 0.0)},
        "closes": {"sma": CLOSES},
        "rules": {"BTCUSDT": SmallestAmounts(Decimal("0.001"), Decimal(5), Decimal(100))},
        "bars": {"BTCUSDT": (dict(bars), dict(bars))},
        "leaks": [],
        "requests": [RequestEvidence("key", (str(signal(0, "enter", "")["id"]),)), RequestEvidence("never answered")],
    }
    stop(made, STOP, "0.498")
    return made


def test_the_sound_system_is_found_sound_and_did_something() -> None:
    assert [kind for _, kind in EDGES] == ["enter", "exit"]
    audit = audit_evidence(Evidence(**sound()))
    assert audit.violations == ()
    assert (audit.signals, audit.promised, audit.orders, audit.fills, audit.bars) == (2, 1, 3, 2, len(CLOSES))
    assert (audit.decisions, audit.protected) == (len(DECIDED), 1)


def test_what_a_kill_closed_for_all_is_compared_as_a_sum() -> None:
    kill = "9" * 32
    world = sound()
    world["received"].append(sent(kill))
    world["exchange_orders"].append(theirs(kill, 4, "0.3"))
    world["exchange_orders"][2].update(origQty="0.198")
    world["exchange_fills"].append(fill(9, 4, "0.3", "0.03", "USDT", is_buyer=False))
    world["orders"].append(order(kill, "kill", "", "0.3", instance="", quantity=Decimal("0.3")) | {"signal_id": None})
    world["trades"].append(trade(9, "0.3", "0.03", "USDT", "SELL") | {"instance": ""})
    world["positions"][0]["quantity"] = Decimal("0.198")  # the one instance that held something has it less
    assert audit_evidence(Evidence(**world)).violations == ()
    world["positions"][0]["quantity"] = Decimal("0.498")
    assert [f.check for f in audit_evidence(Evidence(**world)).violations] == ["positions wrong", "protection missing"]


def test_a_kill_of_one_instance_is_compared_with_its_position() -> None:
    kill = "9" * 32
    world = sound()
    world["received"].append(sent(kill))
    world["exchange_orders"].append(theirs(kill, 4, "0.3"))
    world["exchange_orders"][2].update(origQty="0.198")
    world["exchange_fills"].append(fill(9, 4, "0.3", "0.03", "USDT", is_buyer=False))
    world["orders"].append(order(kill, "kill", "", "0.3", quantity=Decimal("0.3")) | {"signal_id": None})
    world["trades"].append(trade(9, "0.3", "0.03", "USDT", "SELL"))
    world["positions"][0]["quantity"] = Decimal("0.198")
    assert audit_evidence(Evidence(**world)).violations == ()
    world["positions"][0]["quantity"] = Decimal("0.498")  # the sum of both is right
    world["positions"].append(world["positions"][0] | {"instance": "", "quantity": Decimal("-0.3")})
    found = [f for f in audit_evidence(Evidence(**world)).violations if f.check == "positions wrong"]
    assert len(found) == 2


Change = Callable[[dict[str, Any]], object]
WRONG: list[tuple[str, str, Change]] = [
    ("orders doubled", "sent 2 times", lambda e: e["received"].append(sent(ENTRY))),
    ("orders doubled", "sent 2 times", lambda e: e["received"].append(sent(ENTRY) | {"method": "WS", "path": "order.place"})),
    ("orders doubled", "the exchange has 2", lambda e: e["exchange_orders"].append(theirs(ENTRY, 1, "2.00"))),
    ("orders doubled", "led to 2 orders",
     lambda e: e["orders"].append(order("a" * 32, "entry", "signal-enter", "0", state="WORKING"))),
    ("orders doubled", "led to 2 orders", lambda e: e["orders"].append(order("a" * 32, "entry", "signal-enter", "1"))),
    ("orders doubled", "led to 2 orders", lambda e: e["orders"].append(order("a" * 32, "exit", "signal-exit", "1"))),
    ("orders doubled", "led to 2 orders", lambda e: (
        e["orders"][1].update(updated_at=THEN + timedelta(seconds=2)),
        e["orders"].append(order("a" * 32, "exit", "signal-exit", "1", created_at=THEN + timedelta(seconds=1))))),
    ("signals lost", "no outcome", lambda e: e["signals"][0].update(state="ready")),
    ("signals lost", "still pending", lambda e: e["signals"][0].update(state="pending", valid_until=THEN)),
    ("signals lost", "is not there", lambda e: e["signals"][0].update(client_order_id="b" * 32)),
    ("signals lost", "should have signalled enter buy", lambda e: e["signals"].pop(0)),
    ("signals lost", "signalled enter sell", lambda e: e["signals"][0].update(side="sell")),
    ("signals lost", "should have signalled exit", lambda e: e["signals"].clear()),
    ("signals lost", "without a reason", lambda e: e["signals"].append(signal(EDGES[0][0] + 1, "exit", EXIT))),
    ("signals lost", "without a reason", lambda e: e["signals"].append(signal(CLOSES[-1][0] + 1, "enter", ENTRY))),
    ("signals lost", f"{CLOSES[-1][0] - EDGES[1][0]} bars behind",
     lambda e: e["instances"][0].update(cursor_time=datetime.fromtimestamp(EDGES[1][0], UTC))),
    ("signals lost", "24 bars behind", lambda e: e["instances"][0].update(cursor_time=None)),
    ("signals lost", "1 bars behind", lambda e: (
        e["instances"][0].update(cursor_time=datetime.fromtimestamp(CLOSES[-2][0], UTC)),
        e["instances"][0].update(sealed_through=datetime.fromtimestamp(NOW, UTC)))),
    ("signals lost", "is not in the baseline", lambda e: e["started"].clear()),
    ("signals lost", "no decision was recomputed", lambda e: e["started"].clear()),
    ("signals lost", "no decision was recomputed", lambda e: e["started"].update(sma=InstanceStart("sma", CLOSES[-1][0], 0.0))),
    ("signals lost", "of the baseline is gone", lambda e: e["instances"].clear()),
    ("signals lost", "of the baseline is gone", lambda e: e["started"].update(other=InstanceStart("other", CLOSES[5][0], 0.0))),
    ("signals lost", "which has no oracle", lambda e: e["instances"][0].update(strategy="own")),
    ("signals lost", "signalled exit sell", lambda e: (
        e["instances"][0].update(strategy="own"), e.update(targets={"sma": [(at_s, 1.0) for at_s, _ in DECIDED]}))),
    ("signals lost", "switched off", lambda e: e["instances"][0].update(is_enabled=False)),
    ("signals lost", "CRASHED", lambda e: e["instances"][0].update(state="CRASHED", error="it raised")),
    ("signals lost", "switched off",
     lambda e: e["instances"][0].update(state="DISABLED", is_enabled=False, error="took its worker down 4 times")),
    ("signals lost", "which is not there", lambda e: e["requests"].append(RequestEvidence("key-2", ("gone",)))),
    ("signals lost", "was refused: 409", lambda e: e["requests"].append(RequestEvidence("key-2", refused="409 IDEMPOTENCY_CONFLICT"))),
    ("orders doubled", "answered with 2 signals", lambda e: e["requests"].append(RequestEvidence("key-2", ("signal-enter", "signal-exit")))),
    ("orders astray", "without an id", lambda e: e["received"].append(sent(ENTRY) | {"client_order_ids": []})),
    ("orders undecided", "still UNKNOWN", lambda e: e["orders"][0].update(state="UNKNOWN")),
    ("orders undecided", "still SENDING", lambda e: e["orders"][0].update(state="SENDING")),
    ("orders undecided", "still UNKNOWN", lambda e: e["orders"][0].update(state="UNKNOWN", updated_at=YOUNG)),
    ("orders astray", "does not know", lambda e: e["exchange_orders"].append(theirs("c" * 32, 3, "0", "CANCELED"))),
    ("orders astray", "never made it", lambda e: e["exchange_orders"].pop(0)),
    ("orders astray", "is ABSENT", lambda e: e["orders"][0].update(state="ABSENT")),
    ("orders astray", "is WORKING", lambda e: e["orders"][0].update(state="WORKING")),
    ("orders astray", "it is NEW", lambda e: e["exchange_orders"][0].update(status="NEW")),
    ("orders astray", "filled 1", lambda e: e["orders"][0].update(filled=Decimal(1))),
    ("fills wrong", "missing from the journal", lambda e: e["trades"].pop(0)),
    ("fills wrong", "booked 2 times", lambda e: e["trades"].append(e["trades"][0])),
    ("fills wrong", "has none such", lambda e: e["trades"].append(trade(9, "1", "0", "", "BUY"))),
    ("fills wrong", "is booked as", lambda e: e["trades"][0].update(quantity=Decimal(3))),
    ("fills wrong", "is booked as", lambda e: e["trades"][0].update(fee=Decimal(0))),
    ("positions wrong", "its executions make 0.498", lambda e: e["positions"][0].update(quantity=Decimal("0.5"))),
    ("positions wrong", "is 0,", lambda e: e["positions"].clear()),
    ("positions wrong", "other", lambda e: e["positions"].append(e["positions"][0] | {"instance": "other"})),
    ("positions wrong", "paper", lambda e: e["trades"].append(trade(1, "1", "0", "", "BUY") | {"venue": "paper"})),
    ("protection missing", "holds 0.498, stops and exits cover 0", lambda e: e["exchange_orders"].pop(2)),
    ("protection missing", "cover 0.001", lambda e: e["exchange_orders"][2].update(origQty="0.001")),
    ("protection missing", "cover 0", lambda e: e["orders"][2].update(venue="paper")),
    ("protection missing", "cover 0", lambda e: e["orders"][2].update(instance="other")),
    ("protection excess", "sma holds 0 to be protected, its stops and targets close 1",
     lambda e: (flatten(e), e["exchange_orders"][2].update(origQty="1"))),
    ("protection excess", "close 0.996", lambda e: stop(e, "6" * 32, "0.498")),
    ("protection excess", "close 0.5", lambda e: e["exchange_orders"][2].update(origQty="0.5")),
    ("protection excess", "other holds 0", lambda e: e["orders"][2].update(instance="other")),
    ("protection missing", "no page is open", lambda e: e.update(uncovered=["BTCUSDT sma holds 1, and no page is open"])),
    ("journal wrong", "its events make nowhere", lambda e: (
        e.update(events=[]), [row.update(request="none") for row in e["orders"]], [row.update(fill_id=1) for row in e["trades"]])),
    ("decisions old", "7.0 s after its bar of 1 s ended", lambda e: (
        e["signals"][0].update(timeframe="1s"), e["received"][0].update(time_ms=(EDGES[0][0] + 8) * 1000))),
    ("decisions old", "62.0 s after its bar of 300 s ended", lambda e: (
        e["signals"][0].update(timeframe="5m"), e["received"][0].update(time_ms=(EDGES[0][0] + 362) * 1000))),
    ("signals lost", "should have signalled exit", lambda e: (
        e["signals"].pop(1), e.update(missed=[MissedDecisions("sma", EDGES[1][0] - 1, EDGES[1][0])]))),
    ("bars wrong", "is missing", lambda e: e["bars"]["BTCUSDT"][0].pop(BAR)),
    ("bars wrong", "not", lambda e: e["bars"]["BTCUSDT"][0].update({BAR: (Decimal(1), Decimal(1))})),
    ("bars wrong", "100 × 2, not 100 × 1", lambda e: e["bars"]["BTCUSDT"][0].update({CLOSES[0][0]: (Decimal(100), Decimal(2))})),
    ("leaked", "in nobody's row", lambda e: e["leaks"].append("process 7 is in nobody's row")),
]  # fmt: skip


@pytest.mark.parametrize(("check", "texts", "change"), WRONG, ids=[f"{c}: {w}" for c, w, _ in WRONG])
def test_what_is_wrong_is_found(check: str, texts: str, change: Change) -> None:
    rows = deepcopy(sound())
    change(rows)
    found = audit_evidence(Evidence(**rows)).violations
    assert any(violation.check == check and texts in violation.text for violation in found), found


YOUNG = datetime.fromtimestamp(NOW - 1, UTC)
UNDER_WAY: list[tuple[str, Change]] = [
    ("a signal just made", lambda e: e["signals"].append(signal(EDGES[0][0] - 9, "enter", "") | {
        "state": "ready", "created_at": YOUNG, "instance": "another"})),
    ("an order just sent", lambda e: (e["orders"].append(order("d" * 32, "entry", "s", "0", state="SENDING", created_at=YOUNG)),
                                      e["exchange_orders"].append(theirs("d" * 32, 4, "0", "NEW")))),
    ("an execution not booked yet", lambda e: e["exchange_fills"].append(
        fill(9, 2, "0.1", "0", "USDT", is_buyer=False) | {"wallTime": (NOW - 1) * 1000})),
    ("a person's stop at the exchange", lambda e: e["exchange_orders"].append(theirs("web_123", 5, "0", "NEW"))),
    ("a second in which nothing was traded", lambda e: (
        e["bars"]["BTCUSDT"][0].pop(BAR), e["bars"]["BTCUSDT"][1].update({BAR: (Decimal(100), Decimal(0))}))),
    ("a rest too small to sell", lambda e: (
        e["exchange_orders"].pop(2), e["orders"].pop(2), e["rules"].update(BTCUSDT=SmallestAmounts(Decimal(1), Decimal(5), Decimal(100))))),
    ("a rest of 5 USDT of a symbol without rules", lambda e: (
        e["exchange_orders"].pop(2), e["orders"].pop(2), e["rules"].clear(), e["positions"][0].update(average_price=Decimal(10)))),
    ("a stop that was just sent", lambda e: (e["exchange_orders"].pop(2), e["orders"][2].update(updated_at=YOUNG))),
    ("a stop whose outcome is asked for", lambda e: (
        e["exchange_orders"].pop(2), e["orders"][2].update(state="SENDING", created_at=YOUNG))),
    ("a position that wants no stop", lambda e: (
        e["exchange_orders"].pop(2), e["orders"].pop(2), e["orders"][0].update(stop_loss=None))),
    ("flat without a stop", lambda e: (flatten(e), e["exchange_orders"].pop(2), e["orders"].pop(2))),
    ("a person's signal", lambda e: e["signals"].append(signal(EDGES[0][0] + 1, "exit", EXIT) | {"source": "cli"})),
    ("an instance that is off and was", lambda e: e["instances"].append(e["instances"][0] | {"id": "off", "is_enabled": False})),
    ("a bar that was just sealed", lambda e: (
        e["closes"]["sma"].append((int(NOW) - 2, Decimal(99))),
        e["instances"][0].update(sealed_through=datetime.fromtimestamp(NOW - 2, UTC)))),
    ("a strategy of the user's", lambda e: (
        e["instances"][0].update(strategy="own"), e.update(targets={"sma": DECIDED}))),
    ("an exit asked for again after a refusal", lambda e: e["orders"].append(
        order("a" * 32, "exit", "signal-exit", "0", state="REJECTED"))),
    ("an exit in two parts", lambda e: e["orders"].append(order("a" * 32, "exit", "signal-exit", "0.2") | {
        "venue": "paper", "symbol": "ETHUSDT"})),
    ("an exit that closed what its entry still bought", lambda e: (
        e["orders"][1].update(quantity=Decimal(1), filled=Decimal("1.5")),
        e["orders"].append(order("a" * 32, "exit", "signal-exit", "3", created_at=THEN + timedelta(seconds=1)) | {
            "venue": "paper", "symbol": "ETHUSDT"}))),
    ("a trade booked by hand, which moves no position", lambda e: e["trades"].append(
        trade(1, "0.1", "0", "", "BUY") | {"venue": "manual", "source": "manual", "instance": "", "venue_trade_id": ""})),
    ("an old decision that a person approved", lambda e: (
        e["signals"][0].update(timeframe="1s", decided_by="a person"), e["received"][0].update(time_ms=(EDGES[0][0] + 600) * 1000))),
    ("a cancel", lambda e: e["received"].append({"method": "DELETE", "path": "/api/v3/order", "client_order_ids": [ENTRY]})),
]  # fmt: skip


@pytest.mark.parametrize(("what", "change"), UNDER_WAY, ids=[what for what, _ in UNDER_WAY])
def test_what_is_under_way_or_nobodys_fault_is_not_found(what: str, change: Change) -> None:
    rows = deepcopy(sound())
    change(rows)
    assert audit_evidence(Evidence(**rows)).violations == ()


def test_paper_fills_make_the_paper_position() -> None:
    rows = deepcopy(sound())
    rows["trades"] += [
        trade(1, "1", "0", "", "BUY") | {"venue": "paper"},
        trade(2, "0.4", "0", "", "SELL") | {"venue": "paper"},
    ]
    rows["positions"].append(rows["positions"][0] | {"venue": "paper", "quantity": Decimal("0.6")})
    assert audit_evidence(Evidence(**rows)).violations == ()
    rows["trades"][-1]["trade_type"] = "BUY"
    assert [f.text for f in audit_evidence(Evidence(**rows)).violations] == [
        "paper BTCUSDT sma is 0.6, its executions make 1.4"
    ]


def test_audit_without_settle_time_waits_for_nothing() -> None:
    rows = sound()
    young = [row | {"state": "ready", "created_at": YOUNG} for row in rows["signals"]]
    evidence = replace(Evidence(**rows), signals=young)
    assert audit_evidence(evidence).is_sound
    assert audit_evidence(evidence, settle_s=0.0).count("signals lost") == 2


def test_positions_that_were_not_compared_are_not_called_sound() -> None:
    rows = deepcopy(sound())
    rows["exchange_fills"].append(fill(9, 2, "0.1", "0", "USDT", is_buyer=False) | {"wallTime": (NOW - 1) * 1000})
    audit = audit_evidence(Evidence(**rows))
    assert (audit.violations, audit.is_whole, audit.is_sound, audit.positions) == ((), False, False, 0)
    whole = audit_evidence(Evidence(**sound()))
    assert (whole.is_sound, whole.positions) == (True, 1)


@pytest.mark.parametrize(
    ("is_buy", "currency", "expected"),
    [(True, "BTC", "0.999"), (True, "USDT", "1"), (False, "USDT", "-1"), (False, "", "-1")],
)
def test_a_fee_in_the_base_asset_is_taken_from_the_position(is_buy: bool, currency: str, expected: str) -> None:
    assert net("BTCUSDT", is_buy, "1", "0.001", currency) == Decimal(expected)


CASES = [("sma_cross", {"fast": 3, "slow": 8}), ("ema_cross", {"fast": 2, "slow": 3})]


@given(
    st.sampled_from(CASES),
    st.lists(st.tuples(st.integers(9990, 10010), st.integers(1, 12)), min_size=6, max_size=30),
    st.booleans(),
)
def test_the_auditor_repeats_the_strategy_exactly(
    case: tuple[str, dict[str, Any]], runs: list[tuple[int, int]], is_short: bool
) -> None:
    """The auditor's own crossing and the strategy's agree on every bar, ties and flat stretches included."""
    name, params = case[0], case[1] | {"short": is_short}
    ticks = [tick for tick, times in runs for _ in range(times)]
    closes = [(at_s, Decimal(tick) / 100) for at_s, tick in enumerate(ticks)]
    floats = np.array([float(close) for _, close in closes])
    times = np.arange(len(ticks), dtype=np.int64) * 1_000_000_000
    bars = Bars("X", "1s", times, floats, floats, floats, floats, floats)
    assert list(ORACLES[name](closes, params)) == targets_of(strategy_of(Path(), name, params), bars)


def test_each_strategy_of_the_demo_has_an_oracle_of_its_own() -> None:
    assert {strategy for _, strategy, *_ in INSTANCES} <= set(ORACLES)


@pytest.mark.parametrize(
    ("targets", "before", "expected"),
    [
        ([1.0, 1.0, 0.0], 0.0, [(1, "enter", "buy"), (3, "exit", "sell")]),
        ([1.0, 0.0], 1.0, [(2, "exit", "sell")]),
        ([-1.0], 1.0, [(1, "exit", "sell"), (1, "enter", "sell")]),
        ([1.0, 2.0, 0.0], 0.0, [(1, "enter", "buy"), (2, "enter", "buy"), (3, "exit", "sell")]),
        ([0.0, -1.0, 0.0], 0.0, [(2, "enter", "sell"), (3, "exit", "buy")]),
        ([-0.5, -0.5, -0.25], -1.0, [(1, "exit", "buy"), (3, "exit", "buy")]),
    ],
)
def test_signals_follow_the_changes_of_the_target(
    targets: list[float], before: float, expected: list[tuple[int, str, str]]
) -> None:
    assert list(edges(list(enumerate(targets, 1)), before)) == expected


def test_missed_bars_require_an_exit_and_allow_an_entry() -> None:
    targets = [(10, 1.0), (20, 0.0), (30, 1.0), (40, 0.0), (50, 1.0)]
    all_ = [
        (10, "enter", "buy"),
        (20, "exit", "sell"),
        (30, "enter", "buy"),
        (40, "exit", "sell"),
        (50, "enter", "buy"),
    ]

    def expected(*missed: MissedDecisions, **more: bool) -> tuple[set[int], set[int]]:
        required, allowed = expected_signals(targets, 0.0, missed, **more)
        assert required | allowed <= set(all_)
        return {edge[0] for edge in required}, {edge[0] for edge in allowed}

    assert expected_signals(targets, 0.0, []) == (set(all_), set())
    assert expected(MissedDecisions("a", 15, 45)) == ({10, 40, 50}, set())
    assert expected(MissedDecisions("a", 5, 45)) == ({50}, set())
    assert expected(MissedDecisions("a", 5, 45), can_rest=True) == ({50}, set())
    assert expected(MissedDecisions("a", 5, 35)) == ({40, 50}, {30})
    assert expected(MissedDecisions("a", 15, 55)) == ({10}, set())
    assert expected(MissedDecisions("a", 15, 55), can_rest=True) == ({10}, {40, 50})


def test_missed_parts_require_the_exit_of_all_or_the_last_one() -> None:
    targets = [(10, 1.0), (20, 0.5), (30, 0.0), (40, 1.0), (50, 0.5), (60, 0.25)]
    assert expected_signals(targets, 0.0, [MissedDecisions("a", 15, 55)])[0] == {
        (10, "enter", "buy"),
        (30, "exit", "sell"),
        (60, "exit", "sell"),
    }
    kept, _ = expected_signals(targets, 0.0, [MissedDecisions("a", 45, 65)])
    assert [at for at, _, _ in sorted(kept)] == [10, 20, 30, 40, 60]


def test_entry_age_is_limited_except_on_a_tape() -> None:
    world = sound()
    world["signals"][0].update(timeframe="1s")
    world["received"][0].update(time_ms=(EDGES[0][0] + 6) * 1000)
    assert audit_evidence(Evidence(**world)).violations == ()
    world["received"][0].update(time_ms=(EDGES[0][0] + 600) * 1000)
    assert [violation.check for violation in audit_evidence(Evidence(**world)).violations] == ["decisions old"]
    assert audit_evidence(Evidence(**world, is_tape=True)).violations == ()
    world["exchange_orders"] = []  # it was refused
    assert "decisions old" not in {violation.check for violation in audit_evidence(Evidence(**world)).violations}
