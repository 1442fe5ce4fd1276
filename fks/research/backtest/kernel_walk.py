"""The walk of the compiled engine: plain functions on 64-bit integers, in the part of Python that numba compiles.

`fks.research.backtest.kernel` prepares what they are given and compiles them. They book, match, size and check exactly
what `fks.research.backtest.reference` does; the fill rule is `fks.trading.matching`'s own functions. Where 64 bits
could overflow they stop with `OVERFLOW`, and the reference engine runs instead. `make_walk` is for one market entry at
a time; `fks.research.backtest.kernel_orders` has the walk of entries that rest and of positions of several entries, by
the same helpers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fks.model.bar import Floats, Ints
from fks.model.margin import liquidation_ticks
from fks.trading.matching.rule import (
    behind,
    collar,
    is_accepted,
    is_open_behind,
    is_unclear,
    no_worse,
    pair_leg,
    reach_down,
    reach_up,
    slip,
    stop_after_trigger,
)

SAFE = 2.0e18  # products that a float64 puts below this fit 64 bits
DECIMAL = 1.0e15  # integers below this have a float64 quotient by 10^n that is the float of that decimal
FAR = 2**62
NONE = -(2**62)  # no level
WHOLE = 10**6  # of a size, in the millionths of shares of it

# outcomes of a walk
DONE, OVERFLOW, TARGET_WRONG, TABLE_FULL, NOT_COVERED = 0, 1, 2, 3, 4

# fields of the state
(
    POSITION,  # places of quantities
    COST,  # of the position, places of amounts
    CASH,
    ENTRY,  # the number of the newest entry's fill
    GUARD,  # 1 while a protection rests
    GUARD_LOTS,  # its quantity in places of lots
    GUARD_SELLS,
    GUARD_STOP,
    GUARD_LIMIT,
    GUARD_TRAIL,  # the distance at which the stop follows the closes, or NONE
    GUARD_SINCE,  # the bar that the first entry of the protection filled in
    FILLS,
    TRADES,
    DENIED,
    DAY_REACHED,  # the loss that reached the limit today, places of worth
    STATUS,
    UNCLEAR,  # bars that reached both legs of a protection, and do not show which first
    SLIPPED,  # the cost of slippage, places of amounts
    LIQUIDATION,  # the price at which the position is closed by force, or NONE
    MARGIN,  # where the rows of the margin in force begin, behind the fields of the state
    UNPAID,  # what the last entry would have cost that the cash did not pay, places of amounts; 0 where it did
    MARKED,  # the equity at the close that decided last, places of worth; 0 where it sizes nothing
    STATE_SIZE,
) = range(23)

# columns of the rows of a margin, as in fks.model.margin.MarginTerms
M_FLOOR, M_OVER, M_TIMES, M_EACH, M_LONG, M_SHORT, M_KEPT, M_LESS, MARGIN_WIDTH = range(9)

# columns of the tables
BAR, SIDE, QUANTITY, PRICE, FEE, IS_BASE, ROLE, FILL_WIDTH = range(8)
TRADE_ENTRY, TRADE_EXIT, TRADE_PNL, TRADE_WIDTH = range(4)
(
    D_BAR,
    D_SIDE,
    D_CODE,
    D_STOP,
    D_LIMIT,
    D_POSITION,
    D_CASH,
    D_LOSS,
    D_LOTS,
    D_ORDER_LIMIT,  # of an entry's order that rests
    D_ORDER_STOP,
    D_ENTRIES,  # that the position had
    D_COST,  # of a fill that the cash does not pay, places of amounts
    D_EQUITY,  # that sized it, places of worth
    DENIED_WIDTH,
) = range(15)

# columns of the cash flows, and their bases, as in fks.research.backtest.cash_flows.FlowBase
FLOW_BAR, FLOW_TIMES, FLOW_OVER, FLOW_BASE, FLOW_WIDTH = range(5)
OF_SHORT, OF_DEBIT = 1, 2

# roles, as in fks.research.backtest.result.ROLES
ENTRY_ROLE, EXIT_ROLE, STOP_ROLE, LIMIT_ROLE, LIQUIDATION_ROLE = range(5)

# denials, as in fks.research.backtest.kernel.CODES
(
    OK,
    DUST,
    PRICE_TICK,
    PRICE_BAND,
    WRONG_SIDE,
    QTY_STEP,
    QTY_MIN,
    QTY_MAX,
    NOTIONAL_MIN,
    NOTIONAL_MAX,
    BALANCE,
    EXPOSURE_INSTRUMENT,
    EXPOSURE_ACCOUNT,
    LOSS_DAY,
    NO_STOP,  # to size by, or none that the exchange would take
    NO_VOLATILITY,
    PYRAMIDING,
    EXPIRED,
    LACKS_MARGIN,
    LACKS_CASH,  # at the fill
) = range(20)

# sizings
NOTIONAL, FIXED, OF_EQUITY, OF_RISK, OF_VOLATILITY = range(5)


class KernelRules(NamedTuple):
    """Setup of a run as integers. Units: `value` is lots' places + prices' places + the multiplier's, `worth` the same
    with the places of quantities, else those of `fks.research.backtest.units.Units`. Limits that do not bind are
    2^62."""

    first: int
    cash: int
    tick: int  # price
    price_scale: int  # 10^places of prices
    lot: int  # the lot step, in lots' places
    lot_to_quantity: int
    multiplier: int
    value_to_cash: int
    cash_to_worth: int
    cash_scale: int
    worth_scale: int
    sizing: int
    size: int  # value of an entry, or its lots' places when it is fixed
    share_times: int  # of the equity that an entry may use, a fraction
    share_over: int
    fee_rate: int
    fee_rate_maker: int
    has_slip: int
    slip_of_price: int  # × price, in slip_per_tick
    slip_of_range: int  # × high less low
    slip_per_tick: int
    slip_fixed: int  # price
    collar_times: int  # of the close, a fraction; 0 = entries have no collar
    collar_over: int
    is_fee_received: int
    fee_base_times: int  # quantity × rate, from lots' places to 1e-8
    fee_base_over: int
    fee_quote_times: int  # value × rate, to 1e-8
    fee_quote_over: int
    fee_to_quantity: int  # from 1e-8
    fee_to_cash: int
    commission_times: int  # of lots, a fraction, to 1e-8
    commission_over: int
    commission_least: int  # 1e-8
    can_short: int
    has_margin: int  # positions are on margin
    margin_rows: int  # of the margin by day, and of that overnight
    fee_rate_forced: int  # beside that of a taker, where a position is closed by force
    market_step: int  # lots' places
    quantity_least: int  # places of quantities, as the limits below
    quantity_most: int
    guard_least: int
    limit_least: int  # of limit and stop-limit orders
    limit_most: int
    notional_min: int  # value
    notional_min_order: int  # of orders that rest
    notional_max: int
    exposure_instrument: int  # worth
    exposure_account: int
    loss_max: int  # worth; 2^62 = none
    away_most: int  # percent from the close that a limit may be, in units of 1 / away_unit; 2^62 = any
    away_unit: int
    entries_most: int  # of one position
    has_band: int
    band_unit: int
    band_sell_low: int
    band_sell_high: int
    band_buy_low: int
    band_buy_high: int
    closes_at_end: int  # what is held at the end is closed at the last close
    price_least: int  # of the tape
    price_most: int
    bar_ns: int
    finer_ns: int  # length of the bars inside those of the run, 0 where there are none
    finer_times: int  # their prices, to the places of prices
    value_factor: int  # the most that lots × price is multiplied by
    lots_factor: int  # the most that lots are multiplied by


def round_half_even(numerator: int, denominator: int) -> int:
    """Return the quotient rounded to the nearest integer, halves to even."""
    quotient = numerator // denominator
    rest = numerator - quotient * denominator
    twice = 2 * rest
    if twice > denominator or (twice == denominator and quotient % 2 != 0):
        quotient += 1
    return quotient


def share_half_even(amount: int, part: int, whole: int) -> int:
    """Return amount × part / whole, rounded half-even, with a product of up to 128 bits; FAR when it does not fit.

    `whole` is positive. Source of the division: bit by bit, as by hand.
    """
    if abs(float(amount) * float(part)) < SAFE:
        return round_half_even(amount * part, whole)
    is_negative = (amount < 0) != (part < 0)
    fits, quotient, rest = divide_wide(abs(amount), abs(part), whole)
    if not fits:
        return FAR
    divisor, one = np.uint64(whole), np.uint64(1)
    twice = rest << one
    if twice > divisor or (twice == divisor and (quotient & one) == one):
        quotient = quotient + one
    if quotient >= np.uint64(FAR):
        return FAR
    return -int(np.int64(quotient)) if is_negative else int(np.int64(quotient))


def share_floor(amount: int, part: int, whole: int) -> int:
    """Return amount × part / whole, rounded down; FAR when it does not fit. None is negative, `whole` is positive."""
    if float(amount) * float(part) < SAFE:
        return amount * part // whole
    fits, quotient, _ = divide_wide(amount, part, whole)
    if not fits or quotient >= np.uint64(FAR):
        return FAR
    return int(np.int64(quotient))


def divide_wide(amount: int, part: int, whole: int) -> tuple[bool, np.uint64, np.uint64]:
    """Return whether amount × part / whole fits, its quotient and its remainder. None is negative, `whole` is positive.
    The product has up to 128 bits."""
    a, b = np.uint64(amount), np.uint64(part)
    half, low_mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    a_high, a_low, b_high, b_low = a >> half, a & low_mask, b >> half, b & low_mask
    middle = a_high * b_low + ((a_low * b_low) >> half)
    cross = (middle & low_mask) + a_low * b_high
    high = a_high * b_high + (middle >> half) + (cross >> half)
    low = ((cross & low_mask) << half) | ((a_low * b_low) & low_mask)
    divisor, one, zero = np.uint64(whole), np.uint64(1), np.uint64(0)
    if high >= divisor:
        return False, zero, zero
    rest, quotient = high, zero
    for bit in range(63, -1, -1):
        rest = (rest << one) | ((low >> np.uint64(bit)) & one)  # below 2 × divisor, which is below 2^64
        quotient = quotient << one
        if rest >= divisor:
            rest = rest - divisor
            quotient = quotient | one
    return True, quotient, rest


def level_ticks(price: float, tick: int, price_scale: int, up: bool) -> int:
    """Return a level on the tick grid, in the places of prices, rounded as `Instrument.round_price` rounds the shortest
    decimal of the float; NONE when it is no number, FAR when it is beyond 15 digits.

    The nearest grid point decides: its float equals the price exactly when the price's shortest decimal is on the grid.
    """
    if not np.isfinite(price):
        return NONE
    steps = np.rint(price * price_scale / tick)
    if abs(steps) * tick >= DECIMAL:
        return FAR
    level = int(steps) * tick
    at = level / price_scale
    if at < price and up:
        level += tick
    elif at > price and not up:
        level -= tick
    return level


def taker_ticks(rules: KernelRules, side: int, ticks: int, span: int) -> int:
    """Return the slipped price of a taker. `span`: high less low of the bar."""
    away = ticks * rules.slip_of_price + span * rules.slip_of_range
    return slip(ticks, side, away, rules.slip_per_tick, rules.tick, rules.slip_fixed)


def book(
    state: Ints,
    fills: Ints,
    trades: Ints,
    rules: KernelRules,
    bar: int,
    side: int,
    lots: int,
    ticks: int,
    span: int,
    role: int,
    is_maker: bool,
    worst: int,
    is_more: bool,
) -> None:
    """Book a fill of `lots` (places of lots) at the price of the fill rule: slipped when it takes, the position net of
    base fees, the cash net of quote fees, and the trade when it closes one. An entry that costs more than the cash,
    where it is not held on margin, is not booked: `UNPAID` has its cost.

    `span`: high less low of the bar; `worst`: a limit that slippage does not exceed, or NONE. `is_more`: an entry adds
    to the position, or an exit belongs to the newest trade.
    """
    rate, away = rules.fee_rate, 0
    if is_maker:
        rate = rules.fee_rate_maker
    elif rules.has_slip:
        slipped = taker_ticks(rules, side, ticks, span)
        slipped = slipped if worst == NONE else no_worse(slipped, ticks, worst, side)
        away, ticks = abs(slipped - ticks), slipped
    value_factor, lots_factor = float(rules.value_factor), float(rules.lots_factor)
    if float(lots) * float(ticks) * value_factor >= SAFE or float(lots) * lots_factor >= SAFE:
        state[STATUS] = OVERFLOW
        return
    value = lots * ticks * rules.multiplier
    quantity = lots * rules.lot_to_quantity
    paid = side * value * rules.value_to_cash
    moved = side * quantity
    is_base = 0
    if side > 0 and rules.is_fee_received:
        fee = round_half_even(lots * rate * rules.fee_base_times, rules.fee_base_over) * rules.fee_to_quantity
        is_base = 1
        moved -= fee
    else:
        fee = round_half_even(value * rate * rules.fee_quote_times, rules.fee_quote_over)
        if rules.commission_over != 0:
            fee += max(round_half_even(lots * rules.commission_times, rules.commission_over), rules.commission_least)
        if role == LIQUIDATION_ROLE and rules.fee_rate_forced != 0:
            fee += round_half_even(value * rules.fee_rate_forced * rules.fee_quote_times, rules.fee_quote_over)
        fee *= rules.fee_to_cash
        paid += fee
    if role == ENTRY_ROLE and side > 0 and not rules.has_margin and paid > state[CASH]:
        state[UNPAID] = paid
        return
    state[SLIPPED] += lots * away * rules.multiplier * rules.value_to_cash
    number = state[FILLS]
    fills[number, BAR] = bar
    fills[number, SIDE] = side
    fills[number, QUANTITY] = quantity
    fills[number, PRICE] = ticks
    fills[number, FEE] = fee
    fills[number, IS_BASE] = is_base
    fills[number, ROLE] = role
    state[FILLS] = number + 1
    position = state[POSITION]
    if role == ENTRY_ROLE:
        if not is_more:
            state[ENTRY] = number
        state[COST] += paid
    elif position != 0:
        held = abs(position)
        kept = 0
        if held != quantity:
            kept = share_half_even(state[COST], held - quantity, held)
            if kept == FAR:
                state[STATUS] = OVERFLOW
                return
        profit = -paid - (state[COST] - kept)
        if is_more:
            trade = state[TRADES] - 1
            profit += trades[trade, TRADE_PNL]
        else:
            trade = state[TRADES]
            state[TRADES] = trade + 1
        trades[trade, TRADE_ENTRY] = state[ENTRY]
        trades[trade, TRADE_EXIT] = number
        trades[trade, TRADE_PNL] = profit
        state[COST] = kept
    position += moved
    state[POSITION] = position
    state[CASH] -= paid
    if (
        float(abs(position)) * float(rules.price_most) * float(rules.multiplier) >= SAFE
        or abs(float(state[CASH])) >= SAFE
        or abs(float(state[COST])) >= SAFE
        or float(state[SLIPPED]) >= SAFE
    ):
        state[STATUS] = OVERFLOW
    elif rules.has_margin:
        state[LIQUIDATION] = liquidation_price(state, rules)


def pay_flow(state: Ints, paid: Ints, rules: KernelRules, flows: Ints, number: int) -> bool:
    """Book a cash flow: times / over of 1e-8 quote for each unit of its base, the position or cash below 0. It is part
    of the position's cost. Return whether anything was paid. With an `over` of 0 the margin in force is from now on
    that by day (`times` 0) or overnight (1)."""
    if flows[number, FLOW_OVER] == 0:
        state[MARGIN] = len(state) - (2 - flows[number, FLOW_TIMES]) * rules.margin_rows * MARGIN_WIDTH
        state[LIQUIDATION] = liquidation_price(state, rules)
        return False
    of, base = state[POSITION], flows[number, FLOW_BASE]
    if base == OF_DEBIT:
        of = min(state[CASH], 0)
    elif base == OF_SHORT:
        of = min(of, 0)
    if of == 0:
        return False
    amount = share_half_even(of, flows[number, FLOW_TIMES], flows[number, FLOW_OVER])
    if amount == FAR or abs(float(amount)) * float(rules.fee_to_cash) >= SAFE:
        state[STATUS] = OVERFLOW
        return False
    if amount == 0:
        return False
    amount *= rules.fee_to_cash
    paid[number] = amount
    state[CASH] += amount
    if state[POSITION] != 0:
        state[COST] -= amount
    if abs(float(state[CASH])) >= SAFE or abs(float(state[COST])) >= SAFE:
        state[STATUS] = OVERFLOW
    elif rules.has_margin:
        state[LIQUIDATION] = liquidation_price(state, rules)
    return True


def close_at_end(
    state: Ints, fills: Ints, trades: Ints, rules: KernelRules, bar: int, close: int, span: int, equity: Floats
) -> None:
    """Close what is held at the close of the last bar."""
    lots, side = closing_lots(state, rules), -1 if state[POSITION] > 0 else 1
    if lots * rules.lot_to_quantity < rules.guard_least:
        return
    state[GUARD] = 0
    book(state, fills, trades, rules, bar, side, lots, close, span, EXIT_ROLE, False, NONE, False)
    if state[STATUS] == DONE:
        worth = close * state[POSITION] * rules.multiplier
        amount = float(state[CASH]) / float(rules.cash_scale)
        equity[bar - rules.first] = amount + float(worth) / float(rules.worth_scale)


def liquidation_price(state: Ints, rules: KernelRules) -> int:
    """Return the price at which the position is closed by force, or NONE where nothing is held that can be closed, or
    no price of the tape comes near it."""
    position, found = state[POSITION], NONE
    if closing_lots(state, rules) * rules.lot_to_quantity < rules.guard_least:
        return NONE
    for number in range(rules.margin_rows):
        level = bracket_price(state, rules, state[MARGIN] + number * MARGIN_WIDTH)
        if level != NONE:
            found = level if found == NONE else max(found, level) if position > 0 else min(found, level)
    return found


def bracket_price(state: Ints, rules: KernelRules, row: int) -> int:
    """Return the price at which the equity falls to the maintenance margin of one bracket, or NONE as above."""
    position, over, each, less = state[POSITION], state[row + M_OVER], state[row + M_KEPT], state[row + M_LESS]
    times = state[row + M_LONG] if position > 0 else state[row + M_SHORT]
    held, shares = float(abs(position)), float(over - times)
    money = float(state[CASH]) * float(rules.cash_to_worth) * float(over) + float(less)
    per_unit = held * float(each)
    if position > 0 and per_unit - money < 0.999 * held * float(rules.multiplier) * shares * float(rules.price_least):
        return NONE
    per_price = held * float(rules.multiplier) * float(over + times)
    if position < 0 and money - per_unit > 1.001 * per_price * float(rules.price_most):
        return NONE
    if per_price >= SAFE or abs(money) + float(less) + per_unit >= SAFE:
        state[STATUS] = OVERFLOW
        return NONE
    cash = state[CASH] * rules.cash_to_worth * over
    return liquidation_ticks(position, cash + less, rules.multiplier, times, over, each, rules.tick)


def lacks_margin(state: Ints, rules: KernelRules, lots: int, price: int, close: int) -> bool:
    """Return whether the account's equity at the close does not cover the margin of the position and of `lots` more at
    `price`: that of the bracket of their value, which is the greatest of those below it."""
    for number in range(rules.margin_rows):
        if lacks_bracket(state, rules, state[MARGIN] + number * MARGIN_WIDTH, lots, price, close):
            return True
    return False


def lacks_bracket(state: Ints, rules: KernelRules, row: int, lots: int, price: int, close: int) -> bool:
    """Return `lacks_margin` for one bracket: False where the value is not above its floor. In floats where these decide
    it surely."""
    over, times, each = state[row + M_OVER], state[row + M_TIMES], state[row + M_EACH]
    held, quantity, floor = abs(state[POSITION]), lots * rules.lot_to_quantity, state[row + M_FLOOR]
    value = (float(quantity) * float(price) + float(held) * float(close)) * float(rules.multiplier)
    if value < 0.999 * float(floor):
        return False
    needed = value * float(times)
    needed += (float(quantity) + float(held)) * float(each)
    worth = float(state[POSITION]) * float(close) * float(rules.multiplier)
    covered = (float(state[CASH]) * float(rules.cash_to_worth) + worth) * float(over)
    cash = abs(float(state[CASH])) * float(rules.cash_to_worth)
    is_sure = abs(needed - covered) > 1e-9 * (cash + abs(worth) + needed) * float(over)
    if is_sure and (value > 1.001 * float(floor) or needed < covered):
        return needed > covered
    if max(needed, value, cash, abs(covered)) >= SAFE:
        state[STATUS] = OVERFLOW
        return False
    equity = state[CASH] * rules.cash_to_worth + state[POSITION] * close * rules.multiplier
    exact = (quantity * price + held * close) * rules.multiplier
    lacks: bool = exact > floor and exact * times + (quantity + held) * each > equity * over
    return lacks


def closing_lots(state: Ints, rules: KernelRules) -> int:
    """Return the lots that close what is held; less than a step stays as dust."""
    lots: int = abs(state[POSITION]) // (rules.lot * rules.lot_to_quantity) * rules.lot
    return lots


def leg_lots(state: Ints, rules: KernelRules, part: int, sells: bool) -> int:
    """Return the lots that a protection over `part` lots closes: no more than is held, 0 when that is less than a venue
    takes, or on the other side."""
    if (state[POSITION] > 0) != sells:
        return 0
    lots = min(part, closing_lots(state, rules))
    return lots if lots * rules.lot_to_quantity >= rules.guard_least else 0


def end_small_guard(state: Ints, rules: KernelRules) -> None:
    """End a protection over what is held when a venue takes no orders that small at the lower of its levels: such a
    rest is unprotected, as live leaves it."""
    stop, limit = state[GUARD_STOP], state[GUARD_LIMIT]
    lowest = limit if stop == NONE else stop if limit == NONE else min(stop, limit)
    if state[GUARD] == 0 or lowest == NONE:
        return
    lots = closing_lots(state, rules)
    is_below = float(lots) * float(lowest) * float(rules.multiplier) < SAFE
    is_below = is_below and lots * lowest * rules.multiplier < rules.notional_min_order
    if is_below or lots * rules.lot_to_quantity < rules.guard_least:
        state[GUARD] = 0


def deny(
    state: Ints,
    denied: Ints,
    bar: int,
    side: int,
    code: int,
    stop: int,
    limit: int,
    loss: int,
    lots: int,
    order_limit: int,
    order_stop: int,
    entries: int,
) -> None:
    """Note a denied entry, or an exit that is dust, with what its words need."""
    number = state[DENIED]
    denied[number, D_BAR] = bar
    denied[number, D_SIDE] = side
    denied[number, D_CODE] = code
    denied[number, D_STOP] = stop
    denied[number, D_LIMIT] = limit
    denied[number, D_POSITION] = state[POSITION]
    denied[number, D_CASH] = state[CASH]
    denied[number, D_LOSS] = loss
    denied[number, D_LOTS] = lots
    denied[number, D_ORDER_LIMIT] = order_limit
    denied[number, D_ORDER_STOP] = order_stop
    denied[number, D_ENTRIES] = entries
    denied[number, D_EQUITY] = state[MARKED]
    state[DENIED] = number + 1


def deny_unpaid(state: Ints, denied: Ints, bar: int, side: int, lots: int) -> bool:
    """Note the denial of an entry decided on `bar` if its fill, just now, was not paid; return whether it was not."""
    if state[UNPAID] == 0:
        return False
    deny(state, denied, bar, side, LACKS_CASH, NONE, NONE, 0, lots, NONE, NONE, 0)
    denied[state[DENIED] - 1, D_COST] = state[UNPAID]
    state[UNPAID] = 0
    return True


def closed_parts(before: float, wanted: float) -> int:
    """Return the millionths of the position that a change of the target closes, WHOLE where it leaves or turns; as
    `fks.strategies.base.closed_parts`."""
    if before * wanted <= 0.0:
        return WHOLE if before != 0.0 else 0
    fall = abs(before) - abs(wanted)
    return min(int(np.rint(fall / abs(before) * WHOLE)), WHOLE - 1) if fall > 0.0 else 0


def leave(
    state: Ints,
    fills: Ints,
    trades: Ints,
    denied: Ints,
    rules: KernelRules,
    bar: int,
    parts: int,
    close: int,
    next_open: int,
    span: int,
) -> None:
    """Close `parts` millionths of the position at the open of the bar after `bar`; nothing when that is dust. The
    protection is over the rest then."""
    lots = closing_lots(state, rules)
    if parts < WHOLE:
        lots = share_floor(lots, parts, WHOLE) // rules.lot * rules.lot
    if lots <= 0:
        return
    side = -1 if state[POSITION] > 0 else 1
    sellable = lots // rules.market_step * rules.market_step
    if float(sellable) * float(close) * float(rules.multiplier) >= SAFE:
        state[STATUS] = OVERFLOW
        return
    if (
        sellable <= 0
        or sellable * rules.lot_to_quantity < rules.quantity_least
        or sellable * close * rules.multiplier < rules.notional_min
    ):
        deny(state, denied, bar, side, DUST, NONE, NONE, 0, lots, NONE, NONE, 0)
        return
    if parts == WHOLE:
        state[GUARD] = 0
    book(state, fills, trades, rules, bar + 1, side, lots, next_open, span, EXIT_ROLE, False, NONE, False)
    if state[GUARD] == 1 and (state[GUARD_SELLS] == 1) == (side < 0):
        state[GUARD_LOTS] = closing_lots(state, rules)
        end_small_guard(state, rules)


def entry_price(close: int, order_limit: int, order_stop: int) -> int:
    """Return the price that sizes and checks an entry: its order's limit, else its stop, else the close."""
    if order_limit != NONE:
        return order_limit
    return order_stop if order_stop != NONE else close


