"""Gaps of stored series: expected bars that are neither stored nor known to be unavailable at the exchange.

A gap of the last days for which the exchange had no bars is requested again once a day, since exchanges complete their
history later; then it is settled. Bars that an exchange does not serve are requested once a day for good. `GapWatch`
checks every series that is to be complete, and skips unchanged ones.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from fks.clock import Clock
from fks.market.exchanges.registry import EXCHANGES, capabilities_of
from fks.model.backoff import Backoff
from fks.model.bar import Bars
from fks.model.calendars import ALWAYS, calendar_of, guess_calendar
from fks.model.futures import futures_calendar
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, bar_start
from fks.store.db import Database
from fks.store.gaps import GapStore, KnownGap, Series, TimeRange

DAY_NS = 86400 * NS
ASK_AGAIN_NS = DAY_NS  # interval in which a young known gap is requested again
YOUNG_NS = 7 * DAY_NS  # age up to which it is
SETTLE_NS = 10 * NS  # a bar is requested this long after its end: clocks differ, and exchanges need time to finish it
REFUSED = "refused"  # cause of a known gap: the exchange has a bar, and the bar cannot be true
UNAVAILABLE = "unavailable"  # cause of a known gap: the market traded, and the exchange does not serve that time
LIVE_NS = 600 * NS  # a collected series that lags by more is also fetched as history
BARS_MAX = 50_000  # limit of one check of bars shorter than a minute: 14 hours of seconds
LOOK_MAX_S = 5.0  # of one check of all series
WAIT = Backoff(60.0, 3600.0)  # between two tries to fill gaps that remain


@dataclass(frozen=True, slots=True)
class MissingBars:
    """A run of missing bars of one series, and how many bars are expected in it."""

    exchange: str
    symbol: str
    timeframe: str
    span: TimeRange
    bars: int


def count_bars(span: TimeRange, timeframe: str, calendar: str = ALWAYS) -> int:
    """Return how many bars are expected to open in `span`, whose ends are boundaries of `timeframe`."""
    if calendar == ALWAYS and TIMEFRAMES[timeframe]:
        return (span.end_ns - span.start_ns) // (TIMEFRAMES[timeframe] * NS)
    return len(calendar_of(calendar).expected(timeframe, span.start_ns, span.end_ns))


def expected_part(span: TimeRange, timeframe: str, calendar: str) -> tuple[TimeRange, int] | None:
    """Return the part of `span` from its first expected bar to its last, and the number of bars; None when none is
    expected."""
    if calendar == ALWAYS:
        count = count_bars(span, timeframe)
        return (span, count) if count > 0 else None
    starts = calendar_of(calendar).expected(timeframe, span.start_ns, span.end_ns)
    if not len(starts):
        return None
    return TimeRange(int(starts[0]), bar_end(int(starts[-1]), timeframe)), len(starts)


def expected_gaps(
    exchange: str, symbol: str, timeframe: str, spans: Iterable[TimeRange], calendar: str | None = None
) -> list[MissingBars]:
    """Return the `spans` in which bars are expected, cut to those. `calendar` is the series' own, None: the
    exchange's."""
    parts = (expected_part(span, timeframe, calendar_for(exchange, calendar, symbol)) for span in spans)
    return [MissingBars(exchange, symbol, timeframe, *part) for part in parts if part is not None]


def subtract(spans: Iterable[TimeRange], taken: Iterable[TimeRange]) -> list[TimeRange]:
    """Return the parts of `spans` outside `taken`, in the order of `spans`, the pieces of one newest first."""
    cuts = _joined(taken)
    starts, ends = [cut.start_ns for cut in cuts], [cut.end_ns for cut in cuts]
    left: list[TimeRange] = []
    for span in spans:
        pieces, at = [], span.start_ns
        for cut in cuts[bisect_right(ends, span.start_ns) : bisect_left(starts, span.end_ns)]:
            if at < cut.start_ns:
                pieces.append(TimeRange(at, cut.start_ns))
            at = cut.end_ns
        if at < span.end_ns:
            pieces.append(TimeRange(at, span.end_ns))
        left += reversed(pieces)
    return left


def _joined(spans: Iterable[TimeRange]) -> list[TimeRange]:
    """Return the union of `spans` without overlaps, oldest first."""
    joined: list[TimeRange] = []
    for span in sorted(spans, key=lambda span: span.start_ns):
        if joined and span.start_ns <= joined[-1].end_ns:
            joined[-1] = TimeRange(joined[-1].start_ns, max(joined[-1].end_ns, span.end_ns))
        else:
            joined.append(span)
    return joined


