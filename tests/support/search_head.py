"""A scheduler that starts each job in a process of its own, to be killed with them: the head of a small cluster.

`python -m tests.support.search_head URL FOLDER`; FOLDER has the strategies' files. With a third argument it is the
runner of that job.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fks.clock import RealClock
from fks.config.paths import Paths
from fks.config.settings import DatabaseSettings, Research, Settings
from fks.jobs.runner import run_one
from fks.jobs.scheduler import RunnerDied, Scheduler
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.ports import CollectingLog, RecordingMeter

SETTINGS = Settings(research=Research(slots=3), database=DatabaseSettings(retry_s=0.5))


async def head(url: str, folder: str) -> None:
    """Run due schedules and hand queued jobs to processes, until killed."""
    db = await Database.connect(url, SETTINGS.database, application="head")
    component: Any = SimpleNamespace(
        db=db,
        clock=RealClock(),
        settings=SETTINGS,
        log=CollectingLog(),
        meter=RecordingMeter(),
        paths=Paths.of(folder),
        lease=None,
        bus=await Bus.connect("redis://127.0.0.1:9/0"),  # away: a job needs no message
    )

    async def run_job(home: str, job_id: str) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.search_head", url, folder, job_id
        )
        if await process.wait():
            raise RunnerDied(f"the process of job {job_id} ended")

    await Scheduler(component, run_job).run()


async def runner(url: str, folder: str, job_id: str) -> None:
    """Run one claimed job."""
    db = await Database.connect(url, SETTINGS.database, application="job")
    await run_one(db, uuid.UUID(job_id), Path(folder), settings=SETTINGS)
    await db.close()


if __name__ == "__main__":
    asyncio.run(runner(*sys.argv[1:4]) if len(sys.argv) > 3 else head(*sys.argv[1:3]))
