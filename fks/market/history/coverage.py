"""Coverage of stored series: which share of the expected bars each part of a time range has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fks.clock import Clock
from fks.market.history.gaps import MissingBars, expected_gaps
from fks.market.history.quality import QualityReport
from fks.model.timeframe import bar_end, bar_start
from fks.store.db import Database
from fks.store.gaps import GapStore, Series, TimeRange

#: Bars of one series that one look reads at most: a month of minutes, two days of seconds.
BARS_MAX = 200_000
_DAY_NS = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class Coverage:
    """One series over a time range: `cells` are the shares, 0 to 1, of equal parts, oldest first; `missing`: bars."""

    span: TimeRange
    cells: tuple[float, ...]
    missing: int


def shares(span: TimeRange, gaps: Sequence[TimeRange], count: int) -> tuple[float, ...]:
    """Return for each of `count` equal parts of `span` which share of its time is in none of the `gaps`."""
    length = (span.end_ns - span.start_ns) / count
    if length <= 0:
        return ()
    found = []
    for place in range(count):
        start, end = span.start_ns + place * length, span.start_ns + (place + 1) * length
        lost = sum(max(0.0, min(end, gap.end_ns) - max(start, gap.start_ns)) for gap in gaps)
        share = 1.0 - lost / length
        found.append(0.0 if share < 1e-9 else 1.0 if share > 1 - 1e-9 else round(share, 4))
    return tuple(found)


class CoverageReport:
    """Reads the coverage of series from the store. Errors of all methods: OutageError."""

    def __init__(self, db: Database, clock: Clock, report: QualityReport) -> None:
        self._store, self._clock, self._report = GapStore(db), clock, report

    async def of(self, one: Series, *, days: int, cells: int) -> Coverage:
        """Return the coverage of a stored series over the last `days`, over its newest BARS_MAX bars at most."""
        start_ns, end_ns = self._report.span(one)
        length_ns = bar_end(bar_start(end_ns, one.timeframe), one.timeframe) - bar_start(end_ns, one.timeframe)
        earliest_ns = max(self._clock.now_ns() - days * _DAY_NS, end_ns - BARS_MAX * length_ns)
        start_ns = bar_start(max(start_ns, min(earliest_ns, end_ns - length_ns)), one.timeframe)
        span = TimeRange(start_ns, max(start_ns, end_ns))
        gaps = await self.missing(one, span)
        return Coverage(span, shares(span, [gap.span for gap in gaps], cells), sum(gap.bars for gap in gaps))

    async def missing(self, one: Series, span: TimeRange) -> list[MissingBars]:
        """Return the gaps of a series in a time range, newest first, without those that its calendar explains."""
        key = (one.exchange, one.symbol, one.timeframe)
        return expected_gaps(*key, await self._store.missing(*key, span.start_ns, span.end_ns), one.calendar)
