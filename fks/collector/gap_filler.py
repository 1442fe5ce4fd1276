"""Gap filler: fetches in the background what feeds lack: missed trades, late and suspect bars, trades the store lacks.

One backfill of a feed at a time; it tries until it succeeds. Everything comes from the exchange's REST, and joins the
stream by the ids of trades. Results return to the feed as events.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence

from fks.bars.aggregate import fold_bars
from fks.clock import Clock
from fks.collector.backfill import TRADES_MAX, Backfill, Recovery
from fks.collector.connections import EXPECTED, REFUSED_S, is_refusal
from fks.config.settings import Data
from fks.feed import machine as m
from fks.feed.feed import GRACE_NS, SymbolFeed
from fks.feed.machine import Gap
from fks.feed.rows import TRADES, FeedRow
from fks.history.confirmation import BarFilter, whole
from fks.history.trade_bars import NEAR_NS, TradeBars
from fks.model.backoff import Backoff
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import OutageError, PeerError
from fks.model.market import TradeIds, TradesFrom
from fks.model.ports import Exchange, Log
from fks.model.timeframe import NS, bar_end, bar_start, iso
from fks.rate_limits.budgets import in_background
from fks.store.feeds import TRADE_GAPS_MAX, FeedStore, TradeGap
from fks.store.gaps import TimeRange
from fks.store.quarantine import QuarantinedRow, QuarantineStore, SettledAs, numbers_of

RETRY = Backoff(0.2, 5.0, jitter=0.5)
LATE_TRIES = 5  # REST shows trades later than the stream: a trade that it lacks after so many queries is false
FOLLOWED, FOLLOWED_TRIES = 3, 25  # unless so many consecutive ids arrived: then it is queried for over a minute
RECHECK_NS = 300 * NS  # so far back bars are fetched again after a restart: one may lack a trade that came late
REFETCH_MAX = 200_000  # trades fetched for the store at a time

Handle = Callable[[SymbolFeed, m.FeedEvent], object]


class GapFiller:
    """Performs the REST actions of one exchange's feeds. One loop drives it; `handle` takes the resulting events."""

    def __init__(
        self,
        exchange: Exchange,
        store: FeedStore,
        quarantine: QuarantineStore,
        clock: Clock,
        log: Log,
        data: Data,
        *,
        handle: Handle,
    ) -> None:
        self._exchange, self._store, self._quarantine = exchange, store, quarantine
        self._bar_filter = BarFilter(quarantine, source="klines").filtered
        self._clock, self._log, self._data, self._handle = clock, log, data, handle
        self._is_counted = exchange.capabilities.trade_ids is TradeIds.CONTIGUOUS
        #: ids show which trades are missing, and REST returns old ones
        self._has_past_trades = exchange.capabilities.trade_ids is not TradeIds.OPAQUE and (
            exchange.capabilities.trades_from in (TradesFrom.ID, TradesFrom.TIME)
        )
        self._left_out: dict[str, list[tuple[int, int]]] = {}  # symbol -> [from id, to id) that the exchange lacks, too
        self._backfills: dict[tuple[str, ...], Backfill] = {}
        self._tasks: dict[tuple[type[m.FeedAction], str], asyncio.Task[None]] = {}
        self._next: dict[str, m.StartBackfill] = {}  # of symbols whose backfill runs: the one that follows it
        self._group: asyncio.TaskGroup | None = None
        self.is_draining = False

    def run(self, group: asyncio.TaskGroup) -> None:
        """Start tasks in `group` from here on."""
        self._group = group

    @property
    def is_idle(self) -> bool:
        """Return whether nothing is being done."""
        return not self._tasks

    def cancel(self, symbol: str) -> None:
        """Stop everything that is done for a symbol."""
        for key, task in list(self._tasks.items()):
            if key[1] == symbol:
                task.cancel()
        self._next.pop(symbol, None)

    async def wait(self, seconds: float) -> None:
        """Let running backfills finish, for so long."""
        if backfills := [task for (kind, _), task in self._tasks.items() if kind is m.StartBackfill]:
            await asyncio.wait(backfills, timeout=seconds)

    def perform(self, feed: SymbolFeed, action: m.FeedAction) -> None:
        """Start an action of a feed, unless one of its kind runs; a backfill then follows the one that runs."""
        if self.is_draining:
            return
        if isinstance(action, m.StartBackfill):
            if (m.StartBackfill, feed.symbol) in self._tasks:  # it may have fetched the newest trades already
                before = self._next.get(feed.symbol, m.StartBackfill(None))
                by_bars, settle_s = action.by_bars or before.by_bars, max(action.settle_s, before.settle_s)
                self._next[feed.symbol] = m.StartBackfill(None, by_bars, settle_s)
            else:
                self._begin(feed, action, self._backfill_all(feed, action))
        elif isinstance(action, m.CheckSilence):
            self._begin(feed, action, self._check(feed, action.check))
        elif isinstance(action, m.CorrectBars):
            self._begin(feed, action, self._correct(feed, GRACE_NS / NS))
        elif isinstance(action, m.ConfirmBars):
            self._begin(feed, action, self._confirm(feed))
        elif isinstance(action, m.RecheckBars):
            self._begin(feed, action, self._recheck(feed))
        elif isinstance(action, m.RefetchTrades) and self._has_past_trades:
            self._begin(feed, action, self._refetch(feed))

    def _begin(self, feed: SymbolFeed, action: m.FeedAction, work: Coroutine[None, None, None]) -> None:
        key = (type(action), feed.symbol)
        if key in self._tasks or self._group is None:
            work.close()
            return
        task = self._tasks[key] = self._group.create_task(work)
        task.add_done_callback(lambda done: self._tasks.pop(key, None) if self._tasks.get(key) is done else None)

    def backfill(self, feed: SymbolFeed) -> Backfill:
        """Return the Backfill of a feed's timeframes."""
        made = self._backfills.get(feed.timeframes)
        if made is None:
            made = self._backfills[feed.timeframes] = Backfill(
                self._exchange, feed.timeframes, self._data.backfill_bars, self._bar_filter
            )
        return made

    def _now(self) -> tuple[int, float]:
        return self._clock.now_ns(), self._clock.monotonic()

    async def _sleep(self, failures: int) -> None:
        draw = random.random()  # noqa: S311  jitter only
        await self._clock.sleep(RETRY.wait_s(failures, draw=draw))

    # ── missed trades ────────────────────────────────────────────────────────────────────────────
    async def _backfill_all(self, feed: SymbolFeed, action: m.StartBackfill) -> None:
        gap = action.gap
        while True:
            if action.settle_s:
                await self._clock.sleep(action.settle_s)
            await self._backfill_one(feed, gap, by_bars=action.by_bars)
            following = self._next.pop(feed.symbol, None)
            if following is None:
                break
            action, gap = following, feed.missing()
        self._tasks.pop((m.StartBackfill, feed.symbol), None)  # a gap from here on is another one
        self._handle(feed, m.BackfillFinished(*self._now()))

    async def _backfill_one(self, feed: SymbolFeed, gap: Gap | None, *, by_bars: bool) -> None:
        """Try until the gap is filled."""
        waiting, late, failures = len(feed.backlog.events), 0, 0
        while True:
            try:
                cut = feed.backlog.cut
                await self._fill(feed, None if by_bars else gap, by_bars=by_bars)
                self._handle(feed, m.BackfillTried(*self._now()))
                if rest := feed.still_missing(gap):
                    late += 1
                    if late > (FOLLOWED_TRIES if _is_followed(feed, rest) else LATE_TRIES):
                        feed.refuse_waiting(waiting)
                        return
                    gap, by_bars = rest, False
                elif self._is_counted or feed.backlog.cut == cut:
                    return
                else:  # the backlog was cut, and no id shows it
                    gap, by_bars = None, True
            except EXPECTED as error:
                self._handle(feed, m.BackfillTried(*self._now(), str(error), is_refusal(error)))
                wait_s = REFUSED_S if feed.is_refused else RETRY.wait_s(failures + 1)
                self._log.warning("feed.repair", symbol=feed.symbol, error=str(error), wait_s=wait_s)
                by_bars = by_bars or isinstance(error, PeerError)  # it lacks the trades; its bars are the same bars
            failures += 1
            if feed.is_refused:
                await self._clock.sleep(REFUSED_S * random.uniform(0.5, 1.0))  # noqa: S311  jitter only
            else:
                await self._sleep(failures)

    async def _fill(self, feed: SymbolFeed, gap: Gap | None, *, by_bars: bool) -> None:
        if gap is not None and gap.from_id != gap.to_id:
            backfill = self.backfill(feed)
            trades = await backfill.trades_after(feed.symbol, gap.from_id - 1, feed.last_ns, gap.to_id)
            if feed.add(trades, *self._now()) is None:
                return
        if feed.positions is None:
            await self._claim(feed)
        made = await self._recover(feed, by_bars=by_bars or gap is not None)
        for timeframe, count in made.missing.items():
            if count:
                self._log.warning("feed.hole", symbol=feed.symbol, timeframe=timeframe, bars=count)
        feed.restart(made.builder, made.last_id, made.sealed)
        if feed.add(made.trades, *self._now()) is not None:
            made = await self._recover(feed, by_bars=True)
            feed.restart(made.builder, made.last_id, made.sealed)
            feed.add(made.trades, *self._now())
        feed.trades_left_out()

    async def _recover(self, feed: SymbolFeed, *, by_bars: bool) -> Recovery:
        """Return the start of a feed. Errors: those of `Backfill.recover`; OutageError while it is in the future."""
        assert feed.positions is not None
        made = await self.backfill(feed).recover(feed.symbol, feed.positions, by_bars=by_bars, waiting=feed.backlog.run)
        now_ns, now_s = self._now()
        feed.start_clock(made.trades[-1].time_ns if made.trades else made.builder.open_ns, now_s)
        if made.builder.open_ns > feed.clock.until_ns(now_ns, now_s):
            raise OutageError(
                f"{feed.symbol}: the exchange's newest trade is of {iso(made.builder.open_ns)}, which is to come"
            )
        return made

    async def _claim(self, feed: SymbolFeed) -> None:
        """Take the feed over in the store; it was not collected since a collector before this one left it."""
        before = (await self._store.stored_feeds([feed.symbol])).get(feed.symbol)
        positions = (await self._store.claim([feed.symbol], feed.timeframes))[feed.symbol]
        self._handle(feed, m.Claimed(*self._now(), positions, before))

    # ── checks, late and suspect bars ────────────────────────────────────────────────────────────
    async def _check(self, feed: SymbolFeed, check: m.SilenceCheck) -> None:
        """Fetch the trades after the last one. When it fails the feed asks again."""
        try:
            trades = await self.backfill(feed).trades_after(feed.symbol, check.from_id - 1, feed.last_ns)
        except EXPECTED as error:
            self._log.debug("feed.check_failed", symbol=feed.symbol, error=str(error))
            return
        self._handle(feed, m.SilenceChecked(*self._now(), check, trades))

    async def correct_now(self, feeds: Iterable[SymbolFeed], seconds: float) -> None:
        """Make the corrections that wait or have begun, without the grace, for so long."""
        if begun := [task for (kind, _), task in self._tasks.items() if kind is m.CorrectBars]:
            for task in begun:
                task.cancel()
            await asyncio.wait(begun)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(self._correct(feed, 0.0) for feed in feeds if feed.late_waiting))

    async def _correct(self, feed: SymbolFeed, grace_s: float) -> None:
        """Fetch the exchange's own bars for sealed ones that a late trade belongs to, and rebuild the open ones."""
        await self._clock.sleep(grace_s)
        times, is_any_open = feed.take_late(), False
        try:
            for timeframe in feed.timeframes:
                sealed, has_open = feed.outdated(times, timeframe)
                is_any_open |= has_open
                for from_ns, to_ns in _runs(sealed, timeframe):
                    await self._take_own(feed, timeframe, from_ns, to_ns)
        except asyncio.CancelledError:
            feed.return_late(times)
            raise
        except EXPECTED as error:
            feed.return_late(times)
            self._log.warning("feed.revision", symbol=feed.symbol, error=str(error))
            return
        if is_any_open and not self.is_draining:
            self._handle(feed, m.BarsOutdated(*self._now()))

    async def _recheck(self, feed: SymbolFeed) -> None:
        """Fetch the bars sealed last again, in the background: live feeds go first."""
        in_background.set(True)
        sealed = {timeframe: position.sealed_ns for timeframe, position in (feed.positions or {}).items()}
        over_ns = max((bar_end(sealed_ns, timeframe) for timeframe, sealed_ns in sealed.items()), default=0)
        for timeframe, sealed_ns in sealed.items():
            end_ns = bar_end(sealed_ns, timeframe)
            while end_ns > over_ns - RECHECK_NS:
                try:
                    await self._take_own(feed, timeframe, bar_start(over_ns - RECHECK_NS, timeframe), end_ns)
                    break
                except EXPECTED as error:
                    self._log.warning("feed.revision", symbol=feed.symbol, error=str(error))
                    if not isinstance(error, OutageError):
                        break  # the exchange does not return them, and will not later
                    await self._clock.sleep(RETRY.max_s)

    async def _take_own(self, feed: SymbolFeed, timeframe: str, start_ns: int, end_ns: int) -> None:
        feed.correct(await self._own_bars(feed, timeframe, start_ns, end_ns))

    async def _confirm(self, feed: SymbolFeed) -> None:
        """Settle suspect bars: a bar stays as its trades make it unless the exchange's own bar differs."""
        while (suspect := feed.suspect) is not None:
            bar, reason = suspect
            try:
                await self._quarantine.add([QuarantinedRow.bar(bar, "outlier", reason, source="live")])
                self._log.warning(
                    "bar.suspect", symbol=bar.symbol, timeframe=bar.timeframe, time=iso(bar.time_ns), reason=reason
                )
                await self._clock.sleep(GRACE_NS / NS)
                for own in await self._own_bars(feed, bar.timeframe, bar.time_ns, bar_end(bar.time_ns, bar.timeframe)):
                    is_same = numbers_of(own) == numbers_of(bar)
                    verdict = SettledAs.CONFIRMED if is_same else SettledAs.REFUSED
                    await self._quarantine.settle_bars(bar.exchange, bar.symbol, bar.timeframe, [bar.time_ns], verdict)
                    if not is_same:
                        feed.correct([own])
            except EXPECTED as error:
                self._log.warning("feed.revision", symbol=feed.symbol, error=str(error))
                if isinstance(error, OutageError):
                    await self._clock.sleep(RETRY.max_s)
                    continue  # else it stays in the quarantine, unsettled, for a person
            feed.settle_suspect()

    async def _own_bars(self, feed: SymbolFeed, timeframe: str, start_ns: int, end_ns: int) -> list[Bar]:
        """Return the exchange's own bars as they are now, those that are valid.

        Where it has none that short they are built from its trades; there are none where it does not return past trades
        by time.
        """
        backfill = self.backfill(feed)
        if not backfill.has_native(timeframe):
            if self._exchange.capabilities.trades_from not in (TradesFrom.TIME, TradesFrom.ID):
                return []
            newest = await backfill.newest(feed.symbol)
            if newest is None or not (newest.time_ns >= end_ns or self._has_all_known(feed, newest)):
                raise OutageError(f"{feed.symbol}: REST does not show the trades up to {iso(end_ns)} yet")
            return await TradeBars(self._exchange, self._clock).bars(
                feed.symbol, timeframe, TimeRange(start_ns, end_ns)
            )
        source = backfill.native(timeframe)
        rows = [bar async for page in backfill.bars(feed.symbol, source, start_ns, end_ns) for bar in page]
        rows = [bar for bar in rows if start_ns <= bar.time_ns < end_ns]
        bars = rows if source == timeframe else fold_bars(rows, timeframe, end_ns, since_ns=start_ns)
        return whole(bars, rows, timeframe)

    def _has_all_known(self, feed: SymbolFeed, newest: PublicTrade) -> bool:
        """Return whether REST, whose newest trade this is, shows what the feed received and what its bars were sealed
        with."""
        if self._exchange.capabilities.trade_ids is TradeIds.OPAQUE:
            return 0 < feed.last_ns <= newest.time_ns
        stored = [position.last_trade_id or 0 for position in (feed.positions or {}).values()]
        return newest.trade_id >= max(feed.last_id or 0, *stored, 0)

    # ── trades the store lacks ───────────────────────────────────────────────────────────────────
    async def _refetch(self, feed: SymbolFeed) -> None:
        """Fetch them, newest first. Those that stay missing are found again the next time."""
        since_ns = self._clock.now_ns() - int(self._data.trades_keep_h * 3600) * NS
        is_by_id = self._exchange.capabilities.trades_from is TradesFrom.ID
        try:
            gaps = await self._store.trade_gaps(feed.symbol, since_ns)
            count = await (self._refetch_by_id(feed, gaps) if is_by_id else self._refetch_by_time(feed, gaps))
            if count:
                self._log.info("feed.refilled", symbol=feed.symbol, trades=count)
        except EXPECTED as error:
            feed.trades_not_refetched()
            self._log.warning("feed.refill", symbol=feed.symbol, error=str(error))
            await self._clock.sleep(RETRY.max_s)

    async def _refetch_by_id(self, feed: SymbolFeed, gaps: Sequence[TradeGap]) -> int:
        left = REFETCH_MAX
        for gap in gaps:
            from_id = gap.from_id
            while from_id < gap.to_id and left > 0:
                part_to = min(gap.to_id, from_id + TRADES_MAX // 4)
                trades = await self.backfill(feed).trades_from(feed.symbol, from_id, part_to)
                if not trades:
                    break
                await self._store.flush([FeedRow(feed.symbol, TRADES)], [], trades)
                left, from_id = left - len(trades), trades[-1].trade_id + 1
        return REFETCH_MAX - left

    async def _refetch_by_time(self, feed: SymbolFeed, gaps: Sequence[TradeGap]) -> int:
        """Fetch the trades between those on both sides of each gap. Ids that the exchange itself leaves out are asked
        for once; one that leaves them out all the time shows nothing missing by its ids.

        Errors: OutageError while REST does not show the trade after the newest gap.
        """
        if len(gaps) >= TRADE_GAPS_MAX:
            return 0
        known = self._left_out.get(feed.symbol, [])
        left_out = self._left_out[feed.symbol] = [
            looked for looked in known if any(_is_within(g, looked) for g in gaps)
        ]
        wanted = [gap for gap in gaps if not any(_is_within(gap, looked) for looked in left_out)]
        if not wanted:
            return 0
        in_background.set(True)
        newest = await self.backfill(feed).newest(feed.symbol)
        if newest is None or newest.trade_id < wanted[0].to_id:
            raise OutageError(f"{feed.symbol}: REST does not show trade {wanted[0].to_id} yet")
        source, count = TradeBars(self._exchange, self._clock), 0
        for gap in wanted:
            times = gap.before_ns, gap.after_ns
            span = TimeRange(min(times), max(times) + NEAR_NS)  # the store keeps microseconds
            async for page in source.pages(feed.symbol, span):
                if trades := [trade for trade in page if gap.from_id <= trade.trade_id < gap.to_id]:
                    await self._store.flush([FeedRow(feed.symbol, TRADES)], [], trades)
                    count += len(trades)
            left_out.append((gap.from_id, gap.to_id))
            if count >= REFETCH_MAX:
                break
        return count


def _is_within(gap: TradeGap, looked: tuple[int, int]) -> bool:
    return looked[0] <= gap.from_id and gap.to_id <= looked[1]


def _is_followed(feed: SymbolFeed, gap: Gap) -> bool:
    """Return whether trades with consecutive ids wait beyond a gap: a single wrong id has no followers.

    Another gap may lie before them: a connection that was lost while REST was late.
    """
    waiting = {trade_id for trade_id in feed.backlog.trade_ids() if gap.to_id is not None and trade_id >= gap.to_id}
    return any(waiting.issuperset(range(trade_id, trade_id + FOLLOWED)) for trade_id in waiting)


def _runs(starts: Sequence[int], timeframe: str) -> list[tuple[int, int]]:
    """Return (start, end) of the bars that follow one another, so that each run is one request."""
    runs: list[tuple[int, int]] = []
    for start_ns in starts:
        end_ns = bar_end(start_ns, timeframe)
        if runs and runs[-1][1] == start_ns:
            runs[-1] = runs[-1][0], end_ns
        else:
            runs.append((start_ns, end_ns))
    return runs
