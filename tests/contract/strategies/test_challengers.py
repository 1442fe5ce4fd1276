"""Challengers in shadow: the decisions of an instance of the same parameters are recorded, and nothing is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fks.clock import FakeClock
from fks.model.bar import Bars
from fks.model.timeframe import to_ns
from fks.store.bus import BARS, SIGNALS, Bus
from fks.store.challengers import SHADOW_WORKER, ChallengerStore
from fks.store.db import Database, sql
from fks.store.strategies import Owner, StrategyStore
from fks.strategies.base import evaluate
from fks.strategies.check import synthetic
from fks.strategies.registry import load_catalogue
from fks.trading.strategy_worker.worker import StrategyWorker
from tests.support import strategy_process
from tests.support.children import Child
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.runtimes import TAPE, runtime
from tests.support.strategies import EVERY_EDGE, add_account, add_challenger, add_instance, bars_of, hold, seal
from tests.support.strategy_tree import DEADLY, FATAL, SmallTree
from tests.support.waiting import until

ROOT = Path(__file__).parents[3]
PARAMS = {"fast": 2, "slow": 4, "short": True}
OTHER = {"fast": 3, "slow": 6, "short": True, "sl_pct": 1.0}


def wave(count: int, seed: int = 3, symbol: str = "BTCUSDT") -> Bars:
    dice = np.random.default_rng(seed)
    return bars_of((10_000 + np.cumsum(dice.integers(-30, 31, count))) / 100.0, symbol=symbol)


def changes(bars: Bars, first: int, params: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Return (bar time, target) of every change from index `first` on, flat before it."""
    target = evaluate(load_catalogue().make("sma_cross", params), bars).target
    before = np.concatenate([[0.0], target[first:-1]])
    return [(int(bars.time_ns[first + i]), float(target[first + i])) for i in np.flatnonzero(target[first:] != before)]


async def recorded(db: Database, challenger: str) -> list[tuple[int, float]]:
    return [(one.time_ns, one.target) for one in await ChallengerStore(db).decisions(challenger)]


async def shadow(
    db: Database, worker_db: Database, bus: Bus, *, epoch: int = 1, home: Path | None = None, **ports: Any
) -> StrategyWorker:
    context = runtime(worker_db, bus, await hold(db, epoch, SHADOW_WORKER), settings=TAPE, **ports)
    return StrategyWorker(context, 0, home=home, is_shadow=True)


