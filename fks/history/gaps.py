"""What is missing: the bars a calendar expects, less those stored, less those the exchange was asked for and has not.

A gap of the last days that the exchange had nothing for is asked for once more each day (exchanges mend their history),
then it is settled. `GapWatch` looks at every series that somebody wants whole; one that did not change costs nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from fks.bars.calendars import ALWAYS, calendar_of
from fks.clock import Clock
from fks.exchanges.registry import EXCHANGES, capabilities_of
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, bar_start
from fks.store.db import Database
from fks.store.gaps import GapStore, Hole, KnownGap, Series

DAY_NS = 86400 * NS
ASK_AGAIN_NS = DAY_NS  # how often a young known gap is asked for again,
YOUNG_NS = 7 * DAY_NS  # and until what age
SETTLE_NS = 10 * NS  # a bar is asked for this long after its end: clocks differ, exchanges finish their books
REFUSED = "refused"  # the cause of a known gap where the exchange has a bar, and it cannot be true
LIVE_NS = 600 * NS  # the collector keeps its own series up to date; behind by this much, history is fetched as well
BARS_MAX = 50_000  # of one look at bars shorter than a minute: 14 hours of seconds
LOOK_MAX_S = 5.0  # of one round over all series
WAIT_FIRST_S, WAIT_MAX_S = 60.0, 3600.0  # between two tries to fill gaps that stay


@dataclass(frozen=True, slots=True)
class Missing:
    """A run of missing bars of one series, and how many bars are expected in it."""

    exchange: str
    symbol: str
    timeframe: str
    hole: Hole
    bars: int


def count_bars(hole: Hole, timeframe: str, calendar: str = ALWAYS) -> int:
    """Return how many bars are expected to open in `hole`, whose ends are boundaries of `timeframe`."""
    if calendar == ALWAYS and TIMEFRAMES[timeframe]:
        return (hole.end_ns - hole.start_ns) // (TIMEFRAMES[timeframe] * NS)
    return len(calendar_of(calendar).expected(timeframe, hole.start_ns, hole.end_ns))


def expected_part(hole: Hole, timeframe: str, calendar: str) -> tuple[Hole, int] | None:
    """Return the part of `hole` from its first expected bar to its last, and their number; None when none is
    expected."""
    if calendar == ALWAYS:
        count = count_bars(hole, timeframe)
        return (hole, count) if count > 0 else None
    starts = calendar_of(calendar).expected(timeframe, hole.start_ns, hole.end_ns)
    if not len(starts):
        return None
    return Hole(int(starts[0]), bar_end(int(starts[-1]), timeframe)), len(starts)


def expected_gaps(
    exchange: str, symbol: str, timeframe: str, holes: Iterable[Hole], calendar: str | None = None
) -> list[Missing]:
    """Return the `holes` in which bars are expected, by the exchange's calendar or by the one that is kept, cut to
    those."""
    parts = (expected_part(hole, timeframe, calendar_for(exchange, calendar)) for hole in holes)
    return [Missing(exchange, symbol, timeframe, *part) for part in parts if part is not None]


def subtract(holes: Iterable[Hole], taken: Iterable[Hole]) -> list[Hole]:
    """Return what is left of `holes` outside `taken`, in the order of `holes`, the pieces of one newest first."""
    cuts = _joined(taken)
    starts, ends = [cut.start_ns for cut in cuts], [cut.end_ns for cut in cuts]
    left: list[Hole] = []
    for hole in holes:
        pieces, at = [], hole.start_ns
        for cut in cuts[bisect_right(ends, hole.start_ns) : bisect_left(starts, hole.end_ns)]:
            if at < cut.start_ns:
                pieces.append(Hole(at, cut.start_ns))
            at = cut.end_ns
        if at < hole.end_ns:
            pieces.append(Hole(at, hole.end_ns))
        left += reversed(pieces)
    return left


def _joined(holes: Iterable[Hole]) -> list[Hole]:
    """Return the same time without overlaps, oldest first."""
    joined: list[Hole] = []
    for hole in sorted(holes, key=lambda hole: hole.start_ns):
        if joined and hole.start_ns <= joined[-1].end_ns:
            joined[-1] = Hole(joined[-1].start_ns, max(joined[-1].end_ns, hole.end_ns))
        else:
            joined.append(hole)
    return joined


def overlap(holes: Iterable[Hole], others: Iterable[Hole]) -> list[Hole]:
    """Return the parts of `holes` that lie in `others`."""
    kept = list(holes)
    return subtract(kept, subtract(kept, others))


def settled(known: Iterable[KnownGap], now_ns: int) -> list[Hole]:
    """Return the parts of known gaps that are not asked for again at present."""
    found = []
    for gap in known:
        is_due = gap.cause in ("exchange", REFUSED) and now_ns - gap.asked_ns >= ASK_AGAIN_NS
        end = min(gap.hole.end_ns, now_ns - YOUNG_NS) if is_due else gap.hole.end_ns
        if gap.hole.start_ns < end:
            found.append(Hole(gap.hole.start_ns, end))
    return found


def closed_until(now_ns: int, timeframe: str) -> int:
    """Return the end of the newest bar that is over, and has been for SETTLE_NS."""
    return bar_start(now_ns - SETTLE_NS, timeframe)


def calendar_for(exchange: str, kept: str | None = None) -> str:
    """Return the name of a series' calendar: the one that is kept with it, else that of its exchange's market."""
    if kept is not None:
        return kept
    return capabilities_of(exchange).calendar if exchange in EXCHANGES else ALWAYS


def has_empty_bars(exchange: str) -> bool:
    """Return whether this exchange returns bars without a trade. If not, a missing bar is mostly one of those."""
    return exchange not in EXCHANGES or capabilities_of(exchange).has_empty_bars


class Gaps:
    """Finds what is missing in stored series. Errors of all methods: OutageError."""

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
    ) -> list[Missing]:
        """Return the missing runs in [start, end), newest first; known gaps only with `is_all`, or when they are due.

        `calendar` is the one kept with the series, if any. Both ends are brought to boundaries of `timeframe` that lie
        within.
        """
        start_ns = aligned(start_ns, timeframe)
        end_ns = bar_start(end_ns, timeframe)
        if start_ns >= end_ns:
            return []
        holes = await self._store.holes(exchange, symbol, timeframe, start_ns, end_ns)
        if holes and not is_all:
            known = await self._store.known(exchange, symbol, timeframe)
            holes = subtract(holes, settled(known, self._clock.now_ns()))
        return expected_gaps(exchange, symbol, timeframe, holes, calendar)


def aligned(time_ns: int, timeframe: str) -> int:
    """Return the first boundary of `timeframe` at or after `time_ns`."""
    start = bar_start(time_ns, timeframe)
    return start if start == time_ns else bar_end(start, timeframe)


@dataclass(slots=True)
class _Seen:
    """What the last look at a series found: valid while nothing in it changed."""

    revision: int
    clean_ns: int  # everything wanted before it is there, or being filled
    wanted: tuple[str | None, int | None, int | None]
    missing: tuple[Missing, ...] = ()
    wait_s: float = WAIT_FIRST_S
    due_s: float = 0.0


class GapWatch:
    """Looks for gaps again and again.

    Soft state: what each series was like at the last look. Guarantees: a series in which nothing changed is not read;
    one that only grew is read where it grew; gaps that stay are reported at growing intervals, up to WAIT_MAX_S.
    """

    def __init__(self, db: Database, clock: Clock, *, days: int) -> None:
        """`days`: how far back a collected series is kept whole; one that was synced is since its sync began."""
        self._gaps = Gaps(db, clock)
        self._store = GapStore(db)
        self._clock = clock
        self._days = days
        self._seen: dict[tuple[str, str, str], _Seen] = {}

    async def look(self) -> list[Missing]:
        """Return the gaps to fill now, newest first. Errors: OutageError.

        It takes LOOK_MAX_S and one series more: what was never looked at comes first, and the rest the next time.
        """
        now_s = self._clock.monotonic()
        found: list[Missing] = []
        series = {(one.exchange, one.symbol, one.timeframe): one for one in await self._store.series() if is_kept(one)}
        self._seen = {key: seen for key, seen in self._seen.items() if key in series}
        for key in sorted(series, key=lambda key: key in self._seen):
            found += await self._look_at(series[key], now_s)
            if self._clock.monotonic() - now_s > LOOK_MAX_S:
                break
        return sorted(found, key=lambda gap: gap.hole.end_ns, reverse=True)

    def missing_bars(self) -> dict[str, int]:
        """Return how many bars each exchange's series lacked when they were last looked at, those that wait
        included."""
        found: dict[str, int] = {}
        for (exchange, _, _), seen in self._seen.items():
            found[exchange] = found.get(exchange, 0) + sum(gap.bars for gap in seen.missing)
        return found

    async def _look_at(self, one: Series, now_s: float) -> tuple[Missing, ...]:
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
            return ()  # what traded seldom has new holes each minute: they are looked at together
        missing = tuple(await self._gaps.missing(*key, start_ns, end_ns, calendar=one.calendar))
        if not is_synced(one):  # what came before the first collected bar is nobody's gap
            missing = tuple(gap for gap in missing if gap.hole.start_ns > horizon_ns)
        is_same = seen is not None and seen.missing == missing and bool(missing)
        wait_s = min(seen.wait_s * 2, WAIT_MAX_S) if is_same and seen is not None else WAIT_FIRST_S
        if not has_empty_bars(one.exchange):
            wait_s = max(wait_s, 10 * WAIT_FIRST_S)
        clean_ns = min([end_ns, *(gap.hole.start_ns for gap in missing)])
        self._seen[key] = _Seen(one.revision, clean_ns, wanted, missing, wait_s, now_s + wait_s)
        return missing


def is_kept(one: Series) -> bool:
    """Return whether somebody wants the series whole: it was synced, or its symbol is collected. A sync under way sees
    to itself."""
    return one.sync_status == "done" or (
        one.is_collected and one.sync_status in (None, "failed") and one.newest_ns is not None
    )


def is_synced(one: Series) -> bool:
    """Return whether a sync says since when the series has to be whole."""
    return one.sync_status == "done" and one.wanted_from_ns is not None


def kept_range(one: Series, now_ns: int, days: int) -> tuple[int, int]:
    """Return the time in which a kept series has to be whole: [start, end), ns.

    A synced one up to the end that was wanted, or the present; what is collected up to its newest bar, as the collector
    is at it.
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
