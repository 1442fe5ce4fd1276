"""Stops that closes move: the rule of backtests (`fks.trading.matching`, clauses 8 and 10) on an entry of the journal.
Pure.

The stop loss of the entry is the state: it moves by the event `StopMoved`, only nearer to the market, and its legs
follow by the ordinary rules of protection. So a restart goes on from the row, and a bar that
comes twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from fks.model.instrument import Instrument, distance_of
from fks.model.order import Order
from fks.model.parent import ParentPlan, break_even_stop, is_at_risk_multiple, plan_on_grid
from fks.trading.matching import behind


def stop_of(entries: Sequence[Order]) -> Decimal | None:
    """Return the stop that all entries of a position have: the one nearest to the market; None without any."""
    return nearest([entry.stop_loss for entry in entries if entry.stop_loss is not None], entries[0].side.sign)


def nearest(stops: Sequence[Decimal], sign: int) -> Decimal | None:
    """Return the stop that is nearest to the market of a long position (`sign` 1) or a short one (-1); None of none."""
    if not stops:
        return None
    return max(stops) if sign > 0 else min(stops)


def moved_stop(
    entries: Sequence[Order],
    best_close: Decimal | None,
    trail: Decimal | None,
    instrument: Instrument,
    plan: ParentPlan | None = None,
) -> Decimal | None:
    """Return where the stop of a position of `entries` is after bars whose best close (highest of a long, lowest of a
    short) is `best_close`; None = no bar ended since, so that only the entries' own stops count. `plan`: of the only
    entry, whose stop goes to break-even once such a close has come far enough."""
    stop, entry = stop_of(entries), entries[0]
    if best_close is None:
        return stop
    sign, stops, average = entry.side.sign, [] if stop is None else [stop], entry.average_price
    if trail is not None:
        stops.append(behind(best_close, distance_of(trail, instrument.tick), sign, instrument.tick))
    if plan is not None and plan.break_even is not None and average is not None:
        on_grid = plan_on_grid(plan, entry.side.opposite.value, instrument)
        if is_at_risk_multiple(best_close, average, sign, on_grid):
            stops.append(break_even_stop(average, sign, plan.break_even, instrument))
    return nearest(stops, sign)


def is_below_step(entries: Sequence[Order], stop: Decimal, step_pct: Decimal) -> bool:
    """Return whether a move of the position's stop to `stop` is smaller than `step_pct` percent of where it is."""
    now = stop_of(entries)
    return now is not None and 0 < (stop - now) * entries[0].side.sign < now * step_pct / 100


def at_other_targets(entries: Sequence[Order], take_profit: Decimal) -> list[Order]:
    """Return the entries whose take profit is not at `take_profit`."""
    return [entry for entry in entries if entry.take_profit not in (None, take_profit)]


def left_behind(entries: Sequence[Order], stop: Decimal) -> list[Order]:
    """Return the entries whose stop loss is farther from the market than `stop`."""
    return [e for e in entries if e.stop_loss is not None and (stop - e.stop_loss) * e.side.sign > 0]
