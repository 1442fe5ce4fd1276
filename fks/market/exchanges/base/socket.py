"""Websocket connections of one exchange: connect, subscribe, read, send, close.

Two tasks serve a connection. One reads frames and puts their events into an `ArrivedEvents`. The other sends the frames
that the wire has due. The caller takes batches. When either task ends, the iterator first yields all events that
arrived before and then raises the error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field

import aiohttp

from fks.clock import Clock
from fks.market.exchanges.base.event_queue import KEPT_MAX, ArrivedEvents
from fks.market.exchanges.base.values import TOO_MUCH, retry_after_s
from fks.market.exchanges.base.wire import Wire
from fks.model.errors import FksError, OutageError, PeerError
from fks.model.market import ConnectionCounters, Discontinuity, MarketEvent, Subscription, Suspect
from fks.model.ports import Budget, Log

CONNECT_S = 10.0
PERMIT_LOG_S = 2.0  # waiting for a connect permit longer than this is logged
HEARTBEAT_S = 15.0  # our pings; a peer that answers none within half of it is gone
CLOSE_S = 1.0  # a peer that is gone does not answer the close frame
DUE_S = 1.0
FRAME_PAUSE_S = 0.25  # between subscribe frames: Binance closes the connection beyond five a second
FRAME_BURST = 4
FRAME_MAX = 64 * 1024 * 1024  # a full Coinbase book is over ten megabytes
SUSPECTS_MAX = 100  # consecutive suspect messages: the peer no longer speaks this exchange's protocol


@dataclass(eq=False)
class _Connection:
    """Subscriptions of one connection, and those to unsubscribe with its next due frames."""

    wanted: set[Subscription]
    left: list[Subscription] = field(default_factory=list)


@dataclass
class Sockets:
    """Connections of one exchange object: its HTTP session, its counters, and the closes still under way.

    `budget` grants the connect permits; None: no limit.
    """

    name: str
    clock: Clock
    log: Log
    counters: ConnectionCounters = field(default_factory=ConnectionCounters)
    kept_max: int = KEPT_MAX
    budget: Budget | None = None
    _session: aiohttp.ClientSession | None = None
    _closing: set[asyncio.Task[None]] = field(default_factory=set)
    _logged: set[str] = field(default_factory=set)
    _connections: set[_Connection] = field(default_factory=set)
    _waiting: int = 0  # connects without a permit yet
    _waiting_log: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        """Close the session, waiting at most a second for close frames of the peers."""
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_S)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def unsubscribe(self, gone: Sequence[Subscription]) -> None:
        """Unsubscribe these on the connections that carry them, with their next due frames."""
        for connection in self._connections:
            mine = connection.wanted.intersection(gone)
            connection.wanted -= mine
            connection.left += [item for item in gone if item in mine]

    async def listen(self, wire: Wire, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        """Yield batches, the first (maybe empty) once the subscriptions stand; see the port's `watch`."""
        frames = wire.subscribe_frames(wanted)
        connection = _Connection(set(wanted))
        self._connections.add(connection)  # before it connects: a subscription may end meanwhile
        try:
            socket = await self._connect(wire.url(wanted))
            async with contextlib.aclosing(self._served(socket, wire, frames, connection)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self._connections.discard(connection)

    async def _served(
        self, socket: aiohttp.ClientWebSocketResponse[bool], wire: Wire, frames: list[bytes], connection: _Connection
    ) -> AsyncGenerator[list[MarketEvent]]:
        queue = ArrivedEvents(self.counters, self.kept_max, is_subscribed=not frames)
        tasks = {
            asyncio.create_task(self._read(socket, wire, queue)),
            asyncio.create_task(self._send(socket, wire, frames, connection)),
        }
        for task in tasks:
            task.add_done_callback(lambda _: queue.arrived.set())
        try:
            is_first = await self._subscribed(queue, tasks, len(frames))
            while True:
                await queue.arrived.wait()
                ended = [task for task in tasks if task.done()]
                batch = queue.take()
                if batch or is_first:
                    is_first = False
                    yield batch
                for task in ended:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            # not awaited: a dead peer does not answer the close frame
            ending = asyncio.create_task(_close(tasks, socket))
            self._closing.add(ending)
            ending.add_done_callback(self._closing.discard)

    async def _subscribed(self, queue: ArrivedEvents, tasks: set[asyncio.Task[None]], frames: int) -> bool:
        """Return once the subscriptions stand or the connection is over. Errors: OutageError when no answer comes."""
        try:
            async with asyncio.timeout(CONNECT_S + frames * FRAME_PAUSE_S):
                while not queue.is_subscribed and not any(task.done() for task in tasks):
                    queue.arrived.clear()
                    await queue.arrived.wait()
        except TimeoutError as error:
            raise OutageError(f"{self.name}: the subscriptions were not answered") from error
        queue.arrived.set()
        return queue.is_subscribed

    async def connect_permit(self) -> None:
        """Return when a connection may be opened. Waiting longer than PERMIT_LOG_S is logged once."""
        if self.budget is None:
            return
        if not self._waiting:
            self._waiting_log = asyncio.get_running_loop().call_later(PERMIT_LOG_S, self._log_waiting)
        self._waiting += 1
        try:
            await self.budget.take_connect()
        finally:
            self._waiting -= 1
            if not self._waiting and self._waiting_log is not None:
                self._waiting_log.cancel()

    def _log_waiting(self) -> None:
        self.log.warning("feed.dial_waits", exchange=self.name, sockets=self._waiting)

    async def _connect(self, url: str) -> aiohttp.ClientWebSocketResponse[bool]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S))
        self.counters.connects += 1
        try:
            async with asyncio.timeout(CONNECT_S):
                return await self._session.ws_connect(
                    url,
                    heartbeat=HEARTBEAT_S,
                    max_msg_size=FRAME_MAX,
                    compress=0,
                    autoclose=True,
                    autoping=True,
                    decode_text=False,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
                )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            wait_s = 0.0
            if (
                isinstance(error, aiohttp.WSServerHandshakeError)
                and error.status in TOO_MUCH
                and error.headers is not None
            ):
                wait_s = retry_after_s(error.headers.get("Retry-After", ""), 0.0)
            raise OutageError(f"{self.name}: no market data socket: {error!r}"[:300], wait_s=wait_s) from error

    async def _read(self, socket: aiohttp.ClientWebSocketResponse[bool], wire: Wire, queue: ArrivedEvents) -> None:
        """Read until the connection ends, which always raises."""
        counters, now_ns, suspects = self.counters, self.clock.now_ns, 0
        while True:
            message = await socket.receive()
            if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                raise _ending(self.name, socket, message)
            counters.frames += 1
            received_ns = now_ns()
            frame: bytes = message.data
            try:
                events = wire.receive(frame, received_ns)
            except OutageError:
                raise
            except Exception as error:
                self.log.error(
                    "exchange.frame_broken",
                    exchange=self.name,
                    error=repr(error),
                    frame=frame[:500].decode(errors="replace"),
                )
                raise (
                    error if isinstance(error, FksError) else PeerError(f"{self.name}: unreadable: {error!r}")
                ) from error
            queue.put(events)
            if not events:
                continue
            suspects = suspects + 1 if isinstance(events[0], Suspect) else 0
            if suspects > SUSPECTS_MAX:
                raise PeerError(f"{self.name}: {suspects} suspect messages in a row")
            if isinstance(events[-1], Discontinuity):
                await self._send_frames(socket, wire.due_frames(self.clock.monotonic()))

    async def _send(
        self, socket: aiohttp.ClientWebSocketResponse[bool], wire: Wire, frames: list[bytes], connection: _Connection
    ) -> None:
        await self._send_paced(socket, frames)
        while True:
            await self.clock.sleep(DUE_S)
            left, connection.left = connection.left, []
            if left:
                await self._send_paced(socket, wire.unsubscribe_frames(left))
            await self._send_frames(socket, wire.due_frames(self.clock.monotonic()))
            self._log_unknown()

    def _log_unknown(self) -> None:
        """Log each unknown message kind or field once: the exchange has changed something."""
        found = self.counters.unknown.keys() - self._logged
        if found:
            self._logged |= found
            self.log.warning("exchange.unknown", exchange=self.name, what=sorted(found))

    async def _send_paced(self, socket: aiohttp.ClientWebSocketResponse[bool], frames: list[bytes]) -> None:
        for number, frame in enumerate(frames):
            if number >= FRAME_BURST:
                await self.clock.sleep(FRAME_PAUSE_S)
            await self._send_frames(socket, [frame])

    async def _send_frames(self, socket: aiohttp.ClientWebSocketResponse[bool], frames: list[bytes]) -> None:
        for frame in frames:
            try:
                await socket.send_str(frame.decode())
            except (aiohttp.ClientError, OSError) as error:
                raise OutageError(f"{self.name}: the market data socket broke: {error!r}") from error


async def _close(tasks: set[asyncio.Task[None]], socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
    with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(CLOSE_S):
            await socket.close()


def _ending(name: str, socket: aiohttp.ClientWebSocketResponse[bool], message: object) -> FksError:
    if getattr(message, "type", None) is aiohttp.WSMsgType.ERROR:
        error = socket.exception()
        if isinstance(error, aiohttp.WebSocketError):
            return PeerError(f"{name}: the market data socket broke: {error!r}"[:300])
        return OutageError(f"{name}: the market data socket broke: {error!r}"[:300])
    why = f" ({socket.close_code})" if socket.close_code else ""
    return OutageError(f"{name}: the market data socket was closed{why}")
