"""The engine under any sequence of orders, cancels, market moves and restarts: no atom is made or lost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fks.clock import FakeClock
from fks.lab.sim.atoms import parse, show, times
from fks.lab.sim.entry import NewOrder
from fks.lab.sim.errors import ApiError
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.options import Options
from fks.lab.sim.orders import SimOrder
from fks.lab.sim.user_stream import Users

SYMBOL = "SOLUSDT"
START = {"USDT": "20000", "SOL": "50"}


class Clock(FakeClock):
    """A clock that a synchronous test can move."""

    def move(self, seconds: float) -> None:
        self._elapsed += seconds


def opened(folder: Path, clock: Clock, usdt: str = START["USDT"]) -> LocalExchange:
    balances = START | {"USDT": usdt}
    return LocalExchange(Options(folder, balances=balances, has_rate_limits=False, history_days=2), clock)


def books(exchange: LocalExchange) -> dict[str, tuple[int, int]]:
    rows = exchange.engine.ledger.rows()
    return {row["asset"]: (parse(row["free"]), parse(row["locked"])) for row in rows}


def check_books(exchange: LocalExchange) -> None:
    """Totals are what the fills say; locked is what open orders and lists hold, in memory and on disk."""
    check_books_of(exchange, {})


def check_books_of(exchange: LocalExchange, start: dict[str, str]) -> None:
    totals = {asset: parse((START | start).get(asset, "0")) for asset in books(exchange)}
    for fill in exchange.store.fills():
        sign = 1 if fill.is_buyer else -1
        totals["SOL"] += sign * fill.quantity
        totals["USDT"] -= sign * fill.quote
        totals[fill.commission_asset] -= fill.commission
        assert fill.quote == times(fill.price, fill.quantity)
    held = books(exchange)
    assert {asset: sum(pair) for asset, pair in held.items()} == totals
    locked = dict.fromkeys(held, 0)
    state = exchange.states[SYMBOL]
    for order in state.orders.values():
        assert order.is_open
        locked["USDT" if order.is_buy else "SOL"] += order.locked
        if order.has_limit and order.list_id == -1:
            assert order.locked == (times(order.price, order.remaining) if order.is_buy else order.remaining)
    for pair in exchange.engine.lists.values():
        locked["USDT" if pair.side == "BUY" else "SOL"] += pair.locked
    assert {asset: pair[1] for asset, pair in held.items()} == locked
    assert {o.order_id for o in exchange.store.orders("is_open = 1")} == set(state.orders)


class Trading(RuleBasedStateMachine):
    """Random trading on a generated market."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.exchange = opened(Path(self.folder.name), self.clock)
        self.number = 0

    def teardown(self) -> None:
        self.exchange.close()
        self.folder.cleanup()

    def price(self, percent: float) -> int:
        last, tick = self.exchange.states[SYMBOL].market.last_price, self.exchange.states[SYMBOL].market.listing.tick
        return round(last * (1 + percent / 100)) // tick * tick

    def attempt(self, *legs: NewOrder, working: NewOrder | None = None) -> None:
        self.exchange.current_state(SYMBOL)
        try:
            if len(legs) == 1:
                self.exchange.engine.place(legs[0])
            else:
                self.exchange.engine.place_list("", list(legs), working)
        except ApiError as error:
            if error.code not in (-1013, -2010):
                raise

    def make(self, side: str, kind: str, lots: int, **fields: Any) -> NewOrder:
        self.number += 1
        return NewOrder(SYMBOL, side, kind, quantity=lots * 10**5, client_id=f"n{self.number}", **fields)

    SIDES = st.sampled_from(["BUY", "SELL"])
    LOTS = st.integers(20, 60_000)
    NEAR = st.floats(-0.4, 0.4)

    @rule(side=SIDES, lots=LOTS)
    def market(self, side: str, lots: int) -> None:
        self.attempt(self.make(side, "MARKET", lots))

    @rule(side=SIDES, lots=LOTS, percent=NEAR, tif=st.sampled_from(["GTC", "GTC", "IOC", "FOK"]))
    def limit(self, side: str, lots: int, percent: float, tif: str) -> None:
        self.attempt(self.make(side, "LIMIT", lots, price=self.price(percent), tif=tif))

    @rule(
        side=SIDES, lots=LOTS, percent=NEAR, kind=st.sampled_from(["STOP_LOSS", "TAKE_PROFIT"]), slip=st.none() | NEAR
    )
    def conditional(self, side: str, lots: int, percent: float, kind: str, slip: float | None) -> None:
        if slip is None:
            self.attempt(self.make(side, kind, lots, stop_price=self.price(percent)))
        else:
            both = {"stop_price": self.price(percent), "price": self.price(percent + slip)}
            self.attempt(self.make(side, f"{kind}_LIMIT", lots, **both))

    @rule(side=SIDES, lots=LOTS, up=st.floats(0.02, 0.5), down=st.floats(0.02, 0.5))
    def pair(self, side: str, lots: int, up: float, down: float) -> None:
        profit = self.make(side, "LIMIT_MAKER", lots, price=self.price(up if side == "SELL" else -down))
        stop = self.make(side, "STOP_LOSS", lots, stop_price=self.price(-down if side == "SELL" else up))
        self.attempt(*([profit, stop] if side == "SELL" else [stop, profit]))

    @rule(
        side=SIDES,
        lots=LOTS,
        percent=st.floats(-0.3, 0.3),
        tif=st.sampled_from(["GTC", "IOC", "FOK"]),
        up=st.floats(0.02, 0.5),
        down=st.floats(0.02, 0.5),
        share=st.sampled_from([0, 0, 0.5, 1, 2]),
    )
    def waiting_pair(
        self, side: str, lots: int, percent: float, tif: str, up: float, down: float, share: float
    ) -> None:
        """A pair that waits for an entry: it sells what the entry receives (0), less than that or more."""
        side = "BUY" if not share else side
        working = self.make(side, "LIMIT", lots, price=self.price(percent), tif=tif)
        sells, size = side == "BUY", int(lots * share)
        profit = self.make(
            "SELL" if sells else "BUY", "LIMIT_MAKER", size, price=self.price(percent + (up if sells else -down))
        )
        stop = self.make(profit.side, "STOP_LOSS", size, stop_price=self.price(percent + (-down if sells else up)))
        self.attempt(*([profit, stop] if sells else [stop, profit]), working=working)

    @precondition(lambda self: self.exchange.states[SYMBOL].orders)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        orders = list(self.exchange.states[SYMBOL].orders.values())
        self.exchange.engine.cancel(data.draw(st.sampled_from(orders)))

    @precondition(lambda self: self.exchange.states[SYMBOL].orders)
    @rule(data=st.data(), share=st.floats(0.05, 1.05), keeps_id=st.booleans())
    def amend(self, data: st.DataObject, share: float, keeps_id: bool) -> None:
        order = data.draw(st.sampled_from(list(self.exchange.states[SYMBOL].orders.values())))
        queue, quantity = order.queue, int(order.quantity * share) // 10**5 * 10**5
        try:
            self.exchange.engine.amend(order, quantity, order.client_id if keeps_id else "")
        except ApiError as error:
            if error.code not in (-1013, -2038):
                raise
            return
        assert order.queue == queue
        assert order.quantity == max(quantity, order.executed)
        assert order.is_open == (quantity > order.executed)

    @rule()
    def thin(self) -> None:
        self.exchange.faults.add({"kind": "thin_book"}, 0.0)

    @rule(seconds=st.floats(0.05, 90))
    def wait(self, seconds: float) -> None:
        self.clock.move(seconds)
        self.exchange.advance()

    @rule(seconds=st.floats(0, 3600))
    def restart(self, seconds: float) -> None:
        before = books(self.exchange)
        known = {order.order_id for order in self.exchange.store.orders()}
        self.exchange.close()
        if seconds < 1:
            again = opened(Path(self.folder.name), self.clock)
            assert books(again) == before or again.store.fills()
        else:
            self.clock.move(seconds)
            again = opened(Path(self.folder.name), self.clock)
        assert {order.order_id for order in again.store.orders()} == known
        self.exchange = again

    @invariant()
    def sound(self) -> None:
        check_books(self.exchange)


