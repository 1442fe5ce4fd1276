"""A process with the link of one group, killed by itself (kill -9) at random calls of the database.

Before or after each call that writes, it is killed with probability `chance`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import Any

from fks.bridge.ninja_link.secret_file import load_secret
from fks.bridge.ninja_link.service import LinkOptions, LinkPorts, NinjaLink
from fks.clock import RealClock
from fks.config.settings import DatabaseSettings
from fks.model.ninja import PLATFORMS
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.leases import raise_epoch
from fks.store.ninja import NinjaStore
from tests.support.ports import CollectingLog, RecordingMeter, TestLease

WRITES = frozenset({"mark_sending", "release", "record_answer", "record_events", "open_requests"})


class Deadly:
    """A store that ends the process at random."""

    def __init__(self, store: Any, dice: random.Random, chance: float) -> None:
        self._store, self._dice, self._chance = store, dice, chance

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if name not in WRITES:
            return call

        async def deadly(*args: Any, **named: Any) -> Any:
            self._draw()
            found = await call(*args, **named)
            self._draw()
            return found

        return deadly

    def _draw(self) -> None:
        if self._dice.random() < self._chance / 2:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(url: str, port: int, secret_file: Path, platform_name: str, seed: int, chance: float) -> None:
    """Run the link until it is killed."""
    db = await Database.lazy(url, DatabaseSettings(), application="ninja")
    platform = PLATFORMS[platform_name]
    name = platform.link("sim")
    lease = TestLease(name, await raise_epoch(db, name, str(os.getpid())))
    rows = Deadly(NinjaStore(db, lease), random.Random(seed), chance)
    secret = load_secret(str(secret_file), Path(), "127.0.0.1", platform)
    options = LinkOptions("sim", "127.0.0.1", port, 2.0, secret, platform=platform)
    link = NinjaLink(
        options, LinkPorts(rows, FactStore(db), _notify, RealClock(), CollectingLog(), RecordingMeter(), lease)
    )
    await link.start()
    running = asyncio.create_task(link.run())
    while not running.done():
        link.wake()
        await asyncio.wait({running}, timeout=0.1)
    running.result()


async def _notify() -> None:
    return
