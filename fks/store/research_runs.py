"""The ledger of research in its table: one row for each search and each backtest on stored bars."""

from __future__ import annotations

from dataclasses import fields

from fks.model.research import Earlier, ResearchRun
from fks.model.timeframe import to_datetime, to_ns
from fks.store.base import SqlStore, query, reads
from fks.store.db import Querier

_run = reads(ResearchRun, start_ns="start_time", end_ns="end_time")


class ResearchRunStore(SqlStore[Querier], queries="research_runs"):
    """The table `research_runs`. Errors: OutageError."""

    @query(binds=tuple(f"run.{field.name}" for field in fields(ResearchRun)))
    async def add(self, run: ResearchRun) -> None:
        """Record a run; one with the same fingerprint stays as it is."""

    async def earlier(self, run: ResearchRun, held_back_ns: tuple[int, int] | None = None) -> Earlier:
        """Return the sums over the other runs on its symbol whose bars overlap its own in time."""
        low, high = (None, None) if held_back_ns is None else map(to_datetime, held_back_ns)
        row = await self._db.fetchrow(
            "research_runs.earlier",
            run.fingerprint,
            run.exchange,
            run.symbol,
            to_datetime(run.start_ns),
            to_datetime(run.end_ns),
            low,
            high,
        )
        assert row is not None
        return Earlier(**dict(row))

    async def list(self, symbol: str | None = None, *, limit: int = 100) -> list[tuple[ResearchRun, int]]:
        """Return runs with the moment they were recorded, newest first."""
        return [(_run(row), to_ns(row["ran_at"])) for row in await self._db.fetch("research_runs.list", symbol, limit)]
