"""The compiled walk of entries that rest as limit or stop orders, and of positions of several entries.

It goes bar by bar and books, sizes, checks and matches by the functions of `fks.research.backtest.kernel_walk`; the
fill rule is `fks.trading.matching`'s own. `fks.research.backtest.kernel` compiles it apart from that module's walk,
which stays small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fks.model.bar import Floats, Ints
from fks.research.backtest.kernel_walk import (
    CASH,
    DAY_REACHED,
    DENIED,
    DONE,
    ENTRY_ROLE,
    EXPIRED,
    FAR,
    FILL_WIDTH,
    FILLS,
    FLOW_BAR,
    GUARD,
    GUARD_LIMIT,
    GUARD_LOTS,
    GUARD_SELLS,
    GUARD_SINCE,
    GUARD_STOP,
    GUARD_TRAIL,
    LIMIT_ROLE,
    LIQUIDATION,
    NONE,
    NOT_COVERED,
    OF_VOLATILITY,
    OVERFLOW,
    POSITION,
    SIDE,
    STATE_SIZE,
    STATUS,
    STOP_ROLE,
    TABLE_FULL,
    UNCLEAR,
    WHOLE,
    KernelRules,
    book,
    close_at_end,
    closed_parts,
    closing_lots,
    cut,
    deny,
    deny_unpaid,
    entry_lots,
    entry_price,
    expires,
    first_inside,
    inside_hit,
    leave,
    leg_hit,
    leg_lots,
    level_ticks,
    liquidate,
    liquidates,
    mark,
    nearer_stop,
    pay_flow,
)
from fks.trading.matching.rule import (
    behind,
    is_accepted,
    is_open_behind,
    is_unclear,
    reach_down,
    reach_up,
    stop_after_trigger,
)

# fields of the state, after those of kernel_walk
(
    GUARD_MET,  # the price at which it filled, before slippage
    GUARD_LATE,  # 1: it was a limit that filled inside its bar
    GUARD_UNCLEAR,  # 1: it was a stop that triggered inside its bar
    GUARD_NEWEST,  # the bar that a further entry filled in
    LEGS,  # of the protection: one for each of its entries
    FIRST_AT,  # how many of the others come before the first entry's leg, where all of them fill
    FIRST_BEFORE,  # the same before the newest entry
    ENTRIES,  # of the position
    WAITING,  # the side of an entry's order that rests, or 0
    WAITING_LOTS,
    WAITING_LIMIT,
    WAITING_STOP,  # NONE once it has triggered
    WAITING_DECIDED,  # the bar that decided it
    WAITING_STOP_LOSS,
    WAITING_TAKE_PROFIT,
    WAITING_TRAIL,
    INSIDE,  # the bar that the newest entry filled in whose order rested
    INSIDE_MET,  # and its price, before slippage
    INSIDE_TRIGGERED,  # 1: its stop triggered inside that bar
    READ_BAR,  # the entry's bar that the finer bars have shown, plus 1
    READ_LEG,  # the leg that filled in it, 0: none
    READ_TICKS,  # and at which price
    UNREAD,  # bars that only the reference engine reads from finer bars
    ORDERS_STATE_SIZE,
) = range(STATE_SIZE, STATE_SIZE + 24)

# a column more of the fills: the bar that decided it, or the entry that it protects
DECIDED, ORDERS_FILL_WIDTH = FILL_WIDTH, FILL_WIDTH + 1
# columns of the legs, oldest entry first, in places of lots
BOUGHT, PART, PART_BEFORE, LEG_DECIDED, LEG_WIDTH = range(5)


def reach_entry(
    side: int, limit: int, stop: int, open_: int, high: int, low: int, close: int
) -> tuple[bool, int, bool]:
    """Return whether an entry's order fills in a bar, at which price, and whether its stop has triggered there beyond
    its limit, so that it rests as a limit. `stop`: NONE for a limit order, and for a stop-limit that does."""
    if stop == NONE:
        is_hit, ticks = reach_down(limit, open_, low) if side > 0 else reach_up(limit, open_, high)
        return is_hit, ticks, False
    is_hit, ticks = reach_up(stop, open_, high) if side > 0 else reach_down(stop, open_, low)
    if is_hit and limit != NONE and not is_accepted(ticks, limit, side):
        return is_accepted(close, limit, side), limit, True
    return is_hit, ticks, False


def place_legs(
    state: Ints,
    legs: Ints,
    rules: KernelRules,
    bar: int,
    met: int,
    side: int,
    stop: int,
    limit: int,
    trail: int,
    is_late: bool,
    is_entry_unclear: bool,
    decided: int,
    lots: int,
) -> bool:
    """Place the protection of an entry that filled in `bar` at `met`, before slippage, over what is held, or another
    leg of the one that is there, whose entry filled at the open. Return whether it is a new one."""
    count = state[LEGS]
    if state[GUARD] == 1 and state[ENTRIES] > 1:
        if count == len(legs):
            state[STATUS] = NOT_COVERED
            return False
        legs[count, BOUGHT], legs[count, LEG_DECIDED], legs[count, PART] = lots, decided, 0
        left = closing_lots(state, rules)
        for number in range(count, -1, -1):
            legs[number, PART_BEFORE] = legs[number, PART]
            legs[number, PART] = min(left, legs[number, BOUGHT]) if number > 0 else left
            left -= legs[number, PART]
        state[FIRST_BEFORE] = state[FIRST_AT]
        if legs[0, PART] != legs[0, PART_BEFORE]:  # it is placed again, after the new one
            state[FIRST_AT] = count
        state[LEGS] = count + 1
        state[GUARD_NEWEST] = bar
        return False
    guarded = closing_lots(state, rules)
    if (stop == NONE and limit == NONE) or guarded * rules.lot_to_quantity < rules.guard_least:
        return False
    legs[0, BOUGHT], legs[0, PART], legs[0, LEG_DECIDED] = guarded, guarded, decided
    state[GUARD] = 1
    state[GUARD_SELLS] = 1 if side > 0 else 0
    state[GUARD_SINCE] = bar
    state[GUARD_MET] = met
    state[GUARD_STOP] = stop
    state[GUARD_LIMIT] = limit
    state[GUARD_TRAIL] = trail
    state[GUARD_LATE] = 1 if is_late else 0
    state[GUARD_UNCLEAR] = 1 if is_entry_unclear else 0
    state[GUARD_NEWEST] = -1
    state[LEGS] = 1
    state[FIRST_AT] = 0
    state[FIRST_BEFORE] = 0
    return True


def shrink_legs(state: Ints, legs: Ints) -> None:
    """Place the legs of the entries that are left again, after a part of the position was closed: the rest is made of
    the newest entries."""
    count, left = state[LEGS], state[GUARD_LOTS]
    for number in range(count - 1, 0, -1):
        legs[number, PART] = min(left, legs[number, BOUGHT])
        left -= legs[number, PART]
    legs[0, PART] = left
    gone = 0
    while gone < count - 1 and legs[gone, PART] == 0:
        gone += 1
    for number in range(count - gone):
        for field in range(LEG_WIDTH):
            legs[number, field] = legs[number + gone, field]
    state[LEGS], state[FIRST_AT] = count - gone, 0


def read_entry(
    state: Ints,
    rules: KernelRules,
    finer: tuple[Ints, ...],
    time_ns: int,
    side: int,
    order_limit: int,
    order_stop: int,
    paid: int,
    bar_open: int,
    bar_high: int,
    bar_low: int,
    bar_close: int,
) -> tuple[bool, bool]:
    """Return whether finer bars show what the new protection did in the bar in which its entry's order filled at
    `paid`, where that matters, and whether one of them is unclear; the leg and its price are noted."""
    stop, limit, sells = state[GUARD_STOP], state[GUARD_LIMIT], side > 0
    is_taken = limit != NONE and (bar_high >= limit if sells else bar_low <= limit)
    is_stopped = stop != NONE and (bar_low <= stop if sells else bar_high >= stop)
    is_shown = limit != NONE and (bar_close >= limit if sells else bar_close <= limit)
    is_hidden = state[GUARD_LATE] == 1 and is_taken and not is_shown
    if not is_hidden and not (is_stopped and (state[GUARD_UNCLEAR] == 1 or (state[GUARD_LATE] == 1 and is_shown))):
        return False, False
    at, count = first_inside(rules, finer, time_ns)
    if count > 0 and state[LIQUIDATION] != NONE:
        state[UNREAD] += 1
        return False, False
    has_entered, is_open = False, False
    state[READ_LEG], state[READ_TICKS] = 0, 0
    for place in range(at, at + count):
        open_, high = finer[1][place] * rules.finer_times, finer[2][place] * rules.finer_times
        low, close = finer[3][place] * rules.finer_times, finer[4][place] * rules.finer_times
        met, counted, is_late = open_, stop, False
        is_taken = limit != NONE and (high >= limit if sells else low <= limit)
        is_stopped = stop != NONE and (low <= stop if sells else high >= stop)
        if not has_entered:
            is_hit, ticks, has_rested = reach_entry(side, order_limit, order_stop, open_, high, low, close)
            if not is_hit:
                if has_rested:
                    order_stop = NONE
                continue
            has_entered, met = True, min(ticks, paid) if sells else max(ticks, paid)
            is_late = ticks != open_ if order_stop == NONE else has_rested
            is_inside = order_stop != NONE and (order_stop - open_) * side > 0
            is_shown = limit != NONE and (close >= limit if sells else close <= limit)
            is_open = (is_taken and is_late and not is_shown) or (is_stopped and is_inside)
            is_taken = is_taken and (not is_late or is_shown)
            if is_inside and stop != NONE:
                may_fill, met = stop_after_trigger(stop, met, open_, close, side)
                counted = stop if may_fill else NONE
        best = close if is_late else high if sells else low
        leg, ticks, _ = leg_hit(counted, limit, sells, met, best, high, low)
        if leg != 0:
            is_met_stopped = stop != NONE and (met <= stop if sells else met >= stop)
            state[READ_LEG], state[READ_TICKS] = leg, ticks
            return True, is_open or is_unclear(is_stopped, is_taken, is_met_stopped, leg == 2)
    return has_entered, is_open


def fill_waiting(
    state: Ints,
    fills: Ints,
    trades: Ints,
    denied: Ints,
    legs: Ints,
    rules: KernelRules,
    bar: int,
    open_: int,
    high: int,
    low: int,
    close: int,
    time_ns: int,
    finer: tuple[Ints, ...],
) -> None:
    """Match the entry's order that rests with a bar, and place its protection when it fills."""
    side, limit, stop = state[WAITING], state[WAITING_LIMIT], state[WAITING_STOP]
    is_hit, ticks, has_rested = reach_entry(side, limit, stop, open_, high, low, close)
    if not is_hit:
        if has_rested:
            state[WAITING_STOP] = NONE
        return
    state[WAITING] = 0
    decided, lots, number = state[WAITING_DECIDED], state[WAITING_LOTS], state[FILLS]
    is_limit, is_inside = stop == NONE or has_rested, ticks != open_ or has_rested
    is_maker = is_limit and (is_inside or bar > decided + 1)
    is_more = state[ENTRIES] > 0
    book(state, fills, trades, rules, bar, side, lots, ticks, high - low, ENTRY_ROLE, is_maker, limit, is_more)
    if state[STATUS] != DONE or deny_unpaid(state, denied, decided, side, lots):
        return
    fills[number, DECIDED] = decided
    state[ENTRIES] += 1
    stop_loss, take_profit, trail = state[WAITING_STOP_LOSS], state[WAITING_TAKE_PROFIT], state[WAITING_TRAIL]
    is_late = is_limit and is_inside
    is_unclear = stop != NONE and (stop - open_) * side > 0
    state[INSIDE], state[INSIDE_MET], state[INSIDE_TRIGGERED] = bar, ticks, 1 if is_unclear else 0
    levels = (stop_loss, take_profit, trail, is_late, is_unclear)
    is_new = place_legs(state, legs, rules, bar, ticks, side, *levels, decided, lots)
    if is_new and (is_late or is_unclear):
        is_read, is_open = read_entry(state, rules, finer, time_ns, side, limit, stop, ticks, open_, high, low, close)
        if is_read:
            state[READ_BAR] = bar + 1
            state[UNCLEAR] += 1 if is_open else 0
            return
    if is_new and is_unclear and stop_loss != NONE and is_open_behind(stop_loss, ticks, open_, side):
        state[UNCLEAR] += 1
    elif is_new and is_late and take_profit != NONE:
        is_taken = high >= take_profit if side > 0 else low <= take_profit
        is_shown = close >= take_profit if side > 0 else close <= take_profit
        state[UNCLEAR] += 1 if is_taken and not is_shown else 0


