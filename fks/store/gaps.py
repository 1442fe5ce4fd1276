"""Gaps: bars missing in the stored series, gaps known to stay, and other flaws of stored bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fks.model.timeframe import TIMEFRAMES, to_datetime
from fks.store.base import RowCount, SqlStore, reads
from fks.store.db import Database
from fks.store.sync import finite

SPANS_MAX = 200_000  # of one look at one series: the rest is found once these are filled


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A half-open time range [start, end), ns."""

    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class KnownGap:
    """A range of missing bars that was requested already: `cause` is exchange | unlisted | silent (no trade) where the
    exchange has none, refused where it has one that cannot be true, unavailable where it does not serve them."""

    span: TimeRange
    cause: str
    asked_ns: int


@dataclass(frozen=True, slots=True)
class Series:
    """One series: the stored span (`revision` changes with every correction) and the wanted span, by a sync
    (`wanted_to_ns` None: up to the present) or because its symbol is collected, in `frames` alone where these are set.
    `calendar`: the trading calendar given by an import; None: the exchange's."""

    exchange: str
    symbol: str
    timeframe: str
    candles: int
    oldest_ns: int | None
    newest_ns: int | None
    revision: int
    sync_status: str | None
    wanted_from_ns: int | None
    wanted_to_ns: int | None
    error: str | None
    is_collected: bool
    frames: tuple[str, ...] | None = None
    calendar: str | None = None


_span = reads(TimeRange, start_ns="gap_from", end_ns="gap_to")
_known = reads(KnownGap)
_series = reads(
    Series,
    oldest_ns="oldest",
    newest_ns="newest",
    wanted_from_ns="wanted_from",
    wanted_to_ns="wanted_to",
)


class GapStore(SqlStore[Database], queries="gaps"):
    """Finds missing bars in `ohlcv_data`; keeps `known_gaps`. Errors of all methods: OutageError."""

    async def missing(self, exchange: str, symbol: str, timeframe: str, start_ns: int, end_ns: int) -> list[TimeRange]:
        """Return where whole bars are missing in [start, end), newest first, calendars not considered.

        `start_ns` is where a bar of `timeframe` opens.
        """
        seconds = TIMEFRAMES[timeframe]
        step = f"{seconds} seconds" if seconds else "1 month"
        rows = await self._db.fetch(
            "gaps.missing", exchange, symbol, timeframe, to_datetime(start_ns), to_datetime(end_ns), step, SPANS_MAX
        )
        return [_span(row) for row in rows]

    async def known(self, exchange: str, symbol: str, timeframe: str) -> list[KnownGap]:
        """Return the known gaps of a series, oldest first."""

    async def note_known(
        self, exchange: str, symbol: str, timeframe: str, asked: TimeRange, found: Sequence[KnownGap]
    ) -> None:
        """Record that all of `asked` was requested from the exchange and that `found` is missing there, instead of
        earlier knowledge of it; neighbours with the same cause become one row."""
        key = (exchange, symbol, timeframe)
        async with self._db.transaction() as tx:
            rows = await tx.fetch("gaps.drop_known", *key, to_datetime(asked.start_ns), to_datetime(asked.end_ns))
            for gap in known_after([_known(row) for row in rows], asked, found):
                start, end = to_datetime(gap.span.start_ns), to_datetime(gap.span.end_ns)
                await tx.execute("gaps.add_known", *key, start, end, gap.cause, to_datetime(gap.asked_ns))

    async def forget_known(
        self, exchange: str | None = None, symbol: str | None = None, timeframe: str | None = None
    ) -> RowCount:
        """Forget known gaps, so that they are requested again; return how many."""

    async def series(self) -> list[Series]:
        """Return every series that is stored or wanted."""
        return [_series(finite(row)) for row in await self._db.fetch("gaps.series")]

    async def counts(self, exchange: str, symbol: str, timeframe: str, start_ns: int, end_ns: int) -> dict[str, Any]:
        """Return candles, nulls, duplicates, incomplete, silent, inconsistent, corrected, revision_max, corrected_at,
        oldest, newest of the stored bars in [start, end)."""

    async def outages(
        self, exchange: str | None = None, symbol: str | None = None, *, since_ns: int = 0, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return the outages of feeds, newest first: exchange, symbol, channel, began_at, ended_at, cause."""

    async def quarantined(self, exchange: str, symbol: str, timeframe: str) -> int:
        """Return how many bars of one series are in quarantine and not settled."""


def known_after(before: Iterable[KnownGap], asked: TimeRange, found: Iterable[KnownGap]) -> list[KnownGap]:
    """Return what is known once `found` is all that is missing in `asked`: `before` outside of it, neighbours of one
    cause joined."""
    outside = [
        KnownGap(TimeRange(start_ns, end_ns), gap.cause, gap.asked_ns)
        for gap in before
        for start_ns, end_ns in (
            (gap.span.start_ns, min(gap.span.end_ns, asked.start_ns)),
            (max(gap.span.start_ns, asked.end_ns), gap.span.end_ns),
        )
        if start_ns < end_ns
    ]
    known: list[KnownGap] = []
    for gap in sorted([*outside, *found], key=lambda gap: gap.span.start_ns):
        if known and known[-1].cause == gap.cause and gap.span.start_ns <= known[-1].span.end_ns:
            last = known.pop()
            whole = TimeRange(last.span.start_ns, max(last.span.end_ns, gap.span.end_ns))
            gap = KnownGap(whole, gap.cause, max(last.asked_ns, gap.asked_ns))
        known.append(gap)
    return known
