"""What has arrived and was not taken yet: bounded, with one policy a channel, and a number for everything it lets go.

| Kind | Policy when the taker is slow |
|---|---|
| trades, closed bars and their ends | kept; beyond `kept_max` all of them go, counted, and a Gone says so for each
symbol |
| quotes, books, unfinished bars | only the newest of each waits; what it replaced is counted |
| Gone, Suspect | kept, always |
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fks.exchanges.base.wire import Subscribed
from fks.model.bar import BarClosed, PublicTrade
from fks.model.market import BarSeen, Book, Channel, Gone, MarketEvent, Quote, Suspect, Tally

KEPT_MAX = 200_000  # about a minute of the busiest market; 30 MB


class Inbox:
    """A queue from the task that reads a socket to the task that takes batches."""

    def __init__(self, tally: Tally, kept_max: int = KEPT_MAX, *, is_subscribed: bool = False) -> None:
        self.is_subscribed = is_subscribed
        self.arrived = asyncio.Event()
        if is_subscribed:
            self.arrived.set()
        self._tally = tally
        self._kept_max = kept_max
        self._kept: list[MarketEvent] = []
        self._newest: dict[tuple[type, str, str], MarketEvent] = {}  # keyed by type: an enum is slow to hash

    def put(self, events: Sequence[MarketEvent | Subscribed]) -> None:
        """Take what a frame said. Never waits."""
        for event in events:
            if type(event) is PublicTrade:
                self._kept.append(event)
            elif isinstance(event, Quote):
                self._replace(Channel.QUOTES, (Quote, event.symbol, ""), event)
            elif isinstance(event, Book):
                self._replace(Channel.BOOK, (Book, event.symbol, ""), event)
            elif isinstance(event, BarSeen):
                self._bar(event)
            elif isinstance(event, Subscribed):
                self.is_subscribed = True
            else:
                if isinstance(event, Gone):  # what waits is from before the hole
                    self._forget(event)
                elif isinstance(event, Suspect):
                    self._tally.suspects += 1
                self._kept.append(event)
        if len(self._kept) > self._kept_max:
            self._overflow()
        if events:
            self.arrived.set()

    def take(self) -> list[MarketEvent]:
        """Return all that waits, in order of arrival but for quotes, books and unfinished bars, which come last."""
        self.arrived.clear()
        batch = self._kept
        self._kept = []
        if self._newest:
            batch.extend(self._newest.values())
            self._newest.clear()
        return batch

    def _bar(self, event: BarSeen) -> None:
        key = (BarSeen, event.bar.symbol, event.bar.timeframe)
        if not event.is_closed:
            self._replace(Channel.BARS, key, event)
            return
        waiting = self._newest.get(key)
        if isinstance(waiting, BarSeen) and waiting.bar.time_ns <= event.bar.time_ns:
            del self._newest[key]  # the closed bar says all that it said
        self._kept.append(event)

    def _replace(self, channel: Channel, key: tuple[type, str, str], event: MarketEvent) -> None:
        if key in self._newest:
            self._tally.conflated[channel] += 1
        self._newest[key] = event

    def _forget(self, gone: Gone) -> None:
        kind = {Channel.QUOTES: Quote, Channel.BOOK: Book}.get(gone.channel)
        if kind is not None:
            self._newest.pop((kind, gone.symbol, ""), None)

    def _overflow(self) -> None:
        left: list[MarketEvent] = []
        cut: dict[tuple[Channel, str], int] = {}
        for event in self._kept:
            if isinstance(event, PublicTrade):
                key = (Channel.TRADES, event.symbol)
            elif isinstance(event, BarClosed):
                key = (Channel.BARS, event.symbol)
            elif isinstance(event, BarSeen):
                key = (Channel.BARS, event.bar.symbol)
            else:
                left.append(event)
                continue
            cut[key] = cut.get(key, 0) + 1
        for (channel, symbol), count in cut.items():
            self._tally.overflowed[channel] += count
            left.append(Gone(channel, symbol, f"{count} waited too long and were let go"))
        self._kept = left
