"""The fill rule on a bar: whether an order fills and at which price, as in the package's docstring, clause by clause.

`reach_down`, `reach_up`, `is_accepted`, `collar`, `pair_leg`, `is_unclear`, `is_open_behind`, `stop_after_trigger`,
`slip`, `no_worse` and `behind` are the rule itself, on plain numbers. The compiled engine of backtests compiles these
same functions.
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
    close: Price


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
    return BarRange(*(Decimal(repr(price)) for price in (bar.open, bar.high, bar.low, bar.close)))


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


def is_open_behind(stop: Price, met: Price, open_: Price, sign: int) -> bool:
    """Return whether a bar, inside which an entry's stop triggered, opened beyond its stop loss, while the price of the
    entry (`met`) is not beyond it: each such bar reaches the stop loss, and only its close shows more. `sign`: 1 for a
    long, -1 for a short."""
    return (stop - open_) * sign >= 0 and (stop - met) * sign < 0


def stop_after_trigger(stop: Price, met: Price, open_: Price, close: Price, sign: int) -> tuple[bool, Price]:
    """Return whether the bar inside which an entry's stop triggered may fill its stop loss, and the first price that
    its protections meet: that of the entry, or the close, where the open and the close are both beyond the stop loss.
    Arguments as those of `is_open_behind`."""
    if not is_open_behind(stop, met, open_, sign):
        return True, met
    if (stop - close) * sign >= 0:
        return True, close
    return False, met


def after_entry(bar: BarRange[Price], price: Price) -> BarRange[Price]:
    """Return a bar as the protections of an entry meet it that filled in it at `price`, before slippage: they came with
    that price, so that it is the first one of the bar for them, and not the open."""
    return BarRange(price, bar.high, bar.low, bar.close)


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


def rests_as_limit(order: Resting[Price], bar: BarRange[Price]) -> bool:
    """Return whether a stop-limit is triggered in `bar` at a price that its limit does not accept: it rests as a plain
    limit from then on. Where it does not fill in that bar, the caller keeps the fact."""
    if order.type is not OrderType.STOP_LIMIT or order.price is None:
        return False
    trigger = _stop_price(order, bar)
    return trigger is not None and not is_accepted(trigger, order.price, order.side.sign)


def match_resting(order: Resting[Price], bar: BarRange[Price]) -> Price | None:
    """Return the price at which a resting order fills in `bar`, or None. Call it when the bar is complete, and with
    `after_entry` for a protection whose entry filled in it.

    A stop-limit fills in the bar that triggers it at the trigger price, if its limit accepts that; else at its limit,
    if the close shows that the price came back to it.
    """
    if order.type is OrderType.MARKET:
        return bar.open
    if order.type is OrderType.STOP:
        return _stop_price(order, bar)
    if order.type is not OrderType.STOP_LIMIT:
        return _limit_price(order, bar)
    if order.price is None or not rests_as_limit(order, bar):
        return _stop_price(order, bar)
    return order.price if is_accepted(bar.close, order.price, order.side.sign) else None


def match_take_profit(limit: Resting[Price], bar: BarRange[Price], *, is_late: bool) -> Price | None:
    """Return the price at which a take profit fills in `bar`, or None. `is_late`: its entry was a limit that filled
    inside the bar, of whose prices only the close surely came later."""
    return match_resting(limit, BarRange(bar.open, bar.close, bar.close, bar.close) if is_late else bar)


def match_oco(
    stop: Resting[Price], limit: Resting[Price], bar: BarRange[Price], *, is_late: bool = False
) -> tuple[Leg, Price] | None:
    """Return which leg of an OCO pair fills in `bar` and its price, or None. Both hit: the stop wins, unless the first
    price that the pair meets is already through the limit alone. The bar is that of `match_resting`, `is_late` as in
    `match_take_profit`."""
    at_stop = match_resting(stop, bar)
    at_limit = match_take_profit(limit, bar, is_late=is_late)
    is_met_stopped, is_through = at_stop == bar.open, at_limit == bar.open
    leg = pair_leg(at_stop is not None, at_limit is not None, is_met_stopped, is_through)
    if leg == 2 and at_limit is not None:
        return Leg.LIMIT, at_limit
    return (Leg.STOP, at_stop) if at_stop is not None else None


def comes_inside(order: Resting[Price], bar: BarRange[Price], price: Price) -> tuple[bool, bool]:
    """Return whether an entry's order that fills in `bar` at `price` is a limit that fills inside it, and whether it is
    a stop that triggers inside it."""
    if order.type is OrderType.LIMIT or order.stop is None:
        return order.type is OrderType.LIMIT and price != bar.open, False
    return rests_as_limit(order, bar), (order.stop - bar.open) * order.side.sign > 0


def match_legs(
    stop: Resting[Price] | None,
    limit: Resting[Price] | None,
    bar: BarRange[Price],
    *,
    is_late: bool = False,
    opened: Price | None = None,
) -> tuple[Leg, Price] | None:
    """Return which leg of a protection fills in `bar` and its price, or None; as `match_oco`, where one of them may be
    missing. `opened`: the bar's own open, where the entry's stop triggered inside it (`stop_after_trigger`)."""
    if opened is not None and stop is not None and stop.stop is not None:
        may_fill, met = stop_after_trigger(stop.stop, bar.open, opened, bar.close, -stop.side.sign)
        stop, bar = stop if may_fill else None, after_entry(bar, met)
    if stop is not None and limit is not None:
        return match_oco(stop, limit, bar, is_late=is_late)
    if stop is not None:
        price = match_resting(stop, bar)
        return None if price is None else (Leg.STOP, price)
    price = None if limit is None else match_take_profit(limit, bar, is_late=is_late)
    return None if price is None else (Leg.LIMIT, price)
