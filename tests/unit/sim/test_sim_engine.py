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
from fks.sim.atoms import parse, times
from fks.sim.entry import NewOrder
from fks.sim.errors import ApiError
from fks.sim.exchange import Exchange
from fks.sim.options import Options
from fks.sim.orders import Order
from fks.sim.users import Users

SYMBOL = "SOLUSDT"
START = {"USDT": "20000", "SOL": "50"}


class Clock(FakeClock):
    """A clock that a synchronous test can move."""

    def move(self, seconds: float) -> None:
        self._elapsed += seconds


def opened(folder: Path, clock: Clock, usdt: str = START["USDT"]) -> Exchange:
    balances = START | {"USDT": usdt}
    return Exchange(Options(folder, balances=balances, has_rate_limits=False, history_days=2), clock)


def books(exchange: Exchange) -> dict[str, tuple[int, int]]:
    rows = exchange.engine.ledger.rows()
    return {row["asset"]: (parse(row["free"]), parse(row["locked"])) for row in rows}


def check_books(exchange: Exchange) -> None:
    """Totals are what the fills say; locked is what open orders and lists hold, in memory and on disk."""
    totals = {asset: parse(START.get(asset, "0")) for asset in books(exchange)}
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

    def attempt(self, *legs: NewOrder) -> None:
        self.exchange.current_state(SYMBOL)
        try:
            if len(legs) == 1:
                self.exchange.engine.place(legs[0])
            else:
                self.exchange.engine.place_list("", list(legs))
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

    @precondition(lambda self: self.exchange.states[SYMBOL].orders)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        orders = list(self.exchange.states[SYMBOL].orders.values())
        self.exchange.engine.cancel(data.draw(st.sampled_from(orders)))

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
TestTrading.settings = settings(max_examples=15, stateful_step_count=20)


@pytest.fixture
def exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Exchange, Clock, list[dict[str, Any]]]]:
    clock = Clock()
    received: list[dict[str, Any]] = []
    monkeypatch.setattr(Users, "emit", lambda users, event: received.append(event))
    made = opened(tmp_path, clock, "9000000")
    yield made, clock, received
    made.close()


def until(exchange: Exchange, clock: Clock, order: Order) -> None:
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
    pair, orders = made.engine.place_list("pair", [profit, stop])
    until(made, clock, orders[1])
    assert [order.status for order in orders] == ["EXPIRED", "FILLED"]
    assert made.engine.lists == {}
    assert [event["L"] for event in received if event["e"] == "listStatus"] == ["EXECUTING", "ALL_DONE"]
    kinds = [(event["c"], event["x"]) for event in received if event["e"] == "executionReport"]
    assert kinds[:2] == [("tp", "NEW"), ("sl", "NEW")]
    assert ("tp", "EXPIRED") in kinds
    assert made.store.lists("list_id = ?", (pair.list_id,))[0].order_status == "ALL_DONE"


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
