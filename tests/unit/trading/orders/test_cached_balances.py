"""The order manager's memory of balances: each execution counts once, whichever way round read and booking come."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal

import pytest

from fks.config.settings import Settings
from fks.model.account import Balance, Position
from fks.model.order import Order, OrderType, Side, State
from fks.trading.order_manager.balance_reads import BalanceQuery
from fks.trading.order_manager.cache import OrderCache, VenueStatus
from fks.trading.portfolio.position import EXTERNAL
from tests.support.order_values import a_fill, an_instrument, an_order
from tests.support.scripted_venue import ScriptedVenue

D = Decimal
INSTRUMENT = an_instrument(symbol="BTCUSDT", base="BTC", quote="USDT")
BUY = an_order(state=State.WORKING, type=OrderType.LIMIT, price=D(100), is_acknowledged=True)
FILL = a_fill(quantity=D(10))
BEFORE, AFTER = (D(2), D(5000)), (D(12), D(4000))  # BTC and USDT without and with FILL


class Cache(OrderCache):
    """A cache of one venue, asked and answered in BTC and USDT."""

    def answer(self, query: BalanceQuery, amounts: tuple[Decimal, Decimal]) -> bool:
        held = zip(("BTC", "USDT"), amounts, strict=True)
        return self.put_balances(query, {name: Balance(name, amount, D(0)) for name, amount in held})

    def read(self, amounts: tuple[Decimal, Decimal], *, is_settled: bool = False) -> None:
        if is_settled:
            self.begin_comparison("ccxt")
        assert self.answer(self.ask_balances("ccxt", 0, is_settled=is_settled), amounts)

    def book(self, order: Order = BUY) -> None:
        """Book FILL, as the ledger does: position, balances, order."""
        self.put_position(Position(1, "ccxt", "BTCUSDT", "one", D(10), D(100), D(0), D(0)))
        self.move_balances(FILL, INSTRUMENT, was_resting=False)
        self.put(replace(order, state=State.FILLED, filled=D(10), reported_cum_qty=D(10)))

    def shown(self) -> tuple[Decimal, Decimal]:
        return self.balances["ccxt"]["BTC"].total, self.balances["ccxt"]["USDT"].total

    def least(self) -> tuple[Decimal, Decimal]:
        """Return what an entry may count on: BTC beyond what instances own, and USDT."""
        least, owned = self.least_balances("ccxt"), sum((held.quantity for held in self.owned(1)), D(0))
        return least["BTC"].free - owned, least["USDT"].free

    def most(self) -> Decimal:
        """Return the BTC that an exit may count on."""
        most = self.most_balance("ccxt", "BTC")
        return D(0) if most is None else most.free


@pytest.fixture
def cache() -> Cache:
    """A cache that has read the balances twice, all executions of before booked; nothing is open."""
    made = Cache(Settings())
    made.instruments = {("binance", "BTCUSDT"): INSTRUMENT}
    made.venues["ccxt"] = VenueStatus("ccxt", 1, ScriptedVenue().capabilities)
    made.read(BEFORE, is_settled=True)
    made.read(BEFORE, is_settled=True)
    return made


def test_a_fill_that_was_reported_before_the_question_is_in_the_answer(cache: Cache) -> None:
    reported = replace(BUY, state=State.FILLED, reported_cum_qty=D(10))
    cache.put(reported)
    cache.read(AFTER)
    assert cache.least() == (D(2), D(4000))
    cache.book(reported)
    assert (cache.shown(), cache.least()) == (AFTER, (D(2), D(4000)))


@pytest.mark.parametrize("state", [State.SENDING, State.WORKING, State.UNKNOWN])
def test_a_fill_that_was_executed_before_the_answer_counts_once(cache: Cache, state: State) -> None:
    cache.put(replace(BUY, state=state))
    cache.read(BEFORE)
    cache.read(AFTER)
    assert cache.least() == (D(2), D(4000)), "the coins are the buyer's"
    cache.read(AFTER)
    assert cache.least() == (D(2), D(4000)), "they are so at the second look, too"
    cache.book()
    assert (cache.shown(), cache.least()) == (AFTER, (D(2), D(4000)))


def test_entries_and_exits_can_do_with_either_case_while_it_is_not_known(cache: Cache) -> None:
    """The read shows more money than the fill explains, or was the first one."""
    cache.put(BUY)
    cache.read((D(12), D(4007)))
    cache.book()
    assert cache.shown() == (D(12), D(4007))
    assert cache.least() == (D(2), D(3007)), "entries: as if the cost were still to come"
    assert cache.most() == D(22), "exits: as if the coins were"
    cache.read((D(12), D(4007)))
    assert cache.least() == (D(2), D(4007))


def test_after_the_first_read_a_fill_is_not_known_to_be_in_it(cache: Cache) -> None:
    first = Cache(Settings(), instruments=cache.instruments, venues=cache.venues)
    first.put(BUY)
    first.read(AFTER, is_settled=True)
    first.book()
    assert first.shown() == (D(22), D(3000))
    assert first.least() == (D(2), D(3000))
    first.read(AFTER)
    assert (first.shown(), first.least()) == (AFTER, (D(2), D(4000)))


def test_a_fill_of_an_order_sent_after_the_first_read_is_not_in_it(cache: Cache) -> None:
    first = Cache(Settings(), instruments=cache.instruments, venues=cache.venues)
    first.read(BEFORE, is_settled=True)
    first.put(replace(BUY, state=State.SENDING))
    first.book()
    assert (first.shown(), first.least(), first.most()) == (AFTER, (D(2), D(4000)), D(12))


def test_fills_of_one_order_that_were_executed_before_the_answer_count_once(cache: Cache) -> None:
    cache.put(BUY)
    cache.read(AFTER)
    for number, quantity in enumerate((D(3), D(7))):
        part = a_fill(number, quantity=quantity)
        cache.put_position(Position(1, "ccxt", "BTCUSDT", "one", (D(3), D(10))[number], D(100), D(0), D(0)))
        cache.move_balances(part, INSTRUMENT, was_resting=True)
        cache.put(replace(BUY, state=State.PARTIAL, filled=(D(3), D(10))[number]))
        assert (cache.shown(), cache.least()[0]) == (AFTER, D(2))
    assert cache.least() == (D(2), D(4000))


def test_a_fill_of_an_order_that_was_sent_after_the_answer_moves_balances(cache: Cache) -> None:
    cache.put(replace(BUY, state=State.SENDING))
    cache.book()
    assert (cache.shown(), cache.least()) == (AFTER, (D(2), D(4000)))
    assert cache.most() == D(12)


def test_a_fill_of_an_order_that_rests_moves_balances_that_are_as_before(cache: Cache) -> None:
    cache.put(BUY)
    cache.read(BEFORE)
    cache.book()
    assert (cache.shown(), cache.least()) == (AFTER, (D(2), D(4000)))


@pytest.mark.parametrize("answer", [BEFORE, AFTER])
def test_a_fill_that_is_booked_during_the_read_counts_once(cache: Cache, answer: tuple[Decimal, Decimal]) -> None:
    query = cache.ask_balances("ccxt", 0)
    cache.put(replace(BUY, state=State.SENDING))
    cache.book()
    assert cache.answer(query, answer)
    assert (cache.shown(), cache.least()) == (AFTER, (D(2), D(4000)))


def test_an_answer_to_an_older_question_does_not_replace_a_newer_one(cache: Cache) -> None:
    query = cache.ask_balances("ccxt", 0)
    cache.read(AFTER)
    assert not cache.answer(query, BEFORE)
    assert cache.shown() == AFTER


def test_the_cost_of_a_filled_order_is_spent_before_it_is_booked(cache: Cache) -> None:
    cache.put(replace(BUY, state=State.FILLED, reported_cum_qty=D(10)))
    assert cache.least() == (D(-8), D(4000)), "an answer of before may hold neither"


def test_a_deposit_counts_beside_a_buy_that_rests_once_executions_were_compared(cache: Cache) -> None:
    cache.put(BUY)
    deposited = (D(5), D(5000))
    cache.read(deposited)
    assert cache.least() == (D(2), D(5000)), "they may be executed already"
    for _ in range(2):
        cache.read(deposited, is_settled=True)
    assert cache.least() == (D(5), D(5000))


def test_coins_that_came_while_executions_were_compared_stay_the_buyers(cache: Cache) -> None:
    """The comparison began before the execution, and a read that holds it came before the comparison's own."""
    cache.put(BUY)
    cache.begin_comparison("ccxt")
    cache.read(AFTER)
    assert cache.answer(cache.ask_balances("ccxt", 0, is_settled=True), AFTER)
    assert cache.least() == (D(2), D(4000))
    cache.book()
    assert (cache.shown(), cache.least()) == (AFTER, (D(2), D(4000)))


