"""Crash marks of this node's dead strategy workers, posted as rows for successors that start on another node."""

from __future__ import annotations

from fks.config.paths import Paths
from fks.store.crash_marks import CrashMarkStore, PostedMark
from fks.store.db import Database
from fks.strategy_worker.crash_marker import CrashMarker

_US = 1000


class LeftMarks:
    """Soft state: the newest mark of each worker that was posted."""

    def __init__(self, paths: Paths, node: str) -> None:
        self._run, self._node = paths.run, node
        self._posted: dict[str, int] = {}

    async def post(self, db: Database) -> None:
        """Post the marks whose workers have ended. Errors: OutageError."""
        store = CrashMarkStore(db)
        for worker, mark in CrashMarker.all_left(self._run):
            if self._posted.get(worker, 0) >= mark.at_ns:
                continue
            posted = PostedMark(mark.instance, mark.at_ns // _US * _US, mark.bar_ns, mark.epoch)
            if await store.post(worker, posted, node=self._node):
                self._posted[worker] = mark.at_ns