def is_out_of_band(state: Ints, rules: KernelRules, side: int, close: int, limit: int) -> bool:
    """Return whether the limit of an order that rests is too far from the close, by our setting or the exchange's
    filter."""
    if rules.away_most < FAR:
        away = abs(limit - close)
        if float(max(away, close)) * float(max(rules.away_unit, rules.away_most)) >= SAFE:
            state[STATUS] = OVERFLOW
        elif away * rules.away_unit > rules.away_most * close:
            return True
    if rules.has_band:
        low = rules.band_buy_low if side > 0 else rules.band_sell_low
        high = rules.band_buy_high if side > 0 else rules.band_sell_high
        if float(max(limit, close)) * float(max(rules.band_unit, high)) >= SAFE:
            state[STATUS] = OVERFLOW
        else:
            return limit * rules.band_unit < low * close or limit * rules.band_unit > high * close
    return False


def collar_ticks(state: Ints, rules: KernelRules, side: int, close: int, stop: int, limit: int) -> int:
    """Return the worst price at which a market entry decided at `close` may fill, or NONE where it has no collar."""
    if rules.collar_times == 0 or side < 0 or (stop == NONE and limit == NONE):
        return NONE
    if float(close) * float(rules.collar_over + rules.collar_times) >= SAFE:
        state[STATUS] = OVERFLOW
        return NONE
    return collar(close, rules.collar_times, rules.collar_over, side, rules.tick)


