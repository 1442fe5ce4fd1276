"""Bounded queue between the task that reads a connection and the task that takes batches; every drop is counted.

| Kind | Policy when the consumer is slow |
|---|---|
| trades, closed bars and their ends | kept; beyond `kept_max` all are dropped, with a Discontinuity for each symbol |
| quotes, books, unfinished bars | only the newest of each waits; replaced ones are counted |
| Discontinuity, Suspect | kept, always |
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fks.market.exchanges.base.wire import SubscriptionsAnswered
from fks.model.bar import BarClosed, PublicTrade
from fks.model.market import BarSeen, Book, Channel, ConnectionCounters, Discontinuity, MarketEvent, Quote, Suspect

KEPT_MAX = 200_000  # about a minute of the busiest market; 30 MB


class ArrivedEvents:
    """Events that arrived and were not taken yet. `arrived` is set while a batch waits."""

    def __init__(self, counters: ConnectionCounters, kept_max: int = KEPT_MAX, *, is_subscribed: bool = False) -> None:
        self.is_subscribed = is_subscribed
        self.arrived = asyncio.Event()
        if is_subscribed:
            self.arrived.set()
        self._counters = counters
        self._kept_max = kept_max
        self._kept: list[MarketEvent] = []
        self._newest: dict[tuple[type, str, str], MarketEvent] = {}  # keyed by type: an enum is slow to hash

    def put(self, events: Sequence[MarketEvent | SubscriptionsAnswered]) -> None:
        """Add the events of a frame. Never waits."""
        for event in events:
            if type(event) is PublicTrade:
                self._kept.append(event)
            elif isinstance(event, Quote):
                self._replace(Channel.QUOTES, (Quote, event.symbol, ""), event)
            elif isinstance(event, Book):
                self._replace(Channel.BOOK, (Book, event.symbol, ""), event)
            elif isinstance(event, BarSeen):
                self._bar(event)
            elif isinstance(event, SubscriptionsAnswered):
                self.is_subscribed = True
            else:
                if isinstance(event, Discontinuity):  # what waits is older than the discontinuity
                    self._forget(event)
                elif isinstance(event, Suspect):
                    self._counters.suspects += 1
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
            del self._newest[key]  # the closed bar replaces it
        self._kept.append(event)

    def _replace(self, channel: Channel, key: tuple[type, str, str], event: MarketEvent) -> None:
        if key in self._newest:
            self._counters.conflated[channel] += 1
        self._newest[key] = event

    def _forget(self, gone: Discontinuity) -> None:
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
            self._counters.overflowed[channel] += count
            left.append(Discontinuity(channel, symbol, f"{count} waited too long and were let go"))
        self._kept = left
