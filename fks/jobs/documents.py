"""Job that stores FKS's own pages and gives the chunks of all documents their vectors."""

from __future__ import annotations

import uuid
from typing import Any, Final

from fks.model.timeframe import iso
from fks.store.db import Database
from fks.store.documents import DocumentStore, shipped_pages
from fks.store.jobs import JobStore

KIND: Final = "documents"
_IDS = uuid.UUID("6d7b9f0a-5d4c-4f7e-8f7a-2f1c9d0b7e57")


async def submit_pending(db: Database, now_ns: int) -> uuid.UUID | None:
    """Queue the job if there is work for it, and return its id; None: there is none. The same work is queued once an
    hour: again where its runners died.

    Errors: OutageError.
    """
    work = await DocumentStore(db).pending(shipped_pages())
    if work is None:
        return None
    job_id = uuid.uuid5(_IDS, f"{work}:{iso(now_ns)[:13]}")
    return await JobStore(db).submit(KIND, {}, submitted_by=KIND, job_id=job_id)


async def run_documents(db: Database) -> dict[str, Any]:
    """Store the shipped pages that differ, then embed. Each of both is one transaction: killed, it runs again."""
    return {"changed": await store_shipped(db), "vectors": await DocumentStore(db).embed()}


async def store_shipped(db: Database) -> int:
    """Make the stored pages of FKS those of this build; return how many changed. A second of work, once a build: the
    scheduler does it, so that answers need no runner of jobs."""
    pages = shipped_pages()
    return await DocumentStore(db).store_pages(pages) if pages else 0
