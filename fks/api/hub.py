"""Fan-out to sockets: one subscription per replica, a bounded queue per client, and honesty about what was lost.

Bars may be dropped, oldest first, and the client is told how many. Signals, orders and fills are never dropped
silently: a client too slow for them is closed with 1013 and reads the rest over REST. When Redis was away, and messages
may have been missed, every client gets `{"type": "gap"}`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fks.clock import Clock
from fks.model.timeframe import iso
from fks.store import bus as channels
from fks.store.bus import Bus

if TYPE_CHECKING:
    from fks.model.ports import Log

#: What a client asks for -> where it comes from.
CHANNELS: dict[str, str] = {
    "bars": channels.BARS,
    "signals": channels.SIGNALS,
    "orders": channels.ORDERS,
    "fills": channels.FILLS,
    "feeds": channels.FEEDS,
    "alerts": channels.ALERTS,
    "kill": channels.KILL,
}
DEFAULT = ("bars", "signals", "orders", "fills")
_DROPPABLE = frozenset({"bars", "feeds"})
#: Messages a client may lag behind. At a hundred bytes each this is about 100 kB.
QUEUE_MAX = 1000
#: Sockets one replica serves.
CLIENTS_MAX = 100
HEARTBEAT_S = 10.0
_TICK = "fks.gateway.tick"
_TICK_S = 1.0


class Client:
    """One socket's view: which channels and symbols it wants and what waits for it."""

    def __init__(
        self, wanted: frozenset[str], symbols: frozenset[str], timeframes: frozenset[str] = frozenset()
    ) -> None:
        self.wanted = wanted
        self.symbols = symbols
        self.timeframes = timeframes
        self.is_overrun = False
        self.is_closing = False
        self._dropped = 0
        self._queue: deque[tuple[str, Mapping[str, Any]]] = deque()
        self._wake = asyncio.Event()

    def wants(self, channel: str, message: Mapping[str, Any]) -> bool:
        """Return whether this client asked for the message."""
        if channel not in self.wanted:
            return False
        symbol, timeframe = message.get("symbol"), message.get("timeframe")
        if self.symbols and symbol is not None and symbol not in self.symbols:
            return False
        return not (channel == "bars" and self.timeframes and timeframe not in self.timeframes)

    def put(self, channel: str, message: Mapping[str, Any]) -> None:
        """Queue a message; when full, drop the oldest droppable one or, without any, give the client up."""
        if len(self._queue) >= QUEUE_MAX and not self._make_room():
            self.is_overrun = True
        else:
            self._queue.append((channel, message))
        self._wake.set()

    def close(self) -> None:
        """Make `take` end: the gateway goes away."""
        self.is_closing = True
        self._wake.set()

    async def take(self, timeout_s: float) -> list[Mapping[str, Any]]:
        """Return what waits, or nothing after `timeout_s`."""
        if not self._queue and not (self.is_overrun or self.is_closing):
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return []
        found: list[Mapping[str, Any]] = [message for _, message in self._queue]
        self._queue.clear()
        if self._dropped:
            found.insert(0, {"type": "dropped", "channels": sorted(_DROPPABLE & self.wanted), "count": self._dropped})
            self._dropped = 0
        return found

    def _make_room(self) -> bool:
        for index, (channel, _) in enumerate(self._queue):
            if channel in _DROPPABLE:
                del self._queue[index]
                self._dropped += 1
                return True
        return False


class Hub:
    """Carries what the bus says to every client that wants it."""

    def __init__(self, bus: Bus, clock: Clock, log: Log) -> None:
        self._bus = bus
        self._clock = clock
        self._log = log
        self._clients: set[Client] = set()
        self._names = {source: name for name, source in CHANNELS.items()}
        self._mine = f"{_TICK}.{secrets.token_hex(8)}"
        self._tick_sent = 0
        self._tick_seen = 0

    def __len__(self) -> int:
        return len(self._clients)

    def join(self, client: Client) -> bool:
        """Add a client; False when this replica is full."""
        if len(self._clients) >= CLIENTS_MAX:
            return False
        self._clients.add(client)
        return True

    def leave(self, client: Client) -> None:
        """Take a client out; harmless when it is out already."""
        self._clients.discard(client)

    async def close(self) -> None:
        """Tell every client that the gateway goes away."""
        for client in list(self._clients):
            client.close()

    async def listen(self) -> None:
        """Carry messages until cancelled, watching its own ticks come back: a missing one is a gap."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._carry())
            group.create_task(self._tick())

    async def _carry(self) -> None:
        async for source, payload in self._bus.subscribe(*self._names, self._mine):
            if source == self._mine:
                if isinstance(payload, dict) and isinstance(payload.get("n"), int):  # anyone with the password publishes
                    self._note_tick(payload["n"])
            elif isinstance(payload, dict):
                self.spread(self._names[source], payload)

    def spread(self, channel: str, message: Mapping[str, Any]) -> None:
        """Give a message to every client that wants it."""
        for client in self._clients:
            if client.wants(channel, message):
                client.put(channel, message)

    def _note_tick(self, number: int) -> None:
        if self._tick_seen and number > self._tick_seen + 1:
            self._log.warning("gateway.gap", ticks=number - self._tick_seen - 1)
            message = {
                "type": "gap",
                "time": iso(self._clock.now_ns()),
                "reason": "messages may be missing: read again",
            }
            for client in self._clients:
                client.put("gap", message)
        self._tick_seen = number

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(_TICK_S)
            if self._clients or not self._tick_seen:
                self._tick_sent += 1
                await self._bus.publish(self._mine, {"n": self._tick_sent})
