"""History on demand: an exchange's bars into `ohlcv_data`, with `sync_status` saying how that stands.

A sync fetches what is wanted and not there, newest first. So it goes on where it was when it was killed, and one that is
repeated asks for nothing. `cursor` tells how far it is; what is there is what counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fks.clock import Clock
from fks.data.gaps import DAY_NS, Gaps, Missing, closed_until
from fks.data.history import History
from fks.model.errors import FksError, InputError, OutageError, PeerError
from fks.model.ports import Exchange, Log
from fks.model.timeframe import bar_start, check_timeframe, iso
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.gaps import Hole
from fks.store.sync import SyncRow, SyncStore

DAYS_INIT = 730  # the owner's `init`: two years
TIMEFRAMES_INIT = ("1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M")
BEAT_S = 15.0
LOOK_S = 2.0  # how often it is looked for more to do while something runs

#: told (bars done, bars in all) after each window
Progress = Callable[[int, int], None]


class QuietLog:
    """A Log for callers that are told by what is returned, raised and stored: commands, jobs, notebooks."""

    def debug(self, event: str, **fields: object) -> None: ...
    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, **fields: object) -> None: ...


class Stopped(FksError):
    """Whoever started the sync wants it to end; what is stored stays."""


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync did: bars fetched, of them new or changed, those the exchange has not; and what the series holds now."""

    symbol: str
    timeframe: str
    fetched: int
    changed: int
    absent: int
    candles: int
    oldest_ns: int | None
    newest_ns: int | None


