"""A scheduler that starts each job in a process of its own, to be killed with them: the head of a small cluster.

`python -m tests.support.search_head URL FOLDER`; FOLDER is FKS_HOME, and has the strategies' files and the sockets of
models. With a third argument it is the runner of that job. No page of FKS is stored: a test has its own documents.
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
from fks.config.settings import Research, Settings
from fks.research.jobs import documents
from fks.research.jobs.runner import run_one
from fks.research.jobs.scheduler import RunnerDied, Scheduler
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.ai_process import call_of
from tests.support.ports import CollectingLog, RecordingMeter

SETTINGS = Settings(research=Research(slots=3))


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

    async def run_job(home: str, job_id: str, gpus: int) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.search_head", url, folder, job_id
        )
        if await process.wait():
            raise RunnerDied(f"the process of job {job_id} ended")

    await Scheduler(component, run_job).run()


async def runner(url: str, folder: str, job_id: str) -> None:
    """Run one claimed job."""
    db = await Database.connect(url, SETTINGS.database, application="job")
    settings = SETTINGS.model_copy(update={"home": Path(folder)})
    await run_one(db, uuid.UUID(job_id), Path(folder), settings=settings, inference=call_of(Path(folder)))
    await db.close()


if __name__ == "__main__":
    documents.shipped_pages = dict  # type: ignore[attr-defined]
    asyncio.run(runner(*sys.argv[1:4]) if len(sys.argv) > 3 else head(*sys.argv[1:3]))