def expires(
    state: Ints, rules: KernelRules, side: int, close: int, next_open: int, span: int, stop: int, limit: int
) -> bool:
    """Return whether a market entry decided at `close` expires at the next bar's open."""
    worst = collar_ticks(state, rules, side, close, stop, limit)
    if worst == NONE:
        return False
    ticks = taker_ticks(rules, side, next_open, span) if rules.has_slip else next_open
    return not is_accepted(ticks, worst, side)


def buy_cost(rules: KernelRules, lots: int, ticks: int) -> int:
    """Return the most that a buy takes in quote, places of amounts, as `fks.trading.matching.CostModel.buy_cost`."""
    value = lots * ticks * rules.multiplier
    cost = value * rules.value_to_cash
    if rules.is_fee_received:
        return cost
    rate = max(rules.fee_rate, rules.fee_rate_maker)
    fee = round_half_even(value * rate * rules.fee_quote_times, rules.fee_quote_over)
    if rules.commission_over != 0:
        fee += max(round_half_even(lots * rules.commission_times, rules.commission_over), rules.commission_least)
    return cost + fee * rules.fee_to_cash


def affordable_lots(
    state: Ints, rules: KernelRules, lots: int, close: int, order_limit: int, order_stop: int, stop: int, limit: int
) -> int:
    """Return the lots of a buy that the cash pays for, as `fks.trading.risk.sizing.affordable_quantity`."""
    worst = order_limit
    if order_limit == NONE and order_stop == NONE:
        worst = collar_ticks(state, rules, 1, close, stop, limit)
    if worst == NONE:
        worst = order_stop if order_stop != NONE else close
        worst = taker_ticks(rules, 1, worst, 0) if rules.has_slip else worst
    if float(lots) * float(worst) * float(rules.value_factor) >= SAFE:
        state[STATUS] = OVERFLOW
    if state[STATUS] != DONE or buy_cost(rules, lots, worst) <= state[CASH]:
        return lots
    least, above = 0, lots // rules.lot + 1
    while above - least > 1:
        middle = (least + above) // 2
        if buy_cost(rules, middle * rules.lot, worst) <= state[CASH]:
            least = middle
        else:
            above = middle
    return least * rules.lot if least > 0 else lots