TestTrading = Trading.TestCase
TestTrading.settings = settings(max_examples=settings.default.max_examples // 3, stateful_step_count=20)


@pytest.fixture
def exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[LocalExchange, Clock, list[dict[str, Any]]]]:
    clock = Clock()
    received: list[dict[str, Any]] = []
    monkeypatch.setattr(Users, "emit", lambda users, event: received.append(event))
    made = opened(tmp_path, clock, "9000000")
    yield made, clock, received
    made.close()


@pytest.mark.parametrize(("kind", "ends"), [("MARKET", "EXPIRED"), ("LIMIT", "FILLED")])
def test_a_thin_book_fills_an_order_in_parts(
    exchange: tuple[LocalExchange, Clock, list[dict[str, Any]]], kind: str, ends: str
) -> None:
    made, clock, _ = exchange
    made.faults.add({"kind": "thin_book", "symbol": SYMBOL}, 0.0)
    state = made.current_state(SYMBOL)
    price = {"price": state.market.last_price + 2 * state.market.listing.tick} if kind == "LIMIT" else {}
    order, fills = made.engine.place(NewOrder(SYMBOL, "BUY", kind, quantity=41 * 10**5, client_id="thin", **price))
    assert [fill.quantity for fill in fills] == [20 * 10**5]
    assert made.faults.rows(1)[0]["struck"] == 1
    until(made, clock, order)
    assert (order.status, order.executed) == (ends, 20 * 10**5 if ends == "EXPIRED" else 41 * 10**5)
    order, fills = made.engine.place(NewOrder(SYMBOL, "BUY", "MARKET", quantity=41 * 10**5, client_id="whole"))
    assert order.status == "FILLED"


