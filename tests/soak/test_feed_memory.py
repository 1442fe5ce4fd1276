"""An hour of one collector without faults: its memory is flat, and its stored bars are the exchange's own. `make soak`.

FKS_SOAK_MINUTES shortens it (below 20 it says little: the first fifth is warming up).
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from statistics import median

import psutil
import pytest

from fks.store.db import Database
from fks.store.leases import raise_epoch
from tests.support.children import Child
from tests.support.collecting import NAME, check_stored, collect
from tests.support.feed_faults import DATA
from tests.support.local_exchange import LocalExchange

MINUTES = float(os.environ.get("FKS_SOAK_MINUTES", "60"))
GROWTH_MAX_MB = (
    8.0  # between the second fifth of the time and the last; an hour holds some 100,000 trades and 15,000 bars
)


@pytest.mark.soak
@pytest.mark.timeout(5400)
async def test_the_memory_of_a_collector_is_flat(
    database: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    exchange = LocalExchange(tmp_path, ["--seed", "3", "--rate-limits", "off"]).start()
    spec = {
        "database": database_url,
        "redis": redis_url,
        "info": exchange.info,
        "data": DATA,
        "epoch": await raise_epoch(database, NAME, "test"),
    }
    process = Child(collect, spec)
    try:
        used: list[float] = []
        end_s = time.monotonic() + MINUTES * 60
        while time.monotonic() < end_s:
            await asyncio.sleep(5)
            assert process.poll() is None, "the collector ended"
            used.append(psutil.Process(process.pid).memory_info().rss / 1e6)
        fifth = len(used) // 5
        early, late = median(used[fifth : 2 * fifth]), median(used[-fifth:])
        trades = await database.sql("SELECT count(*) FROM market_trades")
        print(
            f"{early:.1f} MB in the second fifth of {MINUTES:g} minutes, {late:.1f} MB in the last; {trades[0][0]} "
            "trades"
        )
        assert late - early < GROWTH_MAX_MB
    finally:
        process.kill()
        process.wait()
        await check_stored(database, exchange)
        exchange.stop()