def test_a_pushed_balance_is_not_taken_while_it_may_lack_a_booked_fill(cache: Cache) -> None:
    cache.see_balances("ccxt", [Balance("BTC", D(3), D(0))])
    assert cache.shown() == (D(3), D(5000))
    cache.put(replace(BUY, state=State.SENDING))
    cache.book()
    cache.see_balances("ccxt", [Balance("BTC", D(3), D(0))])
    assert cache.shown() == (D(13), D(4000))


def test_the_proceeds_of_a_sale_are_not_spent_twice(cache: Cache) -> None:
    """It was executed before the answer and is booked after it; another amount came, too."""
    cache.put_position(Position(1, "ccxt", "BTCUSDT", "one", D(2), D(100), D(0), D(0)))
    sale = replace(BUY, side=Side.SELL, quantity=D(2))
    cache.put(sale)
    cache.read((D(0), D(5207)))
    cache.put_position(Position(1, "ccxt", "BTCUSDT", "one", D(0), D(0), D(0), D(0)))
    cache.move_balances(replace(FILL, side=Side.SELL, quantity=D(2)), INSTRUMENT, was_resting=True)
    assert cache.shown() == (D(0), D(5207))
    assert cache.least() == (D(-2), D(5207)), "the coins are gone, if they were not before"