def until(exchange: LocalExchange, clock: Clock, order: SimOrder) -> None:
    """Let time pass until an order is done."""
    for _ in range(40_000):
        if not order.is_open:
            return
        clock.move(0.5)
        exchange.advance()
    raise AssertionError("never done")


def test_a_resting_order_fills_as_maker_when_the_market_comes_to_it(exchange: Any) -> None:
    made, clock, received = exchange
    state = made.states[SYMBOL]
    price = state.market.last_price - 20 * state.market.listing.tick
    order, fills = made.engine.place(
        NewOrder(SYMBOL, "BUY", "LIMIT", quantity=parse("2"), price=price, client_id="rest")
    )
    assert (order.status, fills) == ("NEW", [])
    until(made, clock, order)
    found = made.store.fills("order_id = ?", (order.order_id,))
    assert {fill.price for fill in found} == {price}
    assert all(fill.is_maker for fill in found)
    assert sum(fill.quantity for fill in found) == parse("2")
    assert next(event["x"] for event in received if event["e"] == "executionReport") == "NEW"
    public = state.market.prints
    assert [public.price[i] * state.market.listing.tick for i in range(len(public))] == [price] * len(found)


def test_a_stop_triggers_takes_from_the_book_and_ends_its_pair(exchange: Any) -> None:
    made, clock, received = exchange
    state = made.states[SYMBOL]
    tick, last = state.market.listing.tick, state.market.last_price
    profit = NewOrder(SYMBOL, "SELL", "LIMIT_MAKER", quantity=parse("3"), price=last + 4000 * tick, client_id="tp")
    stop = NewOrder(SYMBOL, "SELL", "STOP_LOSS", quantity=parse("3"), stop_price=last - 20 * tick, client_id="sl")
    pair, orders, _ = made.engine.place_list("pair", [profit, stop])
    until(made, clock, orders[1])
    assert [order.status for order in orders] == ["EXPIRED", "FILLED"]
    assert made.engine.lists == {}
    assert [event["L"] for event in received if event["e"] == "listStatus"] == ["EXECUTING", "ALL_DONE"]
    kinds = [(event["c"], event["x"]) for event in received if event["e"] == "executionReport"]
    assert kinds[:2] == [("tp", "NEW"), ("sl", "NEW")]
    assert ("tp", "EXPIRED") in kinds
    assert made.store.lists("list_id = ?", (pair.list_id,))[0].order_status == "ALL_DONE"


