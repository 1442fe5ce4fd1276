"""Dividends, funding and borrow on a tape: the bar of each event, and its amount for the position or the cash; the bars
at which the margin changes. Pure.

An event is booked at the first bar that begins at or after it, before that bar's fills, on the position that is carried
into the bar (docs/backtest.md#dividends-and-funding). An event up to the bar of the first possible fill, or after the
last bar, moves nothing. Borrow and interest on cash below 0 are events of each day's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import IntEnum
from itertools import pairwise
from math import gcd

import numpy as np

from fks.market.bars.splits import day_starts_ns, days_of
from fks.model.bar import Bars, Ints
from fks.model.calendars import Bools, overnight
from fks.model.cash_flows import Dividend, FundingRate, is_perpetual
from fks.model.decimals import plain
from fks.model.errors import unprocessable
from fks.model.margin import Margin
from fks.model.timeframe import NS, iso
from fks.research.backtest.rows import Setup
from fks.research.backtest.units import Units, divide_half_even

_MONEY = 8  # places to which a cash flow is rounded, half-even, as fees are
_DAY_NS = 86_400 * NS
_YEAR_DAYS = 360  # of borrow and interest
#: a delisting so long after the last bar or less is in the run: markets close for holidays
_DELISTED_DAYS = 7
#: the longest time between two funding times, or between one and an end of the run. Exchanges have 1 to 8 hours
_FUNDING_GAP_NS = _DAY_NS


class FlowBase(IntEnum):
    """The amount that a cash flow is a share of: the position, that of it which is short, or cash below 0."""

    POSITION = 0
    SHORT = 1
    DEBIT = 2


@dataclass(frozen=True, slots=True)
class Accrual:
    """Borrow of a short position, or interest on cash below 0, at a yearly rate over some nights."""

    rate: Decimal
    nights: int
    base: FlowBase

    @property
    def kind(self) -> str:
        return "borrow" if self.base is FlowBase.SHORT else "interest"


Event = Dividend | FundingRate | Accrual


@dataclass(frozen=True, slots=True)
class FlowPlan:
    """Cash flows of a run, in order of their bars: bar, times, over and base of each. A unit of the position's grid, or
    of the cash's, moves times / over of 1e-8 quote."""

    rows: tuple[tuple[int, int, int, FlowBase], ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def bar(self, number: int) -> int:
        """Return the index of the bar that books a cash flow."""
        return self.rows[number][0]

    def amount(self, number: int, position: int, cash: int) -> int:
        """Return what an event brings in, in 1e-8 quote; negative = paid."""
        _, times, over, base = self.rows[number]
        of = min(cash, 0) if base is FlowBase.DEBIT else min(position, 0) if base is FlowBase.SHORT else position
        return divide_half_even(of * times, over)


def placed(bars: Bars, first: int, setup: Setup) -> list[tuple[int, int, Event]]:
    """Return the events that a run can book: index of the bar, time (ns) and event, in the order of booking."""
    events = setup.events
    if not (events.dividends or events.funding or setup.borrow):
        return []
    timed: list[tuple[int, Event]] = [
        *((day_starts_ns(bars, one.day), one) for one in sorted(events.dividends)),
        *((one.time_ns, one) for one in sorted(events.funding, key=lambda one: one.time_ns)),
    ]
    at = np.searchsorted(bars.time_ns, np.array([time_ns for time_ns, _ in timed], dtype=np.int64)).tolist()
    found = [(index, time_ns, one) for index, (time_ns, one) in zip(at, timed, strict=True)]
    found = _accruals(bars, setup) + found
    return sorted((row for row in found if first + 1 < row[0] < len(bars)), key=lambda row: row[:2])


def _accruals(bars: Bars, setup: Setup) -> list[tuple[int, int, Event]]:
    """Return the borrow and the interest of each day's end, at the first bar of the next day: of a Friday three
    nights."""
    rates = ((setup.borrow.short, FlowBase.SHORT), (setup.borrow.debit, FlowBase.DEBIT))
    if not setup.borrow:
        return []
    nights = np.diff(days_of(bars))
    return [
        (index + 1, bars.ended_ns(index), Accrual(rate, int(nights[index]), base))
        for index in np.flatnonzero(nights > 0).tolist()
        for rate, base in rates
        if rate
    ]


def plan_flows(bars: Bars, first: int, setup: Setup, units: Units, close: Ints) -> FlowPlan:
    """Return the cash flows of a run. `close`: of the bars, on the grid of `units`.

    A dividend is of a share of its ex-day: in shares of the bars it is divided by the splits after it. Funding without
    a mark price, and borrow, take the close before the bar that books them.
    """
    found = placed(bars, first, setup)
    if not found:
        return FlowPlan()
    rows = []
    multiplier = _fraction(setup.instrument.multiplier)
    for index, time_ns, event in found:
        base = event.base if isinstance(event, Accrual) else FlowBase.POSITION
        if isinstance(event, Dividend):
            times, over = _fraction(event.amount)
            for split in bars.splits:
                if split.time_ns > time_ns:
                    times, over = times * split.old, over * split.new
        else:
            times, over = _fraction(event.rate)
            mark = event.mark if isinstance(event, FundingRate) else None
            price = (int(close[index - 1]), 10**units.price) if mark is None else _fraction(mark)
            if isinstance(event, Accrual):
                times, over = times * event.nights, over * _YEAR_DAYS
            if base is not FlowBase.DEBIT:
                times, over = times * price[0] * multiplier[0], over * price[1] * multiplier[1]
            times *= -1 if isinstance(event, FundingRate) else 1
        times, over = times * 10**_MONEY, over * 10 ** (units.cash if base is FlowBase.DEBIT else units.quantity)
        common = gcd(times, over)
        rows.append((index, times // common, over // common, base))
    return FlowPlan(tuple(rows))


def overnight_bars(bars: Bars, margin: Margin | None) -> Bools | None:
    """Return for each bar whether the overnight margin is in force: from so many minutes before the end of a trading
    day of the calendar until the next one begins. None for a margin without one.

    Errors: InputError MARGIN_SESSIONS where the market never closes, or a bar holds that moment inside it.
    """
    if margin is None or margin.overnight is None:
        return None
    found = overnight(bars.calendar, bars.time_ns, bars.ends_ns, margin.overnight_minutes)
    if found is None:
        raise unprocessable(
            "MARGIN_SESSIONS",
            f"{bars.symbol}: its {bars.timeframe} bars by the calendar {bars.calendar} do not show when the overnight "
            f"margin begins, {margin.overnight_minutes} minutes before the end of a session",
            "give shorter bars, of a market that closes, or a margin without 'overnight'",
        )
    return found


def margin_changes(bars: Bars, first: int, margin: Margin | None) -> list[tuple[int, bool]]:
    """Return the bars of a run from which on another margin is in force, and whether it is the overnight one. Errors:
    as `overnight_bars`."""
    found = overnight_bars(bars, margin)
    if found is None:
        return []
    rows = np.flatnonzero(np.diff(found[first + 1 :], prepend=False)) + first + 1
    return [(row, bool(found[row])) for row in rows.tolist()]


def delisted_from(bars: Bars, day: date | None) -> int | None:
    """Return the index of the first bar that a delisted instrument cannot have, `len(bars)` where its last bar is the
    end of the tape; None where the delisting is after the run."""
    if day is None or not len(bars):
        return None
    day_ns = day_starts_ns(bars, day)
    if day_ns > bars.ended_ns(-1) + _DELISTED_DAYS * _DAY_NS:
        return None
    return int(np.searchsorted(bars.time_ns, day_ns))


def closes_at_end(bars: Bars, setup: Setup) -> bool:
    """Return whether what is held at the end of the last bar is closed at its close: by the setup, or since the
    instrument is delisted."""
    return setup.is_closed_at_end or delisted_from(bars, setup.events.delisted) is not None


def fingerprint_of(bars: Bars, first: int, setup: Setup) -> dict[str, object]:
    """Return the events that decide a run's result as JSON-able values; nothing where the run has none."""
    rows = [
        [iso(time_ns), "dividend", plain(one.amount)]
        if isinstance(one, Dividend)
        else [iso(time_ns), "funding", plain(one.rate), None if one.mark is None else plain(one.mark)]
        for _, time_ns, one in placed(bars, first, setup)
        if not isinstance(one, Accrual)
    ]
    delisted = setup.events.delisted
    is_over = delisted_from(bars, delisted) is not None
    return {
        **({"cash_flows": rows} if rows else {}),
        **({"delisted": str(delisted)} if is_over else {}),
    }


def ensure_events(bars: Bars, first: int, setup: Setup) -> None:
    """Refuse dividends in another currency than the bars' prices, borrow of a contract, and a perpetual whose funding
    is not known over the run. Errors: InputError EVENT_CURRENCY, BORROW_CONTRACT, FUNDING_MISSING."""
    quote = setup.instrument.quote
    if setup.borrow:
        ensure_borrowed(bars, setup)
    for _, time_ns, one in placed(bars, first, setup):
        if isinstance(one, Dividend) and one.currency not in ("", quote):
            raise unprocessable(
                "EVENT_CURRENCY",
                f"the dividend of {bars.symbol} on {iso(time_ns)[:10]} is in {one.currency}, its prices are in {quote}",
                f"import it in {quote}, at the rate of the day",
            )
    if setup.events.is_funding_left_out or not _is_swap(bars, setup):
        return
    gap = _funding_gap([one.time_ns for one in setup.events.funding], bars, first)
    if gap is not None:
        raise unprocessable(
            "FUNDING_MISSING",
            f"{bars.symbol} is a perpetual, and no funding rate is known from {iso(gap[0])} to {iso(gap[1])}",
            f"load it ('fks data sync-events --symbol {bars.symbol}', 'fks data import-events FILE'), or run "
            "without it: --funding none, in Python InstrumentEvents(is_funding_left_out=True)",
        )


def ensure_borrowed(bars: Bars, setup: Setup) -> None:
    """Refuse a contract, which is neither borrowed nor paid in full. Errors: InputError BORROW_CONTRACT."""
    if setup.instrument.is_contract or _is_swap(bars, setup):
        raise unprocessable(
            "BORROW_CONTRACT",
            f"{bars.symbol} is a contract: neither it nor its value is borrowed, so that nothing can be charged for it",
            "leave borrow out, or run the members that are no contracts apart; a perpetual pays funding",
        )


def _is_swap(bars: Bars, setup: Setup) -> bool:
    return bool(setup.events.funding) or is_perpetual(bars.exchange, bars.symbol)


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