def refusal(
    state: Ints,
    rules: KernelRules,
    side: int,
    lots: int,
    close: int,
    order_limit: int,
    order_stop: int,
    stop: int,
    limit: int,
    loss: int,
    entries: int,
) -> int:
    """Return the first of live's checks that denies an entry, in live's order, or OK. `order_limit`, `order_stop`: the
    prices of an order that rests, above 0, or NONE."""
    at = entry_price(close, order_limit, order_stop)
    if (stop != NONE and stop <= 0) or (limit != NONE and limit <= 0):
        return PRICE_TICK
    if order_limit != NONE and is_out_of_band(state, rules, side, close, order_limit):
        return PRICE_BAND
    if rules.has_band and limit != NONE:
        low = rules.band_sell_low if side > 0 else rules.band_buy_low
        high = rules.band_sell_high if side > 0 else rules.band_buy_high
        if float(max(limit, close)) * float(max(rules.band_unit, high)) >= SAFE:
            state[STATUS] = OVERFLOW
        elif limit * rules.band_unit < low * close or limit * rules.band_unit > high * close:
            return PRICE_BAND
    if order_stop != NONE and (order_stop - close) * side <= 0:
        return WRONG_SIDE
    if (stop != NONE and (stop - at) * side >= 0) or (limit != NONE and (limit - at) * side <= 0):
        return WRONG_SIDE
    quantity = lots * rules.lot_to_quantity
    if order_limit == NONE or stop != NONE:  # a market order, once it triggers, or its stop loss does
        step, least, most = rules.market_step, rules.quantity_least, rules.quantity_most
    else:
        step, least, most = rules.lot, rules.limit_least, rules.limit_most
    if lots % step != 0:
        return QTY_STEP
    if quantity < least or quantity <= 0:
        return QTY_MIN
    if quantity > most:
        return QTY_MAX
    value = lots * at * rules.multiplier
    if value < (rules.notional_min if order_limit == NONE and order_stop == NONE else rules.notional_min_order):
        return NOTIONAL_MIN
    if value > rules.notional_max:
        return NOTIONAL_MAX
    if side < 0 and not rules.can_short:
        if quantity > max(state[POSITION], 0):
            return BALANCE
    elif rules.has_margin:
        if lacks_margin(state, rules, lots, at, close):
            return LACKS_MARGIN
    elif side > 0 and buy_cost(rules, lots, at) > state[CASH]:
        return BALANCE
    after = state[POSITION] * side + quantity
    if float(after) * float(at) * float(rules.multiplier) >= SAFE:
        state[STATUS] = OVERFLOW
        return OK
    exposure = max(after, 0) * at * rules.multiplier
    if exposure > rules.exposure_instrument:
        return EXPOSURE_INSTRUMENT
    if exposure > rules.exposure_account:
        return EXPOSURE_ACCOUNT
    lowest = limit if stop == NONE else stop if limit == NONE else min(stop, limit)
    if lowest != NONE and float(lots) * float(lowest) * float(rules.multiplier) < SAFE:
        left = quantity
        if side > 0 and rules.is_fee_received:
            rate = max(rules.fee_rate, rules.fee_rate_maker)
            fee = round_half_even(lots * rate * rules.fee_base_times, rules.fee_base_over)
            left -= fee * rules.fee_to_quantity
        covered = left // (rules.lot * rules.lot_to_quantity) * rules.lot
        if covered * lowest * rules.multiplier < rules.notional_min_order:
            return NO_STOP
    if loss >= rules.loss_max:
        return LOSS_DAY
    if entries >= rules.entries_most:
        return PYRAMIDING
    worst = NONE
    if order_limit == NONE and order_stop == NONE:
        worst = collar_ticks(state, rules, side, close, stop, limit)
    if worst != NONE:  # the venue locks what the entry may cost
        if float(lots) * float(worst) * float(rules.value_factor) >= SAFE:
            state[STATUS] = OVERFLOW
        elif rules.has_margin:
            if lacks_margin(state, rules, lots, worst, close):
                return LACKS_MARGIN
        elif buy_cost(rules, lots, worst) > state[CASH]:
            return BALANCE
    return OK