def test_an_amended_order_keeps_its_id_and_its_place_in_the_queue(exchange: Any) -> None:
    made, clock, received = exchange
    state = made.states[SYMBOL]
    bid = state.book.best()[0] * state.market.listing.tick
    order, _ = made.engine.place(NewOrder(SYMBOL, "BUY", "LIMIT", quantity=parse("2"), price=bid, client_id="rest"))
    queue, number = order.queue, order.order_id
    assert queue > 0
    done = made.engine.amend(order, parse("1.5"), "rest")
    assert (order.order_id, order.queue, order.quantity, order.client_id) == (number, queue, parse("1.5"), "rest")
    report = next(event for event in received if event.get("x") == "REPLACED")
    shown = {name: report[name] for name in ("c", "C", "X", "q", "i", "I", "w")}
    assert shown == {
        "c": "rest",
        "C": "rest",
        "X": "NEW",
        "q": "1.50000000",
        "i": number,
        "I": done.execution_id,
        "w": True,
    }
    check_books_of(made, {"USDT": "9000000"})
    until(made, clock, order)
    assert order.executed == parse("1.5")


def test_a_partly_filled_order_amended_to_its_fills_expires(exchange: Any) -> None:
    made, _, _ = exchange
    made.faults.add({"kind": "thin_book"}, 0.0)
    state = made.current_state(SYMBOL)
    price = state.market.last_price + 2 * state.market.listing.tick
    order, _ = made.engine.place(NewOrder(SYMBOL, "BUY", "LIMIT", quantity=parse("4.1"), price=price))
    assert order.status == "PARTIALLY_FILLED"
    made.engine.amend(order, parse("3"))
    assert (order.status, order.remaining) == ("PARTIALLY_FILLED", parse("0.95"))
    made.engine.amend(order, parse("1"))
    assert (order.status, order.executed, order.quantity, order.locked) == ("EXPIRED", *[parse("2.05")] * 2, 0)


def test_execution_ids_rise_over_a_restart_within_a_millisecond(tmp_path: Path) -> None:
    clock, ids = Clock(), []
    for quantity in ("3", "2"):
        made = opened(tmp_path, clock)
        if not ids:
            made.engine.place(entry(made, -400, quantity="4"))
        ids.append(made.engine.amend(made.states[SYMBOL].by_client_id("in"), parse(quantity), "in").execution_id)
        made.close()
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("keeps_id", [True, False])
def test_an_amended_leg_changes_its_pair(exchange: Any, keeps_id: bool) -> None:
    made, _, received = exchange
    state = made.states[SYMBOL]
    last, tick = state.market.last_price, state.market.listing.tick
    profit = NewOrder(SYMBOL, "SELL", "LIMIT_MAKER", quantity=parse("3"), price=last + 4000 * tick, client_id="tp")
    stop = NewOrder(SYMBOL, "SELL", "STOP_LOSS", quantity=parse("3"), stop_price=last - 4000 * tick, client_id="sl")
    pair, orders, _ = made.engine.place_list("pair", [profit, stop])
    received.clear()
    made.engine.amend(orders[1], parse("2"), "sl" if keeps_id else "sl-2")
    assert [order.quantity for order in orders] == [parse("2")] * 2
    assert books(made)["SOL"] == (parse("48"), parse("2"))
    reports = [(event["c"], event["C"], event["q"]) for event in received if event.get("x") == "REPLACED"]
    assert reports == [("sl" if keeps_id else "sl-2", "sl", "2.00000000"), ("tp", "tp", "2.00000000")]
    statuses = [(event["l"], event["L"]) for event in received if event["e"] == "listStatus"]
    assert statuses == ([] if keeps_id else [("UPDATED", "EXECUTING")]), "a listStatus only when an id changed"
    assert pair.client_ids == ["tp", "sl" if keeps_id else "sl-2"]
    made.engine.cancel(orders[0])
    assert books(made)["SOL"] == (parse("50"), 0)


