"""The user data stream: subscriptions to the account's events, and events lost, duplicated or swapped by a fault."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from typing import Protocol

import orjson

from fks.lab.sim.faults import Faults, Target
from fks.lab.sim.journal import Event
from fks.lab.sim.sockets import Socket

_STRUCK_MAX = 5_000


class WireUserStream(Protocol):
    """The user stream of another wire: it gets the events that faults let through, in their order."""

    def emit(self, event: Event) -> None:
        """Send an event to every subscription."""
        ...

    def terminate(self) -> None:
        """End every subscription."""
        ...

    def sockets(self) -> set[Socket]:
        """Return every connection with a subscription."""
        ...


class Users:
    """Subscriptions of WebSocket API connections, and (when switched on) of listen keys.

    `streams` are the user streams of other wires.
    """

    def __init__(self, faults: Faults, monotonic: Callable[[], float], wall_ms: Callable[[], int]) -> None:
        self._faults = faults
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._subscriptions: dict[Socket, list[int]] = {}
        self._next_id: dict[Socket, int] = {}
        self._late: Event | None = None
        self.streams: list[WireUserStream] = []
        #: reports that a fault dropped, repeated or swapped, the newest: kind, clientOrderId, event (its x), wallTime
        self.struck: deque[dict[str, object]] = deque(maxlen=_STRUCK_MAX)
        self.listen_key = secrets.token_urlsafe(45)[:60]

    def subscribe(self, socket: Socket) -> int:
        """Add a subscription to a connection; return its number on it."""
        number = self._next_id.get(socket, 0)
        self._next_id[socket] = number + 1
        self._subscriptions.setdefault(socket, []).append(number)
        return number

    def unsubscribe(self, socket: Socket, number: int | None = None) -> None:
        """End one subscription of a connection, or all."""
        if number is None:
            self._subscriptions.pop(socket, None)
        elif number in (held := self._subscriptions.get(socket, [])):
            held.remove(number)

    def numbers(self, socket: Socket) -> list[int]:
        """Return the subscriptions of a connection."""
        return list(self._subscriptions.get(socket, []))

    def gone(self, socket: Socket) -> None:
        """Forget a closed connection."""
        self._subscriptions.pop(socket, None)
        self._next_id.pop(socket, None)

    def sockets(self) -> set[Socket]:
        """Return every connection with a subscription, those of other wires among them."""
        own = {socket for socket, numbers in self._subscriptions.items() if numbers}
        return own.union(*(stream.sockets() for stream in self.streams))

    def emit(self, event: Event) -> None:
        """Send an event to every subscription, unless a fault drops, repeats or swaps it."""
        if event["e"] == "executionReport":
            at = Target(symbol=str(event["s"]), event=str(event["x"]), client_order_id=str(event["C"] or event["c"]))
            struck = self._faults.strike(("lose_report", "duplicate_report", "reorder_reports"), at)
            if struck is not None:
                row = {"clientOrderId": at.client_order_id, "event": at.event, "wallTime": self._wall_ms()}
                self.struck.append({"kind": struck.kind, **row})
            if struck is not None and struck.kind == "lose_report":
                return
            if struck is not None and struck.kind == "reorder_reports":
                late, self._late = self._late, event
                if late is not None:
                    self._send(late)
                return
            if struck is not None:
                self._send(event)
        self._send(event)
        if self._late is not None:
            late, self._late = self._late, None
            self._send(late)

    def terminate(self) -> None:
        """End every subscription with eventStreamTerminated."""
        self._publish({"e": "eventStreamTerminated", "E": self._wall_ms()})
        self._subscriptions.clear()
        for stream in self.streams:
            stream.terminate()

    def _send(self, event: Event) -> None:
        self._publish(event)
        for stream in self.streams:
            stream.emit(event)

    def _publish(self, event: Event) -> None:
        if not self._subscriptions or self._faults.holds("freeze_stream", self._monotonic(), Target(path="/ws-api/v3")):
            return
        plain = orjson.dumps(event)
        for socket, numbers in self._subscriptions.items():
            for number in numbers:
                if socket.path.startswith("/ws-api"):
                    socket.send(b'{"subscriptionId":' + str(number).encode() + b',"event":' + plain + b"}")
                else:
                    socket.send(plain)
