"""What time it is at an exchange, reckoned from what one of its feeds tells, and what therefore cannot have happened
yet.

An exchange's clock may be wrong, and ours too; a tape's present lies in the past. So a message is of the future when it
is ahead of our time of day and of the exchange's own present, both. The exchange's present is what several messages in
a row agree on, carried on by our monotonic clock: a single message that is wrong moves nothing, a clock that has moved
is followed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from fks.model.bar import BarClosed, PublicTrade
from fks.model.market import BarSeen, Channel, Suspect
from fks.model.timeframe import NS, bar_end, iso

AHEAD_NS = 5 * NS  # so far ahead of the reckoned present nothing is of the future yet: clocks drift, messages overtake
LAG_MAX_NS = 5 * NS  # a feed whose events are older than this is a replay: its silence is not the wall clock's
AGREEING = 3  # messages in a row that say what time it is
REFUSED_MAX = 1_000
_KEPT = 32

Event = PublicTrade | BarClosed | BarSeen


class Present:
    """The present of one feed's exchange. `now_ns` is our time of day, `now_s` our monotonic clock."""

    def __init__(self) -> None:
        self._lags: deque[int] = deque(maxlen=_KEPT)
        #: the exchange's clock less our monotonic one, at the least: a message is never older than what it tells
        self._offsets: deque[int] = deque(maxlen=_KEPT)
        self._row: deque[int] = deque(maxlen=AGREEING)
        self._agreed: deque[int] = deque(maxlen=_KEPT)  # the least offset of so many messages in a row
        self._noted: deque[int] = deque(maxlen=AGREEING)  # the trades of the messages in the row
        self.refused: deque[Suspect] = deque(maxlen=REFUSED_MAX)  # on their way to the quarantine
        self.passed: set[int] = set()  # trades that the exchange itself repeats with a time to come: they are in no bar

    def begin(self, time_ns: int, now_s: float) -> None:
        """Take the exchange's newest word at its word, where nothing is known yet."""
        if not self._agreed:
            self._agreed.append(time_ns - round(now_s * NS))

    def judge(self, events: list[Event], now_ns: int, now_s: float) -> tuple[list[Event], list[Event]]:
        """Return what of a message is believed, and what is refused because it is of the future."""
        if not events:
            return [], []
        trades_ns = [event.time_ns for event in events if isinstance(event, PublicTrade)]
        told_ns = trades_ns if len(trades_ns) == len(events) else [_told_ns(event) for event in events]
        first = events[0]
        self._note(first.trade_id if isinstance(first, PublicTrade) else told_ns[0], min(trades_ns or told_ns), now_s)
        until_ns = self.until_ns(now_ns, now_s)
        believed, future = events, []
        if max(told_ns) > until_ns:
            future = [event for event, time_ns in zip(events, told_ns, strict=True) if time_ns > until_ns]
            believed = [event for event, time_ns in zip(events, told_ns, strict=True) if time_ns <= until_ns]
            trades_ns = [time_ns for time_ns in trades_ns if time_ns <= until_ns]
            self.refuse(future, "it tells of a time to come")
        if trades_ns:
            latest = max(trades_ns)
            self._lags.append(now_ns - latest)
            self._offsets.append(latest - round(now_s * NS))
        return believed, future

    def believed(
        self, trades: list[PublicTrade], newest_heard: Callable[[], int], now_ns: int, now_s: float, *, is_counted: bool
    ) -> list[PublicTrade]:
        """Return what may be built from now of an answer of REST, in which the newest trades may be of the future.

        One may be true (the exchange's clock has moved): then others will agree, or its time comes, and REST is asked
        again. Once a trade after it (in the answer, or heard and waiting) is of the present it is false at the
        exchange, too: it is refused, and no bar holds it. Where ids are counted it is handed on, to be passed over.
        """
        until_ns = self.until_ns(now_ns, now_s)
        past = [n for n, trade in enumerate(trades) if trade.time_ns <= until_ns]
        if len(past) == len(trades):
            return trades
        if len(self.passed) > REFUSED_MAX:
            self.passed.clear()
        kept: list[PublicTrade] = []
        waiting = newest_heard()
        for n, trade in enumerate(trades):
            is_past = trade.time_ns <= until_ns
            is_followed = (bool(past) and n < past[-1]) or waiting > (trade.trade_id if is_counted else -1)
            if not is_past and not is_followed:
                break
            if not is_past and trade.trade_id not in self.passed:
                self.passed.add(trade.trade_id)
                self.refuse([trade], "the exchange repeats it with a time to come")
            if is_past or is_counted:
                kept.append(trade)
        return kept

    def refuse(self, events: Iterable[Event], reason: str) -> None:
        """Keep what is not believed for the quarantine."""
        self.refused.extend(_refusal(event, reason) for event in events)

    def _note(self, key: int, time_ns: int, now_s: float) -> None:
        """Note the earliest time that a message tells. The same trade again agrees with nobody."""
        if key not in self._noted:
            self._noted.append(key)
            self._row.append(time_ns - round(now_s * NS))
            if len(self._row) == AGREEING:
                self._agreed.append(min(self._row))

    def until_ns(self, now_ns: int, now_s: float) -> int:
        """Return the moment beyond which nothing can have happened yet."""
        theirs_ns = max(self._agreed) + round(now_s * NS) if self._agreed else now_ns
        return max(now_ns, theirs_ns) + AHEAD_NS

    @property
    def is_replay(self) -> bool:
        """Return whether what is told happened long ago."""
        return max(self._lags, default=0) >= LAG_MAX_NS

    def passed_ns(self, now_s: float) -> int | None:
        """Return a moment that is past at the exchange for certain; None in a replay, and before anything was heard.

        It is reckoned from its own messages and our monotonic clock: the time of day may jump, and a second that has
        not happened has no trades at REST either.
        """
        if not self._offsets or self.is_replay:
            return None
        return min(self._offsets) + round(now_s * NS)


def _refusal(event: Event, reason: str) -> Suspect:
    """Return what the quarantine keeps of a message that is not believed."""
    if isinstance(event, PublicTrade):
        return Suspect(
            Channel.TRADES,
            event.symbol,
            reason,
            f"trade {event.trade_id} of {iso(event.time_ns)}: {event}",
            event.received_ns,
        )
    symbol = event.bar.symbol if isinstance(event, BarSeen) else event.symbol
    return Suspect(Channel.BARS, symbol, reason, str(event))


def _told_ns(event: Event) -> int:
    """Return the newest moment that a message says is past."""
    if isinstance(event, PublicTrade):
        return event.time_ns
    if isinstance(event, BarSeen) and not event.is_closed:
        return event.bar.time_ns
    end = event.end if isinstance(event, BarSeen) else event
    return bar_end(end.time_ns, end.timeframe)
