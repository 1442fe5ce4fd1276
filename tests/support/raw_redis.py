"""A plain Redis client, for commands and bytes that no Bus sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis


@asynccontextmanager
async def raw_redis(url: str) -> AsyncIterator[Any]:
    """Give a client of the Redis at `url` until the block ends."""
    client: Any = Redis.from_url(url)
    try:
        yield client
    finally:
        await client.aclose()
