"""A strategy worker that is drained again and again while bars seal, and the self-check that sees one stand still."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fks.model.timeframe import to_ns
from fks.store.bus import BARS, Bus
from fks.store.db import Database
from fks.strategies.base import evaluate
from fks.strategies.check import synthetic
from fks.strategies.registry import load_catalogue
from fks.trading.strategy_worker.self_checks import StalledInstances
from fks.trading.strategy_worker.worker import StrategyWorker
from tests.support.runtimes import runtime
from tests.support.strategies import EVERY_EDGE, add_account, add_instance, hold, seal
from tests.support.waiting import until

PARAMS = {"fast": 2, "slow": 4, "short": True}
NAMES = tuple("abcdef")


async def test_drains_while_bars_seal_repeat_nothing_and_skip_nothing(
    database: Database, as_strategy: Database, bus: Bus, tmp_path: Path
) -> None:
    """Six instances; each of five workers is drained in the middle of a stream of bars: after it nothing is in hand."""
    bars = synthetic(200)
    await add_account(database)
    for name in NAMES:
        await add_instance(database, name, "sma_cross", PARAMS, symbol=bars.symbol, **EVERY_EDGE)
    await seal(database, bars[:10])
    next_bar, is_over = 10, asyncio.Event()

    async def stream() -> None:
        nonlocal next_bar
        while not is_over.is_set() and next_bar < len(bars):
            await seal(database, bars[next_bar : next_bar + 1])
            await bus.publish(BARS, {"symbol": bars.symbol, "timeframe": "1m"})
            next_bar += 1

    async def written() -> tuple[list[object], int]:
        cursors = await database.sql("SELECT id, cursor_time FROM strategy_instances ORDER BY id")
        signals = await database.sql("SELECT count(*) AS n FROM signals")
        return [tuple(row) for row in cursors], signals[0]["n"]

    streaming = asyncio.create_task(stream())
    for epoch in range(1, 6):
        worker = StrategyWorker(runtime(as_strategy, bus, await hold(database, epoch)), 0, home=tmp_path)
        await worker.start()
        run = asyncio.create_task(worker.run())
        begun = next_bar
        await until(lambda: next_bar > begun + 20 or next_bar == len(bars))  # noqa: B023
        await worker.drain()
        after = await written()
        still = next_bar
        await until(lambda: next_bar > still + 3 or next_bar == len(bars))  # noqa: B023
        assert await written() == after, "it decided after it was drained"
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await worker.stop()
    is_over.set()
    await streaming
    last = StrategyWorker(runtime(as_strategy, bus, await hold(database, 9)), 0, home=tmp_path)
    await last.start()
    target = evaluate(load_catalogue().make("sma_cross", PARAMS), bars[6:next_bar]).target
    before = [0.0, *target[4:-1]]  # flat before the first bar that is decided on
    edges = sum(int(then != 0) + int(now != 0) for then, now in zip(before, target[4:], strict=True) if then != now)
    for name in NAMES:
        rows = await database.sql("SELECT DISTINCT ts_event, ordinal FROM signals WHERE instance = $1", name)
        assert len(rows) == edges
        cursor = await database.sql("SELECT cursor_time FROM strategy_instances WHERE id = $1", name)
        assert to_ns(cursor[0]["cursor_time"]) == int(bars.time_ns[next_bar - 1])
    counts = await database.sql("SELECT DISTINCT count(*) AS n FROM signals GROUP BY instance")
    assert len(counts) == 1, "instances of the same code differ"


def test_stalled_instance_is_a_problem_and_a_catching_up_one_is_not() -> None:
    stalled = StalledInstances()
    assert stalled.problems([("a", 1, 5), ("b", 1, 5), ("c", 5, 5), ("d", None, None)], 0.0, wait_max_s=10) == []
    assert stalled.problems([("a", 1, 6), ("b", 2, 6), ("c", 5, 6)], 9.0, wait_max_s=10) == []
    (found,) = stalled.problems([("a", 1, 7), ("b", 3, 7), ("c", 7, 7)], 11.0, wait_max_s=10)
    assert (found.name, found.about, found.is_mended_by_restart) == ("queue", "a", True)
    assert stalled.problems([("a", 7, 7), ("b", 7, 7)], 30.0, wait_max_s=10) == []
