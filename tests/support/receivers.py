"""Receivers of alerts on this host: an HTTP service (Discord, Slack, webhooks) and an SMTP server, with outages."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web


@dataclass
class Received:
    """One request: its path, its JSON and its headers."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class HttpReceiver:
    """Accepts every request, unless `answers` has an answer for it: (status, JSON), or "hang" (it is received, and
    never answered)."""

    url: str
    received: list[Received] = field(default_factory=list)
    answers: deque[tuple[int, dict[str, Any]] | str] = field(default_factory=deque)
    #: by the beginning of a path: characters from which a text is refused with 400, as by Discord and Telegram
    text_max: dict[str, int] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    @property
    def texts(self) -> list[str]:
        """Return the texts that were received, whichever field they came in."""
        return [_text(item.body) for item in self.received]

    def is_too_long(self, path: str, body: dict[str, Any]) -> bool:
        """Return whether the text of a request is longer than the service takes."""
        return any(path.startswith(part) and len(_text(body)) > most for part, most in self.text_max.items())


def _text(body: dict[str, Any]) -> str:
    return str(body.get("content") or body.get("message") or body.get("text"))


@asynccontextmanager
async def http_receiver(port: int = 0) -> AsyncIterator[HttpReceiver]:
    """Yield a receiver on a free port."""
    released = asyncio.Event()

    async def take(request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read() or b"{}")
        answer = receiver.answers.popleft() if receiver.answers else (200, {"ok": True})
        if receiver.is_too_long(request.path, body):
            answer = (400, {"message": "Must be fewer in length"})
        if answer == "hang":
            receiver.received.append(Received(request.path, body, dict(request.headers)))
            await released.wait()
            return web.Response(status=503)
        status, document = answer
        if status < 300:
            receiver.received.append(Received(request.path, body, dict(request.headers)))
        if request.path.startswith("/services/") and status == 200:  # what a webhook of Slack answers
            return web.Response(text="ok")
        return web.Response(status=status, body=orjson.dumps(document), content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", take)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    receiver = HttpReceiver(f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        yield receiver
    finally:
        released.set()
        await runner.cleanup()


@dataclass
class SmtpReceiver:
    """Accepts every message, unless `replies` has a reply to its DATA."""

    port: int
    received: list[str] = field(default_factory=list)
    replies: deque[str] = field(default_factory=deque)


@asynccontextmanager
async def smtp_receiver() -> AsyncIterator[SmtpReceiver]:
    """Yield an SMTP server on a free port (RFC 5321, as far as smtplib needs it)."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def reply(text: str) -> None:
            writer.write(f"{text}\r\n".encode())
            await writer.drain()

        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reply("220 test")
            while line := (await reader.readline()).decode().strip():
                verb = line.split(":")[0].upper()
                if verb.startswith(("EHLO", "HELO")):
                    await reply("250 test")
                elif verb == "DATA":
                    await reply("354 go on")
                    text = (await reader.readuntil(b"\r\n.\r\n")).decode().replace("\r\n..", "\r\n.")  # RFC 5321, 4.5.2
                    answer = receiver.replies.popleft() if receiver.replies else "250 accepted"
                    if answer.startswith("2"):
                        receiver.received.append(text)
                    await reply(answer)
                elif verb == "QUIT":
                    await reply("221 bye")
                    break
                else:
                    await reply("250 fine")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    receiver = SmtpReceiver(server.sockets[0].getsockname()[1])
    try:
        yield receiver
    finally:
        server.close()
