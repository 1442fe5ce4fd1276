"""A Wire on a real socket: dial, subscribe, read, answer, and let go fast.

Two tasks serve a connection. One reads frames as they come and puts what they say into an Inbox, the other sends what
the wire wants sent. The caller takes batches. Whatever ends either task ends the iterator, after everything that came
before it was handed out: nothing dies in silence.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field

import aiohttp

from fks.clock import Clock
from fks.exchanges.base.event_queue import KEPT_MAX, Inbox
from fks.exchanges.base.values import TOO_MUCH, seconds_told
from fks.exchanges.base.wire import Wire
from fks.model.errors import FksError, OutageError, PeerError
from fks.model.market import Gone, MarketEvent, Subscription, Suspect, Tally
from fks.model.ports import Budget, Log

DIAL_S = 10.0
WAIT_TOLD_S = 2.0  # of waiting for leave to dial, before the log says why nothing comes
HEARTBEAT_S = 15.0  # our pings; a peer that answers none within half of it is gone
CLOSE_S = 1.0  # a peer that is gone does not answer the close frame
PULSE_S = 1.0
HELLO_S = 0.25  # between two frames of a long hello: Binance hangs up beyond five a second
HELLO_BURST = 4
FRAME_MAX = 64 * 1024 * 1024  # a full Coinbase book is over ten megabytes
SUSPECTS_MAX = 100  # messages in a row that nobody can believe: this is no longer that exchange's wire


@dataclass(eq=False)
class _Connection:
    """What one connection is asked for, and what of that is to be unsubscribed with its next pulse."""

    wanted: set[Subscription]
    left: list[Subscription] = field(default_factory=list)


@dataclass
class Sockets:
    """The connections of one exchange object: its HTTP session, its counters, and the closes still under way.

    `budget` gives leave for each dial; None: everybody may dial at will.
    """

    name: str
    clock: Clock
    log: Log
    tally: Tally = field(default_factory=Tally)
    kept_max: int = KEPT_MAX
    budget: Budget | None = None
    _session: aiohttp.ClientSession | None = None
    _closing: set[asyncio.Task[None]] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    _connections: set[_Connection] = field(default_factory=set)
    _waiting: int = 0  # dials without leave yet
    _telling: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        """Close the session, waiting at most a second for peers to say goodbye."""
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_S)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def leave(self, gone: Sequence[Subscription]) -> None:
        """Have these unsubscribed on the connections that were asked for them."""
        for connection in self._connections:
            mine = connection.wanted.intersection(gone)
            connection.wanted -= mine
            connection.left += [item for item in gone if item in mine]

    async def listen(self, wire: Wire, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        """Yield batches, the first (maybe empty) once the subscriptions stand; see the port's `watch`."""
        hello = wire.hello(wanted)
        connection = _Connection(set(wanted))
        self._connections.add(connection)  # before it is dialled: one may leave meanwhile
        try:
            socket = await self._dial(wire.url(wanted))
            async with contextlib.aclosing(self._served(socket, wire, hello, connection)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self._connections.discard(connection)

    async def _served(
        self, socket: aiohttp.ClientWebSocketResponse[bool], wire: Wire, hello: list[bytes], connection: _Connection
    ) -> AsyncGenerator[list[MarketEvent]]:
        inbox = Inbox(self.tally, self.kept_max, is_subscribed=not hello)
        tasks = {
            asyncio.create_task(self._read(socket, wire, inbox)),
            asyncio.create_task(self._send(socket, wire, hello, connection)),
        }
        for task in tasks:
            task.add_done_callback(lambda _: inbox.arrived.set())
        try:
            is_told = await self._subscribed(inbox, tasks, len(hello))
            while True:
                await inbox.arrived.wait()
                ended = [task for task in tasks if task.done()]
                batch = inbox.take()
                if batch or is_told:
                    is_told = False
                    yield batch
                for task in ended:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            ending = asyncio.create_task(_let_go(tasks, socket))  # not waited for: a dead peer would hold us up
            self._closing.add(ending)
            ending.add_done_callback(self._closing.discard)

    async def _subscribed(self, inbox: Inbox, tasks: set[asyncio.Task[None]], frames: int) -> bool:
        """Return once the subscriptions stand or the connection is over. Errors: OutageError when nobody answers."""
        try:
            async with asyncio.timeout(DIAL_S + frames * HELLO_S):
                while not inbox.is_subscribed and not any(task.done() for task in tasks):
                    inbox.arrived.clear()
                    await inbox.arrived.wait()
        except TimeoutError as error:
            raise OutageError(f"{self.name}: the subscriptions were not answered") from error
        inbox.arrived.set()
        return inbox.is_subscribed

    async def may_dial(self) -> None:
        """Return when a socket may be dialled. While dials wait for that, the log says so once."""
        if self.budget is None:
            return
        if not self._waiting:
            self._telling = asyncio.get_running_loop().call_later(WAIT_TOLD_S, self._tell_waiting)
        self._waiting += 1
        try:
            await self.budget.dial()
        finally:
            self._waiting -= 1
            if not self._waiting and self._telling is not None:
                self._telling.cancel()

    def _tell_waiting(self) -> None:
        self.log.warning("feed.dial_waits", exchange=self.name, sockets=self._waiting)

    async def _dial(self, url: str) -> aiohttp.ClientWebSocketResponse[bool]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, connect=DIAL_S))
        self.tally.dials += 1
        try:
            async with asyncio.timeout(DIAL_S):
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
                wait_s = seconds_told(error.headers.get("Retry-After", ""), 0.0)
            raise OutageError(f"{self.name}: no market data socket: {error!r}"[:300], wait_s=wait_s) from error

    async def _read(self, socket: aiohttp.ClientWebSocketResponse[bool], wire: Wire, inbox: Inbox) -> None:
        """Read until the connection ends, which always raises."""
        tally, now_ns, suspects = self.tally, self.clock.now_ns, 0
        while True:
            message = await socket.receive()
            if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                raise _ending(self.name, socket, message)
            tally.frames += 1
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
            inbox.put(events)
            if not events:
                continue
            suspects = suspects + 1 if isinstance(events[0], Suspect) else 0
            if suspects > SUSPECTS_MAX:
                raise PeerError(f"{self.name}: {suspects} messages in a row that cannot be believed")
            if isinstance(events[-1], Gone):
                await self._say(socket, wire.pulse(self.clock.monotonic()))

    async def _send(
        self, socket: aiohttp.ClientWebSocketResponse[bool], wire: Wire, hello: list[bytes], connection: _Connection
    ) -> None:
        await self._say_slowly(socket, hello)
        while True:
            await self.clock.sleep(PULSE_S)
            left, connection.left = connection.left, []
            if left:
                await self._say_slowly(socket, wire.bye(left))
            await self._say(socket, wire.pulse(self.clock.monotonic()))
            self._tell_unknown()

    def _tell_unknown(self) -> None:
        """Say once of each message or field that nobody knows: the exchange has changed something."""
        found = self.tally.unknown.keys() - self._told
        if found:
            self._told |= found
            self.log.warning("exchange.unknown", exchange=self.name, what=sorted(found))

    async def _say_slowly(self, socket: aiohttp.ClientWebSocketResponse[bool], frames: list[bytes]) -> None:
        for number, frame in enumerate(frames):
            if number >= HELLO_BURST:
                await self.clock.sleep(HELLO_S)
            await self._say(socket, [frame])

    async def _say(self, socket: aiohttp.ClientWebSocketResponse[bool], frames: list[bytes]) -> None:
        for frame in frames:
            try:
                await socket.send_str(frame.decode())
            except (aiohttp.ClientError, OSError) as error:
                raise OutageError(f"{self.name}: the market data socket broke: {error!r}") from error


async def _let_go(tasks: set[asyncio.Task[None]], socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
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