async def test_decisions_are_recorded_and_no_signal_is_made(
    database: Database, as_strategy: Database, bus: Bus, clock: FakeClock, log: CollectingLog, meter: RecordingMeter
) -> None:
    bars = wave(120)
    await add_account(database)
    await add_instance(database, "a", "sma_cross", PARAMS, **EVERY_EDGE)
    first, second = await add_challenger(database, "a", OTHER), await add_challenger(database, "a", PARAMS)
    assert (first, second) == ("a~1", "a~2")
    await seal(database, bars[:10])
    worker = await shadow(database, as_strategy, bus, clock=clock, log=log, meter=meter)
    await worker.start()
    for k in range(10, 60):
        await seal(database, bars[k : k + 1])
        await worker.step()
    await seal(database, bars[60:110])  # it was away: in shadow no decision comes too late
    await worker.step()
    assert await recorded(database, first) == changes(bars[4:110], 6, OTHER)
    assert await recorded(database, second) == changes(bars[6:110], 4, PARAMS)
    one = (await ChallengerStore(database).decisions(first))[0]
    close = float(bars.close[int((one.time_ns - bars.time_ns[0]) // 60_000_000_000)])
    assert float(one.reference_price) == close
    assert one.stop_loss is not None
    assert one.take_profit is None
    row = await ChallengerStore(database).get(first)
    assert row is not None
    assert (row.state, row.begun_ns, row.cursor_ns) == ("RUNNING", int(bars.time_ns[9]), int(bars.time_ns[109]))
    assert await database.sql("SELECT id FROM signals") == []
    assert meter.total("fks_challenger_decisions_total") == sum(
        [len(await recorded(database, first)), len(await recorded(database, second))]
    )


def test_no_statement_of_challengers_writes_a_signal() -> None:
    text = (ROOT / "fks/store/sql/challengers.sql").read_text()
    assert "INSERT INTO signals" not in text
    assert "INSERT INTO orders" not in text
    assert "signals" not in sql("challengers.commit")


async def test_a_challenger_that_raises_is_held_and_a_removed_one_stops(
    database: Database, as_strategy: Database, bus: Bus, clock: FakeClock, log: CollectingLog, tmp_path: Path
) -> None:
    bars = wave(60)
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "touchy.py").write_text(
        "import numpy as np\n"
        "from fks.strategies.base import Decisions, Strategy\n"
        "class Touchy(Strategy):\n"
        "    name = 'touchy'\n"
        "    most: int = 10_000\n"
        "    def warmup(self): return 2\n"
        "    def decide(self, bars):\n"
        "        if len(bars) > self.most and bars.symbol == 'BTCUSDT': raise ValueError('too many bars')\n"
        "        return Decisions(np.zeros(len(bars)))\n"
    )
    await add_account(database)
    await add_instance(database, "a", "touchy", {})
    bad, good = await add_challenger(database, "a", {"most": 20}), await add_challenger(database, "a", {"most": 9_999})
    await seal(database, bars[:10])
    worker = await shadow(database, as_strategy, bus, clock=clock, log=log, home=tmp_path)
    await worker.start()
    for k in range(10, 40):
        await seal(database, bars[k : k + 1])
        await worker.step()
    store = ChallengerStore(database)
    held, runs = await store.get(bad), await store.get(good)
    assert held is not None
    assert runs is not None
    assert (held.state, runs.state) == ("CRASHED", "RUNNING")
    assert "too many bars" in str(held.error)
    assert runs.cursor_ns == int(bars.time_ns[39])
    assert await store.remove(good, by="me")
    assert not await store.remove(good, by="me"), "once"
    await seal(database, bars[40:50])
    await worker.step()
    runs = await store.get(good)
    assert runs is not None
    assert (runs.stage, runs.ended_by, runs.cursor_ns) == ("removed", "me", int(bars.time_ns[39]))
    assert [one.id for one in await store.list("a")] == [bad]
    assert [one.id for one in await store.list("a", with_ended=True)] == [bad, good]
    async with database.transaction() as tx:
        assert await ChallengerStore(tx).lock_instance("a") is not None
        assert await ChallengerStore(tx).add("a", {}, by="me") == "a~3", "removed ones stay counted"


async def test_kill_9_repeats_no_decision_skips_none_and_sends_nothing(
    database: Database, database_url: str, bus: Bus, redis_url: str
) -> None:
    bars = synthetic(160)
    await add_account(database)
    await add_instance(database, "a", "sma_cross", OTHER, symbol=bars.symbol, **EVERY_EDGE)
    challenger = await add_challenger(database, "a", PARAMS)
    await seal(database, bars[:10])
    received: list[Mapping[str, Any]] = []
    listener = asyncio.create_task(_listen(bus, received))
    next_bar = 10
    for epoch in range(1, 4):
        process = Child(strategy_process.main, database_url, redis_url, epoch, None, None, True, is_read=True)
        try:
            reader = await process.reader()
            assert await asyncio.wait_for(reader.readline(), 20) == b"started\n"
            for _ in range(50):
                await seal(database, bars[next_bar : next_bar + 1])
                await bus.publish(BARS, {"symbol": bars.symbol, "timeframe": "1m"})
                next_bar += 1
            past_ns = int(bars.time_ns[next_bar - 1]) - 1 if epoch == 3 else int(bars.time_ns[next_bar - 40])

            async def decided(past_ns: int = past_ns) -> bool:
                row = await ChallengerStore(database).get(challenger)
                return row is not None and row.cursor_ns is not None and row.cursor_ns > past_ns

            await until(decided)
        finally:
            process.kill()
            await process.ended()
    wanted = changes(bars[6:next_bar], 4, PARAMS)
    assert await recorded(database, challenger) == wanted
    assert len(wanted) > 20
    assert await database.sql("SELECT id FROM signals") == []
    assert await database.sql("SELECT client_order_id FROM orders") == []
    listener.cancel()
    assert received == []


async def _listen(bus: Bus, received: list[Mapping[str, Any]]) -> None:
    async for _, payload in bus.subscribe(SIGNALS):
        received.append(payload)


# ── containment ──────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
async def tree(database: Database, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[SmallTree]:
    (tmp_path / "strategies").mkdir()
    # the champion has the harmless way
    (tmp_path / "strategies" / "deadly.py").write_text(
        DEADLY.replace("if 7.77 in bars.close:", "if self.way != 'none' and 7.77 in bars.close:").replace(
            "return Decisions(np.zeros(len(bars)))", "return Decisions((np.arange(len(bars)) > 1) * 1.0)"
        )
    )
    await add_account(database)
    found = SmallTree(database, (database_url, redis_url), tmp_path)
    yield found
    await found.stop()


@pytest.mark.parametrize("way", ["hold", "spin"])
async def test_a_deadly_challenger_ends_and_delays_no_champion(
    database: Database, bus: Bus, tree: SmallTree, way: str
) -> None:
    """Its code never ends: in a thread (spin), or so that its worker hangs and is killed (hold)."""
    closes = [50.0] * 40
    closes[20] = FATAL
    bars = bars_of(closes)
    await add_instance(database, "a", "deadly", {"way": "none"}, **EVERY_EDGE)
    await add_instance(database, "b", "sma_cross", PARAMS, **EVERY_EDGE)
    challenger = await add_challenger(database, "a", {"way": way})
    await seal(database, bars[:10])
    await tree.start()

    async def both_run() -> bool:
        rows = await database.sql("SELECT state FROM strategy_instances UNION ALL SELECT state FROM challengers")
        return [row["state"] for row in rows] == ["RUNNING"] * 3

    await until(both_run, deadline_s=30)
    for k in range(10, 40):
        await seal(database, bars[k : k + 1])
        await bus.publish(BARS, {"symbol": bars.symbol, "timeframe": "1m"})

    async def champion_is_done() -> bool:
        (row,) = await database.sql("SELECT min(cursor_time) AS at FROM strategy_instances")
        return to_ns(row["at"]) == int(bars.time_ns[-1])

    await until(champion_is_done, deadline_s=3.0)  # less than the challenger's code may take

    async def is_held() -> bool:
        row = await ChallengerStore(database).get(challenger)
        return row is not None and row.state in ("DISABLED", "CRASHED")

    await until(is_held, deadline_s=60)
    assert tree.starts["strategy:0"] == 1, "the champion's worker was not affected"
    (champion,) = await database.sql("SELECT * FROM strategy_instances WHERE id = 'a'")
    assert (champion["state"], champion["crashes"], champion["is_isolated"]) == ("RUNNING", 0, False)
    if way != "spin":
        alerts = await database.sql("SELECT severity, event, message FROM alerts")
        assert [(row["severity"], row["event"]) for row in alerts] == [("warning", "strategy.challenger_disabled")]
        assert "took its worker down 2 times" in alerts[0]["message"]
    sent_by = {row["instance"] for row in await database.sql("SELECT DISTINCT instance FROM signals")}
    assert sent_by == {"a", "b"}, "nothing was sent in the challenger's name"


async def test_a_decision_of_replaced_parameters_is_not_committed(database: Database) -> None:
    """A swap between a worker's read and its commit: the old champion sends nothing more."""
    bars = wave(20)
    await add_account(database)
    await add_instance(database, "a", "sma_cross", PARAMS)
    await seal(database, bars)
    store = StrategyStore(database, Owner("strategy:0", (await hold(database, 1)).epoch))
    (before,) = await store.due()
    async with database.transaction() as tx:
        await StrategyStore(tx).set_params("a", OTHER, by="test")
    cursor_ns = int(bars.time_ns[-1])
    moved = await store.commit(before, [], cursor_ns=cursor_ns, expected_ns=None, target=1.0, anchor_ns=cursor_ns)
    assert moved is None
    (after,) = await store.due()
    assert (after.cursor_ns, after.last_target, after.params_version) == (None, 0.0, 2)
    assert (
        await store.commit(after, [], cursor_ns=cursor_ns, expected_ns=None, target=1.0, anchor_ns=cursor_ns) == set()
    )
