"""One listener of `WS /ws`: what it asked for, what waits for it, and what becomes of that when it cannot keep up.

What waits is bounded, in messages and in bytes. Prices, quotes and books are conflated: the newest of a symbol takes
the place of the one before. Bars and feed states are dropped, oldest first, and the listener is told how many. Signals,
orders, fills, alerts and kills are never dropped: a listener too slow for them is given up, and reads the rest over
REST. Answers are never dropped either, and are no reason to give anybody up: who does not read them is not heard any
further, see `has_room`. While its window is full (`window.py`) nothing is taken, and what comes waits here.

A new subscription begins with a snapshot. Messages that come while it is read are held back and follow it, those that
it contains left out: who takes the snapshot and then every message has what there is.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from itertools import count, product
from typing import Any, NamedTuple

from fks.api.exact import dump
from fks.api.requests import Requests
from fks.api.window import Window
from fks.clock import RealClock

#: Messages a client may lag behind, answers aside. At two hundred bytes each this is about 200 kB.
QUEUE_MAX = 1000
#: And bytes, those held back for a snapshot among them: the books of a thousand symbols are about 1 MB.
QUEUE_BYTES = 4_000_000
#: Bytes of answers that may wait when it is asked for more. The largest answer is that to one `subscribe`, about 5 MB.
ANSWERS_BYTES = 1_000_000
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


class Told(NamedTuple):
    """What waits: a message of a channel, "" for an answer, and as it is sent.

    Of an answer only the bytes are kept: a snapshot's objects take three times as much.
    """

    channel: str
    message: Message
    data: bytes


class Client:
    """One socket's view. Its methods are called by one event loop; none but `take` and `has_room` waits."""

    def __init__(self, topics: Iterable[Topic] = (), window: Window | None = None) -> None:
        self.topics: set[Topic] = set(topics)
        self.window = window or Window(RealClock().monotonic)
        self.is_overrun = False
        self.is_closing = False
        self._held: dict[Topic, deque[Told]] = {}  # topics whose snapshot is being read
        self._dropped: dict[str, int] = {}
        # in order; a conflated message's key is what it is about
        self._queue: OrderedDict[object, Told] = OrderedDict()
        self._count = 0  # of the queue, answers aside
        self._bytes = 0  # of the queue, answers aside, and of what is held
        self._answer_bytes = 0
        self._numbers = count()
        self._wake = asyncio.Event()
        self._taken = asyncio.Event()
        self.requests = Requests()

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
        held = self._unheld(topic)
        self.answer(snapshot)
        for told in held:
            if not contains(told.message):
                self.put(*told)

    def give_up(self, topics: Iterable[Topic], added: Iterable[Topic]) -> None:
        """End a `begin` whose snapshots could not be read: want `added` no longer, and queue what was held for
        others."""
        self.topics.difference_update(added)
        held = [told for topic in topics for told in self._unheld(topic)]
        for told in held:
            if self.wants(told.channel, told.message):
                self.put(*told)

    def drop(self, topics: Iterable[Topic]) -> None:
        """Want these no longer; what waits of them and nobody else wants is forgotten."""
        for topic in topics:
            self.topics.discard(topic)
            self._unheld(topic)
        for key, (channel, message, _) in list(self._queue.items()):
            if channel and channel != "gap" and not self.wants(channel, message):
                self._remove(key)

    # ── messages ─────────────────────────────────────────────────────────────────────────────────
    def put(self, channel: str, message: Message, data: bytes | None = None) -> None:
        """Queue a message; when full, drop the oldest droppable one or, without any, give the client up.

        `data` is the message as it is sent, from who has it already: one is told to many clients.
        """
        told = Told(channel, message, dump(message) if data is None else data)
        if self._held and (held := self._holding(channel, message)) is not None:
            if len(held) >= QUEUE_MAX:
                self._note_dropped(channel)
                return
            held.append(told)
            self._bytes += len(told.data)
        else:
            key = (
                (channel, message.get("exchange"), message.get("symbol"))
                if channel in CONFLATED
                else next(self._numbers)
            )
            self._add(key, told)
        while self._count > QUEUE_MAX or self._bytes > QUEUE_BYTES:
            self._let_go()

    def answer(self, message: Message) -> None:
        """Queue what was asked for: never dropped. Who asks waits for `has_room` first."""
        self._add(next(self._numbers), Told("", {}, dump(message)))

    async def has_room(self) -> None:
        """Return once it may be asked for more: once few enough bytes of answers wait."""
        while self._answer_bytes > ANSWERS_BYTES:
            self._taken.clear()
            await self._taken.wait()

    def close(self) -> None:
        """Make `take` end: the gateway goes away."""
        self.is_closing = True
        self._wake.set()

    def note_checked(self, number: int) -> None:
        """Note that the listener has come to this check. Errors: ValueError when it was never sent."""
        self.window.answer(number)
        self._wake.set()

    async def take(self, timeout_s: float, most: int = QUEUE_MAX) -> list[Told]:
        """Return what waits, the oldest `most`, after word of what was dropped, of the channel "dropped"; or nothing:
        after `timeout_s`, or while its window is full and it is given up or the gateway goes away."""
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
        found = [self._remove(next(iter(self._queue))) for _ in range(min(most, len(self._queue)))]
        self._taken.set()
        if dropped:
            total = sum(dropped.values())
            word = {"type": "dropped", "channels": sorted(dropped), "count": total, "counts": dropped}
            found.insert(0, Told("dropped", word, dump(word)))
        return found

    def take_dropped(self) -> dict[str, int]:
        """Return how many messages of each channel were dropped since this was last asked."""
        dropped, self._dropped = self._dropped, {}
        return dropped

    @property
    def _is_ready(self) -> bool:
        return bool(self._queue or self._dropped) and not self.window.is_full

    def _holding(self, channel: str, message: Message) -> deque[Told] | None:
        """Return where a message is held back, if it is."""
        if message.get("symbol") is None:
            return next((held for topic, held in self._held.items() if topic.channel == channel), None)
        return next((self._held[topic] for topic in _matching(channel, message) if topic in self._held), None)

    def _unheld(self, topic: Topic) -> Iterable[Told]:
        """Return what was held back for a topic, and hold nothing for it any more."""
        held = self._held.pop(topic, ())
        self._bytes -= sum(len(told.data) for told in held)
        return held

    def _add(self, key: object, told: Told) -> None:
        """Queue it: last, or in the place of what has this key."""
        before = self._queue.get(key)
        self._queue[key] = told
        if before is not None:
            self._weigh(before, -1)
        self._weigh(told, 1)
        self._wake.set()

    def _remove(self, key: object) -> Told:
        told = self._queue.pop(key)
        self._weigh(told, -1)
        return told

    def _weigh(self, told: Told, sign: int) -> None:
        if told.channel:
            self._count += sign
            self._bytes += sign * len(told.data)
        else:
            self._answer_bytes += sign * len(told.data)

    def _let_go(self) -> None:
        """Drop the oldest that may be; without any the newest, and give the client up."""
        key = next((key for key, told in self._queue.items() if told.channel in DROPPABLE), None)
        if key is not None:
            self._note_dropped(self._remove(key).channel)
        elif self._bytes > QUEUE_BYTES and (dropped := self._held_to_drop()):
            self._note_dropped(dropped.channel)
        else:
            self.is_overrun = True
            key = next((key for key, told in reversed(self._queue.items()) if told.channel), None)
            if key is not None:
                self._remove(key)
            else:
                self._bytes -= len(next(held for held in self._held.values() if held).pop().data)

    def _held_to_drop(self) -> Told | None:
        """Take out of what is held back the oldest that may be dropped, of one topic."""
        for held in self._held.values():
            for told in held:
                if told.channel in DROPPABLE:
                    held.remove(told)
                    self._bytes -= len(told.data)
                    return told
        return None

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