def exits(made: LocalExchange, quantity: str, tp: int = 4000, sl: int = -4000) -> list[NewOrder]:
    state = made.states[SYMBOL]
    last, tick = state.market.last_price, state.market.listing.tick
    size = {"quantity": parse(quantity)}
    return [
        NewOrder(SYMBOL, "SELL", "LIMIT_MAKER", price=last + tp * tick, client_id="tp", **size),
        NewOrder(SYMBOL, "SELL", "STOP_LOSS", stop_price=last + sl * tick, client_id="sl", **size),
    ]


def entry(made: LocalExchange, ticks: int, tif: str = "GTC", quantity: str = "3") -> NewOrder:
    market = made.states[SYMBOL].market
    price = market.last_price + ticks * market.listing.tick
    return NewOrder(SYMBOL, "BUY", "LIMIT", tif=tif, price=price, quantity=parse(quantity), client_id="in")


def reports(received: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return id, execution type, status and reason of each executionReport, and the listStatuses."""
    found = []
    for event in received:
        if event["e"] == "executionReport":
            found.append((event["c"], event["x"], event["X"], event.get("eR", "")))
        elif event["e"] == "listStatus":
            found.append((event["c"], event["l"], event["L"]))
    return found


def test_a_waiting_pair_reaches_the_book_at_the_complete_fill_only(exchange: Any) -> None:
    made, clock, received = exchange
    made.faults.add({"kind": "thin_book"}, 0.0)
    pair, orders, fills = made.engine.place_list("all", exits(made, "3"), entry(made, 2))
    assert [order.status for order in orders] == ["PARTIALLY_FILLED", "PENDING_NEW", "PENDING_NEW"]
    assert sum(fill.quantity for fill in fills) == parse("1.5")
    assert reports(received)[:4] == [
        ("OTO", "EXEC_STARTED", "EXECUTING"),
        ("in", "NEW", "NEW", ""),
        ("tp", "NEW", "PENDING_NEW", ""),
        ("sl", "NEW", "PENDING_NEW", ""),
    ]
    check_books_of(made, {"USDT": "9000000"})
    assert books(made)["SOL"][1] == 0
    received.clear()
    until(made, clock, orders[0])
    assert reports(received)[-3:] == [
        ("in", "TRADE", "FILLED", ""),
        ("tp", "NEW", "NEW", ""),
        ("sl", "NEW", "NEW", ""),
    ]
    assert books(made)["SOL"][1] == pair.locked == parse("3")
    check_books_of(made, {"USDT": "9000000"})
    made.engine.cancel(made.states[SYMBOL].by_client_id("sl"))
    assert books(made)["SOL"][1] == 0
    ends = [event["C"] for event in received if event.get("x") == "CANCELED"]
    assert ends == ["sl", "tp"]
    assert reports(received)[-1] == ("OTO", "ALL_DONE", "ALL_DONE")


@pytest.mark.parametrize(
    ("tif", "ticks", "reason"),
    [("FOK", -400, "UNFILLED_FOK_ORDER_EXPIRED"), ("IOC", 2, "UNFILLED_IOC_QUANTITY_EXPIRED")],
)
def test_a_pair_expires_with_the_order_that_it_waits_for(exchange: Any, tif: str, ticks: int, reason: str) -> None:
    made, _, received = exchange
    made.faults.add({"kind": "thin_book"}, 0.0)
    made.engine.place_list("all", exits(made, "0"), entry(made, ticks, tif))
    assert [report for report in reports(received) if report[-1]][-4:] == [
        ("in", "EXPIRED", "EXPIRED", reason),
        ("tp", "EXPIRED", "EXPIRED", "OTO_PHASE_ONE_EXPIRED"),
        ("sl", "EXPIRED", "EXPIRED", "OTO_PHASE_ONE_EXPIRED"),
        ("OTO", "ALL_DONE", "ALL_DONE"),
    ]
    assert made.engine.lists == made.states[SYMBOL].orders == {}
    assert books(made)["SOL"][1] == 0, "received and locked for the pair: free again"
    check_books_of(made, {"USDT": "9000000"})


@pytest.mark.parametrize(
    ("free", "sold", "rest"),
    [("50", "3", "0"), ("0", "2.997", "0"), ("0.0001", "2.997", "0.0001")],
    ids=["the free balance pays the commission", "nothing free", "too little free"],
)
def test_an_opo_pair_sells_what_was_received(exchange: Any, free: str, sold: str, rest: str) -> None:
    made, _, _ = exchange
    made.engine.transfer("withdrawal", "SOL", books(made)["SOL"][0] - parse(free))
    _, orders, _ = made.engine.place_list("all", exits(made, "0"), entry(made, 100, "FOK"))
    assert [(order.status, order.quantity) for order in orders] == [
        ("FILLED", parse("3")),
        ("PENDING_NEW", 0),
        ("PENDING_NEW", 0),
    ], "the answer shows pending orders, though the entry is filled"
    assert "origQty" not in orders[1].result()
    state = made.states[SYMBOL]
    assert [(o.status, o.quantity) for o in state.orders.values()] == [("NEW", parse(sold))] * 2
    assert books(made)["SOL"] == (parse(rest) if free != "50" else parse("49.997"), parse(sold))


def test_the_rest_below_a_lot_is_unlocked(exchange: Any) -> None:
    made, _, _ = exchange
    made.engine.transfer("withdrawal", "SOL", books(made)["SOL"][0])
    made.engine.place_list("all", exits(made, "0"), entry(made, 100, "FOK", "1.234"))
    assert {order.quantity for order in made.states[SYMBOL].orders.values()} == {parse("1.232")}  # of 1.232766
    assert books(made)["SOL"] == (parse("0.000766"), parse("1.232"))


@pytest.mark.parametrize(
    ("quantity", "pair", "filters", "refused", "reason"),
    [
        ("60", {}, {}, "tp", "INSUFFICIENT_BALANCES"),
        ("0", {"sl": 4000, "tp": 5000}, {}, "sl", "STOP_PRICE_WOULD_TRIGGER_IMMEDIATELY"),
        ("0", {"tp": -5000, "sl": -6000}, {}, "tp", "WOULD_MATCH_IMMEDIATELY"),
        ("0", {}, {"notional_min": "8000000"}, "tp", "NONE"),
        ("3", {}, {"qty_max": "2"}, "tp", "NONE"),
        ("0", {}, {"ask_up": "1.01"}, "tp", "NONE"),
    ],
)
def test_a_pending_order_that_is_refused_after_the_fill_ends_the_pair(
    exchange: Any, quantity: str, pair: dict[str, int], filters: dict[str, str], refused: str, reason: str
) -> None:
    made, clock, received = exchange
    _, orders, _ = made.engine.place_list("all", exits(made, quantity, **pair), entry(made, -20))
    made.set_filters(SYMBOL, filters)
    until(made, clock, orders[0])
    other = "sl" if refused == "tp" else "tp"
    ends = {event["c"]: event for event in received if event.get("x") == "EXPIRED"}
    assert (ends[refused]["eR"], ends[refused]["r"]) == ("REJECTED", reason)
    assert (ends[other]["eR"], ends[other]["r"]) == ("OCO_TRIGGER", "NONE")
    assert reports(received)[-1] == ("OTO", "ALL_DONE", "ALL_DONE")
    assert made.engine.lists == made.states[SYMBOL].orders == {}
    assert books(made)["SOL"][1] == 0
    check_books_of(made, {"USDT": "9000000"})


def test_a_waiting_pair_is_amended_apart_from_its_entry(exchange: Any) -> None:
    made, clock, _ = exchange
    _, orders, _ = made.engine.place_list("all", exits(made, "3"), entry(made, -20))
    state = made.states[SYMBOL]
    made.engine.amend(state.by_client_id("sl"), parse("1"), "sl")
    made.engine.amend(orders[0], parse("2"), "in")
    assert [order.quantity for order in state.orders.values()] == [parse("2"), parse("1"), parse("1")]
    until(made, clock, orders[0])
    assert books(made)["SOL"][1] == parse("1")
    made.engine.amend(state.by_client_id("tp"), parse("0.5"), "tp")
    assert {order.quantity for order in state.orders.values()} == {parse("0.5")}
    assert books(made)["SOL"][1] == parse("0.5")


def test_a_pending_order_without_a_quantity_is_not_amended(exchange: Any) -> None:
    made, clock, _ = exchange
    _, orders, _ = made.engine.place_list("all", exits(made, "0"), entry(made, -20))
    with pytest.raises(ApiError, match=r"Order amend \(pending OPO order\) is not supported."):
        made.engine.amend(made.states[SYMBOL].by_client_id("sl"), parse("1"), "sl")
    until(made, clock, orders[0])
    made.engine.amend(made.states[SYMBOL].by_client_id("sl"), parse("1"), "sl")
    assert {order.quantity for order in made.states[SYMBOL].orders.values()} == {parse("1")}


BEYOND = "EXECUTION_RULE_PRICE_RANGE_EXCEEDED"


@pytest.mark.parametrize(
    ("kind", "tif", "executes"),
    [("MARKET", "GTC", True), ("LIMIT", "GTC", True), ("LIMIT", "IOC", True), ("LIMIT", "FOK", False)],
)
def test_a_taker_beyond_the_price_range_expires(exchange: Any, kind: str, tif: str, executes: bool) -> None:
    made, _, received = exchange
    state = made.states[SYMBOL]
    tick, levels = state.market.listing.tick, state.book.levels("ask", state.market.now_ms)
    best, quantity = levels[0][0] * tick, levels[0][1] * state.market.listing.step * 3
    made.set_filters(SYMBOL, {"bid_limit_up": "1", "reference_price": show(best)})
    price = {} if kind == "MARKET" else {"price": best + 5000 * tick}
    order, fills = made.engine.place(NewOrder(SYMBOL, "BUY", kind, tif=tif, quantity=quantity, **price))
    assert {fill.price for fill in fills} == ({best} if executes else set())
    assert (order.status, order.expiry, 0 < order.executed < quantity) == ("EXPIRED", BEYOND, executes)
    assert order.result()["expiryReason"] == order.row()["expiryReason"] == BEYOND
    assert [event["eR"] for event in received if event.get("x") == "EXPIRED"] == [BEYOND]
    assert order.locked == 0


def test_a_triggered_stop_beyond_the_price_range_expires(exchange: Any) -> None:
    made, clock, _ = exchange
    state = made.states[SYMBOL]
    last, tick = state.market.last_price, state.market.listing.tick
    pair = [
        NewOrder(SYMBOL, "SELL", "LIMIT_MAKER", quantity=parse("3"), price=last + 4000 * tick, client_id="tp"),
        NewOrder(SYMBOL, "SELL", "STOP_LOSS", quantity=parse("3"), stop_price=last - 20 * tick, client_id="sl"),
    ]
    _, orders, _ = made.engine.place_list("", pair)
    made.set_filters(SYMBOL, {"ask_limit_down": "1", "reference_price": show(last)})
    until(made, clock, orders[1])
    assert [(order.status, order.expiry) for order in orders] == [("EXPIRED", "OCO_TRIGGER"), ("EXPIRED", BEYOND)]
    assert books(made)["SOL"] == (parse("50"), 0)
    assert made.store.fills() == []


def test_a_resting_order_executes_at_any_price(exchange: Any) -> None:
    made, clock, _ = exchange
    order, _ = made.engine.place(entry(made, -20))
    made.set_filters(SYMBOL, {"bid_limit_up": "0.5"})
    until(made, clock, order)
    assert order.status == "FILLED"


def test_a_large_order_walks_the_book_and_moves_the_tape(exchange: Any) -> None:
    made, _, _ = exchange
    state = made.states[SYMBOL]
    top = state.book.levels("ask", state.market.now_ms)[0]
    quantity = top[1] * state.market.listing.step * 3
    order, fills = made.engine.place(NewOrder(SYMBOL, "BUY", "MARKET", quantity=quantity))
    assert order.status == "FILLED"
    assert len({fill.price for fill in fills}) > 1
    assert [fill.price for fill in fills] == sorted(fill.price for fill in fills)
    assert state.market.last_price == fills[-1].price
