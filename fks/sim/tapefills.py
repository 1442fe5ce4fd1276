"""The written rule by which orders fill on a bar tape (`--fills tape`): pure functions of an order and a bar.

A market order fills at the open of the bar that is open when it comes. Every other order is looked at when a bar is
complete, against that bar's prices. An order placed while the bar was open cannot have its open any more.
When a stop and a take-profit of one list are both hit, the stop fills, unless the open was already through the profit.
"""

from __future__ import annotations

from dataclasses import dataclass

from fks.sim.orders import STOPS, SimOrder


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


def _accepts(order: SimOrder, price: int) -> bool:
    return price <= order.price if order.is_buy else price >= order.price


def choose(legs: list[tuple[SimOrder, Touch]]) -> tuple[SimOrder, Touch]:
    """Return the one of a list's touched orders that acts: a profit taken at the open, else the stop."""
    at_open = [leg for leg in legs if leg[1].at_open]
    stops = [leg for leg in legs if leg[0].type in STOPS]
    return (at_open or stops or legs)[0]
