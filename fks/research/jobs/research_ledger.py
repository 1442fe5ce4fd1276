"""Entries in the ledger of research: a search or a backtest is judged by the other runs, and recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fks.research.search.ledger import held_back_ns, judged, run_of_backtest, run_of_search, with_ledger
from fks.store.research_runs import ResearchRunStore


async def record_search(runs: ResearchRunStore, document: Mapping[str, Any]) -> dict[str, Any]:
    """Record a search; return its document with the section `ledger`. The same search again sees the same others, and
    those that came since. Errors: OutageError."""
    run = run_of_search(document)
    found = with_ledger(document, await runs.earlier(run, held_back_ns(document)))
    await runs.add(run)
    return found


async def record_backtest(runs: ResearchRunStore, document: Mapping[str, Any]) -> dict[str, Any]:
    """Record a backtest of one strategy; return its document, `judged` by the other runs. Errors: OutageError."""
    run = run_of_backtest(document)
    found = judged(document, await runs.earlier(run))
    await runs.add(run)
    return found
