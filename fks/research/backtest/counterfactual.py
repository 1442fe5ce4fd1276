"""Value of an entry that was not made: its profit or loss on the stored bars. Pure.

Each entry is valued alone, by the fill rule and the costs of a backtest (`fks.trading.matching`): a market order fills
at the open of the first bar after its decision; a limit or stop order rests until its `until_ns`. The position is left
by its stop loss or take profit, by the next decision of its strategy that ends it, or, when none of them came, it is
marked at the last close. What the account could have paid, and what other positions would have changed, is not looked
at.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from fks.model.bar import Bars
from fks.model.instrument import Instrument, money
from fks.model.order import OrderType, Side
from fks.trading.matching import (
    BarRange,
    CostModel,
    Leg,
    Resting,
    after_entry,
    comes_inside,
    match_legs,
    match_resting,
)

_ZERO = Decimal(0)


class Ending(StrEnum):
    """The end that an entry which was not made would have had."""

    UNFILLED = "unfilled"  # its price was not reached in time
    NO_BARS = "no bars"  # nothing is stored after its decision
    STOP_LOSS = "stop loss"
    TAKE_PROFIT = "take profit"
    EXIT = "exit"  # its strategy decided to leave
    OPEN = "open"  # held at the last bar, marked at its close


@dataclass(frozen=True, slots=True)
class UnmadeEntry:
    """An entry that was wanted. `quantity` in base; `decided_ns`: bars that open from then on may fill it; `until_ns`:
    an order that rests is cancelled then (None: never); `left_ns`: the next decision that ends the position."""

    side: Side
    quantity: Decimal
    decided_ns: int
    type: OrderType = OrderType.MARKET
    limit: Decimal | None = None
    stop: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    until_ns: int | None = None
    left_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Valued:
    """The result that an entry would have had: `pnl` in quote, less `fees` in quote; prices are None where nothing
    filled."""

    ending: Ending
    pnl: Decimal = _ZERO
    fees: Decimal = _ZERO
    entry_ns: int | None = None
    entry_price: Decimal | None = None
    exit_ns: int | None = None
    exit_price: Decimal | None = None


def value(entry: UnmadeEntry, bars: Bars, costs: CostModel, instrument: Instrument) -> Valued:
    """Return what `entry` would have brought on `bars`, which are of one series, in order of time."""
    first = int(np.searchsorted(bars.time_ns, entry.decided_ns))
    if first >= len(bars):
        return Valued(Ending.NO_BARS)
    opened = _opened(entry, bars, first)
    if opened is None:
        return Valued(Ending.UNFILLED)
    index, price, is_maker = opened.bar, opened.price, opened.is_maker
    if not is_maker:
        price = _slipped(costs, entry.side, price, bars, index, instrument, entry.limit)
    left = len(bars)
    if entry.left_ns is not None:
        left = max(int(np.searchsorted(bars.time_ns, entry.left_ns)), index)
    at, exit_price, ending = _left(entry, bars, opened, left)
    leaves_as_maker = ending is Ending.TAKE_PROFIT
    if ending in (Ending.STOP_LOSS, Ending.EXIT):
        exit_price = _slipped(costs, entry.side.opposite, exit_price, bars, at, instrument)
    entry_fee = costs.fee(entry.side, entry.quantity, price, instrument, is_maker=is_maker)
    fees = entry_fee.amount * (exit_price if entry_fee.currency == instrument.base else 1)
    if ending is not Ending.OPEN:
        exit_fee = costs.fee(entry.side.opposite, entry.quantity, exit_price, instrument, is_maker=leaves_as_maker)
        fees += exit_fee.amount * (exit_price if exit_fee.currency == instrument.base else 1)
    gross = entry.side.sign * entry.quantity * (exit_price - price) * instrument.multiplier
    return Valued(
        ending, money(gross - fees), money(fees), int(bars.time_ns[index]), price, int(bars.time_ns[at]), exit_price
    )


class _Opened(NamedTuple):
    """The fill of an entry: its bar, its price before slippage, and whether it makes. `is_late`: it was a limit that
    filled inside the bar; `is_triggered_inside`: a stop that triggered there."""

    bar: int
    price: Decimal
    is_maker: bool = False
    is_late: bool = False
    is_triggered_inside: bool = False


def _opened(entry: UnmadeEntry, bars: Bars, first: int) -> _Opened | None:
    """Return the entry's fill, or None."""
    if entry.type is OrderType.MARKET:
        return _Opened(first, _range(bars, first).open)
    end = len(bars) if entry.until_ns is None else int(np.searchsorted(bars.time_ns, entry.until_ns))
    order, is_buy = Resting(entry.side, entry.type, entry.limit, entry.stop), entry.side is Side.BUY
    arrived = first
    if entry.stop is not None:
        at = _touch(bars, first, end, None if is_buy else entry.stop, entry.stop if is_buy else None)
        if at is None:
            return None
        bar = _range(bars, at)
        price = match_resting(order, bar)
        if price is not None:
            is_late, is_triggered = comes_inside(order, bar, price)
            return _Opened(at, price, is_late, is_late, is_triggered)
        order, arrived, first = Resting(entry.side, OrderType.LIMIT, entry.limit), at, at + 1
    at = _touch(bars, first, end, entry.limit if is_buy else None, None if is_buy else entry.limit)
    price = None if at is None else match_resting(order, _range(bars, at))
    if at is None or price is None:
        return None
    is_inside = price != _range(bars, at).open
    return _Opened(at, price, at > arrived or is_inside, is_inside)


