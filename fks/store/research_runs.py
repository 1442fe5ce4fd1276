"""The ledger of research in its table: one row for each search and each backtest on stored bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fks.model.timeframe import to_datetime, to_ns
from fks.search.ledger import Earlier, ResearchRun, held_back_ns, judged, run_of_backtest, run_of_search, with_ledger
from fks.store.base import SqlStore, query, reads
from fks.store.db import Querier

_run = reads(ResearchRun, start_ns="start_time", end_ns="end_time")


class ResearchRunStore(SqlStore[Querier], queries="research_runs"):
    """The table `research_runs`. Errors: OutageError."""

    async def record_search(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Record a search; return its document with the section `ledger`. The same search again sees the same others,
        and those that came since."""
        run = run_of_search(document)
        found = with_ledger(document, await self.earlier(run, held_back_ns(document)))
        await self.add(run)
        return found

    async def record_backtest(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Record a backtest of one strategy; return its document, `judged` by the other runs."""
        run = run_of_backtest(document)
        found = judged(document, await self.earlier(run))
        await self.add(run)
        return found

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
