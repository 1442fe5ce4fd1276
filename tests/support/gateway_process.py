"""One gateway replica in a process of its own, to be killed: prints its URL and serves until then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.children import Child
from tests.support.gateway import serving


@asynccontextmanager
async def replica(database_url: str, redis_url: str, home: Path, name: str) -> AsyncIterator[tuple[str, Child]]:
    """Yield the URL and the process of a replica; it is killed at the end when it still lives."""
    process = Child(_main, database_url, redis_url, home, name, is_read=True)
    try:
        reader = await process.reader()
        url = (await asyncio.wait_for(reader.readline(), 60)).decode().strip()
        assert url.startswith("http"), "the replica did not start"
        yield url, process
    finally:
        process.kill()
        await process.ended()


async def _main(database_url: str, redis_url: str, home: Path, name: str) -> None:
    async with serving(database_url, redis_url, home, {}, name=name, http={"order_wait_s": 0.2}) as gateway:
        print(gateway.url, flush=True)
        await asyncio.Event().wait()
