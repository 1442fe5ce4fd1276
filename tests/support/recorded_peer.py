"""A small server that stands for an exchange of which frames were recorded: REST by a function, a stream that is
played."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from fks.market.exchanges.base import ExchangeAddresses


@dataclass
class RecordedPeer:
    """`rest(path, query)` gives a JSON value or a whole response; `answers(received)` what is sent back to a message of
    ours.

    `frames` are sent to a client after its first `frames_after` messages.
    """

    rest: Callable[[str, dict[str, str]], Any] = lambda path, query: None
    answers: Callable[[dict[str, Any]], Sequence[object]] = lambda received: ()
    frames: Sequence[bytes] = ()
    frames_after: int = 1
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    received: list[dict[str, Any]] = field(default_factory=list)
    endpoint: ExchangeAddresses = field(default_factory=ExchangeAddresses)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request or a dial."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._stream(request)
        self.asked.append((request.path, dict(request.query)))
        found = self.rest(request.path, dict(request.query))
        return found if isinstance(found, web.StreamResponse) else web.json_response(found)

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                self.received.append(json.loads(message.data))
                for answer in self.answers(self.received[-1]):
                    await socket.send_json(answer)
                if len(self.received) == self.frames_after:
                    for frame in self.frames:
                        await socket.send_str(frame.decode())
        return socket


class Agreeing:
    """A budget that always agrees; with it ccxt's own throttle, a second a question at Kraken, is off."""

    async def take(self, weight: int = 1) -> None: ...
    async def take_connect(self) -> None: ...
    def seen(self, used: int) -> None: ...
    def pause(self, seconds: float) -> None: ...


@contextlib.asynccontextmanager
async def serving(peer: RecordedPeer) -> AsyncIterator[RecordedPeer]:
    """Run `peer` on a port of its own; its `endpoint` says where."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", peer.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host = f"127.0.0.1:{runner.addresses[0][1]}"
    peer.endpoint = ExchangeAddresses(f"http://{host}", f"ws://{host}")
    try:
        yield peer
    finally:
        await runner.cleanup()
