"""Holes in feeds, filled in the background: what was missed, what is doubted, what came late, what the store lacks.

One repair a feed at a time; it tries until it has succeeded. Everything comes from the exchange, and joins what the
socket brings by the ids of trades.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from random import Random

from fks.bars.aggregate import fold_bars
from fks.clock import Clock
from fks.collector.backfill import TRADES_MAX, Backfill, Recovery
from fks.collector.refusals import EXPECTED, REFUSED_S, is_refusal
from fks.feed.feed import GRACE_NS, SymbolFeed
from fks.feed.findings import Doubt, FeedState, Gap, Sealed
from fks.feed.rows import TRADES, FeedRow
from fks.history.confirmation import BarFilter, whole
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import OutageError, PeerError
from fks.model.market import TradeIds
from fks.model.ports import Exchange, Log
from fks.model.timeframe import NS, bar_end, bar_start, iso
from fks.rate_limits.budgets import in_background
from fks.store.feeds import FeedStore
from fks.store.quarantine import Held, QuarantineStore, Settled, numbers_of

RETRY_FIRST_S, RETRY_MAX_S = 0.2, 5.0
LATE_TRIES = 5  # REST shows trades later than the socket: what it lacks after so many questions, of seconds, is false
ATTESTED, ATTESTED_TRIES = (
    3,
    25,
)  # unless so many follow one another: REST is asked for over a minute, then these are false, too
RECHECK_NS = 300 * NS  # so far back bars are asked for again after a restart: one may lack a trade that came late
REFILL_MAX = 200_000  # trades fetched again for the store at a time

SetState = Callable[[SymbolFeed, FeedState, str], None]


class Holes:
    """Fills the holes of one exchange's feeds. One loop drives it; its tasks live in the group given to `run`."""

    def __init__(
        self,
        exchange: Exchange,
        store: FeedStore,
        quarantine: QuarantineStore,
        clock: Clock,
        log: Log,
        rng: Random,
        *,
        bars_empty: int,
        trades_keep_h: float,
        set_state: SetState,
        is_subscribed: Callable[[str], bool],
        advance: Callable[[SymbolFeed], None],
    ) -> None:
        self._exchange, self._store, self._quarantine = exchange, store, quarantine
        self._bar_filter = BarFilter(quarantine, source="klines")
        self._clock, self._log, self._rng = clock, log, rng
        self._bars_empty, self._keep_ns = bars_empty, int(trades_keep_h * 3600) * NS
        self._set_state, self._is_subscribed, self._advance = set_state, is_subscribed, advance
        self._backfills: dict[tuple[str, ...], Backfill] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._next: dict[
            str, tuple[bool, float]
        ] = {}  # holes of symbols under repair: whether by bars, after so many seconds
        self._group: asyncio.TaskGroup | None = None
        self.is_draining = False

    def run(self, group: asyncio.TaskGroup) -> None:
        """Let repairs live in `group` from here on."""
        self._group = group

    def is_repairing(self, symbol: str) -> bool:
        """Return whether a hole of a symbol is being filled."""
        return ("repair", symbol) in self._tasks

    def cancel(self, symbol: str) -> None:
        """Stop all that is done for a symbol."""
        for key, task in list(self._tasks.items()):
            if key[1] == symbol:
                task.cancel()
        self._next.pop(symbol, None)

    async def wait(self, seconds: float) -> None:
        """Let repairs under way finish, for so long."""
        if repairs := [task for (kind, _), task in self._tasks.items() if kind == "repair"]:
            await asyncio.wait(repairs, timeout=seconds)

    # ── what may be wrong ────────────────────────────────────────────────────────────────────────
    def repair(
        self, feed: SymbolFeed, gap: Gap | None, *, cause: str = "gap", by_bars: bool = False, settle_s: float = 0.0
    ) -> None:
        """Fill a hole; None: recover from what is stored. One that comes while another is filled is filled after it.

        `settle_s`: wait so long first, for trades that REST does not show yet.
        """
        if self.is_draining:
            return
        if self.is_repairing(feed.symbol):  # it may have asked for the newest trades already
            before = self._next.get(feed.symbol, (False, 0.0))
            self._next[feed.symbol] = (by_bars or before[0], max(settle_s, before[1]))
            return
        self._set_state(feed, FeedState.BACKFILL, cause)
        self._begin("repair", feed, self._repaired(feed, gap, by_bars, settle_s))

    def ask(self, feed: SymbolFeed, doubt: Doubt) -> None:
        """Settle an overdue bar by what REST has. When it fails the doubt comes again."""
        if not self.is_draining:
            self._begin("doubt", feed, self._asked(feed, doubt))

    def revise(self, feed: SymbolFeed) -> None:
        """Ask for the bars again whose trades came after they were sealed."""
        if not self.is_draining:
            self._begin("revise", feed, self._revised(feed))

    def confirm(self, feed: SymbolFeed) -> None:
        """Ask for stored bars again that are far from what is usual: they stand in the quarantine until the exchange
        repeats them."""
        if not self.is_draining:
            self._begin("confirm", feed, self._confirmed(feed))

    def refill(self, feed: SymbolFeed) -> None:
        """Fetch the public trades that the store lacks between those it has, where ids tell."""
        if not self.is_draining and self._exchange.capabilities.trade_ids is TradeIds.CONTIGUOUS:
            self._begin("refill", feed, self._refilled(feed))

    def _begin(self, kind: str, feed: SymbolFeed, work: Coroutine[None, None, None]) -> None:
        key = (kind, feed.symbol)
        if key in self._tasks or self._group is None:
            work.close()
            return
        task = self._tasks[key] = self._group.create_task(work)
        task.add_done_callback(lambda done: self._tasks.pop(key, None) if self._tasks.get(key) is done else None)

    def backfill(self, feed: SymbolFeed) -> Backfill:
        """Return what fetches a feed's timeframes."""
        made = self._backfills.get(feed.frames)
        if made is None:
            made = self._backfills[feed.frames] = Backfill(
                self._exchange, feed.frames, self._bars_empty, self._bar_filter.filtered
            )
        return made

    # ── holes in what was heard ──────────────────────────────────────────────────────────────────
    async def _repaired(self, feed: SymbolFeed, gap: Gap | None, by_bars: bool, settle_s: float) -> None:
        while True:
            if settle_s:
                await self._clock.sleep(settle_s)
            await self._persist(feed, gap, by_bars)
            following = self._next.pop(feed.symbol, None)
            if following is None:
                break
            by_bars, settle_s = following
            gap = None if feed.builder is None or feed.last_id is None else Gap(feed.last_id + 1, None)
        self._tasks.pop(("repair", feed.symbol), None)  # what is missing from here on is a hole of its own
        is_live = self._is_subscribed(feed.symbol) and not feed.is_mute
        self._set_state(feed, FeedState.LIVE if is_live else FeedState.STALE, "disconnected")
        self._advance(feed)

    async def _persist(self, feed: SymbolFeed, gap: Gap | None, by_bars: bool) -> None:
        """Try until the hole is filled."""
        wait_s, is_counted = RETRY_FIRST_S, self._exchange.capabilities.trade_ids is TradeIds.CONTIGUOUS
        heard, tries = feed.waiting, 0
        while True:
            try:
                before = feed.cut
                await self._fill(feed, None if by_bars else gap, by_bars=by_bars)
                feed.detail, feed.is_refused = "", False
                if rest := feed.lacks(gap):
                    tries += 1
                    if tries > (ATTESTED_TRIES if _is_attested(feed, rest) else LATE_TRIES):
                        feed.refuse_heard(heard)
                        return
                    gap, by_bars = rest, False
                elif is_counted or feed.cut == before:
                    return  # else what waited was cut, and no id would tell
                else:
                    gap, by_bars = None, True
            except EXPECTED as error:
                feed.detail, feed.is_refused = str(error), is_refusal(error)
                self._log.warning(
                    "feed.repair", symbol=feed.symbol, error=str(error), wait_s=REFUSED_S if feed.is_refused else wait_s
                )
                by_bars = by_bars or isinstance(
                    error, PeerError
                )  # it has not the trades we need: its bars are the same bars
            await self._clock.sleep((REFUSED_S if feed.is_refused else wait_s) * self._rng.uniform(0.5, 1.0))
            wait_s = min(wait_s * 2, RETRY_MAX_S)

    async def _fill(self, feed: SymbolFeed, gap: Gap | None, *, by_bars: bool) -> None:
        backfill = self.backfill(feed)
        if gap is not None and gap.from_id != gap.to_id:
            trades = await backfill.trades_after(feed.symbol, gap.from_id - 1, feed.last_ns, gap.to_id)
            if feed.add(self._believed(feed, trades)) is None:
                return
        if feed.positions is None:
            await self._claim(feed)
        assert feed.positions is not None
        is_by_bars = by_bars or gap is not None
        made = await self._recovered(feed, by_bars=is_by_bars)
        for frame, count in made.missing.items():
            if count:
                self._log.warning("feed.hole", symbol=feed.symbol, timeframe=frame, bars=count)
        feed.restart(made.builder, made.last_id, made.sealed)
        if feed.add(self._believed(feed, made.trades)) is not None:
            made = await self._recovered(feed, by_bars=True)
            feed.restart(made.builder, made.last_id, made.sealed)
            feed.add(self._believed(feed, made.trades))
        feed.refill_to = -1 if feed.last_id is None else feed.last_id

    async def _recovered(self, feed: SymbolFeed, *, by_bars: bool) -> Recovery:
        """Return what a feed starts from. Errors: those of `recover`; OutageError while that lies in a time to come."""
        assert feed.positions is not None
        made = await self.backfill(feed).recover(feed.symbol, feed.positions, by_bars=by_bars, heard=feed.heard)
        now_ns, now_s = self._clock.now_ns(), self._clock.monotonic()
        feed.present.begin(made.trades[-1].time_ns if made.trades else made.builder.open_ns, now_s)
        if made.builder.open_ns > feed.present.until_ns(now_ns, now_s):
            raise OutageError(
                f"{feed.symbol}: the exchange's newest trade is of {iso(made.builder.open_ns)}, which is to come"
            )
        return made

    def _believed(self, feed: SymbolFeed, trades: list[PublicTrade]) -> list[PublicTrade]:
        return feed.believed(trades, self._clock.now_ns(), self._clock.monotonic())

    async def _claim(self, feed: SymbolFeed) -> None:
        """Own the feed from here on; a collector before us left it at some moment: since then nobody listened."""
        heard = (await self._store.received([feed.symbol])).get(feed.symbol)
        feed.positions = (await self._store.claim([feed.symbol], feed.frames))[feed.symbol]
        if heard is None:
            return
        now_ns = self._clock.now_ns()
        for outage in heard.outages:
            feed.outages.go_on(outage)
            if outage.channel not in feed.pulses or heard.state == FeedState.OFF:  # nobody listens there any more
                feed.outages.end(now_ns, outage.channel)
        if heard.message_ns is not None and heard.state != FeedState.OFF:
            feed.message_ns = heard.message_ns
            feed.begin_outage("collector", now_ns)
        self._begin("recheck", feed, self._rechecked(feed))

    # ── doubts and late trades ───────────────────────────────────────────────────────────────────
    async def _asked(self, feed: SymbolFeed, doubt: Doubt) -> None:
        builder = feed.builder
        try:
            trades = await self.backfill(feed).trades_after(feed.symbol, doubt.from_id - 1, feed.last_ns)
        except EXPECTED as error:
            self._log.debug("feed.doubt", symbol=feed.symbol, error=str(error))
            return
        if feed.builder is builder and feed.state in (FeedState.LIVE, FeedState.STALE):
            before = feed.last_id
            gap = feed.settle(self._believed(feed, trades), doubt.over_ns)
            if gap is not None:
                self._log.warning("feed.gap", symbol=feed.symbol, from_id=gap.from_id, to_id=gap.to_id)
                self.repair(feed, gap)
            elif feed.last_id == before:
                feed.vouch(self._clock.monotonic())  # the exchange had none either
            else:
                feed.doubted_s = self._clock.monotonic()
            self._advance(feed)

    async def _revised(self, feed: SymbolFeed) -> None:
        """Take the exchange's own bars for sealed ones that a late trade belongs to, and begin the open ones anew."""
        await self._clock.sleep(GRACE_NS / NS)
        times, feed.late_ns = sorted(feed.late_ns), set()
        try:
            is_any_open = False
            for frame in feed.frames:
                known = feed.positions.get(frame) if feed.positions else None
                starts = {bar_start(time_ns, frame) for time_ns in times}
                sealed = sorted(start_ns for start_ns in starts if known is not None and start_ns <= known.sealed_ns)
                is_any_open |= len(sealed) < len(starts)
                sealed = [start_ns for start_ns in sealed if start_ns >= feed.since_ns.get(frame, 0)]
                for from_ns, to_ns in _runs(sealed, frame):
                    await self._take_own(feed, frame, from_ns, to_ns)
        except EXPECTED as error:
            feed.late_ns.update(times)
            self._log.warning("feed.revision", symbol=feed.symbol, error=str(error))
            return
        if is_any_open:
            self.repair(feed, None, cause="late", by_bars=True)

    async def _rechecked(self, feed: SymbolFeed) -> None:
        """Ask for the bars sealed last: the collector before us may have died with the correction of one in hand.

        Live feeds go first.
        """
        in_background.set(True)
        sealed = {frame: position.sealed_ns for frame, position in (feed.positions or {}).items()}
        over_ns = max((bar_end(sealed_ns, frame) for frame, sealed_ns in sealed.items()), default=0)
        for frame, sealed_ns in sealed.items():
            while bar_end(sealed_ns, frame) > over_ns - RECHECK_NS:
                try:
                    await self._take_own(feed, frame, bar_start(over_ns - RECHECK_NS, frame), bar_end(sealed_ns, frame))
                    break
                except EXPECTED as error:
                    self._log.warning("feed.revision", symbol=feed.symbol, error=str(error))
                    if not isinstance(error, OutageError):
                        break  # it does not give them, and will not later
                    await self._clock.sleep(RETRY_MAX_S)

    async def _take_own(self, feed: SymbolFeed, frame: str, start_ns: int, end_ns: int) -> None:
        """Have the exchange's own bars stored in the place of ours, those that differ."""
        feed.revised.extend(Sealed(bar, None, "revised") for bar in await self._own_bars(feed, frame, start_ns, end_ns))

    async def _confirmed(self, feed: SymbolFeed) -> None:
        """Nothing is repaired here: the bar stays as its trades make it unless the exchange itself says otherwise."""
        while feed.doubted:
            bar, why = feed.doubted[0]
            try:
                await self._quarantine.add([Held.bar(bar, "outlier", why, source="live")])
                self._log.warning(
                    "bar.doubted", symbol=bar.symbol, timeframe=bar.timeframe, time=iso(bar.time_ns), reason=why
                )
                await self._clock.sleep(GRACE_NS / NS)
                for own in await self._own_bars(feed, bar.timeframe, bar.time_ns, bar_end(bar.time_ns, bar.timeframe)):
                    is_same = numbers_of(own) == numbers_of(bar)
                    verdict = Settled.CONFIRMED if is_same else Settled.REFUSED
                    await self._quarantine.settle_bars(bar.exchange, bar.symbol, bar.timeframe, [bar.time_ns], verdict)
                    if not is_same:
                        feed.revised.append(Sealed(own, None, "revised"))
            except EXPECTED as error:
                self._log.warning("feed.revision", symbol=feed.symbol, error=str(error))
                if isinstance(error, OutageError):
                    await self._clock.sleep(RETRY_MAX_S)
                    continue  # else it stays in the quarantine, unsettled, for a person
            feed.doubted.popleft()

    async def _own_bars(self, feed: SymbolFeed, frame: str, start_ns: int, end_ns: int) -> list[Bar]:
        """Return the bars of a time as the exchange has them now and they can be true; none when it has none that
        short."""
        backfill = self.backfill(feed)
        try:
            source = backfill.native(frame)
        except PeerError:
            return []
        rows = [bar async for page in backfill.bars(feed.symbol, source, start_ns, end_ns) for bar in page]
        rows = [bar for bar in rows if start_ns <= bar.time_ns < end_ns]
        bars = rows if source == frame else fold_bars(rows, frame, end_ns, since_ns=start_ns)
        return whole(bars, rows, frame)

    # ── trades the store lacks ───────────────────────────────────────────────────────────────────
    async def _refilled(self, feed: SymbolFeed) -> None:
        """Newest first. What stays missing is found again the next time."""
        try:
            left = REFILL_MAX
            for from_id, to_id in await self._store.trade_gaps(feed.symbol, self._clock.now_ns() - self._keep_ns):
                while from_id < to_id and left > 0:
                    part_to = min(to_id, from_id + TRADES_MAX // 4)
                    trades = await self.backfill(feed).trades_from(feed.symbol, from_id, part_to)
                    if not trades:
                        break
                    await self._store.flush([FeedRow(feed.symbol, TRADES)], [], trades)
                    left, from_id = left - len(trades), trades[-1].trade_id + 1
            if left < REFILL_MAX:
                self._log.info("feed.refilled", symbol=feed.symbol, trades=REFILL_MAX - left)
        except EXPECTED as error:
            feed.refill_to = feed.stored_id
            self._log.warning("feed.refill", symbol=feed.symbol, error=str(error))
            await self._clock.sleep(RETRY_MAX_S)


def _is_attested(feed: SymbolFeed, gap: Gap) -> bool:
    """Return whether trades beyond a gap were heard that follow one another, id by id: one wrong number has no
    followers.

    Another hole may lie between them and the gap: a socket that was dialled anew while REST was late.
    """
    waiting = {trade_id for trade_id in feed.ids_waiting() if gap.to_id is not None and trade_id >= gap.to_id}
    return any(waiting.issuperset(range(trade_id, trade_id + ATTESTED)) for trade_id in waiting)


def _runs(starts: Sequence[int], frame: str) -> list[tuple[int, int]]:
    """Return (start, end) of the bars that follow one another, so that each run is asked for in one go."""
    runs: list[tuple[int, int]] = []
    for start_ns in starts:
        end_ns = bar_end(start_ns, frame)
        if runs and runs[-1][1] == start_ns:
            runs[-1] = runs[-1][0], end_ns
        else:
            runs.append((start_ns, end_ns))
    return runs
