"""The written rule by which orders fill on a bar tape (`--fills tape`): pure functions of an order and a bar.

A market order fills at the open of the bar that is open when it comes, and so does a limit that accepts the open.
Every other order is looked at when a bar is complete, against that bar's prices. An order placed while the bar was open
cannot have its open any more.
When a stop and a take-profit of one list are both hit, the stop fills, unless the open was already through the profit.
A protection that came with its entry, and that the entry's price has not passed, meets the rest of the entry's bar.
"""

from __future__ import annotations

from dataclasses import dataclass

from fks.lab.sim.orders import STOPS, SimOrder


@dataclass(frozen=True, slots=True)
class TapeBar:
    """A bar of the tape, prices in atoms."""

    row: int
    time_ms: int
    open: int
    high: int
    low: int
    close: int


@dataclass(frozen=True, slots=True)
class Touch:
    """The price at which an order meets a bar, and whether it was the open. `rests`: triggered, but not at its
    limit."""

    price: int
    at_open: bool
    rests: bool = False


def touch(order: SimOrder, bar: TapeBar) -> Touch | None:
    """Return where `order` meets `bar`, None when it does not."""
    waits = order.is_conditional and not order.is_triggered
    level = order.stop_price if waits else order.price
    falls = order.is_buy != (waits and order.type in STOPS)  # met from above: buy limits, buy profits and sell stops
    can_have_open = order.placed_row < bar.row
    if can_have_open and (bar.open <= level if falls else bar.open >= level):
        found = Touch(bar.open, True)
    elif bar.low <= level if falls else bar.high >= level:
        found = Touch(level, False)
    else:
        return None
    if not (waits and order.has_limit) or _accepts(order, found.price):
        return found
    if _accepts(order, bar.close):  # the price came back to its limit
        return Touch(order.price, False)
    return Touch(found.price, found.at_open, rests=True)


@dataclass(frozen=True, slots=True)
class Entry:
    """The fill of an order with which others came on the book. `is_late`: by a limit inside the bar, of which only the
    close surely comes after it; `is_triggered`: by a stop inside the bar, whose open comes before it."""

    is_late: bool
    is_triggered: bool

    @classmethod
    def of(cls, order: SimOrder, met: Touch) -> Entry:
        """Return the entry of an order that has not met its bar yet."""
        waits = order.is_conditional and not order.is_triggered
        is_stop = waits and met.price == order.stop_price
        return cls(not (met.at_open or is_stop), is_stop and not met.at_open)


def touch_after(entry: Entry, order: SimOrder, bar: TapeBar) -> Touch | None:
    """Return where `order`, which came with `entry`, meets the rest of its bar. A profit after a limit counts only
    where the close is at it or beyond. Where a bar opened beyond the stop of an entry that it triggered, the close
    decides: at it or beyond, the stop fills there, and else not at all."""
    level = order.stop_price if order.is_conditional else order.price
    is_stop = order.type in STOPS
    rises = order.is_buy == is_stop
    if is_stop and entry.is_triggered and (bar.open >= level if rises else bar.open <= level):
        return Touch(bar.close, False) if (bar.close >= level if rises else bar.close <= level) else None
    if not is_stop and entry.is_late and not (bar.close >= level if rises else bar.close <= level):
        return None
    return touch(order, bar)


def _accepts(order: SimOrder, price: int) -> bool:
    return price <= order.price if order.is_buy else price >= order.price


def choose(legs: list[tuple[SimOrder, Touch]]) -> tuple[SimOrder, Touch]:
    """Return the one of a list's touched orders that acts: a profit taken at the open, else the stop."""
    at_open = [leg for leg in legs if leg[1].at_open]
    stops = [leg for leg in legs if leg[0].type in STOPS]
    return (at_open or stops or legs)[0]
