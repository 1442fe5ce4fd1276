"""One gateway replica in a process of its own, to be killed: prints its URL and serves until then.

`python -m tests.support.gateway_process DATABASE_URL REDIS_URL HOME NAME`
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.gateway import serving


@asynccontextmanager
async def replica(
    database_url: str, redis_url: str, home: Path, name: str
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Yield the URL and the process of a replica; it is killed at the end when it still lives."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.gateway_process",
        database_url,
        redis_url,
        str(home),
        name,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
        assert url.startswith("http"), "the replica did not start"
        yield url, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _main(database_url: str, redis_url: str, home: str, name: str) -> None:
    async with serving(database_url, redis_url, Path(home), {}, name=name, http={"order_wait_s": 0.2}) as gateway:
        print(gateway.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
