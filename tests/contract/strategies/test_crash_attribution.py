"""Crashes that are attributed to a strategy instance, and those that are not: exits of its code, outages during
loading, old marks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from fks.clock import FakeClock, RealClock
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.model.errors import InputError, OutageError
from fks.model.timeframe import NS
from fks.store.bars import BarStore
from fks.store.bus import Bus
from fks.store.crash_marks import CrashMarkStore
from fks.store.db import Database
from fks.system.node.cluster_driver import LeftMarks
from fks.system.process.crash_marker import CrashMarker
from fks.trading.strategy_worker import crash_attribution
from fks.trading.strategy_worker.sandbox import Sandbox
from fks.trading.strategy_worker.worker import StrategyWorker
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.runtimes import runtime
from tests.support.strategies import add_account, add_instance, bars_of, hold, seal
from tests.support.waiting import until

PARAMS = {"fast": 2, "slow": 4}
WINDOW_S = Settings().strategies.crash_window_s

Make = Callable[..., StrategyWorker]


@pytest.fixture
async def make(
    database: Database,
    as_strategy: Database,
    bus: Bus,
    clock: FakeClock,
    log: CollectingLog,
    meter: RecordingMeter,
    tmp_path: Path,
) -> Make:
    """Return how to make the worker of an epoch; one instance has ten bars to decide on."""
    await add_account(database)
    await add_instance(database, "a", "sma_cross", PARAMS)
    await seal(database, bars_of([100.0 + k % 3 for k in range(10)]))
    await hold(database, 9)

    def worker(epoch: int = 9, home: Path = tmp_path) -> StrategyWorker:
        lease = type("Held", (), {"name": "strategy:0", "epoch": epoch, "holds": lambda self: True})()
        return StrategyWorker(runtime(as_strategy, bus, lease, clock=clock, meter=meter, log=log), 0, home=home)

    return worker


@pytest.mark.parametrize("way", [SystemExit, GeneratorExit])
async def test_code_that_exits_is_an_error_of_its_instance_only(
    way: type[BaseException],
) -> None:
    def leave() -> None:
        raise way()

    sandbox = Sandbox(CrashMarker(None), RealClock(), 1)
    with pytest.raises(InputError, match=way.__name__):
        sandbox.inline("a", 0, leave)
    with pytest.raises(InputError, match=way.__name__):
        await sandbox.in_thread("a", "leaver", 0, leave)


async def test_outages_while_an_instance_is_loaded_are_no_deaths_of_its_worker(
    make: Make, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*args: object, **more: object) -> None:
        raise OutageError("PostgreSQL is away")

    worker = make(9)
    with monkeypatch.context() as patched:
        patched.setattr(BarStore, "read", away)
        for _ in range(6):
            with pytest.raises(OutageError):
                await worker.step()
    await worker.step()
    row = (await database.sql("SELECT state, error FROM strategy_instances"))[0]
    assert (row["state"], row["error"]) == ("RUNNING", None)


async def test_killed_draining_worker_attributes_no_crash(
    make: Make, database: Database, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, begun = CrashMarker(CrashMarker.path(tmp_path / "run", "strategy:0")), asyncio.Event()

    async def slow(self: Sandbox, instance: str, strategy: str, bar_ns: int, call: object) -> None:
        with self._marker.holding(instance, at_ns=1, bar_ns=bar_ns, epoch=9):
            begun.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(Sandbox, "in_thread", slow)
    worker = make(9)
    running = asyncio.create_task(worker.run())
    await asyncio.wait_for(begun.wait(), 10)
    assert mark.left() is not None
    draining = asyncio.create_task(worker.drain())
    await until(lambda: mark.left() is None, deadline_s=5)  # and here it would be killed
    for task in (draining, running):
        task.cancel()
    await asyncio.gather(draining, running, return_exceptions=True)


@pytest.mark.parametrize(("age_s", "crashes"), [(60.0, 1), (WINDOW_S + 60, 0)])
async def test_an_old_mark_is_nobodys_fault(
    make: Make,
    database: Database,
    clock: FakeClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    age_s: float,
    crashes: int,
) -> None:
    """A worker that ran elsewhere meanwhile finds what it left here long ago: no predecessor died of that."""
    monkeypatch.setattr(crash_attribution, "EXIT_WAIT_S", 0.0)
    mark = CrashMarker(CrashMarker.path(tmp_path / "run", "strategy:0"))
    mark.set("a", at_ns=clock.now_ns() - round(age_s * NS), bar_ns=0, epoch=3)
    worker = make(9)
    await worker.step()
    assert (await database.sql("SELECT crashes FROM strategy_instances"))[0]["crashes"] == crashes
    assert mark.left() is None


async def crashes_of(database: Database) -> tuple[int, object]:
    row = (await database.sql("SELECT crashes, traceback FROM strategy_instances"))[0]
    return row["crashes"], row["traceback"]


async def test_mark_left_on_another_node_is_found_as_a_row(
    make: Make, database: Database, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker died on node w1, which lives; its successor starts on another one, whose disk has no mark."""
    monkeypatch.setattr(crash_attribution, "EXIT_WAIT_S", 0.0)
    there, here = Paths.of(tmp_path / "w1").ensure(), tmp_path / "w2"
    mark = CrashMarker(CrashMarker.path(there.run, "strategy:0"))
    mark.set("a", at_ns=clock.now_ns() - NS, bar_ns=60 * NS, epoch=8)
    keeper = LeftMarks(there, "w1")
    await keeper.post(database)
    worker = make(9, here)
    await worker.step()
    assert (await crashes_of(database))[0] == 1
    for _ in range(2):  # the file stays on w1: it counts once
        await LeftMarks(there, "w1").post(database)
        await worker.step()
    await make(10, here).step()
    assert (await crashes_of(database))[0] == 1


async def test_mark_that_is_posted_after_the_successor_started_counts(
    make: Make, database: Database, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crash_attribution, "EXIT_WAIT_S", 0.0)
    there = Paths.of(tmp_path / "w1").ensure()
    worker = make(9, tmp_path / "w2")
    await worker.step()
    CrashMarker(CrashMarker.path(there.run, "strategy:0")).set("a", at_ns=clock.now_ns() - NS, bar_ns=0, epoch=8)
    await LeftMarks(there, "w1").post(database)
    await worker.step()
    assert (await crashes_of(database))[0] == 1


async def test_mark_of_a_living_worker_is_not_posted(
    make: Make, database: Database, clock: FakeClock, tmp_path: Path
) -> None:
    there = Paths.of(tmp_path / "w1").ensure()
    CrashMarker(CrashMarker.path(there.run, "strategy:0")).set("a", at_ns=clock.now_ns(), bar_ns=0, epoch=9)
    await LeftMarks(there, "w1").post(database)
    assert await CrashMarkStore(database).unsettled("strategy:0") is None


async def test_one_crash_that_is_found_here_and_as_a_row_counts_once(
    make: Make, database: Database, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crash_attribution, "EXIT_WAIT_S", 0.0)
    home = Paths.of(tmp_path / "w1").ensure()
    CrashMarker(CrashMarker.path(home.run, "strategy:0")).set("a", at_ns=clock.now_ns() - NS + 7, bar_ns=0, epoch=8)
    await LeftMarks(home, "w1").post(database)
    worker = make(9, home.home)
    await worker.step()
    await worker.step()
    assert (await crashes_of(database))[0] == 1
    assert await CrashMarkStore(database).unsettled("strategy:0") is None
