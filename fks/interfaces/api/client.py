"""One client of `WS /ws`: its subscriptions, its queue, and the rules for a client that cannot keep up.

The queue is bounded, in messages and in bytes. Prices, quotes and books are conflated: the newest of a symbol replaces
the one before. Bars, feed states and jobs are dropped, oldest first, and the client is sent their number. Signals,
orders, fills, alerts and kills are never dropped: a client too slow for them is disconnected, and reads the rest over
REST.
Answers are never dropped either, and never disconnect a client: while it does not read them, its requests are not read
any further, see `wait_drained`. While its window is full (`window.py`) nothing is taken, and messages wait here.

A new subscription begins with a snapshot. Messages that come while it is read are held back and follow it, without
those that it contains: the snapshot and every message after it are complete.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from types import MappingProxyType
from typing import NamedTuple

from fks.clock import RealClock
from fks.interfaces.api.exact import dump
from fks.interfaces.api.requests import Requests
from fks.interfaces.api.topics import Message, Topic, topics_matching, wanted
from fks.interfaces.api.window import ClientWindow

#: Messages a client may lag behind, answers aside. At two hundred bytes each this is about 200 kB.
QUEUE_MAX = 1000
#: And bytes, those held back for a snapshot among them: the books of a thousand symbols are about 1 MB.
QUEUE_BYTES = 4_000_000
#: Bytes of answers that may wait before its next request is read. The largest answer is that to one `subscribe`, about
#: 5 MB.
ANSWERS_BYTES = 1_000_000
#: Subscriptions of one client.
TOPICS_MAX = 2000
CONFLATED = frozenset({"prices", "quotes", "book"})
DROPPABLE = frozenset({"bars", "feeds", "jobs"}) | CONFLATED


class Queued(NamedTuple):
    """A queued message: its channel, "" for an answer, and its bytes.

    Of an answer only the bytes are kept: a snapshot's objects take three times as much.
    """

    channel: str
    message: Message
    data: bytes


class SocketClient:
    """State of one websocket. Its methods are called by one event loop; only `take` and `wait_drained` wait."""

    def __init__(self, topics: Iterable[Topic] = (), window: ClientWindow | None = None) -> None:
        self.topics: set[Topic] = set(topics)
        self.window = window or ClientWindow(RealClock().monotonic)
        self.is_overrun = False
        self.is_closing = False
        self._held: dict[Topic, deque[Queued]] = {}  # topics whose snapshot is being read
        self._dropped: dict[str, int] = {}
        # in order; a conflated message's key is its channel and symbol
        self._queue: OrderedDict[object, Queued] = OrderedDict()
        self.messages_waiting = 0  # of the queue, answers aside
        self.bytes_waiting = 0  # of the queue, answers aside, and of held messages; all three to be read
        self.answer_bytes = 0
        self._numbers = count()
        self._wake = asyncio.Event()
        self._taken = asyncio.Event()
        self.requests = Requests()

    @property
    def has_news(self) -> bool:
        """Return whether messages wait, or the number of dropped ones."""
        return bool(self._queue or self._dropped)

    @property
    def waiting(self) -> tuple[Queued, ...]:
        """Return the queued messages, oldest first, without those held back."""
        return tuple(self._queue.values())

    @property
    def held(self) -> Mapping[Topic, Sequence[Queued]]:
        """Return the messages held back for each topic whose snapshot is being read."""
        return MappingProxyType(self._held)

    @property
    def channels(self) -> frozenset[str]:
        """Return the channels with a subscription of this client."""
        return frozenset(topic.channel for topic in self.topics)

    def wants(self, channel: str, message: Message) -> bool:
        """Return whether this client subscribed to the message; one without a symbol goes to all clients of its
        channel."""
        return wanted(self.topics, channel, message)

    # ── subscriptions ────────────────────────────────────────────────────────────────────────────
    def begin(self, topics: Iterable[Topic]) -> None:
        """Subscribe to these too; their messages are held back until `release`."""
        for topic in topics:
            self.topics.add(topic)
            self._held.setdefault(topic, deque())

    def release(self, topic: Topic, snapshot: Message, contains: Callable[[Message], bool]) -> None:
        """Queue the snapshot of a topic, then the held messages that the snapshot does not contain."""
        held = self._unheld(topic)
        self.answer(snapshot)
        for queued in held:
            if not contains(queued.message):
                self.put(*queued)

    def give_up(self, topics: Iterable[Topic], added: Iterable[Topic]) -> None:
        """End a `begin` whose snapshots could not be read: unsubscribe from `added`, and queue the held messages of
        others."""
        self.topics.difference_update(added)
        held = [queued for topic in topics for queued in self._unheld(topic)]
        for queued in held:
            if self.wants(queued.channel, queued.message):
                self.put(*queued)

    def drop(self, topics: Iterable[Topic]) -> None:
        """Unsubscribe from these; waiting messages that no other topic wants are dropped."""
        for topic in topics:
            self.topics.discard(topic)
            self._unheld(topic)
        for key, (channel, message, _) in list(self._queue.items()):
            if channel and channel != "gap" and not self.wants(channel, message):
                self._remove(key)

    # ── messages ─────────────────────────────────────────────────────────────────────────────────
    def put(self, channel: str, message: Message, data: bytes | None = None) -> None:
        """Queue a message; when full, drop the oldest droppable one or, without any, disconnect the client.

        `data` is the encoded message where the caller has it: one message goes to many clients.
        """
        queued = Queued(channel, message, dump(message) if data is None else data)
        if self._held and (held := self._holding(channel, message)) is not None:
            if len(held) >= QUEUE_MAX:
                self._note_dropped(channel)
                return
            held.append(queued)
            self.bytes_waiting += len(queued.data)
        else:
            key = (
                (channel, message.get("exchange"), message.get("symbol"))
                if channel in CONFLATED
                else next(self._numbers)
            )
            self._add(key, queued)
        while self.messages_waiting > QUEUE_MAX or self.bytes_waiting > QUEUE_BYTES:
            self._drop_one()

    def answer(self, message: Message) -> None:
        """Queue an answer to a request: never dropped. The caller waits for `wait_drained` first."""
        self._add(next(self._numbers), Queued("", {}, dump(message)))

    async def wait_drained(self) -> None:
        """Return once the next request may be handled: few enough bytes of answers wait."""
        while self.answer_bytes > ANSWERS_BYTES:
            self._taken.clear()
            await self._taken.wait()

    def close(self) -> None:
        """End `take`: the gateway stops."""
        self.is_closing = True
        self._wake.set()

    def note_checked(self, number: int) -> None:
        """Record that the client has answered this check. Errors: ValueError when it was never sent."""
        self.window.answer(number)
        self._wake.set()

    async def take(self, timeout_s: float, most: int = QUEUE_MAX) -> list[Queued]:
        """Return the oldest `most` messages, after a notice of dropped ones (channel "dropped"); none after
        `timeout_s`, while its window is full, or when the client is disconnected or the gateway stops."""
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
            notice = {"type": "dropped", "channels": sorted(dropped), "count": total, "counts": dropped}
            found.insert(0, Queued("dropped", notice, dump(notice)))
        return found

    def take_dropped(self) -> dict[str, int]:
        """Return how many messages of each channel were dropped since the last call."""
        dropped, self._dropped = self._dropped, {}
        return dropped

    @property
    def _is_ready(self) -> bool:
        return self.has_news and not self.window.is_full

    def _holding(self, channel: str, message: Message) -> deque[Queued] | None:
        """Return the queue in which a message is held back, if any."""
        if message.get("symbol") is None:
            return next((held for topic, held in self._held.items() if topic.channel == channel), None)
        return next((self._held[topic] for topic in topics_matching(channel, message) if topic in self._held), None)

    def _unheld(self, topic: Topic) -> Iterable[Queued]:
        """Return the held messages of a topic, and hold none for it any more."""
        held = self._held.pop(topic, ())
        self.bytes_waiting -= sum(len(queued.data) for queued in held)
        return held

    def _add(self, key: object, queued: Queued) -> None:
        """Queue it: last, or in the place of the one with this key."""
        before = self._queue.get(key)
        self._queue[key] = queued
        if before is not None:
            self._weigh(before, -1)
        self._weigh(queued, 1)
        self._wake.set()

    def _remove(self, key: object) -> Queued:
        queued = self._queue.pop(key)
        self._weigh(queued, -1)
        return queued

    def _weigh(self, queued: Queued, sign: int) -> None:
        if queued.channel:
            self.messages_waiting += sign
            self.bytes_waiting += sign * len(queued.data)
        else:
            self.answer_bytes += sign * len(queued.data)

    def _drop_one(self) -> None:
        """Drop the oldest droppable message; without any, drop the newest and disconnect the client."""
        key = next((key for key, queued in self._queue.items() if queued.channel in DROPPABLE), None)
        if key is not None:
            self._note_dropped(self._remove(key).channel)
        elif self.bytes_waiting > QUEUE_BYTES and (dropped := self._held_to_drop()):
            self._note_dropped(dropped.channel)
        else:
            self.is_overrun = True
            key = next((key for key, queued in reversed(self._queue.items()) if queued.channel), None)
            if key is not None:
                self._remove(key)
            else:
                self.bytes_waiting -= len(next(held for held in self._held.values() if held).pop().data)

    def _held_to_drop(self) -> Queued | None:
        """Remove the oldest droppable held message of one topic."""
        for held in self._held.values():
            for queued in held:
                if queued.channel in DROPPABLE:
                    held.remove(queued)
                    self.bytes_waiting -= len(queued.data)
                    return queued
        return None

    def _note_dropped(self, channel: str) -> None:
        if channel not in DROPPABLE:
            self.is_overrun = True
        self._dropped[channel] = self._dropped.get(channel, 0) + 1
        self._wake.set()
