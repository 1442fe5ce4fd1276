"""Validation of incoming bars and trades: pure checks, each with its reason.

There are two kinds of faults. *Refused*: the value cannot be true (high below low, a negative price, a time off the
grid); it is never stored as a bar. *Suspect*: it may be true and usually is not (a price far outside the range of the
last bars, a print while the market is closed); the exchange is queried again, and a second equal answer confirms it.
Suspect bars of history are held back until then. A live bar was stored and published when it was sealed; it stays until
the exchange's answer corrects it with a revision. Both kinds go to the quarantine with the reason and all numbers.
Nothing is repaired, clipped or filled in here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

import numpy as np

from fks.market.bars.outliers import MOVE_MIN, REMEMBERED, OutlierDetector
from fks.model.bar import Bars, Floats, Ints
from fks.model.buckets import ends_of, starts_of
from fks.model.calendars import Calendar
from fks.model.timeframe import NS, iso

SKEW_NS = 60 * NS  # how far ahead of our clock the exchange's may be
OLDEST_NS = 315_532_800 * NS  # 1980: anything older is a wrong unit


class Reason(StrEnum):
    """Reasons of a fault. Their values are stored in the quarantine."""

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


#: reasons of values that may be true; every other reason proves that a value is wrong
SUSPECT = frozenset({Reason.OFF_SESSION, Reason.OUTLIER})
#: of a row with several faults the first of these is named
_ORDER = tuple(Reason)


@dataclass(frozen=True, slots=True)
class RowFault:
    """One fault of one row. `detail` has the numbers."""

    row: int
    time_ns: int
    reason: Reason
    detail: str

    @property
    def is_refused(self) -> bool:
        """Return whether the row cannot be true; else it is only suspect."""
        return self.reason not in SUSPECT


def check_bars(
    bars: Bars, *, now_ns: int | None = None, calendar: Calendar | None = None, outliers: OutlierDetector | None = None
) -> list[RowFault]:
    """Return the faults of columns, at most one per row, in row order.

    `now_ns` is needed to find bars that are not over yet, `calendar` for bars outside a session, `outliers` for
    outliers: its state continues from earlier rows and includes these afterwards. Of rows with one time the first
    counts; the others are DUPLICATE (equal) or CONFLICT.
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
    details = _outliers(bars, verdict, outliers) if outliers is not None else {}
    for row in details:
        verdict[row] = _ORDER.index(Reason.OUTLIER) + 1
    return [
        RowFault(row, int(bars.time_ns[row]), reason, details.get(row) or _detail(bars, row, reason))
        for row in np.flatnonzero(verdict).tolist()
        for reason in (_ORDER[verdict[row] - 1],)
    ]


def _faults(bars: Bars, now_ns: int | None) -> dict[Reason, np.ndarray]:
    """Return the rows that have each fault. Shapes: (n,) of bool."""
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
    """Return, of the rows without another fault, those that repeat a time and those that are out of order. An absurd
    time puts no other row out of order."""
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
    """Return the bars that overlap a session. Most bars open inside one; the others are looked up in the calendar."""
    inside = is_open.copy()
    rest = np.flatnonzero(~is_open & (bars.time_ns >= OLDEST_NS) & (bars.time_ns < 2**63 // 2))
    if len(rest):
        at = bars.time_ns[rest]
        expected = calendar.expected(bars.timeframe, int(at.min()), int(at.max()) + 1)
        inside[rest] = np.isin(at, expected)
    return inside


def _outliers(bars: Bars, verdict: Ints, outliers: OutlierDetector) -> dict[int, str]:
    """Check the rows without a fault in order; return the reasons of the outliers by row.

    Only a row that moves far from the close before it can be one: the rows between such rows are remembered at once.
    """
    rows = np.flatnonzero(verdict == 0)
    if not len(rows):
        return {}
    low, high, close = bars.low[rows], bars.high[rows], bars.close[rows]
    before = np.concatenate([[outliers.close or close[0]], close[:-1]])
    moves = np.maximum(np.log(high / before), np.log(before / low))
    far = np.flatnonzero(moves > MOVE_MIN)
    details: dict[int, str] = {}
    at = 0 if outliers.close else 1
    if at:
        outliers.check(float(low[0]), float(high[0]), float(close[0]))
    while at < len(rows):
        nearest = int(np.searchsorted(far, at))
        stop = int(far[nearest]) if nearest < len(far) else len(rows)
        if stop > at:
            outliers.remember(moves[max(at, stop - REMEMBERED) : stop].tolist(), float(close[stop - 1]))
        at = stop
        while at < len(rows):
            why = outliers.check(float(low[at]), float(high[at]), float(close[at]))
            if why:
                details[int(rows[at])] = why
            at += 1
            if not outliers.is_last_suspect:
                break
    return details


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
