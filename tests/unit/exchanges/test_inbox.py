"""The inbox: what it lets go, and that it says so."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fks.exchanges.base import Inbox, Tally
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.market import BarSeen, Book, Channel, Gone, MarketEvent, Quote, Suspect


def trade(number: int, symbol: str = "A") -> PublicTrade:
    return PublicTrade("x", symbol, number, number, Decimal(1), Decimal(1), True)


def quote(time_ns: int, symbol: str = "A") -> Quote:
    return Quote("x", symbol, time_ns, Decimal(1), Decimal(1), Decimal(2), Decimal(1))


def seen(minute: int, trades: int, *, is_closed: bool = False) -> BarSeen:
    return BarSeen(Bar("x", "A", "1m", minute * 60, 1.0, 1.0, 1.0, 1.0, 1.0, trades), is_closed)


@pytest.fixture
def tally() -> Tally:
    return Tally()


def taken(inbox: Inbox, *events: MarketEvent) -> list[MarketEvent]:
    inbox.put(events)
    return inbox.take()


def test_trades_stay_in_order_and_nothing_waits_twice(tally: Tally) -> None:
    inbox = Inbox(tally)
    inbox.put([trade(1), trade(2, "B")])
    inbox.put([trade(3)])
    assert inbox.arrived.is_set()
    assert inbox.take() == [trade(1), trade(2, "B"), trade(3)]
    assert not inbox.arrived.is_set()
    assert inbox.take() == []


def test_quotes_books_and_unfinished_bars_conflate_and_are_counted(tally: Tally) -> None:
    book = [Book("x", "A", n, (), ()) for n in (1, 2, 3)]
    found = taken(Inbox(tally), quote(1), *book, seen(0, 1), trade(1), quote(2), seen(0, 2), quote(9, "B"))
    assert found[0] == trade(1)
    assert set(found[1:]) == {quote(2), quote(9, "B"), book[2], seen(0, 2)}
    assert tally.conflated == {Channel.QUOTES: 1, Channel.BOOK: 2, Channel.BARS: 1}


def test_a_closed_bar_is_never_conflated_away(tally: Tally) -> None:
    closed, end = seen(0, 3, is_closed=True), BarClosed("x", "A", "1m", 0, 3)
    assert taken(Inbox(tally), seen(0, 2), closed, end, seen(1, 1), seen(1, 2)) == [closed, end, seen(1, 2)]


def test_overflow_is_a_gone_for_each_symbol_and_what_tells_of_trouble_stays(tally: Tally) -> None:
    inbox = Inbox(tally, kept_max=4)
    suspect = Suspect("trades", "A", "why", "text")
    found = taken(inbox, trade(1), suspect, trade(2, "B"), trade(3), seen(0, 1, is_closed=True), trade(4))
    assert found[0] == suspect
    assert [(e.channel, e.symbol) for e in found[1:] if isinstance(e, Gone)] == [
        (Channel.TRADES, "A"),
        (Channel.TRADES, "B"),
        (Channel.BARS, "A"),
    ]
    assert len(found) == 4
    assert tally.overflowed == {Channel.TRADES: 4, Channel.BARS: 1}
    assert taken(inbox, trade(5)) == [trade(5)]


def test_a_hole_takes_the_book_from_before_it_along(tally: Tally) -> None:
    gone = Gone(Channel.BOOK, "A", "hole")
    assert taken(Inbox(tally), Book("x", "A", 1, (), ()), gone) == [gone]
    assert taken(Inbox(tally), gone, Book("x", "A", 2, (), ())) == [gone, Book("x", "A", 2, (), ())]
