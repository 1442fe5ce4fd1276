"""A strategy worker in a process of its own, to be killed: database URL, Redis URL and epoch as arguments."""

from __future__ import annotations

import asyncio
import sys

from fks.clock import RealClock
from fks.execution.strategy_worker import StrategyWorker
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.strategies import hold


async def main(database_url: str, redis_url: str, epoch: int) -> None:
    db, bus = await Database.connect(database_url), await Bus.connect(redis_url)
    worker = StrategyWorker(
        db=db, bus=bus, clock=RealClock(), meter=RecordingMeter(), log=CollectingLog(), shard=0, shards=1,
        lease=await hold(db, epoch),
    )  # fmt: skip
    await worker.start()
    print("started", flush=True)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