def test_an_execution_that_a_comparison_missed_hides_no_other_coins(cache: Cache) -> None:
    """The comparison did not find it: the balances that it began with held its coins, and are explained by it."""
    late = replace(BUY, client_order_id="e" * 32, state=State.FILLED, reported_cum_qty=D(10))
    cache.put(late)
    for _ in range(2):
        cache.read(AFTER, is_settled=True)
    cache.put_position(Position(1, "ccxt", "BTCUSDT", "two", D(10), D(100), D(0), D(0)))
    cache.move_balances(replace(FILL, client_order_id="e" * 32), INSTRUMENT, was_resting=False)
    cache.put(replace(late, filled=D(10)))
    cache.put(BUY)
    cache.read((D(22), D(3000)))
    assert cache.least() == (D(2), D(3000)), "the coins of the second buy are its instance's"


def test_balances_that_are_read_during_a_comparison_do_not_delay_it(cache: Cache) -> None:
    """Those of venues that push balances change with each order: a deposit would not be free before trading pauses."""
    cache.put(BUY)
    deposited = (D(5), D(5000))
    cache.read(deposited)
    for _ in range(2):
        cache.begin_comparison("ccxt")
        cache.see_balances("ccxt", [Balance("USDT", D(4900), D(100))])
        cache.read(deposited)
        assert cache.answer(cache.ask_balances("ccxt", 0, is_settled=True), deposited)
    assert cache.least() == (D(5), D(5000))


def test_balances_pushed_before_the_first_read_explain_nothing() -> None:
    first = Cache(Settings(), instruments={("binance", "BTCUSDT"): INSTRUMENT})
    first.see_balances("ccxt", [Balance("USDT", D(5000), D(0))])
    first.read(BEFORE, is_settled=True)
    first.put(BUY)
    first.read(BEFORE)
    assert first.least() == (D(2), D(5000)), "its BTC are not the buyer's"


def test_another_comparison_that_began_meanwhile_settles_nothing(cache: Cache) -> None:
    cache.put(BUY)
    cache.begin_comparison("ccxt")
    query = cache.ask_balances("ccxt", 0, is_settled=True)
    cache.begin_comparison("ccxt")
    cache.book()
    assert cache.answer(query, AFTER)
    assert (cache.shown(), cache.least()) == (AFTER, (D(2), D(4000)))


def test_reported_executions_explain_coins_before_orders_that_rest(cache: Cache) -> None:
    cache.put(BUY)
    cache.put(replace(BUY, client_order_id="e" * 32, instance="two", state=State.FILLED, reported_cum_qty=D(10)))
    cache.read(AFTER)
    assert cache.least() == (D(2), D(4000))


def test_an_execution_that_is_never_found_hides_no_other_coins(cache: Cache) -> None:
    """It is reported for ever. The balances are explained with its coins, so those that come are another buy's."""
    cache.put(replace(BUY, client_order_id="e" * 32, instance="two", state=State.FILLED, reported_cum_qty=D(10)))
    for _ in range(2):
        cache.read(AFTER, is_settled=True)
    cache.put(BUY)
    cache.read((D(22), D(3000)))
    assert cache.least() == (D(2), D(3000))


def test_external_executions_are_no_coins_of_a_buy_that_rests(cache: Cache) -> None:
    """A person bought in the exchange's own app: they are external as soon as they are booked."""
    cache.put(BUY)
    cache.put_position(Position(1, "ccxt", "BTCUSDT", EXTERNAL, D(10), D(100), D(0), D(0)))
    cache.note_flow(replace(FILL, client_order_id=None), INSTRUMENT)
    cache.read(AFTER)
    assert cache.least() == (D(2), D(4000)), "they count once"


def test_a_held_execution_does_not_make_up_for_one_that_may_lack(cache: Cache) -> None:
    """Of two buys of as much, the balances hold the one that is reported. The other is booked first."""
    reported = replace(BUY, client_order_id="e" * 32, instance="two", state=State.FILLED, reported_cum_qty=D(10))
    cache.put(reported)
    cache.put(BUY)
    cache.read(AFTER)
    cache.book()
    assert cache.least()[1] == D(3000)


