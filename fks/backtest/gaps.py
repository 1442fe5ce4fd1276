"""Gaps of a backtest's bars (C8): counted, shown, and refused beyond a limit. Nothing is filled in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from fks.model.bar import Bars, Ints
from fks.model.errors import InputError
from fks.model.timeframe import NS, TIMEFRAMES, iso

#: C8: a tape with more missing bars (percent), or a longer gap (bars) inside an open position, is refused
MISSING_PCT_MAX = 1.0
GAP_BARS_MAX = 10


class TapeRefused(InputError):
    """The tape has too many gaps for a valid result (exit code 4); `--allow-gaps` runs it, and is part of the hash."""


@dataclass(frozen=True, slots=True)
class GapReport:
    """Bars expected between the first and the last, bars present, and the longest gap (in bars) and its start."""

    expected: int
    present: int
    longest: int
    longest_after_ns: int | None
    gaps: int

    @property
    def missing_pct(self) -> float:
        return 100.0 * (self.expected - self.present) / self.expected if self.expected else 0.0

    def as_dict(self) -> dict[str, object]:
        """Return the report as JSON-able values; `gap_pct` in percent."""
        return {
            "bars_expected": self.expected,
            "bars_present": self.present,
            "longest_gap_bars": self.longest,
            "longest_gap_after": None if self.longest_after_ns is None else iso(self.longest_after_ns),
            "gaps": self.gaps,
            "gap_pct": round(self.missing_pct, 4),
        }


def _ordinals(times: Ints, timeframe: str) -> Ints:
    """Return each bar's ordinal in its timeframe, so that neighbours differ by one."""
    seconds = TIMEFRAMES[timeframe]
    if seconds:
        return times // (seconds * NS)
    moments = [datetime.fromtimestamp(int(t) // NS, UTC) for t in times]
    return np.array([m.year * 12 + m.month for m in moments], dtype=np.int64)


def missing_after(bars: Bars) -> Ints:
    """Return how many bars are missing between each bar and the next: (n-1,) integers.

    Errors: InputError TAPE_ORDER when times do not rise by whole bars.
    """
    ordinals = _ordinals(bars.time_ns, bars.timeframe)
    steps = np.diff(ordinals)
    if len(steps) and int(steps.min()) < 1:
        at = int(np.argmin(steps))
        raise InputError(
            f"bars are not in order: bar {at + 1} ({iso(int(bars.time_ns[at + 1]))}) does not come after the one "
            "before",
            code="TAPE_ORDER",
            status=422,
            remedy="sort the bars and keep one of each",
        )
    return steps - 1


def find_gaps(bars: Bars) -> GapReport:
    """Return the gap report between the first and the last bar."""
    missing = missing_after(bars)
    total = int(missing.sum()) if len(missing) else 0
    at = int(np.argmax(missing)) if total else -1
    return GapReport(
        expected=len(bars) + total,
        present=len(bars),
        longest=int(missing[at]) if total else 0,
        longest_after_ns=int(bars.time_ns[at]) if total else None,
        gaps=int((missing > 0).sum()),
    )


def ensure_whole(bars: Bars, report: GapReport, is_holding: npt.NDArray[np.bool_]) -> None:
    """Refuse a tape with more than 1 % missing, or a gap of more than 10 bars while a position was open.

    `is_holding`: whether a position is open after each bar. Errors: TapeRefused TAPE_GAPS.
    """
    remedy = "fill the gap (fks data sync) or pass --allow-gaps"
    if report.missing_pct > MISSING_PCT_MAX:
        raise TapeRefused(
            f"the tape misses {report.missing_pct:.2f} % of its bars ({report.expected - report.present} of "
            f"{report.expected}, limit {MISSING_PCT_MAX:g} %)",
            code="TAPE_GAPS",
            status=422,
            remedy=remedy,
        )
    long_gaps = np.flatnonzero((missing_after(bars) > GAP_BARS_MAX) & is_holding[:-1])
    if len(long_gaps):
        at = int(long_gaps[0])
        raise TapeRefused(
            f"{int(missing_after(bars)[at])} bars are missing after {iso(int(bars.time_ns[at]))} inside an open "
            "position "
            f"(limit {GAP_BARS_MAX})",
            code="TAPE_GAPS",
            status=422,
            remedy=remedy,
        )