class Sync:
    """Fetches history of one exchange, one series at a time. Symbols are in the exchange's spelling.

    Errors of all methods: InputError (unknown symbol or timeframe, reversed dates: the row says failed), OutageError and
    PeerError (the row waits, and a running system tries again).
    """

    def __init__(
        self, exchange: Exchange, db: Database, clock: Clock, log: Log, *, should_stop: Callable[[], bool] | None = None
    ) -> None:
        """`should_stop` is asked after each window; yes ends the sync with Stopped."""
        self._exchange = exchange
        self._clock = clock
        self._log = log
        self._bars, self._status = BarStore(db), SyncStore(db)
        self._history, self._gaps = History(exchange, db, clock), Gaps(db, clock)
        self._should_stop = should_stop or (lambda: False)

    async def init(
        self, symbol: str, timeframe: str, *, days: int = DAYS_INIT, progress: Progress | None = None
    ) -> Synced:
        """Fetch what is not there of the last `days` days."""
        return await self.sync(symbol, timeframe, self._clock.now_ns() - days * DAY_NS, progress=progress)

    async def sync(
        self, symbol: str, timeframe: str, start_ns: int, end_ns: int | None = None, *, is_again: bool = False,
        progress: Progress | None = None,
    ) -> Synced:  # fmt: skip
        """Fetch what is not there of [start, end), by default up to the present.

        `is_again` asks for everything, also for what is there or known to be missing: bars that differ are corrected.
        """
        check_timeframe(timeframe)
        now_ns = self._clock.now_ns()
        if start_ns >= min(now_ns, now_ns if end_ns is None else end_ns):
            end = "now" if end_ns is None else iso(end_ns)
            raise InputError(
                f"no history from {iso(start_ns)} to {end}: it ends before it begins, or lies ahead", code="RANGE",
                remedy="give a start that is earlier",
            )  # fmt: skip
        await self._status.begin(self._exchange.name, symbol, timeframe, start_ns, end_ns)
        return await self._told(symbol, timeframe, start_ns, end_ns, is_again, progress, by_hand=True)

    async def update(self, symbol: str, timeframe: str, *, progress: Progress | None = None) -> Synced:
        """Fetch what came after the newest stored bar; all of `init` when nothing is stored."""
        check_timeframe(timeframe)
        _, _, newest_ns = await self._bars.edges(symbol, timeframe, exchange=self._exchange.name)
        if newest_ns is None:
            return await self.init(symbol, timeframe, progress=progress)
        return await self.sync(symbol, timeframe, newest_ns, progress=progress)

    async def run_pending(self, *, at_once: int = 1) -> int:
        """Run every sync of this exchange that waits, or whose runner is gone, also those asked for meanwhile; return how
        many came to their end. Errors: OutageError once nothing runs any more; what did not end waits."""
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
        """Run one claimed sync; False when its row says why it cannot be."""
        start_ns = row.wanted_from_ns
        if start_ns is None:
            start_ns = self._clock.now_ns() - DAYS_INIT * DAY_NS
            await self._status.begin(row.exchange, row.symbol, row.timeframe, start_ns, row.wanted_to_ns)
        try:
            await self._told(row.symbol, row.timeframe, start_ns, row.wanted_to_ns, False, None, by_hand=False)
        except (InputError, PeerError) as error:  # the next one is not worse for it
            self._log.warning("sync.failed", symbol=row.symbol, timeframe=row.timeframe, error=str(error))
            return False
        return True

    async def fill(self, gaps: Sequence[Missing]) -> tuple[int, int]:
        """Fill gaps of this exchange, in the order given; return bars (new or changed, found not to exist).

        A series that the exchange refuses holds up no other: the first refusal is raised once the others are filled.
        """
        written = absent = 0
        refused: dict[tuple[str, str], InputError] = {}
        for gap in gaps:
            if (gap.symbol, gap.timeframe) in refused:
                continue
            try:
                async for step in self._history.fill(gap.symbol, gap.timeframe, gap.hole):
                    written, absent = written + step.written, absent + step.absent
                    self._check_wanted()
            except InputError as error:
                refused[gap.symbol, gap.timeframe] = error
                self._log.warning("gap.refused", symbol=gap.symbol, timeframe=gap.timeframe, error=str(error))
                continue
            self._log.info(
                "gap.filled", exchange=gap.exchange, symbol=gap.symbol, timeframe=gap.timeframe, start=iso(gap.hole.start_ns),
                end=iso(gap.hole.end_ns), bars=gap.bars,
            )  # fmt: skip
        if refused:
            raise next(iter(refused.values()))
        return written, absent

    async def _told(
        self, symbol: str, timeframe: str, start_ns: int, end_ns: int | None, is_again: bool, progress: Progress | None,
        *, by_hand: bool,
    ) -> Synced:  # fmt: skip
        """Fetch, and let the row say how that ended; what a person stops is not begun again by itself."""
        key = (self._exchange.name, symbol, timeframe)
        beating = asyncio.create_task(self._beat(*key))
        try:
            done = await self._run(symbol, timeframe, start_ns, end_ns, is_again, progress)
        except FksError as error:
            await self._status.give_up(*key, str(error), is_final=isinstance(error, InputError | Stopped))
            raise
        except asyncio.CancelledError:  # Ctrl-C, or a process that ends in order
            await self._status.give_up(*key, "stopped; the same sync goes on where it was", is_final=by_hand)
            raise
        finally:
            beating.cancel()
        await self._status.finish(*key)
        self._log.info(
            "sync.done", symbol=symbol, timeframe=timeframe, fetched=done.fetched, changed=done.changed, absent=done.absent
        )
        return done

    async def _beat(self, exchange: str, symbol: str, timeframe: str) -> None:
        """Show now and then that the sync lives: it may wait minutes for its turn at an exchange with a small budget."""
        while True:
            await self._clock.sleep(BEAT_S)
            with contextlib.suppress(OutageError):
                await self._status.beat(exchange, symbol, timeframe)

    async def _run(
        self, symbol: str, timeframe: str, start_ns: int, end_ns: int | None, is_again: bool, progress: Progress | None
    ) -> Synced:
        name = self._exchange.name
        self._history.source(timeframe)  # an unknown timeframe is said before anything is asked
        over_ns = closed_until(self._clock.now_ns(), timeframe)
        end_ns = over_ns if end_ns is None else min(bar_start(end_ns, timeframe), over_ns)
        start_ns = bar_start(start_ns, timeframe)
        if is_again:
            holes = [Hole(start_ns, end_ns)] if start_ns < end_ns else []
        else:
            holes = [gap.hole for gap in await self._gaps.missing(name, symbol, timeframe, start_ns, end_ns)]
        total = sum(self._history.count(timeframe, hole) for hole in holes)
        done = fetched = written = absent = 0
        for hole in holes:
            async for step in self._history.fill(symbol, timeframe, hole):
                fetched, written, absent = fetched + step.fetched, written + step.written, absent + step.absent
                done += self._history.count(timeframe, step.window)
                await self._status.advance(name, symbol, timeframe, step.window.start_ns)
                if progress is not None:
                    progress(min(done, total), total)
                self._check_wanted()
        edges = await self._bars.edges(symbol, timeframe, exchange=name)
        return Synced(symbol, timeframe, fetched, written, absent, *edges)

    def _check_wanted(self) -> None:
        if self._should_stop():
            raise Stopped("stopped on request", remedy="'fks data sync' goes on where it stands")