def mark(state: Ints, rules: KernelRules, close: int) -> None:
    """Note what the account is worth at a close that decides an entry, before an exit decided with it is booked."""
    if rules.sizing == NOTIONAL or rules.sizing == FIXED:
        return
    worth = float(abs(state[POSITION])) * float(close) * float(rules.multiplier)
    if worth + abs(float(state[CASH])) * float(rules.cash_to_worth) >= SAFE:
        state[STATUS] = OVERFLOW
    else:
        state[MARKED] = state[CASH] * rules.cash_to_worth + state[POSITION] * close * rules.multiplier


def share_lots(state: Ints, rules: KernelRules, at: int, stop: int, volatility: int) -> tuple[int, int]:
    """Return the lots of an entry at the price `at` whose size is a share of the equity at the close that decided it,
    and OK or why it has none."""
    per_unit = at
    if rules.sizing == OF_RISK:
        if stop == NONE:
            return 0, NO_STOP
        per_unit = abs(at - stop)
    elif rules.sizing == OF_VOLATILITY:
        if volatility < 0:
            return 0, NO_VOLATILITY
        per_unit = volatility
    step = float(rules.lot) * float(rules.lot_to_quantity) * float(rules.multiplier) * float(rules.share_over)
    if float(per_unit) * step >= SAFE:
        state[STATUS] = OVERFLOW
        return 0, OK
    equity = state[MARKED]
    if per_unit <= 0 or equity <= 0:
        return 0, OK
    cost = per_unit * rules.lot * rules.lot_to_quantity * rules.multiplier * rules.share_over
    steps = share_floor(equity, rules.share_times, cost)
    if steps == FAR or float(steps) * float(rules.lot) >= SAFE:
        state[STATUS] = OVERFLOW
        return 0, OK
    return steps * rules.lot, OK


def entry_lots(
    state: Ints,
    denied: Ints,
    rules: KernelRules,
    bar: int,
    side: int,
    close: int,
    order_limit: int,
    order_stop: int,
    stop: int,
    limit: int,
    loss: int,
    volatility: int,
    share: int,
    entries: int,
) -> int:
    """Return the lots of an entry decided on `bar`, -1 when it is denied or does not fit. `share`: millionths of its
    size."""
    code, at, lots = OK, entry_price(close, order_limit, order_stop), rules.size
    if rules.sizing == NOTIONAL:
        lots = rules.size // (at * rules.lot * rules.multiplier) * rules.lot
    elif rules.sizing != FIXED:
        lots, code = share_lots(state, rules, at, stop, volatility)
        if code != OK:
            deny(state, denied, bar, side, code, stop, limit, loss, 0, order_limit, order_stop, entries)
    if state[STATUS] != DONE or code != OK:
        return -1
    if share != WHOLE:
        steps = lots // rules.lot
        if float(steps) * float(share) >= SAFE:
            state[STATUS] = OVERFLOW
            return -1
        lots = steps * share // WHOLE * rules.lot
    value_factor, lots_factor = float(rules.value_factor), float(rules.lots_factor)
    if float(lots) * float(at) * value_factor >= SAFE or float(lots) * lots_factor >= SAFE:
        state[STATUS] = OVERFLOW
        return -1
    is_paid = rules.sizing != NOTIONAL and rules.sizing != FIXED and side > 0 and not rules.has_margin
    if is_paid:
        lots = affordable_lots(state, rules, lots, close, order_limit, order_stop, stop, limit)
        if state[STATUS] != DONE:
            return -1
    code = refusal(state, rules, side, lots, close, order_limit, order_stop, stop, limit, loss, entries)
    if state[STATUS] != DONE:
        return -1
    if code != OK:
        deny(state, denied, bar, side, code, stop, limit, loss, lots, order_limit, order_stop, entries)
        return -1
    return lots


