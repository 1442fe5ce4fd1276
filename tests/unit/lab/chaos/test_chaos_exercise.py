"""Orders that a run asks for, the counts of what became of them, and the minimums below which a run is no proof."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from fks.lab.chaos.auditor import Audit, Evidence, RequestEvidence, Violation
from fks.lab.chaos.exercise import Exercise, exercise_of
from fks.lab.chaos.faults import Attempt
from fks.lab.chaos.order_requests import STOPS_MAX, RequestedOrder, SymbolMarket, choose
from fks.lab.chaos.plan import Injection
from fks.lab.chaos.report import document, fault_rows, summary
from fks.lab.chaos.run import ChaosResult

D = Decimal
BTC = SymbolMarket("demo", "BTCUSDT", D("0.01"), D("0.00001"), D(5), D("65432.17"), D(0), 0)
ETH = SymbolMarket("demo", "ETHUSDT", D("0.05"), D("0.0001"), D(5), D("3210.95"), D(0), 0)
SEEDS = range(300)


def drawn(*markets: SymbolMarket, waiting: tuple[RequestedOrder, ...] = ()) -> list[dict[str, str]]:
    """Return the orders that many seeds ask for."""
    found = [choose(random.Random(seed), markets, waiting) for seed in SEEDS]
    return [dict(order.body) for order in found if order is not None]


def test_orders_fit_the_filters_of_their_symbol() -> None:
    held = [replace(BTC, held=D("0.0012345")), replace(ETH, held=D("0.01999"))]
    orders = [*drawn(BTC, ETH), *drawn(*held), *drawn(replace(BTC, stops=1), held[1])]
    for body in orders:
        market = {"BTCUSDT": BTC, "ETHUSDT": ETH}[body["symbol"]]
        quantity, price = D(body["quantity"]), D(body.get("price", market.price))
        assert quantity % market.step == 0
        assert quantity * price * D("0.98") >= market.notional_min
        assert [D(body[name]) % market.tick for name in ("price", "stop_loss", "take_profit") if name in body] == [
            0
        ] * (("price" in body) + 2 * ("stop_loss" in body))
        if "stop_loss" in body:
            assert body["side"] == "buy"
            assert D(body["stop_loss"]) < min(price, market.price) <= max(price, market.price) < D(body["take_profit"])
    kinds = Counter((b["symbol"], b["side"], b["type"], "stop_loss" in b) for b in orders)
    for symbol in ("BTCUSDT", "ETHUSDT"):
        for kind in (("buy", "market", False), ("buy", "limit", False), ("sell", "market", False)):
            assert kinds[symbol, *kind]
        assert kinds[symbol, "sell", "limit", False]
        assert kinds[symbol, "buy", "market", True] + kinds[symbol, "buy", "limit", True]


def test_protected_and_unprotected_orders_are_not_mixed_in_a_symbol() -> None:
    own = RequestedOrder({"symbol": "BTCUSDT", "side": "buy", "type": "market"})
    with_stop = RequestedOrder({**own.body, "stop_loss": "1"})
    held = replace(BTC, held=D("0.0005"))
    for markets, waiting, is_protected in (
        ((replace(held, stops=1), ETH), (), True),
        ((BTC, ETH), (with_stop,), True),
        ((held, ETH), (), False),
        ((BTC, ETH), (own,), False),
    ):
        mine = [body for body in drawn(*markets, waiting=waiting) if body["symbol"] == "BTCUSDT"]
        assert {"stop_loss" in body for body in mine} == {is_protected}
    both = drawn(replace(held, stops=1), ETH)
    assert not [body for body in both if body["symbol"] == "ETHUSDT" and "stop_loss" in body], (
        "no symbol is left to sell"
    )


def test_no_symbol_gets_more_than_its_stops() -> None:
    full = replace(BTC, held=D("0.001"), stops=STOPS_MAX)
    assert {body["symbol"] for body in drawn(full, ETH)} == {"ETHUSDT"}
    waiting = (RequestedOrder({"symbol": "BTCUSDT", "side": "buy", "type": "market", "stop_loss": "1"}),)
    assert {body["symbol"] for body in drawn(replace(full, stops=STOPS_MAX - 1), ETH, waiting=waiting)} == {"ETHUSDT"}


def test_no_order_is_asked_for_in_a_symbol_that_was_just_denied() -> None:
    found = [choose(random.Random(seed), (BTC, ETH), (), {"BTCUSDT"}) for seed in SEEDS]
    assert {order.body["symbol"] for order in found if order is not None} == {"ETHUSDT"}
    assert choose(random.Random(1), (BTC, ETH), (), {"BTCUSDT", "ETHUSDT"}) is None


def test_a_sale_is_of_coins_that_are_held_and_in_no_other_sale() -> None:
    held = replace(BTC, held=D("0.0012345"))
    sales = [body for body in drawn(held) if body["side"] == "sell"]
    assert {body["quantity"] for body in sales} == {"0.00123"}
    selling = RequestedOrder({"symbol": "BTCUSDT", "side": "sell", "type": "market"})
    assert not [body for body in drawn(held, waiting=(selling,)) if body["side"] == "sell"]
    for rest in (replace(BTC, held=D("0.00007")), replace(BTC, held=D("0.0000799"), price=D(70_000))):
        assert not [body for body in drawn(rest) if body["side"] == "sell"], "less than the smallest order is left"


def row(name: str, quantity: str, executed: str, status: str = "FILLED", id: int = 0) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "orderId": id,
        "clientOrderId": name,
        "origQty": quantity,
        "executedQty": executed,
        "status": status,
    }


def fill(id: int, time: int) -> dict[str, Any]:
    return {"symbol": "BTCUSDT", "orderId": id, "time": time, "wallTime": 5_000 + time}


REQUESTS = [RequestEvidence(f"key{n}", (f"signal{n}",)) for n in range(6)] + [RequestEvidence("never")]
OWN = [{"client_order_id": f"own{n}", "signal_id": f"signal{n}", "role": "order"} for n in range(6)]
LEGS = [{"client_order_id": role, "signal_id": "signal1", "role": role} for role in ("sl", "tp")]
EVIDENCE = Evidence(
    now_s=9.0,
    since_s=5.0,
    signals=[
        {"id": "signal0", "state": "denied", "code": "FEED_STALE"},
        *({"id": f"signal{n}", "state": "ordered", "code": None} for n in range(1, 6)),
        {"id": "of a strategy", "state": "denied", "code": "BALANCE"},
    ],
    orders=[*OWN, *LEGS],
    exchange_orders=[
        row("own1", "2", "2", id=1),
        row("own2", "2", "1", "CANCELED", id=2),
        row("own3", "2", "2", id=3),
        row("own4", "2", "0", "CANCELED", id=4),
        row("sl", "1", "1", id=5),
        row("tp", "1", "1", id=6),
        row("own5", "2", "0", "NEW", id=7),
    ],
    exchange_fills=[fill(1, 0), fill(1, 0), fill(2, 0), fill(3, 0), fill(3, 7), fill(5, 1), fill(6, -3)],
)


def test_the_exercise_counts_what_the_exchange_did() -> None:
    assert exercise_of(REQUESTS, EVIDENCE, protected_s=12.0) == Exercise(
        asked=7,
        denied={"FEED_STALE": 1},
        sent=5,
        filled=3,
        parts=2,  # one ended before its end, one was filled at two times; two prices at one time are no parts
        cancelled=2,
        stops=1,
        targets=0,  # executed before the run
        protected_s=12.0,
        unended=("own5",),
    )


ENOUGH = Exercise(asked=20, denied={}, sent=18, filled=16, parts=4, cancelled=2, stops=1, targets=1, protected_s=90.0)
FAULT = Injection(1, 1.0, "order-fault", "http_500", 5.0)
STRUCK = Attempt(FAULT, recovered_s=0.5, struck=1)
MISSED = Attempt(replace(FAULT, number=2), struck=0)
KILL = Attempt(Injection(3, 2.0, "kill", "orders"), detected_s=0.1, recovered_s=1.0)


def outcome(*attempts: Attempt, exercise: Exercise = ENOUGH, audit: Audit | None = None) -> ChaosResult:
    return ChaosResult(attempts, audit or Audit(9, 9, 9, 9, (), positions=2), 45.0, exercise)


@pytest.mark.parametrize(
    ("less", "why"),
    [
        ({"filled": 9}, "9 of 20 orders asked for were filled, at least half must be"),
        ({"asked": 0, "filled": 0, "parts": 0}, "0 of 0 orders asked for were filled"),
        ({"parts": 1}, "1 of 16 filled orders were filled in parts, at least a tenth must be"),
        ({"filled": 1, "asked": 1, "parts": 0}, "0 of 1 filled orders were filled in parts"),
        ({"protected_s": 0.0}, "no protected position was sampled"),
    ],
)
def test_a_run_that_exercised_too_little_is_no_proof(less: dict[str, Any], why: str) -> None:
    assert outcome(STRUCK, KILL).is_sound
    poor = outcome(STRUCK, KILL, exercise=replace(ENOUGH, **less))
    assert not poor.is_sound
    assert any(why in text for text in poor.shortfalls)
    assert summary(poor, seed=1).startswith("NO PROOF (")
    assert why in summary(poor, seed=1)
    assert document(poor, [], seed=1, minutes=1, scenarios=())["shortfalls"] == poor.shortfalls


def test_a_fault_that_struck_nothing_was_not_injected() -> None:
    found = outcome(STRUCK, MISSED, KILL, *[STRUCK] * 4)
    assert found.is_sound, "one of six is within the share that may strike nothing"
    assert [cells[:2] for cells in fault_rows(found)] == [("kill orders", "1"), ("order-fault", "5")]
    assert "6 faults in 45 s (seed 1), 1 struck nothing" in summary(found, seed=1)
    poor = outcome(STRUCK, MISSED, KILL)
    assert poor.shortfalls == ["1 of 2 faults of the exchange struck nothing, at most a fifth may"]
    assert not poor.is_sound


@pytest.mark.parametrize(
    "broken",
    [
        outcome(replace(KILL, recovered_s=None)),
        outcome(KILL, audit=Audit(9, 9, 9, 9, (Violation("leaked", "x"),))),
        replace(outcome(KILL), is_well=False),
        outcome(KILL, exercise=replace(ENOUGH, unended=("own9",))),
    ],
)
def test_a_broken_system_is_not_sound_however_much_was_exercised(broken: ChaosResult) -> None:
    assert not broken.is_sound
    assert summary(broken, seed=1).startswith("NOT SOUND: ")
