"""What is a broken guarantee, and what is a failure that time may heal."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from fks.lab.chaos.auditor import CHECKS, Audit, Evidence, RequestEvidence, Violation, audit_evidence
from tests.support.fills import PlainFill, assert_same_fills
from tests.support.invariants import (
    REST_S,
    Broken,
    InvariantError,
    assert_closed,
    assert_kept,
    assert_none,
    assert_once,
    assert_one,
    assert_same,
    audit_findings,
    is_at_rest,
)
from tests.support.rebalance_chaos import judge

NOW = datetime(2026, 11, 28, tzinfo=UTC)
LONG_AGO, YOUNG = NOW - timedelta(minutes=1), NOW - timedelta(seconds=REST_S / 2)
ID, OTHER = "a" * 32, "b" * 32
FILL = PlainFill("2026-11-28T00:00:00Z", "buy", Decimal(1), Decimal(100), Decimal("0.1"), "USDT")

Change = Callable[[dict[str, Any]], object]


def raised(call: Callable[[], object]) -> type[BaseException]:
    """Return the exact type of the error that a call raises."""
    with pytest.raises(AssertionError) as caught:
        call()
    return caught.type


# ── assertions ───────────────────────────────────────────────────────────────────────────────────
def test_an_id_that_occurs_twice_is_broken() -> None:
    assert_once([])
    assert_once(["a", "b"])
    with pytest.raises(InvariantError, match=r"\{'a': 2\}"):
        assert_once(["a", "b", "a"])


def test_what_happened_twice_is_broken_and_what_did_not_is_not() -> None:
    assert_one(["a"])
    assert raised(lambda: assert_one(["a", "b"])) is InvariantError
    assert raised(lambda: assert_one([])) is AssertionError


def test_an_accepted_id_without_a_row_is_broken() -> None:
    assert_kept(["a"], ["a", "b"])
    with pytest.raises(InvariantError, match=r"\['c'\]"):
        assert_kept(["a", "c"], ["a", "b"])


@pytest.mark.parametrize("left", ["0.1", "-0.1", "0.01"])
def test_a_done_kill_with_a_position_left_is_broken(left: str) -> None:
    assert_closed(Decimal(0))
    assert_closed(Decimal("0.009"), dust=Decimal("0.01"))
    assert raised(lambda: assert_closed(Decimal(left), dust=Decimal("0.01"))) is InvariantError
    assert raised(lambda: assert_closed(Decimal("1e-9"))) is InvariantError


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([1, 3], "number 1 is [3], not [2]"),
        ([1], "1 and 2; number 1 is [], not [2]"),
        ([1, 2, 3], "3 and 2; number 2 is [3], not []"),
    ],
)
def test_values_that_differ_are_broken_and_the_first_is_named(found: list[int], text: str) -> None:
    assert_same([1, 2], [1, 2])
    with pytest.raises(InvariantError) as caught:
        assert_same(found, [1, 2], "runs")
    assert str(caught.value).startswith("runs: ")
    assert text in str(caught.value)


def test_fills_that_differ_between_modes_are_broken() -> None:
    other = replace(FILL, quantity=FILL.quantity + 1)
    assert_same_fills([FILL], [FILL])
    with pytest.raises(InvariantError, match=r"fill 0: quantity is [^\n]*\nwhy"):
        assert_same_fills([FILL], [other], why="why")
    assert raised(lambda: assert_same_fills([FILL, other], [other])) is InvariantError


def test_fills_that_are_not_booked_in_time_are_an_ordinary_failure() -> None:
    other = replace(FILL, quantity=FILL.quantity + 1)
    assert raised(lambda: assert_same_fills([FILL, other], [FILL])) is AssertionError
    assert raised(lambda: assert_same_fills([FILL], [other], is_settled=False)) is AssertionError


def test_one_broken_finding_makes_the_failure_unforgivable() -> None:
    assert_none([])
    assert raised(lambda: assert_none(["late"])) is AssertionError
    with pytest.raises(InvariantError, match=r"^sent twice\nlate$"):
        assert_none(["late", Broken("sent twice")])


def test_a_broken_finding_behind_many_others_is_shown() -> None:
    with pytest.raises(InvariantError, match=r"^sent twice\n"):
        assert_none([*(f"late {number}" for number in range(60)), Broken("sent twice")])


# ── the auditor's violations ─────────────────────────────────────────────────────────────────────
def evidence() -> dict[str, Any]:
    """Return rows of one bought coin on which exchange and journal agree."""
    return {
        "now_s": NOW.timestamp(),
        "received": [{"method": "POST", "path": "/api/v3/order", "client_order_ids": [ID]}],
        "exchange_orders": [
            {"clientOrderId": ID, "orderId": 1, "orderListId": -1, "symbol": "BTCUSDT", "side": "BUY",
             "status": "FILLED", "origQty": "1", "executedQty": "1", "updateTime": LONG_AGO.timestamp() * 1000},
        ],
        "exchange_fills": [
            {"symbol": "BTCUSDT", "id": 7, "orderId": 1, "qty": "1", "price": "100", "commission": "0",
             "commissionAsset": "USDT", "isBuyer": True, "wallTime": LONG_AGO.timestamp() * 1000},
        ],
        "signals": [
            {"id": "signal", "instance": "one", "source": "strategy:one", "state": "ordered", "client_order_id": ID,
             "created_at": LONG_AGO, "valid_until": None, "kind": "enter", "side": "buy", "ts_event": LONG_AGO},
        ],
        "orders": [
            {"client_order_id": ID, "signal_id": "signal", "role": "entry", "side": "buy", "state": "FILLED",
             "request": "none", "venue": "ccxt", "symbol": "BTCUSDT", "instance": "one", "quantity": Decimal(1),
             "filled": Decimal(1), "created_at": LONG_AGO, "updated_at": LONG_AGO, "parent_id": None,
             "stop_loss": None, "take_profit": None, "is_reduce_only": False},
        ],
        "trades": [
            {"symbol": "BTCUSDT", "venue": "ccxt", "venue_trade_id": "7", "instance": "one", "trade_type": "BUY",
             "quantity": Decimal(1), "price": Decimal(100), "fee": Decimal(0), "fee_currency": "USDT"},
        ],
        "positions": [
            {"venue": "ccxt", "symbol": "BTCUSDT", "instance": "one", "quantity": Decimal(1),
             "average_price": Decimal(100)},
        ],
    }  # fmt: skip


def findings(*changes: Change) -> list[str]:
    """Return what is found in the evidence after the changes."""
    rows = evidence()
    for change in changes:
        change(rows)
    found = Evidence(**rows)
    return audit_findings(found, audit_evidence(found, settle_s=0.0))


def add_order(e: dict[str, Any], **changes: Any) -> None:
    e["orders"].append(e["orders"][0] | {"client_order_id": OTHER, "signal_id": None, "filled": Decimal(0)} | changes)


def is_undecided(e: dict[str, Any]) -> None:
    add_order(e, client_order_id="d" * 32, state="UNKNOWN", symbol="ETHUSDT")


def is_ordered_twice(e: dict[str, Any]) -> None:
    add_order(e, signal_id="signal", filled=Decimal(1))
    e["exchange_orders"].append(e["exchange_orders"][0] | {"clientOrderId": OTHER, "orderId": 2})


def is_ready(e: dict[str, Any]) -> None:
    e["signals"].append(e["signals"][0] | {"state": "ready", "client_order_id": None})


def is_filling(e: dict[str, Any]) -> None:
    e["exchange_fills"][0]["wallTime"] = YOUNG.timestamp() * 1000


def is_booking(e: dict[str, Any]) -> None:
    e["orders"][0]["updated_at"] = YOUNG


def test_equal_books_have_no_finding_and_are_at_rest() -> None:
    assert findings() == []
    assert is_at_rest(Evidence(**evidence()))


ALWAYS: list[tuple[str, Change]] = [
    ("orders doubled: order .* was sent 2 times", lambda e: e["received"].append(e["received"][0])),
    ("orders doubled: the exchange has 2 orders", lambda e: e["exchange_orders"].append(e["exchange_orders"][0])),
    ("orders doubled: order request k was answered with 2 signals",
     lambda e: e.update(requests=[RequestEvidence("k", ("signal", "signal"))])),
    ("signals lost: signal .* order .* is not there", lambda e: e["signals"][0].update(client_order_id="c" * 32)),
    ("signals lost: order request k .* which is not there",
     lambda e: e.update(requests=[RequestEvidence("k", ("other",))])),
    ("journal wrong: .*its events make", lambda e: e.update(events=[])),
    ("stops wrong: .* moved to 95", lambda e: (
        [row.update(id=1, fill_id=1, time=LONG_AGO, client_order_id=ID) for row in e["trades"]],
        e.update(events=[{"client_order_id": ID, "event": "StopMoved", "event_id": "stop-moved:1:1",
                          "from_state": "FILLED", "to_state": "FILLED", "source": "us", "payload": {"stop_loss": "95", "bar": "2026-11-28T00:00:00Z"}}]))),
    ("fills wrong: .* is booked 2 times", lambda e: e["trades"].append(e["trades"][0])),
    ("fills wrong: .* is booked as 2", lambda e: e["trades"][0].update(quantity=Decimal(2))),
    ("orders astray: an order was sent without an id",
     lambda e: e["received"].append({"method": "POST", "path": "/api/v3/order"})),
]  # fmt: skip
#: what exchange and journal disagree on, for a while or for good
UNEQUAL: list[tuple[str, Change]] = [
    ("positions wrong", lambda e: e["positions"][0].update(quantity=Decimal(2))),
    ("fills wrong: .* is missing", lambda e: e.update(trades=[])),
    ("orders astray: .* at the exchange it is", lambda e: e["orders"][0].update(state="WORKING")),
    ("orders astray: .* does not know", lambda e: e["exchange_orders"].append(
        e["exchange_orders"][0] | {"clientOrderId": OTHER, "orderId": 2, "executedQty": "0", "status": "NEW"})),
    ("orders doubled: signal signal led to 2 orders", is_ordered_twice),
]  # fmt: skip
NEVER: list[tuple[str, Change]] = [
    ("signals lost: .* has no outcome", is_ready),
    ("signals lost: .* is still pending",
     lambda e: e["signals"][0].update(state="pending", client_order_id=None, valid_until=LONG_AGO)),
    ("signals lost: order request k was refused", lambda e: e.update(requests=[RequestEvidence("k", (), "503")])),
    ("orders undecided", is_undecided),
    ("protection missing", lambda e: e.update(uncovered=["BTCUSDT"])),
    ("bars wrong", lambda e: e.update(bars={"BTCUSDT": ({}, {1: (Decimal(1), Decimal(1))})})),
    ("leaked", lambda e: e.update(leaks=["process 7"])),
]  # fmt: skip


def of(found: list[str], text: str) -> list[str]:
    """Return the findings of a pattern; there is at least one."""
    matching = [one for one in found if re.search(text, one)]
    assert matching, found
    return matching


@pytest.mark.parametrize(("text", "change"), ALWAYS, ids=[text for text, _ in ALWAYS])
def test_what_no_time_changes_is_broken_also_while_orders_are_open(text: str, change: Change) -> None:
    for more in ([], [is_undecided], [is_filling, is_booking]):
        assert all(isinstance(one, Broken) for one in of(findings(change, *more), text))


@pytest.mark.parametrize(("text", "change"), UNEQUAL, ids=[text for text, _ in UNEQUAL])
def test_unequal_books_are_broken_only_at_rest(text: str, change: Change) -> None:
    assert all(isinstance(one, Broken) for one in of(findings(change), text))
    for more in (is_undecided, is_ready, is_booking):
        assert not any(isinstance(one, Broken) for one in of(findings(change, more), text))
        assert raised(lambda: assert_none(of(findings(change, more), text))) is AssertionError  # noqa: B023


def test_books_are_not_compared_while_an_execution_is_young() -> None:
    found = findings(lambda e: e["positions"][0].update(quantity=Decimal(2)), is_filling)
    assert not any(isinstance(one, Broken) for one in found)
    assert raised(lambda: assert_none(found)) is AssertionError


def test_an_order_that_just_changed_at_the_exchange_is_not_broken() -> None:
    def changed(e: dict[str, Any]) -> None:
        e["orders"][0].update(state="WORKING")
        e["exchange_orders"][0].update(updateTime=YOUNG.timestamp() * 1000)

    assert not any(isinstance(one, Broken) for one in of(findings(changed), "at the exchange it is"))


@pytest.mark.parametrize(("text", "change"), NEVER, ids=[text for text, _ in NEVER])
def test_what_a_deadline_decides_is_an_ordinary_failure(text: str, change: Change) -> None:
    found = of(findings(change), text)
    assert raised(lambda: assert_none(found)) is AssertionError


@pytest.mark.parametrize(
    ("text", "is_broken"),
    [
        ("instance one should have signalled enter buy at the bar of 7", False),
        ("instance one signalled enter buy at the bar of 7 without a reason", False),
        ("instance one is 3 bars behind: decided up to 1, sealed up to 4", False),
        ("instance one is CRASHED: an error", False),
        ("no decision was recomputed: no instance decided on a bar since the baseline", False),
    ],
)
def test_a_decision_that_left_no_signal_is_broken_and_a_late_one_is_not(text: str, is_broken: bool) -> None:
    audit = Audit(0, 0, 0, 0, (Violation("signals lost", text),))
    (found,) = audit_findings(Evidence(now_s=0.0), audit)
    assert isinstance(found, Broken) is is_broken


def test_an_audit_counts_the_moves_of_stops_that_it_compared() -> None:
    (_, change), *_ = [case for case in ALWAYS if case[0].startswith("stops wrong")]
    rows = evidence()
    change(rows)
    rows["events"].append(rows["events"][0] | {"event_id": "amended:1:1"})
    assert audit_evidence(Evidence(**rows)).stops_moved == 1


def test_each_check_of_the_auditor_has_a_case() -> None:
    assert {text.split(":")[0] for text, _ in (*ALWAYS, *UNEQUAL, *NEVER)} >= {*CHECKS} - {
        "decisions old",
        "protection excess",
    }


def test_positions_that_could_not_be_compared_are_an_ordinary_finding() -> None:
    found = audit_findings(Evidence(now_s=0.0), Audit(0, 0, 0, 0, (), is_whole=False))
    assert raised(lambda: assert_none(found)) is AssertionError


# ── rebalancing ──────────────────────────────────────────────────────────────────────────────────
def test_an_id_that_a_venue_received_twice_is_broken() -> None:
    found = judge(["a", "a"], [], {}, Decimal(0), Decimal(0))
    assert raised(lambda: assert_none(found)) is InvariantError
