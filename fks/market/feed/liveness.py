"""Channel liveness (C7): the age of a channel's last message and the age at which the channel is stale.

The age comes from messages alone; an open connection proves nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import median

from fks.model.market import Channel

_GAPS_KEPT = 64
SILENT_GAPS = 20  # a channel is silent after so many median gaps
SNAPSHOT_S = 2.0  # a message so soon after a subscription may be its snapshot, and is no part of the rhythm
LATE_S = 1.5  # bars may come so long before or after the trades in them
PATIENCE_MAX = 8  # highest multiple of the limit, for a channel that new subscriptions do not bring back


class ChannelLiveness:
    """The rhythm of one channel of one symbol. Times are monotonic seconds.

    Only messages that follow one another on one subscription give a gap; the gaps outlast the subscription.
    """

    __slots__ = (
        "_gaps",
        "_has_first",
        "_has_rhythm",
        "_last_s",
        "_limit_s",
        "_max_s",
        "_min_s",
        "_patience",
        "_proven_s",
        "_subscribed_s",
    )

    def __init__(self, now_s: float, min_s: float, max_s: float) -> None:
        self._subscribed_s = self._last_s = self._proven_s = now_s
        self._gaps: deque[float] = deque(maxlen=_GAPS_KEPT)
        self._min_s, self._max_s = min_s, max_s
        self._has_first = False  # a message came since the subscription
        self._has_rhythm = True  # a second one came, too, or the channel was never given up
        self._patience = 1
        self._limit_s: float | None = None

    @property
    def last_s(self) -> float:
        """Return the time of the last message, or of the subscription when none came since."""
        return self._last_s

    def received(self, now_s: float) -> None:
        """Record a message."""
        if self._has_first and now_s - self._subscribed_s > SNAPSHOT_S:
            self._gaps.append(now_s - self._last_s)
            self._has_rhythm, self._patience = True, 1
        self._has_first = True
        self._last_s = self._proven_s = now_s
        self._limit_s = None

    def proven(self, now_s: float) -> None:
        """Record that no message was missed until now. A silence of that length is normal until the next message."""
        self._proven_s = max(self._proven_s, now_s)
        self._limit_s = None

    def restart(self, now_s: float) -> None:
        """Start the age again: a subscription was just made. The gaps stay."""
        self._subscribed_s = self._last_s = self._proven_s = now_s
        self._has_first = False
        self._limit_s = None

    def give_up(self, now_s: float) -> None:
        """Start the age again after a silence beyond the limit. The limit doubles if the last subscription changed
        nothing."""
        self._patience = 1 if self._has_rhythm else min(2 * self._patience, PATIENCE_MAX)
        self._has_rhythm = False
        self.restart(now_s)

    def age_s(self, now_s: float) -> float:
        """Return the time since the last message, proof or subscription."""
        return max(0.0, now_s - self._proven_s)

    def limit_s(self) -> float:
        """Return the age at which the channel is stale: 20 median gaps, within the bounds of the settings."""
        if self._limit_s is None:
            typical_s = SILENT_GAPS * median(self._gaps) if self._gaps else 0.0
            proven_s = self._proven_s - self._last_s
            self._limit_s = min(max(self._min_s, typical_s, proven_s) * self._patience, max(self._max_s, self._min_s))
        return self._limit_s

    def is_silent(self, now_s: float) -> bool:
        """Return whether the age is beyond the limit."""
        return self.age_s(now_s) > self.limit_s()


class FeedLiveness(dict[Channel, ChannelLiveness]):
    """Liveness of one symbol's channels. Trades and the exchange's bars are the main ones, subscribed together."""

    @classmethod
    def of(cls, channels: Iterable[Channel], now_s: float, min_s: float, max_s: float, bars_s: float) -> FeedLiveness:
        """Return the liveness of `channels`. `bars_s`: length of the bars; some exchanges send only closed ones."""
        least = {Channel.BARS: max(min_s, 2 * bars_s)}
        return cls({channel: ChannelLiveness(now_s, least.get(channel, min_s), max_s) for channel in channels})

    def main(self) -> list[ChannelLiveness]:
        """Return those of the trades and the bars."""
        return [self[channel] for channel in (Channel.TRADES, Channel.BARS) if channel in self]

    def age_s(self, now_s: float) -> float:
        """Return the lower age of trades and bars."""
        return min(channel.age_s(now_s) for channel in self.main())

    def limit_s(self) -> float:
        """Return the age at which the trades are stale."""
        return self[Channel.TRADES].limit_s()

    def check_limit_s(self) -> float:
        """Return the lower limit of trades and bars: silence is checked twice in that time."""
        return min(channel.limit_s() for channel in self.main())

    def received(self, channel: Channel, now_s: float) -> None:
        """Record a message of a channel; other channels than these are ignored."""
        if channel in self:
            self[channel].received(now_s)

    def proven(self, now_s: float) -> None:
        """Record that no trade was missed until now."""
        for channel in self._silent_without_trades():
            channel.proven(now_s)

    def is_check_due(self, now_s: float) -> bool:
        """Return whether trades, or bars that need trades, have been silent for half their limit."""
        return any(channel.age_s(now_s) * 2 > channel.limit_s() for channel in self._silent_without_trades())

    def _silent_without_trades(self) -> list[ChannelLiveness]:
        """Return the channels without messages while nothing trades. Bars older than the last trade are late
        instead."""
        last_s = self[Channel.TRADES].last_s
        return [channel for channel in self.main() if channel.last_s >= last_s - LATE_S]

    def subscribed(self, now_s: float) -> None:
        """Start the ages of trades and bars again."""
        for channel in self.main():
            channel.restart(now_s)

    def closed(self, now_s: float) -> None:
        """Record that the market is closed: every age starts when it opens."""
        for channel in self.values():
            channel.restart(now_s)

    def silent(self, now_s: float) -> list[Channel]:
        """Return the channels that have been silent beyond their limit."""
        return [channel for channel, liveness in self.items() if liveness.is_silent(now_s)]
