"""How old one channel of one symbol is, and how old it may be: C7, by what was heard, never by the socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import median

from fks.model.market import Channel

_GAPS_KEPT = 64
USUAL = 20  # a channel is silent after so many of its usual gaps
SNAPSHOT_S = 2.0  # what comes so soon after a subscription may be its snapshot, and says nothing of the rhythm
LATE_S = 1.5  # bars may come so long after or before the trades they tell of
PATIENCE_MAX = 8  # times its limit: of a channel that a new subscription did not bring back


class Pulse:
    """The rhythm of one channel of one symbol. Times are monotonic seconds.

    The rhythm is that of messages which follow one another on one subscription; it outlasts the subscription.
    """

    __slots__ = (
        "_begun_s",
        "_gaps",
        "_has_first",
        "_has_rhythm",
        "_heard_s",
        "_limit_s",
        "_max_s",
        "_min_s",
        "_patience",
        "_whole_s",
    )

    def __init__(self, now_s: float, min_s: float, max_s: float) -> None:
        self._begun_s = self._heard_s = self._whole_s = now_s
        self._gaps: deque[float] = deque(maxlen=_GAPS_KEPT)
        self._min_s, self._max_s = min_s, max_s
        self._has_first = False  # a message came since the subscription
        self._has_rhythm = True  # so did another, or the channel was never given up
        self._patience = 1
        self._limit_s: float | None = None

    @property
    def heard_s(self) -> float:
        """When the last message came, or the subscription was made when none did since."""
        return self._heard_s

    def heard(self, now_s: float) -> None:
        """Note a message."""
        if self._has_first and now_s - self._begun_s > SNAPSHOT_S:
            self._gaps.append(now_s - self._heard_s)
            self._has_rhythm, self._patience = True, 1
        self._has_first = True
        self._heard_s = self._whole_s = now_s
        self._limit_s = None

    def vouch(self, now_s: float) -> None:
        """Note that nothing was missed until now, though nothing was heard: silence that somebody else proved.

        As long a silence is usual from here on, until the next message.
        """
        self._whole_s = max(self._whole_s, now_s)
        self._limit_s = None

    def touch(self, now_s: float) -> None:
        """Begin the age anew: a subscription was just made. How often messages come is known from before."""
        self._begun_s = self._heard_s = self._whole_s = now_s
        self._has_first = False
        self._limit_s = None

    def give_up(self, now_s: float) -> None:
        """Begin the age anew: it was silent beyond its limit. If the subscription before changed nothing, wait twice as
        long."""
        self._patience = 1 if self._has_rhythm else min(2 * self._patience, PATIENCE_MAX)
        self._has_rhythm = False
        self.touch(now_s)

    def age_s(self, now_s: float) -> float:
        """Return for how long nothing was heard, nor proven, since the subscription."""
        return max(0.0, now_s - self._whole_s)

    def limit_s(self) -> float:
        """Return the age at which the channel is stale: twenty times its usual gap, within the settings' bounds."""
        if self._limit_s is None:
            usual = USUAL * median(self._gaps) if self._gaps else 0.0
            proven = self._whole_s - self._heard_s
            self._limit_s = min(max(self._min_s, usual, proven) * self._patience, max(self._max_s, self._min_s))
        return self._limit_s

    def is_silent(self, now_s: float) -> bool:
        """Return whether it has been silent for longer than is usual."""
        return self.age_s(now_s) > self.limit_s()


class Pulses(dict[Channel, Pulse]):
    """The rhythms of one symbol's channels. Trades and the exchange's bars, its main ones, are subscribed together."""

    @classmethod
    def of(cls, channels: Iterable[Channel], now_s: float, min_s: float, max_s: float, bars_s: float) -> Pulses:
        """Return pulses of `channels`; some exchanges tell a bar, which lasts `bars_s`, only when it is over."""
        least = {Channel.BARS: max(min_s, 2 * bars_s)}
        return cls({channel: Pulse(now_s, least.get(channel, min_s), max_s) for channel in channels})

    def main(self) -> list[Pulse]:
        """Return those of the trades and the bars."""
        return [self[channel] for channel in (Channel.TRADES, Channel.BARS) if channel in self]

    def age_s(self, now_s: float) -> float:
        """Return the age of the last message of trades or bars, or of the subscription when there was none since."""
        return min(pulse.age_s(now_s) for pulse in self.main())

    def limit_s(self) -> float:
        """Return the age at which the trades are stale: twenty times their median gap, within the settings' bounds."""
        return self[Channel.TRADES].limit_s()

    def heard(self, channel: Channel, now_s: float) -> None:
        """Note a message, where the channel is one of these."""
        if channel in self:
            self[channel].heard(now_s)

    def vouch(self, now_s: float) -> None:
        """Note that no trade was missed until now."""
        for pulse in self._without_trades():
            pulse.vouch(now_s)

    def is_quiet(self, now_s: float) -> bool:
        """Return whether trades, or bars for want of trades, are half way to being silent: time to ask whether they
        should be."""
        return any(pulse.age_s(now_s) * 2 > pulse.limit_s() for pulse in self._without_trades())

    def _without_trades(self) -> list[Pulse]:
        """Return those that have nothing to tell while nobody trades: not bars that are behind the last trade, they are
        late."""
        heard_s = self[Channel.TRADES].heard_s
        return [pulse for pulse in self.main() if pulse.heard_s >= heard_s - LATE_S]

    def rest(self, now_s: float) -> None:
        """Note that the market is closed: every age begins when it opens."""
        for pulse in self.values():
            pulse.touch(now_s)

    def silent(self, now_s: float) -> list[Channel]:
        """Return the channels that have been silent for longer than is usual for this symbol."""
        return [channel for channel, pulse in self.items() if pulse.is_silent(now_s)]
