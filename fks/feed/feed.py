"""One symbol's live feed, without I/O: what arrived, what is whole, how old it is, what is sealed and not yet stored.

States (C7): COLD, nothing known yet; BACKFILL, a hole is being filled from REST; LIVE; STALE, silent beyond its limit.
Where ids are contiguous, trades are taken strictly by id: the next one, a known one (dropped), or a gap, which stops
the feed until it is filled. Where ids only rise or tell nothing, a known one is dropped and holes are found by other
means: the connection ended, a Discontinuity, an own bar with more trades. A bar seals when a later trade
proves it over, or when the exchange says so and the number of its trades agrees. Silence proves nothing (a frozen
socket is silent too): when a bar is overdue, or the trades are half way to being stale, the feed has a Doubt, REST is
asked for the trades after the last one, and what it has, or has not, settles the bar and the silence.

What tells of a time to come (see `present`), or of an id far beyond all that REST knows, is refused. It is then missing
like any other, and what was refused wrongly comes back from REST.
"""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from itertools import compress

from fks.bars.aggregate import BarBuilder
from fks.bars.outliers import OutlierDetector
from fks.feed.exchange_clock import Event, Present
from fks.feed.findings import Doubt, FeedState, Gap, Sealed
from fks.feed.liveness import Pulses
from fks.feed.outages import Outages
from fks.feed.rows import TRADES, SealedPosition
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.market import BarSeen, Channel, TradeIds
from fks.model.timeframe import NS, bar_end, bar_start

GRACE_NS = 1_500_000_000  # how long a closed bar waits for trades that are still on their way
ASK_MAX_S = 10.0  # in a long silence REST is asked this seldom, or twice in the time after which it is stale
TRADES_KEPT = 50_000  # trades waiting to be stored; beyond it the oldest go, counted (bars do not need them any more)
SILENCE_MAX_NS = 3600 * NS  # between two trades; beyond it the venue's own bars say what happened
INBOX_MAX = 200_000  # events that wait while a hole is filled; the oldest go first, counted, and come back from REST
IDS_KEPT = (
    20_000  # of trades lately taken, where ids do not rise one by one: what a hole filled by time may bring again
)