def fill_legs(
    state: Ints,
    fills: Ints,
    trades: Ints,
    legs: Ints,
    rules: KernelRules,
    bar: int,
    open_: int,
    high: int,
    low: int,
    close: int,
    move: float,
    time_ns: int,
    finer: tuple[Ints, ...],
) -> None:
    """Fill the protection when a bar reaches it, each entry's leg apart, as one trade; else move its stop by the close,
    or to `move` (NaN: it stays). In the bar in which the first entry filled they meet its price, not the open."""
    stop, limit, sells = state[GUARD_STOP], state[GUARD_LIMIT], state[GUARD_SELLS] == 1
    is_own = bar == state[GUARD_SINCE]
    met, best = state[GUARD_MET] if is_own else open_, high if sells else low
    if is_own and state[GUARD_LATE] == 1:
        best = close
    counted, is_unclear = stop, is_own and state[GUARD_UNCLEAR] == 1
    if is_unclear and stop != NONE:
        side = 1 if sells else -1
        may_fill, first = stop_after_trigger(stop, met, open_, close, side)
        is_unclear = not is_open_behind(stop, met, open_, side)  # else it is counted
        counted, met = stop if may_fill else NONE, first
    leg, ticks, has_both = leg_hit(counted, limit, sells, met, best, high, low)
    if bar + 1 == state[READ_BAR]:
        leg, ticks, has_both, is_unclear = state[READ_LEG], state[READ_TICKS], False, False
    elif has_both and not is_unclear and not (is_own and state[GUARD_LATE] + state[GUARD_UNCLEAR] > 0):
        leg, ticks, has_both = inside_hit(rules, finer, time_ns, is_own, met, stop, limit, sells, ticks)
    if leg == 0:
        if stop != NONE:
            state[GUARD_STOP] = nearer_stop(stop, sells, state[GUARD_TRAIL], move, close, rules)
            if abs(state[GUARD_STOP]) == FAR:
                state[STATUS] = OVERFLOW
        return
    if leg == 1 and (has_both or is_unclear):
        state[UNCLEAR] += 1
    state[GUARD] = 0
    count, is_newest = state[LEGS], bar == state[GUARD_NEWEST]
    first_at = state[FIRST_BEFORE] if is_newest else state[FIRST_AT]
    is_more = False
    for place in range(count):
        number = place + 1 if place < first_at else 0 if place == first_at else place
        part = legs[number, PART]
        if is_newest and number < count - 1:
            part = legs[number, PART_BEFORE]
        lots = leg_lots(state, rules, part, sells)
        if lots == 0:
            continue
        role, side, fill = STOP_ROLE if leg == 1 else LIMIT_ROLE, -1 if sells else 1, state[FILLS]
        book(state, fills, trades, rules, bar, side, lots, ticks, high - low, role, leg == 2, NONE, is_more)
        if state[STATUS] != DONE:
            return
        fills[fill, DECIDED] = legs[number, LEG_DECIDED]
        is_more = True
    state[ENTRIES] = 0


