"""Deletion of old bars with all rows that refer to them."""

from __future__ import annotations

from fks.model.timeframe import bar_end, bar_start, to_datetime
from fks.store.base import RowCount, SqlStore, query
from fks.store.db import Database


class PruneStore(SqlStore[Database], queries="prune"):
    """Deletes by series. Errors of all methods: OutageError."""

    async def count(self, exchange: str, symbol: str, timeframe: str, before_ns: int) -> int:
        """Return how many bars of a series open before `before_ns`."""

    async def series(self, exchange: str, symbol: str, timeframe: str, oldest_ns: int, before_ns: int) -> int:
        """Delete the bars of a series from `oldest_ns` to before `before_ns`, a month at a time; return how many.

        Guarantees: they are no longer wanted before the first of them goes, so no sync fetches them again. Killed in
        between, the rest goes with the next call.
        """
        key = (exchange, symbol, timeframe)
        before = to_datetime(before_ns)
        async with self._db.transaction() as tx:
            await tx.execute("prune.wanted", *key, before)
            await tx.execute("prune.known", *key, before)
            await tx.execute("prune.indicators", *key, before)
        deleted, at_ns = 0, oldest_ns
        while at_ns < before_ns:
            end_ns = min(bar_end(bar_start(at_ns, "1M"), "1M"), before_ns)
            status = await self._db.execute("prune.bars", *key, to_datetime(at_ns), to_datetime(end_ns), retry=True)
            deleted += int(status.rsplit(" ", 1)[-1])
            at_ns = end_ns
        return deleted

    @query(retry=True)
    async def outages(self, before_ns: int) -> RowCount:
        """Delete outages of feeds that ended before a time; return how many."""
