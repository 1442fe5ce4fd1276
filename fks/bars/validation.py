"""What is believed of the bars and trades that come in, and what is not: pure judgements, each with its reason.

Two kinds. *Refused*: it cannot be true (high below low, a negative price, a time off the grid); it is never stored as a
bar. *Doubted*: it may be true and usually is not (a price far outside what the last bars did, a print while the market
is closed); the exchange is asked again, and its own repeated word settles it. Of history it is held back until then. A
live bar is not: it was stored and told when it sealed, and stands there until the exchange's word corrects it, with a
revision. Either way it goes to the quarantine with its reason and all its numbers. Nothing is repaired, clipped or
filled in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

import numpy as np

from fks.bars.buckets import ends_of, starts_of
from fks.bars.calendars import Calendar
from fks.bars.outliers import MOVE_MIN, REMEMBERED, Usual
from fks.model.bar import Bar, Bars, Floats, Ints, PublicTrade
from fks.model.timeframe import NS, iso

SKEW_NS = 60 * NS  # how far ahead of our clock the exchange's may be
OLDEST_NS = 315_532_800 * NS  # 1980: anything older is a wrong unit


class Reason(StrEnum):
    """Why something is not believed. The words are what the quarantine shows."""

    NOT_A_NUMBER = "not_a_number"
    NOT_POSITIVE = "not_positive"
    NEGATIVE_VOLUME = "negative_volume"
    INCONSISTENT = "inconsistent"
    TIME = "time"
    OFF_GRID = "off_grid"
    NOT_CLOSED = "not_closed"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    OUT_OF_ORDER = "out_of_order"
    OFF_SESSION = "off_session"
    OUTLIER = "outlier"


#: it may be true; every other reason says that it cannot
DOUBTS = frozenset({Reason.OFF_SESSION, Reason.OUTLIER})
#: of a row with several faults the first of these is named
_ORDER = tuple(Reason)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one row. `detail` has the numbers."""

    row: int
    time_ns: int
    reason: Reason
    detail: str

    @property
    def is_refused(self) -> bool:
        """Return whether it cannot be true; else it is only doubted."""
        return self.reason not in DOUBTS


def check_bars(
    bars: Bars, *, now_ns: int | None = None, calendar: Calendar | None = None, usual: Usual | None = None
) -> list[Finding]:
    """Return what is wrong with columns, at most one finding a row, in row order.

    `now_ns` finds bars that are not over yet; `calendar` those outside a session; `usual` outliers: it goes on from the
    rows before and is left knowing these. Of rows with one time the first counts; the others are DUPLICATE (equal) or
    CONFLICT.
    """
    if not len(bars):
        return []
    faults = _faults(bars, now_ns)
    if calendar is not None:
        plausible = faults[Reason.TIME] == 0
        is_open = np.ones(len(bars), dtype=np.bool_)
        is_open[plausible] = calendar.is_open(bars.time_ns[plausible])
        opens_inside = _opens_inside(bars, calendar, is_open)
        faults[Reason.OFF_SESSION] = ~opens_inside
    verdict = np.zeros(len(bars), dtype=np.int64)
    for reason in reversed(_ORDER):
        if reason in faults:
            verdict[faults[reason]] = _ORDER.index(reason) + 1
    told = _outliers(bars, verdict, usual) if usual is not None else {}
    for row in told:
        verdict[row] = _ORDER.index(Reason.OUTLIER) + 1
    return [
        Finding(row, int(bars.time_ns[row]), reason, told.get(row) or _detail(bars, row, reason))
        for row in np.flatnonzero(verdict).tolist()
        for reason in (_ORDER[verdict[row] - 1],)
    ]


def check_bar(
    bar: Bar, *, now_ns: int | None = None, calendar: Calendar | None = None, usual: Usual | None = None
) -> Finding | None:
    """Return what is wrong with one bar, as `check_bars` does; an empty one must be flat and without volume."""
    found = check_bars(Bars.of(bar.symbol, bar.timeframe, [bar]), now_ns=now_ns, calendar=calendar, usual=usual)
    if found:
        return found[0]
    if bar.is_empty and not (bar.volume == 0 and bar.trades == 0 and bar.low == bar.high):
        return Finding(0, bar.time_ns, Reason.INCONSISTENT, "nobody traded, and yet it has a range, a volume or trades")
    return None


def check_trade(trade: PublicTrade, *, now_ns: int | None = None) -> Finding | None:
    """Return why a public trade cannot be true; None when it can. Prices below zero, which some
    futures have known, are refused."""
    price, quantity = trade.price, trade.quantity
    if not (price.is_finite() and quantity.is_finite()):
        reason, told = Reason.NOT_A_NUMBER, f"price {price}, quantity {quantity}"
    elif price <= 0:
        reason, told = Reason.NOT_POSITIVE, f"price {price}"
    elif quantity < 0:
        reason, told = Reason.NEGATIVE_VOLUME, f"quantity {quantity}"
    elif trade.time_ns < OLDEST_NS or (now_ns is not None and trade.time_ns > now_ns + SKEW_NS):
        reason, told = Reason.TIME, f"time {trade.time_ns} ns is not between 1980 and now"
    else:
        return None
    return Finding(0, trade.time_ns, reason, told)


