"""A small server that stands for an exchange: it plays a tape over real sockets, and misbehaves on request."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web

from fks.clock import RealClock
from tests.support.exchange_cases import Case


@dataclass
class TapeClock(RealClock):
    """The machine's clock, put to the moment of the tape; waits are real."""

    offset_ns: int

    def now_ns(self) -> int:
        return super().now_ns() + self.offset_ns


@dataclass
class CountingBudget:
    """A budget that counts."""

    taken: int = 0
    connects: int = 0
    pauses: list[float] = field(default_factory=list)

    async def take(self, weight: int = 1) -> None:
        self.taken += weight

    async def take_connect(self) -> None:
        self.connects += 1

    def seen(self, used: int) -> None:
        """No answer of the peer reports it."""

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


@dataclass
class Asked:
    """A REST request as it came."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    address: str


@dataclass
class Peer:
    """`rest` is asked first, the tape answers otherwise. `sockets`: those open now, by path."""

    case: Case
    url: str = ""
    rest: Callable[[web.Request], web.Response | None] = lambda request: None
    asked: list[Asked] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    connects: list[str] = field(default_factory=list)
    sockets: list[tuple[str, web.WebSocketResponse]] = field(default_factory=list)
    deaf_to: str = ""  # "dials" or "words": it takes them, and never answers
    sent: dict[int, int] = field(default_factory=dict)
    requests: dict[int, web.Request] = field(default_factory=dict)  # of each open socket

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Serve a socket or a REST request."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._stream(request)
        self.asked.append(Asked(request.path, dict(request.query), dict(request.headers), str(request.rel_url)))
        found = self.rest(request)
        if found is not None:
            return found
        for path, (status, text) in sorted(self.case.tape.http.items(), key=lambda item: -len(item[0])):
            if request.path.startswith(path):
                kept = self.case.trimmed(dict(request.query), json.loads(text))
                text = text if kept == json.loads(text) else json.dumps(kept)
                return web.Response(status=status, text=text, content_type="application/json")
        return web.Response(status=404, text="{}", content_type="application/json")

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        if self.deaf_to == "dials":
            await asyncio.Event().wait()
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connects.append(str(request.rel_url))
        here = (request.path, socket)
        self.sockets.append(here)
        self.requests[id(socket)] = request
        try:
            for text in self.case.greeting if not self.deaf_to else ():
                await self._send(socket, text)
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self.received.append(message.data)
                    for text in self.case.answer(message.data) if not self.deaf_to else ():
                        await self._send(socket, text)
        finally:
            self.sockets.remove(here)
            self.sent.pop(id(socket), None)
            self.requests.pop(id(socket), None)
        return socket

    async def say(self, what: str) -> None:
        """Send the tape's messages of this kind on every open socket that has their channel."""
        for text in self.case.tape.frames[what]:
            for path, socket in list(self.sockets):
                if self.case.hears(path, text):
                    await self._send(socket, text)

    async def say_raw(self, text: str) -> None:
        """Send any text on every open socket."""
        for _, socket in list(self.sockets):
            await self._send(socket, text)

    async def _send(self, socket: web.WebSocketResponse, text: str) -> None:
        number = self.sent.get(id(socket), 0)
        stamped = self.case.numbered(text, number)
        self.sent[id(socket)] = number + (stamped != text or number == 0)
        await socket.send_str(stamped)

    async def cut(self, how: str) -> None:
        """End every socket: `closed` by the protocol, `aborted` without a word."""
        for _, socket in list(self.sockets):
            if how == "closed":
                await socket.close()
            else:
                transport = self.requests[id(socket)].transport
                assert transport is not None
                transport.abort()


@contextlib.asynccontextmanager
async def playing(case: Case) -> AsyncIterator[Peer]:
    """A running server of `case` on a port of its own."""
    peer = Peer(case)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", peer.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    peer.url = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield peer
    finally:
        for _, socket in list(peer.sockets):
            await asyncio.wait_for(socket.close(), 10.0)
        await runner.cleanup()
