"""Trials of searches: rows that are proposed once, run by one attempt of a job at a time, and ended once.

queued -> running -> done | pruned | failed. A runner holds its trials as long as its attempt is the running one of its
job: the lease of the job is the lease of its trials. The results of a runner that lost its job are not taken.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fks.model.timeframe import to_datetime
from fks.store.db import Querier, Row

LOST_MAX = 5  # runners in a row that a trial may lose; since it is then run alone, it is the cause of it
DELETED_AT_ONCE = 20  # searches whose trials one statement deletes


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial to be run, or an ended one with its result."""

    fold: int
    number: int
    params: Mapping[str, Any]
    prune_below: Sequence[float] = ()
    state: str = "queued"
    result: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TrialCounts:
    """Trials by state. `per_s`: how many ended a second, over the last minute; None before the first."""

    queued: int
    running: int
    done: int
    pruned: int
    failed: int
    per_s: float | None

    @property
    def ended(self) -> int:
        return self.done + self.pruned + self.failed


class TrialStore:
    """Reads and writes of the trials of one search. Takes a database or an open transaction. Errors: OutageError.

    Every write may be repeated: after a lost answer the same call leads to the same rows.
    """

    def __init__(self, querier: Querier, search_id: uuid.UUID) -> None:
        self._db, self._search = querier, search_id

    async def add(self, trials: Sequence[TrialRow]) -> None:
        """Write proposals down; those that are there already stay as they are."""
        rows = [
            {"fold": t.fold, "number": t.number, "params": dict(t.params), "prune_below": list(t.prune_below)}
            for t in trials
        ]
        await self._db.execute("trials.add", self._search, rows)

    async def claim(self, runner: uuid.UUID, attempt: int, limit: int) -> list[TrialRow]:
        """Return trials for an attempt to run: those it holds already, else up to `limit` queued ones, else one that
        lost its runner before (alone, so that it takes no other down)."""
        rows = await self._db.fetch("trials.claim", self._search, runner, attempt, limit, False)
        if not rows:
            rows = await self._db.fetch("trials.claim", self._search, runner, attempt, 1, True)
        return [TrialRow(row["fold"], row["number"], row["params"], tuple(row["prune_below"])) for row in rows]

    async def finish(self, runner: uuid.UUID, attempt: int, trials: Sequence[TrialRow]) -> None:
        """Write results of an attempt that holds the trials; those of others are not taken."""
        rows = [{"fold": t.fold, "number": t.number, "state": t.state, "result": t.result} for t in trials]
        await self._db.execute("trials.finish", self._search, runner, attempt, rows)

    async def requeue_lost(self) -> int:
        """Queue trials again whose runner's attempt has ended; return how many."""
        return len(await self._db.fetch("trials.requeue_lost", self._search, LOST_MAX))

    async def ended(self, awaited: Sequence[tuple[int, int]]) -> list[TrialRow]:
        """Return those of the awaited (fold, number) that have ended, in order."""
        folds, numbers = [fold for fold, _ in awaited], [number for _, number in awaited]
        return [_row(row) for row in await self._db.fetch("trials.ended", self._search, folds, numbers)]

    async def counts(self) -> TrialCounts:
        """Return how many trials are in which state."""
        row = await self._db.fetchrow("trials.counts", self._search)
        assert row is not None
        since_s = row["since_first_s"]
        span_s = None if since_s is None else max(min(float(since_s), 60.0), 1.0)
        return TrialCounts(
            row["queued"],
            row["running"],
            row["done"],
            row["pruned"],
            row["failed"],
            None if span_s is None else row["last_minute"] / span_s,
        )

    async def list(self, *, after: tuple[int, int] = (-1, -1), limit: int = 1000) -> list[TrialRow]:
        """Return trials in order, after the place of the last one that was returned."""
        return [_row(row) for row in await self._db.fetch("trials.list", self._search, *after, limit)]


async def delete_old_trials(querier: Querier, before_ns: int) -> tuple[int, int]:
    """Delete the trials of searches that ended before a moment and whose parameters no instance has or had. Return how
    many searches and trials. The jobs stay, with their results. Errors: OutageError; called again it goes on."""
    searches, trials = 0, 0
    while True:
        row = await querier.fetchrow("trials.delete_old", to_datetime(before_ns), DELETED_AT_ONCE)
        assert row is not None
        searches, trials = searches + row["searches"], trials + row["trials"]
        if row["searches"] < DELETED_AT_ONCE:
            return searches, trials


def _row(row: Row) -> TrialRow:
    return TrialRow(row["fold"], row["number"], row["params"], state=row["state"], result=row["result"])
