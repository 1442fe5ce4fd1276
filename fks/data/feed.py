"""One symbol's live feed, without I/O: what arrived, what is whole, how old it is, what is sealed and not yet stored.

States (C7): COLD, nothing known yet; BACKFILL, a hole is being filled from REST; LIVE; STALE, silent beyond its limit.
Trades are taken strictly by id: the next one, a known one (dropped), or a gap, which stops the feed until it is filled.
A bar seals when a later trade proves it over, or when the venue says so and the number of its trades agrees. Silence
proves nothing (a frozen socket is silent too): when a bar is overdue the feed has a Doubt, REST is asked for the trades
after the last one, and what it has, or has not, settles the bar.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from statistics import median

from fks.data.aggregate import BarBuilder
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.timeframe import NS, bar_end, bar_start
from fks.store.feeds import SealedPosition

GRACE_NS = 1_500_000_000  # how long a closed bar waits for trades that are still on their way
ASK_MAX_NS = 10 * NS  # in a long silence REST is asked this seldom
LAG_MAX_NS = 5 * NS  # a feed whose events are older than this is a replay: its silence is not the wall clock's
TRADES_KEPT = 50_000  # trades waiting to be stored; beyond it the oldest go (bars do not need them any more)
SILENCE_MAX_NS = 3600 * NS  # between two trades; beyond it the venue's own bars say what happened
INBOX_MAX = 200_000  # events that wait while a hole is filled; the oldest go first and come back from REST
_GAPS_KEPT, _LAGS_KEPT = 64, 32


class FeedState(StrEnum):
    COLD = "COLD"
    BACKFILL = "BACKFILL"
    LIVE = "LIVE"
    STALE = "STALE"
    OFF = "OFF"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed bar on its way to the store, with the id of the last trade at or before its end.

    `source` is live (built from trades, streamed or fetched) or klines (the venue's own bar).
    """

    bar: Bar
    last_trade_id: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Trades from `from_id` on are missing, up to `to_id` (exclusive; None: as far as the venue has any)."""

    from_id: int
    to_id: int | None


@dataclass(frozen=True, slots=True)
class Doubt:
    """Are there trades from `from_id` on before `over_ns`? REST knows; the answer goes to `settle`."""

    from_id: int
    over_ns: int


class SymbolFeed:
    """The state of one symbol. Not safe to share between tasks: one loop drives it, and no method waits."""

    def __init__(self, symbol: str, now_s: float, *, stale_min_s: float, stale_max_s: float) -> None:
        self.symbol = symbol
        self.state = FeedState.COLD
        self.builder: BarBuilder | None = None
        self.last_id: int | None = None
        #: how far each timeframe is sealed, stored or on its way there; None: only the store knows
        self.positions: dict[str, SealedPosition] | None = None
        #: it went silent: only a message, not a subscription, makes it live again
        self.is_mute = False
        #: monotonic time until which it was live (made, at first); None while it is
        self.live_s: float | None = now_s
        self.last_price: Decimal | None = None
        self.message_ns: int | None = None
        self.detail = ""
        self.late = 0
        self.sealed: deque[Sealed] = deque()
        self.trades: deque[PublicTrade] = deque(maxlen=TRADES_KEPT)
        self._inbox: deque[PublicTrade | BarClosed] = deque(maxlen=INBOX_MAX)
        self._waiting: dict[str, tuple[BarClosed, int]] = {}
        self._asked_ns = 0  # no doubt is raised again before
        self._ask_again_ns = GRACE_NS
        self._heard_s = now_s
        self._gaps: deque[float] = deque(maxlen=_GAPS_KEPT)
        self._lags: deque[int] = deque(maxlen=_LAGS_KEPT)
        self._stale_min_s, self._stale_max_s = stale_min_s, stale_max_s

    # ── hearing ──────────────────────────────────────────────────────────────────────────────────
    def receive(self, events: list[PublicTrade | BarClosed], now_ns: int, now_s: float) -> None:
        """Take what arrived; nothing is built from it before `advance`."""
        self._inbox.extend(events)
        self._gaps.append(now_s - self._heard_s)
        self._heard_s = now_s
        self.message_ns = now_ns
        self.is_mute = False
        self._ask_again_ns = GRACE_NS
        latest = max((e.time_ns for e in events if isinstance(e, PublicTrade)), default=None)
        if latest is not None:
            self._lags.append(now_ns - latest)

    def touch(self, now_s: float) -> None:
        """Start the age anew: a subscription was just made."""
        self._heard_s = now_s
        self._gaps.clear()

    def age_s(self, now_s: float) -> float:
        """Return the age of the last message, or of the subscription when there was none since."""
        return max(0.0, now_s - self._heard_s)

    def limit_s(self) -> float:
        """Return the age at which the feed is stale: twenty times its median gap, within the settings' bounds."""
        usual = 20 * median(self._gaps) if self._gaps else 0.0
        return min(max(self._stale_min_s, usual), self._stale_max_s)

    # ── building ─────────────────────────────────────────────────────────────────────────────────
    def restart(self, builder: BarBuilder, last_id: int | None, before: list[Sealed]) -> None:
        """Go on from a fresh builder; `last_id` is the last trade it holds, `before` the bars that lead up to it.

        What waits in the inbox stays.
        """
        self.builder = builder
        self.last_id = last_id
        self._waiting.clear()
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
        gap = self.add(trades)
        if gap is None:
            self._seal(over_ns)
        return gap

    def advance(self, now_ns: int) -> Gap | Doubt | None:
        """Build from the inbox and seal what is proven over. A Gap stops it: fill the hole, then call again."""
        if self.builder is None or self.state not in (FeedState.LIVE, FeedState.STALE):
            return None
        while self._inbox:
            event = self._inbox[0]
            if isinstance(event, BarClosed):
                if not self._is_settled(event):
                    self._waiting[event.timeframe] = (event, now_ns + GRACE_NS)
            else:
                gap = self._take(event)
                if gap is not None:
                    return gap
            self._inbox.popleft()
        return self._settle(now_ns) or self._overdue(now_ns)

    def forget(self) -> None:
        """Drop what is built and not stored: the store's own position says where to begin again."""
        self.state = FeedState.COLD
        self.positions = None
        self.builder = None
        self.last_id = None
        self.sealed.clear()
        self.trades.clear()
        self._waiting.clear()

    def _take(self, trade: PublicTrade) -> Gap | None:
        assert self.builder is not None
        if self.last_id is not None:
            if trade.trade_id <= self.last_id:
                return None
            if trade.trade_id != self.last_id + 1 or self._is_leap(trade):
                return Gap(self.last_id + 1, trade.trade_id)
        self._settle_before(trade)
        made = self.builder.add(trade)
        if made is None:
            self.late += 1
        else:
            self._keep([Sealed(bar, self.last_id, "live") for bar in made])
        self.last_id = trade.trade_id
        self.last_price = trade.price
        self.trades.append(trade)
        return None

    def _is_leap(self, trade: PublicTrade) -> bool:
        return self.builder is not None and trade.time_ns - self.builder.open_ns > SILENCE_MAX_NS

    def _settle_before(self, trade: PublicTrade) -> None:
        """A trade beyond the end of a bar that waits for its trades: none can come any more, ids are in order."""
        for frame, (end, _) in list(self._waiting.items()):
            if trade.time_ns >= bar_end(end.time_ns, frame):
                del self._waiting[frame]

    def _is_settled(self, end: BarClosed) -> bool:
        """Seal through a bar the venue called over once its trades are all here; return whether that is done."""
        assert self.builder is not None
        over_ns = bar_end(end.time_ns, end.timeframe)
        have = self.builder.trades_in(end.timeframe, end.time_ns)
        if self.builder.open_ns >= over_ns or (have is None and self.builder.open_ns > end.time_ns):
            return True
        if have is None or have < end.trades:
            return False
        self._seal(over_ns)
        return True

    def _settle(self, now_ns: int) -> Doubt | None:
        """Look again at the bars that wait for their trades; doubt when these tarry."""
        for frame, (end, deadline_ns) in list(self._waiting.items()):
            is_settled = self._is_settled(end)
            if is_settled or now_ns >= deadline_ns:
                del self._waiting[frame]
            if not is_settled and now_ns >= deadline_ns:
                return self._doubt(bar_end(end.time_ns, frame), now_ns)
        return None

    def _overdue(self, now_ns: int) -> Doubt | None:
        """Doubt in a silence of which the venue says nothing, ever more seldom while it lasts."""
        assert self.builder is not None
        lag_ns = max(self._lags, default=LAG_MAX_NS)  # its clock: ours minus the worst recent lag
        if self.state is not FeedState.LIVE or self._waiting or lag_ns >= LAG_MAX_NS:
            return None
        over_ns = bar_start(now_ns - lag_ns - GRACE_NS, self.builder.base)
        return self._doubt(over_ns, now_ns) if over_ns > self.builder.open_ns else None

    def _doubt(self, over_ns: int, now_ns: int) -> Doubt | None:
        if self.last_id is None or now_ns < self._asked_ns:
            return None
        self._asked_ns = now_ns + self._ask_again_ns
        self._ask_again_ns = min(self._ask_again_ns * 2, ASK_MAX_NS)
        return Doubt(self.last_id + 1, over_ns)

    def _seal(self, through_ns: int) -> None:
        assert self.builder is not None
        self._keep([Sealed(bar, self.last_id, "live") for bar in self.builder.seal_through(through_ns)])

    def _keep(self, sealed: list[Sealed]) -> None:
        assert self.positions is not None
        self.sealed.extend(sealed)
        for item in sealed:
            known = self.positions.get(item.bar.timeframe)
            assert known is None or item.bar.time_ns > known.sealed_ns, f"{item.bar} after {known}"
            self.positions[item.bar.timeframe] = SealedPosition(item.bar.time_ns, item.last_trade_id)