def overlap(spans: Iterable[TimeRange], others: Iterable[TimeRange]) -> list[TimeRange]:
    """Return the parts of `spans` that lie in `others`."""
    kept = list(spans)
    return subtract(kept, subtract(kept, others))


def settled(known: Iterable[KnownGap], now_ns: int) -> list[TimeRange]:
    """Return the parts of known gaps that are not requested again at present."""
    found = []
    for gap in known:
        if now_ns - gap.asked_ns < ASK_AGAIN_NS or gap.cause not in ("exchange", REFUSED, UNAVAILABLE):
            end = gap.span.end_ns
        elif gap.cause == UNAVAILABLE:  # of any age: these bars exist, and another request may bring them
            continue
        else:
            end = min(gap.span.end_ns, now_ns - YOUNG_NS)
        if gap.span.start_ns < end:
            found.append(TimeRange(gap.span.start_ns, end))
    return found


def closed_until(now_ns: int, timeframe: str) -> int:
    """Return the end of the newest bar that ended at least SETTLE_NS ago."""
    return bar_start(now_ns - SETTLE_NS, timeframe)


def calendar_for(exchange: str, kept: str | None = None, symbol: str = "", bars: Bars | None = None) -> str:
    """Return the name of a series' calendar: the one stored with it, else that of its exchange; of a futures contract
    that its exchange has. Of an unknown exchange the one that its `bars` keep to, 24/7 without them."""
    if kept is not None:
        return kept
    if exchange in EXCHANGES:
        return capabilities_of(exchange).calendar
    known = futures_calendar(exchange, symbol)
    return known or (ALWAYS if bars is None else guess_calendar(bars.time_ns, bars.timeframe))


def has_empty_bars(exchange: str) -> bool:
    """Return whether this exchange returns bars without a trade. If not, a missing bar is mostly one of those."""
    return exchange not in EXCHANGES or capabilities_of(exchange).has_empty_bars


