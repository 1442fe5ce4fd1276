"""One websocket connection: frames leave through a queue in order, pings are answered, silence is noticed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from aiohttp import WSMsgType, web

from fks.clock.waiting import end_task, wait_for_event

_BACKLOG_MAX = 20_000
_FLUSH_S = 5.0


class Socket:
    """The sending half of a connection. `is_combined`: events are wrapped as {"stream", "data"}.

    `dead_by` is the fault half_open that made it dead: nothing goes out any more, nothing is answered.
    A client too slow is cut.
    """

    def __init__(self, path: str, *, is_combined: bool = False) -> None:
        self.path = path
        self.ws = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=1 << 20)
        self.is_combined = is_combined
        self.streams: set[str] = set()
        self.dead_by = 0
        self.session_key = ""  # after session.logon: requests need no key and no signature
        self.last_pong = 0.0
        self.shutdown_frame = b""  # sent before the exchange closes it; "": that of Binance
        self._request: web.Request | None = None
        self._out: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_dead(self) -> bool:
        """Return whether the connection is half open."""
        return self.dead_by != 0

    async def open(self, request: web.Request, now: float) -> None:
        """Answer the upgrade and start sending."""
        await self.ws.prepare(request)
        self._request = request
        self.last_pong = now
        self._task = asyncio.create_task(self._send_all())

    def send(self, frame: bytes) -> None:
        """Queue a text frame."""
        if self.is_dead:
            return
        if len(self._out) > _BACKLOG_MAX:
            self.abort()
            return
        self._out.append(frame)
        self._idle.clear()
        self._wake.set()

    async def flushed(self) -> None:
        """Return when everything queued so far is written."""
        if not self.ws.closed and not self.is_dead:
            await wait_for_event(self._idle, _FLUSH_S)  # a client that does not read cannot delay the others

    async def _send_all(self) -> None:
        while True:
            while self._out:
                frame = self._out.popleft()
                try:
                    await self.ws.send_frame(frame, WSMsgType.TEXT)
                except (ConnectionError, RuntimeError, asyncio.CancelledError):
                    self._idle.set()
                    return
            self._idle.set()
            self._wake.clear()
            await self._wake.wait()

    async def ping(self, payload: bytes) -> None:
        """Send a ping."""
        if not self.is_dead and not self.ws.closed:
            with contextlib.suppress(ConnectionError, RuntimeError):
                await self.ws.ping(payload)

    def abort(self) -> None:
        """Cut the connection without a close frame."""
        if self._request is not None and self._request.transport is not None:
            self._request.transport.abort()

    async def shut(self, code: int = 1001) -> None:
        """Send what is queued, then a close frame."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self.flushed()
        with contextlib.suppress(ConnectionError, RuntimeError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self.ws.close(code=code)

    async def end(self) -> None:
        """Stop sending for good."""
        if self._task is not None:
            await end_task(self._task)
        self._idle.set()