class Trading:
    """A venue that executes buys and sales of coins at 100, and a cache that learns of it in any order."""

    def __init__(self, cache: Cache, seed: int) -> None:
        self.cache, self.random = cache, random.Random(seed)
        self.coins, self.cash, self.free = D(2), D(5000), D(2)  # at the venue; coins that no instance bought
        self.executed: dict[str, Decimal] = {}
        self.unbooked: list[tuple[str, Decimal]] = []
        self.asked: list[tuple[BalanceQuery, list[tuple[Decimal, Decimal]]]] = []
        self.held = self.fills = 0

    def step(self) -> None:
        does = [self.place, self.execute, self.execute, self.report, self.book, self.book, self.ask, self.answer]
        self.random.choice([*does, self.compare, self.deposit] if self.random.random() < 0.2 else does)()
        for _, answers in self.asked:
            answers.append((self.coins, self.cash))

    def place(self) -> None:
        name, is_buy = f"{len(self.executed):032}", self.held < 3 or self.random.random() < 0.6
        quantity = self.random.randint(1, 5) if is_buy else min(self.held, 3)
        self.held -= 0 if is_buy else quantity
        side = Side.BUY if is_buy else Side.SELL
        order = replace(BUY, client_order_id=name, side=side, quantity=D(quantity), state=State.SENDING)
        self.cache.put(order)
        self.executed[name] = D(0)

    def execute(self) -> None:
        for name, done in self.executed.items():
            order = self.cache.orders.get(name)
            if order is not None and (left := order.quantity - done) > 0:
                part = D(self.random.randint(1, int(left)))
                self.executed[name] += part
                self.coins += order.side.sign * part
                self.cash -= order.side.sign * part * 100
                self.unbooked.append((name, part))
                return

    def report(self) -> None:
        for name, order in list(self.cache.orders.items()):
            state = State.FILLED if self.executed[name] == order.quantity else State.WORKING
            self.cache.put(replace(order, state=state, reported_cum_qty=self.executed[name]))

    def book(self) -> None:
        if not self.unbooked:
            return
        name, part = self.unbooked.pop(0)
        order, self.fills = self.cache.orders[name], self.fills + 1
        position = self.cache.position(1, "ccxt", "BTCUSDT", "one")
        self.held += int(part) if order.side is Side.BUY else 0
        self.cache.put_position(replace(position, quantity=position.quantity + order.side.sign * part))
        fill = a_fill(self.fills, client_order_id=name, side=order.side, quantity=part)
        self.cache.move_balances(fill, INSTRUMENT, was_resting=True)
        filled = order.filled + part
        state = State.FILLED if filled == order.quantity else order.state
        self.cache.put(replace(order, state=state, filled=filled, reported_cum_qty=max(filled, order.reported_cum_qty)))

    def ask(self, *, is_settled: bool = False) -> None:
        self.asked.append((self.cache.ask_balances("ccxt", 0, is_settled=is_settled), [(self.coins, self.cash)]))

    def answer(self) -> None:
        if self.asked:
            query, answers = self.asked.pop(0)
            self.cache.answer(query, self.random.choice(answers))

    def compare(self) -> None:
        self.cache.begin_comparison("ccxt")
        while self.unbooked:
            self.book()
        self.ask(is_settled=True)

    def deposit(self) -> None:
        self.coins, self.free = self.coins + 1, self.free + 1

    def check(self) -> None:
        """Assert that no more is free to entries than is: of coins, and of money beside what open orders may cost."""
        buys = [order for order in self.cache.orders.values() if order.side is Side.BUY]
        coins, cash = self.cache.least()
        assert coins <= self.free
        left = sum((order.quantity - self.executed[order.client_order_id] for order in buys), D(0))
        assert cash - 100 * sum(order.remaining for order in buys) <= self.cash - 100 * left


@pytest.mark.parametrize("seed", range(20))
def test_entries_never_count_on_more_than_is_free(cache: Cache, seed: int) -> None:
    """Executions, reports, bookings, questions and answers come in any order; at last all is known to the digit."""
    trading = Trading(cache, seed)
    for _ in range(200):
        trading.step()
        trading.check()
    trading.compare()
    while trading.asked:
        trading.answer()
    assert trading.fills > 20
    assert cache.shown() == (trading.coins, trading.cash)
    position = cache.position(1, "ccxt", "BTCUSDT", "one").quantity
    assert sum(held.quantity for held in cache.owned(1)) >= position
    trading.compare()
    trading.answer()
    assert cache.least() == (trading.free, trading.cash)
