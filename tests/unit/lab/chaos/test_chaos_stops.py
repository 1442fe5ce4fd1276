"""The invariant of stops: each case is a move that has a reason, or one that has none and must be found."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from fks.lab.chaos.cover import SmallestAmounts
from fks.lab.chaos.stops import StopEvidence, misplaced, moves_without_reason

D = Decimal
START = datetime(2026, 11, 29, tzinfo=UTC)
RULES = {"BTCUSDT": SmallestAmounts(D("0.001"), D(5), D(100))}
OLD, NEW = "a" * 32, "b" * 32

World = dict[str, Any]
Change = Callable[[World], object]


def at(second: int) -> datetime:
    return START + timedelta(seconds=second)


def entry(id: str, second: int, stop: str) -> dict[str, Any]:
    return {
        "client_order_id": id,
        "signal_id": f"signal {id}",
        "parent_id": None,
        "role": "entry",
        "side": "buy",
        "state": "FILLED",
        "venue": "ccxt",
        "symbol": "BTCUSDT",
        "instance": "one",
        "filled": D(2),
        "stop_loss": D(stop),
    }


def leg(parent: str, stop: str, state: str) -> dict[str, Any]:
    changes = {"client_order_id": f"{parent} stop", "parent_id": parent, "role": "sl", "side": "sell", "state": state}
    return (
        entry(parent, 0, stop) | changes | {"stop_price": D(stop), "stop_loss": None, "filled": D(0), "quantity": D(2)}
    )


def trade(number: int, order: str, kind: str, quantity: str, fee: str = "0") -> dict[str, Any]:
    return {
        "id": number,
        "time": at(number),
        "client_order_id": order,
        "venue": "ccxt",
        "symbol": "BTCUSDT",
        "instance": "one",
        "trade_type": kind,
        "quantity": D(quantity),
        "price": D(100),
        "fee": D(fee),
        "fee_currency": "BTC",
    }


def moved(order: str, stop: str, second: int, id: str = "stop-moved:1:1") -> dict[str, Any]:
    payload = {"stop_loss": stop, "bar": f"{at(second):%Y-%m-%dT%H:%M:%S}Z"}
    return {"client_order_id": order, "event": "StopMoved", "event_id": id, "payload": payload}


def signal(id: str, second: int, trail: str | None = None) -> dict[str, Any]:
    return {"id": f"signal {id}", "ts_event": at(second), "trail": None if trail is None else D(trail)}


def a_world() -> World:
    """An entry with a stop at 95 that its stop closed but for 0.021, and the next one, whose stop at 90 was moved."""
    return {
        "orders": [entry(OLD, 0, "95"), leg(OLD, "95", "FILLED"), entry(NEW, 9, "95"), leg(NEW, "90", "CANCELLED")],
        "events": [moved(NEW, "95", 12)],
        "trades": [
            trade(1, OLD, "BUY", "2", "0.002"),
            trade(5, f"{OLD} stop", "SELL", "1.977"),
            trade(10, NEW, "BUY", "2", "0.002"),
        ],
        "signals": [signal(OLD, 0), signal(NEW, 9)],
        "closes": {},
        "rules": RULES,
        "moves": StopEvidence(),
    }


def found_in(*changes: Change) -> list[str]:
    world = a_world()
    for change in changes:
        change(world)
    return list(moves_without_reason(**world))


def close_at(*prices: tuple[int, str]) -> Change:
    return lambda w: w.update(closes={"one": [(int(at(second).timestamp()), D(price)) for second, price in prices]})


def trail_by(trail: str) -> Change:
    return lambda w: w["signals"][1].update(trail=D(trail))


def move_by_strategy(price: str, second: int, instance: str = "one") -> Change:
    row = {"instance": instance, "time": at(second), "price": D(price)}
    return lambda w: w.update(moves=StopEvidence([row]))


def short(world: World) -> None:
    for row in (*world["orders"], *world["trades"]):
        row.update({"side": {"buy": "sell", "sell": "buy"}[row["side"]]} if "side" in row else {})
        if "trade_type" in row:
            row.update(trade_type={"BUY": "SELL", "SELL": "BUY"}[row["trade_type"]], fee=D(0))


REASONS: list[tuple[str, list[Change]]] = [
    ("an added entry of the same position", [lambda w: w["trades"].pop(1)]),
    ("more than a rest was left", [lambda w: w["trades"][1].update(quantity=D("1.9"))]),
    ("its own trail", [trail_by("5"), close_at((9, "99"), (11, "100"))]),
    ("a trail whose closes are not known", [trail_by("5")]),
    ("a move of its strategy", [move_by_strategy("95.001", 11)]),
    ("a plan", [lambda w: w.update(moves=StopEvidence(planned={f"signal {NEW}"}))]),
    ("a person", [lambda w: w.update(events=[moved(NEW, "95", 12, "amended:1:1")])]),
    ("a split", [lambda w: w["events"].append({"client_order_id": NEW, "event": "SharesSplit", "event_id": "split"})]),
    ("none that moved", [lambda w: w["events"].clear()]),
    ("a close that was booked late", [lambda w: w["trades"][1].update(id=11)]),
    (
        "the market came down since",
        [
            lambda w: w["trades"][1].update(quantity=D("1.95")),
            lambda w: w.update(rules={"BTCUSDT": SmallestAmounts(D("0.001"), D(5), D(40))}),
        ],
    ),
    (
        "a trail of the first entry",
        [
            lambda w: w["trades"].pop(1),
            lambda w: w["signals"][0].update(trail=D(4)),
            lambda w: w.update(events=[moved(NEW, "96", 12)]),
            close_at((0, "99"), (4, "100"), (11, "98")),
        ],
    ),
    ("a trail of which the first closes are not known", [trail_by("5"), close_at((10, "97"), (11, "98"))]),
    (
        "a stop of a leg that was moved in place since",
        [
            lambda w: w["trades"].pop(1),
            lambda w: w["signals"][0].update(stop_loss=D(95)),
            lambda w: w["orders"][0].update(stop_loss=D(97)),
            lambda w: w["orders"][1].update(stop_price=D(97)),
        ],
    ),
    (
        "a move in the middle of a second",
        [
            lambda w: w.update(
                moves=StopEvidence([{"instance": "one", "price": D(95), "time": at(11) + timedelta(milliseconds=500)}])
            ),
            lambda w: w["events"][0]["payload"].update(bar=f"{at(11):%Y-%m-%dT%H:%M:%S}.500Z"),
        ],
    ),
]
FAULTS: list[tuple[str, list[Change]]] = [
    ("the stop of a closed entry", []),
    ("of a short one", [short]),
    ("of one that turned", [lambda w: w["trades"][1].update(quantity=D("2.5")), lambda w: w["trades"].append(
        trade(8, "x", "BUY", "0.5"))]),
    ("closes of before the decision", [trail_by("5"), close_at((3, "100"), (9, "99"), (11, "99.99"))]),
    ("a close that was not yet there", [trail_by("5"), close_at((9, "99"), (13, "100"))]),
    ("a move that is farther", [move_by_strategy("94.9", 11)]),
    ("a move of before", [move_by_strategy("96", 8)]),
    ("a move of another instance", [move_by_strategy("96", 11, "two")]),
    ("a stop that no entry of the position had", [lambda w: w["trades"].pop(1), lambda w: w.update(
        events=[moved(NEW, "96", 12)], orders=[row | {"stop_loss": D(95)} for row in w["orders"]])]),
    ("an entry of another account", [lambda w: w["trades"].pop(1), lambda w: w["orders"][0].update(account_id=2)]),
]  # fmt: skip


@pytest.mark.parametrize(("what", "changes"), REASONS, ids=[what for what, _ in REASONS])
def test_a_move_with_a_reason_is_none_to_report(what: str, changes: list[Change]) -> None:
    assert found_in(*changes) == []


@pytest.mark.parametrize(("what", "changes"), FAULTS, ids=[what for what, _ in FAULTS])
def test_a_stop_that_is_not_of_its_own_position_is_found(what: str, changes: list[Change]) -> None:
    (found,) = found_in(*changes)
    assert found.startswith(f"the stop of entry {NEW} (one) moved to 9")


def test_a_stop_that_rests_away_from_the_stop_loss_of_its_entry_is_found() -> None:
    rows = [entry(NEW, 9, "95"), leg(NEW, "90", "WORKING")]
    (found,) = misplaced(rows, RULES)
    assert found.endswith("rests at 90, the stop loss of its entry is 95")
    assert list(misplaced([entry(NEW, 9, "90"), leg(NEW, "90", "WORKING")], RULES)) == []
    assert list(misplaced([entry(NEW, 9, "95"), leg(NEW, "90", "CANCELLED")], RULES)) == []
    assert list(misplaced([rows[0], rows[1] | {"quantity": D("0.05")}], RULES)) == []  # less than 5 at 95
