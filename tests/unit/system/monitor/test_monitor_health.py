"""Health: concurrent requests share one check of the dependencies."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from fks.clock import RealClock
from fks.model.errors import OutageError
from fks.system.monitor.health import Health


async def test_concurrent_requests_share_one_look() -> None:
    looks = 0

    async def ping() -> float:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)  # a server that is hung holds each look for its whole time-out
        raise OutageError("away")

    bus: Any = SimpleNamespace(ping=ping)
    health = Health(RealClock(), SimpleNamespace(per_minute=lambda: 0), written_age_s=lambda: 0.0)  # type: ignore[arg-type]
    found = await asyncio.gather(*(health.dependencies(None, bus) for _ in range(50)))
    assert looks == 1
    assert all(statuses == found[0] for statuses in found)
