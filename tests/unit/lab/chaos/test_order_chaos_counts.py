"""An order chaos run that exercised too little is no proof; a pair of legs is executed once and leaves nothing."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from tests.support.crash_points import LABELS
from tests.support.order_chaos_counts import Minimum, Requests, exercised, pair_errors

MINIMUM = Minimum(intents=2, pairs=1, reports=1, struck={"bad marks": 1}, denied_share=0.34)


def order(id: str, role: str, **more: Any) -> dict[str, Any]:
    known = {"client_order_id": id, "role": role, "state": "FILLED", "code": None, "group_id": None, "parent_id": None}
    known |= {"signal_id": f"of {id}"}
    return known | {"symbol": "BTCUSDT", "instance": "i0", "quantity": Decimal(2)} | more


def theirs(id: str, executed: str, status: str = "FILLED", **more: Any) -> dict[str, Any]:
    return {
        "clientOrderId": id,
        "orderId": id,
        "symbol": "BTCUSDT",
        "status": status,
        "type": "LIMIT",
        "origQty": "2",
        "executedQty": executed,
    } | more


PAIR = [order("stop", "sl", group_id="pair", parent_id="in"), order("target", "tp", group_id="pair", parent_id="in")]


SENT = ("in", "out", "again", "closed")  # an exit that is sent again is one intent, a kill's close is none


def run() -> dict[str, Any]:
    """Return what a run knows that bought in two parts and sold by its target, replaced legs and had one denial."""
    requests = Requests()
    again = [order("again", "exit", signal_id="of out"), order("closed", "kill", signal_id=None)]
    orders = [
        order("in", "entry"),
        order("out", "exit"),
        *again,
        *PAIR,
        order("no", "entry", state="DENIED", code="BALANCE"),
    ]
    rows = {row["client_order_id"]: row for row in orders}
    for label in LABELS:
        place = [{"path": "/api/v3/order", "method": "POST", "client_order_ids": [id]} for id in (*SENT, "stop")]
        cancel = {"path": "/api/v3/order", "method": "DELETE", "client_order_ids": []}
        requests.note(label, [*place, cancel, *place], rows)
    return {
        "requests": requests,
        "orders": orders,
        "exchange_orders": [theirs("in", "2"), theirs("target", "2"), theirs("stop", "0", "EXPIRED")],
        "fills": [{"symbol": "BTCUSDT", "orderId": id} for id in ("in", "in", "target")],
        "reports": [{"kind": kind, "clientOrderId": "stop"} for kind in ("duplicate_report", "reorder_reports")],
        "struck": Counter({"bad marks": 1}),
    }


def test_a_run_over_the_minimum_is_a_proof_and_shows_its_counts() -> None:
    found = exercised(**run())
    assert list(found.shortfalls(MINIMUM)) == []
    assert (found.executed, found.partial, found.legs.total(), found.passed, found.pairs) == (2, 1, 1, 0, 1)
    assert "2 intents reached the exchange, which made 1 orders of them; 1 denied: 1 BALANCE" in found.text()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda e: e["requests"].reached.pop(), "1 intents reached the exchange"),
        (lambda e: e["orders"].pop(), "0 of 2 intents were denied"),
        (lambda e: e["orders"].append(order("n", "entry", state="DENIED", code="X")), "2 of 4 intents were denied"),
        (lambda e: e["fills"].pop(0), "0 of 2 executed orders were executed in parts"),
        (lambda e: e["exchange_orders"].pop(1), "0 of 1 executed orders were stops and targets"),
        (lambda e: e["exchange_orders"].pop(1), "one leg of 0 OCO pairs was executed"),
        (lambda e: e["reports"].pop(0), "duplicate_report struck 0"),
        (lambda e: e["reports"].pop(1), "reorder_reports struck 0"),
        (lambda e: e["struck"].pop("bad marks"), "bad marks struck 0 times, 1 are needed"),
        (lambda e: e["requests"].cancels.pop("ack.after"), "no cancels in the lives that had to end at ack.after"),
        (
            lambda e: e["requests"].replaces.pop("fill.before"),
            "no replaces in the lives that had to end at fill.before",
        ),
    ],
)
def test_a_run_below_a_minimum_is_no_proof(change: Any, text: str) -> None:
    known = run()
    change(known)
    assert any(text in line for line in exercised(**known).shortfalls(MINIMUM))


@pytest.mark.parametrize(
    ("there", "text"),
    [
        ([theirs("stop", "0", "NEW"), theirs("target", "0", "NEW")], ""),
        ([theirs("stop", "0", "EXPIRED"), theirs("target", "1", "PARTIALLY_FILLED")], ""),
        ([theirs("stop", "0", "NEW"), theirs("target", "1", "PARTIALLY_FILLED")], "its sibling still rests"),
        ([theirs("stop", "2"), theirs("target", "1", "CANCELED")], "executed 3, both together may 2"),
    ],
)
def test_a_pair_is_executed_once_and_leaves_nothing(there: list[dict[str, Any]], text: str) -> None:
    found = list(pair_errors(PAIR, there))
    assert len(found) == bool(text)
    assert all(text in line for line in found)
