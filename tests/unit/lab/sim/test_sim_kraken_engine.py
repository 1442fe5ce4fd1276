"""Kraken's orders on the shared engine: no atom is made or lost, and each notion that Binance's orders do not have."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fks.clock import FakeClock
from fks.lab.sim.atoms import SCALE, parse, show, times
from fks.lab.sim.errors import ApiError
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.front import json_values
from fks.lab.sim.kraken.account import KrakenAccount
from fks.lab.sim.kraken.orders import KrakenError, order_number, order_txid, refused, trade_number, trade_txid
from fks.lab.sim.kraken.user_stream import PRIVATE_PATH, KrakenUserStream
from fks.lab.sim.options import Options, WireProtocol
from fks.lab.sim.orders import SimOrder
from fks.lab.sim.params import Params
from fks.lab.sim.prints import AggregateTrade
from fks.lab.sim.sockets import Socket
from fks.model.tape import unpack_tape
from fks.model.timeframe import iso
from tests.support.sim_process import SAMPLE

SYMBOL, PAIR = "SOLUSDT", "SOLUSDT"
START = {"USDT": "20000", "SOL": "50"}
RICH = {"USDT": "1000000", "SOL": "9000"}


class Clock(FakeClock):
    """A clock that a synchronous test can move."""

    def move(self, seconds: float) -> None:
        self._elapsed += seconds


class Kraken:
    """An exchange and its Kraken account, asked without a socket."""

    def __init__(self, folder: Path, clock: Clock, *, symbol: str = SYMBOL, **given: Any) -> None:
        options = Options(
            folder,
            **{
                "balances": START,
                "has_rate_limits": False,
                "history_days": 2,
                "maker_rate": "0.0016",
                "taker_rate": "0.0026",
                "wire": WireProtocol.KRAKEN,
                **given,
            },
        )
        self.exchange = LocalExchange(options, clock)
        self.account = KrakenAccount(self.exchange, KrakenUserStream(self.exchange))
        self.state = self.exchange.states[symbol]

    def ask(self, name: str, **params: object) -> Any:
        """Return the result of a request. Errors: KrakenError."""
        values = {key.replace("__", "[") + "]" * ("__" in key): str(value) for key, value in params.items()}
        try:
            return getattr(self.account, name)(Params(values))
        except ApiError as error:
            raise refused(error) from None

    def add(self, kind: str, side: str = "buy", volume: str = "2", **params: object) -> SimOrder:
        """Place an order and return it."""
        answer = self.ask("add_order", pair=PAIR, type=side, ordertype=kind, volume=volume, **params)
        return self.order(answer["txid"][0])

    def order(self, txid: str) -> SimOrder:
        number = order_number(txid)
        assert number is not None
        return self.state.orders.get(number) or self.exchange.store.orders("order_id = ?", (number,))[0]

    def price(self, percent: float = 0.0) -> str:
        last, tick = self.state.market.last_price, self.state.market.listing.tick
        return show(round(last * (1 + percent / 100)) // tick * tick)

    def books(self) -> dict[str, tuple[int, int]]:
        rows = self.exchange.engine.ledger.rows()
        return {row["asset"]: (parse(row["free"]), parse(row["locked"])) for row in rows}


def check_books(kraken: Kraken) -> None:
    """Totals are what the fills say; locked is what open orders hold, each its remainder and the commission on it."""
    exchange = kraken.exchange
    totals = {asset: parse(START.get(asset, "0")) for asset in kraken.books()}
    paid: dict[int, int] = {}
    for fill in exchange.store.fills():
        sign = 1 if fill.is_buyer else -1
        totals["SOL"] += sign * fill.quantity
        totals["USDT"] -= sign * fill.quote
        totals[fill.commission_asset] -= fill.commission
        paid[fill.order_id] = paid.get(fill.order_id, 0) + fill.commission
        assert fill.quote == times(fill.price, fill.quantity)
        rate = parse("0.0016" if fill.is_maker else "0.0026")
        exact = (fill.quote if fill.commission_asset == "USDT" else fill.quantity) * rate
        assert abs(fill.commission * SCALE - exact) < SCALE
    held = kraken.books()
    assert {asset: sum(pair) for asset, pair in held.items()} == totals
    locked = dict.fromkeys(held, 0)
    for order in kraken.state.orders.values():
        asset = "USDT" if order.is_buy else "SOL"
        locked[asset] += order.locked
        amount = times(order.price or order.stop_price, order.remaining) if order.is_buy else order.remaining
        fee = -(-amount * parse("0.0026") // SCALE) if order.fee_asset == asset else 0
        if order.has_limit or not order.is_buy:
            assert order.locked == amount + fee
    assert {asset: pair[1] for asset, pair in held.items()} == locked
    for order in exchange.store.orders():
        assert order.fee == paid.get(order.order_id, 0)
    assert {order.order_id for order in exchange.store.orders("is_open = 1")} == set(kraken.state.orders)


class KrakenTrading(RuleBasedStateMachine):
    """Random trading through the requests of Kraken's wire."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.kraken = Kraken(Path(self.folder.name), self.clock)
        self.number = 0

    def teardown(self) -> None:
        self.kraken.exchange.close()
        self.folder.cleanup()

    def attempt(self, name: str, **params: object) -> None:
        try:
            self.kraken.ask(name, **params)
        except KrakenError as error:
            if not error.text.startswith("EOrder:") and error.text != "EGeneral:Invalid arguments:volume":
                raise

    SIDES = st.sampled_from(["buy", "sell"])
    VOLUMES = st.integers(20, 60_000).map(lambda lots: show(lots * 10**5))
    NEAR = st.floats(-0.4, 0.4)
    FEES = st.sampled_from([{}, {"oflags": "fciq"}, {"oflags": "fcib"}])

    def close(self, data: st.DataObject) -> dict[str, object]:
        kind = data.draw(st.sampled_from([None, None, "limit", "stop-loss", "take-profit", "stop-loss-limit"]))
        if kind is None:
            return {}
        first, second = (self.kraken.price(data.draw(self.NEAR)) for _ in range(2))
        return {"close__ordertype": kind, "close__price": first} | (
            {"close__price2": second} if kind.endswith("-limit") and kind != "limit" else {}
        )

    def add(self, data: st.DataObject, kind: str, **params: object) -> None:
        self.number += 1
        named = data.draw(st.sampled_from([{}, {"cl_ord_id": f"n{self.number}"}, {"userref": self.number}]))
        self.attempt("add_order", pair=PAIR, ordertype=kind, **params, **named, **self.close(data))

    @rule(data=st.data(), side=SIDES, volume=VOLUMES, fee=FEES)
    def market(self, data: st.DataObject, side: str, volume: str, fee: dict[str, str]) -> None:
        self.add(data, "market", type=side, volume=volume, **fee)

    @rule(data=st.data(), cost=st.integers(5, 15_000))
    def market_of_a_cost(self, data: st.DataObject, cost: int) -> None:
        self.add(data, "market", type="buy", volume=cost, oflags="viqc")

    @rule(
        data=st.data(),
        side=SIDES,
        volume=VOLUMES,
        percent=NEAR,
        fee=FEES,
        rest=st.sampled_from(
            [{}, {"timeinforce": "IOC"}, {"timeinforce": "FOK"}, {"timeinforce": "GTD", "expiretm": "+30"}]
        ),
    )
    def limit(
        self, data: st.DataObject, side: str, volume: str, percent: float, fee: dict[str, str], rest: dict[str, str]
    ) -> None:
        self.add(data, "limit", type=side, volume=volume, price=self.kraken.price(percent), **fee, **rest)

    @rule(
        data=st.data(),
        side=SIDES,
        volume=VOLUMES,
        percent=NEAR,
        slip=NEAR,
        fee=FEES,
        kind=st.sampled_from(["stop-loss", "take-profit", "stop-loss-limit", "take-profit-limit"]),
    )
    def conditional(
        self, data: st.DataObject, side: str, volume: str, percent: float, slip: float, fee: dict[str, str], kind: str
    ) -> None:
        second = {"price2": self.kraken.price(percent + slip)} if kind.endswith("limit") else {}
        price = self.kraken.price(percent)
        self.add(data, kind, type=side, volume=volume, price=price, **second, **fee)

    @precondition(lambda self: self.kraken.state.orders)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        order = data.draw(st.sampled_from(list(self.kraken.state.orders)))
        self.attempt("cancel_order", txid=order_txid(order))

    @precondition(lambda self: self.kraken.state.orders)
    @rule(data=st.data(), share=st.floats(0.05, 1.5), percent=st.none() | NEAR)
    def amend(self, data: st.DataObject, share: float, percent: float | None) -> None:
        order = data.draw(st.sampled_from(list(self.kraken.state.orders.values())))
        quantity = int(order.quantity * share) // 10**5 * 10**5
        changes: dict[str, object] = {"order_qty": show(quantity)} if quantity else {}
        if percent is not None and order.is_conditional and not order.is_triggered:
            changes["trigger_price"] = self.kraken.price(percent)
        elif percent is not None and order.has_limit:
            changes["limit_price"] = self.kraken.price(percent)
        if changes:
            self.attempt("amend_order", txid=order_txid(order.order_id), **changes)

    @rule(seconds=st.integers(0, 40))
    def cancel_after(self, seconds: int) -> None:
        self.attempt("cancel_all_after", timeout=seconds)

    @rule()
    def thin(self) -> None:
        self.kraken.exchange.faults.add({"kind": "thin_book"}, 0.0)

    @rule(seconds=st.floats(0.05, 90))
    def wait(self, seconds: float) -> None:
        self.clock.move(seconds)
        self.kraken.exchange.advance()

    @rule(seconds=st.floats(0, 600))
    def restart(self, seconds: float) -> None:
        known = {order.order_id for order in self.kraken.exchange.store.orders()}
        self.kraken.exchange.close()
        self.clock.move(seconds)
        self.kraken = Kraken(Path(self.folder.name), self.clock)
        assert {order.order_id for order in self.kraken.exchange.store.orders()} >= known

    @invariant()
    def sound(self) -> None:
        check_books(self.kraken)


