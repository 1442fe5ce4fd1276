"""Trades of this exchange's own accounts, merged into the market's: they take numbers in the same sequence."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple


class AggregateTrade(NamedTuple):
    """One aggregate trade on the wire. `price` in ticks; `is_maker`: the buyer was resting."""

    id: int
    price: int
    lots: int
    time_ms: int
    is_maker: bool


class Prints:
    """Own trades of one market, in order. Trade i comes after `place[i]` of the market's trades: its number is place[i]
    + i."""

    def __init__(self) -> None:
        self.place = array("q")
        self.ids = array("q")
        self.price = array("q")
        self.lots = array("q")
        self.time_ms = array("q")
        self.is_maker = array("b")

    def __len__(self) -> int:
        return len(self.place)

    def add(self, place: int, price: int, lots: int, time_ms: int, is_maker: bool) -> AggregateTrade:
        """Note a trade made after `place` trades of the market; return it with its number."""
        if self.place:
            place, time_ms = max(place, self.place[-1]), max(time_ms, self.time_ms[-1])
        number = place + len(self.place)
        self.place.append(place)
        self.ids.append(number)
        self.price.append(price)
        self.lots.append(lots)
        self.time_ms.append(time_ms)
        self.is_maker.append(is_maker)
        return AggregateTrade(number, price, lots, time_ms, is_maker)

    def trade(self, index: int) -> AggregateTrade:
        """Return the trade at `index`."""
        return AggregateTrade(
            self.ids[index], self.price[index], self.lots[index], self.time_ms[index], bool(self.is_maker[index])
        )

    def before_id(self, number: int) -> int:
        """Return how many have a number below `number`."""
        return bisect_left(self.ids, number)

    def before_place(self, place: int) -> int:
        """Return how many come before the market's trade number `place`."""
        return bisect_right(self.place, place)

    def before_time(self, time_ms: int) -> int:
        """Return how many were made before `time_ms`."""
        return bisect_left(self.time_ms, time_ms)
