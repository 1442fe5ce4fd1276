"""Processes of language models for tests: replicas as functions, an engine whose text the test writes, and servers
behind a URL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from fks.ai.engines.deployment import Deployment
from fks.ai.engines.port import Completed, Completion, Embedding, FeatureRows, TextTaker
from fks.store.db import Database
from fks.store.deployments import DeploymentStore

Message = Mapping[str, Any]


class Processes:
    """The processes of replicas, as functions of a message; `called`: those that were sent a request."""

    def __init__(self) -> None:
        self.by_child: dict[str, Callable[[Message], Awaitable[Mapping[str, Any]]]] = {}
        self.called: list[str] = []

    async def call(self, child: str, message: Message) -> Mapping[str, Any]:
        if "read" not in message:
            self.called.append(child)
        return await self.by_child[child](message)


class Writing:
    """An engine whose text the test adds; it ends when it is let go."""

    def __init__(self) -> None:
        self.begun, self.go, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.text = ""
        self.take: TextTaker | None = None

    async def load(self) -> None: ...

    async def complete(self, asked: Completion, take: TextTaker | None = None) -> Completed:
        self.take = take
        self.begun.set()
        try:
            await self.go.wait()
        finally:
            self.ended.set()
        return Completed(self.text, 9, True, 5)

    async def embed(self, asked: Embedding) -> list[list[float]]:
        return []

    async def predict(self, asked: FeatureRows) -> list[float]:
        return []

    async def close(self) -> None: ...

    async def write(self, text: str) -> None:
        await self.begun.wait()
        assert self.take is not None
        self.text += text
        self.take(text)


async def serve(db: Database, wanted: Deployment, *ready: int) -> None:
    """Have a deployment of which these replicas are ready."""
    await DeploymentStore(db).save(wanted, by="me")
    for number in ready:
        await db.sql(
            "INSERT INTO component_health (name, kind, state, beat_at) VALUES ($1, 'actor', 'ready', now() + '1 hour')",
            wanted.child(number),
        )


@contextlib.asynccontextmanager
async def listening(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Serve every path by one function."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