def _slipped(
    costs: CostModel,
    side: Side,
    price: Decimal,
    bars: Bars,
    index: int,
    instrument: Instrument,
    limit: Decimal | None = None,
) -> Decimal:
    """Return the price of a taker's fill in a bar, no worse than its limit."""
    bar = _range(bars, index)
    return costs.slippage.apply(side, price, bar.high - bar.low, instrument.tick, limit=limit)


def _left(entry: UnmadeEntry, bars: Bars, opened: _Opened, left: int) -> tuple[int, Decimal, Ending]:
    """Return the bar, the price and the cause of the end of a position; the decision to leave fills in bar `left` (the
    number of bars: there was none)."""
    side, is_long, index, hit = entry.side.opposite, entry.side is Side.BUY, opened.bar, None
    stop = None if entry.stop_loss is None else Resting(side, OrderType.STOP, stop=entry.stop_loss)
    limit = None if entry.take_profit is None else Resting(side, OrderType.LIMIT, price=entry.take_profit)
    levels = (entry.stop_loss, entry.take_profit) if is_long else (entry.take_profit, entry.stop_loss)
    if index < left:
        own = _range(bars, index)
        bar_open = own.open if opened.is_triggered_inside else None
        hit = match_legs(stop, limit, after_entry(own, opened.price), is_late=opened.is_late, opened=bar_open)
    at = index if hit is not None else _touch(bars, index + 1, left, *levels)
    if at is not None:
        hit = hit or match_legs(stop, limit, _range(bars, at))
        assert hit is not None, "a touched protection fills"
        return at, hit[1], Ending.STOP_LOSS if hit[0] is Leg.STOP else Ending.TAKE_PROFIT
    if left < len(bars):
        return left, _range(bars, left).open, Ending.EXIT
    return len(bars) - 1, Decimal(repr(float(bars.close[-1]))), Ending.OPEN


def _touch(bars: Bars, start: int, end: int, down: Decimal | None, up: Decimal | None) -> int | None:
    """Return the first bar in [start, end) that falls to `down` or rises to `up`. A float price is the one nearest to
    its decimal, so comparing floats orders decimals."""
    touched = np.zeros(max(end - start, 0), dtype=bool)
    if down is not None:
        touched |= bars.low[start:end] <= float(down)
    if up is not None:
        touched |= bars.high[start:end] >= float(up)
    return start + int(touched.argmax()) if touched.any() else None


def _range(bars: Bars, index: int) -> BarRange[Decimal]:
    return BarRange(*(Decimal(repr(float(column[index]))) for column in (bars.open, bars.high, bars.low, bars.close)))
