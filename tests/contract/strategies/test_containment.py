"""A strategy that takes its worker down, in real processes: set apart, then switched off with a page and its
remains; its neighbour misses no bar and decides as it would have decided anyway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fks.model.bar import Bars
from fks.model.timeframe import to_ns
from fks.store.bus import BARS, Bus
from fks.store.db import Database
from fks.store.strategies import StrategyStore
from fks.strategies.base import evaluate
from fks.strategies.registry import load_catalogue
from tests.support import strategy_process
from tests.support.children import Child
from tests.support.soak_cases import soaked
from tests.support.strategies import EVERY_EDGE, add_account, add_instance, bars_of, seal
from tests.support.strategy_tree import DEADLY, FATAL, SmallTree
from tests.support.waiting import until

PARAMS = {"fast": 2, "slow": 4, "short": True}


@pytest.fixture
async def tree(database: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[SmallTree]:
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "deadly.py").write_text(DEADLY)
    await add_account(database)
    found = SmallTree(database, (database_url, redis_url), tmp_path)
    yield found
    await found.stop()


async def _row(db: Database, id: str) -> Any:
    return (await db.sql("SELECT * FROM strategy_instances WHERE id = $1", id))[0]


async def _stream(db: Database, bus: Bus, good: Bars, bad: Bars, first: int, last: int) -> None:
    """Seal bars of both symbols one by one, as a collector would."""
    for k in range(first, last):
        for bars in (bad, good):  # the deadly one's bar is there before its neighbour's
            await seal(db, bars[k : k + 1])
            await bus.publish(BARS, {"symbol": bars.symbol, "timeframe": "1m"})
        await asyncio.sleep(0.01)


def _tapes(count: int, fatal: int) -> tuple[Bars, Bars]:
    dice = np.random.default_rng(7)
    good = bars_of((10_000 + np.cumsum(dice.integers(-30, 31, count))) / 100.0)
    closes = [50.0] * count
    closes[fatal] = FATAL
    return good, bars_of(closes, symbol="ETHUSDT")


async def _missed_nothing(db: Database, good: Bars, first: int) -> bool:
    """Return whether the neighbour's signals are those of an undisturbed evaluation of every bar."""
    rows = await db.sql("SELECT ts_event, kind, side FROM signals WHERE instance = 'good' ORDER BY ts_event, ordinal")
    target = evaluate(load_catalogue().make("sma_cross", PARAMS), good[first - 4 :]).target
    wanted, before = [], 0.0
    for i in range(4, len(target)):
        if target[i] != before and before:
            wanted.append((int(good.time_ns[first - 4 + i]), "exit", "sell" if before > 0 else "buy"))
        if target[i] != before and target[i]:
            wanted.append((int(good.time_ns[first - 4 + i]), "enter", "buy" if target[i] > 0 else "sell"))
        before = target[i]
    assert len(wanted) > 20
    return [(to_ns(r["ts_event"]), r["kind"], r["side"]) for r in rows] == wanted