TestKrakenTrading = KrakenTrading.TestCase
TestKrakenTrading.settings = settings(max_examples=settings.default.max_examples // 3, stateful_step_count=20)


@pytest.fixture
def kraken(tmp_path: Path) -> Iterator[tuple[Kraken, Clock]]:
    clock = Clock()
    made = Kraken(tmp_path, clock, balances=RICH)
    yield made, clock
    made.exchange.close()


def fills_of(kraken: Kraken, order: SimOrder) -> list[Any]:
    return kraken.exchange.store.fills("order_id = ?", (order.order_id,))


def test_each_fill_makes_a_close_of_its_own_size_without_a_client_id(kraken: tuple[Kraken, Clock]) -> None:
    made, _ = kraken
    price = made.price(-5)
    entry = made.add("market", volume="900", cl_ord_id="entry", close__ordertype="stop-loss", close__price=price)
    fills = fills_of(made, entry)
    assert len(fills) > 1
    closes = [order for order in made.state.orders.values() if order.parent_id == entry.order_id]
    assert [(c.side, c.type, show(c.stop_price), c.is_named) for c in closes] == [
        ("SELL", "STOP_LOSS", price, False)
    ] * len(fills)
    assert [close.quantity for close in closes] == [fill.quantity for fill in fills]
    shown = made.ask("open_orders")["open"]
    assert all("cl_ord_id" not in row and row["refid"] == order_txid(entry.order_id) for row in shown.values())
    assert made.ask("open_orders", cl_ord_id="entry") == {"open": {}}


def test_a_close_that_the_balance_does_not_cover_is_cancelled_at_once(tmp_path: Path) -> None:
    made = Kraken(tmp_path, Clock(), balances={"USDT": "20000"})
    entry = made.add("market", volume="10", oflags="fcib", close__ordertype="limit", close__price=made.price(9))
    closes = made.exchange.store.orders("order_id > ?", (entry.order_id,))
    assert closes
    last = closes[-1]
    assert (last.status, last.quantity) == ("CANCELED", fills_of(made, entry)[-1].quantity)
    row = made.ask("query_orders", txid=order_txid(last.order_id))[order_txid(last.order_id)]
    assert (row["status"], row["reason"]) == ("canceled", "EOrder:Insufficient funds")
    made.exchange.close()


def test_the_balance_held_for_an_order_pays_for_every_part_of_it(tmp_path: Path) -> None:
    """Commissions of parts, each rounded, never come to more than was held for the whole."""
    price, lots = parse("90.01"), 200
    cost = times(price, lots * 10**5)
    made = Kraken(tmp_path, Clock(), balances={"USDT": show(cost - -cost * 26 // 10_000)}, maker_rate="0.0026")
    order = made.add("limit", volume=show(lots * 10**5), price=show(price))
    assert made.books()["USDT"][0] == 0
    for number in range(lots):
        trade = AggregateTrade(number, price // 10**6, 1, made.state.market.now_ms, is_maker=True)
        made.exchange.engine.on_trades(made.state, [trade])
    assert order.status == "FILLED"
    assert made.books()["USDT"][0] < lots
    made.exchange.close()


def test_a_market_order_needs_its_amount_and_a_commission_paid_beside_it(tmp_path: Path) -> None:
    made = Kraken(tmp_path, Clock(), balances={"USDT": "100", "SOL": "50"})
    before = made.books()
    for params in (
        {"side": "sell", "volume": "50.001"},
        {"side": "sell", "volume": "50", "oflags": "fcib"},
        {"side": "buy", "volume": "2"},
        {"side": "buy", "volume": "100", "oflags": "viqc"},
    ):
        with pytest.raises(KrakenError, match="EOrder:Insufficient funds"):
            made.add("market", **params)
    assert made.books() == before
    assert made.add("market", "sell", volume="50").status == "FILLED"
    made.exchange.close()


def test_a_stop_that_the_market_has_passed_sells_at_once(kraken: tuple[Kraken, Clock]) -> None:
    made, _ = kraken
    order = made.add("stop-loss", "sell", price=made.price(1))
    assert (order.status, order.is_triggered) == ("FILLED", True)


def test_an_order_good_till_a_date_expires_then_also_while_the_exchange_is_down(tmp_path: Path) -> None:
    clock = Clock()
    made = Kraken(tmp_path, clock)
    orders = [
        made.add("limit", price=made.price(-5), timeinforce="GTD", expiretm=f"+{seconds}", cl_ord_id=f"d{seconds}")
        for seconds in (10, 60)
    ]
    clock.move(11)
    made.exchange.advance()
    assert [made.order(order_txid(order.order_id)).status for order in orders] == ["EXPIRED", "NEW"]
    made.exchange.close()
    clock.move(60)
    made = Kraken(tmp_path, clock)
    row = made.ask("closed_orders", cl_ord_id="d60")["closed"][order_txid(orders[1].order_id)]
    assert (row["status"], row["reason"], made.state.orders) == ("expired", "Order expired", {})
    made.exchange.close()


def test_cancel_all_after_cancels_at_its_time_once_and_over_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    made = Kraken(tmp_path, clock)
    made.ask("cancel_all_after", timeout=60)
    made.ask("cancel_all_after", timeout=0)
    clock.move(61)
    first = made.add("limit", price=made.price(-5))
    assert first.is_open
    assert made.ask("cancel_all_after", timeout=60)["triggerTime"] != "0"
    made.exchange.close()
    clock.move(61)
    made = Kraken(tmp_path, clock)
    assert made.order(order_txid(first.order_id)).status == "CANCELED"
    assert made.add("limit", price=made.price(-5)).is_open
    made.exchange.close()


def test_an_amendment_loses_its_place_by_another_price_or_a_larger_quantity(
    kraken: tuple[Kraken, Clock],
) -> None:
    made, _ = kraken
    bid = made.state.book.best()[0] * made.state.market.listing.tick
    order = made.add("limit", price=show(bid), cl_ord_id="rest")
    queue = order.queue
    assert queue > 0
    order.queue = queue // 2  # the market traded half of what stood before it
    made.ask("amend_order", cl_ord_id="rest", order_qty="1.5")
    assert (order.queue, order.quantity) == (queue // 2, parse("1.5"))
    made.ask("amend_order", cl_ord_id="rest", order_qty="3")
    assert (order.queue, order.quantity, order.client_id) == (queue, parse("3"), "rest")
    made.ask("amend_order", cl_ord_id="rest", limit_price=made.price(1))
    assert made.order(order_txid(order.order_id)).status == "FILLED"


def test_an_amendment_that_is_refused_changes_nothing(kraken: tuple[Kraken, Clock]) -> None:
    made, _ = kraken
    order = made.add("limit", price=made.price(-2), cl_ord_id="rest")
    before, books = (order.quantity, order.price, order.locked, order.amends), made.books()
    for changes, text in (
        ({"order_qty": "20000"}, "EOrder:Insufficient funds"),
        ({"order_qty": "0.0001"}, "EOrder:Order minimum not met"),
        ({"limit_price": "1.00001"}, "EOrder:Tick size check failed"),
        ({"limit_price": made.price(1), "post_only": "true"}, "EOrder:Post only order"),
        ({"trigger_price": "1"}, "EGeneral:Invalid arguments:trigger_price"),
        ({}, "EGeneral:Invalid arguments"),
    ):
        with pytest.raises(KrakenError) as error:
            made.ask("amend_order", cl_ord_id="rest", **changes)
        assert error.value.text == text
    assert ((order.quantity, order.price, order.locked, order.amends), made.books()) == (before, books)


def test_a_trigger_price_that_is_amended_past_the_market_triggers(kraken: tuple[Kraken, Clock]) -> None:
    made, _ = kraken
    order = made.add("stop-loss", "sell", price=made.price(-3), cl_ord_id="stop")
    made.ask("amend_order", cl_ord_id="stop", trigger_price=made.price(1))
    assert order.status == "FILLED"


def test_an_order_amended_to_its_fills_is_cancelled(kraken: tuple[Kraken, Clock]) -> None:
    made, _ = kraken
    made.exchange.faults.add({"kind": "thin_book"}, 0.0)
    tick = made.state.market.listing.tick
    order = made.add("limit", volume="4.1", price=show(made.state.market.last_price + 2 * tick))
    assert order.executed == parse("2.05")
    made.ask("amend_order", txid=order_txid(order.order_id), order_qty="1")
    assert (order.status, order.quantity, order.locked) == ("CANCELED", parse("2.05"), 0)


def test_the_transactions_of_a_pair_are_limited_and_the_count_decays(tmp_path: Path) -> None:
    clock = Clock()
    made = Kraken(tmp_path, clock, has_rate_limits=True, balances=RICH)
    for _ in range(7):  # a young order costs 1 to place and 8 to cancel
        made.ask("cancel_order", txid=order_txid(made.add("limit", price=made.price(-5)).order_id))
    with pytest.raises(KrakenError, match="EOrder:Rate limit exceeded"):
        made.add("limit", price=made.price(-5))
    made.ask("add_order", pair="XBTUSDT", type="buy", ordertype="limit", volume="0.01", price="30000")  # another pair
    clock.move(10)
    assert made.add("limit", price=made.price(-5)).is_open
    made.exchange.close()


def test_a_pair_has_sixty_open_orders_at_most(tmp_path: Path) -> None:
    clock = Clock()
    made = Kraken(tmp_path, clock, has_rate_limits=True, balances=RICH)
    for _ in range(60):
        made.add("limit", price=made.price(-5))
        clock.move(2)
    with pytest.raises(KrakenError, match="EOrder:Orders limit exceeded"):
        made.add("limit", price=made.price(-5))
    made.exchange.close()


NAMES = [
    "pair",
    "type",
    "ordertype",
    "price",
    "price2",
    "volume",
    "cl_ord_id",
    "userref",
    "txid",
    "timeinforce",
    "expiretm",
    "oflags",
    "deadline",
    "validate",
    "trades",
    "trigger",
    "leverage",
    "starttm",
    "order_qty",
    "limit_price",
    "trigger_price",
    "post_only",
    "timeout",
    "start",
    "end",
    "ofs",
    "closetime",
    "without_count",
    "close[ordertype]",
    "close[price]",
    "close[price2]",
    "reduce_only",
    "displayvol",
]
METHODS = [
    "add_order",
    "amend_order",
    "cancel_order",
    "cancel_all_after",
    "open_orders",
    "closed_orders",
    "query_orders",
    "trades_history",
    "query_trades",
    "balance",
    "balance_ex",
    "trade_volume",
    "token",
]
VALUES = st.one_of(
    st.text(max_size=12),
    st.integers(-(10**24), 10**24).map(str),
    st.sampled_from(
        ["XBTUSDT", "SOLUSDT", "buy", "sell", "limit", "market", "stop-loss", "GTD", "+60", "true", "2", "150", "1e400",
         "9" * 20, "0", "-0", "post,fcib", "viqc", "2026-11-27T00:00:00Z", order_txid(1), order_txid((1 << 80) - 1)]
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kraken]:
    made = Kraken(tmp_path_factory.mktemp("hostile"), Clock(), balances=RICH)
    made.add("limit", price=made.price(-5))
    yield made
    made.exchange.close()


@given(
    method=st.sampled_from(METHODS),
    values=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4),
    is_order=st.booleans(),
    kind=st.sampled_from(["market", "limit", "stop-loss", "take-profit-limit"]),
)
def test_any_parameters_are_answered_or_refused_in_krakens_form(
    hostile: Kraken, method: str, values: dict[str, str], is_order: bool, kind: str
) -> None:
    """Of half of the requests only some parameters are not those of a good order."""
    if is_order:
        price = hostile.price(-3)
        order = {"pair": PAIR, "type": "buy", "ordertype": kind, "volume": "0.2", "price": price, "price2": price}
        method, values = "add_order", order | values
    try:
        assert isinstance(orjson.loads(orjson.dumps(getattr(hostile.account, method)(Params(values)))), dict)
    except ApiError as error:
        text = refused(error).text
    else:
        return
    assert text.split(":")[0] in ("EGeneral", "EOrder", "EQuery", "EService"), text


@given(number=st.integers(0, (1 << 56) - 1))
def test_an_id_leads_back_to_its_number(number: int) -> None:
    assert order_number(order_txid(number)) == number
    assert trade_number(trade_txid(SYMBOL, number), ["BTCUSDT", SYMBOL]) == (SYMBOL, number)
    assert trade_number(order_txid(number), [SYMBOL]) is None
    assert order_number(trade_txid(SYMBOL, number)) is None


@given(text=st.text(max_size=25))
def test_no_other_text_is_an_id(text: str) -> None:
    number = order_number(text)
    assert number is None or order_txid(number) == text


@given(body=st.binary(max_size=60))
def test_any_body_is_a_form_or_nothing(body: bytes) -> None:
    assert all(isinstance(value, str) for value in json_values(body).values())


def test_a_json_body_has_the_names_of_a_form() -> None:
    body = b'{"nonce": 7, "validate": true, "close": {"ordertype": "limit", "price": "1"}, "userref": null}'
    assert json_values(body) == {"nonce": "7", "validate": "true", "close[ordertype]": "limit", "close[price]": "1"}


def test_a_token_ends_after_fifteen_minutes_unless_it_was_used(kraken: tuple[Kraken, Clock]) -> None:
    made, clock = kraken
    stream = KrakenUserStream(made.exchange)
    used, unused = (stream.new_token()[0] for _ in range(2))

    def answer(token: str) -> object:
        params = {"channel": "balances", "token": token}
        return stream.change(Socket(PRIVATE_PATH), "subscribe", params).get("error")

    assert answer(used) is None
    clock.move(901)
    assert [answer(token) for token in (used, unused)] == [None, "ESession:Invalid session"]


# ── on a tape ────────────────────────────────────────────────────────────────────────────────────
class TapedKraken(Kraken):
    """One on hold before a bar of the sample whose low is well under its open, and whose high is over it."""

    def __init__(self, folder: Path) -> None:
        columns = unpack_tape(SAMPLE.read_bytes()).bars()
        rows = range(1440, len(columns) - 1)
        self.row = next(r for r in rows if (b := columns.bar(r)).open - b.low > 40 and b.high - b.open > 10)
        self.bar = columns.bar(self.row)
        taped = {"tapes": (SAMPLE,), "fills": "tape", "hold": True, "start": iso(self.bar.time_ns)}
        super().__init__(folder, Clock(), symbol="BTCUSDT", balances=RICH, **taped)

    def enter(self, kind: str, close: str, close_price: float, price: float) -> tuple[SimOrder, SimOrder]:
        """Buy during the bar, complete it, and return the entry and its close."""
        limit = {"price": money(price)} if kind == "limit" else {}
        params = {"close__ordertype": close, "close__price": money(close_price), **limit}
        answer = self.ask("add_order", pair="XBTUSDT", type="buy", ordertype=kind, volume="0.01", **params)
        number = order_number(answer["txid"][0])
        assert number is not None
        self.exchange.next_bar()
        entry, made = self.exchange.store.orders("order_id >= ?", (number,))
        assert (entry.status, made.parent_id) == ("FILLED", number)
        return entry, made


def money(price: float) -> str:
    return f"{price:.2f}"


@pytest.mark.parametrize("kind", ["market", "limit"])
def test_a_stop_counts_in_the_bar_that_filled_its_entry(tmp_path: Path, kind: str) -> None:
    kraken = TapedKraken(tmp_path)
    bar = kraken.bar
    _, made = kraken.enter(kind, "stop-loss", bar.open - 30, bar.open - 10)
    assert made.status == "FILLED"
    assert [show(fill.price) for fill in fills_of(kraken, made)] == [show(parse(money(bar.open - 30)))]
    kraken.exchange.close()


@pytest.mark.parametrize(
    ("kind", "profit", "is_filled"), [("market", "high", True), ("limit", "high", False), ("limit", "close", True)]
)
def test_a_profit_counts_in_its_entrys_bar_at_the_open_or_by_the_close(
    tmp_path: Path, kind: str, profit: str, is_filled: bool
) -> None:
    kraken = TapedKraken(tmp_path)
    bar = kraken.bar
    assert bar.high > bar.close > bar.open
    _, made = kraken.enter(kind, "take-profit", getattr(bar, profit), bar.open - 10)
    assert (made.status == "FILLED") == is_filled
    kraken.exchange.close()


def test_a_close_that_is_passed_already_is_filled_at_the_price_of_the_entry(tmp_path: Path) -> None:
    kraken = TapedKraken(tmp_path)
    entry, made = kraken.enter("limit", "stop-loss", kraken.bar.open - 5, kraken.bar.open - 10)
    assert [fill.price for fill in fills_of(kraken, made)] == [entry.price]
    kraken.exchange.close()
