"""Deletion of old rows that are kept for people: events of the tree, settled alerts, results of jobs.

Orders, fills, signals, balances and the audit are never deleted.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from fks.store.db import Database

#: Rows of one statement: it holds no lock for long.
BATCH: Final = 5_000


class RetentionStore:
    """Deletes in batches. Errors of all methods: OutageError."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def events(self, before: datetime) -> int:
        """Delete events of the tree before a time; return how many."""
        return await self._all("retention.events", before)

    async def alerts(self, before: datetime) -> int:
        """Delete alerts that were settled before a time; return how many."""
        return await self._all("retention.alerts", before)

    async def jobs(self, before: datetime) -> int:
        """Delete jobs that ended before a time, with their results, and their callers' keys; return how many."""
        deleted = await self._all("retention.jobs", before)
        await self._all("retention.job_keys", before)
        return deleted

    async def _all(self, query: str, before: datetime) -> int:
        deleted = 0
        while True:
            status = await self._db.execute(query, before, BATCH, retry=True)
            count = int(status.rpartition(" ")[2])
            deleted += count
            if count < BATCH:
                return deleted
