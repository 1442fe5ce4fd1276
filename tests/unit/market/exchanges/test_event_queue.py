"""The event queue: the events that it drops, and that it reports it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fks.market.exchanges.base import ArrivedEvents, ConnectionCounters
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.market import BarSeen, Book, Channel, Discontinuity, MarketEvent, Quote, Suspect


def trade(number: int, symbol: str = "A") -> PublicTrade:
    return PublicTrade("x", symbol, number, number, Decimal(1), Decimal(1), True)


def quote(time_ns: int, symbol: str = "A") -> Quote:
    return Quote("x", symbol, time_ns, Decimal(1), Decimal(1), Decimal(2), Decimal(1))


def seen(minute: int, trades: int, *, is_closed: bool = False) -> BarSeen:
    return BarSeen(Bar("x", "A", "1m", minute * 60, 1.0, 1.0, 1.0, 1.0, 1.0, trades), is_closed)


@pytest.fixture
def counters() -> ConnectionCounters:
    return ConnectionCounters()


def taken(queue: ArrivedEvents, *events: MarketEvent) -> list[MarketEvent]:
    queue.put(events)
    return queue.take()


def test_trades_stay_in_order_and_nothing_waits_twice(counters: ConnectionCounters) -> None:
    queue = ArrivedEvents(counters)
    queue.put([trade(1), trade(2, "B")])
    queue.put([trade(3)])
    assert queue.arrived.is_set()
    assert queue.take() == [trade(1), trade(2, "B"), trade(3)]
    assert not queue.arrived.is_set()
    assert queue.take() == []


def test_quotes_books_and_unfinished_bars_conflate_and_are_counted(counters: ConnectionCounters) -> None:
    book = [Book("x", "A", n, (), ()) for n in (1, 2, 3)]
    found = taken(ArrivedEvents(counters), quote(1), *book, seen(0, 1), trade(1), quote(2), seen(0, 2), quote(9, "B"))
    assert found[0] == trade(1)
    assert set(found[1:]) == {quote(2), quote(9, "B"), book[2], seen(0, 2)}
    assert counters.conflated == {Channel.QUOTES: 1, Channel.BOOK: 2, Channel.BARS: 1}


def test_a_closed_bar_is_never_conflated_away(counters: ConnectionCounters) -> None:
    closed, end = seen(0, 3, is_closed=True), BarClosed("x", "A", "1m", 0, 3)
    assert taken(ArrivedEvents(counters), seen(0, 2), closed, end, seen(1, 1), seen(1, 2)) == [closed, end, seen(1, 2)]


def test_overflow_is_a_discontinuity_per_symbol_and_faults_stay(counters: ConnectionCounters) -> None:
    queue = ArrivedEvents(counters, kept_max=4)
    suspect = Suspect("trades", "A", "why", "text")
    found = taken(queue, trade(1), suspect, trade(2, "B"), trade(3), seen(0, 1, is_closed=True), trade(4))
    assert found[0] == suspect
    assert [(e.channel, e.symbol) for e in found[1:] if isinstance(e, Discontinuity)] == [
        (Channel.TRADES, "A"),
        (Channel.TRADES, "B"),
        (Channel.BARS, "A"),
    ]
    assert len(found) == 4
    assert counters.overflowed == {Channel.TRADES: 4, Channel.BARS: 1}
    assert taken(queue, trade(5)) == [trade(5)]


def test_discontinuity_removes_the_book_before_it(counters: ConnectionCounters) -> None:
    gone = Discontinuity(Channel.BOOK, "A", "hole")
    assert taken(ArrivedEvents(counters), Book("x", "A", 1, (), ()), gone) == [gone]
    assert taken(ArrivedEvents(counters), gone, Book("x", "A", 2, (), ())) == [gone, Book("x", "A", 2, (), ())]
