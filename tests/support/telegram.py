"""A server of Telegram's Bot API on this host: long polling, messages, pressed buttons, and outages.

As Telegram does, an update is sent again until a later offset confirms it.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

TOKEN = "123456789:AAE-the-token-of-a-bot-for-tests-only"


@dataclass
class TelegramServer:
    """Answers each method well, unless `faults[method]` has an answer: (status, JSON), "hang", or "late" (it is done,
    and answered with a closed connection)."""

    url: str = ""
    updates: list[dict[str, Any]] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)
    confirmed_presses: list[str] = field(default_factory=list)
    faults: dict[str, deque[Any]] = field(default_factory=lambda: defaultdict(deque))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    repeats_all: bool = False  # confirms nothing: each poll has everything again
    _next: int = 100
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def texts(self) -> list[str]:
        return [item["text"] for item in self.sent]

    def write(self, text: str, *, user: int = 7, age_s: float = 0.0, **message: Any) -> int:
        """Let an account write to the bot; return the update's number."""
        whole = {
            "message_id": self._next,
            "date": int(time.time() - age_s),
            "from": {"id": user, "is_bot": False},
            "chat": {"id": user, "type": "private"},
            "text": text,
        }
        return self.add({"message": whole | message})

    def press(self, data: str, *, user: int = 7) -> int:
        """Let an account press a button of the bot's message."""
        message = {
            "message_id": 1,
            "date": 0,
            "chat": {"id": user, "type": "private"},
            "from": {"id": 1, "is_bot": True},
        }
        query = {"id": f"press-{self._next}", "from": {"id": user}, "data": data, "message": message}
        return self.add({"callback_query": query})

    def add(self, update: dict[str, Any], *, id: int | None = None) -> int:
        """Add an update as it is."""
        number = self._next if id is None else id
        self._next = max(self._next, number) + 1
        self.updates.append({"update_id": number, **update})
        self._news.set()
        return number

    async def poll(self, offset: int, wait_s: float) -> list[dict[str, Any]]:
        """Return the updates from `offset` on, when there are some."""
        if not self.repeats_all:
            self.updates = [item for item in self.updates if item["update_id"] >= offset]
        if not self.updates:
            self._news.clear()
            try:
                async with asyncio.timeout(min(wait_s, 0.2)):
                    await self._news.wait()
            except TimeoutError:
                return []
        return list(self.updates)


@asynccontextmanager
async def telegram_server() -> AsyncIterator[TelegramServer]:
    """Yield a server on a free port."""
    server, released = TelegramServer(), asyncio.Event()

    def answer(status: int, document: dict[str, Any]) -> web.Response:
        return web.Response(status=status, body=orjson.dumps(document), content_type="application/json")

    async def take(request: web.Request) -> web.StreamResponse:
        method, body = request.match_info["method"], orjson.loads(await request.read() or b"{}")
        server.calls[method] += 1
        if request.match_info["token"] != TOKEN:
            return answer(401, {"ok": False, "error_code": 401, "description": "Unauthorized"})
        fault = server.faults[method].popleft() if server.faults[method] else None
        if fault == "hang":
            await released.wait()
            return answer(504, {})
        if isinstance(fault, tuple):
            return answer(*fault)
        result: Any = True
        if method == "getUpdates":
            result = await server.poll(int(body.get("offset", 0)), float(body.get("timeout", 0)))
            await asyncio.sleep(0.01 if server.repeats_all else 0)
        elif method == "sendMessage":
            if len(body["text"]) > 4096:
                return answer(400, {"ok": False, "error_code": 400, "description": "message is too long"})
            server.sent.append(body)
        else:
            server.confirmed_presses.append(body["callback_query_id"])
        if fault == "late" and request.transport is not None:
            request.transport.close()
        return answer(200, {"ok": True, "result": result})

    app = web.Application()
    app.router.add_post("/bot{token}/{method}", take)
    runner = web.AppRunner(app, shutdown_timeout=0.2, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        released.set()
        await runner.cleanup()
