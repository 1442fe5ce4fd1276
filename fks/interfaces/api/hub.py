"""Fan-out to websockets: one subscription per replica, a bounded queue per client, and a notice of lost messages.

When Redis was away, and messages may have been missed, every client gets `{"type": "gap"}`. The channels that carry
every price and quote are subscribed only while a client wants one of them.

Every message of the other channels has a number, `seq`, which grows over all of them. The newest are kept, so that a
client that reconnects to the same replica is sent what it missed (`missed`); any other one has to read again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fks.clock import Clock
from fks.interfaces.api.client import QUEUE_MAX, Queued, SocketClient
from fks.interfaces.api.exact import dump
from fks.interfaces.api.topics import Message, Topic, wanted
from fks.model.timeframe import iso
from fks.store import bus as channels
from fks.store import latest
from fks.store.bus import Bus

if TYPE_CHECKING:
    from fks.model.ports import Log

#: Channels of clients -> channels of the bus.
CHANNELS: dict[str, str] = {
    "bars": channels.BARS,
    "signals": channels.SIGNALS,
    "orders": channels.ORDERS,
    "fills": channels.FILLS,
    "feeds": channels.FEEDS,
    "alerts": channels.ALERTS,
    "kill": channels.KILL,
    "jobs": channels.JOBS,
}
#: Likewise, for channels with so many messages that they are subscribed only for a client.
BUSY: dict[str, str] = {"prices": latest.PRICES, "quotes": latest.QUOTES, "book": latest.BOOKS}
EVERY = {**CHANNELS, **BUSY}
DEFAULT = ("bars", "signals", "orders", "fills")
#: Sockets one replica serves.
CLIENTS_MAX = 100
HEARTBEAT_S = 10.0
#: Messages that are kept for clients that reconnect, about 3 MB; fewer are replayed than a client may have waiting.
KEPT_MAX = 2000
REPLAYED_MAX = QUEUE_MAX // 2
_TICK = "fks.gateway.tick"
_TICK_S = 1.0
_ECHO_S = 0.05  # interval of the first echo requests of a new subscription


class Hub:
    """Distributes messages of the bus to `clients`, those that joined, by their subscriptions."""

    def __init__(self, bus: Bus, clock: Clock, log: Log) -> None:
        self._bus = bus
        self._clock = clock
        self._log = log
        self.clients: set[SocketClient] = set()
        self._owners: dict[SocketClient, str] = {}
        self._names = {source: name for name, source in CHANNELS.items()}
        self.own_channel = f"{_TICK}.{secrets.token_hex(8)}"
        self.stream = secrets.token_hex(8)  # names this replica's numbers
        self.seq = 0
        self._kept: deque[tuple[int, Queued]] = deque(maxlen=KEPT_MAX)
        self._complete_from = 0  # every message with a greater number is kept
        self._tick_sent = 0  # on the own channel, which shows that the subscription to the bus stands
        self._tick_seen = 0
        self._demand = asyncio.Event()
        self.is_busy_subscribed = False  # the subscription to the busy channels stands
        self._busy_changed = asyncio.Condition()

    def __len__(self) -> int:
        return len(self.clients)

    def join(self, client: SocketClient, owner: str = "") -> bool:
        """Add a client; False when this replica is full. `owner` names the caller, for `held_by`."""
        if len(self.clients) >= CLIENTS_MAX:
            return False
        self.clients.add(client)
        self._owners[client] = owner
        self.changed()
        return True

    def leave(self, client: SocketClient) -> None:
        """Remove a client; harmless when it is removed already."""
        self.clients.discard(client)
        self._owners.pop(client, None)
        self.changed()

    def held_by(self, owner: str) -> int:
        """Return how many clients of this replica a caller has."""
        return sum(one == owner for one in self._owners.values())

    def changed(self) -> None:
        """Record that a client's channels changed."""
        self._demand.set()

    async def wait_busy(self, timeout_s: float) -> bool:
        """Wait until the busy channels are subscribed, which a client has to want; False when Redis is away for so
        long."""
        try:
            async with asyncio.timeout(timeout_s), self._busy_changed:
                await self._busy_changed.wait_for(lambda: self.is_busy_subscribed)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Close every client: the gateway stops."""
        for client in list(self.clients):
            client.close()

    async def listen(self) -> None:
        """Distribute messages until cancelled, and watch its own ticks come back: a missing one is a gap."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._carry())
            group.create_task(self._tick())
            group.create_task(self._carry_busy())

    async def _carry(self) -> None:
        async for source, payload in self._bus.subscribe(*self._names, self.own_channel):
            if source == self.own_channel:
                # any client with the password publishes: the payload may be anything
                if isinstance(payload, dict) and isinstance(payload.get("n"), int):
                    self._note_tick(payload["n"])
            elif isinstance(payload, dict):
                self.spread(self._names[source], payload)

    async def _carry_busy(self) -> None:
        """Subscribe to the busy channels while a client wants one of them."""
        while True:
            while not self._is_busy_wanted():
                self._demand.clear()
                await self._demand.wait()
            listening = asyncio.create_task(self._listen_busy())
            try:
                while self._is_busy_wanted():
                    self._demand.clear()
                    waiting = asyncio.create_task(self._demand.wait())
                    await asyncio.wait({waiting, listening}, return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()
                    if listening.done():
                        listening.result()
            finally:
                listening.cancel()
                await asyncio.wait({listening})
                self.is_busy_subscribed = False

    def _is_busy_wanted(self) -> bool:
        return any(client.channels & BUSY.keys() for client in self.clients)

    async def _listen_busy(self) -> None:
        names, echo = {source: name for name, source in BUSY.items()}, f"{self.own_channel}.busy"
        asking = asyncio.create_task(self._ask_echo(echo))
        try:
            async for source, payload in self._bus.subscribe(*names, echo):
                if source == echo:
                    async with self._busy_changed:
                        self.is_busy_subscribed = True
                        self._busy_changed.notify_all()
                elif isinstance(payload, dict):
                    self.spread(names[source], payload)
        finally:
            asking.cancel()
            await asyncio.wait({asking})

    async def _ask_echo(self, echo: str) -> None:
        """Publish to ourselves until the echo arrives: then the subscription stands, and later messages are not
        missed."""
        while not self.is_busy_subscribed:
            await self._bus.publish(echo, {})
            await self._clock.sleep(_ECHO_S)

    def spread(self, channel: str, message: Message) -> None:
        """Give a message to every client that wants it, encoded once for all of them."""
        wanting = [client for client in self.clients if client.wants(channel, message)]
        if channel in CHANNELS:
            queued = self._numbered(channel, message)
        elif wanting:
            queued = Queued(channel, message, dump(message))
        for client in wanting:
            client.put(*queued)

    def _numbered(self, channel: str, message: Message) -> Queued:
        """Return the message with the next number, and keep it."""
        self.seq += 1
        found = {**message, "seq": self.seq}
        queued = Queued(channel, found, dump(found))
        if len(self._kept) == KEPT_MAX:
            self._complete_from = self._kept[0][0]
        self._kept.append((self.seq, queued))
        return queued

    def missed(self, stream: str, seq: int, topics: Iterable[Topic]) -> list[Queued] | None:
        """Return the messages of `topics` after number `seq` of `stream`, oldest first.

        None when they are not known: the numbers are another replica's, are too old, a gap lies between, or there are
        more than a client may have waiting.
        """
        if stream != self.stream or not self._complete_from <= seq <= self.seq:
            return None
        chosen = set(topics)
        found = [queued for number, queued in self._kept if number > seq and wanted(chosen, *queued[:2])]
        return found if len(found) <= REPLAYED_MAX else None

    def _note_tick(self, number: int) -> None:
        if self._tick_seen and number > self._tick_seen + 1:
            self._log.warning("gateway.gap", ticks=number - self._tick_seen - 1)
            self._kept.clear()
            self._complete_from = self.seq
            message = {
                "type": "gap",
                "time": iso(self._clock.now_ns()),
                "reason": "messages may be missing: read again",
            }
            for client in self.clients:
                client.put("gap", message)
        self._tick_seen = number

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(_TICK_S)
            if self.clients or not self._tick_seen:
                self._tick_sent += 1
                await self._bus.publish(self.own_channel, {"n": self._tick_sent})