class SymbolFeed:
    """The state of one symbol. Not safe to share between tasks: one loop drives it, and no method waits."""

    def __init__(
        self,
        symbol: str,
        now_s: float,
        *,
        stale_min_s: float,
        stale_max_s: float,
        frames: tuple[str, ...] = (),
        channels: tuple[Channel, ...] = (Channel.TRADES, Channel.BARS),
        ids: TradeIds = TradeIds.CONTIGUOUS,
        bars_s: float = 0.0,
    ) -> None:
        self.symbol = symbol
        self.frames = frames
        self.state = FeedState.COLD
        self.builder: BarBuilder | None = None
        self.last_id: int | None = None
        #: the exchange's time of the last trade taken, where trades are asked for by time
        self.last_ns = 0
        #: how far each timeframe is sealed, stored or on its way there; None: only the store knows
        self.positions: dict[str, SealedPosition] | None = None
        #: its trades went silent: only a trade, or proof that there was none, makes it live again; no subscription does
        self.is_mute = False
        #: monotonic time when trades were last seen to be missing from the socket
        self.doubted_s = float("-inf")
        self.live_s: float | None = now_s  # monotonic time until which it was live (made, at first); None while it is
        self.last_price: Decimal | None = None
        self.message_ns: int | None = None
        self.detail, self.is_refused = "", False  # why a hole is still open; whether the exchange will not fill it
        self.late = 0
        self.dropped = 0  # trades that waited too long for the store; they are fetched again once it takes them
        self.trades_max = TRADES_KEPT
        self.cut = 0  # events that waited too long for a hole to be filled
        self._counted = 0
        self.sealed, self.revised = deque[Sealed](), deque[Sealed]()
        self.trades: deque[PublicTrade] = deque()
        self.outages = Outages(symbol)
        self.outliers = OutlierDetector()
        self.doubted: deque[tuple[Bar, str]] = deque()
        #: when trades came whose bars were sealed already: these bars are asked for again
        self.late_ns: set[int] = set()
        #: the store may lack trades up to this one, filled with bars or dropped: they are fetched once a later one is
        #: stored
        self.refill_to: int | None = None
        self.stored_id = -1
        self.pulses = Pulses.of(channels, now_s, stale_min_s, stale_max_s, bars_s)
        self._ids = ids
        self._seen: dict[int, int] = {}  # trade id -> its time
        self.since_ns: dict[str, int] = {}  # where bars begin that the store had none of: nothing before is corrected
        self._inbox: deque[Event] = deque(maxlen=INBOX_MAX)
        self._first: PublicTrade | None = None  # the first trade heard since nothing is missing between those that were
        self._is_torn = False
        #: the exchange's words of bars whose trades are not all here, each with the monotonic time until when they may
        #: tarry
        self._waiting: dict[tuple[str, int], tuple[BarClosed, float]] = {}
        self._asked_s = float("-inf")  # no doubt is raised again before
        self._ask_again_s = GRACE_NS / NS
        self._is_behind = False  # REST told a trade that the socket has not
        self.present = Present()
        self._is_owed = (
            False  # a trade was refused: where no id tells that it is missing, REST is asked before the next one
        )

    # ── hearing ──────────────────────────────────────────────────────────────────────────────────
    def receive(self, events: list[Event], now_ns: int, now_s: float) -> list[PublicTrade]:
        """Take what arrived; nothing is built from it before `advance`. Return the trades that are believed."""
        news = [event for event in events if not (isinstance(event, PublicTrade) and self._is_known(event))]
        if not news:
            return []  # a subscription that begins with old trades, say: that proves nothing
        believed, future = self.present.judge(news, now_ns, now_s)
        if future:
            if any(isinstance(event, PublicTrade) for event in future):
                self.tear()
                self._is_owed = True
            if not believed:
                return []
        self.cut += max(0, len(self._inbox) + len(believed) - INBOX_MAX)
        trades: list[PublicTrade] = []
        has_bars = False
        for event in believed:
            if isinstance(event, PublicTrade):
                trades.append(event)
                self._inbox.append(event)
                if self._first is None and not self._is_torn:
                    self._first = event
            else:
                has_bars = True
                if not isinstance(event, BarSeen) or event.is_closed:
                    self._inbox.append(event)
        if trades:
            self.pulses.heard(Channel.TRADES, now_s)
            self.is_mute = self._is_behind = False
        if has_bars:
            self.pulses.heard(Channel.BARS, now_s)
            self.outages.end(now_ns, Channel.BARS)
        self._is_torn = False
        self.message_ns = now_ns
        self._ask_again_s = GRACE_NS / NS
        return trades

    def touch(self, now_s: float) -> None:
        """Start the ages anew: trades and bars were just subscribed, and what comes follows nothing that came
        before."""
        for pulse in self.pulses.main():
            pulse.touch(now_s)
        self._first, self._is_behind = None, False

    def tear(self) -> None:
        """Note that the exchange says it left trades out: somewhere in what comes next."""
        self._first, self._is_torn = None, True

    def heard(self) -> list[PublicTrade]:
        """Return the trades that wait while a hole is filled, of one subscription, nothing missing between them."""
        if self._first is None:
            return []
        trades = [event for event in self._inbox if isinstance(event, PublicTrade)]
        return trades[next((n for n, trade in enumerate(trades) if trade is self._first), 0) :]

    def vouch(self, now_s: float) -> None:
        """Note that no trade was missed until now: the exchange's bars count those we have, or REST has no more.

        A mute feed is believed again when that holds for as long as it took to call it mute. Where REST told a trade
        that the socket has not, trades that are all here prove nothing of the socket until it tells one.
        """
        if self._is_behind:
            return
        limit_s = self.pulses.limit_s()
        self.pulses.vouch(now_s)
        if now_s - self.doubted_s >= limit_s:
            self.is_mute = False

    def begin_outage(self, cause: str, now_ns: int, channel: str = TRADES, *, silent_s: float | None = None) -> None:
        """Note that a channel is not live any more: since it fell silent, or since the feed's last message."""
        if silent_s is not None:
            began_ns = now_ns - round(silent_s * NS)
        else:
            began_ns = self.message_ns if channel == TRADES and self.message_ns else now_ns
        self.outages.begin(cause, min(began_ns, now_ns), channel)

    # ── believing ────────────────────────────────────────────────────────────────────────────────
    def believed(self, trades: list[PublicTrade], now_ns: int, now_s: float) -> list[PublicTrade]:
        """Return what may be built from now of an answer of REST; see `Present.believed`."""
        is_counted = self._ids is TradeIds.CONTIGUOUS
        kept = self.present.believed(
            trades, lambda: max(self.ids_waiting(), default=-1), now_ns, now_s, is_counted=is_counted
        )
        self._is_owed |= bool(trades) and trades[-1] not in kept[-1:] and trades[-1].trade_id not in self.present.passed
        return kept

    def ids_waiting(self) -> list[int]:
        """Return the ids of the trades that wait until a hole is filled, whatever is missing between them."""
        return [event.trade_id for event in self._inbox if isinstance(event, PublicTrade)]

    @property
    def waiting(self) -> int:
        """Return how many events wait until a hole is filled."""
        return len(self._inbox)

    def lacks(self, gap: Gap | None) -> Gap | None:
        """Return what is still missing of a gap, where ids tell."""
        if gap is None or gap.to_id is None or self._ids is not TradeIds.CONTIGUOUS or self._next_id >= gap.to_id:
            return None
        return Gap(self._next_id, gap.to_id)

    def refuse_heard(self, count: int) -> None:
        """Refuse those of the first `count` waiting events that are trades beyond the newest that REST knows."""
        first = [self._inbox.popleft() for _ in range(min(count, len(self._inbox)))]
        is_false = [isinstance(event, PublicTrade) and event.trade_id >= self._next_id for event in first]
        self.present.refuse(compress(first, is_false), "its id is beyond the newest that the exchange knows")
        self._inbox.extendleft(reversed([event for event, false in zip(first, is_false, strict=True) if not false]))

    # ── building ─────────────────────────────────────────────────────────────────────────────────
    def restart(self, builder: BarBuilder, last_id: int | None, before: list[Sealed]) -> None:
        """Go on from a fresh builder; `last_id` is the last trade it holds, `before` the bars that lead up to it.

        What waits in the inbox stays.
        """
        self.builder = builder
        self.last_id = last_id
        self.last_ns = max(self.last_ns, builder.open_ns)
        self._waiting.clear()
        # the new builder does not hold them, though we have seen them
        self._seen = {trade_id: at_ns for trade_id, at_ns in self._seen.items() if at_ns < builder.open_ns}
        begins = {frame: bar_start(builder.open_ns, frame) for frame in builder.timeframes}
        begins |= {item.bar.timeframe: item.bar.time_ns for item in reversed(before)}
        self.since_ns |= {frame: at_ns for frame, at_ns in begins.items() if frame not in (self.positions or {})}
        self._keep(before)

    def add(self, trades: list[PublicTrade]) -> Gap | None:
        """Build from trades of REST, in order; a Gap says that they do not follow one another after all."""
        for trade in trades:
            gap = self._take(trade)
            if gap is not None:
                return gap
        return None

    def settle(self, trades: list[PublicTrade], over_ns: int) -> Gap | None:
        """Take REST's answer to a Doubt: all trades after the last known one, so bars up to `over_ns` are whole."""
        before = self.last_id
        gap = self.add(trades)
        self._is_behind |= self.last_id != before
        if gap is None:
            self._seal(over_ns)
        return gap

    def advance(self, now_ns: int, now_s: float) -> Gap | Doubt | None:
        """Build from the inbox and seal what is proven over. A Gap stops it: fill the hole, then call again."""
        if self.builder is None or self.state not in (FeedState.LIVE, FeedState.STALE):
            return None
        while self._inbox:
            event = self._inbox[0]
            if isinstance(event, PublicTrade):
                if self._is_owed and self._ids is not TradeIds.CONTIGUOUS:
                    self._is_owed = False
                    return Gap(self._next_id, None)
                gap = self._take(event)
                if gap is not None:
                    return gap
            else:
                end = event if isinstance(event, BarClosed) else event.end
                is_proven = self.builder.trades_in(end.timeframe, end.time_ns) == end.trades
                if not self._is_settled(end):
                    self._waiting[end.timeframe, end.time_ns] = (end, now_s + GRACE_NS / NS)
                elif is_proven:
                    self.vouch(now_s)  # it counts the trades we have
            self._inbox.popleft()
        return self._settle(now_s) or self._overdue(now_s)

    def trim(self) -> None:
        """Let the oldest trades go that wait for the store beyond `trades_max`: they are counted, and fetched again."""
        while len(self.trades) > self.trades_max:
            self.trades.popleft()
            self.dropped += 1
            self.refill_to = self.last_id

    def take_dropped(self) -> int:
        """Return how many trades and events were let go since the last call."""
        dropped = self.dropped + self.cut - self._counted
        self._counted += dropped
        return dropped

    def forget(self) -> None:
        """Drop what is built and not stored: the store's own position says where to begin again."""
        self.state = FeedState.COLD
        self.positions = None
        self.builder = None
        self.last_id = None
        self.sealed.clear()
        self.revised.clear()
        self.trades.clear()
        self._seen.clear()
        self._waiting.clear()

    def _take(self, trade: PublicTrade) -> Gap | None:
        assert self.builder is not None
        if self._is_known(trade):
            return None
        if self._ids is not TradeIds.CONTIGUOUS:
            if self._is_leap(trade):
                return Gap(self._next_id, trade.trade_id)
            self._remember(trade)
        elif self.last_id is not None:
            if trade.trade_id != self.last_id + 1:
                return Gap(self.last_id + 1, trade.trade_id)
            if trade.trade_id in self.present.passed:
                self.present.passed.discard(trade.trade_id)
                self.last_id = trade.trade_id
                return None
            if self._is_leap(trade):
                return Gap(trade.trade_id, trade.trade_id)
        self._settle_before(trade)
        made = self.builder.add(trade)
        if made is None:
            self.late += 1
            self.late_ns.add(trade.time_ns)
        elif made:
            self._keep([Sealed(bar, self.last_id, "live") for bar in made])
        self.last_id = trade.trade_id
        self.last_ns = max(self.last_ns, trade.time_ns)
        self.last_price = trade.price
        self.trades.append(trade)
        if len(self.trades) > self.trades_max:
            self.trim()
        return None

    def _is_known(self, trade: PublicTrade) -> bool:
        if self._ids is TradeIds.CONTIGUOUS:
            return self.last_id is not None and trade.trade_id <= self.last_id
        return trade.trade_id in self._seen

    @property
    def _next_id(self) -> int:
        return 0 if self.last_id is None else self.last_id + 1

    def _remember(self, trade: PublicTrade) -> None:
        self._seen[trade.trade_id] = trade.time_ns
        if len(self._seen) > IDS_KEPT:
            del self._seen[next(iter(self._seen))]

    def _is_leap(self, trade: PublicTrade) -> bool:
        return self.builder is not None and trade.time_ns - self.builder.open_ns > SILENCE_MAX_NS

    def _settle_before(self, trade: PublicTrade) -> None:
        """A trade beyond the end of a bar that waits for its trades: none can come any more, ids are in order."""
        for key, (end, _) in list(self._waiting.items()):
            if trade.time_ns >= bar_end(end.time_ns, end.timeframe):
                del self._waiting[key]

    def _is_settled(self, end: BarClosed) -> bool:
        """Seal through a bar the venue called over once its trades are all here; return whether that is done."""
        assert self.builder is not None
        over_ns = bar_end(end.time_ns, end.timeframe)
        have = self.builder.trades_in(end.timeframe, end.time_ns)
        if self.builder.open_ns >= over_ns or (have is None and self.builder.open_ns > end.time_ns):
            return True
        if have is None or end.trades < 0 or have < end.trades:
            return False
        self._seal(over_ns)
        return True

    def _settle(self, now_s: float) -> Doubt | None:
        """Look again at the bars that wait for their trades; doubt when these tarry."""
        for key, (end, deadline_s) in list(self._waiting.items()):
            is_settled = self._is_settled(end)
            if is_settled or now_s >= deadline_s:
                del self._waiting[key]
            if not is_settled and now_s >= deadline_s:
                return self._doubt(bar_end(end.time_ns, end.timeframe), now_s)
        return None

    def _overdue(self, now_s: float) -> Doubt | None:
        """Doubt in a silence of which the venue says nothing, ever more seldom while it lasts.

        Before the first message, and while the feed is mute, no bar is overdue: then only whether the silence is true
        is asked.
        """
        assert self.builder is not None
        is_live = self.state is FeedState.LIVE
        if self._waiting:
            return None
        over_ns, passed_ns = (
            self.builder.open_ns,
            self.present.passed_ns(now_s),
        )  # of a replay nobody knows what is past
        if is_live and passed_ns is not None:
            over_ns = max(over_ns, bar_start(passed_ns - GRACE_NS, self.builder.base))
        is_quiet = self.is_mute or (is_live and self.pulses.is_quiet(now_s))
        return self._doubt(over_ns, now_s) if is_quiet or over_ns > self.builder.open_ns else None

    def _doubt(self, over_ns: int, now_s: float) -> Doubt | None:
        if now_s < self._asked_s or (self.last_id is None and self._ids is TradeIds.CONTIGUOUS):
            return None
        limit_s = min(pulse.limit_s() for pulse in self.pulses.main())
        self._asked_s = now_s + min(self._ask_again_s, limit_s / 2)
        self._ask_again_s = min(self._ask_again_s * 2, ASK_MAX_S)
        return Doubt(self._next_id, over_ns)

    def _seal(self, through_ns: int) -> None:
        assert self.builder is not None
        self._keep([Sealed(bar, self.last_id, "live") for bar in self.builder.seal_through(through_ns)])

    def _keep(self, sealed: list[Sealed]) -> None:
        """Hand bars on, in order and once: those that were handed on before a hole are left out."""
        assert self.positions is not None
        for item in sealed:
            known = self.positions.get(item.bar.timeframe)
            if known is None or item.bar.time_ns > known.sealed_ns:
                self.sealed.append(item)
                self.positions[item.bar.timeframe] = SealedPosition(item.bar.time_ns, item.last_trade_id)