def enter(
    state: Ints,
    fills: Ints,
    trades: Ints,
    denied: Ints,
    rules: KernelRules,
    bar: int,
    side: int,
    close: int,
    next_open: int,
    span: int,
    stop: int,
    limit: int,
    trail: int,
    loss: int,
    volatility: int,
    share: int,
) -> None:
    """Size, check and fill an entry decided on `bar` at the next bar's open, and place its protection."""
    if stop == FAR or limit == FAR or trail == FAR:
        state[STATUS] = OVERFLOW
        return
    if stop == NONE and trail != NONE:
        stop = behind(close, trail, side, rules.tick)
    lots = entry_lots(state, denied, rules, bar, side, close, NONE, NONE, stop, limit, loss, volatility, share, 0)
    if lots < 0:
        return
    if expires(state, rules, side, close, next_open, span, stop, limit):
        deny(state, denied, bar, side, EXPIRED, stop, limit, loss, lots, NONE, NONE, 0)
        return
    book(state, fills, trades, rules, bar + 1, side, lots, next_open, span, ENTRY_ROLE, False, NONE, False)
    if deny_unpaid(state, denied, bar, side, lots):
        return
    if stop == NONE and limit == NONE and not rules.has_margin:
        return
    guarded = closing_lots(state, rules)
    if guarded * rules.lot_to_quantity >= rules.guard_least:
        state[GUARD] = 1
        state[GUARD_LOTS] = guarded
        state[GUARD_SELLS] = 1 if side > 0 else 0
        state[GUARD_STOP] = stop
        state[GUARD_LIMIT] = limit
        state[GUARD_TRAIL] = trail
        state[GUARD_SINCE] = bar + 1


def leg_hit(stop: int, limit: int, sells: bool, met: int, best: int, high: int, low: int) -> tuple[int, int, bool]:
    """Return which leg of a protection fills in a bar (0 none, 1 the stop, 2 the limit), at which price, and whether
    the bar does not show which came first. `met`: the first price that it meets, in its entry's bar that of the entry;
    `best`: the best price for the limit, which is the close where that alone surely came after the entry."""
    is_stopped, is_taken, is_through, is_met_stopped = False, False, False, False
    at_stop, at_limit = stop, limit
    if sells:
        if stop != NONE:
            is_stopped, at_stop = reach_down(stop, met, low)
            is_met_stopped = met <= stop
        if limit != NONE:
            is_taken, at_limit = reach_up(limit, met, best)
            is_through = met >= limit
    else:
        if stop != NONE:
            is_stopped, at_stop = reach_up(stop, met, high)
            is_met_stopped = met >= stop
        if limit != NONE:
            is_taken, at_limit = reach_down(limit, met, best)
            is_through = met <= limit
    leg = pair_leg(is_stopped, is_taken, is_met_stopped, is_through)
    ticks = at_stop if leg == 1 else at_limit
    return leg, ticks, is_unclear(is_stopped, is_taken, is_met_stopped, is_through)


def first_inside(rules: KernelRules, finer: tuple[Ints, ...], start_ns: int) -> tuple[int, int]:
    """Return the place of the first of the finer bars inside the bar from `start_ns` on, and how many there are: 0
    where they do not cover it."""
    time_ns, at, end = finer[0], 0, len(finer[0])
    if rules.finer_ns == 0:
        return 0, 0
    while at < end:
        middle = (at + end) // 2
        if time_ns[middle] < start_ns:
            at = middle + 1
        else:
            end = middle
    count, end_ns = rules.bar_ns // rules.finer_ns, start_ns + rules.bar_ns
    if at + count > len(time_ns) or time_ns[at + count - 1] >= end_ns:
        return 0, 0
    if at + count < len(time_ns) and time_ns[at + count] < end_ns:
        return 0, 0
    return at, count


def inside_hit(
    rules: KernelRules,
    finer: tuple[Ints, ...],
    start_ns: int,
    is_own: bool,
    met: int,
    stop: int,
    limit: int,
    sells: bool,
    at_stop: int,
) -> tuple[int, int, bool]:
    """Return `leg_hit` of the first of the finer bars inside the bar from `start_ns` on that reaches a leg, after a bar
    in which a stop filled at `at_stop` and the limit may have come before: that reading, where they do not cover the
    bar. `is_own`: the entry filled in it at `met`, before slippage."""
    _, open_, high, low, _ = finer
    at, count = first_inside(rules, finer, start_ns)
    for place in range(at, at + count):
        highest, lowest = high[place] * rules.finer_times, low[place] * rules.finer_times
        first = met if is_own and place == at else open_[place] * rules.finer_times
        leg, ticks, has_both = leg_hit(stop, limit, sells, first, highest if sells else lowest, highest, lowest)
        if leg != 0:
            return leg, ticks, has_both
    return 1, at_stop, True


def liquidates(
    state: Ints, stop: int, limit: int, met: int, best: int, first: int, high: int, low: int
) -> tuple[bool, int, bool]:
    """Return whether a bar closes the position by force before a leg of its protection fills, at which price, and
    whether the bar does not show that the limit did not fill first. A limit that is reached by the first price that it
    meets comes first. `met`, `best`: as in `leg_hit`; `first`: the first price of the bar that the position meets."""
    level, sells = state[LIQUIDATION], state[POSITION] > 0
    if level == NONE:
        return False, 0, False
    is_hit, ticks = reach_down(level, first, low) if sells else reach_up(level, first, high)
    is_behind_stop = stop != NONE and (stop >= level if sells else stop <= level)
    if not is_hit or is_behind_stop:
        return False, 0, False
    if limit == NONE:
        return True, ticks, False
    if met >= limit if sells else met <= limit:
        return False, 0, False
    return True, ticks, best >= limit if sells else best <= limit


def liquidate(state: Ints, fills: Ints, trades: Ints, rules: KernelRules, bar: int, ticks: int, span: int) -> None:
    """Close all that is held by force, and end its protection."""
    side, lots = -1 if state[POSITION] > 0 else 1, closing_lots(state, rules)
    state[GUARD] = 0
    book(state, fills, trades, rules, bar, side, lots, ticks, span, LIQUIDATION_ROLE, False, NONE, False)


def watch_rest(state: Ints) -> None:
    """Go on looking for the price at which what an exit left is closed by force."""
    if state[LIQUIDATION] != NONE and state[GUARD] == 0:
        state[GUARD], state[GUARD_LOTS], state[GUARD_SELLS] = 1, 0, 1 if state[POSITION] > 0 else 0
        state[GUARD_STOP], state[GUARD_LIMIT], state[GUARD_TRAIL] = NONE, NONE, NONE


