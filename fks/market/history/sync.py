"""Sync of history: an exchange's bars into `ohlcv_data`, with its progress in `sync_status`.

A sync fetches the wanted bars that are not stored, newest first. So a killed sync resumes where it was, and a repeated
one requests nothing. `cursor` only shows progress; the stored bars decide what is fetched.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from fks.clock import Clock
from fks.market.history.fetch import HistoryFetcher
from fks.market.history.gaps import DAY_NS, Gaps, MissingBars, closed_until, subtract
from fks.model.errors import FksError, InputError, OutageError, PeerError, invalid
from fks.model.instrument import Instrument, find_instrument
from fks.model.ports import Exchange, Log
from fks.model.timeframe import bar_start, check_timeframe, iso
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.gaps import TimeRange
from fks.store.sync import Begun, SyncRow, SyncStore

DAYS_INIT = 730  # the owner's `init`: two years
TIMEFRAMES_INIT = ("1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M")
BEAT_S = 15.0
LOOK_S = 2.0  # interval of looking for more waiting syncs while some run

#: called with (bars done, bars in all) after each window
Progress = Callable[[int, int], None]


class QuietLog:
    """A Log that discards everything, for callers that use results, errors and stored values: commands, jobs,
    notebooks."""

    def debug(self, event: str, **fields: object) -> None: ...
    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, **fields: object) -> None: ...


class SyncStopped(FksError):
    """The caller stopped the sync; stored bars stay."""


@dataclass(frozen=True, slots=True)
class Synced:
    """Result of a sync: bars fetched, of them new or changed, bars that the exchange does not have; and the stored
    series afterwards."""

    symbol: str
    timeframe: str
    fetched: int
    changed: int
    absent: int
    candles: int
    oldest_ns: int | None
    newest_ns: int | None


def check_range(start_ns: int, end_ns: int | None, now_ns: int) -> None:
    """Refuse a range without any bar: before 1970, reversed, or in the future. Errors: InputError."""
    text = f"no history from {iso(start_ns)} to {'now' if end_ns is None else iso(end_ns)}"
    if start_ns < 0:
        raise invalid("RANGE", f"{text}: it begins before 1970", "give a start that is later")
    if start_ns >= min(now_ns, now_ns if end_ns is None else end_ns):
        raise invalid("RANGE", f"{text}: it ends before it begins, or lies ahead", "give a start that is earlier")


def to_do(begun: Begun, start_ns: int, end_ns: int | None) -> tuple[int, int | None]:
    """Return the range to check for missing bars, so that the row's whole range is done after a request for [start,
    end).

    It is the whole range, unless that was done before: then it is the requested range and the time between the two.
    """
    if begun.done_from_ns is None:
        return begun.from_ns, begun.to_ns
    start_ns = start_ns if begun.done_to_ns is None else min(start_ns, begun.done_to_ns)
    return start_ns, None if end_ns is None else max(end_ns, begun.done_from_ns)


class Sync:
    """Fetches history of one exchange, one series at a time.

    Symbols are in the exchange's spelling; those of waiting rows may be in any. A row's range that is not done yet is
    fetched together with the requested one. Errors of all methods: InputError (unknown symbol or timeframe; RANGE:
    dates reversed, in the future or before 1970; the waiting row becomes failed), OutageError and PeerError (the row
    waits, and a running system tries again).
    """

    def __init__(
        self, exchange: Exchange, db: Database, clock: Clock, log: Log, *, should_stop: Callable[[], bool] | None = None
    ) -> None:
        """`should_stop` is called after each window; True ends the sync with SyncStopped."""
        self._exchange = exchange
        self._clock = clock
        self._log = log
        self._bars, self._status = BarStore(db), SyncStore(db)
        self._history, self._gaps = HistoryFetcher(exchange, db, clock), Gaps(db, clock)
        self._should_stop = should_stop or (lambda: False)
        self._instruments: dict[str, Instrument] | None = None
        self._listing = asyncio.Lock()

    async def init(
        self, symbol: str, timeframe: str, *, days: int = DAYS_INIT, progress: Progress | None = None
    ) -> Synced:
        """Fetch the bars of the last `days` days that are not stored."""
        return await self.sync(symbol, timeframe, self._clock.now_ns() - days * DAY_NS, progress=progress)

    async def sync(
        self,
        symbol: str,
        timeframe: str,
        start_ns: int,
        end_ns: int | None = None,
        *,
        is_again: bool = False,
        progress: Progress | None = None,
    ) -> Synced:
        """Fetch the bars of [start, end) that are not stored, by default up to the present.

        `is_again` fetches all of it, also stored and known missing bars: bars that differ are corrected.
        """
        check_timeframe(timeframe)
        check_range(start_ns, end_ns, self._clock.now_ns())
        begun = await self._begin(symbol, timeframe, start_ns, end_ns)
        async with self._status_updates(symbol, timeframe, by_hand=True):
            return await self._done(symbol, timeframe, begun, (start_ns, end_ns), is_again, progress)

    async def update(self, symbol: str, timeframe: str, *, progress: Progress | None = None) -> Synced:
        """Fetch the bars after the newest stored one; all of `init` when nothing is stored.

        An unfinished sync is resumed, and one with an end is completed up to there.
        """
        check_timeframe(timeframe)
        row = await self._status.get(self._exchange.name, symbol, timeframe)
        if row is not None and (row.status != "done" or row.wanted_to_ns is not None):
            start_ns = self._default_ns() if row.wanted_from_ns is None else row.wanted_from_ns
            return await self.sync(symbol, timeframe, start_ns, row.wanted_to_ns, progress=progress)
        _, _, newest_ns = await self._bars.edges(symbol, timeframe, exchange=self._exchange.name)
        if newest_ns is None:
            return await self.init(symbol, timeframe, progress=progress)
        return await self.sync(symbol, timeframe, newest_ns, progress=progress)

    async def run_pending(self, *, at_once: int = 1) -> int:
        """Run every sync of this exchange that waits or lost its runner, also those requested meanwhile; return how
        many ended. Errors: OutageError after the last one; unfinished syncs wait."""
        count, running, failed = 0, set[asyncio.Task[bool]](), list[BaseException]()
        try:
            while True:
                while not failed and len(running) < at_once and (row := await self._status.claim(self._exchange.name)):
                    running.add(asyncio.create_task(self._run_row(row)))
                if not running:
                    break
                ended, running = await asyncio.wait(running, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    error = task.exception()
                    failed += [] if error is None else [error]
                    count += error is None and task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if failed:
            raise failed[0]
        return count

    async def _run_row(self, row: SyncRow) -> bool:
        """Run one claimed sync; False when it is impossible, with the reason in its row."""
        wanted = (self._default_ns() if row.wanted_from_ns is None else row.wanted_from_ns, row.wanted_to_ns)
        try:
            async with self._status_updates(row.symbol, row.timeframe, by_hand=False):
                if row.status == "failed":  # set when the row was read: the range is impossible
                    raise invalid("RANGE", str(row.error))
                check_range(*wanted, self._clock.now_ns())
                symbol = await self._spelled(row.symbol)
                if symbol != row.symbol:  # the next claim finds it under its new name
                    await self._status.respell(row.exchange, row.symbol, symbol)
                    return False
                begun = await self._begin(symbol, row.timeframe, *wanted)
                await self._done(symbol, row.timeframe, begun, wanted, False, None)
        except (InputError, PeerError) as error:  # the next sync is not affected
            self._log.warning("sync.failed", symbol=row.symbol, timeframe=row.timeframe, error=str(error))
            return False
        return True

    async def _spelled(self, symbol: str) -> str:
        """Return the exchange's own spelling; `symbol` itself if the exchange has no listing. Errors: InputError."""
        async with self._listing:
            if self._instruments is None:
                self._instruments = {item.symbol: item for item in await self._exchange.instruments()}
        if not self._instruments or symbol in self._instruments:
            return symbol
        return find_instrument(symbol, self._instruments.values()).symbol

    def _default_ns(self) -> int:
        return self._clock.now_ns() - DAYS_INIT * DAY_NS

    async def _begin(self, symbol: str, timeframe: str, start_ns: int, end_ns: int | None) -> Begun:
        name, default_ns = self._exchange.name, self._default_ns()
        return await self._status.begin(name, symbol, timeframe, start_ns, end_ns, default_ns=default_ns)

    async def fill(self, gaps: Sequence[MissingBars]) -> tuple[int, int]:
        """Fill gaps of this exchange, in the order given; return numbers of bars (new or changed, proven not to exist).

        A refused series does not stop the others: the first refusal is raised after they are filled.
        """
        written = absent = 0
        refused: dict[tuple[str, str], InputError] = {}
        for gap in gaps:
            if (gap.symbol, gap.timeframe) in refused:
                continue
            try:
                async for step in self._history.fill(gap.symbol, gap.timeframe, gap.span):
                    written, absent = written + step.written, absent + step.absent
                    self._check_wanted()
            except InputError as error:
                refused[gap.symbol, gap.timeframe] = error
                self._log.warning("gap.refused", symbol=gap.symbol, timeframe=gap.timeframe, error=str(error))
                continue
            self._log.info(
                "gap.filled",
                exchange=gap.exchange,
                symbol=gap.symbol,
                timeframe=gap.timeframe,
                start=iso(gap.span.start_ns),
                end=iso(gap.span.end_ns),
                bars=gap.bars,
            )
        if refused:
            raise next(iter(refused.values()))
        return written, absent

    @contextlib.asynccontextmanager
    async def _status_updates(self, symbol: str, timeframe: str, *, by_hand: bool) -> AsyncIterator[None]:
        """Keep the row's heartbeat, and record why the sync ends early; a sync that a person stops is not resumed
        automatically."""
        key = (self._exchange.name, symbol, timeframe)
        beating = asyncio.create_task(self._beat(*key))
        try:
            yield
        except FksError as error:
            await self._status.give_up(*key, str(error), is_final=isinstance(error, InputError | SyncStopped))
            raise
        except asyncio.CancelledError:  # Ctrl-C, or a process that ends in order
            await self._status.give_up(*key, "stopped; the same sync goes on where it was", is_final=by_hand)
            raise
        finally:
            beating.cancel()

    async def _done(
        self,
        symbol: str,
        timeframe: str,
        begun: Begun,
        asked: tuple[int, int | None],
        is_again: bool,
        progress: Progress | None,
    ) -> Synced:
        """Fetch, and record that it is done."""
        done = await self._run(symbol, timeframe, to_do(begun, *asked), asked if is_again else None, progress)
        await self._status.finish(self._exchange.name, symbol, timeframe, begun.from_ns, begun.to_ns)
        self._log.info(
            "sync.done",
            symbol=symbol,
            timeframe=timeframe,
            fetched=done.fetched,
            changed=done.changed,
            absent=done.absent,
        )
        return done

    async def _beat(self, exchange: str, symbol: str, timeframe: str) -> None:
        """Update the row's heartbeat: a sync may wait for minutes at an exchange with a small budget."""
        while True:
            await self._clock.sleep(BEAT_S)
            with contextlib.suppress(OutageError):
                await self._status.beat(exchange, symbol, timeframe)

    async def _to_fetch(
        self, symbol: str, timeframe: str, wanted: tuple[int, int | None], again: tuple[int, int | None] | None
    ) -> list[TimeRange]:
        """Return the ranges to fetch, newest first: the gaps of `wanted`, and all of `again`."""
        over_ns = closed_until(self._clock.now_ns(), timeframe)

        def whole(start_ns: int, end_ns: int | None) -> TimeRange:
            end_ns = over_ns if end_ns is None else min(bar_start(end_ns, timeframe), over_ns)
            return TimeRange(bar_start(start_ns, timeframe), end_ns)

        part = whole(*wanted)
        gaps = await self._gaps.missing(self._exchange.name, symbol, timeframe, part.start_ns, part.end_ns)
        spans = [gap.span for gap in gaps]
        if again is not None and (asked := whole(*again)).start_ns < asked.end_ns:
            spans = sorted([asked, *subtract(spans, [asked])], key=lambda span: span.end_ns, reverse=True)
        return spans

    async def _run(
        self,
        symbol: str,
        timeframe: str,
        wanted: tuple[int, int | None],
        again: tuple[int, int | None] | None,
        progress: Progress | None,
    ) -> Synced:
        name = self._exchange.name
        self._history.source(timeframe)  # an unknown timeframe is refused before any request
        spans = await self._to_fetch(symbol, timeframe, wanted, again)
        total = sum(self._history.count(timeframe, span) for span in spans)
        done = fetched = written = absent = 0
        for span in spans:
            async for step in self._history.fill(symbol, timeframe, span):
                fetched, written, absent = fetched + step.fetched, written + step.written, absent + step.absent
                bars = self._history.count(timeframe, step.window)
                # absent bars take no time, and are no measure of the rest
                gone = step.absent if step.is_asked else bars
                done, total = done + bars - gone, total - gone
                await self._status.advance(name, symbol, timeframe, step.window.start_ns)
                if progress is not None:
                    progress(min(done, total), total)
                self._check_wanted()
        edges = await self._bars.edges(symbol, timeframe, exchange=name)
        return Synced(symbol, timeframe, fetched, written, absent, *edges)

    def _check_wanted(self) -> None:
        if self._should_stop():
            raise SyncStopped("stopped on request", remedy="'fks data sync' goes on where it stands")
