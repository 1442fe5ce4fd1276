"""Outages of one symbol's channels: since when each is not live and complete, and until when it was not."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from fks.feed.rows import TRADES, ChannelOutage


class Outages:
    """One outage at a time for each channel. Changes wait in `unstored`, in order, until the store has them."""

    def __init__(self, symbol: str) -> None:
        self.unstored: deque[ChannelOutage] = deque()
        self._symbol = symbol
        self._open: dict[str, ChannelOutage] = {}

    @property
    def open(self) -> tuple[ChannelOutage, ...]:
        """Return the outages without an end."""
        return tuple(self._open.values())

    def begin(self, cause: str, began_ns: int, channel: str = TRADES) -> None:
        """Begin an outage of a channel; an open one goes on."""
        self.go_on(ChannelOutage(self._symbol, channel, began_ns // 1000 * 1000, cause))

    def go_on(self, outage: ChannelOutage) -> None:
        """Continue an open outage of the collector before this one, unless the channel has one here."""
        if outage.channel not in self._open:
            self._open[outage.channel] = outage
            self.unstored.append(outage)

    def end(self, now_ns: int, channel: str = TRADES) -> None:
        """End the outage of a channel, if it has one: the channel is live and complete again."""
        outage = self._open.pop(channel, None)
        if outage is not None:
            self.unstored.append(replace(outage, ended_ns=max(now_ns, outage.began_ns)))

    def end_all(self, now_ns: int) -> None:
        """End all outages: a symbol that is not collected has none."""
        for channel in list(self._open):
            self.end(now_ns, channel)

    def take(self) -> list[ChannelOutage]:
        """Return the changes that wait, oldest first."""
        taken = list(self.unstored)
        self.unstored.clear()
        return taken

    def put_back(self, outages: Sequence[ChannelOutage]) -> None:
        """Put changes back that the store did not take."""
        self.unstored.extendleft(reversed(outages))
