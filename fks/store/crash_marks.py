"""Marks that dead strategy workers left on their nodes, as rows: a successor on another node reads them there.

The keeper of the node posts a mark once a later epoch was given out for the worker, so that a living worker's mark is
never posted. One row per worker.
"""

from __future__ import annotations

from dataclasses import dataclass

from fks.model.timeframe import to_datetime
from fks.store.base import SqlStore, reads
from fks.store.db import Database


@dataclass(frozen=True, slots=True)
class PostedMark:
    """`instance` was running since `at_ns`, on the bar that opened at `bar_ns` (0: while it was loaded). `at_ns` has
    whole microseconds."""

    instance: str
    at_ns: int
    bar_ns: int
    epoch: int


reads(PostedMark, at_ns="marked_at")


class CrashMarkStore(SqlStore[Database], queries="crash_marks"):
    """The table `crash_marks`. Errors of all: OutageError."""

    async def post(self, worker: str, mark: PostedMark, *, node: str) -> bool:
        """Keep a mark; False while its worker lives, or when it is kept already."""
        bar_at = to_datetime(mark.bar_ns) if mark.bar_ns else None
        at = to_datetime(mark.at_ns)
        row = await self._db.fetchrow("crash_marks.post", worker, mark.epoch, mark.instance, at, bar_at, node)
        return row is not None

    async def unsettled(self, worker: str) -> PostedMark | None:
        """Return the mark of the worker's predecessor that was not taken up, or None."""

    async def settle(self, worker: str, at_ns: int) -> None:
        """Note that the mark made at `at_ns` was taken up."""
