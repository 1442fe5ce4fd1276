"""Quality report of stored series: coverage, gaps, known gaps, errors, corrections, outages, quarantine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fks.clock import Clock
from fks.market.history.gaps import (
    REFUSED,
    UNAVAILABLE,
    Gaps,
    MissingBars,
    aligned,
    calendar_for,
    closed_until,
    count_bars,
    expected_gaps,
    has_empty_bars,
    kept_range,
    overlap,
    subtract,
)
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, to_ns
from fks.store.db import Database
from fks.store.gaps import GapStore, Series, TimeRange

LATE_NS = 180 * NS  # bars that ended later are not missing yet: the next check fetches them
SILENT_LATE_NS = 3600 * NS  # the same for exchanges that leave out no-trade bars


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of one series from `from_ns` to `to_ns`: all stored bars and, of a synced or collected series, all bars
    that are to be stored.

    `expected` bars follow from the exchange's calendar. `missing` ones may still come. `absent` ones were requested and
    the exchange does not have them (or nothing was traded): they do not lower `coverage` (a share, 1 is all).
    `refused` ones the exchange has, and they cannot be true: they are in the quarantine. `unavailable` ones it had, and
    does not serve. `longest` is the longest run
    of missing bars. `nulls`, `duplicates`, `incomplete`, `inconsistent` count stored bars; `corrected` those that
    changed after they were first stored, last at `corrected_ns`; `outages` are those of the feed in this time (of a
    collected series up to the present), `outage_ns` their sum; `quarantined` bars of this series wait for a decision.
    """

    exchange: str
    symbol: str
    timeframe: str
    from_ns: int
    to_ns: int
    candles: int
    oldest_ns: int | None
    newest_ns: int | None
    revision: int
    expected: int
    missing: int
    absent: int
    refused: int
    unavailable: int
    gaps: int
    longest: MissingBars | None
    nulls: int
    duplicates: int
    incomplete: int
    inconsistent: int
    silent: int
    corrected: int
    corrected_ns: int | None
    outages: int
    outage_ns: int
    quarantined: int

    @property
    def coverage(self) -> float:
        """Return the stored share of the bars that the exchange has; 1.0 means all, never by rounding."""
        there = self.expected - self.absent
        lacking = self.missing + self.refused + self.unavailable
        if there <= 0 or lacking == 0:
            return 1.0
        return min(int(10_000 * (there - lacking) / there) / 10_000, 0.9999)

    @property
    def is_good(self) -> bool:
        """Return whether nothing is missing, refused or unavailable, and no stored bar is wrong."""
        lacking = self.missing or self.refused or self.unavailable
        return not (lacking or self.nulls or self.duplicates or self.incomplete or self.inconsistent)


@dataclass(frozen=True, slots=True)
class FeedOutage:
    """Time in which a feed was not live: from its last message to its next; `ended_ns` None: it still is not."""

    exchange: str
    symbol: str
    channel: str
    began_ns: int
    ended_ns: int | None
    cause: str


