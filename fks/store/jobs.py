"""Durable jobs: rows that are queued, claimed by one runner at a time, and end exactly once.

queued → running → done | failed | cancelled. A runner's writes carry its attempt number; once the job was taken from it
(it was silent too long) they change nothing.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from fks.model.errors import StaleEpochError
from fks.store.base import SqlStore, query
from fks.store.db import Querier

_SAME = uuid.UUID("5d1f3c0e-2f7b-4a54-9d7d-0a6a1c1f9b11")
#: kinds whose trials count lost runners themselves: the job may lose any number
SEARCHES = ["optimization", "optimization-worker"]


@dataclass(frozen=True, slots=True)
class JobRow:
    """A row of jobs. `attempts` counts claims and names the running one; `progress` is 0 to 1; `result` is the kind's
    own JSON (left out of lists)."""

    id: uuid.UUID
    kind: str
    spec: Mapping[str, Any]
    state: str
    progress: float
    result: Mapping[str, Any] | None
    error: str | None
    submitted_by: str
    attempts: int
    is_cancel_requested: bool
    created_ns: int
    started_ns: int | None
    finished_ns: int | None
    fingerprint: str | None = None
    priority: int = 0

    @property
    def is_ended(self) -> bool:
        return self.state in ("done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class SilentJob:
    """A job whose runner sends no heartbeats. `runner`: its process, as it named itself; None when it never did."""

    id: uuid.UUID
    attempts: int
    runner: Mapping[str, Any] | None


def _taken(job: JobRow) -> StaleEpochError:
    return StaleEpochError(f"job {job.id} attempt {job.attempts} is no longer the running one", remedy="stop at once")


class JobStore(SqlStore[Querier], queries="jobs"):
    """Reads and writes of jobs. Takes a database or an open transaction. Errors: OutageError."""

    async def submit(
        self,
        kind: str,
        spec: Mapping[str, Any],
        *,
        submitted_by: str = "",
        job_id: uuid.UUID | None = None,
        fingerprint: str | None = None,
        priority: int = 0,
    ) -> uuid.UUID:
        """Queue a job and return its id. Idempotent with a `job_id` of the caller's. `fingerprint`: of everything that
        decides its result, to be found again by `same`; a higher `priority` is claimed first."""
        chosen = job_id or uuid.uuid4()
        await self._db.execute("jobs.submit", chosen, kind, dict(spec), submitted_by, fingerprint, priority)
        return chosen

    async def same(self, kind: str, fingerprint: str) -> tuple[uuid.UUID | None, uuid.UUID]:
        """Return the job of this fingerprint that has a result or will have one, and the id for a new one.

        The id is a function of the fingerprint and of the tries that ended without a result: two callers that ask at
        once submit one job.
        """
        row = await self._db.fetchrow("jobs.same", kind, fingerprint)
        assert row is not None
        return row["id"], uuid.uuid5(_SAME, f"{kind}:{fingerprint}:{row['ended']}")

    async def claim_key(self, key: uuid.UUID, job_id: uuid.UUID, spec: Mapping[str, Any]) -> uuid.UUID | None:
        """Return the job of a caller's key: the one that it gave before, else `job_id`. None: it was used for another
        spec. Safe to repeat; of callers at the same time all get the same."""
        digest = hashlib.sha256(orjson.dumps(dict(spec), option=orjson.OPT_SORT_KEYS, default=str)).hexdigest()
        if await self._db.fetchrow("jobs.claim_key", key, job_id, digest) is not None:
            return job_id
        row = await self._db.fetchrow("jobs.of_key", key)
        assert row is not None
        return row["job_id"] if row["spec_hash"] == digest else None

    async def get(self, job_id: uuid.UUID) -> JobRow | None:
        """Return one job with its result, or None."""

    async def open_of(self, submitted_by: str) -> int:
        """Return how many jobs of a caller are queued or run."""

    async def list(self, *, kind: str | None = None, state: str | None = None, limit: int = 50) -> list[JobRow]:
        """Return the newest jobs, without their results."""

    async def claim(self, kinds: Sequence[str] | None = None, *, besides: Sequence[str] = ()) -> JobRow | None:
        """Take the oldest queued job (of these kinds, of none in `besides`) for one attempt, or None. Two callers never
        get the same one; a claim whose answer is lost is queued again by `requeue_lost`."""

    async def load(
        self, kinds: Sequence[str] | None = None, *, besides: Sequence[str] = ()
    ) -> tuple[int, int, float | None]:
        """Return how many jobs run on all machines and are queued, and how long the oldest queued one waits (None: none
        does)."""

    @query(binds=("job.id", "job.attempts", "progress"), missing=_taken)
    async def beat(self, job: JobRow, progress: float) -> bool:
        """Record that the attempt is alive; return whether a person asked to cancel it. Errors: StaleEpochError when
        the job is no longer this attempt's."""

    async def finish(
        self, job: JobRow, state: str, *, result: Mapping[str, Any] | None = None, error: str | None = None
    ) -> None:
        """Write the end (done, failed or cancelled). Errors: StaleEpochError when the job is no longer this
        attempt's."""
        kept = None if result is None else dict(result)
        if await self._db.fetchrow("jobs.finish", job.id, job.attempts, state, kept, error) is None:
            again = await self.get(job.id)  # the answer of a first attempt may have been lost on the way
            if again is None or again.attempts != job.attempts or again.state != state:
                raise _taken(job)

    async def cancel(self, job_id: uuid.UUID) -> JobRow | None:
        """End a queued job, mark a running one to be ended; return it, or None when there is nothing to cancel."""

    @query(binds=("job.id", "job.attempts", "runner"))
    async def note_runner(self, job: JobRow, runner: Mapping[str, Any]) -> None:
        """Name the process of the running attempt: `actor`, `pid` and the `space` in which the pid counts."""

    async def silent(self, *, silent_s: float) -> Sequence[SilentJob]:
        """Return the running jobs whose runner was silent for `silent_s`."""

    async def requeue_lost(
        self, *, silent_s: float, attempts_max: int, among: Sequence[uuid.UUID] | None = None
    ) -> Sequence[uuid.UUID]:
        """Queue jobs again whose runner was silent for `silent_s`; fail those out of attempts. Return all of them.
        `among`: no others, because their processes were not ended."""
        rows = await self._db.fetch("jobs.requeue_lost", silent_s, attempts_max, SEARCHES, among)
        return [row["id"] for row in rows]

    async def release(self, job_id: uuid.UUID, attempt: int, *, attempts_max: int) -> bool:
        """Queue a job again whose process is known to have ended without recording an end; False when that attempt is
        not the running one."""
        return await self._db.fetchrow("jobs.release", job_id, attempt, attempts_max, SEARCHES) is not None
