"""A client that makes every hostile request at once, until its input is closed; then it prints how often and with which
outcomes.

`python -m tests.support.hostile HOST PORT TOKEN WEBHOOK_SECRET`: a line `ready` once each kind was made, at the end a
JSON object {kind: {outcome: count}}. An outcome is a status, `closed`, a websocket's close code, or an error's name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import uuid
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

OPEN_HEADS = 600
HEAD = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nX-Big: "
DEEP = "[" * 500 + "]" * 500
SEARCH = '{"strategy": "sma_cross", "symbol": "BTC/USDT", "timeframe": "1m", "space": {"fast": {"low": 2, "high": %s}}}'


@dataclass
class Hostile:
    """The requests, each kind a coroutine that returns its outcome."""

    host: str
    port: int
    token: str
    secret: str
    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def kinds(self) -> dict[Callable[[], Awaitable[str]], tuple[int, float]]:
        """Return the kinds of requests: how many of each at once, and the seconds between two of one."""
        return {
            self.long_head: (2, 0.2),
            self.open_head: (OPEN_HEADS, 1.0),
            self.slow_head: (20, 1.0),
            self.long_frame: (2, 0.5),
            self.huge_time: (6, 0.5),
            self.huge_bound: (4, 0.5),
            self.deep_json: (4, 0.5),
        }

    async def long_head(self) -> str:
        """Send a header of 60 MB."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        answer = asyncio.create_task(self._end(reader))  # it comes while the head is being sent
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            writer.write(HEAD)
            for _ in range(60):
                writer.write(b"a" * 1_000_000)
                await writer.drain()
            writer.write(b"\r\n\r\n")
        return await answer

    async def open_head(self) -> str:
        """Send half a head, and wait."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        with contextlib.closing(writer):
            writer.write(HEAD)
            return await self._end(reader)

    async def slow_head(self) -> str:
        """Send a head a byte at a time."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            writer.write(HEAD)
            while not reader.at_eof():
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.2)
        return "closed"

    async def long_frame(self) -> str:
        """Send a websocket message over 64 KiB."""
        try:
            async with connect(
                f"ws://{self.host}:{self.port}/ws", additional_headers=self._own, proxy=None, compression=None
            ) as socket:
                await socket.send("a" * 100_000)
                async for _ in socket:
                    pass
        except InvalidStatus as error:
            return str(error.response.status_code)
        except ConnectionClosed as error:
            return str(error.rcvd.code) if error.rcvd else "closed"
        return "ended"

    async def huge_time(self) -> str:
        """Send a webhook's message with a time of a million digits."""
        return await self._post("/webhook/tradingview", f'{{"secret": "{self.secret}", "timestamp": 1e999990}}', {})

    async def huge_bound(self) -> str:
        """Submit a search up to a number of 300,000 digits."""
        return await self._post("/optimizations", SEARCH % "1e300000", self._own)

    async def deep_json(self) -> str:
        """Send an order of 500 levels, as a call that may be repeated."""
        return await self._post("/orders", DEEP, self._own | {"Idempotency-Key": uuid.uuid4().hex})

    @property
    def _own(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def _post(self, path: str, body: str, headers: dict[str, str]) -> str:
        headers = headers | {"Content-Type": "application/json"}
        async with httpx.AsyncClient(
            base_url=f"http://{self.host}:{self.port}", trust_env=False, timeout=30.0
        ) as client:
            answer = await client.post(path, content=body, headers=headers)
        return f"{answer.status_code} {answer.json().get('code', '')}".strip()

    @staticmethod
    async def _end(reader: asyncio.StreamReader) -> str:
        found = b""
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65536):
                found += part
        return found.split(b" ", 2)[1].decode() if found else "closed"

    async def repeat(self, kind: Callable[[], Awaitable[str]], pause_s: float) -> None:
        """Make one kind of request again and again."""
        while True:
            try:
                outcome = await kind()
            except (OSError, httpx.HTTPError) as error:
                outcome = type(error).__name__
                await asyncio.sleep(0.2)
            self.outcomes[kind.__name__][outcome] += 1
            await asyncio.sleep(pause_s)

    async def run(self) -> None:
        """Make all of them until the input is closed."""
        tasks = [
            asyncio.create_task(self.repeat(kind, pause_s))
            for kind, (count, pause_s) in self.kinds.items()
            for _ in range(count)
        ]
        over = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        is_ready = False
        while not over.done():
            await asyncio.sleep(0.1)
            if not is_ready and len(self.outcomes) == len(self.kinds):
                is_ready = True
                print("ready", flush=True)
        for task in tasks:
            task.cancel()
        print(json.dumps(self.outcomes))


if __name__ == "__main__":
    asyncio.run(Hostile(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]).run())
