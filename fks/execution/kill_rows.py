"""What the tables know of a kill and this machine's file does not: that it was released elsewhere."""

from __future__ import annotations

import asyncio

from fks.execution.kill_journal import KillJournal
from fks.model.errors import FksError
from fks.model.ports import Log
from fks.model.timeframe import to_ns
from fks.store.db import Database
from fks.store.kill import KillStore


async def take_release(db: Database | None, journal: KillJournal, log: Log, *, timeout_s: float) -> bool:
    """Release the file's engaged kill when the tables say that a person did so at another machine's guardian, which had
    taken it up; return whether that was so. A database that does not answer in time says no: the kill goes on."""
    record = journal.record
    if db is None or record is None or not record.is_engaged:
        return False
    try:
        async with asyncio.timeout(timeout_s):
            row = await KillStore(db).release(record.kill_id)
    except (FksError, TimeoutError):
        return False
    except Exception as error:  # a table that lacks a column must not take the kill switch down with it
        log.error("kill.release_unread", error=f"{type(error).__name__}: {error}")
        return False
    if row is None:
        return False
    journal.release(by=row["released_by"] or "", now_ns=to_ns(row["released_at"]))
    log.warning("kill.released_elsewhere", kill_id=record.kill_id, by=row["released_by"])
    return True
