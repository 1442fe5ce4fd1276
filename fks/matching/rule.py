"""The fill rule on a bar: whether an order fills and at which price, as in the package's docstring, clause by clause.

`reach_down`, `reach_up`, `is_accepted`, `collar`, `pair_leg`, `is_unclear`, `slip`, `no_worse` and `behind` are the
rule itself, on plain numbers. The compiled engine of backtests compiles these same functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Generic, TypeVar

from fks.model.bar import Bar, Ints
from fks.model.errors import BugError
from fks.model.order import OrderType, Side

#: An exact price: integer ticks or a Decimal in quote. One call uses one of them throughout.
Price = TypeVar("Price", int, Decimal)
#: An exact price, or a column of integer ticks
Prices = TypeVar("Prices", int, Decimal, Ints)


@dataclass(frozen=True, slots=True)
class BarRange(Generic[Price]):
    """Prices of a bar that matching uses. `open`: the first one that an order meets, of a protection in its entry's own
    bar that of the entry (`after_entry`)."""

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


def reach_down(level: Price, met: Price, low: Price) -> tuple[bool, Price]:
    """Return whether an order fills that fills when the market is at or under `level` (sell stops and buy limits), and
    its price. `met`: the first price of the bar that the order meets."""
    if met <= level:
        return True, met
    return low <= level, level


def reach_up(level: Price, met: Price, high: Price) -> tuple[bool, Price]:
    """Return whether an order fills that fills when the market is at or over `level` (buy stops and sell limits), and
    its price. `met`: the first price of the bar that the order meets."""
    if met >= level:
        return True, met
    return high >= level, level


def slip(price: Price, sign: int, away: Price, per_tick: Price, tick: Price, fixed: Price) -> Price:
    """Return a taker's price: worse than `price` (higher for a buy, `sign` 1; lower for a sell, -1) by `fixed`, and by
    `away` rounded up to whole ticks, of which one is worth `per_tick`; a sell gets one tick at least.

    `price`, `tick` and `fixed` have one unit, `away` and `per_tick` another. None is negative.
    """
    steps = away // per_tick
    if steps * per_tick < away:
        steps += 1
    slipped = price + sign * (steps * tick + fixed)
    return slipped if slipped >= tick else min(price, tick)


def no_worse(slipped: Price, price: Price, limit: Price, sign: int) -> Price:
    """Return a taker's slipped price, no worse than its order's `limit`, or than the rule's `price` where that is
    beyond it; `sign` as in `slip`."""
    if sign > 0:
        return min(slipped, max(limit, price))
    return max(slipped, min(limit, price))


def is_accepted(price: Price, limit: Price, sign: int) -> bool:
    """Return whether a limit accepts a price: that of a stop-limit the price that triggers it, that of an entry with a
    collar its slipped price. A buy (`sign` 1) takes at most the limit, a sell (-1) at least."""
    return price <= limit if sign > 0 else price >= limit


def behind(price: Prices, distance: Prices, sign: int, tick: Prices) -> Prices:
    """Return where a stop is that follows a position at `distance`: below a close for a long (`sign` 1), above it for a
    short (-1), rounded away from it onto the tick grid. `price` less `distance` is not negative."""
    if sign > 0:
        return (price - distance) // tick * tick
    level = (price + distance) // tick * tick
    return level + tick * (level < price + distance)


def collar(price: Price, times: Price, over: Price, sign: int, tick: Price) -> Price:
    """Return the worst price at which a market entry with a collar may fill: `price`, by which it was decided, plus
    (`sign` 1, a buy) or less (-1) `times` / `over` of it, rounded towards `price` onto the tick grid. `price` and
    `tick` have one unit, `times` and `over` another. None is negative."""
    worst, step = price * (over + sign * times), over * tick
    steps = worst // step
    if sign < 0 and steps * step < worst:
        steps += 1
    return steps * tick


def pair_leg(is_stopped: bool, is_taken: bool, is_met_stopped: bool, is_through: bool) -> int:
    """Return which leg of an OCO pair fills: 0 none, 1 the stop, 2 the limit. Both are hit: the stop, unless the first
    price that the pair meets is already through the limit, and not through the stop (`is_met_stopped`)."""
    if is_taken and not is_met_stopped and (is_through or not is_stopped):
        return 2
    return 1 if is_stopped else 0


def is_unclear(is_stopped: bool, is_taken: bool, is_met_stopped: bool, is_through: bool) -> bool:
    """Return whether a bar that reaches both legs of a pair does not show which came first: the first price that the
    pair meets is beyond neither."""
    return is_stopped and is_taken and not is_met_stopped and not is_through


def after_entry(bar: BarRange[Price], price: Price) -> BarRange[Price]:
    """Return a bar as the protections of an entry meet it that filled in it at `price`, before slippage: they came with
    that price, so that it is the first one of the bar for them, and not the open."""
    return BarRange(price, bar.high, bar.low)


def _stop_price(order: Resting[Price], bar: BarRange[Price]) -> Price | None:
    if order.stop is None:
        raise BugError(f"a {order.type} order needs a stop price to be matched")
    if order.side is Side.SELL:
        is_hit, price = reach_down(order.stop, bar.open, bar.low)
    else:
        is_hit, price = reach_up(order.stop, bar.open, bar.high)
    return price if is_hit else None


def _limit_price(order: Resting[Price], bar: BarRange[Price]) -> Price | None:
    if order.price is None:
        raise BugError(f"a {order.type} order needs a limit price to be matched")
    if order.side is Side.SELL:
        is_hit, price = reach_up(order.price, bar.open, bar.high)
    else:
        is_hit, price = reach_down(order.price, bar.open, bar.low)
    return price if is_hit else None


def is_triggered(order: Resting[Price], bar: BarRange[Price]) -> bool:
    """Return whether a stop or stop-limit order's stop is reached in `bar`. A stop-limit that is triggered and does not
    fill in the same bar rests as a plain limit from the next bar on; the caller keeps that fact."""
    return _stop_price(order, bar) is not None


def match_resting(order: Resting[Price], bar: BarRange[Price]) -> Price | None:
    """Return the price at which a resting order fills in `bar`, or None. Call it when the bar is complete, and with
    `after_entry` for a protection whose entry filled in it.

    A stop-limit fills in the bar that triggers it only at a trigger price its limit accepts (later prices are unknown).
    """
    if order.type is OrderType.MARKET:
        return bar.open
    if order.type is OrderType.STOP:
        return _stop_price(order, bar)
    if order.type is OrderType.STOP_LIMIT:
        trigger = _stop_price(order, bar)
        if trigger is None or order.price is None:
            return None
        return trigger if is_accepted(trigger, order.price, order.side.sign) else None
    return _limit_price(order, bar)


def match_oco(
    stop: Resting[Price], limit: Resting[Price], bar: BarRange[Price], *, takes: bool = True
) -> tuple[Leg, Price] | None:
    """Return which leg of an OCO pair fills in `bar` and its price, or None. Both hit: the stop wins, unless the first
    price that the pair meets is already through the limit alone. `takes`: the bar may fill the limit at all. The bar is
    that of `match_resting`."""
    at_stop = match_resting(stop, bar)
    at_limit = match_resting(limit, bar) if takes else None
    first = BarRange(bar.open, bar.open, bar.open)
    is_met_stopped = match_resting(stop, first) is not None
    is_through = match_resting(limit, first) is not None
    leg = pair_leg(at_stop is not None, at_limit is not None, is_met_stopped, is_through)
    if leg == 2 and at_limit is not None:
        return Leg.LIMIT, at_limit
    return (Leg.STOP, at_stop) if at_stop is not None else None
