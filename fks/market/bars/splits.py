"""Splits of shares: raw bars in the shares of their end, and jumps of the price that look like a split. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from decimal import Decimal

import numpy as np

from fks.model.bar import Bars, Ints, ShareSplit, split_digits
from fks.model.calendars import ALWAYS, calendar_of, midnight_ns
from fks.model.cash_flows import SplitDay
from fks.model.errors import InputError, unprocessable
from fks.model.timeframe import TIMEFRAMES, iso

_DAY_S = 86_400
_RATIO = re.compile(r"([1-9]\d{0,5})(?::([1-9]\d{0,5}))?")
#: calendars of markets that trade no shares
NO_SHARES = frozenset(
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


def split_day(day: str, ratio: str) -> SplitDay:
    """Return the split that a day (2020-08-31) and a ratio (4, 4:1, 3:2, 1:10) name. Errors: InputError SPLIT_WRONG."""
    found = _RATIO.fullmatch(ratio.strip())
    try:
        when = date.fromisoformat(day.strip())
    except ValueError:
        found = None
    if found is None:
        raise unprocessable(
            "SPLIT_WRONG",
            f"{day}={ratio} is no split",
            "give the first day of the new shares, and the new ones for each old one: 2020-08-31=4:1; ten that "
            "became one are 1:10",
        )
    return SplitDay(when, int(found[1]), int(found[2] or 1))


def adjusted(bars: Bars, splits: Iterable[SplitDay], *, until_ns: int | None = None) -> Bars:
    """Return bars as they were traded in the shares of their end, or of `until_ns`: prices before a split divided by
    its ratio, volumes multiplied by it. A later split changes nothing.

    Errors: InputError SPLIT_IN_BAR where a split is inside a bar of a week or a month.
    """
    if not len(bars):
        return bars
    raw = bars if bars.raw is None else bars.raw
    end_ns = raw.ended_ns(-1) if until_ns is None else until_ns
    found = [
        ShareSplit(at_ns, split.new, split.old, raw.ticks.places)
        for split in sorted(splits)
        if (at_ns := day_starts_ns(raw, split.day)) < end_ns
    ]
    return after_splits(raw, tuple(found))


def after_splits(raw: Bars, splits: tuple[ShareSplit, ...]) -> Bars:
    """Return bars as they were traded in the shares after the last split. Errors: as `adjusted`."""
    for split in splits:
        row = int(np.searchsorted(raw.time_ns, split.time_ns))
        if split.factor != 1 and row and raw.ended_ns(row - 1) > split.time_ns:
            raise unprocessable(
                "SPLIT_IN_BAR",
                f"{raw.symbol} was split {split.new}:{split.old} at {iso(split.time_ns)}, inside a {raw.timeframe} bar",
                "use bars of a day or less",
            )
    return raw.after(splits)


def tick_of(bars: Bars, tick: Decimal) -> Decimal:
    """Return the tick of bars in the shares of their end, where those of before had `tick` on their own day: finer by a
    power of ten, as their prices are."""
    return tick.scaleb(-split_digits(bars.splits))


def day_starts_ns(bars: Bars, day: date) -> int:
    """Return when a day begins in the bars' times: its label for days and longer bars, else midnight of the market."""
    return midnight_ns(_calendar_of_days(bars), day)


def days_of(bars: Bars) -> Ints:
    """Return the ordinal of each bar's day: its label's for days and longer bars, else the market's trading day."""
    return calendar_of(_calendar_of_days(bars)).days(bars.time_ns)


def _calendar_of_days(bars: Bars) -> str:
    is_label = bars.end_ns is None and not 0 < TIMEFRAMES[bars.timeframe] < _DAY_S
    return ALWAYS if is_label else bars.calendar


def split_like(bars: Bars) -> Ints:
    """Return the bars of shares that open where a split of the night before would have them open, and that no split is
    known of; ascending. A known split whose jump is still there is none: the bars were adjusted, or its ratio is wrong.
    """
    if bars.calendar in NO_SHARES or len(bars) < 2:
        return np.zeros(0, dtype=np.int64)
    jump = bars.close[:-1] / bars.open[1:]
    large = np.flatnonzero((jump > _LIKELY[0] * (1.0 - 2 * _MOVE)) | (jump < (1.0 + 2 * _MOVE) / _LIKELY[1]))
    likely = np.array(_LIKELY)
    steps = np.concatenate([likely, 1.0 / likely[1:]])
    nearest = np.abs(jump[large, None] / steps - 1.0).min(axis=1)
    moved = np.searchsorted(bars.time_ns, [split.time_ns for split in bars.splits if split.factor == 1])
    found: Ints = large[nearest <= _MOVE] + 1
    unknown: Ints = found[~np.isin(found, moved)]
    return unknown


def ensure_splits_known(bars: Bars) -> None:
    """Refuse bars of shares, or inputs of theirs, whose price jumps as in a split that is not known. Errors: InputError
    SPLIT_UNKNOWN."""
    for part in (bars, *bars.inputs.values()):
        found = split_like(part)
        if len(found):
            raise _unknown(part, int(found[0]), len(found))


def _unknown(bars: Bars, first: int, count: int) -> InputError:
    before, after, when = bars.close[first - 1], bars.open[first], iso(int(bars.time_ns[first]))
    day, jump = when[:10], before / after
    ratio = f"{round(jump)}:1" if jump > 1.75 else f"1:{round(1 / jump)}" if jump < 1 else "3:2"
    known = [split for split in bars.splits if np.searchsorted(bars.time_ns, split.time_ns) == first]
    remedy = (
        f"'fks data splits {bars.symbol} --add {day}={ratio}', in Python splits={{'{day}': '{ratio}'}}; with 1:1 if "
        "the price only moved"
    )
    if known:
        remedy = (
            f"{known[0].new}:{known[0].old} is known of that day: the bars may be adjusted already ('fks data splits "
            f"{bars.symbol} --remove {day}'), or the ratio is the other way round"
        )
    return unprocessable(
        "SPLIT_UNKNOWN",
        f"{bars.symbol} opens at {after:g} on {when}, after {before:g}: that looks like a split of {ratio}"
        + (f", one of {count} such bars" if count > 1 else ""),
        remedy,
    )
