"""Fetching an exchange's past bars into the store, newest first, and recording the bars that the exchange lacks.

A missing bar is *known* to be missing when it was requested, the exchange has later bars, and RECENT_NS have passed
since its end. A bar that was returned and cannot be true is known too, with a cause of its own. Everything else is
requested again. Only bars that were absent in the answer are known: a bar that is lost later is a gap.

Bars that the exchange does not serve are made another way: of stored smaller bars where these are whole, else of its
trades. What neither gives is unavailable at the source: it counts against coverage, and is requested again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fks.clock import Clock
from fks.clock.waiting import retry
from fks.market.bars.aggregate import OpenBar, aggregate_bars, by_length, exact_decimal, length_of
from fks.market.history.confirmation import BarFilter, whole
from fks.market.history.gaps import DAY_NS, REFUSED, SETTLE_NS, UNAVAILABLE, aligned, count_bars
from fks.market.history.trade_bars import TradeBars
from fks.model.backoff import Backoff
from fks.model.bar import Bar, Bars, Ints
from fks.model.buckets import divides
from fks.model.calendars import calendar_of
from fks.model.errors import OutageError, invalid
from fks.model.ports import Exchange
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, bar_start, check_timeframe, to_datetime
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.gaps import GapStore, KnownGap, TimeRange
from fks.store.partitions import ensure_partitions
from fks.store.quarantine import QuarantineStore

CONFIRM = 200  # bars of one request whose empty answer is proof, whatever the exchange's page size is
EMPTY_MAX = 2  # empty windows in a row, before samples are requested to find out whether there is any earlier bar
SAMPLES = 8
RECENT_NS = 600 * NS  # younger bars may still be published
SILENT_RUNS_MAX = 100  # known gaps of one window in which nothing was traded; neighbours are joined beyond it
SLIDE = 20  # oldest bars of a limited answer that are not counted on: it moves on while requests wait
#: first length of a window whose bars are built from trades, and the requests of one after which the next is shorter or
#: longer: about half a minute's share of a small budget, so that little is lost when the process dies
TRADES_WINDOW_NS = 6 * 3600 * NS
REQUESTS_MIN, REQUESTS_MAX = 4, 16
TRIES, RETRY = 6, Backoff(1.0, 60.0)  # of one request, after the exchange has answered another


@dataclass(frozen=True, slots=True)
class FetchedWindow:
    """Result of one window, in bars: fetched and accepted, written (new or different), and proven to be unavailable
    (the exchange has none, or one that cannot be true).

    `is_asked` False: a time before the exchange's first bar, which was not requested.
    """

    window: TimeRange
    fetched: int
    written: int
    absent: int
    is_asked: bool = True


class HistoryFetcher:
    """Fetches bars of one exchange through REST. Errors of `fill`: InputError, OutageError, PeerError."""

    def __init__(self, exchange: Exchange, db: Database, clock: Clock) -> None:
        self._exchange = exchange
        self._db = db
        self._clock = clock
        self._bars, self._gaps = BarStore(db), GapStore(db)
        self._bar_filter = BarFilter(QuarantineStore(db), source="sync")
        self._trade_bars = TradeBars(exchange, clock)
        self._calendar = calendar_of(exchange.capabilities.calendar)
        # bars of one window; after a shorter page the next one is requested
        self._page = exchange.capabilities.bars_page_max
        self._has_answered = False
        self._partitioned_ns = 2**63

    def source(self, timeframe: str) -> str:
        """Return the timeframe to request: `timeframe`, or the largest of the exchange's own that it is built from.

        Errors: InputError TIMEFRAME_UNKNOWN.
        """
        own = self._exchange.capabilities.timeframes
        if check_timeframe(timeframe) in own:
            return timeframe
        fits = [
            f for f in own if 0 < TIMEFRAMES[f] < length_of(timeframe) and length_of(timeframe) % TIMEFRAMES[f] == 0
        ]
        if not fits:
            raise invalid(
                "TIMEFRAME_UNKNOWN",
                f"{self._exchange.name} has no {timeframe} bars, and none that make them",
                f"use one of {' '.join(by_length(own))}",
            )
        return by_length(fits)[-1]

    def count(self, timeframe: str, span: TimeRange) -> int:
        """Return how many bars the exchange's calendar expects in `span`."""
        return count_bars(span, timeframe, self._exchange.capabilities.calendar)

    async def fill(self, symbol: str, timeframe: str, span: TimeRange) -> AsyncIterator[FetchedWindow]:
        """Fetch and store the bars of `span`, newest first, yielding after each window is stored. Twice equals once."""
        source = self.source(timeframe)
        newest_ns = await self._newest(symbol, source)
        proven_ns = min(newest_ns or 0, self._clock.now_ns() - RECENT_NS)
        served_ns = self._served_from(source, timeframe, newest_ns)
        start_ns = await self._listed(symbol, timeframe, span, newest_ns)
        if start_ns > span.start_ns:
            unlisted = TimeRange(span.start_ns, min(start_ns, span.end_ns))
            noted = await self._note(symbol, timeframe, unlisted, {"unlisted": [unlisted]}, proven_ns)
            yield FetchedWindow(unlisted, 0, 0, noted, is_asked=False)
        end_ns = span.end_ns if newest_ns is None else min(span.end_ns, bar_start(newest_ns, timeframe))
        empty = 0
        while end_ns > max(start_ns, served_ns):
            window = TimeRange(max(start_ns, served_ns, self._back(end_ns, timeframe, source)), end_ns)
            step = await self._window(symbol, timeframe, source, window, proven_ns)
            yield step
            end_ns = window.start_ns
            empty = 0 if step.fetched else empty + 1
            before = TimeRange(start_ns, end_ns)
            if empty == EMPTY_MAX and end_ns > served_ns and not await self._has_any(symbol, source, before):
                if await self._has_traded(symbol, source, before):
                    break
                noted = await self._note(symbol, timeframe, before, {"exchange": [before]}, proven_ns)
                yield FetchedWindow(before, 0, 0, noted, is_asked=False)
                return
        if end_ns > start_ns:
            async for step in self._unserved(symbol, timeframe, TimeRange(start_ns, end_ns), proven_ns):
                yield step

    # ── bars that the exchange does not serve ───────────────────────────────────────────────────
    async def _unserved(
        self, symbol: str, timeframe: str, span: TimeRange, proven_ns: int
    ) -> AsyncIterator[FetchedWindow]:
        """Build and store the bars of `span`, newest first, yielding after each window."""
        oldest_ns = await self._trade_bars.served_from(symbol)
        start_ns = span.end_ns if oldest_ns is None else max(span.start_ns, bar_start(oldest_ns, timeframe))
        end_ns, size_ns = span.end_ns, TRADES_WINDOW_NS
        while end_ns > start_ns:
            begin_ns = bar_start(end_ns - size_ns, timeframe)
            window = TimeRange(max(start_ns, min(begin_ns, bar_start(end_ns - 1, timeframe))), end_ns)
            before = self._trade_bars.requests
            yield await self._built_window(symbol, timeframe, window, proven_ns)
            spent = self._trade_bars.requests - before
            if spent <= REQUESTS_MIN:
                size_ns = min(2 * size_ns, self._page * length_of(timeframe) * NS)
            elif spent > REQUESTS_MAX:
                size_ns //= 2
            end_ns = window.start_ns
        if span.start_ns < end_ns:
            rest = TimeRange(span.start_ns, end_ns)
            is_first = oldest_ns is not None and self._exchange.capabilities.bars_newest_max > 0
            cause = "unlisted" if is_first else UNAVAILABLE
            noted = await self._note(symbol, timeframe, rest, {cause: [rest]}, proven_ns)
            yield FetchedWindow(rest, 0, 0, noted, is_asked=False)

    async def _built_window(self, symbol: str, timeframe: str, window: TimeRange, proven_ns: int) -> FetchedWindow:
        bars, source = await self._built(symbol, timeframe, window)

        async def again(bar: Bar) -> Bar | None:
            one = TimeRange(bar.time_ns, bar_end(bar.time_ns, timeframe))
            return next(iter(await self._trade_bars.bars(symbol, timeframe, one)), None)

        bars = await self._bar_filter.confirmed(bars, again)
        written = await self._store(symbol, timeframe, bars, source)
        expected = self._calendar.expected(timeframe, window.start_ns, window.end_ns)
        absent = runs_missing(expected, times_of(bars), timeframe)
        if self._exchange.capabilities.has_empty_bars:
            found = {UNAVAILABLE: absent}
        else:
            found = {"silent": bridged(absent, SILENT_RUNS_MAX)}
        await self._note(symbol, timeframe, window, found, proven_ns)
        not_had = proven_part(absent, timeframe, proven_ns)
        return FetchedWindow(window, len(bars), written, sum(self.count(timeframe, span) for span in not_had))

    async def _built(self, symbol: str, timeframe: str, window: TimeRange) -> tuple[list[Bar], str]:
        """Return the bars of `window` and their source: stored smaller bars if none is missing, else trades."""
        name = self._exchange.name
        for smaller in reversed(by_length(TIMEFRAMES)):
            if not divides(smaller, timeframe) or smaller == timeframe:
                continue
            stored = await self._bars.read(symbol, smaller, window.start_ns, window.end_ns, exchange=name)
            if len(stored) and len(stored) == self.count(smaller, window):
                made = aggregate_bars(stored, timeframe, start_ns=window.start_ns, end_ns=window.end_ns)
                return [made.bar(row, name) for row in range(len(made))], "sync"
        return await self._trade_bars.bars(symbol, timeframe, window), "trades"

    async def _has_traded(self, symbol: str, source: str, span: TimeRange) -> bool:
        """Return whether the exchange's days show that the market traded in `span`, of which it returns no bars."""
        if source == "1d" or "1d" not in self._exchange.capabilities.timeframes:
            return False
        begin_ns = bar_start(span.start_ns, "1d")
        days = await self._ask(symbol, "1d", begin_ns, self._page, bar_start(span.end_ns, "1d"))
        return any(day.volume > 0 or day.trades > 0 for day in days)

    def _served_from(self, source: str, timeframe: str, newest_ns: int | None) -> int:
        """Return the open time of the oldest bar that can be requested, on a boundary of `timeframe`; 0: any."""
        most = self._exchange.capabilities.bars_newest_max
        if not most or newest_ns is None:
            return 0
        return aligned(newest_ns - (most - SLIDE) * length_of(source) * NS, timeframe)

    # ── one window ───────────────────────────────────────────────────────────────────────────────
    async def _window(
        self, symbol: str, timeframe: str, source: str, window: TimeRange, proven_ns: int
    ) -> FetchedWindow:
        rows = await self._fetched(symbol, source, window)

        async def again(bar: Bar) -> Bar | None:
            end_ns = bar_end(bar.time_ns, timeframe)
            count = (end_ns - bar.time_ns) // (length_of(source) * NS)
            page = await self._ask(symbol, source, bar.time_ns, count, end_ns)
            return next(iter(await self._possible(page, source, timeframe)), None)

        returned = rows if source == timeframe else folded(rows, timeframe)
        bars = await self._bar_filter.confirmed(await self._possible(rows, source, timeframe), again)
        written = await self._store(symbol, timeframe, bars, "sync")
        expected = self._calendar.expected(timeframe, window.start_ns, window.end_ns)
        there = times_of(bars)
        found = {
            REFUSED: runs_missing(expected, np.setdiff1d(expected, np.setdiff1d(times_of(returned), there)), timeframe)
        }
        absent = runs_missing(expected, np.union1d(there, times_of(returned)), timeframe)
        if self._exchange.capabilities.has_empty_bars:
            found["exchange"] = absent
        else:
            found["silent"] = bridged(absent, SILENT_RUNS_MAX)
        await self._note(symbol, timeframe, window, found, proven_ns)
        not_had = proven_part([*absent, *found[REFUSED]], timeframe, proven_ns)
        return FetchedWindow(window, len(bars), written, sum(self.count(timeframe, span) for span in not_had))

    async def _store(self, symbol: str, timeframe: str, bars: Sequence[Bar], source: str) -> int:
        """Store bars, oldest first; return how many were new or different."""
        if not bars:
            return 0
        await self._prepare(bars[0].time_ns)
        trades = [bar.trades for bar in bars]
        columns = Bars.of(symbol, timeframe, bars)
        merged = await self._bars.merge(columns, exchange=self._exchange.name, source=source, trades=trades)
        return merged.written

    async def _possible(self, rows: Sequence[Bar], source: str, timeframe: str) -> list[Bar]:
        """Return the `timeframe` bars of `rows`, without those in which a row cannot be true."""
        filtered = await self._bar_filter.filtered(rows)
        return whole(filtered if source == timeframe else folded(filtered, timeframe), filtered, timeframe)

    async def _fetched(self, symbol: str, source: str, window: TimeRange) -> list[Bar]:
        """Return the bars in `window`. An empty answer at its end counts only after it was requested in small
        pieces."""
        rows: list[Bar] = []
        at = window.start_ns
        while at < window.end_ns:
            page = await self._ask(symbol, source, at, self._page, window.end_ns)
            if not page:
                break
            rows += page
            at = bar_end(page[-1].time_ns, source)
        if at < window.end_ns and self._exchange.capabilities.has_empty_bars:
            while at < window.end_ns and len(self._calendar.expected(source, at, window.end_ns)):
                stop = min(window.end_ns, at + CONFIRM * length_of(source) * NS)
                rows += await self._ask(symbol, source, at, CONFIRM, stop)
                at = stop
        return rows

    async def _note(
        self, symbol: str, timeframe: str, window: TimeRange, found: Mapping[str, Sequence[TimeRange]], proven_ns: int
    ) -> int:
        """Replace the known gaps of `window` by the proven ones, by cause; return the number of their bars."""
        proven = proven_part([window], timeframe, proven_ns)
        if not proven:
            return 0
        asked_ns = self._clock.now_ns()
        known = [
            KnownGap(span, cause, asked_ns)
            for cause, spans in found.items()
            for span in proven_part(spans, timeframe, proven_ns)
        ]
        await self._gaps.note_known(self._exchange.name, symbol, timeframe, proven[0], known)
        return sum(self.count(timeframe, gap.span) for gap in known)

    # ── requests ────────────────────────────────────────────────────────────────────────────────
    async def _ask(self, symbol: str, source: str, since_ns: int | None, limit: int, until_ns: int) -> list[Bar]:
        """Return closed bars in [since, until). A failed request is repeated, if the exchange has answered one
        before."""
        page = await retry(
            lambda: self._exchange.fetch_bars(symbol, source, since_ns, limit, until_ns=until_ns),
            self._clock,
            RETRY,
            errors=OutageError,
            attempts_max=TRIES if self._has_answered else 1,
        )
        self._has_answered = True
        begin_ns = 0 if since_ns is None else since_ns
        return [bar for bar in page if begin_ns <= bar.time_ns and bar_end(bar.time_ns, source) <= until_ns]

    async def _newest(self, symbol: str, source: str) -> int | None:
        """Return the end of the exchange's newest closed bar. It is its own present, which for a replayed tape is in
        the past."""
        page = await self._ask(symbol, source, None, 3, self._clock.now_ns() - SETTLE_NS)
        return bar_end(page[-1].time_ns, source) if page else None

    async def _listed(self, symbol: str, timeframe: str, span: TimeRange, newest_ns: int | None) -> int:
        """Return the time to begin at: the start of `span`, or the first day of a market that was listed later.

        The years before a listing would otherwise be requested page by page, each of them empty.
        """
        if span.start_ns < self._served_from("1d", "1d", newest_ns):
            return span.start_ns  # the first day of the answer is no listing
        short = span.end_ns - span.start_ns <= self._page * length_of(timeframe) * NS
        if short or "1d" not in self._exchange.capabilities.timeframes:
            return span.start_ns
        days = await self._ask(symbol, "1d", bar_start(span.start_ns, "1d"), self._page, span.end_ns)
        if not days or days[0].time_ns - span.start_ns < DAY_NS:
            return span.start_ns
        return max(span.start_ns, bar_start(days[0].time_ns, timeframe))

    async def _has_any(self, symbol: str, source: str, span: TimeRange) -> bool:
        """Return whether the exchange has bars in `span`, by samples; True without any for a short one: a market may
        have had no trades for a month."""
        size_ns = CONFIRM * length_of(source) * NS
        step_ns = (span.end_ns - span.start_ns) // SAMPLES
        if step_ns <= self._page * length_of(source) * NS:
            return True
        starts = (bar_start(span.start_ns + i * step_ns, source) for i in reversed(range(SAMPLES)))
        for start_ns in starts:
            if await self._ask(symbol, source, start_ns, CONFIRM, min(start_ns + size_ns, span.end_ns)):
                return True
        return False

    async def _prepare(self, since_ns: int) -> None:
        if since_ns < self._partitioned_ns:  # newest first: a month at a time, as it is reached
            await ensure_partitions(self._db, to_datetime(self._clock.now_ns()), since=to_datetime(since_ns))
            self._partitioned_ns = bar_start(since_ns, "1M")

    def _back(self, end_ns: int, timeframe: str, source: str) -> int:
        """Return the start of the window that ends at `end_ns`, on a boundary of `timeframe`."""
        begin = bar_start(end_ns - self._page * length_of(source) * NS, timeframe)
        return begin if begin < end_ns else bar_start(end_ns - 1, timeframe)


