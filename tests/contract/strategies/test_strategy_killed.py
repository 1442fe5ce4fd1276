"""A strategy worker killed -9 again and again while bars seal: every edge is one signal, none is missing."""

from __future__ import annotations

import asyncio

from fks.model.timeframe import to_ns
from fks.store.bus import BARS, Bus
from fks.store.db import Database
from fks.strategies.base import evaluate
from fks.strategies.check import synthetic
from fks.strategies.registry import load_catalogue
from tests.support import strategy_process
from tests.support.children import Child
from tests.support.strategies import EVERY_EDGE, add_account, add_instance, seal
from tests.support.waiting import until

KILLS = 4
PARAMS = {"fast": 2, "slow": 4, "short": True}


async def _cursor(db: Database) -> int:
    (row,) = await db.sql("SELECT cursor_time FROM strategy_instances")
    return 0 if row["cursor_time"] is None else to_ns(row["cursor_time"])


async def test_kill_9_repeats_nothing_and_skips_nothing(
    database: Database, database_url: str, bus: Bus, redis_url: str
) -> None:
    bars = synthetic(260)
    await add_account(database)
    await add_instance(database, "a", "sma_cross", PARAMS, symbol=bars.symbol, **EVERY_EDGE)
    await seal(database, bars[:10])
    next_bar = 10
    for epoch in range(1, KILLS + 2):
        process = Child(strategy_process.main, database_url, redis_url, epoch, is_read=True)
        try:
            reader = await process.reader()
            assert await asyncio.wait_for(reader.readline(), 20) == b"started\n"
            start = await _cursor(database)
            for _ in range(50):  # in the middle of a stream of bars, wherever that happens to be
                await seal(database, bars[next_bar : next_bar + 1])
                await bus.publish(BARS, {"symbol": bars.symbol, "timeframe": "1m"})
                next_bar += 1
            last = int(bars.time_ns[next_bar - 1]) - 1
            await _until_decided(database, start if epoch <= KILLS else last)
        finally:
            process.kill()
            await process.ended()
    rows = await database.sql("SELECT ts_event, kind, side FROM signals ORDER BY ts_event, ordinal")
    target = evaluate(load_catalogue().make("sma_cross", PARAMS), bars[6:next_bar]).target
    wanted, before = [], 0.0
    for i in range(4, len(target)):
        if target[i] != before and before:
            wanted.append((int(bars.time_ns[6 + i]), "exit", "sell" if before > 0 else "buy"))
        if target[i] != before and target[i]:
            wanted.append((int(bars.time_ns[6 + i]), "enter", "buy" if target[i] > 0 else "sell"))
        before = target[i]
    assert [(to_ns(r["ts_event"]), r["kind"], r["side"]) for r in rows] == wanted
    assert len(wanted) > 50


async def _until_decided(db: Database, past_ns: int) -> None:
    async def decided() -> bool:
        return await _cursor(db) > past_ns

    await until(decided)
