"""Splits of shares: raw bars in the shares of their end, and jumps of the price that look like a split. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

import numpy as np

from fks.bars.calendars import ALWAYS, midnight_ns
from fks.model.bar import SPLIT_PLACES, Bars, Floats, Ints, ShareSplit
from fks.model.errors import InputError
from fks.model.timeframe import TIMEFRAMES, bar_end, iso

_DAY_S = 86_400
_RATIO = re.compile(r"([1-9]\d{0,5})(?::([1-9]\d{0,5}))?")
#: calendars of markets that trade no shares
_NO_SHARES = frozenset(
    (
        ALWAYS,
        "24/5",
        "CBOT",
        "CFE",
        "CME",
        "CMES",
        "COMEX",
        "ICE",
        "ICEUS",
        "IEPA",
        "NYFE",
        "NYMEX",
        "XCBF",
        "us_futures",
    )
)
#: new shares for one, as splits have them; reverse ones from 2 on
_LIKELY = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 50.0)
#: by how much the price may move in the night of a split. AAPL: 2.2 % on 2020-08-31; its fall of 2000-09-29, by 47 %,
#: is 4.9 % off a split of 2 for 1
_MOVE = 0.04


@dataclass(frozen=True, slots=True, order=True)
class SplitDay:
    """A split on the day on which its market first trades the new shares: `new` for each `old` one. 1 for 1 says that
    the price only moved."""

    day: date
    new: int
    old: int = 1

    @property
    def ratio(self) -> str:
        return f"{self.new}:{self.old}"


def split_day(day: str, ratio: str) -> SplitDay:
    """Return the split that a day (2020-08-31) and a ratio (4, 4:1, 3:2, 1:10) name. Errors: InputError SPLIT_WRONG."""
    found = _RATIO.fullmatch(ratio.strip())
    try:
        when = date.fromisoformat(day.strip())
    except ValueError:
        found = None
    if found is None:
        raise InputError(
            f"{day}={ratio} is no split",
            code="SPLIT_WRONG",
            status=422,
            remedy="give the first day of the new shares, and the new ones for each old one: 2020-08-31=4:1; ten that "
            "became one are 1:10",
        )
    return SplitDay(when, int(found[1]), int(found[2] or 1))


def adjusted(bars: Bars, splits: Iterable[SplitDay], *, until_ns: int | None = None) -> Bars:
    """Return raw bars in the shares of their end, or of `until_ns`: prices before a split divided by its ratio, to 8
    decimal places, and volumes multiplied by it. A later split changes nothing.

    Errors: InputError SPLIT_IN_BAR where a split is inside a bar of a week or a month.
    """
    if not len(bars):
        return bars
    last_ns = int(bars.time_ns[-1]) if until_ns is None else until_ns
    found, factors = [], np.ones(len(bars))
    for split in sorted(splits):
        at_ns = _starts_ns(bars, split.day)
        if at_ns > last_ns:
            break
        row = int(np.searchsorted(bars.time_ns, at_ns))
        if row and bar_end(int(bars.time_ns[row - 1]), bars.timeframe) > at_ns:
            raise InputError(
                f"{bars.symbol} was split {split.ratio} on {split.day}, inside a {bars.timeframe} bar",
                code="SPLIT_IN_BAR",
                status=422,
                remedy="use bars of a day or less",
            )
        found.append(ShareSplit(at_ns, split.new, split.old))
        factors[:row] *= split.new / split.old
    if not found:
        return bars
    return replace(
        bars,
        open=_divided(bars.open, factors),
        high=_divided(bars.high, factors),
        low=_divided(bars.low, factors),
        close=_divided(bars.close, factors),
        volume=bars.volume * factors,
        splits=tuple(found),
    )


def tick_of(bars: Bars, tick: Decimal) -> Decimal:
    """Return the tick of bars in the shares of their end, where those of before had `tick` on their own day: finer by a
    power of ten, so that no level of theirs is rounded further than it was then."""
    most = bars.split_factor(0) if len(bars) else 1.0
    return tick.scaleb(-math.ceil(math.log10(most))) if most > 1.0 else tick


def _divided(prices: Floats, factors: Floats) -> Floats:
    return np.where(factors == 1.0, prices, np.round(prices / factors, SPLIT_PLACES))


def _starts_ns(bars: Bars, day: date) -> int:
    """Return when a day begins in the bars' times: its label for days and longer bars, else midnight of the market."""
    is_label = not 0 < TIMEFRAMES[bars.timeframe] < _DAY_S
    return midnight_ns(ALWAYS if is_label else bars.calendar, day)


def split_like(bars: Bars) -> Ints:
    """Return the bars of shares that open where a split of the night before would have them open, and no split is known
    of; ascending."""
    if bars.calendar in _NO_SHARES or len(bars) < 2:
        return np.zeros(0, dtype=np.int64)
    jump = bars.close[:-1] / bars.open[1:]
    large = np.flatnonzero((jump > _LIKELY[0] * (1.0 - 2 * _MOVE)) | (jump < (1.0 + 2 * _MOVE) / _LIKELY[1]))
    likely = np.array(_LIKELY)
    steps = np.concatenate([likely, 1.0 / likely[1:]])
    nearest = np.abs(jump[large, None] / steps - 1.0).min(axis=1)
    known = np.searchsorted(bars.time_ns, [split.time_ns for split in bars.splits])
    found: Ints = large[nearest <= _MOVE] + 1
    unknown: Ints = found[~np.isin(found, known)]
    return unknown


def ensure_splits_known(bars: Bars) -> None:
    """Refuse bars of shares whose price jumps as in a split that is not known. Errors: InputError SPLIT_UNKNOWN."""
    found = split_like(bars)
    if not len(found):
        return
    first = int(found[0])
    before, after, when = bars.close[first - 1], bars.open[first], iso(int(bars.time_ns[first]))
    day, jump = when[:10], before / after
    ratio = f"{round(jump)}:1" if jump > 1.75 else f"1:{round(1 / jump)}" if jump < 1 else "3:2"
    raise InputError(
        f"{bars.symbol} opens at {after:g} on {when}, after {before:g}: that looks like a split of {ratio}"
        + (f", one of {len(found)} such bars" if len(found) > 1 else ""),
        code="SPLIT_UNKNOWN",
        status=422,
        remedy=f"'fks data splits {bars.symbol} --add {day}={ratio}', in Python splits={{'{day}': '{ratio}'}}; "
        "with 1:1 if the price only moved",
    )
