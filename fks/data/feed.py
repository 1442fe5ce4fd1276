"""One symbol's live feed, without I/O: what arrived, what is whole, how old it is, what is sealed and not yet stored.

States (C7): COLD, nothing known yet; BACKFILL, a hole is being filled from REST; LIVE; STALE, silent beyond its limit.
Trades are taken strictly by id: the next one, a known one (dropped), or a gap, which stops the feed until it is filled.
A bar seals when a later trade proves it over, or when the venue says so and the number of its trades agrees, or, in
silence, when the wall clock has passed its end by the grace, which counts only while the feed is live and on time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from statistics import median

from fks.data.aggregate import BarBuilder
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.timeframe import NS, bar_end
from fks.store.feeds import SealedPosition

GRACE_NS = 1_500_000_000  # how long a closed bar waits for trades that are still on their way
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
        self.last_price: Decimal | None = None
        self.message_ns: int | None = None
        self.detail = ""
        self.late = 0
        self.sealed: deque[Sealed] = deque()
        self.trades: deque[PublicTrade] = deque(maxlen=TRADES_KEPT)
        self._inbox: deque[PublicTrade | BarClosed] = deque(maxlen=INBOX_MAX)
        self._waiting: dict[str, tuple[BarClosed, int]] = {}
        self._confirmed_ns = 0  # everything before is over, once the gap that was asked for is filled
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
        self._confirmed_ns = 0
        self._keep(before)

    def add(self, trades: list[PublicTrade]) -> Gap | None:
        """Build from trades of REST, in order; a Gap says that they do not follow one another after all."""
        for trade in trades:
            gap = self._take(trade)
            if gap is not None:
                return gap
        return None

    def advance(self, now_ns: int, *, is_on_time: bool) -> Gap | None:
        """Build from the inbox and seal what is over. A Gap stops it: fill the hole, then call again.

        `is_on_time` is false when the caller itself was late: what the socket holds was then not read yet, and the
        wall clock proves nothing.
        """
        if self.builder is None or self.state not in (FeedState.LIVE, FeedState.STALE):
            return None
        if self._confirmed_ns:
            self._seal(self._confirmed_ns)
            self._confirmed_ns = 0
        while self._inbox:
            event = self._inbox[0]
            if isinstance(event, BarClosed):
                self._waiting[event.timeframe] = (event, now_ns + GRACE_NS)
            else:
                gap = self._take(event)
                if gap is not None:
                    return gap
            self._inbox.popleft()
        gap = self._settle(now_ns)
        if gap is not None:
            return gap
        if is_on_time and self.state is FeedState.LIVE and not self._waiting:
            self._seal_silence(now_ns)
        return None

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

    def _settle(self, now_ns: int) -> Gap | None:
        """Seal through the bars the venue called over, once their trades are all here; ask for them when they tarry."""
        assert self.builder is not None
        for frame, (end, deadline_ns) in list(self._waiting.items()):
            over_ns = bar_end(end.time_ns, frame)
            have = self.builder.trades_in(frame, end.time_ns)
            if self.builder.open_ns >= over_ns or (have is None and self.builder.open_ns > end.time_ns):
                del self._waiting[frame]
            elif have is not None and have >= end.trades:
                del self._waiting[frame]
                self._seal(over_ns)
            elif now_ns >= deadline_ns and self.last_id is not None:
                del self._waiting[frame]
                self._confirmed_ns = max(self._confirmed_ns, over_ns)
                return Gap(self.last_id + 1, None)
        return None

    def _seal_silence(self, now_ns: int) -> None:
        """Seal what the venue's clock has passed by the grace; its clock is ours minus the worst recent lag."""
        lag_ns = max(self._lags, default=LAG_MAX_NS)
        if lag_ns < LAG_MAX_NS:
            self._seal(now_ns - lag_ns - GRACE_NS)

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