def protect(
    state: Ints,
    fills: Ints,
    trades: Ints,
    rules: KernelRules,
    bar: int,
    open_: int,
    high: int,
    low: int,
    time_ns: int,
    finer: tuple[Ints, ...],
) -> None:
    """Fill the resting protection when `bar` reaches it, or close the position by force. Its entry filled at an open,
    so that it meets the open in each bar. `finer`: as in `inside_hit`."""
    sells, stop, limit = state[GUARD_SELLS] == 1, state[GUARD_STOP], state[GUARD_LIMIT]
    best = high if sells else low
    if rules.has_margin:
        is_forced, at, is_open = liquidates(state, stop, limit, open_, best, open_, high, low)
        if is_forced:
            state[UNCLEAR] += 1 if is_open else 0
            liquidate(state, fills, trades, rules, bar, at, high - low)
            return
    leg, ticks, has_both = leg_hit(stop, limit, sells, open_, best, high, low)
    if leg == 0:
        return
    state[GUARD] = 0
    if has_both:
        is_own = bar == state[GUARD_SINCE]
        leg, ticks, has_both = inside_hit(rules, finer, time_ns, is_own, open_, stop, limit, sells, ticks)
    if has_both:
        state[UNCLEAR] += 1
    lots = leg_lots(state, rules, state[GUARD_LOTS], sells)
    if lots == 0:
        return
    role, side = STOP_ROLE if leg == 1 else LIMIT_ROLE, -1 if sells else 1
    book(state, fills, trades, rules, bar, side, lots, ticks, high - low, role, leg == 2, NONE, False)


def first_touch(state: Ints, low: Ints, high: Ints, start: int, last: int) -> int:
    """Return the first bar from `start` through `last` whose range reaches a level of the protection, or -1."""
    sells = state[GUARD_SELLS] == 1
    down, up = (state[GUARD_STOP], state[GUARD_LIMIT]) if sells else (state[GUARD_LIMIT], state[GUARD_STOP])
    if up == NONE:
        up = FAR
    if state[LIQUIDATION] != NONE:
        if sells:
            down = max(down, state[LIQUIDATION])
        else:
            up = min(up, state[LIQUIDATION])
    for bar in range(start, last + 1):
        if low[bar] <= down or high[bar] >= up:
            return bar
    return -1


def nearer_stop(stop: int, sells: bool, trail: int, move: float, close: int, rules: KernelRules) -> int:
    """Return where a stop is after a close that it follows at `trail` (NONE: it does not), and that moves it to the
    price `move` (NaN: it does not): nearer to the market, never back."""
    if trail != NONE:
        level = behind(close, trail, 1 if sells else -1, rules.tick)
        stop = max(stop, level) if sells else min(stop, level)
    if move == move:  # not NaN
        level = level_ticks(move, rules.tick, rules.price_scale, not sells)
        stop = max(stop, level) if sells else min(stop, level)
    return stop


def first_followed(
    state: Ints,
    rules: KernelRules,
    low: Ints,
    high: Ints,
    close: Ints,
    target: Floats,
    moves: Floats,
    start: int,
    last: int,
) -> int:
    """Return what `first_touch` does where the stop follows the closes or is moved at some, and leave the stop as it is
    in that bar, or after the last one."""
    stop, limit, trail = state[GUARD_STOP], state[GUARD_LIMIT], state[GUARD_TRAIL]
    found, forced, sells, has_moves = -1, state[LIQUIDATION], state[GUARD_SELLS] == 1, len(moves) > 0
    if not sells:
        forced = FAR if forced == NONE else forced
    up = FAR if limit == NONE else limit
    for bar in range(start, last + 1):
        if sells:
            if low[bar] <= max(stop, forced) or high[bar] >= up:
                found = bar
                break
        elif high[bar] >= min(stop, forced) or low[bar] <= limit:
            found = bar
            break
        move = np.nan
        if has_moves and (target[bar] > 0.0) == sells:
            move = moves[bar]
        stop = nearer_stop(stop, sells, trail, move, close[bar], rules)
    if abs(stop) == FAR:
        state[STATUS] = OVERFLOW
    state[GUARD_STOP] = stop
    return found


def value_bars(rules: KernelRules, close: Ints, equity: Floats, start: int, end: int, cash: int, factor: int) -> None:
    """Fill the equity of the bars from `start` to `end`, not included, through which nothing changes."""
    amount, scale, first = float(cash) / float(rules.cash_scale), float(rules.worth_scale), rules.first
    if factor == 0:
        for bar in range(start, end):
            equity[bar - first] = amount
    else:
        for bar in range(start, end):
            equity[bar - first] = amount + float(close[bar] * factor) / scale


def least_worth(
    rules: KernelRules, close: Ints, start: int, end: int, factor: int, lowest: int, start_worth: int, flow: int
) -> int:
    """Return the least that the position was worth on the closes from `start` to `end`, not included, or `lowest` if
    that is less. A position that cannot have lost the day's limit at any price of the tape is not looked at."""
    most = start_worth - factor * (rules.price_least if factor > 0 else rules.price_most)
    if end <= start or float(most) - float(flow) * float(rules.cash_to_worth) < 0.99 * float(rules.loss_max):
        return lowest
    extreme = close[start]
    if factor > 0:
        for bar in range(start, end):
            extreme = min(extreme, close[bar])
    else:
        for bar in range(start, end):
            extreme = max(extreme, close[bar])
    return int(min(lowest, extreme * factor))


def cut(state: Ints, rules: KernelRules, start_worth: int, start_cash: int, lowest: int, cash: int) -> None:
    """Look at the day's loss on closes with one and the same holding: `lowest` is its least value, `cash` the account's
    money beside it. The first loss that reaches the limit holds for the day."""
    if lowest == FAR or state[DAY_REACHED] != 0:
        return
    flow = cash - start_cash
    if abs(float(flow)) * float(rules.cash_to_worth) >= SAFE:
        state[STATUS] = OVERFLOW
        return
    loss = start_worth - lowest - flow * rules.cash_to_worth
    if loss >= rules.loss_max:
        state[DAY_REACHED] = loss


MARGIN_HELPERS: tuple[Callable[..., Any], ...] = (
    liquidation_ticks,
    bracket_price,
    liquidation_price,
    lacks_bracket,
    lacks_margin,
    liquidates,
    liquidate,
    watch_rest,
)
HELPERS: tuple[Callable[..., Any], ...] = (
    behind,
    collar,
    is_accepted,
    is_open_behind,
    is_unclear,
    no_worse,
    pair_leg,
    reach_down,
    reach_up,
    slip,
    stop_after_trigger,
    round_half_even,
    divide_wide,
    share_half_even,
    share_floor,
    level_ticks,
    taker_ticks,
    *MARGIN_HELPERS,
    book,
    closing_lots,
    leg_lots,
    end_small_guard,
    pay_flow,
    close_at_end,
    deny,
    deny_unpaid,
    closed_parts,
    leave,
    entry_price,
    is_out_of_band,
    collar_ticks,
    expires,
    buy_cost,
    affordable_lots,
    refusal,
    mark,
    share_lots,
    entry_lots,
    enter,
    leg_hit,
    first_inside,
    inside_hit,
    protect,
    first_touch,
    nearer_stop,
    first_followed,
    value_bars,
    least_worth,
    cut,
)


#: of these, what few runs or few bars need: compiled as calls, so that the rest stays small
SELDOM: tuple[Callable[..., Any], ...] = (
    slip,
    taker_ticks,
    collar_ticks,
    expires,
    no_worse,
    divide_wide,
    share_half_even,
    share_floor,
    is_out_of_band,
    buy_cost,
    affordable_lots,
    deny_unpaid,
    end_small_guard,
    mark,
    share_lots,
    closed_parts,
    first_followed,
    first_inside,
    inside_hit,
    pay_flow,
    close_at_end,
    *MARGIN_HELPERS,
)