class QualityReport:
    """Reads the quality of series from the store. Errors of all methods: OutageError."""

    def __init__(self, db: Database, clock: Clock, *, days: int, frames: Sequence[str] = tuple(TIMEFRAMES)) -> None:
        """`days`: the past in which a collected series is kept complete; `frames`: the timeframes of symbols without
        their own."""
        self._store = GapStore(db)
        self._gaps = Gaps(db, clock)
        self._clock = clock
        self._days = days
        self._frames = frames

    async def series(self, wanted: Callable[[Series], bool] = lambda one: True) -> list[Series]:
        """Return the stored series that are wanted."""
        return [one for one in await self._store.series() if one.newest_ns is not None and wanted(one)]

    async def of(self, one: Series) -> Quality:
        """Return the quality of one series that is stored."""
        assert one.oldest_ns is not None
        assert one.newest_ns is not None
        key = (one.exchange, one.symbol, one.timeframe)
        start_ns, end_ns = self.span(one)
        spans = [
            gap.span for gap in await self._gaps.missing(*key, start_ns, end_ns, is_all=True, calendar=one.calendar)
        ]
        known = await self._store.known(*key)  # also those that are due again
        calendar = calendar_for(one.exchange, one.calendar, one.symbol)
        refused = [gap.span for gap in known if gap.cause == REFUSED]
        unserved = [gap.span for gap in known if gap.cause == UNAVAILABLE]
        lacking = [gap.span for gap in known if gap.cause not in (REFUSED, UNAVAILABLE)]

        def count(parts: Sequence[TimeRange]) -> int:
            return sum(count_bars(part, one.timeframe, calendar) for part in parts)

        missing = expected_gaps(*key, subtract(spans, [*refused, *unserved, *lacking]), one.calendar)
        counts = await self._store.counts(*key, start_ns, bar_end(max(one.newest_ns, start_ns), one.timeframe))
        outages = [
            outage
            for outage in await self.outages(one.exchange, one.symbol, since_ns=start_ns)
            if outage.channel == "trades" and (outage.began_ns < end_ns or self.is_fed(one))
        ]
        now_ns = self._clock.now_ns()
        return Quality(
            *key,
            start_ns,
            end_ns,
            counts["candles"],
            one.oldest_ns,
            one.newest_ns,
            one.revision,
            expected=count_bars(TimeRange(start_ns, end_ns), one.timeframe, calendar) if end_ns > start_ns else 0,
            missing=sum(gap.bars for gap in missing),
            absent=count(overlap(subtract(spans, [*refused, *unserved]), lacking)),
            refused=count(overlap(spans, refused)),
            unavailable=count(overlap(subtract(spans, refused), unserved)),
            gaps=len(missing),
            longest=max(missing, key=lambda gap: gap.bars, default=None),
            nulls=counts["nulls"],
            duplicates=counts["duplicates"],
            incomplete=counts["incomplete"],
            inconsistent=counts["inconsistent"],
            silent=counts["silent"],
            corrected=counts["corrected"],
            corrected_ns=None if counts["corrected_at"] is None else to_ns(counts["corrected_at"]),
            outages=len(outages),
            outage_ns=sum((now_ns if one.ended_ns is None else one.ended_ns) - one.began_ns for one in outages),
            quarantined=await self._store.quarantined(*key),
        )

    async def missing(self, one: Series, *, is_all: bool = False) -> list[tuple[MissingBars, str]]:
        """Return the gaps of one series, newest first, each "missing", "unavailable" or, with `is_all`, the cause it is
        known by."""
        key = (one.exchange, one.symbol, one.timeframe)
        start_ns, end_ns = self.span(one)
        known = await self._store.known(*key)
        spans = [
            gap.span for gap in await self._gaps.missing(*key, start_ns, end_ns, is_all=True, calendar=one.calendar)
        ]
        found = [
            (gap, "missing") for gap in expected_gaps(*key, subtract(spans, [gap.span for gap in known]), one.calendar)
        ]
        for gap in known:
            if is_all or gap.cause == UNAVAILABLE:
                found += [(piece, gap.cause) for piece in expected_gaps(*key, overlap(spans, [gap.span]), one.calendar)]
        return sorted(found, key=lambda item: item[0].span.end_ns, reverse=True)

    async def outages(
        self, exchange: str | None = None, symbol: str | None = None, *, since_ns: int = 0, limit: int = 1000
    ) -> list[FeedOutage]:
        """Return the times in which feeds were not live, newest first."""
        rows: list[dict[str, Any]] = await self._store.outages(exchange, symbol, since_ns=since_ns, limit=limit)
        return [
            FeedOutage(
                row["exchange"],
                row["symbol"],
                row["channel"],
                to_ns(row["began_at"]),
                None if row["ended_at"] is None else to_ns(row["ended_at"]),
                row["cause"],
            )
            for row in rows
        ]

    def is_fed(self, one: Series) -> bool:
        """Return whether a collector has to store this series: its symbol and its timeframe are collected."""
        return one.is_collected and one.timeframe in (one.frames or self._frames)

    def span(self, one: Series) -> tuple[int, int]:
        """Return the time over which a stored series is checked, on boundaries of its timeframe.

        A collected series, or one synced without an end, is checked up to the present: a dead feed is not complete
        because no bars followed. Bars that ended less than LATE_NS ago may still arrive.
        """
        assert one.oldest_ns is not None
        assert one.newest_ns is not None
        start_ns, end_ns = one.oldest_ns, bar_end(one.newest_ns, one.timeframe)
        wanted_ns = end_ns
        if one.sync_status == "done":
            kept_ns, wanted_ns = kept_range(one, self._clock.now_ns(), self._days)
            start_ns = aligned(min(kept_ns, start_ns), one.timeframe)
        if self.is_fed(one):
            wanted_ns = closed_until(self._clock.now_ns(), one.timeframe)
        late_ns = LATE_NS if has_empty_bars(one.exchange) else SILENT_LATE_NS
        return start_ns, end_ns if wanted_ns - end_ns < late_ns + NS * TIMEFRAMES[one.timeframe] else wanted_ns


def behind(one: Series, now_ns: int) -> int:
    """Return the number of ended bars between the newest stored one and the present, without regard to calendars."""
    if one.newest_ns is None:
        return 0
    newest_ns, over_ns = bar_end(one.newest_ns, one.timeframe), closed_until(now_ns, one.timeframe)
    return count_bars(TimeRange(newest_ns, over_ns), one.timeframe) if over_ns > newest_ns else 0
