"""Gaps of a backtest's bars (C8): counted, shown, and refused beyond a limit; prices that cannot be. Nothing is filled
in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fks.model.bar import Bars, Ints
from fks.model.calendars import ALWAYS, calendar_of
from fks.model.errors import InputError, unprocessable
from fks.model.timeframe import NS, TIMEFRAMES, iso, volume_of

#: C8: a tape with more missing bars (percent), or a longer gap (bars) inside an open position, is refused
MISSING_PCT_MAX = 1.0
GAP_BARS_MAX = 10
SPIKE = 10_000.0  # times the prices beside it that a bar may reach


def _remedy(calendar: str) -> str:
    named = "name the market's calendar if it closes (fks data import --calendar XNYS), " if calendar == ALWAYS else ""
    return f"fill the gap (fks data sync), leave it out (--from, --to), {named}or pass --allow-gaps"


class TapeRefused(InputError):
    """The tape has too many gaps for a valid result (exit code 4); `--allow-gaps` runs it, and is part of the hash."""


@dataclass(frozen=True, slots=True)
class GapReport:
    """Bars that the market's `calendar` expects between the first and the last, bars present, and the longest gap (in
    bars) and its start."""

    expected: int
    present: int
    longest: int
    longest_after_ns: int | None
    gaps: int
    calendar: str = ALWAYS

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
            "calendar": self.calendar,
        }


def _ordinals(times: Ints, timeframe: str) -> Ints:
    """Return each bar's ordinal in its timeframe, so that neighbours differ by one."""
    if volume_of(timeframe) is not None:  # they follow one another, however long each takes
        return times
    seconds = TIMEFRAMES[timeframe]
    if seconds:
        return times // (seconds * NS)
    moments = [datetime.fromtimestamp(int(t) // NS, UTC) for t in times]
    return np.array([m.year * 12 + m.month for m in moments], dtype=np.int64)


def gaps_of(bars: Bars) -> tuple[Ints, Ints]:
    """Return the bars that are followed by a gap, as ascending indices, and how many bars each gap misses: those that
    the market's calendar expects there.

    Errors: InputError TAPE_ORDER when times do not rise by whole bars.
    """
    at = bars.breaks
    times = bars.time_ns
    missing = _ordinals(times[at + 1], bars.timeframe) - _ordinals(times[at], bars.timeframe) - 1
    if len(missing) and int(missing.min()) < 0:
        wrong = int(at[np.argmin(missing)])
        raise unprocessable(
            "TAPE_ORDER",
            f"bars are not in order: bar {wrong + 1} ({iso(int(times[wrong + 1]))}) does not come after the one before",
            "sort the bars and keep one of each",
        )
    if bars.calendar != ALWAYS and len(at):
        years = times[[0, -1]].astype("datetime64[ns]").astype("datetime64[Y]")
        expected = _expected(bars.calendar, bars.timeframe, years[0], years[1] + 1)
        missing = np.searchsorted(expected, times[at + 1]) - np.searchsorted(expected, times[at], side="right")
    is_gap = missing > 0
    return at[is_gap], missing[is_gap]


@lru_cache(maxsize=8)
def _expected(calendar: str, timeframe: str, first: np.datetime64, end: np.datetime64) -> Ints:
    """Return the bars that a calendar expects in whole years. Kept: each trial of a search asks for them."""
    from_ns, to_ns = (int(year.astype("datetime64[ns]").astype(np.int64)) for year in (first, end))
    return calendar_of(calendar).expected(timeframe, from_ns, to_ns)


def long_gaps(bars: Bars) -> Ints:
    """Return the bars that are followed by a gap of more than `GAP_BARS_MAX` bars, as ascending indices."""
    at, missing = gaps_of(bars)
    return at[missing > GAP_BARS_MAX]


def find_gaps(bars: Bars) -> GapReport:
    """Return the gap report between the first and the last bar."""
    at, missing = gaps_of(bars)
    total = int(missing.sum())
    longest = int(np.argmax(missing)) if total else -1
    return GapReport(
        expected=len(bars) + total,
        present=len(bars),
        longest=int(missing[longest]) if total else 0,
        longest_after_ns=int(bars.time_ns[at[longest]]) if total else None,
        gaps=len(at),
        calendar=bars.calendar,
    )


def ensure_whole(report: GapReport, remedy: str | None = None) -> None:
    """Refuse a tape with more than 1 % missing. `remedy`: None for a backtest's. Errors: TapeRefused TAPE_GAPS."""
    if report.missing_pct > MISSING_PCT_MAX:
        raise TapeRefused(
            f"the tape misses {report.missing_pct:.2f} % of its bars ({report.expected - report.present} of "
            f"{report.expected}, limit {MISSING_PCT_MAX:g} %)",
            code="TAPE_GAPS",
            status=422,
            remedy=_remedy(report.calendar) if remedy is None else remedy,
        )


def ensure_likely(bars: Bars) -> None:
    """Refuse a tape with a bar that reaches 10,000 times the prices beside it, or less than 1/10,000 of them: the close
    before it and the open after it. Errors: TapeRefused TAPE_SPIKE.

    Trades at 1/3,000 of the price have happened (ETH-USD at GDAX, 2017-06-21: 317.81 to 0.10 and back).
    """
    if len(bars) < 3:
        return
    before, after = bars.close[:-2], bars.open[2:]
    is_high = bars.high[1:-1] > SPIKE * np.maximum(before, after)
    is_low = bars.low[1:-1] * SPIKE < np.minimum(before, after)
    at = np.flatnonzero(is_high | is_low)
    if len(at):
        first = int(at[0]) + 1
        reached = bars.high[first] if is_high[first - 1] else bars.low[first]
        raise TapeRefused(
            f"the bar at {iso(int(bars.time_ns[first]))} reaches {reached:g} between prices of "
            f"{bars.close[first - 1]:g} and {bars.open[first + 1]:g}",
            code="TAPE_SPIKE",
            status=422,
            remedy="correct the bar in its source, then fks data import --replace, or fks data sync --again",
        )


def ensure_seen(bars: Bars, is_holding: Callable[[Ints], npt.NDArray[np.bool_]]) -> None:
    """Refuse a tape with a gap of more than 10 bars while a position was open.

    `is_holding`: whether a position is open after each of some bars. Errors: TapeRefused TAPE_GAPS.
    """
    at, missing = gaps_of(bars)
    at, missing = at[missing > GAP_BARS_MAX], missing[missing > GAP_BARS_MAX]
    blind = np.flatnonzero(is_holding(at)) if len(at) else at
    if len(blind):
        first = int(blind[0])
        raise TapeRefused(
            f"{int(missing[first])} bars are missing after {iso(int(bars.time_ns[at[first]]))} inside an open position "
            f"(limit {GAP_BARS_MAX})",
            code="TAPE_GAPS",
            status=422,
            remedy=_remedy(bars.calendar),
        )


def missing_inputs(bars: Bars) -> dict[str, int]:
    """Return how many rows each further symbol has no bar for."""
    return {symbol: int(np.isnan(other.close).sum()) for symbol, other in bars.inputs.items()}


def ensure_inputs(bars: Bars) -> None:
    """Refuse a tape whose further symbols lack more than 1 % of its bars. Errors: TapeRefused TAPE_GAPS."""
    for symbol, missing in missing_inputs(bars).items():
        share = 100.0 * missing / len(bars)
        if share > MISSING_PCT_MAX:
            raise TapeRefused(
                f"{symbol} has no bar for {share:.2f} % of those of {bars.symbol} ({missing} of {len(bars)}, limit "
                f"{MISSING_PCT_MAX:g} %)",
                code="TAPE_GAPS",
                status=422,
                remedy=_remedy(bars.calendar),
            )
