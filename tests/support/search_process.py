"""A process that runs searches' jobs one after the other until it is killed."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from fks.config.settings import DatabaseSettings, Research, Settings
from fks.model.errors import OutageError
from fks.research.jobs.runner import run_one
from fks.store.db import Database
from fks.store.jobs import SEARCHES, JobStore


async def main(url: str, folder: Path) -> None:
    """Claim and run, over outages of the database; `folder` has the strategies' files."""
    settings = Settings(research=Research(slots=3), database=DatabaseSettings(retry_s=0.5))
    db = await Database.lazy(url, settings.database, application="search")
    while True:
        with contextlib.suppress(OutageError):
            job = await JobStore(db).claim(SEARCHES)
            if job is not None:
                await run_one(db, job.id, folder, settings=settings)
                continue
        await asyncio.sleep(0.05)
