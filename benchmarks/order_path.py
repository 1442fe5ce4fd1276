"""From the claim of a signal to the first byte at the venue, and signals a second, on a real PostgreSQL.

    python benchmarks/order_path.py [count]

Prints the bare two-insert statement, the one durable statement, and the whole way through the order manager with a venue
that answers at once, all from one interleaved run on one embedded server.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the rigs of the tests, however this is started

from fks.config.settings import Database as DatabaseSettings
from fks.config.settings import Risk
from fks.store import migrate
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.signals import SignalStore
from tests.support import servers
from tests.support.order_rig import FAST, Rig, seed, signal_of
from tests.support.scripted_venue import ScriptedVenue

D = Decimal
SETTINGS = FAST.model_copy(update={
    "risk": Risk(feed_age_max_s=36000, orders_per_minute=10**6, exposure_max_instrument=D(10**9), exposure_max_account=D(10**9)),
})  # fmt: skip
BARE = """WITH s AS (INSERT INTO bench_a (id, body) VALUES ($1, $2) RETURNING id)
INSERT INTO bench_b (id, body) SELECT id, $2 FROM s"""


def shown(name: str, seconds: list[float]) -> str:
    """Return one line: median and 99th percentile in ms."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"{name:<44} p50 {statistics.median(ordered) * 1e3:7.3f} ms   p99 {p99 * 1e3:7.3f} ms   n {len(ordered)}"


async def bare(db: Database, count: int) -> list[float]:
    """Time the bare two-insert statement."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        await db.sql(BARE, uuid.uuid4(), "x" * 600)
        times.append(time.perf_counter() - start)
    return times


async def one_by_one(rig: Rig, count: int) -> None:
    """Send signals one after another, each answered before the next."""
    for _ in range(count):
        await rig.outcome(await rig.signal(size=D(1)))


async def burst(rig: Rig, count: int) -> float:
    """Insert many signals at once and return how many a second got their outcome."""
    signals: list[Any] = [signal_of(size=D(1), symbol=("BTCUSDT", "ETHUSDT")[n % 2]) for n in range(count)]
    await SignalStore(rig.db).insert(signals)
    start = time.perf_counter()
    rig.service._intake.wake()
    while await rig.db.sql("SELECT 1 FROM signals WHERE state = 'ready' LIMIT 1"):
        await asyncio.sleep(0.005)
    return count / (time.perf_counter() - start)


async def main(count: int) -> None:
    with servers.home() as paths, servers.running_postgres(paths) as postgres, servers.running_redis(paths) as redis:
        import asyncpg

        admin = await asyncpg.connect(postgres.url("postgres"))
        await admin.execute("CREATE DATABASE bench")
        await admin.close()
        await migrate.upgrade(postgres.url("bench"))
        db = await Database.connect(postgres.url("bench"), DatabaseSettings(), application="bench")
        await db.sql("CREATE TABLE bench_a (id uuid PRIMARY KEY, body text)")
        await db.sql("CREATE TABLE bench_b (id uuid PRIMARY KEY, body text)")
        await seed(db)
        venue = ScriptedVenue(totals={"USDT": D(10**12)}, fee_rate=D(0))
        rig = await Rig(db, await Bus.connect(redis.url()), venue, settings=SETTINGS).start()
        times = await bare(db, count // 2)
        await one_by_one(rig, count)
        times += await bare(db, count // 2)
        print(shown("bare statement, two inserts", times))
        commit, send = rig.meter.observed["fks_order_commit_seconds"], rig.meter.observed["fks_order_send_seconds"]
        print(shown("the one durable statement", commit))
        print(shown("claim to first byte", send))
        print(f"{'durable statement / bare':<44} {statistics.median(commit) / statistics.median(times):.2f} x")
        print(f"{'claim to first byte / bare':<44} {statistics.median(send) / statistics.median(times):.2f} x")
        print(f"{'burst, two instruments, to the outcome':<44} {await burst(rig, count):.0f} signals/s")
        states = {row["state"] for row in await db.sql("SELECT DISTINCT state FROM signals")}
        assert states == {"ordered"}, states
        assert len(venue.received) == len(set(venue.received))
        await rig.stop()
        await db.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))