def close_by_force(
    state: Ints, fills: Ints, trades: Ints, rules: KernelRules, bar: int, open_: int, high: int, low: int, close: int
) -> bool:
    """Close all that is held by force when a bar reaches that price first; an entry's order that rests ends with it.
    Return whether it did."""
    stop, limit, met, best = NONE, NONE, open_, high if state[POSITION] > 0 else low
    first, is_behind = open_, False
    if bar == state[INSIDE]:
        first = state[INSIDE_MET]
        if state[INSIDE_TRIGGERED] == 1 and state[LIQUIDATION] != NONE:
            side = 1 if state[POSITION] > 0 else -1
            is_behind = is_open_behind(state[LIQUIDATION], first, open_, side)
            may_close, first = stop_after_trigger(state[LIQUIDATION], first, open_, close, side)
            if not may_close:
                return False
    if state[GUARD] != 0:
        stop, limit = state[GUARD_STOP], state[GUARD_LIMIT]
        if bar == state[GUARD_SINCE]:
            met, best = state[GUARD_MET], close if state[GUARD_LATE] == 1 else best
    is_forced, ticks, is_open = liquidates(state, stop, limit, met, best, first, high, low)
    if not is_forced:
        return False
    state[UNCLEAR] += 1 if is_open or is_behind else 0
    fill = state[FILLS]
    liquidate(state, fills, trades, rules, bar, ticks, high - low)
    fills[fill, DECIDED] = bar
    state[WAITING], state[ENTRIES] = 0, 0
    return True