def without(bars: Bars, findings: Sequence[Finding], *, keep_doubted: bool = False) -> Bars:
    """Return the rows that nothing was found about; `keep_doubted` keeps those that are only doubted."""
    rows = [f.row for f in findings if f.is_refused or not keep_doubted]
    if not rows:
        return bars
    keep = np.ones(len(bars), dtype=np.bool_)
    keep[rows] = False
    columns = (bars.open, bars.high, bars.low, bars.close, bars.volume)
    return Bars(bars.symbol, bars.timeframe, bars.time_ns[keep], *(column[keep] for column in columns))


def _faults(bars: Bars, now_ns: int | None) -> dict[Reason, np.ndarray]:
    """Return for each reason which rows it is true of; shapes (n,) of bool."""
    prices = (bars.open, bars.high, bars.low, bars.close)
    times = bars.time_ns
    top, bottom = np.maximum(bars.open, bars.close), np.minimum(bars.open, bars.close)
    finite = np.isfinite(bars.volume)
    for column in prices:
        finite &= np.isfinite(column)
    with np.errstate(invalid="ignore"):
        found = {
            Reason.NOT_A_NUMBER: ~finite,
            Reason.NOT_POSITIVE: np.minimum(bottom, bars.low) <= 0,
            Reason.NEGATIVE_VOLUME: bars.volume < 0,
            Reason.INCONSISTENT: (bars.high < top) | (bars.low > bottom),
            Reason.TIME: (times < OLDEST_NS) | (times >= 2**63 // 2),
            Reason.OFF_GRID: starts_of(times, bars.timeframe) != times,
        }
    if now_ns is not None:
        found[Reason.TIME] |= times > now_ns + SKEW_NS
        found[Reason.NOT_CLOSED] = ends_of(times, bars.timeframe) > now_ns
    sound = np.flatnonzero(~np.logical_or.reduce(list(found.values())))
    found |= _repeats(bars, sound)
    return found


def _repeats(bars: Bars, sound: Ints) -> dict[Reason, np.ndarray]:
    """Return the rows whose time was there before, and those that stand before an earlier row, of the rows that are
    sound: one absurd time puts no other row out of order."""
    made = {
        reason: np.zeros(len(bars), dtype=np.bool_)
        for reason in (Reason.DUPLICATE, Reason.CONFLICT, Reason.OUT_OF_ORDER)
    }
    times = bars.time_ns[sound]
    if bool((np.diff(times) > 0).all()):
        return made
    _, first, which = np.unique(times, return_index=True, return_inverse=True)
    original = first[which.reshape(-1)]
    is_again = original != np.arange(len(times))
    is_same = is_again.copy()
    for column in (bars.open, bars.high, bars.low, bars.close, bars.volume):
        is_same &= column[sound] == column[sound[original]]
    made[Reason.DUPLICATE][sound] = is_same
    made[Reason.CONFLICT][sound] = is_again & ~is_same
    made[Reason.OUT_OF_ORDER][sound] = (times < np.maximum.accumulate(times)) & ~is_again
    return made


def _opens_inside(bars: Bars, calendar: Calendar, is_open: np.ndarray) -> np.ndarray:
    """Return which bars hold a moment of trading: most open in one; of the others the buckets are looked up."""
    inside = is_open.copy()
    rest = np.flatnonzero(~is_open & (bars.time_ns >= OLDEST_NS) & (bars.time_ns < 2**63 // 2))
    if len(rest):
        at = bars.time_ns[rest]
        expected = calendar.expected(bars.timeframe, int(at.min()), int(at.max()) + 1)
        inside[rest] = np.isin(at, expected)
    return inside


def _outliers(bars: Bars, verdict: Ints, usual: Usual) -> dict[int, str]:
    """Judge the rows without a fault in order; return why some are outliers.

    Only a row that moves far from the close before it can be one: the stretches between such rows are remembered whole.
    """
    rows = np.flatnonzero(verdict == 0)
    if not len(rows):
        return {}
    low, high, close = bars.low[rows], bars.high[rows], bars.close[rows]
    before = np.concatenate([[usual.close or close[0]], close[:-1]])
    moves = np.maximum(np.log(high / before), np.log(before / low))
    far = np.flatnonzero(moves > MOVE_MIN)
    told: dict[int, str] = {}
    at = 0 if usual.close else 1
    if at:
        usual.judge(float(low[0]), float(high[0]), float(close[0]))
    while at < len(rows):
        nearest = int(np.searchsorted(far, at))
        stop = int(far[nearest]) if nearest < len(far) else len(rows)
        if stop > at:
            usual.remember(moves[max(at, stop - REMEMBERED) : stop].tolist(), float(close[stop - 1]))
        at = stop
        while at < len(rows):
            why = usual.judge(float(low[at]), float(high[at]), float(close[at]))
            if why:
                told[int(rows[at])] = why
            at += 1
            if not usual.is_in_doubt:
                break
    return told


def _detail(bars: Bars, row: int, reason: Reason) -> str:
    def shown(name: str, column: Floats) -> str:
        value = float(column[row])
        return f"{name} {value!r}" if isfinite(value) else f"{name} {value}"

    if reason in (Reason.OFF_GRID, Reason.TIME, Reason.NOT_CLOSED, Reason.OFF_SESSION, Reason.OUT_OF_ORDER):
        time_ns = int(bars.time_ns[row])
        where = iso(time_ns) if OLDEST_NS <= time_ns < 2**63 // 2 else f"{time_ns} ns"
        return f"{bars.timeframe} bar at {where}"
    names = ("open", "high", "low", "close", "volume")
    return ", ".join(shown(name, getattr(bars, name)) for name in names)