def folded(rows: Sequence[Bar], timeframe: str) -> list[Bar]:
    """Return the `timeframe` bars of smaller ones that cover whole bars, as the exchange aggregates them."""
    groups: list[tuple[OpenBar, Bar]] = []
    for row in rows:
        made = groups.pop()[0] if groups and row.time_ns < groups[-1][0].end_ns else OpenBar.at(row.time_ns, timeframe)
        made.fold_bar(row)
        groups.append((made, row))
    sealed = [made.seal(last.exchange, last.symbol, timeframe, exact_decimal(last.close)) for made, last in groups]
    return [bar for bar in sealed if bar is not None]


def runs_missing(expected: Ints, there: Ints, timeframe: str) -> list[TimeRange]:
    """Return the runs of `expected` open times that are not `there`, oldest first; the time between two sessions does
    not split a run."""
    is_missing = ~np.isin(expected, there)
    if not is_missing.any():
        return []
    edges = np.flatnonzero(np.diff(is_missing.astype(np.int8), prepend=0, append=0))
    return [
        TimeRange(int(expected[first]), bar_end(int(expected[last - 1]), timeframe))
        for first, last in zip(edges[::2], edges[1::2], strict=True)
    ]


def bridged(runs: Sequence[TimeRange], most: int) -> list[TimeRange]:
    """Return at most `most` runs (oldest first): those with the shortest distances between them are joined."""
    if len(runs) <= most:
        return list(runs)
    between = [later.start_ns - run.end_ns for run, later in pairwise(runs)]
    longest = sorted(sorted(range(len(between)), key=between.__getitem__)[len(between) - most + 1 :])
    return [
        TimeRange(runs[first].start_ns, runs[last].end_ns)
        for first, last in zip([0, *(at + 1 for at in longest)], [*longest, len(runs) - 1], strict=True)
    ]


def proven_part(spans: Sequence[TimeRange], timeframe: str, proven_ns: int) -> list[TimeRange]:
    """Return the whole bars of `spans` that end by `proven_ns`."""
    until_ns = bar_start(proven_ns, timeframe)
    return [TimeRange(span.start_ns, min(span.end_ns, until_ns)) for span in spans if span.start_ns < until_ns]


def times_of(bars: Sequence[Bar]) -> Ints:
    """Return the open times of `bars`, shape (n,)."""
    return np.array([bar.time_ns for bar in bars], dtype=np.int64)
