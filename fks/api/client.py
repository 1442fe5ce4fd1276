"""One listener of `WS /ws`: what it asked for, what waits for it, and what becomes of that when it cannot keep up.

What waits is bounded. Prices, quotes and books are conflated: the newest of a symbol takes the place of the one before.
Bars and feed states are dropped, oldest first, and the listener is told how many. Signals, orders, fills, alerts, kills and
answers are never dropped: a listener too slow for them is given up, and reads the rest over REST.
While its window is full (`window.py`) nothing is taken, and what comes waits here.

A new subscription begins with a snapshot. Messages that come while it is read are held back and follow it, those that it
contains left out: who takes the snapshot and then every message has what there is.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from itertools import count, product
from typing import Any, NamedTuple

from fks.api.window import Window
from fks.clock import RealClock

#: Messages a client may lag behind. At a hundred bytes each this is about 100 kB.
QUEUE_MAX = 1000
#: Subscriptions of one client.
TOPICS_MAX = 2000
CONFLATED = frozenset({"prices", "quotes", "book"})
DROPPABLE = frozenset({"bars", "feeds"}) | CONFLATED
Message = Mapping[str, Any]


class Topic(NamedTuple):
    """What one subscription is about; "" means any. `timeframe` is of bars alone."""

    channel: str
    exchange: str = ""
    symbol: str = ""
    timeframe: str = ""


def topics_of(
    channels: Iterable[str], symbols: Iterable[tuple[str, str]] = (), timeframes: Iterable[str] = ()
) -> frozenset[Topic]:
    """Return every combination; `symbols` are (exchange or "", symbol), none of them means all."""
    places, frames = list(symbols) or [("", "")], list(timeframes) or [""]
    return frozenset(
        Topic(channel, exchange, symbol, frame if channel == "bars" else "")
        for channel, (exchange, symbol), frame in product(channels, places, frames)
    )


class Client:
    """One socket's view. Its methods are called by one event loop; none but `take` waits."""

    def __init__(self, topics: Iterable[Topic] = (), window: Window | None = None) -> None:
        self.topics: set[Topic] = set(topics)
        self.window = window or Window(RealClock().monotonic)
        self.is_overrun = False
        self.is_closing = False
        self._held: dict[Topic, deque[tuple[str, Message]]] = {}  # topics whose snapshot is being read
        self._dropped: dict[str, int] = {}
        # in order; a conflated message's key is what it is about
        self._queue: OrderedDict[object, tuple[str, Message]] = OrderedDict()
        self._numbers = count()
        self._wake = asyncio.Event()

    @property
    def channels(self) -> frozenset[str]:
        """Return the channels of which this client wants anything."""
        return frozenset(topic.channel for topic in self.topics)

    def wants(self, channel: str, message: Message) -> bool:
        """Return whether this client asked for the message; what is about no symbol is for all who want its channel."""
        if message.get("symbol") is None:
            return any(topic.channel == channel for topic in self.topics)
        return not self.topics.isdisjoint(_matching(channel, message))

    # ── subscriptions ────────────────────────────────────────────────────────────────────────────
    def begin(self, topics: Iterable[Topic]) -> None:
        """Want these too; what comes of them is held back until `release`."""
        for topic in topics:
            self.topics.add(topic)
            self._held.setdefault(topic, deque())

    def release(self, topic: Topic, snapshot: Message, contains: Callable[[Message], bool]) -> None:
        """Queue the snapshot of a topic, then what was held back for it and is not in the snapshot."""
        held = self._held.pop(topic, ())
        self.answer(snapshot)
        for channel, message in held:
            if not contains(message):
                self.put(channel, message)

    def give_up(self, topics: Iterable[Topic], added: Iterable[Topic]) -> None:
        """End a `begin` whose snapshots could not be read: want `added` no longer, and queue what was held for others."""
        self.topics.difference_update(added)
        held = [message for topic in topics for message in self._held.pop(topic, ())]
        for channel, message in held:
            if self.wants(channel, message):
                self.put(channel, message)

    def drop(self, topics: Iterable[Topic]) -> None:
        """Want these no longer; what waits of them and nobody else wants is forgotten."""
        for topic in topics:
            self.topics.discard(topic)
            self._held.pop(topic, None)
        self._queue = OrderedDict(
            (key, (channel, message))
            for key, (channel, message) in self._queue.items()
            if not channel or channel == "gap" or self.wants(channel, message)
        )

    # ── messages ─────────────────────────────────────────────────────────────────────────────────
    def put(self, channel: str, message: Message) -> None:
        """Queue a message; when full, drop the oldest droppable one or, without any, give the client up."""
        if self._held and (held := self._holding(channel, message)) is not None:
            if len(held) < QUEUE_MAX:
                held.append((channel, message))
            else:
                self._note_dropped(channel)
            return
        key: object = next(self._numbers)
        if channel in CONFLATED:
            key = (channel, message.get("exchange"), message.get("symbol"))
            if key in self._queue:
                self._queue[key] = (channel, message)
                return
        self._append(key, channel, message)

    def answer(self, message: Message) -> None:
        """Queue what was asked for: never dropped."""
        self._append(next(self._numbers), "", message)

    def close(self) -> None:
        """Make `take` end: the gateway goes away."""
        self.is_closing = True
        self._wake.set()

    def note_checked(self, number: int) -> None:
        """Note that the listener has come to this check. Errors: ValueError when it was never sent."""
        self.window.answer(number)
        self._wake.set()

    async def take(self, timeout_s: float, most: int = QUEUE_MAX) -> list[Message]:
        """Return what waits, the oldest `most`, after word of what was dropped; or nothing: after `timeout_s`, or while
        its window is full and it is given up or the gateway goes away."""
        try:
            async with asyncio.timeout(timeout_s):
                while not (self.is_overrun or self.is_closing or self._is_ready):
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            return []
        if self.window.is_full:
            return []
        dropped = self.take_dropped()
        found: list[Message] = [self._queue.popitem(last=False)[1][1] for _ in range(min(most, len(self._queue)))]
        if dropped:
            total = sum(dropped.values())
            found.insert(0, {"type": "dropped", "channels": sorted(dropped), "count": total, "counts": dropped})
        return found

    def take_dropped(self) -> dict[str, int]:
        """Return how many messages of each channel were dropped since this was last asked."""
        dropped, self._dropped = self._dropped, {}
        return dropped

    @property
    def _is_ready(self) -> bool:
        return bool(self._queue or self._dropped) and not self.window.is_full

    def _holding(self, channel: str, message: Message) -> deque[tuple[str, Message]] | None:
        """Return where a message is held back, if it is."""
        if message.get("symbol") is None:
            return next((held for topic, held in self._held.items() if topic.channel == channel), None)
        return next((self._held[topic] for topic in _matching(channel, message) if topic in self._held), None)

    def _append(self, key: object, channel: str, message: Message) -> None:
        if len(self._queue) >= QUEUE_MAX and not self._make_room():
            self.is_overrun = True
        else:
            self._queue[key] = (channel, message)
        self._wake.set()

    def _make_room(self) -> bool:
        for key, (channel, _) in self._queue.items():
            if channel in DROPPABLE:
                del self._queue[key]
                self._note_dropped(channel)
                return True
        return False

    def _note_dropped(self, channel: str) -> None:
        if channel not in DROPPABLE:
            self.is_overrun = True
        self._dropped[channel] = self._dropped.get(channel, 0) + 1
        self._wake.set()


def _matching(channel: str, message: Message) -> set[Topic]:
    """Return every topic that wants the message."""
    exchanges = {"", str(message.get("exchange") or "")}
    frames = {"", str(message.get("timeframe") or "")} if channel == "bars" else {""}
    symbols = ("", str(message.get("symbol") or ""))
    return {Topic(channel, exchange, symbol, frame) for exchange in exchanges for symbol in symbols for frame in frames}
