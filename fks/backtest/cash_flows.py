"""Dividends and funding on a tape: the bar of each event, and its amount for the position. Pure.

An event is booked at the first bar that begins at or after it, before that bar's fills, on the position that is carried
into the bar (docs/backtest.md#dividends-and-funding). An event up to the bar of the first possible fill, or after the
last bar, moves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import pairwise
from math import gcd

import numpy as np

from fks.backtest.rows import Setup
from fks.backtest.units import Units, divide_half_even
from fks.bars.splits import day_starts_ns
from fks.model.bar import Bars, Ints
from fks.model.cash_flows import Dividend, FundingRate, is_perpetual
from fks.model.decimals import plain
from fks.model.errors import InputError
from fks.model.timeframe import NS, bar_end, iso

_MONEY = 8  # places to which a cash flow is rounded, half-even, as fees are
_DAY_NS = 86_400 * NS
#: a delisting so long after the last bar or less is in the run: markets close for holidays
_DELISTED_DAYS = 7
#: the longest time between two funding times, or between one and an end of the run. Exchanges have 1 to 8 hours
_FUNDING_GAP_NS = _DAY_NS


@dataclass(frozen=True, slots=True)
class FlowPlan:
    """Cash flows of a run, in order of their bars. A unit of the position's grid moves times / over of 1e-8 quote."""

    bar: tuple[int, ...] = ()
    times: tuple[int, ...] = ()
    over: tuple[int, ...] = ()
    events: tuple[Dividend | FundingRate, ...] = ()

    def __len__(self) -> int:
        return len(self.bar)

    def amount(self, number: int, position: int) -> int:
        """Return what an event brings in for a position, in 1e-8 quote; negative = paid."""
        return divide_half_even(position * self.times[number], self.over[number])


def placed(bars: Bars, first: int, setup: Setup) -> list[tuple[int, int, Dividend | FundingRate]]:
    """Return the events that a run can book: index of the bar, time (ns) and event, in the order of booking."""
    events = setup.events
    if not (events.dividends or events.funding):
        return []
    timed: list[tuple[int, Dividend | FundingRate]] = [
        *((day_starts_ns(bars, one.day), one) for one in sorted(events.dividends)),
        *((one.time_ns, one) for one in sorted(events.funding, key=lambda one: one.time_ns)),
    ]
    at = np.searchsorted(bars.time_ns, np.array([time_ns for time_ns, _ in timed], dtype=np.int64)).tolist()
    found = [
        (index, time_ns, one) for index, (time_ns, one) in zip(at, timed, strict=True) if first + 1 < index < len(bars)
    ]
    return sorted(found, key=lambda row: row[:2])


def plan_flows(bars: Bars, first: int, setup: Setup, units: Units, close: Ints) -> FlowPlan:
    """Return the cash flows of a run. `close`: of the bars, on the grid of `units`.

    A dividend is of a share of its ex-day: in shares of the bars it is divided by the splits after it. Funding without
    a mark price takes the close before the bar that books it.
    """
    found = placed(bars, first, setup)
    if not found:
        return FlowPlan()
    held, rows = 10**units.quantity, []
    multiplier = _fraction(setup.instrument.multiplier)
    for index, time_ns, event in found:
        if isinstance(event, Dividend):
            times, over = _fraction(event.amount)
            for split in bars.splits:
                if split.time_ns > time_ns:
                    times, over = times * split.old, over * split.new
        else:
            price = (int(close[index - 1]), 10**units.price) if event.mark is None else _fraction(event.mark)
            rate = _fraction(event.rate)
            times, over = -rate[0] * price[0] * multiplier[0], rate[1] * price[1] * multiplier[1]
        times, over = times * 10**_MONEY, over * held
        common = gcd(times, over)
        rows.append((index, times // common, over // common, event))
    bar, many, parts, events = zip(*rows, strict=True)
    return FlowPlan(bar, many, parts, events)


def delisted_from(bars: Bars, day: date | None) -> int | None:
    """Return the index of the first bar that a delisted instrument cannot have, `len(bars)` where its last bar is the
    end of the tape; None where the delisting is after the run."""
    if day is None or not len(bars):
        return None
    day_ns = day_starts_ns(bars, day)
    if day_ns > bar_end(int(bars.time_ns[-1]), bars.timeframe) + _DELISTED_DAYS * _DAY_NS:
        return None
    return int(np.searchsorted(bars.time_ns, day_ns))


def fingerprint_of(bars: Bars, first: int, setup: Setup) -> dict[str, object]:
    """Return the events that decide a run's result as JSON-able values; nothing where the run has none."""
    rows = [
        [iso(time_ns), "dividend", plain(one.amount)]
        if isinstance(one, Dividend)
        else [iso(time_ns), "funding", plain(one.rate), None if one.mark is None else plain(one.mark)]
        for _, time_ns, one in placed(bars, first, setup)
    ]
    delisted = setup.events.delisted
    is_over = delisted_from(bars, delisted) is not None
    return {
        **({"cash_flows": rows} if rows else {}),
        **({"delisted": str(delisted)} if is_over else {}),
    }


def ensure_events(bars: Bars, first: int, setup: Setup) -> None:
    """Refuse dividends in another currency than the bars' prices, and a perpetual whose funding is not known over the
    run. Errors: InputError EVENT_CURRENCY, FUNDING_MISSING."""
    quote = setup.instrument.quote
    for _, time_ns, one in placed(bars, first, setup):
        if isinstance(one, Dividend) and one.currency not in ("", quote):
            raise InputError(
                f"the dividend of {bars.symbol} on {iso(time_ns)[:10]} is in {one.currency}, its prices are in {quote}",
                code="EVENT_CURRENCY",
                status=422,
                remedy=f"import it in {quote}, at the rate of the day",
            )
    if setup.events.is_funding_left_out or not (setup.events.funding or is_perpetual(bars.exchange, bars.symbol)):
        return
    gap = _funding_gap([one.time_ns for one in setup.events.funding], bars, first)
    if gap is not None:
        raise InputError(
            f"{bars.symbol} is a perpetual, and no funding rate is known from {iso(gap[0])} to {iso(gap[1])}",
            code="FUNDING_MISSING",
            status=422,
            remedy=f"load it ('fks data sync-events --symbol {bars.symbol}', 'fks data import-events FILE'), or run "
            "without it: --funding none, in Python InstrumentEvents(is_funding_left_out=True)",
        )


def _funding_gap(times: Sequence[int], bars: Bars, first: int) -> tuple[int, int] | None:
    """Return a part of the run, from its first fill to its last bar, over which no funding time is known."""
    start_ns, end_ns = int(bars.time_ns[first + 1]), int(bars.time_ns[-1])
    inside = sorted(time_ns for time_ns in times if start_ns <= time_ns <= end_ns)
    edges = [start_ns, *inside, end_ns]
    for before, after in pairwise(edges):
        if after - before > _FUNDING_GAP_NS:
            return before, after
    before_ns = max((time_ns for time_ns in times if time_ns <= start_ns), default=None)
    if not inside and (before_ns is None or end_ns - before_ns > _FUNDING_GAP_NS):
        return start_ns, end_ns
    return None


def _fraction(value: Decimal) -> tuple[int, int]:
    return value.as_integer_ratio()