@pytest.mark.parametrize("way", soaked(["segv", "hold", "exit"], 2))
async def test_it_is_isolated_then_disabled_and_its_neighbour_misses_no_bar(
    database: Database, bus: Bus, tree: SmallTree, way: str
) -> None:
    count, fatal = 90, 30
    good, bad = _tapes(count, fatal)
    await add_instance(database, "deadly", "deadly", {"way": way}, symbol="ETHUSDT")
    await add_instance(database, "good", "sma_cross", PARAMS, **EVERY_EDGE)
    for bars in (good, bad):
        await seal(database, bars[:10])
    await tree.start()

    async def decided() -> bool:
        return (await _row(database, "good"))["state"] == "RUNNING" and (await _row(database, "deadly"))[
            "state"
        ] == "RUNNING"

    await until(decided)
    await _stream(database, bus, good, bad, 10, count)

    async def switched_off() -> bool:
        return not (await _row(database, "deadly"))["is_enabled"]

    try:
        await until(switched_off, deadline_s=90)
    finally:
        row = await _row(database, "deadly")
        print(
            "state, isolated, crashes, cursor:", *(row[x] for x in ("state", "is_isolated", "crashes", "cursor_time"))
        )
        print("starts:", tree.starts)
    assert (row["state"], row["is_isolated"], row["crashes"]) == ("DISABLED", True, 4)
    assert "took its worker down 4 times" in row["error"]
    assert to_ns(row["cursor_time"]) < int(bad.time_ns[fatal])
    if way == "segv":
        assert "deadly.py" in row["traceback"]
    pages = await database.sql("SELECT severity, event, message FROM alerts ORDER BY id")
    assert [(p["severity"], p["event"]) for p in pages] == [
        ("warning", "strategy.isolated"),
        ("page", "strategy.disabled"),
    ]
    assert "It holds nothing." in pages[1]["message"]
    assert tree.starts["strategy:0"] == 3  # twice taken down with it
    assert tree.starts["strategy:solo:deadly"] in (
        3,
        4,
    )  # the third finds out; it may be restarted before it is taken away

    async def caught_up() -> bool:
        return to_ns((await _row(database, "good"))["cursor_time"]) == int(good.time_ns[-1])

    await until(caught_up)
    assert await _missed_nothing(database, good, 10)
    # a person corrects and enables it: it is back among the others
    assert await StrategyStore(database).set_enabled("deadly", True)
    row = await _row(database, "deadly")
    assert (row["is_isolated"], row["crashes"], row["traceback"], row["error"]) == (False, 0, None, None)


async def test_a_thread_that_never_ends_costs_its_instance_and_one_restart(
    database: Database, bus: Bus, tree: SmallTree
) -> None:
    good, bad = _tapes(60, 12)
    await add_instance(database, "deadly", "deadly", {"way": "spin"}, symbol="ETHUSDT")
    await add_instance(database, "good", "sma_cross", PARAMS, **EVERY_EDGE)
    for bars in (good, bad):
        await seal(database, bars[:10])
    await tree.start()

    async def loaded() -> bool:
        return (await _row(database, "deadly"))["cursor_time"] is not None

    await until(loaded, deadline_s=20)
    await seal(database, bad[10:13])  # its first evaluation, which runs in a thread, meets the bar
    for k in range(10, 60):
        await seal(database, good[k : k + 1])
        await bus.publish(BARS, {"symbol": good.symbol, "timeframe": "1m"})

    async def rid_of_it() -> bool:
        return (await _row(database, "deadly"))["state"] == "CRASHED" and tree.starts["strategy:0"] == 2

    await until(rid_of_it, deadline_s=40)
    row = await _row(database, "deadly")
    assert "took longer than 3 s" in row["error"]
    assert row["crashes"] == 0

    async def caught_up() -> bool:
        return to_ns((await _row(database, "good"))["cursor_time"]) == int(good.time_ns[-1])

    await until(caught_up)


async def test_one_death_from_outside_while_it_is_in_hand_is_only_counted(
    database: Database, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    from fks.system.process.crash_marker import CrashMarker

    await add_account(database)
    await add_instance(database, "a", "sma_cross", PARAMS)
    (tmp_path / "run").mkdir()
    mark = CrashMarker(CrashMarker.path(tmp_path / "run", "strategy:0"))
    mark.set("a", at_ns=time.time_ns(), bar_ns=0, epoch=1)
    process = Child(strategy_process.main, database_url, redis_url, 2, tmp_path)
    try:

        async def counted() -> bool:
            return bool((await _row(database, "a"))["crashes"] == 1)

        await until(counted, deadline_s=20)
    finally:
        process.kill()
        await process.ended()
    row = await _row(database, "a")
    assert (row["is_enabled"], row["is_isolated"], row["state"]) == (True, False, "NEW")
    assert mark.left() is None
    assert await database.sql("SELECT * FROM alerts") == []