ORDERS_HELPERS: tuple[Callable[..., Any], ...] = (
    reach_entry,
    place_legs,
    shrink_legs,
    read_entry,
    fill_waiting,
    fill_legs,
    close_by_force,
)


def make_walk(version: int) -> Callable[..., int]:
    """Return the walk. `version`: as `fks.research.backtest.kernel_walk.make_walk`."""

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

        Arguments as those of the walk of `kernel_walk`, where `wanted_by` also has limits and stops of entries, and
        `tables` space for the legs of one protection. The target is a valid number of entries everywhere.
        """
        time_ns, open_, high, low, close = tape[:5]
        finer = tape[5:]
        target, stops, limits, trails, moves, entry_limits, entry_stops = wanted_by
        volatilities, shares = sized_by
        day_first, day_start_ns = days
        fills, trades, denied, legs = tables
        count, first = len(close), rules.first
        state[CASH], state[LIQUIDATION] = rules.cash, NONE
        state[STATUS] = DONE * version
        capacity = min(len(fills), len(trades), len(denied)) - len(legs) - 3  # the most rows that a bar adds
        has_stops, has_limits, has_trails = len(stops) > 0, len(limits) > 0, len(trails) > 0
        has_entry_limits, has_entry_stops = len(entry_limits) > 0, len(entry_stops) > 0
        tracks_loss = rules.loss_max < FAR
        before, opened = 0.0, first  # the target, and the bar that decided the position's first entry
        held_cash, worth = rules.cash, 0  # at the bar's close, before what is decided on it
        start_cash, start_worth, lowest, day = held_cash, 0, FAR, 0
        due = 0  # the next cash flow
        for bar in range(first, count):
            if bar == day_first[day]:
                while day_first[day] == bar:
                    day += 1
                start_cash, start_worth, lowest = held_cash, worth, FAR
                state[DAY_REACHED] = 0
            if max(state[FILLS], state[DENIED]) > capacity:
                state[STATUS] = TABLE_FULL
                return bar
            if state[WAITING] != 0 or state[GUARD] != 0 or state[LIQUIDATION] != NONE:
                cash, filled = state[CASH], state[FILLS]
                ohlc = (open_[bar], high[bar], low[bar], close[bar])
                if state[WAITING] != 0:
                    fill_waiting(state, fills, trades, denied, legs, rules, bar, *ohlc, time_ns[bar], finer)
                is_over = False
                if state[LIQUIDATION] != NONE and state[STATUS] == DONE:
                    is_over = close_by_force(state, fills, trades, rules, bar, *ohlc)
                if state[GUARD] != 0 and not is_over:
                    is_moved = len(moves) > 0 and (target[bar] > 0.0) == (state[GUARD_SELLS] == 1)
                    move = moves[bar] if is_moved else np.nan
                    fill_legs(state, fills, trades, legs, rules, bar, *ohlc, move, time_ns[bar], finer)
                if tracks_loss and state[FILLS] != filled:
                    cut(state, rules, start_worth, start_cash, lowest, cash)
                    lowest = FAR
                if state[STATUS] != DONE:
                    return bar
            held_cash = state[CASH]
            worth = close[bar] * state[POSITION] * rules.multiplier
            lowest = min(lowest, worth)
            equity[bar - first] = float(held_cash) / float(rules.cash_scale) + float(worth) / float(rules.worth_scale)
            if tracks_loss and state[WAITING] != 0 and time_ns[bar] + rules.bar_ns < day_start_ns[day]:
                cut(state, rules, start_worth, start_cash, lowest, held_cash)
                lowest = FAR
                if state[STATUS] != DONE:
                    return bar
                if state[DAY_REACHED] != 0:
                    state[WAITING] = 0
            if bar + 1 == flows[due, FLOW_BAR] and bar + 1 < count:
                is_paid = False
                while flows[due, FLOW_BAR] == bar + 1:
                    if pay_flow(state, paid, rules, flows, due):
                        is_paid = True
                    due += 1
                if is_paid and tracks_loss:
                    cut(state, rules, start_worth, start_cash, lowest, held_cash)
                    lowest = FAR
                if state[STATUS] != DONE:
                    return bar
            wanted = target[bar]
            if wanted == before or bar + 1 == count:
                continue
            is_other = before * wanted <= 0.0
            if is_other:
                opened = bar
            filled, span = state[FILLS], high[bar + 1] - low[bar + 1]
            is_more = not is_other and abs(wanted) > abs(before)
            parts = closed_parts(before, wanted)
            if wanted != 0.0:
                mark(state, rules, close[bar])
            if parts > 0 and state[STATUS] == DONE:
                state[WAITING] = 0
                state[ENTRIES] = 0 if is_other else state[ENTRIES]
                leave(state, fills, trades, denied, rules, bar, parts, close[bar], open_[bar + 1], span)
                if state[FILLS] != filled:
                    fills[filled, DECIDED] = bar
                    if state[GUARD] == 1 and (state[GUARD_SELLS] == 1) == (fills[filled, SIDE] < 0):
                        shrink_legs(state, legs)
            before = wanted
            enters = (wanted != 0.0 and is_other) or (is_more and state[ENTRIES] > 0)
            is_next_day = time_ns[bar] + rules.bar_ns >= day_start_ns[day]
            if tracks_loss and not is_next_day and (enters or state[FILLS] != filled):
                cut(state, rules, start_worth, start_cash, lowest, held_cash)
                lowest = FAR
            if enters and state[STATUS] == DONE:
                side = 1 if wanted > 0.0 else -1
                stop, limit, trail, order_limit, order_stop = NONE, NONE, NONE, NONE, NONE
                if has_stops:
                    stop = level_ticks(stops[opened], rules.tick, rules.price_scale, side < 0)
                if has_limits:
                    limit = level_ticks(limits[opened], rules.tick, rules.price_scale, side > 0)
                if has_trails:
                    trail = level_ticks(trails[opened], rules.tick, rules.price_scale, True)
                if has_entry_limits:
                    order_limit = level_ticks(entry_limits[bar], rules.tick, rules.price_scale, side < 0)
                if has_entry_stops:
                    order_stop = level_ticks(entry_stops[bar], rules.tick, rules.price_scale, side > 0)
                if max(max(stop, limit), max(trail, max(order_limit, order_stop))) == FAR:
                    state[STATUS] = OVERFLOW
                    return bar
                if (order_limit != NONE and order_limit <= 0) or (order_stop != NONE and order_stop <= 0):
                    state[STATUS] = NOT_COVERED
                    return bar
                if is_more and state[GUARD] == 1:
                    stop = state[GUARD_STOP]
                at = entry_price(close[bar], order_limit, order_stop)
                if float(at) * float(rules.lot) * float(rules.multiplier) >= FAR:
                    state[STATUS] = OVERFLOW
                    return bar
                if stop == NONE and trail != NONE:
                    stop = behind(at, trail, side, rules.tick)
                loss = 0 if is_next_day else state[DAY_REACHED]
                volatility = volatilities[bar] if rules.sizing == OF_VOLATILITY else -1
                share = shares[bar] if len(shares) > 0 else WHOLE
                entries, number = state[ENTRIES], state[FILLS]
                prices = (close[bar], order_limit, order_stop, stop, limit)
                lots = entry_lots(state, denied, rules, bar, side, *prices, loss, volatility, share, entries)
                if lots >= 0 and (order_limit != NONE or order_stop != NONE):
                    state[WAITING] = side
                    state[WAITING_LOTS] = lots
                    state[WAITING_LIMIT] = order_limit
                    state[WAITING_STOP] = order_stop
                    state[WAITING_DECIDED] = bar
                    state[WAITING_STOP_LOSS] = stop
                    state[WAITING_TAKE_PROFIT] = limit
                    state[WAITING_TRAIL] = trail
                elif lots >= 0 and expires(state, rules, side, close[bar], open_[bar + 1], span, stop, limit):
                    levels_of = (stop, limit, loss, lots, order_limit, order_stop, entries)
                    deny(state, denied, bar, side, EXPIRED, *levels_of)
                elif lots >= 0:
                    at_open = (open_[bar + 1], span)
                    more = entries > 0
                    book(state, fills, trades, rules, bar + 1, side, lots, *at_open, ENTRY_ROLE, False, NONE, more)
                    if not deny_unpaid(state, denied, bar, side, lots):
                        fills[number, DECIDED] = bar
                        state[ENTRIES] = entries + 1
                        levels = (stop, limit, trail, False, False)
                        place_legs(state, legs, rules, bar + 1, open_[bar + 1], side, *levels, bar, lots)
            if state[STATUS] != DONE:
                return bar
        if rules.closes_at_end:
            last, filled = count - 1, state[FILLS]
            close_at_end(state, fills, trades, rules, last, close[last], high[last] - low[last], equity)
            if state[FILLS] != filled:
                fills[filled, DECIDED] = last - 1
        return count

    return walk
