"""The outages of one symbol: since when each channel is not live and whole, and until when it was not."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from fks.feed.rows import TRADES, Outage


class Outages:
    """One outage at a time for each channel. What changes waits in `unstored`, in order, until the store has it."""

    def __init__(self, symbol: str) -> None:
        self.unstored: deque[Outage] = deque()
        self._symbol = symbol
        self._open: dict[str, Outage] = {}

    def begin(self, cause: str, began_ns: int, channel: str = TRADES) -> None:
        """Note that a channel is not live any more; an outage that is noted already goes on."""
        self.go_on(Outage(self._symbol, channel, began_ns // 1000 * 1000, cause))

    def go_on(self, outage: Outage) -> None:
        """Take up an outage that has no end yet, from a collector before this one; none that is known here."""
        if outage.channel not in self._open:
            self._open[outage.channel] = outage
            self.unstored.append(outage)

    def end(self, now_ns: int, channel: str = TRADES) -> None:
        """Note that a channel is live and whole again."""
        outage = self._open.pop(channel, None)
        if outage is not None:
            self.unstored.append(replace(outage, ended_ns=max(now_ns, outage.began_ns)))

    def end_all(self, now_ns: int) -> None:
        """Note that nobody listens any more: what is not collected has no outage."""
        for channel in list(self._open):
            self.end(now_ns, channel)
