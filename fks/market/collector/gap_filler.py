"""Backfill through REST: what feeds lack is fetched in the background, and returns to them as events.

That is everything between the store, or nothing, and the present; trades that are missing since; the bars of late
trades and suspect bars; public trades that the store lacks. One backfill of a feed runs at a time; it tries until it
succeeds.

The present is the exchange's newest trade, never our clock (a tape plays in its own time). A small gap is filled with
its trades, by id or by time, whichever the exchange offers; a large one with the exchange's own bars, which are the
same bars. Either way the open bars start with their elapsed parts: closed days, hours, minutes and seconds of the
exchange, then trades. Bars shorter than the exchange's own are made of trades only: where these are gone, they stay
missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from decimal import Decimal

from fks.clock import Clock
from fks.config.settings import Data
from fks.market.bars.aggregate import BarStart, OpenBar, by_length, exact_decimal, fold_bars, length_of
from fks.market.collector.connections import EXPECTED, REFUSED_S, is_refusal
from fks.market.feed import machine as m
from fks.market.feed.feed import GRACE_NS, SymbolFeed
from fks.market.feed.machine import Gap, Recovery
from fks.market.feed.queues import Sealed
from fks.market.history.confirmation import BarFilter, whole
from fks.market.history.trade_bars import NEAR_NS, TradeBars
from fks.model.backoff import Backoff
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import OutageError, PeerError
from fks.model.feed import TRADES, FeedRow, SealedPosition
from fks.model.market import TradeIds, TradesFrom
from fks.model.ports import Exchange, Log
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, bar_start, iso
from fks.store.feeds import TRADE_GAPS_MAX, FeedStore, TradeGap
from fks.store.gaps import TimeRange
from fks.store.quarantine import QuarantinedRow, QuarantineStore, SettledAs, numbers_of
from fks.system.rate_limits.budgets import in_background

PAGE = 1000  # trades of one request
TRADES_MAX = 20_000  # a larger gap is filled with bars: 20 pages take about as long as the bars do
BARS_MAX = 60_000  # of one timeframe, fetched at a time; an older gap stays and is logged
SECONDS_MAX = 2000  # bars shorter than a minute for a symbol without stored bars: more are not worth the pages
_LEVELS = ("1d", "1h", "1m", "1s")

RETRY = Backoff(0.2, 5.0, jitter=0.5)
LATE_TRIES = 5  # REST shows trades later than the stream: a trade that it lacks after so many queries is false
FOLLOWED, FOLLOWED_TRIES = 3, 25  # unless so many consecutive ids arrived: then it is queried for over a minute
RECHECK_NS = 300 * NS  # so far back bars are fetched again after a restart: one may lack a trade that came late
REFETCH_MAX = 200_000  # trades fetched for the store at a time

Handle = Callable[[SymbolFeed, m.FeedEvent], object]
#: returns a page of bars, the invalid ones marked incomplete
FilterPage = Callable[[Sequence[Bar]], Awaitable[list[Bar]]]


class _TooManyError(PeerError):
    """A gap too large for trades: bars fill it."""


class Backfill:
    """Recovers one symbol at a time through REST. Errors of all methods: OutageError, PeerError."""

    def __init__(
        self, exchange: Exchange, timeframes: Sequence[str], bars_empty: int, bar_filter: FilterPage | None = None
    ) -> None:
        """`bars_empty`: bars of each timeframe for an empty store. `bar_filter` marks invalid bars (None: all are
        valid)."""
        self._exchange = exchange
        self._bar_filter = bar_filter
        self._timeframes = by_length(timeframes)
        self._bars_empty = bars_empty
        own = by_length(exchange.capabilities.timeframes)[0]
        #: of an exchange that returns only the newest trades: those of the present bar, without a gap
        self._newest_trades: dict[str, list[PublicTrade]] = {}
        #: bars can fill up to this: the base timeframe, or the exchange's smallest where that is larger
        self._grain = own if length_of(own) > length_of(self._timeframes[0]) else self._timeframes[0]

    async def recover(
        self,
        symbol: str,
        positions: Mapping[str, SealedPosition],
        *,
        by_bars: bool = False,
        waiting: Callable[[], Sequence[PublicTrade]] = tuple,
    ) -> Recovery:
        """Return what `symbol` starts from, given how far its timeframes are stored.

        `by_bars` fills even a small gap with bars: its trades turned out not to be contiguous in id or time. `waiting`
        returns the trades that arrived meanwhile without a gap: where REST returns only the newest trades, they may
        reach further back.
        """
        base = self._timeframes[0]
        newest = await self.newest(symbol)
        stored = positions.get(base)
        last_id = stored.last_trade_id if stored else None
        if newest and stored and last_id is not None and not by_bars and self._is_small(newest, last_id):
            with contextlib.suppress(_TooManyError):
                return await self._by_trades(symbol, positions, last_id, bar_end(stored.sealed_ns, base))
        begin_ns = self._begin(symbol, newest, stored, await self._last_bar_ns(symbol) if newest is None else 0)
        try:
            trades = await self._trades_since(symbol, begin_ns, waiting) if newest else []
        except _TooManyError:  # the bar that they do not reach back to comes whole, once it is over
            begin_ns = await self._over(symbol, begin_ns)
            trades = await self._trades_since(symbol, begin_ns, waiting)
        last_id = trades[0].trade_id - 1 if trades else newest.trade_id if newest else None
        return await self._recovery(symbol, positions, begin_ns, last_id, trades)

    def _begin(self, symbol: str, newest: PublicTrade | None, stored: SealedPosition | None, quiet_ns: int) -> int:
        """Return where the builder begins: the present base bar, or the first that is not sealed yet.

        Errors: PeerError when the exchange's present lies before what is stored, and not just in a silence.
        """
        base = self._timeframes[0]
        begin_ns = bar_start(newest.time_ns if newest else quiet_ns, self._grain)
        if (
            stored is None
            or begin_ns > stored.sealed_ns
            or (self._grain != base and newest and newest.time_ns > stored.sealed_ns)
        ):
            return begin_ns
        is_counted = self._exchange.capabilities.trade_ids is TradeIds.CONTIGUOUS
        if newest is None or stored.last_trade_id is None or (is_counted and newest.trade_id < stored.last_trade_id):
            raise PeerError(
                f"{symbol}: the venue's newest trade is older than what is stored",
                remedy="this store belongs to another market or tape: use another FKS_HOME or 'fks reset'",
            )
        return bar_start(bar_end(stored.sealed_ns, base), self._grain)

    async def _by_trades(
        self, symbol: str, positions: Mapping[str, SealedPosition], last_id: int, begin_ns: int
    ) -> Recovery:
        """Go on after what is stored with the trades since; bars of seconds begin at the end of the exchange's bars."""
        if self._grain == self._timeframes[0]:
            trades = await self.trades_after(symbol, last_id, begin_ns)
            return await self._recovery(symbol, positions, begin_ns, last_id, trades)
        begin_ns = bar_start(begin_ns, self._grain)
        trades = await self._trades_since(symbol, begin_ns)
        if len(trades) > TRADES_MAX:
            raise _TooManyError(f"{symbol}: more than {TRADES_MAX} trades are missing")
        if self._exchange.capabilities.trade_ids is TradeIds.CONTIGUOUS and trades:
            if trades[0].trade_id > last_id + 1:
                raise PeerError(f"{symbol}: asked for trades after {last_id}, got {trades[0].trade_id}")
            last_id = trades[0].trade_id - 1
        return await self._recovery(symbol, positions, begin_ns, last_id, trades)

    async def trades_after(
        self, symbol: str, last_id: int, since_ns: int, to_id: int | None = None
    ) -> list[PublicTrade]:
        """Return the trades after `last_id` up to `to_id` (exclusive) or to the newest, oldest first.

        Where ids are contiguous they follow one another without a gap. Elsewhere they are all from `since_ns` on,
        known ones among them. Errors: PeerError when the exchange has them no longer, or has too many (TRADES_MAX).
        """
        if self._exchange.capabilities.trades_from in (TradesFrom.ID, TradesFrom.STREAM):
            found = await self.trades_from(symbol, last_id + 1, to_id)
        elif self._exchange.capabilities.trades_from is TradesFrom.TIME:
            found = await self._trades_by_time(symbol, since_ns)
        else:
            found = await self._newest_since(symbol, since_ns, last_id)
        if len(found) > TRADES_MAX:
            raise _TooManyError(f"{symbol}: more than {TRADES_MAX} trades are missing")
        if self._exchange.capabilities.trade_ids is not TradeIds.CONTIGUOUS:
            return found
        found = [trade for trade in found if trade.trade_id > last_id and (to_id is None or trade.trade_id < to_id)]
        if found and found[0].trade_id != last_id + 1:
            raise PeerError(f"{symbol}: asked for trades from {last_id + 1}, got {found[0].trade_id}")
        return found

    async def trades_from(self, symbol: str, from_id: int, to_id: int | None = None) -> list[PublicTrade]:
        """Return trades from `from_id` up to `to_id` (exclusive) or to the newest, at most TRADES_MAX + one page.

        Errors: PeerError when the exchange does not have the first one.
        """
        found: list[PublicTrade] = []
        wanted = from_id
        while (to_id is None or wanted < to_id) and len(found) <= TRADES_MAX:
            page = await self._exchange.fetch_trades(symbol, from_id=wanted, since_ns=None, limit=PAGE)
            if page and page[0].trade_id != wanted:
                raise PeerError(f"{symbol}: asked for trades from {wanted}, got {page[0].trade_id}")
            found.extend(trade for trade in page if to_id is None or trade.trade_id < to_id)
            wanted += len(page)
            if len(page) < PAGE:
                break
        return found

    async def _trades_by_time(self, symbol: str, since_ns: int) -> list[PublicTrade]:
        """Return all trades from a moment to the present, each once. Errors: PeerError when one moment fills a page.

        The present is the newest trade when this began: a busy market has new ones in every answer.
        """
        found: dict[int, PublicTrade] = {}
        cursor = since_ns
        newest = await self.newest(symbol)
        while len(found) <= TRADES_MAX:
            page = await self._exchange.fetch_trades(symbol, from_id=None, since_ns=cursor, limit=PAGE)
            fresh = [trade for trade in page if trade.time_ns >= since_ns and trade.trade_id not in found]
            found.update((trade.trade_id, trade) for trade in fresh)
            if newest is not None and newest.trade_id in found:
                break
            if not fresh or page[-1].time_ns <= cursor:
                if len(page) >= PAGE and fresh:
                    raise PeerError(f"{symbol}: {len(page)} trades in one moment: there is no way past them")
                break
            cursor = page[-1].time_ns
        return list(found.values())

    async def bars(self, symbol: str, timeframe: str, since_ns: int, until_ns: int) -> AsyncIterator[list[Bar]]:
        """Yield pages of the exchange's closed bars in [since, until), oldest first; invalid ones are incomplete."""
        cursor = since_ns
        while bar_end(cursor, timeframe) <= until_ns:
            page = await self._exchange.fetch_bars(
                symbol, timeframe, cursor, self._exchange.capabilities.bars_page_max, until_ns=until_ns
            )
            if not page:
                return
            yield page if self._bar_filter is None else await self._bar_filter(page)
            cursor = bar_end(page[-1].time_ns, timeframe)

    def native(self, timeframe: str) -> str:
        """Return the exchange's largest own timeframe that `timeframe` is made of. Errors: PeerError when it has
        none."""
        if not (fits := self._fits(timeframe)):
            raise PeerError(f"{self._exchange.name} has no bars that make {timeframe}")
        return fits[-1]

    def has_native(self, timeframe: str) -> bool:
        """Return whether the exchange has bars that `timeframe` is made of."""
        return bool(self._fits(timeframe))

    def _fits(self, timeframe: str) -> list[str]:
        own = self._exchange.capabilities.timeframes
        if timeframe in own:
            return [timeframe]
        fits = [frame for frame in by_length(own) if 0 < TIMEFRAMES[frame] <= length_of(timeframe)]
        return [frame for frame in fits if length_of(timeframe) % TIMEFRAMES[frame] == 0]

    async def newest(self, symbol: str) -> PublicTrade | None:
        """Return the newest trade that the exchange's REST shows."""
        page = await self._exchange.fetch_trades(symbol, from_id=None, since_ns=None, limit=1)
        return page[-1] if page else None

    async def _last_bar_ns(self, symbol: str) -> int:
        """Return the open time of the last bar of a market without trades; it may be unfinished."""
        page = await self._exchange.fetch_bars(symbol, "1m", None, 1)
        if not page:
            raise OutageError(f"{symbol}: the venue has neither trades nor bars yet")
        return page[-1].time_ns

    def _is_small(self, newest: PublicTrade, last_id: int) -> bool:
        """Return whether a gap may be small enough for trades; where ids do not count them, only a request shows it."""
        return (
            self._exchange.capabilities.trade_ids is not TradeIds.CONTIGUOUS
            or 0 <= newest.trade_id - last_id <= TRADES_MAX
        )

    async def _trades_since(
        self, symbol: str, since_ns: int, waiting: Callable[[], Sequence[PublicTrade]] = tuple
    ) -> list[PublicTrade]:
        """Return all trades at and after a moment. Errors: PeerError when the exchange does not reach back so far."""
        if self._exchange.capabilities.trades_from is TradesFrom.TIME:
            return await self._trades_by_time(symbol, since_ns)
        if self._exchange.capabilities.trades_from is TradesFrom.NEWEST:
            page: Sequence[PublicTrade]
            try:
                page = await self._newest_since(symbol, since_ns)
            except _TooManyError:
                page = waiting()
                if not page or page[0].time_ns >= since_ns:
                    raise
            return [trade for trade in page if trade.time_ns >= since_ns]
        page = await self._exchange.fetch_trades(symbol, from_id=None, since_ns=since_ns, limit=PAGE)
        if len(page) == PAGE:
            page += await self.trades_from(symbol, page[-1].trade_id + 1)
        return page

    async def _newest_since(self, symbol: str, since_ns: int, known_id: int | None = None) -> list[PublicTrade]:
        """Return the newest trades, which hold all at and after a moment, or all after a known one.

        That is so when they begin before the moment, hold or join the known one, or are all there ever were. An answer
        that overlaps the one before it goes on from there. Errors: PeerError when they do not reach back.
        """
        page = await self._exchange.fetch_trades(symbol, from_id=None, since_ns=None, limit=PAGE)
        if not page:
            return []
        known = self._newest_trades.get(symbol, [])
        joint = next((n for n, trade in enumerate(known) if trade.trade_id == page[0].trade_id), 0)
        shown = known[:joint] + page
        begin_ns = bar_start(page[-1].time_ns, self._grain)
        begun = next((n for n, trade in enumerate(shown) if trade.time_ns >= begin_ns), 0)
        self._newest_trades[symbol] = shown[max(begun - 1, 0) :]  # from the last trade before the present bar on
        if shown[0].time_ns < since_ns or len(page) < self._exchange.capabilities.newest_max:
            return shown
        is_joined = self._exchange.capabilities.trade_ids is not TradeIds.OPAQUE and shown[0].trade_id - 1 == known_id
        if not is_joined and all(trade.trade_id != known_id for trade in shown):
            raise _TooManyError(f"{symbol}: its newest {len(shown)} trades do not reach back to {iso(since_ns)}")
        return shown

    async def _over(self, symbol: str, begin_ns: int) -> int:
        """Return where the bar ends that begins at a moment. Errors: OutageError while it is not over."""
        end_ns = bar_end(begin_ns, self._grain)
        source = self.native(self._grain)
        if not await self._exchange.fetch_bars(symbol, source, bar_start(end_ns - 1, source), 1):
            raise OutageError(f"{symbol}: its newest trades do not reach back to where the present bar began")
        return end_ns

    async def _recovery(
        self,
        symbol: str,
        positions: Mapping[str, SealedPosition],
        begin_ns: int,
        last_id: int | None,
        trades: list[PublicTrade],
    ) -> Recovery:
        seeds, previous = await self._seeds(symbol, begin_ns)
        ids = self._exchange.capabilities.trade_ids
        start = BarStart(
            self._exchange.name,
            symbol,
            self._timeframes,
            begin_ns,
            seeds=seeds,
            previous=previous,
            emits_empty=self._exchange.capabilities.has_empty_bars,
            ids=None if ids is TradeIds.CONTIGUOUS else ids,
        )
        made = Recovery(start, last_id, trades=trades)
        fetched: dict[str, tuple[int, list[Bar]]] = {}
        for frame in self._timeframes:
            await self._fill(made, symbol, frame, positions.get(frame), begin_ns, fetched)
        return made

    async def _fill(
        self,
        made: Recovery,
        symbol: str,
        frame: str,
        stored: SealedPosition | None,
        begin_ns: int,
        fetched: dict[str, tuple[int, list[Bar]]],
    ) -> None:
        """Add the bars of one timeframe between what is stored and where the builder begins."""
        length_ns = length_of(frame) * NS
        if stored is None:
            is_short = length_of(frame) < 60
            depth_ns = min(self._bars_empty * 15, SECONDS_MAX) * NS if is_short else self._bars_empty * length_ns
            since_ns = bar_start(begin_ns - depth_ns, frame)
        else:
            since_ns = bar_end(stored.sealed_ns, frame)
        if bar_end(since_ns, frame) > begin_ns:
            return
        if length_of(frame) < length_of(self._grain):  # the exchange has none that short
            made.missing[frame] = (begin_ns - since_ns) // length_ns if stored is not None else 0
            return
        source = self.native(frame)
        reach_ns = (BARS_MAX - 1) * length_of(source) * NS
        if since_ns < begin_ns - reach_ns:
            made.missing[frame] = (begin_ns - reach_ns - since_ns) // length_ns
            since_ns = bar_start(begin_ns - reach_ns, frame)
        known = fetched.get(source)
        if known is None or known[0] > since_ns:
            rows = [bar async for page in self.bars(symbol, source, since_ns, begin_ns) for bar in page]
            known = fetched[source] = (since_ns, rows)
        rows = [bar for bar in known[1] if bar.time_ns >= since_ns]
        bars = rows if source == frame else fold_bars(rows, frame, begin_ns)
        last = bars[-1] if bars and frame == self._timeframes[0] else None  # it reaches to where the builder begins
        made.sealed.extend(
            Sealed(bar, made.last_id if bar is last else None, "klines") for bar in whole(bars, rows, frame)
        )

    async def _seeds(self, symbol: str, begin_ns: int) -> tuple[dict[str, OpenBar], Decimal | None]:
        """Return the open larger bars as of `begin_ns`, and the last price before it."""
        seeds = {frame: OpenBar.at(begin_ns, frame) for frame in self._timeframes[1:]}
        reached = {frame: bar.start_ns for frame, bar in seeds.items()}
        previous: Decimal | None = None
        for level in self._levels():
            end_ns = bar_start(begin_ns, level)
            wanting = [f for f, at in reached.items() if at < end_ns and length_of(level) < length_of(f)]
            if not wanting and level != self._levels()[-1]:
                continue
            since_ns = min([end_ns - length_of(level) * NS, *(reached[frame] for frame in wanting)])
            bars = [bar async for page in self.bars(symbol, level, since_ns, end_ns) for bar in page]
            for frame in wanting:
                for bar in bars:
                    if bar.time_ns < reached[frame]:
                        continue
                    if bar.is_complete:
                        seeds[frame].fold_bar(bar)
                    else:  # its numbers are not known
                        seeds[frame].is_complete = False
                reached[frame] = end_ns
            if possible := [bar for bar in bars if bar.is_complete]:
                previous = exact_decimal(possible[-1].close)
        return seeds, previous

    def _levels(self) -> list[str]:
        """Return the timeframes, large to small, that together reach any boundary of the base timeframe."""
        base = length_of(self._timeframes[0])
        larger = [level for level in _LEVELS if length_of(level) > base]
        exact = next(level for level in _LEVELS if length_of(level) <= base)
        return [level for level in [*larger, exact] if level in self._exchange.capabilities.timeframes]


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
                        self._handle(feed, m.TradesRefuted(*self._now(), waiting))
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
            self._handle(feed, m.TradesFetched(*self._now(), trades))
            if feed.fetched_gap is None:
                return
        if feed.positions is None:
            await self._claim(feed)
        made = await self._recover(feed, by_bars=by_bars or gap is not None)
        for timeframe, count in made.missing.items():
            if count:
                self._log.warning("feed.hole", symbol=feed.symbol, timeframe=timeframe, bars=count)
        if feed.fetched_gap is not None:
            await self._recover(feed, by_bars=True)

    async def _recover(self, feed: SymbolFeed, *, by_bars: bool) -> Recovery:
        """Let a feed begin. Errors: those of `Backfill.recover`; OutageError while its start is in the future."""
        assert feed.positions is not None
        made = await self.backfill(feed).recover(feed.symbol, feed.positions, by_bars=by_bars, waiting=feed.backlog.run)
        self._handle(feed, m.Recovered(*self._now(), made))
        if feed.builder is None or feed.builder.start is not made.start:
            raise OutageError(
                f"{feed.symbol}: the exchange's newest trade is of {iso(made.start.start_ns)}, which is to come"
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
        self._handle(feed, m.CorrectionStarted(*self._now()))
        is_any_open = False
        try:
            for timeframe in feed.timeframes:
                sealed, has_open = feed.outdated(timeframe)
                is_any_open |= has_open
                for from_ns, to_ns in _runs(sealed, timeframe):
                    await self._take_own(feed, timeframe, from_ns, to_ns)
        except asyncio.CancelledError:
            self._handle(feed, m.CorrectionFailed(*self._now()))
            raise
        except EXPECTED as error:
            self._handle(feed, m.CorrectionFailed(*self._now()))
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
        bars = await self._own_bars(feed, timeframe, start_ns, end_ns)
        self._handle(feed, m.BarsCorrected(*self._now(), bars))

    async def _confirm(self, feed: SymbolFeed) -> None:
        """Settle suspect bars: a bar stays as its trades make it unless the exchange's own bar differs."""
        while (suspect := feed.suspect) is not None:
            (bar, reason), wrong = suspect, list[Bar]()
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
                        wrong.append(own)
            except EXPECTED as error:
                self._log.warning("feed.revision", symbol=feed.symbol, error=str(error))
                if isinstance(error, OutageError):
                    await self._clock.sleep(RETRY.max_s)
                    continue  # else it stays in the quarantine, unsettled, for a person
            self._handle(feed, m.BarsCorrected(*self._now(), wrong, is_suspect=True))

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
            self._handle(feed, m.RefetchFailed(*self._now()))
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
