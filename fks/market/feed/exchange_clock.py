"""Exchange-clock estimator and future-timestamp guard.

An exchange's clock may be wrong, and ours too; a tape plays in the past. So a message is of the future when its time is
ahead of our time of day and of the estimated exchange clock, both. The estimate is the time on which several
consecutive messages agree, carried on by our monotonic clock: a single wrong message moves nothing, and a clock that
has moved is followed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from fks.market.feed.queues import MarketData
from fks.model.bar import PublicTrade
from fks.model.market import BarSeen, Channel, Suspect
from fks.model.timeframe import NS, bar_end, iso

AHEAD_NS = 5 * NS  # tolerance: clocks drift, messages overtake one another
LAG_MAX_NS = 5 * NS  # a feed whose events are older is a replay: the wall clock says nothing about its silence
AGREEING = 3  # consecutive messages that set the clock
REFUSED_MAX = 1_000
_KEPT = 32


class ExchangeClock:
    """Estimated clock of one feed's exchange. `now_ns` is our time of day, `now_s` our monotonic clock."""

    def __init__(self) -> None:
        self._lags: deque[int] = deque(maxlen=_KEPT)
        #: exchange's clock minus our monotonic clock, a lower bound: a message is never older than the time in it
        self._offsets: deque[int] = deque(maxlen=_KEPT)
        self._consecutive: deque[int] = deque(maxlen=AGREEING)
        self._agreed: deque[int] = deque(maxlen=_KEPT)  # the least offset of AGREEING consecutive messages
        self._keys: deque[int] = deque(maxlen=AGREEING)  # trades of the consecutive messages
        self.refused: deque[Suspect] = deque(maxlen=REFUSED_MAX)  # on their way to the quarantine
        self._false_ids: set[int] = set()

    def start(self, time_ns: int, now_s: float) -> None:
        """Set the clock by the exchange's newest trade, where nothing is known yet."""
        if not self._agreed:
            self._agreed.append(time_ns - round(now_s * NS))

    def split(self, events: list[MarketData], now_ns: int, now_s: float) -> tuple[list[MarketData], list[MarketData]]:
        """Return the events of a message that are of the present, and those refused because they are of the future."""
        if not events:
            return [], []
        trades_ns = [event.time_ns for event in events if isinstance(event, PublicTrade)]
        times_ns = trades_ns if len(trades_ns) == len(events) else [_time_of(event) for event in events]
        first = events[0]
        self._record(
            first.trade_id if isinstance(first, PublicTrade) else times_ns[0], min(trades_ns or times_ns), now_s
        )
        until_ns = self.until_ns(now_ns, now_s)
        accepted, future = events, []
        if max(times_ns) > until_ns:
            future = [event for event, time_ns in zip(events, times_ns, strict=True) if time_ns > until_ns]
            accepted = [event for event, time_ns in zip(events, times_ns, strict=True) if time_ns <= until_ns]
            trades_ns = [time_ns for time_ns in trades_ns if time_ns <= until_ns]
            self.refuse(future, "it tells of a time to come")
        if trades_ns:
            latest = max(trades_ns)
            self._lags.append(now_ns - latest)
            self._offsets.append(latest - round(now_s * NS))
        return accepted, future

    def filter_fetched(
        self,
        trades: list[PublicTrade],
        newest_waiting: Callable[[], int],
        now_ns: int,
        now_s: float,
        *,
        is_counted: bool,
    ) -> list[PublicTrade]:
        """Return the trades of a REST answer that may be built now; the newest may be of the future.

        A future trade may be true (the exchange's clock has moved): then other messages will agree, or its time comes,
        and REST is queried again. Once a later trade (in the answer, or waiting) is of the present it is false at the
        exchange, too: it is refused and is in no bar. Where ids are counted it is returned, to be skipped.
        """
        until_ns = self.until_ns(now_ns, now_s)
        past = [n for n, trade in enumerate(trades) if trade.time_ns <= until_ns]
        if len(past) == len(trades):
            return trades
        if len(self._false_ids) > REFUSED_MAX:
            self._false_ids.clear()
        kept: list[PublicTrade] = []
        waiting = newest_waiting()
        for n, trade in enumerate(trades):
            is_past = trade.time_ns <= until_ns
            is_followed = (bool(past) and n < past[-1]) or waiting > (trade.trade_id if is_counted else -1)
            if not is_past and not is_followed:
                break
            if not is_past and trade.trade_id not in self._false_ids:
                self._false_ids.add(trade.trade_id)
                self.refuse([trade], "the exchange repeats it with a time to come")
            if is_past or is_counted:
                kept.append(trade)
        return kept

    def is_false(self, trade_id: int) -> bool:
        """Return whether the exchange itself repeated this trade with a future time: it is in no bar."""
        return trade_id in self._false_ids

    def skip(self, trade_id: int) -> None:
        """Forget a false trade once its id is passed."""
        self._false_ids.discard(trade_id)

    def refuse(self, events: Iterable[MarketData], reason: str) -> None:
        """Keep events for the quarantine."""
        self.refused.extend(_suspect(event, reason) for event in events)

    def take_refused(self) -> tuple[Suspect, ...]:
        """Return the refused events since the last call."""
        taken = tuple(self.refused)
        self.refused.clear()
        return taken

    def _record(self, key: int, time_ns: int, now_s: float) -> None:
        """Record the earliest time of a message. The same trade again is no agreement."""
        if key not in self._keys:
            self._keys.append(key)
            self._consecutive.append(time_ns - round(now_s * NS))
            if len(self._consecutive) == AGREEING:
                self._agreed.append(min(self._consecutive))

    def until_ns(self, now_ns: int, now_s: float) -> int:
        """Return the latest time that is accepted now."""
        theirs_ns = max(self._agreed) + round(now_s * NS) if self._agreed else now_ns
        return max(now_ns, theirs_ns) + AHEAD_NS

    @property
    def is_replay(self) -> bool:
        """Return whether the events happened long ago."""
        return max(self._lags, default=0) >= LAG_MAX_NS

    def passed_ns(self, now_s: float) -> int | None:
        """Return a time that has passed at the exchange for certain; None in a replay, and before the first message.

        It comes from the exchange's messages and our monotonic clock: the time of day may jump, and REST has no trades
        of a second that has not happened.
        """
        if not self._offsets or self.is_replay:
            return None
        return min(self._offsets) + round(now_s * NS)


def _suspect(event: MarketData, reason: str) -> Suspect:
    if isinstance(event, PublicTrade):
        text = f"trade {event.trade_id} of {iso(event.time_ns)}: {event}"
        return Suspect(Channel.TRADES, event.symbol, reason, text, event.received_ns)
    symbol = event.bar.symbol if isinstance(event, BarSeen) else event.symbol
    return Suspect(Channel.BARS, symbol, reason, str(event))


def _time_of(event: MarketData) -> int:
    """Return the newest time that a message claims has passed."""
    if isinstance(event, PublicTrade):
        return event.time_ns
    if isinstance(event, BarSeen) and not event.is_closed:
        return event.bar.time_ns
    end = event.end if isinstance(event, BarSeen) else event
    return bar_end(end.time_ns, end.timeframe)
