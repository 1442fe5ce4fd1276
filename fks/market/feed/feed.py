"""One symbol's live feed, without I/O: `handle(event)` applies an event by the tables of `machine` and returns actions.

Where ids are contiguous, trades are taken strictly by id: the next one, a known one (dropped), or a gap, which stops
the feed until it is filled. Where ids only rise or are opaque, a known one is dropped and missing trades are found by
other means: the connection ended, a Discontinuity came, the exchange's own bar counts more trades. A bar seals when a
later trade proves it over, or when the exchange closes it and the number of its trades agrees. Silence proves nothing
(a frozen connection is silent too): when a bar is overdue, or the trades have been silent for half their limit, REST is
queried for the trades after the last one, and its answer seals the bar and confirms or refutes the silence.

A trade with a future time (see `exchange_clock`), or with an id far beyond those that REST knows, is refused. It then
counts as missing, so a trade that was refused wrongly comes back from REST.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fks.market.bars.aggregate import BarBuilder
from fks.market.bars.outliers import OutlierDetector
from fks.market.feed import machine as m
from fks.market.feed.exchange_clock import ExchangeClock
from fks.market.feed.liveness import FeedLiveness
from fks.market.feed.machine import FeedAct, FeedAction, FeedState, Gap, SilenceCheck, Stream
from fks.market.feed.queues import Backlog, Batch, Outages, Sealed, Unstored
from fks.model.backoff import Backoff
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.buckets import length_of
from fks.model.feed import TRADES, SealedPosition
from fks.model.market import Channel, Quote, TradeIds
from fks.model.timeframe import NS, bar_end, bar_start

GRACE_NS = 1_500_000_000  # how long a closed bar waits for trades that are on their way
CHECK = Backoff(GRACE_NS / NS, 10.0)  # between two checks of a silence; half the limit where that is shorter
SILENCE_MAX_NS = 3600 * NS  # between two trades; beyond it the exchange's own bars fill the time
SEALED_MAX = 20_000  # bars that wait for a database that is away; beyond it they are dropped and fetched again
IDS_KEPT = 20_000  # ids lately taken, where they do not rise one by one: a backfill by time may bring them again
#: members that the hot path compares with: a class attribute of an enum is slow to look up, and a member to hash
_LIVE, _STALE, _CURRENT, _LAGGING = FeedState.LIVE, FeedState.STALE, Stream.CURRENT, Stream.LAGGING


@dataclass(frozen=True, slots=True)
class FeedSpec:
    """The data that a feed collects, and the bounds of its liveness. `bars_s`: length of the longest streamed bar."""

    symbol: str
    stale_min_s: float
    stale_max_s: float
    timeframes: tuple[str, ...] = ()
    channels: tuple[Channel, ...] = (Channel.TRADES, Channel.BARS)
    ids: TradeIds = TradeIds.CONTIGUOUS
    bars_s: float = 0.0


class SymbolFeed:
    """The feed of one symbol. One loop drives it; no method waits.

    Only `handle` changes it, beside the methods of the writer (see "store").
    """

    def __init__(self, spec: FeedSpec, now_s: float) -> None:
        self.spec, self.symbol, self.timeframes = spec, spec.symbol, spec.timeframes
        self.state, self.stream = FeedState.COLD, Stream.CURRENT
        self.builder: BarBuilder | None = None
        self.last_id: int | None = None
        self.last_ns = 0  # exchange's time of the last trade taken
        self.last_price: Decimal | None = None
        self.message_ns: int | None = None
        #: last sealed bar of each timeframe, stored or on its way there; None: only the store knows
        self.positions: dict[str, SealedPosition] | None = None
        self.live_until_s: float | None = now_s  # monotonic time when it was last live; None while it is
        self.error, self.is_refused = "", False  # of the last attempt to backfill
        self.fetched_gap: Gap | None = None  # in the trades of the last REST answer: they did not join after all
        self.late = 0  # trades that came after their bar was sealed
        #: times of late trades whose bars are being fetched, and open times of the bars up to the next trade
        self.correcting: list[int] = []
        self.applied: tuple[int, ...] = ()  # numbers of the rows of `machine.TRANSITIONS` that the last event applied
        self.stored_id = -1
        self.unstored = Unstored()
        self.outages = Outages(spec.symbol)
        self.liveness = FeedLiveness.of(spec.channels, now_s, spec.stale_min_s, spec.stale_max_s, spec.bars_s)
        self.clock = ExchangeClock()
        self.backlog = Backlog()
        self._is_contiguous = spec.ids is TradeIds.CONTIGUOUS
        self._subscribed: set[Channel] = set()
        self._outliers = OutlierDetector()
        self._suspects: deque[tuple[Bar, str]] = deque()
        self._late_ns: set[int] = set()
        #: time from a late trade to the next one: no-trade bars in it were sealed with the price before that trade
        self._late_range: tuple[int, int] | None = None
        self._lacking: set[tuple[str, int]] = set()  # open bars that lack a trade which came late, by open time
        self._refetch_after: int | None = None  # the store lacks trades up to this one: fetched once a later one is in
        self._reported = 0  # dropped trades and events that were reported
        self.restarts = 0  # a check of a silence is void after another one
        self._seen: dict[int, int] = {}  # trade id -> its time
        self._since_ns: dict[str, int] = {}  # first bars where the store had none: nothing before them is corrected
        #: closed bars of the exchange whose trades are not all here, each with the monotonic end of its grace
        self._incomplete: dict[tuple[str, int], tuple[BarClosed, float]] = {}
        self._next_check_s = float("-inf")
        self._check_wait_s = CHECK.first_s
        self._suspect_since_s = float("-inf")  # when trades were last seen to be missing from the stream
        self._needs_resync = False  # a trade was refused: where ids do not show it missing, REST comes before the next

    # ── events ───────────────────────────────────────────────────────────────────────────────────
    def handle(self, event: m.FeedEvent) -> list[FeedAction]:
        """Apply an event; return what the collector has to do, in order."""
        actions: list[FeedAction] = []
        self.applied = ()
        if self.state is not FeedState.OFF:
            handler = _HANDLERS.get(type(event))
            if handler is None:
                self._apply(event, actions)
            else:
                handler(self, event, actions)
        return actions

    def _on_received(self, event: m.Received, actions: list[FeedAction]) -> None:
        trades = self._receive(event)
        if trades:
            actions.append(m.Publish(trades[-1], len(trades)))
        self._follow(event, actions)

    def _on_book(self, event: m.BookReceived, actions: list[FeedAction]) -> None:
        channel = Channel.QUOTES if isinstance(event.value, Quote) else Channel.BOOK
        if channel in self.liveness:
            self.liveness[channel].received(event.now_s)
            self.outages.end(event.now_ns, channel)
            actions.append(m.Publish(event.value))

    def _on_subscribed(self, event: m.Subscribed, actions: list[FeedAction]) -> None:
        self._subscribed.add(event.channel)
        if event.channel is not Channel.TRADES:
            self.liveness[event.channel].restart(event.now_s)
            return
        self.liveness.subscribed(event.now_s)
        self.backlog.start_run()
        self._stream(m.SUBSCRIBED)
        self._apply(event, actions, cause="disconnected")

    def _on_disconnected(self, event: m.Disconnected, actions: list[FeedAction]) -> None:
        self._subscribed.discard(event.channel)
        if event.channel is not Channel.TRADES:
            self._begin_outage("disconnected", event.now_ns, event.channel)  # no second one where it was silent
            return
        if event.cause == "silent":  # most of the connection was silent: every feed on it has to prove itself
            self._mark_silent(event.now_s)
        self._apply(event, actions, cause=event.cause)

    def _on_discontinued(self, event: m.Discontinued, actions: list[FeedAction]) -> None:
        if event.channel is Channel.TRADES:
            self.backlog.break_run()
            self._apply(event, actions)
        elif event.channel in (Channel.QUOTES, Channel.BOOK):
            self._begin_outage("gap", event.now_ns, event.channel)

    def _on_tick(self, event: m.Ticked, actions: list[FeedAction]) -> None:
        if len(self.unstored.sealed) > SEALED_MAX and self.state is not FeedState.BACKFILL:
            actions.append(m.BarsDropped(len(self.unstored.sealed)))
            self._apply(m.Overflowed(event.now_ns, event.now_s), actions)
        if self._late_ns:
            actions.append(m.CorrectBars())
        if self._suspects:
            actions.append(m.ConfirmBars())
        missing = self._refetch_after
        if missing is not None and self.stored_id > missing and self.state is FeedState.LIVE:
            self._refetch_after = None
            actions.append(m.RefetchTrades())
        self._follow(event, actions)
        if not event.is_open:
            self.liveness.closed(event.now_s)
        elif event.is_measured:
            self._find_silence(event, actions)

    def _on_claimed(self, event: m.Claimed, actions: list[FeedAction]) -> None:
        self.positions = event.positions
        before = event.before
        if before is None:
            return
        was_collected = before.state != FeedState.OFF
        for outage in before.outages:
            self.outages.go_on(outage)
            if outage.channel not in self.liveness or not was_collected:
                self.outages.end(event.now_ns, outage.channel)
        if before.message_ns is not None and was_collected:
            self.message_ns = before.message_ns
            self._begin_outage("collector", event.now_ns)
        actions.append(m.RecheckBars())

    def _on_checked(self, event: m.SilenceChecked, actions: list[FeedAction]) -> None:
        is_building = self.state is FeedState.LIVE or self.state is FeedState.STALE
        if event.check.restarts != self.restarts or not is_building:
            return
        before = self.last_id
        gap = self._add(event.trades, event.now_ns, event.now_s)
        if self.last_id != before:
            self._stream(m.LAGS)
        if gap is not None:
            self._apply(m.GapFound(event.now_ns, event.now_s), actions, gap=gap)
        else:
            self._seal(event.check.until_ns)
            if self.last_id == before:
                self._prove(event.now_s)  # the exchange has no newer trade either
            else:
                self._suspect_since_s = event.now_s
        self._follow(event, actions)

    def _on_fetched(self, event: m.TradesFetched, actions: list[FeedAction]) -> None:
        self.fetched_gap = self._add(event.trades, event.now_ns, event.now_s)

    def _on_recovered(self, event: m.Recovered, actions: list[FeedAction]) -> None:
        made, now_ns, now_s = event.recovery, event.now_ns, event.now_s
        begin_ns = made.start.start_ns
        self.clock.start(made.trades[-1].time_ns if made.trades else begin_ns, now_s)
        if begin_ns > self.clock.until_ns(now_ns, now_s):
            return
        self.builder = builder = BarBuilder(made.start)
        self.restarts += 1
        self.last_id = made.last_id
        self.last_ns = max(self.last_ns, begin_ns)
        self._incomplete.clear()
        self._lacking.clear()
        # trades since then were seen, and are not in the new builder
        self._seen = {trade_id: at_ns for trade_id, at_ns in self._seen.items() if at_ns < begin_ns}
        begins = {timeframe: bar_start(begin_ns, timeframe) for timeframe in builder.timeframes}
        begins |= {item.bar.timeframe: item.bar.time_ns for item in reversed(made.sealed)}
        self._since_ns |= {name: at_ns for name, at_ns in begins.items() if name not in (self.positions or {})}
        self._hand_on(made.sealed)
        self.fetched_gap = self._add(made.trades, now_ns, now_s)
        self._refetch_after = -1 if self.last_id is None else self.last_id

    def _on_refuted(self, event: m.TradesRefuted, actions: list[FeedAction]) -> None:
        false = self.backlog.take_false(event.waiting, lambda trade: trade.trade_id >= self._next_id)
        self.clock.refuse(false, "its id is beyond the newest that the exchange knows")

    def _on_correction_started(self, event: m.CorrectionStarted, actions: list[FeedAction]) -> None:
        times, self._late_ns = self._late_ns, set()
        if self._late_range is not None and self.builder is not None:
            (at_ns, until_ns), base, self._late_range = self._late_range, self.builder.base, None
            at_ns = bar_end(bar_start(at_ns, base), base)
            while bar_end(at_ns, base) <= until_ns:
                times.add(at_ns)
                at_ns = bar_end(at_ns, base)
        self.correcting = sorted(times)

    def _on_correction_failed(self, event: m.CorrectionFailed, actions: list[FeedAction]) -> None:
        self._late_ns.update(self.correcting)

    def _on_corrected(self, event: m.BarsCorrected, actions: list[FeedAction]) -> None:
        self.unstored.revised.extend(Sealed(bar, None, "revised") for bar in event.bars)
        if event.is_suspect:
            self._suspects.popleft()

    def _on_refetch_failed(self, event: m.RefetchFailed, actions: list[FeedAction]) -> None:
        self._refetch_after = self.stored_id

    def _on_tried(self, event: m.BackfillTried, actions: list[FeedAction]) -> None:
        self.error, self.is_refused = event.error, event.is_refused

    def _on_stored(self, event: m.Stored, actions: list[FeedAction]) -> None:
        if event.last_trade_id is not None:
            self.stored_id = event.last_trade_id
        timeframe = next((name for name in self.timeframes if length_of(name) >= 60), "")
        for bar in event.bars:
            if bar.timeframe == timeframe and bar.low > 0:
                reason = self._outliers.check(bar.low, bar.high, bar.close)
                if reason:
                    self._suspects.append((bar, reason))

    def _on_draining(self, event: m.Draining, actions: list[FeedAction]) -> None:
        self._build(event.now_ns, event.now_s)
        self._quarantine(actions)

    def _follow(self, event: m.FeedEvent, actions: list[FeedAction]) -> None:
        """Build from the backlog and apply the events that follow from it."""
        found = self._build(event.now_ns, event.now_s)
        if found is not None:
            if isinstance(found, Gap):
                self._apply(m.GapFound(event.now_ns, event.now_s), actions, gap=found, settle_s=self._settle_s)
            else:
                self._apply(m.CheckDue(event.now_ns, event.now_s), actions, check=found)
        if self.state is _STALE and m.is_trusted(self):
            self._apply(m.Trusted(event.now_ns, event.now_s), actions)
        if self.clock.refused:
            self._quarantine(actions)

    def _quarantine(self, actions: list[FeedAction]) -> None:
        if suspects := self.clock.take_refused():
            actions.append(m.Quarantine(suspects))

    def _find_silence(self, event: m.Ticked, actions: list[FeedAction]) -> None:
        for channel in self.liveness.silent(event.now_s):
            group = channel if channel in (Channel.QUOTES, Channel.BOOK) else Channel.TRADES
            if group not in self._subscribed:
                continue
            liveness = self.liveness[channel]
            silent_s = liveness.age_s(event.now_s)
            actions.append(m.Resubscribe(channel, silent_s, liveness.limit_s()))
            liveness.give_up(event.now_s)
            if channel is not Channel.TRADES or self.state is FeedState.LIVE:
                self._begin_outage("silent", event.now_ns, channel, silent_s=silent_s)
            if channel is Channel.TRADES:
                self._mark_silent(event.now_s)
                self._apply(m.FellSilent(event.now_ns, event.now_s), actions, cause="silent")

    # ── transitions ──────────────────────────────────────────────────────────────────────────────
    @property
    def is_subscribed(self) -> bool:
        """Return whether the subscription of trades and bars stands."""
        return Channel.TRADES in self._subscribed

    def _apply(
        self,
        event: m.FeedEvent,
        actions: list[FeedAction],
        *,
        cause: str = "gap",
        gap: Gap | None = None,
        check: SilenceCheck | None = None,
        settle_s: float = 0.0,
    ) -> None:
        """Apply the row of an event: change the state, then perform its acts."""
        row = m.row_of(self.state, type(event), self)
        if row is None:
            return
        self.applied += (row.number,)
        if FeedAct.RECOVER in row.acts:
            self._forget()
        if row.target is not None:
            self._set_state(row.target, event, cause, actions)
        for act in row.acts:
            if act is FeedAct.FETCH:
                actions.append(m.StartBackfill(self.missing(), settle_s=self._settle_s))
            elif act is FeedAct.FILL:
                actions.append(m.StartBackfill(gap, settle_s=settle_s, is_found=True))
            elif act is FeedAct.RECOVER:
                actions.append(m.StartBackfill(None))
            elif act is FeedAct.REBUILD:
                actions.append(m.StartBackfill(None, by_bars=True))
            elif act is FeedAct.CHECK:
                assert check is not None
                actions.append(m.CheckSilence(check))
            elif act is FeedAct.BUILD:
                self._follow(event, actions)

    def _set_state(self, state: FeedState, event: m.FeedEvent, cause: str, actions: list[FeedAction]) -> None:
        old = self.state
        if isinstance(event, m.Stopped):  # nothing more is written about it but that it is off
            self.outages.end_all(event.now_ns)
            self.state = state
            return
        if isinstance(event, m.Overflowed):
            old = FeedState.COLD  # no outage: trades arrive, the store does not take them
        elif old is FeedState.LIVE:
            self.live_until_s = event.now_s
            self._begin_outage(cause, event.now_ns)
        elif state is FeedState.LIVE:
            self.live_until_s = None
            self.outages.end(event.now_ns)
        self.state = state
        actions.append(m.StateChanged(old, state))

    def _stream(self, event: str) -> None:
        self.stream = m.STREAM.get((event, self.stream), self.stream)

    def _mark_silent(self, now_s: float) -> None:
        """The trades of the stream are not trusted until one arrives, or REST proves the silence."""
        self._suspect_since_s = now_s
        self._stream(m.SILENT)

    def _prove(self, now_s: float) -> None:
        """No trade was missed until now: the exchange's bars count those that are here, or REST has no more.

        A LAGGING stream proves nothing by that. A SILENT one is trusted once it holds for as long as the limit.
        """
        if self.stream is Stream.LAGGING or self.stream is Stream.SILENT_LAGGING:
            return
        limit_s = self.liveness.limit_s()
        self.liveness.proven(now_s)
        if now_s - self._suspect_since_s >= limit_s:
            self._stream(m.PROVEN)

    def _begin_outage(self, cause: str, now_ns: int, channel: str = TRADES, *, silent_s: float | None = None) -> None:
        """Begin an outage of a channel: since it fell silent, or since the feed's last message."""
        if silent_s is not None:
            began_ns = now_ns - round(silent_s * NS)
        else:
            began_ns = self.message_ns if channel == TRADES and self.message_ns else now_ns
        self.outages.begin(cause, min(began_ns, now_ns), channel)

    # ── receiving ────────────────────────────────────────────────────────────────────────────────
    def _receive(self, event: m.Received) -> list[PublicTrade]:
        """Append what arrived to the backlog; return the new trades that are accepted."""
        news = [item for item in event.events if not (isinstance(item, PublicTrade) and self._is_known(item))]
        if not news:
            return []  # the snapshot of a subscription, for example: it proves nothing
        accepted, future = self.clock.split(news, event.now_ns, event.now_s)
        if future:
            if any(isinstance(item, PublicTrade) for item in future):
                self.backlog.break_run()
                self._needs_resync = True
            if not accepted:
                return []
        trades, has_bars = self.backlog.add(accepted)
        if trades:
            self.liveness.received(Channel.TRADES, event.now_s)
            if self.stream is not _CURRENT:
                self._stream(m.ARRIVED)
        if has_bars:
            self.liveness.received(Channel.BARS, event.now_s)
            self.outages.end(event.now_ns, Channel.BARS)
        self.message_ns = event.now_ns
        self._check_wait_s = CHECK.first_s
        return trades

    # ── backfill ─────────────────────────────────────────────────────────────────────────────────
    def missing(self) -> Gap | None:
        """Return the gap from the last trade to the present; None: nothing is built, recover from stored trades."""
        return None if self.builder is None or self.last_id is None else Gap(self.last_id + 1, None)

    def still_missing(self, gap: Gap | None) -> Gap | None:
        """Return the rest of a gap, where ids show it."""
        if gap is None or gap.to_id is None or not self._is_contiguous or self._next_id >= gap.to_id:
            return None
        return Gap(self._next_id, gap.to_id)

    def _add(self, trades: list[PublicTrade], now_ns: int, now_s: float) -> Gap | None:
        """Build from the trades of a REST answer that may be built now (see `ExchangeClock.filter_fetched`); return a
        Gap when they do not follow one another after all."""
        kept = self.clock.filter_fetched(
            trades, lambda: max(self.backlog.trade_ids(), default=-1), now_ns, now_s, is_counted=self._is_contiguous
        )
        if trades and trades[-1] not in kept[-1:] and not self.clock.is_false(trades[-1].trade_id):
            self._needs_resync = True
        for trade in kept:
            gap = self._take(trade)
            if gap is not None:
                return gap
        return None

    def _forget(self) -> None:
        """Drop what is built and not stored: the store's position says where to begin again."""
        self.positions = None
        self.builder = None
        self.restarts += 1
        self.last_id = None
        self.unstored.clear()
        self._seen.clear()
        self._incomplete.clear()
        self._lacking.clear()

    # ── corrections ──────────────────────────────────────────────────────────────────────────────
    @property
    def late_waiting(self) -> int:
        """Return how many times of late trades wait for a correction."""
        return len(self._late_ns)

    def outdated(self, timeframe: str) -> tuple[list[int], bool]:
        """Return the sealed bars of a timeframe that are being corrected, and whether an open one lacks a late
        trade."""
        known = self.positions.get(timeframe) if self.positions else None
        starts = {bar_start(time_ns, timeframe) for time_ns in self.correcting}
        sealed = sorted(start_ns for start_ns in starts if known is not None and start_ns <= known.sealed_ns)
        since_ns = self._since_ns.get(timeframe, 0)
        return [start_ns for start_ns in sealed if start_ns >= since_ns], len(sealed) < len(starts)

    @property
    def suspect(self) -> tuple[Bar, str] | None:
        """Return the oldest stored bar that is an outlier and not confirmed yet, with the reason."""
        return self._suspects[0] if self._suspects else None

    # ── store ────────────────────────────────────────────────────────────────────────────────────
    def take_batch(self, bars_max: int, trades_max: int) -> Batch:
        """Return the oldest values for the store. The caller puts them back when it does not take them."""
        return Batch(*self.unstored.take(bars_max, trades_max), self.outages.take())

    def put_back(self, batch: Batch) -> None:
        """Put a batch back that the store did not take."""
        self.outages.put_back(batch.outages)
        if self.positions is not None:  # else it begins again from what the store has
            self.unstored.put_back(batch)
            self._trim()

    @property
    def has_unstored(self) -> bool:
        """Return whether anything waits for the store."""
        return bool(self.unstored) or bool(self.outages.unstored)

    def keep_trades(self, trades_max: int) -> None:
        """Let at most so many trades wait for the store."""
        self.unstored.trades_max = trades_max

    def take_dropped(self) -> int:
        """Return how many trades and events were dropped since the last call."""
        dropped = self.dropped - self._reported
        self._reported += dropped
        return dropped

    @property
    def dropped(self) -> int:
        """Return how many trades and events were dropped, because they waited too long."""
        return self.unstored.dropped + self.backlog.cut

    def _trim(self) -> None:
        if self.unstored.trim():
            self._refetch_after = self.last_id

    # ── building ─────────────────────────────────────────────────────────────────────────────────
    def _build(self, now_ns: int, now_s: float) -> Gap | SilenceCheck | None:
        """Build from the backlog and seal what is proven over. A Gap stops it until that is filled."""
        if self.builder is None or not (self.state is _LIVE or self.state is _STALE):
            return None
        events = self.backlog.events
        while events:
            event = events[0]
            if isinstance(event, PublicTrade):
                if self._needs_resync and not self._is_contiguous:
                    self._needs_resync = False
                    return Gap(self._next_id, None)
                gap = self._take(event)
                if gap is not None:
                    return gap
            else:
                end = event if isinstance(event, BarClosed) else event.end
                is_counted = self.builder.trades_in(end.timeframe, end.time_ns) == end.trades
                if not self._is_sealed(end):
                    self._incomplete[end.timeframe, end.time_ns] = (end, now_s + GRACE_NS / NS)
                elif is_counted:
                    self._prove(now_s)
            events.popleft()
        if self._incomplete and (check := self._incomplete_check(now_s)) is not None:
            return check
        return self._overdue_check(now_s)

    def _take(self, trade: PublicTrade) -> Gap | None:
        assert self.builder is not None
        if self._is_known(trade):
            return None
        if not self._is_contiguous:
            if self._is_leap(trade):
                return Gap(self._next_id, trade.trade_id)
            self._remember(trade)
        elif self.last_id is not None:
            if trade.trade_id != self.last_id + 1:
                return Gap(self.last_id + 1, trade.trade_id)
            if self.clock.is_false(trade.trade_id):
                self.clock.skip(trade.trade_id)
                self.last_id = trade.trade_id
                return None
            if self._is_leap(trade):
                return Gap(trade.trade_id, trade.trade_id)
        if self._incomplete:
            self._drop_incomplete(trade)
        made = self.builder.add(trade)
        if made is None:
            self.late += 1
            self._late_ns.add(trade.time_ns)
            self._find_changed(trade)
        elif made:
            self._hand_on([Sealed(bar, self.last_id, "live") for bar in made])
        self.last_id = trade.trade_id
        self.last_ns = max(self.last_ns, trade.time_ns)
        self.last_price = trade.price
        unstored = self.unstored
        unstored.trades.append(trade)
        if len(unstored.trades) > unstored.trades_max:
            self._trim()
        return None

    def _find_changed(self, late: PublicTrade) -> None:
        """Find what a late trade changes beside its sealed bar: larger bars that are open, and no-trade bars after
        it."""
        builder, begin_ns, end_ns = self.builder, late.time_ns, self.last_ns
        assert builder is not None
        bars = [(timeframe, bar_start(begin_ns, timeframe)) for timeframe in builder.timeframes]
        self._lacking.update(bar for bar in bars if builder.trades_in(*bar) is not None)
        if begin_ns >= end_ns:  # it is the newest one
            end_ns = builder.open_ns
            builder.move_price(late.price)
        if self._late_range is not None:
            begin_ns, end_ns = min(begin_ns, self._late_range[0]), max(end_ns, self._late_range[1])
        self._late_range = begin_ns, end_ns

    def _is_known(self, trade: PublicTrade) -> bool:
        if self._is_contiguous:
            return self.last_id is not None and trade.trade_id <= self.last_id
        return trade.trade_id in self._seen

    @property
    def _next_id(self) -> int:
        return 0 if self.last_id is None else self.last_id + 1

    @property
    def _settle_s(self) -> float:
        """Wait before a backfill: where ids do not show what is missing REST is queried once, and must not be late."""
        return 0.0 if self._is_contiguous else GRACE_NS / NS

    def _remember(self, trade: PublicTrade) -> None:
        self._seen[trade.trade_id] = trade.time_ns
        if len(self._seen) > IDS_KEPT:
            del self._seen[next(iter(self._seen))]

    def _is_leap(self, trade: PublicTrade) -> bool:
        return self.builder is not None and trade.time_ns - self.builder.open_ns > SILENCE_MAX_NS

    def _drop_incomplete(self, trade: PublicTrade) -> None:
        """Drop closed bars that end before a trade: ids are in order, none of their trades can come any more."""
        for key, (end, _) in list(self._incomplete.items()):
            if trade.time_ns >= bar_end(end.time_ns, end.timeframe):
                del self._incomplete[key]

    def _is_sealed(self, end: BarClosed) -> bool:
        """Seal through a bar that the exchange closed once its trades are all here; return whether that is done."""
        assert self.builder is not None
        over_ns = bar_end(end.time_ns, end.timeframe)
        have = self.builder.trades_in(end.timeframe, end.time_ns)
        if self.builder.open_ns >= over_ns or (have is None and self.builder.open_ns > end.time_ns):
            return True
        if have is None or end.trades < 0 or have < end.trades:
            return False
        self._seal(over_ns)
        return True

    def _incomplete_check(self, now_s: float) -> SilenceCheck | None:
        """Try the incomplete bars again; return a check for one whose trades do not come within the grace."""
        for key, (end, deadline_s) in list(self._incomplete.items()):
            is_sealed = self._is_sealed(end)
            if is_sealed or now_s >= deadline_s:
                del self._incomplete[key]
            if not is_sealed and now_s >= deadline_s:
                return self._check(bar_end(end.time_ns, end.timeframe), now_s)
        return None

    def _overdue_check(self, now_s: float) -> SilenceCheck | None:
        """Return a check when trades are silent and the exchange reports nothing, less often while that lasts.

        Before the first message, in a replay, and while the stream is SILENT no bar is overdue: then the check is only
        about the silence.
        """
        assert self.builder is not None
        if self._incomplete:
            return None
        is_live, stream = self.state is _LIVE, self.stream
        over_ns, passed_ns = self.builder.open_ns, self.clock.passed_ns(now_s)
        if is_live and passed_ns is not None:
            over_ns = max(over_ns, bar_start(passed_ns - GRACE_NS, self.builder.base))
        is_trusted = stream is _CURRENT or stream is _LAGGING
        if is_trusted and over_ns <= self.builder.open_ns and not (is_live and self.liveness.is_check_due(now_s)):
            return None
        return self._check(over_ns, now_s)

    def _check(self, until_ns: int, now_s: float) -> SilenceCheck | None:
        if now_s < self._next_check_s or (self.last_id is None and self._is_contiguous):
            return None
        self._next_check_s = now_s + min(self._check_wait_s, self.liveness.check_limit_s() / 2)
        self._check_wait_s = CHECK.next_s(self._check_wait_s)
        return SilenceCheck(self._next_id, until_ns, self.restarts)

    def _seal(self, through_ns: int) -> None:
        assert self.builder is not None
        self._hand_on([Sealed(bar, self.last_id, "live") for bar in self.builder.seal_through(through_ns)])

    def _hand_on(self, sealed: list[Sealed]) -> None:
        """Queue bars for the store, in order and once: those queued before a backfill are left out.

        A bar that lacks a late trade and was not built again in time is corrected like those sealed before that trade.
        """
        assert self.positions is not None
        for item in sealed:
            known = self.positions.get(item.bar.timeframe)
            if known is None or item.bar.time_ns > known.sealed_ns:
                self.unstored.sealed.append(item)
                self.positions[item.bar.timeframe] = SealedPosition(item.bar.time_ns, item.last_trade_id)
                if self._lacking and (item.bar.timeframe, item.bar.time_ns) in self._lacking:
                    self._lacking.discard((item.bar.timeframe, item.bar.time_ns))
                    self._late_ns.add(item.bar.time_ns)


_HANDLERS: Mapping[type[m.FeedEvent], Callable[[SymbolFeed, Any, list[FeedAction]], None]] = {
    m.Received: SymbolFeed._on_received,
    m.BookReceived: SymbolFeed._on_book,
    m.Subscribed: SymbolFeed._on_subscribed,
    m.Disconnected: SymbolFeed._on_disconnected,
    m.Discontinued: SymbolFeed._on_discontinued,
    m.Ticked: SymbolFeed._on_tick,
    m.Claimed: SymbolFeed._on_claimed,
    m.SilenceChecked: SymbolFeed._on_checked,
    m.TradesFetched: SymbolFeed._on_fetched,
    m.Recovered: SymbolFeed._on_recovered,
    m.TradesRefuted: SymbolFeed._on_refuted,
    m.CorrectionStarted: SymbolFeed._on_correction_started,
    m.CorrectionFailed: SymbolFeed._on_correction_failed,
    m.BarsCorrected: SymbolFeed._on_corrected,
    m.RefetchFailed: SymbolFeed._on_refetch_failed,
    m.BackfillTried: SymbolFeed._on_tried,
    m.Stored: SymbolFeed._on_stored,
    m.Draining: SymbolFeed._on_draining,
}
