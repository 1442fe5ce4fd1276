"""History on demand: an exchange's klines into `ohlcv_data`, with `sync_status` saying how that stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fks.clock import Clock
from fks.data.aggregate import fold_bars, length_of
from fks.data.backfill import PAGE, Backfill
from fks.model.bar import Bar, Bars
from fks.model.errors import FksError, InputError
from fks.model.ports import Exchange, Log
from fks.model.timeframe import NS, bar_start, check_timeframe, to_datetime
from fks.store.bars import BarStore, SyncStore
from fks.store.db import Database
from fks.store.partitions import ensure_partitions

DAYS_INIT = 730  # the owner's `init`: two years
TIMEFRAMES_INIT = ("1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync did: bars fetched, of them new or changed, and what the series holds now."""

    symbol: str
    timeframe: str
    fetched: int
    changed: int
    candles: int
    oldest_ns: int | None
    newest_ns: int | None


class Sync:
    """Fetches history of one exchange. Symbols are in the venue's spelling. One sync at a time keeps the rate polite."""

    def __init__(self, exchange: Exchange, db: Database, clock: Clock, log: Log) -> None:
        self._exchange = exchange
        self._db = db
        self._clock = clock
        self._log = log
        self._bars = BarStore(db)
        self._status = SyncStore(db)
        self._backfill = Backfill(exchange, ("1m",), 0)

    async def init(
        self, symbol: str, timeframe: str, *, days: int = DAYS_INIT, progress: Progress | None = None
    ) -> Synced:
        """Fetch the last `days` days, whatever is stored. Errors: InputError, OutageError, PeerError."""
        now_ns = self._clock.now_ns()
        return await self._run(symbol, timeframe, now_ns - days * 86400 * NS, now_ns, progress)

    async def update(self, symbol: str, timeframe: str, *, progress: Progress | None = None) -> Synced:
        """Fetch what came after the newest stored bar; all of `init` when nothing is stored."""
        _, _, newest_ns = await self._bars.edges(symbol, timeframe, exchange=self._exchange.name)
        if newest_ns is None:
            return await self.init(symbol, timeframe, progress=progress)
        return await self._run(symbol, timeframe, newest_ns, self._clock.now_ns(), progress)

    async def run_pending(self) -> int:
        """Begin every sync that waits in `sync_status` for this exchange; return how many were run."""
        count = 0
        for symbol, timeframe, exchange in await self._status.pending():
            if exchange != self._exchange.name:
                continue
            count += 1
            try:
                await self.init(symbol, timeframe)
            except InputError as error:  # it stays failed; the next one is not worse for it
                self._log.warning("sync.failed", symbol=symbol, timeframe=timeframe, error=str(error))
        return count

    async def _run(
        self, symbol: str, timeframe: str, since_ns: int, until_ns: int, progress: Progress | None
    ) -> Synced:
        name = self._exchange.name
        try:
            check_timeframe(timeframe)
            await self._status.set(symbol, timeframe, name, "running")
            fetched, changed = await self._fetch(symbol, timeframe, bar_start(since_ns, timeframe), until_ns, progress)
            edges = await self._bars.edges(symbol, timeframe, exchange=name)
        except FksError as error:
            await self._status.set(symbol, timeframe, name, "failed", error=str(error))
            raise
        await self._status.set(symbol, timeframe, name, "done", edges=edges)
        self._log.info("sync.done", symbol=symbol, timeframe=timeframe, fetched=fetched, changed=changed)
        return Synced(symbol, timeframe, fetched, changed, *edges)

    async def _fetch(
        self, symbol: str, timeframe: str, since_ns: int, until_ns: int, progress: Progress | None
    ) -> tuple[int, int]:
        await ensure_partitions(self._db, to_datetime(self._clock.now_ns()), since=to_datetime(since_ns))
        source = self._backfill.native(timeframe)
        since_ns = await self._listed(symbol, source, since_ns, until_ns)
        fetched = changed = 0
        carried: list[Bar] = []
        async for page in self._backfill.bars(symbol, source, since_ns, until_ns):
            if source == timeframe:
                made, carried = page, []
            else:  # bars the venue has not: folded from smaller ones, the unfinished rest waits for the next page
                cut_ns = bar_start(page[-1].time_ns, timeframe)
                rows = carried + page
                made = fold_bars(rows, timeframe, cut_ns)
                carried = [bar for bar in rows if bar.time_ns >= cut_ns]
            fetched += len(made)
            changed += await self._store(symbol, timeframe, made)
            if progress is not None:
                progress(min(page[-1].time_ns, until_ns) - since_ns, until_ns - since_ns)
        if carried:
            made = fold_bars(carried, timeframe, until_ns)
            fetched += len(made)
            changed += await self._store(symbol, timeframe, made)
        return fetched, changed

    async def _listed(self, symbol: str, source: str, since_ns: int, until_ns: int) -> int:
        """Return where to begin: `since_ns`, or the day of the first bar when the market is younger.

        Years before a listing would otherwise be asked for page by page, each of them empty.
        """
        if since_ns + PAGE * length_of(source) * NS >= until_ns:
            return since_ns
        days = await self._exchange.fetch_bars(symbol, "1d", bar_start(since_ns, "1d"), PAGE, until_ns=until_ns)
        return max(since_ns, bar_start(days[0].time_ns, source)) if days else since_ns

    async def _store(self, symbol: str, timeframe: str, bars: list[Bar]) -> int:
        columns = Bars.of(symbol, timeframe, bars)
        merged = await self._bars.merge(
            columns, exchange=self._exchange.name, source="sync", trades=[bar.trades for bar in bars]
        )
        return merged.written
