"""The fill rule on a bar: whether an order fills and at which price, as in the package's docstring, clause by
clause."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Generic, TypeVar

from fks.model.bar import Bar
from fks.model.errors import BugError
from fks.model.order import OrderType, Side

#: An exact price: integer ticks or a Decimal in quote. One call uses one of them throughout.
Price = TypeVar("Price", int, Decimal)


@dataclass(frozen=True, slots=True)
class BarRange(Generic[Price]):
    """Prices of a bar that matching uses."""

    open: Price
    high: Price
    low: Price


@dataclass(frozen=True, slots=True)
class Resting(Generic[Price]):
    """A resting order as matching needs it: `price` for limits, `stop` for stops, both for stop-limits."""

    side: Side
    type: OrderType
    price: Price | None = None
    stop: Price | None = None


class Leg(StrEnum):
    """The leg of an OCO that filled."""

    STOP = "stop"
    LIMIT = "limit"


def range_of(bar: Bar) -> BarRange[Decimal]:
    """Return a float bar's prices as the shortest decimals of them."""
    return BarRange(Decimal(repr(bar.open)), Decimal(repr(bar.high)), Decimal(repr(bar.low)))


def match_market(bar: BarRange[Price]) -> Price:
    """Return the price of a market order that is there when `bar` opens."""
    return bar.open


def _reaches_down(level: Price, bar: BarRange[Price], *, placed_in_bar: bool) -> Price | None:
    """Return the price of an order that fills when the market is at or under `level`: sell stops and buy limits."""
    if not placed_in_bar and bar.open <= level:
        return bar.open
    return level if bar.low <= level else None


def _reaches_up(level: Price, bar: BarRange[Price], *, placed_in_bar: bool) -> Price | None:
    """Return the price of an order that fills when the market is at or over `level`: buy stops and sell limits."""
    if not placed_in_bar and bar.open >= level:
        return bar.open
    return level if bar.high >= level else None


def _stop_price(order: Resting[Price], bar: BarRange[Price], *, placed_in_bar: bool) -> Price | None:
    if order.stop is None:
        raise BugError(f"a {order.type} order needs a stop price to be matched")
    reach = _reaches_down if order.side is Side.SELL else _reaches_up
    return reach(order.stop, bar, placed_in_bar=placed_in_bar)


def _limit_price(order: Resting[Price], bar: BarRange[Price], *, placed_in_bar: bool) -> Price | None:
    if order.price is None:
        raise BugError(f"a {order.type} order needs a limit price to be matched")
    reach = _reaches_up if order.side is Side.SELL else _reaches_down
    return reach(order.price, bar, placed_in_bar=placed_in_bar)


def is_triggered(order: Resting[Price], bar: BarRange[Price], *, placed_in_bar: bool) -> bool:
    """Return whether a stop or stop-limit order's stop is reached in `bar`. A stop-limit that is triggered and does not
    fill in the same bar rests as a plain limit from the next bar on; the caller keeps that fact."""
    return _stop_price(order, bar, placed_in_bar=placed_in_bar) is not None


def match_resting(order: Resting[Price], bar: BarRange[Price], *, placed_in_bar: bool) -> Price | None:
    """Return the price at which a resting order fills in `bar`, or None. Call it when the bar is complete.

    `placed_in_bar`: the order came while this very bar was open, so it cannot have the bar's open. A stop-limit fills
    in the bar that triggers it only at a trigger price its limit accepts (later prices are unknown).
    """
    if order.type is OrderType.MARKET:
        return bar.open
    if order.type is OrderType.STOP:
        return _stop_price(order, bar, placed_in_bar=placed_in_bar)
    if order.type is OrderType.STOP_LIMIT:
        trigger = _stop_price(order, bar, placed_in_bar=placed_in_bar)
        if trigger is None or order.price is None:
            return None
        is_good = trigger >= order.price if order.side is Side.SELL else trigger <= order.price
        return trigger if is_good else None
    return _limit_price(order, bar, placed_in_bar=placed_in_bar)


def match_oco(
    stop: Resting[Price], limit: Resting[Price], bar: BarRange[Price], *, placed_in_bar: bool
) -> tuple[Leg, Price] | None:
    """Return which leg of an OCO pair fills in `bar` and its price, or None. Both hit: the stop wins, unless the bar's
    open, when the pair may have it, is already through the limit."""
    at_stop = match_resting(stop, bar, placed_in_bar=placed_in_bar)
    at_limit = match_resting(limit, bar, placed_in_bar=placed_in_bar)
    if at_limit is not None and at_stop is not None and not placed_in_bar and limit.price is not None:
        is_through = bar.open >= limit.price if limit.side is Side.SELL else bar.open <= limit.price
        if is_through:
            return Leg.LIMIT, bar.open
    if at_stop is not None:
        return Leg.STOP, at_stop
    return (Leg.LIMIT, at_limit) if at_limit is not None else None