def make_walk(version: int) -> Callable[..., int]:
    """Return the walk. `version` becomes part of the compiled source: of the sources that the walk uses, numba's cache
    on disk notices only a change of this file."""

    def walk(
        rules: KernelRules,
        tape: tuple[Ints, ...],
        wanted_by: tuple[Floats, ...],
        sized_by: tuple[Ints, Ints],
        days: tuple[Ints, Ints],
        flows: Ints,
        state: Ints,
        paid: Ints,
        tables: tuple[Ints, ...],
        equity: Floats,
    ) -> int:
        """Return the index of the bar at which the walk ended; the last four arguments are filled.

        `tape`: time, open, high, low and close; those of finer bars, empty where there are none.
        `wanted_by`: the target; stop losses, take profits, trailing distances and moves of stops, NaN where none is
        read, or empty. `sized_by`: volatilities (1e-8, -1 for none), and millionths of the size of an entry, or empty.
        `days`: the bars with which trading days begin after the first one, `len(close)` last, and when these days
        begin. `flows`: the cash flows (`pay_flow`) after the first bar by bar, one at `len(close)` last; `paid`: what
        each of them brought in, places of amounts. `tables`: fills, trades and denials.
        """
        time_ns, open_, high, low, close = tape[:5]
        finer = tape[5:]
        target, stops, limits, trails, moves = wanted_by
        volatilities, shares = sized_by
        day_first, day_start_ns = days
        fills, trades, denied = tables
        count, first = len(close), rules.first
        state[CASH], state[LIQUIDATION] = rules.cash, NONE
        state[STATUS] = DONE * version
        capacity = min(len(fills), len(trades), len(denied)) - 3  # a bar adds at most three rows
        has_stops, has_limits, has_trails = len(stops) > 0, len(limits) > 0, len(trails) > 0
        has_moves = len(moves) > 0
        tracks_loss = rules.loss_max < FAR
        before = 0.0
        cash, factor = rules.cash, 0  # after the bar's fills; of a close, to the position's worth
        held_cash, worth = cash, 0  # at the bar's close, before what is decided on it
        start_cash, start_worth, lowest, day = cash, 0, FAR, 0
        bar, change, due = first, first, 0  # due: the next cash flow
        while bar < count:
            if bar == day_first[day]:
                while day_first[day] == bar:
                    day += 1
                start_cash, start_worth, lowest = held_cash, worth, FAR
                state[DAY_REACHED] = 0
            end = min(day_first[day], flows[due, FLOW_BAR])  # of the day, or before a cash flow; not included
            change = max(change, bar)
            while change < end and target[change] == before:
                change += 1
            last = min(change, end - 1)
            filled = state[FILLS]
            scan = bar
            while state[GUARD] == 1 and scan <= last:
                if (has_trails and state[GUARD_TRAIL] != NONE) or (has_moves and state[GUARD_STOP] != NONE):
                    touch = first_followed(state, rules, low, high, close, target, moves, scan, last)
                else:
                    touch = first_touch(state, low, high, scan, last)
                if state[STATUS] != DONE:
                    return int(last)
                if touch < 0:
                    break
                value_bars(rules, close, equity, bar, touch, cash, factor)
                if tracks_loss:
                    flow = cash - start_cash
                    lowest = least_worth(rules, close, bar, touch, factor, lowest, start_worth, flow)
                ohl = (open_[touch], high[touch], low[touch])
                protect(state, fills, trades, rules, touch, *ohl, time_ns[touch], finer)
                if state[FILLS] != filled and tracks_loss:
                    cut(state, rules, start_worth, start_cash, lowest, cash)
                    lowest = FAR
                if state[FILLS] > capacity:
                    state[STATUS] = TABLE_FULL
                if state[STATUS] != DONE:
                    return touch
                cash, factor = state[CASH], state[POSITION] * rules.multiplier
                filled, bar, scan = state[FILLS], touch, touch + 1
                watch_rest(state)
            value_bars(rules, close, equity, bar, last + 1, cash, factor)
            if tracks_loss:
                flow = cash - start_cash
                lowest = least_worth(rules, close, bar, last + 1, factor, lowest, start_worth, flow)
            held_cash, worth, bar = cash, close[last] * factor, last + 1
            if bar == flows[due, FLOW_BAR] and bar < count:
                is_paid = False
                while flows[due, FLOW_BAR] == bar:
                    if pay_flow(state, paid, rules, flows, due):
                        is_paid = True
                    due += 1
                if is_paid and tracks_loss:
                    cut(state, rules, start_worth, start_cash, lowest, held_cash)
                    lowest = FAR
                if state[STATUS] != DONE:
                    return int(last)
                cash = state[CASH]
                watch_rest(state)
            if change == end:
                continue
            wanted = target[change]
            is_less = before * wanted > 0.0 and abs(wanted) < abs(before)
            is_more = before * wanted > 0.0 and not is_less
            is_part = is_less
            if change == first and abs(wanted) < 1.0:
                begun = first
                while begun > 0 and target[begun - 1] * wanted > 0.0:
                    begun -= 1
                is_part = abs(target[begun]) == 1.0  # a part was closed before the first decision
            if is_more or (wanted != 0.0 and wanted != 1.0 and wanted != -1.0 and not is_part):
                state[STATUS] = TARGET_WRONG
                return change
            if bar == count:
                break
            if max(filled, state[DENIED]) > capacity:
                state[STATUS] = TABLE_FULL
                return change
            span = 0
            if rules.slip_of_range != 0:  # else these columns stay out of the processor's cache
                span = high[bar] - low[bar]
            parts, enters = closed_parts(before, wanted), wanted != 0.0 and not is_less
            if enters:
                mark(state, rules, close[change])
            if parts > 0 and state[STATUS] == DONE:
                leave(state, fills, trades, denied, rules, change, parts, close[change], open_[bar], span)
                watch_rest(state)
            is_next_day = time_ns[change] + rules.bar_ns >= day_start_ns[day]
            if tracks_loss and not is_next_day and (enters or state[FILLS] != filled):
                cut(state, rules, start_worth, start_cash, lowest, held_cash)
                lowest = FAR
            if enters and state[STATUS] == DONE:
                side = 1 if wanted > 0.0 else -1
                stop, limit, trail = NONE, NONE, NONE
                if has_stops:
                    stop = level_ticks(stops[change], rules.tick, rules.price_scale, side < 0)
                if has_limits:
                    limit = level_ticks(limits[change], rules.tick, rules.price_scale, side > 0)
                if has_trails:
                    trail = level_ticks(trails[change], rules.tick, rules.price_scale, True)
                loss = 0 if is_next_day else state[DAY_REACHED]
                volatility = volatilities[change] if rules.sizing == OF_VOLATILITY else -1
                share = shares[change] if len(shares) > 0 else WHOLE
                now, at = close[change], open_[bar]
                levels, sized = (stop, limit, trail), (volatility, share)
                enter(state, fills, trades, denied, rules, change, side, now, at, span, *levels, loss, *sized)
            if state[STATUS] != DONE:
                return change
            cash, factor, before = state[CASH], state[POSITION] * rules.multiplier, wanted
        if rules.closes_at_end:
            last = count - 1
            close_at_end(state, fills, trades, rules, last, close[last], high[last] - low[last], equity)
        return count

    return walk
