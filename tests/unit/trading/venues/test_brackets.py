"""Orders of an exchange that are a stop and a take profit of ours, told apart."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from hashlib import sha256
from typing import Any

import pytest

from fks.model.order import Order, OrderType, Report, Role, Side, State, TimeInForce
from fks.trading.venues.ccxt.brackets import MISSING_NS, TRIGGERED, ids_in, leg_of, parts_of, wire_id
from fks.trading.venues.ccxt.dialect import Basis
from fks.trading.venues.ccxt.dialects import coinbase, dialect, okx
from tests.support.venue_orders import order
from tests.support.venue_tapes import order_of, tape

ENTRY, STOP, LIMIT = ("e" * 32, "5" * 32, "7" * 32)
NOW = 10**18
D = Decimal


def leg(name: str, role: Role, **changes: Any) -> Order:
    return order("0.01", client_order_id=name, role=role, side=Side.SELL, symbol="BTC-USDT", **changes)


def orders() -> tuple[Order, Order, Order]:
    entry = order("0.01", client_order_id=ENTRY, type=OrderType.LIMIT, price="60000", side=Side.BUY, symbol="BTC-USDT")
    stop = leg(STOP, Role.STOP_LOSS, type=OrderType.STOP, stop_price="54000")
    limit = leg(LIMIT, Role.TAKE_PROFIT, type=OrderType.TAKE_PROFIT, price="66000")
    return replace(entry, time_in_force=TimeInForce.FOK), stop, limit


def report(state: State, filled: str = "0", **changes: Any) -> Report:
    made = Report("given", "V1", "BTC-USDT", state, D(filled), NOW, side=Side.SELL, quantity=D("0.01"))
    return replace(made, **{"price": D(66000), "stop_price": D(54000), **changes})


def test_a_request_carries_the_ids_of_all_its_orders() -> None:
    entry, stop, limit = orders()
    sent = coinbase.attach(entry, stop, limit, "BTC-USDT").params
    assert sent == {
        "client_order_id": ENTRY + STOP + LIMIT,
        "product_id": "BTC-USDT",
        "side": "BUY",
        "order_configuration": {"limit_limit_fok": {"base_size": "0.01", "limit_price": "60000"}},
        "attached_order_configuration": {
            "trigger_bracket_gtc": {"limit_price": "66000", "stop_trigger_price": "54000"}
        },
    }
    sent = coinbase.place_bracket(stop, limit, "BTC-USDT").params
    assert sent == {
        "client_order_id": STOP + LIMIT,
        "product_id": "BTC-USDT",
        "side": "SELL",
        "order_configuration": {
            "trigger_bracket_gtc": {"base_size": "0.01", "limit_price": "66000", "stop_trigger_price": "54000"}
        },
    }
    assert ids_in(wire_id((entry, stop, limit))) == [ENTRY, STOP, LIMIT]


@pytest.mark.parametrize("name", ["given", ENTRY, "f" * 63, "F" * 64, "f" * 128, ""])
def test_another_id_stands_for_one_order(name: str) -> None:
    assert ids_in(name) == [name]
    assert parts_of(report(State.WORKING), name, NOW) == [replace(report(State.WORKING), client_order_id=name)]


@pytest.mark.parametrize("changes", [{"stop_price": None}, {"price": None}, {"price": None, "stop_price": None}])
def test_an_order_without_both_prices_is_no_bracket_whatever_its_id(changes: dict[str, Any]) -> None:
    """Another program of the account may name its orders by a SHA-256."""
    seen = report(State.FILLED, "0.01", **changes)
    name = sha256(b"another program").hexdigest()
    assert parts_of(seen, name, NOW) == [replace(seen, client_order_id=name)]


@pytest.mark.parametrize(
    ("seen", "stop", "limit"),
    [
        (report(State.ACCEPTED), (State.ACCEPTED, "0"), (State.WORKING, "0")),
        (report(State.WORKING, code=TRIGGERED), (State.WORKING, "0"), (State.CANCELLED, "0")),
        (report(State.PARTIAL, "0.004", code=TRIGGERED), (State.PARTIAL, "0.004"), (State.CANCELLED, "0")),
        (report(State.PARTIAL, "0.004"), (State.CANCELLED, "0"), (State.PARTIAL, "0.004")),
        (report(State.FILLED, "0.01"), (State.CANCELLED, "0"), (State.FILLED, "0.01")),
        (report(State.FILLED, "0.01", code=TRIGGERED), (State.FILLED, "0.01"), (State.CANCELLED, "0")),
        (report(State.CANCELLED), (State.CANCELLED, "0"), (State.CANCELLED, "0")),
        (report(State.CANCELLED, "0.004"), (State.CANCELLED, "0"), (State.CANCELLED, "0.004")),
        (report(State.REJECTED), (State.REJECTED, "0"), (State.REJECTED, "0")),
    ],
)
def test_one_leg_of_a_bracket_ends_when_the_other_acts(
    seen: Report, stop: tuple[State, str], limit: tuple[State, str]
) -> None:
    found = {part.client_order_id: part for part in parts_of(seen, STOP + LIMIT, NOW)}
    assert {name: (part.state, part.filled, part.code) for name, part in found.items()} == {
        STOP: (stop[0], D(stop[1]), None),
        LIMIT: (limit[0], D(limit[1]), None),
    }
    assert (found[STOP].price, found[STOP].stop_price) == (None, D(54000))
    assert (found[LIMIT].price, found[LIMIT].stop_price) == (D(66000), None)


@pytest.mark.parametrize(
    ("state", "age_ns", "wanted", "code"),
    [
        (State.WORKING, 10 * MISSING_NS, State.ACCEPTED, "PENDING"),
        (State.PARTIAL, 10 * MISSING_NS, State.ACCEPTED, "PENDING"),
        (State.FILLED, MISSING_NS, State.ACCEPTED, "PENDING"),
        (State.FILLED, MISSING_NS + 1, State.EXPIRED, "BRACKET_MISSING"),
        (State.CANCELLED, 0, State.EXPIRED, "ENTRY_ENDED"),
        (State.REJECTED, 0, State.EXPIRED, "ENTRY_ENDED"),
    ],
)
def test_exits_wait_for_their_entry(state: State, age_ns: int, wanted: State, code: str) -> None:
    seen = replace(report(state, "0.01" if state is State.FILLED else "0"), side=Side.BUY)
    entry, *exits = parts_of(seen, ENTRY + STOP + LIMIT, NOW + age_ns)
    assert entry == replace(seen, client_order_id=ENTRY)
    assert [part.client_order_id for part in exits] == [STOP, LIMIT]
    for part in exits:
        assert (part.state, part.code, part.filled, part.side) == (wanted, code, 0, Side.SELL)
        assert part.venue_order_id == "V1", "a cancel of one that waits is a cancel of its entry"
        assert part.time_ns == 0, "no report of the bracket is older"


@pytest.mark.parametrize(("price", "name"), [("66000", LIMIT), ("66001", LIMIT), ("65999", STOP), ("51300", STOP)])
def test_an_execution_is_of_the_leg_whose_price_it_has(price: str, name: str) -> None:
    assert leg_of({STOP: None, LIMIT: D(66000)}, Side.SELL, D(price)) == name
    assert leg_of({ENTRY: D(60000)}, Side.BUY, D(price)) == ENTRY


def test_attached_orders_are_joined_from_either_side() -> None:
    rows = [
        {"order_id": "E", "attached_order_id": "B", "originating_order_id": ""},
        {"order_id": "C", "originating_order_id": "F"},
        {"order_id": "", "originating_order_id": "G"},
        None,
    ]
    assert coinbase.origins_of({"orders": rows}) == {"B": "E", "C": "F"}
    for body in (None, {}, {"orders": None}, {"orders": 5}, {"orders": [5]}, [], "text"):
        assert coinbase.origins_of(body) == {}


def test_venues_that_attach_exits_hold_pairs() -> None:
    for name, is_able in (("coinbase", True), ("kraken", False), ("bybit", False), ("okx", True)):
        can = dialect(name).capabilities
        assert (can.attaches_exits, can.has_oco) == (is_able, is_able)


# ── V-12 at OKX: recorded and documented bodies; there is no stand-in ────────────────────────────
@pytest.mark.parametrize("row", tape("okx")["attached"], ids=lambda row: row["name"])
def test_okx_takes_exits_with_their_entry(row: dict[str, Any]) -> None:
    first, is_entry = order_of("okx", row), row["order"]["side"] == "buy"
    pair, exits = first.symbol, row["exits"]
    stop = leg(STOP, Role.STOP_LOSS, type=OrderType.STOP, stop_price=exits["stop_price"]) if is_entry else first
    limit = leg(LIMIT, Role.TAKE_PROFIT, type=OrderType.TAKE_PROFIT, price=exits["price"])
    call = okx.attach(first, stop, limit, pair) if is_entry else okx.place_bracket(stop, limit, pair)
    wanted, sent = dict(row["json"]), dict(call.params)
    [attached] = sent.pop("attachAlgoOrds", [sent])
    [wanted_exits] = wanted.pop("attachAlgoOrds", [wanted])
    assert wanted.items() <= sent.items()
    assert wanted_exits.items() <= attached.items()
    assert (attached["tpOrdPx"], sent["clOrdId"]) == (exits["price"], first.client_order_id)
    assert attached["attachAlgoClOrdId" if is_entry else "algoClOrdId"] == stop.client_order_id
    assert call.is_write
    assert call.is_signed
    named = replace(first, client_order_id=wire_id((first, stop, limit) if is_entry else (stop, limit)))
    assert okx.order_id_of(row["body"], named) == row["order_id"]
    assert okx.order_id_of(row["body"], replace(named, client_order_id="b" * 96)) is None
    assert (row["basis"] in ("recorded", "documented"), bool(row["source"]), bool(row["date"])) == (True,) * 3


def test_okx_shows_its_protection_without_being_traded() -> None:
    spoken = dialect("okx")
    assert spoken.reads is None
    [fact] = [fact for fact in spoken.facts if fact.topic == "protection"]
    assert (fact.basis, "no stand-in" in fact.text) == (Basis.DOCUMENTED, True)