class Gaps:
    """Finds the gaps of stored series. Errors of all methods: OutageError."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._store = GapStore(db)
        self._clock = clock

    async def missing(
        self,
        exchange: str,
        symbol: str,
        timeframe: str,
        start_ns: int,
        end_ns: int,
        *,
        is_all: bool = False,
        calendar: str | None = None,
    ) -> list[MissingBars]:
        """Return the gaps in [start, end), newest first; known gaps only with `is_all`, or when they are due.

        `calendar` is the one stored with the series, if any. Both ends are moved inwards to boundaries of `timeframe`.
        """
        start_ns = aligned(start_ns, timeframe)
        end_ns = bar_start(end_ns, timeframe)
        if start_ns >= end_ns:
            return []
        spans = await self._store.missing(exchange, symbol, timeframe, start_ns, end_ns)
        if spans and not is_all:
            known = await self._store.known(exchange, symbol, timeframe)
            spans = subtract(spans, settled(known, self._clock.now_ns()))
        return expected_gaps(exchange, symbol, timeframe, spans, calendar)


def aligned(time_ns: int, timeframe: str) -> int:
    """Return the first boundary of `timeframe` at or after `time_ns`."""
    start = bar_start(time_ns, timeframe)
    return start if start == time_ns else bar_end(start, timeframe)


@dataclass(slots=True)
class _Seen:
    """Result of the last check of a series: valid until the series changes."""

    revision: int
    clean_ns: int  # every bar before it is stored, or being fetched
    wanted: tuple[str | None, int | None, int | None]
    missing: tuple[MissingBars, ...] = ()
    wait_s: float = WAIT.first_s
    due_s: float = 0.0


class GapWatch:
    """Checks all series for gaps, repeatedly.

    Soft state: the result of the last check of each series. Guarantees: an unchanged series is not read; of one that
    only grew, the new part is read; gaps that remain are reported at growing intervals, up to `WAIT.max_s`.
    """

    def __init__(self, db: Database, clock: Clock, *, days: int) -> None:
        """`days`: the past in which a collected series is kept complete; a synced series is since the start of its
        sync."""
        self._gaps = Gaps(db, clock)
        self._store = GapStore(db)
        self._clock = clock
        self._days = days
        self._seen: dict[tuple[str, str, str], _Seen] = {}

    async def look(self) -> list[MissingBars]:
        """Return the gaps to fill now, newest first. Errors: OutageError.

        It takes LOOK_MAX_S and one series more: series that were never checked come first, the others the next time.
        """
        now_s = self._clock.monotonic()
        found: list[MissingBars] = []
        series = {(one.exchange, one.symbol, one.timeframe): one for one in await self._store.series() if is_kept(one)}
        self._seen = {key: seen for key, seen in self._seen.items() if key in series}
        for key in sorted(series, key=lambda key: key in self._seen):
            found += await self._check(series[key], now_s)
            if self._clock.monotonic() - now_s > LOOK_MAX_S:
                break
        return sorted(found, key=lambda gap: gap.span.end_ns, reverse=True)

    def missing_bars(self) -> dict[str, int]:
        """Return how many bars each exchange's series lacked at their last check, including gaps that wait."""
        found: dict[str, int] = {}
        for (exchange, _, _), seen in self._seen.items():
            found[exchange] = found.get(exchange, 0) + sum(gap.bars for gap in seen.missing)
        return found

    async def _check(self, one: Series, now_s: float) -> tuple[MissingBars, ...]:
        key = (one.exchange, one.symbol, one.timeframe)
        start_ns, end_ns = kept_range(one, self._clock.now_ns(), self._days)
        horizon_ns = aligned(start_ns, one.timeframe)
        seen = self._seen.get(key)
        wanted = (one.sync_status, one.wanted_from_ns, one.wanted_to_ns)
        if seen is not None and (seen.revision, seen.wanted) == (one.revision, wanted):
            if seen.missing:
                if now_s < seen.due_s:
                    return ()
            elif end_ns <= seen.clean_ns:
                return ()
            else:
                start_ns = max(start_ns, seen.clean_ns)
        if not has_empty_bars(one.exchange) and seen is not None and now_s < seen.due_s:
            return ()  # rarely traded symbols lack a bar each minute: these gaps are checked together
        missing = tuple(await self._gaps.missing(*key, start_ns, end_ns, calendar=one.calendar))
        if not is_synced(one):  # the time before the first collected bar is no gap
            missing = tuple(gap for gap in missing if gap.span.start_ns > horizon_ns)
        is_same = seen is not None and seen.missing == missing and bool(missing)
        wait_s = WAIT.next_s(seen.wait_s if is_same and seen is not None else 0.0)
        if not has_empty_bars(one.exchange):
            wait_s = max(wait_s, 10 * WAIT.first_s)
        clean_ns = min([end_ns, *(gap.span.start_ns for gap in missing)])
        self._seen[key] = _Seen(one.revision, clean_ns, wanted, missing, wait_s, now_s + wait_s)
        return missing


def is_kept(one: Series) -> bool:
    """Return whether the series is to be complete: it was synced, or its symbol is collected. A running sync fills its
    own gaps."""
    return one.sync_status == "done" or (
        one.is_collected and one.sync_status in (None, "failed") and one.newest_ns is not None
    )


def is_synced(one: Series) -> bool:
    """Return whether a sync set the time since which the series has to be complete."""
    return one.sync_status == "done" and one.wanted_from_ns is not None


def kept_range(one: Series, now_ns: int, days: int) -> tuple[int, int]:
    """Return the time in which a kept series has to be complete: [start, end), ns.

    A synced series has to be up to its requested end, or the present; a collected one up to its newest bar, since the
    collector itself adds what follows.
    """
    over_ns = closed_until(now_ns, one.timeframe)
    newest_ns = one.oldest_ns if one.newest_ns is None else bar_end(one.newest_ns, one.timeframe)
    start_ns, end_ns = now_ns - days * DAY_NS, over_ns
    is_live = one.is_collected and newest_ns is not None and over_ns - newest_ns < LIVE_NS
    if newest_ns is not None and (is_live or not is_synced(one)):
        end_ns = min(newest_ns, over_ns)
    if is_synced(one) and one.wanted_from_ns is not None:
        start_ns = one.wanted_from_ns
        if one.wanted_to_ns is not None:
            end_ns = min(end_ns, bar_start(one.wanted_to_ns, one.timeframe))
    if 0 < TIMEFRAMES[one.timeframe] < 60:
        start_ns = max(start_ns, end_ns - BARS_MAX * TIMEFRAMES[one.timeframe] * NS)
    return start_ns, end_ns
