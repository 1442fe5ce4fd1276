"""A server of Discord's HTTP API on this host: direct message channels, their messages, and outages.

As Discord does, ids are snowflakes, `after` gives the oldest messages that follow, newest first, the bot's own messages
are among them, and an account that shares no server with the bot has no channel.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

TOKEN = "MTk4NjIyNDgzNDcxOTI1MjQ4.the-token-of-a-bot-for-tests-only"
_EPOCH_MS = 1_420_070_400_000
BOT_ID = 1


@dataclass
class DiscordServer:
    """Answers each call well, unless `faults[call]` (open, read, write) has an answer: (status, JSON), "hang", or
    "late" (it is done, and answered with a closed connection)."""

    url: str = ""
    messages: dict[int, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    sent: list[dict[str, Any]] = field(default_factory=list)
    faults: dict[str, deque[Any]] = field(default_factory=lambda: defaultdict(deque))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    strangers: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)  # channels whose reading is never answered
    read_after: dict[int, int] = field(default_factory=dict)  # by channel: the newest `after` that was asked for
    _numbers: Any = field(default_factory=itertools.count)

    @property
    def texts(self) -> list[str]:
        return [item["text"] for item in self.sent]

    def write(self, text: str, *, user: int = 7, age_s: float = 0.0, **message: Any) -> int:
        """Let an account write to the bot; return the message's id."""
        return self._add(user + 1000, {"id": str(user)}, text, age_s, message)

    def answer(self, channel: int, text: str) -> None:
        """Take an answer of the bot."""
        self.sent.append({"chat_id": channel - 1000, "text": text})
        self._add(channel, {"id": str(BOT_ID), "bot": True}, text, 0.0, {})

    def _add(self, channel: int, author: dict[str, Any], text: str, age_s: float, more: dict[str, Any]) -> int:
        id = ((round((time.time() - age_s) * 1000) - _EPOCH_MS) << 22) + next(self._numbers)
        whole = {
            "id": str(id),
            "channel_id": str(channel),
            "author": author,
            "type": 0,
            "content": text,
            "edited_timestamp": None,
        }
        self.messages[channel].append(whole | more)
        self.messages[channel].sort(key=lambda item: int(item["id"]))
        return id

    def after(self, channel: int, after: int, limit: int) -> list[dict[str, Any]]:
        """Return the oldest messages after an id, newest first."""
        found = [item for item in self.messages[channel] if int(item["id"]) > after]
        return found[:limit][::-1]


@asynccontextmanager
async def discord_server() -> AsyncIterator[DiscordServer]:
    """Yield a server on a free port."""
    server, released = DiscordServer(), asyncio.Event()

    def answer(status: int, document: Any) -> web.Response:
        return web.Response(status=status, body=orjson.dumps(document), content_type="application/json")

    async def take(request: web.Request) -> web.StreamResponse:
        channel = request.match_info.get("channel")
        call = "open" if channel is None else "read" if request.method == "GET" else "write"
        server.calls[call] += 1
        if request.headers.get("Authorization") != f"Bot {TOKEN}":
            return answer(401, {"message": "401: Unauthorized", "code": 0})
        if not request.headers.get("User-Agent", "").startswith("DiscordBot ("):
            return answer(403, {"message": "error code: 1010"})
        fault = server.faults[call].popleft() if server.faults[call] else None
        if fault == "hang":
            await released.wait()
            return answer(504, {})
        if isinstance(fault, tuple):
            return answer(*fault)
        result: Any
        if channel is None:
            user = int(orjson.loads(await request.read())["recipient_id"])
            if user in server.strangers:
                return answer(400, {"message": "Invalid Recipient(s)", "code": 50033})
            result = {"id": str(user + 1000), "type": 1}
        elif call == "read":
            if int(channel) in server.silent:
                await released.wait()
            server.read_after[int(channel)] = int(request.query["after"])
            result = server.after(int(channel), int(request.query["after"]), int(request.query["limit"]))
        else:
            text = orjson.loads(await request.read())["content"]
            if not 0 < len(text) <= 2000:
                return answer(400, {"message": "Invalid Form Body", "code": 50035})
            server.answer(int(channel), text)
            result = {"id": "1"}
        if fault == "late" and request.transport is not None:
            request.transport.close()
        return answer(200, result)

    app = web.Application()
    app.router.add_post("/users/@me/channels", take)
    app.router.add_get("/channels/{channel}/messages", take)
    app.router.add_post("/channels/{channel}/messages", take)
    runner = web.AppRunner(app, shutdown_timeout=0.2, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        released.set()
        await runner.cleanup()
