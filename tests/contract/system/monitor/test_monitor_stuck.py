"""A loop of the monitor that waits for ever is a failed check that a new process ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fks.clock import FakeClock
from fks.config.paths import Paths
from fks.config.settings import Settings, Supervision
from fks.system.monitor.watcher import Watcher
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.waiting import until


class Deaf:
    """A database whose answer never comes, though it limits every statement: a fault of the driver."""

    def __init__(self) -> None:
        self.asked = 0

    async def ping(self) -> None:
        self.asked += 1
        await asyncio.Event().wait()


async def test_monitor_whose_loop_waits_for_ever_is_restarted(tmp_path: Path) -> None:
    clock, db = FakeClock(), Deaf()
    component: Any = SimpleNamespace(
        name="monitor",
        db=db,
        bus=None,
        clock=clock,
        log=CollectingLog(),
        meter=RecordingMeter(),
        settings=Settings(supervision=Supervision(stuck_max_s=30.0)),
        paths=Paths.of(tmp_path),
    )
    watcher = Watcher(component)
    task = asyncio.create_task(watcher.run())
    await until(lambda: db.asked == 1)
    await clock.advance(29.0)
    assert [problem.name for problem in watcher.problems()] == []
    await clock.advance(2.0)
    (found,) = watcher.problems()
    assert (found.name, found.about, found.is_mended_by_restart) == ("stuck", "monitor", True)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
